package redisxtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// Ports are taken below the range that the kernel hands to outgoing connections. Above it, a dial to a server that is down
// can connect to itself, and a server cannot come back to a port that a client got meanwhile.
const (
	lowestPort  = 20_000
	highestPort = 29_999
)

// randomPort returns a port that may be free. With room for a Cluster bus, port+10000 is below the range as well.
func randomPort(bus bool) int {
	low, high := lowestPort, highestPort
	if first := ephemeralPort(); first <= high {
		low, high = 10_000, first-1
	}
	if bus {
		low, high = 10_000, min(high, ephemeralPort()-10_001)
	}
	if high <= low {
		low, high = lowestPort, highestPort
	}
	return low + rand.IntN(high-low+1)
}

// ephemeralPort is the first port of the kernel's range.
func ephemeralPort() int {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		if first, _, ok := strings.Cut(strings.TrimSpace(string(b)), "\t"); ok {
			if n, err := strconv.Atoi(first); err == nil && n > 1024 {
				return n
			}
		}
	}
	return 32_768
}

// listenLoopback listens on a free port of 127.0.0.1.
func listenLoopback() (net.Listener, error) {
	var errs []error
	for range 50 {
		l, err := net.Listen("tcp", loopback(randomPort(false)))
		if err == nil {
			return l, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("no free port: %w", errs[len(errs)-1])
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// userinfo is the "user:password@" of a URL, or nothing without a password.
func userinfo(user, password string) string {
	if password == "" {
		return ""
	}
	return url.UserPassword(user, password).String() + "@"
}
