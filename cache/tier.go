package cache

import "sync"

// tier is the local tier: the values of the cache itself by their keys, and those of its scopes by scope and key, which take
// a few nanoseconds more to find. Each of the two is bounded as the options say; the second is made when it is needed.
type tier[K comparable, V any] struct {
	own *local[K, entry[V]]
	cfg localConfig[K, entry[V]]

	mu     sync.RWMutex
	scoped *local[localKey[K], entry[V]]
	closed bool
}

// rootScope is the id of the scope that is the cache as a whole.
const rootScope = 1

func newTier[K comparable, V any](cfg localConfig[K, entry[V]]) (*tier[K, V], error) {
	own, err := newLocal(cfg)
	return &tier[K, V]{own: own, cfg: cfg}, err
}

// others returns the part for the scopes, nil if there is none and make is false, or if the tier is closed.
func (t *tier[K, V]) others(create bool) *local[localKey[K], entry[V]] {
	t.mu.RLock()
	l := t.scoped
	t.mu.RUnlock()
	if l != nil || !create {
		return l
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.scoped == nil && !t.closed {
		cfg := localConfig[localKey[K], entry[V]]{entries: t.cfg.entries, weight: t.cfg.weight, weigh: t.cfg.weigh, hashOf: t.cfg.hashOf}
		if told := t.cfg.onEvict; told != nil {
			cfg.onEvict = func(k localKey[K], e *entry[V], cause evictCause) { told(k.key, e, cause) }
		}
		t.scoped, _ = newLocal(cfg) // the same bounds were accepted before
	}
	return t.scoped
}

func (t *tier[K, V]) get(k localKey[K]) (*entry[V], bool) {
	if k.scope == rootScope {
		return t.own.get(k.key)
	}
	if l := t.others(false); l != nil {
		return l.get(k)
	}
	return nil, false
}

func (t *tier[K, V]) compute(k localKey[K], hash uint64, fn func(old *entry[V]) (*entry[V], bool)) {
	if k.scope == rootScope {
		t.own.compute(k.key, hash, fn)
		return
	}
	if l := t.others(true); l != nil {
		l.compute(k, hash, fn)
	}
}

func (t *tier[K, V]) delete(k localKey[K]) {
	if k.scope == rootScope {
		t.own.delete(k.key)
	} else if l := t.others(false); l != nil {
		l.delete(k)
	}
}

func (t *tier[K, V]) deleteHash(hash uint64) {
	t.own.deleteHash(hash)
	if l := t.others(false); l != nil {
		l.deleteHash(hash)
	}
}

func (t *tier[K, V]) deleteAll() {
	t.own.deleteAll()
	if l := t.others(false); l != nil {
		l.deleteAll()
	}
}

func (t *tier[K, V]) len() int {
	n := t.own.len()
	if l := t.others(false); l != nil {
		n += l.len()
	}
	return n
}

func (t *tier[K, V]) weight() uint64 {
	n := t.own.weight()
	if l := t.others(false); l != nil {
		n += l.weight()
	}
	return n
}

func (t *tier[K, V]) sweep(dead func(*entry[V]) bool) {
	t.own.sweep(dead, max(sweepSlice, t.own.len()/30))
	if l := t.others(false); l != nil {
		l.sweep(dead, max(sweepSlice, l.len()/30))
	}
}

func (t *tier[K, V]) close() {
	t.mu.Lock()
	t.closed = true
	l := t.scoped
	t.mu.Unlock()
	t.own.close()
	if l != nil {
		l.close()
	}
}
