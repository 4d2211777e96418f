package redisxtest

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/alicebob/miniredis/v2/fpconv"
	lua "github.com/yuin/gopher-lua"
)

// api is the table redis of a script.
func (run *scriptRun) api() map[string]lua.LGFunction {
	none := func(*lua.LState) int { return 0 }
	return map[string]lua.LGFunction{
		"call":         func(l *lua.LState) int { return run.call(l, true) },
		"pcall":        func(l *lua.LState) int { return run.call(l, false) },
		"error_reply":  func(l *lua.LState) int { return singleField(l, "err", errorReply) },
		"status_reply": func(l *lua.LState) int { return singleField(l, "ok", func(s string) string { return s }) },
		"sha1hex": func(l *lua.LState) int {
			if l.GetTop() != 1 {
				run.raise(l, "ERR wrong number of arguments")
			}
			s, _ := luaText(l.Get(1))
			l.Push(lua.LString(sha1Hex(s)))
			return 1
		},
		"log": func(l *lua.LState) int {
			level, ok := l.Get(1).(lua.LNumber)
			switch {
			case l.GetTop() < 2:
				run.raise(l, "ERR redis.log() requires two arguments or more.")
			case !ok:
				run.raise(l, "ERR First argument must be a number (log level).")
			case level < 0 || level > 3:
				run.raise(l, "ERR Invalid log level.")
			}
			return 0
		},
		"setresp": func(l *lua.LState) int {
			if l.GetTop() != 1 {
				run.raise(l, "ERR redis.setresp() requires one argument.")
			}
			n := l.CheckNumber(1)
			if n != 2 && n != 3 {
				run.raise(l, "ERR RESP version must be 2 or 3.")
			}
			run.resp = int(n)
			return 0
		},
		"set_repl": func(l *lua.LState) int {
			if l.GetTop() != 1 {
				run.raise(l, "ERR redis.set_repl() requires two arguments.")
			}
			if n := l.CheckNumber(1); n < 0 || n > 3 {
				run.raise(l, "ERR Invalid replication flags. Please use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.")
			}
			return 0
		},
		"replicate_commands": func(l *lua.LState) int {
			l.Push(lua.LTrue)
			return 1
		},
		"breakpoint": func(l *lua.LState) int {
			l.Push(lua.LFalse)
			return 1
		},
		"debug":         none,
		"acl_check_cmd": run.aclCheckCmd,
	}
}

func (run *scriptRun) aclCheckCmd(l *lua.LState) int {
	args := run.arguments(l)
	cmd := run.f.command(args[0])
	if cmd == nil {
		run.raise(l, "ERR Invalid command passed to redis.acl_check_cmd()")
	}
	u := run.f.users[run.c.user]
	l.Push(lua.LBool(u != nil && cmdComplete(cmd, args) && u.denies(run.c.user, cmd, args) == ""))
	return 1
}

// raise ends the script, or what pcall runs, with an error reply.
func (run *scriptRun) raise(l *lua.LState, text string) {
	run.line = lineOf(l)
	l.Error(errorTable(l, text), 0)
}

// luaError is the function error.
func (run *scriptRun) luaError(l *lua.LState) int {
	run.line = lineOf(l)
	v, level := l.Get(1), l.OptInt(2, 1)
	if n, ok := v.(lua.LNumber); ok {
		v = lua.LString(luaFormat(float64(n)))
	}
	l.SetTop(0)
	if dbg, ok := l.GetStack(level); !ok || level < 1 || !inLua(l, dbg) {
		level = 0
	}
	l.Error(v, level)
	return 0
}

// inLua reports whether a level of the stack is in the script, not in a library.
func inLua(l *lua.LState, dbg *lua.Debug) bool {
	_, err := l.GetInfo("Sl", dbg, lua.LNil)
	return err == nil && dbg.CurrentLine > 0
}

func errorTable(l *lua.LState, text string) *lua.LTable {
	t := l.NewTable()
	t.RawSetString("err", lua.LString(text))
	t.RawSetString("ignore_error_stats_update", lua.LTrue)
	return t
}

// errorReply makes of a text what a client sees: the first word is the code only if there are more, or a hyphen says so.
func errorReply(s string) string {
	s = strings.TrimPrefix(s, "-")
	if !strings.Contains(s, " ") {
		return "ERR " + s
	}
	return s
}

