package redisxtest

import (
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
	replica.Restart()
	c.await("the replica does not come back", func() error {
		for _, n := range c.nodes {
			if err := c.agrees(n); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestClusterWithTLS(t *testing.T) {
	roundTrip(t, StartCluster(t, 3, 0, TLS()).URL())
}

func TestSentinelKnowsItsPrimaryAndFailsOver(t *testing.T) {
	start := time.Now()
	s := StartSentinel(t, 2, Password("pw"))
	t.Logf("started in %s", time.Since(start))
	require.Equal(t, s.Nodes()[0], s.Primary())
	roundTrip(t, s.URL())
	start = time.Now()
	s.Failover()
	t.Logf("failed over in %s", time.Since(start))
	require.NotEqual(t, s.Nodes()[0], s.Primary())
	roundTrip(t, s.URL())
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
