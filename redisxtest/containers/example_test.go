package containers_test

import (
	"testing"

	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/redisxtest/containers"
)

// The example is a test: containers end with one.
func ExampleStartRedis() {
	test := func(t *testing.T) {
		s := containers.StartRedis(t, "redis:8.0", containers.Config("maxmemory", "64mb"))
		d, err := goredisdriver.Open(t.Context(), s.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = d.Close() }()
		s.Pause() // connections stay, nothing answers
		s.Resume()
		s.Kill()
		s.Restart(true) // on the same address
	}
	_ = test // func TestWithRedis8(t *testing.T)
}
