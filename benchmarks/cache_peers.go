package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	gocache "github.com/go-redis/cache/v9"
	"github.com/maypok86/otter/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/viccon/sturdyc"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// user is what is cached: about 200 bytes when encoded.
type user struct {
	ID      int64     `json:"id"`
	Name    string    `json:"name"`
	Email   string    `json:"email"`
	Team    string    `json:"team"`
	Address string    `json:"address"`
	Active  bool      `json:"active"`
	Score   float64   `json:"score"`
	Roles   []string  `json:"roles"`
	Created time.Time `json:"created"`
}

func newUser(id int64) *user {
	return &user{
		ID: id, Name: "Ada Lovelace", Email: "ada@example.com", Team: "engines", Address: "12 St James's Square, London",
		Active: true, Score: 0.93, Roles: []string{"admin", "author"}, Created: time.Unix(1_700_000_000+id, 0).UTC(),
	}
}

const (
	hot      = 1024 // keys that hits go to
	cacheTTL = 5 * time.Minute
)

// endpoint is the server as the libraries want it.
func (l *lab) endpoint() (*core.Endpoint, error) { return core.ParseURL(l.url) }

func (l *lab) bareGoredis() (*redis.Client, error) {
	e, err := l.endpoint()
	if err != nil {
		return nil, err
	}
	c := redis.NewClient(&redis.Options{Addr: e.Addrs[0], Username: e.Username, Password: e.Password, DB: e.DB})
	l.onClose(func() { _ = c.Close() })
	return c, nil
}

// bareRueidis is a client with its defaults and what change asks for.
func (l *lab) bareRueidis(change func(*rueidis.ClientOption)) (rueidis.Client, error) {
	e, err := l.endpoint()
	if err != nil {
		return nil, err
	}
	o := rueidis.ClientOption{InitAddress: e.Addrs, Username: e.Username, Password: e.Password, SelectDB: e.DB, ForceSingleClient: true}
	if change != nil {
		change(&o)
	}
	c, err := rueidis.NewClient(o)
	if err != nil {
		return nil, err
	}
	l.onClose(c.Close)
	return c, nil
}

// goredisCache is go-redis/cache over a client of its own, with its local cache or without.
func (l *lab) goredisCache(local bool) (*gocache.Cache, error) {
	c, err := l.bareGoredis()
	if err != nil {
		return nil, err
	}
	o := gocache.Options{Redis: c}
	if local {
		o.LocalCache = gocache.NewTinyLFU(10*hot, cacheTTL)
	}
	return gocache.New(&o), nil
}

// sturdy has no goroutine that evicts, so that none takes part in what is measured.
func sturdy[V any](entries int) *sturdyc.Client[V] {
	return sturdyc.New[V](entries, 16, cacheTTL, 10, sturdyc.WithNoContinuousEvictions())
}

func otters[K comparable, V any](entries int, ttl bool) *otter.Cache[K, V] {
	o := otter.Options[K, V]{MaximumSize: entries}
	if ttl {
		o.ExpiryCalculator = otter.ExpiryWriting[K, V](cacheTTL)
	}
	return otter.Must(&o)
}

// wrapper is a cache as people write it by hand: ristretto for encoded values in front of Redis.
type wrapper struct {
	local  *ristretto.Cache[string, []byte]
	remote *redis.Client
}

func (l *lab) wrapper() (*wrapper, error) {
	c, err := l.bareGoredis()
	if err != nil {
		return nil, err
	}
	local, err := ristretto.NewCache(&ristretto.Config[string, []byte]{NumCounters: 10 * 10 * hot, MaxCost: 64 << 20, BufferItems: 64})
	if err != nil {
		return nil, err
	}
	l.onClose(local.Close)
	return &wrapper{local, c}, nil
}

