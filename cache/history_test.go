package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/core/rueidisdriver"
	"github.com/go-redisx/redisx/redisxtest"
)

// The exact checker. The source of truth is a register per key that only grows; loaders return what it holds. Whoever changes
// something first writes the source and then invalidates, so that after the acknowledgement the instance must never return an
// older version: its floor. Each read takes the floor before it begins. For other instances the time is measured between the
// acknowledgement of a newer version, anywhere, and the beginning of a read that returned an older one.

type fact struct {
	Key     int
	Version int64
}

const (
	factTags    = 8
	maxVersions = 1 << 13 // of a key; beyond it is only read
)

// registers are the truth, and what was promised of it.
type registers struct {
	keys  int
	truth []atomic.Int64
	// acked holds when a version was acknowledged, in ns since start, or 0.
	acked [][]atomic.Int64
	start time.Time
	// The first half of the keys is only loaded, those with even numbers under tags that get invalidated; the second half is
	// also Set, by one at a time, or the versions that are stored would not be in the order of the truth.
	locks []sync.Mutex
	// doubtful are versions whose Set has an unknown outcome: it may still happen at any time.
	doubtful sync.Map

	pause time.Duration // of loaders
}

func newRegisters(keys int) *registers {
	s := &registers{keys: keys, truth: make([]atomic.Int64, keys), acked: make([][]atomic.Int64, keys), locks: make([]sync.Mutex, keys), start: time.Now()}
	for k := range keys {
		s.truth[k].Store(1)
		s.acked[k] = make([]atomic.Int64, maxVersions)
	}
	return s
}

func (s *registers) now() int64 { return int64(time.Since(s.start)) }

func (s *registers) acknowledge(key int, version int64) {
	s.acked[key][version].CompareAndSwap(0, s.now())
}

// staleFor returns for how long a newer version had been acknowledged when a read began.
func (s *registers) staleFor(key int, version, began int64) time.Duration {
	for v := version + 1; v <= s.truth[key].Load(); v++ {
		if at := s.acked[key][v].Load(); at != 0 && at < began {
			return time.Duration(began - at)
		}
	}
	return 0
}

func factTag(key int) string { return "t" + strconv.Itoa(key%factTags) }

func (s *registers) load(ctx context.Context, l *Load[int, fact]) (fact, error) {
	key := l.Key()
	f := fact{key, s.truth[key].Load()}
	if s.pause > 0 {
		time.Sleep(rand.N(s.pause)) // of the loader under test, not to wait for anything
	}
	l.Tag(factTag(key))
	return f, nil
}

func (s *registers) loadMany(_ context.Context, keys []int) (map[int]fact, error) {
	out := make(map[int]fact, len(keys))
	for _, k := range keys {
		out[k] = fact{k, s.truth[k].Load()}
	}
	return out, nil
}

// instance is one process of a fleet.
type instance struct {
	*registers
	c     *Cache[int, fact]
	floor []atomic.Int64
	ops   atomic.Int64
	errs  atomic.Int64
	worst atomic.Int64 // staleness of what other instances changed
	mu    sync.Mutex
	stale []string
}

func (s *registers) instance(c *Cache[int, fact]) *instance {
	return &instance{registers: s, c: c, floor: make([]atomic.Int64, s.keys)}
}

func raise(a *atomic.Int64, v int64) {
	for old := a.Load(); v > old; old = a.Load() {
		if a.CompareAndSwap(old, v) {
			return
		}
	}
}

func (in *instance) saw(how string, key int, f fact, floor, began int64) {
	if _, ok := in.doubtful.Load(f); ok && f.Key == key {
		return
	}
	if f.Key != key || f.Version < floor || f.Version > in.truth[key].Load() {
		in.mu.Lock()
		in.stale = append(in.stale, fmt.Sprintf("%v: %s of %d (of those that are Set: %v) returned version %d of %d; want at least %d",
			time.Duration(began), how, key, key >= in.keys/2, f.Version, f.Key, floor))
		in.mu.Unlock()
		return
	}
	raise(&in.worst, int64(in.staleFor(key, f.Version, began)))
}

