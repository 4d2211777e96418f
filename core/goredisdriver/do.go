package goredisdriver

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

// maxRedirects is how many MOVED and ASK in a row are followed.
const maxRedirects = 5

// readRetries are the pauses before a ReadOnly command is sent again after its connection broke.
var readRetries = []time.Duration{0, 20 * time.Millisecond}

// Do implements [driver.Driver].
func (d *Driver) Do(ctx context.Context, cmd driver.Cmd) driver.Reply {
	if err := d.refuse(ctx, &cmd); err != nil {
		return driver.ErrReply(err)
	}
	if cmd.Mode == driver.Blocking {
		return d.block(ctx, []driver.Cmd{cmd})[0]
	}
	r := d.send(ctx, &cmd)
	if cmd.Mode == driver.ReadOnly && broken(r) {
		r = d.again(ctx, &cmd, r)
	}
	if cmd.NeedsSource(r) {
		cmd = cmd.WithSource()
		r = d.send(ctx, &cmd)
	}
	return r
}

// again repeats a read whose connection broke.
func (d *Driver) again(ctx context.Context, cmd *driver.Cmd, r driver.Reply) driver.Reply {
	for _, pause := range readRetries {
		if !d.pause(ctx, pause) {
			break
		}
		if r = d.send(ctx, cmd); !broken(r) {
			break
		}
	}
	return r
}

// pause reports whether it is worth going on.
func (d *Driver) pause(ctx context.Context, pause time.Duration) bool {
	if pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		case <-d.base.Done():
		}
	}
	return ctx.Err() == nil && !d.closing.Load()
}

// refuse returns the reason why a command is not even tried.
func (d *Driver) refuse(ctx context.Context, cmd *driver.Cmd) error {
	if err := d.refuseAll(ctx); err != nil {
		return err
	}
	if cmd.Unshareable() {
		return driver.NotSent(cmd.CheckShared())
	}
	return d.invalid(cmd)
}

// refuseAll returns the reason why nothing is tried.
func (d *Driver) refuseAll(ctx context.Context) error {
	if d.closing.Load() {
		return driver.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return driver.NotSent(err)
	}
	return nil
}

// invalid returns what is wrong with a command by itself.
func (d *Driver) invalid(cmd *driver.Cmd) error {
	if err := cmd.Check(); err != nil {
		return driver.NotSent(err)
	}
	if d.nodes.real && !cmd.SameSlot() {
		return driver.CrossSlot().Err()
	}
	return nil
}

// send sends a command once to the node that serves it and follows redirections.
func (d *Driver) send(ctx context.Context, cmd *driver.Cmd) driver.Reply {
	node, err := d.node(ctx, cmd.Route())
	if err != nil {
		return driver.ErrReply(err)
	}
	r := d.exec(ctx, node, cmd.Args)
	if d.nodes.cluster == nil {
		return r
	}
	for range maxRedirects {
		addr, ask, ok := redirection(r)
		if !ok {
			break
		}
		if !ask {
			d.nodes.reload()
		}
		if node, err = d.nodes.at(addr, node); err != nil {
			return driver.ErrReply(fault(ctx, err, false))
		}
		if !ask {
			r = d.exec(ctx, node, cmd.Args)
			continue
		}
		pair := []driver.Cmd{{Args: []string{"ASKING"}}, *cmd}
		r = d.execAll(ctx, node, pair)[1]
	}
	if stray(r) {
		d.nodes.reload()
	}
	return r
}

// stray reports whether a reply says that the table of slots may be out of date.
func stray(r driver.Reply) bool {
	switch e := r.Err().(type) {
	case nil:
		return false
	case *driver.OpError:
		return true
	case *driver.ServerError:
		return e.Code() == "READONLY" || e.Code() == "CLUSTERDOWN" || e.Code() == "MOVED" || e.Code() == "MASTERDOWN"
	}
	return false
}

// node returns the client for a key, or an error of the contract.
func (d *Driver) node(ctx context.Context, key string) (*redis.Client, error) {
	if d.nodes.ready() {
		c, err := d.nodes.forKey(ctx, key)
		if err != nil {
			return nil, fault(ctx, err, false)
		}
		return c, nil
	}
	// The first command loads the slots, which go-redis does without regard to cancellation.
	return await(ctx, d, func(ctx context.Context) (*redis.Client, error) { return d.nodes.forKey(ctx, key) }, nil)
}

