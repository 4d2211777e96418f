package cache

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// The tests of this file are named for defects that another toolkit's cache had: C0 to C15, and CL for those in Cluster.

// C0: an outage, or memory that is full, made every miss fail and threw the loaded value away.
func TestC0OutageNeverFailsAMiss(t *testing.T) {
	r := newRig(t)
	c := strs(r)
	r.chaos.Storm()
	s := from("v")
	wantLoad(t, c, "k", s, "v")
	wantLoad(t, c, "k", s, "v")
	require.Equal(t, 1, s.loads(), "this process remembers")
	m, err := c.LoadMany(t.Context(), []string{"k", "l"}, func(context.Context, []string) (map[string]string, error) {
		return map[string]string{"l": "w"}, nil
	})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"k": "v", "l": "w"}, m)
	soon(t, func() bool { v, ok := c.Peek("k"); return ok && v == "v" })
	wantHit(t, c, "k", "v") // warm

	for _, script := range []string{"cache.lease", "cache.fill", "cache.release", "cache.version"} {
		for _, fault := range []chaos.Rule{chaos.OnScript(script).Reply("OOM command not allowed"), chaos.OnScript(script).LoseReply(), chaos.OnScript(script).LoseRequest()} {
			r := newRig(t, fault)
			c := strs(r, WithLease(100*time.Millisecond))
			r.chaos.Storm()
			s := from("v")
			ctx := within(t)
			v, err := c.GetOrLoad(ctx, "k", s.load)
			require.NoError(t, err, "%v", fault)
			require.Equal(t, "v", v)
			_, err = c.GetOrLoad(ctx, "none", (&source{err: ErrNotFound}).load)
			require.ErrorIs(t, err, ErrNotFound)
			_, err = c.GetOrLoad(ctx, "bad", (&source{err: errSource}).load)
			require.ErrorIs(t, err, errSource, "the loader's own error")
			m, err := c.LoadMany(ctx, []string{"m"}, func(context.Context, []string) (map[string]string, error) { return map[string]string{"m": "v"}, nil })
			require.NoError(t, err)
			require.Equal(t, "v", m["m"])
			r.chaos.Calm()
			wantLoad(t, c, "k", s, "v")
		}
	}
}

// C0, on a server that is really full: a fill that finds no room is a fill that failed.
func TestC0FullServerNeverFailsAMiss(t *testing.T) {
	server := redisxtest.StartServer(t, redisxtest.OwnProcess())
	r := &rig{t: t, clock: newManualClock()}
	r.client = r.connect(server.URL())
	c := strs(r)
	require.NoError(t, c.Set(t.Context(), "held", "old"))
	end := server.FillMemory()
	s := from("v")
	wantLoad(t, c, "k", s, "v")
	require.NoError(t, c.SetMode(RemoteOnly))
	require.NoError(t, c.SetMode(Both)) // what is here is forgotten
	err := c.Set(t.Context(), "held", "new")
	require.ErrorContains(t, err, "OOM")
	require.ErrorIs(t, err, ErrQueued) // to delete the old one needs no memory
	soon(t, func() bool { return c.Stats().Queued == 0 })
	wantHit(t, c, "held", "new") // in this process
	wantMiss(t, strs(r), "held")
	require.NoError(t, c.Delete(t.Context(), "held"))
	end()
	wantMiss(t, c, "held")
	wantLoad(t, c, "k", s, "v")
	soon(t, func() bool { return c.Stats().Fills >= 1 })
}

