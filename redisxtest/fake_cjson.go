package redisxtest

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"
)

// jsonNull is cjson.null.
var jsonNull = &lua.LUserData{Metatable: lua.LNil}

const jsonDepth = 1000

func luaJSONEncode(l *lua.LState) int {
	if l.GetTop() != 1 {
		l.ArgError(1, "expected 1 argument")
	}
	var b strings.Builder
	encodeJSON(l, &b, l.Get(1), 0)
	l.Push(lua.LString(b.String()))
	return 1
}

func encodeJSON(l *lua.LState, b *strings.Builder, v lua.LValue, depth int) {
	switch v := v.(type) {
	case *lua.LNilType:
		b.WriteString("null")
	case lua.LBool:
		b.WriteString(strconv.FormatBool(bool(v)))
	case lua.LNumber:
		n := float64(v)
		if math.IsNaN(n) || math.IsInf(n, 0) {
			l.RaiseError("Cannot serialise number: must not be NaN or Inf")
		}
		b.WriteString(luaFormat(n))
	case lua.LString:
		quoteJSON(b, string(v))
	case *lua.LTable:
		if depth++; depth > jsonDepth {
			l.RaiseError("Cannot serialise, excessive nesting (%d)", depth)
		}
		if n := jsonLength(l, v); n > 0 {
			b.WriteByte('[')
			for i := 1; i <= n; i++ {
				if i > 1 {
					b.WriteByte(',')
				}
				encodeJSON(l, b, v.RawGetInt(i), depth)
			}
			b.WriteByte(']')
			return
		}
		b.WriteByte('{')
		comma := false
		v.ForEach(func(key, value lua.LValue) {
			if comma {
				b.WriteByte(',')
			}
			comma = true
			switch key := key.(type) {
			case lua.LString:
				quoteJSON(b, string(key))
			case lua.LNumber:
				b.WriteString(`"` + luaFormat(float64(key)) + `"`)
			default:
				l.RaiseError("Cannot serialise %s: table key must be a number or string", key.Type())
			}
			b.WriteByte(':')
			encodeJSON(l, b, value, depth)
		})
		b.WriteByte('}')
	default:
		if v == jsonNull {
			b.WriteString("null")
			return
		}
		l.RaiseError("Cannot serialise %s: type not supported", v.Type())
	}
}

// jsonLength is the length of a table that is an array, 0 for one that is an object.
func jsonLength(l *lua.LState, t *lua.LTable) int {
	length, items, array := 0, 0, true
	t.ForEach(func(key, _ lua.LValue) {
		n, ok := key.(lua.LNumber)
		if !ok || n < 1 || float64(n) != math.Floor(float64(n)) || n > math.MaxInt32 {
			array = false
			return
		}
		length, items = max(length, int(n)), items+1
	})
	if !array {
		return 0
	}
	if length > 10 && length > 2*items {
		l.RaiseError("Cannot serialise table: excessively sparse array")
	}
	return length
}

func quoteJSON(b *strings.Builder, s string) {
	const hexDigits = "0123456789abcdef"
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\' || c == '/':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '\b':
			b.WriteString(`\b`)
		case c == '\t':
			b.WriteString(`\t`)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\f':
			b.WriteString(`\f`)
		case c == '\r':
			b.WriteString(`\r`)
		case c < 0x20 || c == 0x7f:
			b.WriteString(`\u00` + string(hexDigits[c>>4]) + string(hexDigits[c&15]))
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
}

func luaJSONDecode(l *lua.LState) int {
	if l.GetTop() != 1 {
		l.ArgError(1, "expected 1 argument")
	}
	s, ok := luaText(l.Get(1))
	if !ok {
		l.TypeError(1, lua.LTString)
	}
	d := &jsonDecoder{l: l, s: s}
	d.next()
	v := d.value(0)
	d.next()
	if d.token != "T_END" {
		d.fail("the end")
	}
	l.Push(v)
	return 1
}

// jsonDecoder reads one token after the other; what it is not content with is named as the server names it.
type jsonDecoder struct {
	l     *lua.LState
	s     string
	i     int // behind the token
	at    int // where the token begins
	token string
	v     lua.LValue
}

func (d *jsonDecoder) fail(wanted string) {
	d.l.RaiseError("Expected %s but found %s at character %d", wanted, d.token, d.at+1)
}

