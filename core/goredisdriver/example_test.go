package goredisdriver_test

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
)

func ExampleOpen() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	d, err := goredisdriver.Open(ctx, "redis://localhost:6379/0?pool_size=20&read_timeout=1s")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = d.Close() }()
	n, err := d.Do(ctx, driver.Cmd{Args: []string{"INCR", "visits"}, Keys: driver.Key(1)}).Int64()
	fmt.Println(n, err)
}

func ExampleNew() {
	client := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
	defer func() { _ = client.Close() }()
	d, err := goredisdriver.New(client) // no I/O
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = d.Close() }() // leaves client open
	fmt.Println(d.Unwrap() == client)
	// Output: true
}