func singleField(l *lua.LState, field string, make func(string) string) int {
	t := l.NewTable()
	s, ok := l.Get(1).(lua.LString)
	if l.GetTop() != 1 || !ok {
		t.RawSetString("err", lua.LString("ERR wrong number or type of arguments"))
	} else {
		t.RawSetString(field, lua.LString(make(string(s))))
	}
	l.Push(t)
	return 1
}

// arguments of redis.call, numbers as the server writes them.
func (run *scriptRun) arguments(l *lua.LState) []string {
	if l.GetTop() == 0 {
		run.raise(l, "ERR Please specify at least one argument for this redis lib call")
	}
	args := make([]string, l.GetTop())
	for i := range args {
		switch v := l.Get(i + 1).(type) {
		case lua.LString:
			args[i] = string(v)
		case lua.LNumber:
			args[i] = wireNumber(float64(v))
		default:
			run.raise(l, "ERR Lua redis lib command arguments must be strings or integers")
		}
	}
	return args
}

// wireNumber is the shortest text that is this number; integers of 64 bits are written as such.
func wireNumber(n float64) string {
	if i := int64(n); float64(i) == n && n > -1<<63 && n < 1<<63 {
		if -1<<62 < i && i < 1<<62 {
			return strconv.FormatInt(i, 10)
		}
	}
	if s := formatG(n, 17); strings.HasSuffix(s, "nan") || strings.HasSuffix(s, "inf") {
		return s
	}
	return fpconv.Dtoa(n)
}

func (run *scriptRun) call(l *lua.LState, raise bool) int {
	args := run.arguments(l)
	out := run.command(args)
	if len(out) > 0 && out[0] == '-' {
		text := strings.TrimRight(string(out[1:]), "\r\n")
		if raise {
			run.raise(l, text)
		}
		l.Push(errorTable(l, text))
		return 1
	}
	v, _ := toLua(l, out)
	l.Push(v)
	return 1
}

// command runs a command of a script and returns its reply in the protocol that the script chose.
func (run *scriptRun) command(args []string) []byte {
	f, c := run.f, run.c
	name := strings.ToUpper(args[0])
	cmd := f.commands[name]
	r := reply{resp: run.resp}
	switch {
	case cmd == nil:
		r.errorf("ERR Unknown Redis command called from script")
	case !cmdComplete(cmd, args):
		r.errorf("ERR Wrong number of args calling Redis command from script")
	case cmd.flagged(args, "noscript"):
		r.errorf("ERR This Redis command is not allowed from script")
	case run.readOnly && (cmd.flagged(args, "write") || name == "PUBLISH" || name == "SPUBLISH"):
		r.errorf("ERR Write commands are not allowed from read-only scripts.")
	case (name == "XREAD" || name == "XREADGROUP") && len(withoutBlock(args)) < len(args):
		r.errorf("ERR %s command is not allowed with BLOCK option from scripts", name)
	case f.denied(c, cmd, args, &r):
	case f.slots != nil && f.outOfReach(c, cmd, args, &r):
	default:
		run.wrote = run.wrote || cmd.flagged(args, "write")
		outer := c.resp
		c.resp, c.outer = run.resp, outer
		if out, blocks, _ := f.attempt(c, name, args); blocks {
			r.raw(out)
		} else {
			f.exec(c, name, args, &r)
		}
		c.resp, c.outer = outer, 0
	}
	return r.b
}

// flagged reports whether a command or the sub-command that is called has a flag.
func (c *fakeCommand) flagged(args []string, flag string) bool {
	if c.has(flag) || len(args) < 2 {
		return c.has(flag)
	}
	sub, ok := parsedCommands[c.name+"|"+strings.ToUpper(args[1])]
	return ok && sub.has(flag)
}

func cmdComplete(c *fakeCommand, args []string) bool {
	return (c.arity < 0 || len(args) == c.arity) && len(args) >= -c.arity
}

