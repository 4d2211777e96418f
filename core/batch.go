package core

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// A lane is the way to one node. It is where group commit happens: throughput on a Redis server is decided by how many
// commands share a socket write, so at most maxInFlight calls to the driver are under way in a lane, and what arrives
// meanwhile leaves together with the next. A command that finds the lane free goes at once, on its caller's goroutine;
// there is no timer and nothing to tune. Lanes are per node, so that a node that stalls holds up nobody else's commands.
//
// A batch belongs to no caller: it runs on the command timeout alone, and a caller whose context ends leaves his slot
// behind. Each slot changes hands exactly once, by compare and swap: a caller that leaves before the batch was formed is
// never sent; one that leaves later gets "outcome unknown", and his slot is not used again.
type lane struct {
	client  *clientState
	breaker breaker
	// used is set by every command and taken back by sweep.
	used atomic.Bool

	mu       sync.Mutex
	queue    []*slot // not empty only while maxInFlight calls are under way
	inFlight int
	parked   []*worker
}

const (
	// maxInFlight calls of a lane overlap: one is written while the replies to another are read and a third one runs.
	// Measured with 2, 3, 4 and 6: fewer cost throughput at 16 callers, more make smaller batches and cost it at 128.
	maxInFlight = 3
	// A batch ends at either cap, so that neither a burst of commands nor a few large values delay those behind.
	maxBatch      = 512
	maxBatchBytes = 1 << 20
	// parkTime is how long a worker waits for more before it ends.
	parkTime = 10 * time.Second
)

// slot is one caller's command in a lane.
type slot struct {
	cmd   driver.Cmd
	reply driver.Reply
	done  chan struct{} // capacity 1
	state atomic.Uint32
}

const (
	slotQueued  = iota
	slotSent    // part of a batch
	slotLeft    // the caller is gone
	slotSettled // the reply is in
)

var slots = sync.Pool{New: func() any { return &slot{done: make(chan struct{}, 1)} }}

// worker sends batches of a lane, one at a time.
type worker struct {
	wake chan *slot // capacity 1: the first command of its next batch
	cmds []driver.Cmd
	at   []*slot
}

func newLane(s *clientState, node, near string) *lane {
	l := &lane{client: s}
	l.used.Store(true)
	l.breaker.client, l.breaker.node, l.breaker.near = s, node, near
	return l
}

// do sends a command through the lane. ctx is the caller's, limit the end of the command timeout.
func (l *lane) do(ctx, limit context.Context, cmd driver.Cmd) driver.Reply {
	if err := ctx.Err(); err != nil {
		return driver.ErrReply(driver.NotSent(err))
	}
	if l.enter() {
		// The lane is free: the caller goes himself. A worker between would cost a serial caller two wake-ups per command.
		defer l.leave() // also if something panics below
		return l.alone(ctx, limit, cmd)
	}
	s := slots.Get().(*slot)
	s.cmd = cmd
	s.state.Store(slotQueued)
	if !l.enqueue(s) {
		return driver.ErrReply(ErrClosed)
	}
	select {
	case <-s.done:
		return s.take()
	case <-ctx.Done():
		return s.abandon(ctx.Err())
	case <-limit.Done():
		return s.abandon(context.DeadlineExceeded)
	}
}

// alone is one command on the caller's goroutine.
func (l *lane) alone(ctx, limit context.Context, cmd driver.Cmd) driver.Reply {
	epoch, ok := l.breaker.begin()
	if !ok {
		return l.client.refusal(ctx)
	}
	within, release := sooner(ctx, limit)
	r := l.client.driver.Do(within, cmd)
	if release != nil {
		release()
	}
	l.breaker.record(ctx, epoch, r.Err())
	return r
}

// sooner returns a context that ends with the first of the two; limit has a deadline and nothing else.
func sooner(ctx, limit context.Context) (context.Context, context.CancelFunc) {
	if ctx.Done() == nil {
		return limit, nil
	}
	end, _ := limit.Deadline()
	if own, ok := ctx.Deadline(); ok && own.Before(end) {
		return ctx, nil
	}
	return context.WithDeadline(ctx, end)
}

// take returns the reply and gives the slot back.
func (s *slot) take() driver.Reply {
	r := s.reply
	s.cmd, s.reply = driver.Cmd{}, driver.Reply{}
	slots.Put(s)
	return r
}

// abandon leaves the slot to the lane, unless the reply has come meanwhile.
func (s *slot) abandon(err error) driver.Reply {
	if s.state.CompareAndSwap(slotQueued, slotLeft) {
		return driver.ErrReply(driver.NotSent(err))
	}
	if s.state.CompareAndSwap(slotSent, slotLeft) {
		return driver.ErrReply(driver.Unknown(err))
	}
	<-s.done
	return s.take()
}

// settle hands the reply to the caller, if he is still there. Afterwards the slot is not the lane's any more.
func (s *slot) settle(r driver.Reply) {
	s.reply = r
	if s.state.CompareAndSwap(slotSent, slotSettled) {
		s.done <- struct{}{}
	}
}

// enter takes a place in flight if the lane is free.
func (l *lane) enter() bool {
	l.mu.Lock()
	ok := l.inFlight < maxInFlight // then nothing is queued
	if ok {
		l.inFlight++
	}
	l.mu.Unlock()
	return ok
}

// idle reports whether nothing is under way.
func (l *lane) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inFlight == 0 && len(l.queue) == 0
}

// leave gives the place back, or passes it on to a worker if commands have queued meanwhile.
func (l *lane) leave() {
	l.mu.Lock()
	if len(l.queue) == 0 {
		l.inFlight--
		l.mu.Unlock()
		return
	}
	l.dispatch(nil)
}

