package drivertest

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// proxy stands between the driver under test and the server: one front per node, all sharing their faults and the list of
// requests seen. It knows the protocol well enough to act on the reply to one command. In a Cluster it rewrites the
// addresses the nodes tell, for Sentinel it answers as one, so that the driver cannot get past it. TLS ends at the front
// and starts again behind it.
type proxy struct {
	env    *env
	caFile string
	fronts []*front
	guide  *Scripted // the Sentinel that names the front, if the topology is one

	requests, replies gate
	stalled           gate // holds replies to some commands only

	mu      sync.Mutex
	changed chan struct{} // closed and replaced whenever a request is seen or a link comes or goes
	seen    []request
	faults  []fault
	slow    []string // the commands whose replies wait at stalled
	links   map[*link]struct{}
	next    int
	wg      sync.WaitGroup
}

// request is one command seen on the wire.
type request struct {
	link int
	args []string
}

func (r request) name() string {
	if len(r.args) == 0 {
		return ""
	}
	return strings.ToUpper(r.args[0])
}

// fault happens once, to the next request of that name.
type fault struct {
	name string
	do   action
}

type action int

const (
	pass        action = iota
	loseReply          // the server runs it, the reply is dropped, the connection closed
	cutReply           // the server runs it, half of the reply arrives, then the connection closes
	resetReply         // the server runs it, the connection is reset instead of the reply
	loseRequest        // the request is dropped, the connection closed
)

// proxy starts a proxy in front of every node of the server.
func (e *env) proxy(t tester) *proxy {
	t.Helper()
	if e.ep.TLS == nil {
		return e.proxyTLS(t, nil, "")
	}
	config, caFile := frontTLS(t)
	return e.proxyTLS(t, config, caFile)
}

// proxyTLS starts a proxy whose fronts speak TLS if config is set, whatever the server does.
func (e *env) proxyTLS(t tester, config *tls.Config, caFile string) *proxy {
	t.Helper()
	nodes, err := e.server.primaries()
	if err != nil {
		t.Fatalf("finding the nodes: %v", err)
	}
	p := &proxy{env: e, caFile: caFile, changed: make(chan struct{}), links: map[*link]struct{}{}}
	t.Cleanup(p.close)
	for i, n := range nodes {
		f := &front{proxy: p, upstream: n.addr, network: e.ep.Network, tls: config}
		if f.network == "unix" {
			dir, err := os.MkdirTemp("", "dt") // t.TempDir can exceed the 108 bytes of a socket's path
			if err != nil {
				t.Fatalf("temporary folder: %v", err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			f.addr = filepath.Join(dir, string(rune('a'+i)))
		}
		if err := f.open(); err != nil {
			t.Fatalf("proxy: %v", err)
		}
		p.fronts = append(p.fronts, f)
	}
	if e.ep.Topology == driver.Sentinel {
		if e.ep.TLS != nil {
			t.Skipf("the suite's Sentinel speaks no TLS")
		}
		p.guide = NewScripted(t, sentinelFor(p.fronts[0].addr))
	}
	return p
}

// url returns the URL that leads through the proxy.
func (p *proxy) url(params ...string) string {
	var addrs []string
	for _, f := range p.fronts {
		addrs = append(addrs, f.addr)
	}
	ep := *p.env.ep
	if p.guide != nil {
		addrs = []string{p.guide.Addr()}
	}
	return urlAt(&ep, addrs, p.caFile, params...)
}

// driver opens the driver under test through the proxy.
func (p *proxy) driver(t tester, params ...string) driver.Driver {
	t.Helper()
	return p.env.driverAt(t, p.url(params...))
}

// once arms a fault for the next request of that name.
func (p *proxy) once(name string, do action) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, fault{name, do})
}

// count returns how often a command was seen.
func (p *proxy) count(name string) int { return len(p.named(name)) }

// named returns the requests of one name seen so far, in order.
func (p *proxy) named(name string) []request {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []request
	for _, r := range p.seen {
		if r.name() == name {
			out = append(out, r)
		}
	}
	return out
}

// last returns the place of the last request of a name among all that were seen, -1 if there is none.
func (p *proxy) last(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.seen) - 1; i >= 0; i-- {
		if p.seen[i].name() == name {
			return i
		}
	}
	return -1
}

// await waits until a command was seen n times.
func (p *proxy) await(t tester, name string, n int) {
	t.Helper()
	if !p.until(budget/2, func() bool { return p.count(name) >= n }) {
		t.Fatalf("%s was seen %d times on the wire, want %d", name, p.count(name), n)
	}
}

// until waits until ok says so, asking again whenever something happens.
func (p *proxy) until(limit time.Duration, ok func() bool) bool {
	timeout := time.After(limit)
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if ok() {
			return true
		}
		select {
		case <-changed:
		case <-timeout:
			return ok()
		}
	}
}

// open returns the number of connections through the proxy.
func (p *proxy) open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// hold keeps traffic back in both directions until release, as a network that has gone silent does.
func (p *proxy) hold() { p.requests.shut(); p.replies.shut() }

// stall keeps back the replies to some commands, and what follows them on the same connection, until release. New
// connections can be made meanwhile.
func (p *proxy) stall(names ...string) {
	p.mu.Lock()
	p.slow = names
	p.mu.Unlock()
	p.stalled.shut()
}

// release lets everything held back go on its way.
func (p *proxy) release() { p.requests.open(); p.replies.open(); p.stalled.open() }

// through waits until the reply to a command may pass.
func (p *proxy) through(l *link, name string) bool {
	p.mu.Lock()
	slow := slices.Contains(p.slow, name)
	p.mu.Unlock()
	return p.replies.pass(l.done) && (!slow || p.stalled.pass(l.done))
}

// cut closes the connections that have sent a command of this name, or all if it is empty.
func (p *proxy) cut(name string) {
	p.mu.Lock()
	var doomed []*link
	for l := range p.links {
		if name == "" || slices.ContainsFunc(p.seen, func(r request) bool { return r.link == l.id && r.name() == name }) {
			doomed = append(doomed, l)
		}
	}
	p.mu.Unlock()
	for _, l := range doomed {
		l.reset()
	}
}

// down refuses new connections and cuts those there are.
func (p *proxy) down() {
	for _, f := range p.fronts {
		f.close()
	}
	p.cut("")
}

// up accepts connections again at the same addresses.
func (p *proxy) up(t tester) {
	t.Helper()
	for _, f := range p.fronts {
		if err := f.open(); err != nil {
			t.Fatalf("proxy: %v", err)
		}
	}
}

func (p *proxy) close() {
	p.release()
	p.down()
	p.wg.Wait()
}

func (p *proxy) notify() { // with mu held
	close(p.changed)
	p.changed = make(chan struct{})
}

// record notes a request and returns the fault meant for it.
func (p *proxy) record(l *link, args []string) action {
	r := request{link: l.id}
	for _, a := range args[:min(len(args), 8)] {
		r.args = append(r.args, a[:min(len(a), 256)])
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, r)
	p.notify()
	for i, f := range p.faults {
		if f.name == r.name() {
			p.faults = slices.Delete(p.faults, i, i+1)
			return f.do
		}
	}
	return pass
}
