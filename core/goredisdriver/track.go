package goredisdriver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

var (
	errNoPrefixes = errors.New("redisx: tracking without prefixes")
	errDemoted    = errors.New("redisx: the server is no primary any more")
	errChanged    = errors.New("redisx: the Cluster has a new primary")
	errNoRESP3    = errors.New("redisx: the server does not speak RESP3, which tracking needs")
)

// Track implements [driver.Tracker]. Each primary has a connection that speaks RESP3, whatever the client speaks, and is
// read on a goroutine of its own; the callbacks run on the goroutine of the caller. An empty prefix is every key.
func (d *Driver) Track(ctx context.Context, t driver.Tracking) error {
	if err := d.refuseTracking(ctx, t); err != nil {
		return err
	}
	inner, cancel := d.both(ctx)
	tr := &tracking{
		Tracking: t, d: d, ctx: inner,
		events: make(chan trackEvent), watchers: map[string]*watcher{},
	}
	defer tr.all.Wait()
	defer cancel()
	tr.begin()
	for {
		select {
		case <-inner.Done():
			return d.ended(ctx)
		case e := <-tr.events:
			if inner.Err() != nil {
				return d.ended(ctx)
			}
			if err := tr.handle(e); err != nil {
				return err
			}
		}
	}
}

func (d *Driver) refuseTracking(ctx context.Context, t driver.Tracking) error {
	if d.closing.Load() {
		return driver.ErrClosed
	}
	if len(t.Prefixes) == 0 {
		return errNoPrefixes
	}
	for i, p := range t.Prefixes {
		for j, q := range t.Prefixes {
			if i != j && strings.HasPrefix(q, p) {
				return fmt.Errorf("redisx: tracking: prefix %q covers %q; none may be a prefix of another", p, q)
			}
		}
	}
	return ctx.Err()
}

// tracking is one call of Track. Everything but events and all belongs to the goroutine of its caller.
type tracking struct {
	driver.Tracking
	d      *Driver
	ctx    context.Context
	events chan trackEvent
	all    sync.WaitGroup

	watchers  map[string]*watcher // by address
	known     bool                // the set of primaries
	confirmed bool
	told      bool // OnConfirmed or OnLost ran
}

// trackEvent is something that happened to a watcher, or, with none, the present set of primaries.
type trackEvent struct {
	from      *watcher
	keys      []string
	all       bool // everything changed
	up        bool
	lost      error
	primaries map[string]*redis.Client
}

// begin starts looking for the primaries: once without a Cluster, again and again with one.
func (t *tracking) begin() {
	if t.d.nodes.cluster != nil {
		t.all.Go(t.survey)
		return
	}
	t.known = true
	t.start(t.d.nodes.single.Options().Addr, t.d.nodes.single)
}

// send delivers an event. It reports false after the end.
func (t *tracking) send(e trackEvent) bool {
	select {
	case t.events <- e:
		return true
	case <-t.ctx.Done():
		return false
	}
}

// survey reports the primaries of a Cluster.
func (t *tracking) survey() {
	for {
		ctx, cancel := context.WithTimeout(t.ctx, handshakeTimeout)
		find := func(ctx context.Context) (map[string]*redis.Client, error) { return t.d.nodes.primaries(ctx) }
		primaries, err := await(ctx, t.d, find, nil)
		cancel()
		if t.ctx.Err() != nil || !t.send(trackEvent{primaries: primaries, lost: err}) {
			return
		}
		timer := time.NewTimer(t.d.tune.verify)
		select {
		case <-timer.C:
		case <-t.ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (t *tracking) start(addr string, node *redis.Client) {
	w := &watcher{t: t, addr: addr, node: node, pause: backoff{tune: t.d.tune}}
	w.ctx, w.cancel = context.WithCancel(t.ctx)
	t.watchers[addr] = w
	t.all.Go(w.run)
}

// handle acts on an event. An error ends the tracking for good.
func (t *tracking) handle(e trackEvent) error {
	switch {
	case e.from == nil:
		t.compare(e.primaries, e.lost)
	case t.watchers[e.from.addr] != e.from:
		// a primary that is none any more
	case e.lost != nil:
		if never(e.lost) || errors.Is(e.lost, errNoRESP3) {
			return e.lost
		}
		e.from.up = false
		t.lose(e.lost)
	case e.up:
		e.from.up = true
		t.confirm()
	case t.told && t.OnInvalidate != nil:
		// Before the first confirmation nothing was promised. While some primary is lost the others still report.
		if e.all {
			t.OnInvalidate(nil)
		} else {
			t.OnInvalidate(e.keys)
		}
	}
	return nil
}

// compare starts and ends watchers as primaries come and go.
func (t *tracking) compare(primaries map[string]*redis.Client, err error) {
	if err == nil && len(primaries) == 0 {
		err = errors.New("redisx: the Cluster has no primaries")
	}
	if err != nil {
		if !t.known { // afterwards each watcher knows for itself
			t.lose(err)
		}
		return
	}
	for addr, w := range t.watchers {
		if primaries[addr] == nil {
			w.cancel()
			delete(t.watchers, addr)
		}
	}
	before := t.known
	t.known = true
	fresh := false
	for addr, node := range primaries {
		if t.watchers[addr] == nil {
			t.start(addr, node)
			fresh = true
		}
	}
	if fresh && before {
		t.lose(errChanged)
	}
	t.confirm()
}

func (t *tracking) lose(reason error) {
	t.confirmed, t.told = false, true
	if t.OnLost != nil {
		t.OnLost(reason)
	}
}

func (t *tracking) confirm() {
	if t.confirmed || !t.known || len(t.watchers) == 0 {
		return
	}
	for _, w := range t.watchers {
		if !w.up {
			return
		}
	}
	t.confirmed, t.told = true, true
	if t.OnConfirmed != nil {
		t.OnConfirmed()
	}
}
