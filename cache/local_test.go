package cache

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

type localEntry struct {
	n      int
	hash   uint64
	weight uint32
	dead   bool
	epoch  uint64
}

func newTestLocal(t testing.TB, cfg localConfig[int, localEntry]) *local[int, localEntry] {
	t.Helper()
	if cfg.entries == 0 && cfg.weight == 0 {
		cfg.entries = 1 << 20
	}
	l, err := newLocal(cfg)
	require.NoError(t, err)
	t.Cleanup(l.close)
	return l
}

func hashOfEntry(e *localEntry) uint64 { return e.hash }

func putEntry(l *local[int, localEntry], k int, e localEntry) *localEntry {
	l.compute(k, e.hash, func(*localEntry) (*localEntry, bool) { return &e, false })
	return &e
}

// settle lets the order of eviction catch up.
func (l *local[K, E]) settle() { l.gen.Load().store.CleanUp() }

// indexed returns how many keys the index holds once it is tidy.
func (l *local[K, E]) indexed() int {
	g := l.gen.Load()
	g.tidy(1)
	x := &g.index
	n := 0
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		n += len(s.one)
		for _, more := range s.more {
			n += len(more)
		}
		s.mu.Unlock()
	}
	return n
}

func TestLocalWantsOneBound(t *testing.T) {
	_, err := newLocal(localConfig[int, localEntry]{})
	require.Error(t, err)
	_, err = newLocal(localConfig[int, localEntry]{entries: 1, weight: 1, weigh: func(*localEntry) uint32 { return 1 }})
	require.Error(t, err)
	_, err = newLocal(localConfig[int, localEntry]{entries: -1})
	require.Error(t, err)
	_, err = newLocal(localConfig[int, localEntry]{entries: -1, weight: 1, weigh: func(*localEntry) uint32 { return 1 }})
	require.Error(t, err)
	_, err = newLocal(localConfig[int, localEntry]{weight: 1})
	require.ErrorContains(t, err, "weigher")
}

func TestComputeKeepsStoresAndDeletes(t *testing.T) {
	l := newTestLocal(t, localConfig[int, localEntry]{hashOf: hashOfEntry})
	step := func(want *localEntry, e *localEntry, keep bool) {
		t.Helper()
		called := 0
		l.compute(1, 7, func(old *localEntry) (*localEntry, bool) {
			called++
			require.Same(t, want, old)
			return e, keep
		})
		require.Equal(t, 1, called)
	}
	has := func(want *localEntry) {
		t.Helper()
		e, ok := l.get(1)
		require.Equal(t, want != nil, ok)
		require.Same(t, want, e)
		n := 0
		if ok {
			n = 1
		}
		require.Equal(t, n, l.len())
		require.Equal(t, n, l.indexed())
	}
	var none *localEntry
	a, b := &localEntry{n: 1, hash: 7}, &localEntry{n: 2, hash: 7}
	step(none, nil, false)
	has(none)
	step(none, nil, true)
	has(none)
	step(none, a, true) // what is kept is the old, whatever else is returned
	has(none)
	step(none, a, false)
	has(a)
	step(a, b, true)
	has(a)
	step(a, nil, true)
	has(a)
	step(a, b, false)
	has(b)
	step(b, nil, false)
	has(none)
	step(none, a, false)
	require.True(t, l.delete(1))
	has(none)
	require.False(t, l.delete(1))
}

func TestDeleteWaitsForComputeAndDropsWhatItStored(t *testing.T) {
	l := newTestLocal(t, localConfig[int, localEntry]{hashOf: hashOfEntry})
	for _, del := range []func(){func() { l.delete(1) }, func() { l.deleteHash(7) }, func() { l.deleteAll() }} {
		begun, deleted := make(chan struct{}), make(chan struct{})
		go func() {
			<-begun
			del()
			close(deleted)
		}()
		l.compute(1, 7, func(*localEntry) (*localEntry, bool) {
			close(begun)
			for range 100 { // give the deletion a chance to come first, if it can
				time.Sleep(50 * time.Microsecond)
			}
			return &localEntry{hash: 7}, false
		})
		<-deleted
		_, ok := l.get(1)
		require.False(t, ok)
		require.Zero(t, l.len())
		require.Zero(t, l.indexed())
	}
}

