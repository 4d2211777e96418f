package cache

import (
	"bytes"
	"encoding"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/vmihailenco/msgpack/v5"
	"google.golang.org/protobuf/proto"
)

// Codec turns values into bytes for Redis and back. It is used by many goroutines at once.
//
// A codec of your own may be of any type. Its errors are never fatal: a value that cannot be encoded is not stored, one
// that cannot be decoded is a miss and is loaded again. The same goes for its panics.
type Codec interface {
	// Name identifies the format, in 1 to 32 bytes. It is stored with each value: an entry written under another name is
	// a miss. So change the name when the format changes in a way that old bytes would be misread.
	Name() string
	// Append appends the encoding of v, which is of the cache's value type V, to dst and returns the longer slice, like
	// the builtin append. It must not keep dst.
	//
	// Nil pointers, maps, slices and interfaces never come here: the cache stores "nil" without asking.
	Append(dst []byte, v any) ([]byte, error)
	// Decode decodes data into v, which is a *V that points to a zero value. Data may be empty. Decode must not change
	// data, and must not keep it: what v holds afterwards has to be a copy.
	Decode(data []byte, v any) error
}

// The codecs at hand. All of them keep nil apart from empty for a V that is a pointer, a map or a slice. None can store a
// value that contains itself by way of pointers: JSON says so, with Msgpack and Gob it ends the process.
var (
	// JSON is the default: encoding/json, without escaping of HTML. Only exported fields are stored.
	JSON Codec = jsonCodec{}
	// Msgpack is the MessagePack format: smaller and faster than JSON. Field names come from the tag "msgpack", not "json".
	// Only exported fields are stored. A time.Time keeps the instant and comes back in the local zone.
	Msgpack Codec = msgpackCodec{}
	// Gob is encoding/gob. Each value carries the description of its type, so small values are large and slow: it is for
	// what only Gob can do. It is no match for bytes that somebody made up on purpose: use it with encryption where others can
	// write to Redis. V cannot be an interface; types held by interfaces inside V have to be registered with gob.Register.
	Gob Codec = gobCodec{}
	// Proto is Protocol Buffers. V has to be a pointer to a generated message.
	Proto Codec = protoCodec{}
	// Raw stores the bytes as they are. V has to be a string or a []byte, or a type made of one.
	Raw Codec = rawCodec{}
)

// fitter is what a codec implements that can tell which value types it cannot handle, so that New can refuse them.
type fitter interface {
	fits(t reflect.Type) error
}

// textDecoder is what a codec implements that can decode from a string, keeping parts of it.
type textDecoder interface {
	decodeText(data string, v any) error
}

// checkCodec reports why values of type t cannot be stored by c.
func checkCodec(c Codec, t reflect.Type) (err error) {
	if c == nil {
		return errors.New("redisx: cache: the codec is nil")
	}
	defer func() {
		if p := recover(); p != nil { // such as a nil pointer in the interface
			err = fmt.Errorf("redisx: cache: codec %T panicked when asked for its name: %v", c, p)
		}
	}()
	if n := len(c.Name()); n < 1 || n > maxCodecName {
		return fmt.Errorf("redisx: cache: the name of codec %T has %d bytes, allowed are 1 to %d", c, n, maxCodecName)
	}
	if f, ok := c.(fitter); ok {
		if err := f.fits(t); err != nil {
			return fmt.Errorf("redisx: cache: codec %s cannot store %v: %w", c.Name(), t, err)
		}
	}
	return nil
}

// appender is an io.Writer that appends.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}

func (a *appender) WriteByte(c byte) error {
	a.b = append(a.b, c)
	return nil
}

// ---- JSON

type jsonCodec struct{}

func (jsonCodec) Name() string { return "json" }

func (jsonCodec) Append(dst []byte, v any) ([]byte, error) {
	w := appender{b: dst}
	e := json.NewEncoder(&w)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return dst, err
	}
	return w.b[:len(w.b)-1], nil // the newline that Encode adds
}

func (jsonCodec) Decode(data []byte, v any) error { return json.Unmarshal(data, v) }

var (
	jsonMarshaler   = reflect.TypeFor[json.Marshaler]()
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	binaryMarshaler = reflect.TypeFor[encoding.BinaryMarshaler]()
	msgpackCustom   = reflect.TypeFor[msgpack.CustomEncoder]()
	msgpackMarshal  = reflect.TypeFor[msgpack.Marshaler]()
)

func (c jsonCodec) fits(t reflect.Type) error {
	if err := hidden(t, jsonMarshaler, textMarshaler); err != nil {
		return err
	}
	if bad := (*json.UnsupportedTypeError)(nil); errors.As(tryZero(c, t), &bad) {
		return bad
	}
	return nil
}

