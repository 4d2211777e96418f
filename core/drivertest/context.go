package drivertest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

var contextCases = []testCase{
	{name: "a context that has ended sends nothing", run: endedContext},
	{name: "cancellation is honoured during GET", run: cancelDuring("GET", getCall)},
	{name: "cancellation is honoured during EVALSHA", run: cancelDuring("EVALSHA", scriptCall)},
	{name: "cancellation is honoured during DoMulti", run: cancelDuring("GET", multiCall)},
	{name: "cancellation is honoured during BLPOP whose answer is stuck", run: cancelDuring("BLPOP", blpopCall)},
	{name: "a deadline is honoured during GET", run: deadlineDuring("GET", getCall)},
	{name: "a deadline is honoured during EVALSHA", run: deadlineDuring("EVALSHA", scriptCall)},
	{name: "a deadline is honoured during DoMulti", run: deadlineDuring("GET", multiCall)},
	{name: "a deadline-only context is honoured", run: deadlineOnly},
	{name: "cancellation is honoured while BLPOP blocks", run: cancelBlocked("BLPOP")},
	{name: "cancellation is honoured while XREADGROUP blocks", run: cancelBlocked("XREADGROUP")},
	{name: "a deadline is honoured while BLPOP blocks", run: deadlineBlocked},
	{name: "cancellation is honoured while waiting for a connection", run: cancelQueued},
	{name: "a deadline is honoured while connecting", run: deadlineConnecting},
	{name: "late replies of cancelled commands reach nobody", run: lateReplies},
	{name: "many concurrent cancellations spoil no other call", run: manyCancels},
}

func endedContext(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	key := e.key("k")
	must(t, d.Do(e.ctx(t), cmd("GET", key)))
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel()
	for name, ctx := range map[string]context.Context{
		"cancelled": cancelled, "past its deadline": late, "deadline only": driver.UntilDeadline(time.Now().Add(-time.Second)),
	} {
		for what, err := range map[string]error{
			"Do":       d.Do(ctx, cmd("INCR", key)).Err(),
			"Blocking": d.Do(ctx, blocking(cmd("BLPOP", key, "1"))).Err(),
			"DoMulti":  d.DoMulti(ctx, []driver.Cmd{cmd("INCR", key), cmd("INCR", key)})[1].Err(),
		} {
			what = what + " with a context " + name
			if !errors.Is(err, ctx.Err()) {
				t.Errorf("%s: error %v is not %v", what, err, ctx.Err())
			}
			wantNotSent(t, what, err)
		}
	}
	must(t, d.Do(e.ctx(t), cmd("GET", key)))
	if n := p.count("INCR") + p.count("BLPOP"); n != 0 {
		t.Errorf("%d commands reached the wire, want none", n)
	}
}

// call runs one command and returns its error.
type call func(ctx context.Context, e *env, d driver.Driver) error

func getCall(ctx context.Context, e *env, d driver.Driver) error {
	return d.Do(ctx, readOnly(cmd("GET", e.key("k")))).Err()
}

func scriptCall(ctx context.Context, e *env, d driver.Driver) error {
	return d.Do(ctx, driver.NewScript("one", "return 1 -- "+e.tag).Cmd([]string{e.key("k")}, nil)).Err()
}

func blpopCall(ctx context.Context, e *env, d driver.Driver) error {
	return d.Do(ctx, blocking(cmd("BLPOP", e.key("empty"), "0.01"))).Err()
}

func multiCall(ctx context.Context, e *env, d driver.Driver) error {
	rs := d.DoMulti(ctx, []driver.Cmd{cmd("GET", e.key("k")), cmd("GET", e.key("k"))})
	if len(rs) != 2 {
		return fmt.Errorf("%d replies to 2 commands", len(rs))
	}
	if (rs[0].Err() == nil) != (rs[1].Err() == nil) {
		return fmt.Errorf("one of the replies lacks its error: %s, %s", rs[0], rs[1])
	}
	return rs[1].Err()
}

// wantWorking checks that a driver recovers and still matches replies to commands. Connections that broke while nobody
// used them may fail a command each before that.
func wantWorking(t tester, e *env, d driver.Driver) {
	t.Helper()
	ctx := e.ctx(t)
	good, n := 0, 0
	eventually(t, "30 commands in a row work", budget/2, func() bool {
		for good < 30 {
			n++
			want := strconv.Itoa(n)
			err := d.Do(ctx, cmd("SET", e.key("after"), want)).Err()
			r := driver.Reply{}
			if err == nil {
				r = d.Do(ctx, cmd("GET", e.key("after")))
				err = r.Err()
			}
			if err != nil {
				wantTransport(t, "a command while the driver recovers", err)
				good = 0
				return false
			}
			wantText(t, "GET afterwards", r, want)
			good++
		}
		return true
	})
}

