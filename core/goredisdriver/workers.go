package goredisdriver

import (
	"sync"
	"time"
)

// task is work that may outlive its caller's patience.
type task interface {
	// run does the work and tells whoever waits.
	run()
}

// workers runs tasks on goroutines of its own. Idle ones wait in a stack, so that the last one used, whose stack has
// grown already, is the first one used again; those at the bottom end when they were not needed for a while.
type workers struct {
	mu     sync.Mutex
	idle   []chan task
	low    int // smallest number of idle workers since the last sweep
	sweep  *time.Timer
	closed bool
	all    sync.WaitGroup
}

// sweepEvery is how often superfluous idle workers end.
const sweepEvery = 5 * time.Second

// start runs t on a worker. It reports false after close.
func (w *workers) start(t task) bool {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return false
	}
	if n := len(w.idle); n > 0 {
		ch := w.idle[n-1]
		w.idle = w.idle[:n-1]
		w.low = min(w.low, n-1)
		w.mu.Unlock()
		ch <- t
		return true
	}
	w.low = 0
	w.all.Add(1)
	w.mu.Unlock()
	go w.work(t)
	return true
}

func (w *workers) work(t task) {
	defer w.all.Done()
	inbox := make(chan task, 1)
	for {
		t.run()
		if !w.park(inbox) {
			return
		}
		var ok bool
		if t, ok = <-inbox; !ok {
			return
		}
	}
}

func (w *workers) park(inbox chan task) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.idle = append(w.idle, inbox)
	if w.sweep == nil {
		w.low = len(w.idle)
		w.sweep = time.AfterFunc(sweepEvery, w.trim)
	}
	return true
}

// trim ends the workers that were idle for the whole interval.
func (w *workers) trim() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	for _, inbox := range w.idle[:w.low] {
		close(inbox)
	}
	w.idle = append(w.idle[:0], w.idle[w.low:]...)
	w.low = len(w.idle)
	if w.low == 0 {
		w.sweep = nil // the next worker that parks starts it again
		return
	}
	w.sweep.Reset(sweepEvery)
}

// close ends the idle workers and waits for the others.
func (w *workers) close() {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		for _, inbox := range w.idle {
			close(inbox)
		}
		w.idle = nil
		if w.sweep != nil {
			w.sweep.Stop()
		}
	}
	w.mu.Unlock()
	w.all.Wait()
}
