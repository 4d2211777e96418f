package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// coherentWithin is the bound on how long after Redis is back everything has to be coherent: a second is promised, the rest
// is for busy machines.
const coherentWithin = 6 * time.Second

// latest returns why a result is not the version wanted.
func latest(f fact, err error, want int64) error {
	if err == nil && f.Version != want {
		err = fmt.Errorf("version %d of key %d; want %d", f.Version, f.Key, want)
	}
	return err
}

// A logbook keeps what is logged.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logbook) option() core.Option {
	return core.WithLogger(slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug})))
}

// outages are the ways Redis can be away; each begins one and returns its end.
var outages = map[string]func(s *redisxtest.Server, px []*chaos.Proxy) func(){
	"killed": func(s *redisxtest.Server, _ []*chaos.Proxy) func() {
		s.Kill()
		return func() { s.Restart(false) }
	},
	"paused": func(s *redisxtest.Server, _ []*chaos.Proxy) func() {
		s.Pause()
		return s.Resume
	},
	"unreachable": func(_ *redisxtest.Server, px []*chaos.Proxy) func() {
		var ends []func()
		for _, p := range px {
			ends = append(ends, p.BlackHole(chaos.Both))
		}
		return func() {
			for _, end := range ends {
				end()
			}
		}
	},
}

// proxied opens instances behind a proxy each.
func proxied(t *testing.T, name string, how Coherence, opts ...Option) (*redisxtest.Server, []*chaos.Proxy, []*Cache[int, fact]) {
	t.Helper()
	s := redisxtest.StartServer(t, redisxtest.OwnProcess())
	var urls []string
	var px []*chaos.Proxy
	for range instances {
		p := chaos.NewProxy(t, s.Addr())
		px, urls = append(px, p), append(urls, p.URL(s.URL()))
	}
	return s, px, fleetAt(t, name, urls, nil, how, nil, opts...)
}

// outageTime is how long Redis is away.
func outageTime() time.Duration {
	if testing.Short() {
		return 1500 * time.Millisecond
	}
	return 3 * time.Second
}

func TestRedisIsAway(t *testing.T) {
	for kind, begin := range outages {
		t.Run(kind, func(t *testing.T) {
			eachFleet(t, func(t *testing.T, name string, how Coherence) {
				t.Parallel()
				away(t, name, how, begin)
			}, Tracking, PubSub, TTLOnly)
		})
	}
}

