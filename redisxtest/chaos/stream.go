package chaos

import (
	"context"
	"sync"

	"github.com/go-redisx/redisx/core/driver"
)

// stream is one subscription or tracking.
type stream struct {
	w           *wrapped
	onConfirmed func()
	onLost      func(error)

	mu     sync.Mutex // one callback at a time
	left   int        // how many are still to be dropped; above 0 is a gap
	silent bool

	wg sync.WaitGroup // ends of gaps that Calm ordered
}

func (w *wrapped) stream(onConfirmed func(), onLost func(error)) *stream {
	s := &stream{w: w, onConfirmed: onConfirmed, onLost: onLost}
	if onConfirmed == nil {
		s.onConfirmed = func() {}
	}
	if onLost == nil {
		s.onLost = func(error) {}
	}
	w.life.Lock()
	defer w.life.Unlock()
	w.streams[s] = struct{}{}
	return s
}

// end waits for the last callback.
func (s *stream) end() {
	s.w.life.Lock()
	delete(s.w.streams, s)
	s.w.life.Unlock()
	s.wg.Wait()
}

func (s *stream) confirmed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = 0
	s.onConfirmed()
}

func (s *stream) lost(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = 0
	s.onLost(reason)
}

// arrived is called with what came, and calls deliver unless it is to be dropped.
func (s *stream) arrived(on string, names []string, deliver func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.w.event(on, names, "", s.left > 0)
	if ok {
		s.left, s.silent = f.drop, f.kind == bugSilentGap
		if !s.silent {
			s.onLost(errLost)
		}
	}
	if s.left == 0 {
		deliver()
		return
	}
	if s.left--; s.left == 0 && !s.silent {
		s.onConfirmed()
	}
}

// endGap restores the stream before all was dropped that was to be.
func (s *stream) endGap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 {
		return
	}
	s.left = 0
	if !s.silent {
		s.onConfirmed()
	}
}

// subscriber is the ability driver.Subscriber.
type subscriber struct{ w *wrapped }

// Subscribe implements driver.Subscriber.
func (a subscriber) Subscribe(ctx context.Context, sub driver.Subscription) error {
	if a.w.mistake != nil {
		return a.w.mistake
	}
	s := a.w.stream(sub.OnConfirmed, sub.OnLost)
	defer s.end()
	deliver := sub.OnMessage
	sub.OnConfirmed, sub.OnLost = s.confirmed, s.lost
	sub.OnMessage = func(channel, payload string) {
		s.arrived(onMessage, []string{channel}, func() {
			if deliver != nil {
				deliver(channel, payload)
			}
		})
	}
	return a.w.inner.(driver.Subscriber).Subscribe(ctx, sub)
}

// tracker is the ability driver.Tracker.
type tracker struct{ w *wrapped }

// Track implements driver.Tracker.
func (a tracker) Track(ctx context.Context, t driver.Tracking) error {
	if a.w.mistake != nil {
		return a.w.mistake
	}
	s := a.w.stream(t.OnConfirmed, t.OnLost)
	defer s.end()
	deliver := t.OnInvalidate
	t.OnConfirmed, t.OnLost = s.confirmed, s.lost
	t.OnInvalidate = func(keys []string) {
		s.arrived(onInvalidation, keys, func() {
			if deliver != nil {
				deliver(keys)
			}
		})
	}
	return a.w.inner.(driver.Tracker).Track(ctx, t)
}
