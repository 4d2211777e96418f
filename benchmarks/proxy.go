package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// proxyComparisons measure what package chaos costs while it does nothing: a listener against a relay that copies bytes, which
// has the same hop, a dialer against the bare connection, and the hop itself against none, which nobody can promise.
func proxyComparisons(e *environment) ([]comparison, error) {
	ways := map[string]func(context.Context, string, string) (net.Conn, error){}
	if !e.dry {
		endpoint, err := core.ParseURL(e.url)
		if err != nil {
			return nil, err
		}
		if ways, err = e.ways(endpoint.Addrs[0], endpoint.Username, endpoint.Password); err != nil {
			return nil, err
		}
	}
	var out []comparison
	for _, conns := range []int{1, 16} {
		for _, x := range []struct {
			name, peer, ours string
			want             float64
		}{
			{"listener over relay", "relay", "listener", 0.95},
			{"listener with rules over relay", "relay", "listener with rules", 0},
			{"dialer over direct", "direct", "dialer", 0.95},
			{"dialer with rules over direct", "direct", "dialer with rules", 0},
			{"listener over direct", "direct", "listener", 0},
			{"relay over direct", "direct", "relay", 0},
		} {
			out = append(out, comparison{
				name: "proxy/" + x.name + "/GET", goroutines: conns, perOp: 1, want: x.want,
				peer: side{x.peer, e.rawGet(ways[x.peer])}, ours: side{x.ours, e.rawGet(ways[x.ours])},
			})
		}
	}
	return out, nil
}

// ways are those to the server.
func (e *environment) ways(addr, user, password string) (map[string]func(context.Context, string, string) (net.Conn, error), error) {
	idle := chaos.On("NOTHING").Hang()
	out := map[string]func(context.Context, string, string) (net.Conn, error){}
	var d net.Dialer
	out["direct"] = func(ctx context.Context, netw, _ string) (net.Conn, error) {
		return authenticated(ctx, d.DialContext, netw, addr, user, password)
	}
	for name, opts := range map[string][]chaos.Option{"": nil, " with rules": {idle}} {
		px, err := chaos.StartProxy(addr, opts...)
		if err != nil {
			return nil, err
		}
		e.opened = append(e.opened, px.Close)
		out["listener"+name] = func(ctx context.Context, netw, _ string) (net.Conn, error) {
			return authenticated(ctx, d.DialContext, netw, px.Addr(), user, password)
		}
		out["dialer"+name] = func(ctx context.Context, netw, _ string) (net.Conn, error) {
			return authenticated(ctx, px.Dial, netw, addr, user, password)
		}
	}
	relay, err := relay(addr)
	if err != nil {
		return nil, err
	}
	e.opened = append(e.opened, func() { relay.Close() })
	out["relay"] = func(ctx context.Context, netw, _ string) (net.Conn, error) {
		return authenticated(ctx, d.DialContext, netw, relay.Addr().String(), user, password)
	}
	return out, nil
}

// authenticated dials and, where there is a password, gives it.
func authenticated(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), netw, addr, user, password string) (net.Conn, error) {
	nc, err := dial(ctx, netw, addr)
	if err != nil || password == "" {
		return nc, err
	}
	if user == "" {
		user = "default"
	}
	fmt.Fprintf(nc, "*3\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(user), user, len(password), password)
	answer := make([]byte, 5)
	if _, err = io.ReadFull(nc, answer); err == nil && string(answer) != "+OK\r\n" {
		err = fmt.Errorf("refused: %q", answer)
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("AUTH: %w", err)
	}
	return nc, nil
}

// rawGet is a GET on a connection of each worker's own.
func (e *environment) rawGet(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, int) error {
	type conn struct {
		net.Conn
		r   *bufio.Reader
		out []byte
		in  []byte
	}
	var mu sync.Mutex
	conns := map[int]*conn{}
	var n next
	return func(ctx context.Context, worker int) error {
		mu.Lock()
		c := conns[worker]
		mu.Unlock()
		if c == nil {
			nc, err := dial(ctx, "tcp", "")
			if err != nil {
				return err
			}
			c = &conn{Conn: nc, r: bufio.NewReader(nc), in: make([]byte, len(value)+2)}
			mu.Lock()
			conns[worker] = c
			e.opened = append(e.opened, func() { nc.Close() })
			mu.Unlock()
		}
		key := n.key(worker)
		c.out = fmt.Appendf(c.out[:0], "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(key), key)
		if _, err := c.Write(c.out); err != nil {
			return err
		}
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if !strings.HasPrefix(string(line), "$") {
			return fmt.Errorf("GET: %s", line)
		}
		_, err = io.ReadFull(c.r, c.in)
		return err
	}
}

// relay is a TCP relay of io.Copy, the least that a hop costs.
func relay(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", addr)
			if err != nil {
				client.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
				go func() {
					_, _ = io.Copy(way[1], way[0])
					way[1].Close()
				}()
			}
		}
	}()
	return l, nil
}
