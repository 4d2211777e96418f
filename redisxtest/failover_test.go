package redisxtest

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

func TestClusterFailsOverOnRequest(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3, 1, Password("pw"))
	key := "k"
	// Back and forth: the third time the nodes have voted for a replica of the same primary a moment ago.
	for i := range 3 {
		old := c.Node(key)
		start := time.Now()
		heir := c.Failover(old)
		t.Logf("failover %d took %s", i+1, time.Since(start))
		require.NotNil(t, heir)
		require.NotEqual(t, old, heir)
		// Nothing is waited for from here on.
		require.Equal(t, "master", role(t, heir))
		require.Equal(t, "slave", role(t, old))
		for _, n := range c.Nodes() {
			owners, err := slotOwners(n)
			require.NoError(t, err)
			require.Equal(t, heir.Addr(), owners[driver.Slot(key)], "%s does not know", n.Addr())
			require.NotContains(t, owners, old.Addr())
		}
		require.Equal(t, heir, c.Node(key))
	}
	heir := c.Node(key)
	old := c.Failover(c.heirOf(t, heir))
	require.Equal(t, "master", role(t, old), "a replica that was named did not take over")
	require.Equal(t, "slave", role(t, heir))
}

func (c *Cluster) heirOf(t *testing.T, primary *Server) *Server {
	t.Helper()
	replica, _, err := c.heir(primary)
	require.NoError(t, err)
	return replica
}

func TestClusterReplacesAPrimaryThatIsGone(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3, 1)
	for _, c2 := range []struct {
		name      string
		stop, end func(s *Server)
	}{
		{"killed", (*Server).Kill, func(s *Server) { s.Restart(false) }},
		{"paused", (*Server).Pause, (*Server).Resume},
	} {
		t.Run(c2.name, func(t *testing.T) {
			old := c.Node("k")
			c2.stop(old)
			require.Error(t, c.settled(), "a cluster with a dead node is well")
			start := time.Now()
			c.AwaitFailover(old)
			t.Logf("replaced after %s", time.Since(start))
			heir := c.Node("k")
			require.NotEqual(t, old, heir)
			require.NoError(t, heir.Do("SET", "k", "v").Err())
			for _, n := range up(c.Nodes()) {
				owners, err := slotOwners(n)
				require.NoError(t, err)
				require.NotContains(t, owners, old.Addr(), "%s does not know", n.Addr())
			}
			start = time.Now()
			c2.end(old)
			c.AwaitReady()
			t.Logf("well again after %s", time.Since(start))
			require.Equal(t, "slave", role(t, old))
			roundTrip(t, c.URL())
		})
	}
}

func TestClusterNodeThatRestartsAtOnceKeepsItsSlots(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3, 0)
	n := c.Node("k")
	require.NoError(t, n.Do("SET", "k", "v").Err())
	n.Restart(true)
	c.AwaitReady()
	require.Equal(t, n, c.Node("k"))
	require.Equal(t, "v", text(t, n.Do("GET", "k")))
	n.Restart(false)
	c.AwaitReady()
	require.True(t, n.Do("GET", "k").IsNil())
}

func TestDeploymentsRefuseToBreakWhatTheyCannot(t *testing.T) {
	t.Parallel()
	c, d := StartCluster(t, 3, 0), StartServer(t, OwnProcess())
	owner := c.Node("k")
	for name, x := range map[string]struct {
		want string
		do   func(c *Cluster)
	}{
		"failover to a stranger": {"not a node", func(c *Cluster) { c.Failover(d) }},
		"failover of no replica": {"no replicas", func(c *Cluster) { c.Failover(owner) }},
		"failover to nil":        {"not a node", func(c *Cluster) { c.Failover(nil) }},
		"move to a stranger":     {"not a node", func(c *Cluster) { c.MoveSlot("k", d) }},
		"await of a stranger":    {"not a node", func(c *Cluster) { c.AwaitFailover(d) }},
		"move begun to itself":   {"already", func(c *Cluster) { c.BeginMove("k", owner) }},
		"move begun twice": {"a move of slot 7629 has begun", func(c *Cluster) {
			m := c.BeginMove("k", other(c, owner))
			defer m.Abort()
			c.BeginMove("k", other(c, owner))
		}},
		"move of a slot that is open": {"a move of slot 7629 has begun", func(c *Cluster) {
			m := c.BeginMove("k", other(c, owner))
			defer m.Abort()
			c.MoveSlot("k", other(c, owner))
		}},
		"step of nothing": {"at least 1", func(c *Cluster) {
			m := c.BeginMove("k", other(c, owner))
			defer m.Abort()
			m.Step(0)
		}},
		"step after the end": {"not ended", func(c *Cluster) {
			m := c.BeginMove("k", other(c, owner))
			m.Abort()
			m.Abort()
			m.Finish()
			m.Step(1)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := record(t, func(t testing.TB) {
				mine := *c.deployment
				mine.t = t
				x.do(&Cluster{deployment: &mine, cfg: c.cfg})
			})
			require.True(t, r.failed)
			require.Contains(t, r.text(), x.want)
		})
	}
	require.Equal(t, owner, c.Node("k"))
}

