package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"sync"
	"time"
	"unsafe"
)

// A value in Redis is
//
//	offset  0   16 ASCII digits: server TIME in µs when it was written, put there by the script that wrote it
//	offset 16   format: 'A'
//	offset 17   state: '0' live, '1' expired; a script changes it with SETRANGE
//	offset 18   content: bits of what follows
//	            codec name, (key id,) soft, refresh, load, gens, (tags,) (etag)    numbers are uvarints, texts have a length before them
//	            payload: to the end; compressed, then sealed, as the content bits say
//
// Under encryption, all but the stamp and the state is authenticated together with the Redis key, so an entry cannot be moved to
// another key, nor its tags be changed. Whoever can write to Redis can still put an older entry of the same key back.
const (
	stampSize     = 16
	offsetFormat  = stampSize     // of the format byte in a stored value
	offsetState   = stampSize + 1 // of the state byte in a stored value
	offsetContent = stampSize + 2

	formatA      = 'A'
	stateLive    = '0'
	stateExpired = '1' // what Expire writes at offsetState

	maxCodecName = 32
	// maxGens is how many Clear versions an entry can have: that of the cache and one per scope, nested at most 3 deep.
	maxGens = 4
	// maxPayload is the limit if none is set: the largest string Redis takes by default.
	maxPayload = 512 << 20
)

// Content bits.
const (
	hasNegative = 1 << iota // the loader said "not found"; no payload
	hasNil                  // the value is nil; no payload
	hasS2                   // payload is compressed with S2
	hasZstd                 // payload is compressed with Zstandard
	hasSeal                 // payload is sealed; a key id follows the codec
	hasTags                 // tags follow
	hasETag                 // an ETag follows
	hasAll      = 1<<iota - 1
)

// errUnknownEnvelope is wrapped by whatever parse says of bytes that this cache would not have written. The entry is a miss.
var errUnknownEnvelope = errors.New("redisx: cache: the stored value is of an unknown format")

var (
	errCut        = fmt.Errorf("%w: it is cut short", errUnknownEnvelope)
	errStamp      = fmt.Errorf("%w: it does not begin with a time", errUnknownEnvelope)
	errFormat     = fmt.Errorf("%w: other version", errUnknownEnvelope)
	errOtherCodec = fmt.Errorf("%w: written by another codec", errUnknownEnvelope)
	errPlain      = fmt.Errorf("%w: it is not encrypted", errUnknownEnvelope)
	errOtherKey   = fmt.Errorf("%w: it is encrypted with an unknown key", errUnknownEnvelope)
	errSealed     = fmt.Errorf("%w: it is encrypted", errUnknownEnvelope)
)

// ErrTooLarge is what a *TooLargeError unwraps to: the value was not stored in Redis, since it exceeds the limit of the cache.
var ErrTooLarge = errors.New("redisx: cache: the value is too large")

// TooLargeError says by how much a value exceeds the limit of the cache. It unwraps to ErrTooLarge.
type TooLargeError struct {
	Size  int // bytes of the encoded value, before compression
	Limit int // bytes allowed
}

// Error implements error.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("redisx: cache: the value has %d bytes encoded, allowed are %d", e.Size, e.Limit)
}

// Unwrap returns ErrTooLarge.
func (e *TooLargeError) Unwrap() error { return ErrTooLarge }

// tagVersion is the version a tag had when the value was made.
type tagVersion struct {
	name    string
	version uint64
}

// gens are the Clear versions of an entry: that of the cache, then those of its scopes. Inside the header, since a slice
// would cost an allocation per read.
type gens struct {
	n int
	v [maxGens]uint64
}

// header is what is known about a value apart from itself. Durations count from the stamp and have a resolution of 1 µs,
// rounded up.
type header struct {
	soft     time.Duration // fresh for
	refresh  time.Duration // refresh early from here on; 0: no early refresh
	load     time.Duration // what loading it took
	negative bool
	expired  bool // Expire was called: keep it for stale-if-error only
	gens     gens
	tags     []tagVersion
	etag     string

	isNil      bool // set by encode and parse
	compressed compression
}

