package main

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	gocache "github.com/go-redis/cache/v9"

	"github.com/go-redisx/redisx/core/driver"
)

// remoteStudies measure what goes to Redis, without a local tier: a hit, a miss with a loader that costs nothing, a delete,
// and the invalidation of everything with one tag.
func remoteStudies() (out []study) {
	for _, who := range []string{"goredis", "rueidis"} {
		for _, goroutines := range []int{1, 16} {
			s := study{
				name:   "cache/l2/hit/" + who + "/" + strconv.Itoa(goroutines),
				gauges: []gauge{usPerOp, clientUsPer, allocsPerOp, commandsPer},
				asked: []bound{
					{gauge: "commands/op", most: 1.05, text: "one command"},
					{gauge: "µs/op", peer: "driver GET + JSON", most: 1, more: true, text: "≤ +1 µs"},
				},
				contend: func(l *lab) ([]contender, error) { return l.hit(who, goroutines) },
			}
			out = append(out, s)
		}
	}
	return append(out,
		study{
			name: "cache/l2/miss", gauges: []gauge{usPerOp, clientUsPer, allocsPerOp, commandsPer, readsPer},
			asked:   []bound{{gauge: "server reads/op", most: 3.1, text: "2 round trips, and the fill, which no caller waits for"}},
			contend: (*lab).miss,
		},
		study{
			name: "cache/l2/delete", gauges: []gauge{usPerOp},
			asked:   []bound{{gauge: "µs/op", peer: "driver DEL", most: 1.2, text: "≤ 1.2 ×"}},
			contend: (*lab).delete,
		},
		study{
			name: "cache/l2/tag of " + strconv.Itoa(sizes.tagged), gauges: []gauge{usPerOp, sentPer}, fixed: 3,
			asked:   []bound{{gauge: sentPer.name, most: 2, text: "≤ 2 commands"}},
			contend: (*lab).tags,
		},
	)
}

func (l *lab) hit(who string, goroutines int) ([]contender, error) {
	ctx := context.Background()
	out, err := l.oursHit(who, goroutines)
	if err != nil {
		return nil, err
	}
	add := func(name string, run func(w, n int) error) {
		out = append(out, contender{name: name, turn: l.loop(goroutines, task{batch: 50, run: run})})
	}
	d, err := l.open(who)
	if err != nil {
		return nil, err
	}
	names := l.hotKeys("hit")
	if err := l.seed(names, func(i int) string { return encoded(newUser(int64(i))) }); err != nil {
		return nil, err
	}
	add("driver GET + JSON", func(w, n int) error {
		for i := range n {
			v, err := d.Do(ctx, driver.Cmd{Args: []string{"GET", names[(w*31+i)%hot]}, Keys: driver.Key(1), Mode: driver.ReadOnly}).Bytes()
			if err != nil {
				return err
			}
			if _, err := decoded(json.Unmarshal, v); err != nil {
				return err
			}
		}
		return nil
	})
	if who == "rueidis" {
		c, err := l.bareRueidis(nil)
		if err != nil {
			return nil, err
		}
		add("rueidis GET + JSON", func(w, n int) error {
			for i := range n {
				v, err := c.Do(ctx, c.B().Get().Key(names[(w*31+i)%hot]).Build()).AsBytes()
				if err != nil {
					return err
				}
				if _, err := decoded(json.Unmarshal, v); err != nil {
					return err
				}
			}
			return nil
		})
		return out, nil
	}
	g, err := l.goredisCache(false)
	if err != nil {
		return nil, err
	}
	names2 := l.hotKeys("hit-goredis-cache")
	for i, k := range names2 {
		if err := g.Set(&gocache.Item{Ctx: ctx, Key: k, Value: newUser(int64(i)), TTL: cacheTTL}); err != nil {
			return nil, err
		}
	}
	add("go-redis/cache", func(w, n int) error {
		for i := range n {
			var u user
			if err := g.Get(ctx, names2[(w*31+i)%hot], &u); err != nil {
				return err
			}
		}
		return nil
	})
	return out, nil
}

// serial hands out numbers, so that each miss is of a key of its own.
type serial struct{ n atomic.Int64 }

func (s *serial) next() int64 { return s.n.Add(1) }

