package cache

import (
	"encoding"
	"encoding/hex"
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type (
	keyName   string
	keyNum    int32
	keyBits   uint16
	keyHash   [4]byte
	keyByte   byte
	keyBytes3 [3]keyByte
	keyUUID   [4]byte // text, though it is an array
	keyFold   string  // two keys, one text
	keyPair   struct{ A, B int32 }
	keyEmbed  struct{ *keyOfPointer }
	keyBad    int
	keyTextP  string // MarshalText of the pointer only
	keyIface  struct{ encoding.TextMarshaler }
	keyDeep   [1]struct{ a any }

	keyOfPointer struct{ n int }
)

var errBadKey = errors.New("bad key")

func (k keyUUID) MarshalText() ([]byte, error)       { return []byte(hex.EncodeToString(k[:])), nil }
func (k *keyUUID) UnmarshalText(b []byte) error      { _, err := hex.Decode(k[:], b); return err }
func (k keyFold) MarshalText() ([]byte, error)       { return []byte(strings.ToLower(string(k))), nil }
func (k *keyFold) UnmarshalText(b []byte) error      { *k = keyFold(b); return nil }
func (k keyPair) MarshalText() ([]byte, error)       { return []byte{byte(k.A), ':', byte(k.B)}, nil }
func (k keyBad) MarshalText() ([]byte, error)        { return nil, errBadKey }
func (k *keyOfPointer) MarshalText() ([]byte, error) { return []byte{byte(k.n)}, nil }
func (k keyDeep) MarshalText() ([]byte, error)       { return nil, nil }
func (k *keyTextP) MarshalText() ([]byte, error)     { return []byte("never"), nil }

// keyCase checks that k has that id, and that the id leads back to it.
func keyCase[K comparable](t *testing.T, k K, id string) {
	t.Helper()
	c, err := newKeyCodec[K]()
	require.NoError(t, err)
	require.True(t, c.reversible)
	got, err := c.encode(k)
	require.NoError(t, err)
	require.Equal(t, id, got)
	back, ok := c.decode(id)
	require.True(t, ok)
	require.Equal(t, k, back)
}

func TestIDsOfKeys(t *testing.T) {
	keyCase(t, "", "")
	keyCase(t, "user:1", "user:1")
	keyCase(t, "\x00\xff{}", "\x00\xff{}")
	keyCase(t, keyName("n"), "n")
	keyCase(t, 0, "0")
	keyCase(t, -7, "-7")
	keyCase(t, int8(math.MinInt8), "-128")
	keyCase(t, int16(math.MinInt16), "-32768")
	keyCase(t, int32(math.MinInt32), "-2147483648")
	keyCase(t, int64(math.MinInt64), "-9223372036854775808")
	keyCase(t, int64(math.MaxInt64), "9223372036854775807")
	keyCase(t, uint8(255), "255")
	keyCase(t, uint16(math.MaxUint16), "65535")
	keyCase(t, uint32(math.MaxUint32), "4294967295")
	keyCase(t, uint64(math.MaxUint64), "18446744073709551615")
	keyCase(t, uint(5), "5")
	keyCase(t, uintptr(5), "5")
	keyCase(t, keyNum(-1), "-1")
	keyCase(t, keyBits(65535), "65535")
	keyCase(t, keyHash{0, 1, 2, 255}, "\x00\x01\x02\xff")
	keyCase(t, keyBytes3{'a', 'b', 'c'}, "abc")
	keyCase(t, [0]byte{}, "")
	keyCase(t, [40]byte{1}, "\x01"+strings.Repeat("\x00", 39))
	keyCase(t, keyTextP("p"), "p")
	keyCase(t, time.Duration(5), "5") // String is not asked
}

func TestTextKeysAreNotReversible(t *testing.T) {
	check := func(c interface{ decodes(string) bool }, id string) {
		t.Helper()
		require.False(t, c.decodes(id))
	}
	u, err := newKeyCodec[keyUUID]()
	require.NoError(t, err)
	require.False(t, u.reversible)
	id, err := u.encode(keyUUID{1, 2, 3, 4})
	require.NoError(t, err)
	require.Equal(t, "01020304", id)
	check(keyDecodes[keyUUID]{u}, id)

	// This is why: the id leads to one of the two keys, and the other would keep its value in L1.
	f, err := newKeyCodec[keyFold]()
	require.NoError(t, err)
	upper, err := f.encode("ABC")
	require.NoError(t, err)
	lower, err := f.encode("abc")
	require.NoError(t, err)
	require.Equal(t, lower, upper)
	require.False(t, f.reversible)
	check(keyDecodes[keyFold]{f}, lower)

	p, err := newKeyCodec[keyPair]()
	require.NoError(t, err)
	id, err = p.encode(keyPair{'x', 'y'})
	require.NoError(t, err)
	require.Equal(t, "x:y", id)

	for _, ok := range []error{keyAllowed[time.Time](), keyAllowed[netip.Prefix](), keyAllowed[[2]byte]()} {
		require.NoError(t, ok)
	}
	a, err := newKeyCodec[netip.Addr]()
	require.NoError(t, err)
	id, err = a.encode(netip.MustParseAddr("::1"))
	require.NoError(t, err)
	require.Equal(t, "::1", id)
}

type keyDecodes[K comparable] struct{ c *keyCodec[K] }

func (d keyDecodes[K]) decodes(id string) bool {
	_, ok := d.c.decode(id)
	return ok
}

func TestMarshalTextThatFailsOrPanicsIsAnError(t *testing.T) {
	b, err := newKeyCodec[keyBad]()
	require.NoError(t, err)
	_, err = b.encode(1)
	require.ErrorIs(t, err, errBadKey)
	require.ErrorContains(t, err, "cache.keyBad")

	e, err := newKeyCodec[keyEmbed]()
	require.NoError(t, err)
	id, err := e.encode(keyEmbed{&keyOfPointer{'n'}})
	require.NoError(t, err)
	require.Equal(t, "n", id)
	id, err = e.encode(keyEmbed{})
	require.ErrorContains(t, err, "cache.keyEmbed panicked")
	require.Empty(t, id)
}

func keyRefused[K comparable](t *testing.T, name string) {
	t.Helper()
	_, err := newKeyCodec[K]()
	require.ErrorContains(t, err, "cache: keys of type "+name+"; want a string, an integer, [N]byte or")
}

func keyAllowed[K comparable]() error {
	_, err := newKeyCodec[K]()
	return err
}

func TestKeysOfOtherTypesAreRefused(t *testing.T) {
	keyRefused[float64](t, "float64")
	keyRefused[bool](t, "bool")
	keyRefused[struct{ A int }](t, "struct { A int }")
	keyRefused[[2]int](t, "[2]int")
	keyRefused[[2]int8](t, "[2]int8")
	keyRefused[any](t, "interface {}")
	keyRefused[encoding.TextMarshaler](t, "encoding.TextMarshaler")
	keyRefused[*int](t, "*int")
	keyRefused[*keyOfPointer](t, "*cache.keyOfPointer") // two pointers to the same thing would be two keys
	keyRefused[complex64](t, "complex64")
	keyRefused[keyIface](t, "cache.keyIface") // == of two of them may panic
	keyRefused[keyDeep](t, "cache.keyDeep")
	keyRefused[chan int](t, "chan int")
}

// Several ids of one number would be several Redis keys that lead to one entry of L1, and only one of them is ever written.
func TestIDsThatEncodeDoesNotWriteAreRefused(t *testing.T) {
	i, _ := newKeyCodec[int8]()
	for _, id := range []string{"", "+1", "01", "-0", "-01", "00", "128", "-129", "1_0", "0x1", " 1", "1 ", "a", "-", "+", "--1"} {
		_, ok := i.decode(id)
		require.False(t, ok, "%q", id)
	}
	u, _ := newKeyCodec[uint8]()
	for _, id := range []string{"", "+1", "01", "-1", "-0", "00", "256", "1_0", "0x1"} {
		_, ok := u.decode(id)
		require.False(t, ok, "%q", id)
	}
	b, _ := newKeyCodec[[2]byte]()
	for _, id := range []string{"", "a", "abc"} {
		_, ok := b.decode(id)
		require.False(t, ok, "%q", id)
	}
}

func FuzzKeyDecodeIsExact(f *testing.F) {
	for _, s := range []string{"", "0", "-1", "+1", "007", "18446744073709551615", "-9223372036854775808", "-0", "ab"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		keyExact[int64](t, id)
		keyExact[int8](t, id)
		keyExact[uint64](t, id)
		keyExact[keyBits](t, id)
		keyExact[[2]byte](t, id)
		keyExact[keyName](t, id)
		keyExact[keyFold](t, id)
	})
}

