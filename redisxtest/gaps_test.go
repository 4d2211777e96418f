package redisxtest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
)

// event is something that a subscription was told, or that a publisher did.
type event struct {
	kind string // sent, done, got, lost, confirmed
	n    int
	at   time.Time
}

// gaps watches one subscription or one tracking of a driver while messages are sent: what did not come must be covered by an
// OnLost.
type gaps struct {
	name string

	mu  sync.Mutex
	log []event
}

func (g *gaps) note(kind string, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.log = append(g.log, event{kind, n, time.Now()})
}

func (g *gaps) count(kind string) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.log {
		if e.kind == kind {
			n++
		}
	}
	return n
}

// noticed is how soon after a message that did not come OnLost has to: a connection that is silent is noticed after seconds.
const noticed = 20 * time.Second

// check goes through what happened. A message counts if its publisher began when the subscription stood (OnConfirmed, and no
// OnLost since) and was told that it went well: then it came, or OnLost did.
func (g *gaps) check(t testing.TB) (missed int) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	standing := false
	pending := map[int]event{} // sent while standing, and not come
	acked := map[int]time.Time{}
	for i, e := range g.log {
		switch e.kind {
		case "sent":
			if standing {
				pending[e.n] = e
			}
		case "done":
			acked[e.n] = e.at
		case "got":
			delete(pending, e.n)
		case "lost":
			standing = false
			for n := range pending {
				if at, ok := acked[n]; ok {
					missed++
					if late := e.at.Sub(at); late > noticed {
						t.Errorf("%s: message %d did not come, and OnLost %s later", g.name, n, late)
					}
				}
			}
			clear(pending)
		case "confirmed":
			if standing {
				t.Errorf("%s: event %d: OnConfirmed twice with no OnLost between", g.name, i)
			}
			standing = true
		}
	}
	for n, e := range pending {
		if _, ok := acked[n]; ok {
			t.Errorf("%s: message %d, sent %s before the end, did not come and OnLost neither", g.name, n, time.Since(e.at))
		}
	}
	if !standing {
		t.Errorf("%s: the subscription does not stand at the end", g.name)
	}
	return missed
}

// feed sends numbered messages until it is stopped, each once.
func (g *gaps) feed(stop <-chan struct{}, send func(n int) error) {
	for n := 1; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(2 * time.Millisecond):
		}
		g.note("sent", n)
		if send(n) == nil {
			g.note("done", n)
		}
	}
}

// watched is a driver whose subscription and tracking are checked.
type watched struct {
	name       string
	d          driver.Driver
	sub, track *gaps
	channel    string
	prefix     string
}

// watchEach has every driver subscribe, track and send to itself, causes faults, and checks that every gap was told. The channel
// and the keys have the tag {x}.
func watchEach(t *testing.T, url string, sharded bool, faults func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stop := make(chan struct{})
	var listeners, feeders sync.WaitGroup
	defer listeners.Wait()
	defer cancel()
	var all []*watched
	for name, d := range openAll(t, url) {
		p := Prefix(t)
		w := &watched{name: name, d: d, sub: &gaps{name: name + " Subscribe"}, track: &gaps{name: name + " Track"},
			channel: "{x}" + p, prefix: "{x}" + p + "k:"}
		all = append(all, w)
		listeners.Go(func() {
			_ = d.(driver.Subscriber).Subscribe(ctx, driver.Subscription{
				Channels: []string{w.channel}, Sharded: sharded,
				OnMessage:   func(_, payload string) { w.sub.note("got", number(payload)) },
				OnConfirmed: func() { w.sub.note("confirmed", 0) },
				OnLost:      func(error) { w.sub.note("lost", 0) },
			})
		})
		listeners.Go(func() {
			_ = d.(driver.Tracker).Track(ctx, driver.Tracking{
				Prefixes: []string{w.prefix},
				OnInvalidate: func(keys []string) {
					for _, k := range keys {
						w.track.note("got", number(strings.TrimPrefix(k, w.prefix)))
					}
				},
				OnConfirmed: func() { w.track.note("confirmed", 0) },
				OnLost:      func(error) { w.track.note("lost", 0) },
			})
		})
		publish := "PUBLISH"
		if sharded {
			publish = "SPUBLISH"
		}
		do := func(cmd driver.Cmd) error {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			return d.Do(ctx, cmd).Err()
		}
		feeders.Go(func() {
			w.sub.feed(stop, func(n int) error {
				cmd := driver.Cmd{Args: []string{publish, w.channel, fmt.Sprint(n)}, Near: w.channel}
				if sharded {
					cmd.Keys = driver.Key(1)
				}
				return do(cmd)
			})
		})
		feeders.Go(func() {
			w.track.feed(stop, func(n int) error {
				return do(driver.Cmd{Args: []string{"SET", w.prefix + fmt.Sprint(n), "v"}, Keys: driver.Key(1)})
			})
		})
	}
	// standing waits for news of messages that are sent from now on.
	standing := func(when string) {
		for _, w := range all {
			for _, g := range []*gaps{w.sub, w.track} {
				before := g.count("got")
				eventually(t, fmt.Sprintf("%s: %s does not stand again", when, g.name), func() bool { return g.count("got") > before+5 })
			}
		}
	}
	standing("at first")
	faults()
	standing("after the faults")
	close(stop)
	feeders.Wait()
	for _, w := range all {
		for _, g := range []*gaps{w.sub, w.track} {
			// What is on its way comes.
			last := 0
			eventually(t, g.name+" never comes to rest", func() bool {
				was := last
				last = g.count("got")
				time.Sleep(200 * time.Millisecond)
				return last == was && g.count("got") == last
			})
			missed := g.check(t)
			t.Logf("%s: %d of %d came, %d times lost and %d times confirmed, %d fell into a gap that was told", g.name, g.count("got"),
				g.count("done"), g.count("lost"), g.count("confirmed"), missed)
		}
	}
}

