package driver

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"unsafe"
)

// Kind is what a reply is.
type Kind uint8

const (
	// KindNil is a null bulk string, null array or RESP3 null. The zero Reply is one.
	KindNil Kind = iota
	// KindInt is an integer, or a RESP3 boolean as 1 or 0, which is what RESP2 sends for it.
	KindInt
	// KindString is a bulk, status or verbatim string, or a RESP3 double or big number in the server's own spelling.
	KindString
	// KindList is an array, a set, or a map as alternating keys and values, which is what RESP2 sends for it.
	KindList
	// KindError is an error reply, or a failure to get one.
	KindError
)

// String returns the name of the kind.
func (k Kind) String() string {
	switch k {
	case KindNil:
		return "nil"
	case KindInt:
		return "integer"
	case KindString:
		return "string"
	case KindList:
		return "list"
	case KindError:
		return "error"
	}
	return "invalid"
}

// Reply is one reply, or the error that came instead. It is a value without boxing: integers and strings are stored as
// they are. The accessors return the reply's error if it is one, [ErrNil] for a null where a value was asked for, and a
// *[TypeError] for anything else that does not fit. A Reply may be read by several goroutines and stays valid for good.
// Compare replies with [Reply.Equal]: reflect.DeepEqual sees where a string lies, not what it says.
type Reply struct {
	_ [0]func() // not comparable
	// What it holds depends on kind: the bytes of a string, the first element of a list, an error. Three words instead of
	// nine are worth a third of what a driver costs in a pipeline.
	ptr  unsafe.Pointer
	num  int64 // the integer, or the length
	kind Kind
}

func (r Reply) str() string { return unsafe.String((*byte)(r.ptr), r.num) }

func (r Reply) list() []Reply { return unsafe.Slice((*Reply)(r.ptr), r.num) }

// ErrNil is what an accessor returns when the server answered null and a value was asked for. It is not a failure of the
// command: see [Reply.IsNil].
var ErrNil = errors.New("redisx: nil reply")

// TypeError says that a reply was read as something it is not.
type TypeError struct {
	Want string // what was asked for: "integer", "list", …
	Got  Kind
}

// Error implements error.
func (e *TypeError) Error() string {
	return "redisx: reply is " + e.Got.String() + ", not " + e.Want
}

// NilReply returns a null reply.
func NilReply() Reply { return Reply{} }

// IntReply returns an integer reply.
func IntReply(n int64) Reply { return Reply{kind: KindInt, num: n} }

// StringReply returns a string reply.
func StringReply(s string) Reply {
	return Reply{kind: KindString, ptr: unsafe.Pointer(unsafe.StringData(s)), num: int64(len(s))}
}

// ListReply returns a list reply. It keeps the slice.
func ListReply(list []Reply) Reply {
	return Reply{kind: KindList, ptr: unsafe.Pointer(unsafe.SliceData(list)), num: int64(len(list))}
}

// ErrReply returns a reply that is the error err.
func ErrReply(err error) Reply {
	if err == nil {
		err = errors.New("redisx: unspecified error")
	}
	return Reply{kind: KindError, ptr: unsafe.Pointer(&err)}
}

// Kind returns what the reply is.
func (r Reply) Kind() Kind { return r.kind }

// IsNil reports whether the server answered null.
func (r Reply) IsNil() bool { return r.kind == KindNil }

// Err returns the error of the reply, nil if it is not one. A null reply has no error.
func (r Reply) Err() error {
	if r.kind != KindError {
		return nil
	}
	return *(*error)(r.ptr)
}

// Equal reports whether two replies are of the same kind and hold the same. Errors are the same if their texts are.
func (r Reply) Equal(other Reply) bool {
	if r.kind != other.kind {
		return false
	}
	switch r.kind {
	case KindInt:
		return r.num == other.num
	case KindString:
		return r.str() == other.str()
	case KindList:
		return slices.EqualFunc(r.list(), other.list(), Reply.Equal)
	case KindError:
		return r.Err().Error() == other.Err().Error()
	}
	return true
}

func (r Reply) mismatch(want string) error {
	switch r.kind {
	case KindError:
		return r.Err()
	case KindNil:
		return ErrNil
	}
	return &TypeError{Want: want, Got: r.kind}
}