// enqueue gives the slot to the lane: to a worker at once if a place in flight is free, else to the queue. It reports
// false if the client is closed.
func (l *lane) enqueue(s *slot) bool {
	l.mu.Lock()
	if l.inFlight >= maxInFlight {
		l.queue = append(l.queue, s)
		l.mu.Unlock()
		return true
	}
	l.inFlight++
	if l.dispatch(s) {
		return true
	}
	l.drain(ErrClosed) // and those who have queued meanwhile
	return false
}

// dispatch gives the place in flight, which the caller holds, to a worker. It is called with l.mu held and releases it.
func (l *lane) dispatch(s *slot) bool {
	if n := len(l.parked); n > 0 {
		w := l.parked[n-1]
		l.parked = l.parked[:n-1]
		l.mu.Unlock()
		w.wake <- s
		return true
	}
	l.mu.Unlock()
	if !l.client.start() {
		if s == nil {
			l.drain(ErrClosed)
		}
		return false
	}
	w := &worker{wake: make(chan *slot, 1)}
	go func() {
		defer l.client.running.Done()
		l.work(w, s)
	}()
	return true
}

// work sends batch after batch while there is something to send, then parks.
func (l *lane) work(w *worker, s *slot) {
	idle := time.NewTimer(parkTime)
	defer idle.Stop()
	for {
		for l.form(w, s) {
			s = nil
			l.send(w)
		}
		// form has given the place back and parked the worker.
		idle.Reset(parkTime)
		select {
		case s = <-w.wake:
			continue
		case <-idle.C:
		case <-l.client.closing:
		}
		if l.unpark(w) {
			return
		}
		s = <-w.wake // somebody was faster
	}
}

// unpark takes the worker off the list of the parked; false means that it was woken meanwhile.
func (l *lane) unpark(w *worker) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, p := range l.parked {
		if p == w {
			l.parked = append(l.parked[:i], l.parked[i+1:]...)
			return true
		}
	}
	return false
}

// form makes the next batch: first, then what has queued. If there is nothing it parks the worker and returns false.
func (l *lane) form(w *worker, first *slot) bool {
	w.cmds, w.at = w.cmds[:0], w.at[:0]
	bytes := 0
	if first != nil {
		bytes = l.add(w, first, bytes)
	}
	for {
		l.mu.Lock()
		n := 0
		for n < len(l.queue) && len(w.at) < maxBatch && bytes < maxBatchBytes {
			bytes = l.add(w, l.queue[n], bytes)
			n++
		}
		l.consume(n)
		if len(w.at) > 0 {
			l.mu.Unlock()
			return true
		}
		if len(l.queue) == 0 {
			l.inFlight--
			l.parked = append(l.parked, w)
			l.mu.Unlock()
			return false
		}
		l.mu.Unlock() // everybody in this batch had left
	}
}

// consume drops the first n of the queue, keeping the order and the array.
func (l *lane) consume(n int) {
	if n == 0 {
		return
	}
	rest := copy(l.queue, l.queue[n:])
	clear(l.queue[rest:])
	l.queue = l.queue[:rest]
}

// add puts the slot into the batch unless its caller has left.
func (l *lane) add(w *worker, s *slot, bytes int) int {
	if !s.state.CompareAndSwap(slotQueued, slotSent) {
		return bytes
	}
	w.cmds = append(w.cmds, s.cmd)
	w.at = append(w.at, s)
	for _, a := range s.cmd.Args {
		bytes += len(a)
	}
	return bytes
}

// send sends the batch and settles its slots.
func (l *lane) send(w *worker) {
	epoch, ok := l.breaker.begin()
	if !ok {
		l.settleAll(w, l.client.refusal(context.Background()))
		return
	}
	limit := l.client.batches.context()
	if len(w.cmds) == 1 {
		r := l.client.driver.Do(limit, w.cmds[0])
		l.breaker.end(epoch, r.Err())
		l.release(limit, w)
		w.at[0].settle(r)
		return
	}
	replies := l.client.driver.DoMulti(limit, w.cmds)
	l.retryReads(limit, w, replies)
	l.breaker.end(epoch, verdict(replies))
	l.release(limit, w)
	for i, s := range w.at {
		s.settle(replies[i])
	}
}

// release makes sure that nothing of the batch is overwritten that the driver may still read: it may, if it was called
// back in the middle.
func (l *lane) release(limit context.Context, w *worker) {
	if limit.Err() != nil {
		w.cmds = nil
		return
	}
	clear(w.cmds)
}

// retryReads sends those commands of a broken batch again that may be: one connection carried them all, and the driver's
// own retry does not apply to a list with writes in it.
func (l *lane) retryReads(limit context.Context, w *worker, replies []driver.Reply) {
	var again []driver.Cmd
	var at []int
	for i := range replies {
		err := replies[i].Err()
		if err == nil || w.cmds[i].Mode != driver.ReadOnly {
			continue
		}
		if op, ok := errors.AsType[*driver.OpError](err); ok && !op.Timeout() && limit.Err() == nil {
			again, at = append(again, w.cmds[i]), append(at, i)
		}
	}
	if len(again) == 0 || len(again) == len(replies) {
		return // nothing to do, or the driver has tried already
	}
	for i, r := range l.client.driver.DoMulti(limit, again) {
		replies[at[i]] = r
	}
}

func (l *lane) settleAll(w *worker, r driver.Reply) {
	for _, s := range w.at {
		s.settle(r)
	}
}

// drain fails everything that is queued, and gives the caller's place in flight back.
func (l *lane) drain(err error) {
	l.mu.Lock()
	queue := l.queue
	l.queue = nil
	l.inFlight--
	l.mu.Unlock()
	for _, s := range queue {
		if s.state.CompareAndSwap(slotQueued, slotSent) {
			s.settle(driver.ErrReply(err))
		}
	}
}
