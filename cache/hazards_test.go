package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/core/rueidisdriver"
	"github.com/go-redisx/redisx/redisxtest"
)

// field is two instances of a cache over one of the backends.
type field struct {
	client *core.Client
	how    Coherence
	opts   []Option
	a, b   *Cache[string, string]
}

// instance opens another one.
func (f *field) instance(t *testing.T, opts ...Option) *Cache[string, string] {
	return open[string, string](t, f.client, "field", append(append([]Option{WithCoherence(f.how)}, f.opts...), opts...)...)
}

// hazards are what breaks two-tier caches, each with what must happen instead.
var hazards = []struct {
	name string
	opts []Option
	test func(t *testing.T, f *field)
}{
	{"an invalidation during a load wins", nil, invalidationDuringLoad},
	{"who comes after an invalidation gets nothing older", nil, readerAfterDelete},
	{"who joins a load after a tag was invalidated gets nothing older", nil, joinerAfterTag},
	{"who asked first may leave", nil, leaderLeaves},
	{"a caller waits no longer than it wants", nil, waiterDeadline},
	{"a panic ends the load for all and holds up nobody", []Option{WithLease(time.Minute)}, loaderPanics},
	{"ten instances load once", nil, stampede},
	{"what was inserted is there at once", nil, readOwnInsert},
	{"a tag that is gone is no tag that was never invalidated", nil, missingTag},
	{"a time to live below a second is none of zero", nil, subSecond},
	{"an empty value is a value", nil, emptyValue},
	{"what cannot be read is replaced once", nil, garbage},
	{"Clear reaches what is kept for stale uses", []Option{WithTTL(50 * time.Millisecond), WithStaleIfError(time.Hour)}, clearReachesStale},
	{"one refresh for all", []Option{WithStaleWhileRevalidate(time.Minute)}, oneRefresh},
}

func TestHazards(t *testing.T) {
	run := func(t *testing.T, client *core.Client, how Coherence) {
		for i, h := range hazards {
			t.Run(h.name, func(t *testing.T) {
				f := &field{client: client, how: how, opts: h.opts}
				f.a, f.b = f.instance(t), f.instance(t)
				h.test(t, f)
				// The next one begins with nothing, and with no tags of this one.
				require.NoError(t, f.a.Clear(t.Context()), "hazard %d", i)
			})
		}
	}
	t.Run("resp3", func(t *testing.T) {
		redisxtest.Each(t, func(t *testing.T, client *core.Client) {
			for _, how := range []Coherence{Tracking, PubSub, TTLOnly} {
				t.Run(how.String(), func(t *testing.T) { run(t, client, how) })
			}
		}, redisxtest.OnCluster(), redisxtest.OnSentinel())
	})
	t.Run("resp2", func(t *testing.T) {
		url := redisxtest.NewFake(t).URL("protocol=2")
		for name, openDriver := range map[string]func(context.Context, string) (driver.Driver, error){
			"goredis": func(ctx context.Context, url string) (driver.Driver, error) { return goredisdriver.Open(ctx, url) },
			"rueidis": func(ctx context.Context, url string) (driver.Driver, error) { return rueidisdriver.Open(ctx, url) },
		} {
			for _, how := range []Coherence{PubSub, TTLOnly} {
				t.Run(name+"/"+how.String(), func(t *testing.T) {
					d, err := openDriver(t.Context(), url)
					require.NoError(t, err)
					client, err := core.New(d, core.WithKeyPrefix(redisxtest.Prefix(t)))
					require.NoError(t, err)
					t.Cleanup(func() { require.NoError(t, client.Close()) })
					run(t, client, how)
				})
			}
		}
	})
}

