package cache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// sink is who a feed tells what happened to the keys of its cache: the engine. A name is a full Redis key.
//
// Calls of one feed never overlap. They come from a goroutine that receives, so that a slow one delays all behind it, and
// must not call run. A name may share memory with the whole message it came in: clone what is kept.
type sink interface {
	// confirmed and lost alternate, and either may be the first; until then nothing may be trusted. Whatever changes between
	// confirmed and the next lost is told; what changed before confirmed may not have been. A gap that was found late is a
	// lost with a confirmed right behind it.
	confirmed()
	lost(reason error)

	// changed tells that the key of a value was written, deleted, evicted or has expired, or, for a name that ends in "}:w",
	// that those who wait for its value should look. It may come more than once, and also while lost. Own changes are told too
	// under Tracking; under PubSub only those of unknown outcome, so that the engine sees to L1 before and after an own change.
	changed(name string)

	// tagChanged tells that a key of the tags' keyspace changed. Version is its new one, or 0 if that is not known. Versions
	// of concurrent changes may arrive in any order: the greatest is the newest.
	tagChanged(name string, version uint64)

	// everything tells that every key may have changed: FLUSHALL, FLUSHDB.
	everything()
}

// feed carries changes between the caches of all processes. It is safe for concurrent use.
//
// An own change goes like this, in this order, for any feed:
//
//	sampled := f.expect(name)                 // Tracking: watch for the echo of this one
//	m := f.message(kindChanged, name)         // PubSub: take a sequence number; the zero message under Tracking
//	if f.inline() {
//		// the script that changes the key also calls PUBLISH f.channel() m.payload (for kindTag followed by the version)
//		f.done(m, err)
//	} else {
//		// change the key, then:
//		f.publish(ctx, m, version)            // or f.done(m, err) with the reason if the key was certainly not changed
//	}
//	if sampled { f.wrote(name, changed) }
//
// Ask inline once for each change: its answer may become true when the server becomes known.
type feed interface {
	// run receives until ctx ends, and returns ctx.Err(); it is called once. Another error, which lost was told before, means
	// that this feed can never work here: no RESP3, no CLIENT TRACKING, the driver was closed.
	run(ctx context.Context) error

	// message returns what to publish about a change of these keys, which are not yet changed. Every message with a sequence
	// number is followed by exactly one publish or done: others wait for that to know whether they missed one. For kindTag
	// all names get the one version. Without names it is the zero message.
	message(kind messageKind, names ...string) message
	// wake returns what to publish so that those who wait for a fill look; name is the key that ends in "}:w". It has no
	// sequence number, needs no done, and nobody misses it if it is lost.
	wake(name string) message

	// inline reports whether the scripts that change keys publish by themselves (PUBLISH), atomically with the change. With
	// false the engine calls publish behind the acknowledged change: in Cluster, until the server is known, and under Tracking.
	inline() bool
	// channel is where to publish; "" under Tracking.
	channel() string
	// publish sends a message about a change that was acknowledged, or may have happened. After an error the feed goes on
	// trying by itself, ahead of its next heartbeat: the error is for information. Under Tracking, and for the zero
	// message, it does nothing. Version is appended for kindTag, 0 if it is not known; it is ignored otherwise.
	publish(ctx context.Context, m message, version uint64) error
	// done tells the outcome of an inline publish, or that there will be none: nil means that it was published, anything else
	// that nobody should wait for it.
	done(m message, err error)

	// expect asks, before an own write of name, whether the feed wants to see its echo. If it reports true, wrote follows.
	expect(name string) bool
	// wrote tells what became of the write: changed is true only if the server acknowledged that it wrote or deleted the key.
	wrote(name string, changed bool)

	// stats returns counts since the start.
	stats() feedStats
}

// messageKind says what the names of a message are.
type messageKind byte

const (
	// kindChanged is for keys of values.
	kindChanged messageKind = 'c'
	// kindTag is for keys of tags, Clear versions and counters; the new version follows the payload in decimal.
	kindTag messageKind = 't'

	kindWake      messageKind = 'w'
	kindHeartbeat messageKind = 'h'
)

// message is something to publish. The zero value is nothing.
type message struct {
	// payload is what to publish; for kindTag a prefix of it, to be followed by the version in decimal digits.
	payload string
	seq     uint64 // 0 for messages nobody would miss
	kind    messageKind
}

// feedStats counts what a feed did.
type feedStats struct {
	// received are names told by others or by the server; sent are messages that were published.
	received, sent uint64
	// gaps are messages or echoes found missing; losses how often trust was lost, gaps included.
	gaps, losses uint64
	// malformed are messages that could not be read.
	malformed uint64
	// lag is how long the last own change or heartbeat took until it was told back; 0 if none was yet.
	lag time.Duration
}

type feedCounters struct {
	received, sent, gaps, losses, malformed atomic.Uint64
	lag                                     atomic.Int64
}

func (c *feedCounters) stats() feedStats {
	return feedStats{
		received: c.received.Load(), sent: c.sent.Load(), gaps: c.gaps.Load(), losses: c.losses.Load(),
		malformed: c.malformed.Load(), lag: time.Duration(c.lag.Load()),
	}
}

const (
	// heartbeatEvery is how often a sender tells what it has sent, echoWithin how long it may take until something of one's
	// own comes back, and watchEvery how often that is looked at.
	heartbeatEvery = time.Second
	echoWithin     = 3 * time.Second
	watchEvery     = 250 * time.Millisecond
	// outcomeWithin is how long a feed waits to be told what became of a change that was announced.
	outcomeWithin = time.Minute
)

var (
	errMissedMessages = errors.New("redisx: cache: invalidation messages were missed")
	errNoEcho         = errors.New("redisx: cache: own changes are not reported back")
)

// trust keeps confirmed and lost of a sink in turn, and its calls apart.
type trust struct {
	engine   sink
	counters *feedCounters

	mu      sync.Mutex // held during every call of the sink
	told    bool
	trusted bool
}

// confirm and lose are called with mu held.
func (t *trust) confirm() {
	if !t.trusted {
		t.told, t.trusted = true, true
		t.engine.confirmed()
	}
}

func (t *trust) lose(reason error) {
	if t.trusted || !t.told {
		t.told, t.trusted = true, false
		t.counters.losses.Add(1)
		t.engine.lost(reason)
	}
}

func (t *trust) locked(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
}

// restartable runs something that listens until ctx ends, and starts it again when asked to.
type restartable struct {
	mu     sync.Mutex
	cancel context.CancelCauseFunc
}

// restart ends what runs at present for a reason; it is started again.
func (r *restartable) restart(reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cancel != nil {
		r.cancel(reason)
	}
}

// run calls listen again and again until ctx ends, or it fails for a reason other than a restart. Lost is told the reason.
func (r *restartable) run(ctx context.Context, listen func(context.Context) error, lost func(error)) error {
	for {
		inner, cancel := context.WithCancelCause(ctx)
		r.mu.Lock()
		r.cancel = cancel
		r.mu.Unlock()
		err := listen(inner)
		reason := context.Cause(inner)
		cancel(nil)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if reason == nil { // nobody ended it: it cannot work
			lost(err)
			return err
		}
		lost(reason)
	}
}

// every calls f at a steady pace until ctx ends.
func every(ctx context.Context, d time.Duration, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}
