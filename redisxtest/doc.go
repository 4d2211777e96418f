// Package redisxtest gives tests a Redis: an in-process fake that needs nothing installed, and real servers started and
// stopped with the test.
//
//	func TestCheckout(t *testing.T) {
//		redisxtest.Each(t, func(t *testing.T, c *core.Client) {
//			// runs with go-redis and rueidis, on the fake and on every redis-server or valkey-server found
//		})
//	}
//
// [NewFake] is for unit tests: it starts in a millisecond, its clock can be moved, and it fails on command; [NewFakeCluster] is
// several of them as a Redis Cluster.
// [StartServer] is a real process of the test's own, which can be paused, killed and restarted, and made to fail in the ways
// that servers fail: without memory, read-only, loading, busy, with a wrong clock. [StartReplica] adds a replica to it.
// [StartCluster] and [StartSentinel] start deployments out of plain processes, which fail over and move slots.
// [SharedServer], [SharedCluster] and [SharedSentinel] are one per test program, for tests that break nothing; [Prefix] keeps
// those apart. Package chaos puts faults between a client and any driver, on the
// wire to any server, and on servers at set times; module containers starts versions that are not installed.
//
// # Checks
//
// Checks fail a test for what is easily overlooked. [RoundTrips], [CommandCount] and [SlotsTouched] watch what a function sends
// through a driver from [Record], with any server; [OneSlot] finds a missing hash tag. [AllKeysHaveTTL], [TTLWithin] and
// [NoOrphanKeys] look at the keys, in Cluster on every primary. [NoLeaks] finds goroutines, connections and subscriptions that
// were left. [Linearizable] judges what concurrent clients saw, lost replies included. [Eventually] waits for what takes time.
//
// # What is run and what is skipped
//
// Real servers are started from redis-server and valkey-server on PATH, or from the programs that REDISX_SERVER_BIN lists; a
// directory in it stands for every program in it and in its direct sub-directories.
// REDISX_TEST_URL names a server to use instead. Where there is none the test is skipped, which is reported once on
// standard error; REDISX_TEST_REQUIRE=server,cluster,sentinel,container,clock turns the skips it lists into failures, for CI.
//
// # What the fake is not
//
// The fake has no replicas, modules, functions or persistence. A command or an option it lacks is an error and never a
// guess; in scripts, cmsgpack and struct are missing and some errors are worded differently. Whatever must hold in production
// is tested on a real server too, which is what Each does.
package redisxtest
