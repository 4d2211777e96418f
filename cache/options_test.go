package cache

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/go-redisx/redisx/redisxtest"
)

// options holds, for everything a user can set, a test that fails if it does nothing.
var options = map[string]func(t *testing.T){
	"WithTTL": func(t *testing.T) {
		r := newRig(t)
		c := strs(r, WithTTL(10*time.Second))
		require.NoError(t, c.Set(t.Context(), "k", "v"))
		r.advance(9 * time.Second)
		wantHit(t, c, "k", "v")
		r.advance(1100 * time.Millisecond)
		wantMiss(t, c, "k")
	},
	"WithJitter": func(t *testing.T) {
		for jitter, some := range map[float64]bool{0: false, 0.9: true} {
			r := newRig(t)
			c := strs(r, WithTTL(100*time.Second), WithJitter(jitter))
			for i := range 60 {
				require.NoError(t, c.Set(t.Context(), fmt.Sprint(i), "v"))
			}
			r.advance(50 * time.Second)
			missing := 0
			for i := range 60 {
				if _, ok, _ := c.Get(t.Context(), fmt.Sprint(i)); !ok {
					missing++
				}
			}
			require.Equal(t, some, missing > 0, "%d of 60 expired by half time with jitter %v", missing, jitter)
			require.Less(t, missing, 60)
		}
	},
	"WithLocal": func(t *testing.T) {
		r := newRig(t)
		a, b := strs(r, WithLocal(10, 2*time.Second)), strs(r)
		for i := range 500 {
			require.NoError(t, a.Set(t.Context(), fmt.Sprint(i), "v"))
		}
		soon(t, func() bool { return a.Stats().Entries <= 10 })
		require.NoError(t, a.Set(t.Context(), "k", "old"))
		wantHit(t, a, "k", "old")
		require.NoError(t, b.Set(t.Context(), "k", "new"))
		wantHit(t, a, "k", "old")
		r.advance(2 * time.Second)
		wantHit(t, a, "k", "new")
	},
	"WithLocalBytes": func(t *testing.T) {
		r := newRig(t)
		c := strs(r, WithLocalBytes(4096, 2*time.Second))
		for i := range 200 {
			require.NoError(t, c.Set(t.Context(), fmt.Sprint(i), strings.Repeat("v", 100)))
		}
		soon(t, func() bool { s := c.Stats(); return s.Weight <= 4096 && s.Entries > 3 && s.Entries < 40 })
		soon(t, func() bool { _ = c.Set(t.Context(), "k", "v"); _, ok := c.Peek("k"); return ok })
		r.advance(2 * time.Second)
		_, ok := c.Peek("k")
		require.False(t, ok, "older than the maximal age")
	},
	"WithoutLocal": func(t *testing.T) {
		r := newRig(t)
		c := strs(r, WithoutLocal())
		require.NoError(t, c.Set(t.Context(), "k", "v"))
		wantHit(t, c, "k", "v")
		wantHit(t, c, "k", "v")
		require.EqualValues(t, 2, c.Stats().RemoteHits)
		_, ok := c.Peek("k")
		require.False(t, ok)
	},
	"WithoutRemote": func(t *testing.T) {
		c, err := New[string, string](nil, "things", WithoutRemote())
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close()) }()
		require.NoError(t, c.Set(t.Context(), "k", "v", Tags("a")))
		wantHit(t, c, "k", "v")
		require.NoError(t, c.InvalidateTags(t.Context(), "a"))
		wantMiss(t, c, "k")
		s := from("w")
		wantLoad(t, c, "k", s, "w")
		wantLoad(t, c, "k", s, "w")
		require.Equal(t, 1, s.loads())
		require.NoError(t, c.Clear(t.Context()))
		wantMiss(t, c, "k")
	},
	"WithStaleWhileRevalidate": func(t *testing.T) {
		for swr, first := range map[time.Duration]string{0: "new", 10 * time.Second: "old"} {
			r := newRig(t)
			c := strs(r, WithTTL(10*time.Second), WithStaleWhileRevalidate(swr))
			s := from("old")
			wantLoad(t, c, "k", s, "old")
			soon(t, func() bool { return c.Stats().Fills == 1 })
			s.is("new")
			r.advance(11 * time.Second)
			wantMiss(t, c, "k") // Get never returns such a value
			wantLoad(t, c, "k", s, first)
			soon(t, func() bool { v, ok := c.Peek("k"); return ok && v == "new" })
			require.Equal(t, 2, s.loads())
		}
	},
	"WithStaleIfError": func(t *testing.T) {
		for sie, fine := range map[time.Duration]bool{0: false, 10 * time.Second: true} {
			r := newRig(t)
			c := strs(r, WithTTL(10*time.Second), WithStaleIfError(sie))
			s := from("old")
			wantLoad(t, c, "k", s, "old")
			soon(t, func() bool { return c.Stats().Fills == 1 })
			s.fails(errSource)
			r.advance(11 * time.Second)
			wantMiss(t, c, "k")
			if fine {
				wantLoad(t, c, "k", s, "old")
				require.EqualValues(t, 1, c.Stats().StaleServed)
				r.advance(10 * time.Second)
			}
			_, err := c.GetOrLoad(t.Context(), "k", s.load)
			require.ErrorIs(t, err, errSource)
		}
	},
	"WithStaleIfErrorWhen": func(t *testing.T) {
		r := newRig(t)
		c := strs(r, WithTTL(10*time.Second), WithStaleIfError(time.Hour), WithStaleIfErrorThrottle(0),
			WithStaleIfErrorWhen(func(err error) bool { return err != errSource }))
		s := from("old")
		wantLoad(t, c, "k", s, "old")
		soon(t, func() bool { return c.Stats().Fills == 1 })
		r.advance(11 * time.Second)
		s.fails(errSource)
		_, err := c.GetOrLoad(t.Context(), "k", s.load)
		require.ErrorIs(t, err, errSource)
		s.fails(context.Canceled)
		wantLoad(t, c, "k", s, "old")
	},
	"WithStaleIfErrorThrottle": func(t *testing.T) {
		for throttle, loads := range map[time.Duration]int{0: 4, 20 * time.Second: 3} {
			r := newRig(t)
			c := strs(r, WithTTL(10*time.Second), WithStaleIfError(time.Hour), WithStaleIfErrorThrottle(throttle))
			s := from("old")
			wantLoad(t, c, "k", s, "old")
			soon(t, func() bool { return c.Stats().Fills == 1 })
			s.fails(errSource)
			for _, d := range []time.Duration{11 * time.Second, time.Second, 20 * time.Second} {
				r.advance(d)
				wantLoad(t, c, "k", s, "old")
			}
			require.Equal(t, loads, s.loads(), "throttle of %v", throttle)
		}
	},
	"WithEarlyRefresh": func(t *testing.T) {
		for beta, early := range map[float64]bool{0: false, 1000: true} {
			r := newRig(t)
			c := strs(r, WithTTL(1000*time.Second), WithLocal(100, time.Hour), WithEarlyRefresh(beta))
			var n atomic.Int64
			slow := func(context.Context, string) (string, error) {
				time.Sleep(2 * time.Millisecond) // what the moment is drawn from: some 2 s of 1000
				n.Add(1)
				return "v", nil
			}
			for i := range 20 {
				_, err := c.GetOrLoad(t.Context(), fmt.Sprint(i), slow)
				require.NoError(t, err)
			}
			soon(t, func() bool { return c.Stats().Fills == 20 })
			r.advance(999900 * time.Millisecond)
			for i := range 20 {
				_, err := c.GetOrLoad(t.Context(), fmt.Sprint(i), slow)
				require.NoError(t, err)
			}
			if early {
				soon(t, func() bool { return n.Load() > 20 })
			}
			require.NoError(t, c.Close()) // and what it began is over
			require.Equal(t, early, n.Load() > 20, "%d loads with beta %v", n.Load(), beta)
		}
	},
	"WithLoadTimeout": func(t *testing.T) {
		r := newRig(t)
		c := strs(r, WithTTL(10*time.Second), WithStaleIfError(time.Hour), WithLoadTimeout(5*time.Millisecond, time.Hour))
		wantLoad(t, c, "k", from("old"), "old")
		soon(t, func() bool { return c.Stats().Fills == 1 })
		r.advance(11 * time.Second)
		g := newGate()
		v, err := c.GetOrLoad(within(t), "k", g.load("new"))
		require.NoError(t, err)
		require.Equal(t, "old", v)
		require.EqualValues(t, 1, c.Stats().SoftTimeouts)
		close(g.open) // the load goes on and fills
		soon(t, func() bool { v, ok := c.Peek("k"); return ok && v == "new" })
		require.EqualValues(t, 1, g.calls.Load())

		hard := strs(r, WithLoadTimeout(0, 20*time.Millisecond))
		g = newGate()
		_, err = hard.GetOrLoad(within(t), "other", g.load("v"))
		require.ErrorIs(t, err, ErrLoadTimeout)
		soon(t, func() bool { return g.ended.Load() == 1 })
	},
	"WithDetachedLoads": func(t *testing.T) {
		for _, detached := range []bool{false, true} {
			r := newRig(t)
			var opts []Option
			if detached {
				opts = append(opts, WithDetachedLoads())
			}
			c := strs(r, opts...)
			g := newGate()
			ctx, leave := context.WithCancel(t.Context())
			left := make(chan error)
			go func() {
				_, err := c.GetOrLoad(ctx, "k", g.load("v"))
				left <- err
			}()
			<-g.began
			leave()
			require.ErrorIs(t, <-left, context.Canceled)
			if !detached {
				soon(t, func() bool { return g.ended.Load() == 1 })
				continue
			}
			close(g.open)
			soon(t, func() bool { v, ok := c.Peek("k"); return ok && v == "v" })
			require.Zero(t, g.ended.Load())
		}
	},
	"WithMaxLoads": func(t *testing.T) {
		r := newRig(t)
		c := strs(r, WithMaxLoads(2))
		var running, most atomic.Int64
		both := make(chan struct{}) // two do run side by side
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				_, err := c.GetOrLoad(within(t), fmt.Sprint(i), func(ctx context.Context, _ string) (string, error) {
					n := running.Add(1)
					defer running.Add(-1)
					for {
						m := most.Load()
						if n <= m || most.CompareAndSwap(m, n) {
							break
						}
					}
					if n == 2 {
						select {
						case <-both:
						default:
							close(both)
						}
					}
					<-both
					time.Sleep(time.Millisecond)
					return "v", nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 2, most.Load())
	},
	"WithLoadContext": func(t *testing.T) {
		type key struct{}
		r := newRig(t)
		c := strs(r, WithLoadContext(func(ctx context.Context) context.Context { return context.WithValue(ctx, key{}, "job") }))
		ctx := context.WithValue(t.Context(), key{}, "caller")
		who := func(ctx context.Context, _ string) (string, error) { return ctx.Value(key{}).(string), nil }
		v, err := c.GetOrLoad(ctx, "k", who)
		require.NoError(t, err)
		require.Equal(t, "job", v)
		many, err := c.LoadMany(ctx, []string{"l"}, func(ctx context.Context, _ []string) (map[string]string, error) {
			v, err := who(ctx, "")
			return map[string]string{"l": v}, err
		})
		require.NoError(t, err)
		require.Equal(t, "job", many["l"])
		v, err = strs(r).GetOrLoad(ctx, "m", who)
		require.NoError(t, err)
		require.Equal(t, "caller", v)
	},
	"WithLease": func(t *testing.T) {
		r := newRig(t)
		c := strs(r, WithLease(700*time.Second))
		g := newGate()
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = c.GetOrLoad(t.Context(), "k", g.load("v")) })
		<-g.began
		ms, err := r.do("PTTL", "cache-lease:things:{k}").Int64()
		require.NoError(t, err)
		close(g.open)
		wg.Wait()
		require.InDelta(t, 700_000, ms, 30_000)
	},
	"WithNegativeTTL": func(t *testing.T) {
		for ttl, loads := range map[time.Duration]int{0: 3, 20 * time.Second: 2} {
			r := newRig(t)
			c := strs(r, WithTTL(time.Hour), WithNegativeTTL(ttl))
			s := &source{err: fmt.Errorf("no such row: %w", ErrNotFound)}
			for _, d := range []time.Duration{0, 19 * time.Second, 2 * time.Second} {
				r.advance(d)
				_, err := c.GetOrLoad(t.Context(), "k", s.load)
				require.ErrorIs(t, err, ErrNotFound)
				soon(t, func() bool { st := c.Stats(); return st.Fills == st.Loads || ttl == 0 })
			}
			require.Equal(t, loads, s.loads(), "negative time to live of %v", ttl)
		}
	},
	"WithCoherence": func(t *testing.T) {
		// What each transport tells of: what another program does, what another instance does.
		for how, told := range map[Coherence][2]bool{Tracking: {true, true}, PubSub: {false, true}, TTLOnly: {false, false}} {
			r := newRig(t)
			a, b := strs(r, WithCoherence(how)), strs(r, WithCoherence(how))
			held := func(key string) bool { _, ok := a.Peek(key); return ok }
			for i, change := range []func(key string){
				func(key string) { require.NoError(t, r.do("DEL", "cache:things:{"+key+"}").Err()) },
				func(key string) { require.NoError(t, b.Delete(t.Context(), key)) },
			} {
				key := fmt.Sprint("k", i)
				require.NoError(t, b.Set(t.Context(), key, "v"))
				soon(t, func() bool { _, _, _ = a.Get(t.Context(), key); return held(key) })
				change(key)
				if told[i] {
					soon(t, func() bool { return !held(key) })
					continue
				}
				if how == PubSub { // what b tells later arrives later
					require.NoError(t, b.Set(t.Context(), "mark", "v"))
					n := a.Stats().InvalidationsRemote
					require.NoError(t, b.Set(t.Context(), "mark", "v"))
					soon(t, func() bool { return a.Stats().InvalidationsRemote > n })
				}
				require.True(t, held(key), "%v told of change %d", how, i)
			}
		}
	},
	"WithStaleWhileDisconnected": func(t *testing.T) {
		for d, asks := range map[time.Duration]int64{0: 1, 30 * time.Second: 0} {
			r := newRig(t)
			c := strs(r, WithCoherence(PubSub), WithLocal(100, time.Hour), WithStaleWhileDisconnected(d))
			require.NoError(t, c.Set(t.Context(), "k", "v"))
			r.advance(10 * time.Second)
			wantHit(t, c, "k", "v")
			c.lost(errNoEcho)
			before := c.Stats().RemoteHits
			wantHit(t, c, "k", "v")
			require.Equal(t, asks, c.Stats().RemoteHits-before, "within %v", d)
			c.confirmed()
			soon(t, func() bool { return trusted(c.word.Load()) })
			require.NoError(t, c.Set(t.Context(), "k", "v"))
			c.lost(errNoEcho)
			r.clock.advance(31 * time.Second)
			before = c.Stats().RemoteHits
			wantHit(t, c, "k", "v")
			require.EqualValues(t, 1, c.Stats().RemoteHits-before, "after %v", d)
		}
	},
	"WithCodec": func(t *testing.T) {
		r := newRig(t)
		seen := map[string]string{}
		for _, codec := range []Codec{JSON, Msgpack, Gob, Raw, shouting{}} {
			c := strs(r, WithCodec(codec))
			wantMiss(t, c, "k") // what the codec before wrote
			require.NoError(t, c.Set(t.Context(), "k", "value"))
			wantHit(t, strs(r, WithCodec(codec)), "k", "value")
			raw, err := r.do("GETRANGE", "cache:things:{k}", "16", "-1").Text()
			require.NoError(t, err)
			for name, other := range seen {
				require.NotEqual(t, other, raw, "%s and %s", name, codec.Name())
			}
			seen[codec.Name()] = raw
		}
		require.Contains(t, seen["json"], `"value"`)
		require.Contains(t, seen["shouting"], "VALUE")
		p, err := New[string, *wrapperspb.StringValue](r.client, "protos", WithCodec(Proto), WithCoherence(TTLOnly))
		require.NoError(t, err)
		defer func() { require.NoError(t, p.Close()) }()
		require.NoError(t, p.SetMode(RemoteOnly))
		require.NoError(t, p.Set(t.Context(), "k", wrapperspb.String("x")))
		v, ok, err := p.Get(t.Context(), "k")
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, "x", v.GetValue())
	},
	"WithCompression": func(t *testing.T) {
		sizes := map[int]int64{}
		for _, least := range []int{0, 1000, 100_000} {
			r := newRig(t)
			c := strs(r, WithCompression(least))
			long := strings.Repeat("all work and no play ", 500)
			require.NoError(t, c.Set(t.Context(), "k", long))
			wantHit(t, strs(r, WithCompression(least)), "k", long)
			var err error
			sizes[least], err = r.do("STRLEN", "cache:things:{k}").Int64()
			require.NoError(t, err)
		}
		require.Greater(t, sizes[0], int64(10_000))
		require.Equal(t, sizes[0], sizes[100_000])
		require.Less(t, sizes[1000], int64(2_000))
	},
	"WithEncryption": func(t *testing.T) {
		r := newRig(t)
		old, new := NewEncryptionKey("1", []byte("0123456789abcdef0123456789abcdef")), NewEncryptionKey("2", []byte("fedcba9876543210fedcba9876543210"))
		require.NoError(t, strs(r, WithEncryption(old)).Set(t.Context(), "k", "plain text"))
		raw, err := r.do("GET", "cache:things:{k}").Text()
		require.NoError(t, err)
		require.NotContains(t, raw, "plain")
		wantHit(t, strs(r, WithEncryption(new, old)), "k", "plain text")
		wantMiss(t, strs(r, WithEncryption(new)), "k")
		wantMiss(t, strs(r), "k")
	},
	"WithMaxValueSize": func(t *testing.T) {
		r := newRig(t)
		c := strs(r, WithMaxValueSize(100))
		require.NoError(t, c.Set(t.Context(), "k", strings.Repeat("v", 90)))
		err := c.Set(t.Context(), "k", strings.Repeat("v", 110))
		require.ErrorIs(t, err, ErrTooLarge)
		wantHit(t, c, "k", strings.Repeat("v", 90)) // nothing has changed
		wantLoad(t, c, "large", from(strings.Repeat("w", 110)), strings.Repeat("w", 110))
		soon(t, func() bool { return c.Stats().FillsFailed == 1 })
		wantMiss(t, c, "large")
	},
	"WithRecoveryQueue": func(t *testing.T) {
		for size, overflows := range map[int]int64{0: 1, 2: 1, 100: 0} {
			r := newRig(t)
			c := strs(r, WithRecoveryQueue(size))
			for i := range 4 {
				require.NoError(t, c.Set(t.Context(), fmt.Sprint(i), "v"))
			}
			r.chaos.Storm()
			for i := range 3 {
				require.ErrorIs(t, c.Delete(t.Context(), fmt.Sprint(i)), ErrQueued)
			}
			require.Equal(t, overflows, c.Stats().QueueOverflows, "queue of %d", size)
			r.chaos.Calm()
			soon(t, func() bool { return c.Stats().Queued == 0 })
			for i := range 3 {
				wantMiss(t, c, fmt.Sprint(i))
			}
			fourth := strs(r)
			_, kept, err := fourth.Get(t.Context(), "3")
			require.NoError(t, err)
			require.Equal(t, overflows == 0, kept, "an overflow clears all, queue of %d", size)
		}
	},
	"WithMutationCheck": func(t *testing.T) {
		r := newRig(t)
		var reported []string
		c, err := New[string, *user](r.client, "users", WithCoherence(TTLOnly), withClock(r.clock),
			WithMutationCheck(func(key string) { reported = append(reported, key) }))
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close()) }()
		require.NoError(t, c.Set(t.Context(), "k", &user{1, "ann"}))
		u, ok, err := c.Get(t.Context(), "k")
		require.NoError(t, err)
		require.True(t, ok)
		require.Empty(t, reported)
		u.Name = "eve"
		u, ok, err = c.Get(t.Context(), "k")
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, "ann", u.Name, "Redis has what was stored")
		require.Equal(t, []string{"k"}, reported)
		require.EqualValues(t, 1, c.Stats().Mutations)
	},
	"WithShadowCheck": func(t *testing.T) {
		for rate, finds := range map[float64]int64{0: 0, 1: 1} {
			r := newRig(t)
			var reported atomic.Value
			c := strs(r, WithShadowCheck(rate, func(key string) { reported.Store(key) }))
			require.NoError(t, c.Set(t.Context(), "k", "old"))
			wantLoad(t, c, "k", from("new"), "old")
			soon(t, func() bool { return c.Stats().ShadowDifferent == finds })
			require.NoError(t, c.Close())
			require.Equal(t, finds, c.Stats().ShadowChecks)
			if finds > 0 {
				require.Equal(t, "k", reported.Load())
			}
		}
	},

	"TTL": func(t *testing.T) {
		r := newRig(t)
		c := strs(r, WithTTL(time.Hour))
		require.NoError(t, c.Set(t.Context(), "k", "v", TTL(300*time.Millisecond)))
		wantHit(t, c, "k", "v")
		r.advance(301 * time.Millisecond)
		wantMiss(t, c, "k")
		wantMiss(t, strs(r), "k")
		require.Error(t, c.Set(t.Context(), "k", "v", TTL(time.Microsecond)))
		require.Error(t, c.Set(t.Context(), "k", "v", TTL(-1)))
	},
	"Tags": func(t *testing.T) {
		c := strs(newRig(t))
		require.NoError(t, c.Set(t.Context(), "k", "v", Tags("a", "b"), Tags("c", "a")))
		for _, tag := range []string{"a", "b", "c"} {
			require.NoError(t, c.Set(t.Context(), "k", "v", Tags("a", "b"), Tags("c", "a")))
			require.NoError(t, c.InvalidateTags(t.Context(), "other"))
			wantHit(t, c, "k", "v")
			require.NoError(t, c.InvalidateTags(t.Context(), tag))
			wantMiss(t, c, "k")
		}
		require.ErrorContains(t, c.Set(t.Context(), "k", "v", Tags("")), "want 1 to 512")
		require.ErrorContains(t, c.InvalidateTags(t.Context(), strings.Repeat("x", 513)), "want 1 to 512")
	},
	"ETag": func(t *testing.T) {
		r := newRig(t)
		c := strs(r, WithTTL(10*time.Second), WithStaleIfError(time.Hour))
		require.NoError(t, c.Set(t.Context(), "k", "v", ETag(`W/"7"`)))
		r.advance(11 * time.Second)
		_, err := c.GetOrLoadWith(t.Context(), "k", func(_ context.Context, l *Load[string, string]) (string, error) {
			v, etag, ok := l.Stale()
			require.True(t, ok)
			require.Equal(t, "v", v)
			require.Equal(t, `W/"7"`, etag)
			return l.NotModified()
		})
		require.NoError(t, err)
	},

	"Load.Key": func(t *testing.T) {
		v, err := strs(newRig(t)).GetOrLoadWith(t.Context(), "k", func(_ context.Context, l *Load[string, string]) (string, error) {
			return "of " + l.Key(), nil
		})
		require.NoError(t, err)
		require.Equal(t, "of k", v)
	},
	"Load.Stale": func(t *testing.T) {
		_, err := strs(newRig(t)).GetOrLoadWith(t.Context(), "k", func(_ context.Context, l *Load[string, string]) (string, error) {
			_, _, ok := l.Stale()
			require.False(t, ok, "there was nothing")
			return "v", nil
		})
		require.NoError(t, err)
	},
	"Load.SetETag":     conditional,
	"Load.NotModified": conditional,
	"Load.SetTTL": func(t *testing.T) {
		r := newRig(t)
		c := strs(r, WithTTL(time.Hour))
		for key, fail := range map[string]error{"k": nil, "none": ErrNotFound} {
			_, err := c.GetOrLoadWith(t.Context(), key, func(_ context.Context, l *Load[string, string]) (string, error) {
				l.SetTTL(5 * time.Second)
				return "v", fail
			})
			require.Equal(t, fail, err)
		}
		soon(t, func() bool { return c.Stats().Fills == 2 })
		wantHit(t, c, "k", "v")
		_, _, err := c.Get(t.Context(), "none")
		require.ErrorIs(t, err, ErrNotFound)
		r.advance(5001 * time.Millisecond)
		wantMiss(t, c, "k")
		wantMiss(t, c, "none")
	},
	"Load.Tag": func(t *testing.T) {
		r := newRig(t)
		c := strs(r)
		load := func(_ context.Context, l *Load[string, string]) (string, error) {
			l.Tag("a")
			l.Tag("b")
			return "v", nil
		}
		for i, tag := range []string{"a", "b"} {
			_, err := c.GetOrLoadWith(t.Context(), "k", load)
			require.NoError(t, err)
			soon(t, func() bool { return c.Stats().Fills == int64(i)+1 })
			wantHit(t, c, "k", "v")
			require.NoError(t, c.InvalidateTags(t.Context(), tag))
			wantMiss(t, c, "k")
		}
		_, err := c.GetOrLoadWith(t.Context(), "k", func(_ context.Context, l *Load[string, string]) (string, error) {
			l.Tag("")
			return "v", nil
		})
		require.ErrorContains(t, err, "want 1 to 512")
	},
	"Load.NoStore": func(t *testing.T) {
		c := strs(newRig(t))
		v, err := c.GetOrLoadWith(t.Context(), "k", func(_ context.Context, l *Load[string, string]) (string, error) {
			l.NoStore()
			return "v", nil
		})
		require.NoError(t, err)
		require.Equal(t, "v", v)
		require.NoError(t, c.Close()) // what it began is over
		require.Zero(t, c.Stats().Fills)
	},

	"Both": func(t *testing.T) {
		c := strs(newRig(t))
		require.Equal(t, Both, c.Mode())
		require.NoError(t, c.SetMode(Off))
		require.NoError(t, c.SetMode(Both))
		require.NoError(t, c.Set(t.Context(), "k", "v"))
		_, ok := c.Peek("k")
		require.True(t, ok)
	},
	"LocalOnly": func(t *testing.T) {
		r := newRig(t)
		c := strs(r)
		require.NoError(t, c.SetMode(LocalOnly))
		require.NoError(t, c.Set(t.Context(), "k", "v"))
		wantHit(t, c, "k", "v")
		wantMiss(t, strs(r), "k")
	},
	"RemoteOnly": func(t *testing.T) {
		r := newRig(t)
		c := strs(r)
		require.NoError(t, c.SetMode(RemoteOnly))
		require.NoError(t, c.Set(t.Context(), "k", "v"))
		_, ok := c.Peek("k")
		require.False(t, ok)
		wantHit(t, c, "k", "v")
		wantHit(t, strs(r), "k", "v")
	},
	"Off": func(t *testing.T) {
		c := strs(newRig(t))
		require.NoError(t, c.Set(t.Context(), "k", "old"))
		require.NoError(t, c.SetMode(Off))
		s := from("new")
		wantLoad(t, c, "k", s, "new")
		wantLoad(t, c, "k", s, "new")
		require.Equal(t, 2, s.loads())
		require.ErrorContains(t, c.SetMode(Off+1), "want Both, LocalOnly, RemoteOnly or Off")
	},

	"Cache.Scoped": func(t *testing.T) {
		c := strs(newRig(t))
		a, b := c.Scoped("a"), c.Scoped("b")
		for s, v := range map[*Cache[string, string]]string{c: "root", a: "of a", b: "of b"} {
			require.NoError(t, s.Set(t.Context(), "k", v, Tags("t")))
		}
		wantHit(t, c, "k", "root")
		wantHit(t, b, "k", "of b")
		require.NoError(t, a.InvalidateTags(t.Context(), "t"))
		wantMiss(t, a, "k")
		wantHit(t, b, "k", "of b")
		require.NoError(t, b.Clear(t.Context()))
		wantMiss(t, b, "k")
		wantHit(t, c, "k", "root")
		deep := a.Scoped("1").Scoped("2").Scoped("3")
		require.ErrorContains(t, deep.Set(t.Context(), "k", "v"), "nested")
	},
}

