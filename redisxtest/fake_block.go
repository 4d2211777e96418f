package redisxtest

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// waiter is a client that waits in a blocking command.
type waiter struct {
	c        *fakeConn
	name     string
	args     []string
	deadline time.Time // zero: waits without end
	timer    *time.Timer
}

// tryBlock runs a blocking command: at once if there is something, else the client waits. It reports whether the command
// is a blocking one. f.mu is held.
func (f *Fake) tryBlock(c *fakeConn, name string, args []string, r *reply) bool {
	args = f.resolveLast(c, name, args)
	out, blocks, ready := f.attempt(c, name, args)
	if !blocks {
		return false
	}
	timeout, ok := blockTimeout(name, args)
	if ready || !ok {
		r.raw(out)
		return true
	}
	w := &waiter{c: c, name: name, args: args}
	if timeout > 0 {
		w.deadline = f.now().Add(timeout)
		w.timer = time.AfterFunc(timeout, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			if c.blocked == w {
				f.expire(w)
				f.settle(nil)
			}
		})
	}
	c.blocked = w
	f.waiters = append(f.waiters, w)
	return true
}

// attempt runs a blocking command without waiting. blocks tells whether it is one, ready whether it has its reply; if not,
// out is the null it would time out with.
func (f *Fake) attempt(c *fakeConn, name string, args []string) (out []byte, blocks, ready bool) {
	none := &reply{resp: c.resp}
	none.nullArray()
	switch name {
	case "WAIT":
		n, err1 := strconv.Atoi(args[1])
		ms, err2 := strconv.Atoi(args[2])
		r := &reply{resp: c.resp}
		switch {
		case err1 != nil:
			r.errorf("ERR value is not an integer or out of range")
		case err2 != nil:
			r.errorf("ERR timeout is not an integer or out of range")
		case ms < 0:
			r.errorf("ERR timeout is negative")
		default:
			r.int(0) // there are no replicas, so more than none is waited for in vain
			return r.b, true, n <= 0
		}
		return r.b, true, true
	case "BLMPOP":
		if _, ok := blockTimeout(name, args); !ok {
			r := &reply{resp: c.resp}
			if n, ok := luaNumber(args[1]); ok && n < 0 {
				r.errorf("ERR timeout is negative")
			} else {
				r.errorf("ERR timeout is not a float or out of range")
			}
			return r.b, true, true
		}
		out = f.data(c, "LMPOP", append([]string{"LMPOP"}, args[2:]...))
		if isNull(out) {
			return none.b, true, false
		}
		return out, true, true
	case "BLPOP", "BRPOP", "BRPOPLPUSH", "BLMOVE", "BZPOPMIN", "BZPOPMAX", "BZMPOP":
	case "XREAD", "XREADGROUP":
		// A group read of what is pending already does not wait.
		if len(withoutBlock(args)) == len(args) || name == "XREADGROUP" && args[len(args)-1] != ">" {
			return nil, false, false
		}
	default:
		return nil, false, false
	}

	if answer, _ := f.check(c, name, args); len(answer) > 0 {
		return answer, true, true
	}
	if name == "XREADGROUP" {
		defer f.groupReads(c, args)()
	}

	// Inside a transaction miniredis tries a blocking command once.
	c.peer.Resp3 = c.resp == 3
	f.tracks.wrote = true
	f.eng.run(c.peer, &c.buf, "MULTI")
	if out := slices.Clone(f.eng.run(c.peer, &c.buf, args...)); len(out) == 0 || out[0] != '+' {
		f.eng.run(c.peer, &c.buf, "DISCARD")
		return out, true, true
	}
	out = f.eng.run(c.peer, &c.buf, "EXEC")
	out = scores(name, args, slices.Clone(out[min(len(out), len("*1\r\n")):]))
	if isNull(out) {
		return none.b, true, false
	}
	if c.resp == 3 && (name == "XREAD" || name == "XREADGROUP") {
		out = streamsMap(out)
	}
	return out, true, true
}

// resolveLast replaces the ID $ of a blocking XREAD by what it means now.
func (f *Fake) resolveLast(c *fakeConn, name string, args []string) []string {
	if name != "XREAD" {
		return args
	}
	i := slices.IndexFunc(args, func(a string) bool { return strings.EqualFold(a, "STREAMS") })
	if i < 0 || (len(args)-i-1)%2 != 0 {
		return args
	}
	n := (len(args) - i - 1) / 2
	for j := i + 1 + n; j < len(args); j++ {
		if args[j] != "$" {
			continue
		}
		args = slices.Clone(args)
		args[j] = "0-0"
		if entries, err := f.eng.m.DB(c.db).Stream(args[j-n]); err == nil && len(entries) > 0 {
			args[j] = entries[len(entries)-1].ID
		}
	}
	return args
}

// blockTimeout reads the timeout of a blocking command; 0 is no timeout.
func blockTimeout(name string, args []string) (time.Duration, bool) {
	text, unit := args[len(args)-1], time.Second
	switch name {
	case "BLMPOP", "BZMPOP":
		text = args[1]
	case "WAIT":
		text, unit = args[2], time.Millisecond
	case "XREAD", "XREADGROUP":
		unit = time.Millisecond
		for i := 1; i+1 < len(args); i++ {
			if strings.EqualFold(args[i], "BLOCK") {
				text = args[i+1]
				break
			}
		}
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(n) || n < 0 || n > 1e9 {
		return 0, false
	}
	return time.Duration(n * float64(unit)), true
}

// serveWaiters lets blocked clients go on that can, first come first served, and reports whether any did.
func (f *Fake) serveWaiters() bool {
	served := false
	for _, w := range slices.Clone(f.waiters) {
		if w.c.blocked != w || f.slots != nil && !f.slots.local(f, w.c, cmdKeys(f.commands[w.name], w.args)) {
			continue
		}
		out, _, ready := f.attempt(w.c, w.name, w.args)
		// A key of another type is no reason to stop waiting.
		if !ready || strings.HasPrefix(string(out), "-WRONGTYPE") {
			continue
		}
		served = true
		f.placed(w.c, f.commands[w.name], w.args)
		f.unblock(w, out)
	}
	return served
}

// unblock answers a blocked client and runs what it has sent meanwhile.
func (f *Fake) unblock(w *waiter, out []byte) {
	f.forget(w)
	c := w.c
	c.send(out)
	for len(c.pending) > 0 && c.blocked == nil && !c.gone {
		args := c.pending[0]
		c.pending = c.pending[1:]
		f.run(c, args)
		f.invalidate(c, nil)
	}
}

// expire ends a wait as its timeout does.
func (f *Fake) expire(w *waiter) {
	r := reply{resp: w.c.resp}
	if w.name == "WAIT" {
		r.int(0)
	} else {
		r.nullArray()
	}
	f.unblock(w, r.b)
}

func (f *Fake) forget(w *waiter) {
	if w.timer != nil {
		w.timer.Stop()
	}
	w.c.blocked = nil
	f.waiters = slices.DeleteFunc(f.waiters, func(o *waiter) bool { return o == w })
}
