package redisxtest

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
)

func code(err error) string {
	if err == nil {
		return "OK"
	}
	if e, ok := err.(*driver.ServerError); ok {
		return e.Code()
	}
	return err.Error()
}

// answers is what clients get: to a write, a read and PING, on a connection of their own.
func answers(s *Server) [3]string {
	return [3]string{code(s.Do("SET", "probe", "v").Err()), code(s.Do("GET", "k").Err()), code(s.Do("PING").Err())}
}

func TestFaultsBeginAndEnd(t *testing.T) {
	t.Parallel()
	ok := [3]string{"OK", "OK", "OK"}
	for _, c := range []struct {
		name  string
		begin func(s *Server) func()
		want  [3]string
		after bool // the server has to do without: there is no reply while it lasts
	}{
		{"FillMemory", (*Server).FillMemory, [3]string{"OOM", "OK", "OK"}, false},
		{"NoReplicas", (*Server).NoReplicas, [3]string{"NOREPLICAS", "OK", "OK"}, false},
		{"ReadOnly", (*Server).ReadOnly, [3]string{"READONLY", "OK", "OK"}, false},
		{"FailSaves", (*Server).FailSaves, [3]string{"MISCONF", "OK", "MISCONF"}, false},
		{"RefuseClients", (*Server).RefuseClients, [3]string{"ERR", "ERR", "ERR"}, false},
		{"Busy", func(s *Server) func() { return s.Busy(time.Minute) }, [3]string{"BUSY", "BUSY", "BUSY"}, false},
		{"Loading", func(s *Server) func() { return s.Loading(time.Minute) }, [3]string{"LOADING", "LOADING", "LOADING"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := StartServer(t, Config("maxmemory", "100mb"), Config("maxmemory-policy", "allkeys-lru"))
			require.NoError(t, s.Do("SET", "k", "v", "PX", "3600000").Err())
			before := configurationOf(t, s)
			for range 2 {
				end := c.begin(s)
				require.Equal(t, c.want, answers(s))
				end()
				require.Equal(t, ok, answers(s))
				end()
			}
			require.Equal(t, before, configurationOf(t, s), "it leaves settings changed")
			require.Equal(t, "v", text(t, s.Do("GET", "k")))
			require.Equal(t, "master", role(t, s))
			keys, err := s.Do("KEYS", "*").Strings()
			require.NoError(t, err)
			require.ElementsMatch(t, []string{"k", "probe"}, keys)
			size, err := s.Do("DBSIZE").Int64()
			require.NoError(t, err)
			require.EqualValues(t, 2, size)

			// Nothing of it outlives the process, nor does its end disturb the next one.
			end := c.begin(s)
			s.Kill()
			end()
			s.Restart(true)
			require.Equal(t, [3]string{"OK", "OK", "OK"}, answers(s))
			require.True(t, s.Do("GET", "k").IsNil(), "a fault made the server persist")
			end = c.begin(s)
			s.Kill()
			s.Restart(false)
			end()
			require.Equal(t, ok, answers(s))
			require.Equal(t, before, configurationOf(t, s))
		})
	}
}

// configurationOf is every setting but those that the server makes up.
func configurationOf(t *testing.T, s *Server) map[string]string {
	t.Helper()
	list, err := s.Do("CONFIG", "GET", "*").Strings()
	require.NoError(t, err)
	for _, hidden := range []string{"key-load-delay", "loading-process-events-interval-bytes"} {
		pair, err := s.Do("CONFIG", "GET", hidden).Strings()
		require.NoError(t, err)
		list = append(list, pair...)
	}
	m := map[string]string{}
	for i := 0; i+1 < len(list); i += 2 {
		m[list[i]] = list[i+1]
	}
	return m
}

