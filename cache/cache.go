package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// Cache keeps values of type V under keys of type K in two tiers. It is safe for concurrent use. See the package comment for
// what it guarantees.
//
// Values are shared by all callers and with the cache itself: they must not be changed. [WithMutationCheck] finds code that
// does.
type Cache[K comparable, V any] struct {
	*engine[K, V]
	scope *scope
	near  *local[K, entry[V]] // of the local tier what is for this scope alone; nil for tenants
}

// engine is what a cache and its scoped views share.
type engine[K comparable, V any] struct {
	*hub
	keys  *keyCodec[K]
	bytes *bytesOf[V]
	local *tier[K, V] // nil without

	mode    atomic.Int32
	watch   bool // hits have to be looked at closely: mutation check, shadow check
	shards  [flightShards]shard[K, V]
	sem     chan struct{} // nil: no bound
	shadows chan struct{}
	root    *scope
	scopes  sync.Map // what stands for the scopes in a name → *Cache
	nextID  atomic.Uint32

	closeOnce sync.Once
	closeErr  error
}

// localKey is a key in the local tier. Values of different scopes are apart.
type localKey[K comparable] struct {
	scope uint32
	key   K
}

// entry is a value in the local tier. It does not change. There are many of them: fields that are seldom needed are apart.
type entry[V any] struct {
	value V
	// fresh is until when the entry is a hit without a second thought; the clock's ns like all times here.
	fresh int64
	word  uint64
	deps  *deps

	soft   int64 // until when the value is fresh
	local  int64 // until when the local tier may use it without asking Redis
	stamp  int64 // server time of writing, µs; 0 if Redis does not have it
	more   *more // may be nil
	weight uint32
	flags  uint8
}

// more is what few entries need.
type more struct {
	etag string
	hash uint64 // of the name if the key cannot be had from it
	sum  uint64 // of the encoded value, for the mutation check
	at   int64  // when it came into the local tier, for WithStaleWhileDisconnected
}

func (e *entry[V]) etag() string {
	if e.more == nil {
		return ""
	}
	return e.more.etag
}

func (e *entry[V]) hash() uint64 {
	if e.more == nil {
		return 0
	}
	return e.more.hash
}

const (
	flagNegative = 1 << iota
	flagExpired  // by Expire: for stale-if-error only
)

func (e *entry[V]) negative() bool { return e.flags&flagNegative != 0 }

// deps is what an entry was stored under: generations and tags, with their versions.
type deps struct {
	list []dep
	tags []string // names of the tags: those of the last deps
}

type dep struct {
	state *tagState
	ver   uint64
}

func (d *deps) valid() bool {
	for i := range d.list {
		if d.list[i].state.ver.Load() != d.list[i].ver {
			return false
		}
	}
	return true
}

// scope is a tenant, or the cache as a whole.
type scope struct {
	plain         atomic.Pointer[deps] // of entries without tags, under the generations known last
	id            uint32
	parts         []string
	err           error // what every call returns: nested too deep
	values, tagKs core.Keyspace
	gens          []*tagState // what Clear ends: that of the cache, then those of the scopes
	bumps         *tagState   // counts invalidations of tags
	tags          sync.Map    // tag → *tagState
	children      sync.Map    // tenant → *Cache
}

// Mode says which tiers are in use.
type Mode int32

const (
	// Both tiers, those that the options left in. The default.
	Both Mode = iota
	// LocalOnly does not talk to Redis: the cache of one process. Invalidations reach nobody else.
	LocalOnly
	// RemoteOnly asks Redis for everything.
	RemoteOnly
	// Off loads at every call; loads of one key at a time are still shared.
	Off
)

// String returns "both", "local-only", "remote-only" or "off".
func (m Mode) String() string {
	switch m {
	case Both:
		return "both"
	case LocalOnly:
		return "local-only"
	case RemoteOnly:
		return "remote-only"
	case Off:
		return "off"
	}
	return "invalid"
}

