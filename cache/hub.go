package cache

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// hub is what a cache knows of the world outside: whether it is told of changes, what changed, what time it is on the
// servers, and what it still has to tell them. It knows nothing of the types of keys and values.
type hub struct {
	cfg    *config
	name   string
	client *core.Client
	router driver.Router
	clock  *clock
	stat   *counters
	feed   feed // nil: nobody tells us

	// base is what the keys of values begin with, up to the brace; leaseBase the same for leases.
	base, leaseBase string
	// drop removes what the local tier holds under the name of a value.
	drop func(name string)

	// word is even while every change is known to reach us. What the local tier holds is valid under one word only: it
	// changes when messages may have been missed, when they come again, and when everything changed.
	word atomic.Uint64
	// seq orders what happens in this process: starts of loads, news of tags.
	seq     atomic.Uint64
	stripes [stripes]stripe
	tombs   atomic.Int64

	states     sync.Map // full key → *tagState
	stateCount atomic.Int64

	offsets  sync.Map // node → *offset
	topology atomic.Int32

	warned atomic.Int64 // when it was logged last that values are not stored, clock ns

	queue queue

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	run    sync.WaitGroup
	mu     sync.Mutex
	closed bool
}

const stripes = 1024

// stripe holds what has to be known of keys that changed, for one of 1024 parts of them.
type stripe struct {
	epoch atomic.Uint64 // grows with every change of one of the keys
	mu    sync.Mutex
	tombs map[string]tomb
	wakes map[string][]chan struct{}
	_     [64 - 8 - 8 - 16]byte
}

// tomb remembers an invalidation by this process. What Redis has under the name is not trusted while the invalidation waits
// in the queue, and afterwards only if it was written later: a failover may bring back what was deleted.
type tomb struct {
	stamp   int64 // server time of the invalidation in µs; what was written then or before is dead
	at      int64 // clock, ns
	pending bool
}

const (
	tombAge  = time.Minute
	maxTombs = 1 << 16
	// replayAge is how far back a failover may reach: invalidations of that time are made again once the subscription stands.
	replayAge = 5 * time.Second
)

func (h *hub) stripe(name string) *stripe {
	return &h.stripes[hashString(name)%stripes]
}

// trusted reports whether a word says that every change reaches us.
func trusted(word uint64) bool { return word&1 == 0 }

// start runs f in the background unless the cache is closed; Close waits for it.
func (h *hub) start(f func()) bool {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return false
	}
	h.run.Add(1)
	h.mu.Unlock()
	go func() {
		defer h.run.Done()
		f()
	}()
	return true
}

func (h *hub) isClosed() bool { return h.ctx.Err() != nil }

// confirmed, lost, changed, tagChanged and everything make the hub the sink of a feed.

func (h *hub) confirmed() {
	for {
		w := h.word.Load()
		if trusted(w) {
			return
		}
		if h.word.CompareAndSwap(w, w+1) {
			break
		}
	}
	h.emit("coherence", "confirmed", 1)
	h.replay()
	h.queue.kick()
}

func (h *hub) lost(reason error) {
	for {
		w := h.word.Load()
		if !trusted(w) {
			return
		}
		if h.word.CompareAndSwap(w, w+1) {
			break
		}
	}
	h.offsets.Clear() // another server may answer from now on
	h.stat.add(statLost)
	h.emit("coherence", "lost", 1)
	if h.client != nil && !h.isClosed() {
		h.client.Logger().Warn("cache: invalidations may have been missed; asking Redis until the subscription is back", "cache", h.name, "reason", reason)
	}
}

func (h *hub) everything() {
	h.word.Add(2)
	for i := range h.stripes {
		h.stripes[i].epoch.Add(1)
	}
	h.states.Range(func(_, v any) bool {
		v.(*tagState).forget(h)
		return true
	})
	h.stat.add(statToldAll)
}

func (h *hub) changed(name string) {
	if len(name) < len(h.base) {
		return
	}
	switch part := name[len(name)-2:]; part {
	case ":w": // a load that others waited for has ended
		h.stripe(name[:len(name)-2]).wake(name[:len(name)-2])
		return
	case ":x": // a load was invalidated before it ended
		name = name[:len(name)-2]
	}
	h.stat.add(statToldKeys)
	h.invalidate(name)
}

