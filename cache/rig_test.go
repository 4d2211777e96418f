package cache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// rig is a fake server, a client of it whose commands can be made to fail and are recorded, and a clock for the local tier:
// its time and that of the server move together, by advance alone as far as the local tier goes.
type rig struct {
	t      *testing.T
	fake   *redisxtest.Fake
	client *core.Client
	clock  *clock
	chaos  chaos.Driver // of client
}

// newRig makes a rig. The rules hold between chaos.Storm and chaos.Calm; without any, Redis is out of reach then.
func newRig(t *testing.T, rules ...chaos.Rule) *rig {
	r := &rig{t: t, fake: redisxtest.NewFake(t), clock: newManualClock()}
	opts := []core.Option{core.WithoutBreaker()} // it would turn the fault of one command into an outage
	if len(rules) == 0 {
		opts = nil
		rules = []chaos.Rule{chaos.OnAny().Refuse()}
	}
	r.client = r.connectThrough(r.fake.URL(), func(d driver.Driver) driver.Driver {
		r.chaos = chaos.Wrap(d, chaos.Script{Rules: rules})
		r.chaos.Calm()
		return r.chaos
	}, opts...)
	return r
}

// connect returns another client, as of another process.
func (r *rig) connect(url string) *core.Client {
	return r.connectThrough(url, func(d driver.Driver) driver.Driver { return d })
}

func (r *rig) connectThrough(url string, wrap func(driver.Driver) driver.Driver, opts ...core.Option) *core.Client {
	d, err := goredisdriver.Open(r.t.Context(), url)
	require.NoError(r.t, err)
	client, err := core.New(redisxtest.Record(wrap(d)), append(opts, core.WithCommandTimeout(5*time.Second))...)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { require.NoError(r.t, client.Close()) })
	return client
}

func (r *rig) advance(d time.Duration) {
	r.fake.Advance(d)
	r.clock.advance(d)
}

// do sends a command as another program would.
func (r *rig) do(args ...string) driver.Reply {
	return r.client.Do(r.t.Context(), driver.Cmd{Args: args, Keys: driver.Key(1)})
}

// strs opens a cache of strings on the rig, without anything random, and without a transport unless opts say so.
func strs(r *rig, opts ...Option) *Cache[string, string] {
	return strsOn(r, r.client, opts...)
}

func strsOn(r *rig, client *core.Client, opts ...Option) *Cache[string, string] {
	base := []Option{WithCoherence(TTLOnly), WithJitter(0), WithEarlyRefresh(0), withClock(r.clock)}
	c, err := New[string, string](client, "things", append(base, opts...)...)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = c.Close() })
	if c.feed != nil {
		awaitTrust(r.t, c)
	}
	return c
}

// source is what caches are filled from.
type source struct {
	calls atomic.Int64
	mu    sync.Mutex
	now   string
	err   error
}

func (s *source) is(v string)   { s.mu.Lock(); s.now, s.err = v, nil; s.mu.Unlock() }
func (s *source) fails(e error) { s.mu.Lock(); s.err = e; s.mu.Unlock() }
func (s *source) loads() int    { return int(s.calls.Load()) }
func from(v string) *source     { return &source{now: v} }

func (s *source) load(context.Context, string) (string, error) {
	s.calls.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now, s.err
}

// gate is a loader that tells when it began and ends when it is told.
type gate struct {
	began chan struct{} // one for each call
	open  chan struct{}
	calls atomic.Int64
	ended atomic.Int64 // calls whose context ended first
}

func newGate() *gate { return &gate{began: make(chan struct{}, 100), open: make(chan struct{})} }

func (g *gate) load(v string) func(context.Context, string) (string, error) {
	return func(ctx context.Context, _ string) (string, error) {
		g.calls.Add(1)
		g.began <- struct{}{}
		select {
		case <-g.open:
			return v, nil
		case <-ctx.Done():
			g.ended.Add(1)
			return "", ctx.Err()
		}
	}
}

var errSource = errors.New("the database is down")

// within fails a test that would hang.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// soon waits until something holds.
func soon(t *testing.T, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, 10*time.Second, time.Millisecond)
}

func wantHit(t *testing.T, c *Cache[string, string], key, want string) {
	t.Helper()
	v, ok, err := c.Get(t.Context(), key)
	require.NoError(t, err)
	require.True(t, ok, "miss of %s", key)
	require.Equal(t, want, v)
}

func wantMiss(t *testing.T, c *Cache[string, string], key string) {
	t.Helper()
	v, ok, err := c.Get(t.Context(), key)
	require.NoError(t, err)
	require.False(t, ok, "hit of %s: %q", key, v)
}

func wantLoad(t *testing.T, c *Cache[string, string], key string, s *source, want string) {
	t.Helper()
	v, err := c.GetOrLoad(t.Context(), key, s.load)
	require.NoError(t, err)
	require.Equal(t, want, v)
}
