package rueidisdriver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

// each runs a test with a driver that Open made, RESP3 and RESP2, and with one over a client of the application.
func each(t *testing.T, s *server, f func(t *testing.T, d *Driver)) {
	t.Run("Open", func(t *testing.T) { f(t, open(t, s.url())) })
	t.Run("OpenRESP2", func(t *testing.T) { f(t, open(t, s.url()+"?protocol=2")) })
	t.Run("New", func(t *testing.T) {
		client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.addr}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		d, err := New(client)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		f(t, d)
	})
}

func TestRepliesAreWhatTheServerSent(t *testing.T) {
	s := startServer(t)
	each(t, s, func(t *testing.T, d *Driver) {
		ctx := t.Context()
		do := func(args ...string) driver.Reply { return d.Do(ctx, cmd(args...)) }
		do("FLUSHALL")
		bin := "\x00\r\n\xff$-1"
		if r := do("SET", bin, bin); r.Err() != nil {
			t.Fatal(r)
		}
		if got, err := do("GET", bin).Text(); err != nil || got != bin {
			t.Errorf("binary value: %q, %v", got, err)
		}
		if r := do("GET", "absent"); !r.IsNil() || r.Err() != nil {
			t.Errorf("absent: %v", r)
		}
		do("SET", "empty", "")
		if r := do("GET", "empty"); r.IsNil() || r.Kind() != driver.KindString {
			t.Errorf("empty: %v", r)
		}
		do("SET", "n", fmt.Sprint(int64(math.MaxInt64-1)))
		if n, err := do("INCR", "n").Int64(); n != math.MaxInt64 || err != nil {
			t.Errorf("INCR to MaxInt64: %d, %v", n, err)
		}
		do("HSET", "h", "b", "1", "a", "2", "c", "3")
		if got, err := do("HGETALL", "h").Strings(); err != nil || strings.Join(got, " ") != "b 1 a 2 c 3" {
			t.Errorf("HGETALL: %v, %v", got, err)
		}
		do("ZADD", "z", "1.5", "m")
		if got, err := do("ZSCORE", "z", "m").Text(); got != "1.5" || err != nil {
			t.Errorf("ZSCORE: %q, %v", got, err)
		}
		if got, err := do("EVAL", "redis.setresp(3); return {double=3.25}", "0").Float64(); got != 3.25 || err != nil {
			t.Errorf("double: %v, %v", got, err)
		}
		if got, err := do("EVAL", "redis.setresp(3); return {map={k={map={x=1}}}}", "0").List(); err != nil || len(got) != 2 {
			t.Errorf("nested map: %v, %v", got, err)
		}
		if got, err := do("EVAL", "redis.setresp(3); return {set={x=true}}", "0").Strings(); err != nil || len(got) != 1 {
			t.Errorf("set: %v, %v", got, err)
		}
		if got, err := do("INFO", "server").Text(); err != nil || !strings.HasPrefix(got, "# Server") {
			t.Errorf("INFO: %.20q, %v", got, err)
		}
		l, err := do("EVAL", "return {1, false, redis.error_reply('OOPS no'), 's'}", "0").List()
		if err != nil || len(l) != 4 || !l[1].IsNil() || l[2].Err() == nil || l[3].Err() != nil {
			t.Errorf("nested error: %v, %v", l, err)
		}
		for _, c := range []struct{ args, code, text string }{
			{"SELECT 9999", "ERR", "ERR DB index is out of range"},
			{"LPUSH n x", "WRONGTYPE", "WRONGTYPE Operation against a key holding the wrong kind of value"},
			{"NOSUCH", "ERR", "ERR unknown command 'NOSUCH'"},
		} {
			var e *driver.ServerError
			do := d.Do
			if strings.HasPrefix(c.args, "SELECT") {
				conn, err := d.Dedicate(ctx, "")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				do = conn.Do
			}
			err := do(ctx, cmd(strings.Fields(c.args)...)).Err()
			if !errors.As(err, &e) || e.Code() != c.code || !strings.HasPrefix(e.Error(), c.text) {
				t.Errorf("%s: %v", c.args, err)
			}
		}
	})
}