// conditional loads with an ETag and finds it again.
func conditional(t *testing.T) {
	r := newRig(t)
	c := strs(r, WithTTL(10*time.Second), WithStaleIfError(time.Hour))
	_, err := c.GetOrLoadWith(t.Context(), "k", func(_ context.Context, l *Load[string, string]) (string, error) {
		l.SetETag("7")
		l.Tag("t")
		return "v", nil
	})
	require.NoError(t, err)
	for i := range 2 {
		soon(t, func() bool { return c.Stats().Fills == int64(i)+1 })
		r.advance(11 * time.Second)
		v, err := c.GetOrLoadWith(t.Context(), "k", func(_ context.Context, l *Load[string, string]) (string, error) {
			_, etag, ok := l.Stale()
			require.True(t, ok)
			require.Equal(t, "7", etag)
			return l.NotModified()
		})
		require.NoError(t, err)
		require.Equal(t, "v", v)
	}
	soon(t, func() bool { return c.Stats().Fills == 3 })
	wantHit(t, c, "k", "v") // fresh again, and under its tags
	require.NoError(t, c.InvalidateTags(t.Context(), "t"))
	wantMiss(t, c, "k")
	_, err = c.GetOrLoadWith(t.Context(), "none", func(_ context.Context, l *Load[string, string]) (string, error) { return l.NotModified() })
	require.ErrorContains(t, err, "without a stale value")
}