// other is another primary of a cluster without replicas.
func other(c *Cluster, than *Server) *Server {
	for _, n := range c.Nodes() {
		if n.Addr() != than.Addr() {
			return n
		}
	}
	return nil
}

// raw sends commands on one connection.
func raw(t testing.TB, s *Server, cmds ...[]string) []driver.Reply {
	t.Helper()
	return s.target().doAll(cmds...)
}

func TestSlotMovesInSteps(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]Option{"plain": nil, "password and TLS": {Password("p w"), TLS()}} {
		t.Run(name, func(t *testing.T) {
			c := StartCluster(t, 3, 0, opts...)
			from := c.Node("{k}")
			to := other(c, from)
			for i := range 10 {
				require.NoError(t, from.Do("SET", fmt.Sprint("{k}", i), "v").Err())
			}
			all := []string{"MGET"}
			for i := range 10 {
				all = append(all, fmt.Sprint("{k}", i))
			}

			m := c.BeginMove("{k}", to)
			require.Equal(t, int(driver.Slot("{k}")), m.Slot())
			require.Equal(t, from.Addr(), m.From().Addr())
			require.Equal(t, to.Addr(), m.To().Addr())
			require.NoError(t, from.Do(all...).Err(), "nothing has moved yet")
			require.ErrorContains(t, from.Do("GET", "{k}missing").Err(), "ASK")
			require.Equal(t, 6, m.Step(4))

			require.ErrorContains(t, from.Do(all...).Err(), "TRYAGAIN")
			require.ErrorContains(t, raw(t, to, []string{"ASKING"}, all)[1].Err(), "TRYAGAIN")
			require.ErrorContains(t, to.Do("GET", "{k}0").Err(), "MOVED")
			asked := 0
			for _, key := range all[1:] {
				err := from.Do("GET", key).Err()
				if err == nil {
					continue
				}
				require.EqualError(t, err, fmt.Sprintf("ASK %d %s", m.Slot(), to.Addr()))
				require.Equal(t, "v", text(t, raw(t, to, []string{"ASKING"}, []string{"GET", key})[1]))
				asked++
			}
			require.Equal(t, 4, asked)

			// Half way and with a key that was made at the new owner, everything comes back.
			require.NoError(t, raw(t, to, []string{"ASKING"}, []string{"SET", "{k}new", "v"})[1].Err())
			m.Abort()
			require.Equal(t, from, c.Node("{k}"))
			values, err := from.Do(append(all, "{k}new")...).List()
			require.NoError(t, err)
			for i, v := range values {
				require.Equal(t, "v", text(t, v), i)
			}
			require.NoError(t, c.settled())
			for _, n := range c.Nodes() {
				require.NotContains(t, text(t, n.Do("CLUSTER", "NODES")), "["+strconv.Itoa(m.Slot()), "the slot is open")
			}

			m = c.BeginMove("{k}", to)
			m.Step(3)
			m.Finish()
			require.Equal(t, to, c.Node("{k}"))
			require.NoError(t, to.Do(all...).Err())
			require.ErrorContains(t, from.Do("GET", "{k}0").Err(), "MOVED")
			c.MoveSlot("{k}", to) // is there
			require.NoError(t, c.settled())
		})
	}
}

