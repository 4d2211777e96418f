package redisxtest

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	lua "github.com/yuin/gopher-lua"
)

// newLua makes a machine with the libraries and names that scripts have. Names that a script does not know, and writing
// to what is not its own, are errors.
func newLua(run *scriptRun) *lua.LState {
	l := lua.NewState(lua.Options{SkipOpenLibs: true, RegistrySize: 512, RegistryGrowStep: 4096, RegistryMaxSize: 1 << 18, CallStackSize: 200, MinimizeStackMemory: true})
	for _, lib := range []struct {
		name string
		open lua.LGFunction
	}{
		{lua.BaseLibName, lua.OpenBase}, {lua.TabLibName, lua.OpenTable}, {lua.StringLibName, lua.OpenString},
		{lua.MathLibName, lua.OpenMath}, {lua.CoroutineLibName, lua.OpenCoroutine},
	} {
		l.Push(l.NewFunction(lib.open))
		l.Push(lua.LString(lib.name))
		l.Call(1, 0)
	}
	g := l.G.Global
	for _, name := range []string{"print", "dofile", "loadfile", "require", "module", "newproxy", "_printregs", "getfenv", "setfenv", "package", "load"} {
		g.RawSetString(name, lua.LNil)
	}
	g.RawSetString("_VERSION", lua.LString("Lua 5.1"))
	set := func(t *lua.LTable, funcs map[string]lua.LGFunction) {
		for name, f := range funcs {
			t.RawSetString(name, l.NewFunction(f))
		}
	}
	set(g, map[string]lua.LGFunction{
		concatName: luaConcat, operandName: luaOperand, "tostring": luaToString, "tonumber": luaToNumber, "error": run.luaError,
		"pcall": luaPCall, "unpack": luaUnpack, "loadstring": luaLoadString, "rawset": run.rawset, "collectgarbage": luaCollectGarbage, "setmetatable": run.setMetatable,
	})
	str := g.RawGetString(lua.StringLibName).(*lua.LTable)
	for name, n := range map[string]int{
		"len": 1, "sub": 1, "reverse": 1, "rep": 1, "byte": 1, "find": 2, "match": 2, "gsub": 3,
	} {
		str.RawSetString(name, l.NewFunction(withStrings(str.RawGetString(name).(*lua.LFunction), n)))
	}
	for _, name := range []string{"find", "match", "gmatch", "gsub"} {
		str.RawSetString(name, l.NewFunction(withoutFrontier(str.RawGetString(name).(*lua.LFunction))))
	}
	set(str, map[string]lua.LGFunction{"format": luaStringFormat, "upper": mapBytes('a', 'z'), "lower": mapBytes('A', 'Z')})
	tab := g.RawGetString(lua.TabLibName).(*lua.LTable)
	set(tab, map[string]lua.LGFunction{"concat": luaTableConcat})
	random := &run.c.node.random
	maths := g.RawGetString(lua.MathLibName).(*lua.LTable)
	maths.RawSetString("huge", lua.LNumber(math.Inf(1)))
	set(maths, map[string]lua.LGFunction{"random": random.random, "randomseed": random.seed})
	clock := l.NewTable()
	set(clock, map[string]lua.LGFunction{"clock": func(l *lua.LState) int {
		l.Push(lua.LNumber(float64(run.f.now().UnixNano()) / 1e9))
		return 1
	}})
	g.RawSetString("os", clock)
	bits := l.NewTable()
	set(bits, luaBits)
	g.RawSetString("bit", bits)
	json := l.NewTable()
	set(json, map[string]lua.LGFunction{"encode": luaJSONEncode, "decode": luaJSONDecode})
	json.RawSetString("null", jsonNull)
	json.RawSetString("_NAME", lua.LString("cjson"))
	g.RawSetString("cjson", json)
	api := l.NewTable()
	set(api, run.api())
	for name, v := range map[string]lua.LValue{
		"LOG_DEBUG": lua.LNumber(0), "LOG_VERBOSE": lua.LNumber(1), "LOG_NOTICE": lua.LNumber(2), "LOG_WARNING": lua.LNumber(3),
		"REPL_NONE": lua.LNumber(0), "REPL_AOF": lua.LNumber(1), "REPL_SLAVE": lua.LNumber(2), "REPL_REPLICA": lua.LNumber(2), "REPL_ALL": lua.LNumber(3),
		"REDIS_VERSION": lua.LString(fakeVersion), "REDIS_VERSION_NUM": lua.LNumber(0x070200),
	} {
		api.RawSetString(name, v)
	}
	g.RawSetString("redis", api)

	// Scripts see names and libraries through tables that cannot be written to, and have nothing of their own to list.
	readonly := l.NewFunction(func(l *lua.LState) int {
		l.RaiseError("Attempt to modify a readonly table")
		return 0
	})
	missing := l.NewTable()
	missing.RawSetString("__newindex", readonly)
	missing.RawSetString("__index", l.NewFunction(func(l *lua.LState) int {
		l.RaiseError("Script attempted to access nonexistent global variable '%s'", lua.LVAsString(l.Get(2)))
		return 0
	}))
	g.Metatable = missing
	run.locked = map[*lua.LTable]bool{}
	locked := func(behind *lua.LTable) *lua.LTable {
		t, m := l.NewTable(), l.NewTable()
		m.RawSetString("__index", behind)
		m.RawSetString("__newindex", readonly)
		m.RawSetString("__metatable", lua.LNil)
		t.Metatable, run.locked[t] = m, true
		return t
	}
	for name, lib := range map[string]*lua.LTable{
		lua.StringLibName: str, lua.TabLibName: tab, lua.MathLibName: maths, "bit": bits, "cjson": json, "redis": api, "os": clock,
	} {
		g.RawSetString(name, locked(lib))
	}
	str.RawSetString("__index", g.RawGetString(lua.StringLibName))
	run.names = locked(g)
	g.RawSetString("_G", run.names)
	return l
}