// invalidate forgets what this process knows of a value. Loads and reads under way keep nothing of what they find.
func (h *hub) invalidate(name string) {
	st := h.stripe(name)
	st.epoch.Add(1)
	h.drop(name)
	st.wake(name)
}

func (h *hub) tagChanged(name string, version uint64) {
	h.stat.add(statToldTags)
	if v, ok := h.states.Load(name); ok {
		v.(*tagState).changed(h, version)
	}
}

// await returns a channel that is closed when something happens to a name, and how to stop waiting.
func (st *stripe) await(name string) (<-chan struct{}, func()) {
	ch := make(chan struct{})
	st.mu.Lock()
	if st.wakes == nil {
		st.wakes = map[string][]chan struct{}{}
	}
	st.wakes[name] = append(st.wakes[name], ch)
	st.mu.Unlock()
	return ch, func() {
		st.mu.Lock()
		defer st.mu.Unlock()
		waiting := st.wakes[name]
		for i := range waiting {
			if waiting[i] == ch {
				waiting[i] = waiting[len(waiting)-1]
				waiting = waiting[:len(waiting)-1]
				break
			}
		}
		if len(waiting) == 0 {
			delete(st.wakes, name)
		} else {
			st.wakes[name] = waiting
		}
	}
}

func (st *stripe) wake(name string) {
	st.mu.Lock()
	waiting := st.wakes[name]
	delete(st.wakes, name)
	st.mu.Unlock()
	for _, ch := range waiting {
		close(ch)
	}
}

// bury remembers an invalidation by this process; the stamp is 0 as long as it was not acknowledged. Only the queue, see
// delivered, makes one that is pending another: an invalidation that was acknowledged may have happened before it.
func (h *hub) bury(name string, stamp int64, pending bool) {
	st := h.stripe(name)
	st.mu.Lock()
	defer st.mu.Unlock()
	old, had := st.tombs[name]
	if !had {
		if st.tombs == nil {
			st.tombs = map[string]tomb{}
		}
		if h.tombs.Add(1) > maxTombs && !pending {
			for victim, t := range st.tombs { // any of the stripe: the bound matters more than which
				if !t.pending {
					delete(st.tombs, victim)
					h.tombs.Add(-1)
					break
				}
			}
		}
	}
	st.tombs[name] = tomb{stamp: max(old.stamp, stamp), at: h.clock.precise(), pending: pending || old.pending}
}

// delivered notes that an invalidation that waited in the queue is done.
func (h *hub) delivered(name string, stamp int64) {
	st := h.stripe(name)
	st.mu.Lock()
	if t, ok := st.tombs[name]; ok {
		t.pending = false
		st.tombs[name] = t
	}
	st.mu.Unlock()
	h.bury(name, stamp, false)
}

// unbury forgets an invalidation that a Clear will make up for.
func (h *hub) unbury(name string) {
	st := h.stripe(name)
	st.mu.Lock()
	defer st.mu.Unlock()
	if _, ok := st.tombs[name]; ok {
		delete(st.tombs, name)
		h.tombs.Add(-1)
	}
}

// dead reports whether a value that was written at a time was invalidated by this process later, or may have been.
func (h *hub) dead(name string, stamp int64) bool {
	if h.tombs.Load() == 0 {
		return false
	}
	st := h.stripe(name)
	st.mu.Lock()
	t, ok := st.tombs[name]
	st.mu.Unlock()
	return ok && (t.pending || stamp <= t.stamp)
}

// pending reports whether an invalidation of the name waits in the queue.
func (h *hub) pending(name string) bool {
	if h.tombs.Load() == 0 {
		return false
	}
	st := h.stripe(name)
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.tombs[name].pending
}

// sweep drops tombs that are old.
func (h *hub) sweep() {
	if h.tombs.Load() == 0 {
		return
	}
	oldest := h.clock.precise() - int64(tombAge)
	for i := range h.stripes {
		st := &h.stripes[i]
		st.mu.Lock()
		for name, t := range st.tombs {
			if !t.pending && t.at < oldest {
				delete(st.tombs, name)
				h.tombs.Add(-1)
			}
		}
		st.mu.Unlock()
	}
}

// offset is how far a server's clock is ahead of ours.
type offset struct {
	mu      sync.Mutex
	micros  int64
	rtt, at int64 // of the sample, clock ns
}

const offsetAge = int64(time.Minute)

