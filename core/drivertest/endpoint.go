package drivertest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// withParams sets parameters of a connection URL: name, value, name, value, …
func withParams(raw string, params ...string) string {
	if len(params) == 0 {
		return raw
	}
	base, query, _ := strings.Cut(raw, "?")
	values, _ := url.ParseQuery(query)
	for i := 0; i+1 < len(params); i += 2 {
		values.Set(params[i], params[i+1])
	}
	return base + "?" + values.Encode()
}

// withUser puts a user and a password into a connection URL in place of those there are.
func withUser(raw, user, password string) string {
	scheme, rest, _ := strings.Cut(raw, "://")
	rest, query, _ := strings.Cut(rest, "?")
	authority, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	authority = authority[strings.LastIndexByte(authority, '@')+1:]
	return scheme + "://" + escape(user) + ":" + escape(password) + "@" + authority + path + "?" + query
}

// escape percent-encodes for the user part of a URL, where a plus is a plus.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// urlAt returns the URL of the same user, database and protocol as ep at other addresses. caFile is the authority of a
// TLS front there; it is empty for a plain one.
func urlAt(ep *core.Endpoint, addrs []string, caFile string, params ...string) string {
	v := url.Values{"protocol": {strconv.Itoa(ep.Protocol)}}
	if ep.DB != 0 {
		v.Set("db", strconv.Itoa(ep.DB))
	}
	scheme, path := "redis", ""
	switch {
	case ep.Topology == driver.Cluster:
		scheme = "redis-cluster"
	case ep.Topology == driver.Sentinel:
		scheme, path = "redis-sentinel", "/"+url.PathEscape(ep.MasterName)
	case ep.Network == "unix":
		scheme = "unix"
	case caFile != "":
		scheme = "rediss"
	}
	if caFile != "" {
		v.Set("ca", caFile)
		if scheme != "rediss" {
			v.Set("tls", "true")
		}
	}
	user := ""
	if ep.Password != "" {
		user = escape(ep.Username) + ":" + escape(ep.Password) + "@"
	}
	raw := fmt.Sprintf("%s://%s%s%s?%s", scheme, user, strings.Join(addrs, ","), path, v.Encode())
	return withParams(raw, params...)
}

// listen opens a loopback listener on a port below the ephemeral range, where a client's own connections cannot take it
// while the listener is closed.
func listen() (net.Listener, error) {
	var last error
	for range 50 {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(10000)))
		if err == nil {
			return ln, nil
		}
		last = err
	}
	return nil, last
}

// closedPort returns a loopback address nobody listens on.
func closedPort(t tester) string {
	t.Helper()
	ln, err := listen()
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
