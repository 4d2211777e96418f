package chaos

import (
	"strconv"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

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
func (j *judge) commands(cmds []driver.Cmd) []verdict {
	j.mu.Lock()
	defer j.mu.Unlock()
	var verdicts []verdict
	for i := range cmds {
		for r := range j.script.Rules {
			rule := &j.script.Rules[r]
			key, ok := rule.match.command(&cmds[i])
			if !ok {
				continue
			}
			j.rules[r].seen++
			taken := verdicts != nil && verdicts[i].fault.kind != noFault
			if taken && rule.fault.kind.terminal() {
				continue
			}
			if rule.fault.kind == duplicate && cmds[i].Mode == driver.Blocking {
				continue // the second would wait for what the first took
			}
			f, line, ok := j.acts(r, key)
			if !ok {
				continue
			}
			if verdicts == nil {
				verdicts = make([]verdict, len(cmds))
			}
			v := &verdicts[i]
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
	}
	return verdicts
}

// event decides about a message or an invalidation; without names it is about everything. In a gap it only counts.
func (j *judge) event(on string, names []string, gap bool) (f fault, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for r := range j.script.Rules {
		name, matches := j.script.Rules[r].match.event(on, names)
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
	x := mix(mix(mix(mix(j.script.Seed)+uint64(rule))+uint64(n)) + salt)
	return float64(x>>11) / (1 << 53)
}

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