// invalidationDuringLoad: a load that began before an invalidation, by whichever instance, leaves nothing behind.
func invalidationDuringLoad(t *testing.T, f *field) {
	kinds := []struct {
		name       string
		invalidate func(c *Cache[string, string], key string) error
		after      string // what is there then
	}{
		{"delete", func(c *Cache[string, string], key string) error { return c.Delete(t.Context(), key) }, ""},
		{"expire", func(c *Cache[string, string], key string) error { return c.Expire(t.Context(), key) }, ""},
		{"set", func(c *Cache[string, string], key string) error { return c.Set(t.Context(), key, "set") }, "set"},
		{"tag", func(c *Cache[string, string], key string) error { return c.InvalidateTags(t.Context(), "tag of "+key) }, ""},
		{"clear", func(c *Cache[string, string], key string) error { return c.Clear(t.Context()) }, ""},
	}
	for _, by := range []*Cache[string, string]{f.a, f.b} {
		for _, k := range kinds {
			for _, met := range []bool{false, true} { // whether the loading instance has met the tag before
				if met && k.name != "tag" {
					continue
				}
				key := fmt.Sprint(k.name, by == f.a, met)
				if met {
					require.NoError(t, f.a.Set(t.Context(), "other", "v", Tags("tag of "+key)))
				}
				g := newGate()
				load := g.load("old")
				done := make(chan error)
				go func() {
					_, err := f.a.GetOrLoadWith(t.Context(), key, func(ctx context.Context, l *Load[string, string]) (string, error) {
						l.Tag("tag of " + key)
						return load(ctx, key)
					})
					done <- err
				}()
				<-g.began
				require.NoError(t, k.invalidate(by, key))
				close(g.open)
				require.NoError(t, <-done, "who came before may have the value")
				// What the load stores it has stored once no load is registered.
				target, err := f.a.target(key)
				require.NoError(t, err)
				sh := &f.a.shards[target.shard]
				soon(t, func() bool { sh.mu.Lock(); defer sh.mu.Unlock(); return sh.loads[target.key] == nil })
				fresh := f.instance(t)
				for name, c := range map[string]*Cache[string, string]{"who loaded": f.a, "the other": f.b, "a new one": fresh} {
					if f.how == TTLOnly && by == f.b && c == f.a && (k.name == "tag" || k.name == "clear") {
						continue // nobody tells it
					}
					v, ok, err := c.Get(t.Context(), key)
					require.NoError(t, err)
					require.Equal(t, k.after != "", ok, "%s after %s by the one who loads: %v, which has met the tag: %v", name, k.name, by == f.a, met)
					require.Equal(t, k.after, v)
				}
			}
		}
	}
}

func readerAfterDelete(t *testing.T, f *field) {
	ctx := within(t)
	g := newGate()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _, _ = f.a.GetOrLoad(ctx, "k", g.load("old")) })
	<-g.began
	require.NoError(t, f.a.Delete(ctx, "k"))
	v, err := f.a.GetOrLoad(ctx, "k", from("new").load) // while the old load still runs
	require.NoError(t, err)
	require.Equal(t, "new", v)
	close(g.open)
	wg.Wait()
	v, err = f.a.GetOrLoad(ctx, "k", from("newer").load)
	require.NoError(t, err)
	require.NotEqual(t, "old", v)
}

// joinerAfterTag: a tag does not end the loads of its keys, as nobody knows before what a load will be tagged with. Whoever
// joined one after the invalidation finds that out from its result, and has it loaded again.
func joinerAfterTag(t *testing.T, f *field) {
	for name, invalidate := range map[string]func() error{
		"tag":   func() error { return f.a.InvalidateTags(t.Context(), "t") },
		"clear": func() error { return f.a.Clear(t.Context()) },
	} {
		ctx := within(t)
		g := newGate()
		old := g.load("old")
		tagged := func(load func(context.Context, string) (string, error)) (string, error) {
			return f.a.GetOrLoadWith(ctx, name, func(ctx context.Context, l *Load[string, string]) (string, error) {
				l.Tag("t")
				return load(ctx, name)
			})
		}
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = tagged(old) })
		<-g.began
		require.NoError(t, invalidate())
		shared := f.a.Stats().LoadsShared
		got := make(chan string, 1)
		wg.Go(func() { v, _ := tagged(from("new").load); got <- v })
		soon(t, func() bool { return f.a.Stats().LoadsShared > shared })
		close(g.open)
		require.Equal(t, "new", <-got, name)
		wg.Wait()
	}
}

func leaderLeaves(t *testing.T, f *field) {
	ctx := within(t)
	g := newGate()
	first, leave := context.WithCancel(ctx)
	led, followed := make(chan error, 1), make(chan error, 20)
	go func() { _, err := f.a.GetOrLoad(first, "k", g.load("v")); led <- err }()
	<-g.began
	for i := range 20 {
		c := f.a
		if i%2 == 1 {
			c = f.b
		}
		go func() {
			v, err := c.GetOrLoad(ctx, "k", g.load("v"))
			if err == nil && v != "v" {
				err = errors.New("got " + v)
			}
			followed <- err
		}()
	}
	soon(t, func() bool { return f.a.Stats().LoadsShared == 10 })
	leave()
	require.ErrorIs(t, <-led, context.Canceled)
	close(g.open)
	for range 20 {
		require.NoError(t, <-followed)
	}
	require.EqualValues(t, 1, g.calls.Load())
	require.Zero(t, g.ended.Load())
}

