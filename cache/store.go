package cache

import (
	"context"
	"errors"
	"math"
	mathrand "math/rand/v2"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// store puts the value of a load into both tiers, unless it was invalidated meanwhile.
func (c *Cache[K, V]) store(f *flight[K, V]) {
	h, ok := c.prepared(f)
	if !ok {
		c.abandon(f)     // whoever comes now loads anew
		_ = c.release(f) // or it ends by itself
		return
	}
	if f.token != "" && c.doubtful(f) {
		c.doubted(f, h)
		return
	}
	if f.token == "" || c.pending(f.t.keys.v) { // what Redis got now would soon be deleted
		_ = c.release(f) // or it ends by itself
		c.storeLocal(f, h)
		return
	}
	ctx, cancel := c.background()
	defer cancel()
	body, d, err := c.sealed(ctx, f, h)
	if err != nil {
		c.notFilled(err)
		_ = c.release(f) // or it ends by itself
		if errors.Is(err, errVersions) {
			c.storeLocal(f, h)
		}
		return
	}
	start := c.clock.now()
	sampled := c.feed != nil && c.feed.expect(f.t.keys.v)
	r := c.client.Do(ctx, c.fillCmd(f, body, h))
	stored := c.filled(ctx, f, h, d, len(body), start, r)
	if sampled {
		c.feed.wrote(f.t.keys.v, stored)
	}
}

// doubtful reports whether invalidations may have been missed since a load began. Then not even its lease tells whether its
// value is the current one: a failover may have lost a deletion and brought the lease back.
func (c *Cache[K, V]) doubtful(f *flight[K, V]) bool {
	return c.feed != nil && trusted(f.word) && c.word.Load() != f.word
}

// doubted does not store a value, but for this process if Redis is away.
func (c *Cache[K, V]) doubted(f *flight[K, V], h *header) {
	if err := c.release(f); err != nil && errors.Is(err, core.ErrUnavailable) {
		c.storeLocal(f, h)
		return
	}
	c.stat.add(statFillsRejected)
}

func (c *Cache[K, V]) fillCmd(f *flight[K, V], body string, h *header) driver.Cmd {
	channel, payload := c.wakeUp(&f.t)
	return fillScript.Cmd([]string{f.t.keys.v, f.t.keys.l(), f.t.keys.w()},
		[]string{f.token, body, millis(c.hardOf(h)), channel, payload})
}

// filled takes the reply to a fill, and reports whether the value is in Redis.
func (c *Cache[K, V]) filled(ctx context.Context, f *flight[K, V], h *header, d *deps, size int, start int64, r driver.Reply) bool {
	n, stamp, err := stamped(r)
	switch {
	case err != nil:
		c.notFilled(err)
		_ = c.release(f) // or it ends by itself
		c.storeLocal(f, h)
		return false
	case n == 0:
		c.stat.add(statFillsRejected)
		c.emit("fill", "rejected", 1)
		return false
	}
	c.learn(f.t.keys.v, stamp, start)
	c.stat.add(statFills)
	c.emit("value_bytes", "stored", float64(size))
	if list, _ := r.List(); len(list) == 3 {
		if waiters, _ := list[2].Int64(); waiters == 1 && (c.feed != nil && !c.feed.inline()) {
			c.wakeOthers(ctx, &f.t)
		}
	}
	e := c.loadedEntry(f, h, d)
	e.stamp, e.weight = stamp, weightOf(size)
	c.keep(&f.t, e, f.epoch, f.word)
	return true
}

func (c *Cache[K, V]) notFilled(err error) {
	c.stat.add(statFillsFailed)
	c.emit("fill", "failed", 1)
	if c.client == nil || errors.Is(err, core.ErrUnavailable) {
		return
	}
	// Once a second: a Redis out of memory refuses everything, and the counters tell how much.
	if now, last := c.clock.now(), c.warned.Load(); (last == 0 || now-last >= int64(time.Second)) && c.warned.CompareAndSwap(last, now) {
		c.client.Logger().Warn("cache: a loaded value was not stored", "cache", c.name, "error", err)
	}
}

// prepared decides how a result is kept; ok is false if it is not.
func (c *Cache[K, V]) prepared(f *flight[K, V]) (*header, bool) {
	negative := errors.Is(f.err, ErrNotFound)
	if f.l == nil || f.l.noStore || f.err != nil && !negative || f.killed.Load() {
		if f.killed.Load() {
			c.stat.add(statFillsRejected)
		}
		return nil, false
	}
	h := &header{negative: negative, etag: f.l.etag, load: f.took}
	switch {
	case f.l.ttl > 0:
		h.soft = f.l.ttl
	case negative:
		h.soft = c.cfg.negative
	default:
		h.soft = c.jittered(c.cfg.ttl)
	}
	if h.soft <= 0 {
		return nil, false
	}
	if !negative {
		h.refresh = c.early(h.soft, f.took)
	}
	return h, true
}

func (c *engine[K, V]) jittered(ttl time.Duration) time.Duration {
	if c.cfg.jitter == 0 {
		return ttl
	}
	return max(time.Millisecond, ttl-time.Duration(mathrand.Float64()*c.cfg.jitter*float64(ttl)))
}

// early draws the moment of the early refresh: XFetch's decision of every read, made once (the distribution is the same).
func (c *engine[K, V]) early(soft, took time.Duration) time.Duration {
	if c.cfg.beta == 0 {
		return 0
	}
	before := c.cfg.beta * float64(took) * -math.Log(1-mathrand.Float64())
	if at := soft - time.Duration(min(before, float64(soft))); at < soft {
		return max(at, time.Microsecond) // at once, if loading takes about as long as the value is fresh
	}
	return 0
}

// sealed returns the bytes of a result, under the versions of the start of its load. It is an error if they cannot be had, or
// if one may have changed since.
func (c *Cache[K, V]) sealed(ctx context.Context, f *flight[K, V], h *header) (string, *deps, error) {
	if !f.ok {
		return "", nil, errVersions
	}
	d := &deps{tags: f.deps.tags}
	h.gens.n = copy(h.gens.v[:], f.gens)
	for i, s := range c.scope.gens {
		d.list = append(d.list, dep{s, f.gens[i]})
	}
	if len(d.tags) > 0 {
		versions, err := c.versionsAtStart(ctx, f, c.hardOf(h))
		if err != nil {
			return "", nil, err
		}
		for i, tag := range d.tags {
			d.list = append(d.list, dep{c.tag(tag), versions[i]})
			h.tags = append(h.tags, tagVersion{tag, versions[i]})
		}
	}
	// The generations have to live as long as the value.
	for _, s := range c.scope.gens {
		if !s.covers(c.hub, c.hardOf(h)) {
			if _, err := c.resolve(ctx, []*tagState{s}, c.word.Load(), c.hardOf(h)); err != nil {
				return "", nil, err
			}
		}
	}
	body, err := c.bytes.encode(f.t.keys.v, h, f.v)
	return body, d, err
}

var (
	errVersions = errors.New("redisx: cache: the versions of tags could not be read")
	errBumped   = errors.New("redisx: cache: a tag was invalidated during the load")
)

// versionsAtStart returns the versions that a flight's tags had when it began. Those that were not known then are read now,
// and are right if no tag at all was invalidated in between.
func (c *Cache[K, V]) versionsAtStart(ctx context.Context, f *flight[K, V], hard time.Duration) ([]uint64, error) {
	out := make([]uint64, len(f.deps.tags))
	var unknown []*tagState
	var at []int
	for i, tag := range f.deps.tags {
		s := c.tag(tag)
		if s.bumpedBetween(f.moment, math.MaxUint64) {
			return nil, errBumped
		}
		v, ok := s.knownSince(c.hub, f.word, f.moment)
		if out[i] = v; !ok || !s.covers(c.hub, hard) {
			unknown, at = append(unknown, s), append(at, i)
		}
	}
	if len(unknown) == 0 {
		return out, nil
	}
	versions, err := c.readVersions(ctx, unknown, hard)
	if err != nil {
		return nil, err
	}
	doubt := false
	for n, i := range at {
		_, ok := unknown[n].knownSince(c.hub, f.word, f.moment)
		if ok && out[i] != versions[n] {
			return nil, errBumped
		}
		doubt = doubt || !ok
		out[i] = versions[n]
	}
	if doubt { // after the others: whoever invalidates a tag counts first
		bumps, err := c.readVersions(ctx, []*tagState{c.scope.bumps}, hard)
		if err != nil {
			return nil, err
		}
		if bumps[0] != f.bumps {
			return nil, errBumped
		}
	}
	return out, nil
}

// readVersions asks Redis, whatever is known.
func (c *Cache[K, V]) readVersions(ctx context.Context, states []*tagState, hard time.Duration) ([]uint64, error) {
	word := c.word.Load()
	ttl := tagTTL(max(hard, c.cfg.hard(c.cfg.ttl)))
	cmds, epochs := make([]driver.Cmd, len(states)), make([]uint64, len(states))
	for i, s := range states {
		cmds[i], epochs[i] = versionCmd(s.name, ttl), s.epochNow()
	}
	until := c.clock.now() + int64(ttl/2)
	out := make([]uint64, len(states))
	for i, r := range c.client.DoMulti(ctx, cmds) {
		v, err := versionOf(r)
		if err != nil {
			return nil, err
		}
		out[i] = states[i].read(c.hub, v, epochs[i], word, until)
	}
	return out, nil
}

// loadedEntry makes an entry of what a flight loaded.
func (c *Cache[K, V]) loadedEntry(f *flight[K, V], h *header, d *deps) *entry[V] {
	now := c.clock.now()
	e := c.entryOf(h, now, now)
	e.value, e.deps = f.v, c.shared(d)
	c.finish(e, h.etag, f.t.hash)
	return e
}

// storeLocal keeps a value that Redis does not have: without Redis, or while it is unavailable.
func (c *Cache[K, V]) storeLocal(f *flight[K, V], h *header) {
	if !c.localOn() {
		return
	}
	d := &deps{list: append([]dep(nil), f.deps.list...), tags: f.deps.tags}
	for i := range d.list {
		p := &d.list[i]
		now := p.state.standIn(c.hub) // before it is checked: what comes later makes it another
		if p.changedSince(f.moment) {
			return
		}
		if p.ver == 0 {
			p.ver = now
		}
	}
	e := c.loadedEntry(f, h, d)
	e.weight = weightOf(0)
	if c.cfg.localBytes > 0 {
		e.weight = c.sizeOf(f.t.keys.v, h, f.v)
	}
	word := f.word
	if c.client != nil && c.feed != nil {
		if now := c.word.Load(); !trusted(now) {
			word = now // valid until the subscription stands again
		} else if now != word {
			return
		} else {
			for _, p := range d.list {
				if v, ok := p.state.known(c.hub, word); !ok || v != p.ver {
					return
				}
			}
		}
	}
	c.insert(&f.t, e, f.epoch, word)
}
