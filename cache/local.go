package cache

import (
	"errors"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/maypok86/otter/v2"
)

// localConfig says what a local is bounded by, either entries or weight, and whom it tells.
type localConfig[K comparable, E any] struct {
	entries int    // at most that many entries, or 0
	weight  uint64 // at most that much weight, or 0
	weigh   func(*E) uint32

	// hashOf returns the hash that an entry was stored with, 0 if it is not in the index; nil if none is.
	hashOf func(*E) uint64
	// onEvict is told of every entry that leaves, except by replacement, deleteAll and close. It runs under the lock of a
	// part of the table: it must be short and must not call the local. May be nil.
	onEvict func(K, *E, evictCause)
}

// evictCause is why an entry left.
type evictCause uint8

const (
	evictedSize    evictCause = iota + 1 // no room
	evictedDeleted                       // delete, deleteHash, compute or sweep
)

// local is L1: a bounded map that keeps what is asked for most (W-TinyLFU). It knows nothing of time and of validity; those
// are in the entries, and entries that are dead stay until somebody overwrites, deletes or sweeps them, or until there is no
// room. A local starts no goroutine but, now and then, a short one for the order of eviction. It is safe for concurrent use.
type local[K comparable, E any] struct {
	gen   atomic.Pointer[generation[K, E]]
	cfg   localConfig[K, E]
	tasks tasks

	resets sync.Mutex // deleteAll, close
	cursor struct {
		sync.Mutex
		gen  *generation[K, E]
		next func() (K, *E, bool)
		stop func()
	}
}

// generation is what deleteAll throws away as a whole. Whoever is at work in one that was thrown away does no harm: nobody
// looks there any more.
type generation[K comparable, E any] struct {
	store  otter.Cache[K, *E]
	index  index[K]
	gone   goneKeys[K]
	closed bool
}

// goneKeys are keys of the index whose entry left: see left.
type goneKeys[K comparable] struct {
	n    atomic.Int64 // len(keys)
	mu   sync.Mutex
	keys []goneKey[K]
}

type goneKey[K comparable] struct {
	hash uint64
	key  K
}

// tidyAt is how many keys without an entry the index may hold before somebody has to tidy it.
const tidyAt = 64

func newLocal[K comparable, E any](cfg localConfig[K, E]) (*local[K, E], error) {
	if (cfg.entries > 0) == (cfg.weight > 0) || cfg.entries < 0 {
		return nil, errors.New("redisx: cache: L1 is bounded by a number of entries or by a weight, one of them")
	}
	if cfg.weight > 0 && cfg.weigh == nil {
		return nil, errors.New("redisx: cache: an L1 that is bounded by a weight needs a weigher")
	}
	l := &local[K, E]{cfg: cfg}
	l.tasks.cond.L = &l.tasks.mu
	g, err := l.newGeneration()
	if err != nil {
		return nil, err
	}
	l.gen.Store(g)
	return l, nil
}

func (l *local[K, E]) newGeneration() (*generation[K, E], error) {
	g := &generation[K, E]{}
	o := &otter.Options[K, *E]{MaximumSize: l.cfg.entries, Executor: l.tasks.run}
	if l.cfg.weight > 0 {
		o.MaximumWeight = l.cfg.weight
		// An entry without weight would never be evicted.
		o.Weigher = func(_ K, e *E) uint32 { return max(1, l.cfg.weigh(e)) }
	}
	if l.cfg.hashOf != nil || l.cfg.onEvict != nil {
		o.OnAtomicDeletion = func(ev otter.DeletionEvent[K, *E]) { l.left(g, ev) }
	}
	store, err := otter.New(o)
	if err != nil {
		return nil, err
	}
	g.store = *store
	return g, nil
}

// left runs under the lock of the key's bucket, just before the entry is taken out of the table. It must not take the key
// out of the index: a deleteHash that came now would not find it, would not wait for that lock, and would return while readers
// still see the entry.
func (l *local[K, E]) left(g *generation[K, E], ev otter.DeletionEvent[K, *E]) {
	cause := evictedDeleted
	switch ev.Cause {
	case otter.CauseReplacement:
		return // compute saw both
	case otter.CauseOverflow:
		cause = evictedSize
	}
	if l.cfg.hashOf != nil {
		if h := l.cfg.hashOf(ev.Value); h != 0 {
			g.gone.add(h, ev.Key)
		}
	}
	if l.cfg.onEvict != nil {
		l.cfg.onEvict(ev.Key, ev.Value, cause)
	}
}

