package core

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// silent answers nothing, but PING if told so.
func silent(answersPing bool) (d *fakeDriver, pings *atomic.Int32) {
	pings = &atomic.Int32{}
	return &fakeDriver{answer: func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		if cmd.Args[0] == "PING" {
			if pings.Add(1); answersPing {
				return driver.StringReply("PONG")
			}
		}
		<-ctx.Done()
		return driver.ErrReply(driver.Unknown(ctx.Err()))
	}}, pings
}

// hurry makes a call with a deadline of 2 ms.
func hurry(c *Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
	defer cancel()
	return c.Do(ctx, set("x")).Err()
}

func TestASilentServerOpensTheBreakerAlsoForOneImpatientCaller(t *testing.T) {
	for name, opts := range map[string][]Option{"batching": nil, "alone": {WithoutBatching()}} {
		t.Run(name, func(t *testing.T) {
			d, pings := silent(false)
			hour := WithBreaker(BreakerConfig{Failures: 3, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour})
			c := newTestClient(t, d, append(opts, hour, WithCommandTimeout(30*time.Millisecond))...)
			for i := range 2 {
				if err := hurry(c); !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("call %d: %v", i, err)
				}
			}
			if n := pings.Load(); n != 0 {
				t.Errorf("%d PINGs after two calls; want none", n)
			}
			eventually(t, "the breaker is open", func() bool { return errors.Is(hurry(c), ErrBreakerOpen) })
			b := &c.lane0.breaker
			eventually(t, "the doubt is over", func() bool { return !b.doubting.Load() })
			for range 5 { // callers who were let in before
				b.impatient(0)
			}
			if n := pings.Load(); n != 1 || b.doubting.Load() {
				t.Errorf("%d PINGs, another one under way: %v; want one", n, b.doubting.Load())
			}
		})
	}
}

func TestCallersInAHurryDoNotOpenTheBreakerOfASlowServer(t *testing.T) {
	d, pings := silent(true)
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 2, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	for range 20 {
		if err := hurry(c); errors.Is(err, ErrBreakerOpen) {
			t.Fatal("the breaker opened although PING is answered")
		}
	}
	eventually(t, "a PING", func() bool { return pings.Load() > 0 })
	for range 20 {
		_ = hurry(c)
	}
	if n := pings.Load(); n != 1 {
		t.Errorf("%d PINGs within one ProbeInterval; want one", n)
	}
}

func TestAnAnswerEndsTheDoubt(t *testing.T) {
	d, pings := silent(false)
	inner := d.answer
	d.answer = func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		if cmd.Args[0] == "GET" {
			return driver.StringReply("v")
		}
		return inner(ctx, cmd)
	}
	c := newTestClient(t, d, fastProbe(3))
	for range 10 {
		_, _ = hurry(c), hurry(c)
		c.Do(t.Context(), get("k"))
	}
	if n := pings.Load(); n != 0 {
		t.Errorf("%d PINGs, with an answer after every second call", n)
	}
}

func TestAViewInAHurryDoesNotOpenTheBreaker(t *testing.T) {
	d, pings := silent(true)
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 2, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	view := c.WithTimeout(time.Millisecond)
	for range 20 {
		if err := view.Do(t.Context(), set("x")).Err(); errors.Is(err, ErrBreakerOpen) {
			t.Fatal("the breaker opened although PING is answered")
		}
		for _, r := range view.DoMulti(t.Context(), []driver.Cmd{set("x")}) {
			if errors.Is(r.Err(), ErrBreakerOpen) {
				t.Fatal("the breaker opened although PING is answered")
			}
		}
	}
	eventually(t, "a PING", func() bool { return pings.Load() > 0 })
}

func TestTheErrorTellsWhoseDeadlineItWas(t *testing.T) {
	d, _ := silent(true)
	c := newTestClient(t, d, WithCommandTimeout(20*time.Millisecond), WithoutBreaker())
	own := "command timeout of 20ms"
	for name, do := range map[string]func(ctx context.Context) error{
		"Do":      func(ctx context.Context) error { return c.Do(ctx, set("x")).Err() },
		"DoMulti": func(ctx context.Context) error { return c.DoMulti(ctx, []driver.Cmd{set("x")})[0].Err() },
	} {
		err := do(t.Context())
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), own) {
			t.Errorf("%s: %v; want it to name the %s", name, err, own)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if err := do(ctx); !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "command timeout") {
			t.Errorf("%s with a deadline of its own: %v", name, err)
		}
		cancel()
	}
	if err := c.WithTimeout(5*time.Millisecond).Do(t.Context(), set("x")).Err(); !strings.Contains(err.Error(), "command timeout of 5ms") {
		t.Errorf("a view: %v", err)
	}
}

func TestACancelledCallerIsToldSoAlsoUnderAnOpenBreaker(t *testing.T) {
	d, dead, _ := switchable()
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 1, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	dead.Store(true)
	c.Do(t.Context(), set("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range []error{c.Do(ctx, set("x")).Err(), c.DoMulti(ctx, []driver.Cmd{set("x")})[0].Err()} {
		if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrNotSent) || errors.Is(err, ErrUnavailable) {
			t.Errorf("%v; want context.Canceled and ErrNotSent", err)
		}
	}
}

