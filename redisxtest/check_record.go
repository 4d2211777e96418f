package redisxtest

import (
	"context"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"sync"

	"github.com/go-redisx/redisx/core/driver"
)

// Record returns a driver through which [Observe], [RoundTrips], [CommandCount], [SlotsTouched] and [NoLeaks] see what is
// sent. It changes nothing: it has exactly the optional abilities of d, works with any driver and any server, and keeps
// nothing while nobody observes. It owns d: Close closes it. It is safe for concurrent use.
//
// Put it around everything else (Record(chaos.Wrap(d, script))). What a driver does by itself below it is not seen:
// redirections, a read sent again after a connection broke, a script sent again with its source. See [Fake.Count] for those.
func Record(d driver.Driver) driver.Driver {
	if isNilDriver(d) {
		return nil // core.New says what is wrong
	}
	r := &recording{Driver: d, windows: map[*window]struct{}{}}
	return r.withAbilities()
}

// isNilDriver also finds the nil pointer in an interface that a failed Open leaves if its error is not looked at.
func isNilDriver(d driver.Driver) bool {
	if d == nil {
		return true
	}
	v := reflect.ValueOf(d)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

// recording is a recorded driver without optional abilities.
type recording struct {
	driver.Driver

	mu      sync.Mutex
	windows map[*window]struct{} // of those who observe
	closed  bool
}

// recorded is how the checks find the recording of a client.
type recorded interface{ observed() *recording }

func (r *recording) observed() *recording { return r }

// window is what one observer sees.
type window struct {
	trips int
	seen  []SeenCommand
}

func (r *recording) open() *window {
	w := &window{}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.windows[w] = struct{}{}
	return w
}

// shut ends the window; nothing is added to it any more.
func (r *recording) shut(w *window) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.windows, w)
}

// note adds a call to every window. It is called before the call is made, so that one whose caller has left is seen too.
func (r *recording) note(trips int, cmds ...driver.Cmd) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.windows) == 0 {
		return
	}
	seen := make([]SeenCommand, len(cmds))
	for i := range cmds {
		seen[i] = see(&cmds[i])
	}
	for w := range r.windows {
		w.trips += trips
		w.seen = append(w.seen, seen...)
	}
}

// Do implements driver.Driver.
func (r *recording) Do(ctx context.Context, cmd driver.Cmd) driver.Reply {
	if ctx.Err() == nil && cmd.CheckShared() == nil {
		r.note(1, cmd)
	}
	return r.Driver.Do(ctx, cmd)
}

// DoMulti implements driver.Driver.
func (r *recording) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	invalid := func(c driver.Cmd) bool { return c.CheckShared() != nil }
	if ctx.Err() == nil && len(cmds) > 0 && !slices.ContainsFunc(cmds, invalid) {
		trips := 1
		if driver.SentTogether(ctx) {
			// Each of the callers waits for his own, as if it were sent alone; with how many others it travels is chance.
			trips = len(cmds)
		}
		r.note(trips, cmds...)
	}
	return r.Driver.DoMulti(ctx, cmds)
}

// Close implements driver.Driver.
func (r *recording) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	return r.Driver.Close()
}

func (r *recording) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// The optional abilities of a recording. Subscriptions are followed to know what is open.
type (
	recordedSubscriber struct{ r *recording }
	recordedTracker    struct{ r *recording }
	recordedDedicated  struct{ r *recording }
)

// Subscribe implements driver.Subscriber.
func (s recordedSubscriber) Subscribe(ctx context.Context, sub driver.Subscription) error {
	if s.r.isClosed() {
		return s.r.Driver.(driver.Subscriber).Subscribe(ctx, sub)
	}
	held := s.r.hold(fmt.Sprintf("a subscription to %q", sub.Channels))
	err := s.r.Driver.(driver.Subscriber).Subscribe(ctx, sub)
	s.r.ended(ctx, held)
	return err
}

// Track implements driver.Tracker.
func (s recordedTracker) Track(ctx context.Context, tr driver.Tracking) error {
	if s.r.isClosed() {
		return s.r.Driver.(driver.Tracker).Track(ctx, tr)
	}
	held := s.r.hold(fmt.Sprintf("tracking of %q", tr.Prefixes))
	err := s.r.Driver.(driver.Tracker).Track(ctx, tr)
	s.r.ended(ctx, held)
	return err
}

// Dedicate implements driver.Dedicated.
func (s recordedDedicated) Dedicate(ctx context.Context, key string) (driver.Conn, error) {
	c, err := s.r.Driver.(driver.Dedicated).Dedicate(ctx, key)
	if err != nil {
		return nil, err
	}
	return &recordedConn{Conn: c, r: s.r, held: s.r.hold(fmt.Sprintf("a dedicated connection near key %q", key))}, nil
}

// recordedConn is a recorded driver.Conn.
type recordedConn struct {
	driver.Conn
	r    *recording
	held *holding
}

func (c *recordedConn) Do(ctx context.Context, cmd driver.Cmd) driver.Reply {
	if ctx.Err() == nil && cmd.Check() == nil {
		c.r.note(1, cmd)
	}
	return c.Conn.Do(ctx, cmd)
}

func (c *recordedConn) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	invalid := func(c driver.Cmd) bool { return c.Check() != nil }
	if ctx.Err() == nil && len(cmds) > 0 && !slices.ContainsFunc(cmds, invalid) {
		c.r.note(1, cmds...)
	}
	return c.Conn.DoMulti(ctx, cmds)
}

// Close gives the connection back.
func (c *recordedConn) Close() error {
	holdings.release(c.held)
	return c.Conn.Close()
}

// holding is something open that somebody has to close: a dedicated connection, a subscription.
type holding struct{ what, where string }

// holdings are those of all recordings, for NoLeaks.
var holdings = heldThings{all: map[*holding]struct{}{}}

type heldThings struct {
	mu  sync.Mutex
	all map[*holding]struct{}
}

func (h *heldThings) release(x *holding) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, x)
}

// list returns what is held.
func (h *heldThings) list() map[*holding]struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make(map[*holding]struct{}, len(h.all))
	for x := range h.all {
		all[x] = struct{}{}
	}
	return all
}

// hold notes that something is open, and who called the method above.
func (r *recording) hold(what string) *holding {
	x := &holding{what: what, where: "an unknown place"}
	var pcs [1]uintptr
	if f, _ := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])]).Next(); f.File != "" {
		x.where = fmt.Sprintf("%s:%d", f.File, f.Line)
	}
	holdings.mu.Lock()
	defer holdings.mu.Unlock()
	holdings.all[x] = struct{}{}
	return x
}

// ended is the end of a subscription. One that only Close has ended counts as held: nobody has closed it.
func (r *recording) ended(ctx context.Context, x *holding) {
	if ctx.Err() == nil && r.isClosed() {
		return
	}
	holdings.release(x)
}
