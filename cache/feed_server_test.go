package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/core/rueidisdriver"
	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// changeScripts stand in for those of the cache: they change a key and publish.
var (
	feedSetScript = driver.NewScript("test.set", `
redis.call('SET', KEYS[1], ARGV[1])
if ARGV[2] ~= '' then redis.call('PUBLISH', ARGV[2], ARGV[3]) end
return 1`)
	feedBumpScript = driver.NewScript("test.bump", `
local v = redis.call('INCR', KEYS[1])
if ARGV[1] ~= '' then redis.call('PUBLISH', ARGV[1], ARGV[2] .. v) end
return v`)
)

// node is one process of a fleet on a server.
type node struct {
	feed
	client       *core.Client
	values, tags core.Keyspace
	sink         *record
	stop         func()
}

var feedKinds = []string{"tracking", "pubsub"}

func newNode(t *testing.T, client *core.Client, kind string) *node {
	n := &node{client: client, sink: &record{t: t}}
	var err error
	n.values, err = client.NewKeyspace("cache", "users")
	require.NoError(t, err)
	n.tags, err = client.NewKeyspace("cache-tag", "users")
	require.NoError(t, err)
	if kind == "tracking" {
		n.feed, err = newTrackingFeed(client, n.values.Prefix(), n.tags.Prefix(), n.sink)
	} else {
		n.feed, err = newPubSubFeed(client, "users", n.values.Prefix(), n.tags.Prefix(), n.sink)
	}
	require.NoError(t, err)
	n.stop = start(t, n.feed)
	return n
}

func (n *node) awaitTrust(t *testing.T) {
	redisxtest.Eventually(t, 20*time.Second, func(context.Context) error {
		if !n.sink.trusted() {
			return errors.New("nothing is confirmed")
		}
		return nil
	})
}

func (n *node) await(t *testing.T, event string) {
	t.Helper()
	redisxtest.Eventually(t, 20*time.Second, func(context.Context) error {
		n.sink.mu.Lock()
		defer n.sink.mu.Unlock()
		if !slices.Contains(n.sink.events, event) {
			return fmt.Errorf("no %q among %d events, the last %q", event, len(n.sink.events), n.sink.events[max(0, len(n.sink.events)-5):])
		}
		return nil
	})
}

// set writes a value as the cache does.
func (n *node) set(ctx context.Context, id string) error {
	name := n.values.Key(id)
	sampled := n.expect(name)
	m := n.message(kindChanged, name)
	var err error
	if n.inline() {
		err = n.client.Do(ctx, feedSetScript.Cmd([]string{name}, []string{"v", n.channel(), m.payload})).Err()
		n.done(m, err)
	} else if err = n.client.Do(ctx, feedSetScript.Cmd([]string{name}, []string{"v", "", ""})).Err(); err == nil {
		_ = n.publish(ctx, m, 0)
	} else {
		n.done(m, err)
	}
	if sampled {
		n.wrote(name, err == nil)
	}
	return err
}

func (n *node) bump(ctx context.Context, tag string) (uint64, error) {
	name := n.tags.Key("t:" + tag)
	m := n.message(kindTag, name)
	inline := n.inline()
	channel := ""
	if inline {
		channel = n.channel()
	}
	v, err := n.client.Do(ctx, feedBumpScript.Cmd([]string{name}, []string{channel, m.payload})).Int64()
	switch {
	case inline || err != nil:
		n.done(m, err)
	default:
		_ = n.publish(ctx, m, uint64(v))
	}
	return uint64(v), err
}

