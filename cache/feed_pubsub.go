package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// pubSubFeed carries changes over one channel of Redis Pub/Sub. That delivers at most once and tells nobody of what it
// dropped, so that messages have numbers: see sender and receiver. On a server without Cluster the scripts that change a
// key publish too, atomically. In Cluster the engine publishes after the change, by SPUBLISH if the server has it; a process
// that dies between the two leaves the others with what they have until it is too old.
//
// In Cluster every process has to see the same kind of server: some on Redis 6.2 and others on 7 would use two channels.
type pubSubFeed struct {
	client *core.Client
	sub    driver.Subscriber
	ch     string
	values string
	tags   string

	counters feedCounters
	to       trust
	again    restartable
	way      atomic.Int32
	out      sender
	beat     chan struct{} // asks for a heartbeat now

	// Guarded by to.mu:
	in         receiver
	wire       wireMessage
	subscribed bool
	echoed     time.Time // when the heartbeat was sent that came back last, or the subscription began
	silent     bool      // they did not come back in time, and shall before anything is trusted

	mu      sync.Mutex
	unheard time.Time // when the first heartbeat was acknowledged behind the one that came back last; zero if none was
	heard   time.Time // when that one was sent
	sendErr error     // why the last one was not acknowledged
}

// The ways to publish.
const (
	wayUnknown int32 = iota
	wayInline
	wayPublish
	waySharded
)

var errNoSubscriber = errors.New("redisx: cache: the driver has no Pub/Sub (driver.Subscriber); choose another coherence")

// newPubSubFeed returns a feed over one channel of the cache called name. It listens to what is said of keys that begin with
// values or tags.
func newPubSubFeed(client *core.Client, name, values, tags string, s sink) (feed, error) {
	sub, ok := client.Driver().(driver.Subscriber)
	if !ok {
		return nil, errNoSubscriber
	}
	keys, err := client.NewKeyspace("cache-inv", name)
	if err != nil {
		return nil, err
	}
	f := &pubSubFeed{
		// The hash tag spreads the channels of several caches over the nodes of a Cluster.
		client: client, sub: sub, ch: keys.Key(name), values: values, tags: tags, beat: make(chan struct{}, 1),
	}
	f.to = trust{engine: s, counters: &f.counters}
	_, _ = rand.Read(f.out.id[:]) // never fails
	return f, nil
}

func (f *pubSubFeed) run(ctx context.Context) error {
	if err := f.learn(ctx); err != nil {
		return err
	}
	var all sync.WaitGroup
	inner, cancel := context.WithCancel(ctx)
	all.Go(func() { every(inner, watchEvery, f.watch) })
	all.Go(func() { f.beats(inner) })
	defer all.Wait()
	defer cancel()
	return f.again.run(ctx, func(ctx context.Context) error {
		return f.sub.Subscribe(ctx, driver.Subscription{
			Channels: []string{f.ch}, Sharded: f.way.Load() == waySharded,
			OnMessage: f.received, OnConfirmed: f.confirmed, OnLost: f.lost,
		})
	}, f.lost)
}

