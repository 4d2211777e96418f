package redisxtest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// EnvArtifacts names a directory for what helps to understand a failure: see [Linearizable].
const EnvArtifacts = "REDISX_TEST_ARTIFACTS"

// linearTime is how long a check may take.
const linearTime = 30 * time.Second

// Model says how one thing at a time behaves: what an operation does to it and may return. [RegisterModel], [CounterModel],
// [LockModel] and [IdempotencyModel] are made; others are up to you. S is the state.
type Model[S, In comparable, Out any] struct {
	// Name is for failures, such as "counter".
	Name string
	// Init is the state before the first operation.
	Init S
	// Key tells things apart: operations of different keys do not matter to each other. Nil means that all are about one
	// thing. The fewer operations of a key, the faster the check.
	Key func(in In) string
	// Step reports whether an operation may have this outcome in this state, and the state after it. If the outcome is
	// Unknown it returns the state after it happened; false means that it cannot happen in this state, or changes
	// nothing. Step must not keep or change anything.
	Step func(state S, in In, out Outcome[Out]) (S, bool)
	// Check returns what is wrong with an operation, a mistake of the test. Nil means nothing is.
	Check func(in In) error
	// Show is for failures. Nil means as %+v.
	Show func(in In, out Outcome[Out]) string

	// imply returns what happens by itself beside the operations of a history that began at start, or a mistake of the test.
	imply func(ops []*operation[In, Out], start time.Time) ([]*operation[In, Out], error)
}

// Linearizable fails the test unless the operations of a history can be put in one order in which each has its outcome
// according to the model, and none comes after one that was called after it had returned: as if each had happened at one
// moment between call and return. Operations of unknown outcome may be anywhere after their call, or nowhere.
//
// The failure shows the first operation that nothing explains and what went on around it, with keys and values. If
// REDISX_TEST_ARTIFACTS names a directory, or go test runs with -artifacts, it names an HTML file there that shows the same
// as a diagram.
//
// A history in which no outcome is known fails, and so does one that cannot be judged within 30 s: make it shorter,
// spread it over more keys, or lose fewer replies. It reports whether the history is linearizable.
func Linearizable[S, In comparable, Out any](t testing.TB, h *History[In, Out], m Model[S, In, Out]) bool {
	t.Helper()
	if h == nil || m.Step == nil {
		t.Errorf("redisxtest: Linearizable wants a history, and a model with Step")
		return false
	}
	ops, err := h.snapshot()
	if err == nil {
		err = m.mistakes(ops)
	}
	if err == nil && m.imply != nil {
		var implied []*operation[In, Out]
		implied, err = m.imply(ops, h.start)
		ops = append(ops, implied...)
	}
	if err != nil {
		t.Errorf("redisxtest: %s: %v", m.Name, err)
		return false
	}
	deadline := patience(t, time.Now(), linearTime)
	tooLong := ""
	for _, part := range m.parts(ops) {
		switch m.check(part, time.Until(deadline)) {
		case porcupine.Ok:
		case porcupine.Illegal:
			text, path := m.explain(t, part, deadline)
			if path != "" {
				text += "\nas a diagram: " + path
			}
			t.Errorf("redisxtest: %s", text)
			return false
		default:
			if tooLong == "" {
				tooLong = fmt.Sprintf("%s%s: not decided in time, which says nothing of the history: %s. Use fewer operations for each key, "+
					"more keys, or lose fewer replies", m.Name, m.ofKey(part), counts(part))
			}
		}
	}
	if tooLong != "" {
		t.Errorf("redisxtest: %s", tooLong)
	}
	return tooLong == ""
}

// mistakes are those of the test.
func (m *Model[S, In, Out]) mistakes(ops []*operation[In, Out]) error {
	for _, op := range ops {
		if m.Check == nil {
			break
		}
		if err := m.Check(op.in); err != nil {
			return fmt.Errorf("client %d: %+v: %w", op.client, op.in, err)
		}
	}
	return nil
}

// parts are the operations by key, in the order of the first of each.
func (m *Model[S, In, Out]) parts(ops []*operation[In, Out]) (parts [][]*operation[In, Out]) {
	at := map[string]int{}
	for _, op := range ops {
		key := ""
		if m.Key != nil {
			key = m.Key(op.in)
		}
		i, ok := at[key]
		if !ok {
			i = len(parts)
			at[key] = i
			parts = append(parts, nil)
		}
		parts[i] = append(parts[i], op)
	}
	return parts
}

func (m *Model[S, In, Out]) ofKey(part []*operation[In, Out]) string {
	if m.Key == nil {
		return ""
	}
	return fmt.Sprintf(" %q", m.Key(part[0].in))
}

// check judges the operations of one key.
func (m *Model[S, In, Out]) check(ops []*operation[In, Out], limit time.Duration) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(m.porcupine(ops), events(ops), max(limit, time.Millisecond))
}