// C1: tenants got each other's data, as the setting was dropped on its way; and names that differ in special characters only
// were one.
func TestC1TenantsNeverMeet(t *testing.T) {
	for _, how := range []Coherence{Tracking, PubSub, TTLOnly} {
		c := strs(newRig(t), WithCoherence(how))
		tenants := []string{"a.b", "a_b", "a b", "a:b", "a%b", "a{b}", "a}b", "%", "", "ab", "A.B", "a.b%i", strings.Repeat("x", 600), strings.Repeat("x", 601), "ünï"}
		views := []*Cache[string, string]{c}
		for _, tenant := range tenants {
			views = append(views, c.Scoped(tenant))
		}
		views = append(views, c.Scoped("a").Scoped("b"), c.Scoped("a").Scoped("").Scoped("b"))
		keys := []string{"k", "a.b:k", "%sa.b%ik", "}", "{", "%i", ""}
		for i, v := range views {
			for _, key := range keys {
				require.NoError(t, v.Set(t.Context(), key, fmt.Sprint(i, key), Tags("t")))
			}
		}
		for round := range 2 { // from either tier
			for i, v := range views {
				for _, key := range keys {
					wantHit(t, v, key, fmt.Sprint(i, key))
				}
			}
			if round == 0 {
				require.NoError(t, c.SetMode(RemoteOnly))
			}
		}
		require.NoError(t, c.SetMode(Both))
		require.NoError(t, views[1].InvalidateTags(t.Context(), "t"))
		require.NoError(t, views[2].Clear(t.Context()))
		require.NoError(t, views[3].Delete(t.Context(), keys...))
		for i, v := range views {
			_, ok, err := v.Get(t.Context(), "k")
			require.NoError(t, err)
			require.Equal(t, i < 1 || i > 3, ok, "view %d", i)
		}
		require.Same(t, views[1], c.Scoped("a.b"))
		require.NoError(t, c.Clear(t.Context())) // reaches all of them
		for _, v := range views {
			wantMiss(t, v, "k")
		}
	}
}

// C2: no instance ever heard of what another one changed.
func TestC2OtherInstancesHear(t *testing.T) {
	redisxtest.Each(t, func(t *testing.T, client *core.Client) {
		for _, how := range []Coherence{Tracking, PubSub} {
			a := open[string, string](t, client, "c2", WithCoherence(how), WithLocal(100, time.Hour))
			b := open[string, string](t, client, "c2", WithCoherence(how), WithLocal(100, time.Hour))
			for name, change := range map[string]func() error{
				"delete":     func() error { return a.Delete(t.Context(), "k") },
				"deletemany": func() error { return a.DeleteMany(t.Context(), []string{"k", "none"}) },
				"expire":     func() error { return a.Expire(t.Context(), "k") },
				"tag":        func() error { return a.InvalidateTags(t.Context(), "t") },
				"clear":      func() error { return a.Clear(t.Context()) },
				"set":        func() error { return a.Set(t.Context(), "k", "new") },
				"setmany":    func() error { return a.SetMany(t.Context(), map[string]string{"k": "new", "x": "y"}) },
			} {
				require.NoError(t, a.Set(t.Context(), "k", "old", Tags("t")))
				soon(t, func() bool { _, _, _ = b.Get(t.Context(), "k"); v, ok := b.Peek("k"); return ok && v == "old" })
				require.NoError(t, change())
				soon(t, func() bool {
					v, ok, err := b.Get(t.Context(), "k")
					return err == nil && v != "old" && ok == strings.HasPrefix(name, "set")
				})
			}
		}
	}, redisxtest.OnCluster())
}

// C3: entries kept for stale uses were out of reach of their tags, and never in the local tier.
func TestC3TagsReachStaleEntries(t *testing.T) {
	r := newRig(t)
	c := strs(r, WithTTL(10*time.Second), WithStaleWhileRevalidate(time.Hour), WithStaleIfError(time.Hour))
	tagged := func(v string, err error) (string, error) {
		return c.GetOrLoadWith(t.Context(), "k", func(_ context.Context, l *Load[string, string]) (string, error) {
			l.Tag("t")
			return v, err
		})
	}
	_, err := tagged("old", nil)
	require.NoError(t, err)
	soon(t, func() bool { _, ok := c.Peek("k"); return ok })
	require.NoError(t, c.InvalidateTags(t.Context(), "t"))
	v, err := tagged("new", nil)
	require.NoError(t, err)
	require.Equal(t, "new", v, "fresh")
	soon(t, func() bool { return c.Stats().Fills == 2 })
	r.advance(11 * time.Second)
	require.NoError(t, c.InvalidateTags(t.Context(), "t"))
	_, err = tagged("", errSource)
	require.ErrorIs(t, err, errSource, "stale")
	v, err = tagged("newer", nil)
	require.NoError(t, err)
	require.Equal(t, "newer", v)
}