func keyExact[K comparable](t *testing.T, id string) {
	c, err := newKeyCodec[K]()
	require.NoError(t, err)
	if k, ok := c.decode(id); ok {
		back, err := c.encode(k)
		require.NoError(t, err)
		require.Equal(t, id, back)
	}
}

func keyEncodeAllocs[K comparable](t *testing.T, k K) float64 {
	c, err := newKeyCodec[K]()
	require.NoError(t, err)
	return testing.AllocsPerRun(100, func() { c.encode(k) })
}

func TestEncodingAKeyAllocatesTheIDOnly(t *testing.T) {
	require.Zero(t, keyEncodeAllocs(t, "user:123456"))
	require.Zero(t, keyEncodeAllocs(t, keyName("user:123456")))
	require.LessOrEqual(t, keyEncodeAllocs(t, int64(123456)), 1.0)
	require.LessOrEqual(t, keyEncodeAllocs(t, uint64(math.MaxUint64)), 1.0)
	require.LessOrEqual(t, keyEncodeAllocs(t, [16]byte{1, 2}), 1.0)
	require.LessOrEqual(t, keyEncodeAllocs(t, keyPair{1, 2}), 3.0)

	c, _ := newKeyCodec[int64]()
	require.Zero(t, testing.AllocsPerRun(100, func() { c.decode("123456") }))
	require.Zero(t, testing.AllocsPerRun(100, func() { hashString("user:123456"); hashKey(int64(5)) }))
}