// New returns a cache called name, 1 to 128 bytes of letters, digits and . _ - / :. It starts a goroutine that follows
// invalidations, which connects in the background, and the process's coarse clock: Close ends them. Until the subscription
// stands, and whenever it does not, Redis is asked for everything.
//
// All instances of a cache, which share the name and the client's key prefix, must have the same type V and codec. The error
// lists everything that is wrong with the options. The client is not closed by the cache; it may be nil with [WithoutRemote].
func New[K comparable, V any](client *core.Client, name string, opts ...Option) (*Cache[K, V], error) {
	cfg := defaults()
	for _, o := range opts {
		if o != nil {
			o.apply(&cfg)
		}
	}
	if !cfg.negativeSet {
		cfg.negative = min(cfg.ttl/10, 30*time.Second)
	}
	if cfg.sieWhen == nil {
		cfg.sieWhen = func(error) bool { return true }
	}
	err := cfg.validate()
	if client == nil && cfg.remote {
		err = errors.Join(errors.New("redisx: cache: nil client; make one with core.New, or use WithoutRemote"), err)
	}
	keys, keyErr := newKeyCodec[K]()
	ring, ringErr := newKeyring(cfg.keys)
	if len(cfg.keys) == 0 {
		if cfg.keys != nil {
			ringErr = errors.New("redisx: cache: WithEncryption without a key")
		} else {
			ring, ringErr = nil, nil
		}
	}
	var codec *bytesOf[V]
	var codecErr error
	if cfg.codec != nil && cfg.remote {
		codec, codecErr = newBytes[V](cfg.codec, cfg.compressAbove, cfg.compressBy, ring, cfg.maxValue)
	}
	naming := client
	if naming == nil {
		naming = nowhere
	}
	_, nameErr := naming.NewKeyspace("cache", name)
	err = errors.Join(nameErr, err, keyErr, ringErr, codecErr)
	if err != nil {
		return nil, err
	}
	if !cfg.remote {
		client = nil
	}
	e := &engine[K, V]{keys: keys, bytes: codec}
	h := &hub{cfg: &cfg, name: name, client: client, clock: cfg.clock, stat: newCounters()}
	e.hub = h
	h.queue.hub, h.queue.kicks = h, make(chan struct{}, 1)
	if e.root, err = e.newScope(); err != nil {
		return nil, err
	}
	h.queue.root = e.root.gens[0]
	h.drop = e.dropName
	if client != nil {
		if h.feed, err = e.newFeed(); err != nil {
			return nil, err
		}
	}
	if cfg.local {
		lc := localConfig[K, entry[V]]{onEvict: e.evicted}
		if cfg.localBytes > 0 {
			lc.weight, lc.weigh = uint64(cfg.localBytes), func(e *entry[V]) uint32 { return e.weight }
		} else {
			lc.entries = cfg.entries
		}
		lc.hashOf = (*entry[V]).hash
		if e.local, err = newTier[K, V](lc); err != nil {
			return nil, err
		}
	}
	e.shadows = make(chan struct{}, 4)
	if cfg.maxLoads > 0 {
		e.sem = make(chan struct{}, cfg.maxLoads)
	}
	e.watch = cfg.mutation != nil || cfg.shadow > 0
	h.ctx, h.cancel = context.WithCancel(context.Background())
	if h.clock == nil {
		h.clock = acquireClock()
	}
	if client != nil {
		h.router, _ = client.Driver().(driver.Router)
		e.follow()
	}
	h.start(e.housekeeping)
	c := &Cache[K, V]{engine: e, scope: e.root}
	if e.local != nil {
		c.near = e.local.own
	}
	return c, nil
}

// follow starts the feed.
func (e *engine[K, V]) follow() {
	f := e.feed
	if f == nil {
		return
	}
	e.word.Store(1)
	e.start(func() {
		err := f.run(e.ctx)
		if e.ctx.Err() == nil {
			e.client.Logger().Error("cache: no invalidations can be received here; Redis is asked for everything", "cache", e.name, "coherence", e.cfg.coherence.String(), "error", err)
		}
	})
}

// newFeed returns what tells of changes, or nil.
func (e *engine[K, V]) newFeed() (feed, error) {
	tags := e.root.tagKs.Prefix()
	switch e.cfg.coherence {
	case Tracking:
		return newTrackingFeed(e.client, e.base, tags, e.hub)
	case PubSub:
		return newPubSubFeed(e.client, e.name, e.base, tags, e.hub)
	}
	return nil, nil
}