func TestFaultsThatLastEndByThemselves(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code  string
		begin func(s *Server, d time.Duration) func()
	}{"Busy": {"BUSY", (*Server).Busy}, "Loading": {"LOADING", (*Server).Loading}} {
		t.Run(name, func(t *testing.T) {
			s := StartServer(t, TLS(), Password("p w"))
			r := StartReplica(t, s)
			for i := range 200 {
				require.NoError(t, s.Do("SET", "k"+strconv.Itoa(i), "v").Err())
			}
			open, err := s.target().dial()
			require.NoError(t, err)
			defer open.nc.Close()
			before := configurationOf(t, s)
			start := time.Now()
			first := c.begin(s, 300*time.Millisecond)
			var length time.Duration
			require.NoError(t, await("it does not end", func() error {
				err := s.Do("GET", "k0").Err()
				length = time.Since(start)
				return err
			}))
			t.Logf("300 ms were %s", length)
			require.Greater(t, length, 150*time.Millisecond)
			require.NoError(t, open.succeed([]string{"PING"}), "connections do not stay")
			require.NoError(t, await("settings stay changed", func() error {
				if now := configurationOf(t, s); fmt.Sprint(now) != fmt.Sprint(before) {
					return fmt.Errorf("%v", now)
				}
				return nil
			}))

			// The end of the first must not be taken for that of the second.
			second := c.begin(s, time.Minute)
			first()
			require.Equal(t, c.code, code(s.Do("PING").Err()))
			second()
			acks, err := raw(t, s, []string{"SET", "after", "v"}, []string{"WAIT", "1", "4000"})[1].Int64()
			require.NoError(t, err)
			require.EqualValues(t, 1, acks)
			for _, n := range []*Server{s, r} {
				size, err := n.Do("DBSIZE").Int64()
				require.NoError(t, err)
				require.EqualValues(t, 201, size, "of %v", n == r)
			}
			start = time.Now()
			c.begin(s, 10*time.Second)()
			require.Less(t, time.Since(start), 8*time.Second, "it cannot be ended before its time")
		})
	}
}

// Whoever controls the process at the same moment must not make a fault stay, nor pass for a server that does not run.
func TestFaultsEndWhileTheProcessIsControlled(t *testing.T) {
	s := StartServer(t, OwnProcess())
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for !done.Load() {
				s.Resume()
			}
		})
	}
	for range 100 {
		s.FillMemory()()
		if err := s.Do("SET", "k", "v").Err(); err != nil {
			t.Errorf("after the end: %v", err)
		}
	}
	done.Store(true)
	wg.Wait()
}

func TestLoadingLeavesNoKeysIfItCannotBe(t *testing.T) {
	r := record(t, func(t testing.TB) {
		s := StartServer(t, OwnProcess())
		end := s.NoReplicas()
		s.Loading(time.Second)()
		end()
		n, err := s.keyCount()
		require.NoError(t, err)
		require.Zero(t, n)
		t.Log("no key is left")
	})
	require.True(t, r.failed)
	require.Contains(t, r.text(), "Loading: NOREPLICAS")
	require.Contains(t, r.text(), "no key is left")
}

func TestAReadOnlyServerKeepsItsReplicas(t *testing.T) {
	s := StartServer(t, Config("replica-serve-stale-data", "no"))
	r := StartReplica(t, s)
	require.NoError(t, s.Do("SET", "k", "v").Err())
	before := configurationOf(t, s)
	end := s.ReadOnly()
	require.Equal(t, [3]string{"READONLY", "OK", "OK"}, answers(s))
	end()
	require.Equal(t, before, configurationOf(t, s))
	require.NoError(t, await("the replica does not follow", func() error {
		x, err := askReplication(r)
		if err != nil {
			return err
		}
		return x.follows(s)
	}))
	acks, err := raw(t, s, []string{"SET", "k2", "v"}, []string{"WAIT", "1", "4000"})[1].Int64()
	require.NoError(t, err)
	require.EqualValues(t, 1, acks)
	require.Equal(t, "v", text(t, r.Do("GET", "k")))
}

