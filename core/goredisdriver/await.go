package goredisdriver

import (
	"context"
	"sync/atomic"

	"github.com/go-redisx/redisx/core/driver"
)

// future is a function on a worker, with a caller that may leave before it returns.
type future[T any] struct {
	ctx  context.Context
	f    func(context.Context) (T, error)
	drop func(T)
	v    T
	err  error
	// settled is set by whichever comes first: the function returning or its caller leaving.
	settled atomic.Bool
	done    chan struct{}
}

func (f *future[T]) run() {
	defer close(f.done)
	func() {
		defer func() {
			if p := recover(); p != nil {
				f.err = panicked(p)
			}
		}()
		f.v, f.err = f.f(f.ctx)
	}()
	if f.settled.Swap(true) && f.err == nil && f.drop != nil {
		f.drop(f.v)
	}
}

// await runs f on a worker and waits for it or for ctx. If ctx ends first, what f still returns goes to drop, which may
// be nil. Errors are those of a failure before sending.
func await[T any](ctx context.Context, d *Driver, f func(context.Context) (T, error), drop func(T)) (v T, err error) {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.base, cancel)()
	t := &future[T]{ctx: inner, f: f, drop: drop, done: make(chan struct{})}
	if !d.workers.start(t) {
		return v, driver.ErrClosed
	}
	select {
	case <-t.done:
	case <-inner.Done():
		if !t.settled.Swap(true) {
			if d.closing.Load() {
				return v, driver.ErrClosed
			}
			return v, driver.NotSent(ctx.Err())
		}
		<-t.done // it has returned already
	}
	if t.err == nil {
		return t.v, nil
	}
	if d.closing.Load() {
		return v, driver.ErrClosed
	}
	return v, fault(ctx, t.err, false)
}
