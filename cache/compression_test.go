package cache

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest"
)

// TestCompressionMakesLargeValuesSmaller looks at what lies in Redis.
func TestCompressionMakesLargeValuesSmaller(t *testing.T) {
	client := redisxtest.NewFake(t).Client()
	c := open[string, string](t, client, "pages", WithCompression(1000))
	require.NoError(t, c.Set(t.Context(), "small", strings.Repeat("a", 500)))
	require.NoError(t, c.Set(t.Context(), "large", strings.Repeat("a", 5000)))
	for id, want := range map[string]func(size int64) bool{
		"small": func(n int64) bool { return n > 500 },
		"large": func(n int64) bool { return n < 500 },
	} {
		key := client.KeyPrefix() + "cache:pages:{" + id + "}"
		n, err := client.Do(t.Context(), driver.Cmd{Args: []string{"STRLEN", key}, Keys: driver.Key(1), Mode: driver.ReadOnly}).Int64()
		require.NoError(t, err)
		require.True(t, want(n), "%s has %d bytes", id, n)
	}
}