func TestFaultsOfAServerThatSaves(t *testing.T) {
	s := StartServer(t, Config("save", "3600", "1"), Config("dbfilename", "other.rdb"))
	require.NoError(t, s.Do("SET", "k", "v").Err())
	require.NoError(t, s.Do("SAVE").Err())
	require.NoError(t, s.Do("SET", "k2", "v").Err())
	s.FailSaves()()
	s.Loading(time.Minute)()
	s.Kill()
	s.Restart(true)
	require.Equal(t, "v", text(t, s.Do("GET", "k")))
	end := s.FailSaves()
	require.Equal(t, "MISCONF", answers(s)[0])
	s.Kill()
	end()
	s.Restart(true)
	require.Equal(t, "v", text(t, s.Do("GET", "k")), "what was saved before is gone")
}

func TestNoPasswordOfARuleIsPrinted(t *testing.T) {
	r := record(t, func(t testing.TB) { StartServer(t, OwnProcess()).SetACL("u", "on", "#not-a-hash-but-secret") })
	require.True(t, r.failed)
	require.NotContains(t, r.text(), "secret")
}

func TestFaultsOfClusterNodes(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3, 0)
	n := c.Node("k")
	require.NoError(t, n.Do("SET", "k", "v").Err())
	for name, x := range map[string]struct {
		code  string
		begin func() func()
	}{
		"FillMemory": {"OOM", n.FillMemory},
		"Busy":       {"BUSY", func() func() { return n.Busy(time.Minute) }},
		"Loading":    {"LOADING", func() func() { return n.Loading(time.Minute) }},
	} {
		end := x.begin()
		require.Equal(t, x.code, code(n.Do("SET", "k", "v").Err()), name)
		end()
		require.NoError(t, n.Do("SET", "k", "v").Err(), name)
		c.AwaitReady()
	}
	r := record(t, func(t testing.TB) { s := *n; s.t = t; s.ReadOnly()() })
	require.True(t, r.failed)
	require.Contains(t, r.text(), "use Failover")
	r = record(t, func(t testing.TB) {
		(&Sentinel{deployment: &deployment{t: t, nodes: c.nodes}}).AwaitFailover(c.nodes[1])
	})
	require.Contains(t, r.text(), "not a node that the Sentinels watch")
	require.NoError(t, n.Do("SET", "k", "v").Err())
}

func TestKillClientsOfAKind(t *testing.T) {
	s := StartServer(t, OwnProcess())
	r := StartReplica(t, s)
	open := func(cmd ...string) *line {
		l, err := s.target().dial()
		require.NoError(t, err)
		t.Cleanup(func() { l.nc.Close() })
		require.NoError(t, l.succeed(cmd))
		return l
	}
	normal, pubsub := open("PING"), open("SUBSCRIBE", "c")
	require.Equal(t, 1, s.KillClients("pubsub"))
	_, err := pubsub.read(2)
	require.Error(t, err)
	require.NoError(t, normal.succeed([]string{"PING"}))
	require.Equal(t, 1, s.KillClients("normal"))
	require.Error(t, normal.succeed([]string{"PING"}))
	require.Equal(t, 1, s.KillClients("replica"))
	require.NoError(t, await("the replica does not come back", func() error {
		x, err := askReplication(r)
		if err != nil {
			return err
		}
		return x.follows(s)
	}))
	require.Equal(t, 1, r.KillClients("master"))
	require.Zero(t, s.KillClients("pubsub"))
}

func TestSetACLActsOnOpenConnectionsAndIsUndone(t *testing.T) {
	s := StartServer(t, User("app", "p w", "~*", "&*", "+@all"), User("narrow", "pw", "~a:*", "+get", "(+set ~b:*)"))
	as := func(user, password string) *line {
		g := s.target()
		g.user, g.password = user, password
		l, err := g.dial()
		require.NoError(t, err)
		t.Cleanup(func() { l.nc.Close() })
		return l
	}
	app := as("app", "p w")
	require.NoError(t, app.succeed([]string{"SET", "k", "v"}))
	end := s.SetACL("app", "-set")
	require.ErrorContains(t, app.succeed([]string{"SET", "k", "v"}), "NOPERM")
	require.NoError(t, app.succeed([]string{"GET", "k"}))
	end()
	end()
	require.NoError(t, app.succeed([]string{"SET", "k", "v"}))

	// What a user has by default may be said or not.
	list := func() []string {
		lines, err := s.Do("ACL", "LIST").Strings()
		require.NoError(t, err)
		for i := range lines {
			lines[i] = strings.ReplaceAll(lines[i], " sanitize-payload", "")
		}
		return lines
	}
	before := list()
	end = s.SetACL("narrow", "reset", "on", ">other", "+@all", "~*")
	require.NoError(t, as("narrow", "other").succeed([]string{"SET", "k", "v"}))
	end()
	gone := s.SetACL("new", "on", ">pw", "+get", "~*")
	as("new", "pw")
	gone()
	require.ElementsMatch(t, before, list())
}