// shouting is a codec of a user.
type shouting struct{}

func (shouting) Name() string { return "shouting" }
func (shouting) Append(dst []byte, v any) ([]byte, error) {
	return append(dst, strings.ToUpper(v.(string))...), nil
}
func (shouting) Decode(data []byte, v any) error {
	*v.(*string) = strings.ToLower(string(data))
	return nil
}

func TestEveryOptionDoesWhatItSays(t *testing.T) {
	for name, f := range options {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t)
		})
	}
}

// TestEveryOptionHasATest reads the sources: whatever a user can set is in the table above, and nothing else.
func TestEveryOptionHasATest(t *testing.T) {
	pkgs, err := parser.ParseDir(token.NewFileSet(), ".", func(f fs.FileInfo) bool { return !strings.HasSuffix(f.Name(), "_test.go") }, 0) //nolint:staticcheck // of one package, without types
	require.NoError(t, err)
	there := map[string]bool{"Cache.Scoped": true}
	for _, file := range pkgs["cache"].Files {
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if !d.Name.IsExported() {
					continue
				}
				if d.Recv == nil && d.Type.Results != nil && len(d.Type.Results.List) == 1 {
					if id, ok := d.Type.Results.List[0].Type.(*ast.Ident); ok && (id.Name == "Option" || id.Name == "EntryOption") {
						there[d.Name.Name] = true
					}
				}
				if d.Recv != nil && receiverOf(d) == "Load" {
					there["Load."+d.Name.Name] = true
				}
			case *ast.GenDecl:
				typ := ""
				for _, s := range d.Specs {
					v, ok := s.(*ast.ValueSpec)
					if !ok || d.Tok != token.CONST {
						continue
					}
					if id, ok := v.Type.(*ast.Ident); ok {
						typ = id.Name
					}
					if typ == "Mode" {
						there[v.Names[0].Name] = true
					}
				}
			}
		}
	}
	require.Greater(t, len(there), 40, "%v", there)
	for name := range there {
		require.Contains(t, options, name, "no test shows that %s does something", name)
	}
	for name := range options {
		require.Contains(t, there, name, "there is no such option any more")
	}
}

