package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// A study measures package cache and what people use instead of it, all in one process, in turns. Where a [comparison] has two
// sides and one figure, a study has any number of contenders and several figures; less is better in every one of them.
type study struct {
	name    string // cache/<group>/<what>
	gauges  []gauge
	asked   []bound
	fixed   int // rounds, where one is long; 0 is as many as asked for
	contend func(l *lab) ([]contender, error)
}

// gauge is one figure of a sample. The first one of a study is what the ratio is of.
type gauge struct {
	name string
	of   func(*sample) float64 // NaN is not known
}

// bound is what was asked of ours: at most so much in a gauge, or of it relative to a peer.
type bound struct {
	gauge string
	// peer is the contender compared with; "" is no comparison.
	peer string
	// most is of the figure itself, of ours / peer, or, where more is set, of ours - peer.
	most float64
	more bool
	text string // as the report says it
}

// contender is one of those measured.
type contender struct {
	name string
	ours bool
	// turn measures for about d.
	turn func(d time.Duration) (sample, error)
}

// sample is what one turn saw.
type sample struct {
	ops       float64
	wall      time.Duration
	client    time.Duration // CPU of this process
	allocs    float64
	server    serverStats
	times     []time.Duration // of single operations or events, sorted
	sent      float64         // commands that were sent, where somebody counted: what a script calls is not among them
	loads     float64
	messages  float64
	bytesEach float64 // memory
}

// serverStats are counters of the server, or the difference of two readings.
type serverStats struct {
	commands, reads, bytesOut float64
	answer                    float64 // bytes of the reading itself, which are counted after it
	cpu                       time.Duration
}

func (s serverStats) minus(o serverStats) serverStats {
	return serverStats{
		commands: s.commands - o.commands, reads: s.reads - o.reads - 1, bytesOut: s.bytesOut - o.bytesOut - o.answer, cpu: s.cpu - o.cpu,
	}
}

var (
	nsPerOp     = gauge{"ns/op", func(s *sample) float64 { return float64(s.wall.Nanoseconds()) / s.ops }}
	usPerOp     = gauge{"µs/op", func(s *sample) float64 { return float64(s.wall.Nanoseconds()) / 1e3 / s.ops }}
	allocsPerOp = gauge{"allocs/op", func(s *sample) float64 { return s.allocs / s.ops }}
	commandsPer = gauge{"commands/op", func(s *sample) float64 { return s.server.commands / s.ops }}
	readsPer    = gauge{"server reads/op", func(s *sample) float64 { return s.server.reads / s.ops }}
	clientUsPer = gauge{"client CPU µs/op", func(s *sample) float64 { return float64(s.client.Nanoseconds()) / 1e3 / s.ops }}
	sentPer     = gauge{"commands sent/op", func(s *sample) float64 { return s.sent / s.ops }}
	p50         = gauge{"p50 µs", func(s *sample) float64 { return s.quantile(50) }}
	p99         = gauge{"p99 µs", func(s *sample) float64 { return s.quantile(99) }}
)

// quantile is in microseconds.
func (s *sample) quantile(percent int) float64 {
	if len(s.times) == 0 {
		return math.NaN()
	}
	return float64(s.times[(len(s.times)-1)*percent/100].Nanoseconds()) / 1e3
}

// cacheSizes are the amounts that the studies work with; tests make them small.
type cacheSizes struct {
	tagged, memory          int
	instances, fills        int // of the fill study; fills per second in all
	nodes, callers          int // of the stampede
	load                    time.Duration
	leastFills, leastEvents time.Duration // of a turn
}

var sizes = cacheSizes{
	tagged: 100_000, memory: 1_000_000, instances: 50, fills: 2000, nodes: 10, callers: 50,
	load: 10 * time.Millisecond, leastFills: 2 * time.Second, leastEvents: 500 * time.Millisecond,
}

// lab is what a study works in. What it opens ends with the study.
type lab struct {
	*environment
	admin  driver.Driver
	prefix string // of every key
	closes []func()
}

func (l *lab) onClose(f func()) { l.closes = append(l.closes, f) }

func (l *lab) close() {
	for i := len(l.closes) - 1; i >= 0; i-- {
		l.closes[i]()
	}
	l.closes = nil
}

// key keeps the keys of one contender apart from those of others and of other runs.
func (l *lab) key(who string, i int) string { return l.prefix + who + ":" + strconv.Itoa(i) }

// open is a driver of its own.
func (l *lab) open(who string) (driver.Driver, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	d, err := openers[who](ctx, l.url)
	if err != nil {
		return nil, err
	}
	l.onClose(func() { _ = d.Close() })
	return d, nil
}

