package drivertest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

var failureCases = []testCase{
	{name: "a refused connection is not sent", run: refused},
	{name: "the driver recovers after the server comes back", run: comesBack},
	{name: "the driver recovers after every connection was reset under load", run: resetUnderLoad},
	{name: "a silent server ends no call later than its deadline", run: silentServer},
	{name: "the driver recovers after a silence", run: silenceEnds},
	{name: "a user without a permission gets NOPERM", run: noPermission},
}

func refused(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	_ = getCall(e.ctx(t), e, d)
	p.down()
	// Connections that broke while idle may still be tried once each; after that there is nothing to send on.
	eventually(t, "INCR on a dead server is ErrNotSent", budget/2, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), budget)
		defer cancel()
		err := d.Do(ctx, cmd("INCR", e.key("n"))).Err()
		wantTransport(t, "INCR", err)
		if oe, ok := errors.AsType[*driver.OpError](err); !ok {
			t.Errorf("INCR: error %v is not an OpError", err)
		} else if oe.Sent != errors.Is(err, driver.ErrUnknownOutcome) {
			t.Errorf("INCR: Sent is %v in %v", oe.Sent, err)
		}
		return errors.Is(err, driver.ErrNotSent)
	})
	for i, r := range d.DoMulti(e.ctx(t), []driver.Cmd{cmd("INCR", e.key("n")), readOnly(cmd("GET", e.key("n")))}) {
		wantTransport(t, "DoMulti", r.Err())
		_ = i
	}
	wantTransport(t, "BLPOP", d.Do(e.ctx(t), blocking(cmd("BLPOP", e.key("l"), "1"))).Err())
	wantNull(t, "the counter", e.server.do(t, e.key("n"), "GET", e.key("n")))
}

func comesBack(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	for range 3 {
		must(t, d.Do(e.ctx(t), cmd("SET", e.key("k"), "v")))
		p.down()
		eventually(t, "a command fails", budget/2, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return d.Do(ctx, cmd("SET", e.key("k"), "v")).Err() != nil
		})
		p.up(t)
		wantWorking(t, e, d)
		eventually(t, "a blocking command works", budget/2, func() bool {
			return d.Do(e.ctx(t), blocking(cmd("BLPOP", e.key("l"), "0.01"))).IsNil()
		})
	}
}

func resetUnderLoad(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	key := e.key("n")
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	stop := make(chan struct{})
	var mu sync.Mutex
	done, open, spoilt := int64(0), int64(0), 0
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r := d.Do(ctx, cmd("INCR", key))
				_, err := r.Int64()
				mu.Lock()
				switch {
				case err == nil:
					done++
				case errors.Is(err, driver.ErrUnknownOutcome):
					open++
				case !errors.Is(err, driver.ErrNotSent):
					spoilt++
					t.Errorf("INCR: %s, %v", short(r), err)
				}
				mu.Unlock()
			}
		})
	}
	for i := range 10 {
		p.await(t, "INCR", (i+1)*20)
		p.cut("")
	}
	close(stop)
	wg.Wait()
	n, _ := e.server.do(t, key, "GET", key).Int64()
	t.Logf("%d done, %d unknown, %d on the server, %d on the wire", done, open, n, p.count("INCR"))
	if n < done || n > done+open {
		t.Errorf("the server counted %d; %d calls succeeded and %d are unknown", n, done, open)
	}
	if sent := int64(p.count("INCR")); sent > done+open {
		t.Errorf("%d commands were on the wire for %d calls that may have been sent", sent, done+open)
	}
	wantWorking(t, e, d)
}

func silentServer(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	_ = getCall(e.ctx(t), e, d)
	p.hold()
	defer p.release()
	deadline := time.Now().Add(300 * time.Millisecond)
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	var wg sync.WaitGroup
	calls := []driver.Cmd{cmd("INCR", e.key("n")), readOnly(cmd("GET", e.key("n"))), blocking(cmd("BLPOP", e.key("l"), "1"))}
	for i := range 21 {
		wg.Go(func() {
			err := d.Do(ctx, calls[i%len(calls)]).Err()
			if late := time.Since(deadline); late > prompt {
				t.Errorf("%s returned %s after its deadline", calls[i%len(calls)].Name(), late)
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v is not %v", err, context.DeadlineExceeded)
			}
			wantTransport(t, calls[i%len(calls)].Name(), err)
		})
	}
	within(t, "21 calls on a silent server", budget, wg.Wait)
}

func silenceEnds(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	for range 3 {
		must(t, d.Do(e.ctx(t), cmd("SET", e.key("k"), "v")))
		p.hold()
		for range 5 {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
			_ = d.Do(ctx, cmd("GET", e.key("k")))
			cancel()
		}
		p.release()
		wantWorking(t, e, d)
	}
}

func noPermission(t tester, e *env) {
	u := e.aclUser(t, "+@connection", "+cluster", "+get", "+command", "+info", "+role", "~*")
	d := e.driverAt(t, u.url())
	wantNull(t, "GET", d.Do(e.ctx(t), cmd("GET", e.key("k"))))
	wantCode(t, "SET", d.Do(e.ctx(t), cmd("SET", e.key("k"), "v")).Err(), "NOPERM")
	rs := d.DoMulti(e.ctx(t), []driver.Cmd{cmd("GET", e.key("k")), cmd("DEL", e.key("k")), cmd("GET", e.key("k"))})
	wantNull(t, "GET", rs[0])
	wantCode(t, "DEL", rs[1].Err(), "NOPERM")
	wantNull(t, "GET", rs[2])
}
