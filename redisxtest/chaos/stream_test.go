package chaos_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// feed is what a subscription or a tracking called back.
type feed struct {
	mu     sync.Mutex
	events []string
	cancel context.CancelFunc
	done   chan error
}

func start(t *testing.T, run func(ctx context.Context, f *feed) error) *feed {
	ctx, cancel := context.WithCancel(within(t))
	f := &feed{cancel: cancel, done: make(chan error, 1)}
	go func() { f.done <- run(ctx, f) }()
	f.await(t, "confirmed")
	return f
}

func subscribe(t *testing.T, d driver.Driver, channel string) *feed {
	return start(t, func(ctx context.Context, f *feed) error {
		return d.(driver.Subscriber).Subscribe(ctx, driver.Subscription{
			Channels: []string{channel}, OnConfirmed: f.confirmed, OnLost: f.lost,
			OnMessage: func(_, payload string) { f.note(payload) },
		})
	})
}

func track(t *testing.T, d driver.Driver, prefix string) *feed {
	return start(t, func(ctx context.Context, f *feed) error {
		return d.(driver.Tracker).Track(ctx, driver.Tracking{
			Prefixes: []string{prefix}, OnConfirmed: f.confirmed, OnLost: f.lost,
			OnInvalidate: func(keys []string) { f.note(strings.Join(keys, ",")) },
		})
	})
}

func (f *feed) confirmed() { f.note("confirmed") }

func (f *feed) lost(reason error) {
	if !errors.Is(reason, chaos.ErrInjected) {
		f.note("lost in truth")
		return
	}
	f.note("lost")
}

func (f *feed) note(event string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, event)
}

func (f *feed) seen() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.events, " ")
}

// await waits until the events are those that want lists.
func (f *feed) await(t *testing.T, want string) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for f.seen() != want {
		if time.Now().After(end) {
			t.Fatalf("got  %s\nwant %s", f.seen(), want)
		}
		time.Sleep(time.Millisecond)
	}
}

func (f *feed) end(t *testing.T) {
	t.Helper()
	f.cancel()
	require.ErrorIs(t, <-f.done, context.Canceled)
}

func publish(t *testing.T, plain driver.Driver, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		require.NoError(t, plain.Do(within(t), driver.Cmd{Args: []string{"PUBLISH", "orders", p}}).Err())
	}
}

func TestSubscriptionIsLostAndRestored(t *testing.T) {
	for text, want := range map[string]string{
		"on message channel=ord* nth=2 lose-subscription 3":                     "confirmed 1 lost confirmed 5 6",
		"on message nth=2 bug-silent-gap 2":                                     "confirmed 1 4 5 6",
		"on message nth=2..3 lose-subscription":                                 "confirmed 1 lost confirmed lost confirmed 4 5 6",
		"on message nth=2 lose-subscription 2\non message nth=3 bug-silent-gap": "confirmed 1 lost confirmed 4 5 6",
		"on message channel=other lose-subscription 2":                          "confirmed 1 2 3 4 5 6",
	} {
		t.Run(text, func(t *testing.T) {
			each(t, func(t *testing.T, plain driver.Driver) {
				d := chaos.Wrap(plain, parse(t, text))
				f := subscribe(t, d, "orders")
				publish(t, plain, "1", "2", "3", "4", "5", "6")
				f.await(t, want)
				f.end(t)
				again := chaos.Wrap(plain, parse(t, strings.Join(d.Log(), "\n")))
				f = subscribe(t, again, "orders")
				publish(t, plain, "1", "2", "3", "4", "5", "6")
				f.await(t, want)
				f.end(t)
			})
		})
	}
}

func TestInvalidationIsLost(t *testing.T) {
	for text, want := range map[string]string{
		"on invalidation nth=2 lose-invalidation 2":   "confirmed p:1 lost confirmed p:4",
		"on invalidation key=p:[23] bug-silent-gap":   "confirmed p:1 p:4",
		"on invalidation key=q:* lose-invalidation":   "confirmed p:1 p:2 p:3 p:4",
		"on invalidation nth=4.. lose-invalidation 9": "confirmed p:1 p:2 p:3 lost",
	} {
		t.Run(text, func(t *testing.T) {
			each(t, func(t *testing.T, plain driver.Driver) {
				d := chaos.Wrap(plain, parse(t, text))
				f := track(t, d, "p:")
				for _, key := range []string{"p:1", "p:2", "p:3", "p:4"} {
					require.NoError(t, plain.Do(within(t), cmd("SET", key, "v")).Err())
				}
				f.await(t, want)
				f.end(t)
			})
		})
	}
}

