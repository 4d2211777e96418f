package driver

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// deadlineContext ends at its deadline and never before.
type deadlineContext struct {
	context.Context
	deadline time.Time
	once     sync.Once
	armed    atomic.Bool // a timer closes done
	done     chan struct{}
}

// UntilDeadline returns a context that ends at a deadline and cannot be cancelled earlier. A driver whose client honours
// deadlines but not cancellation can wait for it in line, without a goroutine between: see [DeadlineOnly]. It holds no
// timer before somebody asks for Done, and needs no release.
func UntilDeadline(deadline time.Time) context.Context {
	return &deadlineContext{Context: context.Background(), deadline: deadline, done: make(chan struct{})}
}

// DeadlineOnly reports whether ctx can end by its deadline only, or not at all.
func DeadlineOnly(ctx context.Context) bool {
	if _, ok := ctx.(*deadlineContext); ok {
		return true
	}
	return ctx.Done() == nil
}

// Deadline implements context.Context.
func (c *deadlineContext) Deadline() (time.Time, bool) { return c.deadline, true }

// Done implements context.Context.
func (c *deadlineContext) Done() <-chan struct{} {
	if !c.armed.Load() {
		c.once.Do(func() {
			time.AfterFunc(time.Until(c.deadline), func() { close(c.done) })
			c.armed.Store(true)
		})
	}
	return c.done
}

// Err implements context.Context. It reads the clock only if no timer does.
func (c *deadlineContext) Err() error {
	select {
	case <-c.done:
		return context.DeadlineExceeded
	default:
	}
	if !c.armed.Load() && !time.Now().Before(c.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}
