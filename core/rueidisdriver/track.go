package rueidisdriver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
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
		other, err := d.trackingDriver(ctx, t.OnLost)
		if err != nil {
			return err
		}
		if other == nil {
			return d.ended(ctx)
		}
		defer other.Close()
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

// trackingDriver opens a driver that speaks RESP3, for one Track. It returns neither driver nor error when ctx ended.
func (d *Driver) trackingDriver(ctx context.Context, onLost func(error)) (*Driver, error) {
	var delay backoff
	for {
		client, err := d.tracking(ctx)
		if err == nil {
			other := newDriver(client)
			other.owned = true
			return other, nil
		}
		if d.ended(ctx) != nil {
			return nil, nil
		}
		if onLost != nil {
			onLost(err)
		}
		if !d.pause(ctx, delay.step()) {
			return nil, nil
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
	// covered is true between OnConfirmed and OnLost.
	covered bool
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
		if t.t.OnInvalidate != nil {
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
	t.covered = false
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
	t.covered = true
	if t.t.OnConfirmed != nil {
		t.t.OnConfirmed()
	}
}

// cover keeps one primary covered until ctx ends.
func (t *tracker) cover(ctx context.Context, l *listener, at node) {
	var delay backoff
	for ctx.Err() == nil {
		err := t.coverOnce(ctx, l, at, &delay)
		if ctx.Err() != nil || t.d.closed.Load() {
			return
		}
		t.push(ctx, event{kind: gotLoss, from: l, err: err})
		if !t.d.pause(ctx, delay.step()) {
			return
		}
		if t.d.topology == driver.Sentinel {
			at = t.d.sentinelPrimary()
		}
	}
}

// coverOnce listens on one connection until that is lost, and returns why.
func (t *tracker) coverOnce(ctx context.Context, l *listener, at node, delay *backoff) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opening, stop := context.WithTimeout(ctx, 2*lastDelay)
	defer stop()
	c, err := t.d.acquireAt(opening, at)
	if err != nil {
		return err
	}
	defer c.discard()
	// The client calls the hook with nil for FLUSHALL, and once more with nil when the connection ended. By then it has
	// put the reason into the channel, which therefore nobody else may read.
	var lost atomic.Pointer[<-chan error]
	end := make(chan error, 1)
	invalidated := func(messages []rueidis.RedisMessage) {
		if messages == nil {
			if ch := lost.Load(); ch != nil {
				select {
				case err := <-*ch:
					if err == nil {
						err = errConnClosed
					}
					end <- err
					return
				default:
				}
			}
		}
		t.push(ctx, event{kind: gotKeys, from: l, keys: texts(messages)})
	}
	if _, err = c.listen(opening, func() <-chan error {
		ch := c.wire.SetOnInvalidations(invalidated)
		lost.Store(&ch)
		return ch
	}); err != nil {
		return err
	}
	if err := t.turnOn(opening, c); err != nil {
		return err
	}
	stop()
	delay.reset()
	t.push(ctx, event{kind: gotConfirmation, from: l})
	why := make(chan event, 1)
	t.d.watch(ctx, end, func(e event) { why <- e }, func(ctx context.Context) error { return t.stillPrimary(ctx, c) })
	select {
	case e := <-why:
		return e.err
	default:
		return ctx.Err()
	}
}

// turnOn has the server report changes on a connection.
func (t *tracker) turnOn(ctx context.Context, c *conn) error {
	// With RESP2 the server accepts the command and then reports nothing, without a word.
	hello := c.request(ctx, t.d.builder.Arbitrary("HELLO").Build())
	if err := unanswered(hello.Err()); err != nil {
		return err
	}
	about, _ := hello.Map()
	if proto, _ := about["proto"].Int64(); proto < 3 {
		return &permanentError{errors.New("redisx: tracking needs RESP3, and the client speaks RESP2 to this server")}
	}
	// A client with a cache of its own has tracking on already, in another mode.
	if err := unanswered(c.request(ctx, t.d.builder.Arbitrary("CLIENT", "TRACKING", "OFF").Build()).Err()); err != nil {
		return err
	}
	args := []string{"CLIENT", "TRACKING", "ON", "BCAST"}
	for _, p := range t.t.Prefixes {
		args = append(args, "PREFIX", p)
	}
	return trackingError(c.request(ctx, t.d.builder.Arbitrary(args...).Build()).Err())
}

// stillPrimary asks a connection for the role of its server, which also shows that it still hears.
func (t *tracker) stillPrimary(ctx context.Context, c *conn) error {
	if t.d.topology == driver.Standalone {
		return unanswered(c.request(ctx, t.d.builder.Ping().Build()).Err())
	}
	r := c.request(ctx, t.d.builder.Role().Build())
	if parts, err := r.List(); err == nil && len(parts) > 0 {
		if role, _ := parts[0].Text(); role != "master" {
			return fmt.Errorf("redisx: %s is no primary any more", c.at.name)
		}
	}
	return unanswered(r.Err())
}

// unanswered returns err unless the server answered: a refusal by an ACL is an answer.
func unanswered(err error) error {
	if _, ok := errors.AsType[*driver.ServerError](err); ok {
		return nil
	}
	return err
}

// trackingError tells refusals that stay from those that may pass.
func trackingError(err error) error {
	e, ok := errors.AsType[*driver.ServerError](err)
	if !ok {
		return err
	}
	text := strings.ToLower(e.Error())
	switch {
	case strings.Contains(text, "unknown"):
		return &permanentError{fmt.Errorf("redisx: the server has no CLIENT TRACKING: %w", e)}
	case strings.Contains(text, "overlaps"):
		return &permanentError{fmt.Errorf("redisx: tracking: %w", e)}
	}
	return err
}

func texts(messages []rueidis.RedisMessage) []string {
	if messages == nil {
		return nil
	}
	keys := make([]string, len(messages))
	for i := range messages {
		keys[i], _ = messages[i].ToString()
	}
	return keys
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
	table := d.slots.table.Load()
	nodes := make(map[string]node, len(table.names))
	for i, name := range table.names {
		nodes[name] = d.nodeAt(name, table.keyOf(uint16(i+1)))
	}
	return nodes, nil
}