// point is a state on the way, with how many operations of each kind of unknown outcome came before it.
type point[S comparable] struct {
	state S
	used  []int
}

// porcupine returns the model in the terms of the checker, for the operations of one key.
//
// An operation of unknown outcome is one that never returns. The checker gives each a place in the end; one placed behind
// all others stands for one that did not happen. Of those that are alike the one called first goes first: where a later
// one may stand, it may too. Without this the checker tries all their orders, and does not end with a few dozen lost
// replies.
func (m *Model[S, In, Out]) porcupine(ops []*operation[In, Out]) porcupine.Model {
	kinds := likes(ops)
	return porcupine.Model{
		Init: func() any { return point[S]{state: m.Init, used: make([]int, kinds)} },
		Step: func(state, in, _ any) (bool, any) {
			p, op := state.(point[S]), in.(*operation[In, Out])
			if op.out.Unknown && p.used[op.kind] != op.nth {
				return false, nil
			}
			next, ok := m.Step(p.state, op.in, op.out)
			switch {
			case !ok && !op.out.Unknown:
				return false, nil
			case !ok:
				next = p.state
			}
			if !op.out.Unknown {
				return true, point[S]{next, p.used}
			}
			used := slices.Clone(p.used)
			used[op.kind]++
			return true, point[S]{next, used}
		},
		// What has been used follows from what has been placed, which the checker compares itself.
		Equal:             func(a, b any) bool { return a.(point[S]).state == b.(point[S]).state },
		DescribeOperation: func(in, _ any) string { return m.show(in.(*operation[In, Out])) },
		DescribeState:     func(s any) string { return fmt.Sprintf("%+v", s.(point[S]).state) },
	}
}

// likes sorts the operations of unknown outcome by what they do and returns how many kinds there are.
func likes[In comparable, Out any](ops []*operation[In, Out]) int {
	type kind struct {
		in      In
		implied string
	}
	number, next := map[kind]int{}, []int{}
	for _, op := range byCall(ops) {
		if !op.out.Unknown {
			continue
		}
		k := kind{op.in, op.implied}
		n, ok := number[k]
		if !ok {
			n = len(next)
			number[k] = n
			next = append(next, 0)
		}
		op.kind, op.nth = n, next[n]
		next[n]++
	}
	return len(next)
}