func (w *wrapper) get(ctx context.Context, key string, load func(context.Context) (*user, error)) (*user, error) {
	if data, ok := w.local.Get(key); ok {
		return decoded(msgpack.Unmarshal, data)
	}
	data, err := w.remote.Get(ctx, key).Bytes()
	if err == nil {
		w.local.SetWithTTL(key, data, int64(len(data)), cacheTTL)
		return decoded(msgpack.Unmarshal, data)
	}
	if !errors.Is(err, redis.Nil) {
		return nil, err
	}
	u, err := load(ctx)
	if err != nil {
		return nil, err
	}
	if data, err = msgpack.Marshal(u); err != nil {
		return nil, err
	}
	w.local.SetWithTTL(key, data, int64(len(data)), cacheTTL)
	return u, w.remote.Set(ctx, key, data, cacheTTL).Err()
}

func decoded(decode func([]byte, any) error, data []byte) (*user, error) {
	u := new(user)
	return u, decode(data, u)
}

// aside is the cache-aside pattern of rueidis: whoever finds nothing puts a placeholder into the key, and those who find one
// wait for the server to tell that it changed. Its own package for that is not to be had as a module, so this is the pattern
// and not that code.
type aside struct {
	client rueidis.Client
	id     string
	mu     sync.Mutex
	wait   map[string]chan struct{}
}

var asideFill = rueidis.NewLuaScript(`if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end return 0`)

const placeholder = "placeholder:"

func (l *lab) aside() (*aside, error) {
	a := &aside{wait: map[string]chan struct{}{}, id: placeholder + strconv.FormatUint(rand.Uint64(), 36)}
	var err error
	a.client, err = l.bareRueidis(func(o *rueidis.ClientOption) { o.OnInvalidations = a.invalidated })
	return a, err
}

func (a *aside) invalidated(keys []rueidis.RedisMessage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range keys {
		name, _ := k.ToString()
		if ch := a.wait[name]; ch != nil {
			close(ch)
			delete(a.wait, name)
		}
	}
}

func (a *aside) get(ctx context.Context, key string, load func(context.Context) (string, error)) (string, error) {
	for {
		a.mu.Lock()
		ch := a.wait[key]
		if ch == nil {
			ch = make(chan struct{})
			a.wait[key] = ch
		}
		a.mu.Unlock()
		v, err := a.client.DoCache(ctx, a.client.B().Get().Key(key).Cache(), cacheTTL).ToString()
		if rueidis.IsRedisNil(err) {
			v, err = a.client.Do(ctx, a.client.B().Set().Key(key).Value(a.id).Nx().Get().PxMilliseconds(10_000).Build()).ToString()
			if rueidis.IsRedisNil(err) {
				if v, err = load(ctx); err != nil {
					return "", err
				}
				return v, asideFill.Exec(ctx, a.client, []string{key}, []string{a.id, v, strconv.FormatInt(cacheTTL.Milliseconds(), 10)}).Error()
			}
		}
		if err != nil {
			return "", err
		}
		if len(v) < len(placeholder) || v[:len(placeholder)] != placeholder {
			return v, nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func encoded(u *user) string {
	data, err := json.Marshal(u)
	if err != nil {
		panic(err) // the type can be encoded
	}
	return string(data)
}

// seed stores values in Redis.
func (l *lab) seed(keys []string, value func(i int) string) error {
	for start := 0; start < len(keys); start += 500 {
		chunk := keys[start:min(start+500, len(keys))]
		p := driver.NewPipeline(len(chunk))
		for i, k := range chunk {
			p.Write(driver.Key(1), "SET", k, value(start+i), "PX", strconv.FormatInt(cacheTTL.Milliseconds(), 10))
		}
		for _, r := range l.admin.DoMulti(context.Background(), p.Cmds()) {
			if err := r.Err(); err != nil {
				return fmt.Errorf("seed: %w", err)
			}
		}
	}
	return nil
}

// hotKeys are names for the keys that hits go to.
func (l *lab) hotKeys(who string) []string {
	out := make([]string, hot)
	for i := range out {
		out[i] = l.key(who, i)
	}
	return out
}
