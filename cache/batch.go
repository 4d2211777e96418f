package cache

import (
	"context"
	"errors"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// GetMany returns what is there of many keys, from both tiers: what it does not return is a miss or a negative entry. If Redis
// could not be asked for some, the error is a *[BatchError] that lists them, and the map holds the others.
func (c *Cache[K, V]) GetMany(ctx context.Context, keys []K) (map[K]V, error) {
	return c.many(ctx, keys, nil)
}

// LoadMany returns the values of many keys and loads what is not there, in one call of the loader for all that nobody else
// loads just now: loads of single keys and of other batches are shared, key by key, in all processes. The loader returns
// what it found; a key it leaves out does not exist, which is remembered ([WithNegativeTTL]) and not in the result. If the
// loader fails, what it returned all the same is used, and the others are listed in a *[BatchError] with its error. Stale
// values are used as by [Cache.GetOrLoad].
func (c *Cache[K, V]) LoadMany(ctx context.Context, keys []K, load func(ctx context.Context, keys []K) (map[K]V, error)) (map[K]V, error) {
	if load == nil {
		return nil, errNoLoader
	}
	return c.many(ctx, keys, load)
}

type manyFunc[K comparable, V any] = func(context.Context, []K) (map[K]V, error)

func (c *Cache[K, V]) many(ctx context.Context, keys []K, load manyFunc[K, V]) (map[K]V, error) {
	out := make(map[K]V, len(keys))
	var rest []K
	hits := 0
	for i, key := range keys {
		e := c.hit(key)
		switch {
		case e == nil || c.watch:
			if rest == nil {
				rest = make([]K, 0, len(keys)-i)
			}
			rest = append(rest, key)
		case e.negative():
			c.stat.add(statLocalNegative)
		default:
			hits++
			out[key] = e.value
		}
	}
	c.stat.addN(statLocalHits, int64(hits))
	if len(rest) == 0 {
		return out, nil
	}
	return out, c.manySlow(ctx, rest, load, out)
}

// item is a key of a batch that the local tier had no answer for at once.
type item[K comparable, V any] struct {
	t       target[K]
	stand   *entry[V]
	sure    bool
	refresh string // why its value is to be loaded again in the background, or ""
	found   found[V]
	err     error
	epoch   uint64

	flight  *flight[K, V]
	moment  uint64
	started bool // by somebody else
}

func (c *Cache[K, V]) manySlow(ctx context.Context, keys []K, load manyFunc[K, V], out map[K]V) error {
	verb := "get_many"
	if load != nil {
		verb = "load_many"
	}
	ctx, end := c.operation(ctx, verb)
	errs := map[K]error{}
	all := make([]item[K, V], len(keys))
	items := make([]*item[K, V], 0, len(keys))
	for i, key := range keys { // a key that comes twice is asked for twice, and loaded once
		var err error
		if all[i].t, err = c.target(key); err != nil {
			errs[key] = err
			continue
		}
		items = append(items, &all[i])
	}
	items = c.manyLocal(items, load != nil, out)
	if c.remoteOn() && len(items) > 0 {
		items = c.manyRemote(ctx, items, load != nil, out, errs)
	}
	c.manyRefresh(ctx, items, load)
	pending := items[:0]
	for _, it := range items {
		if it.refresh == "" {
			pending = append(pending, it)
		}
	}
	if load != nil && len(pending) > 0 {
		c.manyLoad(ctx, pending, load, out, errs)
	}
	var err error
	if len(errs) > 0 {
		err = &BatchError[K]{Errors: errs}
	}
	end(err)
	return err
}

// take puts an entry into the result.
func (c *Cache[K, V]) take(out map[K]V, key K, e *entry[V], stat int, outcome string) {
	if e, _, _ := c.counted(e, stat, outcome); !e.negative() {
		out[key] = e.value
	}
}

// manyLocal answers from the local tier what it can, and returns the items that are left, and those to be refreshed.
func (c *Cache[K, V]) manyLocal(items []*item[K, V], loads bool, out map[K]V) []*item[K, V] {
	left := items[:0]
	for _, it := range items {
		e, v, sure := c.kept(&it.t)
		it.stand, it.sure = e, sure
		switch {
		case e == nil || !sure:
		case v == fresh:
			if !c.unchanged(it.t.key.key, e) {
				it.stand = nil
				break
			}
			c.take(out, it.t.key.key, e, statLocalHits, outcomeLocal)
			if !loads || c.clock.now() < e.fresh || e.negative() {
				continue
			}
			it.refresh = "early"
		case v == stale && loads:
			_, _, _ = c.servedStale(e, "revalidate")
			out[it.t.key.key] = e.value
			it.refresh = "stale"
		}
		left = append(left, it)
	}
	return left
}

// manyRemote answers from Redis what it can: one command for all keys, or in Cluster one for each, in one round trip per node.
func (c *Cache[K, V]) manyRemote(ctx context.Context, items []*item[K, V], loads bool, out map[K]V, errs map[K]error) []*item[K, V] {
	ask := make([]*item[K, V], 0, len(items))
	for _, it := range items {
		if it.refresh == "" {
			ask = append(ask, it)
		}
	}
	if len(ask) == 0 {
		return items
	}
	c.fetchMany(ctx, ask)
	left := items[:0]
	for _, it := range items {
		if it.refresh != "" {
			left = append(left, it)
			continue
		}
		key, e, v := it.t.key.key, it.found.e, it.found.v
		if it.err != nil {
			if err := ctx.Err(); err != nil {
				errs[key] = err
				continue
			}
			c.stat.add(statRemoteErrors)
			if e = it.stand; e != nil && e.deps.valid() {
				v = c.judge(e, c.clock.now())
			} else {
				e, v = nil, none
			}
			if e == nil && !loads {
				errs[key] = it.err
				continue
			}
		}
		switch {
		case v == fresh:
			c.take(out, key, e, statRemoteHits, outcomeRemote)
			continue
		case v == stale && loads:
			_, _, _ = c.servedStale(e, "revalidate")
			out[key] = e.value
			it.refresh, it.stand = "stale", e
		case v != none:
			it.stand = e
		default:
			it.stand = nil
			c.stat.add(statRemoteMisses)
		}
		if !loads {
			c.stat.add(statMisses)
			continue
		}
		left = append(left, it)
	}
	return left
}

// fetchMany is fetch for many keys.
func (c *Cache[K, V]) fetchMany(ctx context.Context, items []*item[K, V]) {
	word := c.word.Load()
	a := c.asking(c.scope.gens, word)
	cmds := append(make([]driver.Cmd, 0, len(items)+len(a.cmds)+1), a.cmds...)
	for _, it := range items {
		it.epoch = it.t.st.epoch.Load()
	}
	single := !c.clustered(ctx)
	if single {
		args := make([]string, 1, len(items)+1)
		args[0] = "MGET"
		for _, it := range items {
			args = append(args, it.t.keys.v)
		}
		cmds = append(cmds, driver.Cmd{Args: args, Keys: driver.KeyRange(1, len(items)), Mode: driver.ReadOnly})
	} else {
		for _, it := range items {
			cmds = append(cmds, driver.Cmd{Args: []string{"GET", it.t.keys.v}, Keys: driver.Key(1), Mode: driver.ReadOnly})
		}
	}
	first := items[0].t.keys.v
	timed := c.timed(first)
	if !timed && single {
		cmds = append(cmds, timeCmd(first))
	}
	start := c.clock.now()
	var replies []driver.Reply
	if len(cmds) == 1 {
		replies = []driver.Reply{c.client.Do(ctx, cmds[0])}
	} else {
		replies = c.client.DoMulti(ctx, cmds)
	}
	if !timed && single {
		c.learn(first, timeOf(replies[len(replies)-1]), start)
	}
	got := a.answered(c.hub, replies)
	values := replies[len(a.cmds):]
	if single {
		list, err := values[0].List()
		if err == nil && len(list) != len(items) {
			err = errUnexpected
		}
		if err != nil {
			for _, it := range items {
				it.err = err
			}
			return
		}
		values = list
	}
	c.resolveMany(ctx, items, values, word, got)
	at := c.momentAt(first)
	for i, it := range items {
		if !single {
			at = c.momentAt(it.t.keys.v)
		}
		it.found, it.err = c.opened(ctx, &it.t, values[i], it.epoch, word, got, at)
	}
}

// resolveMany asks for the versions of all tags at once that opened would ask for one by one.
func (c *Cache[K, V]) resolveMany(ctx context.Context, items []*item[K, V], values []driver.Reply, word uint64, got map[*tagState]uint64) {
	var ask []*tagState
	seen := map[*tagState]bool{}
	for i, it := range items {
		raw, err := values[i].Text()
		if err != nil || !hasTagsIn(raw) {
			continue
		}
		_, h, _, err := c.bytes.parse(it.t.keys.v, raw)
		if err != nil {
			continue
		}
		for _, tag := range h.tags {
			s := c.tag(tag.name)
			if v, ok := s.known(c.hub, word); (!ok || v < tag.version) && !seen[s] {
				seen[s] = true
				ask = append(ask, s)
			}
		}
	}
	if len(ask) < 2 {
		return
	}
	versions, err := c.resolve(ctx, ask, word, 0)
	if err != nil || got == nil {
		return // opened asks, and reports the error
	}
	for i, s := range ask {
		got[s] = versions[i]
	}
}

// hasTagsIn reports whether a stored value may have tags.
func hasTagsIn(raw string) bool { return len(raw) > offsetContent && raw[offsetContent]&hasTags != 0 }

// manyRefresh loads again in the background what was served and is about to be replaced, in one load.
func (c *Cache[K, V]) manyRefresh(ctx context.Context, items []*item[K, V], load manyFunc[K, V]) {
	if load == nil {
		return
	}
	b := &batch[K, V]{load: load}
	for _, it := range items {
		if it.refresh == "" {
			continue
		}
		sh := &c.shards[it.t.shard]
		sh.mu.Lock()
		p := sh.pauses[it.t.key]
		f := sh.loads[it.t.key]
		if c.clock.now() < max(p.refresh, p.load) || f != nil && f.epoch == it.t.st.epoch.Load() {
			sh.mu.Unlock()
			continue
		}
		f = c.newFlight(ctx, &it.t, oneOf(load), it.refresh)
		f.stale, f.background = it.stand, true
		if it.stand.stamp != 0 {
			f.known = stampText(it.stand.stamp)
		}
		c.register(sh, f)
		sh.mu.Unlock()
		b.flights = append(b.flights, f)
	}
	c.launchBatch(ctx, b)
}

// oneOf makes a loader of one key of a loader of many.
func oneOf[K comparable, V any](load manyFunc[K, V]) loadFunc[K, V] {
	return func(ctx context.Context, l *Load[K, V]) (V, error) {
		got, err := load(ctx, []K{l.key})
		if v, ok := got[l.key]; ok {
			return v, nil
		}
		if err == nil {
			err = ErrNotFound
		}
		var zero V
		return zero, err
	}
}

// manyLoad loads what is left, or waits for others who do.
func (c *Cache[K, V]) manyLoad(ctx context.Context, items []*item[K, V], load manyFunc[K, V], out map[K]V, errs map[K]error) {
	b := &batch[K, V]{load: load}
	one := oneOf(load)
	for _, it := range items {
		if it.stand != nil && c.paused(&it.t) {
			_, _, _ = c.servedStale(it.stand, "error")
			out[it.t.key.key] = it.stand.value
			continue
		}
		sh := &c.shards[it.t.shard]
		sh.mu.Lock()
		it.flight, it.moment, it.started = c.join(ctx, sh, &it.t, one)
		if it.started {
			c.stat.add(statLoadsShared)
		} else {
			it.flight.stale, it.flight.known, it.flight.cold = it.stand, it.found.known, it.stand == nil
			c.register(sh, it.flight)
			b.flights = append(b.flights, it.flight)
		}
		sh.mu.Unlock()
	}
	c.launchBatch(ctx, b)
	since := time.Now()
	for _, it := range items {
		if it.flight == nil {
			continue
		}
		key := it.t.key.key
		e, outcome, err, again := c.wait(ctx, it.flight, it.moment, it.stand, since)
		c.leave(it.flight)
		if again {
			e, outcome, err = c.await(ctx, &it.t, one, it.stand, it.found.known)
		}
		switch {
		case err != nil:
			errs[key] = err
		case !e.negative() && outcome != outcomeNegative:
			out[key] = e.value
		}
	}
}

// batch is a load of many keys, each of which is a flight of its own that others may wait for.
type batch[K comparable, V any] struct {
	flights []*flight[K, V]
	load    manyFunc[K, V]
	ctx     context.Context
	cancel  context.CancelCauseFunc
	live    atomic.Int64 // flights that somebody waits for
}

func (c *Cache[K, V]) launchBatch(ctx context.Context, b *batch[K, V]) {
	if len(b.flights) == 0 {
		return
	}
	ctx = c.loadContext(ctx)
	b.ctx, b.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	b.live.Store(int64(len(b.flights)))
	for _, f := range b.flights {
		context.AfterFunc(f.ctx, func() {
			if b.live.Add(-1) == 0 {
				b.cancel(context.Cause(f.ctx))
			}
		})
	}
	if !c.start(func() { c.flyBatch(b) }) {
		for _, f := range b.flights {
			c.complete(f, ErrClosed)
			c.retire(f)
		}
	}
}

// flyBatch is fly for many flights: leases in one round trip, one call of the loader, fills in one round trip.
func (c *Cache[K, V]) flyBatch(b *batch[K, V]) {
	stop := context.AfterFunc(c.ctx, func() { b.cancel(errStopping) })
	defer stop()
	own := c.acquireMany(b)
	if len(own) == 0 {
		return
	}
	finished := false
	defer func() {
		if !finished {
			for _, f := range own {
				c.complete(f, &PanicError{Value: errGoexit, Stack: debug.Stack()})
				_ = c.release(f)
				c.retire(f)
			}
		}
	}()
	if c.sem != nil {
		select {
		case c.sem <- struct{}{}:
			defer func() { <-c.sem }()
		case <-b.ctx.Done():
			for _, f := range own {
				c.complete(f, f.reasonOf(context.Cause(b.ctx)))
				_ = c.release(f)
				c.retire(f)
			}
			finished = true
			return
		}
	}
	var stops []func()
	for _, f := range own {
		stops = append(stops, c.renewing(f))
	}
	got, err := c.callMany(b, own)
	for _, stop := range stops {
		stop()
	}
	finished = true
	for _, f := range own {
		v, ok := got[f.t.key.key]
		f.v = v
		switch {
		case ok:
			c.concluded(f, nil)
		case err != nil:
			c.concluded(f, err)
		default:
			c.concluded(f, ErrNotFound)
		}
	}
	c.storeMany(own)
	for _, f := range own {
		c.retire(f)
	}
}

// acquireMany gets the leases of a batch, and returns the flights whose values are to be loaded here. Those that another
// process loads go on by themselves, those that are there already are done.
func (c *Cache[K, V]) acquireMany(b *batch[K, V]) (own []*flight[K, V]) {
	if !c.remoteOn() {
		for _, f := range b.flights {
			c.captureLocal(f)
		}
		return b.flights
	}
	word := c.word.Load()
	states := append(append(make([]*tagState, 0, 4), c.scope.gens...), c.scope.bumps)
	a := c.asking(states, word)
	cmds := append(make([]driver.Cmd, 0, len(b.flights)+len(a.cmds)), a.cmds...)
	epochs := make([]uint64, len(b.flights))
	for i, f := range b.flights {
		f.token = newToken()
		epochs[i] = f.t.st.epoch.Load()
		cmds = append(cmds, leaseScript.Cmd([]string{f.t.keys.v, f.t.keys.l(), f.t.keys.w()},
			[]string{f.token, millis(c.cfg.lease), f.known, "0"}))
	}
	start := c.clock.now()
	replies := c.client.DoMulti(b.ctx, cmds)
	got := a.answered(c.hub, replies)
	for i, f := range b.flights {
		state, raw, stamp, err := leased(replies[len(a.cmds)+i])
		if err != nil {
			token := f.token
			c.stat.add(statRemoteErrors)
			c.captureLocal(f)
			if !errors.Is(err, core.ErrNotSent) {
				f.token = token
			}
			own = append(own, f)
			continue
		}
		c.learn(f.t.keys.v, stamp, start)
		c.capture(f, &a)
		if state == leaseOurs {
			own = append(own, f)
			continue
		}
		f.token = ""
		if state == leaseFound {
			if found, err := c.open(b.ctx, &f.t, raw, word, got, c.momentAt(f.t.keys.v)); err == nil && found.v == fresh {
				c.keep(&f.t, found.e, epochs[i], word)
				f.deps, f.v = found.e.deps, found.e.value
				c.stat.add(statLoadsElsewhere)
				if found.e.negative() {
					c.complete(f, ErrNotFound)
				} else {
					c.complete(f, nil)
				}
				c.retire(f)
				continue
			} else if err == nil {
				f.known = found.known
			}
		}
		if !c.start(func() { c.fly(f) }) { // by itself: it waits for another process, or replaces what cannot be used
			c.complete(f, ErrClosed)
			c.retire(f)
		}
	}
	return own
}

// callMany runs the loader of a batch within its timeout.
func (c *Cache[K, V]) callMany(b *batch[K, V], own []*flight[K, V]) (got map[K]V, err error) {
	ctx := b.ctx
	if !c.cfg.detached {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.cfg.hardTimeout, ErrLoadTimeout)
		defer cancel()
		abandon := context.AfterFunc(ctx, func() {
			for _, f := range own {
				c.abandon(f)
			}
			c.start(func() {
				for _, f := range own {
					_ = c.release(f)
				}
			})
		})
		defer abandon()
	}
	keys := make([]K, len(own))
	for i, f := range own {
		keys[i] = f.t.key.key
		f.l = &Load[K, V]{key: keys[i], stale: f.stale}
		f.began = c.clock.now()
	}
	ctx = c.loading(ctx, own[0])
	start := time.Now()
	c.stat.add(statLoads)
	defer func() {
		took := time.Since(start)
		for _, f := range own {
			f.took = took
		}
		if p := recover(); p != nil {
			err = &PanicError{Value: p, Stack: debug.Stack()}
		}
		c.loaded(ctx, own[0], err)
	}()
	got, err = b.load(ctx, keys)
	if err != nil && errors.Is(context.Cause(ctx), ErrLoadTimeout) && isContext(err) {
		err = ErrLoadTimeout
	}
	return got, err
}