// The order of the engine's fill: it checks the epoch inside compute. Were the key in the index only after that check, a
// deleteHash between the two would miss it.
func TestKeyIsInTheIndexBeforeComputeDecides(t *testing.T) {
	l := newTestLocal(t, localConfig[int, localEntry]{hashOf: hashOfEntry})
	l.compute(1, 7, func(*localEntry) (*localEntry, bool) {
		require.Equal(t, []int{1}, l.gen.Load().index.lookup(nil, 7))
		return nil, true
	})
	require.Zero(t, l.indexed())
}

// Were it taken out earlier, a second deleteHash would return while readers still see the entry that the first is deleting.
func TestKeyStaysInTheIndexUntilItsEntryIsGone(t *testing.T) {
	var l *local[int, localEntry]
	seen := 0
	l = newTestLocal(t, localConfig[int, localEntry]{entries: 100, hashOf: hashOfEntry, onEvict: func(k int, e *localEntry, _ evictCause) {
		require.Contains(t, l.gen.Load().index.lookup(nil, e.hash), k)
		seen++
	}})
	putEntry(l, 1, localEntry{hash: 7})
	l.delete(1)
	putEntry(l, 1, localEntry{hash: 7})
	l.deleteHash(7)
	putEntry(l, 1, localEntry{hash: 7})
	l.compute(1, 7, func(*localEntry) (*localEntry, bool) { return nil, false })
	putEntry(l, 1, localEntry{hash: 7, dead: true})
	l.sweep(func(e *localEntry) bool { return e.dead }, 10)
	require.Equal(t, 4, seen)
	require.Zero(t, l.indexed())
}

func TestIndexIsTidiedOnTheWay(t *testing.T) {
	for name, write := range map[string]func(l *local[int, localEntry], k int){
		"evictions": func(l *local[int, localEntry], k int) { putEntry(l, k, localEntry{hash: hashKey(k)}) },
		"delete":    func(l *local[int, localEntry], k int) { putEntry(l, k, localEntry{hash: hashKey(k)}); l.delete(k) },
		"deleteHash": func(l *local[int, localEntry], k int) {
			putEntry(l, k, localEntry{hash: hashKey(k)})
			l.deleteHash(hashKey(k))
		},
		"not indexed": func(l *local[int, localEntry], k int) { putEntry(l, k, localEntry{}) },
		"sweep": func(l *local[int, localEntry], k int) {
			putEntry(l, k, localEntry{hash: hashKey(k)})
			if k%100 == 0 {
				l.sweep(func(*localEntry) bool { return true }, 1000)
			}
		},
	} {
		l := newTestLocal(t, localConfig[int, localEntry]{entries: 1000, hashOf: hashOfEntry})
		for k := range 1000 {
			putEntry(l, -k-1, localEntry{hash: hashKey(-k - 1)})
		}
		for k := range 20_000 {
			write(l, k)
		}
		l.settle()
		write(l, 20_000) // the deletions of settle are seen to now
		l.tasks.close()  // nothing leaves any more while it is looked at
		require.Less(t, l.gen.Load().gone.n.Load(), int64(2*tidyAt), name)
		require.LessOrEqual(t, l.indexed(), l.len(), name)
	}
}

func TestIndexKeepsAKeyThatIsBack(t *testing.T) {
	l := newTestLocal(t, localConfig[int, localEntry]{hashOf: hashOfEntry})
	putEntry(l, 1, localEntry{hash: 7})
	l.delete(1)
	putEntry(l, 1, localEntry{hash: 7})
	require.Equal(t, 1, l.indexed())
	require.Equal(t, 1, l.deleteHash(7))
}

func TestIndexIsTidiedByDeletionsAlone(t *testing.T) {
	for _, byHash := range []bool{false, true} {
		l := newTestLocal(t, localConfig[int, localEntry]{hashOf: hashOfEntry})
		for k := range 1000 {
			putEntry(l, k, localEntry{hash: hashKey(k)})
		}
		for k := range 1000 {
			if byHash {
				require.Equal(t, 1, l.deleteHash(hashKey(k)))
			} else {
				require.True(t, l.delete(k))
			}
		}
		require.Less(t, l.gen.Load().gone.n.Load(), int64(tidyAt))
	}
}

