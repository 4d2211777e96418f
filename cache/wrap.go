package cache

import (
	"context"
	"errors"
	"iter"
	"sync"
)

// Wrap returns a function that answers from the cache and calls load for what is not there: a drop-in for load.
//
//	getUser := cache.Wrap(users, repo.User)
func Wrap[K comparable, V any](c *Cache[K, V], load func(context.Context, K) (V, error)) func(context.Context, K) (V, error) {
	return func(ctx context.Context, key K) (V, error) { return c.GetOrLoad(ctx, key, load) }
}

// WrapWith is Wrap for a loader that says how its values are kept.
func WrapWith[K comparable, V any](c *Cache[K, V], load func(context.Context, *Load[K, V]) (V, error)) func(context.Context, K) (V, error) {
	return func(ctx context.Context, key K) (V, error) { return c.GetOrLoadWith(ctx, key, load) }
}

// Invalidating returns a function that calls save and then, if that succeeded, invalidates the keys and tags that of names for
// its argument. The function's error is that of save; if the invalidation fails it is that of the invalidation, joined
// with [ErrSaved], since what was saved is saved.
//
//	saveUser := cache.Invalidating(users, repo.Save, func(u *User) ([]int64, []string) { return []int64{u.ID}, []string{u.Team} })
//
// If save runs in a transaction that is committed later, invalidate after the commit instead: a load in between would bring
// the old value back. An invalidation that is queued ([ErrQueued]) is no error here.
func Invalidating[K comparable, V, A any](c *Cache[K, V], save func(context.Context, A) error, of func(A) (keys []K, tags []string)) func(context.Context, A) error {
	return func(ctx context.Context, arg A) error {
		if err := save(ctx, arg); err != nil {
			return err
		}
		keys, tags := of(arg)
		// Saved is saved: the caller's leaving must not leave the old value behind.
		ctx = context.WithoutCancel(ctx)
		err := errors.Join(ignoreQueued(c.Delete(ctx, keys...)), ignoreQueued(c.InvalidateTags(ctx, tags...)))
		if err != nil {
			return errors.Join(ErrSaved, err)
		}
		return nil
	}
}

// ErrSaved is in the error of a function made by [Invalidating] whose save succeeded and whose invalidation did not.
var ErrSaved = errors.New("redisx: cache: saved, but not invalidated")

func ignoreQueued(err error) error {
	if errors.Is(err, ErrQueued) {
		return nil
	}
	return err
}

// Warm loads keys that are not in the cache, concurrency at a time (at least 1), and reports each: progress, which may be nil,
// gets the key, the number done so far, and the error of its load, one call at a time. It ends with ctx; otherwise its error
// is a *[BatchError] of what failed. [ErrNotFound] is no failure.
func (c *Cache[K, V]) Warm(ctx context.Context, keys iter.Seq[K], concurrency int, load func(context.Context, K) (V, error), progress func(key K, done int, err error)) error {
	if load == nil {
		return errNoLoader
	}
	todo := make(chan K)
	var (
		mu   sync.Mutex
		done int
		errs = map[K]error{}
		wg   sync.WaitGroup
	)
	for range max(1, concurrency) {
		wg.Go(func() {
			for key := range todo {
				_, err := c.GetOrLoad(ctx, key, load)
				if errors.Is(err, ErrNotFound) {
					err = nil
				}
				mu.Lock()
				if done++; err != nil {
					errs[key] = err
				}
				if progress != nil {
					progress(key, done, err)
				}
				mu.Unlock()
			}
		})
	}
feed:
	for key := range keys {
		select {
		case todo <- key:
		case <-ctx.Done():
			break feed
		}
	}
	close(todo)
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(errs) > 0 {
		return &BatchError[K]{Errors: errs}
	}
	return nil
}
