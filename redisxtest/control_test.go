package redisxtest

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRestartKeepsTheKeysIfAsked(t *testing.T) {
	s := StartServer(t, OwnProcess())
	require.NoError(t, s.Do("SET", "k", "v").Err())
	require.NoError(t, s.Do("SET", "leased", "v", "PX", "3600000").Err())
	sha := text(t, s.Do("SCRIPT", "LOAD", "return 1"))
	addr := s.Addr()
	s.Restart(true)
	require.Equal(t, addr, s.Addr())
	require.Equal(t, "v", text(t, s.Do("GET", "k")))
	ttl, err := s.Do("PTTL", "leased").Int64()
	require.NoError(t, err)
	require.Greater(t, ttl, int64(3_000_000))
	require.ErrorContains(t, s.Do("EVALSHA", sha, "0").Err(), "NOSCRIPT")

	s.Pause()
	s.Restart(true)
	require.Equal(t, "v", text(t, s.Do("GET", "k")), "keys of a paused server are lost")

	s.Kill()
	s.Restart(true)
	require.True(t, s.Do("GET", "k").IsNil(), "what an earlier Restart saved outlives a kill without persistence")

	require.NoError(t, s.Do("SET", "k", "v").Err())
	s.Restart(false)
	require.True(t, s.Do("GET", "k").IsNil())
}

func TestRestartOfAServerThatPersists(t *testing.T) {
	for name, opts := range map[string][]Option{
		"log":      {Config("appendonly", "yes"), Config("appendfsync", "always")},
		"snapshot": {Config("save", "3600", "1"), Config("dbfilename", "other.rdb")},
	} {
		t.Run(name, func(t *testing.T) {
			s := StartServer(t, opts...)
			require.NoError(t, s.Do("SET", "k", "v").Err())
			s.Restart(true)
			require.Equal(t, "v", text(t, s.Do("GET", "k")))
			require.NoError(t, s.Do("SET", "k2", "v").Err())
			s.Kill()
			s.Restart(true)
			require.Equal(t, "v", text(t, s.Do("GET", "k")), "a killed server does not come back with what it had persisted")
			require.Equal(t, name == "snapshot", s.Do("GET", "k2").IsNil())
			s.Restart(false)
			n, err := s.Do("DBSIZE").Int64()
			require.NoError(t, err)
			require.Zero(t, n)
		})
	}
}

// A save and a kill after it would lose what comes between the two.
func TestRestartLosesNoAcknowledgedWrite(t *testing.T) {
	s := StartServer(t, OwnProcess())
	const workers = 4
	var acknowledged, unknown [workers]int64
	var total atomic.Int64
	var done atomic.Bool
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for !done.Load() {
				l, err := s.target().dial()
				if err != nil {
					continue // being restarted
				}
				for !done.Load() && l.succeed([]string{"INCR", "n" + strconv.Itoa(w)}) == nil {
					acknowledged[w]++
					total.Add(1)
				}
				unknown[w]++ // the last one
				l.nc.Close()
			}
		})
	}
	for range 5 {
		before := total.Load()
		require.NoError(t, await("the load stands still", func() error {
			if total.Load() < before+1000 {
				return errors.New("still")
			}
			return nil
		}))
		s.Restart(true)
	}
	done.Store(true)
	wg.Wait()
	for w := range workers {
		have, err := strconv.ParseInt(text(t, s.Do("GET", "n"+strconv.Itoa(w))), 10, 64)
		require.NoError(t, err)
		require.GreaterOrEqual(t, have, acknowledged[w])
		require.LessOrEqual(t, have, acknowledged[w]+unknown[w])
	}
}

func TestRestartReportsThatItCannotSave(t *testing.T) {
	StartServer(t, OwnProcess()) // skips where there is none
	r := record(t, func(t testing.TB) {
		s := StartServer(t, OwnProcess())
		require.NoError(t, s.Do("SET", "k", "v").Err())
		require.NoError(t, os.Mkdir(s.instance.dump(), 0o700))
		s.Restart(true)
		require.Equal(t, "v", text(t, s.Do("GET", "k")), "the keys are gone all the same")
	})
	require.True(t, r.failed)
	require.Contains(t, r.text(), "Restart: SHUTDOWN")
}

func TestReplicaIsInSync(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]Option{"plain": {OwnProcess()}, "password": {Password("p w")}, "TLS": {TLS()}} {
		t.Run(name, func(t *testing.T) {
			s := StartServer(t, opts...)
			for i := range 100 {
				require.NoError(t, s.Do("SET", "k"+strconv.Itoa(i), "v").Err())
			}
			start := time.Now()
			r := StartReplica(t, s)
			t.Logf("in sync after %s", time.Since(start))
			n, err := r.Do("DBSIZE").Int64()
			require.NoError(t, err)
			require.EqualValues(t, 100, n)
			require.ErrorContains(t, r.Do("SET", "k", "v").Err(), "READONLY")
			acks, err := raw(t, s, []string{"SET", "k", "v"}, []string{"WAIT", "1", "4000"})[1].Int64()
			require.NoError(t, err)
			require.EqualValues(t, 1, acks)

			r.Restart(false)
			require.Equal(t, "slave", role(t, r))
			require.NoError(t, await("the replica does not come back", func() error {
				x, err := askReplication(r)
				if err != nil {
					return err
				}
				return x.follows(s)
			}))
			require.Equal(t, "v", text(t, r.Do("GET", "k0")))
			require.NoError(t, StartReplica(t, r).Do("GET", "k0").Err(), "a replica of a replica")
		})
	}
}

func TestReplicaIsRefusedWhereItCannotBe(t *testing.T) {
	own := StartServer(t, OwnProcess())
	for name, c := range map[string]struct {
		want string
		do   func(t testing.TB)
	}{
		"shared": {"shared server", func(t testing.TB) { StartReplica(t, SharedServer(t)) }},
		"nil":    {"nil server", func(t testing.TB) { StartReplica(t, nil) }},
		"given":  {"given server", func(t testing.TB) { StartReplica(t, useGiven(t, own.URL())) }},

		"TLS":       {"no certificate", func(t testing.TB) { StartReplica(t, StartServer(t, OwnProcess()), TLS()) }},
		"not there": {"does not answer", func(t testing.TB) { s := StartServer(t, OwnProcess()); s.Kill(); StartReplica(t, s) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := record(t, c.do)
			require.True(t, r.failed)
			require.Contains(t, r.text(), c.want)
		})
	}
}
