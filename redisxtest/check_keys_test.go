package redisxtest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// do runs commands on the first argument as key.
func do(t testing.TB, c *core.Client, args ...string) driver.Reply {
	t.Helper()
	r := c.Do(testContext(t), keyCmd(args[0], args[1], args[2:]...))
	require.NoError(t, r.Err())
	return r
}

// many sends a command for more keys than a step of SCAN looks at, over all slots.
func many(t testing.TB, c *core.Client, cmd func(key string) driver.Cmd) {
	t.Helper()
	cmds := make([]driver.Cmd, 3*scanStep)
	for i := range cmds {
		cmds[i] = cmd(fmt.Sprint(c.KeyPrefix(), i))
	}
	for _, r := range c.DoMulti(testContext(t), cmds) {
		require.NoError(t, r.Err())
	}
}

// keyChecks is what must hold on every server.
func keyChecks(t *testing.T, c *core.Client) {
	p := c.KeyPrefix()
	defer func() {
		for _, k := range []string{"for*ever", "list", "later", `[x]\?*`} {
			do(t, c, "DEL", p+k)
		}
		many(t, c, func(key string) driver.Cmd { return keyCmd("DEL", key) })
	}()
	AllKeysHaveTTL(t, c)
	many(t, c, func(key string) driver.Cmd { return keyCmd("SET", key, "v", "EX", "100") })
	AllKeysHaveTTL(t, c)
	TTLWithin(t, c, 10*time.Second, 100*time.Second)
	do(t, c, "SET", p+"for*ever", "geheim")
	do(t, c, "RPUSH", p+"list", "geheim")
	do(t, c, "SET", p+"later", "v", "EX", "1000")
	r := record(t, func(t testing.TB) { AllKeysHaveTTL(t, c) })
	require.True(t, r.failed)
	require.Contains(t, r.text(), fmt.Sprintf("2 keys under [%q] live for ever", p))
	require.Contains(t, r.text(), `for*ever"  no TTL`)
	require.NotContains(t, r.text(), "geheim")
	r = record(t, func(t testing.TB) { TTLWithin(t, c, 0, 500*time.Second) })
	require.Contains(t, r.text(), "3 keys under")

	// A prefix means its letters.
	AllKeysHaveTTL(t, c, p+"for?", p+"[0-9]")
	r = record(t, func(t testing.TB) { AllKeysHaveTTL(t, c, p+"for*", p+"nothing") })
	require.Contains(t, r.text(), "1 keys under")
	do(t, c, "SET", p+`[x]\?*`, "v")
	r = record(t, func(t testing.TB) { AllKeysHaveTTL(t, c, p+`[x]\?*`) })
	require.Contains(t, r.text(), "1 keys under")
}

func TestKeysWithoutTTLAreFound(t *testing.T) {
	recordEach(t, func(t *testing.T, c *core.Client) {
		tr := Observe(t, c, func() { AllKeysHaveTTL(t, c) })
		require.Empty(t, tr.Commands)
		keyChecks(t, c)
	})
}

func TestKeysAreLookedForOnEveryPrimaryOfACluster(t *testing.T) {
	cl := StartCluster(t, 3, 1)
	for _, o := range openers {
		t.Run(o.name, func(t *testing.T) {
			d, err := o.open(testContext(t), cl.URL())
			require.NoError(t, err)
			c, err := core.New(d, core.WithKeyPrefix(Prefix(t)), core.WithCommandTimeout(5*time.Second))
			require.NoError(t, err)
			defer c.Close()
			keyChecks(t, c)
		})
	}
}

func TestKeysBehindASentinelAreFound(t *testing.T) {
	se := StartSentinel(t, 1)
	for _, o := range openers {
		d, err := o.open(testContext(t), se.URL())
		require.NoError(t, err)
		c, err := core.New(d, core.WithKeyPrefix(Prefix(t)), core.WithCommandTimeout(5*time.Second))
		require.NoError(t, err)
		keyChecks(t, c)
		require.NoError(t, c.Close())
	}
}

// A primary with a single slot is found too.
func TestEveryPrimaryHasAKey(t *testing.T) {
	var owners [driver.Slots]string
	for i := range owners {
		owners[i] = "a"
	}
	owners[16383], owners[7] = "b", "c"
	near, err := nearKeys(owners)
	require.NoError(t, err)
	got := map[string]bool{}
	for _, k := range near {
		got[owners[driver.Slot(k)]] = true
	}
	require.Len(t, got, 3)
	owners[5] = ""
	_, err = nearKeys(owners)
	require.ErrorContains(t, err, "slot 5")
}

func TestOrphanKeysAreFound(t *testing.T) {
	recordEach(t, func(t *testing.T, c *core.Client) {
		p := c.KeyPrefix()
		do(t, c, "SET", p+"before", "v", "EX", "100")
		r := record(t, func(t testing.TB) {
			NoOrphanKeys(t, c)
			do(t, c, "SET", p+"gone", "v")
			do(t, c, "SET", p+"soon", "v", "PX", "30") // on its way out when the test ends
			do(t, c, "SET", p+"before", "w", "EX", "100")
			t.Cleanup(func() { do(t, c, "DEL", p+"gone") })
		})
		require.False(t, r.failed, r.text())
		do(t, c, "DEL", p+"before")
	}, FakeOnly())
}

func TestWhatATestLeavesBehindFailsIt(t *testing.T) {
	c := NewFake(t).Client(core.WithKeyPrefix("shop:"))
	r := record(t, func(t testing.TB) {
		NoOrphanKeys(t, c)
		do(t, c, "SET", "shop:left", "geheim", "EX", "100")
		do(t, c, "SET", "other", "v")
	})
	require.True(t, r.failed)
	require.Contains(t, r.text(), `the test left 1 keys under ["shop:"] behind`)
	require.Contains(t, r.text(), `"shop:left"`)
	require.NotContains(t, r.text(), "geheim")
}

func TestAClientThatIsClosedTooEarlyIsNamed(t *testing.T) {
	d, err := openers[0].open(testContext(t), NewFake(t).URL())
	require.NoError(t, err)
	c, err := core.New(d)
	require.NoError(t, err)
	start := time.Now()
	r := record(t, func(t testing.TB) {
		defer c.Close()
		NoOrphanKeys(t, c)
	})
	require.True(t, r.failed)
	require.Contains(t, r.text(), "not with defer")
	require.Less(t, time.Since(start), 20*time.Second)
}

// A check that could not look says so, and does not pass.
func TestAKeyCheckWithoutAServerFails(t *testing.T) {
	f := NewFake(t)
	c := f.Client()
	f.FailNext(1, "NOPERM this user has no permissions to run the 'scan' command", "SCAN")
	r := record(t, func(t testing.TB) { AllKeysHaveTTL(t, c) })
	require.True(t, r.failed)
	require.Contains(t, r.text(), "NOPERM")
	f.FailNext(1, "NOPERM this user has no permissions to run the 'scan' command", "SCAN")
	r = record(t, func(t testing.TB) { NoOrphanKeys(t, c); t.Log("went on") })
	require.True(t, r.failed)
	require.NotContains(t, r.text(), "went on")
	require.True(t, record(t, func(t testing.TB) { TTLWithin(t, c, time.Hour, time.Minute) }).failed)
	require.True(t, record(t, func(t testing.TB) { AllKeysHaveTTL(t, nil) }).failed)
	require.Equal(t, shownCommands+1, strings.Count(shortList(make([]string, 100)), "\n"))
}
