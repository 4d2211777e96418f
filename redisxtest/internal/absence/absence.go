// Package absence ends tests for want of a server, a program or an engine, and sees that it does not go unnoticed.
package absence

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// EnvRequire lists what must be there.
const EnvRequire = "REDISX_TEST_REQUIRE"

// requirable is what EnvRequire may list.
var requirable = []string{"server", "cluster", "sentinel", "container", "clock"}

// required reports whether the environment insists on what.
func required(what string) (bool, error) {
	yes := false
	for word := range strings.SplitSeq(os.Getenv(EnvRequire), ",") {
		word = strings.TrimSpace(word)
		if word != "" && !slices.Contains(requirable, word) {
			return false, fmt.Errorf("%s lists %q; it may list %s", EnvRequire, word, strings.Join(requirable, ", "))
		}
		yes = yes || word == what
	}
	return yes, nil
}

// Skip ends the test because what is missing, as a failure if it is required, and never silently.
func Skip(t testing.TB, what, format string, args ...any) {
	t.Helper()
	reason := fmt.Sprintf(format, args...)
	must, err := required(what)
	if err != nil {
		t.Fatalf("redisxtest: %v", err)
	}
	if must {
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
