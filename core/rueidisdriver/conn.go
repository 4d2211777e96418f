package rueidisdriver

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

const (
	// maxSpare connections per server are kept for the next Blocking command or Dedicate.
	maxSpare = 32
	// A connection that was spare for longer than this is tried before use, and is given back after spareFor. No server
	// starts again so fast, and nobody minds a round trip after such a pause.
	trustFor = 5 * time.Millisecond
	spareFor = time.Minute
	// maxStale connections of the client's pool may turn out to have ended there before a command fails.
	maxStale = 8
)

// conn is a connection of its own. It implements [driver.Conn].
type conn struct {
	d *Driver
	// at is where it leads, and the way for CLIENT UNBLOCK.
	at node
	// wire is the connection itself. Its Close ends it; giveBack puts it into the client's pool, which is not told what state
	// it is in.
	wire     rueidis.DedicatedClient
	giveBack func()
	// id is the CLIENT ID, "" if the server does not tell.
	id string

	broken atomic.Pointer[error]
	ended  sync.Once
	closed atomic.Bool
	// dirty is true if the connection is in a state the next user must not find: watching keys, another database, a command
	// that has not ended, …
	dirty bool
	// queueing is true between MULTI and EXEC.
	queueing bool
	// spareSince is when it became spare.
	spareSince time.Time
}

