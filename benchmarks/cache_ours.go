package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/cache"
	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/rueidisdriver"
)

// What package cache brings to each study.

// spaces tell the caches of this and of other runs apart.
var (
	spaces serial
	thisIs = strconv.FormatInt(time.Now().UnixNano(), 36)
)

func space() string { return "bench-" + thisIs + "-" + strconv.FormatInt(spaces.next(), 10) + ":" }

// counting counts what is sent. It keeps the optional abilities of the driver within.
type counting struct {
	*rueidisdriver.Driver
	n *atomic.Int64
}

func (c *counting) Do(ctx context.Context, cmd driver.Cmd) driver.Reply {
	c.n.Add(1)
	return c.Driver.Do(ctx, cmd)
}

func (c *counting) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	c.n.Add(int64(len(cmds)))
	return c.Driver.DoMulti(ctx, cmds)
}

// instance is the cache of one process, over a driver and a client of its own. Those with the same space share their values.
func instance[V any](l *lab, d driver.Driver, space string, opts ...cache.Option) (*cache.Cache[int64, V], error) {
	client, err := core.New(d, core.WithKeyPrefix(space))
	if err != nil {
		return nil, err
	}
	l.onClose(func() { _ = client.Close() })
	opts = append([]cache.Option{cache.WithTTL(time.Hour), cache.WithLocal(10*hot, time.Hour)}, opts...)
	c, err := cache.New[int64, V](client, "users", opts...)
	if err != nil {
		return nil, err
	}
	l.onClose(func() { _ = c.Close() })
	return c, nil
}

// instances are n of them that share their values.
func instances[V any](l *lab, who string, n int, opts ...cache.Option) (out []*cache.Cache[int64, V], err error) {
	return counted[V](l, who, n, nil, opts...)
}