// TestNoStaleEntryAfterAnInvalidation runs the engine's protocol: a fill captures the epoch and stores only if it is
// unchanged; an invalidation moves the epoch on and then deletes. After that nobody may find an entry of an older epoch.
func TestNoStaleEntryAfterAnInvalidation(t *testing.T) {
	for _, byHash := range []bool{false, true} {
		l := newTestLocal(t, localConfig[int, localEntry]{entries: 64, hashOf: hashOfEntry})
		const keys = 8
		var epochs [keys]atomic.Uint64
		var stop atomic.Bool
		var fillers, others sync.WaitGroup
		for range 2 {
			fillers.Go(func() {
				for n := 0; !stop.Load(); n++ {
					k := rand.IntN(keys)
					epoch := epochs[k].Load()
					hash := uint64(0)
					if byHash {
						hash = uint64(k%3 + 1) // keys share hashes
					}
					l.compute(k, hash, func(*localEntry) (*localEntry, bool) {
						if epochs[k].Load() != epoch {
							return nil, true
						}
						return &localEntry{epoch: epoch, hash: hash}, false
					})
				}
			})
		}
		for range 2 {
			others.Go(func() {
				for range 20_000 {
					k := rand.IntN(keys)
					epoch := epochs[k].Add(1)
					switch {
					case rand.IntN(100) == 0:
						l.deleteAll()
					case byHash:
						l.deleteHash(uint64(k%3 + 1))
					default:
						l.delete(k)
					}
					if e, ok := l.get(k); ok && e.epoch < epoch {
						t.Errorf("by hash %v: epoch %d after the invalidation that began %d", byHash, e.epoch, epoch)
						return
					}
				}
			})
		}
		others.Wait()
		stop.Store(true)
		fillers.Wait()
		if byHash {
			require.Equal(t, l.len(), l.indexed())
		}
	}
}

func TestDeleteHashDropsAllKeysOfTheHashAndNoOthers(t *testing.T) {
	l := newTestLocal(t, localConfig[int, localEntry]{hashOf: hashOfEntry})
	for k := range 10 {
		putEntry(l, k, localEntry{hash: 1})
		putEntry(l, k, localEntry{hash: 1}) // over itself
	}
	putEntry(l, 10, localEntry{hash: 1 + indexShards})
	putEntry(l, 11, localEntry{})
	require.Equal(t, 11, l.indexed())
	for _, k := range []int{0, 9, 4} { // the first, the last, one between
		require.True(t, l.delete(k))
	}
	l.gen.Load().tidy(1)
	require.ElementsMatch(t, []int{1, 2, 3, 5, 6, 7, 8}, l.gen.Load().index.lookup(nil, 1))
	require.Equal(t, 7, l.deleteHash(1))
	require.Zero(t, l.deleteHash(1))
	require.Zero(t, l.deleteHash(99))
	require.Equal(t, 2, l.len())
	require.Equal(t, 1, l.indexed())
	require.Equal(t, 1, l.deleteHash(1+indexShards))
	_, ok := l.get(11)
	require.True(t, ok)
}

func TestLocalIsBoundedByEntries(t *testing.T) {
	const bound = 1000
	var left atomic.Int64
	l := newTestLocal(t, localConfig[int, localEntry]{entries: bound, hashOf: hashOfEntry, onEvict: func(k int, e *localEntry, c evictCause) {
		if k != e.n || c != evictedSize {
			t.Errorf("key %d, entry %d, cause %d", k, e.n, c)
		}
		left.Add(1)
	}})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 5 * bound {
				k := g*5*bound + i
				putEntry(l, k, localEntry{n: k, hash: hashKey(k)})
			}
		})
	}
	wg.Wait()
	l.tasks.close() // nothing leaves any more while it is looked at
	l.settle()
	require.LessOrEqual(t, l.len(), bound)
	require.Greater(t, l.len(), bound/2)
	require.Zero(t, l.weight())
	require.EqualValues(t, 20*bound, left.Load()+int64(l.len()), "every entry is there or was seen leaving")
	require.Equal(t, l.len(), l.indexed())
}

