package cache

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Two invalidations that wait together leave the version unknown afterwards, as it was when the value was stored.
func TestUnknownVersionDoesNotComeBack(t *testing.T) {
	for _, set := range []bool{false, true} {
		r := newRig(t)
		c := strs(r)
		s := from("old")
		load := func(ctx context.Context, l *Load[string, string]) (string, error) {
			l.Tag("team")
			return s.load(ctx, l.Key())
		}
		r.chaos.Storm()
		if set {
			require.ErrorIs(t, c.Set(t.Context(), "k", "old", Tags("team")), ErrQueued)
		}
		v, err := c.GetOrLoadWith(t.Context(), "k", load)
		require.NoError(t, err)
		require.Equal(t, "old", v)
		s.is("new")
		require.ErrorIs(t, c.InvalidateTags(t.Context(), "team"), ErrQueued)
		require.ErrorIs(t, c.InvalidateTags(t.Context(), "team"), ErrQueued)
		r.chaos.Calm()
		soon(t, func() bool { return c.Stats().Queued == 0 })
		v, err = c.GetOrLoadWith(t.Context(), "k", load)
		require.NoError(t, err)
		require.Equal(t, "new", v)
	}
}

func TestLoadManyWaitsOnceForTheHardTimeout(t *testing.T) {
	r := newRig(t)
	c := strs(r, WithLoadTimeout(0, 500*time.Millisecond))
	open := make(chan struct{})
	defer close(open)
	keys := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"}
	start := time.Now()
	_, err := c.LoadMany(t.Context(), keys, func(context.Context, []string) (map[string]string, error) {
		<-open // it does not listen to its context
		return nil, nil
	})
	require.ErrorIs(t, err, ErrLoadTimeout)
	require.Less(t, time.Since(start), 3*time.Second)
}

// A function given by the user runs where others wait: it must not hold them up whatever it does.
func TestLoadContextThatPanicsHoldsUpNobody(t *testing.T) {
	for name, f := range map[string]func(context.Context) context.Context{
		"panic": func(context.Context) context.Context { panic("no context") },
		"nil":   func(context.Context) context.Context { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := strs(newRig(t), WithLoadContext(f))
			for range 2 {
				v, err := c.GetOrLoad(within(t), "k", from("v").load)
				require.NoError(t, err)
				require.Equal(t, "v", v)
				require.NoError(t, c.Delete(t.Context(), "k"))
			}
			m, err := c.LoadMany(within(t), []string{"a", "b"}, func(context.Context, []string) (map[string]string, error) {
				return map[string]string{"a": "1", "b": "2"}, nil
			})
			require.NoError(t, err)
			require.Len(t, m, 2)
		})
	}
}
