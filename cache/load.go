package cache

import (
	"context"
	"errors"
	"time"
)

// Load is what a loader knows of its load and says about its result. It is for the loader's goroutine, until it returns.
type Load[K comparable, V any] struct {
	key         K
	stale       *entry[V]
	ttl         time.Duration
	tags        []string
	etag        string
	noStore     bool
	notModified bool
}

// Key returns the key to load.
func (l *Load[K, V]) Key() K { return l.key }

// Stale returns the value that was kept for its stale uses, and its ETag, for a conditional request. ok is false if there is
// none. It must not be changed.
func (l *Load[K, V]) Stale() (value V, etag string, ok bool) {
	if l.stale == nil {
		return value, "", false
	}
	return l.stale.value, l.stale.etag(), true
}

// NotModified says that the stale value still is the right one; return what it returns. The value gets a new time to live and
// keeps its tags and ETag, unless others were set. Without a stale value it is an error.
func (l *Load[K, V]) NotModified() (V, error) {
	if l.stale == nil {
		var zero V
		return zero, errNotModified
	}
	l.notModified = true
	return l.stale.value, nil
}

var errNotModified = errors.New("redisx: cache: NotModified without a stale value; see Load.Stale")

// SetTTL sets how long the value is fresh, instead of [WithTTL], without jitter; the least is 1 ms. For a load that returns
// [ErrNotFound] it is how long that is remembered.
func (l *Load[K, V]) SetTTL(d time.Duration) { l.ttl = max(d, time.Millisecond) }

// Tag stores the value under tags; see [Tags]. Tags that are no valid ones fail the load.
//
// Whether a tag was invalidated during the load is known for tags this process has met before. For a new one the value is
// not kept if any tag at all was invalidated in the meantime.
func (l *Load[K, V]) Tag(tags ...string) { l.tags = append(l.tags, tags...) }

// SetETag keeps a validator with the value; one of more than 4096 bytes fails the load.
func (l *Load[K, V]) SetETag(etag string) { l.etag = etag }

// NoStore has the value returned to those who wait for it, and not kept.
func (l *Load[K, V]) NoStore() { l.noStore = true }

type loadFunc[K comparable, V any] func(context.Context, *Load[K, V]) (V, error)
