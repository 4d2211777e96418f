package redisxtest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// History is what concurrent clients did and what they got, for [Linearizable]. The zero value is ready; [NewHistory]
// spares the type arguments. It is safe for concurrent use.
type History[In comparable, Out any] struct {
	mu    sync.Mutex
	start time.Time
	last  int64
	ops   []*operation[In, Out]
	twice int
}

// NewHistory returns an empty history of operations of the model's kind.
func NewHistory[S, In comparable, Out any](_ Model[S, In, Out]) *History[In, Out] {
	return &History[In, Out]{}
}

// Outcome is what came of an operation.
type Outcome[Out any] struct {
	// Value is the result. It means nothing if Unknown.
	Value Out
	// Unknown says that the operation may have happened or not, at any time after its call.
	Unknown bool
}

// operation is a call and, once it is known, what came of it.
type operation[In comparable, Out any] struct {
	client    int
	in        In
	call, ret int64 // since the start; ret is 0 while the outcome is unknown
	out       Outcome[Out]
	never     bool // it did not happen
	returned  bool
	running   bool // in the history until a moment: it returned later

	// implied is what happens by itself, with nobody to call it, and is described by it: the end of a lease.
	implied string
	// Of the operations of unknown outcome that are alike: which kind, and the how many-th.
	kind, nth int
}

// Call notes that a client, by any number, begins an operation; call it right before. Call done right after, with what the
// operation returned:
//
//   - Without an error the operation happened some time between, with the result out.
//   - An error that is core.ErrNotSent, or an error reply of the server (a *driver.ServerError), says that it did not
//     happen. A script that fails after it has written is a case of its own: give core.ErrUnknownOutcome instead.
//   - After any other error, core.ErrUnknownOutcome among them, it may have happened or not, and if so at any time after
//     the call. The same holds as long as done is not called. Out is ignored.
//
// A refusal that is a result (a lock that somebody else holds) belongs into out, without an error.
func (h *History[In, Out]) Call(client int, in In) (done func(out Out, err error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	op := &operation[In, Out]{client: client, in: in, out: Outcome[Out]{Unknown: true}}
	if h.start.IsZero() {
		h.start = time.Now()
	}
	op.call = h.now()
	h.ops = append(h.ops, op)
	return func(out Out, err error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if op.returned {
			h.twice++
			return
		}
		op.returned = true
		switch at := h.now(); {
		case err == nil:
			op.ret, op.out = at, Outcome[Out]{Value: out}
		case didNotHappen(err):
			op.never = true
		}
	}
}

// Len returns the number of operations called so far.
func (h *History[In, Out]) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

// now is a stamp in nanoseconds. No two are the same, so that what ended before something began is known to, in a
// synctest bubble too.
func (h *History[In, Out]) now() int64 {
	h.last = max(int64(time.Since(h.start)), h.last+1)
	return h.last
}

// didNotHappen reports whether an error says that the operation certainly had no effect.
func didNotHappen(err error) bool {
	if errors.Is(err, driver.ErrUnknownOutcome) {
		return false
	}
	if errors.Is(err, driver.ErrNotSent) || errors.Is(err, driver.ErrInvalid) {
		return true
	}
	_, ok := errors.AsType[*driver.ServerError](err)
	return ok
}

// snapshot returns copies of the operations that happened or may have.
func (h *History[In, Out]) snapshot() ([]*operation[In, Out], error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.twice > 0 {
		return nil, fmt.Errorf("done was called %d times for operations that had ended", h.twice)
	}
	var ops []*operation[In, Out]
	known := 0
	for _, op := range h.ops {
		if op.never {
			continue
		}
		if !op.out.Unknown {
			known++
		}
		c := *op
		ops = append(ops, &c)
	}
	switch {
	case len(h.ops) == 0:
		return nil, errors.New("the history has no operations")
	case known == 0:
		return nil, fmt.Errorf("no outcome is known of any of the %d operations, so that the history shows nothing", len(h.ops))
	}
	return ops, nil
}
