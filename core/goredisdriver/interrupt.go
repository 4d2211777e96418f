package goredisdriver

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-redisx/redisx/core/driver"
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
	// read and write are what the URL says if the two differ, otherwise zero. The client itself then has the longer one for
	// both, as a call has one tag for both.
	read, write time.Duration

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

// add puts a call under guard. timeout is the client's for reading and writing.
func (gd *guard) add(ctx context.Context, g *guarded, timeout time.Duration, start func()) {
	at := time.Now().Add(timeout)
	if timeout > driver.PromptCancel { // a shorter one is soon over, whether it is told apart or not
		at = at.Add(-5 * time.Millisecond)
	}
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

func (w *wire) SetDeadline(t time.Time) error { return w.set(t, 0, w.Conn.SetDeadline) }
func (w *wire) SetReadDeadline(t time.Time) error {
	return w.set(t, w.guard.read, w.Conn.SetReadDeadline)
}
func (w *wire) SetWriteDeadline(t time.Time) error {
	return w.set(t, w.guard.write, w.Conn.SetWriteDeadline)
}

// set sets a deadline, and at most so much from now on if it is not zero.
func (w *wire) set(t time.Time, most time.Duration, set func(time.Time) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tag = t.UnixNano()
	if most > 0 && !t.IsZero() {
		if last := time.Now().Add(most); last.Before(t) {
			t = last
		}
	}
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
	return shut(w.Conn)
}

// bare is the connection inside, for a link, which has its own deadlines.
func (w *wire) bare() net.Conn { return w.Conn }

// shut closes a connection at once. A [tls.Conn] would say goodbye, for which it waits up to 5 s.
func shut(c net.Conn) error {
	t, ok := c.(interface{ NetConn() net.Conn })
	if !ok {
		return c.Close()
	}
	err := t.NetConn().Close()
	_ = c.Close()
	return err
}

// lasting returns a context for the application, which may keep it, in place of one that is used again.
func lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	switch c := ctx.(type) {
	case *guarded:
		return context.WithDeadline(c.Context, c.deadline)
	case *patient:
		return context.WithCancel(c.Context)
	}
	return context.WithCancel(ctx)
}