// get returns the entry of k. It counts for the order of eviction.
func (l *local[K, E]) get(k K) (*E, bool) {
	return l.gen.Load().store.GetIfPresent(k)
}

// compute replaces the entry of k by what fn returns, under a lock that no other compute and no deletion of k gets past: if
// keep, all stays as it is; else a new entry takes the place of old and nil deletes it. old is nil if there is none. fn must be
// short and must not call the local. It may not be called at all once the local is closed, and what it stores is lost if
// deleteAll overtakes it.
//
// A hash that is not 0 puts k into the index before fn is called, hence before fn checks whether something has changed:
// whoever marks a change and then calls deleteHash either finds k or is seen by fn. hashOf of the new entry must return it.
func (l *local[K, E]) compute(k K, hash uint64, fn func(old *E) (e *E, keep bool)) {
	g := l.gen.Load()
	if g.closed {
		return
	}
	g.store.Compute(k, func(old *E, found bool) (*E, otter.ComputeOp) {
		if hash != 0 {
			g.index.add(hash, k)
		}
		e, keep := fn(old)
		switch {
		case keep, e == nil && !found:
			if hash != 0 && !found {
				g.index.remove(hash, k)
			}
			return old, otter.CancelOp
		case e == nil:
			return nil, otter.InvalidateOp
		}
		return e, otter.WriteOp
	})
	g.tidy(tidyAt)
}

// delete drops the entry of k and reports whether there was one. It waits for a compute of k.
func (l *local[K, E]) delete(k K) bool {
	g := l.gen.Load()
	_, ok := g.store.Invalidate(k)
	g.tidy(tidyAt)
	return ok
}

// deleteHash drops the entries of the keys that are in the index with this hash, and returns how many there were.
func (l *local[K, E]) deleteHash(hash uint64) int {
	g := l.gen.Load()
	var room [4]K
	n := 0
	for _, k := range g.index.lookup(room[:0], hash) {
		if _, ok := g.store.Invalidate(k); ok {
			n++
		}
	}
	g.tidy(tidyAt)
	return n
}

// deleteAll drops everything, at the same cost whatever there is, and forgets what was asked for most. What a compute that
// began before stores afterwards is lost.
func (l *local[K, E]) deleteAll() {
	l.reset(false)
}

func (l *local[K, E]) reset(closed bool) {
	l.resets.Lock()
	if !l.gen.Load().closed {
		g, err := l.newGeneration()
		if err != nil { // the same options were accepted before
			panic(err)
		}
		g.closed = closed
		l.gen.Store(g)
	}
	l.resets.Unlock()
	l.cursor.Lock()
	l.endPass()
	l.cursor.Unlock()
}

// len returns the number of entries, dead ones included. It is an estimate while others write.
func (l *local[K, E]) len() int { return l.gen.Load().store.EstimatedSize() }

// weight returns the weight of all entries, 0 for a local that is bounded by entries.
func (l *local[K, E]) weight() uint64 { return l.gen.Load().store.WeightedSize() }

// sweep looks at no more than max entries, goes on where the last call stopped, and drops those that are dead and still in
// place. It returns how many it dropped and whether it has come to the end; the next call begins from the start then. It
// holds no lock that readers wait for, but deleteAll waits for it. Of two calls at a time the second does nothing. dead must
// not call sweep, deleteAll or close.
//
// A pass that is not over may keep alive what was deleted since it began: choose max so that a pass takes a few calls.
func (l *local[K, E]) sweep(dead func(*E) bool, max int) (dropped int, done bool) {
	if !l.cursor.TryLock() {
		return 0, false
	}
	defer l.cursor.Unlock()
	g := l.gen.Load()
	if g.closed {
		return 0, true
	}
	if l.cursor.gen != g {
		l.endPass()
		g.store.CleanUp() // what the last one left undone waits for the next read or write otherwise
		l.cursor.gen = g
		l.cursor.next, l.cursor.stop = iter.Pull2(g.store.All())
	}
	defer g.tidy(tidyAt)
	for range max {
		k, e, ok := l.cursor.next()
		if !ok {
			l.endPass()
			return dropped, true
		}
		if dead(e) && g.drop(k, e) {
			dropped++
		}
	}
	return dropped, false
}

// endPass forgets where sweep is. The cursor is locked.
func (l *local[K, E]) endPass() {
	if l.cursor.stop != nil {
		l.cursor.stop()
	}
	l.cursor.gen, l.cursor.next, l.cursor.stop = nil, nil, nil
}

