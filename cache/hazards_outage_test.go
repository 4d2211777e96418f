package cache

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// What this process invalidated while Redis was away it never serves again, from wherever it may come: not from Redis before
// that has heard of it, and not from a replica that took over without.
func TestOutageNeverBringsBackWhatWasInvalidated(t *testing.T) {
	for name, invalidate := range map[string]func(c *Cache[string, string]) error{
		"delete": func(c *Cache[string, string]) error { return c.Delete(t.Context(), "k") },
		"expire": func(c *Cache[string, string]) error { return c.Expire(t.Context(), "k") },
		"tag":    func(c *Cache[string, string]) error { return c.InvalidateTags(t.Context(), "t") },
		"clear":  func(c *Cache[string, string]) error { return c.Clear(t.Context()) },
	} {
		// The invalidation goes on failing when reads succeed again.
		var rules []chaos.Rule
		for _, script := range []string{"cache.delete", "cache.expire", "cache.bump"} {
			rules = append(rules, chaos.OnScript(script).Refuse())
		}
		r := newRig(t, rules...)
		c := strs(r, WithCoherence(PubSub))
		require.NoError(t, c.Set(t.Context(), "k", "old", Tags("t")))
		r.chaos.Storm()
		require.ErrorIs(t, invalidate(c), ErrQueued, name)
		other := strsOn(r, r.connect(r.fake.URL()), WithCoherence(PubSub))
		wantHit(t, other, "k", "old") // nobody told it
		wantMiss(t, c, "k")
		m, err := c.GetMany(t.Context(), []string{"k"})
		require.NoError(t, err)
		require.Empty(t, m, name)
		v, err := c.GetOrLoad(t.Context(), "k", from("new").load)
		require.NoError(t, err)
		require.Equal(t, "new", v, name)
		require.NotZero(t, c.Stats().Queued)
		r.chaos.Calm()
		soon(t, func() bool { return c.Stats().Queued == 0 })
		soon(t, func() bool { v, _, err := other.Get(t.Context(), "k"); return err == nil && v != "old" })
		v, _, err = c.Get(t.Context(), "k")
		require.NoError(t, err)
		require.NotEqual(t, "old", v, name)
	}
}

// Close tells how many invalidations nobody has heard of.
func TestCloseTellsWhatWasLost(t *testing.T) {
	r := newRig(t)
	c := strs(r)
	require.NoError(t, c.Set(t.Context(), "k", "v"))
	r.chaos.Storm()
	require.ErrorIs(t, c.Delete(t.Context(), "k", "l"), ErrQueued)
	require.ErrorContains(t, c.Close(), "2 invalidations")
	require.ErrorContains(t, c.Close(), "2 invalidations", "it is idempotent")
	_, _, err := c.Get(t.Context(), "k")
	require.ErrorIs(t, err, ErrClosed)
	_, err = c.GetOrLoad(t.Context(), "k", from("v").load)
	require.ErrorIs(t, err, ErrClosed)
	for _, err := range []error{c.Set(t.Context(), "k", "v"), c.Delete(t.Context(), "k"), c.Clear(t.Context()), c.InvalidateTags(t.Context(), "t")} {
		require.ErrorIs(t, err, ErrClosed)
	}
}

// Close ends loads, and those who wait for them.
func TestCloseEndsLoads(t *testing.T) {
	r := newRig(t)
	c := strs(r)
	g := newGate()
	done := make(chan error, 2)
	for range 2 {
		go func() { _, err := c.GetOrLoad(within(t), "k", g.load("v")); done <- err }()
	}
	<-g.began
	require.NoError(t, c.Close())
	for range 2 {
		require.ErrorIs(t, <-done, ErrClosed)
	}
}

// A server that is away costs a warm cache nothing: each key is loaded once at most, and stale values do before that.
func TestOutageLoadsEachKeyOnce(t *testing.T) {
	for _, how := range []Coherence{Tracking, PubSub, TTLOnly} {
		r := newRig(t)
		c := strs(r, WithCoherence(how), WithTTL(10*time.Second), WithStaleWhileRevalidate(10*time.Second), WithStaleIfError(time.Hour))
		require.NoError(t, c.Set(t.Context(), "warm", "v"))
		soon(t, func() bool { return how != Tracking || c.stat.sum(statToldKeys) > 0 }) // which tells of own ones too
		wantHit(t, c, "warm", "v")
		r.chaos.Storm()
		s := from("new")
		for range 20 {
			wantLoad(t, c, "warm", s, "v")
		}
		require.Zero(t, s.loads())
		for range 20 {
			wantLoad(t, c, "cold", s, "new")
		}
		require.Equal(t, 1, s.loads(), "%v", how)
		r.advance(25 * time.Second)
		s.fails(errSource)
		for range 20 {
			wantLoad(t, c, "warm", s, "v")
		}
		require.Equal(t, 2, s.loads(), "%v", how) // and then it waits
		_, _, err := c.Get(t.Context(), "unknown")
		require.Error(t, err, "a miss is no answer")
		m, err := c.GetMany(t.Context(), []string{"cold", "unknown"})
		var batch *BatchError[string]
		require.True(t, err == nil || errors.As(err, &batch))
		require.NotContains(t, m, "unknown")
		r.chaos.Calm()
		soon(t, func() bool { _, ok, err := c.Get(t.Context(), "unknown"); return err == nil && !ok })
	}
}

// The moment of the early refresh is drawn when a value is stored: all processes see the same one, and reads cost nothing.
func TestEarlyRefreshIsDrawnOnce(t *testing.T) {
	r := newRig(t)
	a := strs(r, WithTTL(1000*time.Second), WithEarlyRefresh(1000))
	for i := range 10 {
		key := fmt.Sprint(i)
		_, err := a.GetOrLoad(t.Context(), key, func(context.Context, string) (string, error) {
			time.Sleep(2 * time.Millisecond)
			return "v", nil
		})
		require.NoError(t, err)
	}
	soon(t, func() bool { return a.Stats().Fills == 10 })
	moments := map[time.Duration]bool{}
	for i := range 10 {
		name := a.scope.values.Key(fmt.Sprint(i))
		var first time.Duration
		for n := range 3 {
			raw, err := r.do("GET", name).Text()
			require.NoError(t, err)
			_, h, _, err := a.bytes.parse(name, raw)
			require.NoError(t, err)
			require.Greater(t, h.refresh, time.Duration(0))
			require.Less(t, h.refresh, h.soft)
			if n == 0 {
				first = h.refresh
				moments[first] = true
			}
			require.Equal(t, first, h.refresh)
			wantHit(t, strs(r, WithEarlyRefresh(1000)), fmt.Sprint(i), "v")
		}
	}
	require.Len(t, moments, 10, "each value has its own")
}
