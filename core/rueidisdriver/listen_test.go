package rueidisdriver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

// journal notes the callbacks of a subscription or tracking, in order.
type journal struct {
	t    *testing.T
	mu   sync.Mutex
	list []string
}

func (j *journal) add(s string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.list = append(j.list, s)
}

func (j *journal) entries() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.list)
}

func (j *journal) count(prefix string) (n int) {
	for _, e := range j.entries() {
		if strings.HasPrefix(e, prefix) {
			n++
		}
	}
	return n
}

func (j *journal) wait(limit time.Duration, prefix string, n int) {
	j.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); j.count(prefix) < n; <-tick.C {
		if time.Now().After(end) {
			j.t.Fatalf("waited %v for %d of %q: %v", limit, n, prefix, j.entries())
		}
	}
}

func subscribe(t *testing.T, d *Driver, s driver.Subscription) (*journal, context.CancelFunc, chan error) {
	j := &journal{t: t}
	s.OnMessage = func(ch, payload string) { j.add("message " + ch + " " + payload) }
	s.OnConfirmed = func() { j.add("confirmed") }
	s.OnLost = func(err error) { j.add("lost " + err.Error()) }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Subscribe(ctx, s) }()
	t.Cleanup(cancel)
	return j, cancel, done
}

func track(t *testing.T, d *Driver, prefixes ...string) (*journal, context.CancelFunc, chan error) {
	j := &journal{t: t}
	tr := driver.Tracking{
		Prefixes: prefixes,
		OnInvalidate: func(keys []string) {
			if keys == nil {
				j.add("all")
			}
			for _, k := range keys {
				j.add("key " + k)
			}
		},
		OnConfirmed: func() { j.add("confirmed") },
		OnLost:      func(err error) { j.add("lost " + err.Error()) },
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Track(ctx, tr) }()
	t.Cleanup(cancel)
	return j, cancel, done
}

func TestSubscriptionDeliversAfterConfirmation(t *testing.T) {
	s := startServer(t)
	each(t, s, func(t *testing.T, d *Driver) {
		for _, sharded := range []bool{false, true} {
			publish := "PUBLISH"
			if sharded {
				publish = "SPUBLISH"
			}
			j, cancel, done := subscribe(t, d, driver.Subscription{Channels: []string{"a", "b", "a"}, Sharded: sharded})
			j.wait(3*time.Second, "confirmed", 1)
			for i := range 500 {
				d.Do(t.Context(), cmd(publish, "a", fmt.Sprint(i)))
			}
			d.Do(t.Context(), cmd(publish, "b", "\x00\r\n"))
			j.wait(3*time.Second, "message b \x00\r\n", 1)
			got := j.entries()
			if len(got) != 502 || got[0] != "confirmed" || got[500] != "message a 499" {
				t.Errorf("got %d entries: %.300q", len(got), got)
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("returned %v", err)
			}
		}
	})
}

func TestSubscriptionReportsLossAndRecovers(t *testing.T) {
	s := startServer(t)
	each(t, s, func(t *testing.T, d *Driver) {
		j, _, _ := subscribe(t, d, driver.Subscription{Channels: []string{"a"}})
		j.wait(3*time.Second, "confirmed", 1)
		s.cli("CLIENT", "KILL", "TYPE", "pubsub")
		j.wait(3*time.Second, "confirmed", 2)
		if got := j.entries(); len(got) != 3 || !strings.HasPrefix(got[1], "lost ") {
			t.Errorf("after CLIENT KILL: %v", got)
		}
		d.Do(t.Context(), cmd("PUBLISH", "a", "x"))
		j.wait(3*time.Second, "message", 1)
	})
}

func TestSubscriptionNoticesASilentServer(t *testing.T) {
	s := startServer(t)
	for _, name := range []string{"Open", "OpenRESP2", "New"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startProxy(t, s.addr)
			var d *Driver
			switch name {
			case "Open":
				d = open(t, p.url())
			case "OpenRESP2":
				d = open(t, p.url()+"?protocol=2")
			case "New":
				d = fromOption(t, rueidis.ClientOption{InitAddress: []string{p.addr}, DisableCache: true, AlwaysRESP2: true})
			}
			j, _, _ := subscribe(t, d, driver.Subscription{Channels: []string{"a"}})
			j.wait(3*time.Second, "confirmed", 1)
			p.mute.Store(true)
			start := time.Now()
			j.wait(6*time.Second, "lost", 1)
			t.Logf("noticed after %v", time.Since(start))
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("noticed after %v", took)
			}
		})
	}
}