func (l *lab) miss() ([]contender, error) {
	ctx := context.Background()
	out, err := l.oursMiss()
	if err != nil {
		return nil, err
	}
	add := func(name string, one func(key string, id int64) error) {
		var ids serial
		out = append(out, contender{name: name, turn: l.loop(1, task{batch: 50, run: func(_, n int) error {
			for range n {
				id := ids.next()
				if err := one(l.key("miss-"+name, int(id)), id); err != nil {
					return err
				}
			}
			return nil
		}})})
	}
	d, err := l.open("goredis")
	if err != nil {
		return nil, err
	}
	ttl := strconv.FormatInt(cacheTTL.Milliseconds(), 10)
	add("driver GET, SET", func(key string, id int64) error {
		if r := d.Do(ctx, driver.Cmd{Args: []string{"GET", key}, Keys: driver.Key(1), Mode: driver.ReadOnly}); r.Err() != nil || !r.IsNil() {
			return errors.Join(errors.New("a miss was expected"), r.Err())
		}
		return d.Do(ctx, driver.Cmd{Args: []string{"SET", key, encoded(newUser(id)), "PX", ttl}, Keys: driver.Key(1)}).Err()
	})
	g, err := l.goredisCache(false)
	if err != nil {
		return nil, err
	}
	add("go-redis/cache Once", func(key string, id int64) error {
		var u user
		return g.Once(&gocache.Item{Ctx: ctx, Key: key, Value: &u, TTL: cacheTTL, Do: func(*gocache.Item) (any, error) { return newUser(id), nil }})
	})
	wr, err := l.wrapper()
	if err != nil {
		return nil, err
	}
	add("ristretto + msgpack", func(key string, id int64) error {
		_, err := wr.get(ctx, key, func(context.Context) (*user, error) { return newUser(id), nil })
		return err
	})
	a, err := l.aside()
	if err != nil {
		return nil, err
	}
	add("rueidis, placeholder in the key", func(key string, id int64) error {
		_, err := a.get(ctx, key, func(context.Context) (string, error) { return encoded(newUser(id)), nil })
		return err
	})
	return out, nil
}

func (l *lab) delete() ([]contender, error) {
	ctx := context.Background()
	out, err := l.oursDelete()
	if err != nil {
		return nil, err
	}
	names := l.hotKeys("delete")[:100]
	ready := func(int, int) error { return l.seed(names, func(i int) string { return encoded(newUser(int64(i))) }) }
	d, err := l.open("goredis")
	if err != nil {
		return nil, err
	}
	out = append(out, contender{name: "driver DEL", turn: l.loop(1, task{batch: len(names), ready: ready, run: func(_, n int) error {
		for i := range n {
			if gone, err := d.Do(ctx, driver.Cmd{Args: []string{"DEL", names[i]}, Keys: driver.Key(1)}).Int64(); err != nil || gone != 1 {
				return errors.Join(errors.New("a key was expected"), err)
			}
		}
		return nil
	}})})
	g, err := l.goredisCache(false)
	if err != nil {
		return nil, err
	}
	out = append(out, contender{name: "go-redis/cache", turn: l.loop(1, task{batch: len(names), ready: ready, run: func(_, n int) error {
		for i := range n {
			if err := g.Delete(ctx, names[i]); err != nil {
				return err
			}
		}
		return nil
	}})})
	return out, nil
}

// tags compares with the index that is usual: a set with the keys of each tag.
func (l *lab) tags() ([]contender, error) {
	out, err := l.oursTags()
	if err != nil {
		return nil, err
	}
	c, err := l.bareGoredis()
	if err != nil {
		return nil, err
	}
	names := make([]string, sizes.tagged)
	for i := range names {
		names[i] = l.key("tagged", i)
	}
	set := l.prefix + "tag"
	ctx := context.Background()
	return append(out, contender{name: "set of keys, deleted by 1000", turn: func(time.Duration) (sample, error) {
		err := l.seed(names, func(int) string { return value })
		for start := 0; err == nil && start < len(names); start += 1000 {
			err = c.SAdd(ctx, set, anys(names[start:min(start+1000, len(names))])...).Err()
		}
		if err != nil {
			return sample{}, err
		}
		return l.observe(func() (sample, error) {
			begin := time.Now()
			sent := 2.0
			members, err := c.SMembers(ctx, set).Result()
			for start := 0; err == nil && start < len(members); start += 1000 {
				err = c.Del(ctx, members[start:min(start+1000, len(members))]...).Err()
				sent++
			}
			if err == nil {
				err = c.Del(ctx, set).Err()
			}
			if err == nil && len(members) != len(names) {
				err = errors.New("the set is not whole")
			}
			return sample{ops: 1, sent: sent, wall: time.Since(begin)}, err
		})
	}}), nil
}

func anys(in []string) []any {
	out := make([]any, len(in))
	for i, s := range in {
		out[i] = s
	}
	return out
}