func TestInvalidCommandsAreErrors(t *testing.T) {
	d := open(t, startServer(t).url())
	for _, c := range []driver.Cmd{
		{}, {Args: []string{""}}, {Args: []string{"GET"}, Keys: driver.Key(1)}, {Args: []string{"GET", "k"}, Keys: driver.Key(-1)},
		cmd("subscribe", "x"), cmd("SUNSUBSCRIBE"), cmd("MONITOR"), cmd("QUIT"), cmd("CLIENT", "REPLY", "OFF"),
	} {
		for _, mode := range []driver.Mode{driver.Write, driver.ReadOnly, driver.Blocking} {
			c.Mode = mode
			if err := d.Do(t.Context(), c).Err(); err == nil {
				t.Errorf("%v: no error", c)
			}
			rs := d.DoMulti(t.Context(), []driver.Cmd{cmd("ECHO", "a"), c, cmd("ECHO", "b")})
			a, _ := rs[0].Text()
			b, _ := rs[2].Text()
			if rs[1].Err() == nil || a != "a" || b != "b" {
				t.Errorf("%v in a pipeline: %v", c, rs)
			}
		}
	}
	if _, err := New(nil); err == nil {
		t.Error("New(nil): no error")
	}
}

func TestScriptsSurviveFlush(t *testing.T) {
	s := startServer(t)
	each(t, s, func(t *testing.T, d *Driver) {
		sc := driver.NewScript("t", "return {KEYS[1], ARGV[1]} -- "+t.Name())
		run := func(n string) driver.Cmd { return sc.Cmd([]string{"{k}"}, []string{n}) }
		check := func(r driver.Reply, n string) {
			t.Helper()
			if got, err := r.Strings(); err != nil || got[1] != n {
				t.Errorf("script %s: %v, %v", n, got, err)
			}
		}
		check(d.Do(t.Context(), run("1")), "1")
		d.Do(t.Context(), cmd("SCRIPT", "FLUSH"))
		check(d.Do(t.Context(), run("2")), "2")
		d.Do(t.Context(), cmd("SCRIPT", "FLUSH"))
		rs := d.DoMulti(t.Context(), []driver.Cmd{run("3"), cmd("ECHO", "x"), run("4")})
		check(rs[0], "3")
		check(rs[2], "4")
		c, err := d.Dedicate(t.Context(), "{k}")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Do(t.Context(), cmd("SCRIPT", "FLUSH"))
		check(c.Do(t.Context(), run("5")), "5")
		c.Do(t.Context(), cmd("SCRIPT", "FLUSH"))
		check(c.DoMulti(t.Context(), []driver.Cmd{cmd("ECHO", "x"), run("6")})[1], "6")
	})
}

func TestWriteWhoseReplyIsLostIsSentOnce(t *testing.T) {
	s := startServer(t)
	p := startProxy(t, s.addr)
	for _, name := range []string{"Open", "New"} {
		t.Run(name, func(t *testing.T) {
			d := open(t, p.url())
			if name == "New" {
				client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{p.addr}, DisableCache: true})
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				if d, err = New(client); err != nil {
					t.Fatal(err)
				}
				defer d.Close()
			}
			warm := func() { // every connection is used
				for range 50 {
					d.Do(t.Context(), reading("GET", "k"))
				}
			}
			for i, c := range map[string]func(driver.Cmd) driver.Reply{
				"do":    func(c driver.Cmd) driver.Reply { return d.Do(t.Context(), c) },
				"multi": func(c driver.Cmd) driver.Reply { return d.DoMulti(t.Context(), []driver.Cmd{c, cmd("ECHO", "x")})[0] },
			} {
				key := name + i
				warm()
				p.losing.Store(true)
				err := c(keyed("INCR", key)).Err()
				p.losing.Store(false)
				if !errors.Is(err, driver.ErrUnknownOutcome) {
					t.Errorf("%s: %v, want an unknown outcome", i, err)
				}
				if n, err := s.cli("GET", key).Int64(); n != 1 {
					t.Errorf("%s: server has %d, %v; want 1", i, n, err)
				}
				eventually(t, 3*time.Second, "recovery", func() bool { return d.Do(t.Context(), reading("GET", key)).Err() == nil })
			}
		})
	}
}

