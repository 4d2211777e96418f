package chaos_test

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/drivertest"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/core/rueidisdriver"
	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// envScript makes TestConformance of a child process run the suite on drivers with this script around them.
const envScript = "REDISXTEST_CHAOS_SCRIPT"

func TestConformance(t *testing.T) {
	text, ok := os.LookupEnv(envScript)
	if !ok {
		t.Skip("run by TestBugsAreFoundBySuite in a process of its own")
	}
	script := parse(t, text)
	f := redisxtest.NewFake(t)
	open := map[string]func(ctx context.Context, url string) (driver.Driver, error){
		"goredis": func(ctx context.Context, url string) (driver.Driver, error) {
			return wrap(goredisdriver.Open(ctx, url))(script)
		},
		"rueidis": func(ctx context.Context, url string) (driver.Driver, error) {
			return wrap(rueidisdriver.Open(ctx, url))(script)
		},
	}
	for name, o := range open {
		t.Run(name, func(t *testing.T) {
			drivertest.Run(t, drivertest.Config{
				Open: o, URL: f.URL(), Features: drivertest.Features{Fake: true, AllowFlush: true},
				Process: drivertest.Process{FlushScripts: f.FlushScripts},
			})
		})
	}
}

func wrap[D driver.Driver](d D, err error) func(chaos.Script) (driver.Driver, error) {
	return func(s chaos.Script) (driver.Driver, error) {
		if err != nil {
			return nil, err
		}
		return chaos.Wrap(d, s), nil
	}
}

// The suite for drivers finds drivers that retry writes, ignore cancellation or lose messages without a word, and has nothing
// against the wrapper itself.
func TestBugsAreFoundBySuite(t *testing.T) {
	cases := map[string]string{
		"retries":    "a_write_whose_reply_is_lost_is_sent_once",
		"context":    "cancellation_is_honoured_during_GET",
		"subscriber": "a_slow_callback_overlaps_with_none",
	}
	pattern := "^TestConformance$/^(goredis|rueidis)$/^Open$/^together$/^(" + strings.Join(slices.Sorted(maps.Keys(cases)), "|") + ")$/^(" +
		strings.Join(slices.Sorted(maps.Values(cases)), "|") + ")$"
	for verdict, script := range map[string]string{
		"--- PASS": "",
		"--- FAIL": "on INCR bug-retry\non GET bug-ignore-cancel 600ms\non message nth=3 bug-silent-gap",
	} {
		t.Run(verdict, func(t *testing.T) {
			t.Parallel()
			child := exec.CommandContext(within(t), os.Args[0], "-test.run="+pattern, "-test.v=true")
			child.Env = append(os.Environ(), envScript+"="+script)
			out, err := child.CombinedOutput()
			require.Equal(t, script == "", err == nil, "%v\n%s", err, out)
			require.NotContains(t, string(out), "panic", "it failed in a way of its own")
			for _, d := range []string{"goredis", "rueidis"} {
				for group, name := range cases {
					require.Contains(t, string(out), verdict+": TestConformance/"+d+"/Open/together/"+group+"/"+name)
				}
			}
			for _, line := range []string{"on the wire 3 times, want 2", "after its context ended, want", "where 2 was next"} {
				require.Equal(t, script != "", strings.Contains(string(out), line), "%q in\n%s", line, out)
			}
		})
	}
}
