package drivertest

import (
	"context"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

var closeCases = []testCase{
	{name: "Close is idempotent and later calls are ErrClosed", run: closedCalls},
	{name: "Close with commands in flight hangs nobody", run: closeInFlight},
	{name: "Close on a silent server comes to an end", run: closeSilent},
	{name: "Close releases every connection the driver opened", run: closeReleases},
	{name: "a client given to New stays open", run: closeKeepsClient},
	{name: "Close leaves no goroutine", run: closeGoroutines, alone: true},
}

func closedCalls(t tester, e *env) {
	d := e.driver(t)
	must(t, d.Do(e.ctx(t), cmd("SET", e.key("k"), "v")))
	var conn driver.Conn
	if dd, ok := d.(driver.Dedicated); ok {
		var err error
		if conn, err = dd.Dedicate(e.ctx(t), e.key("")); err != nil {
			t.Fatalf("Dedicate: %v", err)
		}
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := d.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	within(t, "Close, three times at once", budget, wg.Wait)
	if err := d.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
	check := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, driver.ErrClosed) || !errors.Is(err, driver.ErrNotSent) {
			t.Errorf("%s after Close: %v, want ErrClosed, which is also ErrNotSent", what, err)
		}
	}
	check("Do", d.Do(e.ctx(t), cmd("SET", e.key("k"), "w")).Err())
	check("Do of a read", d.Do(e.ctx(t), readOnly(cmd("GET", e.key("k")))).Err())
	check("Do of a blocking command", d.Do(e.ctx(t), blocking(cmd("BLPOP", e.key("l"), "1"))).Err())
	for _, r := range d.DoMulti(e.ctx(t), []driver.Cmd{cmd("SET", e.key("k"), "w"), cmd("GET", e.key("k"))}) {
		check("DoMulti", r.Err())
	}
	if _, err := d.Caps(e.ctx(t)); err != nil { // it may be known from before
		check("Caps", err)
	}
	if conn != nil {
		check("Conn.Do", conn.Do(e.ctx(t), cmd("SET", e.key("k"), "w")).Err())
		if err := conn.Close(); err != nil {
			t.Errorf("Conn.Close after Close: %v", err)
		}
		_, err := d.(driver.Dedicated).Dedicate(e.ctx(t), e.key(""))
		check("Dedicate", err)
	}
	if r, ok := d.(driver.Router); ok {
		_ = r.Node(e.key("k")) // does not panic
	}
	wantText(t, "the value on the server", e.server.do(t, e.key("k"), "GET", e.key("k")), "v")
}

func closeInFlight(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	var wg sync.WaitGroup
	loop := func(f func(ctx context.Context) error) {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*budget)
			defer cancel()
			for {
				err := f(ctx)
				switch {
				case err == nil, errors.Is(err, driver.ErrUnknownOutcome):
				case errors.Is(err, driver.ErrClosed):
					return
				case errors.Is(err, driver.ErrNotSent) && ctx.Err() == nil:
				default:
					t.Errorf("a command in flight: %v", err)
					return
				}
			}
		})
	}
	for range 3 {
		loop(func(ctx context.Context) error { return d.Do(ctx, cmd("INCR", e.key("n"))).Err() })
		loop(func(ctx context.Context) error { return d.Do(ctx, readOnly(cmd("GET", e.key("n")))).Err() })
		loop(func(ctx context.Context) error {
			return d.DoMulti(ctx, []driver.Cmd{cmd("INCR", e.key("n")), cmd("GET", e.key("n"))})[1].Err()
		})
		loop(func(ctx context.Context) error { return d.Do(ctx, blocking(cmd("BLPOP", e.key("l"), "60"))).Err() })
	}
	p.await(t, "INCR", 20)
	p.await(t, "BLPOP", 3)
	within(t, "Close with commands in flight", budget, func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	within(t, "commands in flight during Close", budget, wg.Wait)
}