func away(t *testing.T, name string, how Coherence, begin func(*redisxtest.Server, []*chaos.Proxy) func()) {
	const warm, cold, deleted, set = 0, 1, 2, 3 // keys
	ctx := t.Context()
	s, px, caches := proxied(t, name, how, WithLocal(1000, 2*time.Second))
	src := newRegisters(4)
	var loads [instances][4]atomic.Int64
	loader := func(i int) func(context.Context, *Load[int, fact]) (fact, error) {
		return func(_ context.Context, l *Load[int, fact]) (fact, error) {
			loads[i][l.Key()].Add(1)
			l.Tag("all")
			return fact{l.Key(), src.truth[l.Key()].Load()}, nil
		}
	}
	for i, c := range caches {
		for _, k := range []int{warm, deleted, set} {
			redisxtest.Eventually(t, 0, func(ctx context.Context) error {
				if _, err := c.GetOrLoadWith(ctx, k, loader(i)); err != nil {
					return err
				}
				if _, ok := c.Peek(k); !ok {
					return errors.New("not in the local tier")
				}
				return nil
			})
		}
	}
	for i := range loads {
		for k := range loads[i] {
			loads[i][k].Store(0)
		}
	}

	end := begin(s, px)
	var once sync.Once
	defer once.Do(end)
	began := time.Now()

	// The first calls may have to find out.
	src.truth[deleted].Add(1)
	require.ErrorIs(t, caches[0].Delete(ctx, deleted), ErrQueued)
	src.truth[set].Add(1)
	require.ErrorIs(t, caches[0].Set(ctx, set, fact{set, 2}), ErrQueued)
	require.ErrorIs(t, caches[0].InvalidateTags(ctx, "nothing has it"), ErrQueued)
	require.Positive(t, caches[0].Stats().Queued)
	f, err := caches[0].GetOrLoadWith(ctx, set, loader(0))
	require.NoError(t, err)
	require.EqualValues(t, 2, f.Version, "what was set during the outage")

	var wg sync.WaitGroup
	for i, c := range caches {
		for range 4 {
			wg.Go(func() {
				for time.Since(began) < outageTime() {
					for _, k := range []int{warm, cold, deleted, set} {
						at := time.Now()
						f, err := c.GetOrLoadWith(ctx, k, loader(i))
						if err != nil {
							t.Errorf("instance %d, key %d: %v", i, k, err)
							return
						}
						if d := time.Since(at); d > 10*time.Second {
							t.Errorf("instance %d, key %d: took %v", i, k, d)
						}
						if i == 0 && f.Version < src.truth[k].Load() {
							t.Errorf("key %d: version %d of %d was served where it had been invalidated", k, f.Version, src.truth[k].Load())
						}
					}
					time.Sleep(time.Millisecond) // a pace
				}
			})
		}
	}
	wg.Wait()
	// The warm key is in all local tiers; others are loaded once where nobody has them.
	for i := range loads {
		for k := range loads[i] {
			if n := loads[i][k].Load(); n > 1 {
				t.Errorf("instance %d loaded key %d %d times during the outage; want once at most", i, k, n)
			}
		}
		if n := loads[i][warm].Load(); n > 0 {
			t.Errorf("instance %d loaded the warm key %d times during the outage", i, n)
		}
	}

	once.Do(end)
	back := time.Now()
	redisxtest.Eventually(t, coherentWithin, func(ctx context.Context) error {
		for i, c := range caches {
			st := c.Stats()
			if !st.Trusted || st.Queued > 0 {
				return fmt.Errorf("instance %d: trusted %v, %d queued", i, st.Trusted, st.Queued)
			}
			for k := range 4 {
				f, err := c.GetOrLoadWith(ctx, k, loader(i))
				if err := latest(f, err, src.truth[k].Load()); err != nil {
					return fmt.Errorf("instance %d: %w", i, err)
				}
			}
		}
		return nil
	})
	t.Logf("coherent %v after Redis was back", time.Since(back))
	// And it is used again.
	redisxtest.Eventually(t, coherentWithin, func(ctx context.Context) error {
		src.truth[deleted].Add(1)
		if err := caches[1].Delete(ctx, deleted); err != nil {
			return err
		}
		return nil
	})
}

func TestTooManyInvalidationsDuringAnOutageClear(t *testing.T) {
	eachFleet(t, func(t *testing.T, name string, how Coherence) {
		ctx := t.Context()
		_, px, caches := proxied(t, name, how, WithRecoveryQueue(4))
		src := newRegisters(32)
		for _, c := range caches {
			for k := range 32 {
				_, err := c.GetOrLoadWith(ctx, k, src.load)
				require.NoError(t, err)
			}
		}
		end := px[0].Refuse()
		px[0].Reset()
		for k := range 16 {
			src.truth[k].Add(1)
			require.ErrorIs(t, caches[0].Delete(ctx, k), ErrQueued)
			f, err := caches[0].GetOrLoadWith(ctx, k, src.load)
			require.NoError(t, err)
			require.Equal(t, fact{k, 2}, f)
		}
		require.EqualValues(t, 1, caches[0].Stats().QueueOverflows)
		end()
		redisxtest.Eventually(t, coherentWithin, func(ctx context.Context) error {
			for i, c := range caches {
				if st := c.Stats(); st.Queued > 0 {
					return fmt.Errorf("instance %d: %d queued", i, st.Queued)
				}
				for k := range 32 {
					f, err := c.GetOrLoadWith(ctx, k, src.load)
					if err := latest(f, err, src.truth[k].Load()); err != nil {
						return fmt.Errorf("instance %d: %w", i, err)
					}
				}
			}
			return nil
		})
	})
}