// C4: what a load that began before an invalidation brought was stored after it. Each kind of invalidation is tested in
// TestHazards; here are the background loads.
func TestC4RefreshLosesAgainstInvalidation(t *testing.T) {
	for name, invalidate := range map[string]func(c *Cache[string, string]) error{
		"delete": func(c *Cache[string, string]) error { return c.Delete(t.Context(), "k") },
		"tag":    func(c *Cache[string, string]) error { return c.InvalidateTags(t.Context(), "t") },
		"clear":  func(c *Cache[string, string]) error { return c.Clear(t.Context()) },
		"set":    func(c *Cache[string, string]) error { return c.Set(t.Context(), "k", "set") },
	} {
		for _, notModified := range []bool{false, true} {
			r := newRig(t)
			c := strs(r, WithTTL(10*time.Second), WithStaleWhileRevalidate(time.Hour))
			require.NoError(t, c.Set(t.Context(), "k", "old", Tags("t")))
			r.advance(11 * time.Second)
			g := newGate()
			load := g.load("old")
			v, err := c.GetOrLoadWith(t.Context(), "k", func(ctx context.Context, l *Load[string, string]) (string, error) {
				v, err := load(ctx, "k")
				if notModified {
					return l.NotModified()
				}
				l.Tag("t")
				return v, err
			})
			require.NoError(t, err)
			require.Equal(t, "old", v)
			<-g.began
			require.NoError(t, invalidate(c))
			close(g.open)
			soon(t, func() bool { st := c.Stats(); return st.FillsRejected+st.FillsFailed+st.Fills > 0 })
			for _, x := range []*Cache[string, string]{c, strs(r)} {
				v, ok, err := x.Get(t.Context(), "k")
				require.NoError(t, err)
				require.Equal(t, name == "set", ok, "%s, not modified: %v: %q", name, notModified, v)
			}
		}
	}
}

// C5: a load that took longer than the lock made every waiting caller load too.
func TestC5SlowLoadIsOneLoad(t *testing.T) {
	redisxtest.Each(t, func(t *testing.T, client *core.Client) {
		var calls atomic.Int64
		slow := func(context.Context, string) (string, error) {
			calls.Add(1)
			time.Sleep(600 * time.Millisecond) // six times the lease
			return "v", nil
		}
		var wg sync.WaitGroup
		for range 3 {
			c := open[string, string](t, client, "c5", WithLease(100*time.Millisecond))
			for range 5 {
				wg.Go(func() {
					if v, err := c.GetOrLoad(within(t), "k", slow); err != nil || v != "v" {
						t.Errorf("got %q, %v", v, err)
					}
				})
			}
		}
		wg.Wait()
		require.EqualValues(t, 1, calls.Load())
	}, redisxtest.FakeOnly())
}

// C6: a value that is nil counted as a miss, and the loader ran at every call.
func TestC6NilIsAValue(t *testing.T) {
	r := newRig(t)
	c, err := New[string, *user](r.client, "users", WithCoherence(TTLOnly), withClock(r.clock))
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	var calls atomic.Int64
	for i := range 3 {
		u, err := c.GetOrLoad(t.Context(), "k", func(context.Context, string) (*user, error) { calls.Add(1); return nil, nil })
		require.NoError(t, err)
		require.Nil(t, u)
		soon(t, func() bool { return c.Stats().Fills == 1 })
		if i == 1 {
			require.NoError(t, c.SetMode(RemoteOnly))
		}
	}
	require.EqualValues(t, 1, calls.Load())
	u, ok, err := c.Get(t.Context(), "k")
	require.NoError(t, err)
	require.True(t, ok)
	require.Nil(t, u)
}