func TestHashesAreNeverZeroAndAgree(t *testing.T) {
	require.Equal(t, hashString("a"+strings.Repeat("b", 1)), hashString("ab"))
	require.NotEqual(t, hashString("a"), hashString("b"))
	require.Equal(t, hashKey(keyPair{1, 2}), hashKey(keyPair{1, 2}))
	require.NotEqual(t, hashKey(1), hashKey(2))
	require.NotZero(t, hashString(""))
}

func BenchmarkKeyEncode(b *testing.B) {
	i, _ := newKeyCodec[int64]()
	s, _ := newKeyCodec[string]()
	a, _ := newKeyCodec[[16]byte]()
	p, _ := newKeyCodec[netip.Addr]()
	addr := netip.MustParseAddr("192.168.100.200")
	b.Run("int64", func(b *testing.B) { benchEach(b, func(n int) { i.encode(int64(n) + 1e9) }) })
	b.Run("string", func(b *testing.B) { benchEach(b, func(int) { s.encode("user:123456") }) })
	b.Run("[16]byte", func(b *testing.B) { benchEach(b, func(int) { a.encode([16]byte{1}) }) })
	b.Run("netip.Addr", func(b *testing.B) { benchEach(b, func(int) { p.encode(addr) }) })
	b.Run("decode int64", func(b *testing.B) { benchEach(b, func(int) { i.decode("1234567890") }) })
	b.Run("hash string", func(b *testing.B) { benchEach(b, func(int) { hashString("cache:users:{1234567890}") }) })
	b.Run("hash int64", func(b *testing.B) { benchEach(b, func(n int) { hashKey(int64(n)) }) })
}