func (run *scriptRun) rawset(l *lua.LState) int {
	run.checkLocked(l)
	l.CheckTable(1).RawSet(l.CheckAny(2), l.Get(3))
	l.SetTop(1)
	return 1
}

func (run *scriptRun) setMetatable(l *lua.LState) int {
	run.checkLocked(l)
	t := l.CheckTable(1)
	l.CheckTypes(2, lua.LTNil, lua.LTTable)
	if m, ok := t.Metatable.(*lua.LTable); ok && m.RawGetString("__metatable") != lua.LNil {
		l.RaiseError("cannot change a protected metatable")
	}
	l.SetMetatable(t, l.Get(2))
	l.SetTop(1)
	return 1
}

// checkLocked raises an error if the first argument is a table that scripts may not change.
func (run *scriptRun) checkLocked(l *lua.LState) {
	if t, ok := l.Get(1).(*lua.LTable); ok && run.locked[t] {
		run.line = lineOf(l)
		l.Error(lua.LString("Attempt to modify a readonly table"), 0)
	}
}

func luaConcat(l *lua.LState) int {
	acc := l.Get(l.GetTop())
	for i := l.GetTop() - 1; i >= 1; i-- {
		left := l.Get(i)
		a, ok1 := luaText(left)
		b, ok2 := luaText(acc)
		if ok1 && ok2 {
			acc = lua.LString(a + b)
			continue
		}
		m := l.GetMetaField(left, "__concat")
		if m == lua.LNil {
			m = l.GetMetaField(acc, "__concat")
		}
		if m == lua.LNil {
			bad := left
			if ok1 {
				bad = acc
			}
			l.RaiseError("attempt to concatenate a %s value", bad.Type())
		}
		l.Push(m)
		l.Push(left)
		l.Push(acc)
		l.Call(2, 1)
		acc = l.Get(-1)
		l.Pop(1)
	}
	l.Push(acc)
	return 1
}

func luaOperand(l *lua.LState) int {
	if s, ok := l.Get(1).(lua.LString); ok {
		if n, ok := luaNumber(string(s)); ok {
			l.Push(lua.LNumber(n))
			return 1
		}
	}
	l.SetTop(1)
	return 1
}

