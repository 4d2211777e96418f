package redisxtest

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"
	"unsafe"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
)

// engine is the miniredis inside a Fake: keys and data commands. Fake.mu is held during every call.
//
// miniredis publishes neither the version counters of its keys, from which invalidation and WATCH follow, nor a clock
// that is affordable (its own walks and sorts all keys at every command). Both are read from its private maps, looked up
// by name and type at the start, so that a release that renames them makes StartFake fail instead of misbehave.
type engine struct {
	m    *miniredis.Miniredis
	srv  *server.Server
	dbs  *map[int]*miniredis.RedisDB
	last time.Time // up to when time has been taken off the TTLs
}

// dbKey is a key of a database.
type dbKey struct {
	db  int
	key string
}

// databases is how many there are, as in a server that nobody configured.
const databases = 16

func newEngine() (*engine, error) {
	e := &engine{m: miniredis.NewMiniRedis(), last: time.Now()}
	// Dial is how miniredis starts without a listener.
	nc, err := e.m.Dial()
	if err != nil {
		return nil, err
	}
	_ = nc.Close()
	e.srv = e.m.Server()
	if e.dbs, err = private[map[int]*miniredis.RedisDB](e.m, "dbs"); err != nil {
		return nil, err
	}
	db := e.m.DB(0)
	_, err1 := private[map[string]time.Duration](db, "ttl")
	_, err2 := private[map[string]uint](db, "keyVersion")
	_, err3 := private[map[string]string](db, "keys")
	if f := reflect.ValueOf(db).Elem().FieldByName("streamKeys"); !f.IsValid() || !sameLayout(f.Type(), reflect.TypeFor[map[string]*streamData](), nil) {
		return nil, errLayout
	}
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			return nil, err
		}
	}
	return e, nil
}

// private returns the address of an unexported field.
func private[T, S any](s *S, field string) (*T, error) {
	f := reflect.ValueOf(s).Elem().FieldByName(field)
	if !f.IsValid() || f.Type() != reflect.TypeFor[T]() {
		return nil, fmt.Errorf("this version of miniredis has no %s %s in %T", field, reflect.TypeFor[T](), *s)
	}
	return (*T)(unsafe.Pointer(f.UnsafeAddr())), nil
}

// streamsOf returns the streams of a database, whose layout newEngine has checked.
func streamsOf(db *miniredis.RedisDB) *map[string]*streamData {
	return (*map[string]*streamData)(unsafe.Add(unsafe.Pointer(db), fieldsOf["streamKeys"]))
}

// sameLayout reports whether values of two types are the same in memory, fields by name but for those that b does not use.
func sameLayout(a, b reflect.Type, seen map[reflect.Type]bool) bool {
	if a == b || seen[a] {
		return true
	}
	if a.Kind() != b.Kind() {
		return false
	}
	if seen == nil {
		seen = map[reflect.Type]bool{}
	}
	seen[a] = true
	switch a.Kind() {
	case reflect.Pointer, reflect.Slice:
		return sameLayout(a.Elem(), b.Elem(), seen)
	case reflect.Map:
		return a.Key() == b.Key() && sameLayout(a.Elem(), b.Elem(), seen)
	case reflect.Struct:
		if a.NumField() != b.NumField() {
			return false
		}
		for i := range a.NumField() {
			if x, y := a.Field(i), b.Field(i); x.Name != y.Name && y.Name != "_" || x.Offset != y.Offset || !sameLayout(x.Type, y.Type, seen) {
				return false
			}
		}
		return true
	}
	return false
}

// fieldsOf are where the fields of a database are. Looking them up by name takes longer than most commands.
var fieldsOf = func() map[string]uintptr {
	all, t := map[string]uintptr{}, reflect.TypeFor[miniredis.RedisDB]()
	for i := range t.NumField() {
		all[t.Field(i).Name] = t.Field(i).Offset
	}
	return all
}()

// field is private for the maps that newEngine has checked.
func field[T any](db *miniredis.RedisDB, name string) T {
	return *(*T)(unsafe.Add(unsafe.Pointer(db), fieldsOf[name]))
}

func (e *engine) ttls(db *miniredis.RedisDB) map[string]time.Duration {
	return field[map[string]time.Duration](db, "ttl")
}

func (e *engine) versions(db *miniredis.RedisDB) map[string]uint {
	return field[map[string]uint](db, "keyVersion")
}

// version of a key: it grows with every change and 0 means that there is no such key.
func (e *engine) version(k dbKey) uint {
	db := (*e.dbs)[k.db]
	if db == nil {
		return 0
	}
	if _, ok := field[map[string]string](db, "keys")[k.key]; !ok {
		return 0
	}
	return e.versions(db)[k.key] + 1
}

