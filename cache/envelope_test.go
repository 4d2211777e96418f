package cache

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

func fullHeader() header {
	return header{
		soft: 10 * time.Minute, refresh: 9*time.Minute + time.Microsecond, load: 1500 * time.Microsecond,
		gens: gens{n: 2, v: [maxGens]uint64{1700000000000000, 300}},
		tags: []tagVersion{{"team:7", 1700000000000002}, {"\x00ü", 1}}, etag: `W/"1"`,
	}
}

// The format is stored: entries written by one version are read by the next.
func TestTheStoredFormatDoesNotChange(t *testing.T) {
	b := mustBytes[string](t, Raw, 0, 0, nil, 0)
	h := fullHeader()
	got, err := b.encode("k", &h, "hello")
	require.NoError(t, err)
	want := "A0\x60\x03raw" +
		"\x80\x8c\x8d\x9e\x02" + "\x81\xfe\xbe\x81\x02" + "\xdc\x0b" + // soft, refresh, load in µs
		"\x02" + "\x80\x80\xf9\xc0\xc1\xc4\x82\x03" + "\xac\x02" + // gens
		"\x02" + "\x06team:7" + "\x82\x80\xf9\xc0\xc1\xc4\x82\x03" + "\x03\x00ü" + "\x01" + // tags
		"\x05" + `W/"1"` + "hello"
	require.Equal(t, fmt.Sprintf("%q", want), fmt.Sprintf("%q", got))
	require.Equal(t, byte(formatA), (testStamp + got)[16])
	require.Equal(t, byte(stateLive), (testStamp + got)[17])
	stamp, g, body, err := b.parse("k", testStamp+got)
	require.NoError(t, err)
	require.EqualValues(t, 1700000000000001, stamp)
	require.Equal(t, h, g)
	require.Equal(t, "hello", body)

	for content, h := range map[string]header{"\x01": {negative: true}, "\x00": {}} {
		got, err := b.encode("k", &h, "")
		require.NoError(t, err)
		require.Equal(t, "A0"+content+"\x03raw\x00\x00\x00\x00", got)
	}
	got, err = b.encode("k", &header{expired: true}, "x")
	require.NoError(t, err)
	require.Equal(t, "A1\x00\x03raw\x00\x00\x00\x00x", got)
}

// Written once, so that a change of what is derived from a secret or of what is authenticated is noticed.
func TestWhatWasSealedOnceIsOpened(t *testing.T) {
	const start = "MTcwMDAwMDAwMDAwMDAwMUEw"
	for alg, rest := range map[compression]string{
		compressS2: "dARqc29uAmsxgIyNngKB/r6BAtwLAoCA+cDBxIIDrAICBnRlYW06N4KA+cDBxIIDAwDDvAEFVy8iMSLWqSUtsnwN7yS0PY6NRc0J" +
			"NxRvSjgs9D0HCSn+vsKMmTLEoeJCORgol6Tj",
		compressZstd: "eARqc29uAmsxgIyNngKB/r6BAtwLAoCA+cDBxIIDrAICBnRlYW06N4KA+cDBxIIDAwDDvAEFVy8iMSJJmGyDk3/hDiTuMkOo1vvG" +
			"BgKJ4nuxBdLQLR8mBz12u4j9fkesY7zcOCymTeOei0yzmdeyCw==",
	} {
		raw, err := base64.StdEncoding.DecodeString(start + rest)
		require.NoError(t, err)
		b := mustBytes[string](t, JSON, 0, 0, testRing(t, "k1"), 0)
		_, h, body, err := b.parse("cache:users:{1}", string(raw))
		require.NoError(t, err)
		require.Equal(t, alg, h.compressed)
		h.compressed = compressNone
		require.Equal(t, fullHeader(), h)
		h.compressed = alg
		v, err := b.decode(&h, body)
		require.NoError(t, err)
		require.Equal(t, strings.Repeat("hello ", 10), v)
	}
}

