package cache

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func BenchmarkParse(b *testing.B) {
	for name, h := range map[string]header{
		"untagged": {soft: 10 * time.Minute, refresh: 9 * time.Minute, load: time.Millisecond, gens: gens{n: 1, v: [maxGens]uint64{17e14}}},
		"2 tags":   fullHeader(),
	} {
		for _, keys := range []*keyring{nil, testRing(b, "k1")} {
			x := mustBytes[string](b, Raw, 0, 0, keys, 0)
			s, err := x.encode("cache:users:{1}", &h, strings.Repeat("v", 250))
			if err != nil {
				b.Fatal(err)
			}
			raw := testStamp + s
			b.Run(fmt.Sprintf("%s/sealed=%t", name, keys != nil), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, _, _, err := x.parse("cache:users:{1}", raw); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkCodecs: a whole entry of about 250 bytes each way, beside the plain library for JSON.
func BenchmarkCodecs(b *testing.B) {
	u := newSampleUser()
	h := header{soft: time.Minute, gens: gens{n: 1, v: [maxGens]uint64{17e14}}}
	for _, c := range []Codec{JSON, Msgpack, Gob} {
		x := mustBytes[*sampleUser](b, c, 0, 0, nil, 0)
		s, err := x.encode("k", &h, u)
		if err != nil {
			b.Fatal(err)
		}
		raw := testStamp + s
		b.Run(c.Name()+"/encode", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := x.encode("k", &h, u); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(s)), "bytes")
		})
		b.Run(c.Name()+"/decode", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, h, body, _ := x.parse("k", raw)
				if _, err := x.decode(&h, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	bare, _ := json.Marshal(u)
	b.Run("bare json/encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = json.Marshal(u)
		}
	})
	b.Run("bare json/decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var u *sampleUser
			if err := json.Unmarshal(bare, &u); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCompression: what one gets for the time, on JSON of several sizes.
func BenchmarkCompression(b *testing.B) {
	for _, n := range []int{5, 50, 500} {
		var list []*sampleUser
		for i := range n {
			u := newSampleUser()
			u.ID, u.Name, u.Mail = int64(i*7919), fmt.Sprintf("Name %x", i*1299709), fmt.Sprintf("u%x@example.com", i*15485863)
			list = append(list, u)
		}
		plain, _ := json.Marshal(list)
		for alg, name := range map[compression]string{compressS2: "s2", compressZstd: "zstd"} {
			s := newSqueezer(1, alg, maxPayload)
			packed, _ := s.compress(nil, plain)
			b.Run(fmt.Sprintf("%d/%s/compress", len(plain), name), func(b *testing.B) {
				b.SetBytes(int64(len(plain)))
				b.ReportAllocs()
				var buf []byte
				for b.Loop() {
					buf, _ = s.compress(buf, plain)
				}
				b.ReportMetric(float64(len(packed))/float64(len(plain)), "ratio")
			})
			b.Run(fmt.Sprintf("%d/%s/decompress", len(plain), name), func(b *testing.B) {
				b.SetBytes(int64(len(plain)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := s.decompress(alg, packed); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