func cancelDuring(name string, f call) func(t tester, e *env) {
	return func(t tester, e *env) {
		p := e.proxy(t)
		d := p.driver(t)
		_ = f(e.ctx(t), e, d) // connects, and makes the script known
		before := p.count(name)
		p.stall(name)
		defer p.release()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		errs := make(chan error, 1)
		go func() { errs <- f(ctx, e, d) }()
		p.await(t, name, before+1)
		ended := time.Now()
		cancel()
		wantEnd(t, errs, ended, context.Canceled)
		p.release()
		wantWorking(t, e, d)
	}
}

// wantEnd waits for a call whose context ended while the server had the command.
func wantEnd(t tester, errs <-chan error, ended time.Time, want error) {
	t.Helper()
	select {
	case err := <-errs:
		wantPrompt(t, "the call", ended)
		if !errors.Is(err, want) {
			t.Errorf("error %v is not %v", err, want)
		}
		wantUnknown(t, "the call", err)
	case <-time.After(budget):
		t.Fatalf("the call does not return although its context ended")
	}
}

func deadlineDuring(name string, f call) func(t tester, e *env) {
	return func(t tester, e *env) {
		p := e.proxy(t)
		d := p.driver(t)
		_ = f(e.ctx(t), e, d)
		p.stall(name)
		defer p.release()
		deadline := time.Now().Add(200 * time.Millisecond)
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		errs := make(chan error, 1)
		go func() { errs <- f(ctx, e, d) }()
		wantEnd(t, errs, deadline, context.DeadlineExceeded)
		if time.Now().Before(deadline) {
			t.Errorf("returned before the deadline")
		}
		p.release()
		wantWorking(t, e, d)
	}
}

func deadlineOnly(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	must(t, d.Do(driver.UntilDeadline(time.Now().Add(budget)), cmd("SET", e.key("k"), "v")))
	for name, f := range map[string]call{"GET": getCall, "EVALSHA": scriptCall} {
		_ = f(e.ctx(t), e, d)
		p.stall(name)
		deadline := time.Now().Add(150 * time.Millisecond)
		errs := make(chan error, 1)
		go func() { errs <- f(driver.UntilDeadline(deadline), e, d) }()
		wantEnd(t, errs, deadline, context.DeadlineExceeded)
		p.release()
		wantWorking(t, e, d)
	}
}

func cancelQueued(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t, "pool_size", "1")
	_ = getCall(e.ctx(t), e, d)
	before := p.count("GET")
	p.stall("GET", "INCR") // INCR may find a way past the connection that waits for GET
	defer p.release()
	first, cancelFirst := context.WithCancel(context.Background())
	defer cancelFirst()
	holder := make(chan error, 1)
	go func() { holder <- getCall(first, e, d) }() // has the only connection
	p.await(t, "GET", before+1)
	errs := make([]chan error, 10)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var started sync.WaitGroup
	for i := range errs {
		errs[i] = make(chan error, 1)
		started.Add(1)
		go func() {
			started.Done()
			errs[i] <- d.Do(ctx, cmd("INCR", e.key("n"))).Err()
		}()
	}
	started.Wait()
	ended := time.Now()
	cancel()
	for _, ch := range errs {
		select {
		case err := <-ch:
			wantPrompt(t, "INCR", ended)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error %v is not %v", err, context.Canceled)
			}
			wantTransport(t, "INCR", err)
		case <-time.After(budget):
			t.Fatalf("INCR does not return although its context ended")
		}
	}
	cancelFirst()
	if err := <-holder; !errors.Is(err, context.Canceled) {
		t.Errorf("the command that held the connection: %v", err)
	}
	p.release()
	wantWorking(t, e, d)
}

func deadlineConnecting(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	_ = getCall(e.ctx(t), e, d)
	p.hold() // a new connection is accepted and then hears nothing
	defer p.release()
	p.cut("")
	for _, limit := range []time.Duration{100 * time.Millisecond, 300 * time.Millisecond} {
		deadline := time.Now().Add(limit)
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		err := d.Do(ctx, cmd("INCR", e.key("n"))).Err()
		cancel()
		wantPrompt(t, "INCR", deadline)
		wantTransport(t, "INCR", err)
		if time.Now().After(deadline) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v is not %v", err, context.DeadlineExceeded)
		}
	}
	p.release()
	wantWorking(t, e, d)
}
