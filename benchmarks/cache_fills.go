package main

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-redisx/redisx/core/driver"
)

var (
	serverBusy = gauge{"server CPU ms/s", func(s *sample) float64 { return 1e3 * s.server.cpu.Seconds() / s.wall.Seconds() }}
	clientBusy = gauge{"CPU of all clients ms/s", func(s *sample) float64 { return 1e3 * s.client.Seconds() / s.wall.Seconds() }}
	outKiB     = gauge{"server out KiB/s", func(s *sample) float64 { return s.server.bytesOut / 1024 / s.wall.Seconds() }}
	received   = gauge{"messages/s", func(s *sample) float64 { return s.messages / s.wall.Seconds() }}
	fillRate   = gauge{"fills/s", func(s *sample) float64 { return s.ops / s.wall.Seconds() }}
	commandsS  = gauge{"commands/s", func(s *sample) float64 { return s.server.commands / s.wall.Seconds() }}
)

// fillStudies measure what it costs many instances to keep coherent while they fill keys of their own, each way to do it. In
// the second study other instances read each key as well, which costs those ways that the server remembers the readers in.
func fillStudies() []study {
	gauges := []gauge{serverBusy, clientBusy, outKiB, received, commandsS, fillRate, p50, p99}
	return []study{
		{name: "cache/fills", gauges: gauges, fixed: 5, contend: func(l *lab) ([]contender, error) { return l.fills(0) }},
		{name: "cache/fills read by 4 others", gauges: gauges, fixed: 5, contend: func(l *lab) ([]contender, error) { return l.fills(4) }},
	}
}

// fleet is a number of instances that keep coherent in some way.
type fleet struct {
	nodes    []getter
	messages func() float64 // received so far, by all of them; nil is not known
}

func (l *lab) fills(readers int) (out []contender, err error) {
	for _, o := range append(oursFleets(),
		opener{name: "GET, SET: not coherent", open: func(l *lab) (fleet, error) { return l.plainFleet("") }},
		opener{name: "GET, SET, PUBLISH of each fill", open: func(l *lab) (fleet, error) { return l.plainFleet(l.prefix + "fills") }},
		opener{name: "rueidis DoCache: each key tracked", open: func(l *lab) (fleet, error) { return l.trackedFleet(nil) }},
		opener{name: "rueidis DoCache: BCAST", open: func(l *lab) (fleet, error) { return l.trackedFleet([]string{"PREFIX", l.prefix, "BCAST"}) }},
	) {
		var ids serial
		out = append(out, contender{name: o.name, ours: o.ours, turn: func(d time.Duration) (sample, error) {
			// Each fleet is there in its own turn only: the server tells those that wait of what others do.
			own := &lab{environment: l.environment, admin: l.admin, prefix: l.prefix + o.name + ":"}
			defer own.close()
			f, err := o.open(own)
			if err != nil {
				return sample{}, err
			}
			return own.fillTurn(&ids, readers, f, max(d, sizes.leastFills))
		}})
	}
	return out, nil
}

// opener makes the fleet of a contender.
type opener struct {
	name string
	ours bool
	open func(*lab) (fleet, error)
}

// plainFleet reads and writes with commands of a driver. With a channel, all tell each other of what they fill.
func (l *lab) plainFleet(channel string) (f fleet, err error) {
	var messages atomic.Int64
	if channel != "" {
		f.messages = func() float64 { return float64(messages.Load()) }
	}
	ttl := strconv.FormatInt(cacheTTL.Milliseconds(), 10)
	for range sizes.instances {
		d, err := l.open("rueidis")
		if err != nil {
			return f, err
		}
		if channel != "" {
			if err := l.subscribe(channel, func(string) { messages.Add(1) }); err != nil {
				return f, err
			}
		}
		f.nodes = append(f.nodes, func(ctx context.Context, key string, _ int64, load func(context.Context) (*user, error)) (*user, error) {
			r := d.Do(ctx, driver.Cmd{Args: []string{"GET", key}, Keys: driver.Key(1), Mode: driver.ReadOnly})
			if data, err := r.Bytes(); err == nil {
				return decoded(json.Unmarshal, data)
			}
			if err := r.Err(); err != nil {
				return nil, err
			}
			u, err := load(ctx)
			if err != nil {
				return nil, err
			}
			err = d.Do(ctx, driver.Cmd{Args: []string{"SET", key, encoded(u), "PX", ttl}, Keys: driver.Key(1)}).Err()
			if err == nil && channel != "" {
				err = d.Do(ctx, driver.Cmd{Args: []string{"PUBLISH", channel, key}}).Err()
			}
			return u, err
		})
	}
	return f, nil
}

