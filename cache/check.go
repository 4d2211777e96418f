package cache

import (
	"context"
	"errors"
	"hash/maphash"
	"math/rand/v2"
)

func loadOutcome(err error) string {
	var p *PanicError
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrNotFound):
		return "not_found"
	case errors.Is(err, ErrLoadTimeout):
		return "timeout"
	case errors.As(err, &p):
		return "panic"
	}
	return outcomeError
}

// checksum is the hash of a value's bytes.
func (e *engine[K, V]) checksum(v V) uint64 {
	data, err := e.plain().payload(nil, v)
	if err != nil {
		return 0
	}
	return maphash.Bytes(hashSeed, data)
}

// finish adds to a new entry what few need.
func (e *engine[K, V]) finish(x *entry[V], etag string, hash uint64) {
	if etag == "" && hash == 0 && e.cfg.mutation == nil && e.cfg.untrustedStale == 0 {
		return
	}
	x.more = &more{etag: etag, hash: hash, at: e.clock.now()}
	if e.cfg.mutation != nil {
		x.more.sum = e.checksum(x.value)
	}
}

// plain encodes values for comparison, also where there is no Redis to encode them for.
func (e *engine[K, V]) plain() *bytesOf[V] {
	if e.bytes != nil {
		return e.bytes
	}
	return &bytesOf[V]{codec: e.cfg.codec, name: e.cfg.codec.Name(), max: maxPayload}
}

// sizeOf is what a value weighs that was not encoded for Redis.
func (e *engine[K, V]) sizeOf(_ string, _ *header, v V) uint32 {
	data, err := e.plain().payload(nil, v)
	if err != nil {
		return weightOf(0)
	}
	return weightOf(len(data))
}

// unchanged reports whether a value still is what was stored. Otherwise a caller changed it: that is told, and it is dropped.
func (c *Cache[K, V]) unchanged(key K, e *entry[V]) bool {
	if c.cfg.mutation == nil || e.negative() || e.more == nil || c.checksum(e.value) == e.more.sum {
		return true
	}
	c.stat.add(statMutations)
	id, _ := c.keys.encode(key)
	if c.local != nil {
		c.local.compute(localKey[K]{c.scope.id, key}, 0, func(old *entry[V]) (*entry[V], bool) { return nil, old != e })
	}
	c.cfg.mutation(id)
	return false
}

// shadowed compares a sample of hits with what the loader returns.
func (c *Cache[K, V]) shadowed(ctx context.Context, t *target[K], load loadFunc[K, V], e *entry[V]) {
	if c.cfg.shadow == 0 || load == nil || e.negative() || rand.Float64() >= c.cfg.shadow {
		return
	}
	select {
	case c.shadows <- struct{}{}: // a few at a time: it is a sample
	default:
		return
	}
	key := *t
	ctx = context.WithoutCancel(ctx)
	if !c.start(func() {
		defer func() { <-c.shadows }()
		c.shadow(ctx, &key, load, e)
	}) {
		<-c.shadows
	}
}

func (c *Cache[K, V]) shadow(ctx context.Context, t *target[K], load loadFunc[K, V], e *entry[V]) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.hardTimeout)
	defer cancel()
	stop := context.AfterFunc(c.ctx, cancel)
	defer stop()
	v, err := func() (v V, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = &PanicError{Value: p}
			}
		}()
		return load(ctx, &Load[K, V]{key: t.key.key})
	}()
	if err != nil && !errors.Is(err, ErrNotFound) || t.st.epoch.Load() != 0 && !e.deps.valid() {
		return
	}
	c.stat.add(statShadowChecks)
	if err == nil && c.checksum(v) == c.checksum(e.value) {
		return
	}
	c.stat.add(statShadowDifferent)
	if c.cfg.shadowDifferent != nil {
		c.cfg.shadowDifferent(t.id)
	}
}