func TestSlotWithManyKeysMovesToEitherSideAndStays(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 2, 1)
	from := c.Node("{k}")
	var load [][]string
	for i := range 2 * batch {
		load = append(load, []string{"SET", fmt.Sprint("{k}", i), "v"})
	}
	load = append(load, []string{"SET", "{k}large", string(make([]byte, 8<<20))})
	for _, r := range raw(t, from, load...) {
		require.NoError(t, r.Err())
	}
	to := c.Nodes()[0]
	if to == from {
		to = c.Nodes()[1]
	}
	r := record(t, func(t testing.TB) {
		mine := *c.deployment
		mine.t = t
		(&Cluster{deployment: &mine, cfg: c.cfg}).MoveSlot("{k}", c.Nodes()[2])
	})
	require.True(t, r.failed)
	require.Contains(t, r.text(), "is not a primary")
	for i := range 6 {
		require.Equal(t, from, c.Node("{k}"), "the slot went back")
		// The old owner has an epoch that the others have not heard of: a new owner that took the next one it knows would lose.
		require.NoError(t, from.Do("CLUSTER", "BUMPEPOCH").Err())
		start := time.Now()
		c.MoveSlot("{k}", to)
		t.Logf("move %d took %s", i+1, time.Since(start))
		for _, n := range c.Nodes() {
			owners, err := slotOwners(n)
			require.NoError(t, err)
			require.Equal(t, to.Addr(), owners[driver.Slot("{k}")], "%s does not know", n.Addr())
		}
		n, err := to.Do("CLUSTER", "COUNTKEYSINSLOT", strconv.Itoa(int(driver.Slot("{k}")))).Int64()
		require.NoError(t, err)
		require.EqualValues(t, 2*batch+1, n)
		from, to = to, from
	}
}

// In both directions at once each node is an old owner that takes a new epoch.
func TestSlotsMoveAtTheSameTime(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 2, 0)
	a, b := c.Nodes()[0], c.Nodes()[1]
	var wg sync.WaitGroup
	for i, key := range []string{"{a}", "{b}", "{c}", "{d}"} {
		wg.Go(func() {
			for n := i; n < i+6 && !t.Failed(); n++ {
				to := a
				if n%2 == 0 {
					to = b
				}
				c.MoveSlot(key, to)
				if o := c.Node(key); o != to {
					t.Errorf("%s did not stay", key)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, c.settled())
}

func TestNothingIsLostWhileASlotMoves(t *testing.T) {
	t.Parallel()
	for _, o := range openers {
		t.Run(o.name, func(t *testing.T) {
			c := StartCluster(t, 3, 0)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			d, err := o.open(ctx, c.URL())
			require.NoError(t, err)
			client, err := core.New(d, core.WithCommandTimeout(10*time.Second), core.WithoutBreaker())
			require.NoError(t, err)
			defer client.Close()
			const keys, workers = 40, 4
			var acknowledged, unknown [keys]atomic.Int64
			var done atomic.Bool
			var total atomic.Int64
			var wg sync.WaitGroup
			for w := range workers {
				wg.Go(func() {
					for i := w; !done.Load(); i++ {
						k := i % keys
						err := client.Do(ctx, driver.Cmd{Args: []string{"INCR", fmt.Sprint("{k}", k)}, Keys: driver.Key(1)}).Err()
						if err == nil {
							acknowledged[k].Add(1)
							total.Add(1)
						} else {
							unknown[k].Add(1)
						}
					}
				})
			}
			from := c.Node("{k}")
			to := other(c, from)
			for range 3 {
				before := total.Load()
				c.MoveSlot("{k}", to)
				m := c.BeginMove("{k}", from)
				require.NoError(t, await("the load stands still", func() error {
					if total.Load() < before+20 {
						return fmt.Errorf("%d since", total.Load()-before)
					}
					return nil
				}))
				m.Step(keys / 2)
				m.Abort()
				c.MoveSlot("{k}", from)
			}
			done.Store(true)
			wg.Wait()
			failed := int64(0)
			for k := range keys {
				n, err := strconv.ParseInt(text(t, from.Do("GET", fmt.Sprint("{k}", k))), 10, 64)
				require.NoError(t, err)
				require.GreaterOrEqual(t, n, acknowledged[k].Load(), "key %d", k)
				require.LessOrEqual(t, n, acknowledged[k].Load()+unknown[k].Load(), "key %d", k)
				failed += unknown[k].Load()
			}
			t.Logf("%d acknowledged, %d unknown", total.Load(), failed)
			require.Less(t, failed*10, total.Load(), "most of it failed: that proves nothing")
		})
	}
}
