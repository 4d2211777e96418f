// Package containers starts Redis and Valkey in containers, for tests of versions that are not installed. It is a module of
// its own, because testcontainers-go brings many dependencies along.
//
//	func TestOnValkey(t *testing.T) {
//		s := containers.StartValkey(t, "valkey/valkey:8.1")
//		d, err := rueidisdriver.Open(t.Context(), s.URL())
//		…
//	}
//
// A container ends with the test. It keeps its address over Pause, Kill and Restart, is reachable from this machine alone
// if the engine runs on it, and is removed by the next test program if this one was killed, which Ryuk is not needed for.
//
// Without an engine a test is skipped, which is said once on standard error, and fails if REDISX_TEST_REQUIRE lists
// "container". An image that is neither here nor to be had fails the test.
//
// # Without a registry of images
//
// servers.sh beside this file makes images of Debian's packages: redisxtest/redis:7.0, redisxtest/redis:8.0 and
// redisxtest/valkey:8.1. Set TESTCONTAINERS_RYUK_DISABLED=true then, since the image of Ryuk cannot be had either. The same
// script unpacks the programs into a folder for REDISX_SERVER_BIN, which needs no engine at all.
//
// # Within a container
//
// testcontainers-go takes the machine for a container if there is a file /.dockerenv, and looks for published ports at the
// gateway. Where the engine's own network interface is seen beside it, the ports are on 127.0.0.1: this package then sets
// TESTCONTAINERS_HOST_OVERRIDE to that, for the whole program, unless it is set already.
package containers
