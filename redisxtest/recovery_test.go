package redisxtest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// These tests show what the maintained drivers do while servers fail over and slots move: how long they take, that nothing is
// applied twice, and that nothing is missed in silence.

// outcome of a write, as its caller was told.
type outcome int

const (
	acknowledged outcome = iota
	doubtful
	notDone // not sent, or refused by the server
)

func outcomeOf(t testing.TB, r driver.Reply) outcome {
	t.Helper()
	err := r.Err()
	server, ok := errors.AsType[*driver.ServerError](err)
	switch {
	case err == nil:
		return acknowledged
	case errors.Is(err, driver.ErrUnknownOutcome):
		return doubtful
	case errors.Is(err, driver.ErrNotSent):
		return notDone
	case ok && server.Code() != "":
		return notDone
	}
	t.Errorf("an error that says nothing of the outcome: %v", err)
	return doubtful
}

// write is one INCR of a key of its own: a second application shows.
type write struct {
	key  string
	sent time.Time
	done time.Time
	was  outcome
}

// load writes to keys with a tag, until it is stopped: one at a time, in lists and by script.
type load struct {
	t    testing.TB
	name string
	keys string // what the keys of this load have in their names and no others
	d    driver.Driver
	tag  func(i int) string
	stop atomic.Bool
	wg   sync.WaitGroup

	mu     sync.Mutex
	writes []write
}

var incr = driver.NewScript("redisxtest.recovery.incr", "return redis.call('INCR', KEYS[1])")

// writers is how many goroutines a load has, one kind of write each.
const writers = 3

func startLoad(t testing.TB, name string, d driver.Driver, tag func(i int) string) *load {
	l := &load{t: t, name: name, keys: Prefix(t), d: d, tag: tag}
	for g := range writers {
		l.wg.Go(func() {
			for i := 0; !l.stop.Load(); i++ {
				l.write(g, i)
				time.Sleep(2 * time.Millisecond) // thousands of keys are enough
			}
		})
	}
	return l
}

func (l *load) write(kind, i int) {
	key := func(j int) string { return fmt.Sprintf("{%s}%s%d:%d:%d", l.tag(i), l.keys, kind, i, j) }
	plain := func(j int) driver.Cmd { return driver.Cmd{Args: []string{"INCR", key(j)}, Keys: driver.Key(1)} }
	var list []driver.Cmd
	switch kind {
	case 0:
		list = []driver.Cmd{plain(0)}
	case 1:
		list = []driver.Cmd{incr.Cmd([]string{key(0)}, nil)}
	default:
		list = []driver.Cmd{plain(0), incr.Cmd([]string{key(1)}, nil), plain(2), plain(3)}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	sent := time.Now()
	var replies []driver.Reply
	if len(list) == 1 {
		replies = []driver.Reply{l.d.Do(ctx, list[0])}
	} else {
		replies = l.d.DoMulti(ctx, list)
	}
	done := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for j, r := range replies {
		l.writes = append(l.writes, write{key: key(j), sent: sent, done: done, was: outcomeOf(l.t, r)})
	}
}

// recovered waits for the first write that was sent after the fault and acknowledged, and returns how long after it was.
func (l *load) recovered(fault time.Time) time.Duration {
	l.t.Helper()
	for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		l.mu.Lock()
		for i := len(l.writes) - 1; i >= 0 && l.writes[i].done.After(fault); i-- {
			// A write of a moment after a fault may meet a server that is not down yet.
			if w := l.writes[i]; w.was == acknowledged && w.sent.After(fault) {
				first := w.done
				for ; i >= 0 && l.writes[i].done.After(fault); i-- {
					if w := l.writes[i]; w.was == acknowledged && w.sent.After(fault) {
						first = w.done
					}
				}
				l.mu.Unlock()
				return first.Sub(fault)
			}
		}
		l.mu.Unlock()
	}
	l.t.Errorf("%s: no write succeeds %s after the fault", l.name, readyTimeout)
	return readyTimeout
}

