package chaos

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// session is one connection through a Proxy: that of the client, and the one to the server in its place.
type session struct {
	px             *Proxy
	id             uint64
	node           string
	client, server net.Conn
	near           *clientEnd // of a client in this process, which may do without the pumps
	up, down       *pump
	left           atomic.Int32 // pumps that run

	state  atomic.Pointer[state] // nil without faults
	dead   atomic.Bool           // half-open: nothing arrives any more
	hung   atomic.Bool           // a rule made it hang
	closed atomic.Bool

	// What the pump to the server knows.
	commands commandScanner
	held     []byte // of a command that is not decided about
	decided  bool
	pass     bool // what follows of a command that is decided about
	opaque   bool // no commands
	multi    bool // a transaction is open

	mu       sync.Mutex
	expected []expected // replies to come, in order

	// What the pump to the client knows.
	replies    replyScanner
	heldReply  []byte
	reading    bool // in the middle of a reply
	asked      bool // it is one that was expected, and no push
	act        action
	room       int // bytes of a reply before it is cut
	blind      bool
	subscribed bool // RESP2: arrays may be messages
	sharded    bool // the same of SSUBSCRIBE, whose channels servers count by themselves
	awaiting   []byte
	gap        int // messages still to be dropped
	gapBreaks  bool
	hushed     bool // a reply hangs: not even the end arrives
}

// action is what happens to a reply.
type action uint8

const (
	passOn   action = iota
	unread          // not decided yet: it may be a push
	await           // it arrives when the one behind it, which is swallowed, has come
	swallow         // it does not arrive, those behind it do
	replace         // another text arrives in its place
	breakNow        // there is no reply: the connection breaks when it is its turn
	breakAt         // the connection breaks instead of it
	resetAt         // the connection is reset instead of it
	cutAt           // the connection breaks in the middle of it
	hushAt          // neither it nor anything behind it arrives
)

// expected is a reply to come.
type expected struct {
	act      action
	text     string
	room     int
	confirms int    // above 0: pushes confirm the command, and how many
	kind     string // of those pushes
}

// share returns where in a span of latency a piece lies.
func (c *session) share(dir Direction, nth uint64) float64 {
	return unit(mix(mix(mix(c.px.script.Seed+c.id)+uint64(dir)) + nth))
}

// connect puts the pumps between the connections.
func (c *session) connect() {
	c.up, c.down = newPump(c, ToServer, c.client, c.server), newPump(c, ToClient, c.server, c.client)
	if len(c.px.script.Rules) > 0 {
		c.up.filter, c.down.filter = c.fromClient, c.fromServer
	}
	c.left.Store(2)
}

// start starts the pumps.
func (c *session) start() {
	c.px.wg.Go(func() { c.run(c.up) })
	c.px.wg.Go(func() { c.run(c.down) })
}

// kick makes the pumps look at what has changed, and starts them if the client did without so far.
func (c *session) kick() {
	if c.near != nil {
		c.near.leave()
	}
	c.up.kick()
	c.down.kick()
}

// run runs a pump, and ends the session after the second.
func (c *session) run(p *pump) {
	p.run()
	if c.left.Add(-1) == 0 {
		c.close()
		c.px.forget(c)
	}
}

// close ends both connections.
func (c *session) close() {
	c.closed.Store(true)
	c.client.Close()
	c.server.Close()
	c.kick()
}

// abort resets both connections.
func (c *session) abort() {
	c.closed.Store(true)
	resetConn(c.client)
	resetConn(c.server)
	c.kick()
}

// broke ends the client's connection for a fault. What was sent to the server is run: it sees the end behind it.
func (c *session) broke(how ending) {
	if how == resets {
		resetConn(c.client)
	} else {
		closeWrite(c.client)
	}
	c.up.over.Store(true)
	c.up.kick()
}

// fromClient takes bytes of the client apart into commands.
func (c *session) fromClient(b []byte) {
	for len(b) > 0 && !c.up.discard.Load() {
		if c.opaque {
			c.up.emit(b)
			return
		}
		if b[0] == tlsHandshake && c.up.nth == 0 && len(c.held) == 0 && !c.commands.begun {
			c.px.fail("connection %d to %s speaks TLS, which hides commands from rules; let the dialer of NewDialer(t, chaos.DialWith(…)) do TLS and the client none, or use faults of the network alone", c.id, c.node)
			c.up.discard.Store(true)
			c.abort()
			return
		}
		n, done, ok := c.commands.scan(b)
		if !ok {
			c.up.emit(c.held)
			c.held, c.opaque = nil, true
			c.px.remark("connection %d to %s: what the client sends is no command; rules do not apply from here on", c.id, c.node)
			continue
		}
		part := b[:n]
		b = b[n:]
		switch {
		case c.decided:
			if c.pass {
				c.up.emit(part)
			}
		default:
			c.held = append(c.held, part...)
			if done || len(c.held) > keepBytes {
				c.decide(done)
				c.decided, c.held = true, c.held[:0]
			}
		}
		if done {
			c.decided = false
		}
	}
}

