package main

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	gocache "github.com/go-redis/cache/v9"
	"github.com/redis/go-redis/v9"
)

// getter is one instance of a cache: it returns the value of key, by load if there is none.
type getter func(ctx context.Context, key string, id int64, load func(context.Context) (*user, error)) (*user, error)

var (
	loadsMost  = gauge{"loads, most", func(s *sample) float64 { return s.loads }}
	beyondP50  = gauge{"p50 beyond the load, ms", func(s *sample) float64 { return s.quantile(50) / 1e3 }}
	beyondP99  = gauge{"p99 beyond the load, ms", func(s *sample) float64 { return s.quantile(99) / 1e3 }}
	commandsOf = gauge{"commands", func(s *sample) float64 { return s.server.commands / s.ops }}
	sentOf     = gauge{"of them sent", sentPer.of} // the others are those that scripts call
)

// stampedeStudies ask for one cold key from many goroutines of several instances at the same time.
func stampedeStudies() []study {
	return []study{{
		name: "cache/stampede", gauges: []gauge{beyondP99, beyondP50, loadsMost, commandsOf, sentOf},
		asked: []bound{
			{gauge: loadsMost.name, most: 1, text: "1 load"},
			{gauge: beyondP99.name, most: 2, text: "p99 ≤ load + 2 ms"},
			{gauge: commandsOf.name, most: 30, text: "≤ 30 commands"},
		},
		contend: (*lab).stampede,
	}}
}

func (l *lab) stampede() ([]contender, error) {
	out, err := l.oursStampede()
	if err != nil {
		return nil, err
	}
	add := func(name string, open func() (getter, error)) error {
		var nodes []getter
		for range sizes.nodes {
			g, err := open()
			if err != nil {
				return err
			}
			nodes = append(nodes, g)
		}
		out = append(out, contender{name: name, turn: l.stampedeTurn(name, nodes, nil)})
		return nil
	}
	return out, errors.Join(
		add("rueidis, placeholder in the key", l.asideGetter),
		add("go-redis/cache Once", l.goredisCacheGetter),
		add("sturdyc, no Redis", func() (getter, error) {
			c := sturdy[*user](10 * hot)
			return func(ctx context.Context, key string, _ int64, load func(context.Context) (*user, error)) (*user, error) {
				return c.GetOrFetch(ctx, key, load)
			}, nil
		}),
		add("GET, load, SET", l.naiveGetter),
	)
}

func (l *lab) asideGetter() (getter, error) {
	a, err := l.aside()
	return func(ctx context.Context, key string, _ int64, load func(context.Context) (*user, error)) (*user, error) {
		v, err := a.get(ctx, key, func(ctx context.Context) (string, error) {
			u, err := load(ctx)
			return encoded(u), err
		})
		if err != nil {
			return nil, err
		}
		return decoded(json.Unmarshal, []byte(v))
	}, err
}

func (l *lab) goredisCacheGetter() (getter, error) {
	g, err := l.goredisCache(true)
	return func(ctx context.Context, key string, _ int64, load func(context.Context) (*user, error)) (*user, error) {
		u := new(user)
		return u, g.Once(&gocache.Item{Ctx: ctx, Key: key, Value: u, TTL: cacheTTL, Do: func(*gocache.Item) (any, error) { return load(ctx) }})
	}, err
}

func (l *lab) naiveGetter() (getter, error) {
	c, err := l.bareGoredis()
	return func(ctx context.Context, key string, _ int64, load func(context.Context) (*user, error)) (*user, error) {
		data, err := c.Get(ctx, key).Bytes()
		if err == nil {
			return decoded(json.Unmarshal, data)
		}
		if !errors.Is(err, redis.Nil) {
			return nil, err
		}
		u, err := load(ctx)
		if err != nil {
			return nil, err
		}
		return u, c.Set(ctx, key, encoded(u), cacheTTL).Err()
	}, err
}

// stampedeTurn makes stampedes, each on a key of its own, until the time is over. What is kept of each call is how much
// longer it took than the first load did. sent counts what they send; nil is not known.
func (l *lab) stampedeTurn(name string, nodes []getter, sent *atomic.Int64) func(time.Duration) (sample, error) {
	var ids serial
	one := func() (sample, error) {
		id := ids.next()
		return oneStampede(nodes, l.key("stampede-"+name, int(id)), id)
	}
	return l.warmed(one, func(d time.Duration) (sample, error) {
		return l.observe(func() (s sample, err error) {
			begin := time.Now()
			s.sent = math.NaN()
			if sent != nil {
				sent.Store(0)
			}
			for s.ops == 0 || time.Since(begin) < max(d, sizes.leastEvents) {
				one, err := one()
				if err != nil {
					return s, err
				}
				s.ops++
				s.loads = max(s.loads, one.loads)
				s.times = append(s.times, one.times...)
			}
			s.wall = time.Since(begin)
			if sent != nil {
				s.sent = float64(sent.Load())
			}
			return s, nil
		})
	})
}

func oneStampede(nodes []getter, key string, id int64) (s sample, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var mu sync.Mutex
	var first time.Duration
	load := func(ctx context.Context) (*user, error) {
		start := time.Now()
		timer := time.NewTimer(sizes.load)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		mu.Lock()
		defer mu.Unlock()
		s.loads++
		if first == 0 {
			first = time.Since(start)
		}
		return newUser(id), nil
	}
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for _, get := range nodes {
		for range sizes.callers {
			wg.Go(func() {
				<-begin
				start := time.Now()
				u, e := get(ctx, key, id, load)
				took := time.Since(start)
				if e == nil && u.ID != id {
					e = errors.New("somebody else's value")
				}
				mu.Lock()
				defer mu.Unlock()
				s.times = append(s.times, took)
				err = errors.Join(err, e)
			})
		}
	}
	close(begin)
	wg.Wait()
	for i := range s.times {
		s.times[i] -= first
	}
	return s, err
}
