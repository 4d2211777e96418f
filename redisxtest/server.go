package redisxtest

import (
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// Server is a real server for tests: a process of its own, or the one that REDISX_TEST_URL names. It listens on loopback
// only, on a port outside the ephemeral range. It is safe for concurrent use.
//
// The process ends with the test, and also if the test program panics or is killed: a watchdog holds the other end of a
// pipe that closes whichever way the program ends.
//
// Methods that control the process fail the test if there is none, or if it is shared.
type Server struct {
	t        testing.TB
	instance *instance
	given    string // REDISX_TEST_URL
	shared   bool
}

// StartServer starts a server with an empty data set and no persistence, and stops it when the test ends. If the test
// fails, the end of the server's log is attached. It takes about 10 ms.
//
// Without a program to start the test is skipped, or fails if REDISX_TEST_REQUIRE says "server". With REDISX_TEST_URL set
// that server is used instead; then options, which need a process of their own, skip the test. A test that pauses, kills or
// restarts its server says so with [OwnProcess].
func StartServer(t testing.TB, opts ...Option) *Server {
	t.Helper()
	cfg := defaults()
	for _, o := range opts {
		o.apply(&cfg)
	}
	if err := cfg.serverFaults(); err != nil {
		t.Fatalf("redisxtest: %v", err)
	}
	if given := os.Getenv(EnvURL); given != "" {
		if len(opts) > 0 {
			skip(t, "server", "%s names a given server, and this test needs a process of its own", EnvURL)
		}
		return useGiven(t, given)
	}
	exe, err := cfg.choose()
	if err != nil {
		missing(t, "server", err)
	}
	cfg.needClock(t, exe)
	return startOwn(t, exe, cfg)
}

// startOwn starts a server that ends with the test.
func startOwn(t testing.TB, exe Executable, cfg config) *Server {
	t.Helper()
	in, err := newInstance(exe, cfg)
	if err != nil {
		t.Fatalf("redisxtest: %v", err)
	}
	s := &Server{t: t, instance: in}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s on %s:\n%s", exe, s.Addr(), in.log())
		}
		in.remove()
	})
	if err := in.startAnywhere(); err != nil {
		t.Fatalf("redisxtest: %v", err)
	}
	return s
}

func useGiven(t testing.TB, given string) *Server {
	t.Helper()
	e, err := core.ParseURL(given)
	if err != nil {
		t.Fatalf("redisxtest: %s: %v", EnvURL, err)
	}
	s := &Server{t: t, given: given}
	if err := s.target().do("PING").Err(); err != nil {
		t.Fatalf("redisxtest: %s: %s does not answer: %v", EnvURL, e, err)
	}
	return s
}

// sharedServers are the processes of SharedServer by program.
var sharedServers struct {
	sync.Mutex
	by map[string]*instance
}

// SharedServer returns the one server that tests of this program share, started by the first that asks. It keeps running
// until the program ends; tests keep apart by [Prefix] and must not flush, pause or kill it. It may be given a program
// with [Binary] or [Version], but no other option.
func SharedServer(t testing.TB, opts ...Option) *Server {
	t.Helper()
	cfg := defaults()
	for _, o := range opts {
		o.apply(&cfg)
	}
	if given := os.Getenv(EnvURL); given != "" && len(opts) == 0 {
		return useGiven(t, given)
	}
	if !cfg.plain() {
		t.Fatal("redisxtest: a shared server takes only Binary and Version; use StartServer")
	}
	exe, err := cfg.choose()
	if err != nil {
		missing(t, "server", err)
	}
	in, err := sharedInstance(exe)
	if err != nil {
		t.Fatalf("redisxtest: %v", err)
	}
	s := &Server{t: t, instance: in, shared: true}
	from := in.logSize()
	t.Cleanup(func() {
		if t.Failed() { // what other tests have caused before is no help
			t.Logf("log of %s on %s during this test:\n%s", exe, s.Addr(), in.logFrom(from))
		}
	})
	return s
}

