package core

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// Client sends commands to one deployment of Redis or Valkey. It is safe for concurrent use. See the package comment for
// what it adds to a driver.
type Client struct {
	*clientState
	budget *budget
	// alone is set on views with a timeout of their own: their commands would hold up the others of a batch.
	alone bool
}

// clientState is what a Client and the views made by WithTimeout share.
type clientState struct {
	driver        driver.Driver
	router        driver.Router // nil unless the driver talks to several nodes
	name, prefix  string
	hook          *Hook
	logger        *slog.Logger
	timeout       time.Duration
	breakerConfig BreakerConfig
	noBreaker     bool
	noBatching    bool
	// budget0 is the budget of every view that has no timeout of its own, batches the same for what is sent together.
	budget0, batches *budget

	lane0 *lane    // the only one, or the one for commands whose node is not known
	lanes sync.Map // node → *lane

	laneMu             sync.Mutex // for changes of lanes
	laneCount, sweepAt int

	// closing ends background work; running counts it.
	closing    <-chan struct{}
	closingCtx context.Context
	cancel     context.CancelFunc
	mu         sync.Mutex
	closed     bool
	running    sync.WaitGroup
	closeErr   error
	closeOnce  sync.Once
}

// New returns a client over a driver, which it owns from then on: [Client.Close] closes it. New does no I/O and starts
// nothing. The error lists every option that is out of range.
func New(d driver.Driver, opts ...Option) (*Client, error) {
	c := defaults()
	for _, o := range opts {
		if o != nil {
			o.apply(&c)
		}
	}
	err := c.validate()
	if isNil(d) {
		err = errors.Join(errors.New("redisx: nil driver; open one with goredisdriver.Open or rueidisdriver.Open"), err)
	}
	if err != nil {
		return nil, err
	}
	s := &clientState{
		driver: d, name: c.name, prefix: c.prefix, hook: compose(c.hooks), logger: c.logger, timeout: c.timeout,
		breakerConfig: c.breaker, noBreaker: c.noBreak, noBatching: c.noBatch,
	}
	s.router, _ = d.(driver.Router)
	s.closingCtx, s.cancel = context.WithCancel(context.Background())
	s.closing = s.closingCtx.Done()
	s.lane0 = newLane(s, "", "")
	s.budget0, s.batches = newBudget(c.timeout), newBatchBudget(c.timeout)
	return &Client{clientState: s, budget: s.budget0}, nil
}

