// Package goredisdriver is the [driver.Driver] over go-redis (github.com/redis/go-redis/v9).
//
// Use [Open] to connect by URL, or [New] to use a client that the application already has:
//
//	d, err := goredisdriver.Open(ctx, "redis://localhost:6379/0")
//	...
//	client, err := core.New(d)
//
// It keeps every promise of package driver on a single server, behind Sentinels and on a Cluster, also with a client
// given to New that was made with go-redis' defaults: writes are sent at most once (go-redis itself sends a command up to
// four times when replies get lost), cancellation and deadlines end a call within 50 ms (go-redis waits for its read
// timeout), and in a Cluster commands follow the keys the caller names (go-redis guesses).
//
// What to know when running it:
//
//   - When ctx ends during a command, its connection is closed (Open), or kept until the reply arrives or the client's
//     read timeout passes (New: there such a call runs on a pooled goroutine, which costs a few microseconds; a ctx of
//     context.Background or driver.UntilDeadline avoids that, the latter if the client has ContextTimeoutEnabled). Close
//     waits for such calls too: on a server that does not answer as long as the client's pool and read timeouts.
//   - Blocking commands, dedicated connections, subscriptions and trackings have connections outside of the client's
//     pools, opened with its address, TLS, credentials, database and OnConnect.
//   - go-redis logs failures to connect on standard error. redis.SetLogger changes that for the whole process.
package goredisdriver
