package cache

import (
	"context"

	"github.com/go-redisx/redisx/core"
)

// getSlow is Get when the local tier has no answer at once.
func (c *Cache[K, V]) getSlow(ctx context.Context, key K) (value V, ok bool, err error) {
	e, err := c.lookup(ctx, key, nil)
	if e == nil {
		return value, false, err
	}
	if e.negative() {
		return value, false, ErrNotFound
	}
	return e.value, true, nil
}

// getOrLoadSlow is GetOrLoad when the local tier has no answer at once.
func (c *Cache[K, V]) getOrLoadSlow(ctx context.Context, key K, load loadFunc[K, V]) (V, error) {
	e, err := c.lookup(ctx, key, load)
	switch {
	case e == nil:
		var zero V
		return zero, err
	case e.negative():
		var zero V
		return zero, ErrNotFound
	}
	return e.value, nil
}

// lookup finds an entry that may be returned, or loads one. A nil entry without error is a miss, for calls without loader.
func (c *Cache[K, V]) lookup(ctx context.Context, key K, load loadFunc[K, V]) (e *entry[V], err error) {
	t, err := c.target(key)
	if err != nil {
		return nil, err
	}
	if c.client == nil || !c.client.Hooked() {
		e, _, err = c.find(ctx, &t, load)
		return e, err
	}
	verb := "get"
	if load != nil {
		verb = "get_or_load"
	}
	op := core.Operation{Plugin: "cache", Verb: verb, Name: c.name, Key: t.id}
	ctx, span := c.client.StartOperation(ctx, &op)
	e, outcome, err := c.find(ctx, &t, load)
	span.End(ctx, outcome, err)
	return e, err
}

// Outcomes of operations, for hooks.
const (
	outcomeLocal    = "l1_hit"
	outcomeRemote   = "l2_hit"
	outcomeMiss     = "miss"
	outcomeStale    = "stale"
	outcomeLoaded   = "loaded"
	outcomeNegative = "negative"
	outcomeError    = "error"
)

func (c *Cache[K, V]) find(ctx context.Context, t *target[K], load loadFunc[K, V]) (*entry[V], string, error) {
	var stand *entry[V] // what there is if all else fails
	known := ""
	if e, v, sure := c.kept(t); e != nil {
		switch {
		case sure && v == fresh:
			if !c.unchanged(t.key.key, e) {
				break
			}
			if load != nil && c.clock.now() >= e.fresh && !e.negative() {
				c.refresh(ctx, t, load, e, "early")
			}
			c.shadowed(ctx, t, load, e)
			return c.counted(e, statLocalHits, outcomeLocal)
		case sure && v == stale && load != nil:
			c.refresh(ctx, t, load, e, "stale")
			return c.servedStale(e, "revalidate")
		}
		if !sure || v != fresh {
			stand = e
		}
	}
	if load != nil && stand == nil && c.loadsCold(t) {
		return c.await(ctx, t, load, nil, "")
	}
	var redisErr error
	if c.remoteOn() {
		f, err := c.read(ctx, t)
		known = f.known
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, outcomeError, ctx.Err()
		case err != nil:
			redisErr = err
			c.stat.add(statRemoteErrors)
			if stand != nil && stand.deps.valid() {
				switch v := c.judge(stand, c.clock.now()); {
				case v == fresh:
					return c.counted(stand, statLocalHits, outcomeLocal)
				case v == stale && load != nil:
					c.refresh(ctx, t, load, stand, "stale")
					return c.servedStale(stand, "outage")
				}
			}
		default:
			stand = nil
			switch {
			case f.v == fresh:
				if load != nil && f.e.fresh < min(f.e.soft, f.e.local) && c.clock.now() >= f.e.fresh && !f.e.negative() {
					c.refresh(ctx, t, load, f.e, "early")
				}
				c.shadowed(ctx, t, load, f.e)
				return c.counted(f.e, statRemoteHits, outcomeRemote)
			case f.v == stale && load != nil:
				c.refresh(ctx, t, load, f.e, "stale")
				return c.servedStale(f.e, "revalidate")
			case f.v != none:
				stand = f.e
			}
			c.stat.add(statRemoteMisses)
		}
	}
	if load == nil {
		c.stat.add(statMisses)
		if redisErr != nil {
			return nil, outcomeError, redisErr
		}
		return nil, outcomeMiss, nil
	}
	if stand != nil && c.paused(t) {
		return c.servedStale(stand, "error")
	}
	return c.await(ctx, t, load, stand, known)
}

// loadsCold reports whether a load of the key is under way that began as there was nothing to serve meanwhile. Whoever comes
// then has nothing to ask Redis for.
func (c *Cache[K, V]) loadsCold(t *target[K]) bool {
	sh := &c.shards[t.shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f := sh.loads[t.key]
	return f != nil && f.cold && f.epoch == t.st.epoch.Load()
}

func (c *Cache[K, V]) counted(e *entry[V], stat int, outcome string) (*entry[V], string, error) { //nolint:unparam // what find returns
	if e.negative() {
		if stat == statLocalHits {
			c.stat.add(statLocalNegative)
		} else {
			c.stat.add(statRemoteNegative)
		}
		return e, outcomeNegative, nil
	}
	c.stat.add(stat)
	return e, outcome, nil
}

func (c *Cache[K, V]) servedStale(e *entry[V], why string) (*entry[V], string, error) { //nolint:unparam // what find returns
	c.stat.add(statStale)
	c.emit("stale_served", why, 1)
	return e, outcomeStale, nil
}

// paused reports whether a load failed a short time ago.
func (c *Cache[K, V]) paused(t *target[K]) bool {
	sh := &c.shards[t.shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	p, ok := sh.pauses[t.key]
	return ok && c.clock.now() < p.load
}

func (c *Cache[K, V]) setPause(t *target[K], f func(*pause)) {
	sh := &c.shards[t.shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	p := sh.pauses[t.key]
	f(&p)
	if sh.pauses == nil {
		sh.pauses = map[localKey[K]]pause{}
	}
	if len(sh.pauses) < 1024 {
		sh.pauses[t.key] = p
	}
}

// refresh starts a load in the background, unless there is one, or one failed just now.
func (c *Cache[K, V]) refresh(ctx context.Context, t *target[K], load loadFunc[K, V], e *entry[V], reason string) {
	sh := &c.shards[t.shard]
	sh.mu.Lock()
	if p, ok := sh.pauses[t.key]; ok && c.clock.now() < max(p.refresh, p.load) {
		sh.mu.Unlock()
		return
	}
	if f := sh.loads[t.key]; f != nil && f.epoch == t.st.epoch.Load() {
		sh.mu.Unlock()
		return
	}
	f := c.newFlight(ctx, t, load, reason)
	f.stale, f.background = e, true
	if e.stamp != 0 {
		f.known = stampText(e.stamp)
	}
	c.launch(sh, f)
}

func stampText(stamp int64) string {
	b := make([]byte, stampSize)
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = byte('0' + stamp%10)
		stamp /= 10
	}
	return string(b)
}
