package chaos

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Words for what a step does.
const (
	actionPause    = "pause"
	actionKill     = "kill"
	actionFailover = "failover"
	actionScripts  = "flush-scripts"
	actionDo       = "do"
)

// Moment is when a step begins. Each of its methods is a [Step].
type Moment struct{ at time.Duration }

// At is a moment of a schedule, counted from when [Run] is called.
func At(d time.Duration) Moment { return Moment{d} }

// Step is something that happens at a moment, and that may be ended later. As text it is a line for [ParseSchedule].
type Step struct {
	at, length time.Duration
	action     string
	target     any
	name       string // of the target
	args       string
	start      func() (end func() error, err error)
	undo       func() error // of what overlapping steps share
	mistake    string
}

// Pauser can be stopped in its tracks, as a redisxtest.Server.
type Pauser interface {
	Pause()
	Resume()
}

// Killer can be ended at once, as a redisxtest.Server. If it has Restart() or Restart(keepData bool) as well, the step may
// have an end: a restart, with the data that it kept.
type Killer interface{ Kill() }

// Pause pauses a server, and resumes it when the step ends.
func (m Moment) Pause(s Pauser) Step {
	undo := quiet(func() { s.Resume() })
	return Step{at: m.at, action: actionPause, target: s, undo: undo, start: func() (func() error, error) { s.Pause(); return undo, nil }}
}

// Kill kills a server, and restarts it when the step ends. Without For it stays down.
func (m Moment) Kill(s Killer) Step {
	undo := func() error { return restart(s) }
	return Step{at: m.at, action: actionKill, target: s, undo: undo, start: func() (func() error, error) { s.Kill(); return undo, nil }}
}

func restart(s Killer) error {
	switch s := s.(type) {
	case interface{ Restart(keepData bool) }:
		s.Restart(true)
	case interface{ Restart(keepData bool) error }:
		return s.Restart(true)
	case interface{ Restart() }:
		s.Restart()
	case interface{ Restart() error }:
		return s.Restart()
	default:
		return fmt.Errorf("%T has no Restart", s)
	}
	return nil
}

// Failover makes another node the primary: of a redisxtest.Sentinel, or of a redisxtest.Cluster and one of its nodes, that
// is of anything whose method Failover takes what is given here behind it. What that returns is left alone, as the launchers
// fail their test themselves.
func (m Moment) Failover(of any, node ...any) Step {
	s := Step{at: m.at, action: actionFailover, target: of}
	var names []string
	var args []reflect.Value
	for _, n := range node {
		args = append(args, reflect.ValueOf(n))
		names = append(names, quote(nameOf(n)))
	}
	s.args = strings.Join(names, " ")
	f := reflect.Value{}
	if of != nil {
		f = reflect.ValueOf(of).MethodByName("Failover")
	}
	if !takes(f, args) {
		s.mistake = fmt.Sprintf("failover of a %T; want one with a method Failover that takes %d arguments such as these", of, len(args))
	}
	s.start = func() (func() error, error) { f.Call(args); return nil, nil }
	return s
}

// takes reports whether f can be called with these arguments.
func takes(f reflect.Value, args []reflect.Value) bool {
	if !f.IsValid() || f.Type().IsVariadic() || f.Type().NumIn() != len(args) {
		return false
	}
	for i, a := range args {
		if !a.IsValid() || !a.Type().AssignableTo(f.Type().In(i)) {
			return false
		}
	}
	return true
}

// FlushScripts makes a server forget its scripts.
func (m Moment) FlushScripts(s interface{ FlushScripts() }) Step {
	return m.once(actionScripts, s, func() { s.FlushScripts() })
}

// Latency is [Network.LatencyBetween] for the time of the step.
func (m Moment) Latency(n Network, least, most time.Duration) Step {
	f := fault{kind: latency, min: least, max: most}
	return m.network(f.String(), f.check(), n, func() func() { return n.LatencyBetween(least, most) })
}

// Bandwidth is [Network.Bandwidth] for the time of the step.
func (m Moment) Bandwidth(n Network, bytesPerSecond int) Step {
	return m.network(fmt.Sprintf("bandwidth %d", bytesPerSecond), wrongRate(bytesPerSecond), n, func() func() { return n.Bandwidth(bytesPerSecond) })
}

// BlackHole is [Network.BlackHole] for the time of the step.
func (m Moment) BlackHole(n Network, dir Direction) Step {
	return m.network("black-hole "+dir.String(), wrongHole(dir), n, func() func() { return n.BlackHole(dir) })
}

// Refuse is [Network.Refuse] for the time of the step.
func (m Moment) Refuse(n Network) Step {
	return m.network("refuse", "", n, func() func() { return n.Refuse() })
}

// SlowAccept is [Network.SlowAccept] for the time of the step.
func (m Moment) SlowAccept(n Network, d time.Duration) Step {
	return m.network("slow-accept "+d.String(), wrongAccept(d), n, func() func() { return n.SlowAccept(d) })
}

