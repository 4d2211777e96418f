package drivertest

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
)

// TB is what [NewScripted] needs of *testing.T.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Scripted is an in-process server whose replies the test writes itself, byte by byte. It answers what clients ask when
// they connect (HELLO, AUTH, CLIENT, SELECT, PING, COMMAND, INFO, CLUSTER) like a standalone server; everything else is up
// to the handler.
type Scripted struct {
	ln     net.Listener
	handle Handler
	wg     sync.WaitGroup

	mu    sync.Mutex
	peers map[*Peer]struct{}
	seen  map[string]int
	next  int
}

// Handler answers one command with the raw bytes of the reply, such as "+OK\r\n"; the name of the command is in upper
// case. With ok false the server answers by itself. It is called on the goroutine of the connection; it may block, and it
// may write to or hang up on the peer.
type Handler func(p *Peer, args []string) (raw string, ok bool)

// Peer is one connection to a [Scripted] server.
type Peer struct {
	// ID is what CLIENT ID answers.
	ID int
	// Protocol is 2, or 3 after HELLO 3. Only the handler may read it.
	Protocol int

	conn net.Conn
	mu   sync.Mutex
}

// Write sends raw bytes now, for instance a push. It may be called from any goroutine.
func (p *Peer) Write(raw string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = p.conn.Write([]byte(raw)) // a peer that left is no concern of the script
}

// Hangup closes the connection; what the handler returns after it is lost.
func (p *Peer) Hangup() { p.conn.Close() }

// NewScripted starts a server on a loopback port. It ends with the test.
func NewScripted(t TB, handle Handler) *Scripted {
	t.Helper()
	ln, err := listen()
	if err != nil {
		t.Fatalf("drivertest: scripted server: %v", err)
	}
	s := &Scripted{ln: ln, handle: handle, peers: map[*Peer]struct{}{}, seen: map[string]int{}}
	s.wg.Go(s.accept)
	t.Cleanup(s.close)
	return s
}

// Addr returns host:port.
func (s *Scripted) Addr() string { return s.ln.Addr().String() }

// URL returns the redis:// URL of the server, without parameters.
func (s *Scripted) URL() string { return "redis://" + s.Addr() }

// Count returns how often a command, in upper case, was received.
func (s *Scripted) Count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[name]
}

func (s *Scripted) close() {
	s.ln.Close()
	s.mu.Lock()
	for p := range s.peers {
		p.conn.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *Scripted) accept() {
	for {
		conn, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.next++
		p := &Peer{ID: s.next, Protocol: 2, conn: conn}
		s.peers[p] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() { s.serve(p) })
	}
}

func (s *Scripted) serve(p *Peer) {
	defer func() {
		p.conn.Close()
		s.mu.Lock()
		delete(s.peers, p)
		s.mu.Unlock()
	}()
	r := bufio.NewReader(p.conn)
	for {
		raw, err := readFrame(r, nil)
		if err != nil {
			return
		}
		args := arguments(raw)
		if len(args) == 0 {
			continue
		}
		args[0] = strings.ToUpper(args[0])
		s.mu.Lock()
		s.seen[args[0]]++
		s.mu.Unlock()
		reply, ok := s.handle(p, args)
		if !ok {
			reply = s.answer(p, args)
		}
		p.Write(reply)
	}
}

// answer is what a standalone server says to a client that connects.
func (s *Scripted) answer(p *Peer, args []string) string {
	switch args[0] {
	case "HELLO":
		open := "*14\r\n"
		if len(args) > 1 && args[1] == "3" {
			p.Protocol = 3
		}
		if p.Protocol == 3 {
			open = "%7\r\n"
		}
		return open + Bulk("server") + Bulk("redis") + Bulk("version") + Bulk("7.0.15") + Bulk("proto") +
			fmt.Sprintf(":%d\r\n", p.Protocol) + Bulk("id") + fmt.Sprintf(":%d\r\n", p.ID) + Bulk("mode") + Bulk("standalone") +
			Bulk("role") + Bulk("master") + Bulk("modules") + "*0\r\n"
	case "PING":
		return "+PONG\r\n"
	case "CLIENT":
		if len(args) > 1 && strings.EqualFold(args[1], "ID") {
			return fmt.Sprintf(":%d\r\n", p.ID)
		}
		return "+OK\r\n"
	case "AUTH", "SELECT":
		return "+OK\r\n"
	case "ROLE":
		return "*3\r\n" + Bulk("master") + ":0\r\n*0\r\n"
	case "INFO":
		return Bulk("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n# Replication\r\nrole:master\r\n")
	case "COMMAND":
		return "*0\r\n"
	case "CLUSTER":
		return "-ERR This instance has cluster support disabled\r\n"
	case "WAIT":
		return ":0\r\n"
	}
	return fmt.Sprintf("-ERR unknown command '%s'\r\n", args[0])
}

// Bulk returns s as a bulk string on the wire.
func Bulk(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }

// sentinelFor answers as a Sentinel that knows one primary and no other Sentinel.
func sentinelFor(primary string) Handler {
	host, port, _ := net.SplitHostPort(primary)
	return func(p *Peer, args []string) (string, bool) {
		push := "*"
		if p.Protocol == 3 {
			push = ">"
		}
		switch {
		case args[0] == "SENTINEL" && len(args) > 1 && strings.EqualFold(args[1], "GET-MASTER-ADDR-BY-NAME"):
			return "*2\r\n" + Bulk(host) + Bulk(port), true
		case args[0] == "SENTINEL":
			return "*0\r\n", true
		case strings.HasSuffix(args[0], "SUBSCRIBE"):
			var b strings.Builder
			for i, c := range args[1:] {
				fmt.Fprintf(&b, "%s3\r\n%s%s:%d\r\n", push, Bulk(strings.ToLower(args[0])), Bulk(c), i+1)
			}
			return b.String(), true
		}
		return "", false
	}
}