// hidden reports a struct of which nothing would be stored, since none of its fields is exported and it has no marshaller:
// its values would come back as zero.
func hidden(t reflect.Type, marshalers ...reflect.Type) error {
	for _, m := range marshalers {
		if t.Implements(m) || reflect.PointerTo(t).Implements(m) {
			return nil
		}
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return hidden(t.Elem(), marshalers...)
	case reflect.Struct:
		if t.NumField() == 0 {
			return nil
		}
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() || f.Anonymous {
				return nil
			}
		}
		return fmt.Errorf("%v has no exported field, so nothing of it would be stored", t)
	}
	return nil
}

// tryZero encodes a zero value of type t (what it points to, if t is a pointer), to see what the codec thinks of the type.
// Only errors that the library itself makes may count: a marshaller that dislikes a zero value, or panics on it, says
// nothing about other values.
func tryZero(c Codec, t reflect.Type) (err error) {
	defer func() {
		if recover() != nil {
			err = nil
		}
	}()
	v := reflect.Zero(t)
	if t.Kind() == reflect.Pointer {
		v = reflect.New(t.Elem())
	}
	_, err = c.Append(nil, v.Interface())
	return err
}

// ---- MessagePack

type msgpackCodec struct{}

func (msgpackCodec) Name() string { return "msgpack" }

func (msgpackCodec) Append(dst []byte, v any) ([]byte, error) {
	w := appender{b: dst}
	e := msgpack.GetEncoder()
	e.Reset(&w) // without compact integers: those would make an int8 of an int64 held by an interface
	err := e.Encode(v)
	msgpack.PutEncoder(e)
	if err != nil {
		return dst, err
	}
	return w.b, nil
}

func (msgpackCodec) Decode(data []byte, v any) error {
	if err := checkMsgpack(data); err != nil {
		return err
	}
	return msgpack.Unmarshal(data, v)
}

// maxDepth is how deep MessagePack may be nested: as deep as JSON and Protocol Buffers.
const maxDepth = 10_000

var errMsgpackCut = errors.New("it is cut short")

// checkMsgpack refuses what the library must not see, since it believes what it reads: it recurses, and a stack that is
// too large ends the process (8 MB of 0x91 do); it allocates for as many items as an array claims to have, and the lack of
// memory ends the process as well (5 bytes do).
func checkMsgpack(data []byte) error {
	var (
		buf  [32]uint64
		open = buf[:0] // how many items each level still has to come
		need = uint64(1)
	)
	for {
		if len(data) == 0 {
			return errMsgpackCut
		}
		c := data[0]
		size, width, items := 1, 0, uint64(0) // of the item itself; of the number that follows, if any; what is inside
		switch {
		case c <= 0x7f || c >= 0xe0: // small integer
		case c <= 0x8f: // small map
			items = 2 * uint64(c&0x0f)
		case c <= 0x9f: // small array
			items = uint64(c & 0x0f)
		case c <= 0xbf: // short string
			size += int(c & 0x1f)
		case c <= 0xc3: // nil, false, true
		case c <= 0xc6: // bin 8, 16, 32
			width = 1 << (c - 0xc4)
		case c <= 0xc9: // ext 8, 16, 32: a type follows the length
			width = 1 << (c - 0xc7)
			size++
		case c <= 0xd3: // float 32, 64; unsigned and signed 8, 16, 32, 64
			size += [...]int{4, 8, 1, 2, 4, 8, 1, 2, 4, 8}[c-0xca]
		case c <= 0xd8: // ext of 1, 2, 4, 8, 16
			size += 1 + 1<<(c-0xd4)
		case c <= 0xdb: // string 8, 16, 32
			width = 1 << (c - 0xd9)
		default: // array 16, 32; map 16, 32
			width = 2 << (c & 1)
		}
		if width > 0 {
			if len(data) < 1+width {
				return errMsgpackCut
			}
			var n uint64
			for _, b := range data[1 : 1+width] {
				n = n<<8 | uint64(b)
			}
			size += width
			switch {
			case c >= 0xde:
				items = 2 * n
			case c >= 0xdc:
				items = n
			case n > uint64(len(data)):
				return errMsgpackCut
			default:
				size += int(n)
			}
		}
		if size > len(data) {
			return errMsgpackCut
		}
		data = data[size:]
		need += items - 1
		if need > uint64(len(data)) { // each takes a byte at least
			return errMsgpackCut
		}
		if items > 0 {
			if open = append(open, items); len(open) > maxDepth {
				return fmt.Errorf("it is nested more than %d levels deep", maxDepth)
			}
			continue
		}
		for len(open) > 0 { // the item is over, and with it those that it was the last of
			last := len(open) - 1
			if open[last]--; open[last] > 0 {
				break
			}
			open = open[:last]
		}
		if len(open) == 0 {
			if len(data) == 0 {
				return nil
			}
			need = 1 // a CustomEncoder may have written several items where one was due
		}
	}
}