func closeSilent(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	_ = getCall(e.ctx(t), e, d)
	p.hold()
	defer p.release()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_ = d.Do(ctx, cmd("INCR", e.key("n"))) // leaves something behind that waits for a reply
	within(t, "Close on a silent server", budget, func() { _ = d.Close() })
}

func closeReleases(t tester, e *env) {
	if e.wrapped {
		t.Skipf("the connections belong to the wrapped client")
	}
	p := e.proxy(t)
	d := p.driver(t)
	e.useEverything(t, d)
	if p.open() == 0 {
		t.Fatalf("no connection is open before Close")
	}
	within(t, "Close", budget, func() { _ = d.Close() })
	if !p.until(budget/2, func() bool { return p.open() == 0 }) {
		t.Errorf("%d connections are open after Close", p.open())
	}
}

// useEverything makes a driver open every kind of connection it has.
func (e *env) useEverything(t tester, d driver.Driver) {
	t.Helper()
	ctx := e.ctx(t)
	must(t, d.Do(ctx, cmd("SET", e.key("k"), "v")))
	d.DoMulti(ctx, []driver.Cmd{cmd("GET", e.key("k")), cmd("GET", e.keyElsewhere(0))})
	wantNull(t, "BLPOP", d.Do(ctx, blocking(cmd("BLPOP", e.key("l"), "0.01"))))
	if _, err := d.Caps(ctx); err != nil {
		t.Errorf("Caps: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	d.Do(short, blocking(cmd("BLPOP", e.key("l"), "60")))
	cancel()
	if _, ok := d.(driver.Dedicated); ok {
		conn := e.dedicate(t, d)
		must(t, conn.Do(ctx, cmd("GET", e.key("k"))))
		_ = conn.Close()
	}
	if _, ok := d.(driver.Subscriber); ok {
		e.subscribe(t, d, false, e.key("c")).stop(t)
	}
	if _, ok := d.(driver.Tracker); ok && !e.cfg.Features.NoTracking {
		e.track(t, d, e.key("p:")).stop(t)
	}
	if r, ok := d.(driver.Router); ok {
		_ = r.Node(e.key("k"))
	}
}

func closeKeepsClient(t tester, e *env) {
	if !e.wrapped {
		t.Skipf("the driver opened its client itself")
	}
	p := e.proxy(t)
	d := p.driver(t)
	must(t, d.Do(e.ctx(t), cmd("SET", e.key("k"), "v")))
	client := d.Unwrap()
	if client == nil {
		t.Fatalf("Unwrap returns nil")
	}
	within(t, "Close", budget, func() { _ = d.Close() })
	if p.open() == 0 {
		t.Errorf("no connection of the client is open after Close")
	}
}

// goroutines returns the stacks of the goroutines there are, by id.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	out := map[string]string{}
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		head, _, _ := strings.Cut(stack, " [")
		out[head] = stack
	}
	return out
}

// settle is how long goroutines may take to end: some libraries close what they replaced five seconds later.
var settle = 6 * time.Second

func closeGoroutines(t tester, e *env) {
	warm := e.driver(t) // whatever the library starts once per process
	e.useEverything(t, warm)
	e.shut(t, warm)
	before := goroutines()
	pkg := ""
	for range 3 {
		d := e.driver(t)
		pkg = packageOf(d)
		e.useEverything(t, d)
		e.shut(t, d)
	}
	var left []string
	for end := time.Now().Add(settle); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		left = nil
		for id, stack := range goroutines() {
			// What a client given to New does behind the driver's back is its own affair.
			if _, ok := before[id]; !ok && (!e.wrapped || strings.Contains(stack, pkg+".")) {
				left = append(left, stack)
			}
		}
		if len(left) == 0 {
			return
		}
	}
	t.Errorf("%d goroutines are left after Close:\n%s", len(left), strings.Join(left, "\n\n"))
}

// packageOf returns the import path of a driver's type.
func packageOf(d driver.Driver) string {
	typ := reflect.TypeOf(d)
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	return typ.PkgPath()
}
