package main

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/redis/rueidis"

	"github.com/go-redisx/redisx/core/driver"
)

const batchSize = 100

// batchStudies ask for 100 values at once, all of them in the process or all of them in Redis.
func batchStudies() []study {
	return []study{
		{
			name: "cache/batch/l1", gauges: []gauge{usPerOp, allocsPerOp},
			asked: []bound{
				{gauge: "µs/op", most: 10, text: "≤ 10 µs"},
				{gauge: "allocs/op", most: 4.01, text: "≤ 4 allocations"},
			},
			contend: (*lab).batchLocal,
		},
		{
			name: "cache/batch/l2/JSON", gauges: []gauge{usPerOp, clientUsPer, allocsPerOp, commandsPer},
			asked:   []bound{{gauge: "µs/op", peer: "driver MGET + JSON", most: 1.3, text: "≤ 1.3 ×"}},
			contend: func(l *lab) ([]contender, error) { return l.batchRemote(true) },
		},
		{
			name: "cache/batch/l2/Raw", gauges: []gauge{usPerOp, clientUsPer, allocsPerOp, commandsPer},
			asked:   []bound{{gauge: "µs/op", peer: "driver MGET", most: 1.3, text: "≤ 1.3 ×"}},
			contend: func(l *lab) ([]contender, error) { return l.batchRemote(false) },
		},
	}
}

var errBatch = errors.New("a batch is not whole")

func (l *lab) batchLocal() ([]contender, error) {
	ctx := context.Background()
	out, err := l.oursBatchLocal()
	if err != nil {
		return nil, err
	}
	add := func(name string, one func() (int, error)) {
		out = append(out, contender{name: name, turn: l.loop(1, task{batch: 50, run: repeat(one)})})
	}
	c := otters[int64, *user](10*hot, true)
	l.onClose(func() { c.StopAllGoroutines() })
	ids := make([]int64, batchSize)
	for i := range ids {
		ids[i] = int64(i)
		c.Set(ids[i], newUser(ids[i]))
	}
	add("otter with TTL, in a loop", func() (int, error) {
		m := make(map[int64]*user, len(ids))
		for _, id := range ids {
			if u, ok := c.GetIfPresent(id); ok {
				m[id] = u
			}
		}
		return len(m), nil
	})
	s := sturdy[*user](10 * hot)
	names := l.hotKeys("batch")[:batchSize]
	for i, k := range names {
		s.Set(k, newUser(int64(i)))
	}
	add("sturdyc GetOrFetchBatch", func() (int, error) {
		m, err := s.GetOrFetchBatch(ctx, names, func(id string) string { return id },
			func(context.Context, []string) (map[string]*user, error) { return nil, errLoaded })
		return len(m), err
	})
	r, err := l.bareRueidis(nil)
	if err != nil {
		return nil, err
	}
	if err := l.seed(names, func(i int) string { return encoded(newUser(int64(i))) }); err != nil {
		return nil, err
	}
	add("rueidis MGetCache + JSON", func() (int, error) {
		replies, err := rueidis.MGetCache(r, ctx, cacheTTL, names)
		if err != nil {
			return 0, err
		}
		m := make(map[string]*user, len(replies))
		for k, v := range replies {
			data, err := v.AsBytes()
			if err != nil {
				return 0, err
			}
			if m[k], err = decoded(json.Unmarshal, data); err != nil {
				return 0, err
			}
		}
		return len(m), nil
	})
	return out, nil
}

// repeat is a task of batches that have to be whole.
func repeat(one func() (int, error)) func(int, int) error {
	return func(_, n int) error {
		for range n {
			if got, err := one(); err != nil || got != batchSize {
				return errors.Join(errBatch, err)
			}
		}
		return nil
	}
}

func (l *lab) batchRemote(asJSON bool) ([]contender, error) {
	ctx := context.Background()
	out, err := l.oursBatchRemote(asJSON)
	if err != nil {
		return nil, err
	}
	names := l.hotKeys("batch")[:batchSize]
	if err := l.seed(names, func(i int) string { return encoded(newUser(int64(i))) }); err != nil {
		return nil, err
	}
	d, err := l.open("rueidis")
	if err != nil {
		return nil, err
	}
	mget := append([]string{"MGET"}, names...)
	cmd := driver.Cmd{Args: mget, Keys: driver.KeyRange(1, len(names)), Mode: driver.ReadOnly}
	raw := func() (int, error) {
		replies, err := d.Do(ctx, cmd).List()
		if err != nil {
			return 0, err
		}
		m := make(map[string]string, len(replies))
		for i, r := range replies {
			if m[names[i]], err = r.Text(); err != nil {
				return 0, err
			}
		}
		return len(m), nil
	}
	typed := func() (int, error) {
		replies, err := d.Do(ctx, cmd).List()
		if err != nil {
			return 0, err
		}
		m := make(map[string]*user, len(replies))
		for i, r := range replies {
			data, err := r.Bytes()
			if err != nil {
				return 0, err
			}
			if m[names[i]], err = decoded(json.Unmarshal, data); err != nil {
				return 0, err
			}
		}
		return len(m), nil
	}
	name, one := "driver MGET", raw
	if asJSON {
		name, one = "driver MGET + JSON", typed
	}
	return append(out, contender{name: name, turn: l.loop(1, task{batch: 20, run: repeat(one)})}), nil
}