func (d *jsonDecoder) next() {
	for d.i < len(d.s) && strings.IndexByte(" \t\n\r", d.s[d.i]) >= 0 {
		d.i++
	}
	d.at, d.v = d.i, nil
	if d.i >= len(d.s) {
		d.token = "T_END"
		return
	}
	rest := d.s[d.i:]
	if name, ok := map[byte]string{'{': "T_OBJ_BEGIN", '}': "T_OBJ_END", '[': "T_ARR_BEGIN", ']': "T_ARR_END", ',': "T_COMMA", ':': "T_COLON"}[rest[0]]; ok {
		d.token = name
		d.i++
		return
	}
	for word, v := range map[string]lua.LValue{"true": lua.LTrue, "false": lua.LFalse, "null": jsonNull} {
		if strings.HasPrefix(rest, word) {
			d.token, d.v = "T_BOOLEAN", v
			d.i += len(word)
			return
		}
	}
	switch {
	case rest[0] == '"':
		d.str()
	case strings.IndexByte("-+0123456789", rest[0]) >= 0, hasFold(rest, "inf"), hasFold(rest, "nan"):
		d.number(rest)
	default:
		d.token = "invalid token"
	}
}

func hasFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func (d *jsonDecoder) number(rest string) {
	if rest[0] == '+' {
		d.token = "invalid token"
		return
	}
	end := 1
	for end < len(rest) && strings.IndexByte("0123456789abcdefABCDEFxX.+-pPinfINFtyTY", rest[end]) >= 0 {
		end++
	}
	for ; end > 0; end-- {
		if n, ok := luaNumber(rest[:end]); ok {
			d.token, d.v = "T_NUMBER", lua.LNumber(n)
			d.i += end
			return
		}
	}
	d.token = "invalid number"
}

func (d *jsonDecoder) str() {
	var b strings.Builder
	for i := d.i + 1; i < len(d.s); {
		c := d.s[i]
		switch {
		case c == '"':
			d.token, d.v, d.i = "T_STRING", lua.LString(b.String()), i+1
			return
		case c != '\\':
			b.WriteByte(c)
			i++
			continue
		}
		if i+1 >= len(d.s) {
			break
		}
		if plain, ok := map[byte]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 't': '\t', 'n': '\n', 'f': '\f', 'r': '\r'}[d.s[i+1]]; ok {
			b.WriteByte(plain)
			i += 2
			continue
		}
		r, n := unicodeEscape(d.s[i:])
		if n == 0 {
			d.token, d.at = "invalid escape code", i
			if d.s[i+1] == 'u' {
				d.token = "invalid unicode escape code"
			}
			return
		}
		b.WriteRune(r)
		i += n
	}
	d.token, d.at = "unexpected end of string", len(d.s)
}

// unicodeEscape reads \uXXXX, or two of them that are one character, and returns how long they are; 0 for neither.
func unicodeEscape(s string) (rune, int) {
	unit := func(s string) (rune, bool) {
		if len(s) < 6 || s[:2] != `\u` {
			return 0, false
		}
		n, err := strconv.ParseUint(s[2:6], 16, 16)
		return rune(n), err == nil
	}
	high, ok := unit(s)
	if !ok {
		return 0, 0
	}
	if high < 0xD800 || high > 0xDFFF {
		return high, 6
	}
	low, ok := unit(s[6:])
	if !ok || high > 0xDBFF || low < 0xDC00 || low > 0xDFFF {
		return 0, 0
	}
	r := (high-0xD800)<<10 | (low - 0xDC00) + 0x10000
	if !utf8.ValidRune(r) {
		return 0, 0
	}
	return r, 12
}

// value returns what the present token begins.
func (d *jsonDecoder) value(depth int) lua.LValue {
	if d.v != nil {
		return d.v
	}
	if d.token != "T_OBJ_BEGIN" && d.token != "T_ARR_BEGIN" {
		d.fail("value")
	}
	if depth++; depth > jsonDepth {
		d.l.RaiseError("Found too many nested data structures (%d)", depth)
	}
	t := d.l.NewTable()
	if d.token == "T_ARR_BEGIN" {
		d.next()
		for i := 1; d.token != "T_ARR_END"; i++ {
			t.RawSetInt(i, d.value(depth))
			if d.next(); d.token == "T_ARR_END" {
				break
			}
			if d.token != "T_COMMA" {
				d.fail("comma or array end")
			}
			d.next()
			if d.token == "T_ARR_END" {
				d.fail("value")
			}
		}
		return t
	}
	d.next()
	for d.token != "T_OBJ_END" {
		if d.token != "T_STRING" {
			d.fail("object key string")
		}
		key := d.v
		if d.next(); d.token != "T_COLON" {
			d.fail("colon")
		}
		d.next()
		t.RawSet(key, d.value(depth))
		if d.next(); d.token == "T_OBJ_END" {
			break
		}
		if d.token != "T_COMMA" {
			d.fail("comma or object end")
		}
		d.next()
		if d.token == "T_OBJ_END" {
			d.fail("object key string")
		}
	}
	return t
}
