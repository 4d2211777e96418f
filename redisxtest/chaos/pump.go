package chaos

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	pumpBuffer = 32 << 10
	pumpQueue  = 1 << 20 // what a pump holds back at most; then it stops reading
	pieceCost  = 128     // counted for a piece beside its bytes
)

// ending is how a stream of bytes ends.
type ending uint8

const (
	goesOn ending = iota
	ends          // as the source ended
	closes        // closed by a fault
	resets        // reset, by a fault or as the source was
)

// piece is some bytes on their way, or the end behind them.
type piece struct {
	buf     []byte
	sent    int // of buf
	arrived time.Time
	hold    time.Time // not before that
	share   float64   // of the span of latency
	end     ending
}

// past is a deadline that ends a read at once.
var past = time.Unix(1, 0)

// pump carries bytes in one direction. While there is no fault and no rule it hands on what it read, as it read it. It is
// one goroutine; others use kick and the atomics only.
type pump struct {
	c        *session
	dir      Direction
	src, dst net.Conn
	filter   func(b []byte) // calls emit; nil without rules

	queue  []piece // from first on
	first  int
	queued int
	spare  []byte
	now    time.Time // of the last read, while there is a fault
	hold   time.Time // of what is emitted from now on
	free   time.Time // when the line is free again, with a bandwidth
	nth    uint64    // pieces so far
	ended  bool      // nothing more is read

	discard atomic.Bool // what comes is dropped from here on; what is queued is not
	over    atomic.Bool // all is dropped, and dst is to be ended

	mu     sync.Mutex
	set    time.Time // the deadline of src
	kicked bool
	wake   chan struct{}
}

func newPump(c *session, dir Direction, src, dst net.Conn) *pump {
	return &pump{c: c, dir: dir, src: src, dst: dst, wake: make(chan struct{}, 1)}
}

// kick makes the pump look at what has changed.
func (p *pump) kick() {
	p.mu.Lock()
	p.kicked = true
	_ = p.src.SetReadDeadline(past) // fails if it is closed, which wakes the pump too
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// prepare sets the deadline of the next read; the zero time is none. It reports whether there was a kick instead.
func (p *pump) prepare(deadline time.Time) (kicked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kicked {
		p.kicked, p.set = false, past
		return true
	}
	if !p.set.Equal(deadline) {
		p.set = deadline
		_ = p.src.SetReadDeadline(deadline) // if it fails, so does the read
	}
	return false
}

func (p *pump) run() {
	buf := make([]byte, pumpBuffer)
	for {
		if p.filter == nil && p.first == len(p.queue) && !p.ended && p.c.state.Load() == nil {
			n, err := p.src.Read(buf)
			if err == nil && p.c.state.Load() == nil && !p.dropping() {
				if _, err = p.dst.Write(buf[:n]); err != nil {
					p.refused()
				}
				continue
			}
			p.took(buf[:n], err)
		}
		next, done := p.deliver()
		switch {
		case done:
			return
		case p.ended || p.queued >= pumpQueue:
			p.wait(next)
			continue
		case p.prepare(next):
			continue
		}
		n, err := p.src.Read(buf)
		p.took(buf[:n], err)
	}
}

// took takes what a read gave.
func (p *pump) took(b []byte, err error) {
	if len(b) > 0 && !p.dropping() {
		if p.now = (time.Time{}); p.c.state.Load() != nil {
			p.now = time.Now()
		}
		if p.filter != nil {
			p.filter(b)
		} else {
			p.emit(b)
		}
	}
	switch {
	case err == nil || errors.Is(err, os.ErrDeadlineExceeded):
	case errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe):
		p.ended = true
		p.end(ends)
	default:
		p.ended = true
		p.end(resets)
	}
}

func (p *pump) dropping() bool { return p.discard.Load() || p.over.Load() || p.c.dead.Load() }

// emit sends bytes on when it is time. They are copied.
func (p *pump) emit(b []byte) {
	if len(b) == 0 {
		return
	}
	p.queued += len(b)
	if last := len(p.queue) - 1; last >= p.first {
		tail := &p.queue[last]
		if tail.end == goesOn && tail.hold.Equal(p.hold) && tail.arrived.Equal(p.now) && len(tail.buf) < pumpBuffer {
			tail.buf = append(tail.buf, b...)
			return
		}
	}
	p.nth++
	p.queued += pieceCost
	p.push(piece{buf: append(p.spare[:0], b...), arrived: p.now, hold: p.hold, share: p.c.share(p.dir, p.nth)})
	p.spare = nil
}

// end ends the stream behind what was emitted.
func (p *pump) end(how ending) {
	p.queued += pieceCost
	p.push(piece{hold: p.hold, end: how})
}

