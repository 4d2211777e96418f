package main

import (
	"context"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// coreComparisons measure the client of the toolkit, group commit included, against the libraries as they come: at 128
// goroutines at least 6 times bare go-redis and 2.5 times default rueidis, at 16 at least 1.7 times bare go-redis, a loss of
// at most 5 % for a serial caller, and a 99th percentile at 16 goroutines that is no worse.
func (e *environment) coreComparisons(c *clients) (out []comparison) {
	want := map[string]map[int]float64{
		"goredis": {1: 0.95, 16: 1.7, 128: 6},
		"rueidis": {1: 0.95, 128: 2.5},
	}
	for _, who := range []string{"goredis", "rueidis"} {
		client := e.core(c, who)
		for _, ctx := range []string{"background", "cancellable"} {
			for _, goroutines := range []int{1, 16, 32, 128, 512} {
				x := comparison{
					name: "core/" + who + "/GET/" + ctx, goroutines: goroutines, perOp: 1, want: want[who][goroutines],
					peer: side{"bare " + who, bareDefault(c, who)},
					ours: side{"core", coreOp(client)},
				}
				if ctx == "cancellable" {
					x.ctx = cancellable
				}
				out = append(out, x)
				if goroutines == 16 {
					x.name, x.latency, x.want = "core/"+who+"/GET latency/"+ctx, true, 1
					out = append(out, x)
				}
			}
		}
	}
	return out
}

// core returns a client of the toolkit over a driver of its own.
func (e *environment) core(c *clients, who string) *core.Client {
	if e.dry {
		return nil
	}
	d := c.goredis
	if who == "rueidis" {
		d = c.rueidis
	}
	client, err := core.New(shared{d})
	if err != nil {
		panic(err) // the options are constant
	}
	e.opened = append(e.opened, func() { _ = client.Close() })
	return client
}

// shared is a driver that somebody else closes.
type shared struct{ driver.Driver }

func (shared) Close() error { return nil }

func bareDefault(c *clients, who string) func(context.Context, int) error {
	bare := *c
	bare.goredisSame, bare.rueidisSame = c.goredisBare, c.rueidisBare
	return bareOp(&bare, who, "GET")
}

func coreOp(client *core.Client) func(context.Context, int) error {
	var n next
	return func(ctx context.Context, w int) error { return client.Do(ctx, command("GET", n.key(w))).Err() }
}
