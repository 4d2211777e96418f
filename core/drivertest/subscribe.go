package drivertest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// halfOpen is how long a connection that has gone silent may go unnoticed. The contract sets no number; a subscriber that
// takes longer than this is of no use.
const halfOpen = 12 * time.Second

var subscriberCases = []testCase{
	{name: "everything published after OnConfirmed arrives in order", run: subscribeOrder},
	{name: "several channels are confirmed once and all deliver", run: subscribeSeveral},
	{name: "channels and payloads are binary safe", run: subscribeBinary},
	{name: "a broken connection is lost and confirmed again", run: subscribeBroken},
	{name: "a connection that has gone silent is lost", run: subscribeSilent},
	{name: "a server that is away is lost until it is back", run: subscribeAway},
	{name: "a refused subscription is lost until it is allowed", run: subscribeRefused},
	{name: "ctx.Err() is returned after the last callback", run: subscribeEnds},
	{name: "a slow callback overlaps with none", run: subscribeSlow},
	{name: "callbacks that are nil are not called", run: subscribeNil},
	{name: "no channels are an error at once", run: subscribeNothing},
	{name: "sharded channels deliver where the server has them", run: subscribeSharded},
	{name: "a closed driver is an error at once and ends subscriptions", run: subscribeClosed},
}

func (e *env) publish(t tester, channel, payload string) {
	t.Helper()
	must(t, e.server.do(t, channel, "PUBLISH", channel, payload))
}

// messages returns the payloads that came on a channel.
func messages(events []event, channel string) []string {
	var out []string
	for _, ev := range events {
		if ev.kind == "message" && ev.channel == channel {
			out = append(out, ev.payload)
		}
	}
	return out
}

func (f *feed) awaitMessages(t tester, from int, channel string, n int) []string {
	t.Helper()
	f.await(t, strconv.Itoa(n)+" messages", from, budget, func(events []event) bool { return len(messages(events, channel)) >= n })
	return messages(f.seen()[from:], channel)
}

func subscribeOrder(t tester, e *env) {
	d := e.driver(t)
	channel := e.key("c")
	f := e.subscribe(t, d, false, channel)
	f.wantFirst(t)
	const n = 300
	var want []string
	for i := range n {
		want = append(want, strconv.Itoa(i))
		e.publish(t, channel, want[i])
	}
	if got := f.awaitMessages(t, 0, channel, n); !slices.Equal(got, want) {
		t.Errorf("%d messages, not the %d published or not in order", len(got), n)
	}
	if has("lost")(f.seen()) {
		t.Errorf("lost without a reason: %v", f.seen())
	}
	must(t, d.Do(e.ctx(t), cmd("SET", e.key("k"), "v")))
}

func subscribeSeveral(t tester, e *env) {
	d := e.driver(t)
	a, b, c := e.key("a"), e.key("b"), e.key("c")
	f := e.subscribe(t, d, false, a, b, c)
	for _, channel := range []string{a, b, c} {
		e.publish(t, channel, "to "+channel)
		if got := f.awaitMessages(t, 0, channel, 1); got[0] != "to "+channel {
			t.Errorf("on %s: %q", channel, got)
		}
	}
	n := 0
	for _, ev := range f.seen() {
		if ev.kind == "confirmed" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("OnConfirmed ran %d times, want once", n)
	}
}

func subscribeBinary(t tester, e *env) {
	d := e.driver(t)
	channel := e.key(everyByte())
	f := e.subscribe(t, d, false, channel)
	for _, payload := range []string{everyByte(), "", "\r\n", "message"} {
		from := len(f.seen())
		e.publish(t, channel, payload)
		if got := f.awaitMessages(t, from, channel, 1); got[0] != payload {
			t.Errorf("payload %.60q, want %.60q", got[0], payload)
		}
	}
}