func (l *lab) trackedFleet(tracking []string) (f fleet, err error) {
	var messages atomic.Int64
	f.messages = func() float64 { return float64(messages.Load()) }
	for range sizes.instances {
		c, err := l.bareRueidis(func(o *rueidis.ClientOption) {
			o.ClientTrackingOptions = tracking
			o.PipelineMultiplex = -1 // one connection, as every instance of the others has for this
			o.OnInvalidations = func(keys []rueidis.RedisMessage) { messages.Add(int64(len(keys))) }
		})
		if err != nil {
			return f, err
		}
		f.nodes = append(f.nodes, func(ctx context.Context, key string, _ int64, load func(context.Context) (*user, error)) (*user, error) {
			data, err := c.DoCache(ctx, c.B().Get().Key(key).Cache(), cacheTTL).AsBytes()
			if err == nil {
				return decoded(json.Unmarshal, data)
			}
			if !rueidis.IsRedisNil(err) {
				return nil, err
			}
			u, err := load(ctx)
			if err != nil {
				return nil, err
			}
			return u, c.Do(ctx, c.B().Set().Key(key).Value(encoded(u)).PxMilliseconds(cacheTTL.Milliseconds()).Build()).Error()
		})
	}
	return f, nil
}

// fillTurn hands out fills at a steady rate, to one instance after the other, and the reads of others a moment later.
func (l *lab) fillTurn(ids *serial, readers int, f fleet, d time.Duration) (sample, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d+30*time.Second)
	defer cancel()
	return l.observe(func() (s sample, err error) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		jobs := make([]chan int64, len(f.nodes))
		for n, get := range f.nodes {
			jobs[n] = make(chan int64, 4096)
			for range 4 { // callers
				wg.Go(func() {
					var times []time.Duration
					defer func() {
						mu.Lock()
						s.times = append(s.times, times...)
						mu.Unlock()
					}()
					for id := range jobs[n] {
						start := time.Now()
						_, e := get(ctx, l.key("fills", int(id)), id, func(context.Context) (*user, error) {
							mu.Lock()
							s.ops++
							mu.Unlock()
							return newUser(id), nil
						})
						times = append(times, time.Since(start))
						if e != nil {
							mu.Lock()
							err = errors.Join(err, e)
							mu.Unlock()
							return
						}
					}
				})
			}
		}
		before := math.NaN()
		if f.messages != nil {
			before = f.messages()
		}
		begin := time.Now()
		handOut(ids, readers, jobs, d)
		wg.Wait()
		s.wall = time.Since(begin)
		s.messages = math.NaN()
		if f.messages != nil {
			s.messages = f.messages() - before
		}
		return s, err
	})
}

// handOut closes the channels at the end.
func handOut(ids *serial, readers int, jobs []chan int64, d time.Duration) {
	send := func(node, id int64) {
		select {
		case jobs[node%int64(len(jobs))] <- id:
		default: // the instance is far behind: fills/s tells
		}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var late []int64 // what others will read, 50 ms from now
	sent := 0
	for begin := time.Now(); time.Since(begin) < d; <-tick.C {
		for due := int(float64(sizes.fills) * time.Since(begin).Seconds()); sent < due; sent++ {
			id := ids.next()
			send(id, id)
			if late = append(late, id); len(late) > sizes.fills/20 {
				for r := range readers {
					send(late[0]+int64(r)+1, late[0])
				}
				late = late[1:]
			}
		}
	}
	for _, j := range jobs {
		close(j)
	}
}
