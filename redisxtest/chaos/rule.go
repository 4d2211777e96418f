package chaos

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Words that stand in the place of a command.
const (
	onAny          = "any"
	onMessage      = "message"
	onInvalidation = "invalidation"
)

// Match says where and when a fault happens. It is a value: each method returns a changed copy, and those named after faults
// return the [Rule]. What cannot be (the 0th match, a probability of 2) is reported by [Script.Check], by [NewProxy] and by
// every call of a driver wrapped with it.
type Match struct {
	on     string // a command in capitals, or one of the words above
	script string
	key    string
	keyed  keyed
	node   string // host:port, "" is every node

	from, to int     // matches; 0 and 0 are all, to 0 is without end
	p        float64 // 0 is always
	times    int     // 0 is any number

	mistake string // the first of the methods' arguments
}

// keyed is how a Match was told its glob.
type keyed uint8

const (
	notKeyed keyed = iota
	byKey
	byChannel
)

// Rule is one fault and where and when it happens. Rules are made by a [Match] or by [Parse].
type Rule struct {
	match Match
	fault fault
}

// On matches commands by name, in either case: On("INCR"). Scripts go by EVALSHA, or by their names: [OnScript].
func On(command string) Match {
	m := Match{on: strings.ToUpper(command)}
	switch strings.ToLower(command) {
	case onAny, onMessage, onInvalidation:
		return m.wrong("On(%q) is no command; use OnAny, OnMessage or OnInvalidation", command)
	}
	if !plainWord(command) || strings.ContainsAny(command, "=") {
		return m.wrong("command %q; want one word", command)
	}
	return m
}

// OnAny matches every command.
func OnAny() Match { return Match{on: onAny} }

// OnScript matches the commands of a driver.Script by its name, such as "locks.release".
func OnScript(name string) Match {
	m := Match{on: onAny, script: name}
	if name == "" {
		return m.wrong("OnScript without a name")
	}
	return m
}

// OnMessage matches Pub/Sub messages that a [driver.Subscriber] delivers.
func OnMessage() Match { return Match{on: onMessage} }

// OnInvalidation matches invalidations that a [driver.Tracker] delivers, each as a whole, however many keys it names.
func OnInvalidation() Match { return Match{on: onInvalidation} }

func (m Match) wrong(format string, args ...any) Match {
	if m.mistake == "" {
		m.mistake = fmt.Sprintf(format, args...)
	}
	return m
}

// Key matches if one of the keys does: * is any text, ? any byte, [a-c] and [^a-c] one of some, \ takes the next literally.
// A command without keys does not match; an invalidation of everything does.
func (m Match) Key(glob string) Match { return m.glob(glob, byKey) }

// Channel is Key for the channel of a message.
func (m Match) Channel(glob string) Match { return m.glob(glob, byChannel) }

// Node restricts the rule to what goes to or comes from one server, by its host:port as clients dial it. With [Wrap] it
// needs a driver of a Cluster, which knows where a key lives.
func (m Match) Node(addr string) Match {
	if _, _, err := net.SplitHostPort(addr); err != nil && !strings.HasPrefix(addr, "/") {
		return m.wrong("node=%s; want host:port", addr)
	}
	m.node = addr
	return m
}

func (m Match) glob(glob string, by keyed) Match {
	if (by == byChannel) != (m.on == onMessage) {
		m = m.wrong("a message has a channel, all others have keys")
	}
	m.key, m.keyed = glob, by
	return m
}

// Nth restricts the rule to its nth match, the first being 1.
func (m Match) Nth(n int) Match { return m.Between(n, n) }

// Between restricts the rule to its matches from one number to another, both included.
func (m Match) Between(from, to int) Match {
	if from < 1 || to < from {
		return m.wrong("nth=%d..%d; want numbers from 1 on, the smaller first", from, to)
	}
	m.from, m.to = from, to
	return m
}

// From restricts the rule to its nth match and all after it.
func (m Match) From(n int) Match {
	if n < 1 {
		return m.wrong("nth=%d..; want a number from 1 on", n)
	}
	m.from, m.to = n, 0
	return m
}