func luaToString(l *lua.LState) int {
	switch v := l.CheckAny(1).(type) {
	case lua.LNumber:
		l.Push(lua.LString(luaFormat(float64(v))))
	case *lua.LUserData:
		if v == jsonNull {
			l.Push(lua.LString("userdata: (nil)"))
			return 1
		}
		l.Push(l.ToStringMeta(v))
	default:
		l.Push(l.ToStringMeta(v))
	}
	return 1
}

// luaCollectGarbage has nothing to collect, and a size that says nothing.
func luaCollectGarbage(l *lua.LState) int {
	switch what := l.OptString(1, "collect"); what {
	case "count":
		l.Push(lua.LNumber(40))
	case "collect", "stop", "restart", "step", "setpause", "setstepmul":
		l.Push(lua.LNumber(0))
	default:
		l.ArgError(1, "invalid option '"+what+"'")
	}
	return 1
}

func luaToNumber(l *lua.LState) int {
	v, base := l.CheckAny(1), l.OptInt(2, 10)
	if base == 10 {
		switch v := v.(type) {
		case lua.LNumber:
			l.Push(v)
			return 1
		case lua.LString:
			if n, ok := luaNumber(string(v)); ok {
				l.Push(lua.LNumber(n))
				return 1
			}
		}
		l.Push(lua.LNil)
		return 1
	}
	s, ok := luaText(v)
	if !ok {
		l.TypeError(1, lua.LTString)
	}
	if base < 2 || base > 36 {
		l.ArgError(2, "base out of range")
	}
	s = strings.ToLower(strings.Trim(s, " \t\n\v\f\r"))
	if base == 16 {
		s = strings.TrimPrefix(s, "0x")
	}
	n, err := strconv.ParseUint(s, base, 64)
	if err != nil || strings.Contains(s, "_") {
		l.Push(lua.LNil)
		return 1
	}
	l.Push(lua.LNumber(n))
	return 1
}

// luaPCall hands on the text of an error that redis.call raised, as the server's does.
func luaPCall(l *lua.LState) int {
	l.CheckAny(1)
	library := false // called by pcall itself, it has no line to tell
	if fn, ok := l.Get(1).(*lua.LFunction); ok {
		library = fn.IsG && len(fn.Upvalues) == 0
	}
	err := l.PCall(l.GetTop()-1, lua.MultRet, nil)
	if err == nil {
		l.Insert(lua.LTrue, 1)
		return l.GetTop()
	}
	v := raised(err)
	if t, ok := v.(*lua.LTable); ok {
		if text, ok := t.RawGetString("err").(lua.LString); ok {
			v = text
		}
	}
	if s, ok := v.(lua.LString); ok && library {
		v = lua.LString(linePrefix.ReplaceAllString(string(s), ""))
	}
	l.SetTop(0)
	l.Push(lua.LFalse)
	l.Push(v)
	return 2
}

// raised is the value of an error, with gopher-lua's wording put right.
func raised(err error) lua.LValue {
	api, ok := err.(*lua.ApiError)
	if !ok {
		return lua.LString(err.Error())
	}
	if s, ok := api.Object.(lua.LString); ok {
		return lua.LString(reword(string(s)))
	}
	if api.Object == nil {
		return lua.LString(err.Error())
	}
	return api.Object
}

var rewording = []struct {
	old *regexp.Regexp
	new string
}{
	{regexp.MustCompile(`bad argument #(\d+) to ([^'\s]+) \(`), "bad argument #$1 to '$2' ("},
	{regexp.MustCompile(`attempt to index a non-table object\((\w+)\) with key '.*'`), "attempt to index a $1 value"},
	{regexp.MustCompile(`cannot perform \w+ operation between (?:number|string) and (nil|table|boolean|function|userdata)`), "attempt to perform arithmetic on a $1 value"},
	{regexp.MustCompile(`cannot perform \w+ operation between (\w+) and \w+`), "attempt to perform arithmetic on a $1 value"},
	{regexp.MustCompile(`attempt to compare table with table`), "attempt to compare two table values"},
	{regexp.MustCompile(`attempt to compare nil with nil`), "attempt to compare two nil values"},
	{regexp.MustCompile(`attempt to compare boolean with boolean`), "attempt to compare two boolean values"},
	{regexp.MustCompile(`attempt to call a non-function object`), "attempt to call a nil value"},
}

