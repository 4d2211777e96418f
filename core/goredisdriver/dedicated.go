package goredisdriver

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/go-redisx/redisx/core/driver"
)

// Dedicate implements [driver.Dedicated]. It always opens a new connection, which nobody else uses afterwards. Commands on
// it are not redirected: what the server answers for a slot that moved, the caller gets.
func (d *Driver) Dedicate(ctx context.Context, key string) (driver.Conn, error) {
	if d.closing.Load() {
		return nil, driver.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, driver.NotSent(err)
	}
	node, err := d.node(ctx, key)
	if err != nil {
		return nil, err
	}
	l, err := d.dial(ctx, node, 0)
	if err != nil {
		d.nodes.reload()
		return nil, err
	}
	return &conn{link: l}, nil
}

// conn is a [driver.Conn].
type conn struct {
	link *link
	gone atomic.Bool
}

var errReturned = errors.New("redisx: the connection has been given back")

func (c *conn) Do(ctx context.Context, cmd driver.Cmd) driver.Reply {
	return c.DoMulti(ctx, []driver.Cmd{cmd})[0]
}

func (c *conn) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	replies := make([]driver.Reply, len(cmds))
	if c.gone.Load() && !c.link.d.closing.Load() {
		return fill(replies, 0, driver.ErrReply(driver.NotSent(errReturned)))
	}
	refused := false
	for i := range cmds {
		if err := c.link.d.refuse(ctx, &cmds[i]); err != nil {
			replies[i] = driver.ErrReply(err)
			refused = true
		}
	}
	if !refused {
		return c.link.runScripts(ctx, cmds)
	}
	at := pending(replies)
	for i, r := range c.link.runScripts(ctx, pick(cmds, at)) {
		replies[at[i]] = r
	}
	return replies
}

func (c *conn) Close() error {
	c.gone.Store(true)
	c.link.close()
	return nil
}
