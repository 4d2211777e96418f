package chaos

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// pipeEnd is the proxy's end of a connection to a client in this process.
type pipeEnd struct {
	net.Conn
	reset atomic.Bool
}

// clientEnd is the client's end. Its errors are those of a socket.
//
// Without rules, and until there is a fault of the network for the first time, it hands reads and writes to the server's
// connection itself: a pump in between would cost as much as a hop over TCP, because goroutines have to be woken.
type clientEnd struct {
	net.Conn      // the near end of the pipe
	session       *session
	end           *pipeEnd
	closed        atomic.Bool
	local, remote net.Addr

	direct         atomic.Bool
	reading        sync.Mutex // held while the server's connection is read
	writing        sync.Mutex
	mu             sync.Mutex // one change of the following, or of direct, at a time
	readBy, sendBy time.Time
}

// canBeDirect reports whether reads and writes on a connection can be interrupted without harm; a tls.Conn could not go on.
func canBeDirect(c net.Conn) bool {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// leave ends direct: what is being read and written goes on by way of the pumps.
func (c *clientEnd) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() || !c.direct.Swap(false) {
		return
	}
	server := c.session.server
	_ = server.SetDeadline(past) // sends away who is reading or writing; of a closed connection they are gone already
	c.reading.Lock()
	defer c.reading.Unlock()
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = server.SetDeadline(time.Time{})
	_ = c.Conn.SetReadDeadline(c.readBy) // a pipe that is new takes them
	_ = c.Conn.SetWriteDeadline(c.sendBy)
	c.session.px.resume(c.session)
}

func (c *clientEnd) LocalAddr() net.Addr  { return c.local }
func (c *clientEnd) RemoteAddr() net.Addr { return c.remote }

func (c *clientEnd) Read(b []byte) (int, error) {
	if c.direct.Load() {
		c.reading.Lock()
		if c.direct.Load() {
			n, err := c.session.server.Read(b)
			c.reading.Unlock()
			if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || c.direct.Load() {
				return n, c.why("read", err)
			}
		} else {
			c.reading.Unlock()
		}
	}
	n, err := c.Conn.Read(b)
	return n, c.why("read", err)
}

func (c *clientEnd) Write(b []byte) (n int, err error) {
	if c.direct.Load() {
		c.writing.Lock()
		if c.direct.Load() {
			n, err = c.session.server.Write(b)
			c.writing.Unlock()
			if !errors.Is(err, os.ErrDeadlineExceeded) || c.direct.Load() {
				return n, c.why("write", err)
			}
		} else {
			c.writing.Unlock()
		}
	}
	rest, err := c.Conn.Write(b[n:])
	return n + rest, c.why("write", err)
}

// Close implements net.Conn.
func (c *clientEnd) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	again := c.closed.Swap(true)
	if !c.direct.Load() {
		return c.Conn.Close()
	}
	if again {
		return c.why("close", net.ErrClosed)
	}
	c.session.px.forget(c.session)
	c.end.Close() // nobody else will
	return c.session.server.Close()
}

func (c *clientEnd) SetDeadline(t time.Time) error      { return c.deadline(t, true, true) }
func (c *clientEnd) SetReadDeadline(t time.Time) error  { return c.deadline(t, true, false) }
func (c *clientEnd) SetWriteDeadline(t time.Time) error { return c.deadline(t, false, true) }

// deadline sets deadlines. As with a socket it does not matter whether the other side is gone.
func (c *clientEnd) deadline(t time.Time, read, write bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return c.why("set", net.ErrClosed)
	}
	to := c.Conn
	if c.direct.Load() {
		to = c.session.server
	}
	if read {
		c.readBy = t
		_ = to.SetReadDeadline(t)
	}
	if write {
		c.sendBy = t
		_ = to.SetWriteDeadline(t)
	}
	return nil
}

// why makes an error that of a socket.
func (c *clientEnd) why(op string, err error) error {
	var reason error
	switch {
	case err == nil || errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case c.closed.Load():
		reason = net.ErrClosed
	case c.end.reset.Load():
		reason = syscall.ECONNRESET
	case errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed): // by the proxy
		if op == "read" {
			return io.EOF
		}
		reason = syscall.EPIPE
	default:
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: reason}
}