func TestFeedsOnServers(t *testing.T) {
	for _, kind := range feedKinds {
		t.Run(kind, func(t *testing.T) {
			redisxtest.Each(t, func(t *testing.T, c *core.Client) {
				one, two := newNode(t, c, kind), newNode(t, c, kind)
				one.awaitTrust(t)
				two.awaitTrust(t)
				var all sync.WaitGroup
				for w := range 4 {
					all.Go(func() {
						for i := range 50 {
							if err := one.set(t.Context(), fmt.Sprintf("%d-%d", w, i)); err != nil {
								t.Error(err)
							}
						}
					})
				}
				version, err := one.bump(t.Context(), "red")
				require.NoError(t, err)
				all.Wait()
				for w := range 4 {
					for i := range 50 {
						two.await(t, "changed "+two.values.Key(fmt.Sprintf("%d-%d", w, i)))
					}
				}
				if kind == "tracking" {
					version = 0
					require.NoError(t, c.Do(t.Context(), driver.Cmd{
						Args: []string{"SET", c.KeyPrefix() + "cache:users:{brief}", "v", "PX", "20"}, Keys: driver.Key(1),
					}).Err())
					redisxtest.Eventually(t, 20*time.Second, func(context.Context) error {
						if n := two.sink.count("changed " + two.values.Key("brief")); n < 2 {
							return fmt.Errorf("told %d times, want when it was written and when it expired", n)
						}
						return nil
					})
				} else {
					require.NoError(t, one.publish(t.Context(), one.wake(one.values.Part("1", "w")), 0))
					two.await(t, "changed "+two.values.Part("1", "w"))
				}
				two.await(t, "tag "+two.tags.Key("t:red")+" "+strconv.FormatUint(version, 10))
				time.Sleep(2 * heartbeatEvery) // anything that was missed would show
				for _, n := range []*node{one, two} {
					s := n.stats()
					require.Zero(t, s.gaps, "%+v", s)
					require.Zero(t, s.malformed)
					require.Zero(t, s.losses)
				}
			}, redisxtest.OnCluster())
		})
	}
}

// chaosNode is a node over a driver with faults.
func chaosNode(t *testing.T, d driver.Driver, url, kind string, script chaos.Script) (*node, chaos.Driver) {
	faulty := chaos.Wrap(d, script)
	chaos.Report(t, faulty)
	c, err := core.New(faulty, core.WithKeyPrefix(redisxtest.Prefix(t)), core.WithCommandTimeout(5*time.Second))
	require.NoError(t, err, url)
	return newNode(t, c, kind), faulty
}

func TestFeedsFindASilentGap(t *testing.T) {
	redisxtest.EachDriver(t, func(t *testing.T, d driver.Driver, url string) {
		t.Run("pubsub", func(t *testing.T) {
			n, _ := chaosNode(t, d, url, "pubsub", chaos.Script{Rules: []chaos.Rule{chaos.OnMessage().Nth(20).BugSilentGap(5)}})
			n.awaitTrust(t)
			for i := range 100 {
				require.NoError(t, n.set(t.Context(), strconv.Itoa(i)))
			}
			n.await(t, "lost: gap")
			n.awaitTrust(t)
			require.EqualValues(t, 1, n.stats().gaps)
			require.EqualValues(t, 1, n.stats().losses)
			n.stop()
		})
		t.Run("tracking", func(t *testing.T) {
			n, faulty := chaosNode(t, d, url, "tracking", chaos.Script{Rules: []chaos.Rule{chaos.OnInvalidation().From(1).BugSilentGap(1)}})
			n.awaitTrust(t)
			require.NoError(t, n.set(t.Context(), "1"))
			n.await(t, "lost: echo")
			faulty.Calm()
			n.awaitTrust(t)
			require.NoError(t, n.set(t.Context(), "2"))
			n.await(t, "changed "+n.values.Key("2"))
			n.stop()
		})
	}, redisxtest.FakeOnly())
}

func TestFeedsTellOfALostSubscription(t *testing.T) {
	redisxtest.EachDriver(t, func(t *testing.T, d driver.Driver, url string) {
		for kind, rule := range map[string]chaos.Rule{
			"pubsub": chaos.OnMessage().Nth(5).LoseSubscription(3), "tracking": chaos.OnInvalidation().Nth(5).LoseInvalidation(3),
		} {
			t.Run(kind, func(t *testing.T) {
				n, faulty := chaosNode(t, d, url, kind, chaos.Script{Rules: []chaos.Rule{rule}})
				n.awaitTrust(t)
				for i := range 20 {
					require.NoError(t, n.set(t.Context(), strconv.Itoa(i)))
					time.Sleep(time.Millisecond) // apart, or the server reports many keys at once
				}
				n.await(t, "lost")
				n.awaitTrust(t)
				require.EqualValues(t, 1, n.stats().losses)
				require.Zero(t, n.stats().gaps)
				faulty.Calm()
				n.stop()
			})
		}
	}, redisxtest.FakeOnly())
}

