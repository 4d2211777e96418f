package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// A client library with its defaults sends a write again whose reply was lost.
func ExampleNewProxy() {
	f, _ := redisxtest.StartFake()
	defer f.Close()
	px, _ := chaos.StartProxy(f.Addr(), chaos.On("INCR").Nth(1).LoseReply()) // NewProxy(t, …) in a test
	defer px.Close()
	c := redis.NewClient(&redis.Options{Addr: px.Addr()})
	defer c.Close()
	fmt.Println(c.Incr(context.Background(), "orders").Result())
	fmt.Println(px.Log()[0])
	// Output:
	// 2 <nil>
	// on INCR nth=1 lose-reply # "orders"
}

func ExampleProxy() {
	f, _ := redisxtest.StartFake()
	defer f.Close()
	px, _ := chaos.StartDialer() // NewDialer(t) in a test
	defer px.Close()
	c := redis.NewClient(&redis.Options{Addr: f.Addr(), Dialer: px.Dial, ContextTimeoutEnabled: true, MaxRetries: -1})
	defer c.Close()
	end := px.Node(f.Addr()).BlackHole(chaos.ToClient)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	fmt.Println(c.Ping(ctx).Err() != nil)
	end()
	fmt.Println(c.Ping(context.Background()).Val())
	// Output:
	// true
	// PONG
}

func ExampleAt() {
	px, _ := chaos.StartDialer()
	defer px.Close()
	s, _ := chaos.Start(context.Background(), // Run(t, …) in a test
		chaos.At(2*time.Millisecond).BlackHole(px.Node("10.0.0.1:7001"), chaos.Both).For(time.Millisecond),
		chaos.At(0).Do("disk-full", func() (end func()) { return nil }),
	)
	defer s.Stop()
	fmt.Println(s.Wait())
	for _, line := range s.Log() {
		fmt.Println(line)
	}
	// Output:
	// <nil>
	// at 0s do disk-full
	// at 2ms black-hole 10.0.0.1:7001 both for 1ms
}

func ExampleWrap() {
	f, _ := redisxtest.StartFake()
	defer f.Close()
	d := chaos.Wrap(f.Client().Driver(), chaos.Script{Rules: []chaos.Rule{chaos.On("INCR").Key("cnt:*").Nth(2).LoseReply()}})
	incr := driver.Cmd{Args: []string{"INCR", "cnt:orders"}, Keys: driver.Key(1)}
	fmt.Println(d.Do(context.Background(), incr).Int64())
	fmt.Println(errors.Is(d.Do(context.Background(), incr).Err(), driver.ErrUnknownOutcome))
	fmt.Println(d.Do(context.Background(), incr).Int64()) // the second was applied
	fmt.Println(d.Log()[0])
	// Output:
	// 1 <nil>
	// true
	// 3 <nil>
	// on INCR key=cnt:* nth=2 lose-reply # "cnt:orders"
}
