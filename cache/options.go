package cache

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Option configures a [Cache].
type Option interface{ apply(*config) }

type option func(*config)

func (f option) apply(c *config) { f(c) }

type config struct {
	ttl    time.Duration
	jitter float64

	local       bool
	entries     int
	localBytes  int64
	localMaxAge time.Duration
	remote      bool

	swr, sie        time.Duration
	sieWhen         func(error) bool
	sieThrottle     time.Duration
	beta            float64
	softTimeout     time.Duration
	hardTimeout     time.Duration
	detached        bool
	maxLoads        int
	loadContext     func(context.Context) context.Context
	lease           time.Duration
	negative        time.Duration
	negativeSet     bool
	coherence       Coherence
	untrustedStale  time.Duration
	codec           Codec
	compressAbove   int
	compressBy      compression
	keys            []EncryptionKey
	maxValue        int
	queue           int
	mutation        func(key string)
	shadow          float64
	shadowDifferent func(key string)

	clock *clock // of tests
}

func defaults() config {
	return config{
		ttl: 5 * time.Minute, jitter: 0.1,
		local: true, entries: 10_000, localMaxAge: time.Minute, remote: true,
		sieThrottle: 5 * time.Second, beta: 1, hardTimeout: 30 * time.Second, lease: 10 * time.Second,
		coherence: PubSub, codec: JSON, compressBy: compressS2, maxValue: 8 << 20, queue: 10_000,
	}
}

// WithTTL sets how long a value is fresh. The default is 5 minutes, the least 1 ms. [WithJitter] shortens it at random.
func WithTTL(d time.Duration) Option { return option(func(c *config) { c.ttl = d }) }

// WithJitter shortens each value's time to live by a random part of at most this fraction, 0 to 0.9, so that what was stored
// together does not expire together. The default is 0.1.
func WithJitter(fraction float64) Option { return option(func(c *config) { c.jitter = fraction }) }

// WithLocal sizes the local tier: at most this many entries, each used for at most maxAge before Redis is asked again, which
// bounds what a missed invalidation can do. The age never exceeds what is left of the value's own time to live. The
// defaults are 10 000 entries and 1 minute.
func WithLocal(entries int, maxAge time.Duration) Option {
	return option(func(c *config) { c.local, c.entries, c.localBytes, c.localMaxAge = true, entries, 0, maxAge })
}

// WithLocalBytes is WithLocal with a bound on the sum of the sizes that values have when encoded, and about 100 bytes each.
func WithLocalBytes(bytes int64, maxAge time.Duration) Option {
	return option(func(c *config) { c.local, c.entries, c.localBytes, c.localMaxAge = true, 0, bytes, maxAge })
}

// WithoutLocal leaves the local tier out: every hit is one command to Redis.
func WithoutLocal() Option { return option(func(c *config) { c.local = false }) }

// WithoutRemote leaves Redis out: the client given to [New] may be nil, and invalidations are those of this process.
func WithoutRemote() Option { return option(func(c *config) { c.remote = false }) }

// WithStaleWhileRevalidate lets calls with a loader return a value for up to d after its time to live, while one load in the
// background replaces it (RFC 5861). The default is 0: off. Get and Peek never return such a value.
func WithStaleWhileRevalidate(d time.Duration) Option { return option(func(c *config) { c.swr = d }) }

// WithStaleIfError keeps values for d after their time to live, to be returned when a load fails (RFC 5861). The default is 0:
// off. See [WithStaleIfErrorWhen] for which failures, and [WithStaleIfErrorThrottle] for how often the loader is tried.
func WithStaleIfError(d time.Duration) Option { return option(func(c *config) { c.sie = d }) }

// WithStaleIfErrorWhen chooses the failures of a load that are answered with a stale value. The default is all of them but
// [ErrNotFound], which is an answer. A predicate that panics counts as true.
func WithStaleIfErrorWhen(when func(error) bool) Option {
	return option(func(c *config) { c.sieWhen = when })
}