// acks reports whether an invalidation is done as far as this instance is concerned, and everywhere.
func (in *instance) acks(err error) (here, everywhere bool) {
	if err != nil {
		in.errs.Add(1)
	}
	return err == nil || errors.Is(err, ErrQueued), err == nil
}

func (in *instance) done(key int, version int64, err error) {
	here, everywhere := in.acks(err)
	if here {
		raise(&in.floor[key], version)
	}
	if everywhere {
		in.acknowledge(key, version)
	}
}

func (in *instance) read(ctx context.Context, how, key int, r *rand.Rand) {
	switch {
	case how < 2:
		keys := make([]int, 8)
		floors := make(map[int]int64, len(keys))
		for i := range keys {
			keys[i] = r.IntN(in.keys)
			if how == 0 && keys[i] < in.keys/2 {
				keys[i] |= 1 // what LoadMany loads has no tags
			}
			floors[keys[i]] = in.floor[keys[i]].Load()
		}
		began := in.now()
		var found map[int]fact
		var err error
		name := "LoadMany"
		if how == 0 {
			found, err = in.c.LoadMany(ctx, keys, in.loadMany)
		} else {
			name = "GetMany"
			found, err = in.c.GetMany(ctx, keys)
		}
		if err != nil {
			in.errs.Add(1)
		}
		for k, f := range found {
			in.saw(name, k, f, floors[k], began)
		}
	case how < 10:
		floor, began := in.floor[key].Load(), in.now()
		f, ok, err := in.c.Get(ctx, key)
		if err != nil {
			in.errs.Add(1)
		} else if ok {
			in.saw("Get", key, f, floor, began)
		}
	case how < 15:
		floor, began := in.floor[key].Load(), in.now()
		if f, ok := in.c.Peek(key); ok {
			in.saw("Peek", key, f, floor, began)
		}
	default:
		floor, began := in.floor[key].Load(), in.now()
		f, err := in.c.GetOrLoadWith(ctx, key, in.load)
		if err != nil {
			in.errs.Add(1)
		} else {
			in.saw("GetOrLoad", key, f, floor, began)
		}
	}
}

func (in *instance) write(ctx context.Context, how, key int) {
	switch {
	case how < 5: // a tag, and with it every key that is loaded under it
		tag := key % factTags &^ 1
		versions := map[int]int64{}
		for k := tag; k < in.keys/2; k += factTags {
			if in.truth[k].Load() < maxVersions-100 {
				versions[k] = in.truth[k].Add(1)
			}
		}
		err := in.c.InvalidateTags(ctx, factTag(tag))
		for k, v := range versions {
			in.done(k, v, err)
		}
	case how < 7:
		versions := make([]int64, in.keys)
		for k := range versions {
			if k < in.keys/2 && in.truth[k].Load() < maxVersions-100 {
				in.truth[k].Add(1)
			}
			versions[k] = in.truth[k].Load()
			if k >= in.keys/2 {
				versions[k]-- // its Set may be under way, and come after
			}
		}
		err := in.c.Clear(ctx)
		for k, v := range versions {
			in.done(k, v, err)
		}
	default:
		if in.truth[key].Load() >= maxVersions-100 {
			return
		}
		if key < in.keys/2 {
			v := in.truth[key].Add(1)
			if how < 20 {
				in.done(key, v, in.c.Expire(ctx, key))
			} else {
				in.done(key, v, in.c.Delete(ctx, key))
			}
			return
		}
		in.locks[key].Lock()
		defer in.locks[key].Unlock()
		v := in.truth[key].Add(1)
		if how < 50 {
			in.done(key, v, in.c.Delete(ctx, key))
			return
		}
		f := fact{key, v}
		in.doubtful.Store(f, true)
		err := in.c.Set(ctx, key, f, Tags(factTag(key)))
		if err == nil || errors.Is(err, core.ErrNotSent) {
			in.doubtful.Delete(f)
		}
		in.done(key, v, err)
	}
}