// bytesOf makes bytes of values and back. Safe for concurrent use.
type bytesOf[V any] struct {
	codec    Codec
	name     string
	text     textDecoder  // nil if the codec is none
	kind     reflect.Kind // of V
	keys     *keyring
	squeezer *squeezer
	max      int
}

// newBytes checks what it is given. compressAbove 0: no compression. keys nil: no encryption. maxValue 0: 512 MiB.
func newBytes[V any](codec Codec, compressAbove int, alg compression, keys *keyring, maxValue int) (*bytesOf[V], error) {
	t := reflect.TypeFor[V]()
	if err := checkCodec(codec, t); err != nil {
		return nil, err
	}
	if maxValue < 0 || maxValue > maxPayload {
		return nil, fmt.Errorf("redisx: cache: max value size is %d, allowed are 1 to %d", maxValue, maxPayload)
	}
	if maxValue == 0 {
		maxValue = maxPayload
	}
	if compressAbove < 0 {
		return nil, fmt.Errorf("redisx: cache: values of %d bytes and more are to be compressed, the number must be positive", compressAbove)
	}
	if alg > compressZstd {
		return nil, fmt.Errorf("redisx: cache: compression %d, there are only %d and %d", alg, compressS2, compressZstd)
	}
	b := &bytesOf[V]{codec: codec, name: codec.Name(), kind: t.Kind(), keys: keys, squeezer: newSqueezer(compressAbove, alg, maxValue), max: maxValue}
	b.text, _ = codec.(textDecoder)
	return b, nil
}

// scratch holds the buffers of one encode.
type scratch struct{ out, payload, packed, aad []byte }

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// maxScratch is how many bytes of buffers are kept for reuse.
const maxScratch = 256 << 10

func (s *scratch) free() {
	if cap(s.out)+cap(s.payload)+cap(s.packed)+cap(s.aad) <= maxScratch {
		scratches.Put(s)
	}
}

// payload appends the value as the codec encodes it: no envelope, no compression, no encryption. It does not see that v is
// nil: that is for isNil. A panic of the codec is an error.
func (b *bytesOf[V]) payload(dst []byte, v V) ([]byte, error) { return b.appendValue(dst, v) }

func (b *bytesOf[V]) appendValue(dst []byte, v any) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = dst, fmt.Errorf("redisx: cache: codec %s panicked while encoding %T: %v", b.name, v, p)
		}
	}()
	out, err = b.codec.Append(dst, v)
	if err != nil {
		return dst, fmt.Errorf("redisx: cache: encode %T with %s: %w", v, b.name, err)
	}
	return out, nil
}

// isNil tells whether v, a V in an interface, is a nil pointer, map, slice or interface.
func (b *bytesOf[V]) isNil(v any) bool {
	switch b.kind {
	case reflect.Pointer, reflect.Map, reflect.Slice:
		return reflect.ValueOf(v).IsNil()
	case reflect.Interface:
		return v == nil
	}
	return false
}

