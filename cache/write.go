package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core"
)

// Set stores a value in both tiers, and has the processes drop what they hold of the key. A load of the key that is under way
// will not replace it. A nil error means that it is in Redis.
//
// If Redis is unavailable this process serves the value from its local tier, and the old one is deleted from Redis when it is
// back: the error is [ErrQueued]. [ErrTooLarge], and errors of the codec, change nothing.
func (c *Cache[K, V]) Set(ctx context.Context, key K, value V, opts ...EntryOption) error {
	return c.SetMany(ctx, map[K]V{key: value}, opts...)
}

// SetMany is Set for several values, with the same options, in one round trip per node. It is not atomic. What failed is
// listed in a *[BatchError]; for a single key the error is returned as it is.
func (c *Cache[K, V]) SetMany(ctx context.Context, values map[K]V, opts ...EntryOption) error {
	if len(values) == 0 {
		return nil
	}
	cfg := entryConfig{}
	for _, o := range opts {
		if o != nil {
			o.applyEntry(&cfg)
		}
	}
	tags, err := checkTags(cfg.tags)
	err = errors.Join(err, checkETag(cfg.etag))
	if cfg.ttl < 0 || cfg.ttl > maxDuration || cfg.ttl > 0 && cfg.ttl < time.Millisecond {
		err = errors.Join(err, fmt.Errorf("redisx: cache: time to live is %v; want 1ms to 10 years", cfg.ttl))
	}
	if err != nil {
		return err
	}
	ctx, end := c.operation(ctx, "set")
	errs := c.setAll(ctx, values, tags, &cfg)
	err = batchError(errs, len(values))
	end(err)
	return err
}

// batchError makes an error of what failed of n.
func batchError[K comparable](errs map[K]error, n int) error {
	if len(errs) == 0 {
		return nil
	}
	if n == 1 {
		for _, err := range errs {
			return err
		}
	}
	return &BatchError[K]{Errors: errs}
}

func (c *Cache[K, V]) operation(ctx context.Context, verb string) (context.Context, func(error)) {
	if c.client == nil || !c.client.Hooked() {
		return ctx, func(error) {}
	}
	ctx, span := c.client.StartOperation(ctx, &core.Operation{Plugin: "cache", Verb: verb, Name: c.name})
	return ctx, func(err error) {
		outcome := "ok"
		if err != nil {
			outcome = outcomeError
		}
		span.End(ctx, outcome, err)
	}
}

// setting is one value of setAll.
type setting[K comparable, V any] struct {
	t     target[K]
	e     *entry[V]
	epoch uint64
}

func (c *Cache[K, V]) setAll(ctx context.Context, values map[K]V, tags []string, cfg *entryConfig) map[K]error {
	errs := map[K]error{}
	states := append([]*tagState(nil), c.scope.gens...)
	for _, tag := range tags {
		states = append(states, c.tag(tag))
	}
	word := c.word.Load()
	hard := c.cfg.hard(max(cfg.ttl, c.cfg.ttl))
	var versions []uint64
	var unread error
	if c.remoteOn() {
		versions, unread = c.resolve(ctx, states, word, hard)
	}
	d := &deps{tags: tags}
	for i, s := range states {
		var v uint64
		if versions != nil {
			v = versions[i]
		} else {
			v = s.standIn(c.hub)
		}
		d.list = append(d.list, dep{s, v})
	}
	var settings []setting[K, V]
	var changes []change
	for key, value := range values {
		t, err := c.target(key)
		if err != nil {
			errs[key] = err
			continue
		}
		h := header{soft: cfg.ttl, etag: cfg.etag}
		if h.soft == 0 {
			h.soft = c.jittered(c.cfg.ttl)
		}
		var body string
		if c.bytes != nil {
			h.gens.n = copy(h.gens.v[:], versions[:min(len(versions), len(c.scope.gens))])
			for i, tag := range tags {
				h.tags = append(h.tags, tagVersion{tag, d.list[len(c.scope.gens)+i].ver})
			}
			if body, err = c.bytes.encode(t.keys.v, &h, value); err != nil {
				errs[key] = err
				continue
			}
		}
		now := c.clock.now()
		e := c.entryOf(&h, now, now)
		e.value, e.deps, e.weight = value, c.shared(d), weightOf(len(body))
		c.finish(e, cfg.etag, t.hash)
		c.invalidate(t.keys.v)
		settings = append(settings, setting[K, V]{t: t, e: e, epoch: t.st.epoch.Load()})
		changes = append(changes, change{keys: t.keys, body: body, hard: c.hardOf(&h)})
	}
	if len(settings) == 0 {
		return errs
	}
	if c.remoteOn() {
		if unread == nil {
			c.apply(ctx, changes)
		} else {
			for i := range changes {
				changes[i].err = unread
			}
		}
	}
	for i := range settings {
		s, ch := &settings[i], &changes[i]
		if c.remoteOn() {
			if ch.err != nil {
				errs[s.t.key.key] = c.undo(ch)
				if !errors.Is(errs[s.t.key.key], ErrQueued) {
					continue
				}
			} else {
				c.bury(s.t.keys.v, ch.stamp-1, false)
				s.e.stamp = ch.stamp
			}
		}
		// Once more, as the old value may have been read in between: whoever comes now must neither find it nor wait for it.
		if !c.supersede(s.t.keys.v, s.epoch) || !c.localOn() {
			continue
		}
		w := word
		if now := c.word.Load(); c.feed != nil && !trusted(now) && ch.err != nil {
			w = now // Redis is away: this is what this process serves meanwhile
		} else if c.feed != nil && !trusted(word) {
			continue
		}
		c.insert(&s.t, s.e, s.epoch+1, w)
	}
	return errs
}

