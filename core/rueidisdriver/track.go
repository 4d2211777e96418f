package rueidisdriver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// topologyEvery is how often the primaries are compared with those that are covered.
const topologyEvery = time.Second

// Track implements [driver.Tracker]. Callbacks run on the goroutine of the caller. It needs RESP3 on the connections it
// opens, and opens such connections by itself if the URL said protocol=2; a client given to New with AlwaysRESP2 cannot
// track, which is an error.
func (d *Driver) Track(ctx context.Context, t driver.Tracking) error {
	if d.over() {
		return driver.ErrClosed
	}
	if err := checkPrefixes(t.Prefixes); err != nil {
		return err
	}
	via := d
	if d.tracking != nil {
		other := d.trackingDriver(ctx, t.OnLost)
		if other == nil {
			return d.ended(ctx)
		}
		defer func() { _ = other.Close() }()
		via = other
	}
	tr := &tracker{d: via, t: t, events: make(chan event, backlog), nodes: map[string]*listener{}}
	run, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(d.ctx, cancel)
	err := tr.run(run)
	stop()
	cancel()
	for _, l := range tr.nodes {
		l.stop()
	}
	if ended := d.ended(ctx); ended != nil {
		return ended
	}
	return err
}

// trackingDriver opens a driver that speaks RESP3, for one Track. It returns nil when ctx or the driver ended.
func (d *Driver) trackingDriver(ctx context.Context, onLost func(error)) *Driver {
	var delay backoff
	for {
		other, err := d.tracking(ctx)
		if err == nil {
			return other
		}
		if d.ended(ctx) != nil {
			return nil
		}
		if onLost != nil {
			onLost(err)
		}
		if !d.pause(ctx, delay.step()) {
			return nil
		}
	}
}

func checkPrefixes(prefixes []string) error {
	if len(prefixes) == 0 {
		return errors.New("redisx: tracking without prefixes; at least one is needed, \"\" for all keys")
	}
	for i, a := range prefixes {
		for j, b := range prefixes {
			if i != j && strings.HasPrefix(b, a) {
				return fmt.Errorf("redisx: tracking: prefix %q is a prefix of %q; the server refuses that", a, b)
			}
		}
	}
	return nil
}

// tracker is one call of Track.
type tracker struct {
	d      *Driver
	t      driver.Tracking
	events chan event
	// nodes are the primaries to cover, by name.
	nodes map[string]*listener
	// covered is true between OnConfirmed and OnLost; told from the first of either on.
	covered, told bool
}

// listener covers one primary: it connects, and connects again.
type listener struct {
	name      string
	stop      context.CancelFunc
	confirmed bool
}

func (t *tracker) run(ctx context.Context) error {
	tick := time.NewTicker(topologyEvery)
	defer tick.Stop()
	look := make(chan map[string]node, 1)
	t.look(ctx, look)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			t.look(ctx, look)
		case nodes := <-look:
			t.adjust(ctx, nodes)
		case e := <-t.events:
			if err := t.handle(e); err != nil {
				return err
			}
		}
	}
}

// look finds the primaries, away from the goroutine that runs the callbacks.
func (t *tracker) look(ctx context.Context, found chan map[string]node) {
	t.d.run(func() {
		ctx, cancel := context.WithTimeout(ctx, lookWithin)
		defer cancel()
		nodes, err := t.d.primaries(ctx)
		if err != nil {
			if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
				t.push(ctx, event{kind: gotLoss, err: err})
			}
			return
		}
		select {
		case found <- nodes:
		default: // the one before has not been read yet
		}
	})
}

// push hands an event over, unless ctx ends first or nobody reads any more.
func (t *tracker) push(ctx context.Context, e event) {
	select {
	case t.events <- e:
	case <-ctx.Done():
		select {
		case t.events <- e:
		default:
		}
	}
}

// adjust starts to cover the primaries that are new and stops with those that are none any more.
func (t *tracker) adjust(ctx context.Context, nodes map[string]node) {
	for name, l := range t.nodes {
		if _, ok := nodes[name]; !ok {
			l.stop()
			delete(t.nodes, name)
		}
	}
	for name, at := range nodes {
		if t.nodes[name] != nil {
			continue
		}
		if t.covered {
			t.lost(fmt.Errorf("redisx: %s became a primary", name))
		}
		ctx, cancel := context.WithCancel(ctx)
		l := &listener{name: name, stop: cancel}
		t.nodes[name] = l
		t.d.run(func() { t.cover(ctx, l, at) })
	}
	t.confirm()
}

// handle runs the callback for an event. Its error ends the tracking for good.
func (t *tracker) handle(e event) error {
	if e.from != nil && t.nodes[e.from.name] != e.from {
		return nil // of a node that is no primary any more
	}
	switch e.kind {
	case gotKeys:
		if t.told && t.t.OnInvalidate != nil { // before that nobody may rely on anything yet
			t.t.OnInvalidate(e.keys)
		}
	case gotConfirmation:
		e.from.confirmed = true
		t.confirm()
	case gotLoss:
		if p, ok := errors.AsType[*permanentError](e.err); ok {
			return p.err
		}
		if e.from != nil {
			e.from.confirmed = false
			t.lost(e.err)
		} else if !t.covered || len(t.nodes) == 0 {
			t.lost(e.err) // No primary was found. Those that are covered report for themselves.
		}
	}
	return nil
}

func (t *tracker) lost(err error) {
	t.covered, t.told = false, true
	if t.t.OnLost != nil {
		t.t.OnLost(err)
	}
}

// confirm reports that every primary confirmed, if so.
func (t *tracker) confirm() {
	if t.covered || len(t.nodes) == 0 {
		return
	}
	for _, l := range t.nodes {
		if !l.confirmed {
			return
		}
	}
	t.covered, t.told = true, true
	if t.t.OnConfirmed != nil {
		t.t.OnConfirmed()
	}
}

// primaries returns the primaries by name.
func (d *Driver) primaries(ctx context.Context) (map[string]node, error) {
	switch d.topology {
	case driver.Standalone:
		return map[string]node{"server": {name: "server", client: d.client, shared: d.client}}, nil
	case driver.Sentinel:
		at := d.sentinelPrimary()
		return map[string]node{"primary " + at.name: at}, nil
	}
	if err := d.look(ctx); err != nil {
		return nil, err
	}
	return d.clusterPrimaries(), nil
}

// clusterPrimaries returns the primaries that the slot map names.
func (d *Driver) clusterPrimaries() map[string]node {
	table := d.slots.table.Load()
	if table == nil {
		return nil
	}
	nodes := make(map[string]node, len(table.names))
	for i, name := range table.names {
		if key := table.keyOf(uint16(i + 1)); key != "" {
			nodes[name] = d.nodeAt(name, key)
		}
	}
	return nodes
}