// history is a run of a fleet.
type history struct {
	*registers
	all []*instance
}

func newHistory(keys int, caches ...*Cache[int, fact]) *history {
	h := &history{registers: newRegisters(keys)}
	for _, c := range caches {
		h.all = append(h.all, h.instance(c))
	}
	return h
}

// run works on all instances until the time is over and the operations are made. writes is how many of 1000 change something.
func (h *history) run(t *testing.T, d time.Duration, least int64, writes int) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	end := time.Now().Add(d)
	ctx := t.Context()
	var wg sync.WaitGroup
	for i, in := range h.all {
		for w := range 4 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(i*100+w)))
				limit := time.Now().Add(time.Minute)
				for n := 0; ; n++ {
					if n%64 == 0 {
						now := time.Now()
						if now.After(limit) || now.After(end) && in.ops.Load() >= least/int64(len(h.all)) {
							return
						}
						in.ops.Add(64)
					}
					key := r.IntN(h.keys)
					if r.IntN(1000) < writes {
						in.write(ctx, r.IntN(100), key)
					} else {
						in.read(ctx, r.IntN(100), key, r)
					}
				}
			})
		}
	}
	wg.Wait()
}

// check fails for reads below the floor, and for staleness between instances above the bound.
func (h *history) check(t *testing.T, bound time.Duration) {
	t.Helper()
	for i, in := range h.all {
		s := in.c.Stats()
		t.Logf("instance %d: %d operations, %d errors, staleness at most %v; local %d, remote %d, loads %d, fills %d, rejected %d, lost %d, gaps %d, overflows %d",
			i, in.ops.Load(), in.errs.Load(), time.Duration(in.worst.Load()), s.LocalHits, s.RemoteHits, s.Loads, s.Fills, s.FillsRejected, s.CoherenceLost, s.Gaps, s.QueueOverflows)
		if n := len(in.stale); n > 0 {
			t.Errorf("instance %d: %d stale reads, the first: %s", i, n, in.stale[0])
		}
		if w := time.Duration(in.worst.Load()); w > bound {
			t.Errorf("instance %d returned what was invalidated elsewhere %v before; want at most %v", i, w, bound)
		}
	}
}

// violations counts the reads below the floor.
func (h *history) violations() (n int) {
	for _, in := range h.all {
		n += len(in.stale)
	}
	return n
}

// laggards returns keys and instances that do not return the latest version.
func (h *history) laggards(ctx context.Context) []string {
	var out []string
	for i, in := range h.all {
		for k := range h.keys {
			f, err := in.c.GetOrLoadWith(ctx, k, h.load)
			if want := h.truth[k].Load(); err != nil || f != (fact{k, want}) {
				out = append(out, fmt.Sprintf("instance %d, key %d: %+v, %v; want version %d", i, k, f, err, want))
			}
		}
	}
	return out
}