// Calm restores what is lost, also when nothing comes any more, and also if it is a callback that calls it.
func TestCalmRestoresSubscriptions(t *testing.T) {
	each(t, func(t *testing.T, plain driver.Driver) {
		d := chaos.Wrap(plain, rules(chaos.OnMessage().From(2).LoseSubscription(100)))
		f := subscribe(t, d, "orders")
		publish(t, plain, "1", "2") // what is under way when Calm is called may come or not
		f.await(t, "confirmed 1 lost")
		d.Calm()
		f.await(t, "confirmed 1 lost confirmed")
		publish(t, plain, "4")
		f.await(t, "confirmed 1 lost confirmed 4")
		f.end(t)
	})
	each(t, func(t *testing.T, plain driver.Driver) {
		d := chaos.Wrap(plain, rules(chaos.OnMessage().LoseSubscription(100)))
		f := start(t, func(ctx context.Context, f *feed) error {
			return d.(driver.Subscriber).Subscribe(ctx, driver.Subscription{
				Channels: []string{"orders"}, OnConfirmed: f.confirmed, OnLost: func(err error) { f.lost(err); d.Calm() },
			})
		})
		publish(t, plain, "1")
		f.await(t, "confirmed lost confirmed")
		f.end(t)
	})
}

// A subscription that ends in a gap calls nothing any more, and callbacks that are nil are not called.
func TestSubscriptionEndsInAGap(t *testing.T) {
	each(t, func(t *testing.T, plain driver.Driver) {
		d := chaos.Wrap(plain, rules(chaos.OnMessage().LoseSubscription(100), chaos.OnInvalidation().LoseInvalidation(2)))
		f := subscribe(t, d, "orders")
		publish(t, plain, "1")
		f.await(t, "confirmed lost")
		f.end(t)
		d.Calm()
		require.Equal(t, "confirmed lost", f.seen())

		d.Storm()
		ctx, cancel := context.WithCancel(within(t))
		done := make(chan error, 1)
		go func() { done <- d.(driver.Tracker).Track(ctx, driver.Tracking{Prefixes: []string{"p:"}}) }()
		require.Eventually(t, func() bool {
			return plain.Do(within(t), cmd("SET", "p:1", "v")).Err() == nil && len(d.Log()) == 3 // it began, and the gap of two was left
		}, 10*time.Second, time.Millisecond)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
}

// told is a driver that calls back what the test says.
type told struct {
	stub
	say func(s driver.Subscription)
}

func (d *told) Subscribe(ctx context.Context, s driver.Subscription) error {
	d.say(s)
	<-ctx.Done()
	return ctx.Err()
}

// A connection that breaks in truth ends a gap, silent or not: the driver below has the last word on what is covered.
func TestTrueLossEndsAGap(t *testing.T) {
	for text, want := range map[string]string{
		"on message nth=1 lose-subscription 5": "confirmed lost lost in truth confirmed 2",
		"on message nth=1 bug-silent-gap 5":    "confirmed lost in truth confirmed 2",
	} {
		d := chaos.Wrap(&told{say: func(s driver.Subscription) {
			s.OnConfirmed()
			s.OnMessage("c", "1")
			s.OnLost(context.DeadlineExceeded)
			s.OnConfirmed()
			s.OnMessage("c", "2")
		}}, parse(t, text))
		f := &feed{done: make(chan error, 1)}
		ctx, cancel := context.WithCancel(within(t))
		f.cancel = cancel
		go func() {
			f.done <- d.(driver.Subscriber).Subscribe(ctx, driver.Subscription{
				Channels: []string{"c"}, OnConfirmed: f.confirmed, OnLost: f.lost, OnMessage: func(_, payload string) { f.note(payload) },
			})
		}()
		f.await(t, want)
		f.end(t)
	}
}
