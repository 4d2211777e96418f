package cache

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

const instances = 3

// eachFleet runs f as subtests for both drivers and the transports.
func eachFleet(t *testing.T, f func(t *testing.T, driverName string, how Coherence), transports ...Coherence) {
	t.Helper()
	if len(transports) == 0 {
		transports = []Coherence{Tracking, PubSub}
	}
	for _, name := range []string{"goredis", "rueidis"} {
		for _, how := range transports {
			t.Run(name+"/"+how.String(), func(t *testing.T) { f(t, name, how) })
		}
	}
}

// fleet opens instances of one cache, each with a client of its own.
func fleet(t *testing.T, driverName, url string, how Coherence, wrap func(i int, d driver.Driver) driver.Driver, opts ...Option) []*Cache[int, fact] {
	t.Helper()
	urls := make([]string, instances)
	for i := range urls {
		urls[i] = url
	}
	return fleetAt(t, driverName, urls, nil, how, wrap, opts...)
}

func fleetAt(t *testing.T, driverName string, urls []string, dial dialFunc, how Coherence, wrap func(i int, d driver.Driver) driver.Driver, opts ...Option) []*Cache[int, fact] {
	t.Helper()
	prefix := redisxtest.Prefix(t)
	var caches []*Cache[int, fact]
	for i, url := range urls {
		var w func(driver.Driver) driver.Driver
		if wrap != nil {
			w = func(d driver.Driver) driver.Driver { return wrap(i, d) }
		}
		client := historyClient(t, driverName, url, dial, w, core.WithKeyPrefix(prefix))
		c, err := New[int, fact](client, "facts", append([]Option{WithCoherence(how), WithTTL(20 * time.Second), WithLease(time.Second)}, opts...)...)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		caches = append(caches, c)
	}
	awaitTrust(t, caches...)
	return caches
}

// bounds of staleness on other instances, generous for a busy machine. Under the race detector and beside three others a
// goroutine may wait for a second.
const (
	boundTrusted = 5 * time.Second
	boundFaults  = 12 * time.Second
)

func TestHistoryWithoutFaults(t *testing.T) {
	redisxtest.Each(t, func(t *testing.T, c *core.Client) {
		for _, how := range []Coherence{Tracking, PubSub} {
			t.Run(how.String(), func(t *testing.T) {
				var caches []*Cache[int, fact]
				for range instances {
					caches = append(caches, open[int, fact](t, c, "facts-"+how.String(), WithCoherence(how)))
				}
				h := newHistory(64, caches...)
				h.pause = 200 * time.Microsecond
				least := bulk()
				if strings.Contains(t.Name(), "/fake/") { // is slower
					least /= 8
				}
				h.run(t, 500*time.Millisecond, least, 10)
				h.check(t, boundTrusted)
				t.Logf("all agree after %v", h.converges(t, 0))
			})
		}
	})
}

func TestHistoryUnderEvictionInTheLocalTier(t *testing.T) {
	eachFleet(t, func(t *testing.T, name string, how Coherence) {
		h := newHistory(256, fleet(t, name, redisxtest.SharedServer(t).URL(), how, nil, WithLocal(32, time.Second), WithTTL(200*time.Millisecond))...)
		h.run(t, time.Second, 0, 20)
		h.check(t, boundTrusted)
		h.converges(t, 0)
	}, Tracking, PubSub)
}

func TestHistoryWithTTLOnly(t *testing.T) {
	eachFleet(t, func(t *testing.T, name string, how Coherence) {
		h := newHistory(64, fleet(t, name, redisxtest.SharedServer(t).URL(), how, nil, WithLocal(1000, 200*time.Millisecond))...)
		h.run(t, time.Second, 0, 20)
		h.check(t, boundTrusted)
		h.converges(t, 0)
	}, TTLOnly)
}

// Messages and invalidations are dropped, and the drivers tell; commands are lost, delayed and run twice.
func TestHistoryWithLostMessagesAndReplies(t *testing.T) {
	eachFleet(t, func(t *testing.T, name string, how Coherence) {
		var lossy []chaos.Driver
		wrap := func(i int, d driver.Driver) driver.Driver {
			w := chaos.Wrap(d, chaos.Script{Seed: uint64(i), Rules: []chaos.Rule{
				chaos.OnInvalidation().P(0.003).LoseInvalidation(5),
				chaos.OnMessage().P(0.003).LoseSubscription(5),
				chaos.On("EVALSHA").P(0.004).LoseReply(),
				chaos.On("EVALSHA").P(0.004).LoseRequest(),
				chaos.On("EVALSHA").P(0.01).LatencyBetween(time.Millisecond, 20*time.Millisecond),
				chaos.On("GET").P(0.004).LoseReply(),
				chaos.On("GET").P(0.02).LatencyBetween(time.Millisecond, 10*time.Millisecond),
				chaos.On("EVALSHA").P(0.002).Refuse(),
			}})
			lossy = append(lossy, w)
			return w
		}
		h := newHistory(64, fleet(t, name, redisxtest.SharedServer(t).URL(), how, wrap)...)
		h.run(t, 2*time.Second, 0, 20)
		for _, w := range lossy {
			w.Calm()
		}
		h.check(t, boundFaults)
		t.Logf("all agree after %v", h.converges(t, 0))
	})
}

