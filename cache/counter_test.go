package cache

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCountersLoseNothing(t *testing.T) {
	c := newCounters()
	const goroutines, rounds = 16, 5000
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := range rounds {
				c.add(i % counterCap)
				c.addN(3, 2)
			}
		})
	}
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for last := int64(0); ; {
			select {
			case <-stop:
				return
			default:
			}
			now := c.sum(3)
			if now < last {
				t.Errorf("a sum fell from %d to %d", last, now)
			}
			last = now
		}
	})
	wg.Wait()
	close(stop)
	reader.Wait()
	total := int64(0)
	for i := range counterCap {
		total += c.sum(i)
	}
	require.EqualValues(t, goroutines*rounds*3, total)
	require.EqualValues(t, goroutines*(2*rounds+(rounds+counterCap-1-3)/counterCap), c.sum(3))
	require.EqualValues(t, goroutines*((rounds+counterCap-1)/counterCap), c.sum(0))
}

// Goroutines that live at the same time shall mostly not meet: with all of them in one stripe the counters are no better than
// one atomic.
func TestCountersSpreadGoroutinesOverStripes(t *testing.T) {
	c := newCounters()
	const goroutines = 200
	var ready, wg sync.WaitGroup
	ready.Add(goroutines)
	for range goroutines {
		wg.Go(func() {
			ready.Done()
			ready.Wait() // a stack of its own for everyone
			c.add(0)
		})
	}
	wg.Wait()
	most, used := int64(0), 0
	for i := range c.stripes {
		n := c.stripes[i].cells[0].Load()
		most = max(most, n)
		if n > 0 {
			used++
		}
	}
	require.GreaterOrEqual(t, len(c.stripes), 4*runtime.GOMAXPROCS(0))
	require.GreaterOrEqual(t, used, len(c.stripes)/2, "stripes used of %d", len(c.stripes))
	require.LessOrEqual(t, most, int64(goroutines/2))
}

func TestCountingDoesNotAllocate(t *testing.T) {
	c := newCounters()
	require.Zero(t, testing.AllocsPerRun(1000, func() { c.add(1); c.addN(2, 5) }))
}

func BenchmarkCounters(b *testing.B) {
	c := newCounters()
	b.Run("stack", func(b *testing.B) { benchEach(b, func(int) { c.add(1) }) })

	var one atomic.Int64
	b.Run("atomic", func(b *testing.B) { benchEach(b, func(int) { one.Add(1) }) })

	// A token per P, as sync.Pool keeps them.
	type token struct{ stripe *counterStripe }
	var next atomic.Uint32
	pool := sync.Pool{New: func() any { return &token{&c.stripes[int(next.Add(1))%len(c.stripes)]} }}
	b.Run("pool", func(b *testing.B) {
		benchEach(b, func(int) {
			tok := pool.Get().(*token)
			tok.stripe.cells[1].Add(1)
			pool.Put(tok)
		})
	})
}
