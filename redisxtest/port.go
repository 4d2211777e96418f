package redisxtest

import (
	"net"
	"net/url"

	"github.com/go-redisx/redisx/redisxtest/internal/port"
)

func loopback(n int) string { return port.Addr(n) }

func randomPort(bus bool) int { return port.Random(bus) }

// listenLoopback listens on a free port of 127.0.0.1.
func listenLoopback() (net.Listener, error) { return port.Listen() }

// userinfo is the "user:password@" of a URL, or nothing without a password.
func userinfo(user, password string) string {
	if password == "" {
		return ""
	}
	return url.UserPassword(user, password).String() + "@"
}