// Connections are closed by the server, reset, cut off in one direction and in both; Redis restarts with and without its
// data, is paused, and emptied.
func TestHistoryWithABrokenNetworkAndRestarts(t *testing.T) {
	eachFleet(t, func(t *testing.T, name string, how Coherence) {
		t.Parallel()
		s := redisxtest.StartServer(t, redisxtest.OwnProcess())
		var urls []string
		var px []*chaos.Proxy
		for range instances {
			p := chaos.NewProxy(t, s.Addr())
			px, urls = append(px, p), append(urls, p.URL(s.URL()))
		}
		h := newHistory(64, fleetAt(t, name, urls, nil, how, nil)...)
		restart := func(keep bool) func() func() {
			return func() func() { s.Restart(keep); return nil }
		}
		kill := func(kind string) func() func() {
			return func() func() { s.KillClients(kind); return nil }
		}
		run := chaos.Run(t,
			chaos.At(100*time.Millisecond).Do("kill pubsub", kill("pubsub")),
			chaos.At(250*time.Millisecond).Do("kill normal", kill("normal")),
			chaos.At(400*time.Millisecond).BlackHole(px[0], chaos.ToClient).For(700*time.Millisecond),
			chaos.At(600*time.Millisecond).Do("flush", func() func() { s.Do("FLUSHALL"); return nil }),
			chaos.At(900*time.Millisecond).BlackHole(px[1], chaos.ToServer).For(700*time.Millisecond),
			chaos.At(1200*time.Millisecond).Reset(px[2]),
			chaos.At(1300*time.Millisecond).Refuse(px[2]).For(500*time.Millisecond),
			chaos.At(1700*time.Millisecond).Do("restart", restart(true)),
			chaos.At(2000*time.Millisecond).Pause(s).For(700*time.Millisecond),
			chaos.At(2900*time.Millisecond).Do("restart empty", restart(false)),
			chaos.At(3200*time.Millisecond).HalfOpen(px[0]).For(600*time.Millisecond),
			chaos.At(3900*time.Millisecond).Do("flush scripts", func() func() { s.FlushScripts(); return nil }),
		)
		h.run(t, 4500*time.Millisecond, 0, 20)
		require.NoError(t, run.Wait())
		h.check(t, boundFaults)
		t.Logf("all agree after %v", h.converges(t, 15*time.Second))
	})
}

func TestHistoryUnderEvictionInRedis(t *testing.T) {
	eachFleet(t, func(t *testing.T, name string, how Coherence) {
		s := redisxtest.StartServer(t, redisxtest.OwnProcess(), redisxtest.Config("maxmemory-policy", "allkeys-lru"))
		h := newHistory(512, fleet(t, name, s.URL(), how, nil)...)
		base, err := usedMemory(s)
		require.NoError(t, err)
		require.NoError(t, s.Do("CONFIG", "SET", "maxmemory", base).Err())
		h.run(t, 1500*time.Millisecond, 0, 20)
		require.NoError(t, s.Do("CONFIG", "SET", "maxmemory", "0").Err())
		h.check(t, boundTrusted)
		h.converges(t, 0)
	})
}

func TestHistoryThroughSentinelFailovers(t *testing.T) {
	eachFleet(t, func(t *testing.T, name string, how Coherence) {
		t.Parallel()
		s := redisxtest.StartSentinel(t, 1)
		h := newHistory(64, fleet(t, name, s.URL(), how, nil)...)
		over := make(chan struct{})
		go func() {
			defer close(over)
			s.Failover()
		}()
		h.run(t, 3*time.Second, 0, 20)
		<-over
		h.check(t, 2*boundFaults)
		t.Logf("all agree after %v", h.converges(t, 20*time.Second))
	})
}

func TestHistoryThroughClusterFailoversAndSlotMoves(t *testing.T) {
	for _, how := range []Coherence{Tracking, PubSub} {
		cl := redisxtest.StartCluster(t, 3, 1)
		for _, name := range []string{"goredis", "rueidis"} {
			t.Run(name+"/"+how.String(), func(t *testing.T) {
				caches := fleet(t, name, cl.URL(), how, nil)
				h := newHistory(64, caches...)
				over := make(chan struct{})
				var moves atomic.Int64
				go func() {
					defer close(over)
					nodes := cl.Nodes()
					primaries := map[*redisxtest.Server]bool{}
					for k := range h.keys {
						tg, err := caches[0].target(k)
						if err == nil {
							primaries[cl.Node(tg.keys.v)] = true
						}
					}
					for k := range 12 {
						tg, _ := caches[0].target(k)
						for p := range primaries {
							if p != cl.Node(tg.keys.v) {
								cl.MoveSlot(tg.keys.v, p)
								moves.Add(1)
								break
							}
						}
					}
					tg, _ := caches[0].target(0)
					cl.Failover(cl.Node(tg.keys.v))
					_ = nodes
				}()
				h.run(t, 4*time.Second, 0, 20)
				<-over
				t.Logf("%d slots moved", moves.Load())
				h.check(t, 2*boundFaults)
				t.Logf("all agree after %v", h.converges(t, 20*time.Second))
			})
		}
	}
}

