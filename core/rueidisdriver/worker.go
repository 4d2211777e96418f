package rueidisdriver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

// The client honours a context while a command is on its way, but not always before: not while another caller dials the
// connection, not while it shakes hands, not while its queue is full, and with a deadline it does not look at
// cancellation at all. Where that may happen the command runs on a worker, and the caller waits for it or its ctx.
//
// Where it cannot happen a worker would only cost time. The driver is calm when enough commands succeeded in a row since
// the last trouble to have used every connection there is, and few are on their way.
const (
	calmAfter   = 512
	maxInFlight = 256
	// maxIdle workers are kept for the next calls.
	maxIdle = 256
	// largePipeline may be sent on a connection of its own by the client, which it closes slowly when ctx ends.
	largePipeline = 500
	// grace is how long a worker may still deliver its result after ctx ended: it knows more of what happened.
	grace = 5 * time.Millisecond
	// clockSlack is how far the clocks of timers and of a deadline may be apart.
	clockSlack = 2 * time.Millisecond
)

// job is one call of the client. It is reused unless its caller gave up.
type job struct {
	ctx  context.Context
	to   rueidis.CommandClient
	one  rueidis.Completed
	many []rueidis.Completed
	fn   func()

	result  rueidis.RedisResult
	results []rueidis.RedisResult
	done    chan struct{}
}

func (j *job) run() {
	switch {
	case j.fn != nil:
		j.fn()
	case j.many != nil:
		j.results = guardedMulti(j.ctx, j.to, j.many)
	default:
		j.result = guardedDo(j.ctx, j.to, j.one)
	}
}

// errUnreadable is the failure to understand a reply. In a Cluster the client looks for an address in every error that
// begins with MOVED or ASK, also in one that a script made up, and panics if there is none.
var errUnreadable = errors.New("the client could not read the reply")

func guardedDo(ctx context.Context, to rueidis.CommandClient, c rueidis.Completed) (r rueidis.RedisResult) {
	defer func() {
		if p := recover(); p != nil {
			r = rueidis.NewErrorResult(fmt.Errorf("%w: %v", errUnreadable, p))
		}
	}()
	return to.Do(ctx, c)
}

func guardedMulti(ctx context.Context, to rueidis.CommandClient, cs []rueidis.Completed) (rs []rueidis.RedisResult) {
	defer func() {
		if p := recover(); p != nil {
			rs = failAll(len(cs), fmt.Errorf("%w: %v", errUnreadable, p))
		}
	}()
	return to.DoMulti(ctx, cs...)
}

// worker is a goroutine that waits for jobs. The one that became idle last is used first: its stack is warm.
type worker struct{ jobs chan *job }

// start hands a job to a worker. It reports false once the driver is closed.
func (d *Driver) start(j *job) bool {
	d.mu.Lock()
	if d.stopped {
		d.mu.Unlock()
		return false
	}
	if n := len(d.idle); n > 0 {
		w := d.idle[n-1]
		d.idle = d.idle[:n-1]
		d.mu.Unlock()
		w.jobs <- j
		return true
	}
	w := &worker{jobs: make(chan *job, 1)}
	d.wg.Add(1)
	d.mu.Unlock()
	w.jobs <- j
	go d.work(w)
	return true
}

func (d *Driver) work(w *worker) {
	defer d.wg.Done()
	for j := range w.jobs {
		j.run()
		d.mu.Lock()
		keep := !d.stopped && len(d.idle) < maxIdle
		if keep {
			d.idle = append(d.idle, w)
		}
		d.mu.Unlock()
		j.done <- struct{}{}
		if !keep {
			return
		}
	}
}

// await waits for a job or the end of ctx, and reports whether the job is done.
func (j *job) await(ctx context.Context) bool {
	select {
	case <-j.done:
		return true
	case <-ctx.Done():
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-j.done:
		return true
	case <-t.C:
		return false
	}
}

func (d *Driver) job(ctx context.Context, to rueidis.CommandClient) *job {
	j, _ := d.jobs.Get().(*job)
	if j == nil {
		j = &job{done: make(chan struct{}, 1)}
	}
	j.ctx, j.to = ctx, to
	return j
}

func (d *Driver) free(j *job) {
	*j = job{done: j.done}
	d.jobs.Put(j)
}

// inLine reports whether the caller may run the command itself.
func (d *Driver) inLine(ctx context.Context, free bool) bool {
	if free {
		if _, ok := ctx.Deadline(); !ok {
			return true // Nothing can end the call early, and the client's own timeouts bound it.
		}
	}
	return !d.strict && d.calm.Load() >= calmAfter && d.inFlight.Load() < maxInFlight
}

// watched sends a command through the shared connections, on a worker.
func (d *Driver) watched(ctx context.Context, free bool, c rueidis.Completed) rueidis.RedisResult {
	j := d.job(d.reduce(ctx, free), d.client)
	j.one = c
	if !d.start(j) {
		return rueidis.NewErrorResult(driver.ErrClosed)
	}
	if !j.await(ctx) {
		return rueidis.NewErrorResult(ctx.Err())
	}
	r := j.result
	d.free(j)
	d.settle()
	return r
}

// many sends a pipeline through the shared connections. The caller must not reuse cs unless every result is a reply.
func (d *Driver) many(ctx context.Context, cs []rueidis.Completed) []rueidis.RedisResult {
	free := driver.DeadlineOnly(ctx)
	if len(cs) < largePipeline && d.inLine(ctx, free) {
		d.inFlight.Add(1)
		rs := guardedMulti(d.reduce(ctx, free), d.client, cs)
		d.inFlight.Add(-1)
		return rs
	}
	if _, ok := ctx.Deadline(); free && !ok {
		return guardedMulti(ctx, d.client, cs)
	}
	j := d.job(d.reduce(ctx, free), d.client)
	j.many = cs
	if !d.start(j) {
		return failAll(len(cs), driver.ErrClosed)
	}
	if !j.await(ctx) {
		return failAll(len(cs), ctx.Err())
	}
	rs := j.results
	d.free(j)
	d.settle()
	return rs
}

func failAll(n int, err error) []rueidis.RedisResult {
	rs := make([]rueidis.RedisResult, n)
	for i := range rs {
		rs[i] = rueidis.NewErrorResult(err)
	}
	return rs
}

// settle counts a call that a worker made. If it failed, failed begins to count anew.
func (d *Driver) settle() {
	if d.calm.Load() < calmAfter {
		d.calm.Add(1)
	}
}

// reduce hides the deadline of a context that can be cancelled too: the client listens for the one or the other. The end
// of such a context comes by its channel in both cases, and the connection survives it.
func (d *Driver) reduce(ctx context.Context, free bool) context.Context {
	if !free {
		if _, ok := ctx.Deadline(); ok {
			return withoutDeadline{ctx}
		}
	}
	return ctx
}

type withoutDeadline struct{ context.Context }

func (withoutDeadline) Deadline() (time.Time, bool) { return time.Time{}, false }
