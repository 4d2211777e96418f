package main

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-redisx/redisx/redisxtest"
)

// small makes the studies short for a test.
func small(t *testing.T) {
	before := sizes
	sizes = cacheSizes{
		tagged: 2500, memory: 20_000, instances: 6, fills: 500, nodes: 4, callers: 10,
		load: 100 * time.Millisecond, leastFills: 500 * time.Millisecond,
	}
	t.Cleanup(func() { sizes = before })
}

// figuresOf runs studies and returns the median of each gauge of each contender.
func figuresOf(t *testing.T, pattern string) map[string]map[string]float64 {
	t.Helper()
	s := redisxtest.StartServer(t, redisxtest.Password("secret"))
	env, err := newEnvironment(s.URL(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer env.close()
	var out bytes.Buffer
	all := studies(regexp.MustCompile(pattern))
	results, err := runStudies(&out, env, all, 1, 5*time.Millisecond)
	if err != nil || len(all) == 0 {
		t.Fatal(len(all), err)
	}
	seen := map[string]map[string]float64{}
	for _, r := range results {
		if r.Err != "" {
			t.Errorf("%s: %s", r.Name, r.Err)
		}
		if seen[r.Peer] == nil {
			seen[r.Peer] = map[string]float64{}
		}
		seen[r.Peer][r.Unit] = r.PeerFigure
	}
	if t.Failed() || strings.Contains(out.String(), "failed") {
		t.Fatal(&out)
	}
	return seen
}

// Times are no test. That a study counts what it says is one.
func TestEveryStudyOfTheCacheRuns(t *testing.T) {
	small(t)
	seen := figuresOf(t, "^cache/(l1|batch|invalidation|memory|l2/hit|l2/delete)")
	for _, who := range []string{"otter", "otter with TTL", "sturdyc GetOrFetch", "ristretto + msgpack", "go-redis/cache",
		"rueidis DoCache + JSON", "rueidis MGetCache + JSON", "driver MGET", "driver MGET + JSON", "driver GET + JSON", "driver DEL", "DEL, PUBLISH", "map"} {
		if len(seen[who]) == 0 {
			t.Errorf("nobody measured %s", who)
		}
	}
	for who, most := range map[string]float64{"cache Get, 2 tags": 0.05, "cache GetOrLoad, 2 tags": 0.05, "cache Peek, 2 tags": 0.05} {
		if n, ok := seen[who]["allocs/op"]; !ok || n > most {
			t.Errorf("%s: %v allocations", who, n)
		}
	}
	if n := seen["cache, remote tier"]["commands/op"]; n <= 0 || n > 1.1 {
		t.Errorf("a hit in Redis is %v commands", n)
	}
	if n := seen["cache, local tier"]["bytes/entry"]; n < 24 || n > 1000 {
		t.Errorf("an entry of the cache takes %v bytes", n)
	}
	if n := seen["otter with TTL"]["ns/op"]; n <= 0 || n > 1e6 {
		t.Errorf("a hit of otter takes %v ns", n)
	}
	if n := seen["driver GET + JSON"]["commands/op"]; n < 1 || n > 1.1 {
		t.Errorf("a GET is %v commands", n)
	}
	if n := seen["driver MGET"]["commands/op"]; n < 1 || n > 1.1 {
		t.Errorf("an MGET is %v commands", n)
	}
	if n := seen["map"]["bytes/entry"]; n < 24 || n > 200 {
		t.Errorf("a map takes %v bytes for 24", n)
	}
}

func TestAMissIsCountedInRoundTrips(t *testing.T) {
	small(t)
	seen := figuresOf(t, "^cache/l2/miss")
	for who, want := range map[string]float64{"driver GET, SET": 2, "go-redis/cache Once": 2, "rueidis, placeholder in the key": 3} {
		if n := seen[who]["server reads/op"]; math.Abs(n-want) > 0.2 {
			t.Errorf("%s: %v round trips, want %v", who, n, want)
		}
	}
}

func TestAStampedeIsCountedInLoadsAndCommands(t *testing.T) {
	small(t)
	seen := figuresOf(t, "^cache/stampede")
	for who, most := range map[string]float64{"cache, tracking": 1, "cache, pubsub": 1, "rueidis, placeholder in the key": 1, "go-redis/cache Once": 4, "GET, load, SET": 40} {
		loads := seen[who]["loads, most"]
		if loads < 1 || loads > most || (most == 4) != (loads > 1 && loads < 5) {
			t.Errorf("%s: %v loads, of at most %v", who, loads, most)
		}
	}
	if n := seen["GET, load, SET"]["commands"]; n < 40 || n > 90 {
		t.Errorf("40 callers that do not know of each other: %v commands", n)
	}
	if n := seen["GET, load, SET"]["p50 beyond the load, ms"]; n < -50 || n > 90 {
		t.Errorf("the load itself is left out, %v ms stay", n)
	}
}

func TestTagsInvalidateAllEntries(t *testing.T) {
	small(t)
	seen := figuresOf(t, "^cache/l2/tag")
	if n := seen["cache"]["commands sent/op"]; n < 1 || n > 2 {
		t.Errorf("the cache sends %v commands", n)
	}
	if n := seen["set of keys, deleted by 1000"]["commands sent/op"]; n != 5 { // SMEMBERS, three DEL, DEL of the set
		t.Errorf("%v commands for 2500 keys, want 5", n)
	}
}

func TestFillsAreToldToWhomTheyConcern(t *testing.T) {
	small(t)
	seen := figuresOf(t, "^cache/fills$")
	for who, perFill := range map[string]float64{
		"cache, tracking": 6, "cache, pubsub": 0, "cache, ttl-only": 0, "GET, SET: not coherent": 0, "GET, SET, PUBLISH of each fill": 6, "rueidis DoCache: each key tracked": 1, "rueidis DoCache: BCAST": 6,
	} {
		fills := seen[who]["fills/s"]
		if fills < 100 || fills > 600 {
			t.Errorf("%s: %v fills/s, want 500 or, on a busy machine, less", who, fills)
		}
		if n := seen[who]["messages/s"] / fills; math.Abs(n-perFill) > 0.1*perFill {
			t.Errorf("%s: %.2f messages for a fill, want %v", who, n, perFill)
		}
	}
	// +OK and a nil of RESP3. More would be what the server tells the fleets of other contenders.
	who := "GET, SET: not coherent"
	if n := seen[who]["server out KiB/s"] * 1024 / seen[who]["fills/s"]; n > 20 {
		t.Errorf("a GET and a SET are answered with %v bytes", n)
	}
}

func TestStudiesAreRunAndListedByTheCommand(t *testing.T) {
	small(t)
	var out bytes.Buffer
	if err := run([]string{"-list"}, &out); err != nil || !strings.Contains(out.String(), "\ncache/stampede\n") {
		t.Errorf("%v\n%s", err, &out)
	}
	out.Reset()
	file := filepath.Join(t.TempDir(), "results.json")
	if err := run([]string{"-rounds", "1", "-time", "5ms", "-run", "^cache/memory", "-json", file}, &out); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(data), "bytes/entry") || !strings.Contains(out.String(), "| cache/memory/20000 |") {
		t.Errorf("%v\n%s\n%s", err, data, &out)
	}
}

func TestOnlyTheWorkIsCounted(t *testing.T) {
	s := redisxtest.StartServer(t)
	env, err := newEnvironment(s.URL(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer env.close()
	l := &lab{environment: env, prefix: "p:"}
	defer l.close()
	if l.admin, err = l.open("goredis"); err != nil {
		t.Fatal(err)
	}
	names := l.hotKeys("counted")[:10]
	if err := l.seed(names, func(int) string { return value }); err != nil {
		t.Fatal(err)
	}
	x, err := l.observe(func() (sample, error) { return sample{ops: 10}, l.seed(names, func(int) string { return value }) })
	if err != nil || x.server.commands != 10 || commandsPer.of(&x) != 1 {
		t.Errorf("10 SETs are %v commands, %v", x.server.commands, err)
	}
	// +OK ten times, and the few bytes around the first reading of the counters.
	if n := x.server.bytesOut; n < 50 || n > 70 {
		t.Errorf("10 SETs are answered with %v bytes", n)
	}
	x, err = l.loop(4, task{batch: 1, run: func(int, int) error { time.Sleep(20 * time.Millisecond); return nil }})(100 * time.Millisecond)
	if each := usPerOp.of(&x) / 1000; err != nil || each < 5 || each > 19 {
		t.Errorf("four that sleep for 20 ms at a time take %v ms each, want 5, %v", each, err)
	}
}

func TestBoundsOfTheCacheAreJudged(t *testing.T) {
	s := study{name: "x", gauges: []gauge{nsPerOp, allocsPerOp}}
	ours := &measured{contender{name: "cache", ours: true}, [][]float64{{30, 31, 90}, {0, 0, 0}}}
	peer := &measured{contender{name: "peer"}, [][]float64{{60, 62, 60}, {1, 1, 1}}}
	for text, b := range map[string]struct {
		bound
		ok bool
	}{
		"figure kept":       {bound{gauge: "ns/op", most: 31}, true},
		"figure missed":     {bound{gauge: "ns/op", most: 30}, false},
		"ratio kept":        {bound{gauge: "ns/op", peer: "peer", most: 0.5}, true},
		"ratio missed":      {bound{gauge: "ns/op", peer: "peer", most: 0.49}, false},
		"difference kept":   {bound{gauge: "ns/op", peer: "peer", most: -30, more: true}, true},
		"difference missed": {bound{gauge: "ns/op", peer: "peer", most: -31, more: true}, false},
		"second gauge":      {bound{gauge: "allocs/op", most: 0}, true},
	} {
		if _, ok := b.judge(s, ours, peer); ok != b.ok {
			t.Errorf("%s: met is %v", text, ok)
		}
	}
	s.asked = []bound{{gauge: "ns/op", most: 40, text: "≤ 40 ns"}, {gauge: "ns/op", peer: "peer", most: 0.4, text: "≤ 2/5"}}
	var out bytes.Buffer
	results := table(&out, s, []measured{*ours, *peer})
	for _, line := range []string{"| cache | 31 (30–90) | 0 |  | ≤ 40 ns | yes |", "| peer | 60 (60–62) | 1 | **0.50** (0.50–1.50) | ≤ 2/5 | no |"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no row %q in\n%s", line, &out)
		}
	}
	i := slices.IndexFunc(results, func(r result) bool { return r.Peer == "peer" && r.Unit == "ns/op" })
	if len(results) != 4 || i < 0 || results[i].Met != "no" || results[i].OursFigure != 31 {
		t.Errorf("%+v", results)
	}
}

func TestFiguresAreShort(t *testing.T) {
	for want, f := range map[string]float64{
		"–": math.NaN(), "1.25M": 1_250_000, "99.7k": 99_700, "4016": 4016, "131": 131.2, "55.9": 55.88, "8.00": 7.9999, "8": 8, "0.93": 0.93, "0.067": 1.0 / 15, "0": 0,
	} {
		if got := short(f); got != want {
			t.Errorf("%v is %q, want %q", f, got, want)
		}
	}
}