// newScope makes the scope of a tenant, or without parts that of the cache as a whole.
func (e *engine[K, V]) newScope(parts ...string) (*scope, error) {
	s := &scope{id: e.nextID.Add(1), parts: parts}
	var leases core.Keyspace
	var err1, err2, err3 error
	client := e.client
	if client == nil {
		client = nowhere // the names are those of the local tier
	}
	s.values, err1 = client.NewKeyspace("cache", e.name)
	leases, err2 = client.NewKeyspace("cache-lease", e.name)
	s.tagKs, err3 = client.NewKeyspace("cache-tag", e.name)
	if err1 != nil {
		return nil, err1
	}
	if err := errors.Join(err2, err3); err != nil { // no room for the longer names of the others
		return nil, err
	}
	if len(parts) == 0 {
		e.base, e.leaseBase = s.values.Prefix(), leases.Prefix()
		s.gens = []*tagState{e.state(s.tagKs.Key("g"))}
	} else {
		s.gens = append(s.gens, e.root.gens...)
		for _, part := range parts {
			s.values, s.tagKs = s.values.Scoped(part), s.tagKs.Scoped(part)
			s.gens = append(s.gens, e.state(s.tagKs.Key("g")))
		}
	}
	s.bumps = e.state(s.tagKs.Key("b"))
	s.bumps.fixed.Store(true)
	for _, g := range s.gens {
		g.fixed.Store(true)
	}
	return s, nil
}

// Scoped returns the cache of a tenant: its keys, tags and Clear are its own, whatever the strings are. Clear of the cache it
// came from clears it too. Scopes nest at most 3 deep. What is remembered of a scope, some hundred bytes, stays until Close.
// The local tier has its bound once for the cache itself and once for all scopes together.
func (c *Cache[K, V]) Scoped(tenant string) *Cache[K, V] {
	if v, ok := c.scope.children.Load(tenant); ok {
		return v.(*Cache[K, V])
	}
	parts := append(append([]string(nil), c.scope.parts...), tenant)
	s, err := c.newScope(parts...)
	switch {
	case err != nil: // the names were accepted before
		s = &scope{err: err}
	case len(parts) >= maxGens:
		s.err = fmt.Errorf("redisx: cache: scopes are nested %d deep; want at most %d", len(parts), maxGens-1)
	}
	made := &Cache[K, V]{engine: c.engine, scope: s}
	if s.err != nil {
		return made
	}
	// First where invalidations look: nobody may hold anything of a scope that they do not find.
	path := s.values.Key("")
	v, _ := c.scopes.LoadOrStore(path[len(c.base):len(path)-1], made) // %s<escaped scopes>%i, or a hash
	c.scope.children.Store(tenant, v)
	return v.(*Cache[K, V])
}

// hit returns the entry of a key if it is valid and fresh: the way of almost all calls. No lock, no clock but one load, no
// allocation.
func (c *Cache[K, V]) hit(key K) *entry[V] {
	var e *entry[V]
	var ok bool
	switch {
	case c.near != nil:
		e, ok = c.near.get(key)
	case c.local != nil:
		e, ok = c.local.get(localKey[K]{c.scope.id, key})
	}
	if !ok || c.clock.now() >= e.fresh || e.word != c.word.Load() || !e.deps.valid() {
		return nil
	}
	return e
}

// Peek returns what the local tier has, fresh and valid, without asking Redis. Negative entries are not found.
func (c *Cache[K, V]) Peek(key K) (V, bool) {
	if e := c.hit(key); e != nil && !c.watch && !e.negative() {
		c.stat.add(statLocalHits)
		return e.value, true
	}
	var zero V
	if !c.watch {
		return zero, false
	}
	e := c.hit(key)
	if e == nil || e.negative() || !c.unchanged(key, e) {
		return zero, false
	}
	return e.value, true
}