func TestFeedsAreBackSoonAfterTheirServer(t *testing.T) {
	for _, kind := range feedKinds {
		t.Run(kind, func(t *testing.T) {
			redisxtest.EachDriver(t, func(t *testing.T, d driver.Driver, url string) {
				server := redisxtest.StartServer(t, redisxtest.OwnProcess())
				n := newNode(t, clientOf(t, openLike(t, d, server.URL())), kind)
				n.awaitTrust(t)
				server.Kill()
				n.await(t, "lost")
				time.Sleep(3 * time.Second) // long enough for delays to have grown
				server.Restart(false)
				back := time.Now()
				n.awaitTrust(t)
				t.Logf("trusted %v after the server was back", time.Since(back).Round(time.Millisecond))
				redisxtest.Eventually(t, 20*time.Second, func(ctx context.Context) error { return n.set(ctx, "after") })
				t.Logf("in use %v after the server was back", time.Since(back).Round(time.Millisecond))
				if kind == "tracking" {
					n.await(t, "changed "+n.values.Key("after"))
				}
				n.stop()
			}, redisxtest.FakeOnly())
		})
	}
}

func TestFeedsOfAServerThatHangsTrustNothing(t *testing.T) {
	for _, kind := range feedKinds {
		t.Run(kind, func(t *testing.T) {
			redisxtest.EachDriver(t, func(t *testing.T, d driver.Driver, _ string) {
				server := redisxtest.StartServer(t, redisxtest.OwnProcess())
				n := newNode(t, clientOf(t, openLike(t, d, server.URL())), kind)
				n.awaitTrust(t)
				server.Pause()
				paused := time.Now()
				redisxtest.Eventually(t, 20*time.Second, func(context.Context) error {
					if n.sink.trusted() {
						return errors.New("still trusted")
					}
					return nil
				})
				t.Logf("lost %v after the server stopped", time.Since(paused).Round(time.Millisecond))
				server.Resume()
				n.awaitTrust(t)
				redisxtest.Eventually(t, 20*time.Second, func(ctx context.Context) error { return n.set(ctx, "after") })
				n.stop()
			}, redisxtest.FakeOnly())
		})
	}
}

func TestFeedsFollowAClusterThatChanges(t *testing.T) {
	cluster := redisxtest.StartCluster(t, 3, 1)
	for _, kind := range feedKinds {
		t.Run(kind, func(t *testing.T) {
			redisxtest.EachDriver(t, func(t *testing.T, d driver.Driver, _ string) {
				prefix := core.WithKeyPrefix(redisxtest.Prefix(t))
				one := newNode(t, clientOf(t, openLike(t, d, cluster.URL()), prefix), kind)
				two := newNode(t, clientOf(t, openLike(t, d, cluster.URL()), prefix), kind)
				one.awaitTrust(t)
				two.awaitTrust(t)
				keys, err := one.client.NewKeyspace("cache-inv", "users")
				require.NoError(t, err)
				told := func(id string) {
					t.Helper()
					redisxtest.Eventually(t, 30*time.Second, func(ctx context.Context) error {
						if !two.sink.trusted() {
							return errors.New("nothing is confirmed")
						}
						if err := one.set(ctx, id); err != nil {
							return err
						}
						time.Sleep(50 * time.Millisecond)
						if two.sink.count("changed "+two.values.Key(id)) == 0 {
							return errors.New("not told")
						}
						return nil
					})
				}
				told("before")
				channel := keys.Key("users")
				for _, to := range primaries(cluster) {
					if to != cluster.Node(channel) {
						cluster.MoveSlot(channel, to)
						break
					}
				}
				told("moved")
				cluster.Failover(cluster.Node(channel))
				told("failed over")
				one.stop()
				two.stop()
			}, redisxtest.FakeOnly())
		})
	}
}

// primaries are the nodes that serve slots.
func primaries(c *redisxtest.Cluster) []*redisxtest.Server {
	var nodes []*redisxtest.Server
	for i := range 100 {
		if n := c.Node(strconv.Itoa(i)); !slices.Contains(nodes, n) {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

func clientOf(t *testing.T, d driver.Driver, opts ...core.Option) *core.Client {
	c, err := core.New(d, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// openLike opens a driver of the same kind elsewhere.
func openLike(t *testing.T, d driver.Driver, url string) driver.Driver {
	var other driver.Driver
	var err error
	switch d.(type) {
	case *goredisdriver.Driver:
		other, err = goredisdriver.Open(t.Context(), url)
	case *rueidisdriver.Driver:
		other, err = rueidisdriver.Open(t.Context(), url)
	default:
		t.Fatalf("a %T", d)
	}
	require.NoError(t, err)
	return other
}
