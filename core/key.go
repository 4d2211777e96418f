package core

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Keyspace builds the keys of one instance of a plugin:
//
//	<client prefix><plugin>:<name>:{<id>}            one thing
//	<client prefix><plugin>:<name>:{<id>}:<part>     something that belongs to it, in the same slot
//
// The braces are the hash tag of Redis Cluster, so that everything one script touches lies in one slot. Whatever the user
// calls his things, two of them never share a key and one of them never lies in two slots: %, { and } in an id are written
// %25, %7B and %7D, an empty id is written %, an id of more than 512 bytes as %h and its SHA-256, and scopes (tenants) are
// length-prefixed between %s and %i, so that scope "a" with id "bc" differs from scope "ab" with id "c" and from id "abc" without one.
//
// A Keyspace is an immutable value, safe for concurrent use. Building a key is one allocation.
type Keyspace struct {
	base   string // up to and including the opening brace
	scopes string
}

// MaxIDLength is how long an id may be, escaped and in bytes, before its SHA-256 takes its place in the key.
const MaxIDLength = 512

// NewKeyspace returns the keyspace of the plugin's instance called name, under the client's prefix. Plugin and name are 1 to
// 128 bytes of letters, digits and . _ - / :
func (c *Client) NewKeyspace(plugin, name string) (Keyspace, error) {
	if err := errors.Join(checkName("plugin", plugin), checkName("name", name)); err != nil {
		return Keyspace{}, err
	}
	return Keyspace{base: c.prefix + plugin + ":" + name + ":{"}, nil
}

func checkName(what, s string) error {
	if s == "" || len(s) > 128 {
		return fmt.Errorf("redisx: %s %q has %d bytes; want 1 to 128", what, s, len(s))
	}
	return checkChars(what, s)
}

func checkChars(what, s string) error {
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("._-/:", c) >= 0:
		default:
			return fmt.Errorf("redisx: %s %q contains %q; want letters, digits and : . _ - /", what, s, c)
		}
	}
	return nil
}

// Scoped returns the keyspace of a tenant within this one. Scopes nest; any string will do.
func (k Keyspace) Scoped(scope string) Keyspace {
	k.scopes += strconv.Itoa(len(scope)) + ":" + scope
	return k
}

// Prefix returns what every key of this keyspace begins with, scopes aside: what to track or to scan for.
func (k Keyspace) Prefix() string { return k.base }

// Key returns the key of a thing.
func (k Keyspace) Key(id string) string { return k.base + k.tag(id) + "}" }

// Part returns the key of something that belongs to a thing and lies in the same slot. The part is the plugin's constant.
func (k Keyspace) Part(id, part string) string { return k.base + k.tag(id) + "}:" + part }

// tag is what stands between the braces.
func (k Keyspace) tag(id string) string {
	if k.scopes == "" {
		if id == "" {
			return "%"
		}
		return limit(escape(id))
	}
	// The lengths tell scopes apart, and %i, which escaping cannot produce, ends them.
	return limit("%s" + escape(k.scopes) + "%i" + escape(id))
}

func limit(s string) string {
	if len(s) <= MaxIDLength {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return "%h" + hex.EncodeToString(sum[:])
}

func escape(s string) string {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '{') < 0 && strings.IndexByte(s, '}') < 0 {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 8)
	for i := range len(s) {
		switch c := s[i]; c {
		case '%':
			b.WriteString("%25")
		case '{':
			b.WriteString("%7B")
		case '}':
			b.WriteString("%7D")
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