func number(s string) (n int) {
	_, _ = fmt.Sscan(s, &n)
	return n
}

// eventually waits for as long as a deployment may take to be ready.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(readyTimeout); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func TestEveryGapIsTold(t *testing.T) {
	t.Run("server", func(t *testing.T) {
		apart(t, func(t *testing.T) {
			s := StartServer(t, OwnProcess())
			watchEach(t, s.URL(), false, func() {
				s.Restart(false)
				time.Sleep(time.Second)
				s.Do("CLIENT", "KILL", "TYPE", "pubsub")
				s.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
				time.Sleep(time.Second)
				s.Kill()
				time.Sleep(time.Second)
				s.Restart(false)
			})
		})
	})
	t.Run("Sentinel", func(t *testing.T) {
		apart(t, func(t *testing.T) {
			s := StartSentinel(t, 2)
			watchEach(t, s.URL(), false, func() {
				s.Failover()
				s.AwaitReady()
				old := s.Primary()
				old.Kill()
				s.AwaitFailover(old)
				old.Restart(false)
				s.AwaitReady()
				old = s.Primary()
				old.Pause()
				s.AwaitFailover(old)
				old.Resume()
				s.AwaitReady()
			})
		})
	})
	t.Run("Cluster", func(t *testing.T) {
		apart(t, func(t *testing.T) {
			c := StartCluster(t, 3, 1)
			watchEach(t, c.URL(), true, func() {
				c.Failover(c.Node("x"))
				c.AwaitReady()
				for _, n := range c.Nodes() {
					if n != c.Node("x") && role(t, n) == "master" {
						c.MoveSlot("x", n)
					}
				}
				old := c.Node("x")
				old.Kill()
				c.AwaitFailover(old)
				old.Restart(false)
				c.AwaitReady()
			})
		})
	})
}

func TestGapsAreFound(t *testing.T) {
	start := time.Now()
	log := func(words string) *gaps {
		g := &gaps{name: "x"}
		for i, w := range strings.Fields(words) {
			kind, n, _ := strings.Cut(w, ":")
			g.log = append(g.log, event{kind, number(n), start.Add(time.Duration(i) * time.Second)})
		}
		return g
	}
	late := strings.Repeat("other ", 30)
	for words, want := range map[string]string{
		"confirmed sent:1 done:1 got:1 sent:2 done:2 sent:3 done:3 got:3": "message 2,",
		"confirmed sent:1 done:1":                                 "message 1,",
		"confirmed sent:1 done:1 " + late + " lost confirmed":     "OnLost 31s later",
		"confirmed confirmed":                                     "OnConfirmed twice",
		"confirmed lost":                                          "does not stand",
		"lost sent:1 done:1 confirmed sent:2 done:2 sent:3 got:3": "message 2,",
	} {
		r := record(t, func(t testing.TB) { log(words).check(t) })
		require.True(t, r.failed, words)
		require.Contains(t, r.text(), want, words)
	}
	for words, missed := range map[string]int{
		"sent:1 done:1 confirmed sent:2 got:2 done:2":                0, // nothing stood for the first
		"confirmed sent:1 lost confirmed":                            0, // not known to have been published
		"confirmed sent:1 done:1 sent:2 done:2 got:2 lost confirmed": 1,
	} {
		require.Equal(t, missed, log(words).check(t), words)
	}
}