const tlsHandshake = 0x16

// decide decides about the command that is held, and sends it on or not. Whole is false if only its beginning is held.
func (c *session) decide(whole bool) {
	c.pass = true
	args := c.commands.args
	if len(args) == 0 { // an empty line, or a name beyond all measure
		c.up.emit(c.held)
		if c.commands.kept > 0 {
			c.expect(expected{})
		}
		return
	}
	cl := c.call(args, whole)
	v := c.px.command(&cl)
	if v.delay > 0 {
		if until := time.Now().Add(v.delay); until.After(c.up.hold) {
			c.up.hold = until
		}
	}
	e := expected{confirms: confirmations(cl.name, args), kind: strings.ToLower(cl.name)}
	switch v.fault.kind {
	case reply:
		c.pass = false
		e = expected{act: replace, text: v.fault.text}
		c.expect(e)
		c.up.emit([]byte(c.refusal(cl.name)))
		return
	case loseRequest:
		c.up.discard.Store(true)
		c.expect(expected{act: breakNow})
		c.down.kick()
		return
	case hang:
		c.hung.Store(true)
		c.up.discard.Store(true)
		return
	case duplicate:
		c.up.emit(c.held)
		c.expect(expected{act: await}) // or the client would go on before the second is run
		e = expected{act: swallow}
	case loseReply:
		e.act = breakAt
	case reset:
		e.act = resetAt
	case cut:
		e.act, e.room = cutAt, v.fault.drop
	case hangReply:
		e.act = hushAt
	}
	c.expect(e)
	c.follow(cl.name, args)
	c.up.emit(c.held)
}

// follow notes what a command does to its connection.
func (c *session) follow(name string, args []string) {
	switch name {
	case "MULTI":
		c.multi = true
	case "EXEC", "DISCARD", "RESET":
		c.multi = false
	case "MONITOR", "SYNC", "PSYNC", "REPLCONF":
		c.opaque = true
	case "CLIENT":
		c.opaque = len(args) > 1 && strings.EqualFold(args[1], "REPLY")
	case "SCRIPT":
		c.opaque = len(args) > 1 && strings.EqualFold(args[1], "DEBUG")
	}
}

// refusal is a command that fails on any server, or ends a transaction, to be sent in the place of one that gets another
// error reply: so it comes in its turn.
func (c *session) refusal(name string) string {
	if c.multi && (name == "EXEC" || name == "DISCARD") {
		c.multi = false
		return "*1\r\n$7\r\nDISCARD\r\n"
	}
	return "*1\r\n$4\r\nECHO\r\n" // without its argument
}

// call is what rules look at.
func (c *session) call(args []string, whole bool) call {
	cl := call{name: strings.ToUpper(args[0]), node: c.node}
	cl.eachKey = func(f func(string)) { keysOf(cl.name, args, f) }
	cl.eachKey(func(key string) {
		if cl.first == "" {
			cl.first = key
		}
	})
	cl.once = !whole || c.multi || blocks(cl.name, args) || driver.ChangesConnection(args) || driver.TakesOver(args)
	if len(args) > 1 {
		switch cl.name {
		case "EVALSHA", "EVALSHA_RO", "EVAL", "EVAL_RO":
			cl.script = c.px.scripts[strings.ToLower(args[1])]
			if cl.script == "" {
				cl.script = c.px.scripts[args[1]]
			}
		}
	}
	cl.own = selfMade[cl.name]
	return cl
}

// confirmations returns how many pushes confirm a command, 0 for one with a reply.
func confirmations(name string, args []string) int {
	switch name {
	case "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE":
		return max(1, len(args)-1)
	}
	return 0
}

func (c *session) expect(e expected) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expected = append(c.expected, e)
}

// next returns the reply that is expected next.
func (c *session) next() expected {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.expected) == 0 {
		return expected{} // nobody asked: MONITOR, or the server is saying good-bye
	}
	return c.expected[0]
}

// got takes off the reply that was expected next.
func (c *session) got() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.expected) > 0 {
		c.drop()
	}
}

// confirmed counts a confirmation of the command that is expected to be confirmed next.
func (c *session) confirmed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.expected[0].confirms--; c.expected[0].confirms == 0 {
		c.drop()
	}
}

// drop takes off the first that is expected. c.mu is held.
func (c *session) drop() {
	if len(c.expected) == 1 {
		c.expected = c.expected[:0] // its memory is used again
		return
	}
	c.expected = c.expected[1:]
}

