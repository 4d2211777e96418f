package goredisdriver

import (
	"bufio"
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/auth"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/go-redisx/redisx/core/driver"
)

// link is one connection that go-redis opened (address, TLS, credentials, database and OnConnect as for the client it
// comes from) and that the driver reads and writes itself from then on. So it never reconnects behind anyone's back,
// blocks as long as it has to, and its end is seen. It is for one goroutine at a time; close may be called from any.
type link struct {
	d      *Driver
	node   *redis.Client // whose server this is connected to
	opener *redis.Client // holds the connection, idle
	conn   net.Conn
	r      *bufio.Reader
	out    []byte
	id     string // CLIENT ID, "" if the server does not tell
	dead   atomic.Bool
	once   sync.Once
	since  time.Time // idle since

	readTimeout, writeTimeout time.Duration
}

var errBroken = errors.New("redisx: the connection is broken")

// handshakeTimeout bounds the opening of a link beyond what dialling itself takes.
const handshakeTimeout = 5 * time.Second

// private returns options for a client of the driver's own to the same server: no retries, no caching, no background work.
func (n *nodes) private(node *redis.Client) *redis.Options {
	o := *node.Options()
	if n.readOnly {
		connected := o.OnConnect
		o.OnConnect = func(ctx context.Context, c *redis.Conn) error {
			err := c.ReadWrite(ctx).Err()
			if err == nil && connected != nil {
				err = connected(ctx, c)
			}
			return err
		}
	}
	o.PoolSize, o.MinIdleConns, o.MaxIdleConns, o.MaxActiveConns, o.MaxConcurrentDials = 1, 0, 0, 0, 0
	o.PipelinePoolSize = -1
	o.MaxRetries, o.DialerRetries = -1, 1
	o.ContextTimeoutEnabled = true
	o.Limiter = nil
	o.ClientSideCache, o.ClientSideCacheConfig = nil, nil
	o.PushNotificationProcessor = nil
	o.AutoPipelineOptions = nil
	o.ConnMaxIdleTime, o.ConnMaxLifetime, o.ConnMaxLifetimeJitter = -1, 0, 0
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	if o.WriteTimeout <= 0 { // the options of a client that exists hold 0 where those of a new one say -1
		o.WriteTimeout = o.ReadTimeout
	}
	if p := o.StreamingCredentialsProvider; p != nil {
		o.StreamingCredentialsProvider = nil
		o.CredentialsProviderContext = func(context.Context) (string, string, error) {
			c, unsubscribe, err := p.Subscribe(deafListener{})
			if err != nil {
				return "", "", err
			}
			user, password := c.BasicAuth()
			return user, password, unsubscribe()
		}
	}
	return &o
}

// deafListener takes the present credentials only: a link does not outlive them for long, and asks again when it is
// opened again.
type deafListener struct{}

func (deafListener) OnNext(auth.Credentials) {}
func (deafListener) OnError(error)           {}

// dial opens a link to the server of node. With protocol 3 it asks for RESP3 whatever node speaks.
func (d *Driver) dial(ctx context.Context, node *redis.Client, protocol int) (*link, error) {
	open := func(ctx context.Context) (*link, error) { return d.open(ctx, node, protocol) }
	return await(ctx, d, open, (*link).close)
}

func (d *Driver) open(ctx context.Context, node *redis.Client, protocol int) (*link, error) {
	o := d.nodes.private(node)
	if protocol != 0 {
		o.Protocol = protocol
	}
	var conn atomic.Pointer[net.Conn]
	dialer := o.Dialer
	o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dialer(ctx, network, addr)
		if w, ok := c.(interface{ bare() net.Conn }); ok && err == nil {
			b := w.bare()
			conn.Store(&b)
		} else if err == nil {
			conn.Store(&c)
		}
		return c, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.DialTimeout+handshakeTimeout)
	defer cancel()
	// go-redis reads without regard to cancellation, but not from a connection that is closed.
	defer context.AfterFunc(ctx, func() {
		if c := conn.Load(); c != nil {
			_ = shut(*c)
		}
	})()
	l := &link{d: d, node: node, opener: redis.NewClient(o), readTimeout: o.ReadTimeout, writeTimeout: o.WriteTimeout}
	if g := d.guard; g != nil && g.read > 0 {
		l.readTimeout, l.writeTimeout = g.read, g.write
	}
	id, err := l.opener.Do(ctx, "CLIENT", "ID").Int64()
	if _, refused := errors.AsType[redis.Error](err); refused && conn.Load() != nil && l.opener.PoolStats().TotalConns > 0 {
		err = nil // connected, but the server or its ACL does not tell the id
	} else if err == nil {
		l.id = strconv.FormatInt(id, 10)
	}
	if err != nil {
		_ = l.opener.Close()
		return nil, err
	}
	l.conn = *conn.Load()
	l.r = bufio.NewReader(l.conn)
	d.mu.Lock()
	closed := d.links == nil
	if !closed {
		d.links[l] = struct{}{}
	}
	d.mu.Unlock()
	if closed {
		l.close()
		return nil, driver.ErrClosed
	}
	return l, nil
}

// close closes the connection.
func (l *link) close() {
	l.dead.Store(true)
	l.once.Do(func() {
		if l.conn != nil {
			_ = shut(l.conn)
		}
		_ = l.opener.Close()
		l.d.mu.Lock()
		delete(l.d.links, l)
		l.d.mu.Unlock()
	})
}

