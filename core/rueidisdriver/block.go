package rueidisdriver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

const (
	// answerWithin is how long a blocked command may take to answer after its context ended. It leaves some of
	// driver.PromptCancel for the way back.
	answerWithin = driver.PromptCancel - 10*time.Millisecond
	// unblockEvery is the pause between two CLIENT UNBLOCK: the first may overtake the command it is meant for.
	unblockEvery = 5 * time.Millisecond
	// maxMoves is how many redirections a Blocking command follows.
	maxMoves = 5
)

// block runs a list with a Blocking command in it on a connection of its own.
func (d *Driver) block(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	replies := make([]driver.Reply, len(cmds))
	if err := ctx.Err(); err != nil {
		return failReplies(replies, driver.NotSent(err))
	}
	key, err := d.oneNode(cmds)
	if err != nil {
		return failReplies(replies, err)
	}
	c, err := d.acquire(ctx, key)
	for moves := 0; err == nil; moves++ {
		replies = c.DoMulti(ctx, cmds)
		_ = c.Close()
		to := moved(replies)
		if to == "" || moves >= maxMoves || d.topology != driver.Cluster {
			return replies
		}
		var at node
		if at, err = d.follow(ctx, key, to); err == nil {
			c, err = d.acquireAt(ctx, at)
		}
	}
	return failReplies(replies, err)
}

// oneNode returns the key that routes a list with a Blocking command, or why the list has no single place.
func (d *Driver) oneNode(cmds []driver.Cmd) (key string, err error) {
	for i := range cmds {
		route := cmds[i].Route()
		switch {
		case route == "":
		case key == "":
			key = route
		case d.topology != driver.Cluster, driver.Slot(key) == driver.Slot(route):
		default:
			if a, b := d.slots.node(key), d.slots.node(route); a == "" || a != b {
				return "", fmt.Errorf("%w: a list with a blocking command must belong to one node; its keys are in different slots", driver.ErrInvalid)
			}
		}
	}
	return key, nil
}

// moved returns the address that every reply redirects to, or "".
func moved(replies []driver.Reply) (addr string) {
	for _, r := range replies {
		e, ok := r.Err().(*driver.ServerError)
		if !ok || e.Code() != "MOVED" {
			return ""
		}
		fields := strings.Fields(e.Error())
		if len(fields) < 3 || addr != "" && addr != fields[2] {
			return ""
		}
		addr = fields[2]
	}
	return addr
}

// awaitBlocking waits for a job that blocks on the server. When ctx ends it asks the server to end it, and waits a moment
// for the answer: the reply that was on its way, or none. It reports whether there is one.
func (c *conn) awaitBlocking(ctx context.Context, j *job) bool {
	select {
	case <-j.done:
		return true
	case <-ctx.Done():
	}
	limit := time.NewTimer(answerWithin)
	defer limit.Stop()
	unblocking := c.unblock()
	select {
	case <-j.done:
	case <-limit.C:
		unblocking.stop()
		return false
	}
	// An UNBLOCK still on its way would end the next command of this connection.
	unblocking.stop()
	select {
	case <-unblocking.done:
	case <-limit.C:
		c.fail(errors.New("connection given up while CLIENT UNBLOCK was on its way"))
	}
	return true
}

type unblocking struct {
	stop context.CancelFunc
	// done is closed when no UNBLOCK is on its way.
	done chan struct{}
}

// unblock sends CLIENT UNBLOCK from the shared connection to the same server, until stopped.
func (c *conn) unblock() unblocking {
	ctx, stop := context.WithCancel(c.d.ctx)
	u := unblocking{stop: stop, done: make(chan struct{})}
	send := func() {
		defer close(u.done)
		for ctx.Err() == nil {
			cmd := c.d.builder.Arbitrary("CLIENT", "UNBLOCK", c.id, "TIMEOUT").Build()
			if c.at.pin != "" {
				cmd = cmd.SetSlot(c.at.pin)
			}
			// Not ctx: an UNBLOCK that was sent has to be waited for. The client's own timeouts bound it.
			if err := c.at.shared.Do(context.Background(), cmd).Error(); err != nil && !rueidis.IsRedisNil(err) {
				return
			}
			c.d.pause(ctx, unblockEvery)
		}
	}
	if c.id == "" || !c.d.run(send) {
		close(u.done)
	}
	return u
}
