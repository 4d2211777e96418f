package goredisdriver

import (
	"context"
	"slices"
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
	node, err := d.home(ctx, cmds)
	if err != nil {
		return fill(replies, 0, driver.ErrReply(err))
	}
	at, ask := make([]int, len(cmds)), false
	for i := range at {
		at[i] = i
	}
	for range maxRedirects + 1 {
		got, err := d.blockOn(ctx, node, pick(cmds, at), ask)
		for k, i := range at {
			if err != nil {
				replies[i] = driver.ErrReply(err)
			} else {
				replies[i] = latest(&cmds[i], replies[i], got[k])
			}
		}
		if err != nil || d.nodes.cluster == nil {
			return replies
		}
		var addr string
		if addr, ask, at = elsewhere(cmds, replies, at); len(at) == 0 {
			break
		}
		if !ask {
			d.nodes.reload()
		}
		if node, err = d.nodes.at(addr, node); err != nil {
			err = fault(ctx, err, false)
			for _, i := range at {
				replies[i] = driver.ErrReply(err)
			}
			return replies
		}
	}
	for _, r := range replies {
		if stray(r) {
			d.nodes.reload()
			break
		}
	}
	return replies
}

// latest is the reply to a command that was answered twice. The writes that WAIT is about went to two places then.
func latest(c *driver.Cmd, before, now driver.Reply) driver.Reply {
	if c.Waits() {
		return driver.Fewer(before, now)
	}
	return now
}

// home returns the one node that all commands of a list belong to. Those without a key are at home anywhere.
func (d *Driver) home(ctx context.Context, cmds []driver.Cmd) (home *redis.Client, err error) {
	for i := range cmds {
		key := cmds[i].Route()
		if key == "" {
			continue
		}
		node, err := d.node(ctx, key)
		if err != nil {
			return nil, err
		}
		if home != nil && home != node {
			return nil, driver.NotSent(errManyNodes)
		}
		home = node
	}
	if home == nil {
		return d.node(ctx, "")
	}
	return home, nil
}

// elsewhere picks, of the commands at these places, those that were redirected to where the first of them was, and each WAIT
// that is to confirm one of those. The others keep their replies: what has run must not run again.
func elsewhere(cmds []driver.Cmd, replies []driver.Reply, at []int) (addr string, ask bool, next []int) {
	for _, i := range at {
		to, asking, ok := redirection(replies[i])
		if ok && len(next) == 0 {
			addr, ask = to, asking
		}
		switch {
		case ok && to == addr && asking == ask:
		case !ok && cmds[i].Waits() && slices.ContainsFunc(next, func(n int) bool { return confirms(&cmds[i], &cmds[n]) }):
		default:
			continue
		}
		next = append(next, i)
	}
	return addr, ask, next
}

// confirms reports whether such a command is meant for another one.
func confirms(wait, c *driver.Cmd) bool {
	return wait.Route() == "" || driver.Slot(wait.Route()) == driver.Slot(c.Route())
}

// blockOn runs the list on a connection to one node.
func (d *Driver) blockOn(ctx context.Context, node *redis.Client, cmds []driver.Cmd, ask bool) ([]driver.Reply, error) {
	l := d.takeIdle(node)
	if l == nil {
		var err error
		if l, err = d.dial(ctx, node, 0); err != nil {
			return nil, err
		}
	}
	replies := l.runScripts(ctx, cmds, ask)
	for _, r := range replies {
		if readOnly(r) {
			l.close() // so that the next one finds the server that took over
			break
		}
	}
	d.putIdle(l)
	return replies, nil
}

// runScripts is runAsking, with the source of scripts that the server does not know.
func (l *link) runScripts(ctx context.Context, cmds []driver.Cmd, ask bool) []driver.Reply {
	replies := l.runAsking(ctx, cmds, ask)
	again, at := driver.SendAgain(cmds, replies)
	if len(at) == 0 {
		return replies
	}
	for k, r := range l.runAsking(ctx, again, ask) {
		replies[at[k]] = r // a WAIT on the same connection covers what the one before it did
	}
	return replies
}

// runAsking is run, with an ASKING before each command if wanted.
func (l *link) runAsking(ctx context.Context, cmds []driver.Cmd, ask bool) []driver.Reply {
	if !ask {
		return l.run(ctx, cmds)
	}
	both := l.run(ctx, asking(cmds))
	replies := make([]driver.Reply, len(cmds))
	for i := range replies {
		replies[i] = both[2*i+1]
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