func (c msgpackCodec) fits(t reflect.Type) error {
	if err := hidden(t, msgpackCustom, msgpackMarshal, textMarshaler, binaryMarshaler); err != nil {
		return err
	}
	if err := tryZero(c, t); err != nil && strings.HasPrefix(err.Error(), "msgpack: ") {
		return err
	}
	return nil
}

// ---- gob

type gobCodec struct{}

func (gobCodec) Name() string { return "gob" }

func (gobCodec) Append(dst []byte, v any) ([]byte, error) {
	w := appender{b: dst}
	if err := gob.NewEncoder(&w).Encode(v); err != nil {
		return dst, err
	}
	return w.b, nil
}

func (gobCodec) Decode(data []byte, v any) error {
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(v); err != nil {
		return err
	}
	// Gob leaves an empty slice as it was: nil. Had it been nil, it would not have come here.
	if e := reflect.ValueOf(v).Elem(); e.Kind() == reflect.Slice && e.IsNil() {
		e.Set(reflect.MakeSlice(e.Type(), 0, 0))
	}
	return nil
}

func (c gobCodec) fits(t reflect.Type) error {
	switch t.Kind() {
	case reflect.Interface:
		return errors.New("an interface has no type to describe")
	case reflect.Func, reflect.Chan: // on which gob panics
		return errors.New("it is not data")
	}
	if err := tryZero(c, t); err != nil && strings.HasPrefix(err.Error(), "gob: ") {
		return err
	}
	return nil
}

// ---- Protocol Buffers

type protoCodec struct{}

var protoMessage = reflect.TypeFor[proto.Message]()

func (protoCodec) Name() string { return "proto" }

func (protoCodec) Append(dst []byte, v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return dst, fmt.Errorf("%T is not a proto.Message", v)
	}
	return proto.MarshalOptions{}.MarshalAppend(dst, m)
}

func (protoCodec) Decode(data []byte, v any) error {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() || p.Elem().Kind() != reflect.Pointer || !p.Elem().Type().Implements(protoMessage) {
		return fmt.Errorf("%T is not a pointer to a pointer to a message", v)
	}
	m := reflect.New(p.Elem().Type().Elem())
	if err := proto.Unmarshal(data, m.Interface().(proto.Message)); err != nil {
		return err
	}
	p.Elem().Set(m)
	return nil
}

func (protoCodec) fits(t reflect.Type) error {
	if t.Kind() == reflect.Pointer && t.Implements(protoMessage) {
		return nil
	}
	if reflect.PointerTo(t).Implements(protoMessage) {
		return fmt.Errorf("use the pointer, %v", reflect.PointerTo(t))
	}
	return errors.New("it is not a pointer to a generated message")
}

// ---- raw

type rawCodec struct{}

func (rawCodec) Name() string { return "raw" }

func (rawCodec) Append(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case string:
		return append(dst, v...), nil
	case []byte:
		return append(dst, v...), nil
	}
	r := reflect.ValueOf(v)
	switch {
	case r.Kind() == reflect.String:
		return append(dst, r.String()...), nil
	case r.Kind() == reflect.Slice && r.Type().Elem().Kind() == reflect.Uint8:
		return append(dst, r.Bytes()...), nil
	}
	return dst, fmt.Errorf("%T is neither a string nor a []byte", v)
}

func (c rawCodec) Decode(data []byte, v any) error { return c.decodeText(string(data), v) }

func (rawCodec) decodeText(data string, v any) error {
	switch v := v.(type) {
	case *string:
		*v = data
		return nil
	case *[]byte:
		*v = []byte(data)
		return nil
	}
	if p := reflect.ValueOf(v); p.Kind() == reflect.Pointer && !p.IsNil() {
		switch e := p.Elem(); {
		case e.Kind() == reflect.String:
			e.SetString(data)
			return nil
		case e.Kind() == reflect.Slice && e.Type().Elem().Kind() == reflect.Uint8:
			e.SetBytes([]byte(data))
			return nil
		}
	}
	return fmt.Errorf("%T points to neither a string nor a []byte", v)
}

func (rawCodec) fits(t reflect.Type) error {
	if t.Kind() == reflect.String || t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 {
		return nil
	}
	return errors.New("it is neither a string nor a []byte")
}
