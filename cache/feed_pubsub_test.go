package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
)

const (
	testValues = "cache:users:{"
	testTags   = "cache-tag:users:{"
)

// peer is one process with a feed over Pub/Sub.
type peer struct {
	*pubSubFeed
	d    *busDriver
	sink *record
	stop func()
}

func newPeer(t *testing.T, b *bus) *peer {
	client, d := b.client(t)
	p := &peer{d: d, sink: &record{t: t}}
	f, err := newPubSubFeed(client, "users", testValues, testTags, p.sink)
	require.NoError(t, err)
	p.pubSubFeed = f.(*pubSubFeed)
	p.stop = start(t, f)
	synctest.Wait()
	require.Equal(t, []string{"confirmed"}, p.sink.take())
	return p
}

// change is an inline change of keys: what a script publishes.
func (p *peer) change(names ...string) message {
	m := p.message(kindChanged, names...)
	p.d.bus.publish(p.channel(), m.payload)
	p.done(m, nil)
	return m
}

func bubble(t *testing.T, f func(t *testing.T, b *bus)) {
	synctest.Test(t, func(t *testing.T) { f(t, newBus()) })
}

func isKind(kind messageKind) func(string) bool {
	return func(payload string) bool { return messageKind(payload[1]) == kind }
}

func TestPubSubTellsOthersWhatChanged(t *testing.T) {
	bubble(t, func(t *testing.T, b *bus) {
		one, two := newPeer(t, b), newPeer(t, b)
		require.True(t, one.inline())
		one.change(testValues+"1}", testValues+"2}")
		m := one.message(kindTag, testTags+"t:red}")
		b.publish(one.channel(), m.payload+"1234567890123456")
		one.done(m, nil)
		b.publish(one.channel(), one.wake(testValues+"1}:w").payload)
		synctest.Wait()
		require.Equal(t, []string{
			"changed " + testValues + "1}", "changed " + testValues + "2}", "tag " + testTags + "t:red} 1234567890123456",
			"changed " + testValues + "1}:w",
		}, two.sink.take())
		require.Equal(t, []string{
			"tag " + testTags + "t:red} 1234567890123456", "changed " + testValues + "1}:w",
		}, one.sink.take(), "an own value that was just written must stay")
		time.Sleep(10 * time.Second)
		require.Empty(t, one.sink.take(), "nothing was lost")
		require.Empty(t, two.sink.take(), "nothing was lost")
		require.EqualValues(t, 2, one.stats().sent)
		require.EqualValues(t, 4, two.stats().received)
	})
}

func TestPubSubFindsAMissedMessage(t *testing.T) {
	for name, c := range map[string]struct {
		settled time.Duration // how long both know each other
		before  int           // messages that arrived before
		behind  int           // and after
	}{
		"the last":             {5 * time.Second, 3, 0},
		"one of many":          {5 * time.Second, 200, 200},
		"the first":            {5 * time.Second, 0, 2},
		"the only one":         {5 * time.Second, 0, 0},
		"soon after beginning": {1500 * time.Millisecond, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bus) {
				one, two := newPeer(t, b), newPeer(t, b)
				time.Sleep(c.settled)
				for range c.before {
					one.change(testValues + "x}")
				}
				synctest.Wait()
				two.d.dropping(isKind(kindChanged))
				one.change(testValues + "1}")
				two.d.dropping(nil)
				for range c.behind {
					one.change(testValues + "x}")
				}
				time.Sleep(heartbeatEvery + 50*time.Millisecond)
				events := two.sink.take()
				require.Equal(t, []string{"lost: gap", "confirmed"}, events[c.before+c.behind:], "within a heartbeat")
				time.Sleep(10 * time.Second)
				require.Empty(t, two.sink.take(), "a gap is told once")
				require.Empty(t, one.sink.take(), "who missed nothing goes on")
				require.EqualValues(t, 1, two.stats().gaps)
				require.EqualValues(t, 1, two.stats().losses)
			})
		})
	}
}

