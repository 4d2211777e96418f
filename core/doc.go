// Package core connects the toolkit to a Redis or Valkey server. Every plugin takes a [Client]; an application makes one
// for each server it uses.
//
//	d, err := goredisdriver.Open(ctx, "redis://localhost:6379")   // or rueidisdriver.Open
//	client, err := core.New(d, core.WithKeyPrefix("shop:"))
//	defer client.Close()
//
// A Client is a driver plus what every plugin needs once:
//
//   - a deadline for each command ([WithCommandTimeout]), so that no call hangs when the server is a black hole;
//   - group commit: commands of concurrent callers share a round trip, with no timer and no added delay ([WithoutBatching]);
//   - a circuit breaker, so that a dead server costs microseconds and not a timeout for each request ([WithBreaker]);
//   - errors with one question for plugins, errors.Is(err, [ErrUnavailable]), and one for writers, [ErrUnknownOutcome];
//   - scripts that survive restarts and failovers ([Script]), and keys that neither collide nor split slots ([Keyspace]);
//   - hooks for metrics and traces ([Hook]), which cost one nil check when there are none;
//   - [Client.Health], and [Group] for several servers with one readiness handler.
//
// What it does not do: it does not retry writes. A write whose reply was lost is reported as [ErrUnknownOutcome]; whether
// to repeat it is for the caller to decide, who knows whether that is safe.
package core