func TestSlowCallbackLosesNothing(t *testing.T) {
	s := startServer(t)
	d := open(t, s.url()+"?read_timeout=200ms")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	confirmed, release := make(chan struct{}, 1), make(chan struct{})
	got := 0
	done := make(chan error, 1)
	go func() {
		done <- d.Subscribe(ctx, driver.Subscription{
			Channels:    []string{"a"},
			OnConfirmed: func() { confirmed <- struct{}{} },
			OnLost:      func(err error) { t.Errorf("lost: %v", err) },
			OnMessage: func(_, _ string) {
				if got == 0 {
					<-release
				}
				if got++; got == 1000 {
					cancel()
				}
			},
		})
	}()
	<-confirmed
	for range 1000 {
		d.Do(ctx, cmd("PUBLISH", "a", "x"))
	}
	timer := time.NewTimer(3 * time.Second) // longer than any background ping
	<-timer.C
	close(release)
	if err := <-done; !errors.Is(err, context.Canceled) || got != 1000 {
		t.Errorf("%v after %d messages", err, got)
	}
}

func TestImpossibleSubscriptionsAreErrors(t *testing.T) {
	d := open(t, startServer(t).url())
	if err := d.Subscribe(t.Context(), driver.Subscription{}); err == nil {
		t.Error("no channels: no error")
	}
	if err := d.Track(t.Context(), driver.Tracking{}); err == nil {
		t.Error("no prefixes: no error")
	}
	if err := d.Track(t.Context(), driver.Tracking{Prefixes: []string{"a", "ab"}}); err == nil {
		t.Error("overlapping prefixes: no error")
	}
}

func TestRefusedSubscriptionIsLostUntilAllowed(t *testing.T) {
	s := startServer(t)
	s.cli("ACL", "SETUSER", "u", "on", ">secret", "~*", "+@all", "resetchannels")
	d := open(t, strings.Replace(s.url(), "redis://", "redis://u:secret@", 1))
	j, _, _ := subscribe(t, d, driver.Subscription{Channels: []string{"a"}})
	j.wait(3*time.Second, "lost", 1)
	if got := j.entries()[0]; !strings.Contains(got, "NOPERM") {
		t.Errorf("reason: %s", got)
	}
	s.cli("ACL", "SETUSER", "u", "allchannels")
	j.wait(5*time.Second, "confirmed", 1)
}

func TestTrackingReportsEveryChange(t *testing.T) {
	s := startServer(t)
	each(t, s, func(t *testing.T, d *Driver) {
		j, cancel, done := track(t, d, "p:", "q:")
		j.wait(3*time.Second, "confirmed", 1)
		d.Do(t.Context(), keyed("SET", "p:1", "x"))
		s.cli("SET", "q:1", "x")
		s.cli("SET", "other", "x")
		s.cli("DEL", "p:1")
		s.cli("SET", "p:2", "x", "PX", "20")
		j.wait(3*time.Second, "key p:2", 2)
		if j.count("key p:1") != 2 || j.count("key q:1") != 1 || j.count("key other") != 0 || j.count("all") != 0 {
			t.Errorf("got %v", j.entries())
		}
		s.cli("FLUSHALL")
		j.wait(3*time.Second, "all", 1)
		if j.count("lost") != 0 {
			t.Errorf("got %v", j.entries())
		}
		s.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		j.wait(3*time.Second, "confirmed", 2)
		if j.count("lost") == 0 || j.count("all") != 1 {
			t.Errorf("after CLIENT KILL: %v", j.entries())
		}
		s.cli("SET", "p:3", "x")
		j.wait(3*time.Second, "key p:3", 1)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("returned %v", err)
		}
	})
}

func TestTrackingNoticesASilentServer(t *testing.T) {
	s := startServer(t)
	d := open(t, s.url())
	j, _, _ := track(t, d, "p:")
	j.wait(3*time.Second, "confirmed", 1)
	s.signal(syscall.SIGSTOP)
	start := time.Now()
	j.wait(6*time.Second, "lost", 1)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("noticed after %v", took)
	}
	s.signal(syscall.SIGCONT)
	j.wait(8*time.Second, "confirmed", 2)
}

func TestTrackingWithRESP2ClientIsAnError(t *testing.T) {
	s := startServer(t)
	d := fromOption(t, rueidis.ClientOption{InitAddress: []string{s.addr}, DisableCache: true, AlwaysRESP2: true})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := d.Track(ctx, driver.Tracking{Prefixes: []string{"p"}}); err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "RESP3") {
		t.Errorf("got %v", err)
	}
}
