package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const testStamp = "1700000000000001"

type sampleUser struct {
	ID    int64             `json:"id"`
	Name  string            `json:"name"`
	Mail  string            `json:"mail"`
	Roles []string          `json:"roles"`
	Attrs map[string]string `json:"attrs"`
	Since time.Time         `json:"since"`
	Next  *sampleUser       `json:"next"`
}

func newSampleUser() *sampleUser {
	return &sampleUser{
		ID: math.MaxInt64, Name: "Ada <b>&\u2028 \x00", Mail: "ada@example.com", Roles: []string{"admin", ""},
		Attrs: map[string]string{"a": "1", "": "2"}, Since: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Next: &sampleUser{ID: -1},
	}
}

func mustBytes[V any](t testing.TB, c Codec, compressAbove int, alg compression, keys *keyring, maxValue int) *bytesOf[V] {
	b, err := newBytes[V](c, compressAbove, alg, keys, maxValue)
	require.NoError(t, err)
	return b
}

func testRing(t testing.TB, ids ...string) *keyring {
	var keys []EncryptionKey
	for _, id := range ids {
		keys = append(keys, NewEncryptionKey(id, bytes.Repeat([]byte(id + "01234567890123456789012345678901")[:32], 1)))
	}
	r, err := newKeyring(keys)
	require.NoError(t, err)
	return r
}

// through sends a value through an entry and back.
func through[V any](t testing.TB, b *bytesOf[V], h header, v V) (header, V) {
	t.Helper()
	s, err := b.encode("k", &h, v)
	require.NoError(t, err)
	stamp, g, body, err := b.parse("k", testStamp+s)
	require.NoError(t, err)
	require.EqualValues(t, 1700000000000001, stamp)
	got, err := b.decode(&g, body)
	require.NoError(t, err)
	return g, got
}

// ways are all combinations of compression and encryption.
func ways(t *testing.T, f func(t *testing.T, above int, alg compression, keys *keyring)) {
	for name, keys := range map[string]*keyring{"plain": nil, "sealed": testRing(t, "k1", "k2")} {
		t.Run(name+"/whole", func(t *testing.T) { f(t, 0, compressS2, keys) })
		t.Run(name+"/s2", func(t *testing.T) { f(t, 1, compressS2, keys) })
		t.Run(name+"/zstd", func(t *testing.T) { f(t, 1, compressZstd, keys) })
	}
}

func same[V any](t *testing.T, c Codec, values ...V) {
	t.Helper()
	ways(t, func(t *testing.T, above int, alg compression, keys *keyring) {
		b := mustBytes[V](t, c, above, alg, keys, 0)
		for _, v := range values {
			_, got := through(t, b, header{}, v)
			if m, ok := any(v).(proto.Message); ok && m.ProtoReflect().IsValid() {
				require.True(t, proto.Equal(m, any(got).(proto.Message)), "%v", got)
				continue
			}
			require.Equal(t, v, got) // nil is not equal to empty here
		}
	})
}

type (
	text string
	blob []byte
)

func TestCodecsGiveBackWhatTheyWereGiven(t *testing.T) {
	long := strings.Repeat("redis ", 5000)
	for _, c := range []Codec{JSON, Msgpack, Gob} {
		t.Run(c.Name(), func(t *testing.T) {
			u, when := newSampleUser(), time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
			if c == Msgpack {
				u.Since, when = u.Since.Local(), when.Local()
			}
			same(t, c, u, nil)
			same(t, c, *u)
			same(t, c, "", "a", "*", "null", long)
			same(t, c, text("x"), "")
			same(t, c, []byte{}, nil, []byte{0, 255}, []byte(long))
			same(t, c, int64(0), math.MaxInt64, math.MinInt64)
			same(t, c, uint64(math.MaxUint64))
			same(t, c, math.Inf(1)*0 == 0, true)
			same(t, c, 0.1, -math.MaxFloat64, math.SmallestNonzeroFloat64)
			same(t, c, [16]byte{1, 2, 3})
			same(t, c, []string{}, nil, []string{"", "b"})
			same(t, c, map[string]int{}, nil, map[string]int{"": 1})
			same(t, c, when)
			same(t, c, struct{}{})
		})
	}
	t.Run("proto", func(t *testing.T) {
		st, err := structpb.NewStruct(map[string]any{"a": 1.0, "b": []any{"x", nil}, "long": long})
		require.NoError(t, err)
		same(t, Proto, st, &structpb.Struct{}, nil)
		same(t, Proto, timestamppb.New(time.Unix(1, 2)))
	})
	t.Run("raw", func(t *testing.T) {
		same(t, Raw, "", "a", "*", long, "\x00\xff")
		same(t, Raw, text(long), "")
		same(t, Raw, []byte{}, nil, []byte{0}, []byte(long))
		same(t, Raw, blob{}, nil, blob(long))
		same(t, Raw, json.RawMessage(`{"a":1}`), nil)
	})
}