func TestHeadersComeBack(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	ways(t, func(t *testing.T, above int, alg compression, keys *keyring) {
		b := mustBytes[string](t, Raw, above, alg, keys, 0)
		for range 300 {
			h := header{
				soft: time.Duration(rnd.Int64()>>rnd.IntN(63)) / 1000 * 1000, refresh: time.Duration(rnd.IntN(9)) * time.Microsecond,
				load: time.Duration(rnd.IntN(3)) * time.Second, negative: rnd.IntN(2) == 0, expired: rnd.IntN(2) == 0,
				gens: gens{n: rnd.IntN(maxGens + 1)}, etag: strings.Repeat("e", rnd.IntN(3)*100),
			}
			for i := range h.gens.n {
				h.gens.v[i] = rnd.Uint64() >> rnd.IntN(64)
			}
			for range rnd.IntN(5) {
				h.tags = append(h.tags, tagVersion{strings.Repeat("t", 1+rnd.IntN(200)), rnd.Uint64() >> rnd.IntN(64)})
			}
			v := strings.Repeat("v", rnd.IntN(2000))
			g, got := through(t, b, h, v)
			if h.negative {
				v = ""
			}
			require.Equal(t, v, got)
			g.compressed = compressNone
			require.Equal(t, h, g)
		}
	})
}

func TestDurationsAreRoundedUp(t *testing.T) {
	b := mustBytes[string](t, Raw, 0, 0, nil, 0)
	for in, want := range map[time.Duration]time.Duration{
		-1: 0, 0: 0, 1: 1000, 999: 1000, 1000: 1000, 1001: 2000, time.Hour: time.Hour, math.MaxInt64: math.MaxInt64 / 1000 * 1000,
	} {
		s, err := b.encode("k", &header{soft: in}, "")
		require.NoError(t, err)
		_, h, _, err := b.parse("k", testStamp+s)
		require.NoError(t, err, in)
		require.Equal(t, want, h.soft)
	}
}

func TestAnEmptyPayloadIsAValue(t *testing.T) {
	ways(t, func(t *testing.T, above int, alg compression, keys *keyring) {
		h, v := through(t, mustBytes[[]byte](t, Raw, above, alg, keys, 0), header{}, []byte{})
		require.Equal(t, []byte{}, v)
		require.False(t, h.negative || h.isNil)
		h, v = through(t, mustBytes[[]byte](t, Raw, above, alg, keys, 0), header{}, nil)
		require.Nil(t, v)
		require.True(t, h.isNil)
		h, v = through(t, mustBytes[[]byte](t, Raw, above, alg, keys, 0), header{negative: true}, []byte("ignored"))
		require.Nil(t, v)
		require.True(t, h.negative)
	})
}

// Expire writes one byte of the stored value, whatever the rest is.
func TestAScriptMarksAnEntryAsExpired(t *testing.T) {
	ways(t, func(t *testing.T, above int, alg compression, keys *keyring) {
		b := mustBytes[string](t, Raw, above, alg, keys, 0)
		h := fullHeader()
		s, err := b.encode("k", &h, strings.Repeat("v", 100))
		require.NoError(t, err)
		raw := []byte(testStamp + s)
		raw[offsetState] = stateExpired // SETRANGE
		_, g, body, err := b.parse("k", string(raw))
		require.NoError(t, err)
		require.True(t, g.expired)
		v, err := b.decode(&g, body)
		require.NoError(t, err)
		require.Equal(t, strings.Repeat("v", 100), v)
	})
}

