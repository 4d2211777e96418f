package cache

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"math"
	mathrand "math/rand/v2"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// Load is what a loader knows of its load and says about its result. It is for the loader's goroutine, until it returns.
type Load[K comparable, V any] struct {
	key         K
	stale       *entry[V]
	ttl         time.Duration
	tags        []string
	etag        string
	noStore     bool
	notModified bool
}

// Key returns the key to load.
func (l *Load[K, V]) Key() K { return l.key }

// Stale returns the value that was kept for its stale uses, and its ETag, for a conditional request. ok is false if there is
// none. It must not be changed.
func (l *Load[K, V]) Stale() (value V, etag string, ok bool) {
	if l.stale == nil {
		return value, "", false
	}
	return l.stale.value, l.stale.etag(), true
}

// NotModified says that the stale value still is the right one; return what it returns. The value gets a new time to live and
// keeps its tags and ETag, unless others were set. Without a stale value it is an error.
func (l *Load[K, V]) NotModified() (V, error) {
	if l.stale == nil {
		var zero V
		return zero, errNotModified
	}
	l.notModified = true
	return l.stale.value, nil
}

var errNotModified = errors.New("redisx: cache: NotModified without a stale value; see Load.Stale")

// SetTTL sets how long the value is fresh, instead of [WithTTL], without jitter; the least is 1 ms. For a load that returns
// [ErrNotFound] it is how long that is remembered.
func (l *Load[K, V]) SetTTL(d time.Duration) { l.ttl = max(d, time.Millisecond) }

// Tag stores the value under tags; see [Tags]. Tags that are no valid ones fail the load.
//
// Whether a tag was invalidated during the load is known for tags this process has met before. For a new one the value is
// not kept if any tag at all was invalidated in the meantime.
func (l *Load[K, V]) Tag(tags ...string) { l.tags = append(l.tags, tags...) }

// SetETag keeps a validator with the value; one of more than 4096 bytes fails the load.
func (l *Load[K, V]) SetETag(etag string) { l.etag = etag }

// NoStore has the value returned to those who wait for it, and not kept.
func (l *Load[K, V]) NoStore() { l.noStore = true }

type loadFunc[K comparable, V any] func(context.Context, *Load[K, V]) (V, error)

// flight is a load that several callers wait for.
type flight[K comparable, V any] struct {
	t    target[K]
	load loadFunc[K, V]
	// epoch, word and moment tell what was known when it began: what changed later is not in its value.
	epoch, word, moment uint64
	stale               *entry[V]
	known               string
	reason              string // "miss", "refresh", "early", …
	cold                bool   // there was no value, of whatever age

	ctx    context.Context
	cancel context.CancelCauseFunc
	// waiters and background are guarded by the shard. A background load goes on without waiters.
	waiters    int
	background bool

	done chan struct{} // closed when the result below stands
	l    *Load[K, V]
	v    V
	err  error
	deps *deps // what the value depends on; versions are those of the start

	op   core.Operation // of the loader, for hooks
	span core.Span

	token  string
	killed atomic.Bool // the lease was taken away
	began  int64
	took   time.Duration
	// gens are the versions at the start; bumps that of the count of invalidated tags. ok is false if they could not be had.
	gens  []uint64
	bumps uint64
	ok    bool
}

