package redisxtest_test

import (
	"testing"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/redisxtest"
)

// What a counter does while its primary hands over to a replica, as a test of an application would ask.
func TestOrdersAreCountedThroughAFailover(t *testing.T) {
	t.Parallel()
	cl := redisxtest.StartCluster(t, 3, 1)
	d, err := goredisdriver.Open(t.Context(), cl.URL())
	if err != nil {
		t.Fatal(err)
	}
	client, err := core.New(d, core.WithCommandTimeout(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	incr := driver.Cmd{Args: []string{"INCR", "orders"}, Keys: driver.Key(1)}
	for want := int64(1); want <= 2; want++ {
		if n, err := client.Do(t.Context(), incr).Int64(); n != want || err != nil {
			t.Fatalf("%d, %v; want %d", n, err, want)
		}
		cl.Failover(cl.Node("orders")) // returns when both roles have changed and every node knows
	}
}

func ExampleStartCluster() {
	// See the test above, which go test runs.
}
