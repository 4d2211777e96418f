package redisxtest

import (
	"crypto/rand"
	"strings"
	"testing"
)

// Prefix returns a key prefix that no other test uses, such as "t:k3v9x0q2mzpa:". With it tests share a server without
// FLUSHALL.
func Prefix(t testing.TB) string {
	t.Helper()
	return "t:" + strings.ToLower(rand.Text()[:12]) + ":"
}