func TestLocalIsBoundedByWeight(t *testing.T) {
	l := newTestLocal(t, localConfig[int, localEntry]{weight: 10_000, weigh: func(e *localEntry) uint32 { return e.weight }})
	for k := range 1000 {
		putEntry(l, k, localEntry{weight: 100})
	}
	l.settle()
	require.LessOrEqual(t, l.weight(), uint64(10_000))
	require.Greater(t, l.weight(), uint64(5_000))
	require.EqualValues(t, l.weight(), l.len()*100)

	putEntry(l, -1, localEntry{weight: 10_001}) // more than there is room for
	l.settle()
	_, ok := l.get(-1)
	require.False(t, ok)
	require.LessOrEqual(t, l.weight(), uint64(10_000))

	for k := range 1000 { // heavier in place
		putEntry(l, k%50, localEntry{weight: 500})
	}
	l.settle()
	require.LessOrEqual(t, l.weight(), uint64(10_000))

	for k := range 20_000 { // an entry without weight counts for something
		putEntry(l, k, localEntry{})
	}
	l.settle()
	require.LessOrEqual(t, l.len(), 10_000)
}

func TestLocalOfOneEntryWorks(t *testing.T) {
	l := newTestLocal(t, localConfig[int, localEntry]{entries: 1})
	for k := range 100 {
		putEntry(l, k, localEntry{})
		l.settle()
		require.LessOrEqual(t, l.len(), 1)
	}
}

// A scan of keys that nobody asks for again does not push out what is asked for all the time.
func TestLocalKeepsWhatIsAskedForMost(t *testing.T) {
	const bound, hot = 1000, 200
	l := newTestLocal(t, localConfig[int, localEntry]{entries: bound})
	for k := range bound {
		putEntry(l, k, localEntry{})
	}
	for range 20 {
		for k := range hot {
			l.get(k)
			if k%8 == 0 {
				l.settle() // reads that come faster than they are looked at are not counted
			}
		}
	}
	for k := range 20 * bound {
		putEntry(l, bound+k, localEntry{})
	}
	l.settle()
	kept := 0
	for k := range hot {
		if _, ok := l.get(k); ok {
			kept++
		}
	}
	require.Greater(t, kept, hot/2)
}

func TestCausesOfEviction(t *testing.T) {
	var got []evictCause
	l := newTestLocal(t, localConfig[int, localEntry]{onEvict: func(_ int, _ *localEntry, c evictCause) { got = append(got, c) }})
	putEntry(l, 1, localEntry{})
	putEntry(l, 1, localEntry{}) // replaced
	require.Empty(t, got)
	l.delete(1)
	l.delete(1)
	require.Equal(t, []evictCause{evictedDeleted}, got)
	putEntry(l, 2, localEntry{dead: true})
	l.sweep(func(e *localEntry) bool { return e.dead }, 10)
	require.Len(t, got, 2)
	putEntry(l, 3, localEntry{})
	l.deleteAll()
	require.Len(t, got, 2, "deleteAll tells of nothing")
}

func TestDeleteAllLeavesNothing(t *testing.T) {
	l := newTestLocal(t, localConfig[int, localEntry]{hashOf: hashOfEntry})
	for k := range 1000 {
		putEntry(l, k, localEntry{hash: hashKey(k)})
	}
	l.deleteAll()
	require.Zero(t, l.len())
	require.Zero(t, l.indexed())
	_, ok := l.get(5)
	require.False(t, ok)
	e := putEntry(l, 5, localEntry{})
	got, ok := l.get(5)
	require.True(t, ok)
	require.Same(t, e, got)
}

func TestSweepGoesOnWhereItStoppedAndDropsTheDead(t *testing.T) {
	l := newTestLocal(t, localConfig[int, localEntry]{hashOf: hashOfEntry})
	const n = 1000
	for k := range n {
		putEntry(l, k, localEntry{n: k, dead: k%4 == 0, hash: hashKey(k)})
	}
	for pass := range 2 {
		seen := map[int]bool{}
		dropped, calls := 0, 0
		for done := false; !done; calls++ {
			looked, d := 0, 0
			d, done = l.sweep(func(e *localEntry) bool {
				looked++
				require.False(t, seen[e.n], "looked at twice")
				seen[e.n] = true
				return e.dead
			}, 64)
			dropped += d
			require.LessOrEqual(t, looked, 64)
		}
		if pass == 0 {
			require.Equal(t, n/4, dropped)
			require.Len(t, seen, n)
			require.GreaterOrEqual(t, calls, n/64)
		} else {
			require.Zero(t, dropped)
			require.Len(t, seen, n-n/4)
		}
		require.Equal(t, n-n/4, l.len())
		require.Equal(t, n-n/4, l.indexed())
	}
}

