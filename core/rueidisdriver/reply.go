package rueidisdriver

import (
	"context"
	"slices"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

// messageOverhead is what CacheSize adds to the length of a message's text. See errorText.
var messageOverhead = func() int {
	var m rueidis.RedisMessage
	return m.CacheSize()
}()

// convert writes a result of the client to out, and reports whether it is a failure to get a reply.
func (d *Driver) convert(ctx context.Context, result *rueidis.RedisResult, out *driver.Reply) (failed bool) {
	if err := result.NonRedisError(); err != nil {
		d.failed(err)
		*out = driver.ErrReply(failure(ctx, err))
		return true
	}
	m, _ := result.ToMessage()
	if m.IsString() {
		s, _ := m.ToString()
		*out = driver.StringReply(s)
		return false
	}
	*out = message(&m)
	return false
}

// message converts a reply of the server. Strings share memory with the message, which nobody else writes to.
func message(m *rueidis.RedisMessage) driver.Reply {
	switch {
	case m.IsString():
		s, _ := m.ToString()
		return driver.StringReply(s)
	case m.IsInt64():
		n, _ := m.ToInt64()
		return driver.IntReply(n)
	case m.IsNil():
		return driver.NilReply()
	case m.IsArray():
		values, _ := m.ToArray()
		return list(values)
	case m.IsMap():
		return list(pairs(m))
	case m.IsBool():
		if b, _ := m.ToBool(); b {
			return driver.IntReply(1)
		}
		return driver.IntReply(0)
	}
	if err := m.Error(); err != nil {
		return driver.ErrReply(driver.NewServerError(errorText(m, err)))
	}
	// What is left are doubles, big numbers and verbatim strings, whose text is kept as the server sent it. A verbatim
	// string starts with three letters for its format and a colon, which occurs in no number.
	s, _ := m.ToString()
	if !m.IsFloat64() && len(s) > 3 && s[3] == ':' {
		s = s[4:]
	}
	return driver.StringReply(s)
}

// errorText returns the text of an error reply as the server sent it. The client cuts a leading "ERR ", and what follows
// may look like a code itself ("ERR DB index is out of range"), so the length tells whether it was there.
func errorText(m *rueidis.RedisMessage, err error) string {
	text := err.Error()
	if m.CacheSize()-messageOverhead > len(text) {
		return "ERR " + text
	}
	return text
}

func list(values []rueidis.RedisMessage) driver.Reply {
	out := make([]driver.Reply, len(values))
	for i := range values {
		out[i] = message(&values[i])
	}
	return driver.ListReply(out)
}

// pairs returns the keys and values of a map in the order of the wire, which the client's own accessors lose. They read
// arrays in order, and in the client's cache format an array and a map differ in one byte: the type, which follows seven
// bytes of expiry.
func pairs(m *rueidis.RedisMessage) []rueidis.RedisMessage {
	const typeAt = 7
	buf := m.CacheMarshal(nil)
	if len(buf) > typeAt && buf[typeAt] == '%' {
		buf[typeAt] = '*'
		var array rueidis.RedisMessage
		if err := array.CacheUnmarshalView(buf); err == nil && array.IsArray() {
			values, _ := array.ToArray()
			return values
		}
	}
	// A release of the client with another format: every pair is right, and in a stable order.
	byKey, _ := m.ToMap()
	keys := make([]string, 0, len(byKey))
	for k := range byKey {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := make([]rueidis.RedisMessage, 0, 2*len(keys))
	for _, k := range keys {
		out = append(out, stringMessage(k), byKey[k])
	}
	return out
}

// stringMessage makes a message of a string by way of the cache format, the only one the client exports.
func stringMessage(s string) rueidis.RedisMessage {
	n := uint64(len(s))
	buf := append(make([]byte, 7, 16+len(s)), '$')
	for shift := 56; shift >= 0; shift -= 8 {
		buf = append(buf, byte(n>>shift))
	}
	var m rueidis.RedisMessage
	_ = m.CacheUnmarshalView(append(buf, s...))
	return m
}
