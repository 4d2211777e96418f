package cache

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestClockIsAtMostOneTickBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		defer c.release()
		begun := c.precise()
		require.Positive(t, begun)
		for range 1000 {
			time.Sleep(tick/3 + time.Microsecond)
			synctest.Wait()
			now, precise := c.now(), c.precise()
			require.LessOrEqual(t, now, precise)
			require.LessOrEqual(t, precise-now, int64(tick))
		}
		require.Equal(t, 1000*int64(tick/3+time.Microsecond), c.precise()-begun)
	})
}

func TestClockThatFellBehindIsSetRightByWhoAsksForThePreciseTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{base: time.Now()} // its goroutine never gets a processor
		c.ns.Store(1)
		time.Sleep(tick)
		require.EqualValues(t, 1+tick, c.precise())
		require.EqualValues(t, 1, c.now(), "a tick behind is as it should be")
		time.Sleep(time.Second)
		require.EqualValues(t, 1+tick+time.Second, c.precise())
		require.EqualValues(t, 1+tick+time.Second, c.now())
		c.reach(5)
		require.EqualValues(t, 1+tick+time.Second, c.now())
	})
}

func TestClockRunsByItself(t *testing.T) {
	c := acquireClock()
	defer c.release()
	for range 3 {
		seen := c.now()
		require.Eventually(t, func() bool { return c.now() > seen }, 10*time.Second, time.Millisecond)
	}
	require.LessOrEqual(t, c.now(), c.precise())
}

func TestClockNeverGoesBack(t *testing.T) {
	c := acquireClock()
	defer c.release()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			last := int64(0)
			for end := time.Now().Add(5 * tick); time.Now().Before(end); {
				now := c.now()
				if now < last {
					t.Errorf("went from %d to %d", last, now)
					return
				}
				last = max(now, c.precise()-int64(tick))
			}
		})
	}
	wg.Wait()
}

func TestClockIsSharedUntilItsLastUserReleasesIt(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	a, b := acquireClock(), acquireClock()
	require.Same(t, a, b)
	a.release()
	seen := b.now()
	require.Eventually(t, func() bool { return b.now() > seen }, 10*time.Second, time.Millisecond, "one of two users released it")
	b.release()
	select {
	case <-b.done:
	default:
		t.Error("release did not wait for the goroutine")
	}
	goleak.VerifyNone(t, leaks)

	c := acquireClock()
	defer c.release()
	seen = c.now()
	require.Eventually(t, func() bool { return c.now() > seen }, 10*time.Second, time.Millisecond, "it starts again")
}

func TestClockIsAcquiredAndReleasedConcurrently(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				c := acquireClock()
				if c.now() < 1 {
					t.Error("no time")
				}
				c.release()
			}
		})
	}
	wg.Wait()
	goleak.VerifyNone(t, leaks)
}

// A bubble hangs or panics if it shares the clock: the goroutine would be outside, or would stay when the bubble ends.
func TestClockInABubbleIsTheBubblesOwn(t *testing.T) {
	outside := acquireClock()
	defer outside.release()
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			c, d := acquireClock(), acquireClock()
			defer d.release()
			require.NotSame(t, outside, c)
			require.NotSame(t, d, c)
			begun := c.now()
			time.Sleep(time.Minute)
			synctest.Wait()
			require.InDelta(t, float64(time.Minute), float64(c.now()-begun), float64(tick))
			c.release()
		})
	}
}

func TestManualClockMovesOnlyByHand(t *testing.T) {
	c := newManualClock()
	require.EqualValues(t, 1, c.now())
	c.advance(time.Second)
	require.EqualValues(t, 1+time.Second, c.now())
	c.set(int64(time.Hour))
	require.EqualValues(t, time.Hour, c.now())
	require.Equal(t, c.now(), c.precise())
	require.Panics(t, func() { c.set(1) })
	require.Panics(t, func() { c.advance(-1) })
	require.EqualValues(t, time.Hour, c.now())
	c.release()

	real := newClock()
	defer real.release()
	require.Panics(t, func() { real.advance(time.Second) })
}

func BenchmarkClock(b *testing.B) {
	c := newClock()
	defer c.release()
	b.Run("now", func(b *testing.B) { benchEach(b, func(int) { c.now() }) })
	b.Run("precise", func(b *testing.B) { benchEach(b, func(int) { c.precise() }) })
	b.Run("time.Now", func(b *testing.B) {
		benchEach(b, func(int) {
			if time.Now().IsZero() {
				benchSink.Add(1)
			}
		})
	})
}