func TestSweepSparesAnEntryThatReplacedADeadOne(t *testing.T) {
	l := newTestLocal(t, localConfig[int, localEntry]{})
	putEntry(l, 1, localEntry{dead: true})
	var fresh *localEntry
	dropped, done := l.sweep(func(e *localEntry) bool {
		fresh = putEntry(l, 1, localEntry{})
		return e.dead
	}, 10)
	require.Zero(t, dropped)
	require.True(t, done)
	e, ok := l.get(1)
	require.True(t, ok)
	require.Same(t, fresh, e)
}

func TestSweepBeginsAnewAfterDeleteAll(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	l := newTestLocal(t, localConfig[int, localEntry]{})
	for k := range 100 {
		putEntry(l, k, localEntry{})
	}
	_, done := l.sweep(func(*localEntry) bool { return false }, 10)
	require.False(t, done)
	l.deleteAll()
	goleak.VerifyNone(t, leaks) // the old pass keeps nothing alive
	putEntry(l, 1, localEntry{dead: true})
	dropped, done := l.sweep(func(e *localEntry) bool { return e.dead }, 10)
	require.Equal(t, 1, dropped)
	require.True(t, done)
}

func TestSweepOfAnIdleLocalEnforcesTheBound(t *testing.T) {
	l := newTestLocal(t, localConfig[int, localEntry]{entries: 100})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 5000 {
				putEntry(l, g*5000+i, localEntry{})
			}
		})
	}
	wg.Wait()
	l.tasks.close() // nothing runs any more
	l.sweep(func(*localEntry) bool { return false }, 0)
	require.LessOrEqual(t, l.len(), 100)
}

func TestSweepWhileTheTableGrowsSeesWhatWasThereAtItsBegin(t *testing.T) {
	l := newTestLocal(t, localConfig[int, localEntry]{})
	for k := range 500 {
		putEntry(l, k, localEntry{n: k, dead: true})
	}
	dropped := 0
	for more, done := 500, false; !done; {
		var d int
		d, done = l.sweep(func(e *localEntry) bool { return e.dead }, 50)
		dropped += d
		for range 2000 {
			putEntry(l, more, localEntry{n: more})
			more++
			if more > 20_000 {
				break
			}
		}
	}
	require.Equal(t, 500, dropped)
}

func TestCloseWaitsForItsGoroutinesAndLeavesNothing(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	l := newTestLocal(t, localConfig[int, localEntry]{entries: 100, hashOf: hashOfEntry})
	var stop atomic.Bool
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				k := (i*7 + g) % 1000
				putEntry(l, k, localEntry{hash: hashKey(k)})
				l.get(k + 1)
				if i%100 == 0 {
					l.sweep(func(*localEntry) bool { return i%200 == 0 }, 10)
					l.deleteHash(hashKey(k))
					l.weight()
				}
				if g == 0 && i%5000 == 0 {
					l.deleteAll()
				}
			}
		})
	}
	require.Eventually(t, func() bool { return l.len() > 0 }, 10*time.Second, time.Millisecond)
	l.close()
	require.Zero(t, l.len())
	putEntry(l, 1, localEntry{})
	_, ok := l.get(1)
	require.False(t, ok, "a closed local stays empty")
	l.deleteAll()
	putEntry(l, 1, localEntry{})
	require.Zero(t, l.len())
	l.close()
	stop.Store(true)
	wg.Wait()
	require.Zero(t, l.len())
	require.Zero(t, l.tasks.n)
	_, done := l.sweep(func(*localEntry) bool { return true }, 0)
	require.True(t, done)
	l.close()
	goleak.VerifyNone(t, leaks)
}

func TestLocalHitDoesNotAllocate(t *testing.T) {
	l := newTestLocal(t, localConfig[int, localEntry]{entries: 1000, hashOf: hashOfEntry})
	for k := range 1000 {
		putEntry(l, k, localEntry{})
	}
	l.settle()
	i := 0
	require.Zero(t, testing.AllocsPerRun(10_000, func() {
		i++
		l.get(i % 1000)
		l.get(-1)
	}))
}

func TestTasksAreWaitedForByCloseAndRunAtOnceAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tasks tasks
		tasks.cond.L = &tasks.mu
		finished := 0
		tasks.run(func() {
			time.Sleep(time.Second)
			finished++
		})
		tasks.close()
		require.Equal(t, 1, finished)
		tasks.run(func() { finished++ })
		require.Equal(t, 2, finished)
		tasks.close()
	})
}
