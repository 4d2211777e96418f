package cache

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
)

// follower is one process with a feed over tracking.
type follower struct {
	*trackingFeed
	d    *busDriver
	sink *record
}

func newFollower(t *testing.T, b *bus) *follower {
	client, d := b.client(t)
	p := &follower{d: d, sink: &record{t: t}}
	f, err := newTrackingFeed(client, testValues, testTags, p.sink)
	require.NoError(t, err)
	p.trackingFeed = f.(*trackingFeed)
	start(t, f)
	synctest.Wait()
	require.Equal(t, []string{"confirmed"}, p.sink.take())
	return p
}

func TestTrackingTellsWhatChanged(t *testing.T) {
	bubble(t, func(t *testing.T, b *bus) {
		f := newFollower(t, b)
		b.invalidate(testValues+"1}", testTags+"t:red}", testValues+"1}:w")
		b.each(func(l *busListener) { l.queue <- func() { l.track.OnInvalidate(nil) } })
		synctest.Wait()
		require.Equal(t, []string{
			"changed " + testValues + "1}", "tag " + testTags + "t:red} 0", "changed " + testValues + "1}:w", "everything",
		}, f.sink.take())
		require.EqualValues(t, 3, f.stats().received)
		require.False(t, f.inline())
		require.Zero(t, f.message(kindChanged, testValues+"1}"))
		require.Zero(t, f.wake(testValues+"1}:w"))
		require.NoError(t, f.publish(t.Context(), message{}, 1))
		b.cut(f.d, errors.New("broken"))
		synctest.Wait()
		require.Equal(t, []string{"lost", "confirmed"}, f.sink.take())
	})
}

func TestTrackingAnOwnWriteThatIsNotReportedEndsTrust(t *testing.T) {
	name := testValues + "1}"
	bubble(t, func(t *testing.T, b *bus) {
		f := newFollower(t, b)
		f.d.dropping(func(what string) bool { return what == name })
		require.True(t, f.expect(name))
		b.invalidate(name)
		f.wrote(name, true)
		b.invalidate(testValues + "2}") // another one says nothing
		synctest.Wait()
		require.Equal(t, []string{"changed " + testValues + "2}"}, f.sink.take())
		time.Sleep(echoWithin - watchEvery)
		require.Empty(t, f.sink.take())
		time.Sleep(3 * watchEvery)
		require.Equal(t, []string{"lost: echo", "confirmed"}, f.sink.take())
		require.Equal(t, 2, f.d.began(), "on a new connection")
		require.EqualValues(t, 1, f.stats().gaps)
		time.Sleep(time.Minute)
		require.Empty(t, f.sink.take())
		require.True(t, f.expect(name))
	})
}

func TestTrackingWhatExplainsAMissingEchoIsNoLoss(t *testing.T) {
	name := testValues + "1}"
	for what, write := range map[string]func(b *bus, f *follower){
		"told before the reply": func(b *bus, f *follower) { b.invalidate(name); synctest.Wait(); f.wrote(name, true) },
		"told after the reply":  func(b *bus, f *follower) { f.wrote(name, true); time.Sleep(2 * time.Second); b.invalidate("x", name) },
		"nothing changed":       func(_ *bus, f *follower) { f.wrote(name, false) },
		"never told what came of it": func(*bus, *follower) {
			time.Sleep(outcomeWithin)
		},
		"all was flushed": func(b *bus, f *follower) {
			f.wrote(name, true)
			b.each(func(l *busListener) { l.queue <- func() { l.track.OnInvalidate(nil) } })
			synctest.Wait()
			require.Equal(f.sink.t, []string{"everything"}, f.sink.take())
		},
		"the connection broke before the reply": func(b *bus, f *follower) {
			b.cut(f.d, errors.New("broken"))
			synctest.Wait()
			require.Equal(f.sink.t, []string{"lost", "confirmed"}, f.sink.take())
			f.wrote(name, true)
		},
		"the connection broke after the reply": func(b *bus, f *follower) {
			f.wrote(name, true)
			b.cut(f.d, errors.New("broken"))
			synctest.Wait()
			require.Equal(f.sink.t, []string{"lost", "confirmed"}, f.sink.take())
		},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bus) {
				f := newFollower(t, b)
				require.True(t, f.expect(name))
				require.False(t, f.expect(name), "one at a time")
				write(b, f)
				time.Sleep(10 * time.Second)
				require.Zero(t, f.sink.count("lost: echo"))
				require.Zero(t, f.watched.Load())
				require.True(t, f.expect(name), "others are watched afterwards")
			})
		})
	}
}

