package rueidisdriver

import (
	"context"
	"errors"
	"fmt"
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
	key, err := d.oneNode(ctx, cmds)
	if err != nil {
		return failReplies(replies, err)
	}
	c, err := d.acquire(ctx, key)
	if err != nil {
		return failReplies(replies, err)
	}
	replies = c.DoMulti(ctx, cmds)
	_ = c.Close()
	for moves := 0; moves < maxMoves && d.topology == driver.Cluster; moves++ {
		at, to := redirected(cmds, replies)
		if at == nil {
			break
		}
		some := make([]driver.Cmd, len(at))
		for i, n := range at {
			some[i] = cmds[n]
		}
		for i, r := range d.elsewhere(ctx, some, to) {
			if n := at[i]; cmds[n].Waits() {
				replies[n] = driver.Fewer(replies[n], r)
			} else {
				replies[n] = r
			}
		}
	}
	return replies
}

// elsewhere sends commands to the node they were redirected to. None of them has run yet, but for those that confirm.
func (d *Driver) elsewhere(ctx context.Context, cmds []driver.Cmd, to redirect) []driver.Reply {
	replies := make([]driver.Reply, len(cmds))
	at, err := d.follow(ctx, cmds[0].Route(), to)
	if err != nil {
		return failReplies(replies, err)
	}
	c, err := d.acquireAt(ctx, at)
	if err != nil {
		return failReplies(replies, err)
	}
	if to.code == "ASK" {
		replies = c.asking(ctx, cmds)
	} else {
		replies = c.DoMulti(ctx, cmds)
	}
	_ = c.Close()
	return replies
}

// asking sends commands to the node that a slot is moving to, which takes them only after ASKING.
func (c *conn) asking(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	send := func(cmds []driver.Cmd) []driver.Reply {
		replies := make([]driver.Reply, len(cmds))
		if err := c.usable(ctx); err != nil {
			return failReplies(replies, err)
		}
		list := make([]driver.Cmd, 0, 2*len(cmds))
		at := make([]int, len(cmds))
		blocking := false
		for i := range cmds {
			if cmds[i].Keys.Count > 0 {
				list = append(list, driver.Cmd{Args: []string{"ASKING"}})
			}
			at[i] = len(list)
			list = append(list, cmds[i])
			blocking = blocking || cmds[i].Mode == driver.Blocking
		}
		got := c.exec(ctx, list, blocking)
		for i := range replies {
			replies[i] = got[at[i]]
		}
		return replies
	}
	replies := send(cmds)
	resendScripts(cmds, replies, send)
	return replies
}

// redirected returns the commands that have to be sent to another node, and how: those it was said of, and the WAIT behind
// them, which confirms writes on its own connection only. It returns nil if there are none, or several places to go.
func redirected(cmds []driver.Cmd, replies []driver.Reply) (at []int, to redirect) {
	for i, r := range replies {
		if here, ok := redirection(r); ok {
			if at != nil && (here.code != to.code || here.addr != to.addr) {
				return nil, to
			}
			at, to = append(at, i), here
		} else if at != nil && r.Err() == nil && cmds[i].Waits() {
			at = append(at, i)
		}
	}
	return at, to
}

// oneNode returns the key that routes a list with a Blocking command, or why the list has no single place. Before it refuses
// one it looks at the slots anew: what is known of them may be old, or nothing.
func (d *Driver) oneNode(ctx context.Context, cmds []driver.Cmd) (key string, err error) {
	looked := false
	for i := range cmds {
		route := cmds[i].Route()
		if key == "" {
			key = route
		}
		if route == "" || d.topology != driver.Cluster {
			continue
		}
		for !d.together(key, route) {
			if looked {
				return "", driver.NotSent(fmt.Errorf("%w: a list with a blocking command must belong to one node; its keys are in different slots", driver.ErrInvalid))
			}
			looked = true
			if err := d.look(ctx); err != nil {
				return "", unsent(err)
			}
		}
	}
	return key, nil
}

// together reports whether one node is known to serve two keys.
func (d *Driver) together(a, b string) bool {
	if driver.Slot(a) == driver.Slot(b) {
		return true
	}
	node := d.slots.node(a)
	return node != "" && node == d.slots.node(b)
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