// Get returns a value from either tier, if it is there and fresh. ok is false for a miss, and for a negative entry, which
// is an [ErrNotFound]. Any other error says that Redis could not be asked; it may be core.ErrUnavailable.
func (c *Cache[K, V]) Get(ctx context.Context, key K) (value V, ok bool, err error) {
	if e := c.hit(key); e != nil && !c.watch {
		if e.negative() {
			c.stat.add(statLocalNegative)
			return value, false, ErrNotFound
		}
		c.stat.add(statLocalHits)
		return e.value, true, nil
	}
	return c.getSlow(ctx, key)
}

// GetOrLoad returns a value from either tier, or loads it. All who ask for a key at the same time, in all processes, share
// one load. It returns [ErrNotFound] if the loader did, a *[PanicError] if it panicked, and otherwise the loader's error as
// it is. Redis failing is never the caller's problem: then the loader is called, once per key and process.
//
// A function value made at the call, such as a method value, costs an allocation even for a hit; bind it once, with [Wrap].
func (c *Cache[K, V]) GetOrLoad(ctx context.Context, key K, load func(ctx context.Context, key K) (V, error)) (V, error) {
	if e := c.hit(key); e != nil && !c.watch {
		if e.negative() {
			c.stat.add(statLocalNegative)
			var zero V
			return zero, ErrNotFound
		}
		c.stat.add(statLocalHits)
		return e.value, nil
	}
	return c.getOrLoadPlain(ctx, key, load)
}

//go:noinline
func (c *Cache[K, V]) getOrLoadPlain(ctx context.Context, key K, load func(ctx context.Context, key K) (V, error)) (V, error) {
	if load == nil {
		var zero V
		return zero, errNoLoader
	}
	return c.getOrLoadSlow(ctx, key, func(ctx context.Context, l *Load[K, V]) (V, error) { return load(ctx, l.key) })
}

var errNoLoader = errors.New("redisx: cache: nil loader")

// GetOrLoadWith is GetOrLoad with a loader that can say how its value is kept; see [Load].
func (c *Cache[K, V]) GetOrLoadWith(ctx context.Context, key K, load func(ctx context.Context, l *Load[K, V]) (V, error)) (V, error) {
	if e := c.hit(key); e != nil && !c.watch {
		if e.negative() {
			c.stat.add(statLocalNegative)
			var zero V
			return zero, ErrNotFound
		}
		c.stat.add(statLocalHits)
		return e.value, nil
	}
	if load == nil {
		var zero V
		return zero, errNoLoader
	}
	return c.getOrLoadSlow(ctx, key, load)
}

// SetMode chooses the tiers in use from now on, for all scopes. A tier that the options left out stays out: a mode without any
// tier is [Off]. What the local tier holds is dropped.
func (c *Cache[K, V]) SetMode(m Mode) error {
	if m < Both || m > Off {
		return fmt.Errorf("redisx: cache: mode is %d; want Both, LocalOnly, RemoteOnly or Off", m)
	}
	c.mode.Store(int32(m))
	c.everything()
	if c.local != nil {
		c.local.deleteAll()
	}
	c.emit("mode", m.String(), 1)
	return nil
}

// Mode returns what SetMode set.
func (c *Cache[K, V]) Mode() Mode { return Mode(c.mode.Load()) }

func (e *engine[K, V]) remoteOn() bool {
	m := Mode(e.mode.Load())
	return e.client != nil && (m == Both || m == RemoteOnly)
}

func (e *engine[K, V]) localOn() bool {
	m := Mode(e.mode.Load())
	return e.local != nil && (m == Both || m == LocalOnly)
}

// Close ends loads under way and the subscription, and waits for everything the cache started; for loaders that ignore the
// end of their context, 5 s. Calls fail with [ErrClosed] from then on. Invalidations that wait for Redis get one last try of a
// second; the error says how many were lost. It is idempotent, and closes all scopes.
func (c *Cache[K, V]) Close() error {
	c.closeOnce.Do(func() { c.closeErr = c.close() })
	return c.closeErr
}