// P lets the rule act on a match with a probability, above 0 and up to 1. The default is 1.
func (m Match) P(p float64) Match {
	if !(p > 0 && p <= 1) {
		return m.wrong("p=%v; want more than 0 and at most 1", p)
	}
	if m.p = p; p == 1 {
		m.p = 0
	}
	return m
}

// Times lets the rule act n times at most. The default is no limit.
func (m Match) Times(n int) Match {
	if n < 1 {
		return m.wrong("times=%d; want at least 1", n)
	}
	m.times = n
	return m
}

// Latency makes the call wait before the command is sent. If its ctx ends first, the command is never sent, but the outcome
// is unknown to the caller, as with one on its way. Latencies of several rules add up, and those of a list hold the whole
// list.
func (m Match) Latency(d time.Duration) Rule { return m.LatencyBetween(d, d) }

// LatencyBetween is Latency of a time drawn evenly from a span.
func (m Match) LatencyBetween(least, most time.Duration) Rule {
	return Rule{m, fault{kind: latency, min: least, max: most}}
}

// Reply makes the server refuse the command with an error reply: one of the texts of this package ([Loading], [OOM], …) or
// any other. The command is not run.
func (m Match) Reply(text string) Rule {
	return Rule{m, fault{kind: reply, text: text}}
}

// Refuse fails the command for want of a connection: it is not run, and the error is a driver.ErrNotSent.
func (m Match) Refuse() Rule { return Rule{m, fault{kind: refuse}} }

// LoseRequest breaks the connection on the way to the server: the command is not run, but the error is a
// driver.ErrUnknownOutcome (OpError.Sent is true), as nobody can tell it from a lost reply.
func (m Match) LoseRequest() Rule { return Rule{m, fault{kind: loseRequest}} }

// LoseReply breaks the connection on the way back: the command is run, and the error is a driver.ErrUnknownOutcome.
func (m Match) LoseReply() Rule { return Rule{m, fault{kind: loseReply}} }

// Duplicate delivers the command twice, one right after the other, and returns the first reply. A Blocking command is
// spared, on the wire also one within a transaction.
func (m Match) Duplicate() Rule { return Rule{m, fault{kind: duplicate}} }

// Hang loses the command on the way to the server without a sign: it is not run, and the call waits until its ctx ends (the
// outcome is unknown) or the driver is closed.
func (m Match) Hang() Rule { return Rule{m, fault{kind: hang}} }

// HangReply loses the reply without a sign: the command is run, and the call waits until its ctx ends (the outcome is
// unknown) or the driver is closed.
func (m Match) HangReply() Rule { return Rule{m, fault{kind: hangReply}} }

// Reset is LoseReply by a connection that is reset instead of closed. It needs a [Proxy].
func (m Match) Reset() Rule { return Rule{m, fault{kind: reset}} }

// Cut is LoseReply in the middle of the reply: its first n bytes arrive, all of it if it has no more, and the connection is
// closed. It needs a [Proxy].
func (m Match) Cut(n int) Rule { return Rule{m, fault{kind: cut, drop: n}} }

// LoseSubscription calls OnLost in the place of a message, drops that message and those after it, drop in all, and calls
// OnConfirmed. [Driver.Calm] and a reconnection of the driver below end the gap earlier.
func (m Match) LoseSubscription(drop int) Rule {
	return Rule{m, fault{kind: loseSubscription, drop: drop}}
}

// LoseInvalidation is LoseSubscription for invalidations.
func (m Match) LoseInvalidation(drop int) Rule {
	return Rule{m, fault{kind: loseInvalidation, drop: drop}}
}

// BugRetry breaks the driver contract: a command whose outcome is unknown, by another fault or in truth, is sent once more,
// and the second reply is returned. On a driver.Conn it does nothing. It is noted only when it did something.
func (m Match) BugRetry() Rule { return Rule{m, fault{kind: bugRetry}} }

// BugIgnoreCancel breaks the driver contract: the call notices only after d that its ctx has ended.
func (m Match) BugIgnoreCancel(d time.Duration) Rule {
	return Rule{m, fault{kind: bugIgnoreCancel, min: d, max: d}}
}

// BugSilentGap breaks the driver contract: drop messages or invalidations are lost, and neither OnLost nor OnConfirmed is
// called.
func (m Match) BugSilentGap(drop int) Rule { return Rule{m, fault{kind: bugSilentGap, drop: drop}} }