func waiterDeadline(t *testing.T, f *field) {
	g := newGate()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(g.open)
	wg.Go(func() { _, _ = f.a.GetOrLoad(within(t), "k", g.load("v")) })
	<-g.began
	for _, c := range []*Cache[string, string]{f.a, f.b} { // one waits for the load, the other for the lease
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := c.GetOrLoad(ctx, "k", g.load("v"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = c.LoadMany(ctx, []string{"k"}, func(context.Context, []string) (map[string]string, error) { return nil, nil })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		cancel()
	}
	require.EqualValues(t, 1, g.calls.Load())
}

func loaderPanics(t *testing.T, f *field) {
	ctx := within(t) // the lease is for longer
	for name, end := range map[string]func(){"panic": func() { panic("at the disco") }, "goexit": runtime.Goexit} {
		g := newGate()
		errs := make(chan error, 5)
		for range 5 {
			go func() {
				_, err := f.a.GetOrLoad(ctx, name, func(context.Context, string) (string, error) {
					g.began <- struct{}{}
					<-g.open
					end()
					return "", nil
				})
				errs <- err
			}()
		}
		<-g.began
		soon(t, func() bool { return f.a.Stats().LoadsShared%4 == 0 && f.a.Stats().LoadsShared > 0 })
		close(g.open)
		for range 5 {
			var p *PanicError
			require.ErrorAs(t, <-errs, &p)
			require.NotEmpty(t, p.Stack)
			if name == "panic" {
				require.Equal(t, "at the disco", p.Value)
			}
		}
		for _, c := range []*Cache[string, string]{f.b, f.a} {
			v, err := c.GetOrLoad(ctx, name, from("v").load)
			require.NoError(t, err)
			require.Equal(t, "v", v)
		}
		// In a batch each key has the same rights.
		_, err := f.a.LoadMany(ctx, []string{name + "1", name + "2"}, func(context.Context, []string) (map[string]string, error) {
			end()
			return nil, nil
		})
		var p *PanicError
		require.ErrorAs(t, err, &p)
		m, err := f.b.LoadMany(ctx, []string{name + "1", name + "2"}, func(_ context.Context, keys []string) (map[string]string, error) {
			m := map[string]string{} // one key or both: the other process may not have given up both leases yet
			for _, key := range keys {
				m[key] = "v"
			}
			return m, nil
		})
		require.NoError(t, err)
		require.Len(t, m, 2)
	}
}

func stampede(t *testing.T, f *field) {
	ctx := within(t)
	caches := []*Cache[string, string]{f.a, f.b}
	for range 8 {
		caches = append(caches, f.instance(t))
	}
	var calls atomic.Int64
	load := func(context.Context, string) (string, error) {
		calls.Add(1)
		time.Sleep(20 * time.Millisecond)
		return "v", nil
	}
	start := make(chan struct{})
	var wg sync.WaitGroup
	for _, c := range caches {
		for range 50 {
			wg.Go(func() {
				<-start
				if v, err := c.GetOrLoad(ctx, "k", load); err != nil || v != "v" {
					t.Errorf("got %q, %v", v, err)
				}
			})
		}
	}
	close(start)
	wg.Wait()
	require.EqualValues(t, 1, calls.Load())
}

func readOwnInsert(t *testing.T, f *field) {
	none := &source{err: ErrNotFound}
	for _, c := range []*Cache[string, string]{f.a, f.b} {
		_, err := c.GetOrLoad(t.Context(), "k", none.load)
		require.ErrorIs(t, err, ErrNotFound)
	}
	soon(t, func() bool { return f.a.Stats().Fills+f.a.Stats().FillsRejected == 1 })
	require.NoError(t, f.a.Set(t.Context(), "k", "v"))
	wantHit(t, f.a, "k", "v")
	if f.how != TTLOnly {
		soon(t, func() bool { v, _, _ := f.b.Get(t.Context(), "k"); return v == "v" })
	}
}

func missingTag(t *testing.T, f *field) {
	require.NoError(t, f.a.Set(t.Context(), "k", "v", Tags("t")))
	wantHit(t, f.b, "k", "v")
	name := f.a.scope.tagKs.Key("t:t")
	require.NoError(t, f.client.Do(t.Context(), driver.Cmd{Args: []string{"DEL", name}, Keys: driver.Key(1)}).Err())
	wantMiss(t, f.instance(t), "k") // what was evicted may have been invalidated before
	if f.how == Tracking {
		soon(t, func() bool { _, ok, _ := f.a.Get(t.Context(), "k"); return !ok })
	}
	require.NoError(t, f.a.Set(t.Context(), "k", "w", Tags("t")))
	if f.how == Tracking { // with the others it writes under the version it knows until it meets a newer one: a miss elsewhere
		wantHit(t, f.instance(t), "k", "w")
	}
}

func subSecond(t *testing.T, f *field) {
	require.NoError(t, f.a.Set(t.Context(), "k", "v", TTL(800*time.Millisecond)))
	name := f.a.scope.values.Key("k")
	ms, err := f.client.Do(t.Context(), driver.Cmd{Args: []string{"PTTL", name}, Keys: driver.Key(1)}).Int64()
	require.NoError(t, err)
	require.Greater(t, ms, int64(0))
	require.LessOrEqual(t, ms, int64(800))
	soon(t, func() bool { _, ok, err := f.a.Get(t.Context(), "k"); return err == nil && !ok })
}

func emptyValue(t *testing.T, f *field) {
	require.NoError(t, f.a.Set(t.Context(), "k", ""))
	wantHit(t, f.a, "k", "")
	wantHit(t, f.b, "k", "")
	m, err := f.instance(t).GetMany(t.Context(), []string{"k", "none"})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"k": ""}, m)
}

