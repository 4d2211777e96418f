package chaos_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// rules is a script without chance.
func rules(r ...chaos.Rule) chaos.Script { return chaos.Script{Rules: r} }

func parse(t *testing.T, text string) chaos.Script {
	t.Helper()
	s, err := chaos.Parse(text)
	require.NoError(t, err)
	return s
}

// each runs fn for both drivers on a fake. Plain is the driver below, for a look at what the server holds.
func each(t *testing.T, fn func(t *testing.T, plain driver.Driver)) {
	redisxtest.EachDriver(t, func(t *testing.T, d driver.Driver, _ string) { fn(t, d) }, redisxtest.FakeOnly())
}

// within ends what should have ended by itself.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func cmd(args ...string) driver.Cmd {
	c := driver.Cmd{Args: args}
	if len(args) > 1 {
		c.Keys = driver.Key(1)
	}
	return c
}

func get(t *testing.T, d driver.Driver, key string) string {
	t.Helper()
	r := d.Do(within(t), cmd("GET", key))
	require.NoError(t, r.Err())
	if r.IsNil() {
		return "nothing"
	}
	text, err := r.Text()
	require.NoError(t, err)
	return text
}

func wantUnknown(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, driver.ErrUnknownOutcome)
	require.NotErrorIs(t, err, driver.ErrNotSent)
	oe, ok := errors.AsType[*driver.OpError](err)
	require.True(t, ok, "%v is not an OpError", err)
	require.True(t, oe.Sent)
}

func wantCode(t *testing.T, code string, err error) {
	t.Helper()
	se, ok := err.(*driver.ServerError)
	require.True(t, ok, "%v is not a plain ServerError", err)
	require.Equal(t, code, se.Code())
}

// stub is a driver without a server: it answers every command with its name.
type stub struct {
	mu   sync.Mutex
	seen []string
	shut bool
}

func (s *stub) Do(_ context.Context, c driver.Cmd) driver.Reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return driver.ErrReply(driver.ErrClosed)
	}
	s.seen = append(s.seen, c.Name())
	return driver.StringReply(c.Name())
}

func (s *stub) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	out := make([]driver.Reply, len(cmds))
	for i, c := range cmds {
		out[i] = s.Do(ctx, c)
	}
	return out
}

func (s *stub) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

func (s *stub) Caps(context.Context) (driver.Caps, error) { return driver.Caps{}, nil }
func (s *stub) Unwrap() any                               { return s }
func (s *stub) Close() error                              { s.mu.Lock(); defer s.mu.Unlock(); s.shut = true; return nil }