func TestInterfacesKeepTheirNumbersUnderMsgpack(t *testing.T) {
	same(t, Msgpack, map[string]any{"a": int64(5), "b": "x", "c": true, "d": nil, "e": 1.5, "f": uint64(1)})
	same(t, Msgpack, any(int64(5)), nil, "x")
	same(t, JSON, any("x"), nil, 1.5)
}

// A stack that overflows cannot be recovered from: without the check this ends the test binary.
func TestDeepNestingIsAnError(t *testing.T) {
	loose, typed := mustBytes[any](t, Msgpack, 0, 0, nil, 0), mustBytes[*sampleUser](t, Msgpack, 0, 0, nil, 0)
	const n = 8 << 20
	for name, level := range map[string]string{
		"array": "\x91", "map": "\x81\x01", "array 16": "\xdc\x00\x01", "array 32": "\xdd\x00\x00\x00\x01", "second": "\x92\x01",
		"map 16": "\xde\x00\x01\xa1k", "map 32": "\xdf\x00\x00\x00\x01\xd9\x01k", "key": "\x81", "array after ext": "\x92\xd4\x05x",
	} {
		bomb := strings.Repeat(level, n/len(level))
		_, err := loose.decode(&header{}, bomb)
		require.ErrorContains(t, err, "10000 levels", name)
		_, err = typed.decode(&header{}, "\x81\xa1x"+bomb) // in a field that there is not
		require.ErrorContains(t, err, "10000 levels", name)
		_, err = loose.decode(&header{}, strings.Repeat(level, 100)) // and what is cut is cut
		require.ErrorContains(t, err, "cut short", name)
	}
	json := mustBytes[any](t, JSON, 0, 0, nil, 0)
	_, err := json.decode(&header{}, strings.Repeat("[", n))
	require.Error(t, err)
}

// Five bytes that claim four billion items: without the check the process ends for lack of memory.
func TestLengthsThatCannotBeAreAnError(t *testing.T) {
	loose, typed := mustBytes[any](t, Msgpack, 0, 0, nil, 0), mustBytes[[]any](t, Msgpack, 0, 0, nil, 0)
	for name, data := range map[string]string{
		"array": "\xdd\xff\xff\xff\xff0", "map": "\xdf\xff\xff\xff\xff0", "string": "\xdb\xff\xff\xff\xff0", "bin": "\xc6\xff\xff\xff\xff0",
		"ext": "\xc9\xff\xff\xff\xff\x050", "array 16": "\xdc\xff\xff0", "in an array": "\x91\xdd\xff\xff\xff\xff0",
		// Each level has enough bytes after it, but not all of them together.
		"nested": strings.Repeat("\xdd\x00\x01\x00\x00", 5000) + strings.Repeat("0", 1<<17),
	} {
		_, err := loose.decode(&header{}, data)
		require.ErrorContains(t, err, "cut short", name)
		_, err = typed.decode(&header{}, "\x91"+data)
		require.ErrorContains(t, err, "cut short", name)
	}
}

// pair writes two items where one is due, which the library allows.
type pair struct{ A, B int }

func (p pair) EncodeMsgpack(e *msgpack.Encoder) error  { return e.EncodeMulti(p.A, p.B) }
func (p *pair) DecodeMsgpack(d *msgpack.Decoder) error { return d.DecodeMulti(&p.A, &p.B) }

func TestSeveralItemsForOneAreFine(t *testing.T) {
	same(t, Msgpack, pair{1, 2})
	same(t, Msgpack, []pair{{1, 2}, {3, 4}, {5, 6}})
	same(t, Msgpack, map[string]*pair{"a": {1, 2}, "b": {3, 4}})
	b := mustBytes[pair](t, Msgpack, 0, 0, nil, 0)
	_, err := b.decode(&header{}, "\x01\xdd\xff\xff\xff\xff0") // what follows is checked as well
	require.ErrorContains(t, err, "cut short")
}