func TestPubSubMessagesOutOfOrderAreNoGap(t *testing.T) {
	bubble(t, func(t *testing.T, b *bus) {
		one, two := newPeer(t, b), newPeer(t, b)
		time.Sleep(2 * heartbeatEvery)
		// The second overtakes the first, and a heartbeat comes between them.
		first, second := one.message(kindChanged, testValues+"1}"), one.message(kindChanged, testValues+"2}")
		b.publish(one.channel(), second.payload)
		one.done(second, nil)
		time.Sleep(heartbeatEvery)
		b.publish(one.channel(), first.payload)
		one.done(first, nil)
		time.Sleep(5 * time.Second)
		require.Equal(t, []string{"changed " + testValues + "2}", "changed " + testValues + "1}"}, two.sink.take())
	})
}

func TestPubSubNobodyWaitsForAVoidMessage(t *testing.T) {
	bubble(t, func(t *testing.T, b *bus) {
		one, two := newPeer(t, b), newPeer(t, b)
		time.Sleep(2 * heartbeatEvery)
		for i := range 20 {
			m := one.message(kindChanged, testValues+"1}")
			if i%3 == 0 {
				one.done(m, errors.New("unknown outcome"))
			} else {
				b.publish(one.channel(), m.payload)
				one.done(m, nil)
			}
		}
		two.d.dropping(isKind(kindChanged))
		one.change(testValues + "lost}")
		time.Sleep(2 * heartbeatEvery)
		require.Equal(t, 1, two.sink.count("lost: gap"), "what follows is not held up")
		two.d.dropping(nil)
		two.sink.take()
		never := one.message(kindChanged, testValues+"forgotten}")
		one.change(testValues + "2}")
		time.Sleep(2 * outcomeWithin)
		require.Equal(t, 0, two.sink.count("lost: gap"))
		two.sink.take()
		// What became void may have happened all the same, and then it is told, also to its sender.
		b.publish(one.channel(), never.payload)
		synctest.Wait()
		require.Equal(t, []string{"changed " + testValues + "forgotten}"}, one.sink.take())
		require.Equal(t, []string{"changed " + testValues + "forgotten}"}, two.sink.take())
		// The others still notice what they miss.
		two.d.dropping(isKind(kindChanged))
		one.change(testValues + "3}")
		time.Sleep(2 * heartbeatEvery)
		require.Equal(t, []string{"lost: gap", "confirmed"}, two.sink.take())
	})
}

func TestPubSubALostHeartbeatIsNoGap(t *testing.T) {
	bubble(t, func(t *testing.T, b *bus) {
		one, two := newPeer(t, b), newPeer(t, b)
		time.Sleep(2 * heartbeatEvery)
		n := 0
		two.d.dropping(func(payload string) bool { n++; return isKind(kindHeartbeat)(payload) && n%2 == 0 })
		for range 30 {
			one.change(testValues + "1}")
			time.Sleep(300 * time.Millisecond)
		}
		require.Equal(t, 0, two.sink.count("lost: gap"))
		require.Equal(t, 30, two.sink.count("changed "+testValues+"1}"))
	})
}