// isNil also finds the nil pointer in an interface that a failed Open leaves if its error is not looked at.
func isNil(d driver.Driver) bool {
	if d == nil {
		return true
	}
	v := reflect.ValueOf(d)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

// WithTimeout returns a view of the client whose commands may take up to d, for scripts known to be slow; they do not join
// the batches of others. The view shares everything else, Close included. The least d is 1 ms; less is taken as that.
func (c *Client) WithTimeout(d time.Duration) *Client {
	return &Client{clientState: c.clientState, budget: newBudget(max(d, time.Millisecond)), alone: true}
}

// Driver returns the driver, for its optional abilities: driver.Subscriber, driver.Tracker, driver.Dedicated. What is sent
// through it passes neither the breaker nor the hooks.
func (c *Client) Driver() driver.Driver { return c.driver }

// Name returns the name given by [WithName].
func (c *Client) Name() string { return c.name }

// KeyPrefix returns the prefix given by [WithKeyPrefix].
func (c *Client) KeyPrefix() string { return c.prefix }

// Logger returns the logger given by [WithLogger]; it is never nil.
func (c *Client) Logger() *slog.Logger { return c.logger }

// Caps tells what the server can do; see driver.Caps.
func (c *Client) Caps(ctx context.Context) (driver.Caps, error) {
	ctx, release := c.budget.within(ctx)
	defer release()
	caps, err := c.driver.Caps(ctx)
	if err != nil {
		return driver.Caps{}, classifiedErr(err, "CAPS")
	}
	return caps, nil
}

// Do sends one command. It returns when the reply is there, ctx ends or the command timeout passes, whichever is first; see
// [WithCommandTimeout]. The reply's error is an *[Error]. A Write command is sent at most once.
func (c *Client) Do(ctx context.Context, cmd driver.Cmd) driver.Reply {
	if c.hook == nil {
		return c.do(ctx, cmd)
	}
	return c.doHooked(ctx, cmd)
}

func (c *Client) do(ctx context.Context, cmd driver.Cmd) driver.Reply {
	if err := sharedErr(&cmd); err != nil {
		return classified(driver.ErrReply(err), &cmd)
	}
	l := c.laneFor(&cmd)
	epoch, ok := l.breaker.begin()
	if !ok {
		return classified(c.refusal(ctx), &cmd)
	}
	if cmd.Mode == driver.Blocking {
		return c.doBlocking(ctx, l, epoch, cmd)
	}
	if c.alone || c.noBatching {
		return c.doAlone(ctx, l, epoch, cmd)
	}
	return c.classified(ctx, l.do(ctx, c.budget.context(), cmd), &cmd)
}

func (c *Client) doBlocking(ctx context.Context, l *lane, epoch uint32, cmd driver.Cmd) driver.Reply {
	r := c.driver.Do(ctx, cmd)
	err := r.Err()
	if ctx.Err() == nil {
		l.breaker.end(epoch, err)
	} else if foundNothing(ctx, err) {
		return nothingFound(err, &cmd)
	}
	return classified(r, &cmd)
}

// foundNothing reports whether a Blocking command waited for as long as its caller wanted, and there was nothing: no outage.
func foundNothing(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) && !errors.Is(err, ErrUnknownOutcome)
}

func nothingFound(err error, cmd *driver.Cmd) driver.Reply {
	return driver.ErrReply(&Error{Command: commandName(cmd), Class: ClassCanceled, Err: err})
}

var refused = driver.ErrReply(ErrBreakerOpen)

// refusal is the reply while a breaker is open.
func (s *clientState) refusal(ctx context.Context) driver.Reply {
	select {
	case <-s.closing:
		return closedReply
	default:
	}
	if err := ctx.Err(); err != nil {
		return driver.ErrReply(driver.NotSent(err))
	}
	return refused
}

var closedReply = driver.ErrReply(&Error{Class: ClassClosed, Err: ErrClosed})

// doAlone is do without batching.
func (c *Client) doAlone(ctx context.Context, l *lane, epoch uint32, cmd driver.Cmd) driver.Reply {
	within, release := c.budget.within(ctx)
	r := c.driver.Do(within, cmd)
	release()
	c.record(ctx, l, epoch, r.Err())
	return c.classified(ctx, r, &cmd)
}

// record tells the breaker of a call that ran on the caller's context, or under the timeout of a view. One that is shorter
// than the client's is the caller's impatience too.
func (c *Client) record(ctx context.Context, l *lane, epoch uint32, err error) {
	if err != nil && c.budget.timeout < c.timeout && errors.Is(err, context.DeadlineExceeded) {
		l.breaker.impatient(epoch)
		return
	}
	l.breaker.record(ctx, epoch, err)
}

// classified is the reply as callers get it. A deadline that was not the caller's is called by its name.
func (c *Client) classified(ctx context.Context, r driver.Reply, cmd *driver.Cmd) driver.Reply {
	err := r.Err()
	if err == nil {
		return r
	}
	if op, ok := err.(*driver.OpError); ok && ctx.Err() == nil && errors.Is(op.Err, context.DeadlineExceeded) {
		r = driver.ErrReply(&driver.OpError{Sent: op.Sent, Err: commandTimeout{c.budget.timeout, op.Err}})
	}
	return classified(r, cmd)
}

// commandTimeout is a context.DeadlineExceeded that says whose deadline it was.
type commandTimeout struct {
	after time.Duration
	err   error
}

