package main

import (
	"errors"
	"runtime"
	"strconv"
	"time"
)

var bytesPer = gauge{"bytes/entry", func(s *sample) float64 { return s.bytesEach }}

// memoryStudies measure what an entry takes in the process: an int64 and a struct of 16 bytes, a million of them.
func memoryStudies() []study {
	return []study{{
		name: "cache/memory/" + strconv.Itoa(sizes.memory), gauges: []gauge{bytesPer}, fixed: 3,
		contend: (*lab).memory,
	}}
}

type point struct{ X, Y int64 }

// keeper is something that holds points.
type keeper struct {
	set  func(i int64)
	size func() int
	end  func()
}

func memoryTurn(open func() (keeper, error)) func(time.Duration) (sample, error) {
	return func(time.Duration) (sample, error) {
		before := heap()
		k, err := open()
		if err != nil {
			return sample{}, err
		}
		for i := range int64(sizes.memory) {
			k.set(i)
		}
		n := k.size()
		after := heap()
		if n < sizes.memory*9/10 {
			err = errors.New("it holds " + strconv.Itoa(n) + " entries only")
		}
		k.size() // until here it is in use
		k.end()
		return sample{ops: 1, bytesEach: (after - before) / float64(n)}, err
	}
}

// heap is what is in use when nothing goes any more: what studies before left needs several collections (pools, finalizers)
// and a moment (goroutines that end).
func heap() float64 {
	var last uint64
	for calm, tries := 0, 0; calm < 3 && tries < 100; tries++ {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if m.HeapAlloc+16<<10 >= last && tries > 0 {
			calm++
		} else {
			calm = 0
		}
		last = m.HeapAlloc
		time.Sleep(10 * time.Millisecond)
	}
	return float64(last)
}

func (l *lab) memory() ([]contender, error) {
	out := oursMemory()
	add := func(name string, open func() keeper) {
		out = append(out, contender{name: name, turn: memoryTurn(func() (keeper, error) { return open(), nil })})
	}
	for _, ttl := range []bool{false, true} {
		add(map[bool]string{false: "otter", true: "otter with TTL"}[ttl], func() keeper {
			c := otters[int64, point](sizes.memory+sizes.memory/10, ttl)
			return keeper{
				set:  func(i int64) { c.Set(i, point{i, i}) },
				size: func() int { c.CleanUp(); return c.EstimatedSize() },
				end:  func() { c.StopAllGoroutines() },
			}
		})
	}
	add("map", func() keeper {
		m := map[int64]point{}
		return keeper{set: func(i int64) { m[i] = point{i, i} }, size: func() int { return len(m) }, end: func() {}}
	})
	add("sturdyc", func() keeper {
		c := sturdy[point](2 * sizes.memory) // its shards fill unevenly
		return keeper{set: func(i int64) { c.Set(strconv.FormatInt(i, 10), point{i, i}) }, size: c.Size, end: func() {}}
	})
	return out, nil
}