// WithStaleIfErrorThrottle sets how long a stale value is returned after a failed load before the next load is tried, in
// this process. The default is 5 s; 0 tries at every call.
func WithStaleIfErrorThrottle(d time.Duration) Option {
	return option(func(c *config) { c.sieThrottle = d })
}

// WithEarlyRefresh sets beta of the probabilistic early refresh (XFetch, Vattani et al., VLDB 2015): a value is loaded again
// in the background about beta times its load time before it expires, at a moment drawn once when it is stored. The
// default is 1; 0 turns it off; at most 1000.
func WithEarlyRefresh(beta float64) Option { return option(func(c *config) { c.beta = beta }) }

// WithLoadTimeout bounds loads. After soft a caller for whom there is a stale value gets that, while the load goes on; 0,
// the default, never does. After hard every caller gets [ErrLoadTimeout], or the stale value of [WithStaleIfError], and the
// context of the loader ends (but see [WithDetachedLoads]); the default is 30 s.
func WithLoadTimeout(soft, hard time.Duration) Option {
	return option(func(c *config) { c.softTimeout, c.hardTimeout = soft, hard })
}

// WithDetachedLoads lets a load finish and fill the cache also when all callers who waited for it have left or run into the
// hard timeout. By default its context is cancelled then. Close ends it all the same.
func WithDetachedLoads() Option { return option(func(c *config) { c.detached = true }) }

// WithMaxLoads bounds how many loads this cache runs at a time in this process; others wait, within the load timeout. A batch
// is one load. The default is 0: no bound.
func WithMaxLoads(n int) Option { return option(func(c *config) { c.maxLoads = n }) }

// WithLoadContext derives the context of loads from that of the caller who caused them, without its cancellation: to drop or
// to replace values, such as those of authentication. By default the first caller's values are kept. The function must be
// quick and must not call the cache; one that panics or returns nil changes nothing.
func WithLoadContext(f func(context.Context) context.Context) Option {
	return option(func(c *config) { c.loadContext = f })
}

// WithLease sets for how long an instance that loads a value may hold up the others before they assume that it died; it
// renews the lease while it loads. The default is 10 s, the least 100 ms.
func WithLease(d time.Duration) Option { return option(func(c *config) { c.lease = d }) }

// WithNegativeTTL sets how long [ErrNotFound] is remembered; 0 does not remember it. The default is a tenth of the time to live,
// at most 30 s.
func WithNegativeTTL(d time.Duration) Option {
	return option(func(c *config) { c.negative, c.negativeSet = d, true })
}

// Coherence is how the local tiers of all processes learn of changes.
type Coherence int

const (
	// PubSub has the instances tell each other of deletions, sets, tags and clears, and of no fills: what it costs grows with
	// the invalidations alone. What other programs do to the keys, FLUSHALL included, goes unnoticed for up to the maximal
	// age of WithLocal. The default.
	PubSub Coherence = iota
	// Tracking has the server tell of every changed key (CLIENT TRACKING in broadcast mode; Redis 6 and RESP3): also of what
	// other programs write, of expiry and of eviction. Every fill is told to every instance.
	Tracking
	// TTLOnly tells nobody anything: a local tier may serve what was deleted elsewhere for up to the maximal age of WithLocal.
	TTLOnly
)

// String returns "tracking", "pubsub" or "ttl-only".
func (c Coherence) String() string {
	switch c {
	case Tracking:
		return "tracking"
	case PubSub:
		return "pubsub"
	case TTLOnly:
		return "ttl-only"
	}
	return "invalid"
}

// WithCoherence chooses how local tiers are kept coherent. The default is [PubSub].
func WithCoherence(how Coherence) Option { return option(func(c *config) { c.coherence = how }) }

