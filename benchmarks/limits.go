package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/core/rueidisdriver"
	"github.com/go-redisx/redisx/redisxtest"
)

// limit is a figure of ours that has a bound instead of a peer.
type limit struct {
	name, asked string
	// measure returns what was seen, in words, and whether it is within the bound.
	measure func(e *environment) (seen string, met bool, err error)
}

var openers = map[string]func(ctx context.Context, url string) (driver.Driver, error){
	"goredis": func(ctx context.Context, url string) (driver.Driver, error) { return goredisdriver.Open(ctx, url) },
	"rueidis": func(ctx context.Context, url string) (driver.Driver, error) { return rueidisdriver.Open(ctx, url) },
}

func limits(match *regexp.Regexp) (out []limit) {
	all := []limit{
		{"limit/no hook installed", "≤ 5 ns, 0 allocations per operation", noHook},
		{"limit/dead server, breaker open", "≤ 1 µs per call", breakerOpen},
	}
	for _, who := range []string{"goredis", "rueidis"} {
		all = append(all,
			limit{"limit/black hole/" + who, "no call outlives its 100 ms by more than 50 ms", func(e *environment) (string, bool, error) { return blackHole(e, who) }},
			limit{"limit/stalled cluster node/" + who, "commands to other nodes: median and p99 ≤ 1.5 × those before", func(e *environment) (string, bool, error) { return stalledNode(e, who) }},
		)
	}
	for _, l := range all {
		if match.MatchString(l.name) {
			out = append(out, l)
		}
	}
	return out
}

