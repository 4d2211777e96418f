package goredisdriver

import (
	"errors"
	"fmt"
	"slices"
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

// WAIT is about the commands before it, also about those that are sent a second time. It confirms no more than either time.
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
			return fmt.Sprintf(":%d\r\n", []int{5, 2, 1, 3, 4, 1}[waits.Add(1)-1])
		case "WAITAOF":
			return fmt.Sprintf("*2\r\n:%d\r\n:%d\r\n", waits.Add(1)%2, waits.Load()/2)
		}
		return "+OK\r\n"
	})
	script := driver.NewScript("set", "return redis.call('SET', KEYS[1], '')").Cmd([]string{"k"}, nil)
	wait := blocking(driver.Cmd{Args: []string{"WAIT", "0", "100"}, Near: "k"})
	d := wrap(t, s.addr)
	list := []driver.Cmd{wait, script, command("SET", "k", ""), wait, wait}
	rs := d.DoMulti(background(t), list)
	for i, want := range []string{"5", "OK", "OK", "3", "4"} {
		if got, err := rs[i].Text(); got != want {
			t.Errorf("reply %d: %q, %v; want %q", i, got, err, want)
		}
	}
	s.mu.Lock()
	order := ""
	for _, line := range s.seen {
		if word, _, _ := strings.Cut(line, " "); word == strings.ToUpper(word) && word != "CLIENT" { // those of go-redis itself are lower case
			order += word + " "
		}
	}
	s.mu.Unlock()
	if want := "WAIT EVALSHA SET WAIT WAIT EVAL WAIT WAIT "; order != want {
		t.Errorf("sent %s, want %s", order, want)
	}

	waits.Store(0)
	list[3] = blocking(driver.Cmd{Args: []string{"WAITAOF", "0", "0", "100"}, Near: "k"})
	both, err := d.DoMulti(background(t), list[1:4])[2].List() // 1, 0, then 0, 1
	if err != nil || len(both) != 2 || !both[0].Equal(driver.IntReply(0)) || !both[1].Equal(driver.IntReply(1)) {
		t.Errorf("WAITAOF: %v, %v; want 0 and 1", both, err)
	}
}

// movedList has the slot of some commands of a list move: nothing else runs twice, and WAIT goes with them.
func movedList(t *testing.T, c *cluster, d *Driver) {
	ctx := background(t)
	for _, mode := range []driver.Mode{driver.Write, driver.Blocking} {
		mover := fmt.Sprint("mover", time.Now().UnixNano())
		from, to := c.pair(mover)
		stays := c.keyAt(from, "stays"+mover)
		m := c.moveSlot(t, mover, from, to)
		must(t, d.Do(ctx, command("SET", stays, "0"))) // the table of slots is loaded
		m.finish()
		to.do("CONFIG", "RESETSTAT")
		list := []driver.Cmd{command("INCR", mover), command("INCR", stays), command("INCR", mover)}
		want := []int64{1, 1, 2}
		if mode == driver.Blocking {
			list = append(list, blocking(driver.Cmd{Args: []string{"WAIT", "0", "100"}, Near: mover}))
			want = append(want, 0)
		}
		rs := d.DoMulti(ctx, list)
		for i, want := range want {
			if n, err := rs[i].Int64(); n != want || err != nil {
				t.Errorf("%s, reply %d: %d, %v; want %d", mode, i, n, err, want)
			}
		}
		if mode == driver.Blocking && !to.says("cmdstat_wait:", "INFO", "commandstats") {
			t.Error("WAIT did not go where its key went")
		}
	}
}

// Part of a list runs on the old node of a slot, the rest on the new one: WAIT confirms what replicas of both have.
func TestWaitConfirmsOnTwoNodes(t *testing.T) {
	c := startCluster(t)
	from, to := c.nodes[0], c.nodes[1]
	old := c.replica(t, from)
	c.replica(t, to)
	wait := func(timeout, near string) driver.Cmd {
		return blocking(driver.Cmd{Args: []string{"WAIT", "1", timeout}, Near: near})
	}
	for name, tc := range map[string]struct {
		stays, moves, near string
		finish             bool
	}{
		"ASK":   {"{" + c.keyAt(from, "ask") + "}1", "{" + c.keyAt(from, "ask") + "}2", "{" + c.keyAt(from, "ask") + "}1", false},
		"MOVED": {c.keyAt(from, "stays"), c.keyAt(from, "moves"), "", true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := background(t)
			from.do("SET", tc.stays, "0")
			m := c.moveSlot(t, tc.moves, from, to)
			d := open(t, c.url())
			must(t, d.Do(ctx, read("GET", tc.stays))) // the table of slots is loaded
			if tc.finish {
				m.finish()
			}
			confirmed := func(timeout string) int64 {
				t.Helper()
				rs := d.DoMulti(ctx, []driver.Cmd{command("SET", tc.stays, "1"), command("SET", tc.moves, "1"), wait(timeout, tc.near)})
				must(t, rs[0])
				must(t, rs[1])
				n, err := rs[2].Int64()
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			old.process().Pause()
			n := confirmed("300")
			old.process().Resume()
			if n != 0 {
				t.Errorf("WAIT confirms a write to %d replicas that none has", n)
			}
			if !tc.finish { // with a new table the list would belong to two nodes
				if n := confirmed("30000"); n != 1 {
					t.Errorf("WAIT confirms to %d replicas, want 1", n)
				}
			}
		})
	}
}

// WAIT goes wherever a command goes that it is to confirm, not only where the last of them would have to.
func TestWaitGoesWithAnyOfItsCommands(t *testing.T) {
	moved := func(addr string) driver.Reply { return driver.ErrReply(driver.NewServerError("MOVED 1 " + addr)) }
	wait := blocking(driver.Cmd{Args: []string{"WAIT", "1", "300"}})
	near := wait
	near.Near = "c"
	cmds := []driver.Cmd{wait, command("SET", "a", ""), command("SET", "b", ""), command("SET", "c", ""), wait, near}
	replies := []driver.Reply{driver.IntReply(1), driver.StringReply("OK"), moved("x:1"), moved("y:1"), driver.IntReply(1), driver.IntReply(1)}
	addr, ask, next := elsewhere(cmds, replies, []int{0, 1, 2, 3, 4, 5})
	if addr != "x:1" || ask || !slices.Equal(next, []int{2, 4}) {
		t.Errorf("to %s, %v: %v; want x:1, [2 4]", addr, ask, next)
	}
}

// keylessFirst has lists of which one command has no key.
func keylessFirst(t *testing.T, c *cluster, d *Driver) {
	ctx := background(t)
	ping := driver.Cmd{Args: []string{"PING"}}
	key := ""
	for i := range 20 {
		key = fmt.Sprint("list", i)
		must(t, d.Do(ctx, command("RPUSH", key, "x")))
		rs := d.DoMulti(ctx, []driver.Cmd{ping, blocking(command("BLPOP", key, "1")), ping})
		if got, err := rs[1].Strings(); len(got) != 2 {
			t.Fatalf("BLPOP %s behind PING: %v, %v", key, got, err)
		}
	}
	from, to := c.pair(key)
	for _, r := range d.DoMulti(ctx, []driver.Cmd{ping, command("SET", c.keyAt(from, "s"), ""), blocking(command("BLPOP", c.keyAt(to, "l"), "1"))}) {
		if err := r.Err(); !errors.Is(err, driver.ErrInvalid) || !errors.Is(err, driver.ErrNotSent) {
			t.Errorf("a blocking list for two nodes: %v", r)
		}
	}
	must(t, d.DoMulti(ctx, []driver.Cmd{ping, blocking(ping)})[1])
}