func TestReadOnlyIsSentAgain(t *testing.T) {
	s := startServer(t)
	p := startProxy(t, s.addr)
	d := open(t, p.url())
	d.Do(t.Context(), keyed("SET", "k", "v"))
	for range 20 {
		p.cut()
		if got, err := d.Do(t.Context(), reading("GET", "k")).Text(); got != "v" || err != nil {
			t.Fatalf("after the connection broke: %q, %v", got, err)
		}
	}
}

func TestDeadServerEndsReadsWithoutDeadline(t *testing.T) {
	s := startServer(t)
	d := open(t, s.url())
	s.kill()
	done := make(chan driver.Reply, 1)
	go func() { done <- d.Do(context.Background(), reading("GET", "k")) }()
	select {
	case r := <-done:
		if !errors.Is(r.Err(), driver.ErrNotSent) && !errors.Is(r.Err(), driver.ErrUnknownOutcome) {
			t.Errorf("got %v", r)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("still trying")
	}
	// A connection that was not used since may take the first command with it.
	var err error
	for range 100 {
		if err = d.Do(context.Background(), keyed("SET", "k", "v")).Err(); errors.Is(err, driver.ErrNotSent) {
			break
		}
	}
	if !errors.Is(err, driver.ErrNotSent) {
		t.Errorf("write to a dead server: %v, want ErrNotSent", err)
	}
	s.start()
	eventually(t, 5*time.Second, "recovery", func() bool { return d.Do(context.Background(), keyed("SET", "k", "v")).Err() == nil })
}

func TestCloseEndsEverything(t *testing.T) {
	s := startServer(t)
	before := runtime.NumGoroutine()
	for range 3 {
		d, err := Open(t.Context(), s.url())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { d.Do(ctx, keyed("INCR", "n")) })
		}
		wg.Wait()
		wg.Go(func() {
			if err := d.Do(ctx, driver.Cmd{Args: []string{"BLPOP", "list", "0"}, Keys: driver.Key(1), Mode: driver.Blocking}).Err(); err == nil {
				t.Error("BLPOP on a closed driver: no error")
			}
		})
		confirmed := make(chan struct{}, 2)
		wg.Go(func() {
			err := d.Subscribe(ctx, driver.Subscription{Channels: []string{"c"}, OnConfirmed: func() { confirmed <- struct{}{} }})
			if !errors.Is(err, driver.ErrClosed) {
				t.Errorf("Subscribe on a closed driver: %v", err)
			}
		})
		wg.Go(func() {
			err := d.Track(ctx, driver.Tracking{Prefixes: []string{"p"}, OnConfirmed: func() { confirmed <- struct{}{} }})
			if !errors.Is(err, driver.ErrClosed) {
				t.Errorf("Track on a closed driver: %v", err)
			}
		})
		c, err := d.Dedicate(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		<-confirmed
		<-confirmed
		eventually(t, 3*time.Second, "BLPOP to block", func() bool {
			info, _ := d.Do(ctx, cmd("INFO", "clients")).Text()
			return driver.ParseInfo(info)["blocked_clients"] == "1"
		})
		_ = d.Close()
		_ = d.Close()
		wg.Wait()
		cancel()
		for _, err := range []error{
			d.Do(t.Context(), cmd("PING")).Err(), d.DoMulti(t.Context(), []driver.Cmd{cmd("PING")})[0].Err(),
			c.Do(t.Context(), cmd("PING")).Err(), d.Subscribe(t.Context(), driver.Subscription{Channels: []string{"c"}}),
			d.Track(t.Context(), driver.Tracking{Prefixes: []string{"p"}}),
			d.Do(t.Context(), driver.Cmd{Args: []string{"BLPOP", "l", "0"}, Mode: driver.Blocking}).Err(),
		} {
			if !errors.Is(err, driver.ErrClosed) || !errors.Is(err, driver.ErrNotSent) {
				t.Errorf("after Close: %v", err)
			}
		}
		_ = c.Close()
	}
	eventually(t, 5*time.Second, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}

func TestCloseLeavesAGivenClientOpen(t *testing.T) {
	s := startServer(t)
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.addr}, ForceSingleClient: true})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	d, err := New(client)
	if err != nil {
		t.Fatal(err)
	}
	if d.Unwrap() != client {
		t.Error("Unwrap returns something else")
	}
	_ = d.Do(t.Context(), driver.Cmd{Args: []string{"BLPOP", "l", "0.01"}, Keys: driver.Key(1), Mode: driver.Blocking})
	_ = d.Close()
	if err := client.Do(t.Context(), client.B().Ping().Build()).Error(); err != nil {
		t.Errorf("the client after Close of the driver: %v", err)
	}
	if err := d.Do(t.Context(), cmd("PING")).Err(); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("the driver after Close: %v", err)
	}
}