func TestWhatIsUnknownIsAMiss(t *testing.T) {
	b := mustBytes[string](t, Raw, 0, 0, nil, 0)
	sealed := mustBytes[string](t, Raw, 0, 0, testRing(t, "k1"), 0)
	h := fullHeader()
	s, err := b.encode("k", &h, "")
	require.NoError(t, err)
	whole := testStamp + s
	_, _, _, err = b.parse("k", whole)
	require.NoError(t, err)
	for n := range whole { // cut anywhere: there is no payload
		_, _, _, err = b.parse("k", whole[:n])
		require.ErrorIs(t, err, errUnknownEnvelope, n)
	}
	good := "\x03raw\x00\x00\x00\x00"
	for name, raw := range map[string]string{
		"empty":                 "",
		"sign in the time":      "+700000000000001A0\x00" + good,
		"slash in the time":     "17000000000000/1A0\x00" + good,
		"colon in the time":     "170000000000000:A0\x00" + good,
		"other format":          testStamp + "B0\x00" + good,
		"other state":           testStamp + "A2\x00" + good,
		"other content":         testStamp + "A0\x80" + good,
		"two compressions":      testStamp + "A0\x0c" + good,
		"negative and nil":      testStamp + "A0\x03" + good,
		"negative, compressed":  testStamp + "A0\x05" + good,
		"nil, compressed":       testStamp + "A0\x06" + good,
		"negative with payload": testStamp + "A0\x01" + good + "x",
		"nil with payload":      testStamp + "A0\x02" + good + "x",
		"encrypted":             testStamp + "A0\x10\x03raw\x02k1\x00\x00\x00\x00" + strings.Repeat("x", 40),
		"other codec":           testStamp + "A0\x00\x04json\x00\x00\x00\x00",
		"prefix of the codec":   testStamp + "A0\x00\x02ra\x00\x00\x00\x00",
		"long codec":            testStamp + "A0\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01raw",
		"endless number":        testStamp + "A0\x00\x03raw" + strings.Repeat("\xff", 20),
		"duration overflows":    testStamp + "A0\x00\x03raw\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00\x00",
		"too many gens":         testStamp + "A0\x00\x03raw\x00\x00\x00\x05\x01\x01\x01\x01\x01",
		"more tags than bytes":  testStamp + "A0\x20\x03raw\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01t\x01",
		"tag longer than all":   testStamp + "A0\x20\x03raw\x00\x00\x00\x00\x01\xff\x01",
	} {
		_, _, _, err := b.parse("k", raw)
		require.ErrorIs(t, err, errUnknownEnvelope, name)
		_, _, _, err = sealed.parse("k", raw)
		require.Error(t, err, name)
	}
}

func TestTooManyClearVersionsAreAnError(t *testing.T) {
	b := mustBytes[string](t, Raw, 0, 0, nil, 0)
	_, err := b.encode("k", &header{gens: gens{n: maxGens + 1}}, "")
	require.ErrorContains(t, err, "allowed are 4")
}

func TestImpossibleLimitsAreRefused(t *testing.T) {
	for _, n := range []int{-1, maxPayload + 1} {
		_, err := newBytes[string](Raw, 0, 0, nil, n)
		require.ErrorContains(t, err, "max value size")
	}
	_, err := newBytes[string](Raw, -1, 0, nil, 0)
	require.ErrorContains(t, err, "-1 bytes")
	_, err = newBytes[string](Raw, 1, 9, nil, 0)
	require.ErrorContains(t, err, "compression 9")
}

func TestValuesAboveTheLimitAreRefused(t *testing.T) {
	ways(t, func(t *testing.T, above int, alg compression, keys *keyring) {
		b := mustBytes[string](t, Raw, above, alg, keys, 1000)
		_, v := through(t, b, fullHeader(), strings.Repeat("v", 1000))
		require.Len(t, v, 1000)
		_, err := b.encode("k", &header{}, strings.Repeat("v", 1001)) // also if it would fit when compressed
		require.ErrorIs(t, err, ErrTooLarge)
		var large *TooLargeError
		require.ErrorAs(t, err, &large)
		require.Equal(t, TooLargeError{Size: 1001, Limit: 1000}, *large)
	})
}