func TestResultsOfAnEarlierEpochCountForNothing(t *testing.T) {
	d, dead, _ := switchable()
	c := newTestClient(t, d, fastProbe(2))
	b := &c.lane0.breaker
	old, _ := b.begin()
	dead.Store(true)
	for range 2 {
		c.Do(t.Context(), set("x"))
	}
	dead.Store(false)
	eventually(t, "closed again", func() bool { _, ok := b.begin(); return ok })
	for range 5 {
		b.fail(old, ClassTimeout)
	}
	if _, ok := b.begin(); !ok {
		t.Fatal("failures from before the last opening opened it again")
	}
	now, _ := b.begin()
	b.fail(now, ClassTimeout)
	b.end(old, nil)
	b.fail(now, ClassTimeout)
	if _, ok := b.begin(); ok {
		t.Error("a success from before the last opening hid a failure")
	}
}

func TestAnErrorReplyIsASignOfLife(t *testing.T) {
	d, dead, _ := switchable()
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 3, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	dead.Store(true)
	for range 3 {
		for range 2 {
			c.Do(t.Context(), set("x"))
		}
		c.lane0.breaker.end(0, driver.NewServerError("WRONGTYPE of something"))
	}
	if open := c.openBreakers(); len(open) > 0 {
		t.Error("open, although every third command was answered")
	}
}

func TestProbesGrowRarerUpToTheMaximum(t *testing.T) {
	d, dead, pings := switchable()
	dead.Store(true)
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 1, ProbeInterval: time.Millisecond, MaxProbeInterval: 64 * time.Millisecond}))
	start := time.Now()
	c.Do(t.Context(), set("x"))
	time.Sleep(300 * time.Millisecond)
	n, elapsed := pings.Load(), time.Since(start)
	if most := 7 + int32(elapsed/(51*time.Millisecond)); n > most { // 1, 2, … 32, then 64 ms, less a fifth
		t.Errorf("%d PINGs in %v; want at most %d", n, elapsed, most)
	}

	often, dead2, pings2 := switchable()
	dead2.Store(true)
	c = newTestClient(t, often, WithBreaker(BreakerConfig{Failures: 1, ProbeInterval: time.Millisecond, MaxProbeInterval: 2 * time.Millisecond}))
	c.Do(t.Context(), set("x"))
	eventually(t, "30 PINGs, which doubling for ever would take days for", func() bool { return pings2.Load() >= 30 })
}

func TestAProbeGoesToItsNode(t *testing.T) {
	d := routedFake{&fakeDriver{node: func(key string) string { return key[:1] }}}
	near := make(chan string, 100)
	d.answer = func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		if cmd.Args[0] == "PING" {
			near <- cmd.Near
			return driver.StringReply("PONG")
		}
		return driver.ErrReply(driver.NotSent(errors.New("refused")))
	}
	c := newTestClient(t, d, fastProbe(1))
	c.Do(t.Context(), get("b1"))
	if key := <-near; key != "b1" {
		t.Errorf("PING near %q; want b1", key)
	}
}

func TestAPipelineTellsEachBreakerOfItsOwnNode(t *testing.T) {
	d := routedFake{&fakeDriver{node: func(key string) string { return key[:1] }}}
	d.answer = func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		switch key := cmd.Route(); {
		case key == "b-slow", key[0] == 'a':
			return driver.ErrReply(driver.Unknown(context.DeadlineExceeded))
		case key == "c-wrong":
			return driver.ErrReply(driver.NewServerError("WRONGTYPE of something"))
		case key == "c-slow":
			return driver.ErrReply(driver.Unknown(context.DeadlineExceeded))
		}
		return echo(ctx, cmd)
	}
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 3, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	for range 3 {
		c.DoMulti(t.Context(), []driver.Cmd{get("b-slow"), get("a1"), get("b2"), get("a2"), get("b-slow"), get("c-wrong"), get("c-slow")})
	}
	if open := c.openBreakers(); len(open) != 1 || open[0] != "a" {
		t.Errorf("open breakers %q; want that of node a alone: b and c answered one command each", open)
	}
}

