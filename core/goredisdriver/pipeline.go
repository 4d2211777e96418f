package goredisdriver

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

var errManyNodes = fmt.Errorf("%w: a list with a blocking command must belong to one node", driver.ErrInvalid)

// DoMulti implements [driver.Driver].
func (d *Driver) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	if err := d.refuseAll(ctx); err != nil {
		return fill(make([]driver.Reply, len(cmds)), 0, driver.ErrReply(err))
	}
	var replies []driver.Reply // made when one is known
	refused, blocking := 0, false
	for i := range cmds {
		if cmds[i].Unshareable() { // the others may be meant to be part of a transaction
			err := driver.NotSent(cmds[i].CheckShared())
			return fill(make([]driver.Reply, len(cmds)), 0, driver.ErrReply(err))
		}
		if err := d.invalid(&cmds[i]); err != nil {
			if replies == nil {
				replies = make([]driver.Reply, len(cmds))
			}
			replies[i] = driver.ErrReply(err)
			refused++
		}
		blocking = blocking || cmds[i].Mode == driver.Blocking
	}
	if refused == 0 && !blocking && d.nodes.single != nil && len(cmds) > 0 {
		replies = d.execAll(ctx, d.nodes.single, cmds)
		d.repair(ctx, cmds, replies)
		return replies
	}
	if replies == nil {
		replies = make([]driver.Reply, len(cmds))
	}
	switch {
	case refused == len(cmds):
	case blocking:
		d.blockMulti(ctx, cmds, replies, refused)
	default:
		d.sendAll(ctx, cmds, pending(replies), replies)
		d.repair(ctx, cmds, replies)
	}
	return replies
}

// blockMulti sends a list with a blocking command, less those that were refused.
func (d *Driver) blockMulti(ctx context.Context, cmds []driver.Cmd, replies []driver.Reply, refused int) {
	at := pending(replies)
	if refused == 0 {
		copy(replies, d.block(ctx, cmds))
		return
	}
	for i, r := range d.block(ctx, pick(cmds, at)) {
		replies[at[i]] = r
	}
}

// pending lists the places without a reply.
func pending(replies []driver.Reply) []int {
	at := make([]int, 0, len(replies))
	for i := range replies {
		if replies[i].Err() == nil {
			at = append(at, i)
		}
	}
	return at
}

func pick(cmds []driver.Cmd, at []int) []driver.Cmd {
	some := make([]driver.Cmd, len(at))
	for i, n := range at {
		some[i] = cmds[n]
	}
	return some
}

// repair sends again what may be sent again: reads whose connection broke, and scripts the server did not know, with their
// source.
func (d *Driver) repair(ctx context.Context, cmds []driver.Cmd, replies []driver.Reply) {
	var reads []int
	failed := false
	for i := range replies {
		if replies[i].Err() == nil {
			continue
		}
		failed = true
		if cmds[i].Mode == driver.ReadOnly && broken(replies[i]) {
			reads = append(reads, i)
		}
	}
	if len(reads) > 0 && d.pause(ctx, 0) {
		d.sendAll(ctx, cmds, reads, replies)
	}
	if !failed {
		return
	}
	again, scripts := driver.SendAgain(cmds, replies)
	switch {
	case len(scripts) == 0:
	case d.pause(ctx, 0):
		cmds = slices.Clone(cmds) // the caller's list stays as it is
		for k, i := range scripts {
			cmds[i] = again[k]
		}
		d.sendAll(ctx, cmds, scripts, replies)
	default: // too late to send them again: the server has not run them
		err := driver.ErrClosed
		if ctx.Err() != nil {
			err = driver.NotSent(ctx.Err())
		}
		for _, i := range scripts {
			replies[i] = driver.ErrReply(err)
		}
	}
}

// sendAll sends the commands at these places, each to the node that serves it, and follows redirections.
func (d *Driver) sendAll(ctx context.Context, cmds []driver.Cmd, at []int, replies []driver.Reply) {
	groups := make([]group, 0, 4)
	for _, i := range at {
		node, err := d.node(ctx, cmds[i].Route())
		if err != nil {
			replies[i] = driver.ErrReply(err)
			continue
		}
		groups = appendTo(groups, node, false, i)
	}
	d.execGroups(ctx, cmds, groups, replies)
	if d.nodes.cluster == nil {
		return
	}
	for range maxRedirects {
		if groups = d.redirected(ctx, groups, replies); len(groups) == 0 {
			break
		}
		d.execGroups(ctx, cmds, groups, replies)
	}
	for _, i := range at {
		if stray(replies[i]) {
			d.nodes.reload()
			break
		}
	}
}

// redirected groups the commands that were answered MOVED or ASK by where they have to go, in order.
func (d *Driver) redirected(ctx context.Context, from []group, replies []driver.Reply) (groups []group) {
	for _, g := range from {
		for _, i := range g.at {
			addr, ask, ok := redirection(replies[i])
			if !ok {
				continue
			}
			if !ask {
				d.nodes.reload()
			}
			node, err := d.nodes.at(addr, g.node)
			if err != nil {
				replies[i] = driver.ErrReply(fault(ctx, err, false))
				continue
			}
			groups = appendTo(groups, node, ask, i)
		}
	}
	return groups
}

// group is the commands of a list that travel together.
type group struct {
	node *redis.Client
	ask  bool // each behind an ASKING
	at   []int
}

func appendTo(groups []group, node *redis.Client, ask bool, i int) []group {
	for g := range groups {
		if groups[g].node == node && groups[g].ask == ask {
			groups[g].at = append(groups[g].at, i)
			return groups
		}
	}
	return append(groups, group{node: node, ask: ask, at: []int{i}})
}

