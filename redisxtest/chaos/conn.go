package chaos

import (
	"context"
	"slices"

	"github.com/go-redisx/redisx/core/driver"
)

// dedicated is the ability driver.Dedicated.
type dedicated struct{ w *wrapped }

// Dedicate implements driver.Dedicated. It is not disturbed itself; commands on the connection are.
func (d dedicated) Dedicate(ctx context.Context, key string) (driver.Conn, error) {
	if d.w.mistake != nil {
		return nil, d.w.mistake
	}
	inner, err := d.w.inner.(driver.Dedicated).Dedicate(ctx, key)
	if err != nil {
		return nil, err
	}
	return &conn{w: d.w, inner: inner}, nil
}

// conn is a driver.Conn with faults. The methods that run calls do nothing on a nil one, which stands for shared connections.
type conn struct {
	w      *wrapped
	inner  driver.Conn
	broken bool
	multi  bool // a transaction is open
}

func (c *conn) Do(ctx context.Context, cmd driver.Cmd) driver.Reply {
	cmds := []driver.Cmd{cmd}
	if err := c.refuse(); err != nil {
		return driver.ErrReply(err)
	}
	if verdicts := c.decide(ctx, cmds); verdicts != nil {
		return c.w.run(ctx, c.inner, cmds, verdicts, c)[0]
	}
	return c.inner.Do(ctx, cmd)
}

func (c *conn) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	if err := c.refuse(); err != nil {
		return same(len(cmds), err)
	}
	if verdicts := c.decide(ctx, cmds); verdicts != nil {
		return c.w.run(ctx, c.inner, cmds, verdicts, c)
	}
	return c.inner.DoMulti(ctx, cmds)
}

// Close gives the connection back.
func (c *conn) Close() error { return c.inner.Close() }

// refuse returns why nothing can be sent any more.
func (c *conn) refuse() error {
	switch {
	case c.w.closed():
		return driver.ErrClosed
	case c.broken:
		return driver.NotSent(errBroken)
	}
	return nil
}

// decide returns what happens to commands, nil if nothing does, and follows their transactions then.
func (c *conn) decide(ctx context.Context, cmds []driver.Cmd) []verdict {
	invalid := func(cmd driver.Cmd) bool { return cmd.Check() != nil }
	if ctx.Err() != nil || slices.ContainsFunc(cmds, invalid) {
		return nil
	}
	verdicts := c.w.commands(cmds, c.w.router)
	if verdicts == nil {
		for i := range cmds {
			c.follow(&cmds[i])
		}
	}
	return verdicts
}

// follow notes whether a transaction is open after a command.
func (c *conn) follow(cmd *driver.Cmd) {
	if c == nil {
		return
	}
	switch cmd.Name() {
	case "MULTI":
		c.multi = true
	case "EXEC", "DISCARD":
		c.multi = false
	}
}

// refusal returns what is sent in the place of a command that gets an error reply in a transaction, so that the server aborts
// it, nil outside of one.
func (c *conn) refusal(cmd *driver.Cmd) *driver.Cmd {
	if c == nil || !c.multi {
		return nil
	}
	switch cmd.Name() {
	case "EXEC", "DISCARD":
		c.multi = false
		return &driver.Cmd{Args: []string{"DISCARD"}}
	}
	return &driver.Cmd{Args: []string{"ECHO"}} // without its argument
}

// breakOff makes the connection useless, as one that broke.
func (c *conn) breakOff() {
	if c == nil || c.broken {
		return
	}
	c.broken = true
	_ = c.inner.Close() // what it says is of no use to the caller, who has an error
}
