package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Schedule runs steps in the background. It is safe for concurrent use.
type Schedule struct {
	t       testing.TB // nil outside of tests
	steps   []*running
	stop    context.CancelFunc
	timed   chan struct{} // closed when no more steps begin or end by themselves
	groups  sync.WaitGroup
	stopped chan struct{} // closed when all has ended

	mu     sync.Mutex
	shared map[sharedKey]*shared
	down   map[any]bool // targets that are killed
	lines  []string
	errs   []error
}

// running is a step of a schedule that runs.
type running struct {
	Step
	began chan struct{} // closed when it has begun, or failed to
	once  sync.Once
	end   func() error // set before began is closed; nil if there is nothing to end
}

// shared counts overlapping steps of one kind on one target.
type shared struct {
	mu sync.Mutex
	n  int
}

type sharedKey struct {
	action string
	target any
}

// event is the beginning or the end of a step.
type event struct {
	at   time.Duration
	step *running
	end  bool
}

// Run runs steps in the background, from now on, and stops them when the test ends: all faults are ended then. A step that
// cannot be ends the test; one that fails, fails it, and the others go on. If the test fails, what happened is attached as
// text that [ParseSchedule] reads.
//
// What begins or ends at the same time does so one after the other, ends first, else in the order given. A step that takes
// long does not hold up those of other times. Overlapping steps that pause, or kill, one target are one that lasts until the
// last of them ends; faults of a [Network] add up as it says. A target that is killed is not resumed. In a testing/synctest
// bubble time is the bubble's.
func Run(t testing.TB, steps ...Step) *Schedule {
	t.Helper()
	s, err := start(t.Context(), t, steps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		t.Helper()
		s.Stop()
		if t.Failed() {
			t.Logf("chaos: the schedule, as far as it went; its targets by name are for ParseSchedule\n%s", strings.Join(s.Log(), "\n"))
		}
	})
	return s
}

// Start is [Run] outside of tests. It ends with ctx, or by Stop, which the caller must call.
func Start(ctx context.Context, steps ...Step) (*Schedule, error) { return start(ctx, nil, steps) }

func start(ctx context.Context, t testing.TB, steps []Step) (*Schedule, error) {
	var errs []error
	s := &Schedule{t: t, timed: make(chan struct{}), stopped: make(chan struct{}), shared: map[sharedKey]*shared{}, down: map[any]bool{}}
	for i, step := range steps {
		if wrong := step.check(); wrong != "" {
			errs = append(errs, fmt.Errorf("chaos: step %d: %s", i+1, wrong))
		}
		s.steps = append(s.steps, &running{Step: step, began: make(chan struct{})})
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	ctx, s.stop = context.WithCancel(ctx)
	go s.run(ctx)
	return s, nil
}

// Wait waits until every step has begun and those with a time have ended, or until the schedule was stopped. It returns what
// failed, and what did not begin as an error that is context.Canceled.
func (s *Schedule) Wait() error {
	<-s.timed
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.errs...)
}

// Stop lets no more steps begin, ends all faults, in the reverse of the order in which they are listed, and waits for that.
// A target that was killed without For stays so. Stop is idempotent.
func (s *Schedule) Stop() {
	s.stop()
	<-s.stopped
}

// Log returns a line for every step that has begun, in that order, and a comment for what failed or did not begin. Joined by
// line breaks they are text for [ParseSchedule].
func (s *Schedule) Log() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lines)
}

// run lets steps begin and end when it is time.
func (s *Schedule) run(ctx context.Context) {
	defer close(s.stopped)
	began := time.Now()
	var events []event
	for _, r := range s.steps {
		events = append(events, event{at: r.at, step: r})
		if r.length > 0 {
			events = append(events, event{at: r.at + r.length, step: r, end: true})
		}
	}
	slices.SortStableFunc(events, func(a, b event) int {
		switch {
		case a.at != b.at:
			return int(min(max(a.at-b.at, -1), 1))
		case a.end == b.end:
			return 0
		case a.end:
			return -1
		}
		return 1
	})
	for len(events) > 0 && sleep(ctx, events[0].at-time.Since(began)) {
		n := 1
		for n < len(events) && events[n].at == events[0].at {
			n++
		}
		group := events[:n]
		events = events[n:]
		s.groups.Go(func() {
			for _, e := range group {
				if e.end {
					<-e.step.began
					s.finish(e.step)
				} else {
					s.begin(e.step)
				}
			}
		})
	}
	for _, e := range events {
		if !e.end {
			s.fail(e.step, fmt.Errorf("did not begin: %w", context.Canceled), false)
		}
	}
	s.groups.Wait()
	close(s.timed)
	if len(events) == 0 {
		<-ctx.Done()
	}
	for _, r := range slices.Backward(s.steps) {
		select {
		case <-r.began:
			if r.length > 0 || r.action != actionKill {
				s.finish(r)
			}
		default:
		}
	}
}

// sleep reports whether the time passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// begin begins a step.
func (s *Schedule) begin(r *running) {
	defer close(r.began)
	s.mu.Lock()
	s.lines = append(s.lines, r.String())
	s.mu.Unlock()
	start := r.start
	if r.action == actionPause || r.action == actionKill {
		start = s.together(r)
	}
	end, err := guarded(start)
	if err != nil {
		s.fail(r, err, true)
		return
	}
	r.end = end
}

// finish ends a step, once.
func (s *Schedule) finish(r *running) {
	r.once.Do(func() {
		if r.end == nil {
			return
		}
		if _, err := guarded(func() (func() error, error) { return nil, r.end() }); err != nil {
			s.fail(r, fmt.Errorf("its end: %w", err), true)
		}
	})
}

// together makes overlapping steps one.
func (s *Schedule) together(r *running) func() (func() error, error) {
	key := sharedKey{r.action, r.target}
	s.mu.Lock()
	all := s.shared[key]
	if all == nil {
		all = &shared{}
		s.shared[key] = all
	}
	s.mu.Unlock()
	return func() (func() error, error) {
		all.mu.Lock()
		defer all.mu.Unlock()
		if all.n == 0 {
			if _, err := r.start(); err != nil {
				return nil, err
			}
			s.setDown(r, true)
		}
		all.n++
		return func() error {
			all.mu.Lock()
			defer all.mu.Unlock()
			if all.n--; all.n > 0 || r.action == actionPause && s.isDown(r.target) {
				return nil
			}
			s.setDown(r, false)
			return r.undo()
		}, nil
	}
}

func (s *Schedule) setDown(r *running, down bool) {
	if r.action != actionKill {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down[r.target] = down
}

func (s *Schedule) isDown(target any) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down[target]
}

// fail notes what went wrong with a step, and fails the test if it is to. It never ends a goroutine.
func (s *Schedule) fail(r *running, err error, fails bool) {
	s.mu.Lock()
	s.lines = append(s.lines, comment(fmt.Sprintf("%s: %v", r, err)))
	s.errs = append(s.errs, fmt.Errorf("chaos: %s: %w", r, err))
	s.mu.Unlock()
	if fails && s.t != nil {
		s.t.Errorf("chaos: %s: %v", r, err)
	}
}

// guarded calls f on a goroutine of its own, where it may panic, or fail a test in the way that ends a goroutine.
func guarded(f func() (func() error, error)) (end func() error, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		returned := false
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			} else if !returned {
				err = errors.New("it did not return, but ended its goroutine as testing.T.FailNow does")
			}
		}()
		end, err = f()
		returned = true
	}()
	<-done
	return end, err
}