func TestCloseTellsWhatWasNotDelivered(t *testing.T) {
	eachFleet(t, func(t *testing.T, name string, how Coherence) {
		ctx := t.Context()
		_, px, caches := proxied(t, name, how)
		for i, c := range caches[:2] {
			require.NoError(t, c.Set(ctx, i, fact{i, 1}))
		}
		for _, p := range px[:2] {
			p.Refuse()
			p.Reset()
		}
		for i, c := range caches[:2] {
			require.ErrorIs(t, c.Delete(ctx, i), ErrQueued)
		}
		began := time.Now()
		require.ErrorContains(t, caches[0].Close(), "1 invalidation")
		require.Less(t, time.Since(began), 10*time.Second)
		px[1].Heal()
		require.Eventually(t, func() bool { return caches[1].Stats().Queued == 0 }, coherentWithin, time.Millisecond)
		require.NoError(t, caches[1].Close())
		_, ok, err := caches[2].Get(ctx, 1)
		require.NoError(t, err)
		require.False(t, ok)
	}, Tracking)
}

// Whatever Redis answers to commands, to subscriptions and to new clients: readers get values.
func TestReadersGetNoErrorsOfRedis(t *testing.T) {
	type trouble struct {
		name  string
		begin func(s *redisxtest.Server) func()
	}
	troubles := []trouble{
		{"OOM", func(s *redisxtest.Server) func() { return s.FillMemory() }},
		{"READONLY", func(s *redisxtest.Server) func() { return s.ReadOnly() }},
		{"LOADING", func(s *redisxtest.Server) func() { return s.Loading(time.Second) }},
		{"BUSY", func(s *redisxtest.Server) func() { return s.Busy(time.Second) }},
		{"MISCONF", func(s *redisxtest.Server) func() { return s.FailSaves() }},
		{"no scripts", func(s *redisxtest.Server) func() { return s.SetACL("app", "-eval", "-evalsha") }},
		{"no tracking", func(s *redisxtest.Server) func() {
			end := s.SetACL("app", "-client|tracking")
			s.KillClients("normal")
			return end
		}},
		{"no subscriptions", func(s *redisxtest.Server) func() {
			end := s.SetACL("app", "resetchannels", "-subscribe")
			s.KillClients("pubsub")
			return end
		}},
		{"no commands", func(s *redisxtest.Server) func() { return s.SetACL("app", "-@all") }},
		{"new clients refused", func(s *redisxtest.Server) func() { return s.RefuseClients() }},
	}
	const password = "correct-horse-battery"
	for _, name := range []string{"goredis", "rueidis"} {
		t.Run(name, func(t *testing.T) {
			for _, tr := range troubles {
				t.Run(tr.name, func(t *testing.T) {
					s := redisxtest.StartServer(t, redisxtest.OwnProcess(), redisxtest.User("app", password, "~*", "&*", "+@all"))
					var log logbook
					client := historyClient(t, name, s.UserURL("app"), nil, nil, log.option())
					ctx := t.Context()
					for _, how := range []Coherence{Tracking, PubSub} {
						c := open[int, fact](t, client, "facts-"+how.String(), WithCoherence(how))
						src := newRegisters(64)
						_, err := c.GetOrLoadWith(ctx, 0, src.load)
						require.NoError(t, err)
						end := tr.begin(s)
						for round := range 20 {
							for k := range 10 {
								f, err := c.GetOrLoadWith(ctx, k, src.load)
								require.NoError(t, err)
								require.Equal(t, fact{k, src.truth[k].Load()}, f)
							}
							if round > 0 {
								continue
							}
							v := src.truth[1].Add(1)
							if err := c.Delete(ctx, 1); err != nil && !errors.Is(err, ErrQueued) {
								t.Logf("%v: a deletion fails for good: %v", how, err)
								src.truth[1].Store(v - 1) // nothing was promised
							}
						}
						end()
						redisxtest.Eventually(t, coherentWithin, func(ctx context.Context) error {
							if st := c.Stats(); !st.Trusted || st.Queued > 0 {
								return fmt.Errorf("trusted %v, %d queued", st.Trusted, st.Queued)
							}
							f, err := c.GetOrLoadWith(ctx, 1, src.load)
							return latest(f, err, src.truth[1].Load())
						})
					}
					text := log.String()
					require.NotContains(t, text, password)
					lines := strings.Split(strings.TrimSpace(text), "\n")
					if len(lines) > 60 {
						t.Errorf("%d lines were logged, such as %s", len(lines), lines[len(lines)/2])
					}
					t.Logf("%d lines logged, the first: %.300s", len(lines), lines[0])
				})
			}
		})
	}
}

