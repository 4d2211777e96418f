package redisxtest_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest"
)

// In a test t is its own.
var (
	t      testing.TB = quiet{}
	client *core.Client
)

// quiet stands for a test that has no fault.
type quiet struct{ testing.TB }

func (quiet) Helper() {}

func get(key string) driver.Cmd {
	return driver.Cmd{Args: []string{"GET", key}, Keys: driver.Key(1), Mode: driver.ReadOnly}
}

func ExampleRecord() {
	f, _ := redisxtest.StartFake()
	defer f.Close()
	c, _ := core.New(redisxtest.Record(f.Client().Driver()))
	seen := redisxtest.Observe(t, c, func() {
		c.DoMulti(context.Background(), []driver.Cmd{get("cart:{42}"), get("cart:{42}:lock")})
		c.Do(context.Background(), get("user:7"))
	})
	fmt.Println(seen)
	fmt.Println("slots:", len(seen.Slots()))
	// Output:
	// 3 commands in 2 round trips
	//   GET "cart:{42}"
	//   GET "cart:{42}:lock"
	//   GET "user:7"
	// slots: 2
}

func ExampleRoundTrips() {
	redisxtest.RoundTrips(t, client, 1, func() {
		client.DoMulti(context.Background(), []driver.Cmd{get("a"), get("b")})
	})
}

func ExampleAllKeysHaveTTL() {
	redisxtest.AllKeysHaveTTL(t, client)                                  // under the client's own prefix
	redisxtest.TTLWithin(t, client, time.Minute, time.Hour, "cart:")      // under this one
	redisxtest.OneSlot(t, "cart:{42}", "cart:{42}:lock", "cart:{42}:log") // by their names alone
}

func ExampleNoOrphanKeys() {
	redisxtest.NoOrphanKeys(t, client)
	// … what the test does …
}

func ExampleNoLeaks() {
	redisxtest.NoLeaks(t)
	f := redisxtest.NewFake(t)
	_ = f.Client() // closed with the fake, before NoLeaks looks
}

func ExampleEventually() {
	redisxtest.Eventually(t, 5*time.Second, func(ctx context.Context) error {
		state, err := client.Do(ctx, get("job:7")).Text()
		if err == nil && state != "done" {
			err = fmt.Errorf("the job is %q", state)
		}
		return err
	})
}

func ExampleLinearizable() {
	lock := redisxtest.LockModel()
	h := redisxtest.NewHistory(lock)
	// Each client of the test, at its own pace:
	done := h.Call(1, redisxtest.LockCall{Op: redisxtest.OpAcquire, Key: "order:42", Owner: "client 1, first", TTL: time.Second})
	// … acquire the lock …
	done(redisxtest.LockResult{OK: true, Fence: 7}, nil)

	done = h.Call(1, redisxtest.LockCall{Op: redisxtest.OpRelease, Key: "order:42", Owner: "client 1, first"})
	// … release it; the reply is lost …
	done(redisxtest.LockResult{}, core.ErrUnknownOutcome)

	fmt.Println(redisxtest.Linearizable(t, h, lock))
	// Output:
	// true
}
