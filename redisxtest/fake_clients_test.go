package redisxtest

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
)

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func goredisClient(t testing.TB, f *Fake, change ...func(*redis.Options)) *redis.Client {
	o := &redis.Options{Addr: f.Addr()}
	for _, c := range change {
		c(o)
	}
	client := redis.NewClient(o)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func rueidisClient(t testing.TB, f *Fake, change ...func(*rueidis.ClientOption)) rueidis.Client {
	o := rueidis.ClientOption{InitAddress: []string{f.Addr()}}
	for _, c := range change {
		c(&o)
	}
	client, err := rueidis.NewClient(o)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

func TestFakeServesGoRedisWithDefaultOptions(t *testing.T) {
	for name, protocol := range map[string]int{"RESP3": 3, "RESP2": 2} {
		t.Run(name, func(t *testing.T) {
			ctx, f := testContext(t), NewFake(t)
			c := goredisClient(t, f, func(o *redis.Options) { o.Protocol = protocol })
			require.NoError(t, c.Set(ctx, "k", "v\r\n\x00\xff", time.Minute).Err())
			require.Equal(t, "v\r\n\x00\xff", c.Get(ctx, "k").Val())
			require.ErrorIs(t, c.Get(ctx, "missing").Err(), redis.Nil)
			require.NoError(t, c.HSet(ctx, "h", "a", "1").Err())
			require.Equal(t, map[string]string{"a": "1"}, c.HGetAll(ctx, "h").Val())
			got, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
				p.Incr(ctx, "n")
				p.Incr(ctx, "n")
				return nil
			})
			require.NoError(t, err)
			require.Equal(t, int64(2), got[1].(*redis.IntCmd).Val())

			script := redis.NewScript(`return {redis.call('INCR', KEYS[1]), ARGV[1], redis.call('TIME')[1]}`)
			list, err := script.Run(ctx, c, []string{"n"}, "x").Slice()
			require.NoError(t, err)
			require.Equal(t, []any{int64(3), "x"}, list[:2])

			require.NoError(t, c.XGroupCreateMkStream(ctx, "s", "g", "0").Err())
			id := c.XAdd(ctx, &redis.XAddArgs{Stream: "s", Values: []string{"f", "v"}}).Val()
			streams, err := c.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "g", Consumer: "c", Streams: []string{"s", ">"}, Block: time.Second}).Result()
			require.NoError(t, err)
			require.Equal(t, []redis.XStream{{Stream: "s", Messages: []redis.XMessage{{ID: id, Values: map[string]any{"f": "v"}}}}}, streams)

			sub := c.Subscribe(ctx, "ch")
			defer sub.Close()
			_, err = sub.Receive(ctx)
			require.NoError(t, err)
			require.Equal(t, int64(1), c.Publish(ctx, "ch", "hello").Val())
			m, err := sub.ReceiveMessage(ctx)
			require.NoError(t, err)
			require.Equal(t, "hello", m.Payload)

			require.Zero(t, f.Count("nothing"))
			require.NotZero(t, f.Count("get"))
		})
	}
}

func TestFakeServesRueidisAsItIs(t *testing.T) {
	for name, change := range map[string]func(*rueidis.ClientOption){
		"default":           func(*rueidis.ClientOption) {},
		"ForceSingleClient": func(o *rueidis.ClientOption) { o.ForceSingleClient = true },
		"DisableCache":      func(o *rueidis.ClientOption) { o.DisableCache = true },
		"AlwaysRESP2":       func(o *rueidis.ClientOption) { o.AlwaysRESP2, o.DisableCache = true, true },
		"BCAST": func(o *rueidis.ClientOption) {
			o.ClientTrackingOptions = []string{"PREFIX", "a:", "PREFIX", "b:", "BCAST"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, f := testContext(t), NewFake(t)
			c := rueidisClient(t, f, change)
			require.Equal(t, rueidis.ClientModeStandalone, c.Mode())
			require.NoError(t, c.Do(ctx, c.B().Set().Key("k").Value("v").Build()).Error())
			v, err := c.Do(ctx, c.B().Get().Key("k").Build()).ToString()
			require.NoError(t, err)
			require.Equal(t, "v", v)

			got := make(chan rueidis.PubSubMessage, 1)
			rctx, cancel := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() {
				done <- c.Receive(rctx, c.B().Subscribe().Channel("ch").Build(), func(m rueidis.PubSubMessage) { got <- m })
			}()
			require.Eventually(t, func() bool {
				n, err := c.Do(ctx, c.B().Publish().Channel("ch").Message("hi").Build()).AsInt64()
				return err == nil && n == 1
			}, 5*time.Second, time.Millisecond)
			require.Equal(t, "hi", (<-got).Message)
			cancel()
			require.ErrorIs(t, <-done, context.Canceled)
		})
	}
}

func TestFakeInvalidatesTheCacheOfRueidis(t *testing.T) {
	ctx, f := testContext(t), NewFake(t)
	c := rueidisClient(t, f)
	other := goredisClient(t, f)
	get := func() (string, bool) {
		r := c.DoCache(ctx, c.B().Get().Key("k").Cache(), time.Minute)
		s, _ := r.ToString()
		return s, r.IsCacheHit()
	}
	for name, change := range map[string]func() error{
		"SET":    func() error { return other.Set(ctx, "k", "x", 0).Err() },
		"DEL":    func() error { return other.Del(ctx, "k").Err() },
		"EXPIRE": func() error { return other.Expire(ctx, "k", time.Hour).Err() },
		"script": func() error { return other.Eval(ctx, `return redis.call('SET', 'k', 'x')`, nil).Err() },
		"MULTI": func() error {
			_, err := other.TxPipelined(ctx, func(p redis.Pipeliner) error { p.Set(ctx, "k", "v", 0); return nil })
			return err
		},
		"FLUSHALL": func() error { return other.FlushAll(ctx).Err() },
		"expiry": func() error {
			if err := other.Set(ctx, "k", "v", time.Hour).Err(); err != nil {
				return err
			}
			get()
			f.Advance(time.Hour)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, other.Set(ctx, "k", "old", 0).Err())
			require.Eventually(t, func() bool { _, hit := get(); return hit }, 5*time.Second, time.Millisecond, "nothing is cached")
			require.NoError(t, change())
			require.Eventually(t, func() bool { s, _ := get(); return s != "old" || name == "EXPIRE" }, 5*time.Second, time.Millisecond, "the cache keeps the old value")
		})
	}
}
