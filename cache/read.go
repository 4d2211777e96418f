package cache

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// verdict says what may be done with an entry.
type verdict uint8

const (
	none    verdict = iota // nothing
	fresh                  // return it
	stale                  // return it to those who have a loader, while one load replaces it
	expired                // return it if a load fails
)

// judge says what may be done with an entry by its age alone.
func (c *engine[K, V]) judge(e *entry[V], now int64) verdict {
	switch {
	case now >= e.soft && (e.negative() || now >= e.soft+int64(max(c.cfg.swr, c.cfg.sie))):
		return none
	case e.flags&flagExpired != 0:
		if c.cfg.sie == 0 {
			return none
		}
		return expired
	case now < e.soft:
		return fresh
	case now < e.soft+int64(c.cfg.swr):
		return stale
	case now < e.soft+int64(c.cfg.sie):
		return expired
	}
	return none
}

// kept returns what the local tier has of a key, and what may be done with it. sure is false if invalidations may have been
// missed or it is too old to be used without asking Redis: it is for outages then.
func (c *Cache[K, V]) kept(t *target[K]) (e *entry[V], v verdict, sure bool) {
	if !c.localOn() {
		return nil, none, false
	}
	e, ok := c.local.get(t.key)
	if !ok || !e.deps.valid() {
		return nil, none, false
	}
	now, w := c.clock.precise(), c.word.Load()
	if v = c.judge(e, now); v == none {
		return nil, none, false
	}
	if !c.remoteOn() {
		return e, v, true
	}
	sure = e.word == w && now < e.local
	if !sure && c.cfg.untrustedStale > 0 && !trusted(w) && e.word == w-1 && e.more != nil {
		sure = now < e.local && now-e.more.at < int64(c.cfg.untrustedStale)
	}
	return e, v, sure
}

// found is what Redis has of a key.
type found[V any] struct {
	e *entry[V] // nil: nothing that may be used
	v verdict
	// known is how the value begins that is to be replaced, "" if there is none.
	known string
}

// reading is a read of Redis that several callers wait for.
type reading[V any] struct {
	epoch uint64
	done  chan struct{} // made by the first who waits
	found found[V]
	err   error
}

const flightShards = 256

// shard holds what is under way for one of 256 parts of the keys.
type shard[K comparable, V any] struct {
	mu     sync.Mutex
	reads  map[localKey[K]]*reading[V]
	loads  map[localKey[K]]*flight[K, V]
	pauses map[localKey[K]]pause
}

// pause is until when, in ns of the clock, something is not tried again for a key.
type pause struct{ refresh, load int64 }

// read returns what Redis has of a key. Callers at the same time share one command, unless the key changed in between.
func (c *Cache[K, V]) read(ctx context.Context, t *target[K]) (found[V], error) {
	sh := &c.shards[t.shard]
	for {
		sh.mu.Lock()
		r := sh.reads[t.key]
		if r != nil && r.epoch == t.st.epoch.Load() {
			if r.done == nil {
				r.done = make(chan struct{})
			}
			done := r.done
			sh.mu.Unlock()
			select {
			case <-done:
			case <-ctx.Done():
				return found[V]{}, ctx.Err()
			}
			if r.err != nil && isContext(r.err) || r.found.e != nil && !r.found.e.deps.valid() {
				if err := ctx.Err(); err != nil {
					return found[V]{}, err
				}
				continue // the one who asked has left, or a tag was invalidated since
			}
			c.stat.add(statReadsShared)
			return r.found, r.err
		}
		r = &reading[V]{epoch: t.st.epoch.Load()}
		if sh.reads == nil {
			sh.reads = map[localKey[K]]*reading[V]{}
		}
		sh.reads[t.key] = r
		sh.mu.Unlock()

		r.err = errPanicked
		defer func() { // also if a codec panics
			sh.mu.Lock()
			if sh.reads[t.key] == r {
				delete(sh.reads, t.key)
			}
			done := r.done
			sh.mu.Unlock()
			if done != nil {
				close(done)
			}
		}()
		r.found, r.err = c.fetch(ctx, t, r.epoch)
		return r.found, r.err
	}
}

var errPanicked = errors.New("redisx: cache: a read panicked")

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, core.ErrUnavailable)
}

