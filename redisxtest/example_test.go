package redisxtest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest"
)

// In a test it is redisxtest.NewFake(t), which needs neither error handling nor Close.
func ExampleStartFake() {
	f, err := redisxtest.StartFake()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	c := f.Client()
	ctx := context.Background()

	c.Do(ctx, driver.Cmd{Args: []string{"SET", "greeting", "hello", "EX", "3600"}, Keys: driver.Key(1)})
	get := driver.Cmd{Args: []string{"GET", "greeting"}, Keys: driver.Key(1), Mode: driver.ReadOnly}
	text, err := c.Do(ctx, get).Text()
	fmt.Println(text, err)

	f.Advance(time.Hour)
	fmt.Println("after an hour it is gone:", c.Do(ctx, get).IsNil())
	// Output:
	// hello <nil>
	// after an hour it is gone: true
}

func ExampleFake_FailNext() {
	f, err := redisxtest.StartFake()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	c := f.Client()
	incr := driver.Cmd{Args: []string{"INCR", "n"}, Keys: driver.Key(1)}

	f.FailNext(1, "OOM command not allowed when used memory > 'maxmemory'.")
	failed, _ := errors.AsType[*driver.ServerError](c.Do(context.Background(), incr).Err())
	fmt.Println(failed.Code())
	fmt.Println(c.Do(context.Background(), incr).Int64())
	// Output:
	// OOM
	// 1 <nil>
}
