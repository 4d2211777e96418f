package redisxtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// A small lock, to see what the model says of it.
var (
	lockAcquire = driver.NewScript("lock.acquire", `
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return redis.call('INCR', KEYS[2]) end
return 0`)
	lockExtend = driver.NewScript("lock.extend", `
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0`)
	lockRelease = driver.NewScript("lock.release", `
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0`)
	// What everybody writes first: it releases whoever holds the lock.
	lockCareless = driver.NewScript("lock.careless", `return redis.call('DEL', KEYS[1])`)
)

// smallLock calls a script of the lock and notes what it said.
type smallLock struct {
	c *core.Client
	h *History[LockCall, LockResult]
}

func (l smallLock) call(client int, script *driver.Script, op Op, owner string, ttl time.Duration) (ok bool, err error) {
	args := []string{owner, fmt.Sprint(ttl.Milliseconds())}
	done := l.h.Call(client, LockCall{Op: op, Key: "lock", Owner: owner, TTL: ttl})
	n, err := l.c.Do(context.Background(), script.Cmd([]string{l.c.KeyPrefix() + "{lock}", l.c.KeyPrefix() + "{lock}:fence"}, args)).Int64()
	r := LockResult{OK: n > 0}
	if op == OpAcquire && n > 0 {
		r.Fence = uint64(n)
	}
	done(r, err)
	return r.OK, err
}

// Clients that hold on for longer than their lease, and replies that are lost: a right lock stays right.
func TestALockThatIsRightPasses(t *testing.T) {
	EachDriver(t, func(t *testing.T, below driver.Driver, _ string) {
		d := chaos.Wrap(below, chaos.Script{Seed: 1, Rules: []chaos.Rule{chaos.OnScript("lock.*").P(0.05).LoseReply()}})
		c, err := core.New(d, core.WithKeyPrefix(Prefix(t)), core.WithoutBreaker(), core.WithoutBatching(), core.WithCommandTimeout(20*time.Second))
		require.NoError(t, err)
		defer c.Close()
		l := smallLock{c, NewHistory(LockModel())}
		held := 0
		var mu sync.Mutex
		var wg sync.WaitGroup
		for client := range 4 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(client), 1))
				for i := range 30 {
					owner := fmt.Sprintf("%d.%d", client, i)
					ok, err := l.call(client, lockAcquire, OpAcquire, owner, 10*time.Millisecond)
					if !ok && err == nil {
						time.Sleep(time.Millisecond)
						continue
					}
					mu.Lock()
					held++
					mu.Unlock()
					for range r.IntN(4) {
						time.Sleep(time.Duration(r.IntN(6)) * time.Millisecond)
						_, _ = l.call(client, lockExtend, OpExtend, owner, 10*time.Millisecond)
					}
					time.Sleep(time.Duration(r.IntN(14)) * time.Millisecond)
					_, _ = l.call(client, lockRelease, OpRelease, owner, 0)
				}
			})
		}
		wg.Wait()
		require.Greater(t, held, 4)
		start := time.Now()
		Linearizable(t, l.h, LockModel())
		t.Logf("%d operations, judged in %s", l.h.Len(), time.Since(start))
	})
}

// An owner whose lease has run out must not release the lock of the next one.
func TestACarelessLockIsFound(t *testing.T) {
	c := NewFake(t).Client()
	defer c.Close()
	l := smallLock{c, NewHistory(LockModel())}
	must := func(ok bool, err error) {
		t.Helper()
		require.NoError(t, err)
		require.True(t, ok)
	}
	must(l.call(1, lockAcquire, OpAcquire, "a", 20*time.Millisecond))
	Eventually(t, 0, func(context.Context) error {
		ok, err := l.call(2, lockAcquire, OpAcquire, "b", time.Hour)
		if err == nil && !ok {
			err = errors.New("still held")
		}
		return err
	})
	require.True(t, Linearizable(t, l.h, LockModel()))
	must(l.call(1, lockCareless, OpRelease, "a", 0))
	must(l.call(3, lockAcquire, OpAcquire, "c", time.Hour))
	r := record(t, func(t testing.TB) { Linearizable(t, l.h, LockModel()) })
	require.True(t, r.failed)
	require.Contains(t, r.text(), `release as "a": ok`)
	t.Log(r.text())
}
