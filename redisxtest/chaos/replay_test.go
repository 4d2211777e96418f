package chaos_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

const storm = `seed 42
on INCR key=cnt:* p=0.1 lose-reply
on any p=0.05 lose-request
on SET p=0.1 times=3 duplicate
on any p=0.2 latency 1ns..900ns
on GET nth=5..7 reply LOADING
on any p=0.02 refuse`

// program is some hundred commands, alone and in lists, the same each time. It returns what it saw.
func program(d driver.Driver) string {
	ctx := context.Background()
	rnd := rand.New(rand.NewPCG(1, 2))
	var saw strings.Builder
	next := func() driver.Cmd {
		name, key := []string{"INCR", "SET", "GET"}[rnd.IntN(3)], []string{"cnt:1", "cnt:2", "other"}[rnd.IntN(3)]
		return cmd(name, key)
	}
	for range 200 {
		if rnd.IntN(4) == 0 {
			fmt.Fprintln(&saw, d.DoMulti(ctx, []driver.Cmd{next(), next(), next()}))
		} else {
			fmt.Fprintln(&saw, d.Do(ctx, next()))
		}
	}
	return saw.String()
}

func TestSameSeedSameFaults(t *testing.T) {
	run := func(text string) (saw, log string) {
		d := chaos.Wrap(&stub{}, parse(t, text))
		saw = program(d)
		return saw, strings.Join(d.Log(), "\n")
	}
	saw, log := run(storm)
	require.Greater(t, strings.Count(log, "\n"), 50)
	for range 100 {
		again, logAgain := run(storm)
		require.Equal(t, saw, again)
		require.Equal(t, log, logAgain)
	}
	other, _ := run(strings.Replace(storm, "42", "43", 1))
	require.NotEqual(t, saw, other)
}

// The log as a script, without the seed, does the same, down to its own log.
func TestLogIsAScript(t *testing.T) {
	d := chaos.Wrap(&stub{}, parse(t, storm))
	saw := program(d)
	log := strings.Join(d.Log(), "\n")
	for _, name := range []string{"lose-reply", "lose-request", "duplicate", "latency", "LOADING", "refuse"} {
		require.Contains(t, log, name)
	}
	again := chaos.Wrap(&stub{}, parse(t, log))
	require.Equal(t, saw, program(again))
	require.Equal(t, log, strings.Join(again.Log(), "\n"))
}

// One line alone causes its fault at its place.
func TestOneLineOfTheLogIsAScript(t *testing.T) {
	each(t, func(t *testing.T, plain driver.Driver) {
		d := chaos.Wrap(plain, parse(t, "seed 7\non INCR key=cnt:* p=0.3 times=1 lose-reply"))
		call := 0
		for ; d.Do(within(t), cmd("INCR", "cnt:1")).Err() == nil; call++ {
			_ = d.Do(within(t), cmd("INCR", "elsewhere"))
		}
		require.Len(t, d.Log(), 1)
		d = chaos.Wrap(plain, parse(t, d.Log()[0]))
		for i := range call + 3 {
			err := d.Do(within(t), cmd("INCR", "cnt:1")).Err()
			if i == call {
				wantUnknown(t, err)
			} else {
				require.NoError(t, err)
			}
			_ = d.Do(within(t), cmd("INCR", "elsewhere"))
		}
	})
}

func TestProbability(t *testing.T) {
	d := chaos.Wrap(&stub{}, rules(chaos.On("SET").P(0.05).Refuse(), chaos.On("GET").P(1).Refuse()))
	for range 10000 {
		_ = d.Do(context.Background(), cmd("SET", "k"))
	}
	require.InDelta(t, 500, len(d.Log()), 150)
	require.Error(t, d.Do(context.Background(), cmd("GET", "k")).Err())
}

func TestTimesIsALimit(t *testing.T) {
	d := chaos.Wrap(&stub{}, rules(chaos.On("SET").From(2).Times(2).Refuse()))
	var refused []int
	for i := 1; i <= 6; i++ {
		if d.Do(context.Background(), cmd("SET", "k")).Err() != nil {
			refused = append(refused, i)
		}
	}
	require.Equal(t, []int{2, 3}, refused)
}

// Spans of latency are drawn, and every draw lies in its span.
func TestLatencyIsDrawn(t *testing.T) {
	d := chaos.Wrap(&stub{}, rules(chaos.On("SET").LatencyBetween(100, 10000)))
	seen := map[time.Duration]bool{}
	for range 100 {
		_ = d.Do(context.Background(), cmd("SET", "k"))
	}
	for _, line := range d.Log() {
		_, text, _ := strings.Cut(line, "latency ")
		text, _, _ = strings.Cut(text, " ")
		took, err := time.ParseDuration(text)
		require.NoError(t, err)
		require.True(t, took >= 100 && took <= 10000, line)
		seen[took] = true
	}
	require.Greater(t, len(seen), 50)
}

// Whichever goroutine comes first: as many faults as the script says, each with its own number, and they replay.
func TestManyGoroutines(t *testing.T) {
	each(t, func(t *testing.T, plain driver.Driver) {
		d := chaos.Wrap(plain, parse(t, `seed 1
			on INCR nth=100..149 lose-reply
			on INCR p=0.1 duplicate
			on INCR p=0.1 latency 1us..50us
			on GET p=0.5 reply BUSY`))
		var wg sync.WaitGroup
		var mu sync.Mutex
		unknown := 0
		for range 8 {
			wg.Go(func() {
				for range 50 {
					err := d.Do(within(t), cmd("INCR", "n")).Err()
					_ = d.DoMulti(within(t), []driver.Cmd{cmd("GET", "n"), cmd("GET", "n")})
					mu.Lock()
					if err != nil {
						unknown++
					}
					mu.Unlock()
					d.Storm()
				}
			})
		}
		wg.Wait()
		require.Equal(t, 50, unknown)
		log, twice := d.Log(), 0
		lines := map[string]bool{}
		for _, line := range log {
			if strings.Contains(line, " duplicate ") {
				twice++
			}
			require.False(t, lines[line], "%s twice", line)
			lines[line] = true
		}
		require.Equal(t, fmt.Sprint(400+twice), get(t, plain, "n"))
		parse(t, strings.Join(log, "\n"))
	})
}