func TestCompressionIsUsedWhereItHelps(t *testing.T) {
	noise := make([]byte, 4000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for _, alg := range []compression{compressS2, compressZstd} {
		b := mustBytes[string](t, Raw, 100, alg, nil, 0)
		for v, want := range map[string]compression{
			strings.Repeat("v", 99): compressNone, strings.Repeat("v", 100): alg, string(noise): compressNone,
		} {
			h, got := through(t, b, header{}, v)
			require.Equal(t, v, got)
			require.Equal(t, want, h.compressed)
			s, err := b.encode("k", &header{}, v)
			require.NoError(t, err)
			require.LessOrEqual(t, len(s), len(v)+20)
		}
	}
}

// Compression can be switched on, off, and to another without losing what is stored.
func TestEveryCompressionIsRead(t *testing.T) {
	var all []*bytesOf[string]
	for _, above := range []int{0, 1} {
		for _, alg := range []compression{compressS2, compressZstd} {
			all = append(all, mustBytes[string](t, Raw, above, alg, nil, 0))
		}
	}
	v := strings.Repeat("value ", 100)
	for _, w := range all {
		s, err := w.encode("k", &header{}, v)
		require.NoError(t, err)
		for _, r := range all {
			_, h, body, err := r.parse("k", testStamp+s)
			require.NoError(t, err)
			got, err := r.decode(&h, body)
			require.NoError(t, err)
			require.Equal(t, v, got)
		}
	}
}

func TestDecompressionBombsAreRefused(t *testing.T) {
	const limit = 1 << 20
	b := mustBytes[string](t, Raw, 1, compressS2, nil, limit)
	zero := make([]byte, 32*limit)
	enc, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	streamed, err := zstd.NewWriter(nil, zstd.WithSingleSegment(false))
	require.NoError(t, err)
	var frames []byte // each is within the limit
	for range 64 {
		frames = streamed.EncodeAll(zero[:limit/2], frames)
	}
	for name, bomb := range map[string]struct {
		alg  compression
		data []byte
	}{
		"s2":          {compressS2, s2.Encode(nil, zero)},
		"s2 by one":   {compressS2, s2.Encode(nil, zero[:limit+1])},
		"zstd by one": {compressZstd, enc.EncodeAll(zero[:limit+1], nil)},
		"s2 claims":   {compressS2, binary.AppendUvarint(nil, 1<<31)},
		"zstd":        {compressZstd, enc.EncodeAll(zero, nil)},
		"zstd frames": {compressZstd, frames},
	} {
		require.Less(t, len(bomb.data), limit/4, name)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 10 {
			_, err := b.decode(&header{compressed: bomb.alg}, string(bomb.data))
			require.Error(t, err, name)
		}
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(40*limit), name)
	}
	// And what is exactly within it is not.
	for alg, data := range map[compression][]byte{compressS2: s2.Encode(nil, zero[:limit]), compressZstd: enc.EncodeAll(zero[:limit], nil)} {
		v, err := b.decode(&header{compressed: alg}, string(data))
		require.NoError(t, err)
		require.Len(t, v, limit)
	}
	_, err = mustBytes[string](t, Raw, 1, compressZstd, nil, 100).decode(&header{compressed: compressZstd}, string(enc.EncodeAll(zero[:101], nil)))
	require.ErrorIs(t, err, errDecompressedSize) // below the smallest window of the library
}

func TestUnderEncryptionNothingButStampAndStateCanBeChanged(t *testing.T) {
	for _, above := range []int{0, 1} {
		b := mustBytes[string](t, Raw, above, compressS2, testRing(t, "k1", "k2"), 0)
		for _, h := range []header{{}, fullHeader(), {negative: true}} {
			s, err := b.encode("key", &h, strings.Repeat("secret ", 20))
			require.NoError(t, err)
			require.NotContains(t, s, "secret")
			whole := testStamp + s
			for i := stampSize; i < len(whole); i++ {
				if i == offsetState {
					continue
				}
				for bit := range 8 {
					bad := []byte(whole)
					bad[i] ^= 1 << bit
					_, _, _, err := b.parse("key", string(bad))
					require.Error(t, err, "byte %d, bit %d", i, bit)
				}
			}
			for n := range whole {
				_, _, _, err := b.parse("key", whole[:n])
				require.Error(t, err)
			}
			for _, key := range []string{"", "ke", "key2", "kez"} { // moved
				_, _, _, err := b.parse(key, whole)
				require.ErrorIs(t, err, errNotAuthentic)
			}
			_, _, _, err = b.parse("key", "1700000000000002"+whole[stampSize:])
			require.NoError(t, err)
		}
	}
}

// What is between the key and the header must be clear, or an entry could be moved to a key that takes part of the header in.
func TestAuthenticatedDataIsUnambiguous(t *testing.T) {
	require.NotEqual(t, appendAAD(nil, "a", "A"), appendAAD(nil, "aA", ""))
	require.NotEqual(t, appendAAD(nil, "aA", "x"), appendAAD(nil, "a", "Ax"))
}

