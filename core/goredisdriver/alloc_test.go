//go:build !race

package goredisdriver

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

// TestAllocations holds the driver to at most two allocations per command more than the bare client, whatever the ctx.
func TestAllocations(t *testing.T) {
	s := startServer(t)
	d := open(t, "redis://"+s.addr)
	c := d.Unwrap().(*redis.Client)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	must(t, d.Do(ctx, command("SET", "k", "some value that is not short")))
	bare := testing.AllocsPerRun(500, func() { _, _ = c.Get(ctx, "k").Result() })
	cmd := read("GET", "k")
	cmds := make([]driver.Cmd, 100)
	for i := range cmds {
		cmds[i] = cmd
	}
	bareMulti := testing.AllocsPerRun(50, func() {
		p := c.Pipeline()
		for range cmds {
			p.Get(ctx, "k")
		}
		_, _ = p.Exec(ctx)
	})
	for name, ctx := range map[string]context.Context{
		"background": context.Background(), "cancelable": ctx, "deadline": driver.UntilDeadline(time.Now().Add(time.Minute)),
	} {
		if got := testing.AllocsPerRun(500, func() { d.Do(ctx, cmd) }); got > bare+2 {
			t.Errorf("%s: GET allocates %v times, the bare client %v", name, got, bare)
		}
		if got := testing.AllocsPerRun(50, func() { d.DoMulti(ctx, cmds) }); got > bareMulti+2 {
			t.Errorf("%s: 100 GET allocate %v times, the bare client %v", name, got, bareMulti)
		}
	}
}
