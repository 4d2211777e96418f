package goredisdriver

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

// Idle connections for blocking commands.
const (
	idlePerNode = 8
	idleFor     = 30 * time.Second
)

// block runs a list with a blocking command on a connection of its own.
func (d *Driver) block(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	replies := make([]driver.Reply, len(cmds))
	node, err := d.node(ctx, cmds[0].Route())
	for _, c := range cmds[1:] {
		if err != nil {
			break
		}
		var other *redis.Client
		if other, err = d.node(ctx, c.Route()); err == nil && other != node && c.Route() != "" {
			err = driver.NotSent(errManyNodes)
		}
	}
	if err != nil {
		return fill(replies, 0, driver.ErrReply(err))
	}
	for range maxRedirects {
		replies, err = d.blockOn(ctx, node, cmds)
		if err != nil {
			return fill(replies, 0, driver.ErrReply(err))
		}
		addr, ask, ok := redirection(replies[0])
		if !ok || ask && len(cmds) > 1 {
			break
		}
		if !ask {
			d.nodes.reload()
		}
		next, err := d.nodes.at(addr, node)
		if err != nil {
			return fill(replies, 0, driver.ErrReply(fault(ctx, err, false)))
		}
		if node = next; ask {
			replies, err = d.blockOn(ctx, node, asking(cmds))
			if err != nil {
				return fill(make([]driver.Reply, len(cmds)), 0, driver.ErrReply(err))
			}
			return replies[1:]
		}
	}
	for _, r := range replies {
		if d.nodes.cluster != nil && stray(r) {
			d.nodes.reload()
			break
		}
	}
	return replies
}

// blockOn runs the list on a connection to one node.
func (d *Driver) blockOn(ctx context.Context, node *redis.Client, cmds []driver.Cmd) ([]driver.Reply, error) {
	l := d.takeIdle(node)
	if l == nil {
		var err error
		if l, err = d.dial(ctx, node, 0); err != nil {
			return make([]driver.Reply, len(cmds)), err
		}
	}
	replies := l.runScripts(ctx, cmds)
	d.putIdle(l)
	return replies, nil
}

// runScripts is run, with the source of scripts that the server does not know.
func (l *link) runScripts(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	replies := l.run(ctx, cmds)
	var at []int
	var again []driver.Cmd
	for i := range cmds {
		if cmds[i].NeedsSource(replies[i]) {
			at = append(at, i)
			again = append(again, cmds[i].WithSource())
		}
	}
	if len(at) == 0 {
		return replies
	}
	for k, r := range l.run(ctx, again) {
		replies[at[k]] = r
	}
	return replies
}

// takeIdle returns an idle connection to the node, or nil.
func (d *Driver) takeIdle(node *redis.Client) *link {
	for {
		d.mu.Lock()
		list := d.idle[node]
		if len(list) == 0 {
			d.mu.Unlock()
			return nil
		}
		l := list[len(list)-1]
		d.idle[node] = list[:len(list)-1]
		d.mu.Unlock()
		if l.healthy() {
			return l
		}
		l.close()
	}
}

// putIdle keeps a connection for the next blocking command, or closes it.
func (d *Driver) putIdle(l *link) {
	if l.dead.Load() {
		l.close()
		return
	}
	d.mu.Lock()
	if d.links == nil || len(d.idle[l.node]) >= idlePerNode {
		d.mu.Unlock()
		l.close()
		return
	}
	l.since = time.Now()
	d.idle[l.node] = append(d.idle[l.node], l)
	if !d.sweep {
		d.sweep = true
		time.AfterFunc(idleFor, d.sweepIdle)
	}
	d.mu.Unlock()
}

// sweepIdle closes connections that were idle for long.
func (d *Driver) sweepIdle() {
	var old []*link
	d.mu.Lock()
	d.sweep = false
	for node, list := range d.idle {
		keep := list[:0]
		for _, l := range list {
			if time.Since(l.since) >= idleFor {
				old = append(old, l)
			} else {
				keep = append(keep, l)
			}
		}
		if d.idle[node] = keep; len(keep) == 0 {
			delete(d.idle, node)
			continue
		}
		d.sweep = true
	}
	if d.sweep {
		time.AfterFunc(idleFor, d.sweepIdle)
	}
	d.mu.Unlock()
	for _, l := range old {
		l.close()
	}
}