func sharedInstance(exe Executable) (*instance, error) {
	sharedServers.Lock()
	defer sharedServers.Unlock()
	if in := sharedServers.by[exe.Path]; in != nil {
		if in.running() {
			return in, nil
		}
		in.remove()
	}
	in, err := newInstance(exe, defaults())
	if err != nil {
		return nil, err
	}
	if err := in.startAnywhere(); err != nil {
		in.remove()
		return nil, err
	}
	if sharedServers.by == nil {
		sharedServers.by = map[string]*instance{}
	}
	sharedServers.by[exe.Path] = in
	return in, nil
}

// Executable tells which program runs; it is zero for a given server.
func (s *Server) Executable() Executable {
	if s.instance == nil {
		return Executable{}
	}
	return s.instance.exe
}

// Addr returns host:port, or the path of the socket of a given server that has one.
func (s *Server) Addr() string {
	if s.instance != nil {
		return loopback(s.instance.port)
	}
	return s.target().addr
}

// URL returns the connection URL as the options asked for, with the default user's password if there is one. Parameters
// are added as they are, such as "protocol=2".
func (s *Server) URL(params ...string) string {
	if s.instance == nil {
		return withParams(s.given, params)
	}
	return s.instance.url("", s.instance.cfg.password, params)
}

// UserURL is [Server.URL] for a user that the option [User] made.
func (s *Server) UserURL(name string, params ...string) string {
	if s.instance != nil {
		for _, u := range s.instance.cfg.users {
			if u.name == name {
				return s.instance.url(name, u.password, params)
			}
		}
	}
	s.fault("there is no user %q", name)
	return ""
}

// ClientCertURL is [Server.URL] with a client certificate, for servers with the option [TLS].
func (s *Server) ClientCertURL(params ...string) string {
	if s.instance == nil || !s.instance.cfg.tls {
		s.fault("ClientCertURL needs the option TLS")
		return ""
	}
	return s.URL(append(params, "cert="+s.instance.file("client.pem"), "key="+s.instance.file("client-key.pem"))...)
}

// Do sends one command as administrator, past any driver under test, on a connection of its own. A failure to reach the
// server and an error reply are in the reply's Err.
func (s *Server) Do(args ...string) driver.Reply { return s.target().do(args...) }

// probe is Do for what is asked again and again: it gives up sooner.
func (s *Server) probe(args ...string) driver.Reply {
	g := s.target()
	g.timeout = probeTimeout
	return g.do(args...)
}

// FlushScripts makes the server forget every script.
func (s *Server) FlushScripts() {
	s.t.Helper()
	if err := s.Do("SCRIPT", "FLUSH").Err(); err != nil {
		s.fault("SCRIPT FLUSH: %v", err)
	}
}

// own reports whether there is a process to control, and fails the test if not.
func (s *Server) own(method string) bool {
	s.t.Helper()
	switch {
	case s.instance == nil:
		s.fault("%s needs a process, but %s names a given server; StartServer with the option OwnProcess skips the test then", method, EnvURL)
	case s.shared:
		s.fault("%s would disturb the other tests of a shared server; use StartServer", method)
	default:
		return true
	}
	return false
}

// fault fails the test and lets it go on: methods may be called from any goroutine, where FailNow is not allowed.
func (s *Server) fault(format string, args ...any) {
	s.t.Helper()
	s.t.Errorf("redisxtest: "+format, args...)
}

func (s *Server) target() target {
	if s.instance != nil {
		return s.instance.target()
	}
	e, err := core.ParseURL(s.given)
	if err != nil {
		return target{network: "tcp", addr: s.given}
	}
	g := target{network: e.Network, addr: e.Addrs[0], user: e.Username, password: e.Password, db: e.DB, tls: e.TLS}
	if g.tls != nil && g.tls.ServerName == "" {
		if host, _, err := net.SplitHostPort(g.addr); err == nil {
			g.tls.ServerName = host
		}
	}
	return g
}

func withParams(url string, params []string) string {
	for _, p := range params {
		sep := "?"
		if strings.Contains(url, "?") {
			sep = "&"
		}
		url += sep + p
	}
	return url
}
