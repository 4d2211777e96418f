package core

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// budget hands out contexts that end when a command has to be over. Calls that begin within the same few milliseconds
// share one, so that a deadline costs neither an allocation nor a timer nor a clock reading per call: it lies between one
// timeout and one timeout and a grain ahead.
type budget struct {
	timeout, grain time.Duration
	until          func(time.Time) context.Context
	current        atomic.Pointer[tick]
}

type tick struct{ ctx context.Context }

func newBudget(timeout time.Duration) *budget {
	return &budget{timeout: timeout, grain: min(max(timeout/32, 100*time.Microsecond), 10*time.Millisecond), until: driver.UntilDeadline}
}

// newBatchBudget is newBudget for lists of commands of several callers.
func newBatchBudget(timeout time.Duration) *budget {
	b := newBudget(timeout)
	b.until = driver.UntilDeadlineTogether
	return b
}

// context returns the context for a call that begins now.
func (b *budget) context() context.Context {
	// Its timer removes a tick that is not fresh any more; if that is late (a paused process), at least none that is over.
	if t := b.current.Load(); t != nil && t.ctx.Err() == nil {
		return t.ctx
	}
	t := &tick{ctx: b.until(time.Now().Add(b.timeout + b.grain))}
	t.ctx.Done() // many will ask: let one timer answer, not each his own look at the clock
	b.current.Store(t)
	// Whoever raced us and stored another tick has one as fresh as ours; each timer removes its own only.
	time.AfterFunc(b.grain, func() { b.current.CompareAndSwap(t, nil) })
	return t.ctx
}

// within returns a context that ends with ctx or with the budget, and the function to release it.
func (b *budget) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Done() == nil {
		return b.context(), func() {}
	}
	return context.WithTimeout(ctx, b.timeout)
}