// String returns the rule as a line of a script.
func (r Rule) String() string {
	return "on " + r.match.String() + " " + r.fault.String()
}

func (m Match) String() string {
	var b strings.Builder
	if m.script != "" {
		b.WriteString("script=" + quote(m.script))
	} else {
		b.WriteString(m.on)
	}
	switch m.keyed {
	case byKey:
		b.WriteString(" key=" + quote(m.key))
	case byChannel:
		b.WriteString(" channel=" + quote(m.key))
	}
	if m.node != "" {
		b.WriteString(" node=" + quote(m.node))
	}
	switch {
	case m.from > 0 && m.from == m.to:
		fmt.Fprintf(&b, " nth=%d", m.from)
	case m.from > 0 && m.to == 0:
		fmt.Fprintf(&b, " nth=%d..", m.from)
	case m.from > 0:
		fmt.Fprintf(&b, " nth=%d..%d", m.from, m.to)
	}
	if m.p > 0 {
		b.WriteString(" p=" + strconv.FormatFloat(m.p, 'g', -1, 64))
	}
	if m.times > 0 {
		fmt.Fprintf(&b, " times=%d", m.times)
	}
	return b.String()
}

// check returns what is wrong with the rule.
func (r Rule) check() string {
	m, k := r.match, r.fault.kind
	if m.mistake != "" {
		return m.mistake
	}
	if m.on == "" {
		return "an empty rule; begin one with On, OnAny, OnScript, OnMessage or OnInvalidation"
	}
	if wrong := r.fault.check(); wrong != "" {
		return wrong
	}
	fits, want := !k.gap(), "one of "+commandFaults
	switch m.on {
	case onMessage:
		fits, want = k == loseSubscription || k == bugSilentGap, "lose-subscription or bug-silent-gap"
	case onInvalidation:
		fits, want = k == loseInvalidation || k == bugSilentGap, "lose-invalidation or bug-silent-gap"
	}
	if !fits {
		return fmt.Sprintf("%s does not go with %s; want %s", k, m, want)
	}
	return ""
}

// fitsDriver returns why a rule is not for Wrap.
func (r Rule) fitsDriver(routes bool) string {
	switch {
	case r.fault.kind == reset || r.fault.kind == cut:
		return fmt.Sprintf("%s needs a connection; use NewProxy, or lose-reply", r.fault.kind)
	case r.match.node != "" && (!routes || r.match.on == onMessage || r.match.on == onInvalidation):
		return "node= needs commands on a driver of a Cluster, or NewProxy"
	}
	return ""
}

// fitsWire returns why a rule is not for a Proxy that knows these scripts.
func (r Rule) fitsWire(scripts map[string]bool) string {
	switch k := r.fault.kind; {
	case k == refuse:
		return "refuse is for a driver, as a command needs a connection to be seen; use lose-request, or Proxy.Refuse"
	case k == bugRetry || k == bugIgnoreCancel:
		return fmt.Sprintf("%s is for a driver; use Wrap", k)
	case r.match.script != "" && !scripts[r.match.script]:
		return fmt.Sprintf("script=%s is not known; tell it with NameScripts", r.match.script)
	}
	return ""
}

// command reports whether a command is one the rule is about, and the key that told.
func (m *Match) command(c *call) (key string, ok bool) {
	switch {
	case m.on == onMessage || m.on == onInvalidation:
		return "", false
	case m.script != "" && c.script != m.script:
		return "", false
	case m.on != onAny && m.on != c.name || m.on == onAny && c.own:
		return "", false
	case m.node != "" && m.node != c.node:
		return "", false
	case m.keyed == notKeyed:
		return c.first, true
	}
	c.eachKey(func(k string) {
		if !ok && matchGlob(m.key, k) {
			key, ok = k, true
		}
	})
	return key, ok
}

// event is command for a message or an invalidation. Without names it is about everything.
func (m *Match) event(on string, names []string, node string) (name string, ok bool) {
	if m.on != on || m.node != "" && m.node != node {
		return "", false
	}
	if len(names) == 0 {
		return "", true
	}
	for _, n := range names {
		if m.keyed == notKeyed || matchGlob(m.key, n) {
			return n, true
		}
	}
	return "", false
}