// WithStaleWhileDisconnected lets the local tier serve entries not older than d while invalidations may be missed, because
// the connection that tells of them is broken. The default is 0: then Redis is asked for everything.
func WithStaleWhileDisconnected(d time.Duration) Option {
	return option(func(c *config) { c.untrustedStale = d })
}

// WithCodec sets how values become bytes. The default is [JSON]. Values written with another codec are misses.
func WithCodec(codec Codec) Option { return option(func(c *config) { c.codec = codec }) }

// WithCompression compresses encoded values of at least minBytes, if that makes them smaller. The default is 0: off.
func WithCompression(minBytes int) Option {
	return option(func(c *config) { c.compressAbove = minBytes })
}

// WithEncryption encrypts values in Redis with AES-256-GCM. The first key encrypts, all of them decrypt: to rotate, put the
// new key first and keep the old one for as long as its values live. With keys, values that are not encrypted are misses.
// A value cannot be moved to another key nor its tags be changed; whoever can write to Redis can still put an older value
// of the same key back, or change its apparent age. Keys of Redis, tags and ETags are not encrypted, and sizes show.
func WithEncryption(keys ...EncryptionKey) Option {
	return option(func(c *config) { c.keys = append([]EncryptionKey{}, keys...) })
}

// WithMaxValueSize bounds the size of an encoded value, before compression. Set refuses a larger one with [ErrTooLarge]; one
// that was loaded is returned and not kept. The default is 8 MiB.
func WithMaxValueSize(bytes int) Option { return option(func(c *config) { c.maxValue = bytes }) }

// WithRecoveryQueue bounds how many invalidations are remembered while Redis is unavailable. Beyond that the whole cache is
// cleared when it is back. The default is 10 000; 0 clears after any outage in which something was invalidated.
func WithRecoveryQueue(n int) Option { return option(func(c *config) { c.queue = n }) }

// WithMutationCheck is for tests: it finds code that changes a value it got from the cache, which all callers share. At each
// local hit the value is encoded and compared with what was stored; report gets the encoded key, and the entry is dropped.
// It makes hits a hundred times slower.
func WithMutationCheck(report func(key string)) Option {
	return option(func(c *config) { c.mutation = report })
}

// WithShadowCheck loads a sample of hits of calls with a loader again, in the background, and compares: rate 0.01 is one of
// a hundred. What differs is counted in [Stats] and told to report, which may be nil, with the encoded key. The cache is
// not changed. A value that changed just now and was not invalidated yet differs too: judge the rate, not one case.
func WithShadowCheck(rate float64, report func(key string)) Option {
	return option(func(c *config) { c.shadow, c.shadowDifferent = rate, report })
}

// withClock is for tests.
func withClock(k *clock) Option { return option(func(c *config) { c.clock = k }) }

// hard is how long a value of this time to live is kept.
func (c *config) hard(ttl time.Duration) time.Duration { return ttl + max(c.swr, c.sie) }

const maxDuration = 10 * 365 * 24 * time.Hour

