package cache

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/maypok86/otter/v2"
)

// benchEntry is what an entry of the engine has to hold for a hit to be checked.
type benchEntry struct {
	freshUntil int64
	word       uint64
	tags       []benchTag
	hash       uint64
	_          [16]byte // the value
}

type benchTag struct {
	state *benchTagState
	ver   uint64
}

type benchTagState struct{ ver atomic.Uint64 }

type scopedKey[K comparable] struct {
	scope uint32
	key   K
}

// benchN keys fill a cache bounded by benchN, so that reads go through the buffer of the eviction policy.
const benchN = 1 << 10

func benchEntries(c *clock, n int) []*benchEntry {
	a, b := &benchTagState{}, &benchTagState{}
	a.ver.Store(7)
	b.ver.Store(8)
	es := make([]*benchEntry, n)
	for i := range es {
		es[i] = &benchEntry{freshUntil: c.now() + int64(time.Hour), word: 2, tags: []benchTag{{a, 7}, {b, 8}}}
	}
	return es
}

// benchOrder is a walk through the keys that neither the compiler nor the prefetcher foresees.
func benchOrder(i int) int64 { return int64(uint32(i) * 2654435761 >> 22) }

func benchEach(b *testing.B, f func(i int)) {
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			f(i)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		var seed atomic.Int64
		b.RunParallel(func(pb *testing.PB) {
			for i := int(seed.Add(1 << 8)); pb.Next(); i++ {
				f(i)
			}
		})
	})
}

var benchSink atomic.Int64

func BenchmarkHit(b *testing.B) {
	c := newClock()
	defer c.release()
	es := benchEntries(c, benchN)
	var word atomic.Uint64
	word.Store(2)
	stats := newCounters()

	valid := func(e *benchEntry) bool {
		if c.now() >= e.freshUntil || e.word != word.Load() {
			return false
		}
		for i := range e.tags {
			if e.tags[i].state.ver.Load() != e.tags[i].ver {
				return false
			}
		}
		return true
	}

	for _, fill := range []string{"full", "quarter"} {
		max := benchN
		if fill == "quarter" { // the policy sleeps below half of the bound
			max = 4 * benchN
		}
		bare := otter.Must(&otter.Options[int64, *benchEntry]{MaximumSize: max})
		expiring := otter.Must(&otter.Options[int64, *benchEntry]{MaximumSize: max,
			ExpiryCalculator: otter.ExpiryWriting[int64, *benchEntry](time.Hour)})
		defer expiring.StopAllGoroutines()
		l, _ := newLocal(localConfig[int64, benchEntry]{entries: max, hashOf: func(e *benchEntry) uint64 { return e.hash }})
		defer l.close()
		scoped, _ := newLocal(localConfig[scopedKey[int64], benchEntry]{entries: max})
		defer scoped.close()
		strs, _ := newLocal(localConfig[string, benchEntry]{entries: max})
		defer strs.close()
		scopedStrs, _ := newLocal(localConfig[scopedKey[string], benchEntry]{entries: max})
		defer scopedStrs.close()
		names := make([]string, benchN)
		for i, e := range es {
			names[i] = fmt.Sprintf("user:%08d", i)
			bare.Set(int64(i), e)
			expiring.Set(int64(i), e)
			put := func(*benchEntry) (*benchEntry, bool) { return e, false }
			l.compute(int64(i), 0, put)
			scoped.compute(scopedKey[int64]{1, int64(i)}, 0, put)
			strs.compute(names[i], 0, put)
			scopedStrs.compute(scopedKey[string]{1, names[i]}, 0, put)
		}

		b.Run(fill+"/otter", func(b *testing.B) {
			benchEach(b, func(i int) { bare.GetIfPresent(benchOrder(i)) })
		})
		b.Run(fill+"/otter+ExpiryWriting", func(b *testing.B) {
			benchEach(b, func(i int) { expiring.GetIfPresent(benchOrder(i)) })
		})
		b.Run(fill+"/local", func(b *testing.B) {
			benchEach(b, func(i int) { l.get(benchOrder(i)) })
		})
		b.Run(fill+"/local+checks", func(b *testing.B) {
			benchEach(b, func(i int) {
				if e, ok := l.get(benchOrder(i)); ok && !valid(e) {
					benchSink.Add(1)
				}
			})
		})
		b.Run(fill+"/local+checks+count", func(b *testing.B) {
			benchEach(b, func(i int) {
				if e, ok := l.get(benchOrder(i)); ok && !valid(e) {
					benchSink.Add(1)
				}
				stats.add(0)
			})
		})
		b.Run(fill+"/scoped+checks", func(b *testing.B) {
			benchEach(b, func(i int) {
				if e, ok := scoped.get(scopedKey[int64]{1, benchOrder(i)}); ok && !valid(e) {
					benchSink.Add(1)
				}
			})
		})
		b.Run(fill+"/string+checks", func(b *testing.B) {
			benchEach(b, func(i int) {
				if e, ok := strs.get(names[benchOrder(i)]); ok && !valid(e) {
					benchSink.Add(1)
				}
			})
		})
		b.Run(fill+"/scopedstring+checks", func(b *testing.B) {
			benchEach(b, func(i int) {
				if e, ok := scopedStrs.get(scopedKey[string]{1, names[benchOrder(i)]}); ok && !valid(e) {
					benchSink.Add(1)
				}
			})
		})
	}
}