// clustered reports whether keys may be on several nodes; until the server is known they may.
func (h *hub) clustered(ctx context.Context) bool {
	switch h.topology.Load() {
	case topologySingle:
		return false
	case topologyCluster:
		return true
	}
	caps, err := h.client.Caps(ctx)
	switch {
	case err != nil:
		return true
	case caps.Topology == driver.Cluster:
		h.topology.Store(topologyCluster)
		return true
	}
	h.topology.Store(topologySingle)
	return false
}

const (
	topologySingle = iota + 1
	topologyCluster
)

func (h *hub) node(key string) string {
	if h.router == nil {
		return ""
	}
	return h.router.Node(key)
}

// learn takes the server's time out of a reply to a command about a key.
func (h *hub) learn(key string, stamp, sent int64) {
	if stamp == 0 {
		return
	}
	received := h.clock.precise()
	v, ok := h.offsets.Load(h.node(key))
	if !ok {
		v, _ = h.offsets.LoadOrStore(h.node(key), &offset{})
	}
	o := v.(*offset)
	o.mu.Lock()
	if rtt := received - sent; o.at == 0 || rtt <= o.rtt || received-o.at > offsetAge {
		o.micros, o.rtt, o.at = stamp-(sent+rtt/2)/1000, rtt, received
	}
	o.mu.Unlock()
}

// moment is a time on our clock, in ns, and the same on the server of a key, in µs; 0 if it has to be asked.
type moment struct{ local, server int64 }

func (h *hub) momentAt(key string) moment {
	m := moment{local: h.clock.precise()}
	v, ok := h.offsets.Load(h.node(key))
	if !ok {
		return m
	}
	o := v.(*offset)
	o.mu.Lock()
	defer o.mu.Unlock()
	if m.local-o.at <= 2*offsetAge {
		m.server = m.local/1000 + o.micros
	}
	return m
}

// timed reports whether the time on the server of a key is known.
func (h *hub) timed(key string) bool { return h.momentAt(key).server != 0 }

var timeArgs = []string{"TIME"}

func timeCmd(key string) driver.Cmd {
	return driver.Cmd{Args: timeArgs, Near: key, Mode: driver.ReadOnly}
}

// timeOf reads the reply to TIME, in µs.
func timeOf(r driver.Reply) int64 {
	list, err := r.List()
	if err != nil || len(list) != 2 {
		return 0
	}
	s, err1 := list[0].Int64()
	us, err2 := list[1].Int64()
	if err1 != nil || err2 != nil {
		return 0
	}
	return s*1_000_000 + us
}

// emit tells hooks of an event of this cache.
func (h *hub) emit(name, kind string, value float64) {
	if h.client != nil && h.client.Hooked() {
		h.client.Emit(context.Background(), &core.Event{Plugin: "cache", Name: name, Instance: h.name, Kind: kind, Value: value})
	}
}

// valueKeys are the keys of one value: itself; its lease; w, which is there while somebody waits for a fill; x, which changes
// when something is deleted that is not there. Only the first is made before it is needed.
type valueKeys struct {
	v   string
	hub *hub
}

// keysOf returns the keys of a value by its name.
func (h *hub) keysOf(name string) valueKeys { return valueKeys{v: name, hub: h} }

func (k valueKeys) l() string { return k.hub.leaseBase + k.v[len(k.hub.base):] }
func (k valueKeys) w() string { return k.v + ":w" }
func (k valueKeys) x() string { return k.v + ":x" }

// parse takes the name of a value apart: what stands for its scopes ("" for none) and the id. ok is false for names that do
// not hold the id, since it is too long.
func (h *hub) parse(name string) (scopes, id string, ok bool) {
	if !strings.HasPrefix(name, h.base) || !strings.HasSuffix(name, "}") {
		return "", "", false
	}
	tag := name[len(h.base) : len(name)-1]
	switch {
	case strings.HasPrefix(tag, "%h"):
		return "", "", false
	case strings.HasPrefix(tag, "%s"):
		i := strings.Index(tag, "%i")
		if i < 0 {
			return "", "", false
		}
		return tag[:i+2], unescape(tag[i+2:]), true
	case tag == "%":
		return "", "", true
	}
	return "", unescape(tag), true
}

func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	return unescaper.Replace(s)
}

var unescaper = strings.NewReplacer("%25", "%", "%7B", "{", "%7D", "}")