// end stops the load and compares what its callers were told with what the server has. It returns how many acknowledged
// writes are missing, which asynchronous replication allows where a primary was replaced.
func (l *load) end() (lost int) {
	l.t.Helper()
	l.stop.Store(true)
	l.wg.Wait()
	var count [3]int
	var faults []string
	for at := 0; at < len(l.writes); at += 500 {
		part := l.writes[at:min(at+500, len(l.writes))]
		var list []driver.Cmd
		for _, w := range part {
			list = append(list, driver.Cmd{Args: []string{"GET", w.key}, Keys: driver.Key(1), Mode: driver.ReadOnly})
		}
		for i, r := range l.d.DoMulti(context.Background(), list) {
			w, n := part[i], int64(0)
			if !r.IsNil() {
				var err error
				if n, err = r.Int64(); err != nil {
					l.t.Errorf("%s: %v", l.name, err)
					continue
				}
			}
			count[w.was]++
			switch {
			case n > 1:
				faults = append(faults, fmt.Sprintf("%s was applied %d times", w.key, n))
			case n == 1 && w.was == notDone:
				faults = append(faults, w.key+" was applied, and its caller was told that it was not")
			case n == 0 && w.was == acknowledged:
				lost++
			}
		}
	}
	l.t.Logf("%s: no write succeeds for %s at most; %d acknowledged, of these %d lost with a primary, %d in doubt, %d not done", l.name,
		l.pause().Round(time.Millisecond), count[acknowledged], lost, count[doubtful], count[notDone])
	if len(faults) > 0 {
		l.t.Errorf("%s: %d faults, such as\n%s", l.name, len(faults), strings.Join(faults[:min(len(faults), 10)], "\n"))
	}
	if count[acknowledged] == 0 {
		l.t.Errorf("%s: no write was acknowledged", l.name)
	}
	return lost
}

// pause is the longest time in which no write succeeded.
func (l *load) pause() (longest time.Duration) {
	var last time.Time
	for _, w := range slices.SortedFunc(slices.Values(l.writes), func(a, b write) int { return a.done.Compare(b.done) }) {
		if w.was != acknowledged {
			continue
		}
		if !last.IsZero() {
			longest = max(longest, w.done.Sub(last))
		}
		last = w.done
	}
	return longest
}

// openAll opens a deployment with each driver.
func openAll(t *testing.T, url string) map[string]driver.Driver {
	t.Helper()
	all := map[string]driver.Driver{}
	for _, o := range openers {
		d, err := o.open(t.Context(), url)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, d.Close()) })
		all[o.name] = d
	}
	return all
}

// eachLoad runs fn while every driver is under load, and ends the loads. Both bear the same fault.
func eachLoad(t *testing.T, drivers map[string]driver.Driver, tag func(int) string, lossless bool, fault func()) {
	t.Helper()
	var loads []*load
	for name, d := range drivers {
		loads = append(loads, startLoad(t, name, d, tag))
	}
	time.Sleep(200 * time.Millisecond)
	at := time.Now()
	fault()
	took := time.Since(at)
	for _, l := range loads {
		t.Logf("%s: writes succeed %s after the fault, which took %s", l.name, l.recovered(at).Round(time.Millisecond), took.Round(time.Millisecond))
	}
	time.Sleep(200 * time.Millisecond)
	for _, l := range loads {
		if lost := l.end(); lost > 0 && lossless {
			t.Errorf("%s: %d acknowledged writes are lost", l.name, lost)
		}
	}
}