func printLimits(out io.Writer, e *environment, all []limit) {
	if len(all) == 0 {
		return
	}
	fmt.Fprint(out, "\n| limit | asked | seen | met |\n|---|---|---|---|\n")
	for _, l := range all {
		seen, met, err := l.measure(e)
		verdict := "no"
		if met {
			verdict = "yes"
		}
		if err != nil {
			seen, verdict = "failed: "+err.Error(), ""
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s |\n", l.name, l.asked, seen, verdict)
	}
}

// perCall is the time of one call of f, the fastest of a few runs: what disturbs only ever adds.
func perCall(f func()) time.Duration {
	const n = 200_000
	best := time.Hour
	for range 7 {
		start := time.Now()
		for range n {
			f()
		}
		best = min(best, time.Since(start))
	}
	return best * 1000 / n // in ps, to keep what is below a nanosecond
}

func noHook(*environment) (string, bool, error) {
	client, err := core.New(null{})
	if err != nil {
		return "", false, err
	}
	defer func() { _ = client.Close() }()
	ctx := context.Background()
	op := core.Operation{Plugin: "benchmarks", Verb: "measure", Name: "n"}
	empty := perCall(func() {})
	with := perCall(func() {
		ctx, span := client.StartOperation(ctx, &op)
		span.End(ctx, "ok", nil)
	})
	ns := float64(with-empty) / 1000
	return fmt.Sprintf("%.1f ns", ns), ns <= 5, nil
}

// null is a driver that answers at once.
type null struct{ driver.Driver }

func (null) Do(context.Context, driver.Cmd) driver.Reply { return driver.IntReply(1) }
func (null) Close() error                                { return nil }

func breakerOpen(e *environment) (string, bool, error) {
	s := redisxtest.StartServer(e.tb)
	d, err := openers["goredis"](context.Background(), s.URL())
	if err != nil {
		return "", false, err
	}
	client, err := core.New(d)
	if err != nil {
		return "", false, err
	}
	defer func() { _ = client.Close() }()
	s.Kill()
	ctx, cancel := cancellable()
	defer cancel()
	cmd := command("SET", "k")
	for deadline := time.Now().Add(10 * time.Second); !errors.Is(client.Do(ctx, cmd).Err(), core.ErrBreakerOpen); {
		if time.Now().After(deadline) {
			return "", false, errors.New("the breaker does not open")
		}
	}
	took := perCall(func() { client.Do(ctx, cmd) })
	if err := client.Do(ctx, cmd).Err(); !errors.Is(err, core.ErrBreakerOpen) {
		return "", false, fmt.Errorf("the breaker is not open any more: %w", err)
	}
	return fmt.Sprintf("%.0f ns", float64(took)/1000), took <= 1_000_000, nil
}

// blackHole stops the server and looks how long calls take, whatever their context allows.
func blackHole(e *environment, who string) (string, bool, error) {
	const budget = 100 * time.Millisecond
	s := redisxtest.StartServer(e.tb)
	d, err := openers[who](context.Background(), s.URL())
	if err != nil {
		return "", false, err
	}
	client, err := core.New(d, core.WithCommandTimeout(budget), core.WithoutBreaker())
	if err != nil {
		return "", false, err
	}
	defer func() { _ = client.Close() }()
	s.Pause()
	defer s.Resume()
	var mu sync.Mutex
	var worst time.Duration
	var wrong error
	var wg sync.WaitGroup
	for g := range 32 {
		wg.Go(func() {
			ctx, cancel := context.Background(), context.CancelFunc(func() {})
			if g%2 == 0 {
				ctx, cancel = cancellable()
			}
			defer cancel()
			for i := range 20 {
				start := time.Now()
				var err error
				if i%4 == 3 {
					err = client.DoMulti(ctx, []driver.Cmd{command("SET", "k"), command("GET", "k")})[1].Err()
				} else {
					err = client.Do(ctx, command("SET", "k")).Err()
				}
				took := time.Since(start)
				mu.Lock()
				worst = max(worst, took)
				if !errors.Is(err, core.ErrUnavailable) {
					wrong = fmt.Errorf("a call on a stopped server: %w", err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return fmt.Sprintf("slowest of 640 calls: %.1f ms", float64(worst.Microseconds())/1000), worst <= budget+50*time.Millisecond, wrong
}

// stalledNode compares commands to two nodes of a Cluster before and while the third one is stopped and under load.
func stalledNode(e *environment, who string) (string, bool, error) {
	cl := redisxtest.StartCluster(e.tb, 3, 0, redisxtest.Config("cluster-node-timeout", "30000"))
	d, err := openers[who](context.Background(), cl.URL())
	if err != nil {
		return "", false, err
	}
	client, err := core.New(d, core.WithoutBreaker()) // an open breaker would take the load away
	if err != nil {
		return "", false, err
	}
	defer func() { _ = client.Close() }()
	stalled := cl.Node(keys[0])
	var there, elsewhere []string
	for _, k := range keys {
		if cl.Node(k) == stalled {
			there = append(there, k)
		} else {
			elsewhere = append(elsewhere, k)
		}
	}
	phase := func() (p50, p99 time.Duration, err error) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		var mu sync.Mutex
		var all []time.Duration
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				own, stop := cancellable()
				defer stop()
				for i := g; ctx.Err() == nil; i++ {
					start := time.Now()
					e := client.Do(own, command("SET", elsewhere[i%len(elsewhere)])).Err()
					took := time.Since(start)
					mu.Lock()
					all = append(all, took)
					if e != nil {
						err = e
					}
					mu.Unlock()
				}
			})
		}
		for g := range 64 { // the load on the node that will stall
			wg.Go(func() {
				own, stop := cancellable()
				defer stop()
				for i := g; ctx.Err() == nil; i++ {
					if client.Do(own, command("SET", there[i%len(there)])).Err() == nil {
						time.Sleep(10 * time.Millisecond) // a node that answers would take the machine for itself
					}
				}
			})
		}
		wg.Wait()
		slices.Sort(all)
		return all[len(all)/2], all[len(all)*99/100], err
	}
	if _, _, err := phase(); err != nil { // warm up
		return "", false, err
	}
	before50, before99, err := phase()
	if err != nil {
		return "", false, err
	}
	stalled.Pause()
	defer stalled.Resume()
	during50, during99, err := phase()
	if err != nil {
		return "", false, err
	}
	met := during50 <= before50*3/2 && during99 <= before99*3/2
	return fmt.Sprintf("median %v → %v, p99 %v → %v", before50.Round(time.Microsecond), during50.Round(time.Microsecond),
		before99.Round(time.Microsecond), during99.Round(time.Microsecond)), met, nil
}