// execGroups sends all groups at once.
func (d *Driver) execGroups(ctx context.Context, cmds []driver.Cmd, groups []group, replies []driver.Reply) {
	all, started := make([]*batch, len(groups)), make([]bool, len(groups))
	for n, g := range groups {
		some := pick(cmds, g.at)
		if g.ask {
			some = asking(some)
		}
		all[n] = newBatch(ctx, g.node, some)
		if len(groups) > 1 {
			started[n] = d.startBatch(all[n])
		}
	}
	for n, g := range groups {
		var got []driver.Reply
		if len(groups) == 1 {
			got = d.runBatch(ctx, all[n])
		} else {
			got = d.waitBatch(ctx, all[n], started[n])
		}
		for k, i := range g.at {
			if g.ask {
				k = 2*k + 1
			}
			replies[i] = got[k]
		}
	}
}

func asking(cmds []driver.Cmd) []driver.Cmd {
	both := make([]driver.Cmd, 0, 2*len(cmds))
	for _, c := range cmds {
		both = append(both, driver.Cmd{Args: []string{"ASKING"}}, c)
	}
	return both
}

// execAll sends commands to one node in one round trip.
func (d *Driver) execAll(ctx context.Context, node *redis.Client, cmds []driver.Cmd) []driver.Reply {
	return d.runBatch(ctx, newBatch(ctx, node, cmds))
}

// batch is a pipeline through go-redis. It is used again, unless its caller left early.
type batch struct {
	sink    sink
	calls   []*call
	cmders  []redis.Cmder // the calls
	room    []any         // the arguments of all calls in one piece
	replies []driver.Reply
	client  *redis.Client
	ctx     context.Context
	err     error
	done    chan struct{}
	worker  bool
	patient patient
	guarded guarded
	guard   *guard // of a batch on a worker
}

// mostKept is how many commands and arguments a batch that is kept for the next use may have.
const mostKept = 1 << 12

var batches = sync.Pool{New: func() any { return &batch{done: make(chan struct{}, 1)} }}

func newBatch(ctx context.Context, node *redis.Client, cmds []driver.Cmd) *batch {
	b := batches.Get().(*batch)
	b.client, b.ctx, b.replies = node, ctx, make([]driver.Reply, len(cmds))
	b.sink.reset(b.replies)
	words := 0
	for i := range cmds {
		words += len(cmds[i].Args)
	}
	if words > cap(b.room) {
		b.room = make([]any, words)
	}
	room := b.room[:words]
	for i := range cmds {
		if i == len(b.calls) {
			c := &call{RawWriteToCmd: newCommand(&b.sink)}
			b.calls, b.cmders = append(b.calls, c), append(b.cmders, c)
		}
		n := len(cmds[i].Args)
		b.calls[i].set(cmds[i].Args, room[:0:n], &b.replies[i])
		room = room[n:]
	}
	return b
}

func (b *batch) run() {
	b.err = b.process()
	if b.guard != nil {
		b.guard.remove(&b.guarded)
		b.guard = nil
	}
	if b.worker {
		b.done <- struct{}{}
	}
}

func (b *batch) process() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
	}()
	pipe := b.client.Pipeline()
	if err := pipe.BatchProcess(b.ctx, b.cmders[:len(b.replies)]...); err != nil {
		return err
	}
	_, err = pipe.Exec(b.ctx)
	return err
}

// runBatch returns the replies.
func (d *Driver) runBatch(ctx context.Context, b *batch) []driver.Reply {
	b.worker = false
	switch {
	case inline(ctx, b.client):
		b.ctx = d.patience(ctx, &b.patient)
		b.run()
		return b.finish(ctx)
	case d.guard != nil:
		d.watch(ctx, &b.guarded, b.client)
		b.ctx = &b.guarded
		b.run()
		d.guard.remove(&b.guarded)
		return b.finish(ctx)
	}
	return d.waitBatch(ctx, b, d.startBatch(b))
}

// startBatch runs a batch on a worker. Under guard that gives its connection back soon after its caller left.
func (d *Driver) startBatch(b *batch) (started bool) {
	b.worker = true
	if d.guard != nil && !inline(b.ctx, b.client) {
		d.watch(b.ctx, &b.guarded, b.client)
		b.guard, b.ctx = d.guard, &b.guarded
	}
	if !d.workers.start(b) {
		if b.guard != nil {
			b.guard.remove(&b.guarded)
		}
		return false
	}
	return true
}

// waitBatch returns the replies, as far as ctx allows.
func (d *Driver) waitBatch(ctx context.Context, b *batch, started bool) []driver.Reply {
	if !started {
		return fill(make([]driver.Reply, len(b.replies)), 0, driver.ErrReply(driver.ErrClosed))
	}
	select {
	case <-b.done:
		return b.finish(ctx)
	case <-ctx.Done():
	}
	select {
	case <-b.done: // both at once: the replies win
		return b.finish(ctx)
	default:
	}
	replies := make([]driver.Reply, len(b.replies)) // the others belong to the worker now
	for i := range replies {
		replies[i] = driver.ErrReply(fault(ctx, ctx.Err(), b.calls[i].abandon()))
	}
	return replies
}

// finish returns the replies, with the reasons in place of those that are missing.
func (b *batch) finish(ctx context.Context) []driver.Reply {
	replies := b.replies
	for i := range replies {
		if i >= b.sink.next {
			replies[i] = driver.ErrReply(b.calls[i].failure(ctx, b.err))
		}
		b.calls[i].reset()
	}
	if len(b.calls) <= mostKept && len(b.room) <= mostKept {
		clear(b.room)
		b.sink.replies, b.sink.b.to = nil, nil
		b.client, b.ctx, b.patient.Context, b.err, b.replies = nil, nil, nil, nil, nil
		batches.Put(b)
	}
	return replies
}