// stats reads the counters of the server; [serverStats.minus] leaves out what reading them costs.
func (l *lab) stats() (out serverStats, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	text, err := l.admin.Do(ctx, driver.Cmd{Args: []string{"INFO", "all"}, Mode: driver.ReadOnly}).Text()
	if err != nil {
		return out, err
	}
	out.answer = float64(len(text))
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "total_reads_processed":
			out.reads = number(value)
		case "total_net_output_bytes":
			out.bytesOut = number(value)
		case "used_cpu_sys", "used_cpu_user":
			out.cpu += time.Duration(number(value) * float64(time.Second))
		}
		if strings.HasPrefix(name, "cmdstat_") && name != "cmdstat_info" {
			calls, _, _ := strings.Cut(strings.TrimPrefix(value, "calls="), ",")
			out.commands += number(calls)
		}
	}
	return out, nil
}

func number(s string) float64 {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return math.NaN()
	}
	return f
}

// clientCPU is the time this process has had on a core, system calls included.
func clientCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// observe fills in what a stretch of work cost the server and this process.
func (l *lab) observe(work func() (sample, error)) (sample, error) {
	before, err := l.stats()
	if err != nil {
		return sample{}, err
	}
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	cpu := clientCPU()
	s, err := work()
	s.client = clientCPU() - cpu
	if err != nil {
		return s, err
	}
	runtime.ReadMemStats(&m1)
	s.allocs = float64(m1.Mallocs - m0.Mallocs)
	after, err := l.stats()
	if err != nil {
		return s, err
	}
	s.server = after.minus(before)
	slices.Sort(s.times)
	return s, nil
}

// task is an operation in a loop: run does n of them, ready what has to be done before and is not part of the time.
type task struct {
	batch      int
	ready, run func(worker, n int) error
}

// loop makes a turn of a task. The loop is the task's own, so that an operation of 20 ns is not measured through a call
// of a function value and a look at a channel. It runs once before.
func (l *lab) loop(goroutines int, t task) func(time.Duration) (sample, error) {
	once := func(d time.Duration) (sample, error) {
		return l.observe(func() (s sample, err error) {
			var mu sync.Mutex
			var wg sync.WaitGroup
			end := time.Now().Add(d)
			for w := range goroutines {
				wg.Go(func() {
					var ops int
					var busy time.Duration
					var failed error
					for failed == nil && (ops == 0 || time.Now().Before(end)) {
						if t.ready != nil {
							if failed = t.ready(w, t.batch); failed != nil {
								break
							}
						}
						start := time.Now()
						failed = t.run(w, t.batch)
						busy += time.Since(start)
						ops += t.batch
					}
					mu.Lock()
					defer mu.Unlock()
					s.ops += float64(ops)
					s.wall += busy / time.Duration(goroutines) // together that is the time passed
					err = errors.Join(err, failed)
				})
			}
			wg.Wait()
			return s, err
		})
	}
	return l.warmed(func() (sample, error) { return once(20 * time.Millisecond) }, once)
}

// warmed does something before the first turn, such as what opens connections.
func (l *lab) warmed(before func() (sample, error), turn func(time.Duration) (sample, error)) func(time.Duration) (sample, error) {
	warm := false
	return func(d time.Duration) (sample, error) {
		if !warm {
			warm = true
			if _, err := before(); err != nil {
				return sample{}, err
			}
		}
		return turn(d)
	}
}

// studies returns those whose name matches.
func studies(match *regexp.Regexp) (out []study) {
	for _, group := range [][]study{
		localStudies(), remoteStudies(), stampedeStudies(), batchStudies(), invalidationStudies(), fillStudies(), memoryStudies(),
	} {
		for _, s := range group {
			if match.MatchString(s.name) {
				out = append(out, s)
			}
		}
	}
	return out
}

// runStudies measures and prints all that match, each as a table, and returns a result for each peer of each gauge.
func runStudies(out io.Writer, e *environment, all []study, rounds int, length time.Duration) (results []result, err error) {
	if len(all) == 0 {
		return nil, nil
	}
	admin, err := openers["goredis"](context.Background(), e.url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = admin.Close() }()
	for _, s := range all {
		l := &lab{environment: e, admin: admin, prefix: fmt.Sprintf("bench:%x:%s:", time.Now().UnixNano(), s.name)}
		seen, err := measure(l, s, rounds, length)
		l.close()
		runtime.GC() // what one study leaves must not be collected in the time of the next
		if err != nil {
			fmt.Fprintf(out, "\n**%s** failed: %v\n", s.name, err)
			results = append(results, result{Name: s.name, Err: err.Error()})
			continue
		}
		results = append(results, table(out, s, seen)...)
	}
	return results, nil
}

// measured is a contender with the figures of its rounds, one list for each gauge.
type measured struct {
	contender
	figures [][]float64
}

// measure lets the contenders take turns, from another one on in each round.
func measure(l *lab, s study, rounds int, length time.Duration) ([]measured, error) {
	contenders, err := s.contend(l)
	if err != nil {
		return nil, err
	}
	if s.fixed > 0 {
		rounds = min(rounds, s.fixed)
	}
	seen := make([]measured, len(contenders))
	for i, c := range contenders {
		seen[i] = measured{c, make([][]float64, len(s.gauges))}
	}
	for r := range rounds {
		for i := range seen {
			m := &seen[(i+r)%len(seen)]
			x, err := m.turn(length)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m.name, err)
			}
			for g := range s.gauges {
				m.figures[g] = append(m.figures[g], s.gauges[g].of(&x))
			}
		}
	}
	return seen, nil
}