func TestWhatSaysNothingIsNoSignOfLife(t *testing.T) {
	timeout := driver.ErrReply(driver.Unknown(context.DeadlineExceeded))
	nothing := map[string]driver.Reply{
		"invalid":   driver.ErrReply(driver.NotSent(driver.ErrInvalid)),
		"CROSSSLOT": driver.CrossSlot(),
		"cancelled": driver.ErrReply(driver.Unknown(context.Canceled)),
	}
	for name, silent := range nothing {
		for _, list := range [][]driver.Reply{{silent}, {silent, timeout}, {timeout, silent}, {silent, silent}} {
			var o opinion
			for _, r := range list {
				o.add(r.Err())
			}
			if o.alive || o.err == nil || len(list) > 1 && !Classify(o.err).dead() != !strings.Contains(fmt.Sprint(list), "deadline") {
				t.Errorf("%s: %v says alive %v, %v", name, list, o.alive, o.err)
			}
		}
		d := &fakeDriver{answer: func(_ context.Context, cmd driver.Cmd) driver.Reply {
			if cmd.Args[0] == "SILENT" {
				return silent
			}
			return timeout
		}}
		c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 3, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
		for range 3 {
			c.Do(t.Context(), set("x"))
			c.Do(t.Context(), driver.Cmd{Args: []string{"SILENT"}})
			c.DoMulti(t.Context(), []driver.Cmd{{Args: []string{"SILENT"}}})
			c.DoMulti(t.Context(), []driver.Cmd{{Args: []string{"SILENT"}}, {Args: []string{"SILENT"}}})
		}
		if open := c.openBreakers(); len(open) != 1 {
			t.Errorf("%s between timeouts kept the breaker closed", name)
		}
	}
	for _, r := range []driver.Reply{driver.StringReply("x"), driver.NilReply(), driver.ErrReply(driver.NewServerError("WRONGTYPE x"))} {
		for _, list := range [][]driver.Reply{{r, timeout}, {timeout, r}} {
			if err := verdict(list); err != nil {
				t.Errorf("%v: %v; an answer is life", list, err)
			}
		}
	}
}

func TestCancelledPipelinesOpenTheBreakerOfASilentServer(t *testing.T) {
	d, pings := silent(false)
	c := newTestClient(t, d, WithCommandTimeout(30*time.Millisecond), WithBreaker(BreakerConfig{Failures: 3, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	eventually(t, "the breaker is open", func() bool {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Millisecond, cancel)
		return errors.Is(c.DoMulti(ctx, []driver.Cmd{set("x"), set("y")})[0].Err(), ErrBreakerOpen)
	})
	if n := pings.Load(); n != 1 {
		t.Errorf("%d PINGs; want one", n)
	}
}

func TestABlockingListThatFoundNothingIsNoOutage(t *testing.T) {
	d := &fakeDriver{answer: func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		switch cmd.Args[0] {
		case "BLPOP":
			<-ctx.Done()
			return driver.ErrReply(ctx.Err())
		case "PING":
			return driver.ErrReply(driver.NotSent(errors.New("refused")))
		}
		return driver.StringReply("OK")
	}}
	c := newTestClient(t, d, fastProbe(1))
	for i := range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
		pop := driver.Cmd{Args: []string{"BLPOP", "q", "0"}, Keys: driver.Key(1), Mode: driver.Blocking}
		list := []driver.Cmd{set("x"), pop}
		if i%2 == 0 {
			list = []driver.Cmd{pop, pop} // not even a SET that is answered
		}
		rs := c.DoMulti(ctx, list)
		cancel()
		if err := rs[1].Err(); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnavailable) || Classify(err) != ClassCanceled {
			t.Errorf("%v, %s; want the deadline, class canceled and not ErrUnavailable", err, Classify(err))
		}
	}
	if n := c.lane0.breaker.unanswered.Load(); n > 0 || c.lane0.breaker.doubting.Load() {
		t.Errorf("%d consumers that found nothing count against the server", n)
	}
}

func TestAProbeAsksTheNodeThatIsDeadAndNotTheOneItsKeyMovedTo(t *testing.T) {
	var moved, gone atomic.Bool
	d := routedFake{&fakeDriver{node: func(key string) string {
		switch {
		case key == "k" && moved.Load(), gone.Load():
			return "b"
		case key == "k" || key == "7":
			return "a"
		}
		return "b"
	}}}
	near := make(chan string, 10_000)
	d.answer = func(_ context.Context, cmd driver.Cmd) driver.Reply {
		if cmd.Args[0] == "PING" {
			near <- cmd.Near
		}
		if d.node(cmd.Route()) == "a" {
			return driver.ErrReply(driver.NotSent(errors.New("refused")))
		}
		return driver.StringReply("PONG")
	}
	c := newTestClient(t, d, fastProbe(1))
	l := c.laneFor(&driver.Cmd{Args: []string{"GET", "k"}, Keys: driver.Key(1)})
	moved.Store(true)
	l.breaker.fail(0, ClassNotSent)
	for range 5 {
		if key := <-near; key != "7" {
			t.Fatalf("PING near %q, which node b serves; want 7", key)
		}
	}
	if _, ok := l.breaker.begin(); ok {
		t.Error("node b's answer closed the breaker of node a")
	}
	gone.Store(true)
	eventually(t, "a node that serves no slot is asked no more", func() bool { _, ok := l.breaker.begin(); return ok })
}

func TestAServerThatIsBackIsInUseWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, dead, pings := switchable()
		dead.Store(true)
		c := newTestClient(t, d)
		for range 5 {
			c.Do(t.Context(), set("x"))
		}
		time.Sleep(time.Minute)
		if n := pings.Load(); n < 100 || n > 150 {
			t.Errorf("%d probes of a server that was dead for a minute, want one each 500 ms", n)
		}
		dead.Store(false)
		time.Sleep(700 * time.Millisecond)
		if err := c.Do(t.Context(), set("x")).Err(); err != nil {
			t.Errorf("700 ms after the server came back: %v", err)
		}
	})
}
