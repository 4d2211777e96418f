package chaos

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// Driver is a driver with faults. Its dynamic type is a [driver.Router], [driver.Subscriber], [driver.Tracker] or
// [driver.Dedicated] exactly if the driver below is one. Otherwise it keeps the driver contract, but for the faults named Bug.
// It is safe for concurrent use and has no goroutine but during Subscribe and Track.
type Driver interface {
	driver.Driver

	// Log returns a line for every fault so far, in order. Joined by line breaks they are a script that causes the same
	// faults at the same matches, without a seed. What follows # is the key, channel or first key it happened to.
	Log() []string
	// Script returns the script given to Wrap.
	Script() Script
	// Calm switches faults off, for a phase in which all must end well. Matches go on being counted, gaps of subscriptions end
	// with OnConfirmed, and calls that wait because of a fault go on waiting.
	Calm()
	// Storm switches faults on again, as they are at first.
	Storm()

	wrapper() *wrapped
}

// Wrap returns d with the faults of a script. It owns d from then on: Close closes it. Wrap does no I/O and starts nothing. A
// nil driver, a script whose [Script.Check] is an error, or one with faults that only a [Proxy] can cause, makes every call
// fail with that error.
func Wrap(d driver.Driver, script Script) Driver {
	script.Rules = slices.Clone(script.Rules)
	w := &wrapped{
		inner: d, judge: newJudge(script), closing: make(chan struct{}), streams: map[*stream]struct{}{},
	}
	if isNil(d) {
		w.inner, w.mistake = nil, errors.New("chaos: Wrap of a nil driver")
		return w
	}
	_, routes := d.(driver.Router)
	if err := script.check(func(r Rule) string { return r.fitsDriver(routes) }); err != nil {
		w.mistake = driver.NotSent(fmt.Errorf("%w: %w", driver.ErrInvalid, err))
	}
	return w.withAbilities()
}

// isNil also finds the nil pointer in an interface that a failed Open leaves if its error is not looked at.
func isNil(d driver.Driver) bool {
	if d == nil {
		return true
	}
	v := reflect.ValueOf(d)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

// wrapped is a Driver without optional abilities.
type wrapped struct {
	*judge
	inner   driver.Driver
	router  driver.Router // nil if inner is none
	mistake error

	once    sync.Once
	closing chan struct{} // ends the waits that faults cause
	err     error         // of Close

	life    sync.Mutex
	streams map[*stream]struct{}
}

func (w *wrapped) wrapper() *wrapped { return w }

// withAbilities returns w as a type that has the optional abilities of the driver below, and no other.
func (w *wrapped) withAbilities() Driver {
	r, isR := w.inner.(driver.Router)
	_, isS := w.inner.(driver.Subscriber)
	_, isT := w.inner.(driver.Tracker)
	_, isD := w.inner.(driver.Dedicated)
	w.router = r
	s, t, d := subscriber{w}, tracker{w}, dedicated{w}
	switch [4]bool{isR, isS, isT, isD} {
	case [4]bool{true, false, false, false}:
		return struct {
			*wrapped
			driver.Router
		}{w, r}
	case [4]bool{false, true, false, false}:
		return struct {
			*wrapped
			subscriber
		}{w, s}
	case [4]bool{false, false, true, false}:
		return struct {
			*wrapped
			tracker
		}{w, t}
	case [4]bool{false, false, false, true}:
		return struct {
			*wrapped
			dedicated
		}{w, d}
	case [4]bool{true, true, false, false}:
		return struct {
			*wrapped
			driver.Router
			subscriber
		}{w, r, s}
	case [4]bool{true, false, true, false}:
		return struct {
			*wrapped
			driver.Router
			tracker
		}{w, r, t}
	case [4]bool{true, false, false, true}:
		return struct {
			*wrapped
			driver.Router
			dedicated
		}{w, r, d}
	case [4]bool{false, true, true, false}:
		return struct {
			*wrapped
			subscriber
			tracker
		}{w, s, t}
	case [4]bool{false, true, false, true}:
		return struct {
			*wrapped
			subscriber
			dedicated
		}{w, s, d}
	case [4]bool{false, false, true, true}:
		return struct {
			*wrapped
			tracker
			dedicated
		}{w, t, d}
	case [4]bool{true, true, true, false}:
		return struct {
			*wrapped
			driver.Router
			subscriber
			tracker
		}{w, r, s, t}
	case [4]bool{true, true, false, true}:
		return struct {
			*wrapped
			driver.Router
			subscriber
			dedicated
		}{w, r, s, d}
	case [4]bool{true, false, true, true}:
		return struct {
			*wrapped
			driver.Router
			tracker
			dedicated
		}{w, r, t, d}
	case [4]bool{false, true, true, true}:
		return struct {
			*wrapped
			subscriber
			tracker
			dedicated
		}{w, s, t, d}
	case [4]bool{true, true, true, true}:
		return struct {
			*wrapped
			driver.Router
			subscriber
			tracker
			dedicated
		}{w, r, s, t, d}
	}
	return w
}

// Do implements driver.Driver.
func (w *wrapped) Do(ctx context.Context, cmd driver.Cmd) driver.Reply {
	switch {
	case w.mistake != nil:
		return driver.ErrReply(w.mistake)
	case w.closed():
		return driver.ErrReply(driver.ErrClosed)
	case ctx.Err() != nil || cmd.CheckShared() != nil:
		return w.inner.Do(ctx, cmd)
	}
	cmds := []driver.Cmd{cmd}
	if verdicts := w.commands(cmds, w.router); verdicts != nil {
		return w.run(ctx, w.inner, cmds, verdicts, nil)[0]
	}
	return w.inner.Do(ctx, cmd)
}

// DoMulti implements driver.Driver.
func (w *wrapped) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	switch {
	case w.mistake != nil:
		return same(len(cmds), w.mistake)
	case w.closed():
		return same(len(cmds), driver.ErrClosed)
	}
	invalid := func(c driver.Cmd) bool { return c.CheckShared() != nil }
	if ctx.Err() != nil || slices.ContainsFunc(cmds, invalid) {
		return w.inner.DoMulti(ctx, cmds)
	}
	if verdicts := w.commands(cmds, w.router); verdicts != nil {
		return w.run(ctx, w.inner, cmds, verdicts, nil)
	}
	return w.inner.DoMulti(ctx, cmds)
}

