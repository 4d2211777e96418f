package redisxtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

func (f *Fake) testTarget(user, password string) target {
	return target{network: "tcp", addr: f.Addr(), user: user, password: password}
}

func TestFakeKeysExpireByTheWallClock(t *testing.T) {
	ctx, f := testContext(t), NewFake(t)
	c := goredisClient(t, f)
	require.NoError(t, c.Set(ctx, "k", "v", 30*time.Millisecond).Err())
	require.Equal(t, "v", c.Get(ctx, "k").Val())
	require.Eventually(t, func() bool { return errors.Is(c.Get(ctx, "k").Err(), redis.Nil) }, 5*time.Second, time.Millisecond)
}

func TestAdvanceMovesExpiryTimeAndBlockedCommandsAlike(t *testing.T) {
	ctx, f := testContext(t), NewFake(t)
	c := goredisClient(t, f, func(o *redis.Options) { o.ReadTimeout = -1 })
	require.NoError(t, c.Set(ctx, "short", "v", time.Minute).Err())
	require.NoError(t, c.Set(ctx, "long", "v", time.Hour).Err())
	before := c.Time(ctx).Val()
	done := make(chan error, 1)
	go func() { done <- c.BLPop(ctx, 10*time.Minute, "empty").Err() }()
	require.Eventually(t, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.waiters) == 1
	}, 5*time.Second, time.Millisecond)

	f.Advance(-time.Hour)
	f.Advance(30 * time.Minute)
	require.ErrorIs(t, c.Get(ctx, "short").Err(), redis.Nil)
	require.InDelta(t, 30*time.Minute, c.PTTL(ctx, "long").Val(), float64(5*time.Second))
	require.InDelta(t, 30*time.Minute, c.Time(ctx).Val().Sub(before), float64(5*time.Second))
	inScript, err := c.Eval(ctx, "return tonumber(redis.call('TIME')[1])", nil).Int64()
	require.NoError(t, err)
	require.InDelta(t, c.Time(ctx).Val().Unix(), inScript, 1)
	require.ErrorIs(t, <-done, redis.Nil, "the blocked command outlived its timeout")
}

