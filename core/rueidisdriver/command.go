package rueidisdriver

import (
	"fmt"
	"strings"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

// build makes the client's command. Arguments keep their order; the client copies the slice.
//
// Nothing is marked read-only: the client would send it to a replica if it was configured with some, and would repeat it
// for as long as its own policy says. Repeating is up to resend.
func (d *Driver) build(cmd *driver.Cmd) rueidis.Completed {
	c := d.builder.Arbitrary(cmd.Args...).Build()
	switch {
	case d.topology == driver.Cluster:
		switch {
		case cmd.Keys.Count > 0:
			return c.SetSlot(cmd.Args[cmd.Keys.First])
		case cmd.Near != "":
			return c.SetSlot(cmd.Near)
		}
		return c.SetSlot(d.anywhere())
	case cmd.Keys.Count > 0:
		// One server: the client only asks whether there is a key at all, and spreads those that have one.
		return c.SetSlot("k")
	}
	return c
}

// buildBlocking makes a command that no read timeout or background ping ends. It is for dedicated connections.
func (d *Driver) buildBlocking(cmd *driver.Cmd) rueidis.Completed {
	return d.builder.Arbitrary(cmd.Args...).Blocking()
}

// anywhere returns a key for a command that may run on any primary, another one each time, so that the loss of one node
// does not take all of them down. Left to itself the client might pick a replica.
func (d *Driver) anywhere() string {
	return spread[d.turn.Add(1)%uint32(len(spread))]
}

var spread = [16]string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"}

// check returns why a command cannot be sent on a shared connection, or nil.
func (d *Driver) check(cmd *driver.Cmd) error {
	if cmd.Unshareable() {
		return driver.NotSent(cmd.CheckShared())
	}
	if err := valid(cmd); err != nil {
		return err
	}
	if d.topology == driver.Cluster && cmd.Keys.Count > 1 && !cmd.SameSlot() {
		return driver.CrossSlot().Err()
	}
	return nil
}

// valid is Cmd.Check, which copies the command: it is not called for every one of a pipeline.
func valid(cmd *driver.Cmd) error {
	k := cmd.Keys
	if len(cmd.Args) > 0 && builderPanics(cmd.Args[0]) && !driver.TakesOver(cmd.Args) {
		return driver.NotSent(fmt.Errorf("%w: the client takes %q for a SUBSCRIBE; use a client of your own", driver.ErrInvalid, cmd.Args[0]))
	}
	if len(cmd.Args) == 0 || cmd.Args[0] == "" || k != (driver.Keys{}) && (k != firstArg || len(cmd.Args) < 2) || driver.TakesOver(cmd.Args) {
		return driver.NotSent(cmd.Check())
	}
	return nil
}

// builderPanics reports whether the client's builder panics on a name, which it does on all that end in SUBSCRIBE.
func builderPanics(name string) bool {
	n := len(name)
	return n >= len("SUBSCRIBE") && name[n-1]|0x20 == 'e' && strings.HasSuffix(strings.ToUpper(name), "SUBSCRIBE")
}

var firstArg = driver.Key(1)
