package rueidisdriver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

func blpop(key, seconds string) driver.Cmd {
	return driver.Cmd{Args: []string{"BLPOP", key, seconds}, Keys: driver.Key(1), Mode: driver.Blocking}
}

func blocked(t *testing.T, d *Driver, n int) {
	t.Helper()
	eventually(t, 3*time.Second, "blocked clients", func() bool {
		info, _ := d.Do(t.Context(), cmd("INFO", "clients")).Text()
		return driver.ParseInfo(info)["blocked_clients"] == fmt.Sprint(n)
	})
}

func TestBlockingOutlivesTheReadTimeout(t *testing.T) {
	s := startServer(t)
	for _, params := range []string{"?read_timeout=100ms", "?read_timeout=100ms&protocol=2"} {
		d := open(t, s.url()+params)
		if r := d.Do(context.Background(), blpop("l", "1.5")); !r.IsNil() {
			t.Errorf("Do: %v", r)
		}
		c, err := d.Dedicate(t.Context(), "l")
		if err != nil {
			t.Fatal(err)
		}
		if r := c.Do(context.Background(), blpop("l", "1.5")); !r.IsNil() {
			t.Errorf("Conn.Do: %v", r)
		}
		_ = c.Close()
	}
}

func TestNothingWaitsBehindABlockingCommand(t *testing.T) {
	s := startServer(t)
	each(t, s, func(t *testing.T, d *Driver) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Do(ctx, blpop("l", "0")).Err() }()
		blocked(t, d, 1)
		for range 100 {
			if err := d.Do(t.Context(), keyed("INCR", "n")).Err(); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || errors.Is(err, driver.ErrUnknownOutcome) {
			t.Errorf("cancelled BLPOP: %v", err)
		}
		blocked(t, d, 0)
	})
}

// TestReplyOnItsWayIsDelivered cancels and pushes at the same moment: an element is delivered or still in the list.
func TestReplyOnItsWayIsDelivered(t *testing.T) {
	s := startServer(t)
	each(t, s, func(t *testing.T, d *Driver) {
		d.Do(t.Context(), cmd("FLUSHALL"))
		c, err := d.Dedicate(t.Context(), "l")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		got, left := 0, 0
		const rounds = 200
		for i := range rounds {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan driver.Reply, 1)
			go func() { done <- c.Do(ctx, blpop("l", "0")) }()
			if i%2 == 0 {
				blocked(t, d, 1)
			}
			go cancel()
			if err := d.Do(t.Context(), keyed("RPUSH", "l", fmt.Sprint(i))).Err(); err != nil {
				t.Fatal(err)
			}
			switch r := <-done; {
			case r.Err() == nil:
				got++
			case errors.Is(r.Err(), driver.ErrUnknownOutcome):
				t.Fatalf("unknown outcome: %v", r)
			case !errors.Is(r.Err(), context.Canceled):
				t.Fatal(r)
			}
			cancel()
			n, err := d.Do(t.Context(), keyed("DEL", "l")).Int64()
			if err != nil {
				t.Fatal(err)
			}
			left += int(n)
			if got+left != i+1 {
				t.Fatalf("%d delivered and %d left after %d rounds", got, left, i+1)
			}
		}
		t.Logf("%d delivered, %d left", got, left)
	})
}

func TestSilentServerEndsABlockingCommandAsUnknown(t *testing.T) {
	s := startServer(t)
	p := startProxy(t, s.addr)
	d := open(t, p.url())
	c, err := d.Dedicate(t.Context(), "l")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var ended time.Time
	go func() { done <- c.Do(ctx, blpop("l", "0")).Err(); ended = time.Now(); close(done) }()
	blocked(t, open(t, s.url()), 1)
	p.mute.Store(true)
	start := time.Now()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || !errors.Is(err, driver.ErrUnknownOutcome) {
		t.Errorf("got %v", err)
	}
	<-done
	if took := ended.Sub(start); took > prompt {
		t.Errorf("returned %v after cancel", took)
	}
	if err := c.Do(t.Context(), cmd("PING")).Err(); err == nil {
		t.Error("a broken connection answers")
	}
	_ = c.Close()
	_ = c.Close()
}