func TestPubSubPublishesLaterWhatItCouldNotPublish(t *testing.T) {
	bubble(t, func(t *testing.T, b *bus) {
		b.topology = driver.Cluster
		one, two := newPeer(t, b), newPeer(t, b)
		require.False(t, one.inline())
		time.Sleep(2 * heartbeatEvery)
		down := errors.New("away")
		b.mu.Lock()
		b.refuse = func(driver.Cmd) error { return down }
		b.mu.Unlock()
		require.Error(t, one.publish(t.Context(), one.message(kindChanged, testValues+"1}"), 0))
		require.Error(t, one.publish(t.Context(), one.message(kindTag, testTags+"t:a}"), 77))
		require.Error(t, one.publish(t.Context(), one.wake(testValues+"1}:w"), 0))
		time.Sleep(heartbeatEvery)
		b.mu.Lock()
		b.refuse = nil
		b.mu.Unlock()
		time.Sleep(heartbeatEvery)
		synctest.Wait()
		require.Equal(t, []string{"changed " + testValues + "1}", "tag " + testTags + "t:a} 77"}, two.sink.take())
		time.Sleep(5 * time.Second)
		require.Empty(t, two.sink.take())

		// Heartbeats that get through say nothing of what did not.
		b.mu.Lock()
		b.refuse = func(c driver.Cmd) error {
			if isKind(kindChanged)(c.Args[2]) {
				return down
			}
			return nil
		}
		b.mu.Unlock()
		require.Error(t, one.publish(t.Context(), one.message(kindChanged, testValues+"2}"), 0))
		time.Sleep(5 * time.Second)
		require.Empty(t, two.sink.take())
		b.mu.Lock()
		b.refuse = nil
		b.mu.Unlock()
		time.Sleep(2 * heartbeatEvery)
		require.Equal(t, []string{"changed " + testValues + "2}"}, two.sink.take())

		// More than is kept: the others trust nothing of before.
		b.mu.Lock()
		b.refuse = func(driver.Cmd) error { return down }
		b.mu.Unlock()
		for range maxLate + 1 {
			require.Error(t, one.publish(t.Context(), one.message(kindChanged, testValues+"1}"), 0))
		}
		b.mu.Lock()
		b.refuse = nil
		b.mu.Unlock()
		time.Sleep(2 * heartbeatEvery)
		require.Equal(t, maxLate, two.sink.count("changed "+testValues+"1}"))
		require.Equal(t, 1, two.sink.count("lost: gap"))
	})
}

func TestPubSubWithoutItsOwnEchoTrustsNothing(t *testing.T) {
	t.Run("a subscription that is deaf is begun again", func(t *testing.T) {
		bubble(t, func(t *testing.T, b *bus) {
			one := newPeer(t, b)
			time.Sleep(5 * time.Second)
			require.Empty(t, one.sink.take())
			one.d.dropping(func(string) bool { return true })
			time.Sleep(echoWithin + heartbeatEvery + 2*watchEvery)
			require.Equal(t, []string{"lost: echo"}, one.sink.take())
			begun := one.d.began()
			require.GreaterOrEqual(t, begun, 2)
			time.Sleep(10 * time.Second)
			require.Empty(t, one.sink.take(), "a subscription that stands is not enough: it has to be heard")
			require.LessOrEqual(t, one.d.began()-begun, 4, "no more often than it takes to hear something")
			one.d.dropping(nil)
			time.Sleep(heartbeatEvery + 2*watchEvery)
			require.Equal(t, []string{"confirmed"}, one.sink.take())
		})
	})
	t.Run("a gap meanwhile restores no trust", func(t *testing.T) {
		bubble(t, func(t *testing.T, b *bus) {
			one, two := newPeer(t, b), newPeer(t, b)
			time.Sleep(5 * time.Second)
			id := string(one.out.id[:])
			b.mu.Lock()
			b.refuse = func(c driver.Cmd) error {
				if strings.Contains(c.Args[2], id) {
					return driver.NewServerError("NOPERM")
				}
				return nil
			}
			b.mu.Unlock()
			time.Sleep(5 * time.Second)
			one.d.dropping(isKind(kindChanged))
			two.change(testValues + "1}")
			time.Sleep(5 * time.Second)
			require.Equal(t, []string{"lost: echo"}, one.sink.take())
			require.EqualValues(t, 2, one.stats().gaps)
		})
	})
	t.Run("what cannot be published is no fault of the subscription", func(t *testing.T) {
		bubble(t, func(t *testing.T, b *bus) {
			one, two := newPeer(t, b), newPeer(t, b)
			time.Sleep(2 * heartbeatEvery)
			b.mu.Lock()
			b.refuse = func(driver.Cmd) error { return driver.NewServerError("NOPERM") }
			b.mu.Unlock()
			time.Sleep(10 * time.Second)
			require.Equal(t, []string{"lost: echo"}, one.sink.take())
			require.Equal(t, 1, one.d.began())
			b.mu.Lock()
			b.refuse = nil
			b.mu.Unlock()
			time.Sleep(2 * heartbeatEvery)
			require.Equal(t, []string{"confirmed"}, one.sink.take())
			require.Equal(t, []string{"lost: echo", "confirmed"}, two.sink.take())
		})
	})
}

