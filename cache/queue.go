package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// queue holds the invalidations that Redis could not be told of, the latest for each key. It is bounded: beyond, it keeps
// only that everything has to be cleared.
type queue struct {
	mu      sync.Mutex
	ops     map[string]op
	next    uint64
	running bool
	overran bool // clear is owed, or under way
	kicks   chan struct{}
	hub     *hub
	root    *tagState // what Clear of the whole cache ends
}

type op struct {
	kind  opKind
	name  string
	keys  valueKeys
	state *tagState
	stamp int64 // of opReplay
	least uint64
	id    uint64
}

type opKind uint8

const (
	opDelete opKind = iota + 1
	opExpire
	opBump
	opReplay // opDelete of what was written until the stamp
	opRaise  // bring a version back that a failover may have lost
)

const (
	queueBatch    = 128
	queueInterval = 200 * time.Millisecond
)

// queueable reports whether an invalidation that failed is made up for later.
func (h *hub) queueable(err error) bool {
	if errors.Is(err, core.ErrClosed) {
		return false
	}
	return errors.Is(err, core.ErrUnavailable) || errors.Is(err, core.ErrUnknownOutcome) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func queued(err error) error { return fmt.Errorf("%w: %w", ErrQueued, err) }

// put adds an operation. What is on its way for the same name is done again afterwards.
func (q *queue) put(o op) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if o.kind == opDelete || o.kind == opExpire {
		// Until Redis is told, what it has of the key is not trusted. With the queue locked: an older operation for the key
		// that ends now must not be taken for this one.
		q.hub.bury(o.name, 0, true)
	}
	old, had := q.ops[o.name]
	switch {
	case had && (o.kind == opReplay || o.kind == opRaise):
		return // what waits does more
	case had && o.kind == opBump && old.kind == opBump:
		o.state.settleQueued() // one of the two will do
	case had && o.kind == opExpire && old.kind == opDelete:
		return
	case !had && q.overran && (o.kind == opReplay || o.kind == opRaise):
		return
	case !had && len(q.ops) >= q.hub.cfg.queue && o.state != q.root:
		q.overflow(o)
		return
	}
	q.add(o)
}

func (q *queue) add(o op) {
	if q.ops == nil {
		q.ops = map[string]op{}
	}
	q.next++
	o.id = q.next
	q.ops[o.name] = o
	q.startLocked()
}

// overflow gives up on single keys: everything is cleared when Redis is back. Until then nothing in it is valid.
func (q *queue) overflow(o op) {
	if o.kind == opReplay || o.kind == opRaise {
		return
	}
	// Each time anew: a clear that is on its way may be over in Redis before this.
	q.root.unsettle(q.hub)
	if old := q.ops[q.root.name]; old.kind == opBump {
		q.root.settleQueued()
	}
	q.add(op{kind: opBump, name: q.root.name, state: q.root})
	if !q.overran {
		q.overran = true
		q.hub.stat.add(statQueueOverflow)
		q.hub.emit("queue", "overflow", 1)
	}
	if o.kind == opBump {
		o.state.settle(q.hub, 0, 0)
	} else {
		q.hub.unbury(o.keys.v)
	}
}

func (q *queue) startLocked() {
	if !q.running {
		q.running = q.hub.start(q.drain)
	}
}

// kick has the queue try at once.
func (q *queue) kick() {
	select {
	case q.kicks <- struct{}{}:
	default:
	}
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.ops)
}

// drain works until the queue is empty or the cache is closed.
func (q *queue) drain() {
	for {
		batch := q.take()
		if len(batch) == 0 {
			return
		}
		if q.hub.ctx.Err() != nil {
			q.mu.Lock()
			q.running = false
			q.mu.Unlock()
			return
		}
		if q.hub.perform(q.hub.ctx, batch, q.finish) {
			continue
		}
		timer := time.NewTimer(queueInterval/2 + rand.N(queueInterval))
		select {
		case <-timer.C:
		case <-q.kicks:
		case <-q.hub.ctx.Done():
		}
		timer.Stop()
	}
}

