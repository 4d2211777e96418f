package cache

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
)

// EncryptionKey is a secret with a name. It shows its id and never its secret, however it is printed.
type EncryptionKey struct {
	id     string
	secret func() []byte // a func, since fmt looks into unexported fields without asking their Format, also behind pointers
}

// NewEncryptionKey names a secret of 32 random bytes. The id, 1 to 64 bytes, is stored in clear with each value, so that
// the key can be told that opens it: never give one id to two secrets. The secret is copied, and checked when the cache is
// made. One secret is good for 2^40 writes of all caches and processes that use it: replace it before.
func NewEncryptionKey(id string, secret []byte) EncryptionKey {
	s := slices.Clone(secret)
	return EncryptionKey{id: id, secret: func() []byte { return s }}
}

// ID returns the id of the key.
func (k EncryptionKey) ID() string { return k.id }

// Format implements fmt.Formatter: for every verb it prints the id only.
func (k EncryptionKey) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "cache.EncryptionKey("+k.id+")")
}

// LogValue implements slog.LogValuer.
func (k EncryptionKey) LogValue() slog.Value {
	return slog.StringValue("cache.EncryptionKey(" + k.id + ")")
}

const (
	maxKeyID   = 64
	secretSize = 32
	subkeys    = 256
	sealExtra  = 1 + 12 + 16 // number of the subkey, nonce, tag
)

var errNotAuthentic = errors.New("redisx: cache: the stored value is not authentic")

// keyring seals with its first key and opens with any of them: AES-256-GCM with random nonces. Safe for concurrent use.
type keyring struct {
	active *sealer
	all    []*sealer
}

// newKeyring checks the keys and reports every fault. The first key is the active one.
func newKeyring(keys []EncryptionKey) (*keyring, error) {
	if len(keys) == 0 {
		return nil, errors.New("redisx: cache: encryption needs at least one key")
	}
	r := &keyring{}
	var faults []error
	for i, k := range keys {
		fault := func(format string, args ...any) {
			faults = append(faults, fmt.Errorf("redisx: cache: encryption key %d (%q): "+format, append([]any{i + 1, k.id}, args...)...))
		}
		if n := len(k.id); n < 1 || n > maxKeyID {
			fault("its id has %d bytes, allowed are 1 to %d", n, maxKeyID)
		}
		if r.find(k.id) != nil {
			fault("its id is used twice")
		}
		var secret []byte
		if k.secret != nil {
			secret = k.secret()
		}
		if len(secret) != secretSize {
			fault("its secret has %d bytes, it must have %d", len(secret), secretSize)
		} else if !slices.ContainsFunc(secret, func(b byte) bool { return b != secret[0] }) {
			fault("its secret is one byte repeated, it must be random")
		}
		r.all = append(r.all, &sealer{id: k.id, secret: k.secret})
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	r.active = r.all[0]
	return r, nil
}

// Format implements fmt.Formatter: it prints no secret.
func (r *keyring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "cache.keyring") }

func (r *keyring) find(id string) *sealer {
	for _, s := range r.all { // two or three
		if s.id == id {
			return s
		}
	}
	return nil
}

// seal appends the sealed form of plain to dst.
func (r *keyring) seal(dst, plain, aad []byte) ([]byte, error) {
	n := byte(rand.UintN(subkeys)) // only spreads: needs no secrecy
	a, err := r.active.subkey(n)
	if err != nil {
		return nil, err
	}
	return a.Seal(append(dst, n), nil, plain, aad), nil
}

// open returns the plaintext in a slice of its own.
func (r *keyring) open(id string, sealed, aad []byte) ([]byte, error) {
	s := r.find(id)
	if s == nil {
		return nil, errOtherKey
	}
	if len(sealed) < sealExtra {
		return nil, errCut
	}
	a, err := s.subkey(sealed[0])
	if err != nil {
		return nil, err
	}
	plain, err := a.Open(nil, nil, sealed[1:], aad)
	if err != nil {
		return nil, errNotAuthentic
	}
	return plain, nil
}

// sealer is one key. AES-GCM with random nonces is good for 2^32 messages per key (NIST SP 800-38D, 8.3), which a busy fleet
// writes within days; so each message is sealed with one of 256 keys derived from the secret (HKDF, RFC 5869), taken at
// random, which makes 2^40.
type sealer struct {
	id     string
	secret func() []byte
	subs   [subkeys]atomic.Pointer[cipher.AEAD] // made on first use
}

func (s *sealer) subkey(n byte) (cipher.AEAD, error) {
	if a := s.subs[n].Load(); a != nil {
		return *a, nil
	}
	key, err := hkdf.Key(sha256.New, s.secret(), nil, "redisx cache value "+strconv.Itoa(int(n)), secretSize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	a, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	s.subs[n].Store(&a)
	return a, nil
}