func byCall[In comparable, Out any](ops []*operation[In, Out]) []*operation[In, Out] {
	ops = slices.Clone(ops)
	slices.SortStableFunc(ops, func(a, b *operation[In, Out]) int { return compare(a.call, b.call) })
	return ops
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// events are the operations as the checker takes them. Diagrams have a line for each client, and one more after each
// operation of unknown outcome, which does not end.
func events[In comparable, Out any](ops []*operation[In, Out]) []porcupine.Operation {
	end := int64(0)
	for _, op := range ops {
		end = max(end, op.call, op.ret)
	}
	line, lines := map[int]int{}, 0
	var out []porcupine.Operation
	for _, op := range byCall(ops) {
		l, ok := line[op.client]
		if !ok || op.implied != "" {
			l, lines = lines, lines+1
		}
		if op.implied == "" {
			line[op.client] = l
		}
		e := porcupine.Operation{ClientId: l, Input: op, Output: op.out, Call: op.call, Return: op.ret}
		if op.out.Unknown {
			e.Return = end + 1
			if op.implied == "" {
				delete(line, op.client)
			}
		}
		out = append(out, e)
	}
	return out
}

// until is the history as it was at a moment: what had not returned was unknown.
func until[In comparable, Out any](ops []*operation[In, Out], at int64) (past []*operation[In, Out]) {
	for _, op := range ops {
		if op.call > at {
			continue
		}
		c := *op
		if c.ret > at {
			c.ret, c.out, c.running = 0, Outcome[Out]{Unknown: true}, true
		}
		past = append(past, &c)
	}
	return past
}

// explain finds the first return that makes the history of a key impossible and describes what is around it. The
// beginning of a possible history is possible, so halving finds it.
func (m *Model[S, In, Out]) explain(t testing.TB, ops []*operation[In, Out], deadline time.Time) (text, path string) {
	var returned []*operation[In, Out]
	for _, op := range ops {
		if !op.out.Unknown {
			returned = append(returned, op)
		}
	}
	slices.SortFunc(returned, func(a, b *operation[In, Out]) int { return compare(a.ret, b.ret) })
	low, high := 0, len(returned)-1
	for low < high {
		mid := (low + high) / 2
		if m.check(until(ops, returned[mid].ret), time.Until(deadline)/2) == porcupine.Illegal {
			high = mid
		} else {
			low = mid + 1 // possible, or too hard: then a later one is shown than need be
		}
	}
	odd := returned[high]
	past := until(ops, odd.ret)
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s: the history is not linearizable: %s\n", m.Name, m.ofKey(ops), counts(ops))
	b.WriteString("Nothing explains the marked one, if all that returned before it is taken as it is.")
	if high > 0 {
		if state, ok := m.before(until(ops, returned[high-1].ret), time.Until(deadline)/2); ok {
			b.WriteString(" That can have left the state " + state + ".")
		}
	}
	b.WriteString(" Times are since the first call.")
	b.WriteString(m.excerpt(past, odd))
	return b.String(), m.diagram(t, past, deadline)
}

// counts says how many operations there were.
func counts[In comparable, Out any](ops []*operation[In, Out]) string {
	clients, unknown, n := map[int]bool{}, 0, 0
	for _, op := range ops {
		if op.implied != "" {
			continue
		}
		n++
		clients[op.client] = true
		if op.out.Unknown {
			unknown++
		}
	}
	return fmt.Sprintf("%d operations of %d clients, %d of them with unknown outcome", n, len(clients), unknown)
}

// before returns a state in which all operations that had returned can have left the thing.
func (m *Model[S, In, Out]) before(ops []*operation[In, Out], limit time.Duration) (string, bool) {
	model := m.porcupine(ops)
	result, info := porcupine.CheckOperationsVerbose(model, events(ops), max(limit, time.Millisecond))
	orders := info.PartialLinearizationsOperations()
	if result != porcupine.Ok || len(orders) != 1 || len(orders[0]) == 0 {
		return "", false
	}
	state := model.Init()
	last := state
	for _, e := range orders[0][0] {
		ok, next := model.Step(state, e.Input, e.Output)
		if !ok {
			return "", false
		}
		if state = next; !e.Input.(*operation[In, Out]).out.Unknown {
			last = state
		}
	}
	return model.DescribeState(last), true
}

// shownOperations is how many operations before the marked one a failure lists, and how many of unknown outcome beside.
const shownOperations = 10

// excerpt lists the operation that is odd, those that ran beside it or ended last before it, and those that may come at
// any time.
func (m *Model[S, In, Out]) excerpt(past []*operation[In, Out], odd *operation[In, Out]) string {
	var ended, open []*operation[In, Out]
	for _, op := range past {
		if op.out.Unknown {
			open = append(open, op)
		} else {
			ended = append(ended, op)
		}
	}
	slices.SortFunc(ended, func(a, b *operation[In, Out]) int { return compare(b.ret, a.ret) })
	open = byCall(open)
	slices.Reverse(open)
	more := max(0, len(ended)-shownOperations-1) + max(0, len(open)-shownOperations)
	shown := append(ended[:min(len(ended), shownOperations+1)], open[:min(len(open), shownOperations)]...)
	var b strings.Builder
	if more > 0 {
		fmt.Fprintf(&b, "\n    … and %d before", more)
	}
	for _, op := range byCall(shown) {
		mark, who, end := " ", fmt.Sprintf("client %d", op.client), "?"
		if op.ret == odd.ret && !op.out.Unknown {
			mark = ">"
		}
		if op.implied != "" {
			who = "(by itself)"
		}
		switch {
		case op.running:
			end = "later"
		case !op.out.Unknown:
			end = since(op.ret)
		}
		fmt.Fprintf(&b, "\n  %s %-11s %10s to %-10s  %s", mark, who, since(op.call), end, m.show(op))
	}
	return b.String()
}

func since(stamp int64) string { return time.Duration(stamp).Round(time.Microsecond).String() }

func (m *Model[S, In, Out]) show(op *operation[In, Out]) string {
	switch {
	case op.implied != "":
		return op.implied
	case m.Show != nil:
		return m.Show(op.in, op.out)
	case op.out.Unknown:
		return fmt.Sprintf("%+v: outcome unknown", op.in)
	}
	return fmt.Sprintf("%+v: %+v", op.in, op.out.Value)
}

// diagram writes the HTML file, if there is a place for it, and returns its path or why there is none.
func (m *Model[S, In, Out]) diagram(t testing.TB, ops []*operation[In, Out], deadline time.Time) string {
	dir := artifacts(t)
	if dir == "" {
		return ""
	}
	model := m.porcupine(ops)
	_, info := porcupine.CheckOperationsVerbose(model, events(ops), max(time.Until(deadline)/2, time.Millisecond))
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, t.Name())
	f, err := os.CreateTemp(dir, "linearizable-"+name[:min(len(name), 100)]+"-*.html")
	if err != nil {
		return "none: " + err.Error()
	}
	defer f.Close()
	if err := porcupine.Visualize(model, info, f); err != nil {
		return "none: " + err.Error()
	}
	return f.Name()
}

// artifacts is the directory for files that outlive the test, "" if none is wanted.
func artifacts(t testing.TB) string {
	if dir := os.Getenv(EnvArtifacts); dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Logf("redisxtest: %s: %v", EnvArtifacts, err)
			return ""
		}
		if abs, err := filepath.Abs(dir); err == nil {
			return abs
		}
		return dir
	}
	if f := flag.Lookup("test.artifacts"); f != nil && f.Value.String() == "true" {
		return t.ArtifactDir()
	}
	return ""
}