func TestKeysCanBeRotated(t *testing.T) {
	one, both, next := testRing(t, "k1"), testRing(t, "k2", "k1"), testRing(t, "k2")
	write := func(r *keyring) string {
		s, err := mustBytes[string](t, Raw, 0, 0, r, 0).encode("k", &header{}, "v")
		require.NoError(t, err)
		return testStamp + s
	}
	read := func(r *keyring, raw string) error {
		b := mustBytes[string](t, Raw, 0, 0, r, 0)
		_, h, body, err := b.parse("k", raw)
		if err != nil {
			return err
		}
		v, err := b.decode(&h, body)
		require.NoError(t, err)
		require.Equal(t, "v", v)
		return nil
	}
	require.NoError(t, read(one, write(one)))
	require.NoError(t, read(both, write(one)))
	require.NoError(t, read(both, write(both)))
	require.NoError(t, read(next, write(both))) // the first key writes
	require.ErrorIs(t, read(one, write(both)), errUnknownEnvelope)
	require.ErrorIs(t, read(next, write(one)), errUnknownEnvelope)
	require.ErrorIs(t, read(nil, write(one)), errUnknownEnvelope)
	require.ErrorIs(t, read(one, write(nil)), errUnknownEnvelope) // or encryption could be had without the key

	other, err := newKeyring([]EncryptionKey{NewEncryptionKey("k1", []byte("another secret of thirty-two by."))})
	require.NoError(t, err)
	require.ErrorIs(t, read(other, write(one)), errNotAuthentic)
}

func TestSealsAreNeverTheSame(t *testing.T) {
	b := mustBytes[string](t, Raw, 0, 0, testRing(t, "k1"), 0)
	seen := map[string]bool{}
	numbers := map[byte]bool{}
	for range 2000 {
		s, err := b.encode("k", &header{}, "v")
		require.NoError(t, err)
		sealed := s[len("A0\x10\x03raw\x02k1\x00\x00\x00\x00"):]
		require.Len(t, sealed, sealExtra+1)
		require.False(t, seen[sealed])
		seen[sealed] = true
		numbers[sealed[0]] = true
	}
	require.Greater(t, len(numbers), 200, "the 256 keys are all in use")
}

func TestFaultyKeysAreRefusedWithoutShowingThem(t *testing.T) {
	secret := "tHiS-iS-vErY-sEcReT-aNd-32-bytes"
	good := NewEncryptionKey("good", []byte(secret))
	for want, keys := range map[string][]EncryptionKey{
		"at least one key":              {},
		"its secret has 31 bytes":       {NewEncryptionKey("a", []byte(secret[1:]))},
		"its secret has 0 bytes":        {NewEncryptionKey("a", nil)},
		`key 2 ("good"): its id is use`: {good, NewEncryptionKey("good", []byte(secret))},
		"its id has 0 bytes":            {NewEncryptionKey("", []byte(secret))},
		"its id has 65 bytes":           {NewEncryptionKey(strings.Repeat("i", 65), []byte(secret))},
		"one byte repeated":             {NewEncryptionKey("a", make([]byte, 32))},
		"key 1 (\"\")":                  {{}},
	} {
		_, err := newKeyring(keys)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), secret[1:])
	}
	_, err := newKeyring([]EncryptionKey{NewEncryptionKey("a", nil), NewEncryptionKey("b", nil)})
	require.ErrorContains(t, err, "key 1") // every fault
	require.ErrorContains(t, err, "key 2")
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	secret := "tHiS-iS-vErY-sEcReT-aNd-32-bytes"
	given := []byte(secret)
	key := NewEncryptionKey("2026-11", given)
	clear(given) // the key has a copy
	r, err := newKeyring([]EncryptionKey{key})
	require.NoError(t, err)
	b := mustBytes[string](t, Raw, 0, 0, r, 0)
	_, err = b.encode("k", &header{}, "v") // makes a subkey
	require.NoError(t, err)
	type config struct {
		key  EncryptionKey
		keys []EncryptionKey
		ring *keyring
	}
	var logs strings.Builder
	things := []any{key, &key, r, *b, b, config{key, []EncryptionKey{key}, r}, &config{key, []EncryptionKey{key}, r}, []EncryptionKey{key}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q"} {
		for _, thing := range things {
			fmt.Fprintf(&logs, verb, thing)
		}
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&logs, nil), slog.NewJSONHandler(&logs, nil)} {
		for _, thing := range things {
			slog.New(h).Info("x", "thing", thing)
		}
	}
	for _, form := range []string{secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), fmt.Sprintf("%d", []byte(secret))[1:90], fmt.Sprintf("%#v", []byte(secret))[8:80]} {
		require.NotContains(t, logs.String(), form)
	}
	require.Equal(t, "cache.EncryptionKey(2026-11)", fmt.Sprintf("%#v", key))
	require.Equal(t, "2026-11", key.ID())
}

