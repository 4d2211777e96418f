package cache

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/redisxtest"
)

type user struct {
	ID   int64
	Name string
}

func eachTransport(t *testing.T, f func(t *testing.T, c *core.Client, how Coherence)) {
	redisxtest.Each(t, func(t *testing.T, c *core.Client) {
		for _, how := range []Coherence{Tracking, PubSub, TTLOnly} {
			t.Run(how.String(), func(t *testing.T) { f(t, c, how) })
		}
	}, redisxtest.OnCluster(), redisxtest.OnSentinel())
}

func awaitTrust[K comparable, V any](t *testing.T, caches ...*Cache[K, V]) {
	for _, c := range caches {
		require.Eventually(t, func() bool { return c.Stats().Trusted }, 10*time.Second, time.Millisecond)
	}
}

func open[K comparable, V any](t *testing.T, client *core.Client, name string, opts ...Option) *Cache[K, V] {
	c, err := New[K, V](client, name, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	awaitTrust(t, c)
	return c
}

func TestSmoke(t *testing.T) {
	eachTransport(t, func(t *testing.T, client *core.Client, how Coherence) {
		ctx := t.Context()
		a := open[int64, *user](t, client, "users-"+how.String(), WithCoherence(how))
		b := open[int64, *user](t, client, "users-"+how.String(), WithCoherence(how))
		var loads atomic.Int64
		load := func(ctx context.Context, id int64) (*user, error) {
			loads.Add(1)
			time.Sleep(20 * time.Millisecond)
			return &user{id, "ann"}, nil
		}
		var wg sync.WaitGroup
		for i := range 50 {
			c := a
			if i%2 == 0 {
				c = b
			}
			wg.Go(func() {
				u, err := c.GetOrLoad(ctx, 42, load)
				require.NoError(t, err)
				require.Equal(t, "ann", u.Name)
			})
		}
		wg.Wait()
		t.Logf("%+v", a.Stats())
		t.Logf("%+v", b.Stats())
		require.EqualValues(t, 1, loads.Load())
		require.NoError(t, a.Delete(ctx, 42))
		_, ok, err := a.Get(ctx, 42)
		require.NoError(t, err)
		require.False(t, ok)
		if how != TTLOnly {
			require.Eventually(t, func() bool { _, ok, err := b.Get(ctx, 42); return err == nil && !ok }, time.Second, time.Millisecond)
		}
		require.NoError(t, a.Set(ctx, 1, &user{1, "bob"}, Tags("team:7")))
		u, ok, err := a.Get(ctx, 1)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, "bob", u.Name)
		_, ok, err = b.Get(ctx, 1)
		require.NoError(t, err)
		require.True(t, ok)
		require.NoError(t, a.InvalidateTags(ctx, "team:7"))
		_, ok, _ = a.Get(ctx, 1)
		require.False(t, ok)
		_, err = a.GetOrLoadWith(ctx, 2, func(ctx context.Context, l *Load[int64, *user]) (*user, error) {
			l.Tag("x", "y")
			return &user{2, "c"}, nil
		})
		require.NoError(t, err)
		require.Eventually(t, func() bool { _, ok, _ := b.Get(ctx, 2); return ok }, time.Second, time.Millisecond)
		require.NoError(t, b.InvalidateTags(ctx, "y"))
		if how != TTLOnly {
			require.Eventually(t, func() bool { _, ok, _ := a.Get(ctx, 2); return !ok }, time.Second, time.Millisecond)
		}
		m, err := a.LoadMany(ctx, []int64{1, 2, 3, 4, 4}, func(ctx context.Context, ids []int64) (map[int64]*user, error) {
			out := map[int64]*user{}
			for _, id := range ids {
				if id != 4 {
					out[id] = &user{id, "m"}
				}
			}
			return out, nil
		})
		require.NoError(t, err)
		require.Len(t, m, 3)
		require.NoError(t, a.Clear(ctx))
		m, err = a.GetMany(ctx, []int64{1, 2, 3})
		require.NoError(t, err)
		require.Empty(t, m)
		sc := a.Scoped("t1")
		require.NoError(t, sc.Set(ctx, 1, &user{1, "t1"}))
		_, ok, err = sc.Get(ctx, 1)
		require.NoError(t, err)
		require.True(t, ok)
		_, ok, _ = a.Get(ctx, 1)
		require.False(t, ok)
		t.Logf("%+v", a.Stats())
	})
}