// counted are instances that add what they send to sent, if they are over rueidis and it is not nil.
func counted[V any](l *lab, who string, n int, sent *atomic.Int64, opts ...cache.Option) (out []*cache.Cache[int64, V], err error) {
	prefix := space()
	for range n {
		d, err := l.open(who)
		if err != nil {
			return nil, err
		}
		if r, ok := d.(*rueidisdriver.Driver); ok && sent != nil {
			d = &counting{r, sent}
		}
		c, err := instance[V](l, d, prefix, opts...)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	for i, c := range out {
		if err := trusted(c, -int64(i)-1); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// trusted waits until the local tier is used, which is when the subscription stands. Without one there is nothing to wait for.
func trusted[V any](c *cache.Cache[int64, V], id int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	load := func(context.Context, int64) (v V, err error) { return v, nil }
	for {
		if _, err := c.GetOrLoad(ctx, id, load); err != nil {
			return err
		}
		if _, ok := c.Peek(id); ok {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
}

func loadUser(_ context.Context, id int64) (*user, error) { return newUser(id), nil }

func one(l *lab, who string, opts ...cache.Option) (*cache.Cache[int64, *user], error) {
	d, err := l.open(who)
	if err != nil {
		return nil, err
	}
	return instance[*user](l, d, space(), opts...)
}

// oursLocal are hits of entries with two tags, whose versions each hit compares.
func (l *lab) oursLocal(goroutines int) ([]contender, error) {
	ctx := context.Background()
	all, err := instances[*user](l, "goredis", 1)
	if err != nil {
		return nil, err
	}
	c := all[0]
	for i := range int64(hot) {
		err := held(c, i, func() error {
			_, err := c.GetOrLoadWith(ctx, i, func(_ context.Context, l *cache.Load[int64, *user]) (*user, error) {
				l.Tag("team:7", "plan:"+strconv.FormatInt(i%8, 10))
				return newUser(i), nil
			})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	miss := func(context.Context, int64) (*user, error) { return nil, errLoaded }
	var out []contender
	add := func(name string, run func(w, n int) error) {
		out = append(out, contender{name: name, ours: true, turn: l.loop(goroutines, task{batch: 2000, run: run})})
	}
	add("cache Get, 2 tags", func(w, n int) error {
		for i := range n {
			if u, ok, err := c.Get(ctx, int64((w*31+i)%hot)); err != nil || !ok || u == nil {
				return errors.Join(errLoaded, err)
			}
		}
		return nil
	})
	add("cache GetOrLoad, 2 tags", func(w, n int) error {
		for i := range n {
			if u, err := c.GetOrLoad(ctx, int64((w*31+i)%hot), miss); err != nil || u == nil {
				return errors.Join(errLoaded, err)
			}
		}
		return nil
	})
	add("cache Peek, 2 tags", func(w, n int) error {
		for i := range n {
			if u, ok := c.Peek(int64((w*31 + i) % hot)); !ok || u == nil {
				return errLoaded
			}
		}
		return nil
	})
	return out, nil
}

// held repeats fetch until the local tier has the key and keeps it: the server's word on an earlier write may still be
// on its way.
func held[V any](c *cache.Cache[int64, V], id int64, fetch func() error) error {
	for deadline := time.Now().Add(10 * time.Second); ; {
		if err := fetch(); err != nil {
			return err
		}
		if _, ok := c.Peek(id); ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the local tier does not keep key %d: %+v", id, c.Stats())
		}
		runtime.Gosched()
	}
}

func (l *lab) oursHit(who string, goroutines int) ([]contender, error) {
	ctx := context.Background()
	c, err := one(l, who, cache.WithoutLocal())
	if err != nil {
		return nil, err
	}
	for i := range int64(hot) {
		if err := c.Set(ctx, i, newUser(i)); err != nil {
			return nil, err
		}
	}
	return []contender{{name: "cache, remote tier", ours: true, turn: l.loop(goroutines, task{batch: 50, run: func(w, n int) error {
		for i := range n {
			if u, ok, err := c.Get(ctx, int64((w*31+i)%hot)); err != nil || !ok || u == nil {
				return errors.Join(errLoaded, err)
			}
		}
		return nil
	}})}}, nil
}

func (l *lab) oursMiss() ([]contender, error) {
	ctx := context.Background()
	var out []contender
	for _, local := range []bool{false, true} {
		name, opts := "cache, remote tier", []cache.Option{cache.WithoutLocal()}
		if local {
			name, opts = "cache, both tiers", nil
		}
		c, err := one(l, "goredis", opts...)
		if err != nil {
			return nil, err
		}
		var ids serial
		out = append(out, contender{name: name, ours: true, turn: l.loop(1, task{batch: 50, run: func(_, n int) error {
			for range n {
				if _, err := c.GetOrLoad(ctx, ids.next(), loadUser); err != nil {
					return err
				}
			}
			return nil
		}})})
	}
	return out, nil
}

func (l *lab) oursDelete() ([]contender, error) {
	ctx := context.Background()
	var out []contender
	for _, how := range []cache.Coherence{cache.Tracking, cache.PubSub} {
		all, err := instances[*user](l, "goredis", 1, cache.WithCoherence(how))
		if err != nil {
			return nil, err
		}
		c := all[0]
		const n = 100
		out = append(out, contender{name: "cache, " + how.String(), ours: true, turn: l.loop(1, task{batch: n,
			ready: func(int, int) error {
				for i := range int64(n) {
					if err := c.Set(ctx, i, newUser(i)); err != nil {
						return err
					}
				}
				return nil
			},
			run: func(int, int) error {
				for i := range int64(n) {
					if err := c.Delete(ctx, i); err != nil {
						return err
					}
				}
				return nil
			},
		})})
	}
	return out, nil
}

func (l *lab) oursTags() ([]contender, error) {
	ctx := context.Background()
	d, err := l.open("rueidis")
	if err != nil {
		return nil, err
	}
	count := &counting{d.(*rueidisdriver.Driver), new(atomic.Int64)}
	c, err := instance[string](l, count, space(), cache.WithLocal(2*sizes.tagged, time.Hour))
	if err != nil {
		return nil, err
	}
	return []contender{{name: "cache", ours: true, turn: func(time.Duration) (sample, error) {
		for start := 0; start < sizes.tagged; start += 1000 {
			part := map[int64]string{}
			for i := start; i < min(start+1000, sizes.tagged); i++ {
				part[int64(i)] = value
			}
			if err := c.SetMany(ctx, part, cache.Tags("team:7")); err != nil {
				return sample{}, err
			}
		}
		if _, ok, err := c.Get(ctx, 17); err != nil || !ok {
			return sample{}, errors.Join(errors.New("a value with a tag was expected"), err)
		}
		s, err := l.observe(func() (sample, error) {
			before, begin := count.n.Load(), time.Now()
			err := c.InvalidateTags(ctx, "team:7")
			return sample{ops: 1, wall: time.Since(begin), sent: float64(count.n.Load() - before)}, err
		})
		for i := 0; err == nil && i < sizes.tagged; i += max(sizes.tagged/100, 1) {
			var ok bool
			if _, ok, err = c.Get(ctx, int64(i)); ok {
				err = errors.New("a value was there after its tag had been invalidated")
			}
		}
		return s, err
	}}}, nil
}

// fleetOf are instances as the other studies want them.
func fleetOf(all []*cache.Cache[int64, *user]) (out []getter) {
	for _, c := range all {
		out = append(out, func(ctx context.Context, _ string, id int64, load func(context.Context) (*user, error)) (*user, error) {
			return c.GetOrLoad(ctx, id, func(ctx context.Context, _ int64) (*user, error) { return load(ctx) })
		})
	}
	return out
}

func (l *lab) oursStampede() ([]contender, error) {
	var out []contender
	for _, how := range []cache.Coherence{cache.Tracking, cache.PubSub} {
		var sent atomic.Int64
		all, err := counted[*user](l, "rueidis", sizes.nodes, &sent, cache.WithCoherence(how))
		if err != nil {
			return nil, err
		}
		name := "cache, " + how.String()
		out = append(out, contender{name: name, ours: true, turn: l.stampedeTurn(name, fleetOf(all), &sent)})
	}
	return out, nil
}

func (l *lab) oursBatchLocal() ([]contender, error) {
	ctx := context.Background()
	all, err := instances[*user](l, "goredis", 1)
	if err != nil {
		return nil, err
	}
	c := all[0]
	ids := make([]int64, batchSize)
	for i := range ids {
		ids[i] = int64(i)
		err := held(c, ids[i], func() error {
			_, err := c.GetOrLoad(ctx, ids[i], loadUser)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return []contender{{name: "cache GetMany", ours: true, turn: l.loop(1, task{batch: 50, run: repeat(func() (int, error) {
		m, err := c.GetMany(ctx, ids)
		return len(m), err
	})})}}, nil
}

func (l *lab) oursBatchRemote(asJSON bool) ([]contender, error) {
	if asJSON {
		return batchOf(l, newUser)
	}
	return batchOf(l, func(id int64) string { return encoded(newUser(id)) }, cache.WithCodec(cache.Raw))
}

func batchOf[V any](l *lab, v func(int64) V, opts ...cache.Option) ([]contender, error) {
	ctx := context.Background()
	d, err := l.open("rueidis")
	if err != nil {
		return nil, err
	}
	c, err := instance[V](l, d, space(), append(opts, cache.WithoutLocal())...)
	if err != nil {
		return nil, err
	}
	ids := make([]int64, batchSize)
	for i := range ids {
		ids[i] = int64(i)
		if err := c.Set(ctx, ids[i], v(ids[i])); err != nil {
			return nil, err
		}
	}
	return []contender{{name: "cache GetMany", ours: true, turn: l.loop(1, task{batch: 20, run: repeat(func() (int, error) {
		m, err := c.GetMany(ctx, ids)
		return len(m), err
	})})}}, nil
}

func (l *lab) oursInvalidation() ([]contender, error) {
	var out []contender
	for _, how := range []cache.Coherence{cache.Tracking, cache.PubSub} {
		prefix := space()
		writer, _, err := watchedInstance(l, prefix, how)
		if err != nil {
			return nil, err
		}
		reader, told, err := watchedInstance(l, prefix, how)
		if err != nil {
			return nil, err
		}
		out = append(out, contender{name: "cache, " + how.String(), ours: true, turn: l.invalidationTurn(coherent{
			warm: func(ctx context.Context, i int64) error {
				if err := writer.Set(ctx, i, newUser(i)); err != nil {
					return err
				}
				return held(reader, i, func() error {
					_, _, err := reader.Get(ctx, i)
					return err
				})
			},
			kept:  func(i int64) bool { _, ok := reader.Peek(i); return ok },
			write: func(ctx context.Context, i int64) error { return writer.Delete(ctx, i) },
			gone: func(ctx context.Context, i int64) error {
				for {
					if _, ok := reader.Peek(i); !ok {
						return nil
					}
					select {
					case <-told:
					case <-ctx.Done():
						return errors.New("an invalidation did not arrive")
					}
				}
			},
		})})
	}
	return out, nil
}

// watched says when a cache has been told of something.
type watched struct {
	*rueidisdriver.Driver
	told chan struct{}
}

func (w *watched) tell() {
	select {
	case w.told <- struct{}{}:
	default:
	}
}

func (w *watched) Track(ctx context.Context, t driver.Tracking) error {
	inner := t.OnInvalidate
	t.OnInvalidate = func(keys []string) { inner(keys); w.tell() }
	return w.Driver.Track(ctx, t)
}

func (w *watched) Subscribe(ctx context.Context, s driver.Subscription) error {
	inner := s.OnMessage
	s.OnMessage = func(channel, payload string) { inner(channel, payload); w.tell() }
	return w.Driver.Subscribe(ctx, s)
}

func watchedInstance(l *lab, prefix string, how cache.Coherence) (*cache.Cache[int64, *user], <-chan struct{}, error) {
	d, err := l.open("rueidis")
	if err != nil {
		return nil, nil, err
	}
	w := &watched{d.(*rueidisdriver.Driver), make(chan struct{}, 1)}
	c, err := instance[*user](l, w, prefix, cache.WithCoherence(how))
	if err != nil {
		return nil, nil, err
	}
	return c, w.told, trusted(c, -1)
}

func oursFleets() (out []opener) {
	for _, how := range []cache.Coherence{cache.Tracking, cache.PubSub, cache.TTLOnly} {
		out = append(out, opener{name: "cache, " + how.String(), ours: true, open: func(l *lab) (fleet, error) {
			all, err := instances[*user](l, "rueidis", sizes.instances, cache.WithCoherence(how))
			if err != nil {
				return fleet{}, err
			}
			return fleet{nodes: fleetOf(all), messages: func() (n float64) {
				for _, c := range all {
					n += float64(c.Stats().InvalidationsRemote)
				}
				return n
			}}, nil
		}})
	}
	return out
}

func oursMemory() []contender {
	return []contender{{name: "cache, local tier", ours: true, turn: memoryTurn(func() (keeper, error) {
		c, err := cache.New[int64, point](nil, "points", cache.WithoutRemote(), cache.WithTTL(time.Hour),
			cache.WithLocal(sizes.memory+sizes.memory/10, time.Hour))
		if err != nil {
			return keeper{}, err
		}
		var failed error
		return keeper{
			set: func(i int64) { failed = errors.Join(failed, c.Set(context.Background(), i, point{i, i})) },
			size: func() int {
				n := 0
				for i := range int64(sizes.memory) {
					if _, ok := c.Peek(i); ok {
						n++
					}
				}
				return n
			},
			end: func() { _ = c.Close() },
		}, nil
	})}}
}
