package main

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// readThrough keeps values in Redis for a while and loads them when they are not there. It is as small as it can be, to
// show the client at work: nothing keeps a crowd from loading the same value, and nothing invalidates it.
type readThrough[V any] struct {
	client *core.Client
	keys   core.Keyspace
	ttl    time.Duration
	load   func(context.Context, string) (V, error)
}

func newReadThrough[V any](client *core.Client, name string, ttl time.Duration, load func(context.Context, string) (V, error)) (*readThrough[V], error) {
	keys, err := client.NewKeyspace("readthrough", name)
	if err != nil {
		return nil, err
	}
	return &readThrough[V]{client: client, keys: keys, ttl: ttl, load: load}, nil
}

// get returns the value and where it came from: "redis" or "database". Redis failing is never the caller's problem.
func (r *readThrough[V]) get(ctx context.Context, id string) (value V, source string, err error) {
	key := r.keys.Key(id)
	reply := r.client.Do(ctx, driver.Cmd{Args: []string{"GET", key}, Keys: driver.Key(1), Mode: driver.ReadOnly})
	if data, err := reply.Bytes(); err == nil {
		if err := json.Unmarshal(data, &value); err == nil {
			return value, "redis", nil
		}
	}
	if value, err = r.load(ctx, id); err != nil {
		return value, "", err
	}
	if data, err := json.Marshal(value); err == nil {
		// Whether this arrives or not, the value is right.
		ms := strconv.FormatInt(r.ttl.Milliseconds(), 10)
		r.client.Do(ctx, driver.Cmd{Args: []string{"SET", key, string(data), "PX", ms}, Keys: driver.Key(1)})
	}
	return value, "database", nil
}
