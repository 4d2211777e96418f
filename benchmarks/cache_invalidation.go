package main

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// invalidationStudies measure how long after a writer began a delete another instance does not serve the value any more.
func invalidationStudies() []study {
	return []study{{
		name: "cache/invalidation", gauges: []gauge{p50, p99},
		asked: []bound{
			{gauge: "p50 µs", most: 200, text: "p50 ≤ 200 µs"},
			{gauge: "p99 µs", most: 5000, text: "p99 ≤ 5 ms"},
		},
		contend: (*lab).invalidation,
	}}
}

// coherent is a writer and a reader of two instances.
type coherent struct {
	// warm makes the reader hold key i, write changes it in the writer's instance, gone waits until the reader lost it.
	warm, write, gone func(ctx context.Context, i int64) error
	// kept tells whether the reader still holds it, as the word of an earlier write may be under way; nil is true.
	kept func(i int64) bool
}

func (l *lab) invalidationTurn(c coherent) func(time.Duration) (sample, error) {
	var ids serial
	turn := func(d time.Duration) (sample, error) {
		return l.observe(func() (s sample, err error) {
			begin := time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), d+10*time.Second)
			defer cancel()
			for err == nil && (s.ops == 0 || time.Since(begin) < d) {
				i := ids.next()
				if err = c.warm(ctx, i); err != nil {
					break
				}
				time.Sleep(2 * time.Millisecond) // changes are rare: they meet connections without traffic
				if c.kept != nil && !c.kept(i) {
					continue
				}
				start := time.Now()
				if err = c.write(ctx, i); err == nil {
					err = c.gone(ctx, i)
				}
				s.times = append(s.times, time.Since(start))
				s.ops++
			}
			s.wall = time.Since(begin)
			return s, err
		})
	}
	return l.warmed(func() (sample, error) { return turn(20 * time.Millisecond) }, func(d time.Duration) (sample, error) {
		return turn(max(d, sizes.leastEvents))
	})
}

func (l *lab) invalidation() ([]contender, error) {
	out, err := l.oursInvalidation()
	if err != nil {
		return nil, err
	}
	writer, err := l.bareRueidis(nil)
	if err != nil {
		return nil, err
	}
	told := make(chan string, 1024)
	reader, err := l.bareRueidis(func(o *rueidis.ClientOption) {
		o.OnInvalidations = func(keys []rueidis.RedisMessage) {
			for _, k := range keys {
				name, _ := k.ToString()
				told <- name
			}
		}
	})
	if err != nil {
		return nil, err
	}
	name := func(i int64) string { return l.prefix + "inv:" + strconv.FormatInt(i, 10) }
	del := func(ctx context.Context, i int64) error {
		return writer.Do(ctx, writer.B().Del().Key(name(i)).Build()).Error()
	}
	out = append(out, contender{name: "rueidis DoCache", turn: l.invalidationTurn(coherent{
		warm: func(ctx context.Context, i int64) error {
			if err := writer.Do(ctx, writer.B().Set().Key(name(i)).Value(value).Build()).Error(); err != nil {
				return err
			}
			return reader.DoCache(ctx, reader.B().Get().Key(name(i)).Cache(), cacheTTL).Error()
		},
		write: del,
		gone:  func(ctx context.Context, i int64) error { return await(ctx, told, name(i)) },
	})})
	return l.published(out)
}

// await waits for a name.
func await(ctx context.Context, from <-chan string, name string) error {
	for {
		select {
		case got := <-from:
			if got == name {
				return nil
			}
		case <-ctx.Done():
			return errors.New("an invalidation did not arrive")
		}
	}
}

// published adds a bare PUBLISH after the DEL, which is the least that a backplane takes.
func (l *lab) published(out []contender) ([]contender, error) {
	c, err := l.bareRueidis(nil)
	if err != nil {
		return nil, err
	}
	told := make(chan string, 1024)
	channel := l.prefix + "channel"
	if err := l.subscribe(channel, func(m string) { told <- m }); err != nil {
		return nil, err
	}
	name := func(i int64) string { return l.prefix + "pub:" + strconv.FormatInt(i, 10) }
	return append(out, contender{name: "DEL, PUBLISH", turn: l.invalidationTurn(coherent{
		warm: func(ctx context.Context, i int64) error {
			return c.Do(ctx, c.B().Set().Key(name(i)).Value(value).Build()).Error()
		},
		write: func(ctx context.Context, i int64) error {
			for _, r := range c.DoMulti(ctx, c.B().Del().Key(name(i)).Build(), c.B().Publish().Channel(channel).Message(name(i)).Build()) {
				if err := r.Error(); err != nil {
					return err
				}
			}
			return nil
		},
		gone: func(ctx context.Context, i int64) error { return await(ctx, told, name(i)) },
	})}), nil
}

// subscribe returns when the subscription is there. It ends with the study.
func (l *lab) subscribe(channel string, f func(message string)) error {
	c, err := l.bareRueidis(nil)
	if err != nil {
		return err
	}
	dedicated, release := c.Dedicate()
	l.onClose(release)
	ready := make(chan struct{}, 1)
	dedicated.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage: func(m rueidis.PubSubMessage) { f(m.Message) },
		OnSubscription: func(rueidis.PubSubSubscription) {
			select {
			case ready <- struct{}{}:
			default:
			}
		},
	})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := dedicated.Do(ctx, dedicated.B().Subscribe().Channel(channel).Build()).Error(); err != nil {
		return err
	}
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
