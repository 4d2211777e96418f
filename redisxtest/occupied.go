package redisxtest

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// longest is how long Busy and Loading may last.
const longest = 5 * time.Minute

func checkLength(d time.Duration) error {
	if d < time.Millisecond || d > longest {
		return fmt.Errorf("%s; want 1ms to %s", d, longest)
	}
	return nil
}

// Busy has a script run for about d: everybody else gets BUSY. It returns once that is so. The returned function ends it before
// its time, waits for the end and changes nothing afterwards. Sentinels end it, too, once they take the server for down.
func (s *Server) Busy(d time.Duration) (end func()) {
	s.t.Helper()
	var l *line
	return s.begin("Busy", true, func() error {
		if err := checkLength(d); err != nil {
			return err
		}
		before, err := s.setting("lua-time-limit")
		if err != nil {
			return fmt.Errorf("lua-time-limit: %w", err)
		}
		// The setting goes back on the same connection once the script has ended, whether or not anyone waits.
		l, err = s.occupy(d, "BUSY", [][]string{{"CONFIG", "SET", "lua-time-limit", "1"}}, [][]string{
			{"EVAL", "while true do end", "0"}, {"CONFIG", "SET", "lua-time-limit", before},
		})
		if err != nil {
			_ = s.Do("SCRIPT", "KILL") // it may have come to run all the same
			return err
		}
		s.killScriptAfter(d, l)
		return nil
	}, func() error {
		if err := s.killScript(l); err != nil {
			return err
		}
		return l.finish(1)
	})
}

// killScript ends the script that a line waits for, and no other.
func (s *Server) killScript(l *line) error {
	if l.answered() {
		return nil
	}
	if err := s.Do("SCRIPT", "KILL").Err(); err != nil && !isCode(err, "NOTBUSY") {
		return err
	}
	return nil
}