// linked reports whether there are links that belong to a node.
func (d *Driver) linked(node *redis.Client) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for l := range d.links {
		if l.node == node {
			return true
		}
	}
	return false
}

// past is a deadline that ends whatever waits for the connection.
var past = time.Unix(1, 0)

// write sends commands without waiting for replies.
func (l *link) write(cmds ...[]string) error {
	l.out = l.out[:0]
	for _, args := range cmds {
		l.out = append(l.out, '*')
		l.out = strconv.AppendInt(l.out, int64(len(args)), 10)
		l.out = append(l.out, '\r', '\n')
		for _, arg := range args {
			l.out = append(l.out, '$')
			l.out = strconv.AppendInt(l.out, int64(len(arg)), 10)
			l.out = append(l.out, '\r', '\n')
			l.out = append(append(l.out, arg...), '\r', '\n')
		}
	}
	_, err := l.conn.Write(l.out)
	if cap(l.out) > maxChunk {
		l.out = nil
	}
	return err
}

// read returns the next reply and skips messages that belong to none.
func (l *link) read() (driver.Reply, error) {
	for {
		r, push, err := readReply(l.r)
		if err != nil || !push {
			return r, err
		}
	}
}

// run sends commands and reads their replies. Afterwards the link is either in order or closed.
func (l *link) run(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	replies := make([]driver.Reply, len(cmds))
	if err := l.usable(ctx); err != nil {
		return fill(replies, 0, driver.ErrReply(err))
	}
	words, blocking := make([][]string, len(cmds)), false
	for i := range cmds {
		words[i] = cmds[i].Args
		blocking = blocking || cmds[i].Mode == driver.Blocking
	}
	end := l.watch(ctx, blocking)
	got, err := 0, l.write(words...)
	for err == nil && got < len(cmds) {
		var r driver.Reply
		if r, err = l.read(); err == nil {
			replies[got] = r
			got++
		}
	}
	ended, sure := end()
	if err != nil {
		l.close()
		return fill(replies, got, driver.ErrReply(l.lost(ctx, err)))
	}
	if ended && !blocking || !sure {
		l.close() // a deadline or an UNBLOCK on its way would hit the next command
	}
	if ended {
		for i := range replies {
			if cmds[i].Mode == driver.Blocking && replies[i].IsNil() {
				replies[i] = driver.ErrReply(ctx.Err()) // the server gave up, with nothing taken
			}
		}
	}
	return replies
}

func fill(replies []driver.Reply, from int, r driver.Reply) []driver.Reply {
	for i := from; i < len(replies); i++ {
		replies[i] = r
	}
	return replies
}

// usable returns why the link cannot be used.
func (l *link) usable(ctx context.Context) error {
	switch {
	case l.d.closing.Load():
		return driver.ErrClosed
	case l.dead.Load():
		return driver.NotSent(errBroken)
	case ctx.Err() != nil:
		return driver.NotSent(ctx.Err())
	}
	return nil
}

func (l *link) lost(ctx context.Context, err error) error {
	if l.d.closing.Load() {
		err = net.ErrClosed
	}
	return driver.Unknown(because(ctx, err))
}

// unblockWithin is how long the answer to a blocked command may take after ctx ended: the promise is 50 ms.
const unblockWithin = 40 * time.Millisecond

// watch lets ctx end what the link waits for. The function it returns ends the watch; it reports whether ctx ended and
// whether nothing is left that could hit a later command.
func (l *link) watch(ctx context.Context, blocking bool) func() (ended, sure bool) {
	deadline := time.Now().Add(l.readTimeout)
	if blocking {
		deadline = time.Time{}
	} else if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	_ = l.conn.SetReadDeadline(deadline)
	_ = l.conn.SetWriteDeadline(time.Now().Add(l.writeTimeout))
	if ctx.Done() == nil {
		return func() (bool, bool) { return false, true }
	}
	if !blocking {
		stop := context.AfterFunc(ctx, func() { _ = l.conn.SetDeadline(past) })
		return func() (bool, bool) { return !stop(), true }
	}
	over, told := make(chan struct{}), make(chan bool, 1)
	stop := context.AfterFunc(ctx, func() {
		_ = l.conn.SetDeadline(time.Now().Add(unblockWithin))
		told <- l.unblock(over)
	})
	return func() (bool, bool) {
		close(over)
		if stop() {
			return false, true
		}
		return true, <-told
	}
}

// unblock tells the server to end the command this link waits for, until over. The command may not have arrived yet when
// the first attempt does. It reports whether every attempt was answered, so that none can hit a later command.
func (l *link) unblock(over <-chan struct{}) (sure bool) {
	if l.id == "" {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), unblockWithin)
	defer cancel()
	for {
		r := l.d.exec(ctx, l.node, []string{"CLIENT", "UNBLOCK", l.id, "TIMEOUT"})
		if _, ok := r.Err().(*driver.OpError); ok || r.Err() == driver.ErrClosed {
			return false
		}
		select {
		case <-over:
			return true
		case <-ctx.Done():
			return true
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// healthy reports whether an idle link can be used: not closed by the server, with nothing unread.
func (l *link) healthy() bool {
	if l.dead.Load() || l.r.Buffered() > 0 {
		return false
	}
	_ = l.conn.SetReadDeadline(time.Now().Add(100 * time.Microsecond))
	_, err := l.r.Peek(1)
	return timeout(err)
}
