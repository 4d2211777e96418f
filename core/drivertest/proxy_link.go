package drivertest

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
)

// link is one connection through the proxy.
type link struct {
	proxy          *proxy
	id             int
	raw            net.Conn // the client's connection below TLS
	client, server net.Conn
	done           chan struct{}
	once           sync.Once

	mu      sync.Mutex
	pending []waiting // requests without a reply so far, oldest first
}

// waiting is a request that was passed on.
type waiting struct {
	name string
	do   action
}

func (l *link) close() {
	l.once.Do(func() {
		close(l.done)
		l.client.Close()
		l.server.Close()
	})
}

// reset closes the connection so that the client sees ECONNRESET where the network has that.
func (l *link) reset() {
	if tcp, ok := l.raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
		_ = tcp.Close()
	}
	l.close()
}

func (l *link) pumpRequests() {
	defer l.close()
	r := bufio.NewReader(l.client)
	for {
		raw, err := readFrame(r, nil)
		if err != nil {
			return
		}
		args := arguments(raw)
		do := l.proxy.record(l, args)
		if !l.proxy.requests.pass(l.done) || do == loseRequest {
			return
		}
		name := request{args: args}.name()
		if !strings.HasSuffix(name, "SUBSCRIBE") { // answered by pushes, any number of them
			l.mu.Lock()
			l.pending = append(l.pending, waiting{name, do})
			l.mu.Unlock()
		}
		if _, err := l.server.Write(raw); err != nil {
			return
		}
	}
}

func (l *link) pumpReplies() {
	defer l.close()
	r := bufio.NewReader(l.server)
	for {
		raw, err := readFrame(r, nil)
		if err != nil {
			return
		}
		w := l.answered(raw)
		if !l.proxy.through(l, w.name) {
			return
		}
		switch w.do {
		case loseReply:
			return
		case resetReply:
			l.reset()
			return
		case cutReply:
			_, _ = l.client.Write(raw[:len(raw)/2])
			return
		}
		if _, err := l.client.Write(l.proxy.rewrite(w.name, raw)); err != nil {
			return
		}
	}
}

// answered returns the request that a reply belongs to; the zero value for a push.
func (l *link) answered(raw []byte) waiting {
	if isPush(raw) {
		return waiting{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) == 0 {
		return waiting{}
	}
	w := l.pending[0]
	l.pending = l.pending[1:]
	return w
}

// isPush recognises RESP3 pushes and what RESP2 sends in their place.
func isPush(raw []byte) bool {
	if raw[0] == '>' {
		return true
	}
	if raw[0] != '*' {
		return false
	}
	_, rest, _ := bytes.Cut(raw, []byte("\r\n"))
	_, rest, _ = bytes.Cut(rest, []byte("\r\n"))
	for _, kind := range []string{"message", "smessage", "pmessage", "subscribe", "ssubscribe", "unsubscribe", "sunsubscribe"} {
		if bytes.HasPrefix(rest, []byte(kind+"\r\n")) {
			return true
		}
	}
	return false
}

// rewrite puts the fronts' addresses in place of the nodes' where a Cluster tells them: in CLUSTER SLOTS and SHARDS the
// port stands alone after the address or the word "port", in redirections it follows the host.
func (p *proxy) rewrite(name string, raw []byte) []byte {
	if len(p.fronts) < 2 || (name != "CLUSTER" && !bytes.HasPrefix(raw, []byte("-MOVED")) && !bytes.HasPrefix(raw, []byte("-ASK"))) {
		return raw
	}
	for _, f := range p.fronts {
		host, port, _ := net.SplitHostPort(f.upstream)
		_, own, _ := net.SplitHostPort(f.addr)
		for _, before := range []string{fmt.Sprintf("$%d\r\n%s\r\n", len(host), host), "$4\r\nport\r\n", "+port\r\n"} {
			raw = bytes.ReplaceAll(raw, []byte(before+":"+port+"\r\n"), []byte(before+":"+own+"\r\n"))
		}
		if raw[0] == '-' {
			raw = bytes.ReplaceAll(raw, []byte(f.upstream+"\r\n"), []byte(f.addr+"\r\n"))
		}
	}
	return raw
}
