// Package drivertest holds the promises of package driver as named tests, so that two drivers that pass are interchangeable.
//
// A driver's own tests call [Run] with a way to open it and the URL of a running server:
//
//	func TestConformance(t *testing.T) {
//		drivertest.Run(t, drivertest.Config{
//			Open: func(ctx context.Context, url string) (driver.Driver, error) { return mydriver.Open(ctx, url) },
//			URL:  "redis://127.0.0.1:6379",
//		})
//	}
//
// Every sentence of the contract in package driver is a subtest that carries its name, for instance
//
//	TestConformance/Open/together/retries/a_write_whose_reply_is_lost_is_sent_once
//
// The suite talks to the server in three ways: through the driver under test; through a connection of its own, which says
// what the server really holds; and through a proxy between the two that loses replies, holds traffic back, refuses
// connections and keeps a list of every request it saw. What a real server cannot be made to say (malformed replies, rare
// RESP3 types, a LOADING that lasts) comes from a [Scripted] server, which driver authors may use in tests of their own.
//
// Cases use random keys and leave other keys alone. Those that touch the whole server (SCRIPT FLUSH, FLUSHDB, restart)
// run one at a time and only if [Config] allows them; whatever cannot run is skipped with the reason.
//
// Durations are asserted only where the contract promises a bound, with room for a busy machine: a call has to return
// 250 ms after its context ended at the latest, five times [driver.PromptCancel].
package drivertest