func receiverOf(d *ast.FuncDecl) string {
	x := d.Recv.List[0].Type
	if s, ok := x.(*ast.StarExpr); ok {
		x = s.X
	}
	switch g := x.(type) {
	case *ast.IndexListExpr:
		x = g.X
	case *ast.IndexExpr:
		x = g.X
	}
	if id, ok := x.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

// TestNewTellsAllFaultsAtOnce: whoever starts a program wants to mend its configuration once.
func TestNewTellsAllFaultsAtOnce(t *testing.T) {
	_, err := New[float64, func()](nil, "", WithTTL(0), WithJitter(2), WithLocal(0, 0), WithStaleWhileRevalidate(-1), WithStaleIfError(-1),
		WithStaleIfErrorThrottle(-1), WithEarlyRefresh(-1), WithLoadTimeout(time.Hour, 0), WithMaxLoads(-1), WithLease(time.Millisecond),
		WithNegativeTTL(-1), WithCoherence(7), WithStaleWhileDisconnected(-1), WithCompression(-1), WithMaxValueSize(0),
		WithRecoveryQueue(-1), WithShadowCheck(2, nil), WithEncryption(NewEncryptionKey("k", []byte("never shown 0123"))))
	require.Error(t, err)
	for _, part := range []string{"nil client", "time to live is 0s", "jitter is 2", "0 entries", "maximal age", "stale-while-revalidate", "stale-if-error is",
		"throttle", "beta", "hard load timeout", "soft load timeout is 1h0m0s", "-1 loads", "lease is 1ms; want 100ms", "negative time to live",
		"coherence is 7", "disconnected", "compression", "maximal value size", "queue of -1", "shadow check is 2", "float64", "func()", "16 bytes"} {
		require.ErrorContains(t, err, part)
	}
	require.NotContains(t, err.Error(), "never shown", "the key is shown")

	client := redisxtest.NewFake(t).Client()
	for name, opts := range map[string][]Option{
		"leave no tier":   {WithoutLocal(), WithoutRemote()},
		"codec is nil":    {WithCodec(nil)},
		"without a key":   {WithEncryption()},
		"at least 1024":   {WithLocalBytes(10, time.Minute)},
		"want 0 to 0.9":   {WithJitter(nan())},
		"10 years":        {WithTTL(maxDuration + 1)},
		"cannot store":    {WithCodec(Proto)},
		"want 0 to 1000":  {WithEarlyRefresh(nan())},
		"want 1 to 512 M": {WithMaxValueSize(1 << 30)},
	} {
		_, err := New[string, string](client, "things", opts...)
		require.ErrorContains(t, err, name)
	}
	for _, name := range []string{"", "a b", "a{b}", strings.Repeat("n", 129)} {
		_, err := New[string, string](client, name)
		require.Error(t, err, "name %q", name)
	}
	c, err := New[string, string](client, "things", nil, WithCoherence(TTLOnly), nil)
	require.NoError(t, err, "nil options are no options")
	require.NoError(t, c.Close())
}

func nan() float64 { z := 0.0; return z / z }