func (c *config) validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("redisx: cache: "+format, args...))
	}
	within := func(name string, d, least time.Duration) {
		if d < least || d > maxDuration {
			fault("%s is %v; want %v to 10 years", name, d, least)
		}
	}
	within("time to live", c.ttl, time.Millisecond)
	if !(c.jitter >= 0 && c.jitter <= 0.9) {
		fault("jitter is %v; want 0 to 0.9", c.jitter)
	}
	if !c.local && !c.remote {
		fault("WithoutLocal and WithoutRemote leave no tier")
	}
	if c.local {
		if c.localBytes == 0 && c.entries < 1 {
			fault("local tier of %d entries; want at least 1, or WithoutLocal", c.entries)
		}
		if c.localBytes != 0 && c.localBytes < 1024 {
			fault("local tier of %d bytes; want at least 1024, or WithoutLocal", c.localBytes)
		}
		within("maximal age of the local tier", c.localMaxAge, time.Millisecond)
	}
	within("stale-while-revalidate", c.swr, 0)
	within("stale-if-error", c.sie, 0)
	within("throttle of stale-if-error", c.sieThrottle, 0)
	if !(c.beta >= 0 && c.beta <= 1000) {
		fault("beta of early refresh is %v; want 0 to 1000", c.beta)
	}
	within("hard load timeout", c.hardTimeout, time.Millisecond)
	if c.softTimeout < 0 || c.softTimeout > c.hardTimeout {
		fault("soft load timeout is %v; want 0 to the hard one, %v", c.softTimeout, c.hardTimeout)
	}
	if c.maxLoads < 0 {
		fault("at most %d loads; want 0 for no bound, or more", c.maxLoads)
	}
	within("lease", c.lease, 100*time.Millisecond)
	within("negative time to live", c.negative, 0)
	if c.coherence < PubSub || c.coherence > TTLOnly {
		fault("coherence is %d; want PubSub, Tracking or TTLOnly", c.coherence)
	}
	within("stale while disconnected", c.untrustedStale, 0)
	if c.codec == nil {
		fault("codec is nil; want JSON, Msgpack, Gob, Proto, Raw or your own")
	}
	if c.compressAbove < 0 {
		fault("compression from %d bytes; want 0 for none, or more", c.compressAbove)
	}
	if c.maxValue < 1 || c.maxValue > 512<<20 {
		fault("maximal value size is %d bytes; want 1 to 512 MiB", c.maxValue)
	}
	if c.queue < 0 {
		fault("recovery queue of %d; want 0 or more", c.queue)
	}
	if !(c.shadow >= 0 && c.shadow <= 1) {
		fault("rate of the shadow check is %v; want 0 to 1", c.shadow)
	}
	return errors.Join(faults...)
}

// EntryOption changes what [Cache.Set] stores.
type EntryOption interface{ applyEntry(*entryConfig) }

type entryOption func(*entryConfig)

func (f entryOption) applyEntry(c *entryConfig) { f(c) }

type entryConfig struct {
	ttl  time.Duration
	tags []string
	etag string
}

// TTL sets how long this value is fresh, instead of [WithTTL]. Jitter does not apply to it. It must be at least 1 ms.
func TTL(d time.Duration) EntryOption { return entryOption(func(c *entryConfig) { c.ttl = d }) }

// Tags stores the value under tags: [Cache.InvalidateTags] with any of them makes it invalid. A tag is any string of 1 to
// 512 bytes; a value has at most 64.
func Tags(tags ...string) EntryOption {
	return entryOption(func(c *entryConfig) { c.tags = append(c.tags, tags...) })
}

// ETag keeps a validator of at most 4096 bytes with the value, which a later load gets from [Load.Stale].
func ETag(etag string) EntryOption { return entryOption(func(c *entryConfig) { c.etag = etag }) }

const (
	maxTags   = 64
	maxTagLen = 512
	maxETag   = 4096
)

func checkETag(etag string) error {
	if len(etag) > maxETag {
		return fmt.Errorf("redisx: cache: an ETag has %d bytes; want at most %d", len(etag), maxETag)
	}
	return nil
}

// checkTags returns the tags without repetitions, or what is wrong with them.
func checkTags(tags []string) ([]string, error) {
	if len(tags) == 0 {
		return nil, nil
	}
	out := make([]string, 0, len(tags))
next:
	for _, tag := range tags {
		if tag == "" || len(tag) > maxTagLen {
			return nil, fmt.Errorf("redisx: cache: a tag has %d bytes; want 1 to %d", len(tag), maxTagLen)
		}
		for _, seen := range out {
			if seen == tag {
				continue next
			}
		}
		out = append(out, tag)
	}
	if len(out) > maxTags {
		return nil, fmt.Errorf("redisx: cache: %d tags; want at most %d", len(out), maxTags)
	}
	return out, nil
}
