package cache

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEnvelopeSmoke(t *testing.T) {
	ring, err := newKeyring([]EncryptionKey{NewEncryptionKey("k", make([]byte, 32))})
	require.NoError(t, err)
	for _, keys := range []*keyring{nil, ring} {
		for _, alg := range []compression{compressS2, compressZstd} {
			b, err := newBytes[map[string]string](JSON, 10, alg, keys, 0)
			require.NoError(t, err)
			v := map[string]string{"a": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}
			h := header{soft: time.Minute, tags: []tagVersion{{"t", 7}}, etag: "e", gens: gens{n: 1, v: [maxGens]uint64{1 << 50}}}
			s, err := b.encode("k", &h, v)
			require.NoError(t, err)
			_, g, body, err := b.parse("k", "1234567890123456"+s)
			require.NoError(t, err)
			got, err := b.decode(&g, body)
			require.NoError(t, err)
			require.Equal(t, v, got)
		}
	}
}
