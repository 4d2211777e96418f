package redisxtest

import (
	"slices"
	"strconv"
	"strings"
)

// handle runs one command of a client and everything that follows from it. f.mu is held.
func (f *Fake) handle(c *fakeConn, args []string) {
	if c.blocked != nil {
		c.pending = append(c.pending, args)
		return
	}
	if f.script.Load() != nil {
		f.whileBusy(c, args)
		return
	}
	f.tick()
	f.run(c, args)
	f.settle(c)
}

// tick brings expiry up to date and tells those who track the expired keys. f.mu is held.
func (f *Fake) tick() {
	if expired := f.eng.tick(f.now()); len(expired) > 0 {
		f.invalidate(nil, expired)
	}
}

// settle does what follows from changed keys: invalidation messages, and blocked clients that can go on. f.mu is held.
func (f *Fake) settle(cause *fakeConn) {
	f.invalidate(cause, nil)
	for f.serveWaiters() {
		f.invalidate(nil, nil)
	}
	f.watchExpiry()
}

// run answers one command of a client that is not blocked.
func (f *Fake) run(c *fakeConn, args []string) {
	name := strings.ToUpper(args[0])
	f.counts[name]++
	c.used, c.last = f.now(), strings.ToLower(name)
	r := reply{resp: c.resp}
	caching := c.caching
	if !f.refuse(c, name, args, &r) {
		if c.multi && !runsInMulti[name] {
			c.queue = append(c.queue, args)
			r.simple("QUEUED")
		} else if !f.tryBlock(c, name, args, &r) {
			f.exec(c, name, args, &r)
		}
		f.placed(c, f.commands[name], args)
	}
	if caching != "" && !c.multi && name != "CLIENT" {
		c.caching = ""
	}
	if name != "ASKING" && !c.multi {
		c.asking = false
	}
	c.send(append(r.b, c.after...))
	c.after = nil
	if c.closing {
		c.finish()
	}
}

// runsInMulti are the commands that a transaction does not queue.
var runsInMulti = map[string]bool{
	"EXEC": true, "DISCARD": true, "MULTI": true, "WATCH": true, "QUIT": true, "RESET": true,
}

// selfMade are commands that client libraries send by themselves: see FailNext.
var selfMade = map[string]bool{
	"HELLO": true, "AUTH": true, "SELECT": true, "CLIENT": true, "PING": true, "COMMAND": true, "CLUSTER": true, "READONLY": true, "ASKING": true,
}

// refuse answers commands that may not run, and reports whether it did.
func (f *Fake) refuse(c *fakeConn, name string, args []string, r *reply) bool {
	before := len(r.b)
	cmd := f.commands[name]
	switch {
	case c.user == "" && name != "HELLO" && name != "AUTH" && name != "QUIT" && name != "RESET":
		r.errorf("NOAUTH Authentication required.")
	case f.fails(name):
		r.errorf("%s", f.fail.text)
	case cmd == nil:
		unknownCommand(args, r)
	case cmd.arity > 0 && len(args) != cmd.arity, cmd.arity < 0 && len(args) < -cmd.arity:
		r.wrongArity(name)
	case c.user != "" && f.denied(c, cmd, args, r):
	case f.slots != nil && f.redirected(c, cmd, args, r):
	case c.resp == 2 && c.subscriptions() > 0 && !allowedSubscribed[name]:
		r.errorf("ERR Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
			strings.ToLower(name))
	default:
		return false
	}
	c.dirty = c.dirty || c.multi
	return len(r.b) > before
}

// denied answers what the client's user may not do, and reports whether it did.
func (f *Fake) denied(c *fakeConn, cmd *fakeCommand, args []string, r *reply) bool {
	if cmd.has("no_auth") {
		return false
	}
	u := f.users[c.user]
	if u == nil {
		u = newFakeUser() // deleted meanwhile
	}
	why := u.denies(c.user, cmd, args)
	if why != "" {
		r.errorf("%s", why)
	}
	return why != ""
}

func (f *Fake) fails(name string) bool {
	if f.fail.left <= 0 {
		return false
	}
	if len(f.fail.commands) > 0 && !slices.Contains(f.fail.commands, name) || len(f.fail.commands) == 0 && selfMade[name] {
		return false
	}
	f.fail.left--
	f.fail.met = true
	return true
}

func unknownCommand(args []string, r *reply) {
	var b strings.Builder
	for _, a := range args[1:min(len(args), 21)] {
		b.WriteString("'" + a[:min(len(a), 128)] + "' ")
	}
	r.errorf("ERR unknown command '%.128s', with args beginning with: %s", args[0], b.String())
}

// command is the entry of a command by its name in any case, nil for one that the Fake lacks.
func (f *Fake) command(name string) *fakeCommand { return f.commands[strings.ToUpper(name)] }