// C7: values kept for failing loads were returned as fresh by calls without a loader, and copied into the local tier.
func TestC7KeptIsNotFresh(t *testing.T) {
	r := newRig(t)
	a, b := strs(r, WithTTL(10*time.Second), WithStaleIfError(time.Hour)), strs(r, WithTTL(10*time.Second), WithStaleIfError(time.Hour))
	require.NoError(t, a.Set(t.Context(), "k", "v"))
	require.NoError(t, a.Set(t.Context(), "expired", "v", TTL(time.Hour)))
	require.NoError(t, a.Expire(t.Context(), "expired"))
	r.advance(11 * time.Second)
	for _, c := range []*Cache[string, string]{a, b} {
		for _, key := range []string{"k", "expired"} {
			for range 2 {
				wantMiss(t, c, key)
				_, ok := c.Peek(key)
				require.False(t, ok)
				m, err := c.GetMany(t.Context(), []string{key})
				require.NoError(t, err)
				require.Empty(t, m)
			}
			wantLoad(t, c, key, &source{err: errSource}, "v") // though it is there
		}
	}
}

// C8: SetMany left the old values in the local tier, as did a Set that failed in Redis; and a Delete emptied the local tier
// first, so that a read in between filled it again.
func TestC8LocalTierFollowsWrites(t *testing.T) {
	r := newRig(t, chaos.OnScript("cache.set").Reply("NOPERM this user may not write"))
	c := strs(r)
	require.NoError(t, c.SetMany(t.Context(), map[string]string{"k": "old", "l": "old"}))
	wantHit(t, c, "k", "old")
	require.NoError(t, c.SetMany(t.Context(), map[string]string{"k": "new", "l": "new"}))
	wantHit(t, c, "k", "new")
	m, err := c.GetMany(t.Context(), []string{"k", "l"})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"k": "new", "l": "new"}, m)
	r.chaos.Storm()
	require.ErrorContains(t, c.Set(t.Context(), "k", "never stored"), "NOPERM")
	wantHit(t, c, "k", "new") // Redis first: a Set that failed has set nothing
	err = c.SetMany(t.Context(), map[string]string{"k": "never stored", "l": "neither"})
	var batch *BatchError[string]
	require.ErrorAs(t, err, &batch)
	require.Len(t, batch.Errors, 2)
	wantHit(t, c, "l", "new")
	// A Set of which nobody knows whether it succeeded leaves nothing old behind.
	lost := newRig(t, chaos.OnScript("cache.set").LoseReply(), chaos.OnScript("cache.set").LoseRequest())
	c = strs(lost)
	require.NoError(t, c.Set(t.Context(), "k", "old"))
	lost.chaos.Storm()
	require.ErrorIs(t, c.Set(t.Context(), "k", "new"), ErrQueued)
	wantHit(t, c, "k", "new")
	lost.chaos.Calm()
	soon(t, func() bool { return c.Stats().Queued == 0 })
	wantMiss(t, strs(lost), "k")

	// The delete is on its way while others read: nothing old is there once it has returned.
	slow := newRig(t, chaos.OnScript("cache.delete").Latency(20*time.Millisecond))
	c = strs(slow)
	require.NoError(t, c.Set(t.Context(), "k", "old"))
	slow.chaos.Storm()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_, _, _ = c.Get(t.Context(), "k")
			}
		}
	})
	require.NoError(t, c.Delete(t.Context(), "k"))
	wantMiss(t, c, "k")
	close(stop)
	wg.Wait()
	wantMiss(t, c, "k")
}

