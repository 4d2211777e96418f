package rueidisdriver

import (
	"context"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

// TestOverhead prints what the driver costs over the bare client, in interleaved rounds; the median of the rounds' ratios
// counts. It asserts nothing: run it with REDISX_BENCH=1 on a quiet machine.
func TestOverhead(t *testing.T) {
	if os.Getenv("REDISX_BENCH") == "" {
		t.Skip("set REDISX_BENCH=1 to measure")
	}
	s := startServer(t)
	d := open(t, s.url())
	bare := d.client
	given, err := New(bare)
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	plain := context.Background()
	value := string(make([]byte, 128))
	d.Do(plain, keyed("SET", "k", value))
	ends, cancel := context.WithTimeout(plain, time.Hour)
	defer cancel()
	get, list := reading("GET", "k"), make([]driver.Cmd, 100)
	for i := range list {
		list[i] = get
	}
	bareGet := func(ctx context.Context) { _, _ = bare.Do(ctx, bare.B().Get().Key("k").Build()).ToString() }
	barePipe := func(ctx context.Context) {
		cs := make([]rueidis.Completed, 100)
		for i := range cs {
			cs[i] = bare.B().Get().Key("k").Build()
		}
		for _, r := range bare.DoMulti(ctx, cs...) {
			_, _ = r.ToString()
		}
	}
	do := func(d *Driver) func(context.Context) {
		return func(ctx context.Context) { _, _ = d.Do(ctx, get).Text() }
	}
	pipe := func(d *Driver) func(context.Context) {
		return func(ctx context.Context) {
			for _, r := range d.DoMulti(ctx, list) {
				_, _ = r.Text()
			}
		}
	}
	const rounds = 41
	for _, c := range []struct {
		name         string
		ctx          context.Context
		workers, n   int
		bare, driver func(context.Context)
	}{
		{"GET", plain, 1, 4000, bareGet, do(d)},
		{"GET", plain, 128, 60000, bareGet, do(d)},
		{"GET cancellable", ends, 1, 4000, bareGet, do(d)},
		{"GET cancellable", ends, 128, 60000, bareGet, do(d)},
		{"GET cancellable, New", ends, 1, 4000, bareGet, do(given)},
		{"GET cancellable, New", ends, 128, 60000, bareGet, do(given)},
		{"100 GET", plain, 1, 1500, barePipe, pipe(d)},
		{"100 GET", plain, 16, 3000, barePipe, pipe(d)},
		{"100 GET cancellable", ends, 1, 1500, barePipe, pipe(d)},
	} {
		measure := func(f func(context.Context)) float64 {
			var wg sync.WaitGroup
			start := time.Now()
			for range c.workers {
				wg.Go(func() {
					for range c.n / c.workers {
						f(c.ctx)
					}
				})
			}
			wg.Wait()
			return float64(time.Since(start).Nanoseconds()) / float64(c.n/c.workers*c.workers)
		}
		measure(c.bare)
		measure(c.driver)
		var ratios, bares []float64
		for i := range rounds {
			var a, b float64
			if i%2 == 0 {
				a, b = measure(c.bare), measure(c.driver)
			} else {
				b, a = measure(c.driver), measure(c.bare)
			}
			ratios, bares = append(ratios, b/a), append(bares, a)
		}
		slices.Sort(ratios)
		slices.Sort(bares)
		extra := testing.AllocsPerRun(500, func() { c.driver(c.ctx) }) - testing.AllocsPerRun(500, func() { c.bare(c.ctx) })
		t.Logf("%-22s %3d goroutines: bare %6.0f ns, driver × %.3f (%.3f … %.3f), %+.0f allocs", c.name, c.workers, bares[rounds/2], ratios[rounds/2], ratios[rounds/4], ratios[3*rounds/4], extra)
	}
}
