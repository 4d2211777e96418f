package drivertest

import (
	"context"
	"errors"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// blockedCmd returns a command that blocks for a minute, and prepares what it needs.
func (e *env) blockedCmd(t tester, name string) driver.Cmd {
	t.Helper()
	key := e.key("blocked-" + name)
	if name == "BLPOP" {
		return blocking(cmd("BLPOP", key, "60"))
	}
	must(t, e.server.do(t, key, "XGROUP", "CREATE", key, "g", "$", "MKSTREAM"))
	args := []string{"XREADGROUP", "GROUP", "g", "c", "BLOCK", "60000", "COUNT", "1", "STREAMS", key, ">"}
	return driver.Cmd{Args: args, Keys: driver.Key(9), Mode: driver.Blocking}
}

func cancelBlocked(name string) func(t tester, e *env) {
	return func(t tester, e *env) {
		p := e.proxy(t)
		d := p.driver(t)
		c := e.blockedCmd(t, name)
		known := 0
		const rounds = 5
		for range rounds {
			before := p.count(name)
			ctx, cancel := context.WithCancel(context.Background())
			errs := make(chan error, 1)
			go func() { errs <- d.Do(ctx, c).Err() }()
			p.await(t, name, before+1)
			e.awaitBlocked(t)
			ended := time.Now()
			cancel()
			select {
			case err := <-errs:
				wantPrompt(t, name, ended)
				if !errors.Is(err, context.Canceled) {
					t.Errorf("error %v is not %v", err, context.Canceled)
				}
				if !errors.Is(err, driver.ErrUnknownOutcome) {
					known++
				}
			case <-time.After(budget):
				t.Fatalf("%s does not return although its context ended", name)
			}
		}
		t.Logf("%d of %d calls know that nothing was delivered", known, rounds)
		if known == 0 && !e.cfg.Features.NoUnblock {
			t.Errorf("not one of %d cancelled calls knows that nothing was delivered; CLIENT UNBLOCK tells", rounds)
		}
		wantWorking(t, e, d)
	}
}

// awaitBlocked gives the server a few round trips to run a blocking command that the proxy has just passed on.
func (e *env) awaitBlocked(t tester) {
	t.Helper()
	for range 3 {
		must(t, e.server.do(t, e.key(""), "PING"))
	}
}

func deadlineBlocked(t tester, e *env) {
	d := e.driver(t)
	deadline := time.Now().Add(200 * time.Millisecond)
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	err := d.Do(ctx, e.blockedCmd(t, "BLPOP")).Err()
	wantPrompt(t, "BLPOP", deadline)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v is not %v", err, context.DeadlineExceeded)
	}
	wantWorking(t, e, d)
}
