package containers

import (
	"os"
	"sync"
	"testing"
)

// The images of these tests come from no registry, and then that of Ryuk does not either.
func TestMain(m *testing.M) {
	if _, set := os.LookupEnv("TESTCONTAINERS_RYUK_DISABLED"); !set {
		_ = os.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
	}
	os.Exit(m.Run())
}

// sweepAgain makes the next sweep the first of this program.
func sweepAgain() { swept = sync.Once{} }
