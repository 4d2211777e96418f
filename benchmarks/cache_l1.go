package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	gocache "github.com/go-redis/cache/v9"
	"github.com/vmihailenco/msgpack/v5"
)

// localStudies measure a hit in the process that returns a struct. Keys exist before, as they do in a program that has them
// from a request: what a library makes of a key is its own.
func localStudies() (out []study) {
	for _, goroutines := range []int{1, 16} {
		s := study{
			name: fmt.Sprintf("cache/l1/%d", goroutines), gauges: []gauge{nsPerOp, allocsPerOp},
			contend: func(l *lab) ([]contender, error) { return l.local(goroutines) },
		}
		if goroutines == 1 {
			s.asked = []bound{
				{gauge: "ns/op", most: 40, text: "≤ 40 ns (60 with statistics)"},
				{gauge: "allocs/op", most: 0.01, text: "0 allocations"},
				{gauge: "ns/op", peer: "otter with TTL", most: 1.2, text: "≤ 1.2 ×"},
				{gauge: "ns/op", peer: "go-redis/cache", most: 1.0 / 15, text: "≤ 1/15"},
			}
		}
		out = append(out, s)
	}
	return out
}

var errLoaded = errors.New("a hit was expected, the loader was called")

func (l *lab) local(goroutines int) ([]contender, error) {
	ctx := context.Background()
	out, err := l.oursLocal(goroutines)
	if err != nil {
		return nil, err
	}
	add := func(name string, run func(w, n int) error) {
		out = append(out, contender{name: name, turn: l.loop(goroutines, task{batch: 2000, run: run})})
	}
	for _, ttl := range []bool{false, true} {
		c := otters[int64, *user](10*hot, ttl)
		l.onClose(func() { c.StopAllGoroutines() })
		for i := range int64(hot) {
			c.Set(i, newUser(i))
		}
		add(map[bool]string{false: "otter", true: "otter with TTL"}[ttl], func(w, n int) error {
			for i := range n {
				if u, ok := c.GetIfPresent(int64((w*31 + i) % hot)); !ok || u == nil {
					return errLoaded
				}
			}
			return nil
		})
	}
	names := l.hotKeys("l1")
	s := sturdy[*user](10 * hot)
	load := func(context.Context) (*user, error) { return nil, errLoaded }
	for i, k := range names {
		s.Set(k, newUser(int64(i)))
	}
	add("sturdyc GetOrFetch", func(w, n int) error {
		for i := range n {
			if _, err := s.GetOrFetch(ctx, names[(w*31+i)%hot], load); err != nil {
				return err
			}
		}
		return nil
	})
	wr, err := l.wrapper()
	if err != nil {
		return nil, err
	}
	for i, k := range names {
		data, err := msgpack.Marshal(newUser(int64(i)))
		if err != nil {
			return nil, err
		}
		for try := 0; !wr.local.SetWithTTL(k, data, int64(len(data)), cacheTTL); try++ { // it drops what comes too fast
			if try == 100 {
				return nil, errors.New("ristretto takes no more")
			}
			wr.local.Wait()
		}
	}
	wr.local.Wait()
	add("ristretto + msgpack", func(w, n int) error {
		for i := range n {
			if u, err := wr.get(ctx, names[(w*31+i)%hot], load); err != nil || u.ID != int64((w*31+i)%hot) {
				return errors.Join(errLoaded, err)
			}
		}
		return nil
	})
	g, err := l.goredisCache(true)
	if err != nil {
		return nil, err
	}
	for i, k := range names {
		if err := g.Set(&gocache.Item{Ctx: ctx, Key: k, Value: newUser(int64(i)), TTL: cacheTTL}); err != nil {
			return nil, err
		}
	}
	add("go-redis/cache", func(w, n int) error {
		for i := range n {
			var u user
			if err := g.Get(ctx, names[(w*31+i)%hot], &u); err != nil {
				return err
			}
		}
		return nil
	})
	return l.localTracked(out, goroutines)
}

// localTracked adds DoCache of rueidis, which keeps replies.
func (l *lab) localTracked(out []contender, goroutines int) ([]contender, error) {
	ctx := context.Background()
	names := l.hotKeys("l1-tracked")
	if err := l.seed(names, func(i int) string { return encoded(newUser(int64(i))) }); err != nil {
		return nil, err
	}
	c, err := l.bareRueidis(nil)
	if err != nil {
		return nil, err
	}
	return append(out, contender{name: "rueidis DoCache + JSON", turn: l.loop(goroutines, task{batch: 1000, run: func(w, n int) error {
		for i := range n {
			v, err := c.DoCache(ctx, c.B().Get().Key(names[(w*31+i)%hot]).Cache(), cacheTTL).AsBytes()
			if err != nil {
				return err
			}
			if _, err := decoded(json.Unmarshal, v); err != nil {
				return err
			}
		}
		return nil
	}})}), nil
}