// A driver that loses messages without telling, which none may do, is found out by the numbers of the messages; only what
// came in before may be old.
func TestHistoryFindsASilentGap(t *testing.T) {
	eachFleet(t, func(t *testing.T, name string, how Coherence) {
		wrap := func(i int, d driver.Driver) driver.Driver {
			if i != 0 {
				return d
			}
			return chaos.Wrap(d, chaos.Script{Seed: 7, Rules: []chaos.Rule{chaos.OnMessage().P(0.1).BugSilentGap(3)}})
		}
		h := newHistory(64, fleet(t, name, redisxtest.SharedServer(t).URL(), how, wrap)...)
		h.run(t, time.Second, 0, 20)
		h.check(t, boundTrusted)
		// Everything changes once more: without a look at the numbers what was missed would stay for the time to live, 18 s.
		h.converges(t, 0)
		for k := range h.keys {
			v := h.truth[k].Add(1)
			h.all[1].done(k, v, h.all[1].c.Delete(t.Context(), k))
		}
		require.NotEmpty(t, h.laggards(t.Context()), "nothing was missed")
		t.Logf("all agree after %v", h.converges(t, boundFaults))
		require.Positive(t, h.all[0].c.Stats().Gaps)
	}, PubSub)
}

// Without these the tests above would prove nothing: what is broken on purpose has to be found.

// unguarded has every fill succeed, whatever became of its lease: the race of a deletion with a load.
type unguarded struct {
	driver.Driver
	driver.Tracker
	driver.Subscriber
}

var unguardedFill = driver.NewScript("cache.fill", `
local t = redis.call('TIME')
local stamp = t[1] .. string.rep('0', 6 - #t[2]) .. t[2]
redis.call('SET', KEYS[1], stamp .. ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2], KEYS[3])
return {1, stamp, 0}`)

func (u unguarded) broken(c driver.Cmd) driver.Cmd {
	if c.Script != fillScript {
		return c
	}
	keys := c.Args[c.Keys.First : c.Keys.First+c.Keys.Count]
	return unguardedFill.Cmd(keys, c.Args[c.Keys.First+c.Keys.Count:])
}

func (u unguarded) Do(ctx context.Context, c driver.Cmd) driver.Reply {
	return u.Driver.Do(ctx, u.broken(c))
}

func (u unguarded) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	out := make([]driver.Cmd, len(cmds))
	for i := range cmds {
		out[i] = u.broken(cmds[i])
	}
	return u.Driver.DoMulti(ctx, out)
}

func TestTheCheckerFindsFillsThatComeTooLate(t *testing.T) {
	eachFleet(t, func(t *testing.T, name string, how Coherence) {
		wrap := func(_ int, d driver.Driver) driver.Driver {
			return unguarded{d, d.(driver.Tracker), d.(driver.Subscriber)}
		}
		h := newHistory(8, fleet(t, name, redisxtest.SharedServer(t).URL(), how, wrap)...)
		h.pause = 2 * time.Millisecond
		for range 20 {
			h.run(t, 200*time.Millisecond, 0, 200)
			if h.violations() > 0 {
				return
			}
		}
		t.Error("no stale read was found")
	})
}

func TestTheCheckerFindsInstancesThatAreNotTold(t *testing.T) {
	caches := fleet(t, "goredis", redisxtest.SharedServer(t).URL(), TTLOnly, nil, WithLocal(1000, time.Minute))
	h := newHistory(16, caches...)
	for range 20 { // on a busy machine little happens at a time
		h.run(t, 500*time.Millisecond, 0, 20)
		require.Zero(t, h.violations(), "of the own ones it knows")
		if len(h.laggards(t.Context())) > 0 {
			return
		}
	}
	t.Error("no instance was found behind")
}

// The operations of one instance have an order that agrees with time: it is a register.
func TestOneInstanceIsLinearizable(t *testing.T) {
	eachFleet(t, func(t *testing.T, name string, how Coherence) {
		for _, faulty := range []bool{false, true} {
			wrap := func(i int, d driver.Driver) driver.Driver {
				if !faulty {
					return d
				}
				return chaos.Wrap(d, chaos.Script{Seed: uint64(i), Rules: []chaos.Rule{
					chaos.OnInvalidation().P(0.02).LoseInvalidation(3),
					chaos.OnMessage().P(0.02).LoseSubscription(3),
					chaos.On("EVALSHA").P(0.02).LoseReply(),
					chaos.On("EVALSHA").P(0.02).LoseRequest(),
					chaos.On("EVALSHA").P(0.05).Latency(2 * time.Millisecond),
				}})
			}
			t.Run(map[bool]string{false: "calm", true: "faults"}[faulty], func(t *testing.T) {
				linearizable(t, fleet(t, name, redisxtest.SharedServer(t).URL(), how, wrap))
			})
		}
	}, Tracking, PubSub, TTLOnly)
}