func reword(s string) string {
	for _, r := range rewording {
		s = r.old.ReplaceAllString(s, r.new)
	}
	return s
}

func luaUnpack(l *lua.LState) int {
	t := l.CheckTable(1)
	from, to := l.OptInt(2, 1), l.OptInt(3, t.Len())
	if to-from >= 8000 {
		l.RaiseError("too many results to unpack")
	}
	for i := from; i <= to; i++ {
		l.Push(t.RawGetInt(i))
	}
	return max(0, to-from+1)
}

func luaLoadString(l *lua.LState) int {
	name := l.OptString(2, l.CheckString(1))
	proto, err := compileLua(l.CheckString(1), name)
	if err != nil {
		l.Push(lua.LNil)
		l.Push(lua.LString(err.Error()))
		return 2
	}
	fn := l.NewFunctionFromProto(proto)
	fn.Env = l.Env
	l.Push(fn)
	return 1
}

// withoutFrontier refuses the pattern %f, which gopher-lua takes for the letter.
func withoutFrontier(fn *lua.LFunction) lua.LGFunction {
	return func(l *lua.LState) int {
		if p, ok := l.Get(2).(lua.LString); ok && !lua.LVAsBool(l.Get(4)) {
			for i := 0; i+1 < len(p); i++ {
				if p[i] != '%' {
					continue
				}
				if i++; p[i] == 'f' {
					l.RaiseError("%s", "the fake server has no %f in patterns")
				}
			}
		}
		l.Insert(fn, 1)
		l.Call(l.GetTop()-1, lua.MultRet)
		return l.GetTop()
	}
}

// withStrings makes strings of numbers among the first n arguments, and of what gsub's replacement returns.
func withStrings(fn *lua.LFunction, n int) lua.LGFunction {
	return func(l *lua.LState) int {
		top := l.GetTop()
		args := make([]lua.LValue, top)
		for i := range args {
			args[i] = l.Get(i + 1)
			if s, ok := args[i].(lua.LNumber); ok && i < n {
				args[i] = lua.LString(luaFormat(float64(s)))
			}
		}
		if n == 3 && top > 2 {
			switch repl := args[2].(type) {
			case *lua.LFunction, *lua.LTable:
				args[2] = l.NewFunction(func(l *lua.LState) int {
					var v lua.LValue
					if t, ok := repl.(*lua.LTable); ok {
						v = l.GetTable(t, l.Get(1))
					} else {
						nargs := l.GetTop()
						l.Insert(repl, 1)
						l.Call(nargs, 1)
						v = l.Get(-1)
					}
					if s, ok := v.(lua.LNumber); ok {
						v = lua.LString(luaFormat(float64(s)))
					}
					l.Push(v)
					return 1
				})
			}
		}
		l.SetTop(0)
		for _, a := range args {
			l.Push(a)
		}
		return fn.GFunction(l)
	}
}

// mapBytes is upper and lower: of ASCII letters from first to last, whatever other bytes there are.
func mapBytes(first, last byte) lua.LGFunction {
	return func(l *lua.LState) int {
		s, ok := luaText(l.Get(1))
		if !ok {
			l.TypeError(1, lua.LTString)
		}
		b := []byte(s)
		for i, c := range b {
			if first <= c && c <= last {
				b[i] = c ^ 0x20
			}
		}
		l.Push(lua.LString(b))
		return 1
	}
}