// Dedicate implements [driver.Dedicated].
func (d *Driver) Dedicate(ctx context.Context, key string) (driver.Conn, error) {
	c, err := d.acquire(ctx, key)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// acquire returns a connection to the primary that serves key, or to any.
func (d *Driver) acquire(ctx context.Context, key string) (*conn, error) {
	if d.over() {
		return nil, driver.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, driver.NotSent(err)
	}
	at, err := d.nodeOf(ctx, key)
	if err != nil {
		return nil, unsent(err)
	}
	return d.acquireAt(ctx, at)
}

// unsent is the error of a command for that of a question that came before it.
func unsent(err error) error {
	if op, ok := errors.AsType[*driver.OpError](err); ok {
		err = op.Err
	}
	return driver.NotSent(err)
}

func (d *Driver) acquireAt(ctx context.Context, at node) (*conn, error) {
	for {
		c := d.takeSpare(at)
		if c == nil {
			break
		}
		if time.Since(c.spareSince) < trustFor {
			return c, nil
		}
		r := c.exec(ctx, []driver.Cmd{{Args: []string{"PING"}}}, false)[0]
		if unanswered(r.Err()) == nil {
			return c, nil
		}
		c.discard()
		d.dropSpare(at) // as good as this one, and each would be waited for
		if err := ctx.Err(); err != nil {
			return nil, driver.NotSent(err)
		}
	}
	return d.open(ctx, at)
}

// open takes a connection from the client's pool. The client dials and waits without regard to ctx, so this runs on a
// worker; a connection that comes too late is given back.
func (d *Driver) open(ctx context.Context, at node) (*conn, error) {
	c := &conn{d: d, at: at}
	var err error
	const (
		waiting = iota
		taken
		abandoned
	)
	var state atomic.Int32
	j := &job{done: make(chan struct{}, 1)}
	j.fn = func() {
		var result rueidis.RedisResult
		for try := 0; ; try++ {
			c.wire, c.giveBack = at.client.Dedicate()
			if state.Load() == abandoned { // for want of a free one, perhaps, and others wait for it
				c.giveBack()
				return
			}
			result = c.wire.Do(withoutDeadline{ctx}, c.route(d.builder.ClientId().Build()))
			if try == maxStale || !ceased(result.NonRedisError()) {
				break
			}
			c.wire.Close() // it ended in the pool, unseen
		}
		switch failed := result.NonRedisError(); {
		case failed != nil:
			err = failed
		default:
			m, _ := result.ToMessage()
			c.id, _ = driver.ClientID(message(&m)) // refused by an ACL: no UNBLOCK then
			if c.id == "0" {
				c.id = ""
			}
		}
		broken := err != nil // from the swap on, err is the caller's
		if !state.CompareAndSwap(waiting, taken) || broken {
			c.wire.Close()
		}
	}
	spare, leave := d.queueForSpare(at)
	defer leave()
	if !d.start(j) {
		return nil, driver.ErrClosed
	}
	// The client's pool may be empty because its connections are here.
	select {
	case <-j.done:
	case <-ctx.Done():
		if !j.await(ctx) && state.CompareAndSwap(waiting, abandoned) {
			d.calm.Store(0)
			return nil, driver.NotSent(ctx.Err())
		}
	case <-d.ctx.Done(): // A client given to New goes on.
		if state.CompareAndSwap(waiting, abandoned) {
			return nil, driver.ErrClosed
		}
	case other := <-spare:
		if !state.CompareAndSwap(waiting, abandoned) {
			_ = other.Close() // both came
			break
		}
		return other, nil
	}
	if state.Load() == taken && err == nil {
		return c, d.adopt(c)
	}
	if errors.Is(err, rueidis.ErrClosing) && d.closed.Load() {
		return nil, driver.ErrClosed
	}
	d.failed(err)
	var op *driver.OpError
	if errors.As(failure(ctx, err), &op) {
		err = op.Err
	}
	return nil, driver.NotSent(err) // only CLIENT ID may have left
}

// adopt counts a connection, so that Close can end it.
func (d *Driver) adopt(c *conn) error {
	d.mu.Lock()
	stopped := d.stopped
	if !stopped {
		d.conns[c] = struct{}{}
	}
	d.mu.Unlock()
	if stopped {
		c.wire.Close()
		return driver.ErrClosed
	}
	return nil
}

// route gives a command the slot of its connection, if the client asks for one.
func (c *conn) route(cmd rueidis.Completed) rueidis.Completed {
	if c.at.pin != "" {
		return cmd.SetSlot(c.at.pin)
	}
	return cmd
}

// Do implements [driver.Conn].
func (c *conn) Do(ctx context.Context, cmd driver.Cmd) driver.Reply {
	return c.DoMulti(ctx, []driver.Cmd{cmd})[0]
}

// DoMulti implements [driver.Conn].
func (c *conn) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	if len(cmds) == 0 {
		return nil
	}
	replies := make([]driver.Reply, len(cmds))
	if err := c.usable(ctx); err != nil {
		return failReplies(replies, err)
	}
	for i := range cmds {
		if err := valid(&cmds[i]); err != nil {
			return failReplies(replies, err) // all of it, as it may be a transaction
		}
	}
	blocking, queueing := false, c.queueing
	for i := range cmds {
		blocking = blocking || cmds[i].Mode == driver.Blocking
		c.note(&cmds[i])
		queueing = queueing || c.queueing
	}
	send := func(cmds []driver.Cmd) []driver.Reply { return c.exec(ctx, cmds, blocking) }
	replies = send(cmds)
	if !queueing { // a script sent again would run outside of its transaction, or change what is in it
		resendScripts(cmds, replies, send)
	}
	return replies
}

// usable returns why nothing can be sent, or nil.
func (c *conn) usable(ctx context.Context) error {
	if c.d.closed.Load() {
		return driver.ErrClosed
	}
	if c.closed.Load() {
		return driver.NotSent(errors.New("connection was given back"))
	}
	if err := c.broken.Load(); err != nil {
		return driver.NotSent(*err)
	}
	if err := ctx.Err(); err != nil {
		return driver.NotSent(err)
	}
	return nil
}

// note keeps track of what a command does to the connection.
func (c *conn) note(cmd *driver.Cmd) {
	if !driver.ChangesConnection(cmd.Args) {
		return
	}
	c.dirty = true
	switch cmd.Name() {
	case "MULTI":
		c.queueing = true
	case "EXEC", "DISCARD":
		c.queueing = false
	}
}