func garbage(t *testing.T, f *field) {
	name := f.a.scope.values.Key("k")
	for _, raw := range []string{"", "x", "garbage of another program that is long enough for a stamp", "1234567890123456\x01\x00"} {
		require.NoError(t, f.client.Do(t.Context(), driver.Cmd{Args: []string{"SET", name, raw, "PX", "60000"}, Keys: driver.Key(1)}).Err())
		c := f.instance(t)
		wantMiss(t, c, "k")
		s := from("v")
		wantLoad(t, c, "k", s, "v")
		soon(t, func() bool { return c.Stats().Fills == 1 })
		wantLoad(t, f.instance(t), "k", s, "v")
		require.Equal(t, 1, s.loads(), "after %q", raw)
	}
	require.NoError(t, f.client.Do(t.Context(), driver.Cmd{Args: []string{"DEL", name}, Keys: driver.Key(1)}).Err())
	require.NoError(t, f.client.Do(t.Context(), driver.Cmd{Args: []string{"LPUSH", name, "x"}, Keys: driver.Key(1)}).Err())
	c := f.instance(t)
	wantMiss(t, c, "k")
	wantLoad(t, c, "k", from("v"), "v")
	soon(t, func() bool { return c.Stats().Fills == 1 })
	wantHit(t, f.instance(t), "k", "v")
}

func clearReachesStale(t *testing.T, f *field) {
	for i, clearIt := range []func() error{
		func() error { return f.a.Clear(t.Context()) },
		func() error { return f.a.InvalidateTags(t.Context(), "t") },
		func() error { return f.a.Delete(t.Context(), "k2") },
	} {
		key := fmt.Sprint("k", i)
		require.NoError(t, f.a.Set(t.Context(), key, "v", Tags("t")))
		failing := &source{err: errSource}
		soon(t, func() bool { _, ok, err := f.a.Get(t.Context(), key); return err == nil && !ok })
		wantLoad(t, f.a, key, failing, "v") // kept for this
		require.NoError(t, clearIt())
		_, err := f.a.GetOrLoad(t.Context(), key, failing.load)
		require.ErrorIs(t, err, errSource)
		_, err = f.instance(t).GetOrLoad(t.Context(), key, failing.load)
		require.ErrorIs(t, err, errSource)
	}
}

func oneRefresh(t *testing.T, f *field) {
	caches := []*Cache[string, string]{f.a, f.b, f.instance(t), f.instance(t), f.instance(t)}
	require.NoError(t, f.a.Set(t.Context(), "k", "old", TTL(100*time.Millisecond)))
	for _, c := range caches {
		v, err := c.GetOrLoad(t.Context(), "k", from("old").load)
		require.NoError(t, err)
		require.Equal(t, "old", v)
	}
	soon(t, func() bool { _, ok, err := f.b.Get(t.Context(), "k"); return err == nil && !ok })
	g := newGate()
	for _, c := range caches {
		for range 3 {
			v, err := c.GetOrLoad(within(t), "k", g.load("new"))
			require.NoError(t, err)
			require.Equal(t, "old", v)
		}
	}
	<-g.began
	close(g.open)
	for _, c := range caches {
		soon(t, func() bool { v, err := c.GetOrLoad(t.Context(), "k", g.load("newer")); return err == nil && v != "old" })
	}
	require.EqualValues(t, 1, g.calls.Load())
}
