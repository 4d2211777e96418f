package cache

import (
	"context"
	"time"

	"github.com/go-redisx/redisx/core"
)

// What is counted. Hooks get the counts as events, see events.
const (
	statLocalHits = iota
	statLocalNegative
	statRemoteHits
	statRemoteNegative
	statRemoteMisses
	statRemoteErrors
	statMisses
	statStale
	statLoads
	statLoadErrors
	statLoadsShared
	statLoadsElsewhere
	statReadsShared
	statFills
	statFillsRejected
	statFillsFailed
	statSoftTimeouts
	statHardTimeouts
	statInvalidatedKeys // by this process
	statInvalidatedTags
	statInvalidatedClears
	statToldKeys // by the feed
	statToldTags
	statToldAll
	statEvictions
	statCodecErrors
	statLost
	statQueueOverflow
	statShadowChecks
	statShadowDifferent
	statMutations
	statCount
)

// Stats is what a cache did since New, all scopes together. Counts are exact, but those of calls under way may be missing.
type Stats struct {
	// LocalHits and LocalNegative are calls answered by the local tier: with a value, with ErrNotFound. Peek counts hits.
	LocalHits, LocalNegative int64
	// RemoteHits, RemoteNegative and RemoteMisses are what Redis answered to the others; RemoteErrors is how often it
	// could not.
	RemoteHits, RemoteNegative, RemoteMisses, RemoteErrors int64
	// Misses are calls that found nothing: without loader, or with one that returned ErrNotFound.
	Misses int64
	// StaleServed are calls answered with a value beyond its time to live.
	StaleServed int64

	// Loads are calls of loaders, LoadErrors those that failed. LoadsShared are calls that waited for the load of another
	// call in this process, LoadsElsewhere loads that another process did. ReadsShared are calls that waited for the read
	// of another.
	Loads, LoadErrors, LoadsShared, LoadsElsewhere, ReadsShared int64
	// Fills are loaded values stored in Redis; FillsRejected were invalidated during their load; FillsFailed could not be
	// stored (Redis unavailable or out of memory, value too large, a tag invalidated).
	Fills, FillsRejected, FillsFailed int64
	// SoftTimeouts and HardTimeouts are callers who waited for a load for too long.
	SoftTimeouts, HardTimeouts int64

	// InvalidationsLocal are keys, tags and clears invalidated by this process; InvalidationsRemote is what the transport
	// told of, own ones and fills included where it tells of those.
	InvalidationsLocal, InvalidationsRemote int64
	// CoherenceLost is how often invalidations may have been missed; Trusted is whether none are missed now. Without a
	// transport it is true.
	CoherenceLost int64
	Trusted       bool
	// Gaps are messages found missing, Malformed those that could not be read, MessagesSent those that this process sent.
	Gaps, Malformed, MessagesSent int64
	// InvalidationLag is how long the last of this process's own changes (or heartbeats) took until it was told back.
	InvalidationLag time.Duration
	// Queued is how many invalidations wait for Redis; QueueOverflows how often there were too many.
	Queued         int
	QueueOverflows int64

	// Entries and Weight are what the local tier holds, entries that expired and were not swept yet included; Weight is 0
	// unless it is bounded by bytes. Evictions are entries for which there was no room.
	Entries   int
	Weight    uint64
	Evictions int64
	// CodecErrors are values in Redis that could not be read.
	CodecErrors int64
	// ShadowChecks and ShadowDifferent are hits compared with a load, and those that differed. Mutations are values that a
	// caller changed.
	ShadowChecks, ShadowDifferent, Mutations int64
}

// Stats returns what the cache did so far.
func (c *Cache[K, V]) Stats() Stats {
	n := c.stat.sum
	s := Stats{
		LocalHits: n(statLocalHits), LocalNegative: n(statLocalNegative),
		RemoteHits: n(statRemoteHits), RemoteNegative: n(statRemoteNegative), RemoteMisses: n(statRemoteMisses), RemoteErrors: n(statRemoteErrors),
		Misses: n(statMisses), StaleServed: n(statStale),
		Loads: n(statLoads), LoadErrors: n(statLoadErrors), LoadsShared: n(statLoadsShared), LoadsElsewhere: n(statLoadsElsewhere), ReadsShared: n(statReadsShared),
		Fills: n(statFills), FillsRejected: n(statFillsRejected), FillsFailed: n(statFillsFailed),
		SoftTimeouts: n(statSoftTimeouts), HardTimeouts: n(statHardTimeouts),
		InvalidationsLocal:  n(statInvalidatedKeys) + n(statInvalidatedTags) + n(statInvalidatedClears),
		InvalidationsRemote: n(statToldKeys) + n(statToldTags) + n(statToldAll),
		CoherenceLost:       n(statLost), Trusted: trusted(c.word.Load()),
		Queued: c.queue.len(), QueueOverflows: n(statQueueOverflow),
		Evictions: n(statEvictions), CodecErrors: n(statCodecErrors),
		ShadowChecks: n(statShadowChecks), ShadowDifferent: n(statShadowDifferent), Mutations: n(statMutations),
	}
	if c.feed != nil {
		f := c.feed.stats()
		s.Gaps, s.Malformed, s.MessagesSent = int64(f.gaps), int64(f.malformed), int64(f.sent)
		s.InvalidationLag = f.lag
	}
	if c.local != nil {
		s.Entries, s.Weight = c.local.len(), c.local.weight()
	}
	return s
}

