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
	// multi is whether a transaction is open.
	multi bool
}

var errReturned = errors.New("redisx: the connection has been given back")

func (c *conn) Do(ctx context.Context, cmd driver.Cmd) driver.Reply {
	return c.DoMulti(ctx, []driver.Cmd{cmd})[0]
}

func (c *conn) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	if err := c.refuse(ctx, cmds); err != nil {
		return fill(make([]driver.Reply, len(cmds)), 0, driver.ErrReply(err))
	}
	if c.transaction(cmds) {
		return c.link.run(ctx, cmds) // a script sent again would run outside of it
	}
	return c.link.runScripts(ctx, cmds, false)
}

// refuse returns why none of these commands is sent. Keys in different slots are left to the server: it then also refuses the
// transaction around them.
func (c *conn) refuse(ctx context.Context, cmds []driver.Cmd) error {
	if c.gone.Load() && !c.link.d.closing.Load() {
		return driver.NotSent(errReturned)
	}
	if err := c.link.d.refuseAll(ctx); err != nil {
		return err
	}
	for i := range cmds {
		if err := cmds[i].Check(); err != nil {
			return driver.NotSent(err)
		}
	}
	return nil
}

// transaction reports whether some of these commands belong to a transaction, and notes whether one is open after them.
func (c *conn) transaction(cmds []driver.Cmd) bool {
	part := c.multi
	for i := range cmds {
		switch cmds[i].Name() {
		case "MULTI":
			c.multi, part = true, true
		case "EXEC", "DISCARD":
			c.multi = false
		}
	}
	return part
}

func (c *conn) Close() error {
	c.gone.Store(true)
	c.link.close()
	return nil
}