// C9: what came from Redis stayed in the local tier for that tier's whole time, longer than it lived in Redis.
func TestC9LocalTierNeverOutlivesRedis(t *testing.T) {
	r := newRig(t)
	a, b := strs(r, WithLocal(100, time.Hour)), strs(r, WithLocal(100, time.Hour))
	require.NoError(t, a.Set(t.Context(), "k", "v", TTL(10*time.Second)))
	r.advance(8 * time.Second)
	wantHit(t, b, "k", "v")
	_, ok := b.Peek("k")
	require.True(t, ok)
	r.advance(1900 * time.Millisecond)
	_, ok = b.Peek("k")
	require.True(t, ok, "until then it may be used")
	r.advance(200 * time.Millisecond)
	_, ok = b.Peek("k")
	require.False(t, ok)
	wantMiss(t, b, "k")
}

// C10: tags were sets of keys, which grew for ever, missed keys added meanwhile and took as long as they were large.
func TestC10TagsCostNothing(t *testing.T) {
	r := newRig(t)
	c := strs(r)
	for i := range 200 {
		require.NoError(t, c.Set(t.Context(), fmt.Sprint(i), "v", Tags("t", "u"), TTL(time.Second)))
	}
	before := len(keysOf(t, r))
	require.Equal(t, 200+3, before, "two tags and the version of Clear")
	redisxtest.AllKeysHaveTTL(t, r.client)
	tr := redisxtest.Observe(t, r.client, func() { require.NoError(t, c.InvalidateTags(t.Context(), "t")) })
	require.LessOrEqual(t, tr.Count(""), 2)
	m, err := c.GetMany(t.Context(), []string{"0", "1", "199"})
	require.NoError(t, err)
	require.Empty(t, m)
	r.advance(1001 * time.Millisecond)
	require.LessOrEqual(t, len(keysOf(t, r)), 4, "nothing is left but versions")
	r.advance(24 * time.Hour)
	require.Empty(t, keysOf(t, r))
}

func keysOf(t *testing.T, r *rig) []string {
	list, err := r.client.Do(t.Context(), driver.Cmd{Args: []string{"KEYS", "*"}}).List()
	require.NoError(t, err)
	out := []string{}
	for _, k := range list {
		s, err := k.Text()
		require.NoError(t, err)
		out = append(out, s)
	}
	return out
}

// C11 and CL: in Cluster GetMany found nothing, DeleteMany failed, and Clear and tags left values behind.
func TestC11BatchesWorkInCluster(t *testing.T) {
	redisxtest.Each(t, func(t *testing.T, client *core.Client) { batches(t, client) }, redisxtest.OnCluster())
	t.Run("fake cluster", func(t *testing.T) { // which refuses keys that a script does not name
		batches(t, redisxtest.NewFakeCluster(t, 3).Client(core.WithCommandTimeout(5*time.Second)))
	})
}

func batches(t *testing.T, client *core.Client) {
	for _, how := range []Coherence{Tracking, PubSub, TTLOnly} {
		c := open[int, string](t, client, "cl-"+how.String(), WithCoherence(how))
		values, keys := map[int]string{}, []int{}
		for i := range 30 {
			values[i], keys = fmt.Sprint("v", i), append(keys, i)
		}
		fill := func() {
			require.NoError(t, c.SetMany(t.Context(), values, Tags("t")))
			require.NoError(t, c.SetMode(RemoteOnly))
			require.NoError(t, c.SetMode(Both)) // the local tier is empty
			m, err := c.GetMany(t.Context(), keys)
			require.NoError(t, err)
			require.Equal(t, values, m)
		}
		for _, remove := range []func() error{
			func() error { return c.DeleteMany(t.Context(), keys) },
			func() error { return c.Clear(t.Context()) },
			func() error { return c.InvalidateTags(t.Context(), "t") },
		} {
			fill()
			require.NoError(t, remove())
			fresh := open[int, string](t, client, "cl-"+how.String(), WithCoherence(how))
			for _, x := range []*Cache[int, string]{c, fresh} {
				m, err := x.GetMany(t.Context(), keys)
				require.NoError(t, err)
				require.Empty(t, m)
			}
		}
		fill()
		require.NoError(t, c.DeleteMany(t.Context(), keys[:10]))
		var asked []int
		m, err := c.LoadMany(t.Context(), keys, func(_ context.Context, keys []int) (map[int]string, error) {
			asked = append(asked, keys...)
			out := map[int]string{}
			for _, key := range keys {
				if key != 3 {
					out[key] = values[key]
				}
			}
			return out, nil
		})
		require.NoError(t, err)
		require.Len(t, m, 29)
		require.ElementsMatch(t, keys[:10], asked)
		soon(t, func() bool { return c.Stats().Fills == 10 })
		m, err = open[int, string](t, client, "cl-"+how.String(), WithCoherence(how)).GetMany(t.Context(), keys)
		require.NoError(t, err)
		require.Len(t, m, 29)
		require.NoError(t, c.Clear(t.Context()))
	}
}