func same(n int, err error) []driver.Reply {
	return slices.Repeat([]driver.Reply{driver.ErrReply(err)}, n)
}

// Caps implements driver.Driver. It is never disturbed.
func (w *wrapped) Caps(ctx context.Context) (driver.Caps, error) {
	if w.mistake != nil {
		return driver.Caps{}, w.mistake
	}
	return w.inner.Caps(ctx)
}

// Unwrap returns the client underneath, as the driver below does.
func (w *wrapped) Unwrap() any {
	if w.inner == nil {
		return nil
	}
	return w.inner.Unwrap()
}

// Close implements driver.Driver.
func (w *wrapped) Close() error {
	w.once.Do(func() {
		close(w.closing)
		if w.inner != nil {
			w.err = w.inner.Close()
		}
	})
	return w.err
}

func (w *wrapped) closed() bool {
	select {
	case <-w.closing:
		return true
	default:
		return false
	}
}

// Log implements Driver.
func (w *wrapped) Log() []string {
	return w.log()
}

// Script implements Driver.
func (w *wrapped) Script() Script {
	s := w.script
	s.Rules = slices.Clone(s.Rules)
	return s
}

// Calm implements Driver.
func (w *wrapped) Calm() {
	w.setCalm(true)
	w.life.Lock()
	defer w.life.Unlock()
	for s := range w.streams {
		s.wg.Go(s.endGap) // not here: Calm may be called by the callback that the gap began in
	}
}

// Storm implements Driver.
func (w *wrapped) Storm() { w.setCalm(false) }

// wait returns nil after d, and earlier the reason why not.
func (w *wrapped) wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return driver.Unknown(ctx.Err())
	case <-w.closing:
		return driver.ErrClosed
	}
}

// hang returns the reason why it ended.
func (w *wrapped) hang(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return driver.Unknown(ctx.Err())
	case <-w.closing:
		return driver.ErrClosed
	}
}
