package cache

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// trackingFeed is told by the server what changed: CLIENT TRACKING in broadcast mode, on the keyspaces of values and tags.
// There is nothing to publish.
//
// The server does not lose invalidations without breaking the connection, which the driver tells. What neither would notice
// (tracking switched off by an operator or a proxy) shows in own writes that are not reported back.
type trackingFeed struct {
	to       trust
	again    restartable
	counters feedCounters
	tracker  driver.Tracker
	start    time.Time // what the times of echoes are counted from

	values, tags string
	up           atomic.Bool // between confirmed and lost
	watched      atomic.Int32
	echoes       [echoRanges]atomic.Pointer[echo]
}

// echoRanges is how many own writes are watched at once: one in each range of slots, so that every node of a Cluster has some.
const echoRanges = 16

// echo is an own write that is watched.
type echo struct {
	name  string
	begun int64 // in ns since start
	// due is when it must have been reported, in ns since start; 0 until the write was acknowledged.
	due  atomic.Int64
	seen atomic.Bool
}

var errNoTracker = errors.New("redisx: cache: the driver cannot track keys (driver.Tracker); choose another coherence")

// newTrackingFeed returns a feed on the keys that begin with values or tags, of which neither is a prefix of the other.
func newTrackingFeed(client *core.Client, values, tags string, s sink) (feed, error) {
	t, ok := client.Driver().(driver.Tracker)
	if !ok {
		return nil, errNoTracker
	}
	f := &trackingFeed{tracker: t, values: values, tags: tags, start: time.Now()}
	f.to = trust{engine: s, counters: &f.counters}
	return f, nil
}

func (f *trackingFeed) run(ctx context.Context) error {
	var watcher sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	watcher.Go(func() { every(ctx, watchEvery, f.watch) })
	defer watcher.Wait()
	defer cancel()
	return f.again.run(ctx, func(ctx context.Context) error {
		return f.tracker.Track(ctx, driver.Tracking{
			Prefixes:     []string{f.values, f.tags},
			OnInvalidate: f.invalidated, OnConfirmed: f.covered, OnLost: f.uncovered,
		})
	}, f.uncovered)
}

func (f *trackingFeed) covered() {
	f.to.locked(func() {
		f.forget()
		f.to.confirm()
	})
	f.up.Store(true)
}

func (f *trackingFeed) uncovered(reason error) {
	f.up.Store(false)
	f.to.locked(func() {
		f.forget() // what was written meanwhile may never be reported
		f.to.lose(reason)
	})
}

// invalidated is the hot path: a busy fleet has 100 000 names a second here.
func (f *trackingFeed) invalidated(keys []string) {
	f.to.mu.Lock()
	defer f.to.mu.Unlock()
	if keys == nil {
		f.seenAll()
		f.to.engine.everything()
		return
	}
	f.counters.received.Add(uint64(len(keys)))
	watched := f.watched.Load() > 0
	for _, key := range keys {
		if watched {
			f.heard(key)
		}
		if strings.HasPrefix(key, f.tags) {
			f.to.engine.tagChanged(key, 0)
		} else {
			f.to.engine.changed(key)
		}
	}
}

func (f *trackingFeed) heard(key string) {
	for i := range f.echoes {
		if e := f.echoes[i].Load(); e != nil && e.name == key && e.seen.CompareAndSwap(false, true) {
			f.watched.Add(-1)
			f.counters.lag.Store(f.now() - e.begun)
		}
	}
}

func (f *trackingFeed) seenAll() {
	for i := range f.echoes {
		if e := f.echoes[i].Load(); e != nil && e.seen.CompareAndSwap(false, true) {
			f.watched.Add(-1)
		}
	}
}

// forget gives up on all that is watched.
func (f *trackingFeed) forget() {
	for i := range f.echoes {
		f.drop(i, f.echoes[i].Load())
	}
}

// drop makes room for another write to be watched.
func (f *trackingFeed) drop(i int, e *echo) {
	if e != nil && f.echoes[i].CompareAndSwap(e, nil) && e.seen.CompareAndSwap(false, true) {
		f.watched.Add(-1)
	}
}

func place(name string) int { return int(driver.Slot(name)) * echoRanges / driver.Slots }

// expect takes a write if none is watched there. One that was seen stays in its place until the next look at the watch, so
// that a busy cache watches a few writes a second and not each.
func (f *trackingFeed) expect(name string) bool {
	if !f.up.Load() {
		return false
	}
	i := place(name)
	if f.echoes[i].Load() != nil {
		return false
	}
	f.watched.Add(1) // before it can be seen
	if !f.echoes[i].CompareAndSwap(nil, &echo{name: name, begun: f.now()}) {
		f.watched.Add(-1)
		return false
	}
	return true
}

func (f *trackingFeed) wrote(name string, changed bool) {
	i := place(name)
	e := f.echoes[i].Load()
	switch {
	case e == nil || e.name != name: // given up on
	case !changed:
		f.drop(i, e)
	default:
		e.due.CompareAndSwap(0, f.now()+int64(echoWithin))
	}
}

// watch looks for writes that were not reported back in time.
func (f *trackingFeed) watch() {
	now := f.now()
	for i := range f.echoes {
		e := f.echoes[i].Load()
		if e == nil {
			continue
		}
		due := e.due.Load()
		switch {
		case due == 0:
			if now > e.begun+int64(outcomeWithin) {
				f.drop(i, e)
			}
		case e.seen.Load():
			f.drop(i, e)
		case now > due:
			f.counters.gaps.Add(1)
			f.to.locked(func() { f.to.lose(errNoEcho) })
			f.again.restart(errNoEcho)
			return
		}
	}
}

func (f *trackingFeed) now() int64 { return int64(time.Since(f.start)) }

func (f *trackingFeed) stats() feedStats { return f.counters.stats() }

// The server tells everybody, so that there is nothing to publish.

func (f *trackingFeed) message(messageKind, ...string) message         { return message{} }
func (f *trackingFeed) wake(string) message                            { return message{} }
func (f *trackingFeed) inline() bool                                   { return false }
func (f *trackingFeed) channel() string                                { return "" }
func (f *trackingFeed) publish(context.Context, message, uint64) error { return nil }
func (f *trackingFeed) done(message, error)                            {}
