package cache

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// A failover loses what the replica had not heard of. Here that is certain: the replica is cut off, and then put in the place
// of its primary behind the proxies of the instances.
type lossyFailover struct {
	*registers
	caches []*Cache[int, fact]
	px     []*chaos.Proxy
	heir   *redisxtest.Server
}

var invalidations = map[string]func(ctx context.Context, c *Cache[int, fact]) error{
	"delete": func(ctx context.Context, c *Cache[int, fact]) error { return c.Delete(ctx, 1) },
	"tag":    func(ctx context.Context, c *Cache[int, fact]) error { return c.InvalidateTags(ctx, factTag(1)) },
	"clear":  func(ctx context.Context, c *Cache[int, fact]) error { return c.Clear(ctx) },
	"set": func(ctx context.Context, c *Cache[int, fact]) error {
		return c.Set(ctx, 1, fact{1, 2}, Tags(factTag(1)))
	},
}

// newLossyFailover returns when version 1 of the key 1 is everywhere and the replica is cut off.
func newLossyFailover(t *testing.T, name string, how Coherence) *lossyFailover {
	t.Helper()
	old := redisxtest.StartServer(t, redisxtest.OwnProcess())
	l := &lossyFailover{registers: newRegisters(2), heir: redisxtest.StartReplica(t, old)}
	var urls []string
	for range instances {
		p := chaos.NewProxy(t, old.Addr())
		l.px, urls = append(l.px, p), append(urls, p.URL(old.URL()))
	}
	l.caches = fleetAt(t, name, urls, nil, how, nil)
	ctx := t.Context()
	for _, c := range l.caches {
		_, err := c.GetOrLoadWith(ctx, 1, l.load)
		require.NoError(t, err)
	}
	tg, err := l.caches[0].target(1)
	require.NoError(t, err)
	redisxtest.Eventually(t, 0, func(context.Context) error {
		a, err1 := old.Do("GET", tg.keys.v).Text()
		b, err2 := l.heir.Do("GET", tg.keys.v).Text()
		if err := errors.Join(err1, err2); err != nil || a != b {
			return fmt.Errorf("the value is not replicated: %w", err)
		}
		return nil
	})
	require.NoError(t, old.Do("WAIT", "1", "5000").Err())
	require.NoError(t, l.heir.Do("REPLICAOF", "NO", "ONE").Err())
	return l
}

// move puts an instance to the new primary.
func (l *lossyFailover) move(i int) {
	l.px[i].SetTarget(l.heir.Addr())
	l.px[i].Heal()
	l.px[i].Reset()
}

func (l *lossyFailover) converges(t *testing.T) {
	t.Helper()
	redisxtest.Eventually(t, coherentWithin, func(ctx context.Context) error {
		for i, c := range l.caches {
			f, err := c.GetOrLoadWith(ctx, 1, l.load)
			if err := latest(f, err, 2); err != nil {
				return fmt.Errorf("instance %d: %w", i, err)
			}
		}
		return nil
	})
}

func TestAFailoverThatLosesInvalidations(t *testing.T) {
	for kind, invalidate := range invalidations {
		t.Run(kind, func(t *testing.T) {
			eachFleet(t, func(t *testing.T, name string, how Coherence) {
				t.Parallel()
				ctx := t.Context()
				l := newLossyFailover(t, name, how)
				l.truth[1].Store(2)
				require.NoError(t, invalidate(ctx, l.caches[0]))
				for i := range l.px {
					l.move(i)
				}
				// Where it was acknowledged nothing old is ever returned.
				for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
					f, err := l.caches[0].GetOrLoadWith(ctx, 1, l.load)
					require.NoError(t, err)
					require.EqualValues(t, 2, f.Version)
				}
				l.converges(t)
			})
		})
	}
}

// Others may never have heard of it, and believe in what the new primary says, until the one who knows better is there.
func TestAFailoverThatLosesInvalidationsNobodyHeardOf(t *testing.T) {
	for kind, invalidate := range invalidations {
		t.Run(kind, func(t *testing.T) {
			eachFleet(t, func(t *testing.T, name string, how Coherence) {
				t.Parallel()
				ctx := t.Context()
				l := newLossyFailover(t, name, how)
				for i := 1; i < instances; i++ {
					l.px[i].Refuse()
					l.px[i].Reset()
				}
				l.truth[1].Store(2)
				require.NoError(t, invalidate(ctx, l.caches[0]))
				for i := 1; i < instances; i++ {
					l.move(i)
					awaitTrust(t, l.caches[i])
					redisxtest.Eventually(t, 0, func(ctx context.Context) error {
						_, err := l.caches[i].GetOrLoadWith(ctx, 1, l.load)
						if _, ok := l.caches[i].Peek(1); !ok {
							return fmt.Errorf("not in the local tier: %w", err)
						}
						return err
					})
				}
				l.move(0)
				l.converges(t)
			})
		})
	}
}