// encode makes what is stored under the Redis key, without the stamp. The value does not matter if the entry is negative.
func (b *bytesOf[V]) encode(key string, h *header, v V) (string, error) {
	if h.gens.n < 0 || h.gens.n > maxGens {
		return "", fmt.Errorf("redisx: cache: %d Clear versions, allowed are %d", h.gens.n, maxGens)
	}
	s := scratches.Get().(*scratch)
	var (
		content byte
		body    []byte
		value   any
	)
	if !h.negative {
		value = v // an allocation unless V is a pointer
	}
	switch {
	case h.negative:
		content |= hasNegative
	case b.isNil(value):
		content |= hasNil
	default:
		var err error
		if body, err = b.appendValue(s.payload[:0], value); err != nil {
			return "", err // and s is left to the garbage collector: after a panic the codec may still hold it
		}
		if n := len(body); n > b.max {
			return "", &TooLargeError{Size: n, Limit: b.max}
		}
		// A codec may have returned memory that is not ours, such as the value itself: it must not become a buffer.
		// Where the buffer was too small, make a larger one of our own for the next.
		if len(body) > cap(s.payload) {
			s.payload = make([]byte, 0, len(body)+len(body)/4)
		}
	}
	var alg compression
	if s.packed, alg = b.squeezer.compress(s.packed, body); alg != compressNone {
		body = s.packed
		content |= compressionBit(alg)
	}
	if b.keys != nil {
		content |= hasSeal
	}
	if len(h.tags) > 0 {
		content |= hasTags
	}
	if h.etag != "" {
		content |= hasETag
	}
	state := byte(stateLive)
	if h.expired {
		state = stateExpired
	}
	out := append(s.out[:0], formatA, state, content)
	out = appendText(out, b.name)
	if b.keys != nil {
		out = appendText(out, b.keys.active.id)
	}
	out = appendDuration(out, h.soft)
	out = appendDuration(out, h.refresh)
	out = appendDuration(out, h.load)
	out = binary.AppendUvarint(out, uint64(h.gens.n))
	for _, g := range h.gens.v[:h.gens.n] {
		out = binary.AppendUvarint(out, g)
	}
	if len(h.tags) > 0 {
		out = binary.AppendUvarint(out, uint64(len(h.tags)))
		for _, t := range h.tags {
			out = appendText(out, t.name)
			out = binary.AppendUvarint(out, t.version)
		}
	}
	if h.etag != "" {
		out = appendText(out, h.etag)
	}
	if b.keys != nil {
		s.aad = appendAAD(s.aad[:0], key, bytesAsString(out[offsetContent-stampSize:]))
		var err error
		if out, err = b.keys.seal(out, body, s.aad); err != nil {
			return "", fmt.Errorf("redisx: cache: encrypt: %w", err)
		}
	} else {
		out = append(out, body...)
	}
	s.out = out
	text := string(out)
	s.free()
	return text, nil
}

// parse reads everything but the value of a stored entry, stamp included. Under encryption it opens the seal, so that what
// it returns can be trusted. The body is for decode; it and the texts of the header may be parts of raw.
//
// Every error is a miss. An error that is not errUnknownEnvelope is a value that has been tampered with.
func (b *bytesOf[V]) parse(key, raw string) (stamp int64, h header, body string, err error) {
	if len(raw) < offsetContent+1 {
		return 0, h, "", errCut
	}
	for i := range stampSize {
		d := raw[i] - '0'
		if d > 9 {
			return 0, h, "", errStamp
		}
		stamp = stamp*10 + int64(d)
	}
	state, content := raw[offsetState], raw[offsetContent]
	if raw[offsetFormat] != formatA || state != stateLive && state != stateExpired {
		return 0, h, "", errFormat
	}
	const one = hasS2 | hasZstd // at most one of them
	if content&^hasAll != 0 || content&one == one || content&hasNegative != 0 && content&(hasNil|one) != 0 || content&hasNil != 0 && content&one != 0 {
		return 0, h, "", errFormat
	}
	r := reader{s: raw[offsetContent+1:]}
	if r.text() != b.name {
		return 0, h, "", errOtherCodec
	}
	var id string
	if content&hasSeal != 0 {
		id = r.text()
	}
	h.soft, h.refresh, h.load = r.duration(), r.duration(), r.duration()
	n := r.uvarint()
	if n > maxGens {
		return 0, h, "", errFormat
	}
	h.gens.n = int(n)
	for i := range h.gens.n {
		h.gens.v[i] = r.uvarint()
	}
	if content&hasTags != 0 {
		n := r.uvarint()
		if n > uint64(len(r.s)/2) { // a tag has two bytes at least: do not allocate for what cannot be there
			return 0, h, "", errCut
		}
		h.tags = make([]tagVersion, n)
		for i := range h.tags {
			h.tags[i] = tagVersion{name: r.text(), version: r.uvarint()}
		}
	}
	if content&hasETag != 0 {
		h.etag = r.text()
	}
	if r.bad {
		return 0, header{}, "", errCut
	}
	h.expired = state == stateExpired
	h.negative = content&hasNegative != 0
	h.isNil = content&hasNil != 0
	switch {
	case content&hasS2 != 0:
		h.compressed = compressS2
	case content&hasZstd != 0:
		h.compressed = compressZstd
	}
	body = r.s
	switch sealed := content&hasSeal != 0; {
	case sealed && b.keys == nil:
		return 0, header{}, "", errSealed
	case !sealed && b.keys != nil: // or whoever can write to Redis could do without the key
		return 0, header{}, "", errPlain
	case sealed:
		s := scratches.Get().(*scratch)
		s.aad = appendAAD(s.aad[:0], key, raw[offsetContent:len(raw)-len(body)])
		plain, err := b.keys.open(id, stringAsBytes(body), s.aad)
		s.free()
		if err != nil {
			return 0, header{}, "", err
		}
		body = bytesAsString(plain)
	}
	if body != "" && (h.negative || h.isNil) {
		return 0, header{}, "", errFormat
	}
	return stamp, h, body, nil
}