// push puts a piece behind those that are queued. With a latency the queue of a busy connection is never empty: what is gone
// from its front must not stay for good.
func (p *pump) push(last piece) {
	if p.first >= 64 && p.first >= len(p.queue)/2 {
		n := copy(p.queue, p.queue[p.first:])
		clear(p.queue[n:])
		p.queue, p.first = p.queue[:n], 0
	}
	p.queue = append(p.queue, last)
}

// drop forgets what is queued.
func (p *pump) drop() { p.queue, p.first, p.queued = p.queue[:0], 0, 0 }

// pop takes the first piece off the queue.
func (p *pump) pop() {
	p.queued -= pieceCost
	p.spare = p.queue[p.first].buf
	p.queue[p.first] = piece{}
	if p.first++; p.first == len(p.queue) {
		p.queue, p.first = p.queue[:0], 0
	}
}

// refused is called when dst takes no more.
func (p *pump) refused() {
	p.drop()
	p.discard.Store(true)
	if p.dir == ToClient {
		p.c.close() // the client is gone
	}
}

// deliver sends on what it is time for. It returns when to look again, the zero time being when something happens, and
// whether the pump is done.
func (p *pump) deliver() (next time.Time, done bool) {
	if p.dir == ToClient && p.filter != nil {
		p.c.breakIfDue()
	}
	for {
		switch {
		case p.c.closed.Load():
			return time.Time{}, true
		case p.c.dead.Load(): // nothing arrives any more, not even the end
			p.drop()
			return time.Time{}, p.ended
		case p.over.Swap(false):
			p.drop()
			p.discard.Store(true)
			closeWrite(p.dst)
		}
		if p.first == len(p.queue) {
			return time.Time{}, p.ended
		}
		head, st := &p.queue[p.first], p.c.state.Load()
		if st != nil && st.hole&p.dir != 0 {
			return time.Time{}, false
		}
		if due := p.due(head, st); !due.IsZero() && due.After(time.Now()) {
			return due, false
		}
		if head.end != goesOn {
			how := head.end
			p.pop()
			p.finish(how)
			continue
		}
		p.write(head, st)
	}
}

// write sends a piece on, or as much of it as a bandwidth lets through at a time.
func (p *pump) write(head *piece, st *state) {
	b := head.buf[head.sent:]
	if st != nil && st.rate > 0 {
		b = b[:min(int64(len(b)), max(1, st.rate/50))]
	}
	if _, err := p.dst.Write(b); err != nil {
		p.refused()
		return
	}
	if st != nil && st.rate > 0 {
		if now := time.Now(); p.free.Before(now) {
			p.free = now
		}
		p.free = p.free.Add(time.Duration(int64(len(b)) * int64(time.Second) / st.rate))
	}
	p.queued -= len(b)
	if head.sent += len(b); head.sent == len(head.buf) {
		p.pop()
	}
}

// due is when a piece may go on.
func (p *pump) due(head *piece, st *state) time.Time {
	due := head.hold
	if st == nil || head.end != goesOn {
		return due
	}
	if !head.arrived.IsZero() { // or it came before the fault
		if d := head.arrived.Add(st.least + time.Duration(head.share*float64(st.most-st.least))); d.After(due) {
			due = d
		}
	}
	if st.rate > 0 && p.free.After(due) {
		due = p.free
	}
	return due
}

// finish ends dst, behind the last byte before a fault or the end of src.
func (p *pump) finish(how ending) {
	switch {
	case how == ends && p.dir == ToClient:
		if !p.c.hushed {
			closeWrite(p.dst)
		}
	case how == ends:
		closeWrite(p.dst)
		if _, whole := p.src.(*pipeEnd); whole {
			p.c.server.Close() // the client did not end half of it
		}
	case p.dir == ToClient:
		p.c.broke(how)
	default:
		p.c.abort()
	}
}

// wait waits for a time or a kick.
func (p *pump) wait(until time.Time) {
	var after <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		after = timer.C
	}
	select {
	case <-p.wake:
	case <-after:
	}
	p.prepare(past) // takes the kick
}

// closeWrite ends what is sent to a connection. One that has no half is closed.
func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // fails if it is closed already
		return
	}
	c.Close()
}

// resetConn ends a connection the hard way.
func resetConn(c net.Conn) {
	below := c
	if secure, ok := c.(*tls.Conn); ok {
		below = secure.NetConn()
	}
	switch below := below.(type) {
	case *pipeEnd:
		below.reset.Store(true)
	case interface{ SetLinger(int) error }:
		_ = below.SetLinger(0) // fails if it is closed already
	}
	below.Close()
	c.Close()
}
