//go:build !race

package cache

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// A local hit costs no allocation, with two tags and all checks; a batch those of its result.
func TestLocalHitsDoNotAllocate(t *testing.T) {
	ctx := context.Background()
	r := newRig(t)
	c, err := New[int64, *user](r.client, "users", WithCoherence(PubSub))
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	awaitTrust(t, c)
	keys := make([]int64, 100)
	for i := range keys {
		keys[i] = int64(i)
		require.NoError(t, c.Set(ctx, int64(i), &user{ID: int64(i)}, Tags("a", "b")))
	}
	s := c.Scoped("tenant")
	require.NoError(t, s.Set(ctx, 7, &user{ID: 7}, Tags("a", "b")))
	load := func(context.Context, int64) (*user, error) { panic("a miss") }
	loadWith := func(context.Context, *Load[int64, *user]) (*user, error) { panic("a miss") }
	loadMany := func(context.Context, []int64) (map[int64]*user, error) { panic("a miss") }
	for name, gate := range map[string]struct {
		allocs float64
		call   func()
	}{
		"Get":           {0, func() { _, _, _ = c.Get(ctx, 7) }},
		"GetOrLoad":     {0, func() { _, _ = c.GetOrLoad(ctx, 7, load) }},
		"GetOrLoadWith": {0, func() { _, _ = c.GetOrLoadWith(ctx, 7, loadWith) }},
		"Peek":          {0, func() { _, _ = c.Peek(7) }},
		"Scoped":        {0, func() { _, _, _ = s.Get(ctx, 7) }},
		"GetMany":       {4, func() { _, _ = c.GetMany(ctx, keys) }},
		"LoadMany":      {4, func() { _, _ = c.LoadMany(ctx, keys, loadMany) }},
	} {
		require.LessOrEqual(t, testing.AllocsPerRun(200, gate.call), gate.allocs, name)
	}
	require.EqualValues(t, 0, c.Stats().RemoteHits, "what was measured are no local hits")
}