// supersede is invalidate at the end of a change. It reports whether nothing else was heard of the key since the epoch, the
// next one of which is current then.
func (h *hub) supersede(name string, epoch uint64) bool {
	st := h.stripe(name)
	alone := st.epoch.CompareAndSwap(epoch, epoch+1)
	if !alone {
		st.epoch.Add(1)
	}
	h.drop(name)
	st.wake(name)
	return alone
}

// undo queues the deletion of what a Set should have replaced, and returns the error of the call.
func (c *engine[K, V]) undo(ch *change) error {
	if !c.queueable(ch.err) {
		return ch.err
	}
	c.enqueue(opDelete, ch.keys)
	return queued(ch.err)
}

// enqueue has Redis told later. Until then what it has of the key is not trusted.
func (h *hub) enqueue(kind opKind, keys valueKeys) {
	h.queue.put(op{kind: kind, name: keys.v, keys: keys})
}

// Delete removes keys from both tiers of all processes. Once it has returned nil no call of this process returns a value that
// was loaded or stored before; other processes follow as their transport allows ([WithCoherence]). A load under way keeps
// nothing. Keys that are not there are no error.
//
// If Redis is unavailable the error is [ErrQueued]: this process already serves nothing of the keys but what it loads anew,
// and Redis is told as soon as it is back.
func (c *Cache[K, V]) Delete(ctx context.Context, keys ...K) error {
	return c.remove(ctx, opDelete, "delete", keys)
}

// DeleteMany is Delete.
func (c *Cache[K, V]) DeleteMany(ctx context.Context, keys []K) error {
	return c.remove(ctx, opDelete, "delete", keys)
}

// Expire makes values stale at once, but keeps them for [WithStaleIfError]: the next call with a loader loads, and gets the
// old value only if that fails. Without that option it is Delete. For the rest it is like Delete.
func (c *Cache[K, V]) Expire(ctx context.Context, keys ...K) error {
	kind := opExpire
	if c.cfg.sie == 0 {
		kind = opDelete
	}
	return c.remove(ctx, kind, "expire", keys)
}

func (c *Cache[K, V]) remove(ctx context.Context, kind opKind, verb string, keys []K) error {
	if len(keys) == 0 {
		return nil
	}
	ctx, end := c.operation(ctx, verb)
	err := batchError(c.removeAll(ctx, kind, keys), len(keys))
	end(err)
	return err
}

