package chaos

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// call is what rules look at of a command, wherever it was met.
type call struct {
	name    string // in capitals
	script  string // its name, "" for none
	first   string // its first key, "" without keys
	eachKey func(func(key string))
	node    string // where it goes, "" if that is not known
	own     bool   // the client sends it by itself
	once    bool   // a second delivery would not do what a duplicate does
}

// callOf is the call of a driver's command.
func callOf(cmd *driver.Cmd, router driver.Router) call {
	c := call{name: cmd.Name(), eachKey: cmd.EachKey, once: cmd.Mode == driver.Blocking} // it would wait for what the first took
	if cmd.Script != nil {
		c.script = cmd.Script.Name()
	}
	if cmd.Keys.Count > 0 {
		c.first = cmd.Args[cmd.Keys.First]
	}
	if router != nil {
		c.node = router.Node(cmd.Route())
	}
	return c
}

// judge decides what happens to commands and messages, and keeps the log.
type judge struct {
	script Script

	mu    sync.Mutex
	calm  bool
	rules []record
	lines []string
}

// record is what a rule has seen.
type record struct{ seen, acted int }

// verdict is what happens to one command.
type verdict struct {
	delay time.Duration
	late  time.Duration // by which the end of ctx goes unnoticed
	fault fault         // the terminal one
	retry string        // the line to note if the command is sent again; "" if it never is
}

func newJudge(s Script) *judge {
	return &judge{script: s, rules: make([]record, len(s.Rules))}
}

// commands decides about commands, in order and without others between. It returns nil if nothing happens to any of them.
func (j *judge) commands(cmds []driver.Cmd, router driver.Router) []verdict {
	if len(j.script.Rules) == 0 {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	var verdicts []verdict
	for i := range cmds {
		c := callOf(&cmds[i], router)
		if v, acts := j.decide(&c); acts {
			if verdicts == nil {
				verdicts = make([]verdict, len(cmds))
			}
			verdicts[i] = v
		}
	}
	return verdicts
}

// command decides about one command.
func (j *judge) command(c *call) verdict {
	j.mu.Lock()
	defer j.mu.Unlock()
	v, _ := j.decide(c)
	return v
}

// decide is command with j.mu held. It also reports whether anything happens at all.
func (j *judge) decide(c *call) (v verdict, acted bool) {
	for r := range j.script.Rules {
		rule := &j.script.Rules[r]
		key, ok := rule.match.command(c)
		if !ok {
			continue
		}
		j.rules[r].seen++
		if v.fault.kind != noFault && rule.fault.kind.terminal() || rule.fault.kind == duplicate && c.once {
			continue
		}
		f, line, ok := j.acts(r, key)
		if !ok {
			continue
		}
		acted = true
		switch f.kind {
		case latency:
			v.delay += f.min
		case bugIgnoreCancel:
			v.late = max(v.late, f.min)
		case bugRetry:
			v.retry = line
			continue
		default:
			v.fault = f
		}
		j.lines = append(j.lines, line)
	}
	return v, acted
}

// event decides about a message or an invalidation; without names it is about everything. In a gap it only counts.
func (j *judge) event(on string, names []string, node string, gap bool) (f fault, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for r := range j.script.Rules {
		name, matches := j.script.Rules[r].match.event(on, names, node)
		if !matches {
			continue
		}
		j.rules[r].seen++
		if ok || gap {
			continue
		}
		var line string
		if f, line, ok = j.acts(r, name); ok {
			j.lines = append(j.lines, line)
		}
	}
	return f, ok
}

// acts decides whether a rule acts on the match it has just counted: with which fault, and which line repeats that.
func (j *judge) acts(r int, key string) (f fault, line string, ok bool) {
	rule, rec := j.script.Rules[r], &j.rules[r]
	m := rule.match
	switch {
	case j.calm,
		m.from > 0 && rec.seen < m.from,
		m.to > 0 && rec.seen > m.to,
		m.times > 0 && rec.acted >= m.times,
		m.p > 0 && j.chance(r, rec.seen, 0) >= m.p:
		return fault{}, "", false
	}
	rec.acted++
	if f = rule.fault; f.min < f.max {
		f.min += time.Duration(j.chance(r, rec.seen, 1) * float64(f.max-f.min))
		f.max = max(f.min, 1) // of the line, where it is no span any more
		f.min = f.max
	}
	rule.match.from, rule.match.to, rule.match.p, rule.match.times = rec.seen, rec.seen, 0, 0
	rule.fault = f
	line = rule.String()
	if key != "" {
		line += " # " + strconv.Quote(key)
	}
	return f, line, true
}

// chance returns a number from 0 up to 1 that depends on its arguments and the seed alone.
func (j *judge) chance(rule, n int, salt uint64) float64 {
	return unit(mix(mix(mix(mix(j.script.Seed)+uint64(rule))+uint64(n)) + salt))
}

// unit makes a number from 0 up to 1 of one that mix made.
func unit(x uint64) float64 { return float64(x>>11) / (1 << 53) }

// mix is the finalizer of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (j *judge) note(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *judge) log() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

func (j *judge) setCalm(calm bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.calm = calm
}

// idle returns the rules that have not acted, with how many matches they saw.
func (j *judge) idle() (rules []Rule, seen []int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, rec := range j.rules {
		if rec.acted == 0 {
			rules, seen = append(rules, j.script.Rules[i]), append(seen, rec.seen)
		}
	}
	return rules, seen
}
