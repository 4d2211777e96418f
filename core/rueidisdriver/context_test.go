package rueidisdriver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

const prompt = 5 * driver.PromptCancel // with room for a busy machine

// TestEndOfContextIsPrompt ends the context of a command the server does not answer: with warm connections and cold ones,
// by cancellation, deadline, and both, one at a time and in crowds that fill the client's queue.
func TestEndOfContextIsPrompt(t *testing.T) {
	s := startServer(t)
	type end struct {
		name string
		ctx  func() (context.Context, context.CancelFunc)
	}
	after := 60 * time.Millisecond
	ends := []end{
		{"cancel", func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(after, cancel)
			return ctx, cancel
		}},
		{"deadline", func() (context.Context, context.CancelFunc) { return context.WithTimeout(context.Background(), after) }},
		{"cancel before deadline", func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			time.AfterFunc(after, cancel)
			return ctx, cancel
		}},
		{"deadline only", func() (context.Context, context.CancelFunc) {
			return driver.UntilDeadline(time.Now().Add(after)), func() {}
		}},
	}
	clients := map[string]func(t *testing.T, p *proxy) *Driver{
		"Open": func(t *testing.T, p *proxy) *Driver { return open(t, p.url()+"?dial_timeout=10s&read_timeout=10s") },
		"New": func(t *testing.T, p *proxy) *Driver {
			return fromOption(t, rueidis.ClientOption{InitAddress: []string{p.addr}, DisableCache: true})
		},
		"NewWithoutPipelining": func(t *testing.T, p *proxy) *Driver {
			return fromOption(t, rueidis.ClientOption{InitAddress: []string{p.addr}, DisableCache: true, DisableAutoPipelining: true, BlockingPoolSize: 2})
		},
		"NewWithSmallQueue": func(t *testing.T, p *proxy) *Driver {
			return fromOption(t, rueidis.ClientOption{InitAddress: []string{p.addr}, DisableCache: true, RingScaleEachConn: 1})
		},
	}
	for name, client := range clients {
		for _, warm := range []int{0, 1, 2000} {
			t.Run(fmt.Sprintf("%s/warm%d", name, warm), func(t *testing.T) {
				t.Parallel()
				p := startProxy(t, s.addr)
				d := client(t, p)
				for i := range warm {
					if r := d.Do(context.Background(), keyed("SET", "k", fmt.Sprint(i))); r.Err() != nil {
						t.Fatal(r)
					}
					ctx, cancel := context.WithCancel(context.Background())
					d.Do(ctx, reading("GET", "k"))
					cancel()
				}
				p.mute.Store(true)
				for _, e := range ends {
					for _, c := range []driver.Cmd{keyed("SET", "k", "v"), reading("GET", "k")} {
						measure(t, e.name+" Do "+c.Args[0], e.ctx, after, func(ctx context.Context) error { return d.Do(ctx, c).Err() })
					}
					measure(t, e.name+" DoMulti", e.ctx, after, func(ctx context.Context) error {
						return d.DoMulti(ctx, []driver.Cmd{keyed("SET", "k", "v"), keyed("SET", "k", "w")})[1].Err()
					})
				}
				long := []driver.Cmd{}
				for range 3000 {
					long = append(long, keyed("SET", "k", "v"))
				}
				measure(t, "long DoMulti", ends[0].ctx, after, func(ctx context.Context) error { return d.DoMulti(ctx, long)[0].Err() })
				var wg sync.WaitGroup
				for range 300 {
					wg.Go(func() {
						measure(t, "crowd", ends[2].ctx, after, func(ctx context.Context) error { return d.Do(ctx, keyed("SET", "k", "v")).Err() })
					})
				}
				wg.Wait()
			})
		}
	}
}

func fromOption(t *testing.T, o rueidis.ClientOption) *Driver {
	t.Helper()
	o.ForceSingleClient = true
	client, err := rueidis.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	d, err := New(client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func measure(t *testing.T, what string, with func() (context.Context, context.CancelFunc), after time.Duration, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := with()
	defer cancel()
	start := time.Now()
	err := f(ctx)
	took := time.Since(start)
	if took > after+prompt {
		t.Errorf("%s: returned %v after the end of its context", what, took-after)
	}
	if err == nil || ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
		t.Errorf("%s: %v, context: %v", what, err, ctx.Err())
	}
	if errors.Is(err, driver.ErrNotSent) == errors.Is(err, driver.ErrUnknownOutcome) {
		t.Errorf("%s: %v is neither or both of not sent and unknown", what, err)
	}
}

func TestEndedContextSendsNothing(t *testing.T) {
	d := open(t, startServer(t).url())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, mode := range []driver.Mode{driver.Write, driver.ReadOnly, driver.Blocking} {
		c := keyed("SET", "k", "v")
		c.Mode = mode
		if err := d.Do(ctx, c).Err(); !errors.Is(err, context.Canceled) || !errors.Is(err, driver.ErrNotSent) {
			t.Errorf("%v: %v", mode, err)
		}
		if err := d.DoMulti(ctx, []driver.Cmd{c})[0].Err(); !errors.Is(err, context.Canceled) || !errors.Is(err, driver.ErrNotSent) {
			t.Errorf("%v: %v", mode, err)
		}
	}
	if _, err := d.Dedicate(ctx, ""); !errors.Is(err, driver.ErrNotSent) {
		t.Errorf("Dedicate: %v", err)
	}
	if r := d.Do(t.Context(), reading("GET", "k")); !r.IsNil() {
		t.Errorf("server has %v", r)
	}
}

// TestForeignDeadlineHitsNobodyElse lets one command time out that used a connection alone; the others queued behind it.
func TestForeignDeadlineHitsNobodyElse(t *testing.T) {
	s := startServer(t)
	for range 5 {
		d := open(t, s.url())
		s.cli("CLIENT", "PAUSE", "300")
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if i%2 == 0 {
					d.Do(driver.UntilDeadline(time.Now().Add(100*time.Millisecond)), keyed("SET", "k", "v"))
					return
				}
				if err := d.Do(context.Background(), keyed("INCR", "n")).Err(); err != nil {
					t.Errorf("command without deadline: %v", err)
				}
			})
		}
		wg.Wait()
	}
	if n, err := s.cli("GET", "n").Int64(); n != 50 {
		t.Errorf("50 INCR made %d, %v", n, err)
	}
}