// BenchmarkLocalWrites measures what a fill and an invalidation cost in L1.
func BenchmarkLocalWrites(b *testing.B) {
	hashOf := func(e *benchEntry) uint64 { return e.hash }
	fill := func(l *local[int64, benchEntry], k int64, hash uint64) {
		l.compute(k, hash, func(*benchEntry) (*benchEntry, bool) { return &benchEntry{hash: hash}, false })
	}
	for _, indexed := range []bool{false, true} {
		name, hash := "", func(int64) uint64 { return 0 }
		if indexed {
			name, hash = " indexed", hashKey[int64]
		}
		l, _ := newLocal(localConfig[int64, benchEntry]{entries: benchN, hashOf: hashOf})
		defer l.close()
		b.Run("overwrite"+name, func(b *testing.B) { benchEach(b, func(i int) { fill(l, benchOrder(i), hash(benchOrder(i))) }) })
		b.Run("insert and evict"+name, func(b *testing.B) { benchEach(b, func(i int) { fill(l, int64(i), hash(int64(i))) }) })
		if indexed {
			b.Run("deleteHash of nothing", func(b *testing.B) { benchEach(b, func(i int) { l.deleteHash(uint64(i)) }) })
			b.Run("deleteHash", func(b *testing.B) {
				benchEach(b, func(i int) {
					fill(l, benchOrder(i), hash(benchOrder(i)))
					l.deleteHash(hash(benchOrder(i)))
				})
			})
			continue
		}
		b.Run("delete of nothing", func(b *testing.B) { benchEach(b, func(i int) { l.delete(-1 - int64(i)) }) })
		b.Run("insert and delete", func(b *testing.B) {
			benchEach(b, func(i int) {
				fill(l, benchOrder(i), 0)
				l.delete(benchOrder(i))
			})
		})
	}
	for _, n := range []int{1000, 100_000} {
		l, _ := newLocal(localConfig[int64, benchEntry]{entries: n})
		defer l.close()
		for k := range n {
			fill(l, int64(k), 0)
		}
		b.Run(fmt.Sprintf("sweep of %d, per entry", n), func(b *testing.B) {
			b.ReportAllocs()
			for left := b.N; left > 0; left -= 1000 {
				l.sweep(func(*benchEntry) bool { return false }, 1000)
			}
		})
		b.Run(fmt.Sprintf("deleteAll of up to %d", n), func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				l.deleteAll()
			}
		})
	}
}

// BenchmarkLocalMemory reports the bytes that one more entry takes, its *E aside.
func BenchmarkLocalMemory(b *testing.B) {
	const n = 1 << 18
	one := &benchEntry{}
	report := func(name string, fill func(k int64) any) {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				before := benchHeap()
				var keep any
				for k := range int64(n) {
					keep = fill(k)
				}
				b.ReportMetric(float64(benchHeap()-before)/n, "B/entry")
				runtime.KeepAlive(keep)
			}
		})
	}
	bare := otter.Must(&otter.Options[int64, *benchEntry]{MaximumSize: n})
	report("otter", func(k int64) any { bare.Set(k, one); return bare })
	plain, _ := newLocal(localConfig[int64, benchEntry]{entries: n})
	defer plain.close()
	report("local", func(k int64) any {
		plain.compute(k, 0, func(*benchEntry) (*benchEntry, bool) { return one, false })
		return plain
	})
	indexed, _ := newLocal(localConfig[int64, benchEntry]{entries: n})
	defer indexed.close()
	report("local indexed", func(k int64) any {
		indexed.compute(k, hashKey(k), func(*benchEntry) (*benchEntry, bool) { return one, false })
		return indexed
	})
}

func benchHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
