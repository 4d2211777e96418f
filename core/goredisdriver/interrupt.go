package goredisdriver

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A call whose ctx may be cancelled has to be got out of a read on a connection that go-redis chose and does not name. A
// goroutine between caller and client would do, and for a client given to New it does, but its two switches cost up to 80 %
// of a GET on a small machine. So with connections the driver dialled itself the caller reads in line, under a deadline that no
// other call has: go-redis hands the deadline of ctx to the connection as it is. When ctx ends, the connection that has
// this deadline is the one to interrupt. A guard looks at the calls under way often enough for the promised 50 ms.

// guardEvery is how often the guard looks.
const guardEvery = 10 * time.Millisecond

// guard interrupts calls whose ctx has ended.
type guard struct {
	tags atomic.Uint64

	mu      sync.Mutex
	calls   *guarded // a list
	running bool

	conns sync.Map // *wire: the connections that are open
}

// guarded is the part of a call that the guard needs. It also is the ctx that go-redis gets, with the tagged deadline.
type guarded struct {
	context.Context
	deadline   time.Time
	tag        int64
	prev, next *guarded
}

// Deadline is the deadline of ctx, or one shortly before the client's own timeout, told apart from all others.
func (g *guarded) Deadline() (time.Time, bool) { return g.deadline, true }

// tagBits is how many low bits of a deadline in nanoseconds tell calls apart: it moves by 2 ms at the most, and only so
// many calls can begin while others wait for the same millisecond.
const tagBits = 20

// add puts a call under guard. timeout is the shorter of the client's for reading and writing.
func (gd *guard) add(ctx context.Context, g *guarded, timeout time.Duration, start func()) {
	at := time.Now().Add(timeout - 5*time.Millisecond)
	if d, ok := ctx.Deadline(); ok && d.Before(at) {
		at = d
	}
	const mask = 1<<tagBits - 1
	// Never before the deadline of ctx: the timeout is known by it.
	g.tag = (at.UnixNano() | mask + 1) + int64(gd.tags.Add(1)&mask)
	g.Context, g.deadline = ctx, time.Unix(0, g.tag)
	gd.mu.Lock()
	g.prev, g.next = nil, gd.calls
	if g.next != nil {
		g.next.prev = g
	}
	gd.calls = g
	idle := !gd.running
	gd.running = true
	gd.mu.Unlock()
	if idle {
		start()
	}
}

// remove ends the guard over a call.
func (gd *guard) remove(g *guarded) {
	gd.mu.Lock()
	if g.prev != nil {
		g.prev.next = g.next
	} else {
		gd.calls = g.next
	}
	if g.next != nil {
		g.next.prev = g.prev
	}
	gd.mu.Unlock()
	g.prev, g.next, g.Context = nil, nil, nil
}

// watch is the guard at work. It ends when there was nothing to guard for a while.
func (gd *guard) watch(stop <-chan struct{}) {
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	var ended []int64
	for quiet := 0; ; {
		select {
		case <-tick.C:
		case <-stop: // the connections are being closed
			return
		}
		ended = ended[:0]
		gd.mu.Lock()
		if gd.calls != nil {
			quiet = 0
		} else if quiet++; quiet > 100 {
			gd.running = false
			gd.mu.Unlock()
			return
		}
		for g := gd.calls; g != nil; g = g.next {
			if g.Err() != nil {
				ended = append(ended, g.tag)
			}
		}
		gd.mu.Unlock()
		if len(ended) > 0 {
			gd.interrupt(ended)
		}
	}
}

func (gd *guard) interrupt(tags []int64) {
	gd.conns.Range(func(conn, _ any) bool {
		w := conn.(*wire)
		for _, tag := range tags {
			w.interrupt(tag)
		}
		return true
	})
}

// wire is a connection that remembers the deadline it was given.
type wire struct {
	net.Conn
	guard *guard
	mu    sync.Mutex
	tag   int64
}

// wireFile is a wire over a file descriptor, which lets go-redis see whether the server has closed it.
type wireFile struct {
	*wire
	file syscall.Conn
}

func (w wireFile) SyscallConn() (syscall.RawConn, error) { return w.file.SyscallConn() }

func (gd *guard) wire(c net.Conn) net.Conn {
	w := &wire{Conn: c, guard: gd}
	gd.conns.Store(w, nil)
	if f, ok := c.(syscall.Conn); ok {
		return wireFile{wire: w, file: f}
	}
	return w
}

func (w *wire) SetDeadline(t time.Time) error      { return w.set(t, w.Conn.SetDeadline) }
func (w *wire) SetReadDeadline(t time.Time) error  { return w.set(t, w.Conn.SetReadDeadline) }
func (w *wire) SetWriteDeadline(t time.Time) error { return w.set(t, w.Conn.SetWriteDeadline) }

func (w *wire) set(t time.Time, set func(time.Time) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tag = t.UnixNano()
	return set(t)
}

// interrupt ends what a call waits for. If the call has ended meanwhile nothing is hurt: whoever uses the connection next
// sets its own deadlines first.
func (w *wire) interrupt(tag int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tag == tag {
		_ = w.Conn.SetDeadline(past)
	}
}

func (w *wire) Close() error {
	w.guard.conns.Delete(w)
	return w.Conn.Close()
}
