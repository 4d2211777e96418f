package cache

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// compression is the way large payloads are made smaller. The number is part of the stored format.
type compression uint8

const (
	compressNone compression = iota
	compressS2               // fast; the default
	compressZstd             // smaller, several times slower
)

var errDecompressedSize = errors.New("the compressed value claims to be larger than allowed")

// squeezer compresses and decompresses. Safe for concurrent use; reads every compression, whatever it writes.
type squeezer struct {
	above int         // compress payloads of at least this many bytes; 0: none
	alg   compression // used for writing
	limit int         // of what decompressing may yield

	enc func() (*zstd.Encoder, error)
	dec func() (*zstd.Decoder, error)
}

func newSqueezer(above int, alg compression, limit int) *squeezer {
	return &squeezer{
		above: above, alg: alg, limit: limit,
		// Made on first use: they are some hundred KiB, and most caches need none. They start no goroutine unless they are
		// used as a stream.
		enc: sync.OnceValues(func() (*zstd.Encoder, error) {
			return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
		}),
		dec: sync.OnceValues(func() (*zstd.Decoder, error) {
			// No frame has a window below MinWindowSize: a lower limit would refuse them all.
			return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(uint64(max(limit, zstd.MinWindowSize))))
		}),
	}
}

// compress returns the payload compressed, in buf if that is large enough. If that would not make it smaller, it returns compressNone.
func (s *squeezer) compress(buf, payload []byte) ([]byte, compression) {
	if s.above <= 0 || len(payload) < s.above {
		return buf, compressNone
	}
	switch s.alg {
	case compressS2:
		buf = s2.Encode(buf[:cap(buf)], payload)
	case compressZstd:
		e, err := s.enc()
		if err != nil {
			return buf, compressNone
		}
		buf = e.EncodeAll(payload, buf[:0])
	default:
		return buf, compressNone
	}
	if len(buf) >= len(payload) {
		return buf, compressNone
	}
	return buf, s.alg
}

// decompress returns the payload in a slice of its own.
func (s *squeezer) decompress(alg compression, data []byte) ([]byte, error) {
	switch alg {
	case compressS2:
		n, err := s2.DecodedLen(data)
		if err != nil {
			return nil, err
		}
		if n > s.limit {
			return nil, errDecompressedSize
		}
		return s2.Decode(nil, data)
	case compressZstd:
		d, err := s.dec()
		if err != nil {
			return nil, err
		}
		out, err := d.DecodeAll(data, nil)
		if err == nil && len(out) > s.limit {
			return nil, errDecompressedSize
		}
		return out, err
	}
	return nil, fmt.Errorf("unknown compression %d", alg)
}
