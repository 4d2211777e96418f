package goredisdriver

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

// The benchmarks run the bare client and the driver over it side by side, so that their ratio means something on a busy
// host: go test -bench . -benchmem -count 5.

func benchServer(b *testing.B) (*redis.Client, *Driver) {
	s := startServer(b)
	d := open(b, "redis://"+s.addr)
	c := d.Unwrap().(*redis.Client)
	value := string(make([]byte, 128))
	if err := c.Set(context.Background(), "k", value, 0).Err(); err != nil {
		b.Fatal(err)
	}
	return c, d
}

// within is a ctx as callers have it, that can be cancelled.
func within(b *testing.B) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	b.Cleanup(cancel)
	return ctx
}

func BenchmarkGet(b *testing.B) {
	c, d := benchServer(b)
	ctx := within(b)
	bare := func() error { return c.Get(ctx, "k").Err() }
	ours := func(ctx context.Context) func() error {
		return func() error {
			return d.Do(ctx, driver.Cmd{Args: []string{"GET", "k"}, Keys: driver.Key(1), Mode: driver.ReadOnly}).Err()
		}
	}
	both(b, bare, map[string]func() error{
		"cancelable": ours(ctx), "background": ours(context.Background()), "budget": func() error { return ours(driver.UntilDeadline(time.Now().Add(500 * time.Millisecond)))() },
	})
}

func BenchmarkPipeline100(b *testing.B) {
	c, d := benchServer(b)
	ctx := within(b)
	bare := func() error {
		p := c.Pipeline()
		for range 100 {
			p.Get(ctx, "k")
		}
		_, err := p.Exec(ctx)
		return err
	}
	ours := func(ctx context.Context) func() error {
		return func() error {
			cmds := make([]driver.Cmd, 100)
			for i := range cmds {
				cmds[i] = driver.Cmd{Args: []string{"GET", "k"}, Keys: driver.Key(1), Mode: driver.ReadOnly}
			}
			return d.DoMulti(ctx, cmds)[99].Err()
		}
	}
	both(b, bare, map[string]func() error{"cancelable": ours(ctx), "background": ours(context.Background())})
}

// both reports the time of each of ours as a ratio to that of bare, measured in turns, with allocations of both.
func both(b *testing.B, bare func() error, ours map[string]func() error) {
	for _, parallel := range []int{1, 128} {
		for name, f := range ours {
			b.Run(fmt.Sprintf("%s/goroutines=%d", name, parallel), func(b *testing.B) {
				var spent [2][]time.Duration
				for n := 0; n < b.N; {
					step := min(max(50, 4*parallel), b.N-n)
					for i, f := range []func() error{bare, f} {
						spent[i] = append(spent[i], spread(b, parallel, step, f))
					}
					n += step
				}
				b.ReportMetric(median(spent[1]).Seconds()/median(spent[0]).Seconds(), "ratio")
				b.ReportMetric(testing.AllocsPerRun(200, func() { _ = bare() }), "bare-allocs")
				b.ReportMetric(testing.AllocsPerRun(200, func() { _ = f() }), "our-allocs")
			})
		}
	}
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func spread(b *testing.B, parallel, n int, f func() error) time.Duration {
	start := time.Now()
	fail := make(chan error, parallel)
	for range parallel {
		go func() {
			var err error
			for range max(1, n/parallel) {
				if e := f(); e != nil {
					err = e
				}
			}
			fail <- err
		}()
	}
	for range parallel {
		if err := <-fail; err != nil {
			b.Error(err)
		}
	}
	return time.Since(start)
}