// toLua converts one reply and returns what is behind it.
func toLua(l *lua.LState, b []byte) (lua.LValue, []byte) {
	end := bytes.IndexByte(b, '\n')
	if end < 1 {
		return lua.LFalse, nil
	}
	kind, head, rest := b[0], string(b[1:end-1]), b[end+1:]
	n, _ := strconv.Atoi(head)
	field := func(name string, v lua.LValue) *lua.LTable {
		t := l.NewTable()
		t.RawSetString(name, v)
		return t
	}
	switch kind {
	case ':':
		x, _ := strconv.ParseInt(head, 10, 64)
		return lua.LNumber(x), rest
	case '+':
		return field("ok", lua.LString(head)), rest
	case '-':
		return errorTable(l, head), rest
	case '_':
		return lua.LNil, rest
	case '#':
		return lua.LBool(head == "t"), rest
	case ',':
		x, _ := luaNumber(head)
		return field("double", lua.LNumber(x)), rest
	case '$':
		if n < 0 {
			return lua.LFalse, rest
		}
		return lua.LString(rest[:n]), rest[n+2:]
	case '*':
		if n < 0 {
			return lua.LFalse, rest
		}
		t := l.CreateTable(n, 0)
		for i := 1; i <= n; i++ {
			var v lua.LValue
			v, rest = toLua(l, rest)
			t.RawSetInt(i, v)
		}
		return t, rest
	case '~':
		t := l.NewTable()
		for range n {
			var v lua.LValue
			v, rest = toLua(l, rest)
			t.RawSet(v, lua.LTrue)
		}
		return field("set", t), rest
	case '%':
		t := l.NewTable()
		for range n {
			var k, v lua.LValue
			k, rest = toLua(l, rest)
			v, rest = toLua(l, rest)
			t.RawSet(k, v)
		}
		return field("map", t), rest
	}
	return lua.LFalse, rest
}

// reply converts what a script returned.
func (run *scriptRun) reply(v lua.LValue, r *reply) {
	switch v := v.(type) {
	case lua.LString:
		r.bulk(string(v))
	case lua.LNumber:
		r.int(int(luaInt(float64(v))))
	case lua.LBool:
		run.replyBool(bool(v), r)
	case *lua.LTable:
		run.replyTable(v, r)
	default:
		r.null()
	}
}

func (run *scriptRun) replyBool(v bool, r *reply) {
	switch {
	case run.resp == 3 && r.resp == 3:
		r.simpleKind('#', map[bool]string{true: "t", false: "f"}[v])
	case v:
		r.int(1)
	case run.resp == 3:
		r.int(0)
	default:
		r.null()
	}
}

func (run *scriptRun) replyTable(t *lua.LTable, r *reply) {
	if s, ok := t.RawGetString("err").(lua.LString); ok {
		r.errorf("%s", strings.TrimPrefix(string(s), "-"))
		return
	}
	if s, ok := t.RawGetString("ok").(lua.LString); ok {
		r.simple(strings.NewReplacer("\r", " ", "\n", " ").Replace(string(s)))
		return
	}
	if n, ok := t.RawGetString("double").(lua.LNumber); ok {
		if r.resp == 3 {
			r.simpleKind(',', wireNumber(float64(n)))
		} else {
			r.bulk(wireNumber(float64(n)))
		}
		return
	}
	if s, ok := t.RawGetString("big_number").(lua.LString); ok {
		text := strings.NewReplacer("\r", " ", "\n", " ").Replace(string(s))
		if r.resp == 3 {
			r.simpleKind('(', text)
		} else {
			r.bulk(text)
		}
		return
	}
	if v, ok := t.RawGetString("verbatim_string").(*lua.LTable); ok {
		format, ok1 := v.RawGetString("format").(lua.LString)
		text, ok2 := v.RawGetString("string").(lua.LString)
		if ok1 && ok2 {
			r.verbatim(string(format), string(text))
			return
		}
	}
	if m, ok := t.RawGetString("map").(*lua.LTable); ok {
		n := 0
		m.ForEach(func(lua.LValue, lua.LValue) { n++ })
		r.dict(n)
		m.ForEach(func(k, v lua.LValue) {
			run.reply(k, r)
			run.reply(v, r)
		})
		return
	}
	if set, ok := t.RawGetString("set").(*lua.LTable); ok {
		n := 0
		set.ForEach(func(lua.LValue, lua.LValue) { n++ })
		if r.resp == 3 {
			r.head('~', n)
		} else {
			r.array(n)
		}
		set.ForEach(func(k, _ lua.LValue) { run.reply(k, r) })
		return
	}
	n := 0
	for t.RawGetInt(n+1) != lua.LNil {
		n++
	}
	r.array(n)
	for i := 1; i <= n; i++ {
		run.reply(t.RawGetInt(i), r)
	}
}