// exec runs a command that is known, allowed and complete.
func (f *Fake) exec(c *fakeConn, name string, args []string, r *reply) {
	cmd := f.commands[name]
	if cmd.local != nil {
		cmd.local(f, c, args, r)
		return
	}
	if cmd.has("readonly") {
		f.remember(c, cmd, args)
	}
	r.raw(f.data(c, name, args))
}

// data has miniredis run a command, with its answers to the newer protocol and its error texts put right.
func (f *Fake) data(c *fakeConn, name string, args []string) (out []byte) {
	var answer []byte
	if answer, args = f.check(c, name, args); len(answer) > 0 {
		return answer
	}
	c.peer.Resp3 = c.resp == 3
	if !f.commands[name].has("readonly") {
		f.tracks.wrote = true
	}
	switch name {
	case "XREADGROUP":
		if out, ok := f.history(c, args); ok {
			return out
		}
		defer f.groupReads(c, args)()
	case "XADD":
		missing := f.eng.kind(c.db, args[1]) == ""
		defer func() {
			if missing && len(out) > 0 && out[0] == '-' && f.eng.kind(c.db, args[1]) != "" {
				f.eng.m.DB(c.db).Del(args[1]) // miniredis makes the stream before it looks at the ID
			}
			if s := f.eng.stream(dbKey{c.db, args[1]}); s != nil && len(out) > 0 && out[0] == '$' && !isNull(out) {
				f.added(s)
			}
		}()
	case "XTRIM":
		defer func() {
			if len(out) > 0 && out[0] == ':' && string(out) != ":0\r\n" {
				f.eng.changed(dbKey{c.db, args[1]})
			}
		}()
	case "XDEL":
		defer f.deletes(dbKey{c.db, args[1]}, args[2:])()
	case "COPY", "BITOP":
		defer func() {
			if len(out) > 0 && out[0] == ':' && string(out) != ":0\r\n" {
				f.overwritten(c, name, args)
			}
		}()
	case "FLUSHALL", "FLUSHDB":
		f.tracks.flush(c.node)
		if len(args) == 2 && strings.EqualFold(args[1], "SYNC") {
			args = args[:1]
		}
	case "MEMORY":
		if len(args) == 5 && strings.EqualFold(args[1], "USAGE") && strings.EqualFold(args[3], "SAMPLES") {
			args = args[:3]
		}
	case "GETEX":
		if len(args) > 2 {
			f.touch(dbKey{c.db, args[1]})
		}
	}
	out = scores(name, args, f.eng.run(c.peer, &c.buf, args...))
	if storesEmpty[name] && string(out) == ":0\r\n" {
		f.eng.run(c.peer, &c.buf, "DEL", args[1])
		return []byte(":0\r\n")
	}
	if string(out) == "-ERR at least 1 input key is needed for ZUNIONSTORE/ZINTERSTORE\r\n" {
		return []byte("-ERR at least 1 input key is needed for '" + strings.ToLower(name) + "' command\r\n")
	}
	if text, ok := strings.CutPrefix(string(out), "-ERR invalid expire time in "); ok {
		return []byte("-ERR invalid expire time in '" + strings.TrimSpace(text) + "' command\r\n")
	}
	if c.resp == 3 {
		if isNull(out) {
			return []byte("_\r\n")
		}
		if name == "XREAD" || name == "XREADGROUP" {
			return streamsMap(out)
		}
		return asRESP3(name, args, out)
	}
	return out
}

// overwritten takes the TTL of what was there before from the destination of COPY and BITOP.
func (f *Fake) overwritten(c *fakeConn, name string, args []string) {
	from, to := dbKey{c.db, ""}, dbKey{c.db, args[2]}
	if name == "COPY" {
		from.key = args[1]
		for i := 3; i+1 < len(args); i++ {
			if n, err := strconv.Atoi(args[i+1]); strings.EqualFold(args[i], "DB") && err == nil {
				to.db = n
			}
		}
	}
	if _, _, volatile := f.eng.expiry(from); !volatile || name == "BITOP" {
		f.eng.persist(to)
	}
}

// streamsMap turns the list of [stream, entries] pairs into the map it is in RESP3.
func streamsMap(out []byte) []byte {
	if len(out) == 0 || out[0] != '*' {
		return out
	}
	body := slices.Index(out, '\n') + 1
	b := append([]byte{'%'}, out[1:body]...)
	for i := body; i < len(out); {
		end := skipReply(out, i)
		if end < 0 {
			return out
		}
		b = append(b, out[i+len("*2\r\n"):end]...)
		i = end
	}
	return b
}

// withoutBlock takes BLOCK and its argument out of XREAD and XREADGROUP: scripts do not wait.
func withoutBlock(args []string) []string {
	for i := 1; i+1 < len(args) && !strings.EqualFold(args[i], "STREAMS"); i++ {
		if strings.EqualFold(args[i], "BLOCK") {
			return slices.Delete(slices.Clone(args), i, i+2)
		}
	}
	return args
}