// fetch asks Redis for a value. A hit is one command as long as the versions it depends on are known.
func (c *Cache[K, V]) fetch(ctx context.Context, t *target[K], epoch uint64) (found[V], error) {
	word := c.word.Load()
	get := driver.Cmd{Args: []string{"GET", t.keys.v}, Keys: driver.Key(1), Mode: driver.ReadOnly}
	timed := c.timed(t.keys.v)
	if timed && c.gensKnown(word) {
		r := c.client.Do(ctx, get)
		return c.opened(ctx, t, r, epoch, word, nil, c.momentAt(t.keys.v))
	}
	a := c.asking(c.scope.gens, word)
	cmds := append([]driver.Cmd{get}, a.cmds...)
	if !timed {
		cmds = append(cmds, timeCmd(t.keys.v))
	}
	start := c.clock.precise()
	replies := c.client.DoMulti(ctx, cmds)
	if !timed {
		c.learn(t.keys.v, timeOf(replies[len(replies)-1]), start)
	}
	return c.opened(ctx, t, replies[0], epoch, word, a.answered(c.hub, replies[1:]), c.momentAt(t.keys.v))
}

func (c *Cache[K, V]) gensKnown(word uint64) bool {
	for _, s := range c.scope.gens {
		if _, ok := s.known(c.hub, word); !ok {
			return false
		}
	}
	return true
}

// asking is a request for versions that travels with others.
type asking struct {
	// versions are those of all states asked about, as they were known before, or as the reply says; 0 if it failed.
	versions []uint64
	at       []int // of states in versions
	states   []*tagState
	epochs   []uint64
	cmds     []driver.Cmd
	word     uint64
	until    int64
}

// asking asks for those of the versions that are not known.
func (h *hub) asking(states []*tagState, word uint64) (a asking) {
	a.versions = make([]uint64, len(states))
	for i, s := range states {
		v, ok := s.known(h, word)
		if a.versions[i] = v; !ok {
			a.versions[i] = 0
			a.at = append(a.at, i)
			ttl := tagTTL(h.cfg.hard(h.cfg.ttl))
			a.word, a.until = word, h.clock.now()+int64(ttl/2)
			a.states, a.epochs = append(a.states, s), append(a.epochs, s.epochNow())
			a.cmds = append(a.cmds, versionCmd(s.name, ttl))
		}
	}
	return a
}

// answered takes the replies, and returns the versions that came.
func (a *asking) answered(h *hub, replies []driver.Reply) map[*tagState]uint64 {
	if len(a.states) == 0 {
		return nil
	}
	got := make(map[*tagState]uint64, len(a.states))
	for i, s := range a.states {
		if v, err := versionOf(replies[i]); err == nil {
			v = s.read(h, v, a.epochs[i], a.word, a.until)
			got[s], a.versions[a.at[i]] = v, v
		}
	}
	return got
}

// opened is what the reply to a GET says, and keeps it in the local tier.
func (c *Cache[K, V]) opened(ctx context.Context, t *target[K], r driver.Reply, epoch, word uint64, got map[*tagState]uint64, at moment) (found[V], error) {
	if r.IsNil() {
		return found[V]{}, nil
	}
	raw, err := r.Text()
	if err != nil {
		if core.Code(err) == "WRONGTYPE" {
			c.stat.add(statCodecErrors)
			return found[V]{}, nil // the fill overwrites it
		}
		return found[V]{}, err
	}
	f, err := c.open(ctx, t, raw, word, got, at)
	if err == nil && f.e != nil {
		c.keep(t, f.e, epoch, word)
	}
	return f, err
}

// open makes an entry of what Redis has, if it may be used.
func (c *Cache[K, V]) open(ctx context.Context, t *target[K], raw string, word uint64, got map[*tagState]uint64, at moment) (found[V], error) {
	f := found[V]{known: raw[:min(stampSize, len(raw))]}
	stamp, h, body, err := c.bytes.parse(t.keys.v, raw)
	if err != nil {
		c.codecError(err)
		return f, nil
	}
	if c.dead(t.keys.v, stamp) {
		return f, nil
	}
	d, err := c.check(ctx, &h, word, got)
	if err != nil {
		return found[V]{}, err
	}
	if d == nil {
		return f, nil
	}
	if at.server == 0 {
		start := c.clock.precise()
		c.learn(t.keys.v, timeOf(c.client.Do(ctx, timeCmd(t.keys.v))), start)
		if at = c.momentAt(t.keys.v); at.server == 0 {
			at.server = stamp // the hard time to live is what Redis keeps it for
		}
	}
	e := c.entryOf(&h, at.local-max(0, at.server-stamp)*1000, at.local)
	e.deps, e.stamp, e.word = c.shared(d), stamp, word
	e.weight = weightOf(len(raw))
	if f.v = c.judge(e, at.local); f.v == none {
		return f, nil
	}
	if e.value, err = c.bytes.decode(&h, body); err != nil {
		c.codecError(err)
		f.v = none
		return f, nil
	}
	c.finish(e, h.etag, t.hash)
	f.e = e
	return f, nil
}

