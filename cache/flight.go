package cache

import (
	"context"
	"errors"
	"math"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core"
)

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

// loadContext applies the option. It is called with locks held: a function that panics or returns nil changes nothing.
func (c *engine[K, V]) loadContext(ctx context.Context) (derived context.Context) {
	derived = ctx
	if c.cfg.loadContext == nil {
		return derived
	}
	defer func() {
		if p := recover(); p != nil || derived == nil {
			derived = ctx
		}
	}()
	return c.cfg.loadContext(ctx)
}

// newFlight is called with the shard locked.
func (c *Cache[K, V]) newFlight(ctx context.Context, t *target[K], load loadFunc[K, V], reason string) *flight[K, V] {
	ctx = c.loadContext(ctx)
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
	since := time.Now()
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
		e, outcome, err, again := c.wait(ctx, f, moment, stand, since)
		c.leave(f)
		if !again {
			return e, outcome, err
		}
	}
}

// wait waits for a flight as long as the options allow. again is true if its value was invalidated before the caller came, or
// if nobody loads after all. The time counts from since, when the caller began to wait, be it for another load of a batch.
func (c *Cache[K, V]) wait(ctx context.Context, f *flight[K, V], moment uint64, stand *entry[V], since time.Time) (e *entry[V], outcome string, err error, again bool) {
	limit := c.cfg.hardTimeout
	soft := stand != nil && c.cfg.softTimeout > 0
	if soft {
		limit = c.cfg.softTimeout
	}
	timer := time.NewTimer(limit - time.Since(since))
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
			select {
			case <-f.done: // both: the result counts
				continue
			default:
			}
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
			_ = c.release(f) // or it ends by itself
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
			_ = c.release(f) // or it ends by itself
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
			c.start(func() { _ = c.release(f) })
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