func TestClientClosedByItsOwnerIsClosed(t *testing.T) {
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{startServer(t).addr}, ForceSingleClient: true})
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(client)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	client.Close()
	if err := d.Do(t.Context(), cmd("PING")).Err(); err == nil || errors.Is(err, rueidis.ErrClosing) {
		t.Errorf("first call: %v", err)
	}
	if err := d.Do(t.Context(), cmd("PING")).Err(); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("next call: %v", err)
	}
}

func TestCaps(t *testing.T) {
	s := startServer(t)
	for url, proto := range map[string]int{s.url(): 3, s.url() + "?protocol=2": 2} {
		d := open(t, url)
		caps, err := d.Caps(t.Context())
		if err != nil || caps.Server != "redis" || caps.Version == "" || caps.Protocol != proto || !caps.Has("GETEX") || caps.Has("XACKDEL") || caps.Topology != driver.Standalone {
			t.Errorf("%+v, %v", caps, err)
		}
		if d.Node("k") != "" {
			t.Error("a single server has a node name")
		}
	}
}

// TestCloseWithASilentServer has connections of every kind that do not answer any more.
func TestCloseWithASilentServer(t *testing.T) {
	for _, params := range []string{"", "?protocol=2"} {
		for what, begin := range map[string]func(d *Driver){
			"nothing": func(*Driver) {},
			"connection": func(d *Driver) {
				if _, err := d.Dedicate(t.Context(), ""); err != nil {
					t.Error(err)
				}
			},
			"subscription": func(d *Driver) {
				j, _, _ := subscribe(t, d, driver.Subscription{Channels: []string{"a"}})
				j.wait(5*time.Second, "confirmed", 1)
			},
			"tracking": func(d *Driver) {
				j, _, _ := track(t, d, "a")
				j.wait(5*time.Second, "confirmed", 1)
			},
		} {
			t.Run(what+params, func(t *testing.T) {
				s := startServer(t)
				d := open(t, s.url()+params)
				for range 200 { // every connection there is
					d.Do(t.Context(), reading("GET", "k"))
				}
				begin(d)
				s.signal(syscall.SIGSTOP)
				defer s.signal(syscall.SIGCONT)
				start := time.Now()
				_ = d.Close()
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("Close took %v", took)
				} else {
					t.Log(took)
				}
				d.owned.mu.Lock()
				defer d.owned.mu.Unlock()
				if n := len(d.owned.live); n != 0 {
					t.Errorf("%d connections are left", n)
				}
			})
		}
	}
}