func TestFailoverUnderLoad(t *testing.T) {
	t.Run("Sentinel", func(t *testing.T) {
		apart(t, func(t *testing.T) {
			s := StartSentinel(t, 2)
			drivers := openAll(t, s.URL())
			tag := func(int) string { return "x" }
			t.Run("asked for", func(t *testing.T) {
				eachLoad(t, drivers, tag, false, func() { s.Failover() })
			})
			s.AwaitReady()
			t.Run("killed", func(t *testing.T) {
				old := s.Primary()
				eachLoad(t, drivers, tag, false, old.Kill)
				s.AwaitFailover(old)
				old.Restart(false)
			})
			s.AwaitReady()
			t.Run("paused", func(t *testing.T) {
				old := s.Primary()
				eachLoad(t, drivers, tag, false, old.Pause)
				s.AwaitFailover(old)
				old.Resume()
				s.AwaitReady()
			})
		})
	})
	t.Run("Cluster", func(t *testing.T) {
		apart(t, func(t *testing.T) {
			tag := func(int) string { return "x" }
			t.Run("asked for", func(t *testing.T) {
				c := StartCluster(t, 3, 1, patient)
				eachLoad(t, openAll(t, c.URL()), tag, true, func() { c.Failover(c.Node("x")) })
			})
			c := StartCluster(t, 3, 1)
			drivers := openAll(t, c.URL())
			t.Run("killed", func(t *testing.T) {
				old := c.Node("x")
				eachLoad(t, drivers, tag, false, old.Kill)
				c.AwaitFailover(old)
				old.Restart(false)
			})
			c.AwaitReady()
			t.Run("paused", func(t *testing.T) {
				old := c.Node("x")
				eachLoad(t, drivers, tag, false, old.Pause)
				c.AwaitFailover(old)
				old.Resume()
				c.AwaitReady()
			})
		})
	})
}

// A server that goes on after a reply was lost has what was applied already: a driver that sends a write again shows here, and
// not where a primary is replaced, which takes with it what nobody heard of.
func TestLostRepliesUnderLoad(t *testing.T) {
	s := StartServer(t)
	for name, open := range dialled {
		t.Run(name, func(t *testing.T) {
			px := chaos.NewDialer(t, chaos.On("INCR").P(0.02).LoseReply(), chaos.On("EVALSHA").P(0.02).LoseReply())
			d, err := open(t.Context(), s.URL(), px)
			require.NoError(t, err)
			defer func() { require.NoError(t, d.Close()) }()
			l := startLoad(t, name, d, func(int) string { return "x" })
			eventually(t, "few replies are lost", func() bool { return len(px.Log()) >= 50 })
			if lost := l.end(); lost > 0 {
				t.Errorf("%d acknowledged writes are lost", lost)
			}
		})
	}
}

// patient keeps a machine that stalls for seconds from a failover that nobody asked for, which may lose writes.
var patient = Config("cluster-node-timeout", "15000")

func TestSlotsMoveUnderLoad(t *testing.T) {
	apart(t, func(t *testing.T) {
		c := StartCluster(t, 3, 0, patient)
		drivers := openAll(t, c.URL())
		eachLoad(t, drivers, func(int) string { return "x" }, true, func() {
			for i := range 6 {
				c.MoveSlot("x", c.Nodes()[i%3])
				c.Nodes()[(i+1)%3].FlushScripts()
			}
		})
	})
}

// held counts the connections of this program to servers, and its goroutines.
func held(t *testing.T, nodes []*Server) (conns, goroutines int) {
	t.Helper()
	for _, n := range nodes {
		list, err := n.Do("CLIENT", "LIST").Text()
		require.NoError(t, err)
		for line := range strings.Lines(list) {
			// Not the one that asks, not those of servers among each other.
			if strings.Contains(line, " name=redisx ") {
				conns++
			}
		}
	}
	return conns, runtime.NumGoroutine()
}

