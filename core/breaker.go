package core

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// breaker refuses commands to a node that answers nobody. Closed, it counts failures in a row. Open, it refuses at once,
// while one goroutine sends PING in the background; the first answer closes it. No caller is ever used as a probe, and a
// result that belongs to a call from before the opening changes nothing.
type breaker struct {
	client *clientState
	node   string
	// near is some key that the node served when its lane was made, to send the PING to it.
	near string

	failures atomic.Int32
	// unanswered counts calls in a row that ended with their caller's own deadline; doubting is true while a PING looks
	// into it.
	unanswered atomic.Int32
	doubting   atomic.Bool
	// epoch is even while closed, odd while open; results carry the epoch they began in.
	epoch atomic.Uint32
	mu    sync.Mutex // serialises transitions
}

// begin returns the epoch for a call, and whether it may go on.
func (b *breaker) begin() (epoch uint32, ok bool) {
	epoch = b.epoch.Load()
	return epoch, epoch&1 == 0
}

// end records the outcome of a call that began in an epoch.
func (b *breaker) end(epoch uint32, err error) {
	if err == nil {
		b.alive(epoch)
		return
	}
	if class := Classify(err); class.dead() || answered(err) {
		b.fail(epoch, class)
	}
}

// opinion is what a pipeline says of its node: any answer, an error reply included, counts as life; what was cancelled, invalid
// or not sent because the client closed says nothing.
type opinion struct {
	alive bool
	err   error
}

func (o *opinion) add(err error) {
	switch {
	case o.alive:
	case err == nil:
		o.alive, o.err = true, nil
	case Classify(err).dead():
		o.err = err
	case answered(err):
		o.alive, o.err = true, nil
	case o.err == nil || Classify(o.err) == ClassOther:
		o.err = err
	}
}

func verdict(replies []driver.Reply) error {
	var o opinion
	for i := range replies {
		if o.add(replies[i].Err()); o.alive {
			break
		}
	}
	return o.err
}

// record is end for a call that ran on its caller's context.
func (b *breaker) record(ctx context.Context, epoch uint32, err error) {
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		b.impatient(epoch)
		return
	}
	b.end(epoch, err)
}

// alive forgets the failures: the node has answered.
func (b *breaker) alive(epoch uint32) {
	if b.failures.Load() != 0 && b.epoch.Load() == epoch {
		b.failures.Store(0)
	}
	if b.unanswered.Load() != 0 {
		b.unanswered.Store(0)
	}
}

// impatient records a call that its caller's context ended. One of them says nothing of the server, but many in a row
// without any answer between ask for a PING that has the whole command timeout: if that fails too the breaker opens.
func (b *breaker) impatient(epoch uint32) {
	if b.client.noBreaker || epoch&1 == 1 || int(b.unanswered.Add(1)) < b.client.breakerConfig.Failures {
		return
	}
	if b.doubting.Load() || b.epoch.Load() != epoch || b.doubting.Swap(true) || !b.client.start() {
		return
	}
	go func() {
		defer b.client.running.Done()
		defer b.doubting.Store(false)
		class := Classify(b.ping(b.client.timeout))
		switch {
		case !class.dead():
			b.alive(epoch)
			select { // a caller whose deadlines are too short for this server must not double its load
			case <-b.client.closing:
			case <-time.After(jitter(b.client.breakerConfig.ProbeInterval)):
			}
		case int(b.unanswered.Load()) >= b.client.breakerConfig.Failures: // still nothing
			b.open(epoch, class)
		}
	}()
}

// ping asks the node for a sign of life.
func (b *breaker) ping(timeout time.Duration) error {
	near, ok := b.key()
	if !ok {
		return nil // there is no such node any more, nor anybody who would ask it
	}
	ctx, cancel := context.WithTimeout(b.client.closingCtx, timeout)
	defer cancel()
	return b.client.driver.Do(ctx, driver.Cmd{Args: []string{"PING"}, Near: near, Mode: driver.ReadOnly}).Err()
}

// key returns a key that the node serves now; false if it serves none. The slot of the one the lane was made for may have moved.
func (b *breaker) key() (string, bool) {
	if b.node == "" || b.client.router == nil {
		return b.near, true
	}
	if node := b.client.router.Node(b.near); node == b.node || node == "" {
		return b.near, true
	}
	for i := range driver.Slots {
		if key := strconv.Itoa(i); b.client.router.Node(key) == b.node {
			return key, true
		}
	}
	return "", false
}

func (b *breaker) fail(epoch uint32, class Class) {
	switch class {
	case ClassCanceled, ClassClosed, ClassBreakerOpen, ClassOther: // these say nothing of the server
		return
	}
	if b.client.noBreaker || epoch&1 == 1 || b.epoch.Load() != epoch {
		return
	}
	if !class.dead() {
		b.alive(epoch)
		return
	}
	if int(b.failures.Add(1)) >= b.client.breakerConfig.Failures {
		b.open(epoch, class)
	}
}

func (b *breaker) open(epoch uint32, why Class) {
	b.mu.Lock()
	opened := b.epoch.Load() == epoch && b.client.start()
	if opened {
		b.epoch.Store(epoch + 1)
	}
	b.mu.Unlock()
	if !opened {
		return
	}
	b.client.logger.Warn("redisx: circuit breaker opened", append(b.attrs(), "reason", why.String())...)
	b.client.emit(Event{Plugin: "core", Name: EventBreaker, Instance: b.node, Kind: "open", Value: 1})
	go func() {
		defer b.client.running.Done()
		b.probe()
	}()
}

// probe sends PING until it is answered or the client closes.
func (b *breaker) probe() {
	interval := b.client.breakerConfig.ProbeInterval
	timer := time.NewTimer(jitter(interval))
	defer timer.Stop()
	for {
		select {
		case <-b.client.closing:
			return
		case <-timer.C:
		}
		// Longer than a command may take, so that a server which is slow but alive is found again.
		switch class := Classify(b.ping(max(b.client.timeout, time.Second))); {
		case class == ClassClosed || class == ClassCanceled:
			return // the client is closing
		case !class.dead():
			b.close()
			return
		}
		interval = min(interval*2, b.client.breakerConfig.MaxProbeInterval)
		timer.Reset(jitter(interval))
	}
}

func (b *breaker) close() {
	b.mu.Lock()
	b.failures.Store(0)
	b.unanswered.Store(0)
	b.epoch.Add(1) // odd to even: one probe for each opening
	b.mu.Unlock()
	b.client.logger.Info("redisx: circuit breaker closed", b.attrs()...)
	b.client.emit(Event{Plugin: "core", Name: EventBreaker, Instance: b.node, Kind: "closed", Value: 1})
}

// attrs are what a log line says of the breaker.
func (b *breaker) attrs() []any {
	attrs := []any{"client", b.client.name}
	if b.node != "" {
		attrs = append(attrs, "node", b.node)
	}
	return attrs
}

// jitter is d give or take a fifth, so that a fleet does not knock all at once.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(d*2/5+1)
}
