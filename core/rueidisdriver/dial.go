package rueidisdriver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core"
)

// heard is what servers have answered so far, which explains why Open failed.
type heard struct {
	// shaking means that a TLS handshake began, shaken that one succeeded.
	shaking, shaken atomic.Bool
	// answered means that a server answered a command, alert that it did with a TLS alert, to a client without TLS.
	answered, alert atomic.Bool
}

// note looks at the first bytes of a connection.
func (h *heard) note(p []byte) {
	h.answered.Store(true)
	if len(p) > 1 && p[0] == 0x15 && p[1] == 3 { // a TLS record of type alert, version 3.x
		h.alert.Store(true)
	}
}

// dialer makes the connections of a client that Open made.
type dialer struct {
	network string
	timeout time.Duration
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	heard   *heard

	// opening ends with the ctx of Open while that runs: NewClient takes none. It is nil afterwards.
	mu      sync.Mutex
	opening context.Context
	watches []func() bool
	// live are the connections that are open. down ends with the driver: nothing is dialled then.
	live map[*dialled]struct{}
	down context.Context
	stop context.CancelFunc
}

func newDialer(e *core.Endpoint, cfg *config) *dialer {
	d := &dialer{network: e.Network, timeout: e.DialTimeout, dial: cfg.dial, heard: &cfg.heard}
	if d.dial == nil {
		d.dial = (&net.Dialer{}).DialContext
	}
	d.live = map[*dialled]struct{}{}
	d.down, d.stop = context.WithCancel(context.Background())
	return d
}

// cut closes every connection that is still open.
func (d *dialer) cut() {
	d.mu.Lock()
	open := slices.Collect(maps.Keys(d.live))
	d.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}

func (d *dialer) forget(c *dialled) {
	d.mu.Lock()
	delete(d.live, c)
	d.mu.Unlock()
}

// connect has the signature that the client wants. Its errors are all dialErrors.
func (d *dialer) connect(ctx context.Context, addr string, _ *net.Dialer, cfg *tls.Config) (net.Conn, error) {
	d.mu.Lock()
	opening := d.opening
	d.mu.Unlock()
	dialing, cancel := context.WithTimeoutCause(ctx, d.timeout, errDialTimeout)
	defer cancel()
	defer context.AfterFunc(d.down, cancel)()
	if opening != nil {
		defer context.AfterFunc(opening, cancel)()
	}
	raw, err := d.dial(dialing, d.network, addr)
	if err == nil && raw == nil {
		err = errors.New("the dialer returned no connection")
	}
	if err == nil && cfg != nil {
		d.heard.shaking.Store(true)
		if raw, err = handshake(dialing, raw, addr, cfg); err == nil {
			d.heard.shaken.Store(true)
		}
	}
	if err != nil {
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case d.down.Err() != nil:
			err = errConnClosed
		case dialing.Err() != nil && context.Cause(dialing) == errDialTimeout:
			err = &timeoutError{fmt.Sprintf("dial %s %s: no connection within %v", d.network, addr, d.timeout)}
		}
		return nil, &dialError{err}
	}
	c := &dialled{Conn: raw, ctx: ctx, dialer: d}
	c.unwatch = context.AfterFunc(ctx, func() { _ = raw.Close() })
	if opening != nil {
		stop := context.AfterFunc(opening, func() { _ = raw.Close() })
		d.mu.Lock()
		d.watches = append(d.watches, stop)
		d.mu.Unlock()
	}
	d.mu.Lock()
	d.live[c] = struct{}{}
	d.mu.Unlock()
	if d.down.Err() != nil {
		_ = c.Close()
	}
	return c, nil
}

// opened lets the connections live on when the ctx of Open ends.
func (d *dialer) opened() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opening = nil
	for _, stop := range d.watches {
		stop()
	}
	d.watches = nil
}

func handshake(ctx context.Context, raw net.Conn, addr string, cfg *tls.Config) (net.Conn, error) {
	if cfg.ServerName == "" {
		cfg = cfg.Clone()
		if host, _, err := net.SplitHostPort(addr); err == nil {
			cfg.ServerName = host
		} else {
			cfg.ServerName = addr
		}
	}
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS with %s: %w", addr, err)
	}
	return conn, nil
}

var errDialTimeout = errors.New("dial timeout")

// timeoutError is a timeout that is no context error and no os.ErrDeadlineExceeded: the client would take these for the
// end of somebody's context.
type timeoutError struct{ text string }

func (e *timeoutError) Error() string   { return e.text }
func (e *timeoutError) Timeout() bool   { return true }
func (e *timeoutError) Temporary() bool { return true }

// dialled is a connection that knows whether it has carried a command yet. The client greets the server first, in one
// write, and reads the answers; the next write is the first command. Until then the ctx that dialled it ends it, which the
// client would not see to, and an error says that nothing was sent.
type dialled struct {
	net.Conn
	ctx     context.Context
	unwatch func() bool
	dialer  *dialer
	phase   atomic.Int32
}

const (
	greeting = iota
	answered
	ready
)

// Write implements net.Conn.
func (c *dialled) Write(p []byte) (int, error) {
	if c.phase.Load() == answered {
		if !c.unwatch() { // It is being closed: this, the first command, must not leave.
			return 0, c.explain(net.ErrClosed)
		}
		c.phase.Store(ready)
	}
	n, err := c.Conn.Write(p)
	if err != nil {
		err = c.explain(err)
	}
	return n, err
}

// Read implements net.Conn.
func (c *dialled) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && c.phase.Load() == greeting {
		c.dialer.heard.note(p[:n])
		c.phase.CompareAndSwap(greeting, answered)
	}
	if err != nil {
		err = c.explain(err)
	}
	return n, err
}

func (c *dialled) explain(err error) error {
	if c.phase.Load() == ready {
		return err
	}
	if ctxErr := c.ctx.Err(); ctxErr != nil {
		return &dialError{ctxErr}
	}
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
		if ctxErr := ended(c.ctx); ctxErr != nil {
			return &dialError{ctxErr}
		}
		return &dialError{&timeoutError{"no answer to the greeting from " + c.RemoteAddr().String() + " in time"}}
	}
	return &dialError{err}
}

// Close implements net.Conn.
func (c *dialled) Close() error {
	c.unwatch()
	c.dialer.forget(c)
	return c.Conn.Close()
}
