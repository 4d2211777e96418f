package cache

import (
	"encoding"
	"fmt"
	"hash/maphash"
	"reflect"
	"strconv"
	"unsafe"
)

// keyCodec turns keys into the ids that Redis keys are built from, and back where the type allows it:
//
//	a K with MarshalText        what it returns
//	string kinds                the string
//	integer kinds               decimal
//	[N]byte                     the bytes
//
// Types named by the user count as what they are made of. It is immutable and safe for concurrent use.
type keyCodec[K comparable] struct {
	kind keyKind
	// reversible says that decode undoes encode for every key. It is never so for MarshalText, whatever UnmarshalText does:
	// two keys may have the same text (MarshalText may fold case, say), and the id leads to one of them only.
	reversible bool
	size       uintptr
}

type keyKind uint8

const (
	keyText keyKind = iota + 1
	keyString
	keyInt
	keyUint
	keyBytes
)

// newKeyCodec returns the codec of K, or an error that names K and what is allowed.
func newKeyCodec[K comparable]() (*keyCodec[K], error) {
	t := reflect.TypeFor[K]()
	c := &keyCodec[K]{size: t.Size(), reversible: true}
	switch {
	case t.Kind() == reflect.Pointer, holdsInterface(t):
		return nil, keyError(t)
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		c.kind, c.reversible = keyText, false
		return c, nil
	}
	switch t.Kind() {
	case reflect.String:
		c.kind = keyString
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		c.kind = keyInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		c.kind = keyUint
	case reflect.Array:
		if t.Elem().Kind() != reflect.Uint8 {
			return nil, keyError(t)
		}
		c.kind = keyBytes
	default:
		return nil, keyError(t)
	}
	return c, nil
}

func keyError(t reflect.Type) error {
	return fmt.Errorf("redisx: cache: keys of type %v; want a string, an integer, [N]byte or a type that implements encoding.TextMarshaler, "+
		"is no pointer and holds no interface", t)
}

// holdsInterface reports whether t is or holds an interface: comparing two of its values may panic.
func holdsInterface(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Interface:
		return true
	case reflect.Array:
		return holdsInterface(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if holdsInterface(t.Field(i).Type) {
				return true
			}
		}
	}
	return false
}

// encode returns the id of k. It fails if MarshalText does; a panic there is an error too. It allocates at most once, the
// id, besides what MarshalText does and the two allocations of calling it.
func (c *keyCodec[K]) encode(k K) (string, error) {
	p := unsafe.Pointer(&k)
	switch c.kind {
	case keyString:
		return *(*string)(p), nil
	case keyInt:
		return strconv.FormatInt(loadInt(p, c.size), 10), nil
	case keyUint:
		return strconv.FormatUint(loadUint(p, c.size), 10), nil
	case keyBytes:
		return string(unsafe.Slice((*byte)(p), c.size)), nil
	default:
		return encodeText(k)
	}
}

func encodeText[K comparable](k K) (id string, err error) {
	defer func() {
		if r := recover(); r != nil {
			id, err = "", fmt.Errorf("redisx: cache: MarshalText of a key of type %T panicked: %v", k, r)
		}
	}()
	b, err := any(k).(encoding.TextMarshaler).MarshalText()
	if err != nil {
		return "", fmt.Errorf("redisx: cache: MarshalText of a key of type %T: %w", k, err)
	}
	return string(b), nil
}

// decode returns the key that encode turns into id. It is false if there is none, and always if K is not reversible.
func (c *keyCodec[K]) decode(id string) (k K, ok bool) {
	p := unsafe.Pointer(&k)
	switch c.kind {
	case keyString:
		*(*string)(p) = id
		return k, true
	case keyInt:
		n, err := strconv.ParseInt(id, 10, int(c.size)*8)
		if err != nil || !canonical(id) {
			return k, false
		}
		storeUint(p, c.size, uint64(n))
		return k, true
	case keyUint:
		n, err := strconv.ParseUint(id, 10, int(c.size)*8)
		if err != nil || !canonical(id) {
			return k, false
		}
		storeUint(p, c.size, n)
		return k, true
	case keyBytes:
		if uintptr(len(id)) != c.size {
			return k, false
		}
		copy(unsafe.Slice((*byte)(p), c.size), id)
		return k, true
	default:
		return k, false
	}
}

// canonical reports whether a number that strconv accepted is written as strconv writes it: no plus, no leading zero, no -0.
func canonical(id string) bool {
	if id[0] == '+' {
		return false
	}
	if id[0] == '-' {
		return id[1] != '0'
	}
	return id[0] != '0' || len(id) == 1
}

func loadInt(p unsafe.Pointer, size uintptr) int64 {
	switch size {
	case 1:
		return int64(*(*int8)(p))
	case 2:
		return int64(*(*int16)(p))
	case 4:
		return int64(*(*int32)(p))
	default:
		return *(*int64)(p)
	}
}

func loadUint(p unsafe.Pointer, size uintptr) uint64 {
	switch size {
	case 1:
		return uint64(*(*uint8)(p))
	case 2:
		return uint64(*(*uint16)(p))
	case 4:
		return uint64(*(*uint32)(p))
	default:
		return *(*uint64)(p)
	}
}

// storeUint stores signed integers too: cutting off the high bytes leaves the two's complement as it is.
func storeUint(p unsafe.Pointer, size uintptr, n uint64) {
	switch size {
	case 1:
		*(*uint8)(p) = uint8(n)
	case 2:
		*(*uint16)(p) = uint16(n)
	case 4:
		*(*uint32)(p) = uint32(n)
	default:
		*(*uint64)(p) = n
	}
}

// hashSeed makes the hashes of every process differ, so that nobody can choose keys that share a stripe.
var hashSeed = maphash.MakeSeed()

// hashString returns a hash of s that is never 0 and differs between processes.
func hashString(s string) uint64 { return max(1, maphash.String(hashSeed, s)) }

// hashKey returns a hash of k that is never 0 and differs between processes; it is not that of k's id.
func hashKey[K comparable](k K) uint64 { return max(1, maphash.Comparable(hashSeed, k)) }
