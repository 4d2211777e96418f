package drivertest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

var trackerCases = []testCase{
	{name: "changed deleted and expired keys are reported by name", run: trackChanges},
	{name: "changes made through the driver are reported", run: trackOwn},
	{name: "names are binary safe", run: trackBinary},
	{name: "other prefixes are silent and several are possible", run: trackPrefixes},
	{name: "changes made by a script or a transaction are reported", run: trackScript},
	{name: "every primary is covered", run: trackPrimaries},
	{name: "a broken connection is lost and confirmed again", run: trackBroken},
	{name: "a connection that has gone silent is lost", run: trackSilent},
	{name: "ctx.Err() is returned after the last callback", run: trackEnds},
	{name: "no prefixes and overlapping ones are an error at once", run: trackInvalid},
	{name: "no key is reported before the first confirmation or loss", run: trackFirst},
	{name: "callbacks that are nil are not called", run: trackNil},
	{name: "a closed driver is an error at once and ends tracking", run: trackClosed},
	{name: "FLUSHDB reports everything", run: trackFlush, alone: true},
}

// reported returns the names reported, in order.
func reported(events []event) []string {
	var out []string
	for _, ev := range events {
		out = append(out, ev.keys...)
	}
	return out
}

func (f *feed) awaitKey(t tester, from int, key string) {
	t.Helper()
	f.await(t, "key "+strconv.Quote(key), from, budget, func(events []event) bool { return slices.Contains(reported(events), key) })
}

func trackChanges(t tester, e *env) {
	d := e.driver(t)
	f := e.track(t, d, e.key("p:"))
	f.wantFirst(t)
	key := e.key("p:k")
	step := func(args ...string) {
		t.Helper()
		from := len(f.seen())
		must(t, e.server.do(t, key, args...))
		f.awaitKey(t, from, key)
	}
	step("SET", key, "v")
	step("APPEND", key, "w")
	step("EXPIRE", key, "100")
	step("DEL", key)
	step("HSET", key, "f", "v")
	step("DEL", key)
	step("SET", key, "v", "PX", "50")
	from := len(f.seen())
	eventually(t, "the key expires", budget, func() bool { // asking makes it expire on servers that are lazy about it
		n, _ := e.server.do(t, key, "EXISTS", key).Int64()
		return n == 0
	})
	f.awaitKey(t, from, key)
	for _, k := range reported(f.seen()) {
		if k != key {
			t.Errorf("key %q was reported, nobody changed it", k)
		}
	}
	if has("lost")(f.seen()) {
		t.Errorf("lost without a reason: %v", f.seen())
	}
}

func trackOwn(t tester, e *env) {
	d := e.driver(t)
	f := e.track(t, d, e.key("p:"))
	for i := range 5 {
		from := len(f.seen())
		key := e.key("p:" + strconv.Itoa(i))
		must(t, d.Do(e.ctx(t), cmd("SET", key, "v")))
		f.awaitKey(t, from, key)
	}
}

func trackBinary(t tester, e *env) {
	d := e.driver(t)
	prefix := e.key("\x00\r\n\xff")
	f := e.track(t, d, prefix)
	key := prefix + everyByte()
	must(t, e.server.do(t, key, "SET", key, "v"))
	f.awaitKey(t, 0, key)
}

func trackPrefixes(t tester, e *env) {
	d := e.driver(t)
	a, b, c := e.key("a:"), e.key("b:"), e.key("c:")
	f := e.track(t, d, a, b)
	from := len(f.seen())
	for _, key := range []string{c + "1", a[:len(a)-1], a + "1", c + "2", b + "1"} {
		must(t, e.server.do(t, key, "SET", key, "v"))
	}
	f.awaitKey(t, from, a+"1")
	f.awaitKey(t, from, b+"1")
	for _, key := range reported(f.seen()) {
		if !strings.HasPrefix(key, a) && !strings.HasPrefix(key, b) {
			t.Errorf("key %q is outside the prefixes", key)
		}
	}
}

func trackScript(t tester, e *env) {
	d := e.driver(t)
	f := e.track(t, d, e.key("p:"))
	a, b := e.key("p:a"), e.key("p:b")
	s := driver.NewScript("set", "redis.call('SET', KEYS[1], 1) redis.call('SET', KEYS[2], 1) return 1 -- "+e.tag)
	must(t, d.Do(e.ctx(t), s.Cmd([]string{a, b}, nil)))
	f.awaitKey(t, 0, a)
	f.awaitKey(t, 0, b)
	if _, ok := d.(driver.Dedicated); !ok {
		return
	}
	from := len(f.seen())
	rs := e.dedicate(t, d).DoMulti(e.ctx(t), []driver.Cmd{{Args: []string{"MULTI"}}, cmd("SET", a, "2"), cmd("DEL", b), {Args: []string{"EXEC"}}})
	must(t, rs[3])
	f.awaitKey(t, from, a)
	f.awaitKey(t, from, b)
}

func trackPrimaries(t tester, e *env) {
	nodes := e.needCluster(t)
	p := e.proxy(t)
	d := p.driver(t)
	f := e.track(t, d, "drivertest:"+e.tag)
	check := func(from int) {
		t.Helper()
		for _, n := range nodes {
			key := e.keyAt(n)
			must(t, e.server.do(t, key, "SET", key, "v", "PX", "60000"))
			f.awaitKey(t, from, key)
		}
	}
	check(0)
	from := len(f.seen())
	p.cut("")
	f.await(t, "lost and confirmed again", from, budget, lostThenConfirmed)
	eventually(t, "the last callback is confirmed", budget, func() bool {
		events := f.seen()
		return events[len(events)-1].kind == "confirmed"
	})
	check(len(f.seen()))
}