func TestAllocationsOfReading(t *testing.T) {
	b := mustBytes[string](t, Raw, 0, 0, nil, 0)
	h := fullHeader()
	h.tags, h.etag = nil, ""
	s, err := b.encode("k", &h, "hello")
	require.NoError(t, err)
	raw := testStamp + s
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if _, _, _, err := b.parse("k", raw); err != nil {
			panic(err)
		}
	}), "parse")
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		_, h, body, _ := b.parse("k", raw)
		if v, err := b.decode(&h, body); v != "hello" || err != nil {
			panic(err)
		}
	}), 1.0, "decode: the string that the codec is given the address of")
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return // under the race detector a sync.Pool forgets on purpose
	}
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		if _, err := b.encode("k", &h, "hello"); err != nil {
			panic(err)
		}
	}), 2.0, "encode: the value in an interface, the text")
}

// FuzzParse: no bytes make it panic or allocate much, and what it accepts without a key comes back from encode.
func FuzzParse(f *testing.F) {
	plain := mustBytes[string](f, Raw, 0, 0, nil, 1<<20)
	sealed := mustBytes[string](f, Raw, 0, 0, testRing(f, "k1"), 1<<20)
	for _, h := range []header{{}, fullHeader(), {negative: true}, {expired: true, etag: "x"}} {
		for _, b := range []*bytesOf[string]{plain, sealed} {
			s, err := b.encode("k", &h, "hello")
			require.NoError(f, err)
			f.Add(testStamp + s)
		}
	}
	f.Add(testStamp + "A0\x04\x03raw\x00\x00\x00\x00" + string(s2.Encode(nil, make([]byte, 1000))))
	f.Add(testStamp + "A0\x08\x03raw\x00\x00\x00\x00\x28\xb5\x2f\xfd")
	f.Fuzz(func(t *testing.T, raw string) {
		if _, _, _, err := sealed.parse("k", raw); err == nil && !strings.Contains(raw, "k1") {
			t.Fatal("opened without a key")
		}
		stamp, h, body, err := plain.parse("k", raw)
		if err != nil {
			if !errors.Is(err, errUnknownEnvelope) {
				t.Fatal(err)
			}
			return
		}
		v, err := plain.decode(&h, body)
		if err != nil {
			return
		}
		s, err := plain.encode("k", &h, v)
		if err != nil {
			t.Fatal(err)
		}
		stamp2, h2, body2, err := plain.parse("k", fmt.Sprintf("%016d", stamp)+s)
		h.compressed = compressNone
		if err != nil || stamp2 != stamp || fmt.Sprint(h2) != fmt.Sprint(h) && !h.isNil {
			t.Fatalf("%v: %v became %v", err, h, h2)
		}
		if v2, err := plain.decode(&h2, body2); err != nil || v2 != v {
			t.Fatalf("%v: %q became %q", err, v, v2)
		}
	})
}

// FuzzCodecs: no payload makes a decode panic or hang.
func FuzzCodecs(f *testing.F) {
	var all []*bytesOf[*sampleUser]
	for _, c := range []Codec{JSON, Msgpack, Gob} {
		b := mustBytes[*sampleUser](f, c, 0, 0, nil, 1<<20)
		all = append(all, b)
		p, err := b.payload(nil, newSampleUser())
		require.NoError(f, err)
		f.Add(byte(0), p)
		f.Add(byte(1), s2.Encode(nil, p))
	}
	loose := mustBytes[any](f, Msgpack, 0, 0, nil, 1<<20)
	f.Fuzz(func(_ *testing.T, alg byte, data []byte) {
		h := header{compressed: compression(alg % 3)}
		for _, b := range all {
			_, _ = b.decode(&h, string(data))
		}
		_, _ = loose.decode(&h, string(data))
	})
}
