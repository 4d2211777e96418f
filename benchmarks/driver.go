package main

import (
	"context"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"

	"github.com/go-redisx/redisx/core/driver"
)

// driverComparisons measure what a driver costs over the client underneath, configured the same: at most 5 % of throughput
// and 2 allocations for a command, 3 % for a pipeline of 100.
func driverComparisons(c *clients) (out []comparison) {
	for _, goroutines := range []int{1, 128} {
		for _, op := range []string{"GET", "SET", "EVALSHA"} {
			for _, who := range []string{"goredis", "rueidis"} {
				for _, ctx := range []string{"background", "cancellable"} {
					x := comparison{
						name: "driver/" + who + "/" + op + "/" + ctx, goroutines: goroutines, perOp: 1, want: 0.95,
						peer: side{"bare client", bareOp(c, who, op)},
						ours: side{"driver", driverOp(c, who, op)},
					}
					if ctx == "cancellable" {
						x.ctx = cancellable
					}
					out = append(out, x)
				}
			}
		}
		for _, who := range []string{"goredis", "rueidis"} {
			out = append(out, comparison{
				name: "driver/" + who + "/pipeline100", goroutines: goroutines, perOp: 100, want: 0.97,
				peer: side{"bare client", barePipeline(c, who)},
				ours: side{"driver", driverPipeline(c, who)},
			})
		}
	}
	return out
}

// next walks through the keys, each worker from another place.
type next struct {
	at [4096]struct{ n, _, _, _, _, _, _, _ uint64 }
}

func (n *next) key(worker int) string {
	at := &n.at[worker%len(n.at)]
	at.n++
	return keys[(uint64(worker)*31+at.n)%keyCount]
}

func bareOp(c *clients, who, op string) func(context.Context, int) error {
	var n next
	if who == "goredis" {
		client := c.goredisSame
		switch op {
		case "GET":
			return func(ctx context.Context, w int) error { return client.Get(ctx, n.key(w)).Err() }
		case "SET":
			return func(ctx context.Context, w int) error { return client.Set(ctx, n.key(w), value, 0).Err() }
		}
		return func(ctx context.Context, w int) error {
			return client.EvalSha(ctx, script.SHA(), []string{n.key(w)}).Err()
		}
	}
	client := c.rueidisSame
	switch op {
	case "GET":
		return func(ctx context.Context, w int) error {
			_, err := client.Do(ctx, client.B().Get().Key(n.key(w)).Build()).ToString()
			return err
		}
	case "SET":
		return func(ctx context.Context, w int) error {
			return client.Do(ctx, client.B().Set().Key(n.key(w)).Value(value).Build()).Error()
		}
	}
	return func(ctx context.Context, w int) error {
		return client.Do(ctx, client.B().Evalsha().Sha1(script.SHA()).Numkeys(1).Key(n.key(w)).Build()).Error()
	}
}

func command(op, key string) driver.Cmd {
	switch op {
	case "GET":
		return driver.Cmd{Args: []string{"GET", key}, Keys: driver.Key(1), Mode: driver.ReadOnly}
	case "SET":
		return driver.Cmd{Args: []string{"SET", key, value}, Keys: driver.Key(1)}
	}
	return script.Cmd([]string{key}, nil)
}

func driverOp(c *clients, who, op string) func(context.Context, int) error {
	d := c.goredis
	if who == "rueidis" {
		d = c.rueidis
	}
	var n next
	return func(ctx context.Context, w int) error { return d.Do(ctx, command(op, n.key(w))).Err() }
}

func barePipeline(c *clients, who string) func(context.Context, int) error {
	var n next
	if who == "goredis" {
		return func(ctx context.Context, w int) error {
			_, err := c.goredisSame.Pipelined(ctx, func(p redis.Pipeliner) error {
				for range 100 {
					p.Get(ctx, n.key(w))
				}
				return nil
			})
			return err
		}
	}
	client := c.rueidisSame
	return func(ctx context.Context, w int) error {
		cmds := make(rueidis.Commands, 0, 100)
		for range 100 {
			cmds = append(cmds, client.B().Get().Key(n.key(w)).Build())
		}
		for _, r := range client.DoMulti(ctx, cmds...) {
			if _, err := r.ToString(); err != nil {
				return err
			}
		}
		return nil
	}
}

func driverPipeline(c *clients, who string) func(context.Context, int) error {
	d := c.goredis
	if who == "rueidis" {
		d = c.rueidis
	}
	var n next
	return func(ctx context.Context, w int) error {
		p := driver.NewPipeline(100)
		for range 100 {
			p.Read(driver.Key(1), "GET", n.key(w))
		}
		for _, r := range d.DoMulti(ctx, p.Cmds()) {
			if err := r.Err(); err != nil {
				return err
			}
		}
		return nil
	}
}