// C12: a refresh that failed was tried again by every read, and by every instance. That one refresh is enough for all
// instances is tested in TestHazards.
func TestC12FailingRefreshIsPaced(t *testing.T) {
	r := newRig(t)
	c := strs(r, WithTTL(10*time.Second), WithStaleWhileRevalidate(time.Hour), WithStaleIfErrorThrottle(5*time.Second))
	s := from("old")
	wantLoad(t, c, "k", s, "old")
	soon(t, func() bool { return c.Stats().Fills == 1 })
	s.fails(errSource)
	r.advance(11 * time.Second)
	for range 100 {
		wantLoad(t, c, "k", s, "old")
		soon(t, func() bool { return c.Stats().LoadErrors == 1 })
	}
	require.Equal(t, 2, s.loads())
	r.advance(5 * time.Second)
	wantLoad(t, c, "k", s, "old")
	soon(t, func() bool { return c.Stats().LoadErrors == 2 })
}

// C13: the second invalidation of the same thing within a minute was taken for a repetition of the first, and ignored.
func TestC13EveryInvalidationCounts(t *testing.T) {
	for _, how := range []Coherence{Tracking, PubSub, TTLOnly} {
		r := newRig(t)
		a, b := strs(r, WithCoherence(how)), strs(r, WithCoherence(how))
		for range 5 {
			for _, invalidate := range []func() error{
				func() error { return a.Delete(t.Context(), "k") },
				func() error { return a.InvalidateTags(t.Context(), "t") },
				func() error { return a.Clear(t.Context()) },
			} {
				require.NoError(t, a.Set(t.Context(), "k", "v", Tags("t")))
				wantHit(t, a, "k", "v")
				require.NoError(t, invalidate())
				wantMiss(t, a, "k")
				if how != TTLOnly {
					soon(t, func() bool { _, ok, err := b.Get(t.Context(), "k"); return err == nil && !ok })
				}
			}
		}
	}
}

// C14: the key of a wrapped function did not come from its arguments, and invalidations were not waited for.
func TestC14WrappedFunctionsAreDone(t *testing.T) {
	r := newRig(t, chaos.OnScript("cache.delete").Latency(20*time.Millisecond))
	c, other := strs(r), strs(r)
	db := map[string]string{"a": "1", "b": "2"}
	var mu sync.Mutex
	get := Wrap(c, func(_ context.Context, key string) (string, error) { mu.Lock(); defer mu.Unlock(); return db[key], nil })
	set := Invalidating(c, func(_ context.Context, kv [2]string) error {
		if kv[1] == "" {
			return errSource
		}
		mu.Lock()
		defer mu.Unlock()
		db[kv[0]] = kv[1]
		return nil
	}, func(kv [2]string) ([]string, []string) { return []string{kv[0]}, []string{"all"} })
	r.chaos.Storm()
	for key, want := range map[string]string{"a": "1", "b": "2"} {
		v, err := get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, want, v)
	}
	require.NoError(t, other.Set(t.Context(), "list", "1, 2", Tags("all")))
	soon(t, func() bool { return c.Stats().Fills == 2 })
	ctx, leave := context.WithCancel(t.Context())
	leave() // saved is saved, also if nobody waits for it any more
	require.NoError(t, set(ctx, [2]string{"a", "3"}))
	v, err := get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, "3", v)
	wantMiss(t, c, "list")
	require.ErrorIs(t, set(t.Context(), [2]string{"a", ""}), errSource)
	v, err = get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, "3", v)
}