func trackBroken(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	f := e.track(t, d, e.key("p:"))
	for i := range 3 {
		from := len(f.seen())
		p.cut("")
		f.await(t, "lost and confirmed again", from, budget, lostThenConfirmed)
		from = len(f.seen())
		key := e.key("p:" + strconv.Itoa(i))
		must(t, e.server.do(t, key, "SET", key, "v"))
		f.awaitKey(t, from, key)
	}
	f.wantReasons(t)
}

func trackSilent(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	f := e.track(t, d, e.key("p:"))
	from := len(f.seen())
	start := time.Now()
	p.hold()
	defer p.release()
	f.await(t, "lost on a silent connection", from, halfOpen, has("lost"))
	t.Logf("lost after %s", time.Since(start).Round(10*time.Millisecond))
	from = len(f.seen())
	p.release()
	f.await(t, "confirmed again", from, budget, has("confirmed"))
	from = len(f.seen())
	key := e.key("p:k")
	must(t, e.server.do(t, key, "SET", key, "v"))
	f.awaitKey(t, from, key)
}

func trackEnds(t tester, e *env) {
	d := e.driver(t)
	f := e.track(t, d, e.key("p:"))
	key, after := e.key("p:k"), e.key("p:after")
	must(t, e.server.do(t, key, "SET", key, "v"))
	f.awaitKey(t, 0, key)
	ended := time.Now()
	f.cancel()
	f.wantEnded(t, context.Canceled)
	wantPrompt(t, "Track", ended)
	must(t, e.server.do(t, after, "SET", after, "v"))
	must(t, d.Do(e.ctx(t), cmd("GET", after)))
	if slices.Contains(reported(f.seen()), after) {
		t.Errorf("a key was reported after Track had returned")
	}
}

func trackInvalid(t tester, e *env) {
	d := e.driver(t)
	tr := e.tracker(t, d)
	for _, prefixes := range [][]string{nil, {"drivertest:a", "drivertest:ab"}, {"drivertest:ab", "drivertest:a"}} {
		within(t, "Track", budget, func() {
			if err := tr.Track(e.ctx(t), driver.Tracking{Prefixes: prefixes}); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("prefixes %q: got %v, want an error at once", prefixes, err)
			}
		})
	}
}

// trackFirst begins to track while keys are changing.
func trackFirst(t tester, e *env) {
	d := e.driver(t)
	e.tracker(t, d)
	ctx, stop := context.WithCancel(e.ctx(t))
	var writing sync.WaitGroup
	writing.Go(func() {
		for ctx.Err() == nil {
			d.DoMulti(ctx, []driver.Cmd{cmd("SET", e.key("p:a"), "v"), cmd("SET", e.key("p:b"), "v"), cmd("SET", e.key("p:c"), "v")})
		}
	})
	t.Cleanup(func() { stop(); writing.Wait() })
	for range 20 {
		f := e.tracking(t, d, e.key("p:"))
		f.await(t, "a key", 0, budget, func(events []event) bool { return len(reported(events)) > 0 })
		f.wantFirst(t)
		f.cancel()
		f.wantEnded(t, context.Canceled)
	}
}

func trackNil(t tester, e *env) {
	d := e.driver(t)
	tr := e.tracker(t, d)
	own := make(chan struct{})
	f := startFeed(t, func(ctx context.Context, f *feed) error {
		return tr.Track(ctx, driver.Tracking{Prefixes: []string{e.key("p:")}, OnConfirmed: func() { close(own) }})
	})
	select {
	case <-own:
	case <-f.done:
		t.Fatalf("the feed ended with %v", f.err)
	case <-time.After(budget):
		t.Fatalf("not confirmed")
	}
	must(t, e.server.do(t, e.key("p:k"), "SET", e.key("p:k"), "v"))
	must(t, d.Do(e.ctx(t), cmd("GET", e.key("p:k"))))
	f.cancel()
	f.wantEnded(t, context.Canceled)
}

func trackClosed(t tester, e *env) {
	d := e.driver(t)
	tr := e.tracker(t, d)
	f := e.track(t, d, e.key("p:"))
	within(t, "Close while tracking", budget, func() { _ = d.Close() })
	f.wantEnded(t, driver.ErrClosed)
	within(t, "Track after Close", budget, func() {
		if err := tr.Track(e.ctx(t), driver.Tracking{Prefixes: []string{e.key("p:")}}); !errors.Is(err, driver.ErrClosed) {
			t.Errorf("after Close: %v, want ErrClosed", err)
		}
	})
}

func trackFlush(t tester, e *env) {
	if !e.cfg.Features.AllowFlush {
		t.Skipf("Config allows no FLUSHDB")
	}
	d := e.driver(t)
	f := e.track(t, d, e.key("p:"))
	key := e.key("p:k")
	must(t, e.server.do(t, key, "SET", key, "v"))
	f.awaitKey(t, 0, key)
	from := len(f.seen())
	e.server.each(t, "FLUSHDB")
	f.await(t, "everything changed", from, budget, has("everything"))
	must(t, e.server.do(t, key, "SET", key, "v"))
	f.awaitKey(t, from, key)
	if has("lost")(f.seen()) {
		t.Errorf("FLUSHDB was taken for a loss: %v", f.seen())
	}
}