// storeMany is store for many flights.
func (c *Cache[K, V]) storeMany(own []*flight[K, V]) {
	ctx, cancel := c.background()
	defer cancel()
	type filling struct {
		f    *flight[K, V]
		h    *header
		d    *deps
		size int
	}
	var fills []filling
	var cmds []driver.Cmd
	for _, f := range own {
		if f.token == "" {
			continue // concluded did it
		}
		h, ok := c.prepared(f)
		if ok && c.doubtful(f) {
			c.doubted(f, h)
			continue
		}
		if !ok || c.pending(f.t.keys.v) {
			if !ok {
				c.abandon(f)
			}
			_ = c.release(f)
			if ok {
				c.storeLocal(f, h)
			}
			continue
		}
		body, d, err := c.sealed(ctx, f, h)
		if err != nil {
			c.notFilled(err)
			_ = c.release(f)
			if errors.Is(err, errVersions) {
				c.storeLocal(f, h)
			}
			continue
		}
		fills = append(fills, filling{f, h, d, len(body)})
		cmds = append(cmds, c.fillCmd(f, body, h))
	}
	if len(cmds) == 0 {
		return
	}
	start := c.clock.now()
	for i, r := range c.client.DoMulti(ctx, cmds) {
		x := fills[i]
		c.filled(ctx, x.f, x.h, x.d, x.size, start, r)
	}
}