func TestFakeTellsOfExpiryThatNobodyAsksAbout(t *testing.T) {
	f := NewFake(t)
	a, b := dialTalker(t, f), dialTalker(t, f)
	a.send(t, "HELLO", "3")
	a.frame(t)
	a.send(t, "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "x:")
	require.Equal(t, "+OK", a.frame(t))
	b.send(t, "SET", "x:1", "v", "PX", "30")
	require.Equal(t, "+OK", b.frame(t))
	const told = `>[ "invalidate" *[ "x:1" ] ]`
	require.Equal(t, told, a.frame(t), "the change")
	require.Equal(t, told, a.frame(t), "the expiry")

	b.send(t, "SET", "x:1", "v", "EX", "3600")
	require.Equal(t, "+OK", b.frame(t))
	require.Equal(t, told, a.frame(t))
	f.Advance(time.Hour)
	require.Equal(t, told, a.frame(t), "the expiry that Advance passed")
}

func dialTalker(t *testing.T, f *Fake) *talker {
	nc, err := net.Dial("tcp", f.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	return newTalker(nc)
}

func TestFailNextFailsThatManyCommandsAndNoHandshake(t *testing.T) {
	ctx, f := testContext(t), NewFake(t)
	f.FailNext(2, "LOADING Redis is loading the dataset in memory")
	c := goredisClient(t, f, func(o *redis.Options) { o.MaxRetries = -1 })
	require.ErrorContains(t, c.Set(ctx, "k", "v", 0).Err(), "LOADING")
	require.ErrorContains(t, c.Get(ctx, "k").Err(), "LOADING")
	require.ErrorIs(t, c.Get(ctx, "k").Err(), redis.Nil, "the command that failed has run")

	f.FailNext(1, "OOM command not allowed when used memory > 'maxmemory'.", "set", "ping")
	require.ErrorIs(t, c.Get(ctx, "k").Err(), redis.Nil)
	require.ErrorContains(t, c.Ping(ctx).Err(), "OOM")
	require.NoError(t, c.Set(ctx, "k", "v", 0).Err())
	f.FailNext(5, "ERR x")
	f.FailNext(0, "")
	require.NoError(t, c.Get(ctx, "k").Err())
}

func TestFailNextThatMeetsNothingFailsTheTest(t *testing.T) {
	ctx := testContext(t)
	for n, failed := range map[int]bool{0: true, 1: false, 2: false} {
		r := record(t, func(tb testing.TB) {
			f := NewFake(tb)
			f.FailNext(2, "LOADING Redis is loading the dataset in memory", "GET")
			c := goredisClient(t, f, func(o *redis.Options) { o.MaxRetries = -1 })
			require.NoError(t, c.Set(ctx, "k", "v", 0).Err())
			for range n {
				require.Error(t, c.Get(ctx, "k").Err())
			}
		})
		require.Equal(t, failed, r.failed, "%d of 2 met: %s", n, r.text())
	}
	r := record(t, func(tb testing.TB) { f := NewFake(tb); f.FailNext(1, "ERR x"); f.FailNext(0, "") })
	require.False(t, r.failed, "taken back")
}

func TestFakeRestartKeepsKeysAndForgetsScripts(t *testing.T) {
	ctx, f := testContext(t), NewFake(t)
	c := goredisClient(t, f)
	require.NoError(t, c.Set(ctx, "k", "v", 0).Err())
	sha := c.ScriptLoad(ctx, "return 1").Val()
	require.NoError(t, c.EvalSha(ctx, sha, nil).Err())
	addr := f.Addr()
	require.NoError(t, f.Restart())
	require.Equal(t, addr, f.Addr())
	require.Equal(t, "v", c.Get(ctx, "k").Val())
	require.ErrorContains(t, c.EvalSha(ctx, sha, nil).Err(), "NOSCRIPT")

	require.NoError(t, f.Close())
	require.NoError(t, f.Close())
	require.Error(t, c.Get(ctx, "k").Err())
	_, err := f.Dial()
	require.Error(t, err)
	require.NoError(t, f.Restart())
	require.Equal(t, "v", c.Get(ctx, "k").Val())
}

func TestFakePasswordAndUsers(t *testing.T) {
	f := NewFake(t, Password("p@ss"), User("reader", "r", "~a:*", "&news", "+@read", "+@connection", "+publish", "-client|kill"))
	require.ErrorContains(t, f.testTarget("", "").do("PING").Err(), "NOAUTH")
	require.ErrorContains(t, f.testTarget("", "wrong").do("PING").Err(), "WRONGPASS")
	require.NoError(t, f.testTarget("", "p@ss").do("PING").Err())
	reader := f.testTarget("reader", "r")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"", []string{"GET", "a:1"}},
		{"NOPERM", []string{"GET", "b:1"}},
		{"NOPERM", []string{"MGET", "a:1", "b:1"}},
		{"NOPERM", []string{"SET", "a:1", "v"}},
		{"NOPERM", []string{"EVAL", "return 1", "0"}},
		{"", []string{"CLIENT", "ID"}},
		{"NOPERM", []string{"CLIENT", "KILL", "ID", "1"}},
		{"", []string{"PUBLISH", "news", "m"}},
		{"NOPERM", []string{"PUBLISH", "other", "m"}},
	} {
		err := reader.do(c.args...).Err()
		if c.want == "" {
			require.NoError(t, err, c.args)
			continue
		}
		require.ErrorContains(t, err, c.want, c.args)
	}
	require.Equal(t, "PONG", text(t, f.Client().Do(testContext(t), driver.Cmd{Args: []string{"PING"}})))
	require.Equal(t, "redis://reader:r@"+f.Addr(), f.UserURL("reader"))
	require.Contains(t, f.URL("protocol=2"), ":p%40ss@"+f.Addr()+"?protocol=2")
}

func TestFakeRefusesWhatOnlyAServerCanDo(t *testing.T) {
	for name, opts := range map[string][]Option{
		"TLS": {TLS()}, "UnixSocket": {UnixSocket()}, "Config": {Config("save", "")}, "Binary": {Binary("x")}, "Version": {Version("7")},
		"needs a real server": {User("u", "secret", "~*", "(+get ~x)")},
	} {
		_, err := StartFake(opts...)
		require.ErrorContains(t, err, name)
		require.NotContains(t, err.Error(), "secret")
		require.True(t, record(t, func(t testing.TB) { NewFake(t, opts...) }).failed)
	}
	f := NewFake(t)
	for _, cmd := range [][]string{{"FCALL", "f", "0"}, {"SORT", "k"}, {"DEBUG", "SLEEP", "0"}, {"REPLICAOF", "NO", "ONE"}, {"HPEXPIRE", "h", "1"}} {
		require.ErrorContains(t, f.testTarget("", "").do(cmd...).Err(), "ERR unknown command", cmd)
	}
}