// events are the counts that hooks get as core.Event, once a second and at Close, with the number since the last in Value: a
// hit of 30 ns cannot afford a call for itself.
var events = [statCount]struct{ name, kind string }{
	statLocalHits: {"requests", "l1_hit"}, statLocalNegative: {"requests", "l1_negative"},
	statRemoteHits: {"requests", "l2_hit"}, statRemoteNegative: {"requests", "l2_negative"},
	statRemoteMisses: {"requests", "l2_miss"}, statRemoteErrors: {"requests", "l2_error"},
	statMisses:      {"requests", "miss"},
	statLoadsShared: {"loads_coalesced", "local"}, statLoadsElsewhere: {"loads_coalesced", "distributed"},
	statReadsShared:  {"reads_coalesced", "local"},
	statFills:        {"fill", "stored"},
	statSoftTimeouts: {"load_timeouts", "soft"}, statHardTimeouts: {"load_timeouts", "hard"},
	statInvalidatedKeys: {"invalidations", "key_local"}, statInvalidatedTags: {"invalidations", "tag_local"},
	statInvalidatedClears: {"invalidations", "clear_local"}, statToldKeys: {"invalidations", "key_remote"},
	statToldTags: {"invalidations", "tag_remote"}, statToldAll: {"invalidations", "all_remote"},
	statEvictions: {"evictions", "size"}, statMutations: {"mutations", "found"},
	statShadowChecks: {"shadow", "checked"}, statShadowDifferent: {"shadow", "different"},
}

const (
	housekeepingEvery = time.Second
	sweepSlice        = 4096
)

// housekeeping drops what is over from time to time and tells hooks the counts.
func (e *engine[K, V]) housekeeping() {
	tick := time.NewTicker(housekeepingEvery)
	defer tick.Stop()
	var last told
	for n := 1; ; n++ {
		select {
		case <-e.ctx.Done():
			e.tellCounts(&last)
			return
		case <-tick.C:
		}
		e.tellCounts(&last)
		e.sweepLocal()
		if n%10 == 0 {
			e.sweep()
			e.sweepPauses()
			e.sweepTags()
		}
	}
}

// told is what hooks were told last.
type told struct {
	stats [statCount]int64
	feed  feedStats
}

func (e *engine[K, V]) tellCounts(last *told) {
	if e.client == nil || !e.client.Hooked() {
		return
	}
	for i := range events {
		if events[i].name == "" {
			continue
		}
		if now := e.stat.sum(i); now != last.stats[i] {
			e.emit(events[i].name, events[i].kind, float64(now-last.stats[i]))
			last.stats[i] = now
		}
	}
	if e.feed != nil {
		now, old := e.feed.stats(), last.feed
		last.feed = now
		e.emitSome("messages", "received", now.received-old.received)
		e.emitSome("messages", "sent", now.sent-old.sent)
		e.emitSome("messages", "gap", now.gaps-old.gaps)
		e.emitSome("messages", "malformed", now.malformed-old.malformed)
		if now.lag != 0 {
			e.emit("invalidation_lag", "echo", now.lag.Seconds())
		}
	}
	if e.local != nil {
		e.emit("entries", "l1", float64(e.local.len()))
		e.emit("bytes", "l1", float64(e.local.weight()))
	}
	if n := e.queue.len(); n > 0 {
		e.emit("queue", "waiting", float64(n))
	}
}

func (e *engine[K, V]) emitSome(name, kind string, n uint64) {
	if n > 0 {
		e.emit(name, kind, float64(n))
	}
}

// sweepLocal drops entries of no further use, a slice at a time.
func (e *engine[K, V]) sweepLocal() {
	if e.local == nil {
		return
	}
	now := e.clock.now()
	dead := func(x *entry[V]) bool { return e.judge(x, now) == none || !x.deps.valid() }
	e.local.sweep(dead)
}

func (e *engine[K, V]) sweepPauses() {
	now := e.clock.now()
	for i := range e.shards {
		sh := &e.shards[i]
		sh.mu.Lock()
		for key, p := range sh.pauses {
			if now >= max(p.refresh, p.load) {
				delete(sh.pauses, key)
			}
		}
		sh.mu.Unlock()
	}
}

// loading begins the operation of a load, for hooks.
func (c *Cache[K, V]) loading(ctx context.Context, f *flight[K, V]) context.Context {
	if c.client == nil || !c.client.Hooked() {
		return ctx
	}
	f.op = core.Operation{Plugin: "cache", Verb: "load", Name: c.name, Key: f.t.id}
	ctx, f.span = c.client.StartOperation(ctx, &f.op)
	return ctx
}

// loaded ends it. The outcome is ok, not_found, timeout, panic or error.
func (c *Cache[K, V]) loaded(ctx context.Context, f *flight[K, V], err error) {
	f.span.End(ctx, loadOutcome(err), err)
	c.emit("refreshes", f.reason, 1)
}