// paired compares two contenders in one gauge, round by round.
func paired(a, b []float64, f func(a, b float64) float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = f(a[i], b[i])
	}
	return out
}

func ratio(a, b float64) float64 { return a / b }
func minus(a, b float64) float64 { return a - b }

// table prints a study. The first contender of ours is the one that peers are compared with.
func table(out io.Writer, s study, seen []measured) (results []result) {
	var ours *measured
	for i := range seen {
		if seen[i].ours {
			ours = &seen[i]
			break
		}
	}
	fmt.Fprintf(out, "\n| %s |", s.name)
	for _, g := range s.gauges {
		fmt.Fprintf(out, " %s |", g.name)
	}
	fmt.Fprintf(out, " ours / it | asked of ours | met |\n|---|%s---|---|---|\n", strings.Repeat("---|", len(s.gauges)))
	for i := range seen {
		m := &seen[i]
		fmt.Fprintf(out, "| %s |", m.name)
		for g := range s.gauges {
			f := m.figures[g]
			if g == 0 {
				fmt.Fprintf(out, " %s (%s–%s) |", short(median(f)), short(slices.Min(f)), short(slices.Max(f)))
				continue
			}
			fmt.Fprintf(out, " %s |", short(median(f)))
		}
		compared := ""
		if ours != nil && ours != m && !m.ours {
			r := paired(ours.figures[0], m.figures[0], ratio)
			compared = fmt.Sprintf("**%s** (%s–%s)", short(median(r)), short(slices.Min(r)), short(slices.Max(r)))
		}
		var asked, met []string
		for _, b := range s.asked {
			if ours == nil || (b.peer == "" && m != ours) || (b.peer != "" && b.peer != m.name) {
				continue
			}
			seen, ok := b.judge(s, ours, m)
			asked, met = append(asked, b.text), append(met, verdict(ok)+seen)
		}
		fmt.Fprintf(out, " %s | %s | %s |\n", compared, strings.Join(asked, "; "), strings.Join(met, "; "))
		results = append(results, figures(s, ours, m)...)
	}
	return results
}

func verdict(ok bool) string {
	if ok {
		return "yes"
	}
	return "no"
}

// judge says whether ours keeps a bound; the figure is returned where no column has it.
func (b bound) judge(s study, ours, peer *measured) (seen string, ok bool) {
	g := slices.IndexFunc(s.gauges, func(g gauge) bool { return g.name == b.gauge })
	f := ours.figures[g]
	switch {
	case b.peer == "":
		return "", median(f) <= b.most
	case b.more:
		d := median(paired(f, peer.figures[g], minus))
		return fmt.Sprintf(" (%+.2f)", d), d <= b.most
	}
	r := median(paired(f, peer.figures[g], ratio))
	if g != 0 {
		seen = fmt.Sprintf(" (%s)", short(r))
	}
	return seen, r <= b.most
}

// figures are the same for programs.
func figures(s study, ours, m *measured) (out []result) {
	for g := range s.gauges {
		r := result{Name: s.name, Goroutines: 1, Peer: m.name, Unit: s.gauges[g].name, PeerFigure: median(m.figures[g])}
		if ours != nil {
			r.OursFigure = median(ours.figures[g])
			ratios := paired(ours.figures[g], m.figures[g], ratio)
			r.Ratio, r.Low, r.High = median(ratios), slices.Min(ratios), slices.Max(ratios)
			for _, b := range s.asked {
				if b.gauge == s.gauges[g].name && (b.peer == m.name || b.peer == "" && m == ours) {
					_, ok := b.judge(s, ours, m)
					r.Want, r.Met = b.text, verdict(ok)
				}
			}
		}
		for _, f := range []*float64{&r.PeerFigure, &r.OursFigure, &r.Ratio, &r.Low, &r.High} {
			if math.IsNaN(*f) || math.IsInf(*f, 0) { // JSON has neither
				*f = 0
			}
		}
		out = append(out, r)
	}
	return out
}

// short prints three digits, and more only before the point.
func short(f float64) string {
	switch a := math.Abs(f); {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return "–"
	case a >= 1e6:
		return fmt.Sprintf("%.2fM", f/1e6)
	case a >= 1e4:
		return fmt.Sprintf("%.1fk", f/1e3)
	case a >= 100 || f == math.Trunc(f):
		return fmt.Sprintf("%.0f", f)
	case a >= 10:
		return fmt.Sprintf("%.1f", f)
	case a < 0.1:
		return fmt.Sprintf("%.3f", f)
	}
	return fmt.Sprintf("%.2f", f)
}