func (e commandTimeout) Error() string {
	return "no answer within the command timeout of " + e.after.String()
}
func (e commandTimeout) Unwrap() error { return e.err }
func (commandTimeout) Timeout() bool   { return true }

func (c *Client) doHooked(ctx context.Context, cmd driver.Cmd) driver.Reply {
	info := Command{Client: c.name, Name: cmd.Name(), Count: 1}
	if cmd.Script != nil {
		info.Script = cmd.Script.Name()
	}
	if c.hook.CommandStart != nil {
		if next := c.hook.CommandStart(ctx, info); next != nil {
			ctx = next
		}
	}
	start := time.Now()
	r := c.do(ctx, cmd)
	if c.hook.CommandEnd != nil {
		err := r.Err()
		c.hook.CommandEnd(ctx, info, CommandResult{Duration: time.Since(start), Err: err, Class: Classify(err), Nil: r.IsNil()})
	}
	return r
}

// DoMulti sends a pipeline: one round trip per node, one reply for each command, in order, not atomic. The command timeout
// holds for the whole; each reply has its own error. In Cluster, commands to a node whose breaker is open fail at once
// and the others are sent.
func (c *Client) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	if len(cmds) == 0 {
		return nil
	}
	if c.hook == nil {
		return c.doMulti(ctx, cmds)
	}
	info := Command{Client: c.name, Name: "PIPELINE", Count: len(cmds)}
	if c.hook.CommandStart != nil {
		if next := c.hook.CommandStart(ctx, info); next != nil {
			ctx = next
		}
	}
	start := time.Now()
	replies := c.doMulti(ctx, cmds)
	if c.hook.CommandEnd != nil {
		var err error
		for i := range replies {
			if err = replies[i].Err(); err != nil {
				break
			}
		}
		c.hook.CommandEnd(ctx, info, CommandResult{Duration: time.Since(start), Err: err, Class: Classify(err)})
	}
	return replies
}

func (c *Client) doMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	blocking := false
	for i := range cmds {
		blocking = blocking || cmds[i].Mode == driver.Blocking
	}
	if err := sharedListErr(cmds); err != nil {
		return repeated(len(cmds), driver.ErrReply(err))
	}
	if c.router == nil || blocking {
		return c.sendMulti(ctx, c.laneFor(&cmds[0]), cmds, blocking)
	}
	// Several nodes: leave out what an open breaker refuses.
	lanes := make([]*lane, len(cmds))
	epochs := map[*lane]uint32{}
	open := 0
	for i := range cmds {
		lanes[i] = c.laneFor(&cmds[i])
		if _, seen := epochs[lanes[i]]; !seen {
			epochs[lanes[i]], _ = lanes[i].breaker.begin()
		}
		if epochs[lanes[i]]&1 == 1 {
			lanes[i] = nil
			open++
		}
	}
	if open == len(cmds) {
		return c.refuseAll(ctx, cmds)
	}
	send := cmds
	if open > 0 {
		send = make([]driver.Cmd, 0, len(cmds)-open)
		for i := range cmds {
			if lanes[i] != nil {
				send = append(send, cmds[i])
			}
		}
	}
	within, release := c.budget.within(ctx)
	got := c.driver.DoMulti(within, send)
	release()
	out := got
	if open > 0 {
		out = make([]driver.Reply, len(cmds))
	}
	// One word per node to its breaker: any answer counts as life.
	opinions := map[*lane]*opinion{}
	next := 0
	for i := range cmds {
		if lanes[i] == nil {
			out[i] = classified(c.refusal(ctx), &cmds[i])
			continue
		}
		r := got[next]
		next++
		o := opinions[lanes[i]]
		if o == nil {
			o = &opinion{}
			opinions[lanes[i]] = o
		}
		o.add(r.Err())
		out[i] = c.classified(ctx, r, &cmds[i])
	}
	for l, o := range opinions {
		c.record(ctx, l, epochs[l], o.err)
	}
	return out
}

