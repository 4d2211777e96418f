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
	together bool
}

// UntilDeadline returns a context that ends at a deadline and cannot be cancelled earlier. A driver whose client honours
// deadlines but not cancellation can wait for it in line, without a goroutine between: see [DeadlineOnly]. It holds no
// timer before somebody asks for Done, and needs no release.
func UntilDeadline(deadline time.Time) context.Context {
	return &deadlineContext{Context: context.Background(), deadline: deadline, done: make(chan struct{})}
}

// UntilDeadlineTogether is [UntilDeadline] for a list of commands of several callers, each of whom waits for his own: see
// [SentTogether].
func UntilDeadlineTogether(deadline time.Time) context.Context {
	return &deadlineContext{Context: context.Background(), deadline: deadline, done: make(chan struct{}), together: true}
}

// SentTogether reports whether the commands that are sent with ctx come from several callers who know nothing of each
// other, as those that a core.Client joins, and not from one who made a list of them. It says so of what was derived from
// such a context too. A driver that watches its use may want to know; what it does must not depend on it.
func SentTogether(ctx context.Context) bool {
	together, _ := ctx.Value(togetherKey{}).(bool)
	return together
}

type togetherKey struct{}

// Value implements context.Context.
func (c *deadlineContext) Value(key any) any {
	if _, ok := key.(togetherKey); ok {
		return c.together
	}
	return nil
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