// decode makes the value of what parse returned. A negative entry has none: it gives the zero value.
func (b *bytesOf[V]) decode(h *header, body string) (v V, err error) {
	if h.negative || h.isNil {
		return v, nil
	}
	defer func() {
		if p := recover(); p != nil {
			var zero V
			v, err = zero, fmt.Errorf("redisx: cache: codec %s panicked while decoding %T: %v", b.name, v, p)
		}
	}()
	data := stringAsBytes(body)
	if h.compressed != compressNone {
		if data, err = b.squeezer.decompress(h.compressed, data); err != nil {
			return v, fmt.Errorf("redisx: cache: decompress: %w", err)
		}
	}
	if b.text != nil {
		err = b.text.decodeText(bytesAsString(data), &v)
	} else {
		err = b.codec.Decode(data, &v)
	}
	if err != nil {
		var zero V
		return zero, fmt.Errorf("redisx: cache: decode %T with %s: %w", v, b.name, err)
	}
	return v, nil
}

func compressionBit(alg compression) byte {
	if alg == compressS2 {
		return hasS2
	}
	return hasZstd
}

// appendAAD appends what is authenticated besides the payload: the Redis key, the format, and the header.
func appendAAD(dst []byte, key, header string) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(len(key)))
	dst = append(dst, key...)
	dst = append(dst, formatA)
	return append(dst, header...)
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendDuration(dst []byte, d time.Duration) []byte {
	if d <= 0 {
		return append(dst, 0)
	}
	return binary.AppendUvarint(dst, min((uint64(d)+999)/1000, math.MaxInt64/1000))
}

// reader takes fields off the front of s. After a field that is not there, bad is set and all that follows is zero.
type reader struct {
	s   string
	bad bool
}

func (r *reader) uvarint() uint64 {
	if len(r.s) > 0 && r.s[0] < 0x80 {
		x := r.s[0]
		r.s = r.s[1:]
		return uint64(x)
	}
	return r.long()
}

func (r *reader) long() uint64 {
	x, n := binary.Uvarint(stringAsBytes(r.s[:min(len(r.s), binary.MaxVarintLen64)]))
	if n <= 0 {
		r.s, r.bad = "", true
		return 0
	}
	r.s = r.s[n:]
	return x
}

func (r *reader) text() string {
	n := r.uvarint()
	if n > uint64(len(r.s)) {
		r.s, r.bad = "", true
		return ""
	}
	t := r.s[:n]
	r.s = r.s[n:]
	return t
}

func (r *reader) duration() time.Duration {
	us := r.uvarint()
	if us > math.MaxInt64/1000 {
		r.s, r.bad = "", true
		return 0
	}
	return time.Duration(us) * 1000
}

// stringAsBytes gives the bytes of s without a copy. They must not be changed.
func stringAsBytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// bytesAsString gives the text of b without a copy. b must not change while the text is in use.
func bytesAsString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
