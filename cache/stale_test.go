package cache

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// Ways to a stale read that histories found, each by itself.

// meanwhile runs something while a Set is on its way to Redis, and may have that fail.
type meanwhile struct {
	driver.Driver
	driver.Tracker
	driver.Subscriber
	during func() (fails error)
}

func (m *meanwhile) Do(ctx context.Context, c driver.Cmd) driver.Reply {
	if during := m.during; during != nil && c.Script == setScript {
		m.during = nil
		if err := during(); err != nil {
			return driver.ErrReply(err)
		}
	}
	return m.Driver.Do(ctx, c)
}

func TestASetEndsWhatWasReadMeanwhile(t *testing.T) {
	eachFleet(t, func(t *testing.T, name string, how Coherence) {
		for _, fails := range []error{nil, core.ErrUnknownOutcome} {
			m := &meanwhile{}
			caches := fleet(t, name, redisxtest.SharedServer(t).URL(), how, func(i int, d driver.Driver) driver.Driver {
				if i > 0 {
					return d
				}
				m.Driver, m.Tracker, m.Subscriber = d, d.(driver.Tracker), d.(driver.Subscriber)
				return m
			})
			ctx := t.Context()
			one := caches[0]
			require.NoError(t, one.Set(ctx, 1, fact{1, 1}))
			m.during = func() error { // an answer from before, which is kept
				f, _, err := one.Get(ctx, 1)
				require.NoError(t, err)
				require.EqualValues(t, 1, f.Version)
				return fails
			}
			err := one.Set(ctx, 1, fact{1, 2})
			if fails == nil {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, ErrQueued)
			}
			if f, ok := one.Peek(1); ok {
				require.EqualValues(t, 2, f.Version)
			}
			if f, ok, _ := one.Get(ctx, 1); ok {
				require.EqualValues(t, 2, f.Version)
			}
		}
	}, Tracking, PubSub, TTLOnly)
}

func TestAClearBehindARaiseIsCountedOnce(t *testing.T) {
	_, px, caches := proxied(t, "goredis", Tracking)
	ctx := t.Context()
	c := caches[0]
	require.NoError(t, c.Clear(ctx))
	px[0].Refuse()
	px[0].Reset()
	s := c.root.gens[0]
	pendings := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.pendings
	}
	c.queue.put(op{kind: opRaise, name: s.name, least: 1})
	for range 3 {
		require.ErrorIs(t, c.Clear(ctx), ErrQueued)
		require.Equal(t, 1, pendings())
	}
	px[0].Heal()
	require.Eventually(t, func() bool { return c.Stats().Queued == 0 && pendings() == 0 }, coherentWithin, time.Millisecond)
}

func TestAnAcknowledgedDeletionDoesNotVouchForAQueuedOne(t *testing.T) {
	_, px, caches := proxied(t, "goredis", Tracking)
	c := caches[0]
	tg, err := c.target(1)
	require.NoError(t, err)
	px[0].BlackHole(chaos.Both)
	require.ErrorIs(t, c.Delete(t.Context(), 1), ErrQueued)
	const later = int64(1) << 60
	c.bury(tg.keys.v, 1, false) // another, which was on its way before
	require.True(t, c.dead(tg.keys.v, later))
	px[0].Heal()
	require.Eventually(t, func() bool { return !c.dead(tg.keys.v, later) }, coherentWithin, time.Millisecond)
}

// One who comes after an invalidation does not get the value of a load from before, also if there is more news before that
// ends: another invalidation, or the server telling of the first.
func TestNewsHideNoEarlierInvalidation(t *testing.T) {
	eachFleet(t, func(t *testing.T, name string, how Coherence) {
		for kind, invalidate := range map[string]func(context.Context, *Cache[int, fact]) error{"tag": invalidations["tag"], "clear": invalidations["clear"]} {
			t.Run(kind, func(t *testing.T) {
				ctx := t.Context()
				c := fleet(t, name, redisxtest.SharedServer(t).URL(), how, nil)[0]
				entered, leave := make(chan struct{}), make(chan struct{})
				var callers sync.WaitGroup
				callers.Go(func() {
					_, err := c.GetOrLoadWith(ctx, 1, func(_ context.Context, l *Load[int, fact]) (fact, error) {
						close(entered)
						<-leave
						l.Tag(factTag(1))
						return fact{1, 1}, nil
					})
					assert.NoError(t, err)
				})
				<-entered
				require.NoError(t, invalidate(ctx, c))
				callers.Go(func() {
					f, err := c.GetOrLoadWith(ctx, 1, func(_ context.Context, l *Load[int, fact]) (fact, error) {
						l.Tag(factTag(1))
						return fact{1, 2}, nil
					})
					assert.NoError(t, err)
					assert.EqualValues(t, 2, f.Version)
				})
				tg, err := c.target(1)
				require.NoError(t, err)
				sh := &c.shards[tg.shard]
				require.Eventually(t, func() bool {
					sh.mu.Lock()
					defer sh.mu.Unlock()
					return sh.loads[tg.key].waiters == 2
				}, 10*time.Second, time.Millisecond)
				require.NoError(t, invalidate(ctx, c))
				close(leave)
				callers.Wait()
			})
		}
	}, Tracking, PubSub, TTLOnly)
}