// stamp of a key differs whenever the key has changed, also if it is gone again.
func (e *engine) stamp(k dbKey) uint {
	db := (*e.dbs)[k.db]
	if db == nil {
		return 0
	}
	n := 2 * e.versions(db)[k.key]
	if _, ok := field[map[string]string](db, "keys")[k.key]; ok {
		n++
	}
	return n
}

// changed notes a change that miniredis does not count.
func (e *engine) changed(k dbKey) {
	if db := (*e.dbs)[k.db]; db != nil {
		e.versions(db)[k.key]++
	}
}

// keys returns the number of keys of a database, and of those with a TTL.
func (e *engine) keys(db int) (all, volatile int) {
	d := (*e.dbs)[db]
	if d == nil {
		return 0, 0
	}
	return len(field[map[string]string](d, "keys")), len(e.ttls(d))
}

// names returns the keys of a database, sorted.
func (e *engine) names(db int) []string {
	d := (*e.dbs)[db]
	if d == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(field[map[string]string](d, "keys")))
}

// kind is the type of a key as TYPE tells it, "" for one that does not exist.
func (e *engine) kind(db int, key string) string {
	if d := (*e.dbs)[db]; d != nil {
		return field[map[string]string](d, "keys")[key]
	}
	return ""
}

// expires reports whether a key has a TTL.
func (e *engine) expires(db int, key string) bool {
	d := (*e.dbs)[db]
	if d == nil {
		return false
	}
	_, ok := e.ttls(d)[key]
	return ok
}

// expiry tells when a key expires, if it exists and has a TTL.
func (e *engine) expiry(k dbKey) (at time.Time, exists, volatile bool) {
	d := (*e.dbs)[k.db]
	if d == nil || e.kind(k.db, k.key) == "" {
		return time.Time{}, false, false
	}
	ttl, ok := e.ttls(d)[k.key]
	return e.last.Add(ttl), true, ok
}

// persist takes away the TTL of a key.
func (e *engine) persist(k dbKey) {
	if d := (*e.dbs)[k.db]; d != nil {
		delete(e.ttls(d), k.key)
	}
}

// volatile reports whether any key has a TTL.
func (e *engine) volatile() bool {
	for _, db := range *e.dbs {
		if len(e.ttls(db)) > 0 {
			return true
		}
	}
	return false
}

// crowded reports whether there are so many TTLs that expiry may be a millisecond off, for the sake of speed.
func (e *engine) crowded() bool {
	n := 0
	for _, db := range *e.dbs {
		n += len(e.ttls(db))
	}
	return n > 100
}

// tick moves the clock to now, removes the keys that expired, and returns them.
func (e *engine) tick(now time.Time) (expired []dbKey) {
	e.m.SetTime(now)
	elapsed := now.Sub(e.last)
	if elapsed <= 0 || elapsed < time.Millisecond && e.crowded() {
		return nil
	}
	e.last = now
	for id, db := range *e.dbs {
		ttls := e.ttls(db)
		for key, ttl := range ttls {
			if ttl -= elapsed; ttl > 0 {
				ttls[key] = ttl
				continue
			}
			db.Del(key)
			delete(ttls, key)
			expired = append(expired, dbKey{id, key})
		}
	}
	return expired
}

func (e *engine) has(command string) bool { return e.srv.IsRegisteredCommand(command) }

// engineBuffer catches what miniredis writes.
type engineBuffer struct {
	buf bytes.Buffer
	w   *bufio.Writer
}

func (b *engineBuffer) peer() *server.Peer {
	b.w = bufio.NewWriter(&b.buf)
	return server.NewPeer(b.w)
}

// run has miniredis run a command and returns its reply, which the next run overwrites.
func (e *engine) run(p *server.Peer, b *engineBuffer, args ...string) (out []byte) {
	b.buf.Reset()
	defer func() {
		if v := recover(); v != nil {
			// miniredis may have panicked with its lock held; nobody else uses it.
			_ = e.m.TryLock()
			e.m.Unlock()
			b.w.Reset(&b.buf)
			var r reply
			r.errorf("ERR the fake server failed in %s: %v", args[0], v)
			out = r.b
		}
	}()
	e.srv.Dispatch(p, args)
	_ = b.w.Flush()
	out = b.buf.Bytes()
	if end := skipReply(out, 0); end > 0 { // miniredis answers some commands on keys of another type twice
		out = out[:end]
	}
	return out
}