func TestPubSubThatIsSecondsBehindTrustsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, b *bus) {
		one := newPeer(t, b)
		time.Sleep(2 * heartbeatEvery)
		b.delay(time.Second)
		time.Sleep(20 * time.Second)
		require.Empty(t, one.sink.take(), "a second is nothing")
		// A subscriber that is too slow: everything comes, but after four seconds.
		b.delay(4 * time.Second)
		time.Sleep(time.Minute)
		require.Equal(t, []string{"lost: echo"}, one.sink.take())
		b.delay(0)
		time.Sleep(2 * heartbeatEvery)
		require.Equal(t, []string{"confirmed"}, one.sink.take())
	})
}

func TestPubSubAConnectionThatBrokeIsNoGap(t *testing.T) {
	bubble(t, func(t *testing.T, b *bus) {
		one, two := newPeer(t, b), newPeer(t, b)
		time.Sleep(5 * time.Second)
		two.d.dropping(isKind(kindChanged))
		one.change(testValues + "1}")
		two.d.dropping(nil)
		b.cut(two.d, errors.New("broken"))
		synctest.Wait()
		require.Equal(t, []string{"lost", "confirmed"}, two.sink.take())
		time.Sleep(5 * time.Second)
		require.Empty(t, two.sink.take(), "what was missed meanwhile is paid for by lost already")
		two.d.dropping(isKind(kindChanged))
		one.change(testValues + "2}")
		time.Sleep(2 * heartbeatEvery)
		require.Equal(t, []string{"lost: gap", "confirmed"}, two.sink.take(), "what is missed after that is not")
	})
}

func TestPubSubASenderThatComesBackAfterLongIsAGapIfItSpokeMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T, b *bus) {
		one, two := newPeer(t, b), newPeer(t, b)
		one.change(testValues + "0}")
		time.Sleep(5 * time.Second)
		two.sink.take()
		id := string(one.out.id[:])
		two.d.dropping(func(payload string) bool { return strings.Contains(payload, id) })
		one.change(testValues + "1}")
		time.Sleep(2 * forgetAfter)
		two.to.locked(func() { require.Len(t, two.in.senders, 1, "only itself") })
		two.d.dropping(nil)
		time.Sleep(2 * heartbeatEvery)
		require.Equal(t, []string{"lost: gap", "confirmed"}, two.sink.take())
	})
}

func TestPubSubIgnoresWhatItCannotRead(t *testing.T) {
	bubble(t, func(t *testing.T, b *bus) {
		one := newPeer(t, b)
		other := &sender{id: senderID{1}}
		bad := []string{
			"", "1", "hello, world", encodeNames(kindChanged, other.id, 1, []string{"session:{1}"}),
			encodeNames(kindTag, other.id, 1, []string{testValues + "1}"}) + "5",
			"2" + encodeNames(kindChanged, other.id, 1, []string{testValues + "1}"})[1:],
			encodeNames(kindChanged, other.id, 1, []string{testValues + "1}"}) + "x",
		}
		for _, payload := range bad {
			b.publish(one.channel(), payload)
		}
		synctest.Wait()
		require.Empty(t, one.sink.take())
		require.EqualValues(t, len(bad), one.stats().malformed)
	})
}