// drop deletes the entry of k if it is still e.
func (g *generation[K, E]) drop(k K, e *E) (dropped bool) {
	g.store.Compute(k, func(old *E, _ bool) (*E, otter.ComputeOp) {
		if dropped = old == e; dropped {
			return nil, otter.InvalidateOp
		}
		return old, otter.CancelOp
	})
	return dropped
}

func (x *goneKeys[K]) add(hash uint64, k K) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.keys = append(x.keys, goneKey[K]{hash, k})
	x.n.Store(int64(len(x.keys)))
}

func (x *goneKeys[K]) take() []goneKey[K] {
	x.mu.Lock()
	defer x.mu.Unlock()
	keys := x.keys
	x.keys = nil
	x.n.Store(0)
	return keys
}

// tidy takes the keys that have no entry any more out of the index, if there are at least that many. The lock of the key's
// bucket keeps a compute from storing it meanwhile.
func (g *generation[K, E]) tidy(atLeast int64) {
	if g.gone.n.Load() < atLeast {
		return
	}
	for _, gone := range g.gone.take() {
		g.store.Compute(gone.key, func(old *E, found bool) (*E, otter.ComputeOp) {
			if !found {
				g.index.remove(gone.hash, gone.key)
			}
			return old, otter.CancelOp
		})
	}
}

// close drops everything and waits for the goroutines of the local. A closed local stays empty.
func (l *local[K, E]) close() {
	l.reset(true)
	l.tasks.close()
}

// tasks runs what otter wants done beside its callers, in goroutines that close waits for.
type tasks struct {
	mu     sync.Mutex
	cond   sync.Cond
	n      int
	closed bool
}

// run must not wait: otter calls it with its locks held. After close it runs fn at once, which otter allows.
func (t *tasks) run(fn func()) {
	if !t.begin() {
		fn()
		return
	}
	go func() {
		defer t.end()
		fn()
	}()
}

func (t *tasks) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.n++
	return true
}

func (t *tasks) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n--
	if t.n == 0 {
		t.cond.Broadcast()
	}
}

func (t *tasks) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for t.n > 0 {
		t.cond.Wait()
	}
}

// indexShards is a power of two.
const indexShards = 64

// index finds the keys that L1 holds by the hash of their id, where the key cannot be had from the id. One hash leads to
// several keys if they have the same id, or by chance: then a change of one drops the others too, which costs a read of L2
// and nothing else. The zero value is empty. It is safe for concurrent use.
type index[K comparable] struct {
	shards [indexShards]indexShard[K]
}

type indexShard[K comparable] struct {
	mu   sync.Mutex
	one  map[uint64]K
	more map[uint64][]K // further keys of a hash
	_    [40]byte
}

func (x *index[K]) shard(hash uint64) *indexShard[K] { return &x.shards[hash%indexShards] }

// add puts k into the index; once, however often it is called.
func (x *index[K]) add(hash uint64, k K) {
	s := x.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	first, ok := s.one[hash]
	switch {
	case !ok:
		if s.one == nil {
			s.one = map[uint64]K{}
		}
		s.one[hash] = k
		return
	case first == k:
		return
	}
	for _, other := range s.more[hash] {
		if other == k {
			return
		}
	}
	if s.more == nil {
		s.more = map[uint64][]K{}
	}
	s.more[hash] = append(s.more[hash], k)
}

// remove takes k out of the index.
func (x *index[K]) remove(hash uint64, k K) {
	s := x.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	more := s.more[hash]
	if first, ok := s.one[hash]; ok && first == k {
		if len(more) == 0 {
			delete(s.one, hash)
			return
		}
		s.one[hash] = more[len(more)-1]
		s.setMore(hash, more[:len(more)-1])
		return
	}
	for i, other := range more {
		if other == k {
			more[i] = more[len(more)-1]
			s.setMore(hash, more[:len(more)-1])
			return
		}
	}
}

func (s *indexShard[K]) setMore(hash uint64, more []K) {
	if len(more) == 0 {
		delete(s.more, hash)
		return
	}
	clear(more[len(more):cap(more)])
	s.more[hash] = more
}

// lookup appends the keys of a hash to dst.
func (x *index[K]) lookup(dst []K, hash uint64) []K {
	s := x.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if first, ok := s.one[hash]; ok {
		dst = append(append(dst, first), s.more[hash]...)
	}
	return dst
}
