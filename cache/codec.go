package cache

import (
	"bytes"
	"encoding"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

// The codecs at hand. All of them keep nil apart from empty for a V that is a pointer, a map or a slice.
var (
	// JSON is the default: encoding/json, without escaping of HTML. Only exported fields are stored.
	JSON Codec = jsonCodec{}
	// Msgpack is the MessagePack format: smaller and faster than JSON. Field names come from the tag "msgpack", not "json".
	// Only exported fields are stored.
	Msgpack Codec = msgpackCodec{}
	// Gob is encoding/gob. Each value carries the description of its type, so small values are large and slow: it is for
	// what only Gob can do. V cannot be an interface; types held by interfaces inside V have to be registered with gob.Register.
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
		return errors.New("cache: the codec is nil")
	}
	defer func() {
		if p := recover(); p != nil { // a nil pointer in the interface, or a marshaller that dislikes zero values
			err = fmt.Errorf("cache: codec %T panicked when asked whether it fits %v: %v", c, t, p)
		}
	}()
	if n := len(c.Name()); n < 1 || n > maxCodecName {
		return fmt.Errorf("cache: the name of codec %T has %d bytes, allowed are 1 to %d", c, n, maxCodecName)
	}
	if f, ok := c.(fitter); ok {
		if err := f.fits(t); err != nil {
			return fmt.Errorf("cache: codec %s cannot store %v: %w", c.Name(), t, err)
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
	_, err := c.Append(nil, sample(t))
	if bad := (*json.UnsupportedTypeError)(nil); errors.As(err, &bad) {
		return bad
	}
	return nil // another error comes from a marshaller that dislikes a zero value, which says nothing about other values
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

// sample is a value of type t that is as far from nil as can be had without looking deeper.
func sample(t reflect.Type) any {
	if t.Kind() == reflect.Pointer {
		return reflect.New(t.Elem()).Interface()
	}
	return reflect.Zero(t).Interface()
}

// ---- MessagePack

type msgpackCodec struct{}

func (msgpackCodec) Name() string { return "msgpack" }

func (msgpackCodec) Append(dst []byte, v any) ([]byte, error) {
	w := appender{b: dst}
	e := msgpack.GetEncoder()
	defer msgpack.PutEncoder(e)
	e.Reset(&w)
	e.UseCompactInts(true)
	if err := e.Encode(v); err != nil {
		return dst, err
	}
	return w.b, nil
}

func (msgpackCodec) Decode(data []byte, v any) error { return msgpack.Unmarshal(data, v) }

func (c msgpackCodec) fits(t reflect.Type) error {
	if err := hidden(t, msgpackCustom, msgpackMarshal, textMarshaler, binaryMarshaler); err != nil {
		return err
	}
	if _, err := c.Append(nil, sample(t)); err != nil && strings.HasPrefix(err.Error(), "msgpack: ") {
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
	return gob.NewDecoder(bytes.NewReader(data)).Decode(v)
}

func (gobCodec) fits(t reflect.Type) error {
	if t.Kind() == reflect.Interface {
		return errors.New("an interface has no type to describe")
	}
	// Errors of a type's own GobEncode come through as they are: those say nothing about other values.
	if err := gob.NewEncoder(io.Discard).Encode(sample(t)); err != nil && strings.HasPrefix(err.Error(), "gob: ") {
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
