package core

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

func words(args ...string) driver.Cmd { return driver.Cmd{Args: args} }

func TestCommandsThatChangeASharedConnectionAreRefused(t *testing.T) {
	d := &fakeDriver{answer: echo}
	c := newTestClient(t, d, fastProbe(1))
	for _, cmd := range []driver.Cmd{
		words("MULTI"), words("exec"), words("SELECT", "7"), words("watch", "k"), words("AUTH", "x"), words("HELLO", "2"),
		words("CLIENT", "tracking", "ON"), words("READONLY"), words("ASKING"),
	} {
		if err := c.Do(t.Context(), cmd).Err(); !errors.Is(err, driver.ErrInvalid) || errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrNotSent) {
			t.Errorf("%q: %v; want ErrInvalid", cmd.Args, err)
		}
		for _, r := range c.DoMulti(t.Context(), []driver.Cmd{get("k"), cmd}) {
			if !errors.Is(r.Err(), driver.ErrInvalid) {
				t.Errorf("%q in a pipeline: %v; want ErrInvalid", cmd.Args, r.Err())
			}
		}
	}
	if _, seen := d.calls(); len(seen) > 0 {
		t.Errorf("sent %q", seen)
	}
	for _, cmd := range []driver.Cmd{words("HELLO"), words("CLIENT", "ID"), words("PING")} {
		if err := c.Do(t.Context(), cmd).Err(); err != nil {
			t.Errorf("%q: %v", cmd.Args, err)
		}
	}
	for _, r := range c.DoMulti(t.Context(), []driver.Cmd{words("MULTI"), set("v"), words("EXEC")}) {
		if !errors.Is(r.Err(), driver.ErrInvalid) {
			t.Errorf("a whole transaction: %v; want ErrInvalid", r.Err())
		}
	}
}

func TestAFailureUnderAnOpenBreakerDoesNotCloseIt(t *testing.T) {
	d, dead, _ := switchable()
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 1, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	dead.Store(true)
	c.Do(t.Context(), set("x"))
	epoch, ok := c.lane0.breaker.begin()
	if ok {
		t.Fatal("not open")
	}
	c.lane0.breaker.fail(epoch, ClassNotSent)
	if err := c.lane0.alone(t.Context(), c.budget.context(), set("x")).Err(); !errors.Is(err, ErrBreakerOpen) {
		t.Errorf("a caller who was let in before the opening: %v", err)
	}
	if _, ok := c.lane0.breaker.begin(); ok {
		t.Error("a second failure closed the breaker of a dead server")
	}
}

func TestMistakesNeitherOpenTheBreakerNorKeepItClosed(t *testing.T) {
	d, dead, _ := switchable()
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 3, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	b := &c.lane0.breaker
	epoch, _ := b.begin()
	for range 10 {
		for _, class := range []Class{ClassOther, ClassCanceled, ClassClosed, ClassBreakerOpen} {
			b.fail(epoch, class)
		}
	}
	if _, ok := b.begin(); !ok {
		t.Fatal("mistakes opened it")
	}
	dead.Store(true)
	for range 3 {
		c.Do(t.Context(), set("x"))
		for _, class := range []Class{ClassOther, ClassCanceled, ClassClosed, ClassBreakerOpen} {
			b.fail(epoch, class)
		}
	}
	if _, ok := b.begin(); ok {
		t.Error("mistakes between the failures kept it closed")
	}
}

func TestAfterCloseTheErrorIsErrClosedAlsoWithTheBreakerOpen(t *testing.T) {
	d, dead, _ := switchable()
	c, err := New(d, fastProbe(1))
	if err != nil {
		t.Fatal(err)
	}
	dead.Store(true)
	c.Do(t.Context(), set("x"))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), set("x")).Err(); !errors.Is(err, ErrClosed) {
		t.Errorf("%v; want ErrClosed", err)
	}
}

func TestABlockingCommandThatFoundNothingIsNoOutage(t *testing.T) {
	d := &fakeDriver{answer: func(ctx context.Context, _ driver.Cmd) driver.Reply {
		<-ctx.Done()
		return driver.ErrReply(ctx.Err())
	}}
	c := newTestClient(t, d, fastProbe(1))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	err := c.Do(ctx, driver.Cmd{Args: []string{"BLPOP", "q", "0"}, Keys: driver.Key(1), Mode: driver.Blocking}).Err()
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnavailable) {
		t.Errorf("%v; want the deadline, and not ErrUnavailable", err)
	}
}

func TestAPanicBelowLosesNoPlaceInTheLane(t *testing.T) {
	var calm bool
	d := &fakeDriver{answer: func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		if !calm {
			panic("a hook of the application")
		}
		return echo(ctx, cmd)
	}}
	c := newTestClient(t, d)
	for range maxInFlight + 1 {
		func() {
			defer func() { _ = recover() }()
			c.Do(t.Context(), get("k"))
		}()
	}
	calm = true
	if err := c.Do(t.Context(), get("k")).Err(); err != nil {
		t.Error(err)
	}
}
