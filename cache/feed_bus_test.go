package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// bus is a server with Pub/Sub and tracking, and nothing else, that tests in bubbles of synctest can break.
type bus struct {
	mu        sync.Mutex
	listeners map[*busListener]bool
	topology  driver.Topology
	commands  map[string]bool
	// sent are the commands that were answered.
	sent []driver.Cmd
	// refuse, if set, decides which commands fail.
	refuse func(driver.Cmd) error
	capErr error
	late   time.Duration // of messages
}

// busListener is one subscription or tracking.
type busListener struct {
	d     *busDriver
	queue chan func()
	lost  func(error)
	conf  func()
	sub   driver.Subscription
	track driver.Tracking
	end   chan error
}

// busDriver is the driver of one process.
type busDriver struct {
	bus *bus
	// drop, if set, decides which messages and invalidations do not arrive here.
	drop  func(what string) bool
	begun int // subscriptions and trackings
}

func newBus() *bus { return &bus{listeners: map[*busListener]bool{}} }

func (b *bus) client(t *testing.T) (*core.Client, *busDriver) {
	d := &busDriver{bus: b}
	c, err := core.New(d, core.WithoutBreaker())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c, d
}

func benchClient(b *testing.B) *core.Client {
	c, err := core.New(&busDriver{bus: newBus()})
	require.NoError(b, err)
	b.Cleanup(func() { _ = c.Close() })
	return c
}

func (b *bus) each(f func(l *busListener)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for l := range b.listeners {
		f(l)
	}
}

// publish delivers a message to all who listen.
func (b *bus) publish(channel, payload string) {
	b.each(func(l *busListener) {
		if len(l.sub.Channels) > 0 && l.sub.Channels[0] == channel && (l.d.drop == nil || !l.d.drop(payload)) {
			deliver := func() { l.queue <- func() { l.sub.OnMessage(channel, payload) } }
			if b.late > 0 { // whoever it is that listens then
				time.AfterFunc(b.late, func() {
					b.each(func(now *busListener) {
						if now.d == l.d {
							now.queue <- func() { now.sub.OnMessage(channel, payload) }
						}
					})
				})
			} else {
				deliver()
			}
		}
	})
}

// invalidate reports keys to all who track.
func (b *bus) invalidate(keys ...string) {
	b.each(func(l *busListener) {
		if l.track.OnInvalidate != nil && (l.d.drop == nil || !l.d.drop(strings.Join(keys, " "))) {
			l.queue <- func() { l.track.OnInvalidate(keys) }
		}
	})
}

// cut ends what a driver listens to for a while, in order with what it was told before.
func (b *bus) cut(d *busDriver, why error) {
	b.each(func(l *busListener) {
		if l.d == d {
			l.queue <- func() { l.lost(why) }
			l.queue <- l.conf
		}
	})
}

func (d *busDriver) Do(_ context.Context, c driver.Cmd) driver.Reply {
	d.bus.mu.Lock()
	refuse := d.bus.refuse
	d.bus.mu.Unlock()
	if refuse != nil {
		if err := refuse(c); err != nil {
			return driver.ErrReply(err)
		}
	}
	if c.Args[0] == "PUBLISH" || c.Args[0] == "SPUBLISH" {
		d.bus.publish(c.Args[1], c.Args[2])
	}
	d.bus.mu.Lock()
	defer d.bus.mu.Unlock()
	d.bus.sent = append(d.bus.sent, c)
	return driver.IntReply(1)
}

func (d *busDriver) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	out := make([]driver.Reply, len(cmds))
	for i, c := range cmds {
		out[i] = d.Do(ctx, c)
	}
	return out
}

func (d *busDriver) Caps(context.Context) (driver.Caps, error) {
	d.bus.mu.Lock()
	defer d.bus.mu.Unlock()
	return driver.Caps{Topology: d.bus.topology, Commands: d.bus.commands}, d.bus.capErr
}
func (d *busDriver) Unwrap() any  { return nil }
func (d *busDriver) Close() error { return nil }

func (d *busDriver) Subscribe(ctx context.Context, s driver.Subscription) error {
	return d.listen(ctx, &busListener{sub: s, lost: s.OnLost, conf: s.OnConfirmed})
}

func (d *busDriver) Track(ctx context.Context, t driver.Tracking) error {
	return d.listen(ctx, &busListener{track: t, lost: t.OnLost, conf: t.OnConfirmed})
}

func (d *busDriver) listen(ctx context.Context, l *busListener) error {
	l.d, l.queue, l.end = d, make(chan func(), 10_000), make(chan error, 1)
	d.bus.mu.Lock()
	d.begun++
	d.bus.listeners[l] = true
	d.bus.mu.Unlock()
	defer func() {
		d.bus.mu.Lock()
		delete(d.bus.listeners, l)
		d.bus.mu.Unlock()
	}()
	l.conf()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-l.end:
			return err
		case f := <-l.queue:
			f()
		}
	}
}

func (b *bus) delay(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.late = d
}

func (d *busDriver) dropping(f func(what string) bool) {
	d.bus.mu.Lock()
	defer d.bus.mu.Unlock()
	d.drop = f
}

func (d *busDriver) began() int {
	d.bus.mu.Lock()
	defer d.bus.mu.Unlock()
	return d.begun
}

// record is a sink that writes down what it is told, and fails the test if calls overlap or trust does not alternate.
type record struct {
	t      testing.TB
	inside sync.Mutex

	mu     sync.Mutex
	events []string
	last   string // confirmed or lost
}

func (r *record) note(event, trust string) {
	if !r.inside.TryLock() {
		r.t.Error("calls of the sink overlap")
	}
	defer r.inside.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if trust != "" {
		if r.last == trust {
			r.t.Errorf("%s twice in a row", trust)
		}
		r.last = trust
	}
	r.events = append(r.events, event)
}

func (r *record) confirmed() { r.note("confirmed", "confirmed") }
func (r *record) lost(reason error) {
	switch {
	case reason == nil:
		r.t.Error("lost without a reason")
	case errors.Is(reason, errMissedMessages):
		r.note("lost: gap", "lost")
	case errors.Is(reason, errNoEcho):
		r.note("lost: echo", "lost")
	default:
		r.note("lost", "lost")
	}
}
func (r *record) changed(name string) { r.note("changed "+strings.Clone(name), "") }
func (r *record) tagChanged(name string, v uint64) {
	r.note(fmt.Sprintf("tag %s %d", name, v), "")
}
func (r *record) everything() { r.note("everything", "") }

// take returns what was noted since the last call.
func (r *record) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

func (r *record) count(event string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e == event {
			n++
		}
	}
	return n
}

func (r *record) trusted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last == "confirmed"
}

// start runs a feed until the test ends, or stop is called.
func start(t testing.TB, f feed) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			assert.ErrorIs(t, err, context.Canceled)
		case <-time.After(10 * time.Second):
			t.Error("run does not end with its ctx")
		}
	})
	t.Cleanup(stop)
	return stop
}