func TestFaultsAreRefusedWhereTheyCannotBe(t *testing.T) {
	own := StartServer(t, OwnProcess())
	all := map[string]func(s *Server){
		"FillMemory": func(s *Server) { s.FillMemory()() }, "NoReplicas": func(s *Server) { s.NoReplicas()() },
		"ReadOnly": func(s *Server) { s.ReadOnly()() }, "FailSaves": func(s *Server) { s.FailSaves()() },
		"RefuseClients": func(s *Server) { s.RefuseClients()() }, "Busy": func(s *Server) { s.Busy(time.Second)() },
		"Loading": func(s *Server) { s.Loading(time.Second)() }, "KillClients": func(s *Server) { s.KillClients("normal") },
		"SetACL": func(s *Server) { s.SetACL("u", "on")() }, "SetClockSkew": func(s *Server) { s.SetClockSkew(time.Second) },
		"Restart": func(s *Server) { s.Restart(true) },
	}
	for name, do := range all {
		for want, s := range map[string]func(t testing.TB) *Server{
			"given server":  func(t testing.TB) *Server { return useGiven(t, own.URL()) },
			"shared server": func(t testing.TB) *Server { return SharedServer(t) },
		} {
			r := record(t, func(t testing.TB) { do(s(t)) })
			require.True(t, r.failed, name)
			require.Contains(t, r.text(), want)
			require.Contains(t, r.text(), name)
		}
	}
	for want, do := range map[string]func(s *Server){
		"end that first":         func(s *Server) { defer s.FillMemory()(); s.FillMemory() },
		"does not run":           func(s *Server) { s.Kill(); s.FillMemory()() },
		"or is paused":           func(s *Server) { s.Pause(); s.Busy(time.Second)() },
		"Resume comes first":     func(s *Server) { end := s.FillMemory(); s.Pause(); end() },
		"want 1ms":               func(s *Server) { s.Busy(0)() },
		"Loading: -1s":           func(s *Server) { s.Loading(-time.Second)() },
		"want normal, pubsub":    func(s *Server) { s.KillClients("all") },
		"other than the default": func(s *Server) { s.SetACL("default", "off")() },
		"SetACL: ERR":            func(s *Server) { s.SetACL("u", "no-such-rule")() },
		"needs the option":       func(s *Server) { s.SetClockSkew(time.Second) },
		"the server is a replica": func(s *Server) {
			require.NoError(t, s.Do("REPLICAOF", "127.0.0.1", "0").Err())
			s.Loading(time.Second)()
		},
		"ReadOnly: the server is ": func(s *Server) { require.NoError(t, s.Do("REPLICAOF", "127.0.0.1", "0").Err()); s.ReadOnly()() },
	} {
		r := record(t, func(t testing.TB) { do(StartServer(t, OwnProcess())) })
		require.True(t, r.failed, want)
		require.Contains(t, r.text(), want)
	}
	// After Resume the end can be had all the same.
	r := record(t, func(tb testing.TB) {
		s := StartServer(tb, OwnProcess())
		end := s.FillMemory()
		s.Pause()
		end()
		s.Resume()
		end()
		require.NoError(t, s.Do("SET", "k", "v").Err())
	})
	require.True(t, r.failed)
}

