package goredisdriver

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

func blocking(c driver.Cmd) driver.Cmd {
	c.Mode = driver.Blocking
	return c
}

// A server behind a name may be replaced by another one: a connection to the old one must not be kept.
func TestBlockingLeavesAServerThatIsNoPrimary(t *testing.T) {
	old := atomic.Int32{}
	old.Store(-1)
	s := startScripted(t, func(conn int, args []string) string {
		if a, ok := greet(args); ok {
			return a
		}
		old.CompareAndSwap(-1, int32(conn))
		if old.Load() == int32(conn) {
			return "-READONLY You can't write against a read only replica.\r\n"
		}
		return "*2\r\n$1\r\nq\r\n$1\r\nx\r\n"
	})
	d := wrap(t, s.addr)
	pop := blocking(command("BLPOP", "q", "1"))
	if e, ok := d.Do(background(t), pop).Err().(*driver.ServerError); !ok || e.Code() != "READONLY" {
		t.Fatalf("the first answer is %v, want READONLY", e)
	}
	if got, err := d.Do(background(t), pop).Strings(); len(got) != 2 {
		t.Errorf("BLPOP afterwards: %v, %v", got, err)
	}
}

// WAIT is about the commands before it, also about those that are sent a second time.
func TestWaitFollowsAScriptSentAgain(t *testing.T) {
	var waits atomic.Int32
	s := startScripted(t, func(_ int, args []string) string {
		if a, ok := greet(args); ok {
			return a
		}
		switch args[0] {
		case "EVALSHA":
			return "-NOSCRIPT No matching script.\r\n"
		case "WAIT":
			return fmt.Sprintf(":%d\r\n", waits.Add(1))
		}
		return "+OK\r\n"
	})
	script := driver.NewScript("set", "return redis.call('SET', KEYS[1], '')").Cmd([]string{"k"}, nil)
	wait := driver.Cmd{Args: []string{"WAIT", "0", "100"}, Near: "k"}
	for _, c := range []driver.Cmd{wait, blocking(wait)} {
		waits.Store(0)
		rs := wrap(t, s.addr).DoMulti(background(t), []driver.Cmd{c, script, command("SET", "k", ""), c})
		for i, want := range []string{"1", "OK", "OK", "3"} {
			if got, err := rs[i].Text(); got != want {
				t.Errorf("%s, reply %d: %q, %v; want %q", c.Mode, i, got, err, want)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	order := ""
	for _, line := range s.seen {
		if word, _, _ := strings.Cut(line, " "); word == strings.ToUpper(word) && word != "CLIENT" { // those of go-redis itself are lower case
			order += word + " "
		}
	}
	const once = "WAIT EVALSHA SET WAIT EVAL WAIT "
	if order != once+once {
		t.Errorf("sent %s, want twice %s", order, once)
	}
}

// movedList has the slot of some commands of a list move: nothing else runs twice, and WAIT goes with them.
func movedList(t *testing.T, c *cluster, d *Driver) {
	ctx := background(t)
	for _, mode := range []driver.Mode{driver.Write, driver.Blocking} {
		mover := fmt.Sprint("mover", time.Now().UnixNano())
		from := c.owner(mover)
		to := c.nodes[0]
		if to == from {
			to = c.nodes[1]
		}
		stays := ""
		for i := 0; stays == ""; i++ {
			if k := fmt.Sprint("stays", i, mover); c.owner(k) == from {
				stays = k
			}
		}
		must(t, d.Do(ctx, command("SET", stays, "0"))) // the table of slots is loaded
		c.moveSlot(t, mover, from, to).finish()
		to.do("CONFIG", "RESETSTAT")
		wait := driver.Cmd{Args: []string{"WAIT", "0", "100"}, Near: mover, Mode: mode}
		rs := d.DoMulti(ctx, []driver.Cmd{command("INCR", mover), command("INCR", stays), command("INCR", mover), wait})
		for i, want := range []int64{1, 1, 2, 0} {
			if n, err := rs[i].Int64(); n != want || err != nil {
				t.Errorf("%s, reply %d: %d, %v; want %d", mode, i, n, err, want)
			}
		}
		if !to.says("cmdstat_wait:", "INFO", "commandstats") {
			t.Errorf("%s: WAIT did not go where its key went", mode)
		}
	}
}