// sendMulti sends a pipeline to one node.
func (c *Client) sendMulti(ctx context.Context, l *lane, cmds []driver.Cmd, blocking bool) []driver.Reply {
	epoch, ok := l.breaker.begin()
	if !ok {
		return c.refuseAll(ctx, cmds)
	}
	within, release := ctx, context.CancelFunc(func() {})
	if !blocking {
		within, release = c.budget.within(ctx)
	}
	replies := c.driver.DoMulti(within, cmds)
	release()
	if !blocking || ctx.Err() == nil {
		c.record(ctx, l, epoch, verdict(replies))
	}
	for i := range replies {
		switch {
		case replies[i].Err() == nil:
		case blocking && foundNothing(ctx, replies[i].Err()):
			replies[i] = nothingFound(replies[i].Err(), &cmds[i])
		default:
			replies[i] = c.classified(ctx, replies[i], &cmds[i])
		}
	}
	return replies
}

// refuseAll is refusal for a pipeline.
func (c *Client) refuseAll(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	return repeated(len(cmds), classified(c.refusal(ctx), &driver.Cmd{Args: []string{"PIPELINE"}}))
}

func repeated(n int, r driver.Reply) []driver.Reply {
	out := make([]driver.Reply, n)
	for i := range out {
		out[i] = r
	}
	return out
}

const (
	// maxLanes bounds the lanes of a client; nodes beyond share the one of the unknown.
	maxLanes = 1024
	// fewLanes are never swept.
	fewLanes = 32
)

// laneFor returns the lane of the node that a command goes to.
func (s *clientState) laneFor(cmd *driver.Cmd) *lane {
	if s.router == nil {
		return s.lane0
	}
	key := cmd.Route()
	if key == "" {
		return s.lane0
	}
	node := s.router.Node(key)
	if node == "" {
		return s.lane0
	}
	if v, ok := s.lanes.Load(node); ok {
		l := v.(*lane)
		if !l.used.Load() { // written seldom: callers of all goroutines share the line
			l.used.Store(true)
		}
		return l
	}
	return s.addLane(node, key)
}

// addLane makes the lane of a node that is new. Nodes come and go, and each may have another address when it comes back.
func (s *clientState) addLane(node, key string) *lane {
	s.laneMu.Lock()
	defer s.laneMu.Unlock()
	if l, ok := s.lanes.Load(node); ok {
		return l.(*lane)
	}
	if s.laneCount >= max(fewLanes, s.sweepAt) {
		s.sweep()
	}
	if s.laneCount >= maxLanes {
		return s.lane0
	}
	l := newLane(s, node, key)
	s.lanes.Store(node, l)
	s.laneCount++
	return l
}

// sweep drops the lanes that nobody has used since the sweep before. A caller who holds one just now may go on with it.
func (s *clientState) sweep() {
	s.lanes.Range(func(node, v any) bool {
		l := v.(*lane)
		if _, closed := l.breaker.begin(); !l.used.Swap(false) && closed && l.idle() {
			s.lanes.Delete(node)
			s.laneCount--
		}
		return true
	})
	s.sweepAt = min(s.laneCount+fewLanes, maxLanes)
}

func (s *clientState) emit(e Event) {
	if s.hook != nil && s.hook.Event != nil {
		e.Client = s.name
		s.hook.Event(context.Background(), e)
	}
}

// start counts a background goroutine in, unless the client is closed. Whoever gets true calls running.Done.
func (s *clientState) start() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.running.Add(1)
	return true
}

// Close ends the client and closes its driver. Commands under way end with an error at the latest when the driver has
// closed; later ones fail with [ErrClosed]. Close waits for everything the client started, is idempotent, and returns the
// same error each time.
func (c *Client) Close() error {
	c.closeOnce.Do(func() {
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
		c.cancel()
		c.closeErr = c.driver.Close()
		c.running.Wait()
	})
	return c.closeErr
}