func TestBrokenConnStaysBroken(t *testing.T) {
	s := startServer(t)
	d := open(t, s.url())
	c, err := d.Dedicate(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.Do(t.Context(), cmd("CLIENT", "ID")).Text()
	if err != nil {
		t.Fatal(err)
	}
	d.Do(t.Context(), cmd("CLIENT", "KILL", "ID", id))
	for range 3 {
		if c.Do(t.Context(), cmd("PING")).Err() == nil {
			t.Error("a killed connection answers")
		}
	}
	_ = c.Close()
	if err := c.Do(t.Context(), cmd("PING")).Err(); err == nil {
		t.Error("a closed connection answers")
	}
}

func TestConnIsOneConnection(t *testing.T) {
	s := startServer(t)
	each(t, s, func(t *testing.T, d *Driver) {
		c, err := d.Dedicate(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		d.Do(t.Context(), keyed("SET", "k", "1"))
		c.Do(t.Context(), keyed("WATCH", "k"))
		d.Do(t.Context(), keyed("SET", "k", "2"))
		rs := c.DoMulti(t.Context(), []driver.Cmd{cmd("MULTI"), keyed("SET", "k", "3"), cmd("EXEC")})
		if !rs[2].IsNil() {
			t.Errorf("EXEC after the watched key changed: %v", rs)
		}
		c.Do(t.Context(), cmd("SELECT", "5"))
		_ = c.Close()
		c, err = d.Dedicate(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Do(t.Context(), reading("GET", "k")).Text(); got != "2" || err != nil {
			t.Errorf("the next user of the pool sees %q, %v", got, err)
		}
		_ = c.Close()
	})
}

func TestWaitInAListFollowsItsWrites(t *testing.T) {
	s := startServer(t)
	replica := startServer(t, "--replicaof", "127.0.0.1", fmt.Sprint(s.port))
	d := open(t, s.url())
	eventually(t, 10*time.Second, "the replica", func() bool {
		text, _ := d.Do(t.Context(), cmd("INFO", "replication")).Text()
		return strings.Contains(text, "state=online")
	})
	for i := range 20 {
		key := fmt.Sprint("w", i)
		rs := d.DoMulti(t.Context(), []driver.Cmd{keyed("SET", key, "v"), {Args: []string{"WAIT", "1", "3000"}, Near: key, Mode: driver.Blocking}})
		if n, err := rs[1].Int64(); n != 1 || rs[0].Err() != nil {
			t.Fatalf("SET, WAIT: %v, %v", rs, err)
		}
		if got, _ := replica.cli("GET", key).Text(); got != "v" {
			t.Fatalf("confirmed write is not on the replica")
		}
	}
	// A WAIT that cannot be confirmed ends with its context, and tells how many replicas did confirm.
	replica.kill()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	rs := d.DoMulti(ctx, []driver.Cmd{keyed("SET", "w", "v"), {Args: []string{"WAIT", "1", "0"}, Near: "w", Mode: driver.Blocking}})
	if took := time.Since(start); took > 100*time.Millisecond+prompt {
		t.Errorf("took %v", took)
	}
	if n, err := rs[1].Int64(); n != 0 || err != nil || rs[0].Err() != nil {
		t.Errorf("WAIT without replica: %v", rs)
	}
}

func TestDedicateWithFullPoolIsPrompt(t *testing.T) {
	s := startServer(t)
	d := open(t, s.url()+"?pool_size=1")
	c, err := d.Dedicate(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := d.Dedicate(ctx, ""); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, driver.ErrNotSent) {
		t.Errorf("second: %v", err)
	}
	if took := time.Since(start); took > 50*time.Millisecond+prompt {
		t.Errorf("took %v", took)
	}
	_ = c.Close()
	again, err := d.Dedicate(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
	if r := d.Do(t.Context(), blpop("l", "0.01")); r.Err() != nil {
		t.Error(r)
	}
}
