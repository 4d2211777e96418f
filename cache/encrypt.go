package cache

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
)

// EncryptionKey is a secret with a name. It shows its id and never its secret, however it is printed.
type EncryptionKey struct {
	id     string
	secret *[]byte // behind a pointer: fmt prints fields of unexported structs without asking their methods
}

// NewEncryptionKey names a secret of 32 random bytes. The id, 1 to 64 bytes, is stored in clear with each value, so that
// the key can be told that opens it: never give one id to two secrets. The secret is copied.
func NewEncryptionKey(id string, secret []byte) EncryptionKey {
	s := slices.Clone(secret)
	return EncryptionKey{id: id, secret: &s}
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
	sealExtra  = 12 + 16 // nonce and tag
)

var errNotAuthentic = errors.New("cache: the stored value is not authentic")

// keyring seals with its first key and opens with any of them.
type keyring struct {
	active string
	aeads  map[string]cipher.AEAD
}

// newKeyring checks the keys and reports every fault.
func newKeyring(keys []EncryptionKey) (*keyring, error) {
	if len(keys) == 0 {
		return nil, errors.New("cache: encryption needs at least one key")
	}
	r := &keyring{active: keys[0].id, aeads: make(map[string]cipher.AEAD, len(keys))}
	var faults []error
	for i, k := range keys {
		fault := func(format string, args ...any) {
			faults = append(faults, fmt.Errorf("cache: encryption key %d (%q): "+format, append([]any{i + 1, k.id}, args...)...))
		}
		if n := len(k.id); n < 1 || n > maxKeyID {
			fault("its id has %d bytes, allowed are 1 to %d", n, maxKeyID)
		}
		if _, dup := r.aeads[k.id]; dup {
			fault("its id is used twice")
		}
		if k.secret == nil || len(*k.secret) != secretSize {
			n := 0
			if k.secret != nil {
				n = len(*k.secret)
			}
			fault("its secret has %d bytes, it must have %d", n, secretSize)
			continue
		}
		block, err := aes.NewCipher(*k.secret)
		if err != nil {
			fault("%w", err)
			continue
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			fault("%w", err)
			continue
		}
		r.aeads[k.id] = aead
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return r, nil
}

// Format implements fmt.Formatter.
func (r *keyring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "cache.keyring") }

// seal appends nonce, ciphertext and tag to dst.
func (r *keyring) seal(dst, plain, aad []byte) []byte {
	return r.aeads[r.active].Seal(dst, nil, plain, aad)
}

// open returns the plaintext in a slice of its own.
func (r *keyring) open(id string, sealed, aad []byte) ([]byte, error) {
	a, ok := r.aeads[id]
	if !ok {
		return nil, errUnknownEnvelope
	}
	if len(sealed) < sealExtra {
		return nil, errNotAuthentic
	}
	plain, err := a.Open(nil, nil, sealed, aad)
	if err != nil {
		return nil, errNotAuthentic
	}
	return plain, nil
}