// soak replaces primaries again and again while every driver has writes, a subscription and tracking under way, and compares
// what is held after the first few with what is held at the end.
func soak(t *testing.T, url string, nodes []*Server, replace func(i int)) {
	t.Helper()
	drivers := openAll(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var loads []*load
	for name, d := range drivers {
		wg.Go(func() {
			_ = d.(driver.Subscriber).Subscribe(ctx, driver.Subscription{Channels: []string{"news"}})
		})
		wg.Go(func() {
			_ = d.(driver.Tracker).Track(ctx, driver.Tracking{Prefixes: []string{"p:"}})
		})
		loads = append(loads, startLoad(t, name, d, func(i int) string { return fmt.Sprint(i % 50) }))
	}
	// After the first eight every node has been a primary, and has the connections that pools keep for one; these go on growing
	// a little with the callers that happen to meet. What leaks at every second failover shows.
	const warm, total = 8, 20
	const slack = (total - warm) / 2
	for i := range warm {
		replace(i)
	}
	calm := func() (conns, goroutines int) {
		for range 20 { // what a failover began ends
			time.Sleep(100 * time.Millisecond)
			c, g := held(t, nodes)
			conns, goroutines = max(conns, c), max(goroutines, g)
		}
		return conns, goroutines
	}
	conns, goroutines := calm()
	for i := warm; i < total; i++ {
		replace(i)
	}
	var c, g int
	for deadline := time.Now().Add(readyTimeout); ; time.Sleep(200 * time.Millisecond) {
		if c, g = held(t, nodes); c <= conns+slack && g <= goroutines+slack {
			break
		}
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Errorf("after %d failovers %d connections and %d goroutines, at most %d and %d after %d\n%s", total, c, g, conns, goroutines, warm,
				stacks[:runtime.Stack(stacks, true)])
			break
		}
	}
	t.Logf("after %d failovers %d connections and %d goroutines, at most %d and %d after %d", total, c, g, conns, goroutines, warm)
	for _, l := range loads {
		l.end()
	}
}

func TestTwentyFailoversLeakNothing(t *testing.T) {
	long(t)
	t.Run("Sentinel", func(t *testing.T) {
		apart(t, func(t *testing.T) {
			s := StartSentinel(t, 1)
			soak(t, s.URL(), s.Nodes(), func(int) { s.Failover() })
		})
	})
	t.Run("Cluster", func(t *testing.T) {
		apart(t, func(t *testing.T) {
			c := StartCluster(t, 3, 1, Config("cluster-node-timeout", "500"))
			soak(t, c.URL(), c.Nodes(), func(i int) { c.Failover(c.Nodes()[i%3]) })
		})
	})
}

// What these tests are for does not happen with the drivers as they are: here it does.
func TestLoadFindsWhatItIsFor(t *testing.T) {
	f := NewFake(t)
	for name, c := range map[string]struct {
		spoil func(l *load)
		want  string
	}{
		"applied twice": {func(l *load) {
			f.Client().Do(t.Context(), driver.Cmd{Args: []string{"INCR", l.writes[0].key}, Keys: driver.Key(1)})
		}, "was applied 2 times"},
		"applied after all":    {func(l *load) { l.writes[0].was = notDone }, "its caller was told that it was not"},
		"nothing acknowledged": {func(l *load) { l.writes = nil }, "no write was acknowledged"},
	} {
		t.Run(name, func(t *testing.T) {
			r := record(t, func(t testing.TB) {
				l := startLoad(t, "fake", f.Client().Driver(), func(int) string { return "x" })
				l.recovered(time.Now())
				l.stop.Store(true)
				l.wg.Wait()
				c.spoil(l)
				l.end()
			})
			require.True(t, r.failed)
			require.Contains(t, r.text(), c.want)
		})
	}
	l := startLoad(t, "fake", f.Client().Driver(), func(int) string { return "x" })
	l.recovered(time.Now())
	l.stop.Store(true)
	l.wg.Wait()
	f.Client().Do(t.Context(), driver.Cmd{Args: []string{"DEL", l.writes[0].key}, Keys: driver.Key(1)})
	require.Equal(t, 1, l.end(), "a write that is gone is not noticed")
}