var (
	errLeft     = errors.New("redisx: cache: all who waited for the load have left")
	errBusy     = errors.New("redisx: cache: another instance loads") // of a background load that nobody waits for
	errStopping = errors.New("redisx: cache: closing")
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

func (c *Cache[K, V]) counted(e *entry[V], stat int, outcome string) (*entry[V], string, error) {
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

func (c *Cache[K, V]) servedStale(e *entry[V], why string) (*entry[V], string, error) {
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

// newFlight is called with the shard locked.
func (c *Cache[K, V]) newFlight(ctx context.Context, t *target[K], load loadFunc[K, V], reason string) *flight[K, V] {
	if c.cfg.loadContext != nil {
		ctx = c.cfg.loadContext(ctx)
	}
	f := &flight[K, V]{t: *t, load: load, reason: reason, done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	f.epoch, f.word, f.moment = t.st.epoch.Load(), c.word.Load(), c.seq.Add(1)
	return f
}

// launch registers a flight and starts it; it unlocks the shard.
func (c *Cache[K, V]) launch(sh *shard[K, V], f *flight[K, V]) {
	c.register(sh, f)
	sh.mu.Unlock()
	if !c.start(func() { c.fly(f) }) {
		c.complete(f, ErrClosed)
		c.retire(f)
	}
}

func (c *Cache[K, V]) register(sh *shard[K, V], f *flight[K, V]) {
	if sh.loads == nil {
		sh.loads = map[localKey[K]]*flight[K, V]{}
	}
	sh.loads[f.t.key] = f
}

// retire takes a flight off the table: whoever comes now starts another.
func (c *Cache[K, V]) retire(f *flight[K, V]) {
	sh := &c.shards[f.t.shard]
	sh.mu.Lock()
	if sh.loads[f.t.key] == f {
		delete(sh.loads, f.t.key)
	}
	sh.mu.Unlock()
	f.cancel(nil)
}

// join returns the flight for a key, or makes one that the caller launches with the shard still locked (started is false).
func (c *Cache[K, V]) join(ctx context.Context, sh *shard[K, V], t *target[K], load loadFunc[K, V]) (f *flight[K, V], moment uint64, started bool) {
	if f := sh.loads[t.key]; f != nil && f.epoch == t.st.epoch.Load() {
		f.waiters++
		return f, c.seq.Add(1), true
	}
	f = c.newFlight(ctx, t, load, "miss")
	f.waiters = 1
	return f, f.moment, false
}

// leave ends a caller's wait.
func (c *Cache[K, V]) leave(f *flight[K, V]) {
	sh := &c.shards[f.t.shard]
	sh.mu.Lock()
	f.waiters--
	last := f.waiters == 0 && !f.background && !c.cfg.detached
	select {
	case <-f.done:
		last = false // only its fill is under way
	default:
	}
	if last && sh.loads[f.t.key] == f {
		delete(sh.loads, f.t.key)
	}
	sh.mu.Unlock()
	if last {
		f.cancel(errLeft)
	}
}

// await loads a value, or waits for the load of another caller.
func (c *Cache[K, V]) await(ctx context.Context, t *target[K], load loadFunc[K, V], stand *entry[V], known string) (*entry[V], string, error) {
	for {
		sh := &c.shards[t.shard]
		sh.mu.Lock()
		f, moment, started := c.join(ctx, sh, t, load)
		if started {
			sh.mu.Unlock()
			c.stat.add(statLoadsShared)
		} else {
			// A load may have ended between our look and now.
			if e := c.hit(t.key.key); e != nil {
				sh.mu.Unlock()
				f.cancel(nil)
				return c.counted(e, statLocalHits, outcomeLocal)
			}
			f.stale, f.known, f.cold = stand, known, stand == nil
			c.launch(sh, f)
		}
		e, outcome, err, again := c.wait(ctx, f, moment, stand)
		c.leave(f)
		if !again {
			return e, outcome, err
		}
	}
}

// wait waits for a flight as long as the options allow. again is true if its value was invalidated before the caller came, or
// if nobody loads after all.
func (c *Cache[K, V]) wait(ctx context.Context, f *flight[K, V], moment uint64, stand *entry[V]) (e *entry[V], outcome string, err error, again bool) {
	limit := c.cfg.hardTimeout
	soft := stand != nil && c.cfg.softTimeout > 0
	if soft {
		limit = c.cfg.softTimeout
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-f.done:
			if errors.Is(f.err, errBusy) || errors.Is(f.err, errLeft) {
				c.abandon(f)
				return nil, "", nil, true
			}
			if f.deps != nil && c.invalidated(ctx, f.deps, f.moment, moment) {
				c.abandon(f)
				return nil, "", nil, true
			}
			if f.err != nil && !errors.Is(f.err, ErrNotFound) {
				e, outcome, err = c.failed(f.err, stand)
				return e, outcome, err, false
			}
			if f.err != nil {
				c.stat.add(statMisses)
				return &entry[V]{flags: flagNegative}, outcomeNegative, nil, false
			}
			return &entry[V]{value: f.v}, outcomeLoaded, nil, false
		case <-ctx.Done():
			return nil, outcomeError, ctx.Err(), false
		case <-timer.C:
			if soft {
				c.stat.add(statSoftTimeouts)
				c.keepFlying(f)
				e, outcome, err = c.servedStale(stand, "timeout")
				return e, outcome, err, false
			}
			c.stat.add(statHardTimeouts)
			e, outcome, err = c.failed(ErrLoadTimeout, stand)
			return e, outcome, err, false
		}
	}
}

// keepFlying lets a load go on without the caller, up to the hard timeout.
func (c *Cache[K, V]) keepFlying(f *flight[K, V]) {
	sh := &c.shards[f.t.shard]
	sh.mu.Lock()
	f.background = true
	sh.mu.Unlock()
}

// invalidated reports whether something was invalidated after a load began and before a caller joined it.
func (c *Cache[K, V]) invalidated(ctx context.Context, d *deps, began, joined uint64) bool {
	for _, p := range d.list {
		now := p.state.ver.Load()
		if p.ver != 0 && now == p.ver || !p.state.bumpedBetween(began, joined) {
			continue
		}
		if now != 0 || p.ver == 0 || !c.remoteOn() {
			return true
		}
		// There was news without a version, as when somebody prolonged the tag's life.
		v, err := c.resolve(ctx, []*tagState{p.state}, c.word.Load(), 0)
		if err != nil || v[0] != p.ver {
			return true
		}
	}
	return false
}

// changedSince reports whether a tag may have been invalidated after a load began that knew this version.
func (p *dep) changedSince(began uint64) bool {
	return (p.ver == 0 || p.state.ver.Load() != p.ver) && p.state.bumpedBetween(began, math.MaxUint64)
}

// failed is what a caller gets for a load that failed: the stale value if there is one and the error is of that kind.
func (c *Cache[K, V]) failed(err error, stand *entry[V]) (*entry[V], string, error) {
	if stand == nil || !stand.deps.valid() || c.judge(stand, c.clock.now()) == none || c.cfg.sie == 0 && c.cfg.swr == 0 || !c.servesStale(err) {
		return nil, outcomeError, err
	}
	return c.servedStale(stand, "error")
}

// servesStale asks the option's predicate; one that panics must not hide the error it was asked about.
func (c *engine[K, V]) servesStale(err error) (yes bool) {
	yes = true
	defer func() { _ = recover() }()
	return c.cfg.sieWhen(err)
}

// fly runs a flight from the lease to the fill.
func (c *Cache[K, V]) fly(f *flight[K, V]) {
	settled := false
	defer func() {
		if !settled { // the loader has ended its goroutine
			c.complete(f, &PanicError{Value: errGoexit, Stack: debug.Stack()})
			c.release(f)
		}
		c.retire(f)
	}()
	stop := context.AfterFunc(c.ctx, func() { f.cancel(errStopping) })
	defer stop()
	e, err := c.acquire(f)
	switch {
	case err != nil:
		c.complete(f, err)
		settled = true
		return
	case e != nil: // somebody else loaded it
		f.deps = e.deps
		c.stat.add(statLoadsElsewhere)
		if f.v = e.value; e.negative() {
			c.complete(f, ErrNotFound)
		} else {
			c.complete(f, nil)
		}
		settled = true
		return
	}
	if c.sem != nil {
		select {
		case c.sem <- struct{}{}:
			defer func() { <-c.sem }()
		case <-f.ctx.Done():
			c.complete(f, f.reasonOf(context.Cause(f.ctx)))
			c.release(f)
			settled = true
			return
		}
	}
	stopRenewing := c.renewing(f)
	v, err := c.call(f)
	stopRenewing()
	f.v = v
	c.concluded(f, err)
	settled = true
	if f.token != "" {
		c.store(f)
	}
}

var errGoexit = errors.New("the loader ended its goroutine (runtime.Goexit)")

func (f *flight[K, V]) reasonOf(cause error) error {
	if errors.Is(cause, errStopping) {
		return ErrClosed
	}
	return cause
}

// call runs the loader within its timeout. A panic becomes an error.
func (c *Cache[K, V]) call(f *flight[K, V]) (v V, err error) {
	ctx := f.ctx
	if !c.cfg.detached {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.cfg.hardTimeout, ErrLoadTimeout)
		defer cancel()
		// A loader that does not listen to its context is left to itself: whoever comes then, anywhere, starts another load.
		abandon := context.AfterFunc(ctx, func() {
			c.abandon(f)
			c.start(func() { c.release(f) })
		})
		defer abandon()
	}
	f.l = &Load[K, V]{key: f.t.key.key, stale: f.stale}
	ctx = c.loading(ctx, f)
	f.began = c.clock.now()
	start := time.Now()
	c.stat.add(statLoads)
	defer func() {
		f.took = time.Since(start)
		if p := recover(); p != nil {
			err = &PanicError{Value: p, Stack: debug.Stack()}
		}
		c.loaded(ctx, f, err)
	}()
	v, err = f.load(ctx, f.l)
	if err == nil {
		f.l.tags, err = checkTags(f.l.tags)
		err = errors.Join(err, checkETag(f.l.etag))
	}
	if err != nil && errors.Is(context.Cause(ctx), ErrLoadTimeout) && isContext(err) {
		err = ErrLoadTimeout
	}
	return v, err
}

// abandon gives up on a load whose time is over.
func (c *Cache[K, V]) abandon(f *flight[K, V]) {
	sh := &c.shards[f.t.shard]
	sh.mu.Lock()
	if sh.loads[f.t.key] == f {
		delete(sh.loads, f.t.key)
	}
	sh.mu.Unlock()
}

// concluded hands the result to those who wait.
func (c *Cache[K, V]) concluded(f *flight[K, V], err error) {
	f.deps = c.depsOf(f)
	if err != nil && !errors.Is(err, ErrNotFound) {
		c.stat.add(statLoadErrors)
		if f.stale != nil && c.cfg.sieThrottle > 0 && !errors.Is(err, errLeft) && c.servesStale(err) {
			until := c.clock.now() + int64(c.cfg.sieThrottle)
			c.setPause(&f.t, func(p *pause) { p.load = until })
		}
	}
	if cause := context.Cause(f.ctx); err != nil && cause != nil && isContext(err) {
		err = f.reasonOf(cause)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		c.abandon(f) // whoever comes now loads anew
	}
	f.err = err
	if f.token == "" { // nothing to wait for: whoever gets the value finds it in the local tier from then on
		c.store(f)
	}
	c.complete(f, err)
}

// complete hands out a result. One that is not kept is for those who wait already: whoever comes later loads again, also while
// the lease is being given up.
func (c *Cache[K, V]) complete(f *flight[K, V], err error) {
	f.err = err
	keeps := err == nil || errors.Is(err, ErrNotFound) && c.cfg.negative > 0
	if !keeps || f.l != nil && f.l.noStore {
		c.abandon(f)
	}
	close(f.done)
}

// depsOf returns what the value of a flight depends on, with the versions at its start as far as they are known.
func (c *Cache[K, V]) depsOf(f *flight[K, V]) *deps {
	d := &deps{}
	for i, s := range c.scope.gens {
		v := s.ver.Load()
		if i < len(f.gens) {
			v = f.gens[i]
		}
		d.list = append(d.list, dep{s, v})
	}
	if f.l == nil {
		return d
	}
	if f.l.notModified && f.l.tags == nil && f.stale != nil {
		f.l.tags = f.stale.deps.tags
	}
	if f.l.notModified && f.l.etag == "" && f.stale != nil {
		f.l.etag = f.stale.etag()
	}
	d.tags = f.l.tags
	for _, tag := range f.l.tags {
		s := c.tag(tag)
		v, ok := s.knownSince(c.hub, f.word, f.moment)
		if !ok {
			v = 0
		}
		d.list = append(d.list, dep{s, v})
	}
	return d
}

// acquire gets the right to load, or the value that somebody else loaded in the meantime. Without Redis there is nobody to
// wait for. f.token is "" if there is no lease.
func (c *Cache[K, V]) acquire(f *flight[K, V]) (*entry[V], error) {
	if !c.remoteOn() {
		c.captureLocal(f)
		return nil, nil
	}
	token := newToken()
	delay := 2 * time.Millisecond
	for {
		word, epoch := c.word.Load(), f.t.st.epoch.Load()
		woken, stopWaiting := f.t.st.await(f.t.keys.v)
		state, raw, got, err := c.lease(f, token, word)
		if err != nil {
			stopWaiting()
			if f.ctx.Err() != nil {
				return nil, f.reasonOf(context.Cause(f.ctx))
			}
			c.stat.add(statRemoteErrors)
			c.captureLocal(f)
			if !errors.Is(err, core.ErrNotSent) {
				f.token = token // it may be ours: the fill decides, or gives it back
			}
			return nil, nil
		}
		switch state {
		case leaseFound:
			stopWaiting()
			found, err := c.open(f.ctx, &f.t, raw, word, got, c.momentAt(f.t.keys.v))
			if err != nil {
				c.captureLocal(f)
				return nil, nil
			}
			if found.v == fresh {
				c.keep(&f.t, found.e, epoch, word)
				return found.e, nil
			}
			if found.v != none {
				f.stale = found.e
			}
			f.known = found.known // to be replaced
			continue
		case leaseOurs:
			stopWaiting()
			f.token = token
			return nil, nil
		}
		// Somebody else loads.
		if c.unattended(f) {
			stopWaiting()
			until := c.clock.now() + int64(refreshElsewhere)
			c.setPause(&f.t, func(p *pause) { p.refresh = until })
			return nil, errBusy
		}
		if c.feed != nil && trusted(c.word.Load()) {
			delay = max(delay, 250*time.Millisecond)
		}
		timer := time.NewTimer(delay/2 + mathrand.N(delay))
		select {
		case <-woken:
		case <-timer.C:
			delay = min(2*delay, 50*time.Millisecond)
		case <-f.ctx.Done():
		}
		timer.Stop()
		stopWaiting()
		if f.ctx.Err() != nil {
			return nil, f.reasonOf(context.Cause(f.ctx))
		}
		// Most of the time the value is there now.
		if found, err := c.fetch(f.ctx, &f.t, f.t.st.epoch.Load()); err == nil && found.v == fresh {
			return found.e, nil
		} else if err == nil {
			f.known = found.known
			if found.v != none {
				f.stale = found.e
			}
		}
	}
}

// refreshElsewhere is how long a refresh is left to the process that is at it.
const refreshElsewhere = 100 * time.Millisecond

// unattended reports whether nobody waits for a flight.
func (c *Cache[K, V]) unattended(f *flight[K, V]) bool {
	sh := &c.shards[f.t.shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return f.waiters == 0 && f.background
}

const (
	leaseFound = iota
	leaseOurs
	leaseTaken
)

// lease asks for the right to load; versions that are not known travel along.
func (c *Cache[K, V]) lease(f *flight[K, V], token string, word uint64) (state int, raw string, got map[*tagState]uint64, err error) {
	states := append(append(make([]*tagState, 0, 4), c.scope.gens...), c.scope.bumps)
	a := c.asking(states, word)
	willWait := "1"
	if c.unattended(f) {
		willWait = "0"
	}
	cmd := leaseScript.Cmd([]string{f.t.keys.v, f.t.keys.l(), f.t.keys.w()}, []string{token, millis(c.cfg.lease), f.known, willWait})
	start := c.clock.now()
	var r driver.Reply
	if len(a.cmds) == 0 {
		r = c.client.Do(f.ctx, cmd)
	} else {
		replies := c.client.DoMulti(f.ctx, append([]driver.Cmd{cmd}, a.cmds...))
		r, got = replies[0], a.answered(c.hub, replies[1:])
	}
	state, raw, stamp, err := leased(r)
	if err != nil {
		return 0, "", nil, err
	}
	c.learn(f.t.keys.v, stamp, start)
	c.capture(f, &a)
	return state, raw, got, nil
}

func leased(r driver.Reply) (state int, raw string, stamp int64, err error) {
	list, err := r.List()
	if err != nil {
		return 0, "", 0, err
	}
	if len(list) == 1 {
		n, err := list[0].Int64()
		if err == nil && n != leaseTaken {
			err = errUnexpected
		}
		return leaseTaken, "", 0, err
	}
	n, stamp, err := stamped(r)
	if err == nil && n == leaseFound {
		if len(list) != 3 {
			return 0, "", 0, errUnexpected
		}
		raw, err = list[2].Text()
	}
	return int(n), raw, stamp, err
}

// capture notes the versions at the start of a load: of the generations, and of the count of bumps behind them.
func (c *Cache[K, V]) capture(f *flight[K, V], a *asking) {
	n := len(a.versions) - 1
	f.gens, f.bumps, f.ok = a.versions[:n:n], a.versions[n], true
	for _, v := range a.versions {
		f.ok = f.ok && v != 0
	}
}

// captureLocal is capture without Redis: what this process knows last.
func (c *Cache[K, V]) captureLocal(f *flight[K, V]) {
	f.token, f.ok = "", c.client == nil
	f.gens = nil
	for _, s := range c.scope.gens {
		f.gens = append(f.gens, s.ver.Load())
	}
}

func newToken() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// renewing keeps the lease while the loader runs.
func (c *Cache[K, V]) renewing(f *flight[K, V]) (stop func()) {
	if f.token == "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(f.ctx)
	every := c.cfg.lease / 3
	timer := time.AfterFunc(every, func() {
		c.start(func() { // seldom: most loads are over by then
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				n, err := c.client.Run(ctx, renewScript, []string{f.t.keys.l()}, []string{f.token, millis(c.cfg.lease)}).Int64()
				if ctx.Err() != nil {
					return
				}
				if err == nil && n == 0 {
					f.killed.Store(true)
					return
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	})
	return func() {
		timer.Stop()
		cancel()
	}
}

// release gives up the lease of a load that brought nothing to store.
func (c *Cache[K, V]) release(f *flight[K, V]) {
	if f.token == "" {
		return
	}
	ctx, cancel := c.background()
	defer cancel()
	channel, payload := c.wakeUp(&f.t)
	args := []string{f.token, channel, payload}
	list, err := c.client.Run(ctx, releaseScript, []string{f.t.keys.l(), f.t.keys.w()}, args).List()
	if err == nil && channel == "" && len(list) == 2 {
		if n, _ := list[1].Int64(); n == 1 {
			c.wakeOthers(ctx, &f.t)
		}
	}
}

// background is the context of what must be done when nobody waits for it any more.
func (h *hub) background() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 5*time.Second)
}

// wakeUp returns what a script publishes to those who wait for a fill, if it does.
func (c *Cache[K, V]) wakeUp(t *target[K]) (channel, payload string) {
	if c.feed == nil || !c.feed.inline() {
		return "", ""
	}
	return c.feed.channel(), c.feed.wake(t.keys.w()).payload
}

func (c *Cache[K, V]) wakeOthers(ctx context.Context, t *target[K]) {
	if c.feed != nil {
		_ = c.feed.publish(ctx, c.feed.wake(t.keys.v+":w"), 0) // whoever waits looks after a while anyway
	}
}

// store puts the value of a load into both tiers, unless it was invalidated meanwhile.
func (c *Cache[K, V]) store(f *flight[K, V]) {
	h, ok := c.prepared(f)
	if !ok {
		c.abandon(f) // whoever comes now loads anew
		c.release(f)
		return
	}
	if f.token == "" || c.pending(f.t.keys.v) { // what Redis got now would soon be deleted
		c.release(f)
		c.storeLocal(f, h)
		return
	}
	ctx, cancel := c.background()
	defer cancel()
	body, d, err := c.sealed(ctx, f, h)
	if err != nil {
		c.notFilled(f, err)
		c.release(f)
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
		c.notFilled(f, err)
		c.release(f)
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

func (c *Cache[K, V]) notFilled(f *flight[K, V], err error) {
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
	if at := soft - time.Duration(min(before, float64(soft))); at > 0 && at < soft {
		return at
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
		if p.changedSince(f.moment) {
			return
		}
		if p.ver == 0 {
			p.ver = p.state.ver.Load()
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