func (c *Cache[K, V]) removeAll(ctx context.Context, kind opKind, keys []K) map[K]error {
	var errs map[K]error
	fail := func(key K, err error) {
		if errs == nil {
			errs = map[K]error{}
		}
		errs[key] = err
	}
	changes := make([]change, 0, len(keys))
	which := make([]K, 0, len(keys))
	for _, key := range keys {
		t, err := c.target(key)
		if err != nil {
			fail(key, err)
			continue
		}
		c.stat.add(statInvalidatedKeys)
		if !c.remoteOn() {
			c.forgetLocal(&t, kind)
			continue
		}
		// Before, so that nothing old is served once others are told; and after, as Redis may have been read in between.
		c.invalidate(t.keys.v)
		changes = append(changes, change{keys: t.keys, kind: kind})
		which = append(which, key)
	}
	if len(changes) == 0 {
		return errs
	}
	c.apply(ctx, changes)
	for i := range changes {
		ch := &changes[i]
		switch {
		case ch.err == nil && kind == opDelete:
			c.bury(ch.keys.v, ch.stamp, false)
		case ch.err == nil:
		case c.queueable(ch.err):
			c.enqueue(kind, ch.keys)
			fail(which[i], queued(ch.err))
		default:
			fail(which[i], ch.err)
		}
		c.invalidate(ch.keys.v)
	}
	return errs
}

// forgetLocal is Delete or Expire without Redis.
func (c *Cache[K, V]) forgetLocal(t *target[K], kind opKind) {
	t.st.epoch.Add(1)
	if c.local == nil {
		return
	}
	if kind == opDelete {
		c.local.delete(t.key)
		return
	}
	c.local.compute(t.key, t.hash, func(old *entry[V]) (*entry[V], bool) {
		if old == nil {
			return nil, true
		}
		e := *old
		e.flags |= flagExpired
		e.fresh = 0
		return &e, false
	})
}

// InvalidateTags makes everything invalid that was stored under any of the tags, in all processes, at the same cost whatever
// there is: one command for each tag, and one. Stale uses are covered too. For the rest it is like [Cache.Delete].
func (c *Cache[K, V]) InvalidateTags(ctx context.Context, tags ...string) error {
	tags, err := checkTags(tags)
	if err != nil {
		return err
	}
	if err := c.usable(); err != nil || len(tags) == 0 {
		return err
	}
	ctx, end := c.operation(ctx, "invalidate_tags")
	err = c.invalidateTags(ctx, tags)
	end(err)
	return err
}

func (c *Cache[K, V]) usable() error {
	if c.scope.err != nil {
		return c.scope.err
	}
	if c.isClosed() {
		return ErrClosed
	}
	return nil
}

func (c *Cache[K, V]) invalidateTags(ctx context.Context, tags []string) error {
	c.stat.add(statInvalidatedTags)
	states := make([]*tagState, len(tags))
	for i, tag := range tags {
		states[i] = c.tag(tag)
	}
	if !c.remoteOn() {
		for _, s := range states {
			s.unsettle(c.hub)
			s.settle(c.hub, c.seq.Add(1), 0)
		}
		return nil
	}
	// The count first: a load that meets a tag for the first time sees by it whether a version it reads may be too new.
	err := c.bump(ctx, c.scope.bumps)
	errs := make([]error, len(states)+1)
	errs[len(states)] = err
	if len(states) == 1 {
		errs[0] = c.bump(ctx, states[0])
		return errors.Join(errs...)
	}
	var all sync.WaitGroup
	for i, s := range states { // at once: they travel together
		all.Go(func() { errs[i] = c.bump(ctx, s) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Clear makes everything in the cache invalid, in all processes, with one command, whatever there is: for the whole cache, all
// scopes included, or for one scope. The memory in Redis is freed as the values expire. For the rest it is like
// [Cache.Delete].
func (c *Cache[K, V]) Clear(ctx context.Context) error {
	if err := c.usable(); err != nil {
		return err
	}
	ctx, end := c.operation(ctx, "clear")
	err := c.clear(ctx)
	end(err)
	return err
}

func (c *Cache[K, V]) clear(ctx context.Context) error {
	c.stat.add(statInvalidatedClears)
	s := c.scope.gens[len(c.scope.gens)-1]
	var err error
	if c.remoteOn() {
		err = c.bump(ctx, s)
	} else {
		s.unsettle(c.hub)
		s.settle(c.hub, c.seq.Add(1), 0)
	}
	if c.local != nil && c.scope == c.root {
		c.local.deleteAll()
	}
	return err
}