// converges fails unless all instances return the latest version of every key within a time.
func (h *history) converges(t *testing.T, within time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	redisxtest.Eventually(t, within, func(ctx context.Context) error {
		if late := h.laggards(ctx); len(late) > 0 {
			return fmt.Errorf("%d values are old, such as %s", len(late), late[0])
		}
		return nil
	})
	return time.Since(began)
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

var quiet = slog.New(slog.DiscardHandler)

var drivers = map[string]func(ctx context.Context, url string, dial dialFunc) (driver.Driver, error){
	"goredis": func(ctx context.Context, url string, dial dialFunc) (driver.Driver, error) {
		if dial == nil {
			return goredisdriver.Open(ctx, url)
		}
		return goredisdriver.Open(ctx, url, goredisdriver.WithDialer(dial))
	},
	"rueidis": func(ctx context.Context, url string, dial dialFunc) (driver.Driver, error) {
		if dial == nil {
			return rueidisdriver.Open(ctx, url)
		}
		return rueidisdriver.Open(ctx, url, rueidisdriver.WithDialer(dial))
	},
}

// historyClient opens a driver and makes a client of it, which the test closes.
func historyClient(t *testing.T, driverName, url string, dial dialFunc, wrap func(driver.Driver) driver.Driver, opts ...core.Option) *core.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	d, err := drivers[driverName](ctx, url, dial)
	require.NoError(t, err)
	if wrap != nil {
		d = wrap(d)
	}
	c, err := core.New(d, append([]core.Option{core.WithCommandTimeout(500 * time.Millisecond), core.WithLogger(quiet)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// bulk is how many operations a run without faults makes.
func bulk() int64 {
	if testing.Short() || raced() {
		return 30_000
	}
	return 280_000
}

// raced reports whether the race detector slows everything down.
func raced() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// linearizable has clients read and write through the first instance, and noise through the others. A write is one of the
// source and the invalidation, or Set, that goes with it. What is read meanwhile does not count.
func linearizable(t *testing.T, caches []*Cache[int, fact]) {
	t.Helper()
	const keys = 6
	s := newRegisters(keys)
	s.pause = time.Millisecond
	model := redisxtest.RegisterModel()
	h := redisxtest.NewHistory(model)
	for k := range keys {
		h.Call(0, redisxtest.RegisterCall{Op: redisxtest.OpWrite, Key: strconv.Itoa(k), Value: "1"})(redisxtest.RegisterResult{}, nil)
	}
	ctx := t.Context()
	one := caches[0]
	var wg, noise sync.WaitGroup
	var over atomic.Bool
	var writes [keys]atomic.Int64 // odd while one is under way
	for _, c := range caches[1:] {
		noise.Go(func() {
			for !over.Load() {
				k := rand.IntN(keys)
				_, _ = c.GetOrLoadWith(ctx, k, s.load)
				if rand.IntN(20) == 0 {
					_ = c.Delete(ctx, k)
				}
			}
		})
	}
	for client := range 4 {
		wg.Go(func() {
			for range 150 {
				k := rand.IntN(keys)
				key := strconv.Itoa(k)
				if rand.IntN(5) > 0 {
					done := h.Call(client, redisxtest.RegisterCall{Op: redisxtest.OpRead, Key: key})
					before := writes[k].Load()
					f, err := one.GetOrLoadWith(ctx, k, s.load)
					if before%2 == 1 || writes[k].Load() != before {
						// During a write the new value may be loaded and not kept, and the old one found after it.
						err = core.ErrNotSent
					}
					done(redisxtest.RegisterResult{Value: strconv.FormatInt(f.Version, 10), Found: true}, err)
					continue
				}
				s.locks[k].Lock()
				writes[k].Add(1)
				v := s.truth[k].Load() + 1
				done := h.Call(client, redisxtest.RegisterCall{Op: redisxtest.OpWrite, Key: key, Value: strconv.FormatInt(v, 10)})
				s.truth[k].Store(v)
				var err error
				switch rand.IntN(5) {
				case 0:
					err = one.Set(ctx, k, fact{k, v}, Tags(factTag(k)))
				case 1:
					err = one.InvalidateTags(ctx, factTag(k))
				case 2:
					err = one.Clear(ctx)
				default:
					err = one.Delete(ctx, k)
				}
				if errors.Is(err, ErrQueued) {
					err = nil // done, as far as this instance is concerned
				}
				done(redisxtest.RegisterResult{}, err)
				writes[k].Add(1)
				s.locks[k].Unlock()
			}
		})
	}
	wg.Wait()
	over.Store(true)
	noise.Wait()
	t.Logf("%d operations", h.Len())
	redisxtest.Linearizable(t, h, model)
}

// usedMemory returns what a server uses, in bytes, with a little room.
func usedMemory(s *redisxtest.Server) (string, error) {
	info, err := s.Do("INFO", "memory").Text()
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(info, "used_memory:")
	digits, _, _ := strings.Cut(rest, "\r")
	n, err := strconv.Atoi(digits)
	return strconv.Itoa(n + 64<<10), err
}
