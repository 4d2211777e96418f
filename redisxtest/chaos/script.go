package chaos

import (
	"errors"
	"fmt"
	"strings"
)

// Script is a seed and rules, in the order in which they are asked. The zero value does nothing.
type Script struct {
	// Seed decides what is left to chance: probabilities and spans of latency.
	Seed uint64
	// Rules are what may happen.
	Rules []Rule
}

// Check returns an error that lists every rule that cannot be, nil if there is none. Some rules are for drivers and some for
// a [Proxy] only, which [Wrap] and [NewProxy] look at.
func (s Script) Check() error { return s.check(func(Rule) string { return "" }) }

// check is Check with a question more: what is wrong with a rule where it is meant to work.
func (s Script) check(fits func(Rule) string) error {
	var errs []error
	for i, r := range s.Rules {
		wrong := r.check()
		if wrong == "" {
			wrong = fits(r)
		}
		if wrong != "" {
			errs = append(errs, fmt.Errorf("chaos: rule %d: %s", i+1, wrong))
		}
	}
	return errors.Join(errs...)
}

// String returns the script as text, one line for the seed and one for each rule. [Parse] reads it back.
func (s Script) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d\n", s.Seed)
	for _, r := range s.Rules {
		b.WriteString(r.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// comment makes a comment of a text of any number of lines.
func comment(text string) string { return "# " + strings.ReplaceAll(text, "\n", "\n# ") }