// last tries everything once more and returns how many operations are left.
func (q *queue) last(ctx context.Context) int {
	for {
		q.mu.Lock()
		all := make([]op, 0, len(q.ops))
		for _, o := range q.ops {
			if o.kind != opReplay && o.kind != opRaise { // others do that too
				all = append(all, o)
			}
		}
		q.mu.Unlock()
		if len(all) == 0 || !q.hub.perform(ctx, all, q.finish) {
			return len(all)
		}
	}
}

// take returns some of the operations that wait; with none, drain is over.
func (q *queue) take() []op {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := make([]op, 0, min(len(q.ops), queueBatch))
	for _, o := range q.ops {
		if len(out) == queueBatch {
			break
		}
		out = append(out, o)
	}
	if len(out) == 0 {
		q.running = false
	}
	return out
}

// finish takes an operation out that succeeded at a server time, or never will, unless another one came for the same name.
func (q *queue) finish(o op, stamp int64) (last bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now, ok := q.ops[o.name]
	if !ok || now.id != o.id {
		return false
	}
	delete(q.ops, o.name)
	switch {
	case o.kind == opExpire:
		q.hub.unbury(o.name) // what it marked may be served if a load fails
	case o.kind == opDelete:
		q.hub.delivered(o.name, stamp)
	case o.state == q.root:
		q.overran = false
	}
	return true
}

// perform tries operations and reports whether none has to be tried again.
func (h *hub) perform(ctx context.Context, batch []op, finish func(op, int64) bool) bool {
	all := true
	var values []op
	for _, o := range batch {
		if o.kind == opDelete || o.kind == opExpire || o.kind == opReplay {
			values = append(values, o)
			continue
		}
		version, err := h.sendBumpOf(ctx, o)
		switch {
		case err != nil && h.queueable(err):
			all = false
		case finish(o, 0) && o.kind == opBump:
			if err != nil {
				h.client.Logger().Error("cache: an invalidation was given up", "cache", h.name, "error", err)
			}
			o.state.settle(h, version, int64(tagTTL(h.cfg.hard(h.cfg.ttl))/2))
		}
	}
	if len(values) == 0 {
		return all
	}
	changes := make([]change, len(values))
	for i, o := range values {
		changes[i] = change{keys: o.keys, kind: o.kind, stamp: o.stamp}
	}
	h.apply(ctx, changes)
	for i, o := range values {
		c := &changes[i]
		if c.err != nil && h.queueable(c.err) {
			all = false
			continue
		}
		finish(o, c.stamp)
		if c.err != nil {
			h.client.Logger().Error("cache: an invalidation was given up", "cache", h.name, "error", c.err)
		}
	}
	return all
}

func (h *hub) sendBumpOf(ctx context.Context, o op) (uint64, error) {
	if o.kind == opBump {
		return h.sendBump(ctx, o.state)
	}
	// Raise: only a version that is lower is replaced. Whoever asked the new primary before believes in the lower one.
	args := []string{millis(tagTTL(h.cfg.hard(h.cfg.ttl))), strconv.FormatUint(o.least, 10), "", ""}
	m, inline := h.message(kindTag, o.name)
	if inline {
		args[2], args[3] = h.feed.channel(), m.payload
	}
	version, err := versionOf(h.client.Do(ctx, raiseScript.Cmd([]string{o.name}, args)))
	h.tell(ctx, m, inline, version, err)
	return version, err
}

// replay makes the invalidations of the last seconds again: the connection that broke may have been that to a primary which
// was replaced by a replica that had not heard of them. What was written since is not touched.
func (h *hub) replay() {
	since := h.clock.now() - int64(replayAge)
	if h.tombs.Load() > 0 {
		for i := range h.stripes {
			st := &h.stripes[i]
			st.mu.Lock()
			var again []op
			for name, t := range st.tombs {
				if !t.pending && t.at >= since && t.stamp > 0 {
					again = append(again, op{kind: opReplay, name: name, keys: h.keysOf(name), stamp: t.stamp})
				}
			}
			st.mu.Unlock()
			for _, o := range again {
				h.queue.put(o)
			}
		}
	}
	h.states.Range(func(_, v any) bool {
		s := v.(*tagState)
		s.mu.Lock()
		own, at := s.own, s.ownAt
		s.mu.Unlock()
		if own != 0 && at >= since {
			h.queue.put(op{kind: opRaise, name: s.name, least: own})
		}
		return true
	})
}

