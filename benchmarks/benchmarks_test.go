package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-redisx/redisx/redisxtest"
)

// Times are no test: what is asserted is that every comparison runs, and what it allocates.
func TestEveryComparisonRuns(t *testing.T) {
	s := redisxtest.StartServer(t)
	file := filepath.Join(t.TempDir(), "results.json")
	var out bytes.Buffer
	if err := run([]string{"-rounds", "1", "-time", "5ms", "-run", "^(driver|core)", "-redis", s.URL(), "-json", file}, &out); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var results []result
	if err := json.Unmarshal(data, &results); err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != "" || r.Ratio <= 0 {
			t.Errorf("%s: ratio %v, error %q", r.Name, r.Ratio, r.Err)
		}
	}
	if n := strings.Count(out.String(), "\n| "); n < len(results) || len(results) < 40 {
		t.Errorf("%d results, %d rows", len(results), n)
	}
}

func TestADriverAddsAtMostTwoAllocationsToACommand(t *testing.T) {
	s := redisxtest.StartServer(t)
	env, err := newEnvironment(s.URL(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer env.close()
	all, err := env.comparisons(regexp.MustCompile(`^driver/.*/(GET|SET|EVALSHA)/.*/1$`))
	if err != nil || len(all) != 12 {
		t.Fatal(len(all), err)
	}
	for _, c := range all {
		ctx, cancel := context.Background(), context.CancelFunc(func() {})
		if c.ctx != nil {
			ctx, cancel = c.ctx()
		}
		allocs := func(s side) float64 {
			for range 1000 { // connections, pools, workers
				if err := s.op(ctx, 0); err != nil {
					t.Fatal(c.name, s.name, err)
				}
			}
			return testing.AllocsPerRun(500, func() {
				if err := s.op(ctx, 0); err != nil {
					t.Error(err)
				}
			})
		}
		peer, ours := allocs(c.peer), allocs(c.ours)
		if ours > peer+2 {
			t.Errorf("%s: %v allocations, the bare client has %v", c.name, ours, peer)
		}
		cancel()
	}
}

func TestListNeedsNoServer(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"-list"}, &out); err != nil || !strings.Contains(out.String(), "limit/black hole/rueidis") {
		t.Errorf("%v\n%s", err, &out)
	}
}

func TestMistakesAreClearErrors(t *testing.T) {
	s := redisxtest.StartServer(t)
	for want, args := range map[string][]string{
		"matches nothing": {"-run", "nothing", "-redis", s.URL()},
		"-rounds 0":       {"-rounds", "0"},
		"standalone":      {"-redis", "redis-cluster://h"},
		"missing closing": {"-run", "("},
	} {
		if err := run(args, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", args, err, want)
		}
	}
}

func TestMediansAndRatios(t *testing.T) {
	if m := median([]float64{5, 1, 3}); m != 3 {
		t.Error(m)
	}
	if m := median([]float64{4, 1, 2, 3}); m != 2.5 {
		t.Error(m)
	}
	sleep := func(d time.Duration) side {
		return side{"sleep", func(context.Context, int) error { time.Sleep(d); return nil }}
	}
	r := compare(&comparison{name: "x", goroutines: 1, perOp: 1, want: 0.95, peer: sleep(time.Millisecond), ours: sleep(4 * time.Millisecond)}, 3, 50*time.Millisecond)
	if r.Ratio > 0.6 || r.Met != "no" {
		t.Errorf("four times slower is a ratio of %v, met %q", r.Ratio, r.Met)
	}
}