func subscribeBroken(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	channel := e.key("c")
	f := e.subscribe(t, d, false, channel)
	for i := range 3 {
		from := len(f.seen())
		p.cut("SUBSCRIBE")
		f.await(t, "lost and confirmed again", from, budget, lostThenConfirmed)
		from = len(f.seen())
		for range 5 {
			e.publish(t, channel, strconv.Itoa(i))
		}
		if got := f.awaitMessages(t, from, channel, 5); got[4] != strconv.Itoa(i) {
			t.Errorf("messages after break %d: %q", i, got)
		}
	}
	f.wantReasons(t)
}

func subscribeSilent(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	channel := e.key("c")
	f := e.subscribe(t, d, false, channel)
	from := len(f.seen())
	start := time.Now()
	p.hold()
	defer p.release()
	f.await(t, "lost on a silent connection", from, halfOpen, has("lost"))
	t.Logf("lost after %s", time.Since(start).Round(10*time.Millisecond))
	f.wantReasons(t)
	from = len(f.seen())
	p.release()
	f.await(t, "confirmed again", from, budget, has("confirmed"))
	from = len(f.seen())
	e.publish(t, channel, "back")
	f.awaitMessages(t, from, channel, 1)
}

func subscribeAway(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	channel := e.key("c")
	f := e.subscribe(t, d, false, channel)
	from := len(f.seen())
	p.down()
	f.await(t, "lost", from, budget, has("lost"))
	// As many attempts take 4 s at most if the delay grows to 500 ms, and twice as long if it goes on to grow.
	const attempts = 10
	from, start := len(f.seen()), time.Now()
	f.await(t, "ten more attempts, the delay between them being 500 ms at most", from, 6*time.Second, func(events []event) bool {
		return len(events) >= attempts
	})
	if took := time.Since(start); took < time.Second {
		t.Errorf("%d attempts in %v: the delay between them does not grow", attempts, took)
	}
	from = len(f.seen())
	p.up(t)
	f.await(t, "confirmed again", from, 4*time.Second, has("confirmed"))
	f.wantReasons(t)
	from = len(f.seen())
	e.publish(t, channel, "back")
	f.awaitMessages(t, from, channel, 1)
}

func subscribeRefused(t tester, e *env) {
	user := e.aclUser(t, "+@all", "~*", "resetchannels")
	d := e.driverAt(t, user.url())
	channel := e.key("c")
	f := e.subscribing(t, d, false, channel)
	f.await(t, "lost for want of permission", 0, budget, has("lost"))
	if ev := f.seen()[0]; ev.kind != "lost" {
		t.Errorf("the first callback is %v, want lost", ev)
	} else {
		wantCode(t, "OnLost", ev.err, "NOPERM")
	}
	user.allow(t, "allchannels")
	f.await(t, "confirmed once it is allowed", 0, budget, has("confirmed"))
	from := len(f.seen())
	e.publish(t, channel, "at last")
	f.awaitMessages(t, from, channel, 1)
}

func subscribeEnds(t tester, e *env) {
	d := e.driver(t)
	channel := e.key("c")
	f := e.subscribe(t, d, false, channel)
	for range 20 {
		e.publish(t, channel, "before")
	}
	ended := time.Now()
	f.cancel()
	f.wantEnded(t, context.Canceled)
	wantPrompt(t, "Subscribe", ended)
	for range 20 {
		e.publish(t, channel, "after")
	}
	if slices.Contains(messages(f.seen(), channel), "after") {
		t.Errorf("a message arrived after Subscribe had returned")
	}
	// With an ended context nothing starts.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	within(t, "Subscribe with an ended context", budget, func() {
		err := e.subscriber(t, d).Subscribe(ctx, driver.Subscription{Channels: []string{channel}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
	})
}

