package chaos

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Direction is one way or both. The zero value is none.
type Direction uint8

// The directions.
const (
	ToServer Direction = 1 << iota
	ToClient
	Both = ToServer | ToClient
)

// String returns "to-server", "to-client" or "both".
func (d Direction) String() string {
	switch d {
	case ToServer:
		return "to-server"
	case ToClient:
		return "to-client"
	case Both:
		return "both"
	}
	return "none"
}

// Network is what lies between clients and one server or all: [Proxy] and [Proxy.Node] are networks. Its faults know no
// commands, and so work under TLS too. They begin at once, for connections that exist as well, and last until end is called,
// Heal, or the end of the proxy. Several at a time: latencies add up, the smallest bandwidth counts, of the others one is
// enough. A fault that cannot be (a negative latency) fails the test. Network is safe for concurrent use.
type Network interface {
	// Latency delays bytes in each direction, so that a round trip takes twice as long more. Order stays. A connection holds
	// back 1 MiB per direction at most, and then stops reading.
	Latency(d time.Duration) (end func())
	// LatencyBetween is Latency with jitter: a time drawn evenly from a span, for bytes that arrive together.
	LatencyBetween(least, most time.Duration) (end func())
	// Bandwidth lets so many bytes per second through, per connection and direction.
	Bandwidth(bytesPerSecond int) (end func())
	// BlackHole lets nothing through in a direction, the end of a connection included. What was held back, 1 MiB at most,
	// goes on its way when the hole ends, as what TCP sends again does. Meanwhile Proxy.Dial waits for its ctx; a listener
	// still accepts.
	BlackHole(dir Direction) (end func())
	// Refuse refuses new connections (ECONNREFUSED). Those that exist stay.
	Refuse() (end func())
	// SlowAccept lets a new connection wait before anything is read from it; Proxy.Dial returns that much later.
	SlowAccept(d time.Duration) (end func())

	// HalfOpen makes the other end of the connections that exist vanish without a sign: they stay, whatever is sent on them
	// is lost, and no end of one side reaches the other. New connections work. Heal resets them.
	HalfOpen()
	// Reset resets the connections that exist (RST, ECONNRESET).
	Reset()
	// Heal ends all faults of this network, and resets connections on which bytes were lost: half-open ones, and those that
	// a rule made hang.
	Heal()
}

// state is what the faults of the network are for a connection.
type state struct {
	least, most time.Duration
	rate        int64 // bytes per second, 0 is no limit
	hole        Direction
	refuse      bool
	accept      time.Duration
}

func (s *state) add(o state) {
	s.least, s.most, s.accept = s.least+o.least, s.most+o.most, s.accept+o.accept
	s.hole |= o.hole
	s.refuse = s.refuse || o.refuse
	if o.rate > 0 && (s.rate == 0 || o.rate < s.rate) {
		s.rate = o.rate
	}
}

// begun is a fault that has not ended.
type begun struct {
	node  string // "" is every node
	state state
	text  string
}

// network implements Network.
type network struct {
	px   *Proxy
	node string
}

// String returns the node's address, or that of the proxy. It is the network's name in a schedule.
func (n network) String() string {
	if n.node != "" {
		return n.node
	}
	return n.px.name()
}

func (n network) Latency(d time.Duration) func() { return n.LatencyBetween(d, d) }

func (n network) LatencyBetween(least, most time.Duration) func() {
	f := fault{kind: latency, min: least, max: most}
	return n.begin(f.check(), f.String(), state{least: least, most: most})
}

func (n network) Bandwidth(rate int) func() {
	return n.begin(wrongRate(rate), fmt.Sprintf("bandwidth %d", rate), state{rate: int64(rate)})
}

func (n network) BlackHole(dir Direction) func() {
	return n.begin(wrongHole(dir), "black-hole "+dir.String(), state{hole: dir})
}

func (n network) Refuse() func() { return n.begin("", "refuse", state{refuse: true}) }

func (n network) SlowAccept(d time.Duration) func() {
	return n.begin(wrongAccept(d), "slow-accept "+d.String(), state{accept: d})
}

func wrongRate(rate int) string {
	if rate < 1 {
		return fmt.Sprintf("bandwidth %d; want at least 1 byte per second", rate)
	}
	return ""
}

func wrongHole(dir Direction) string {
	if dir&Both == 0 || dir&^Both != 0 {
		return fmt.Sprintf("black-hole %d; want ToServer, ToClient or Both", dir)
	}
	return ""
}

func wrongAccept(d time.Duration) string {
	if d <= 0 {
		return fmt.Sprintf("slow-accept %s; want more than 0", d)
	}
	return ""
}

func (n network) HalfOpen() {
	n.px.log(n.node, "half-open")
	for _, c := range n.px.of(n.node) {
		c.dead.Store(true)
		c.kick()
	}
}

func (n network) Reset() {
	n.px.log(n.node, "reset")
	for _, c := range n.px.of(n.node) {
		c.abort()
	}
}

func (n network) Heal() {
	n.px.log(n.node, "heal")
	n.px.change(func() {
		n.px.begun = slices.DeleteFunc(n.px.begun, func(b *begun) bool { return n.node == "" || b.node == n.node })
	})
	for _, c := range n.px.of(n.node) {
		if c.dead.Load() || c.hung.Load() {
			c.abort()
		}
	}
}

// begin begins a fault.
func (n network) begin(wrong, text string, s state) (end func()) {
	if wrong != "" {
		n.px.fail("%s", wrong)
		return func() {}
	}
	n.px.log(n.node, text)
	b := &begun{node: n.node, state: s, text: text}
	n.px.change(func() { n.px.begun = append(n.px.begun, b) })
	return func() {
		ended := false
		n.px.change(func() {
			if i := slices.Index(n.px.begun, b); i >= 0 {
				n.px.begun = slices.Delete(n.px.begun, i, i+1)
				ended = true
			}
		})
		if ended {
			verb, _, _ := strings.Cut(text, " ")
			n.px.log(n.node, "end-of-"+verb)
		}
	}
}

// change changes what has begun, and tells everyone.
func (px *Proxy) change(f func()) {
	px.mu.Lock()
	f()
	close(px.changed)
	px.changed = make(chan struct{})
	var moved []*session
	for c := range px.sessions {
		var next *state
		if s := px.stateOf(c.node); s != (state{}) {
			next = &s
		}
		if old := c.state.Load(); old == nil && next == nil || old != nil && next != nil && *old == *next {
			continue
		}
		c.state.Store(next)
		moved = append(moved, c)
	}
	px.mu.Unlock()
	for _, c := range moved {
		c.kick()
	}
	px.relisten()
}

// stateOf adds up the faults for a node. px.mu is held.
func (px *Proxy) stateOf(node string) (s state) {
	for _, b := range px.begun {
		if b.node == "" || b.node == node {
			s.add(b.state)
		}
	}
	return s
}

// of returns the connections to a node, in the order in which they were made.
func (px *Proxy) of(node string) (out []*session) {
	px.mu.Lock()
	defer px.mu.Unlock()
	for c := range px.sessions {
		if node == "" || c.node == node {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *session) int { return int(a.id) - int(b.id) })
	return out
}

// log notes a fault of the network, as a comment that has the form of a line for ParseSchedule.
func (px *Proxy) log(node, text string) {
	verb, args, _ := strings.Cut(text, " ")
	if node == "" {
		node = px.name()
	}
	px.remark("%s", strings.TrimSpace(fmt.Sprintf("at %s %s %s %s", time.Since(px.started).Round(time.Microsecond), verb, quote(node), args)))
}