// single is one command through go-redis. It is used again, unless its caller left early.
type single struct {
	call
	sink    sink
	one     [1]driver.Reply
	client  *redis.Client
	ctx     context.Context
	err     error
	done    chan struct{}
	worker  bool
	patient patient
	guarded guarded
	room    [8]any
}

var singles = sync.Pool{New: func() any {
	s := &single{done: make(chan struct{}, 1)}
	s.RawWriteToCmd = newCommand(&s.sink)
	return s
}}

func (s *single) run() {
	s.err = s.process()
	if s.worker {
		s.done <- struct{}{}
	}
}

func (s *single) process() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
	}()
	return s.client.Process(s.ctx, &s.call)
}

// panicked turns a panic in a hook or in the client into an error: a library must not take the application down for it.
func panicked(p any) error {
	return fmt.Errorf("redisx: panic in the client or one of its hooks: %v", p)
}

// inline reports whether a call needs no worker: ctx cannot be cancelled, and the client observes its deadline.
func inline(ctx context.Context, node *redis.Client) bool {
	if !driver.DeadlineOnly(ctx) {
		return false
	}
	if node.Options().ContextTimeoutEnabled {
		return true
	}
	_, ok := ctx.Deadline()
	return !ok
}

// watch puts a call under guard.
func (d *Driver) watch(ctx context.Context, g *guarded, node *redis.Client) {
	d.guard.add(ctx, g, node.Options().ReadTimeout, d.startGuard)
}

// patrol is the guard's goroutine.
type patrol struct{ d *Driver }

func (p patrol) run() { p.d.guard.watch(p.d.base.Done()) }

func (d *Driver) startGuard() { d.workers.start(patrol{d}) } // after Close there is nothing to guard

// patient is a context of [driver.UntilDeadline] for the use of go-redis, which asks for Done once to see whether ctx has
// ended already, and again before it waits for a connection. Only the second answer is worth a timer.
type patient struct {
	context.Context
	asked atomic.Bool
}

func (p *patient) Done() <-chan struct{} {
	if !p.asked.Swap(true) {
		return nil
	}
	return p.Context.Done()
}

// patience returns the context to give to go-redis for an inline call. Hooks of an application may keep it.
func (d *Driver) patience(ctx context.Context, p *patient) context.Context {
	if _, ok := ctx.Deadline(); !ok {
		return ctx
	}
	if !d.owned {
		p = new(patient)
	}
	p.Context = ctx
	p.asked.Store(false)
	return p
}

// exec sends one command to a node.
func (d *Driver) exec(ctx context.Context, node *redis.Client, args []string) driver.Reply {
	s := singles.Get().(*single)
	s.client, s.ctx, s.worker = node, ctx, false
	s.sink.reset(s.one[:])
	room := s.room[:0]
	if len(args) > len(s.room) {
		room = make([]any, 0, len(args))
	}
	s.set(args, room, &s.one[0])
	switch {
	case inline(ctx, node):
		s.ctx = d.patience(ctx, &s.patient)
		s.run()
		return s.finish(ctx)
	case d.guard != nil:
		d.watch(ctx, &s.guarded, node)
		s.ctx = &s.guarded
		s.run()
		d.guard.remove(&s.guarded)
		return s.finish(ctx)
	}
	s.worker = true
	if !d.workers.start(s) {
		return driver.ErrReply(driver.ErrClosed)
	}
	select {
	case <-s.done:
		return s.finish(ctx)
	case <-ctx.Done():
	}
	select {
	case <-s.done: // both at once: the reply wins
		return s.finish(ctx)
	default:
		return driver.ErrReply(fault(ctx, ctx.Err(), s.abandon()))
	}
}

// finish returns the reply, or the reason why there is none.
func (s *single) finish(ctx context.Context) driver.Reply {
	r := s.one[0]
	if s.sink.next == 0 {
		r = driver.ErrReply(s.failure(ctx, s.err))
	}
	s.reset()
	clear(s.room[:])
	s.one[0] = driver.Reply{}
	s.client, s.ctx, s.err, s.patient.Context = nil, nil, nil, nil
	singles.Put(s)
	return r
}
