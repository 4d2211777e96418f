package cache

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
)

// What goes over the channel of a pubSubFeed, binary, without any value of the cache:
//
//	'1' kind sender(8)  seq count (length name)*  [version]      changed, tag, wake
//	'1' 'h'  sender(8)  resolved count (skip length)* beat       heartbeat; beat is its own number
//
// Numbers are uvarints, but for the version, which scripts append: decimal digits up to the end, for a tag alone. Seq is 0
// for a wake-up. A heartbeat says that all sequence numbers up to resolved were published, but for the spans it lists,
// which are told as how many numbers to skip behind the span before and how many numbers the span has, both without gaps
// between: nobody shall wait for those.
const (
	wireFormat = '1'
	senderAt   = 2
	bodyAt     = senderAt + 8
)

var errMalformed = errors.New("redisx: cache: malformed invalidation message")

// senderID names one feed of one process.
type senderID [8]byte

// span is sequence numbers from first to last, both included.
type span struct{ first, last uint64 }

// wireMessage is a message that was received. Names and spans are used again for the next one.
type wireMessage struct {
	kind    messageKind
	sender  senderID
	seq     uint64 // of a heartbeat: resolved
	version uint64
	beat    uint64
	names   []string // parts of the payload
	spans   []span
}

func encodeNames(kind messageKind, sender senderID, seq uint64, names []string) string {
	size := bodyAt + 2*binary.MaxVarintLen64
	for _, n := range names {
		size += len(n) + binary.MaxVarintLen32
	}
	var b strings.Builder
	b.Grow(size)
	b.WriteByte(wireFormat)
	b.WriteByte(byte(kind))
	b.Write(sender[:])
	putUvarint(&b, seq)
	putUvarint(&b, uint64(len(names)))
	for _, n := range names {
		putUvarint(&b, uint64(len(n)))
		b.WriteString(n)
	}
	return b.String()
}

func encodeHeartbeat(sender senderID, resolved uint64, spans []span, beat uint64) string {
	var b strings.Builder
	b.WriteByte(wireFormat)
	b.WriteByte(byte(kindHeartbeat))
	b.Write(sender[:])
	putUvarint(&b, resolved)
	putUvarint(&b, uint64(len(spans)))
	var before uint64
	for _, s := range spans {
		putUvarint(&b, s.first-before-1)
		putUvarint(&b, s.last-s.first+1)
		before = s.last
	}
	putUvarint(&b, beat)
	return b.String()
}

func putUvarint(b *strings.Builder, n uint64) {
	for ; n >= 0x80; n >>= 7 {
		b.WriteByte(byte(n) | 0x80)
	}
	b.WriteByte(byte(n))
}

// parse reads a payload. What it does not understand to the end is errMalformed.
func (m *wireMessage) parse(payload string) error {
	m.names, m.spans, m.version, m.beat = reuse(m.names), reuse(m.spans), 0, 0
	if len(payload) < bodyAt || payload[0] != wireFormat {
		return errMalformed
	}
	m.kind = messageKind(payload[1])
	copy(m.sender[:], payload[senderAt:])
	r := messageReader{rest: payload[bodyAt:]}
	m.seq = r.uvarint()
	count := r.uvarint()
	if r.bad || count > uint64(len(r.rest)) { // each takes a byte at least
		return errMalformed
	}
	switch m.kind {
	case kindHeartbeat:
		m.readSpans(&r, count)
		m.beat = r.uvarint()
	case kindChanged, kindTag, kindWake:
		for range count {
			m.names = append(m.names, r.take(r.uvarint()))
		}
		if m.kind == kindTag {
			m.version = r.decimal()
		}
		if count == 0 || (m.seq == 0) != (m.kind == kindWake) {
			return errMalformed
		}
	default:
		return errMalformed
	}
	if r.bad || r.rest != "" {
		return errMalformed
	}
	return nil
}

func (m *wireMessage) readSpans(r *messageReader, count uint64) {
	var before uint64
	for range count {
		skip, length := r.uvarint(), r.uvarint()
		if r.bad || length == 0 || skip > m.seq-before || length > m.seq-before-skip {
			r.bad = true
			return
		}
		m.spans = append(m.spans, span{before + skip + 1, before + skip + length})
		before += skip + length
	}
}

// reuse empties a slice, unless it has grown large for one message.
func reuse[T any](s []T) []T {
	if cap(s) > 4096 {
		return nil
	}
	clear(s) // so that it keeps no payload alive
	return s[:0]
}

// messageReader takes a payload apart. After a fault it is bad and returns zeros.
type messageReader struct {
	rest string
	bad  bool
}

func (r *messageReader) fail() { r.bad, r.rest = true, "" }

func (r *messageReader) uvarint() uint64 {
	var n uint64
	for i := range len(r.rest) {
		c := r.rest[i]
		if i == binary.MaxVarintLen64-1 && c > 1 {
			break
		}
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if n > math.MaxInt64 { // no number here is as large; it keeps sums from overflowing
				break
			}
			r.rest = r.rest[i+1:]
			return n
		}
	}
	r.fail()
	return 0
}

func (r *messageReader) take(n uint64) string {
	if n > uint64(len(r.rest)) {
		r.fail()
		return ""
	}
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}

// decimal reads a version up to the end: at least one digit, less than 2^53 as scripts count.
func (r *messageReader) decimal() uint64 {
	var n uint64
	if r.rest == "" || len(r.rest) > 16 {
		r.fail()
		return 0
	}
	for i := range len(r.rest) {
		c := r.rest[i] - '0'
		if c > 9 {
			r.fail()
			return 0
		}
		n = n*10 + uint64(c)
	}
	r.rest = ""
	return n
}
