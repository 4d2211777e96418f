package cache

import (
	"math/bits"
	"runtime"
	"sync/atomic"
	"unsafe"
)

// counterCap is how many counters a counters has.
const counterCap = 32

// counters counts events that happen on every hit, by a small number. Every stripe has its own cells, so that goroutines
// running at the same time mostly write to different cache lines. It is safe for concurrent use.
type counters struct {
	stripes []counterStripe
	shift   uint8
}

// counterStripe is a whole number of pairs of cache lines: processors fetch the neighbour of a line too.
type counterStripe struct {
	cells [counterCap]atomic.Int64
}

func newCounters() *counters {
	n := bits.Len(uint(4*runtime.GOMAXPROCS(0) - 1))
	// One stripe more than used on either side, so that no neighbour on the heap shares a line with a cell.
	s := make([]counterStripe, 1<<n+2)
	return &counters{stripes: s[1 : 1+1<<n : 1+1<<n], shift: uint8(64 - n)}
}

// add adds one to counter i, which is less than counterCap.
func (c *counters) add(i int) {
	c.stripe().cells[i].Add(1)
}

// addN adds n to counter i.
func (c *counters) addN(i int, n int64) {
	c.stripe().cells[i].Add(n)
}

// stripe returns the stripe of the goroutine: the address of a variable on its stack tells goroutines apart, for nothing.
// Multiplying spreads it over the high bits.
func (c *counters) stripe() *counterStripe {
	var here byte
	h := uint64(uintptr(unsafe.Pointer(&here))>>10) * 0x9e3779b97f4a7c15
	return &c.stripes[h>>c.shift]
}

// sum returns counter i. Events that happen during the call may be missing.
func (c *counters) sum(i int) int64 {
	var n int64
	for s := range c.stripes {
		n += c.stripes[s].cells[i].Load()
	}
	return n
}