// A process that dies in the middle of a load leaves its lease behind: the others wait for that long and not longer.
func TestOthersTakeOverFromAProcessThatDied(t *testing.T) {
	eachFleet(t, func(t *testing.T, name string, how Coherence) {
		ctx := t.Context()
		_, px, caches := proxied(t, name, how)
		entered, leave := make(chan struct{}), make(chan struct{})
		var died sync.WaitGroup
		died.Go(func() {
			_, _ = caches[0].GetOrLoadWith(ctx, 1, func(context.Context, *Load[int, fact]) (fact, error) {
				close(entered)
				<-leave
				return fact{1, 1}, nil
			})
		})
		<-entered
		end := px[0].BlackHole(chaos.Both) // it does not renew, and does not tell
		began := time.Now()
		f, err := caches[1].GetOrLoadWith(ctx, 1, func(context.Context, *Load[int, fact]) (fact, error) { return fact{1, 2}, nil })
		require.NoError(t, err)
		require.Equal(t, fact{1, 2}, f)
		took := time.Since(began)
		t.Logf("taken over after %v of a lease of 1 s", took)
		require.Less(t, took, coherentWithin)
		end()
		close(leave)
		died.Wait()
		// Its fill comes too late.
		redisxtest.Eventually(t, coherentWithin, func(ctx context.Context) error {
			f, _, err := caches[2].Get(ctx, 1)
			if err := latest(f, err, 2); err != nil {
				return err
			}
			if st := caches[0].Stats(); st.Fills+st.FillsRejected+st.FillsFailed == 0 {
				return errors.New("the late fill is not there yet")
			}
			return nil
		})
		require.Zero(t, caches[0].Stats().Fills)
	}, Tracking, PubSub, TTLOnly)
}

// A loader that panics, ends its goroutine or hangs harms its own callers only, and gives the lease back or loses it.
func TestALoaderThatPanicsOrHangsHoldsUpNobody(t *testing.T) {
	eachFleet(t, func(t *testing.T, name string, how Coherence) {
		ctx := t.Context()
		caches := fleet(t, name, redisxtest.SharedServer(t).URL(), how, nil, WithLease(30*time.Second), WithLoadTimeout(0, 500*time.Millisecond))
		ok := func(_ context.Context, l *Load[int, fact]) (fact, error) { return fact{l.Key(), 1}, nil }
		_, err := caches[0].GetOrLoadWith(ctx, 1, func(context.Context, *Load[int, fact]) (fact, error) { panic("of the loader") })
		var panicked *PanicError
		require.ErrorAs(t, err, &panicked)
		release := make(chan struct{})
		defer close(release)
		_, err = caches[0].GetOrLoadWith(ctx, 2, func(context.Context, *Load[int, fact]) (fact, error) { <-release; return fact{}, nil })
		require.ErrorIs(t, err, ErrLoadTimeout)
		began := time.Now()
		f, err := caches[1].GetOrLoadWith(ctx, 1, ok)
		require.NoError(t, err)
		require.Equal(t, fact{1, 1}, f)
		require.Less(t, time.Since(began), 10*time.Second, "the lease of the panic was released")
		// The hanging one has lost its lease with its time: the next load is another's, long before the lease would end.
		redisxtest.Eventually(t, coherentWithin, func(ctx context.Context) error {
			_, err := caches[0].GetOrLoadWith(ctx, 2, ok)
			return err
		})
	}, Tracking)
}
