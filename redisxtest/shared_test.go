package redisxtest

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

func TestSharedDeploymentsAreStartedOnceAndCannotBeBroken(t *testing.T) {
	t.Parallel()
	start := time.Now()
	c := SharedCluster(t, 3, 0)
	t.Logf("cluster after %s", time.Since(start))
	start = time.Now()
	s := SharedSentinel(t, 1)
	t.Logf("sentinel after %s", time.Since(start))
	var wg sync.WaitGroup
	for range 4 { // a second one would have other ports
		wg.Go(func() {
			require.Equal(t, c.URL(), SharedCluster(t, 3, 0).URL())
			require.Equal(t, s.URL(), SharedSentinel(t, 1).URL())
		})
	}
	wg.Wait()
	roundTrip(t, c.URL())
	roundTrip(t, s.URL())
	c.AwaitReady()
	s.AwaitReady()

	for name, do := range map[string]func(t testing.TB){
		"Failover":      func(t testing.TB) { SharedCluster(t, 3, 0).Failover(c.Node("k")) },
		"MoveSlot":      func(t testing.TB) { SharedCluster(t, 3, 0).MoveSlot("k", c.Nodes()[0]) },
		"BeginMove":     func(t testing.TB) { SharedCluster(t, 3, 0).BeginMove("k", c.Nodes()[0]).Finish() },
		"AwaitFailover": func(t testing.TB) { SharedCluster(t, 3, 0).AwaitFailover(c.Nodes()[0]) },
		"Kill":          func(t testing.TB) { SharedCluster(t, 3, 0).Node("k").Kill() },
		"Restart":       func(t testing.TB) { SharedSentinel(t, 1).Sentinels()[0].Restart(true) },
		"FillMemory":    func(t testing.TB) { SharedSentinel(t, 1).Primary().FillMemory()() },
		"Failover ":     func(t testing.TB) { SharedSentinel(t, 1).Failover() },
		"only Binary":   func(t testing.TB) { SharedCluster(t, 3, 0, TLS()) },
		"only Binary ":  func(t testing.TB) { SharedSentinel(t, 1, Config("save", "1 1")) },
	} {
		r := record(t, do)
		require.True(t, r.failed, name)
		require.Contains(t, r.text(), name)
		require.Contains(t, r.text(), "shared")
	}
	roundTrip(t, c.URL())
	roundTrip(t, s.URL())
}

func TestASharedClusterThatDiedIsReplaced(t *testing.T) {
	t.Parallel()
	c := SharedCluster(t, 1, 0)
	c.nodes[0].instance.stop()
	roundTrip(t, SharedCluster(t, 1, 0).URL())
}

func TestEachRunsOnDeploymentsIfAsked(t *testing.T) {
	t.Setenv(EnvURL, "")
	StartServer(t, OwnProcess()) // skips where there is none
	seen := map[driver.Topology]int{}
	Each(t, func(t *testing.T, c *core.Client) {
		caps, err := c.Driver().Caps(t.Context())
		require.NoError(t, err)
		seen[caps.Topology]++
		require.NoError(t, c.Do(t.Context(), driver.Cmd{Args: []string{"SET", c.KeyPrefix() + "k", "v"}, Keys: driver.Key(1)}).Err())
	}, OnCluster(), OnSentinel())
	found, err := Executables()
	require.NoError(t, err)
	require.Equal(t, len(openers)*len(found), seen[driver.Cluster], seen)
	require.Equal(t, len(openers)*len(found), seen[driver.Sentinel], seen)
	require.Equal(t, len(openers)*(len(found)+1), seen[driver.Standalone], seen)
}

func TestADirectoryOfVersionsStandsForItsPrograms(t *testing.T) {
	t.Setenv(EnvURL, "")
	t.Setenv(EnvRequire, "")
	exe := StartServer(t, OwnProcess()).Executable()
	dir := t.TempDir()
	fake := func(path, kind, version string) {
		t.Helper()
		path = filepath.Join(dir, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		script := "#!/bin/sh\nif [ \"$1\" = --version ]; then echo '" + kind + " server v=" + version + " sha=0'; exit; fi\nexec " + exe.Path + " \"$@\"\n"
		require.NoError(t, os.WriteFile(path, []byte(script), 0o700))
	}
	t.Setenv(EnvBinaries, dir)
	r := record(t, func(t testing.TB) { StartServer(t) })
	require.True(t, r.failed)
	require.Contains(t, r.text(), "a directory without a redis-server or valkey-server")

	fake("redis-8/bin/redis-server", "Redis", "8.0.9")
	fake("valkey/valkey-server", "Valkey", "8.1.9")
	fake("redis-7/redis-server", "Redis", "7.2.9")
	fake("too/deep/bin/redis-server", "Redis", "6.0.0")
	require.NoError(t, os.Symlink("valkey-server", filepath.Join(dir, "valkey/redis-server")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "redis-8/redis-server"), []byte("not to be run"), 0o600))
	list, err := Executables()
	require.NoError(t, err)
	var names []string
	for _, e := range list {
		names = append(names, e.String())
	}
	require.Equal(t, "redis-7.2.9 redis-8.0.9 valkey-8.1.9", strings.Join(names, " "))

	require.Equal(t, "8.0.9", StartServer(t, Version("8.0")).Executable().Version)
	require.Equal(t, "8.1.9", StartServer(t, Version("valkey 8")).Executable().Version)
	c := StartCluster(t, 1, 0, Version("8.0"))
	require.Equal(t, "8.0.9", c.Nodes()[0].Executable().Version)
	s := StartSentinel(t, 1, Version("7.2"))
	require.Equal(t, "7.2.9", s.Nodes()[0].Executable().Version)
	require.Equal(t, "7.2.9", s.Sentinels()[0].Executable().Version)
	require.True(t, record(t, func(t testing.TB) { StartCluster(t, 1, 0, Version("9")) }).skipped)

	t.Setenv(EnvBinaries, filepath.Join(dir, "redis-7")+string(filepath.ListSeparator)+exe.Path)
	list, err = Executables()
	require.NoError(t, err)
	require.Len(t, list, 2)
}
