package rueidisdriver

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy stands between a driver and a server. It can hold everything back, or lose replies and close.
type proxy struct {
	addr string
	to   string
	// mute holds replies back, losing drops the next reply and closes the connection.
	mute   atomic.Bool
	losing atomic.Bool

	mu    sync.Mutex
	conns []net.Conn
	wake  chan struct{}
}

func startProxy(t testing.TB, to string) *proxy {
	t.Helper()
	p := &proxy{to: to, wake: make(chan struct{})}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		close(p.wake)
		p.mu.Unlock()
		p.cut()
		wg.Wait()
	})
	return p
}

func (p *proxy) url() string { return "redis://" + p.addr }

func (p *proxy) serve(c net.Conn) {
	defer c.Close()
	up, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer up.Close()
	p.mu.Lock()
	p.conns = append(p.conns, c, up)
	p.mu.Unlock()
	go func() { _, _ = io.Copy(up, c); _ = up.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := up.Read(buf)
		if err != nil {
			return
		}
		if p.losing.Load() {
			return
		}
		if p.mute.Load() {
			<-p.wake
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// cut closes every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	conns := p.conns
	p.conns = nil
	p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}