func TestTrackingWatchesEveryNodeOfACluster(t *testing.T) {
	bubble(t, func(t *testing.T, b *bus) {
		f := newFollower(t, b)
		sampled := map[int]bool{}
		for i := range 1000 {
			if name := fmt.Sprintf("%s%d}", testValues, i); f.expect(name) {
				sampled[place(name)] = true
				defer f.wrote(name, false)
			}
		}
		require.Len(t, sampled, echoRanges)
		require.EqualValues(t, echoRanges, f.watched.Load())
	})
}

func TestTrackingThatCanNeverWorkSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T, b *bus) {
		client, _ := b.client(t)
		sink := &record{t: t}
		f, err := newTrackingFeed(client, testValues, testTags, sink)
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() { done <- f.run(t.Context()) }()
		synctest.Wait()
		b.each(func(l *busListener) { l.end <- driver.ErrClosed })
		require.ErrorIs(t, <-done, driver.ErrClosed)
		require.Equal(t, []string{"confirmed", "lost"}, sink.take())
		require.False(t, f.expect(testValues+"1}"))
	})
}

// nothing is a sink that does nothing.
type nothing struct{}

func (nothing) confirmed()                {}
func (nothing) lost(error)                {}
func (nothing) changed(string)            {}
func (nothing) tagChanged(string, uint64) {}
func (nothing) everything()               {}

func TestFeedsReceiveWithoutAllocating(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus()
		client, _ := b.client(t)
		f, err := newTrackingFeed(client, testValues, testTags, nothing{})
		require.NoError(t, err)
		keys := []string{testValues + "1}", testValues + "2}", testTags + "t:red}"}
		tracking := f.(*trackingFeed)
		require.Zero(t, testing.AllocsPerRun(1000, func() { tracking.invalidated(keys) }))

		f, err = newPubSubFeed(client, "users", testValues, testTags, nothing{})
		require.NoError(t, err)
		pubsub := f.(*pubSubFeed)
		payload := encodeNames(kindChanged, senderID{1}, 1, keys[:2])
		pubsub.received("", payload)
		require.Zero(t, testing.AllocsPerRun(1000, func() { pubsub.received("", payload) }))
	})
}

func BenchmarkFeedReceive(b *testing.B) {
	client := benchClient(b)
	keys := make([]string, 100)
	for i := range keys {
		keys[i] = fmt.Sprintf("%s%d}", testValues, i)
	}
	b.Run("tracking", func(b *testing.B) {
		f, _ := newTrackingFeed(client, testValues, testTags, nothing{})
		t := f.(*trackingFeed)
		t.up.Store(true)
		b.ReportAllocs()
		for range b.N / len(keys) {
			t.invalidated(keys)
		}
	})
	b.Run("tracking with watched writes", func(b *testing.B) {
		f, _ := newTrackingFeed(client, testValues, testTags, nothing{})
		t := f.(*trackingFeed)
		t.up.Store(true)
		for i := range 1000 {
			t.expect(fmt.Sprintf("%sx%d}", testValues, i))
		}
		b.ReportAllocs()
		for range b.N / len(keys) {
			t.invalidated(keys)
		}
	})
	b.Run("pubsub", func(b *testing.B) {
		f, _ := newPubSubFeed(client, "users", testValues, testTags, nothing{})
		p := f.(*pubSubFeed)
		payload := encodeNames(kindChanged, senderID{1}, 1, keys[:1])
		b.ReportAllocs()
		for range b.N {
			p.received("", payload)
		}
	})
	b.Run("pubsub message and done", func(b *testing.B) {
		f, _ := newPubSubFeed(client, "users", testValues, testTags, nothing{})
		b.ReportAllocs()
		for range b.N {
			f.done(f.message(kindChanged, keys[0]), nil)
		}
	})
	b.Run("tracking expect", func(b *testing.B) {
		f, _ := newTrackingFeed(client, testValues, testTags, nothing{})
		f.(*trackingFeed).up.Store(true)
		b.ReportAllocs()
		for range b.N {
			if f.expect(keys[0]) {
				f.wrote(keys[0], true)
			}
		}
	})
}
