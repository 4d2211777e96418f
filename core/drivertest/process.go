package drivertest

import (
	"context"
	"errors"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// processCases need Config.Process. They disturb everybody on the server, so each runs alone.
var processCases = []testCase{
	{name: "a paused server ends no call later than its deadline", run: pausedServer, alone: true},
	{name: "the driver recovers after a restart of the server", run: restartedServer, alone: true},
}

func pausedServer(t tester, e *env) {
	pr := e.cfg.Process
	if pr.Pause == nil || pr.Resume == nil {
		t.Skipf("Config has no Pause and Resume")
	}
	d := e.driver(t)
	must(t, d.Do(e.ctx(t), cmd("SET", e.key("k"), "v")))
	pr.Pause()
	resume := func() {
		if pr.Resume != nil {
			pr.Resume()
			pr.Resume = nil
		}
	}
	defer resume()
	for _, c := range []driver.Cmd{readOnly(cmd("GET", e.key("k"))), cmd("INCR", e.key("n")), blocking(cmd("BLPOP", e.key("l"), "1"))} {
		deadline := time.Now().Add(200 * time.Millisecond)
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		err := d.Do(ctx, c).Err()
		cancel()
		wantPrompt(t, c.Name(), deadline)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: error %v is not %v", c.Name(), err, context.DeadlineExceeded)
		}
		wantTransport(t, c.Name(), err)
	}
	resume()
	wantWorking(t, e, d)
	wantText(t, "GET", d.Do(e.ctx(t), cmd("GET", e.key("k"))), "v")
}

func restartedServer(t tester, e *env) {
	if e.cfg.Process.Restart == nil {
		t.Skipf("Config has no Restart")
	}
	d := e.driver(t)
	s := driver.NewScript("echo", "return ARGV[1] -- "+e.tag)
	wantText(t, "a script", d.Do(e.ctx(t), s.Cmd([]string{e.key("k")}, []string{"a"})), "a")
	var feeds []*feed
	if _, ok := d.(driver.Subscriber); ok {
		feeds = append(feeds, e.subscribe(t, d, false, e.key("c")))
	}
	if _, ok := d.(driver.Tracker); ok && !e.cfg.Features.NoTracking {
		feeds = append(feeds, e.track(t, d, e.key("p:")))
	}
	e.cfg.Process.Restart()
	e.server.close() // its connections broke too
	wantWorking(t, e, d)
	wantText(t, "a script the server forgot", d.Do(e.ctx(t), s.Cmd([]string{e.key("k")}, []string{"b"})), "b")
	rs := d.DoMulti(e.ctx(t), []driver.Cmd{cmd("SET", e.key("k"), "v"), s.Cmd([]string{e.key("k")}, []string{"c"})})
	wantText(t, "a script in a pipeline", rs[1], "c")
	for _, f := range feeds {
		f.await(t, "lost and confirmed again", 0, 2*budget, lostThenConfirmed)
	}
}
