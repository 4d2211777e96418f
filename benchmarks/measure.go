package main

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

// side is one of the two things compared.
type side struct {
	name string
	// op does one operation; worker tells goroutines apart.
	op func(ctx context.Context, worker int) error
}

// comparison is one row of the report.
type comparison struct {
	name       string
	goroutines int
	peer, ours side
	// perOp is how many commands one op stands for.
	perOp int
	// latency compares the 99th percentile instead of throughput.
	latency bool
	// want is the ratio asked for: at least that much throughput, or at most that much latency. 0 is no demand.
	want float64
	// ctx makes the context of each goroutine; nil is context.Background.
	ctx func() (context.Context, context.CancelFunc)
}

// round is what one turn of one side gave.
type round struct {
	ops    int
	took   time.Duration
	allocs float64 // per op, of the whole process
	p99    time.Duration
	err    error
}

func (r round) perSecond() float64 { return float64(r.ops) / r.took.Seconds() }

// turn runs a side for a while.
func turn(c *comparison, s side, d time.Duration) round {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		out   round
		all   []time.Duration
		stop  = make(chan struct{})
		begin = make(chan struct{})
	)
	for w := range c.goroutines {
		wg.Go(func() {
			ctx, cancel := context.Background(), context.CancelFunc(func() {})
			if c.ctx != nil {
				ctx, cancel = c.ctx()
			}
			defer cancel()
			var times []time.Duration
			n := 0
			var failed error
			<-begin
			for running := true; running; {
				select {
				case <-stop:
					running = false
					continue
				default:
				}
				var start time.Time
				if c.latency {
					start = time.Now()
				}
				if err := s.op(ctx, w); err != nil {
					failed = err
					break
				}
				if c.latency {
					times = append(times, time.Since(start))
				}
				n++
			}
			mu.Lock()
			defer mu.Unlock()
			out.ops += n
			all = append(all, times...)
			if failed != nil {
				out.err = failed
			}
		})
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	close(begin)
	time.Sleep(d)
	close(stop)
	wg.Wait()
	out.took = time.Since(start)
	runtime.ReadMemStats(&after)
	if out.ops > 0 {
		out.allocs = float64(after.Mallocs-before.Mallocs) / float64(out.ops)
	}
	if len(all) > 0 {
		slices.Sort(all)
		out.p99 = all[len(all)*99/100]
	}
	return out
}

// result is a comparison with its figures.
type result struct {
	Name       string  `json:"name"`
	Goroutines int     `json:"goroutines"`
	Peer       string  `json:"peer"`
	PeerFigure float64 `json:"peer_figure"` // commands per second, or µs at the 99th percentile
	OursFigure float64 `json:"ours_figure"`
	Unit       string  `json:"unit"`
	PeerAllocs float64 `json:"peer_allocs"`
	OursAllocs float64 `json:"ours_allocs"`
	Ratio      float64 `json:"ratio"` // ours / peer, median of the rounds
	Low        float64 `json:"ratio_min"`
	High       float64 `json:"ratio_max"`
	Want       string  `json:"want"`
	Met        string  `json:"met"`
	Err        string  `json:"error,omitempty"`
}

// compare lets the sides take turns. The order changes from round to round, so that neither always runs on a warmer server.
func compare(c *comparison, rounds int, d time.Duration) result {
	res := result{Name: c.name, Goroutines: c.goroutines, Peer: c.peer.name, Unit: "cmd/s"}
	turn(c, c.peer, d/4)
	turn(c, c.ours, d/4)
	var ratios, peer, ours, peerAllocs, oursAllocs []float64
	for i := range rounds {
		var p, o round
		if i%2 == 0 {
			p, o = turn(c, c.peer, d), turn(c, c.ours, d)
		} else {
			o, p = turn(c, c.ours, d), turn(c, c.peer, d)
		}
		for _, err := range []error{p.err, o.err} {
			if err != nil {
				res.Err = err.Error()
			}
		}
		if p.ops == 0 || o.ops == 0 {
			res.Err = "no operation finished"
			return res
		}
		a, b := p.perSecond()*float64(c.perOp), o.perSecond()*float64(c.perOp)
		if c.latency {
			a, b = float64(p.p99.Nanoseconds())/1e3, float64(o.p99.Nanoseconds())/1e3
		}
		peer, ours, ratios = append(peer, a), append(ours, b), append(ratios, b/a)
		peerAllocs, oursAllocs = append(peerAllocs, p.allocs), append(oursAllocs, o.allocs)
	}
	res.PeerFigure, res.OursFigure, res.Ratio = median(peer), median(ours), median(ratios)
	res.Low, res.High = slices.Min(ratios), slices.Max(ratios)
	res.PeerAllocs, res.OursAllocs = median(peerAllocs), median(oursAllocs)
	switch {
	case c.latency:
		res.Unit = "µs p99"
		res.judge(c.want, res.Ratio <= c.want, "≤")
	default:
		res.judge(c.want, res.Ratio >= c.want, "≥")
	}
	return res
}

func (r *result) judge(want float64, met bool, sign string) {
	if want == 0 {
		return
	}
	r.Want = sign + " " + trim(want)
	r.Met = "no"
	if met {
		r.Met = "yes"
	}
}

func median(v []float64) float64 {
	s := slices.Clone(v)
	slices.Sort(s)
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