func TestClockSkew(t *testing.T) {
	s := StartServer(t, ClockSkew())
	off := func() time.Duration {
		now, err := s.serverTime()
		require.NoError(t, err)
		return time.Until(now).Round(time.Minute)
	}
	require.NoError(t, s.Do("SET", "short", "v", "EX", "60").Err())
	require.NoError(t, s.Do("SET", "long", "v", "EX", "7200").Err())
	require.NoError(t, s.Do("SET", "at", "v", "PXAT", strconv.FormatInt(time.Now().Add(30*time.Minute).UnixMilli(), 10)).Err())

	s.SetClockSkew(-time.Hour)
	require.Equal(t, -time.Hour, off())
	ttl, err := s.Do("TTL", "short").Int64()
	require.NoError(t, err)
	require.InDelta(t, 3660, ttl, 40)

	s.SetClockSkew(time.Hour)
	require.Equal(t, time.Hour, off())
	require.True(t, s.Do("GET", "short").IsNil())
	require.True(t, s.Do("GET", "at").IsNil())
	require.Equal(t, "v", text(t, s.Do("GET", "long")))
	id := text(t, s.Do("XADD", "stream", "*", "f", "v"))
	ms, err := strconv.ParseInt(id[:len(id)-2], 10, 64)
	require.NoError(t, err)
	require.Equal(t, time.Hour, time.Until(time.UnixMilli(ms)).Round(time.Minute))

	// The server notes when a wait is to end as a time of day.
	l, err := s.target().dial()
	require.NoError(t, err)
	defer l.nc.Close()
	require.NoError(t, l.nc.SetDeadline(time.Now().Add(readyTimeout)))
	require.NoError(t, l.send([]string{"BLPOP", "none", "3000"}))
	require.NoError(t, await("nobody waits", func() error {
		if info := text(t, s.Do("INFO", "clients")); !strings.Contains(info, "blocked_clients:1") {
			return errors.New(info)
		}
		return nil
	}))
	s.SetClockSkew(2*time.Hour + time.Minute)
	replies, err := l.read(1)
	require.NoError(t, err, "a jump beyond its end does not end a wait")
	require.True(t, replies[0].IsNil())

	s.Restart(true)
	require.Equal(t, 2*time.Hour+time.Minute, off())
	s.SetClockSkew(0)
	require.Zero(t, off())
	r := record(t, func(t testing.TB) { x := *s; x.t = t; x.SetClockSkew(20 * 365 * 24 * time.Hour) })
	require.True(t, r.failed)
}

func TestClockSkewOfDeployments(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3, 0, ClockSkew())
	n := c.Node("k")
	n.SetClockSkew(time.Hour)
	now, err := n.serverTime()
	require.NoError(t, err)
	require.Equal(t, time.Hour, time.Until(now).Round(time.Minute))
	c.AwaitReady()
	n.SetClockSkew(0)
	c.AwaitReady()

	s := StartSentinel(t, 1, ClockSkew())
	w := s.Sentinels()[0]
	w.SetClockSkew(time.Minute)
	require.NoError(t, await("the clock of a Sentinel does not jump", func() error {
		if info := text(t, w.Do("INFO", "sentinel")); !strings.Contains(info, "sentinel_tilt:1") {
			return errors.New(info)
		}
		return nil
	}))
}

func TestClockSkewLeavesNothingBehind(t *testing.T) {
	var pid int
	t.Run("inner", func(t *testing.T) {
		s := StartServer(t, ClockSkew())
		pid = s.instance.process.pid
	})
	if pid == 0 {
		t.Skip("no libfaketime; said so above")
	}
	left, err := filepath.Glob("/dev/shm/*_" + strconv.Itoa(pid))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestClockSkewIsSkippedLoudlyWithoutItsLibrary(t *testing.T) {
	exe := StartServer(t, OwnProcess()).Executable()
	if _, err := faketime(exe); err == nil {
		t.Skip("libfaketime is here and works")
	}
	t.Setenv(EnvRequire, "")
	require.True(t, record(t, func(t testing.TB) { StartServer(t, ClockSkew()) }).skipped)
	t.Setenv(EnvRequire, "clock")
	require.True(t, record(t, func(t testing.TB) { StartServer(t, ClockSkew()) }).failed)
}