// learn asks the server, until it answers, how to publish and subscribe.
func (f *pubSubFeed) learn(ctx context.Context) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		_, err := f.theWay(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.lost(err)
		if errors.Is(err, core.ErrClosed) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func (f *pubSubFeed) theWay(ctx context.Context) (int32, error) {
	if way := f.way.Load(); way != wayUnknown {
		return way, nil
	}
	caps, err := f.client.Caps(ctx)
	if err != nil {
		return wayUnknown, err
	}
	way := wayInline
	if caps.Topology == driver.Cluster {
		way = wayPublish
		if caps.Has("SSUBSCRIBE") && caps.Has("SPUBLISH") {
			way = waySharded
		}
	}
	f.way.Store(way)
	return way, nil
}

func (f *pubSubFeed) confirmed() {
	f.to.locked(func() {
		f.subscribed, f.echoed = true, time.Now()
		f.heardOne(time.Time{})
		f.in.begin(f.echoed)
		if !f.silent {
			f.to.confirm()
		}
	})
	f.hurry()
}

func (f *pubSubFeed) lost(reason error) {
	f.to.locked(func() {
		f.subscribed = false
		f.to.lose(reason)
	})
}

// hurry has the next heartbeat sent now.
func (f *pubSubFeed) hurry() {
	select {
	case f.beat <- struct{}{}:
	default:
	}
}

// received handles a message from the channel.
func (f *pubSubFeed) received(_, payload string) {
	f.to.mu.Lock()
	defer f.to.mu.Unlock()
	m := &f.wire
	if m.parse(payload) != nil || !f.ours(m) {
		f.counters.malformed.Add(1)
		return
	}
	own := m.sender == f.out.id
	now := time.Now()
	if m.kind == kindHeartbeat {
		if f.in.heartbeat(m.sender, m.seq, m.spans, now) {
			f.gap()
		}
		if own {
			f.echo(now, m.beat)
		}
		return
	}
	if m.seq != 0 && f.in.message(m.sender, m.seq, now) {
		f.gap()
	}
	if own && m.kind == kindChanged && f.out.knows(m.seq) {
		return // or every Set would take its own value out of L1
	}
	f.counters.received.Add(uint64(len(m.names)))
	for _, name := range m.names {
		if m.kind == kindTag {
			f.to.engine.tagChanged(name, m.version)
		} else {
			f.to.engine.changed(name)
		}
	}
}

// ours reports whether all keys of a message are of this cache.
func (f *pubSubFeed) ours(m *wireMessage) bool {
	prefix := f.values
	if m.kind == kindTag {
		prefix = f.tags
	}
	for _, name := range m.names {
		if !strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return true
}

func (f *pubSubFeed) gap() {
	f.counters.gaps.Add(1)
	if f.to.trusted {
		f.to.lose(errMissedMessages)
		f.to.confirm()
	}
}

// echo notes that a heartbeat came back. One that took long is none: who is seconds behind is not coherent.
func (f *pubSubFeed) echo(now time.Time, beat uint64) {
	sent, ok := f.out.beatSent(beat)
	f.heardOne(sent)
	if !ok || sent.Before(f.echoed) {
		return
	}
	f.echoed = sent
	f.counters.lag.Store(int64(now.Sub(sent)))
	if f.silent && f.subscribed && now.Sub(sent) <= echoWithin {
		f.silent = false
		f.to.confirm()
	}
}

func (f *pubSubFeed) heardOne(sent time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unheard, f.heard = time.Time{}, sent
}

// watch looks whether own heartbeats come back.
func (f *pubSubFeed) watch() {
	f.mu.Lock()
	unheard, sendErr := f.unheard, f.sendErr
	f.mu.Unlock()
	f.to.mu.Lock()
	defer f.to.mu.Unlock()
	now := time.Now()
	f.in.sweep(now)
	if !f.subscribed || now.Sub(f.echoed) <= echoWithin {
		return
	}
	reason := errNoEcho
	if sendErr != nil {
		reason = fmt.Errorf("%w: %w", errNoEcho, sendErr)
	}
	if f.to.trusted {
		f.counters.gaps.Add(1)
	}
	f.silent = true
	f.to.lose(reason)
	if !unheard.IsZero() && now.Sub(unheard) >= heartbeatEvery { // published, and nothing is heard: then it is the subscription
		f.subscribed = false
		f.again.restart(reason)
	}
}

// beats sends heartbeats until ctx ends.
func (f *pubSubFeed) beats(ctx context.Context) {
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-f.beat:
		}
		f.heartbeat(ctx)
	}
}

// heartbeat publishes what could not be published before, and then tells where this sender stands.
func (f *pubSubFeed) heartbeat(ctx context.Context) {
	for _, m := range f.out.due() {
		if f.send(ctx, m.payload) != nil {
			break
		}
		f.sent(m.seq)
	}
	now := time.Now()
	payload, resolved := f.out.heartbeat(now)
	err := f.send(ctx, payload)
	if err == nil {
		f.out.told(resolved)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sendErr = err
	if err == nil && f.unheard.IsZero() && f.heard.Before(now) { // it may have come back before its acknowledgement
		f.unheard = time.Now()
	}
}

// send publishes a payload. In Cluster all go to one node, which hands them on in their order.
func (f *pubSubFeed) send(ctx context.Context, payload string) error {
	way, err := f.theWay(ctx)
	if err != nil {
		return err
	}
	cmd := driver.Cmd{Args: []string{"PUBLISH", f.ch, payload}, Near: f.ch}
	if way == waySharded {
		cmd = driver.Cmd{Args: []string{"SPUBLISH", f.ch, payload}, Keys: driver.Key(1)}
	}
	return f.client.Do(ctx, cmd).Err()
}

func (f *pubSubFeed) sent(seq uint64) {
	f.out.published(seq)
	f.counters.sent.Add(1)
}

func (f *pubSubFeed) message(kind messageKind, names ...string) message {
	if len(names) == 0 {
		return message{}
	}
	seq := f.out.take(time.Now())
	return message{payload: encodeNames(kind, f.out.id, seq, names), seq: seq, kind: kind}
}

func (f *pubSubFeed) wake(name string) message {
	return message{payload: encodeNames(kindWake, f.out.id, 0, []string{name}), kind: kindWake}
}

func (f *pubSubFeed) inline() bool    { return f.way.Load() == wayInline }
func (f *pubSubFeed) channel() string { return f.ch }

func (f *pubSubFeed) publish(ctx context.Context, m message, version uint64) error {
	if m.payload == "" {
		return nil
	}
	payload := m.payload
	if m.kind == kindTag {
		payload += strconv.FormatUint(version, 10)
	}
	err := f.send(ctx, payload)
	switch {
	case m.seq == 0:
	case err == nil:
		f.sent(m.seq)
	default:
		f.out.publishLater(m.seq, payload)
	}
	return err
}

func (f *pubSubFeed) done(m message, err error) {
	switch {
	case m.seq == 0:
	case err == nil:
		f.sent(m.seq)
	default:
		f.out.avoid(m.seq)
	}
}

// Own messages that do not come back show without the engine.

func (f *pubSubFeed) expect(string) bool { return false }
func (f *pubSubFeed) wrote(string, bool) {}

func (f *pubSubFeed) stats() feedStats { return f.counters.stats() }
