package chaos

import (
	"fmt"
	"strings"
	"testing"
)

// Report attaches the script and the log of a driver to a test that fails, and names the rules that did nothing. Call it once,
// right after [Wrap].
func Report(t testing.TB, d Driver) {
	t.Helper()
	t.Cleanup(func() {
		t.Helper()
		if t.Failed() {
			t.Log(report(d))
		}
	})
}

func report(d Driver) string { return d.wrapper().report() }

func (j *judge) report() string {
	var b strings.Builder
	fmt.Fprintf(&b, "chaos: the script was\n%s", j.script)
	log := j.log()
	fmt.Fprintf(&b, "chaos: faults: %d; as a script these lines cause the same\n", len(log))
	for _, line := range log {
		b.WriteString(line + "\n")
	}
	rules, seen := j.idle()
	for i, r := range rules {
		fmt.Fprintf(&b, "chaos: this rule did nothing, of %d matches: %s\n", seen[i], r)
	}
	return b.String()
}
