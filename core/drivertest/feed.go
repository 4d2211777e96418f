package drivertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// event is one callback of a subscription or of tracking.
type event struct {
	kind    string // confirmed, lost, message, keys, everything
	channel string
	payload string
	keys    []string
	err     error
}

func (ev event) String() string {
	switch ev.kind {
	case "message":
		return fmt.Sprintf("message %.40q on %.60q", ev.payload, ev.channel)
	case "keys":
		return fmt.Sprintf("keys %.200q", ev.keys)
	case "lost":
		return fmt.Sprintf("lost (%v)", ev.err)
	}
	return ev.kind
}

// feed runs a subscription or tracking and keeps what it calls back.
type feed struct {
	cancel context.CancelFunc

	mu      sync.Mutex
	events  []event
	changed chan struct{}

	inside   atomic.Int32
	overlap  atomic.Bool
	returned atomic.Bool
	late     atomic.Bool

	done chan struct{}
	err  error // valid after done
	ctx  context.Context
}

// note takes one callback in.
func (f *feed) note(ev event) {
	if f.inside.Add(1) > 1 {
		f.overlap.Store(true)
	}
	defer f.inside.Add(-1)
	if f.returned.Load() {
		f.late.Store(true)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, ev)
	close(f.changed)
	f.changed = make(chan struct{})
}

func startFeed(t tester, run func(ctx context.Context, f *feed) error) *feed {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &feed{ctx: ctx, cancel: cancel, changed: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		f.err = run(ctx, f)
		f.returned.Store(true)
	}()
	t.Cleanup(func() { f.stop(t) })
	return f
}

// stop ends the feed and checks how it ends. It may be called again.
func (f *feed) stop(t tester) {
	t.Helper()
	f.cancel()
	select {
	case <-f.done:
		if f.err == nil {
			t.Errorf("the feed ended with no error, want ctx.Err() or the reason")
		}
	case <-time.After(budget):
		t.Errorf("the feed goes on after its context ended")
	}
	if f.overlap.Load() {
		t.Errorf("callbacks overlapped")
	}
	if f.late.Load() {
		t.Errorf("a callback came after the feed had ended")
	}
}

// seen returns the events so far.
func (f *feed) seen() []event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.events[:len(f.events):len(f.events)]
}

// await waits until ok holds for the events from position from on.
func (f *feed) await(t tester, what string, from int, limit time.Duration, ok func(events []event) bool) {
	t.Helper()
	timeout := time.After(limit)
	for {
		f.mu.Lock()
		events, changed := f.events, f.changed
		f.mu.Unlock()
		if len(events) >= from && ok(events[from:]) {
			return
		}
		select {
		case <-changed:
		case <-f.done:
			t.Fatalf("the feed ended with %v while waiting for %s; seen: %v", f.err, what, events)
		case <-timeout:
			t.Fatalf("not within %s: %s; seen: %v", limit, what, events)
		}
	}
}

func has(kind string) func(events []event) bool {
	return func(events []event) bool {
		for _, ev := range events {
			if ev.kind == kind {
				return true
			}
		}
		return false
	}
}

// lostThenConfirmed is what follows a broken connection.
func lostThenConfirmed(events []event) bool {
	lost := false
	for _, ev := range events {
		switch ev.kind {
		case "lost":
			lost = true
		case "confirmed":
			if lost {
				return true
			}
		}
	}
	return false
}

// wantFirst checks that the first call back is about the state of the feed.
func (f *feed) wantFirst(t tester) {
	t.Helper()
	if ev := f.seen()[0]; ev.kind != "confirmed" && ev.kind != "lost" {
		t.Errorf("the first callback is %v, want confirmed or lost", ev)
	}
}

// wantReasons checks that every loss carries one.
func (f *feed) wantReasons(t tester) {
	t.Helper()
	for _, ev := range f.seen() {
		if ev.kind == "lost" && ev.err == nil {
			t.Errorf("OnLost without a reason")
		}
	}
}

// wantEnded waits for the end and checks its error.
func (f *feed) wantEnded(t tester, want error) {
	t.Helper()
	select {
	case <-f.done:
		if !errors.Is(f.err, want) {
			t.Errorf("the feed ended with %v, want %v", f.err, want)
		}
	case <-time.After(budget):
		t.Errorf("the feed does not end")
	}
}

// subscribe starts a subscription and waits for its confirmation.
func (e *env) subscribe(t tester, d driver.Driver, sharded bool, channels ...string) *feed {
	t.Helper()
	f := e.subscribing(t, d, sharded, channels...)
	f.await(t, "confirmation", 0, budget, has("confirmed"))
	return f
}

func (e *env) subscribing(t tester, d driver.Driver, sharded bool, channels ...string) *feed {
	t.Helper()
	s := e.subscriber(t, d)
	return startFeed(t, func(ctx context.Context, f *feed) error {
		return s.Subscribe(ctx, driver.Subscription{
			Channels: channels, Sharded: sharded,
			OnMessage:   func(channel, payload string) { f.note(event{kind: "message", channel: channel, payload: payload}) },
			OnConfirmed: func() { f.note(event{kind: "confirmed"}) },
			OnLost:      func(reason error) { f.note(event{kind: "lost", err: reason}) },
		})
	})
}

func (e *env) subscriber(t tester, d driver.Driver) driver.Subscriber {
	t.Helper()
	s, ok := d.(driver.Subscriber)
	if !ok {
		t.Skipf("the driver is no Subscriber")
	}
	return s
}

// track starts tracking and waits for its confirmation.
func (e *env) track(t tester, d driver.Driver, prefixes ...string) *feed {
	t.Helper()
	f := e.tracking(t, d, prefixes...)
	f.await(t, "confirmation", 0, budget, has("confirmed"))
	return f
}

func (e *env) tracking(t tester, d driver.Driver, prefixes ...string) *feed {
	t.Helper()
	tr := e.tracker(t, d)
	return startFeed(t, func(ctx context.Context, f *feed) error {
		return tr.Track(ctx, driver.Tracking{
			Prefixes: prefixes,
			OnInvalidate: func(keys []string) {
				if keys == nil {
					f.note(event{kind: "everything"})
					return
				}
				f.note(event{kind: "keys", keys: keys})
			},
			OnConfirmed: func() { f.note(event{kind: "confirmed"}) },
			OnLost:      func(reason error) { f.note(event{kind: "lost", err: reason}) },
		})
	})
}

func (e *env) tracker(t tester, d driver.Driver) driver.Tracker {
	t.Helper()
	if e.cfg.Features.NoTracking {
		t.Skipf("the server has no CLIENT TRACKING")
	}
	tr, ok := d.(driver.Tracker)
	if !ok {
		t.Skipf("the driver is no Tracker")
	}
	return tr
}