// C15: parts of keys were joined without escaping, so that different ones met; and an error on the way to a tag reached callers
// of reads.
func TestC15KeysNeverMeet(t *testing.T) {
	r := newRig(t)
	c := strs(r)
	long := strings.Repeat("x", 1000)
	keys := []string{"", "a", "a:b", "a%3Ab", "a%", "%25", "%", "{a}", "}a{", "{", "}", "a b", "A", "null", "%h", "%s", "%i", ":w", ":x", "a:w", "t:a", "g", "b", long, long + "y", "\x00", "\xff", "é"}
	for i, key := range keys {
		require.NoError(t, c.Set(t.Context(), key, fmt.Sprint(i)))
	}
	require.Len(t, keysOf(t, r), len(keys)+1)
	fresh := strs(r)
	for i, key := range keys {
		wantHit(t, c, key, fmt.Sprint(i))
		wantHit(t, fresh, key, fmt.Sprint(i))
	}
	for i, key := range keys { // each goes alone
		require.NoError(t, c.Delete(t.Context(), key))
		for j, other := range keys {
			_, ok, err := c.Get(t.Context(), other)
			require.NoError(t, err)
			require.Equal(t, j > i, ok, "%q after the deletion of %q", other, key)
		}
	}
	for _, key := range keys {
		ks := c.keysOf(c.scope.values.Key(key))
		redisxtest.OneSlot(t, ks.v, ks.l(), ks.v+":w", ks.v+":x")
	}
	// Two caches of a process are two, and so are two applications on one server.
	other, err := New[string, string](r.client, "others", WithCoherence(TTLOnly))
	require.NoError(t, err)
	defer func() { require.NoError(t, other.Close()) }()
	require.NoError(t, c.Set(t.Context(), "k", "v", Tags("t")))
	require.NoError(t, other.Set(t.Context(), "k", "w", Tags("t")))
	require.NoError(t, other.InvalidateTags(t.Context(), "t"))
	require.NoError(t, other.Clear(t.Context()))
	wantHit(t, fresh, "k", "v")
	// A name of a key that is a name of another one's lease or flag would end loads of that one.
	named, err := New[string, string](r.client, "things:x", WithCoherence(TTLOnly))
	require.NoError(t, err)
	defer func() { require.NoError(t, named.Close()) }()
	require.NoError(t, named.Clear(t.Context()))
	wantHit(t, fresh, "k", "v")
}

// A load that failed is over: whoever calls after that gets a load of its own, not the old failure.
func TestFailureIsForThoseWhoWaited(t *testing.T) {
	r := newRig(t, chaos.OnScript("cache.release").Latency(200*time.Millisecond))
	c := strs(r, WithNegativeTTL(0))
	r.chaos.Storm()
	for i, end := range []func(l *Load[string, string]) (string, error){
		func(*Load[string, string]) (string, error) { return "", errSource },
		func(*Load[string, string]) (string, error) { panic("no") },
		func(*Load[string, string]) (string, error) { return "", ErrNotFound },
		func(l *Load[string, string]) (string, error) { l.NoStore(); return "mine", nil },
	} {
		key := fmt.Sprint(i)
		_, _ = c.GetOrLoadWith(t.Context(), key, func(_ context.Context, l *Load[string, string]) (string, error) { return end(l) })
		wantLoad(t, c, key, from("v"), "v") // the lease is still being given up
	}
	_, err := c.LoadMany(t.Context(), []string{"m", "n"}, func(context.Context, []string) (map[string]string, error) { return nil, errSource })
	require.ErrorIs(t, err, errSource)
	wantLoad(t, c, "m", from("v"), "v")
}