// The check must walk over every kind of item, or it would refuse what is fine or lose its way and miss what is not.
func TestTheDepthOfMessagePackIsCountedOverAllKinds(t *testing.T) {
	var kinds []any
	for _, n := range []int{0, 1, 31, 32, 255, 256, 65535, 65536} {
		kinds = append(kinds, strings.Repeat("s", n), bytes.Repeat([]byte{0xc1}, n), make([]bool, min(n, 70000)))
		m := map[int]bool{}
		for i := range n {
			m[i] = true
		}
		kinds = append(kinds, m)
	}
	kinds = append(kinds, nil, true, false, int8(-1), int8(-100), int16(-300), int32(-70000), int64(math.MinInt64), uint8(200), uint16(300),
		uint32(70000), uint64(math.MaxUint64), float32(1), 1.5, time.Unix(1, 0), time.Unix(1, 1), time.Unix(1<<40, 1), 5, -5,
		msgpack.RawMessage("\xd4\x05x"), msgpack.RawMessage("\xd5\x05xx"), msgpack.RawMessage("\xd8\x05"+strings.Repeat("x", 16)),
		msgpack.RawMessage("\xc8\x00\x01\x05x"), msgpack.RawMessage("\xc9\x00\x00\x00\x01\x05x"))
	fine, err := msgpack.Marshal(kinds)
	require.NoError(t, err)
	require.NoError(t, checkMsgpack(fine))
	for depth, want := range map[int]bool{maxDepth - 1: true, maxDepth: false} {
		data := append([]byte{0x92}, fine...)
		data = append(data, bytes.Repeat([]byte{0x91}, depth)...)
		require.Equal(t, want, checkMsgpack(append(data, 0xc0)) == nil, depth)
	}
	for n := range len(fine) {
		if n < 200 || n > len(fine)-20 {
			require.ErrorIs(t, checkMsgpack(fine[:n]), errMsgpackCut, n)
		}
	}
	// Side by side is not deep.
	require.NoError(t, checkMsgpack(append([]byte{0xdd, 0, 1, 0, 0}, bytes.Repeat([]byte{0x91, 0xc0}, 1<<16)...)))
}

func TestJSONDoesNotEscapeHTML(t *testing.T) {
	got, err := JSON.Append([]byte("x"), "<&>")
	require.NoError(t, err)
	require.Equal(t, `x"<&>"`, string(got))
}

func TestDecodedValuesAreCopies(t *testing.T) {
	raw := []byte(testStamp + "A0\x00\x03raw\x00\x00\x00\x00hello")
	b := mustBytes[[]byte](t, Raw, 0, 0, nil, 0)
	_, h, body, err := b.parse("k", bytesAsString(raw))
	require.NoError(t, err)
	v, err := b.decode(&h, body)
	require.NoError(t, err)
	v[0] = 'J' // would be a write to a string
	require.Equal(t, "hello", string(raw[len(raw)-5:]))
}

type (
	hiddenFields struct{ a int } //nolint:unused // it is what the test is about
	embedding    struct{ sampleUser }
	withChan     struct{ C chan int }
	panicky      struct{ p *int }
	refusing     struct{ a int } //nolint:unused // as above
)

func (p panicky) MarshalJSON() ([]byte, error)   { return fmt.Append(nil, *p.p), nil }
func (refusing) MarshalJSON() ([]byte, error)    { return nil, errors.New("not a zero value") }
func (refusing) GobEncode() ([]byte, error)      { return nil, errors.New("not a zero value") }
func (refusing) GobDecode([]byte) error          { return nil }
func (refusing) MarshalMsgpack() ([]byte, error) { return nil, errors.New("not a zero value") }

func fits[V any](c Codec) error {
	_, err := newBytes[V](c, 0, 0, nil, 0)
	return err
}

func TestTypesThatACodecCannotStoreAreRefused(t *testing.T) {
	for name, err := range map[string]error{
		"json func":            fits[func()](JSON),
		"json field":           fits[withChan](JSON),
		"json field behind *":  fits[*withChan](JSON),
		"json map key":         fits[map[[2]int]string](JSON),
		"json hidden":          fits[hiddenFields](JSON),
		"json hidden behind *": fits[*hiddenFields](JSON),
		"json hidden in slice": fits[[]hiddenFields](JSON),
		"msgpack hidden":       fits[hiddenFields](Msgpack),
		"msgpack field":        fits[*withChan](Msgpack),
		"gob hidden":           fits[*hiddenFields](Gob),
		"gob any":              fits[any](Gob),
		"gob func":             fits[func()](Gob),
		"raw int":              fits[int](Raw),
		"raw []string":         fits[[]string](Raw),
		"raw any":              fits[any](Raw),
		"proto struct":         fits[sampleUser](Proto),
		"proto *struct":        fits[*sampleUser](Proto),
		"proto message":        fits[structpb.Struct](Proto),
		"proto interface":      fits[proto.Message](Proto),
	} {
		require.ErrorContains(t, err, "cannot store", name)
	}
	require.ErrorContains(t, fits[structpb.Struct](Proto), "use the pointer, *structpb.Struct")
	for name, err := range map[string]error{
		"json embedded":    fits[embedding](JSON),
		"json panicky":     fits[panicky](JSON),
		"json refusing":    fits[*refusing](JSON),
		"json any":         fits[any](JSON),
		"json empty":       fits[struct{}](JSON),
		"json time":        fits[*time.Time](JSON),
		"gob refusing":     fits[refusing](Gob),
		"msgpack refusing": fits[refusing](Msgpack),
		"msgpack time":     fits[time.Time](Msgpack),
		"msgpack any":      fits[any](Msgpack),
		"proto":            fits[*structpb.Struct](Proto),
		"raw named":        fits[text](Raw),
	} {
		require.NoError(t, err, name)
	}
}

