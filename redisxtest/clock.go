package redisxtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// SetClockSkew sets the clock of a server that was started with the option [ClockSkew] ahead by d, or behind if d is negative;
// 0 ends it. It returns once TIME says so, which a Sentinel has not.
//
// What is kept as a time of day is affected: a jump ahead expires keys at once and ends the waits of blocking commands, a jump
// back has them last longer, and stream IDs are off. A Cluster node of which the clock jumps ahead takes the others for down for
// a moment, and a Sentinel trusts nobody (TILT) for 30 s. How often the server does its regular work is not affected. The skew
// outlives a Restart. Each process of a deployment has a clock of its own.
func (s *Server) SetClockSkew(d time.Duration) {
	s.t.Helper()
	if !s.own("SetClockSkew") {
		return
	}
	switch {
	case !s.instance.cfg.clock:
		s.fault("SetClockSkew needs the option ClockSkew")
		return
	case d < -maxSkew || d > maxSkew:
		s.fault("SetClockSkew(%s): want at most %s to either side", d, maxSkew)
		return
	}
	err := s.instance.skew(d)
	if err == nil && s.instance.awake() && !s.instance.sentinel { // Sentinels have no TIME
		err = await("TIME does not follow", func() error {
			before := time.Now()
			now, err := s.serverTime()
			if err != nil {
				return err
			}
			// The answer was made between the question and now.
			const slack = 100 * time.Millisecond
			if early, late := before.Add(d-slack), time.Now().Add(d+slack); now.Before(early) || now.After(late) {
				return fmt.Errorf("%s off instead of %s", now.Sub(before).Round(time.Millisecond), d)
			}
			return nil
		})
	}
	if err != nil {
		s.fault("SetClockSkew: %v", err)
	}
}

// maxSkew keeps times positive.
const maxSkew = 10 * 365 * 24 * time.Hour

func (s *Server) serverTime() (time.Time, error) {
	parts, err := s.Do("TIME").Strings()
	if err != nil {
		return time.Time{}, err
	}
	if len(parts) != 2 {
		return time.Time{}, fmt.Errorf("TIME: %v", parts)
	}
	seconds, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	micros, err := strconv.ParseInt(parts[1], 10, 64)
	return time.Unix(seconds, micros*1000), err
}

// needClock skips the test if it asks for a clock that cannot be.
func (c *config) needClock(t testing.TB, exe Executable) {
	t.Helper()
	if !c.clock {
		return
	}
	preload, err := faketime(exe)
	if err != nil {
		skip(t, "clock", "no libfaketime for %s: %v", exe, err)
	}
	c.preload = preload
}

var faketimes struct {
	sync.Mutex
	by map[string]func() (string, error)
}

// faketime finds the library, as Linux distributions and its own installation place it, and tells what to preload for a
// program, having tried that once.
func faketime(exe Executable) (preload string, err error) {
	places := []string{"/usr/lib/*/faketime", "/usr/lib64/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime"}
	var libraries []string
	for _, dir := range places {
		found, err := filepath.Glob(filepath.Join(dir, "libfaketimeMT.so.1"))
		if err == nil {
			libraries = append(libraries, found...)
		}
	}
	if len(libraries) == 0 {
		return "", fmt.Errorf("no libfaketimeMT.so.1 in any of %v", places)
	}
	faketimes.Lock()
	defer faketimes.Unlock()
	find, ok := faketimes.by[exe.Path]
	if !ok {
		find = sync.OnceValues(func() (string, error) { return preloadFor(libraries, exe) })
		if faketimes.by == nil {
			faketimes.by = map[string]func() (string, error){}
		}
		faketimes.by[exe.Path] = find
	}
	return find()
}

func preloadFor(libraries []string, exe Executable) (preload string, err error) {
	for _, library := range libraries {
		// A jemalloc that is a library of its own asks for the time before libfaketime can tell: then memory comes from libc.
		for _, preload := range []string{library + " libc.so.6", library} {
			if err = tryPreload(preload, exe); err == nil {
				return preload, nil
			}
		}
	}
	return "", fmt.Errorf("the program does not run with %v: %w", libraries, err)
}

// tryPreload runs a program with a library: one that does not fit may crash it or have it hang.
func tryPreload(preload string, exe Executable) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe.Path, "--version")
	cmd.Env = append(os.Environ(), "LD_PRELOAD="+preload, "FAKETIME=+0")
	err := cmd.Run()
	if cmd.Process != nil {
		for _, name := range []string{"faketime_shm_", "sem.faketime_sem_"} {
			_ = os.Remove("/dev/shm/" + name + strconv.Itoa(cmd.Process.Pid))
		}
	}
	if err != nil {
		return err
	}
	in, err := newInstance(exe, config{clock: true, preload: preload})
	if err != nil {
		return err
	}
	defer in.remove()
	if in.startAnywhere() != nil {
		return errors.New("it does not start")
	}
	return nil
}

const skewFile = "skew"

// skew writes what the library reads at every look at the clock.
func (in *instance) skew(d time.Duration) error {
	text := strconv.FormatFloat(d.Seconds(), 'f', 6, 64)
	if d >= 0 {
		text = "+" + text
	}
	next := in.file(skewFile + ".new")
	if err := os.WriteFile(next, []byte(text+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(next, in.file(skewFile))
}

// skewed is a command with the library loaded into it. Monotonic clocks and times of files stay as they are.
func (in *instance) skewed(args []string) ([]string, error) {
	if _, err := os.Stat(in.file(skewFile)); err != nil {
		if err := in.skew(0); err != nil {
			return nil, err
		}
	}
	return append([]string{
		"/usr/bin/env", "LD_PRELOAD=" + in.cfg.preload, "FAKETIME_TIMESTAMP_FILE=" + in.file(skewFile), "FAKETIME_NO_CACHE=1",
		"FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1",
	}, args...), nil
}
