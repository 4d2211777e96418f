package redisxtest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// roundTrip sets and reads many keys with both drivers.
func roundTrip(t *testing.T, url string) {
	t.Helper()
	ctx := testContext(t)
	for _, o := range openers {
		d, err := o.open(ctx, url)
		require.NoError(t, err, o.name)
		c, err := core.New(d, core.WithCommandTimeout(5*time.Second))
		require.NoError(t, err)
		for range 50 {
			key := Prefix(t)
			require.NoError(t, c.Do(ctx, driver.Cmd{Args: []string{"SET", key, "v"}, Keys: driver.Key(1)}).Err(), o.name)
			s, err := c.Do(ctx, driver.Cmd{Args: []string{"GET", key}, Keys: driver.Key(1), Mode: driver.ReadOnly}).Text()
			require.NoError(t, err, o.name)
			require.Equal(t, "v", s)
		}
		require.NoError(t, c.Close())
	}
}

func TestClusterServesEverySlotOnceItIsStarted(t *testing.T) {
	t.Parallel()
	start := time.Now()
	c := StartCluster(t, 3, 1, Password("pw"))
	t.Logf("started in %s", time.Since(start))
	require.Len(t, c.Nodes(), 6)
	roundTrip(t, c.URL())
	owner := c.Node("k")
	require.Contains(t, c.Nodes()[:3], owner)

	// A node that was killed comes back as the member it was.
	replica := c.Nodes()[5]
	replica.Kill()
	require.Error(t, replica.Do("PING").Err())
	require.Error(t, c.settled(), "a cluster with a dead node is well")
	replica.Restart(false)
	c.AwaitReady()
	v, err := look(replica)
	require.NoError(t, err)
	require.False(t, v.primary())
}

// On a machine that stalls a node may miss the others when they meet.
func TestClusterNodesMeetAgain(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 2, 0)
	first, lost := c.Nodes()[0], c.Nodes()[1]
	id := text(t, lost.Do("CLUSTER", "MYID"))
	require.NoError(t, succeed(lost, []string{"CLUSTER", "RESET", "HARD"})) // it has a new name: the old one stays forgotten
	require.NoError(t, succeed(first, []string{"CLUSTER", "FORGET", id}))
	require.NoError(t, await("the nodes do not meet", func() error {
		if err := c.meet(); err != nil {
			return err
		}
		v, err := look(first)
		if err == nil && (v.at(lost).id == "" || v.at(lost).flags != "master") {
			err = fmt.Errorf("it is %+v", v.at(lost))
		}
		return err
	}))
}

func TestClusterWithTLS(t *testing.T) {
	t.Parallel()
	roundTrip(t, StartCluster(t, 3, 0, TLS()).URL())
}

func TestSentinelKnowsItsPrimaryAndFailsOver(t *testing.T) {
	t.Parallel()
	start := time.Now()
	s := StartSentinel(t, 2, Password("pw"))
	t.Logf("started in %s", time.Since(start))
	require.Equal(t, s.Nodes()[0], s.Primary())
	roundTrip(t, s.URL())
	start = time.Now()
	old := s.Primary()
	heir := s.Failover()
	t.Logf("failed over in %s", time.Since(start))
	require.Equal(t, heir, s.Primary())
	require.Equal(t, "master", role(t, heir))
	require.Equal(t, "slave", role(t, old))
	roundTrip(t, s.URL())
	start = time.Now()
	s.AwaitReady()
	t.Logf("well again in %s", time.Since(start))
}

func role(t testing.TB, s *Server) string {
	t.Helper()
	list, err := s.Do("ROLE").List()
	require.NoError(t, err)
	return text(t, list[0])
}

func TestSentinelReplacesAPrimaryThatIsGone(t *testing.T) {
	t.Parallel()
	s := StartSentinel(t, 1)
	old := s.Primary()
	require.NoError(t, old.Do("SET", "k", "v").Err())
	old.Kill()
	start := time.Now()
	heir := s.AwaitFailover(old)
	t.Logf("replaced after %s", time.Since(start))
	require.NotEqual(t, old, heir)
	require.Equal(t, "master", role(t, heir))
	require.Equal(t, "v", text(t, heir.Do("GET", "k")))
	require.Error(t, s.settled(), "a deployment with a dead node is well")
	start = time.Now()
	old.Restart(false)
	s.AwaitReady()
	t.Logf("well again after %s", time.Since(start))
	require.Equal(t, "v", text(t, old.Do("GET", "k")), "the old primary does not follow")

	// The roles are in the configuration: a restart does not bring the old ones back.
	heir.Restart(true)
	require.Equal(t, "master", role(t, heir))
	require.Equal(t, "v", text(t, heir.Do("GET", "k")))
	old.Restart(false)
	require.Equal(t, "slave", role(t, old))
	s.Sentinels()[0].Restart(true)
	s.AwaitReady()
	require.Equal(t, heir, s.Primary())
}

func TestDeploymentsRefuseImpossibleShapes(t *testing.T) {
	for name, do := range map[string]func(t testing.TB){
		"no primary":       func(t testing.TB) { StartCluster(t, 0, 1) },
		"too many":         func(t testing.TB) { StartCluster(t, 50, 2) },
		"cluster socket":   func(t testing.TB) { StartCluster(t, 3, 0, UnixSocket()) },
		"no replica":       func(t testing.TB) { StartSentinel(t, 0) },
		"sentinel and TLS": func(t testing.TB) { StartSentinel(t, 1, TLS()) },
	} {
		t.Run(name, func(t *testing.T) { require.True(t, record(t, do).failed) })
	}
}