// foreign is a codec of somebody else.
type foreign struct {
	name   string
	append func(dst []byte, v any) ([]byte, error)
	decode func(data []byte, v any) error
}

func (f *foreign) Name() string                             { return f.name }
func (f *foreign) Append(dst []byte, v any) ([]byte, error) { return f.append(dst, v) }
func (f *foreign) Decode(data []byte, v any) error          { return f.decode(data, v) }

func TestCodecsWithoutAProperNameAreRefused(t *testing.T) {
	require.ErrorContains(t, fits[int](nil), "nil")
	require.ErrorContains(t, fits[int]((*foreign)(nil)), "panicked")
	require.ErrorContains(t, fits[int](&foreign{}), "0 bytes")
	require.ErrorContains(t, fits[int](&foreign{name: strings.Repeat("n", 33)}), "33 bytes")
	require.NoError(t, fits[int](&foreign{name: strings.Repeat("n", 32)}))
}

func TestAPanicOfACodecIsAnError(t *testing.T) {
	c := &foreign{
		name:   "bad",
		append: func([]byte, any) ([]byte, error) { panic("oops") },
		decode: func(_ []byte, v any) error { *v.(*int) = 7; panic("oops") },
	}
	b := mustBytes[int](t, c, 0, 0, nil, 0)
	_, err := b.encode("k", &header{}, 1)
	require.ErrorContains(t, err, "oops")
	_, h, body, err := b.parse("k", testStamp+"A0\x00\x03bad\x00\x00\x00\x00hello")
	require.NoError(t, err)
	v, err := b.decode(&h, body)
	require.ErrorContains(t, err, "oops")
	require.Zero(t, v)
}

func TestErrorsOfACodecGiveNoHalfValue(t *testing.T) {
	oops := errors.New("oops")
	c := &foreign{
		name:   "bad",
		append: func(dst []byte, _ any) ([]byte, error) { return append(dst, "half"...), oops },
		decode: func(_ []byte, v any) error { *v.(*int) = 7; return oops },
	}
	b := mustBytes[int](t, c, 0, 0, nil, 0)
	_, err := b.encode("k", &header{}, 1)
	require.ErrorIs(t, err, oops)
	v, err := b.decode(&header{}, "x")
	require.ErrorIs(t, err, oops)
	require.Zero(t, v)
}

// A codec that returns the value itself, rather than a copy, is common. It must not become a buffer for the next value.
func TestMemoryOfACodecIsNotReused(t *testing.T) {
	c := &foreign{
		name:   "mine",
		append: func(_ []byte, v any) ([]byte, error) { return v.([]byte), nil },
		decode: func(data []byte, v any) error { *v.(*[]byte) = data; return nil },
	}
	ways(t, func(t *testing.T, above int, alg compression, keys *keyring) {
		b, raw := mustBytes[[]byte](t, c, above, alg, keys, 0), mustBytes[[]byte](t, Raw, above, alg, keys, 0)
		for i := range 50 {
			mine, other := bytes.Repeat([]byte("a"), 3000+100*i), bytes.Repeat([]byte{byte(i)}, 200+i)
			_, got := through(t, b, header{}, mine)
			require.Equal(t, mine, got)
			_, got = through(t, raw, header{}, other) // appends to a buffer
			require.Equal(t, other, got)
			require.Equal(t, strings.Repeat("a", 3000+100*i), string(mine))
		}
	})
}

func TestBytesAreSafeForConcurrentUse(t *testing.T) {
	ways(t, func(t *testing.T, above int, alg compression, keys *keyring) {
		for _, c := range []Codec{JSON, Msgpack, Gob} {
			b := mustBytes[*sampleUser](t, c, above, alg, keys, 0)
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					for i := range 50 {
						u := newSampleUser()
						u.Name = strings.Repeat(fmt.Sprint(g, i), i)
						s, err := b.encode(u.Name, &header{soft: time.Second}, u)
						if err != nil {
							t.Error(err)
							return
						}
						_, h, body, err := b.parse(u.Name, testStamp+s)
						if err != nil {
							t.Error(err)
							return
						}
						if got, err := b.decode(&h, body); err != nil || got.Name != u.Name || got.Next.ID != -1 {
							t.Error(got, err)
						}
					}
				})
			}
			wg.Wait()
		}
	})
}
