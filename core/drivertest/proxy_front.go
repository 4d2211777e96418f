package drivertest

import (
	"crypto/tls"
	"net"
	"sync"

	"github.com/go-redisx/redisx/core"
)

// front listens for one node.
type front struct {
	proxy    *proxy
	upstream string
	network  string
	addr     string
	tls      *tls.Config

	mu sync.Mutex
	ln net.Listener // nil while it refuses connections
}

// open starts listening, at the same address as before if there was one.
func (f *front) open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ln != nil {
		return nil
	}
	var err error
	if f.addr == "" {
		if f.ln, err = listen(); err == nil {
			f.addr = f.ln.Addr().String()
		}
	} else {
		f.ln, err = net.Listen(f.network, f.addr)
	}
	if err != nil {
		f.ln = nil
		return err
	}
	f.proxy.wg.Add(1)
	go f.accept(f.ln)
	return nil
}

func (f *front) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ln != nil {
		f.ln.Close()
		f.ln = nil
	}
}

func (f *front) accept(ln net.Listener) {
	defer f.proxy.wg.Done()
	for {
		client, err := ln.Accept()
		if err != nil {
			return
		}
		f.proxy.wg.Add(1)
		go func() {
			defer f.proxy.wg.Done()
			f.connect(ln, client)
		}()
	}
}

// connect dials the server for a new connection and pumps until it ends.
func (f *front) connect(ln net.Listener, client net.Conn) {
	p := f.proxy
	server, err := dial(f.network, f.upstream, upstreamTLS(p.env.ep))
	if err != nil {
		client.Close()
		return
	}
	raw := client
	if f.tls != nil {
		client = tls.Server(client, f.tls)
	}
	l := &link{proxy: p, raw: raw, client: client, server: server, done: make(chan struct{})}
	f.mu.Lock()
	refused := f.ln != ln // down while it was dialling
	if !refused {
		p.mu.Lock()
		p.next++
		l.id = p.next
		p.links[l] = struct{}{}
		p.notify()
		p.mu.Unlock()
	}
	f.mu.Unlock()
	if refused {
		l.close()
		return
	}
	var pumps sync.WaitGroup
	pumps.Go(l.pumpRequests)
	pumps.Go(l.pumpReplies)
	pumps.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.notify()
	p.mu.Unlock()
}

func upstreamTLS(ep *core.Endpoint) *tls.Config {
	if ep.TLS == nil {
		return nil
	}
	return ep.TLS.Clone()
}
