package redisxtest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Environment variables of this package.
const (
	// EnvURL names a server to test against instead of starting one: a connection URL as core.ParseURL takes it.
	EnvURL = "REDISX_TEST_URL"
	// EnvBinaries lists the programs to start, separated as in PATH, instead of what is found on PATH.
	EnvBinaries = "REDISX_SERVER_BIN"
	// EnvRequire lists what must be there, separated by commas: server, cluster, sentinel, container. What is listed fails
	// a test where it would be skipped.
	EnvRequire = "REDISX_TEST_REQUIRE"
)

// required reports whether the environment insists on what.
func required(what string) bool {
	return slices.ContainsFunc(strings.Split(os.Getenv(EnvRequire), ","), func(s string) bool { return strings.TrimSpace(s) == what })
}

// skip ends the test because what is missing, as a failure if it is required, and never silently.
func skip(t testing.TB, what, format string, args ...any) {
	t.Helper()
	reason := fmt.Sprintf(format, args...)
	if required(what) {
		t.Fatalf("redisxtest: %s, and %s requires %q", reason, EnvRequire, what)
	}
	skipped.note(what, reason)
	t.Skipf("redisxtest: %s (%s=%s makes this a failure)", reason, EnvRequire, what)
}

// skipped holds what has been reported already: each reason is said once on standard error.
var skipped = skips{seen: map[string]bool{}}

type skips struct {
	sync.Mutex
	seen map[string]bool
}

func (s *skips) note(what, reason string) {
	s.Lock()
	defer s.Unlock()
	if s.seen[what+reason] {
		return
	}
	s.seen[what+reason] = true
	fmt.Fprintf(os.Stderr, "redisxtest: SKIPPED, %s: %s (%s=%s makes this a failure)\n", what, reason, EnvRequire, what)
}
