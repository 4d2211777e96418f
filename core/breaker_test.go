package core

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// switchable answers, or refuses as a dead server does.
func switchable() (d *fakeDriver, dead *atomic.Bool, pings *atomic.Int32) {
	dead, pings = &atomic.Bool{}, &atomic.Int32{}
	d = &fakeDriver{answer: func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		if cmd.Args[0] == "PING" {
			pings.Add(1)
		}
		if dead.Load() {
			return driver.ErrReply(driver.NotSent(&net.OpError{Op: "dial", Err: errors.New("connection refused")}))
		}
		return echo(ctx, cmd)
	}}
	return d, dead, pings
}

func fastProbe(failures int) Option {
	return WithBreaker(BreakerConfig{Failures: failures, ProbeInterval: 2 * time.Millisecond, MaxProbeInterval: 5 * time.Millisecond})
}

func TestBreakerOpensAfterFailuresInARowAndClosesByProbing(t *testing.T) {
	d, dead, pings := switchable()
	var mu sync.Mutex
	var events []string
	hook := &Hook{Event: func(_ context.Context, e Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e.Client+" "+e.Name+" "+e.Kind)
	}}
	c := newTestClient(t, d, fastProbe(3), WithHook(hook), WithName("shop"))
	dead.Store(true)
	for i := range 3 {
		err := c.Do(context.Background(), set("x")).Err()
		if errors.Is(err, ErrBreakerOpen) || !errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrNotSent) {
			t.Fatalf("failure %d: %v", i, err)
		}
	}
	_, before := d.calls()
	err := c.Do(context.Background(), set("refused")).Err()
	if !errors.Is(err, ErrBreakerOpen) || !errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrNotSent) {
		t.Fatalf("error %v; want ErrBreakerOpen, ErrUnavailable and ErrNotSent", err)
	}
	for _, r := range c.DoMulti(context.Background(), []driver.Cmd{get("a"), get("refused")}) {
		if !errors.Is(r.Err(), ErrBreakerOpen) {
			t.Errorf("pipeline: %v", r.Err())
		}
	}
	_, after := d.calls()
	for _, s := range after[len(before):] {
		if s != "PING" {
			t.Errorf("%q was sent through an open breaker", s)
		}
	}
	if h := c.Health(context.Background()); h.Up || len(h.Breaker) != 1 {
		t.Errorf("health: up %v, open breakers %v; want down and one", h.Up, h.Breaker)
	}
	eventually(t, "three probes", func() bool { return pings.Load() > 3 })
	dead.Store(false)
	eventually(t, "closed", func() bool { return c.Do(context.Background(), set("x")).Err() == nil })
	mu.Lock()
	defer mu.Unlock()
	if len(events) != 2 || events[0] != "shop breaker open" || events[1] != "shop breaker closed" {
		t.Errorf("events %q", events)
	}
}

func TestAnErrorReplyIsNoFailureToTheBreaker(t *testing.T) {
	d := &fakeDriver{answer: func(context.Context, driver.Cmd) driver.Reply {
		return driver.ErrReply(driver.NewServerError("WRONGTYPE Operation against a key holding the wrong kind of value"))
	}}
	c := newTestClient(t, d, fastProbe(2))
	for range 20 {
		if err := c.Do(context.Background(), set("x")).Err(); Code(err) != "WRONGTYPE" {
			t.Fatalf("error %v; want WRONGTYPE", err)
		}
	}
}

func TestTheCallersImpatienceIsNoFailureToTheBreaker(t *testing.T) {
	for name, opts := range map[string][]Option{"batching": nil, "alone": {WithoutBatching()}} {
		t.Run(name, func(t *testing.T) {
			d, _, release := blockedDriver()
			c := newTestClient(t, d, append(opts, fastProbe(2), WithCommandTimeout(time.Minute))...)
			for range 10 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
				if err := c.Do(ctx, set("x")).Err(); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrBreakerOpen) {
					t.Errorf("error %v; want the caller's DeadlineExceeded", err)
				}
				cancel()
			}
			close(release)
			if open := c.openBreakers(); len(open) > 0 {
				t.Error("ten impatient callers opened the breaker")
			}
		})
	}
}

func TestALateResultFromBeforeTheOpeningChangesNothing(t *testing.T) {
	d, dead, _ := switchable()
	hold, entered := make(chan struct{}), make(chan struct{})
	inner := d.answer
	d.answer = func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		if cmd.Args[len(cmd.Args)-1] == "slow" {
			close(entered)
			<-hold
			return driver.StringReply("late success")
		}
		return inner(ctx, cmd)
	}
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 2, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	late := make(chan driver.Reply, 1)
	go func() { late <- c.Do(context.Background(), get("slow")) }()
	<-entered
	dead.Store(true)
	for range 2 {
		c.Do(context.Background(), set("x"))
	}
	close(hold)
	if err := (<-late).Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.Do(context.Background(), set("x")).Err(); !errors.Is(err, ErrBreakerOpen) {
		t.Errorf("error %v; a success that began before the opening closed the breaker", err)
	}
}

func TestEachNodeHasItsOwnBreaker(t *testing.T) {
	d := routedFake{&fakeDriver{node: func(key string) string { return key[:1] }}}
	d.answer = func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		if key := cmd.Route(); key != "" && key[0] == 'a' {
			return driver.ErrReply(driver.NotSent(errors.New("refused")))
		}
		return echo(ctx, cmd)
	}
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 1, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	c.Do(context.Background(), get("a1"))
	if err := c.Do(context.Background(), get("a2")).Err(); !errors.Is(err, ErrBreakerOpen) {
		t.Errorf("node a: %v; want ErrBreakerOpen", err)
	}
	if err := c.Do(context.Background(), get("b1")).Err(); err != nil {
		t.Errorf("node b: %v", err)
	}
	got := c.DoMulti(context.Background(), []driver.Cmd{get("b1"), get("a1"), get("b2")})
	if !errors.Is(got[1].Err(), ErrBreakerOpen) {
		t.Errorf("node a in a pipeline: %v", got[1].Err())
	}
	for i, want := range map[int]string{0: "b1", 2: "b2"} {
		if s, err := got[i].Text(); err != nil || s != want {
			t.Errorf("node b in a pipeline: %q, %v; want %q", s, err, want)
		}
	}
	if open := c.openBreakers(); len(open) != 1 || open[0] != "a" {
		t.Errorf("open breakers %q", open)
	}
}

func TestWithoutBreakerNeverRefuses(t *testing.T) {
	d, dead, _ := switchable()
	c := newTestClient(t, d, WithoutBreaker())
	dead.Store(true)
	for range 50 {
		if err := c.Do(context.Background(), set("x")).Err(); errors.Is(err, ErrBreakerOpen) {
			t.Fatal("refused")
		}
	}
	if b, _ := d.calls(); len(b) != 50 {
		t.Errorf("%d calls; want 50", len(b))
	}
}

func TestAnOpenBreakerAllocatesNothing(t *testing.T) {
	d, dead, _ := switchable()
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 1, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	dead.Store(true)
	c.Do(context.Background(), set("x"))
	cmd, ctx := set("x"), cancellable(t)
	if n := testing.AllocsPerRun(1000, func() { c.Do(ctx, cmd) }); n > 0 {
		t.Errorf("%v allocations per refused command; want 0", n)
	}
}