func (e *engine[K, V]) close() error {
	var err error
	if e.client != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if n := e.queue.last(ctx); n > 0 {
			err = fmt.Errorf("redisx: cache: %d invalidations could not be delivered", n)
		}
		cancel()
	}
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.cancel()
	e.word.Add(2)
	if !e.ended(closePatience) {
		err = errors.Join(err, fmt.Errorf("redisx: cache: a loader ignores its context and still runs after %v", closePatience))
	}
	if e.local != nil {
		e.local.close()
	}
	e.word.Add(2)
	if e.cfg.clock == nil {
		e.clock.release()
	}
	return err
}

// closePatience is how long Close waits for loaders whose context it has ended.
const closePatience = 5 * time.Second

// ended waits for what the cache started, within a time.
func (h *hub) ended(within time.Duration) bool {
	done := make(chan struct{})
	go func() {
		h.run.Wait()
		close(done)
	}()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// dropName removes what the local tier has under the name of a value.
func (e *engine[K, V]) dropName(name string) {
	if e.local == nil {
		return
	}
	if e.keys.reversible {
		if path, id, ok := e.parse(name); ok {
			scope := e.root.id
			if path != "" {
				v, ok := e.scopes.Load(path)
				if !ok {
					return // nobody here has asked for anything of it
				}
				scope = v.(*Cache[K, V]).scope.id
			}
			if key, ok := e.keys.decode(id); ok {
				e.local.delete(localKey[K]{scope, key})
			}
			return
		}
	}
	e.local.deleteHash(hashString(name))
}

func (e *engine[K, V]) evicted(_ K, _ *entry[V], cause evictCause) {
	if cause == evictedSize {
		e.stat.add(statEvictions)
	}
}

// target is a key with its names.
type target[K comparable] struct {
	key   localKey[K]
	id    string
	keys  valueKeys
	hash  uint64 // of the name if the key cannot be had from it
	shard uint64
	st    *stripe
}

func (c *Cache[K, V]) target(key K) (t target[K], err error) {
	if c.scope.err != nil {
		return t, c.scope.err
	}
	if c.isClosed() {
		return t, ErrClosed
	}
	id, err := c.keys.encode(key)
	if err != nil {
		return t, err
	}
	name := c.scope.values.Key(id)
	t = target[K]{key: localKey[K]{c.scope.id, key}, id: id, keys: c.keysOf(name)}
	h := hashString(name)
	t.st, t.shard = &c.stripes[h%stripes], h/stripes%flightShards
	if !c.keys.reversible || strings.HasPrefix(name[len(c.base):], "%h") {
		t.hash = h
	}
	return t, nil
}

// tag returns the state of a tag.
func (c *Cache[K, V]) tag(name string) *tagState {
	if v, ok := c.scope.tags.Load(name); ok && !v.(*tagState).gone.Load() {
		return v.(*tagState)
	}
	s := c.state(c.scope.tagKs.Key("t:" + name))
	c.scope.tags.Store(name, s)
	return s
}

// sweepTags forgets tags if there are too many.
func (e *engine[K, V]) sweepTags() {
	if !e.sweepStates() {
		return
	}
	forget := func(s *scope) {
		s.tags.Range(func(name, v any) bool {
			if v.(*tagState).gone.Load() {
				s.tags.Delete(name)
			}
			return true
		})
	}
	forget(e.root)
	e.scopes.Range(func(_, v any) bool {
		forget(v.(*Cache[K, V]).scope)
		return true
	})
}

// nowhere lends names to caches without Redis.
var nowhere = func() *core.Client {
	c, err := core.New(noDriver{})
	if err != nil {
		panic(err)
	}
	return c
}()

type noDriver struct{}

func (noDriver) Do(context.Context, driver.Cmd) driver.Reply { return driver.ErrReply(core.ErrClosed) }
func (noDriver) DoMulti(_ context.Context, cmds []driver.Cmd) []driver.Reply {
	out := make([]driver.Reply, len(cmds))
	for i := range out {
		out[i] = driver.ErrReply(core.ErrClosed)
	}
	return out
}
func (noDriver) Caps(context.Context) (driver.Caps, error) { return driver.Caps{}, core.ErrClosed }
func (noDriver) Unwrap() any                               { return nil }
func (noDriver) Close() error                              { return nil }