func TestPubSubTakesTheWayThatTheServerHas(t *testing.T) {
	for name, c := range map[string]struct {
		topology driver.Topology
		commands map[string]bool
		inline   bool
		verb     string
	}{
		"standalone":       {driver.Standalone, map[string]bool{"SSUBSCRIBE": true, "SPUBLISH": true}, true, "PUBLISH"},
		"sentinel":         {driver.Sentinel, nil, true, "PUBLISH"},
		"cluster of 6.2":   {driver.Cluster, nil, false, "PUBLISH"},
		"cluster of today": {driver.Cluster, map[string]bool{"SSUBSCRIBE": true, "SPUBLISH": true}, false, "SPUBLISH"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bus) {
				b.topology, b.commands = c.topology, c.commands
				one := newPeer(t, b)
				require.Equal(t, c.inline, one.inline())
				require.Equal(t, "cache-inv:users:{users}", one.channel())
				require.NoError(t, one.publish(t.Context(), one.message(kindChanged, testValues+"1}"), 0))
				b.each(func(l *busListener) { require.Equal(t, c.verb == "SPUBLISH", l.sub.Sharded) })
				for _, cmd := range b.sent {
					require.Equal(t, c.verb, cmd.Args[0])
					require.Equal(t, one.channel(), cmd.Route(), "all by one node, or their order is lost")
				}
			})
		})
	}
}

func TestPubSubWaitsForAServerThatIsAway(t *testing.T) {
	bubble(t, func(t *testing.T, b *bus) {
		b.capErr = errors.New("away")
		client, _ := b.client(t)
		sink := &record{t: t}
		f, err := newPubSubFeed(client, "users", testValues, testTags, sink)
		require.NoError(t, err)
		start(t, f)
		time.Sleep(10 * time.Second)
		require.Equal(t, []string{"lost"}, sink.take())
		require.False(t, f.inline())
		require.Error(t, f.publish(t.Context(), f.message(kindChanged, testValues+"1}"), 0))
		b.mu.Lock()
		b.capErr = nil
		b.mu.Unlock()
		time.Sleep(600 * time.Millisecond)
		require.Equal(t, []string{"confirmed"}, sink.take())
		require.EqualValues(t, 1, f.stats().sent)
	})
}

func TestPubSubThatCanNeverWorkSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T, b *bus) {
		client, _ := b.client(t)
		sink := &record{t: t}
		_, err := newPubSubFeed(client, "no{name", testValues, testTags, sink)
		require.Error(t, err)
		f, err := newPubSubFeed(client, "users", testValues, testTags, sink)
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() { done <- f.run(t.Context()) }()
		synctest.Wait()
		b.each(func(l *busListener) { l.end <- driver.ErrClosed })
		require.ErrorIs(t, <-done, driver.ErrClosed)
		require.Equal(t, []string{"confirmed", "lost"}, sink.take())
	})
}

func TestPubSubOfManyProcessesLosesNothingQuietly(t *testing.T) {
	// Each of six processes changes keys at random; each message is dropped for some. Whoever missed a change must have lost
	// its trust within the heartbeats that follow, and who missed nothing must have kept it.
	bubble(t, func(t *testing.T, b *bus) {
		peers := make([]*peer, 6)
		missed := make([]int, len(peers))
		for i := range peers {
			peers[i] = newPeer(t, b)
		}
		time.Sleep(5 * time.Second)
		for round := range 50 {
			for i, p := range peers {
				p.sink.take()
				missed[i] = 0
				p.d.dropping(func(payload string) bool {
					drop := isKind(kindChanged)(payload) && (int(payload[len(payload)-2])*7+round*3+i)%11 == 0
					if drop && i%2 == 0 {
						missed[i]++
					}
					return drop && i%2 == 0
				})
			}
			for n := range 20 {
				peers[(n+round)%len(peers)].change(fmt.Sprintf("%s%d}", testValues, n*round%97))
				time.Sleep(17 * time.Millisecond)
			}
			for _, p := range peers {
				p.d.dropping(nil)
			}
			time.Sleep(2 * heartbeatEvery)
			for i, p := range peers {
				require.Equal(t, missed[i] > 0, p.sink.count("lost: gap") > 0, "process %d in round %d missed %d", i, round, missed[i])
				require.True(t, p.sink.trusted())
			}
		}
	})
}

func TestPubSubEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, b *bus) { // synctest itself finds what is left running
		one := newPeer(t, b)
		one.stop()
		require.Error(t, one.run(canceled(t)))
	})
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
