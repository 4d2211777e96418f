package redisxtest

import (
	"bytes"
	"context"
	"runtime"
	"testing"
	"time"
)

// eventuallyTimeout is how long Eventually waits unless it is told otherwise.
const eventuallyTimeout = 10 * time.Second

// Eventually calls cond until it returns nil, first at once and then after growing pauses of at most 50 ms. It ends the test,
// with the last error of cond and the time it took, when that has not happened within the given duration, or, for 0, within
// 10 s. The deadline of the test (go test -timeout) less a tenth of what is left of it goes before either.
//
// The ctx given to cond ends with the deadline: cond passes it to whatever it waits for. It runs on the caller's goroutine,
// which must be the test's, so that nothing is left behind; a cond that ignores ctx is waited for. A cond may end the test
// itself.
//
// In a bubble of testing/synctest Eventually ends the test: there synctest.Wait tells when all is done, and time.Sleep moves
// the clock.
func Eventually(t testing.TB, within time.Duration, cond func(ctx context.Context) error) {
	t.Helper()
	switch {
	case inBubble():
		t.Fatal("redisxtest: Eventually in a synctest bubble; use synctest.Wait, which returns when every goroutine waits, " +
			"and time.Sleep to move the clock")
	case cond == nil:
		t.Fatal("redisxtest: Eventually without a condition")
	case within < 0:
		t.Fatalf("redisxtest: Eventually within %s; want a duration, or 0 for %s", within, eventuallyTimeout)
	}
	start := time.Now()
	ctx, cancel := context.WithDeadline(context.Background(), patience(t, start, within))
	defer cancel()
	tries, err := poll(ctx, cond)
	if err != nil {
		took := time.Since(start).Round(time.Millisecond)
		t.Fatalf("redisxtest: not within %s, after %d tries; the last one said: %v", took, tries, err)
	}
}

// patience is when to give up: after d, or eventuallyTimeout for 0, but before the deadline of the test would end all.
func patience(t testing.TB, from time.Time, d time.Duration) time.Time {
	if d == 0 {
		d = eventuallyTimeout
	}
	end := from.Add(d)
	if dl, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if last, ok := dl.Deadline(); ok {
			if last = last.Add(-last.Sub(from) / 10); last.Before(end) {
				end = last
			}
		}
	}
	return end
}

// poll calls cond until it returns nil or ctx has ended, at least once. It returns the last error and how often it tried.
func poll(ctx context.Context, cond func(context.Context) error) (tries int, err error) {
	pause := time.Millisecond
	for {
		tries++
		last := cond(ctx)
		if last == nil {
			return tries, nil
		}
		// What a cond says because its ctx has just ended hides what was the matter.
		if err == nil || ctx.Err() == nil {
			err = last
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return tries, err
		}
		pause = min(2*pause, 50*time.Millisecond)
	}
}

// inBubble reports whether the caller runs in a bubble of testing/synctest. Nothing but the head of a trace says so.
func inBubble() bool {
	head := make([]byte, 128)
	head, _, _ = bytes.Cut(head[:runtime.Stack(head, false)], []byte("\n"))
	return bytes.Contains(head, []byte("synctest bubble"))
}