// killScriptAfter ends a script when it is time. The server cannot: for scripts its clock may stand still.
func (s *Server) killScriptAfter(d time.Duration, l *line) {
	run, over, gone := s.instance.run(), make(chan struct{}), make(chan struct{})
	timer := time.AfterFunc(d, func() {
		defer close(gone)
		for s.instance.running() && s.instance.run() == run && !l.answered() {
			_ = s.killScript(l) // a paused server is asked again
			select {
			case <-over:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	s.t.Cleanup(func() {
		close(over)
		if !timer.Stop() {
			<-gone
		}
	})
}

func isCode(err error, code string) bool {
	e, ok := errors.AsType[*driver.ServerError](err)
	return ok && e.Code() == code
}

// occupy runs commands that keep the server from serving others for d, and returns once others get the error code.
func (s *Server) occupy(d time.Duration, code string, before, cmds [][]string) (*line, error) {
	g := s.target()
	l, err := g.dial()
	if err != nil {
		return nil, err
	}
	s.t.Cleanup(func() { _ = l.nc.Close() })
	if err := l.succeed(before...); err != nil {
		return nil, err
	}
	if err := errors.Join(l.nc.SetDeadline(time.Now().Add(d+time.Minute)), l.send(cmds...)); err != nil {
		return nil, err
	}
	l.left = len(cmds)
	err = await("the server does not answer "+code, func() error {
		err := s.probe("PING").Err()
		if isCode(err, code) || l.answered() {
			return nil
		}
		if err == nil {
			err = errors.New("it serves")
		}
		return err
	})
	if err == nil && l.answered() { // sooner than it could be seen, or it failed
		err = l.finish(0)
	}
	if err != nil {
		_ = l.nc.Close()
		return nil, err
	}
	return l, nil
}

// answered reports whether the first reply has come, or none ever will.
func (l *line) answered() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left == 0 {
		return true
	}
	if l.nc.SetReadDeadline(time.Now().Add(time.Millisecond)) != nil {
		return true
	}
	_, err := l.r.Peek(1)
	return err == nil || !errors.Is(err, os.ErrDeadlineExceeded)
}

// finish reads what is left of occupy's replies. The first ones may be errors: a script was killed.
func (l *line) finish(mayFail int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.nc.Close()
	n := l.left
	l.left = 0
	if n == 0 {
		return nil
	}
	if err := l.nc.SetReadDeadline(time.Now().Add(readyTimeout)); err != nil {
		return err
	}
	replies, err := l.read(n)
	if err != nil {
		return err
	}
	for _, r := range replies[mayFail:] {
		if err := r.Err(); err != nil {
			return err
		}
	}
	return nil
}

// Loading has the server load its data again, slowly, for about d: everybody gets LOADING, to PING too. It returns once that is
// so. The returned function ends it before its time, waits for the end and changes nothing afterwards. No key is lost;
// connections, replicas and scripts stay. As keys come back they are new: transactions that watch one fail, and clients that
// track keys are told that all have changed. With many thousand keys it lasts longer.
//
// It needs the command DEBUG, which servers of this package have, on a primary.
func (s *Server) Loading(d time.Duration) (end func()) {
	s.t.Helper()
	var l *line
	return s.begin("Loading", true, func() (err error) {
		if err := checkLength(d); err != nil {
			return err
		}
		l, err = s.load(d)
		return err
	}, func() error {
		if !l.answered() {
			if err := s.Do("CONFIG", "SET", "key-load-delay", "0").Err(); err != nil {
				return err
			}
		}
		return l.finish(0)
	})
}

// fillers are keys that make the loading last: the server looks at its clients every 1024 bytes that it loads, and waits a
// while after each key. They have expired before the loading begins, so nobody sees them and the server leaves them out.
func fillers(d time.Duration) int { return max(50, int(d/(50*time.Millisecond))) }

const fillerSize = "2048"

func (s *Server) load(d time.Duration) (*line, error) {
	if err := s.mustBePrimary(); err != nil {
		return nil, err
	}
	prefix, err := s.fillerPrefix()
	if err != nil {
		return nil, err
	}
	keys, err := s.keyCount()
	if err != nil {
		return nil, err
	}
	// A server that refuses writes would keep the fillers.
	if err := s.Do("PEXPIRE", prefix+":0", "1").Err(); err != nil {
		return nil, err
	}
	_, statErr := os.Stat(s.instance.dump())
	l, err := s.loadSlowly(d, prefix, keys)
	if err != nil {
		return nil, errors.Join(err, s.Do("DEBUG", "SET-ACTIVE-EXPIRE", "1").Err())
	}
	if os.IsNotExist(statErr) {
		// The server has it open. While it loads it answers this, too.
		err = s.forget()
	}
	return l, err
}

func (s *Server) loadSlowly(d time.Duration, prefix string, keys int) (*line, error) {
	n := fillers(d)
	fill := [][]string{{"DEBUG", "SET-ACTIVE-EXPIRE", "0"}, {"DEBUG", "POPULATE", strconv.Itoa(n), prefix, fillerSize}}
	for i := range n {
		fill = append(fill, []string{"PEXPIRE", prefix + ":" + strconv.Itoa(i), "1"})
	}
	if err := succeed(s, fill...); err != nil {
		return nil, err
	}
	time.Sleep(5 * time.Millisecond) // they expire
	list := settings{
		{"rdbcompression", "no"}, {"loading-process-events-interval-bytes", "1024"}, {"key-load-delay", loadDelay(d, n+keys)},
	}
	before, err := s.configure(list)
	if err != nil {
		return nil, err
	}
	cmds := [][]string{{"DEBUG", "RELOAD"}}
	for _, x := range before {
		cmds = append(cmds, []string{"CONFIG", "SET", x[0], x[1]})
	}
	l, err := s.occupy(d, "LOADING", nil, append(cmds, []string{"DEBUG", "SET-ACTIVE-EXPIRE", "1"}))
	if err != nil {
		_, undo := s.configure(before)
		err = errors.Join(err, undo)
	}
	return l, err
}

// loadDelay is how long to wait after each key, in microseconds, or, negative, after one of how many to wait for a moment, which
// takes some 60 µs.
func loadDelay(d time.Duration, keys int) string {
	const moment = 60 * time.Microsecond
	each := d / time.Duration(keys)
	if each >= 2*moment {
		return strconv.FormatInt((each - moment).Microseconds(), 10)
	}
	return strconv.Itoa(-max(1, keys/max(1, int(d/moment))))
}

// fillerPrefix is one of keys that this server serves.
func (s *Server) fillerPrefix() (string, error) {
	const prefix = "redisxtest:loading:"
	if !s.clustered() {
		return prefix, nil
	}
	owners, err := slotOwners(s)
	if err != nil {
		return "", err
	}
	for i := range 100 * slots {
		tag := prefix + "{" + strconv.Itoa(i) + "}"
		if owners[driver.Slot(tag)] == s.Addr() {
			return tag, nil
		}
	}
	return "", errors.New("the node serves no slot")
}

// keyCount counts the keys of all databases.
func (s *Server) keyCount() (int, error) {
	text, err := s.Do("INFO", "keyspace").Text()
	n := 0
	for _, value := range driver.ParseInfo(text) { // db0:keys=1,expires=0,avg_ttl=0
		for f := range strings.SplitSeq(value, ",") {
			if count, ok := strings.CutPrefix(f, "keys="); ok {
				k, _ := strconv.Atoi(count)
				n += k
			}
		}
	}
	return n, err
}
