package rueidisdriver

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

// Driver sends commands through a rueidis client. It is safe for concurrent use. Besides [driver.Driver] it implements
// [driver.Router], [driver.Subscriber], [driver.Tracker] and [driver.Dedicated].
type Driver struct {
	client   rueidis.Client
	builder  rueidis.Builder
	topology driver.Topology
	// owned makes the connections of a client that Open made; nil if the client was given to New.
	owned *dialer
	// strict means that the client may ignore cancellation at any time: see inLine.
	strict bool
	// tracking makes a driver for Track if the main one cannot (RESP2); nil without.
	tracking func(ctx context.Context) (*Driver, error)

	calm, inFlight atomic.Int32
	turn           atomic.Uint32
	closed         atomic.Bool
	lost           atomic.Bool // the client given to New was closed by its owner

	// ctx ends with the driver; wg counts every goroutine it started.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	jobs   sync.Pool
	lists  sync.Pool

	mu      sync.Mutex
	stopped bool
	idle    []*worker
	conns   map[*conn]struct{}
	spare   map[string][]*conn
	waiting map[string][]chan *conn // for a spare connection, first come first served
	// spareFor is how long a connection stays spare; sweep ends those that were for longer, and is nil if there is none.
	spareFor time.Duration
	sweep    *time.Timer
	caps     *driver.Caps

	slots slotMap
}

var (
	_ driver.Driver     = (*Driver)(nil)
	_ driver.Router     = (*Driver)(nil)
	_ driver.Subscriber = (*Driver)(nil)
	_ driver.Tracker    = (*Driver)(nil)
	_ driver.Dedicated  = (*Driver)(nil)
)

// New returns a driver for a client that the application already has. It does no I/O and starts nothing by itself. Close
// leaves the client open. Connections for Blocking commands and Dedicate come from the client's pool (BlockingPoolSize) and
// are given back as soon as they are free.
//
// Every promise holds whatever the client's options are: its retries are not used, and a command that its context cannot
// end promptly runs on a goroutine of the driver. Three things are the client's to decide. Its ConnWriteTimeout bounds a
// command whose context has no end. With ConnLifetime it may send a command again that was on its way when the connection
// expired; leave that option at 0. A client that reads from replicas by its own SendToReplicas function is fine as long as
// that function looks at cmd.IsReadOnly: the driver marks no command so.
//
// A client opened without ForceSingleClient takes any server that answers CLUSTER SLOTS for a Cluster, and so does the
// driver then. A nil client is an error.
func New(client rueidis.Client) (*Driver, error) {
	if client == nil {
		return nil, errors.New("redisx: rueidisdriver.New: client is nil; want one of rueidis.NewClient")
	}
	if v := reflect.ValueOf(client); v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, errors.New("redisx: rueidisdriver.New: client is a nil pointer; want one of rueidis.NewClient")
	}
	d := newDriver(client)
	d.strict = true
	return d, nil
}

func newDriver(client rueidis.Client) *Driver {
	d := &Driver{client: client, builder: client.B(), conns: map[*conn]struct{}{}, spare: map[string][]*conn{}, waiting: map[string][]chan *conn{}}
	d.spareFor = spareFor
	switch client.Mode() {
	case rueidis.ClientModeCluster:
		d.topology = driver.Cluster
	case rueidis.ClientModeSentinel:
		d.topology = driver.Sentinel
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Do implements [driver.Driver].
func (d *Driver) Do(ctx context.Context, cmd driver.Cmd) driver.Reply {
	if d.over() {
		return driver.ErrReply(driver.ErrClosed)
	}
	if err := d.check(&cmd); err != nil {
		return driver.ErrReply(err)
	}
	if cmd.Mode == driver.Blocking {
		return d.block(ctx, []driver.Cmd{cmd})[0]
	}
	var r driver.Reply
	if d.try(ctx, &cmd, &r) {
		d.repeat(ctx, &cmd, &r)
	}
	if r.Kind() == driver.KindError && cmd.NeedsSource(r) {
		source := cmd.WithSource()
		return d.send(ctx, &source)
	}
	return r
}

// over reports whether nothing can be sent any more.
func (d *Driver) over() bool { return d.closed.Load() || d.lost.Load() }

// send sends a command, and repeats it where that is allowed.
func (d *Driver) send(ctx context.Context, cmd *driver.Cmd) (r driver.Reply) {
	if d.try(ctx, cmd, &r) {
		d.repeat(ctx, cmd, &r)
	}
	return r
}

// repeat sends a command again that failed, as often as that is allowed.
func (d *Driver) repeat(ctx context.Context, cmd *driver.Cmd, r *driver.Reply) {
	since := time.Now()
	for attempt := 0; d.again(ctx, cmd, *r, attempt, since); attempt++ {
		if !d.try(ctx, cmd, r) {
			return
		}
	}
	*r = late(ctx, *r)
}

// late adds the end of ctx to a failure of the connection that came before it.
func late(ctx context.Context, r driver.Reply) driver.Reply {
	err := ctx.Err()
	if err == nil || !transport(r) {
		return r
	}
	op := r.Err().(*driver.OpError)
	return driver.ErrReply(&driver.OpError{Sent: op.Sent, Err: fmt.Errorf("%w: %w", err, op.Err)})
}

// try sends a command once, writes the reply to r, and reports whether it is a failure to get one.
func (d *Driver) try(ctx context.Context, cmd *driver.Cmd, r *driver.Reply) (failed bool) {
	if err := ctx.Err(); err != nil {
		*r = driver.ErrReply(driver.NotSent(err))
		return true
	}
	c, free := d.build(cmd), driver.DeadlineOnly(ctx)
	if d.inLine(ctx, free) {
		d.inFlight.Add(1)
		var result rueidis.RedisResult
		if d.topology == driver.Cluster {
			result = guardedDo(d.reduce(ctx, free), d.client, c)
		} else {
			result = d.client.Do(d.reduce(ctx, free), c)
		}
		d.inFlight.Add(-1)
		return d.convert(ctx, &result, r)
	}
	result := d.watched(ctx, free, c)
	return d.convert(ctx, &result, r)
}

// failed takes note of a failed connection.
func (d *Driver) failed(err error) {
	d.calm.Store(0)
	d.slots.doubt(d)
	if errors.Is(err, rueidis.ErrClosing) && d.owned == nil && d.topology == driver.Standalone {
		// Only its owner closes the connections of such a client. What was on its way then may have been sent; what
		// comes now is not.
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		if again := d.client.Do(ctx, d.builder.Ping().Build()).NonRedisError(); errors.Is(again, rueidis.ErrClosing) {
			d.lost.Store(true)
		}
	}
}

const (
	// maxRepeats is how often a ReadOnly command is sent again: without a deadline, it must not go on for ever.
	maxRepeats = 3
	// maxForeign is how often, and foreignFor for how long, a command is tried again that others kept from being sent.
	maxForeign = 30
	foreignFor = 2 * time.Second
)

// again reports whether to send a command once more after the failure r, and waits before. A ReadOnly command may be
// repeated after any failure of the connection, any other only if it certainly was not sent and the failure was not its own.
func (d *Driver) again(ctx context.Context, cmd *driver.Cmd, r driver.Reply, attempt int, since time.Time) bool {
	if !transport(r) || d.closed.Load() {
		return false
	}
	if errors.Is(r.Err(), errForeign) {
		return attempt < maxForeign && time.Since(since) < foreignFor && d.pause(ctx, repeatAfter(attempt))
	}
	return cmd.Mode == driver.ReadOnly && attempt < maxRepeats && d.pause(ctx, repeatAfter(attempt))
}

// repeatAfter is the pause before a command is sent again: none at first, as most connections can be replaced at once.
func repeatAfter(attempt int) time.Duration {
	if attempt == 0 {
		return 0
	}
	return min(5*time.Millisecond<<attempt, 50*time.Millisecond)
}

// pause waits and reports whether neither ctx nor the driver ended.
func (d *Driver) pause(ctx context.Context, wait time.Duration) bool {
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		case <-d.ctx.Done():
		}
	}
	return ctx.Err() == nil && d.ctx.Err() == nil
}

