// Package cache keeps what is expensive to compute near those who ask for it: decoded in the process (the local tier, L1),
// encoded in Redis (the remote tier, L2), and coherent between all processes.
//
//	users, err := cache.New[int64, *User](client, "users", cache.WithTTL(10*time.Minute))
//	…
//	u, err := users.GetOrLoad(ctx, 42, repo.User)   // from memory, from Redis, or loaded once in the whole fleet
//	err = users.Delete(ctx, 42)                     // after the database was changed
//
// Use it for values that are read much more often than they change, and that may be lost: Redis may evict them, and no call
// depends on Redis being there. It is no store, no queue and no lock. If a value is cheap to load and every process may have
// its own copy, [WithoutRemote] does without Redis.
//
// # What it guarantees
//
//   - One load. Calls that miss a key at the same time share a load: those of a process always, those of all processes by a
//     lease in Redis, as long as that answers. A caller who leaves ends his own wait alone. A loader that panics fails those
//     who wait ([PanicError]) and nobody after them.
//   - Nothing old after an invalidation. Once Set, Delete, Expire, InvalidateTags or Clear has returned nil, no call of that
//     process that starts afterwards returns what was loaded or stored before, and a load that was under way stores nothing,
//     in whichever process it runs. An expired value still answers when a load fails, if [WithStaleIfError] says so.
//   - Other processes follow within the time a message takes, under [Tracking] and [PubSub]; while messages may have been
//     missed their local tiers are not used. Under [TTLOnly] they follow when an entry has its maximal age ([WithLocal]).
//   - Redis being down is no error of a call with a loader. What is in memory and fresh is served, the rest is loaded, once
//     per key and process. Invalidations return [ErrQueued], hold in this process at once, and reach Redis when it is back.
//   - Tags fail closed: a tag whose version was lost (evicted, flushed) makes what was stored under it invalid.
//
// # What it does not guarantee
//
//   - Between the commit of a database and the Delete behind it, everybody reads the old value. If the process dies there, it
//     stays until its time to live is over. A loader that reads a replica of the database which lags may store an old value
//     after the Delete: read the primary in loaders, or delete once more when the replica has caught up.
//   - Redis replicates asynchronously. An invalidation that a failover loses is made again by the process that made it, if
//     that lives and the failover was within seconds of it; otherwise values may come back for the rest of their time to live.
//     After a restored snapshot, call Clear.
//   - After an error other than [ErrQueued] from Set, Delete, Expire, InvalidateTags or Clear it is not known whether Redis
//     did it; see each of them.
//
// # Values are shared
//
// A hit returns the value that all other hits return. Do not change it, nor what it points to; [WithMutationCheck] finds code
// that does. V should be immutable, or a struct that is copied.
//
// # Keys and memory in Redis
//
// A value lies under <client prefix>cache:<name>:{<key>}, its lease under cache-lease, versions of tags under cache-tag; all
// of them expire. The reference page of the documentation has the layout, every option, what hooks are told, and how to
// choose between the kinds of coherence.
package cache