// exec sends commands, together, and waits for their replies. Blocking ones run until they are done; the end of ctx then
// asks the server to end them.
func (c *conn) exec(ctx context.Context, cmds []driver.Cmd, blocking bool) []driver.Reply {
	j := &job{to: c.wire, many: make([]rueidis.Completed, len(cmds)), done: make(chan struct{}, 1)}
	for i := range cmds {
		if cmds[i].Mode == driver.Blocking {
			j.many[i] = c.route(c.d.buildBlocking(&cmds[i]))
		} else {
			j.many[i] = c.route(c.d.builder.Arbitrary(cmds[i].Args...).Build())
		}
	}
	j.ctx = context.Background()
	if !blocking {
		j.ctx = withoutDeadline{ctx}
	}
	replies := make([]driver.Reply, len(cmds))
	if !c.d.start(j) {
		return failReplies(replies, driver.ErrClosed)
	}
	var done bool
	if blocking {
		done = c.awaitBlocking(ctx, j)
	} else {
		done = j.await(ctx)
	}
	if !done {
		c.fail(errors.New("connection given up when the context of a command ended"))
		return failReplies(replies, driver.Unknown(ctx.Err()))
	}
	for i := range j.results {
		replies[i] = c.reply(ctx, &j.results[i])
		if replies[i].Kind() == driver.KindError && c.d.topology == driver.Cluster {
			if to, ok := redirection(replies[i]); ok && to.code == "MOVED" {
				c.d.slots.learn(c.d, to)
			}
		}
		if blocking && cmds[i].Mode == driver.Blocking && replies[i].IsNil() && ctx.Err() != nil {
			replies[i] = driver.ErrReply(&endedError{ctx.Err()})
		}
	}
	return replies
}

func (c *conn) reply(ctx context.Context, result *rueidis.RedisResult) driver.Reply {
	err := result.NonRedisError()
	if err == nil {
		m, _ := result.ToMessage()
		return message(&m)
	}
	if ctx.Err() == nil || !isContext(err) {
		c.fail(plain(err))
	}
	c.dirty = true // What was given up may go on at the server, with everybody else behind it.
	if c.d.closed.Load() {
		err = errConnClosed
	}
	var op *driver.OpError
	if errors.As(failure(ctx, err), &op) {
		return driver.ErrReply(driver.Unknown(op.Err))
	}
	return driver.ErrReply(driver.Unknown(plain(err)))
}

func failReplies(replies []driver.Reply, err error) []driver.Reply {
	for i := range replies {
		replies[i] = driver.ErrReply(err)
	}
	return replies
}

// endedError says that the server gave a Blocking command up, without a result, because its context ended.
type endedError struct{ cause error }

func (e *endedError) Error() string {
	return "redisx: blocking command ended without a result: " + e.cause.Error()
}
func (e *endedError) Unwrap() error { return e.cause }

// fail marks the connection as broken and closes it.
func (c *conn) fail(err error) {
	if c.broken.CompareAndSwap(nil, &err) {
		c.discard()
	}
}

// Close implements [driver.Conn].
func (c *conn) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return nil
	}
	switch {
	case c.dirty || c.broken.Load() != nil:
		c.discard()
	case c.d.owned == nil: // The pool is the application's, which may wait for it.
		c.end(c.giveBack)
	case !c.d.putSpare(c):
		c.discard()
	}
	return nil
}

// discard closes the connection for good. The client may take a second for it when the server is silent.
func (c *conn) discard() { c.end(c.wire.Close) }

func (c *conn) end(how func()) {
	c.ended.Do(func() {
		c.d.mu.Lock()
		delete(c.d.conns, c)
		c.d.mu.Unlock()
		if !c.d.run(how) {
			how()
		}
	})
}

// ceased reports whether a connection was closed by the other end after it had been made.
func ceased(err error) bool {
	_, dialing := errors.AsType[*dialError](err)
	return !dialing && isCutOff(err)
}