// breakIfDue breaks the connection if that is what comes next.
func (c *session) breakIfDue() {
	if !c.reading && !c.down.discard.Load() && c.next().act == breakNow {
		c.got()
		c.down.end(closes)
		c.down.discard.Store(true)
	}
}

// fromServer takes bytes of the server apart into replies and pushes.
func (c *session) fromServer(b []byte) {
	for len(b) > 0 && !c.down.discard.Load() {
		if c.blind {
			c.down.emit(b)
			return
		}
		c.replies.arrays = c.subscribed || c.sharded || c.next().confirms > 0
		n, done, ok := c.replies.scan(b)
		if !ok {
			c.blind = true
			c.down.emit(c.heldReply)
			c.px.remark("connection %d to %s: what the server sends is no reply; rules do not apply from here on", c.id, c.node)
			continue
		}
		if !c.reading {
			c.begin()
		}
		part := b[:n]
		b = b[n:]
		if c.act == unread {
			c.heldReply = append(c.heldReply, part...)
			if !done && len(c.heldReply) <= keepBytes {
				continue
			}
			part = c.heldReply
			c.heldReply = nil
			c.settle()
		}
		c.deal(part)
		if done {
			c.finished()
		}
	}
}

// begin begins a reply or a push.
func (c *session) begin() {
	c.reading, c.asked = true, !c.replies.keep
	if c.act = unread; c.asked {
		e := c.next()
		c.act, c.room = e.act, e.room
	}
}

// settle decides what becomes of what may be a push.
func (c *session) settle() {
	texts := c.replies.texts
	kind := ""
	if len(texts) > 0 {
		kind = texts[0]
	}
	head := c.next()
	switch {
	case strings.HasSuffix(kind, "subscribe"):
		c.act = passOn
		if head.confirms > 0 && head.kind == kind { // UNSUBSCRIBE of all may have more than one, and servers send some by themselves
			c.act, c.room = head.act, head.room
			c.confirmed()
		}
		if c.replies.top == '*' {
			left := texts[len(texts)-1] != "0"
			if kind == "ssubscribe" || kind == "sunsubscribe" {
				c.sharded = left
			} else {
				c.subscribed = left
			}
		}
	case kind == "message" && len(texts) > 1 && texts[1] == trackingChannel && c.replies.top == '*':
		c.event(onInvalidation, texts[2:])
	case (kind == "message" || kind == "smessage") && len(texts) > 1: // a long payload is not among them
		c.event(onMessage, texts[1:2])
	case kind == "pmessage" && len(texts) > 2:
		c.event(onMessage, texts[2:3])
	case kind == "invalidate" && c.replies.top == '>':
		c.event(onInvalidation, texts[1:])
	case c.replies.top == '>':
		c.act = passOn
	default:
		c.asked, c.act, c.room = true, head.act, head.room
	}
}

// trackingChannel is where RESP2 clients are told of invalidations.
const trackingChannel = "__redis__:invalidate"

// event decides about a message or an invalidation.
func (c *session) event(on string, names []string) {
	f, ok := c.px.event(on, names, c.node, c.gap > 0)
	if ok {
		c.gap, c.gapBreaks = f.drop, f.kind != bugSilentGap
	}
	c.act = passOn
	if c.gap > 0 {
		c.gap--
		c.act = swallow
	}
}

// deal deals with bytes of a reply.
func (c *session) deal(part []byte) {
	switch c.act {
	case passOn:
		c.down.emit(part)
	case await:
		if c.awaiting = append(c.awaiting, part...); len(c.awaiting) > keepBytes {
			c.down.emit(c.awaiting)
			c.awaiting, c.act = nil, passOn
		}
	case cutAt:
		n := min(c.room, len(part))
		c.down.emit(part[:n])
		if c.room -= n; c.room == 0 {
			c.stop(closes)
		}
	case breakAt:
		c.stop(closes)
	case resetAt:
		c.stop(resets)
	case hushAt:
		c.hung.Store(true)
		c.hushed = true
		c.down.discard.Store(true)
	}
}

// stop breaks the connection behind what has been sent on.
func (c *session) stop(how ending) {
	if !c.down.discard.Swap(true) {
		c.down.end(how)
	}
}

// finished ends a reply or a push.
func (c *session) finished() {
	c.reading = false
	switch {
	case c.act == replace:
		c.down.emit([]byte("-" + strings.TrimPrefix(c.next().text, "-") + "\r\n"))
	case c.act == cutAt, c.act == swallow && c.gapBreaks && c.gap == 0 && !c.asked:
		c.stop(closes)
	}
	if c.asked {
		c.got()
	}
	if c.asked && c.act == swallow {
		c.down.emit(c.awaiting)
		c.awaiting = nil
	}
}
