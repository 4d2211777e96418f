package cache

import (
	"sync"
	"sync/atomic"
	"time"
)

// tick is how often the clock is read. An L1 entry may be served this much beyond its time, more when the machine is so
// busy that the goroutine of the clock has to wait; TTLs are seconds. Shorter ticks make an idle process visibly less idle: one
// costs some 5 to 30 us of processor time, most of it waking up.
const tick = 5 * time.Millisecond

// bubbleEnd is later than any time of a testing/synctest bubble, where clocks begin in 2000, and earlier than any real one.
var bubbleEnd = time.Date(2015, 1, 1, 0, 0, 0, 0, time.UTC)

// clock is the time of L1: nanoseconds since some moment before the clock was made, read every tick by one goroutine, so
// that reading it is one atomic load. It never goes back. Two clocks have nothing in common: do not compare their times.
// It is safe for concurrent use.
type clock struct {
	_  [64]byte // every hit reads ns: keep it off lines that are written more often than once per tick
	ns atomic.Int64
	_  [56]byte

	base   time.Time // the moment 1; zero in a manual clock
	quit   chan struct{}
	done   chan struct{}
	refs   int // of the shared clock, guarded by clocks.Mutex
	shared bool
}

// clocks holds the clock that all caches of the process share.
var clocks struct {
	sync.Mutex
	running *clock
}

// acquireClock returns the process's clock and starts it if nobody used it. Every acquireClock wants one release.
//
// In a testing/synctest bubble it returns a clock of its own: time in the bubble is the bubble's, and a goroutine that began
// there must end there.
func acquireClock() *clock {
	if time.Now().Before(bubbleEnd) {
		return newClock()
	}
	clocks.Lock()
	defer clocks.Unlock()
	if clocks.running == nil {
		clocks.running = newClock()
		clocks.running.shared = true
	}
	clocks.running.refs++
	return clocks.running
}

// newClock returns a clock of its own, running until its release.
func newClock() *clock {
	c := &clock{base: time.Now(), quit: make(chan struct{}), done: make(chan struct{})}
	c.ns.Store(1)
	go c.run()
	return c
}

// newManualClock returns a clock for tests that only set and advance move.
func newManualClock() *clock {
	c := &clock{}
	c.ns.Store(1)
	return c
}

// now returns the time as of the last tick.
func (c *clock) now() int64 { return c.ns.Load() }

// precise returns the time of this moment, never earlier than now. It costs some 30 ns. If the clock is more than a tick
// behind, because its goroutine has to wait for a processor, precise sets it right for everyone.
func (c *clock) precise() int64 {
	now := c.ns.Load()
	if c.base.IsZero() {
		return now
	}
	precise := 1 + int64(time.Since(c.base))
	if precise-now > int64(tick) {
		c.reach(precise)
	}
	return precise
}

// reach sets the clock to a time unless somebody has set it to a later one.
func (c *clock) reach(ns int64) {
	for now := c.ns.Load(); now < ns; now = c.ns.Load() {
		if c.ns.CompareAndSwap(now, ns) {
			return
		}
	}
}

func (c *clock) run() {
	defer close(c.done)
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-c.quit:
			return
		case <-t.C:
			c.reach(c.precise())
		}
	}
}

// release gives an acquired clock back. When the last user of a clock releases it, its goroutine ends before release returns
// and the time stands still.
func (c *clock) release() {
	if c.base.IsZero() {
		return
	}
	if c.shared && !c.unref() {
		return
	}
	close(c.quit)
	<-c.done
}

// unref reports whether that was the last user.
func (c *clock) unref() bool {
	clocks.Lock()
	defer clocks.Unlock()
	c.refs--
	if c.refs > 0 {
		return false
	}
	clocks.running = nil
	return true
}

// set moves a manual clock to a time that is not before its time now.
func (c *clock) set(ns int64) { c.advance(time.Duration(ns - c.ns.Load())) }

// advance moves a manual clock on.
func (c *clock) advance(d time.Duration) {
	if !c.base.IsZero() {
		panic("cache: advance of a clock that runs")
	}
	if d < 0 {
		panic("cache: a clock does not go back")
	}
	c.ns.Add(int64(d))
}
