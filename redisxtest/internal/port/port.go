// Package port chooses ports of 127.0.0.1 for servers.
package port

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
)

// Ports are taken below the range that the kernel hands to outgoing connections. Above it, a dial to a server that is down
// can connect to itself, and a server cannot come back to a port that a client got meanwhile.
const (
	lowest  = 20_000
	highest = 29_999
)

// Random returns a port that may be free. With room for a Cluster bus, port+10000 is below the range as well.
func Random(bus bool) int {
	low, high := lowest, highest
	if first := Ephemeral(); first <= high {
		low, high = 10_000, first-1
	}
	if bus {
		low, high = 10_000, min(high, Ephemeral()-10_001)
	}
	if high <= low {
		low, high = lowest, highest
	}
	return low + rand.IntN(high-low+1)
}

// Ephemeral is the first port of the kernel's range.
func Ephemeral() int {
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

// Listen listens on a free port of 127.0.0.1.
func Listen() (net.Listener, error) {
	var errs []error
	for range 50 {
		l, err := net.Listen("tcp", Addr(Random(false)))
		if err == nil {
			return l, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("no free port: %w", errs[len(errs)-1])
}

// Addr is the address of a port.
func Addr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Free returns a port that nothing listened on a moment ago.
func Free() (int, error) {
	l, err := Listen()
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
