package goredisdriver

import (
	"bufio"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// scripted is a server that answers each command as a function says, raw; "" closes the connection, silence answers nothing.
type scripted struct {
	addr   string
	answer func(conn int, args []string) string

	mu   sync.Mutex
	seen []string
}

const silence = "silence"

func startScripted(t testing.TB, answer func(conn int, args []string) string) *scripted {
	t.Helper()
	s := &scripted{answer: answer}
	var n atomic.Int32
	s.addr = startListener(t, func(c net.Conn) { s.serve(int(n.Add(1)-1), c) }).addr
	return s
}

// listening is a port with a function for each connection, which is closed when the function returns.
type listening struct{ addr string }

func startListener(t testing.TB, serve func(net.Conn)) listening {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	conns, over := map[net.Conn]bool{}, false
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if conns[c] = true; over {
				_ = c.Close()
			}
			mu.Unlock()
			all.Go(func() {
				serve(c)
				_ = c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		over = true
		for c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return listening{l.Addr().String()}
}

func (s *scripted) serve(n int, c net.Conn) {
	r := bufio.NewReader(c)
	for {
		command, _, err := readReply(r)
		if err != nil {
			return
		}
		args, err := command.Strings()
		if err != nil || len(args) == 0 {
			return
		}
		line := strings.Join(args, " ")
		s.mu.Lock()
		s.seen = append(s.seen, line)
		s.mu.Unlock()
		switch a := s.answer(n, args); a {
		case "":
			return
		case silence:
		default:
			if _, err := io.WriteString(c, a); err != nil {
				return
			}
		}
	}
}

// count is how many commands that begin with a text arrived.
func (s *scripted) count(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.seen {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

// greet answers what go-redis sends on a new connection, as a server of RESP2.
func greet(args []string) (answer string, ok bool) {
	switch strings.ToUpper(args[0]) {
	case "HELLO":
		return "-ERR unknown command 'HELLO'\r\n", true
	case "CLIENT":
		if len(args) > 1 && strings.EqualFold(args[1], "ID") {
			return ":7\r\n", true
		}
		return "+OK\r\n", true
	case "PING":
		return "+PONG\r\n", true
	}
	return "", false
}