// weightOf is what an entry weighs in the local tier, given the size of its bytes.
func weightOf(size int) uint32 { return uint32(min(size+100, 1<<31)) }

// entryOf sets the times of an entry: it was written at born, and comes into the local tier now.
func (c *engine[K, V]) entryOf(h *header, born, now int64) *entry[V] {
	e := &entry[V]{}
	if h.negative {
		e.flags |= flagNegative
	}
	if h.expired {
		e.flags |= flagExpired
	}
	e.soft = born + int64(h.soft)
	e.local = min(now+int64(c.cfg.localMaxAge), born+int64(c.hardOf(h)))
	e.fresh = min(e.soft, e.local)
	if h.refresh > 0 {
		e.fresh = min(e.fresh, born+int64(h.refresh))
	}
	if h.expired {
		e.fresh = 0
	}
	return e
}

// hardOf is how long a value is kept in all.
func (c *engine[K, V]) hardOf(h *header) time.Duration {
	if h.negative {
		return h.soft
	}
	return c.cfg.hard(h.soft)
}

func (c *engine[K, V]) codecError(err error) {
	c.stat.add(statCodecErrors)
	c.emit("codec_error", "decode", 1)
	if !errors.Is(err, errUnknownEnvelope) {
		c.client.Logger().Warn("cache: a value in Redis cannot be read; it is replaced", "cache", c.name, "error", err)
	}
}

// check returns the dependencies of a stored value, or nil if one of them has changed since. got are versions that came with
// the value.
func (c *Cache[K, V]) check(ctx context.Context, h *header, word uint64, got map[*tagState]uint64) (*deps, error) {
	gens := c.scope.gens
	if h.gens.n != len(gens) {
		return nil, nil
	}
	if len(h.tags) == 0 { // most of the time all entries have the same
		if d := c.scope.plain.Load(); d != nil && c.plainIs(d, h, word) {
			return d, nil
		}
	}
	d := &deps{list: make([]dep, 0, len(gens)+len(h.tags))}
	for i, s := range gens {
		d.list = append(d.list, dep{s, h.gens.v[i]})
	}
	for _, tag := range h.tags {
		d.list = append(d.list, dep{c.tag(tag.name), tag.version})
		d.tags = append(d.tags, tag.name)
	}
	var ask []*tagState
	for _, p := range d.list {
		v, ok := p.state.known(c.hub, word)
		if !ok {
			v, ok = got[p.state]
		}
		switch {
		case ok && v == p.ver:
		case ok && p.ver < v: // older than what we know, or an invalidation is under way
			return nil, nil
		default: // not known, or somebody knows more than we do
			if ok {
				p.state.forget(c.hub)
			}
			ask = append(ask, p.state)
		}
	}
	if len(ask) == 0 {
		return d, nil
	}
	versions, err := c.resolve(ctx, ask, word, 0)
	if err != nil {
		return nil, err
	}
	n := 0
	for _, p := range d.list {
		if n < len(ask) && ask[n] == p.state {
			if versions[n] != p.ver {
				return nil, nil
			}
			n++
		}
	}
	return d, nil
}

// plainIs reports whether the dependencies of the last entry without tags are those of another, and known to be valid.
func (c *Cache[K, V]) plainIs(d *deps, h *header, word uint64) bool {
	for i := range d.list {
		if d.list[i].ver != h.gens.v[i] {
			return false
		}
		if v, ok := d.list[i].state.known(c.hub, word); !ok || v != d.list[i].ver {
			return false
		}
	}
	return true
}

// shared returns one value for all dependencies that are alike, for those without tags.
func (c *Cache[K, V]) shared(d *deps) *deps {
	if len(d.tags) > 0 {
		return d
	}
	old := c.scope.plain.Load()
	if old != nil && len(old.list) == len(d.list) {
		same := true
		for i := range d.list {
			same = same && old.list[i] == d.list[i]
		}
		if same {
			return old
		}
	}
	c.scope.plain.Store(d)
	return d
}

// keep puts an entry into the local tier, unless its key may have changed since the epoch and the word were read.
func (c *Cache[K, V]) keep(t *target[K], e *entry[V], epoch, word uint64) {
	if !c.localOn() || c.feed != nil && !trusted(word) {
		return
	}
	c.insert(t, e, epoch, word)
}

func (c *Cache[K, V]) insert(t *target[K], e *entry[V], epoch, word uint64) {
	e.word = word
	c.local.compute(t.key, t.hash, func(old *entry[V]) (*entry[V], bool) {
		if t.st.epoch.Load() != epoch || c.word.Load() != word || old != nil && old.word == word && old.stamp > e.stamp {
			return nil, true
		}
		return e, false
	})
}