// Caps implements [driver.Driver].
func (d *Driver) Caps(ctx context.Context) (driver.Caps, error) {
	if d.over() {
		return driver.Caps{}, driver.ErrClosed
	}
	d.mu.Lock()
	caps := d.caps
	d.mu.Unlock()
	if caps == nil {
		near := d.anywhere()
		got, err := driver.Probe(ctx, func(ctx context.Context, cmd driver.Cmd) driver.Reply {
			cmd.Near = near
			return d.inquire(ctx, cmd)
		})
		if err != nil {
			return driver.Caps{}, err
		}
		got.Topology = d.topology
		caps = &got
		d.mu.Lock()
		d.caps = caps
		d.mu.Unlock()
	}
	out := *caps
	out.Commands = make(map[string]bool, len(caps.Commands))
	for name := range caps.Commands {
		out.Commands[name] = true
	}
	return out, nil
}

// Unwrap returns the rueidis.Client.
func (d *Driver) Unwrap() any { return d.client }

// closeGrace is how long connections may take to end by themselves.
const closeGrace = 200 * time.Millisecond

// closeWithin is how long Close waits for what a client given to New does not return from.
const closeWithin = 5 * time.Second

// Close implements [driver.Driver]. Commands on their way fail with an outcome that is unknown. It waits for what the driver
// started, and for no more than 5 s if that waits for the pool of a client given to New.
func (d *Driver) Close() error {
	if !d.closed.CompareAndSwap(false, true) {
		d.wait(d.wg.Wait)
		return nil
	}
	d.cancel()
	d.mu.Lock()
	d.stopped = true
	idle := d.idle
	conns := make([]*conn, 0, len(d.conns))
	for c := range d.conns {
		conns = append(conns, c)
	}
	d.idle, d.spare = nil, nil
	if d.sweep != nil {
		d.sweep.Stop()
		d.sweep = nil
	}
	d.mu.Unlock()
	for _, w := range idle {
		close(w.jobs)
	}
	var closing sync.WaitGroup
	for _, c := range conns {
		closing.Go(c.discard)
	}
	if d.owned != nil {
		// The client waits for every connection to answer, one second for each that does not. With RESP2 it dials one more
		// for each it gives up.
		d.owned.stop()
		impatience := time.AfterFunc(closeGrace, d.owned.cut)
		defer impatience.Stop()
		d.client.Close()
	}
	d.wait(closing.Wait, d.wg.Wait)
	return nil
}

// wait waits for every goroutine. The pool of a client given to New may be empty for as long as the application likes, and
// nothing ends the wait for a connection then but the connection, which is given back.
func (d *Driver) wait(ends ...func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, end := range ends {
			end()
		}
	}()
	if d.owned != nil {
		<-done
		return
	}
	limit := time.NewTimer(closeWithin)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
	}
}

// run runs fn on a goroutine that Close waits for. It reports false, without running it, once the driver is closed.
func (d *Driver) run(fn func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return false
	}
	d.wg.Go(fn)
	return true
}