// HalfOpen is [Network.HalfOpen]. The end of the step, if it has one, heals the network.
func (m Moment) HalfOpen(n Network) Step {
	return m.network("half-open", "", n, func() func() { n.HalfOpen(); return n.Heal })
}

// Reset is [Network.Reset].
func (m Moment) Reset(n Network) Step {
	return m.network("reset", "", n, func() func() { n.Reset(); return nil })
}

// Heal is [Network.Heal].
func (m Moment) Heal(n Network) Step {
	return m.network("heal", "", n, func() func() { n.Heal(); return nil })
}

// Do is anything else. The name stands in the log, and is the target's for [ParseSchedule]. What start returns is called
// when the step ends; nil is nothing. Start may fail its test, but as it has a goroutine of its own, better by Errorf than
// by Fatal.
func (m Moment) Do(name string, start func() (end func())) Step {
	if start == nil {
		return Step{at: m.at, action: actionDo, name: name, mistake: "Do: function is nil"}
	}
	return m.Try(name, func() (func() error, error) { return quiet(start()), nil })
}

// Try is Do with a function that can fail; then the test fails with the reason.
func (m Moment) Try(name string, start func() (end func() error, err error)) Step {
	s := Step{at: m.at, action: actionDo, name: name, start: start}
	if start == nil {
		s.mistake = "Try: function is nil"
	}
	return s
}

// For gives the step an end, so long after its beginning. Without it a step lasts until the schedule is stopped.
func (s Step) For(d time.Duration) Step {
	if d <= 0 && s.mistake == "" {
		s.mistake = fmt.Sprintf("for %s; want more than 0", d)
	}
	s.length = d
	return s
}

// As names the target in the text of the step. The default is its address, which may be another one the next time.
func (s Step) As(name string) Step {
	s.name = name
	return s
}

// String returns the step as a line for [ParseSchedule], such as "at 2s pause 127.0.0.1:7001 for 1s".
func (s Step) String() string {
	words := []string{"at", s.at.String(), s.action, quote(s.targetName())}
	if s.args != "" {
		words = append(words, s.args)
	}
	if s.length > 0 {
		words = append(words, "for", s.length.String())
	}
	return strings.Join(words, " ")
}

func (s Step) targetName() string {
	if s.name != "" {
		return s.name
	}
	return nameOf(s.target)
}

// nameOf is what a target is called unless it is told.
func nameOf(target any) string {
	if v := reflect.ValueOf(target); v.Kind() == reflect.Pointer && v.IsNil() {
		return "nil"
	}
	if a, ok := target.(interface{ Addr() string }); ok && a.Addr() != "" {
		return a.Addr()
	}
	if px, ok := target.(*Proxy); ok {
		return px.name()
	}
	if n, ok := target.(fmt.Stringer); ok {
		return n.String()
	}
	return fmt.Sprintf("%T", target)
}

// check returns what is wrong with a step.
func (s Step) check() string {
	switch {
	case s.mistake != "":
		return s.mistake
	case s.start == nil:
		return "an empty step; begin one with At"
	case s.action != actionDo && (s.target == nil || reflect.ValueOf(s.target).Kind() == reflect.Pointer && reflect.ValueOf(s.target).IsNil()):
		return s.action + " of nil"
	case s.at < 0:
		return fmt.Sprintf("at %s; want 0 or more", s.at)
	case s.action == actionDo && s.name == "":
		return "do without a name"
	case s.length > 0 && (s.action == actionFailover || s.action == actionScripts || s.action == "reset" || s.action == "heal"):
		return s.action + " has no end; leave out For"
	case s.action == actionKill && s.length > 0 && restartable(s.target) != nil:
		return fmt.Sprintf("kill for %s: %v", s.length, restartable(s.target))
	case (s.action == actionPause || s.action == actionKill) && !reflect.TypeOf(s.target).Comparable():
		return fmt.Sprintf("%s of a %T; want a pointer", s.action, s.target)
	}
	return ""
}

// restartable returns why a target cannot come back.
func restartable(target any) error {
	switch target.(type) {
	case interface{ Restart(keepData bool) }, interface{ Restart(keepData bool) error }, interface{ Restart() }, interface{ Restart() error }:
		return nil
	}
	return fmt.Errorf("%T has no Restart() and no Restart(bool)", target)
}

// once is a step without an end.
func (m Moment) once(action string, target any, f func()) Step {
	return Step{at: m.at, action: action, target: target, start: func() (func() error, error) { f(); return nil, nil }}
}

// network is a step of the text of a Network's fault.
func (m Moment) network(text, wrong string, n Network, f func() func()) Step {
	action, args, _ := strings.Cut(text, " ")
	return Step{at: m.at, action: action, args: args, target: n, mistake: wrong, start: func() (func() error, error) { return quiet(f()), nil }}
}

// quiet is an end that cannot fail.
func quiet(end func()) func() error {
	if end == nil {
		return nil
	}
	return func() error { end(); return nil }
}