func luaTableConcat(l *lua.LState) int {
	t := l.CheckTable(1)
	sep, ok := luaText(l.Get(2))
	if !ok && l.Get(2) != lua.LNil {
		l.TypeError(2, lua.LTString)
	}
	from, to := l.OptInt(3, 1), l.OptInt(4, t.Len())
	var b strings.Builder
	for i := from; i <= to; i++ {
		s, ok := luaText(t.RawGetInt(i))
		if !ok {
			l.RaiseError("invalid value (%s) at index %d in table for 'concat'", t.RawGetInt(i).Type(), i)
		}
		if i > from {
			b.WriteString(sep)
		}
		b.WriteString(s)
	}
	l.Push(lua.LString(b.String()))
	return 1
}

var formatSpec = regexp.MustCompile(`^[-+ #0]{0,5}\d{0,2}(?:\.\d{0,2})?`)

func luaStringFormat(l *lua.LState) int {
	format, ok := luaText(l.Get(1))
	if !ok {
		l.TypeError(1, lua.LTString)
	}
	var b strings.Builder
	arg := 1
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		i++
		if i < len(format) && format[i] == '%' {
			b.WriteByte('%')
			continue
		}
		spec := ""
		if i <= len(format) {
			spec = formatSpec.FindString(format[i:])
			i += len(spec)
		}
		verb := byte(0)
		if i < len(format) {
			verb = format[i]
		}
		arg++
		if !strings.ContainsRune("cdiouxXeEfgGqs", rune(verb)) || verb == 0 {
			l.RaiseError("invalid option '%%%s' to 'format'", strings.TrimRight(spec+string(rune(verb)), "\x00"))
		}
		if arg > l.GetTop() {
			l.RaiseError("bad argument #%d to 'format' (no value)", arg)
		}
		b.WriteString(formatOne(l, arg, spec, verb))
	}
	l.Push(lua.LString(b.String()))
	return 1
}

func formatOne(l *lua.LState, arg int, spec string, verb byte) string {
	v := l.Get(arg)
	if verb == 's' || verb == 'q' {
		s, ok := luaText(v)
		if !ok {
			l.RaiseError("bad argument #%d to 'format' (string expected, got %s)", arg, v.Type())
		}
		if verb == 'q' {
			return quoteLua(s)
		}
		return fmt.Sprintf("%"+strings.NewReplacer("0", "0", "+", "", " ", "", "#", "").Replace(spec)+"s", s)
	}
	n, ok := v.(lua.LNumber)
	if s, isString := v.(lua.LString); isString {
		var x float64
		x, ok = luaNumber(string(s))
		n = lua.LNumber(x)
	}
	if !ok {
		l.RaiseError("bad argument #%d to 'format' (number expected, got %s)", arg, v.Type())
	}
	switch verb {
	case 'c':
		return string([]byte{byte(int64(n))})
	case 'd', 'i':
		return fmt.Sprintf("%"+spec+"d", luaInt(float64(n)))
	case 'u':
		return fmt.Sprintf("%"+spec+"d", uint64(luaInt(float64(n))))
	case 'o', 'x', 'X':
		return fmt.Sprintf("%"+spec+string(rune(verb)), uint64(luaInt(float64(n))))
	}
	if math.IsNaN(float64(n)) || math.IsInf(float64(n), 0) {
		width := spec
		if dot := strings.IndexByte(width, '.'); dot >= 0 {
			width = width[:dot]
		}
		return fmt.Sprintf("%"+strings.Trim(width, "0+ #")+"s", formatG(float64(n), 6))
	}
	if !strings.Contains(spec, ".") {
		spec += ".6"
	}
	return fmt.Sprintf("%"+spec+string(rune(verb)), float64(n))
}

func quoteLua(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch s[i] {
		case '"', '\\', '\n':
			b.WriteByte('\\')
			b.WriteByte(s[i])
		case '\r':
			b.WriteString(`\r`)
		case 0:
			b.WriteString(`\000`)
		default:
			b.WriteByte(s[i])
		}
	}
	b.WriteByte('"')
	return b.String()
}

// luaInt converts as C on x86-64 does: what does not fit is the lowest number.
func luaInt(n float64) int64 {
	if math.IsNaN(n) || n >= 1<<63 || n < -1<<63 {
		return math.MinInt64
	}
	return int64(n)
}