// change is a change of one value in Redis.
type change struct {
	keys    valueKeys
	kind    opKind // 0: set
	body    string // of a set
	hard    time.Duration
	stamp   int64 // in: of a replay; out: the server's time
	existed bool
	err     error
}

// cmd returns the command, which publishes by itself unless the channel is "".
func (c *change) cmd(channel, payload string, tracked bool) driver.Cmd {
	keys := append(make([]string, 0, 4), c.keys.v, c.keys.l(), c.keys.w())
	if tracked && (c.kind == opDelete || c.kind == opExpire) {
		keys = append(keys, c.keys.x())
	}
	switch c.kind {
	case opDelete:
		return deleteScript.Cmd(keys, []string{channel, payload})
	case opExpire:
		return expireScript.Cmd(keys, []string{strconv.Itoa(offsetState), string(stateExpired), channel, payload})
	case opReplay:
		stamp := strconv.FormatInt(c.stamp, 10)
		return replayScript.Cmd(keys, []string{stamp, channel, payload})
	}
	return setScript.Cmd(keys, []string{c.body, millis(c.hard), channel, payload})
}

// apply makes changes in Redis, in one round trip per node, and tells the other processes.
func (h *hub) apply(ctx context.Context, changes []change) {
	type sent struct {
		m      message
		inline bool
		sample bool
	}
	told := make([]sent, len(changes))
	cmds := make([]driver.Cmd, len(changes))
	for i := range changes {
		c := &changes[i]
		channel, payload := "", ""
		if h.feed != nil {
			told[i].sample = h.feed.expect(c.keys.v)
			told[i].m = h.feed.message(kindChanged, c.keys.v)
			if told[i].inline = h.feed.inline(); told[i].inline {
				channel, payload = h.feed.channel(), told[i].m.payload
			}
		}
		cmds[i] = c.cmd(channel, payload, h.feed != nil && h.cfg.coherence == Tracking)
	}
	start := h.clock.now()
	var replies []driver.Reply
	if len(cmds) == 1 {
		replies = []driver.Reply{h.client.Do(ctx, cmds[0])}
	} else {
		replies = h.client.DoMulti(ctx, cmds)
	}
	for i := range changes {
		c := &changes[i]
		n, stamp, err := stamped(replies[i])
		c.existed, c.err = n > 0, err
		if err == nil {
			c.stamp = stamp
			h.learn(c.keys.v, stamp, start)
		}
		if h.feed == nil {
			continue
		}
		h.tell(ctx, told[i].m, told[i].inline, 0, err)
		if told[i].sample {
			h.feed.wrote(c.keys.v, err == nil && c.existed)
		}
	}
}

// message takes a message about names, and says whether the script publishes it.
func (h *hub) message(kind messageKind, name string) (m message, inline bool) {
	if h.feed == nil {
		return message{}, false
	}
	m = h.feed.message(kind, name)
	return m, h.feed.inline()
}

// tell ends what message began.
func (h *hub) tell(ctx context.Context, m message, inline bool, version uint64, err error) {
	switch {
	case h.feed == nil:
	case inline:
		h.feed.done(m, err)
	case err != nil && (version == 0 && m.kind == kindTag || errors.Is(err, core.ErrNotSent)):
		h.feed.done(m, err)
	default:
		_ = h.feed.publish(context.WithoutCancel(ctx), m, version) // the feed tries again by itself
	}
}

// stamped reads {n, stamp, …}.
func stamped(r driver.Reply) (n, stamp int64, err error) {
	list, err := r.List()
	if err != nil {
		return 0, 0, err
	}
	if len(list) < 2 {
		return 0, 0, errUnexpected
	}
	if n, err = list[0].Int64(); err != nil {
		return 0, 0, err
	}
	stamp, err = list[1].Int64()
	return n, stamp, err
}

var errUnexpected = errors.New("redisx: cache: unexpected reply of a script")
