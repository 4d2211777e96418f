package chaos_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

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
