package redisxtest

import (
	"fmt"
	"strconv"
	"strings"
)

// reply collects the bytes of one reply in the protocol the client speaks.
type reply struct {
	b    []byte
	resp int
}

func (r *reply) head(kind byte, n int) {
	r.b = append(r.b, kind)
	r.b = strconv.AppendInt(r.b, int64(n), 10)
	r.b = append(r.b, '\r', '\n')
}

func (r *reply) raw(b []byte) { r.b = append(r.b, b...) }

func (r *reply) simple(s string) {
	r.b = append(r.b, '+')
	r.b = append(r.b, s...)
	r.b = append(r.b, '\r', '\n')
}

// simpleKind is a reply of one line of another kind.
func (r *reply) simpleKind(kind byte, s string) {
	r.b = append(r.b, kind)
	r.b = append(r.b, s...)
	r.b = append(r.b, '\r', '\n')
}

func (r *reply) ok() { r.simple("OK") }

// errorf replies with an error; its text begins with the code.
func (r *reply) errorf(format string, args ...any) {
	s := strings.Map(func(c rune) rune {
		if c == '\r' || c == '\n' {
			return ' '
		}
		return c
	}, fmt.Sprintf(format, args...))
	r.b = append(r.b, '-')
	r.b = append(r.b, s...)
	r.b = append(r.b, '\r', '\n')
}

func (r *reply) bulk(s string) {
	r.head('$', len(s))
	r.b = append(r.b, s...)
	r.b = append(r.b, '\r', '\n')
}

// verbatim is a string with its format in RESP3, of three letters.
func (r *reply) verbatim(format, s string) {
	if r.resp != 3 {
		r.bulk(s)
		return
	}
	format = (format + "   ")[:3]
	r.head('=', len(s)+4)
	r.b = append(r.b, format+":"+s+"\r\n"...)
}

func (r *reply) int(n int) { r.head(':', n) }

func (r *reply) array(n int) { r.head('*', n) }

func (r *reply) bulks(list []string) {
	r.array(len(list))
	for _, s := range list {
		r.bulk(s)
	}
}

// dict opens a map of n pairs, which is a flat list in RESP2.
func (r *reply) dict(n int) {
	if r.resp == 3 {
		r.head('%', n)
		return
	}
	r.array(2 * n)
}

// set opens a set, which is a list in RESP2.
func (r *reply) set(list []string) {
	kind := byte('*')
	if r.resp == 3 {
		kind = '~'
	}
	r.head(kind, len(list))
	for _, s := range list {
		r.bulk(s)
	}
}

// push opens an out-of-band message, which is a list in RESP2.
func (r *reply) push(n int) {
	if r.resp == 3 {
		r.head('>', n)
		return
	}
	r.array(n)
}

func (r *reply) null() {
	if r.resp == 3 {
		r.b = append(r.b, "_\r\n"...)
		return
	}
	r.b = append(r.b, "$-1\r\n"...)
}

func (r *reply) nullArray() {
	if r.resp == 3 {
		r.b = append(r.b, "_\r\n"...)
		return
	}
	r.b = append(r.b, "*-1\r\n"...)
}

// wrongArity is the reply to a command with too many or too few arguments. Sub-commands are written "client|id".
func (r *reply) wrongArity(name string) {
	r.errorf("ERR wrong number of arguments for '%s' command", strings.ToLower(name))
}

func (r *reply) unknownSub(container, sub string) {
	r.errorf("ERR unknown subcommand '%.128s'. Try %s HELP.", sub, container)
}

// skipReply returns the index behind the reply that begins at i, or -1 if there is none.
func skipReply(b []byte, i int) int {
	left := 1
	for left > 0 {
		left--
		end := i
		for end < len(b) && b[end] != '\n' {
			end++
		}
		if end >= len(b) || end < i+2 {
			return -1
		}
		n, err := strconv.Atoi(string(b[i+1 : end-1]))
		switch b[i] {
		case '$', '=':
			if err != nil {
				return -1
			}
			i = end + 1
			if n >= 0 {
				i += n + 2
			}
			continue
		case '*', '~', '>':
			left += max(n, 0)
		case '%':
			left += 2 * max(n, 0)
		}
		i = end + 1
	}
	if i > len(b) {
		return -1
	}
	return i
}

// isNull reports whether a reply is null, in either protocol.
func isNull(b []byte) bool {
	s := string(b)
	return s == "$-1\r\n" || s == "*-1\r\n" || s == "_\r\n"
}
