package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

const actions = "pause, kill, failover, flush-scripts, latency, bandwidth, black-hole, refuse, slow-accept, half-open, reset, heal, do"

// ParseSchedule reads steps, one a line, as [Step] and [Schedule] print them:
//
//	at 2s pause primary for 1s
//	at 3s black-hole 127.0.0.1:7001 to-client for 500ms   # or latency 1ms..5ms, bandwidth 1000, slow-accept 1s, …
//	at 4s failover sentinel
//	at 4s failover cluster 127.0.0.1:7001                 # the node is a target too
//	at 4s do fill-memory for 1s
//
// Targets are what the names stand for: servers for pause, kill and flush-scripts, a Sentinel or a Cluster for failover, a
// [Network] for its faults, and for do a func(), a func() func(), or a func() (func() error, error). Empty lines and comments
// are left out. The error names the first line that cannot be, and what could stand there.
func ParseSchedule(text string, targets map[string]any) ([]Step, error) {
	var steps []Step
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		words, err := split(strings.TrimSuffix(line, "\r"))
		if err == nil && len(words) == 0 {
			continue
		}
		var s Step
		if err == nil {
			s, err = parseStep(words, targets)
		}
		if err == nil {
			if wrong := s.check(); wrong != "" {
				err = fmt.Errorf("%s", wrong)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("chaos: line %d: %w", n, err)
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// ParseAll reads one text with all that happens: the lines of a script, as [Parse] does, and those that begin with at, as
// [ParseSchedule] does. The script is for [Wrap], [NewProxy] or [NewDialer], the steps are for [Run].
func ParseAll(text string, targets map[string]any) (Script, []Step, error) {
	rules := strings.Split(text, "\n")
	steps := make([]string, len(rules)) // where a line is of the other kind it is empty, so that errors name the right one
	for i, line := range rules {
		if words := strings.Fields(line); len(words) > 0 && words[0] == "at" {
			rules[i], steps[i] = "", line
		}
	}
	script, err := Parse(strings.Join(rules, "\n"))
	if err != nil {
		return Script{}, nil, err
	}
	schedule, err := ParseSchedule(strings.Join(steps, "\n"), targets)
	if err != nil {
		return Script{}, nil, err
	}
	return script, schedule, nil
}

func parseStep(words []word, targets map[string]any) (Step, error) {
	if len(words) < 4 || !words[0].is("at") {
		return Step{}, fmt.Errorf("want: at TIME ACTION TARGET, such as: at 2s pause primary for 1s")
	}
	at, err := time.ParseDuration(words[1].text)
	if err != nil {
		return Step{}, fmt.Errorf("at %s; want a time, such as 2s", words[1].text)
	}
	var length time.Duration
	bounded := false
	if i := len(words) - 2; i >= 4 && words[i].is("for") {
		if length, err = time.ParseDuration(words[i+1].text); err != nil {
			return Step{}, fmt.Errorf("for %s; want a time, such as 2s", words[i+1].text)
		}
		words, bounded = words[:i], true
	}
	action, name := words[2].text, words[3].whole()
	target, err := lookUp(words[3], targets)
	if err != nil {
		return Step{}, err
	}
	var s Step
	if action == actionFailover {
		s, err = At(at).parseFailover(target, words[4:], targets)
	} else {
		s, err = At(at).parse(action, target, words[4:])
	}
	if err != nil {
		return Step{}, err
	}
	if s = s.As(name); bounded {
		s = s.For(length)
	}
	return s, nil
}

// lookUp returns the target with a name.
func lookUp(name word, targets map[string]any) (any, error) {
	target := targets[name.whole()]
	if target == nil {
		return nil, fmt.Errorf("target %q is not known; want one of %s", name.whole(), strings.Join(slices.Sorted(maps.Keys(targets)), ", "))
	}
	return target, nil
}

// parseFailover reads the node of a Cluster, which is one of the targets too.
func (m Moment) parseFailover(target any, args []word, targets map[string]any) (Step, error) {
	var nodes []any
	var names []string
	for _, a := range args {
		node, err := lookUp(a, targets)
		if err != nil {
			return Step{}, err
		}
		nodes, names = append(nodes, node), append(names, quote(a.whole()))
	}
	s := m.Failover(target, nodes...)
	s.args = strings.Join(names, " ")
	return s, nil
}

// whole is a word where name=text is nothing special.
func (w word) whole() string {
	if w.name != "" {
		return w.name + "=" + w.text
	}
	return w.text
}

func (m Moment) parse(action string, target any, args []word) (Step, error) {
	misfit := fmt.Errorf("a %T is no target for %s", target, action)
	arg := ""
	if len(args) > 0 {
		arg = args[0].text
	}
	most := 0
	s, err := Step{}, misfit
	switch action {
	case actionPause:
		if t, ok := target.(Pauser); ok {
			s, err = m.Pause(t), nil
		}
	case actionKill:
		if t, ok := target.(Killer); ok {
			s, err = m.Kill(t), nil
		}
	case actionScripts:
		if t, ok := target.(interface{ FlushScripts() }); ok {
			s, err = m.FlushScripts(t), nil
		}
	case actionDo:
		switch f := target.(type) {
		case func():
			s, err = m.Do("do", func() func() { f(); return nil }), nil
		case func() func():
			s, err = m.Do("do", f), nil
		case func() (func() error, error):
			s, err = m.Try("do", f), nil
		}
	default:
		if n, ok := target.(Network); ok {
			s, most, err = m.parseNetwork(action, n, arg, args)
		} else if !strings.Contains(", "+actions+",", ", "+action+",") {
			err = fmt.Errorf("%q is no action; want one of %s", action, actions)
		}
	}
	if err == nil && len(args) > most {
		err = fmt.Errorf("%s after %s; want for and a time, or nothing", args[most], action)
	}
	return s, err
}

func (m Moment) parseNetwork(action string, n Network, arg string, args []word) (s Step, most int, err error) {
	most = 1
	switch action {
	case "latency":
		var least, longest time.Duration
		least, longest, err = parseSpan(args, true)
		s = m.Latency(n, least, longest)
	case "bandwidth":
		rate, wrong := strconv.Atoi(arg)
		if wrong != nil {
			err = fmt.Errorf("bandwidth wants bytes per second, such as 1000")
		}
		s = m.Bandwidth(n, rate)
	case "black-hole":
		i := slices.IndexFunc([]Direction{ToServer, ToClient, Both}, func(d Direction) bool { return d.String() == arg })
		if i < 0 {
			err = fmt.Errorf("black-hole wants to-server, to-client or both")
		}
		s = m.BlackHole(n, Direction(i+1))
	case "slow-accept":
		d, wrong := time.ParseDuration(arg)
		if wrong != nil {
			err = fmt.Errorf("slow-accept wants a time, such as 1s")
		}
		s = m.SlowAccept(n, d)
	default:
		most = 0
		switch action {
		case "refuse":
			s = m.Refuse(n)
		case "half-open":
			s = m.HalfOpen(n)
		case "reset":
			s = m.Reset(n)
		case "heal":
			s = m.Heal(n)
		default:
			err = fmt.Errorf("%q is no action; want one of %s", action, actions)
		}
	}
	return s, most, err
}