func TestFakeOutsideOfTests(t *testing.T) {
	f, err := StartFake()
	require.NoError(t, err)
	c := f.Client(core.WithKeyPrefix("p:"))
	require.Equal(t, "p:", c.KeyPrefix())
	require.NoError(t, f.Close())
	require.ErrorIs(t, c.Do(testContext(t), driver.Cmd{Args: []string{"PING"}}).Err(), driver.ErrClosed)
}

func TestFakeRunsInsideSynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := StartFake(InMemory())
		require.NoError(t, err)
		c := redis.NewClient(&redis.Options{Addr: f.Addr(), Dialer: func(context.Context, string, string) (net.Conn, error) { return f.Dial() }})
		ctx := context.Background()
		require.NoError(t, c.Set(ctx, "k", "v", time.Hour).Err())
		time.Sleep(time.Hour - time.Second)
		require.Equal(t, "v", c.Get(ctx, "k").Val())
		time.Sleep(time.Second)
		require.ErrorIs(t, c.Get(ctx, "k").Err(), redis.Nil)
		require.NoError(t, c.Close())
		require.NoError(t, f.Restart())
		require.Equal(t, "PONG", text(t, f.Client().Do(ctx, driver.Cmd{Args: []string{"PING"}})))
		require.NoError(t, f.Close())
	})
}

// Clients that do not read, break off or send rubbish hold up nobody.
func TestFakeStandsBadClients(t *testing.T) {
	ctx, f := testContext(t), NewFake(t)
	c := goredisClient(t, f)
	require.NoError(t, c.Set(ctx, "big", string(make([]byte, 1<<20)), 0).Err())
	lazy := dialTalker(t, f)
	for range 64 {
		lazy.send(t, "GET", "big")
	}
	for _, rubbish := range []string{"*x\r\n", "*1\r\n+1\r\n", "*1\r\n$-5\r\n", "*1\r\n$99999999999\r\n", "*1\r\n$3\r\nab", "\r\n", "GET\r\n"} {
		nc, err := net.Dial("tcp", f.Addr())
		require.NoError(t, err)
		_, err = nc.Write([]byte(rubbish))
		require.NoError(t, err)
		require.NoError(t, nc.Close())
	}
	// A waiter that is gone takes no element.
	gone := dialTalker(t, f)
	gone.send(t, "BLPOP", "l", "0")
	require.Eventually(t, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.waiters) == 1
	}, 5*time.Second, time.Millisecond)
	require.NoError(t, gone.nc.Close())
	require.Eventually(t, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.waiters) == 0
	}, 5*time.Second, time.Millisecond)
	require.Equal(t, int64(1), c.LPush(ctx, "l", "v").Val())
	require.Equal(t, "v", c.LPop(ctx, "l").Val())
}

func TestFakeServesManyClientsAtOnce(t *testing.T) {
	ctx, f := testContext(t), NewFake(t)
	c := goredisClient(t, f)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 50 {
				c.Incr(ctx, "n")
				c.Set(ctx, fmt.Sprint("k", i), "v", time.Minute)
				c.Publish(ctx, "ch", "m")
			}
		})
	}
	wg.Wait()
	require.Equal(t, "800", c.Get(ctx, "n").Val())
	require.Equal(t, 800, f.Count("incr"))
}

// A fake full of keys with a TTL stays quick: miniredis' own clock would walk and sort all of them at every command.
func TestFakeStaysQuickWithManyKeys(t *testing.T) {
	ctx, f := testContext(t), NewFake(t)
	c := goredisClient(t, f)
	start := time.Now()
	for range 10 {
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := range 1000 {
				p.Set(ctx, fmt.Sprint(time.Now().UnixNano(), i), "v", time.Hour)
			}
			return nil
		})
		require.NoError(t, err)
	}
	took := time.Since(start)
	t.Logf("10000 SET with a TTL: %s", took)
	require.Less(t, took, 15*time.Second)
}