func subscribeSlow(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	channel := e.key("c")
	s := e.subscriber(t, d)
	f := startFeed(t, func(ctx context.Context, f *feed) error {
		slow := func(ev event) {
			if f.inside.Add(1) > 1 {
				f.overlap.Store(true)
			}
			time.Sleep(5 * time.Millisecond) // the slowness under test
			f.inside.Add(-1)
			f.note(ev)
		}
		return s.Subscribe(ctx, driver.Subscription{
			Channels:    []string{channel},
			OnMessage:   func(c, m string) { slow(event{kind: "message", channel: c, payload: m}) },
			OnConfirmed: func() { slow(event{kind: "confirmed"}) },
			OnLost:      func(err error) { slow(event{kind: "lost", err: err}) },
		})
	})
	f.await(t, "confirmation", 0, budget, has("confirmed"))
	for i := range 40 {
		e.publish(t, channel, strconv.Itoa(i))
	}
	f.awaitMessages(t, 0, channel, 1)
	from := len(f.seen())
	p.cut("SUBSCRIBE") // a loss while messages wait
	f.await(t, "lost and confirmed again", from, budget, lostThenConfirmed)
	next := 0
	for _, m := range messages(f.seen(), channel) {
		if m != strconv.Itoa(next) {
			t.Errorf("message %s where %d was next", m, next)
		}
		next++
	}
}

func subscribeNil(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	channel := e.key("c")
	s := e.subscriber(t, d)
	f := startFeed(t, func(ctx context.Context, f *feed) error {
		return s.Subscribe(ctx, driver.Subscription{Channels: []string{channel}})
	})
	p.await(t, "SUBSCRIBE", 1)
	eventually(t, "the server has the subscriber", budget, func() bool {
		n, _ := e.server.do(t, channel, "PUBLISH", channel, "x").Int64()
		return n > 0 || e.ep.Topology == driver.Cluster
	})
	p.cut("SUBSCRIBE")
	p.await(t, "SUBSCRIBE", 2)
	f.cancel()
	f.wantEnded(t, context.Canceled)
}

func subscribeNothing(t tester, e *env) {
	d := e.driver(t)
	s := e.subscriber(t, d)
	within(t, "Subscribe without channels", budget, func() {
		if err := s.Subscribe(e.ctx(t), driver.Subscription{}); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want an error at once", err)
		}
	})
}

func subscribeSharded(t tester, e *env) {
	d := e.driver(t)
	a, b := e.key("a"), e.key("b")
	if !e.server.has(t, "SSUBSCRIBE") {
		within(t, "Subscribe with Sharded on a server without it", budget, func() {
			err := e.subscriber(t, d).Subscribe(e.ctx(t), driver.Subscription{Channels: []string{a}, Sharded: true})
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want an error at once", err)
			}
		})
		return
	}
	if e.ep.Topology == driver.Cluster {
		within(t, "Subscribe to sharded channels of different slots", budget, func() {
			err := e.subscriber(t, d).Subscribe(e.ctx(t), driver.Subscription{Channels: []string{a, e.keyElsewhere(0)}, Sharded: true})
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("sharded channels of different slots: got %v, want an error at once", err)
			}
		})
	}
	f := e.subscribe(t, d, true, a, b)
	for i := range 50 {
		must(t, e.server.do(t, a, "SPUBLISH", a, strconv.Itoa(i)))
		must(t, e.server.do(t, b, "SPUBLISH", b, strconv.Itoa(i)))
	}
	e.publish(t, a, "not sharded")
	for _, channel := range []string{a, b} {
		got := f.awaitMessages(t, 0, channel, 50)
		for i, m := range got {
			if m != strconv.Itoa(i) {
				t.Fatalf("message %d on %s is %q", i, channel, m)
			}
		}
	}
}

func subscribeClosed(t tester, e *env) {
	d := e.driver(t)
	s := e.subscriber(t, d)
	f := e.subscribe(t, d, false, e.key("c"))
	within(t, "Close with a subscription", budget, func() { _ = d.Close() })
	f.wantEnded(t, driver.ErrClosed)
	within(t, "Subscribe after Close", budget, func() {
		if err := s.Subscribe(e.ctx(t), driver.Subscription{Channels: []string{e.key("c")}}); !errors.Is(err, driver.ErrClosed) {
			t.Errorf("after Close: %v, want ErrClosed", err)
		}
	})
}