// Int64 returns an integer, or a string that is one in decimal.
func (r Reply) Int64() (int64, error) {
	switch r.kind {
	case KindInt:
		return r.num, nil
	case KindString:
		n, err := strconv.ParseInt(r.str(), 10, 64)
		if err != nil {
			return 0, &TypeError{Want: "integer", Got: r.kind}
		}
		return n, nil
	}
	return 0, r.mismatch("integer")
}

// Float64 returns a number. The server sends doubles as strings in RESP2; both spellings are read, also inf and nan.
func (r Reply) Float64() (float64, error) {
	switch r.kind {
	case KindInt:
		return float64(r.num), nil
	case KindString:
		f, err := strconv.ParseFloat(r.str(), 64)
		if err != nil && !math.IsInf(f, 0) {
			return 0, &TypeError{Want: "number", Got: r.kind}
		}
		return f, nil
	}
	return 0, r.mismatch("number")
}

// Bool returns true for 1 and for the status OK, false for 0 and for null: the answers of SISMEMBER, SET NX and scripts.
func (r Reply) Bool() (bool, error) {
	switch {
	case r.kind == KindInt && (r.num == 0 || r.num == 1):
		return r.num == 1, nil
	case r.kind == KindString && (r.str() == "OK" || r.str() == "1"):
		return true, nil
	case r.kind == KindString && r.str() == "0", r.kind == KindNil:
		return false, nil
	}
	return false, r.mismatch("boolean")
}

// Text returns a string, or an integer in decimal.
func (r Reply) Text() (string, error) {
	switch r.kind {
	case KindString:
		return r.str(), nil
	case KindInt:
		return strconv.FormatInt(r.num, 10), nil
	}
	return "", r.mismatch("string")
}

// Bytes returns a copy of a string, or an integer in decimal. The caller owns it.
func (r Reply) Bytes() ([]byte, error) {
	switch r.kind {
	case KindString:
		return []byte(r.str()), nil
	case KindInt:
		return strconv.AppendInt(nil, r.num, 10), nil
	}
	return nil, r.mismatch("string")
}

// List returns the elements of a list. A map comes as alternating keys and values. Do not change the slice.
func (r Reply) List() ([]Reply, error) {
	if r.kind == KindList {
		return r.list(), nil
	}
	return nil, r.mismatch("list")
}

// Strings returns a list of strings. A null element is an error: use List where one is expected.
func (r Reply) Strings() ([]string, error) {
	list, err := r.List()
	if err != nil {
		return nil, err
	}
	out := make([]string, len(list))
	for i, e := range list {
		if out[i], err = e.Text(); err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
	}
	return out, nil
}

// Pairs walks a list of pairs in order, whichever way the server sent it: as a RESP3 map, flat as RESP2 sends HGETALL, or
// as a list of two-element lists as RESP2 sends XREADGROUP. Anything else, an odd number of elements included, yields once
// with the error.
func (r Reply) Pairs() iter.Seq2[Reply, Reply] {
	return func(yield func(Reply, Reply) bool) {
		list, err := r.List()
		if err != nil {
			yield(ErrReply(err), ErrReply(err))
			return
		}
		if nested(list) {
			for _, e := range list {
				if pair := e.list(); !yield(pair[0], pair[1]) {
					return
				}
			}
			return
		}
		if len(list)%2 != 0 {
			err := ErrReply(&TypeError{Want: "list of pairs", Got: KindList})
			yield(err, err)
			return
		}
		for i := 0; i < len(list); i += 2 {
			if !yield(list[i], list[i+1]) {
				return
			}
		}
	}
}

func nested(list []Reply) bool {
	for _, e := range list {
		if e.kind != KindList || e.num != 2 {
			return false
		}
	}
	return len(list) > 0
}

// Map returns the pairs of [Reply.Pairs] by key. Of a key that occurs twice the last value is kept.
func (r Reply) Map() (map[string]Reply, error) {
	size := int64(0)
	if r.kind == KindList {
		size = r.num / 2
	}
	out := make(map[string]Reply, size)
	for k, v := range r.Pairs() {
		key, err := k.Text()
		if err != nil {
			return nil, err
		}
		out[key] = v
	}
	return out, nil
}

// String describes the reply for a person; it is not a way to read it. Contents are shown, so keep it out of logs.
func (r Reply) String() string {
	switch r.kind {
	case KindInt:
		return strconv.FormatInt(r.num, 10)
	case KindString:
		return strconv.Quote(r.str())
	case KindList:
		return fmt.Sprint(r.list())
	case KindError:
		return "error: " + r.Err().Error()
	}
	return "nil"
}
