package chaos

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// Proxy stands between clients and servers and does to their connections what a [Script] says, command by command, and what
// its [Network] methods say, byte by byte. It is reached at its address ([NewProxy]), or by its Dial methods ([NewDialer]),
// for any client library.
//
// It reads RESP2 and RESP3, but only if there are rules; what it cannot read passes unchanged. A connection takes two
// goroutines, and the proxy one. Log has a line for every fault. It is safe for concurrent use.
type Proxy struct {
	Network // of all nodes

	*judge
	t       testing.TB // nil outside of tests
	dial    dialFunc
	scripts map[string]string // names by SHA1 and by source
	addr    string            // "" for a dialer
	started time.Time
	ctx     context.Context // ends with the proxy
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	listening sync.Mutex // one change of the listener at a time

	mu       sync.Mutex
	target   string
	listener net.Listener // nil while it refuses
	begun    []*begun
	changed  chan struct{} // closed when begun changes
	sessions map[*session]struct{}
	lastID   uint64
	closed   bool
}

// Option changes a [Proxy]: a [Script] or a [Rule], [DialWith], [NameScripts]. Of several scripts the rules are joined, and
// the last seed counts.
type Option interface {
	apply(*proxyConfig)
}

type proxyConfig struct {
	script  Script
	dial    dialFunc
	scripts []*driver.Script
	nilDial bool
}

type option func(*proxyConfig)

func (o option) apply(c *proxyConfig) { o(c) }

func (s Script) apply(c *proxyConfig) {
	c.script.Seed = s.Seed
	c.script.Rules = append(c.script.Rules, s.Rules...)
}

func (r Rule) apply(c *proxyConfig) { c.script.Rules = append(c.script.Rules, r) }

// DialWith sets how servers are dialled, such as a redisxtest.Fake that is InMemory, or a tls.Dialer: rules see what the
// client sends before it is encrypted then, as long as the client itself does no TLS. The default is a net.Dialer; nil is an
// error.
func DialWith(dial func(ctx context.Context, network, addr string) (net.Conn, error)) Option {
	return option(func(c *proxyConfig) { c.dial, c.nilDial = dial, dial == nil })
}

// NameScripts tells the names of scripts, which [OnScript] needs here: what a client sends is their SHA1 or their source.
func NameScripts(scripts ...*driver.Script) Option {
	return option(func(c *proxyConfig) { c.scripts = append(c.scripts, scripts...) })
}

// NewProxy starts a proxy on a free port of loopback in front of a server, and closes it when the test ends. If the test
// fails, its script and its log are attached. Target is host:port, or the path of a Unix socket. The server need not run
// yet. Options that cannot be end the test: faults that need a driver (refuse, bug-retry, bug-ignore-cancel), or OnScript
// without [NameScripts].
func NewProxy(t testing.TB, target string, opts ...Option) *Proxy {
	t.Helper()
	px, err := StartProxy(target, opts...)
	return attach(t, px, err)
}

// NewDialer is a proxy without an address, for clients that are given its [Proxy.Dial] or [Proxy.DialTLS]: faults meet the
// connections to every node of a Cluster, or to Sentinels and what they name, whatever their addresses. With [DialWith] a
// Fake in memory it works in a testing/synctest bubble.
func NewDialer(t testing.TB, opts ...Option) *Proxy {
	t.Helper()
	px, err := StartDialer(opts...)
	return attach(t, px, err)
}

// StartProxy is [NewProxy] outside of tests. The caller closes it.
func StartProxy(target string, opts ...Option) (*Proxy, error) {
	px, err := StartDialer(opts...)
	if err != nil {
		return nil, err
	}
	if err := checkTarget(target); err != nil {
		return nil, err
	}
	l, err := listen()
	if err != nil {
		return nil, err
	}
	px.target, px.addr, px.listener = target, l.Addr().String(), l
	px.wg.Go(func() { px.accept(l) })
	return px, nil
}

// StartDialer is [NewDialer] outside of tests. The caller closes it.
func StartDialer(opts ...Option) (*Proxy, error) {
	var cfg proxyConfig
	for _, o := range opts {
		if o == nil {
			return nil, errors.New("chaos: an option is nil")
		}
		o.apply(&cfg)
	}
	if cfg.nilDial {
		return nil, errors.New("chaos: DialWith: function is nil")
	}
	if cfg.dial == nil {
		cfg.dial = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	names, known := map[string]string{}, map[string]bool{}
	for _, s := range cfg.scripts {
		if s == nil {
			return nil, errors.New("chaos: NameScripts: a script is nil")
		}
		names[s.SHA()], names[s.Source()], known[s.Name()] = s.Name(), s.Name(), true
	}
	cfg.script.Rules = slices.Clone(cfg.script.Rules)
	if err := cfg.script.check(func(r Rule) string { return r.fitsWire(known) }); err != nil {
		return nil, err
	}
	px := &Proxy{
		judge: newJudge(cfg.script), dial: cfg.dial, scripts: names, started: time.Now(),
		changed: make(chan struct{}), sessions: map[*session]struct{}{},
	}
	px.ctx, px.cancel = context.WithCancel(context.Background())
	px.Network = network{px: px}
	return px, nil
}

// attach ties a proxy to a test.
func attach(t testing.TB, px *Proxy, err error) *Proxy {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	px.t = t
	t.Cleanup(func() {
		t.Helper()
		px.Close()
		if t.Failed() {
			t.Log(px.report())
		}
	})
	return px
}

func checkTarget(target string) error {
	if _, port, err := net.SplitHostPort(target); !strings.HasPrefix(target, "/") && (err != nil || port == "") {
		return fmt.Errorf("chaos: target %q; want host:port, or the path of a Unix socket", redact(target))
	}
	return nil
}

// redact keeps what may be a password in a URL out of an error.
func redact(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return "…" + s[i:]
	}
	return s
}

// Addr returns host:port of the proxy, "" for one of [NewDialer]. It stays the same whatever becomes of the server.
func (px *Proxy) Addr() string { return px.addr }

// URL returns a URL of one server with the proxy's address in the place of the server's; user, password, database and
// parameters stay. With TLS the server's certificate must be valid for 127.0.0.1, or the URL say whose name to look for. Any
// other URL fails the test, and gives "" outside of one.
func (px *Proxy) URL(server string) string {
	u, err := url.Parse(server)
	switch {
	case px.addr == "":
		px.fail("URL: this proxy has no address; use NewProxy, or give the client px.Dial")
		return ""
	case err != nil || u.Scheme != "redis" && u.Scheme != "rediss" && u.Scheme != "valkey" && u.Scheme != "valkeys" ||
		u.Host == "" || strings.Contains(u.Host, ","):
		px.fail("URL: want that of one server, redis://… or rediss://…; for a Cluster or Sentinels give the client the Dial of NewDialer")
		return ""
	}
	u.Host = px.addr
	return u.String()
}

// SetTarget sends connections to another server from now on. Those that exist stay where they are; Reset ends them.
func (px *Proxy) SetTarget(target string) {
	if err := checkTarget(target); err != nil {
		px.fail("SetTarget: %s", strings.TrimPrefix(err.Error(), "chaos: "))
		return
	}
	px.mu.Lock()
	px.target = target
	px.mu.Unlock()
	px.relisten() // faults of the new node may refuse connections
}

// Node is the network between clients and one server, by its host:port as it is dialled. It need not be known yet.
func (px *Proxy) Node(addr string) Network { return network{px, addr} }

// Dial connects to a server through the proxy. It is what go-redis calls a Dialer, and goredisdriver.WithDialer and
// rueidisdriver.WithDialer take it too.
func (px *Proxy) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return px.through(ctx, network, addr, px.dial)
}

// dialFunc dials a server.
type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// through is Dial with a function that dials.
func (px *Proxy) through(ctx context.Context, netw, addr string, dial dialFunc) (net.Conn, error) {
	if err := px.admit(ctx, addr, true); err != nil {
		return nil, &net.OpError{Op: "dial", Net: netw, Err: err}
	}
	return px.connect(ctx, netw, addr, dial)
}

// admit waits as long as the faults for a node want a new connection to. One that a listener has accepted is refused no more.
func (px *Proxy) admit(ctx context.Context, node string, dials bool) error {
	began := time.Now()
	for {
		px.mu.Lock()
		st, changed := px.stateOf(node), px.changed
		px.mu.Unlock()
		left := st.accept - time.Since(began)
		var after <-chan time.Time // never in a black hole
		switch {
		case dials && st.refuse:
			return errRefused
		case dials && st.hole != 0:
		case left <= 0:
			return nil
		default:
			after = time.After(left)
		}
		select {
		case <-changed:
		case <-after:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-px.ctx.Done():
			return net.ErrClosed
		}
	}
}

// DialTLS is Dial for rueidis, as its DialCtxFn. TLS is done on the far side of the proxy, so that rules see commands. What
// dials is that of DialWith, not the net.Dialer.
func (px *Proxy) DialTLS(ctx context.Context, addr string, _ *net.Dialer, cfg *tls.Config) (net.Conn, error) {
	if cfg == nil {
		return px.Dial(ctx, "tcp", addr)
	}
	return px.through(ctx, "tcp", addr, func(ctx context.Context, netw, addr string) (net.Conn, error) {
		nc, err := px.dial(ctx, netw, addr)
		if err != nil {
			return nil, err
		}
		if cfg.ServerName == "" && !cfg.InsecureSkipVerify {
			cfg = cfg.Clone()
			cfg.ServerName, _, _ = net.SplitHostPort(addr)
		}
		secure := tls.Client(nc, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, err
		}
		return secure, nil
	})
}

// Close ends the proxy, its connections and all it has started, and waits for it. It is idempotent.
func (px *Proxy) Close() {
	px.listening.Lock()
	px.mu.Lock()
	if !px.closed {
		px.closed = true
		px.cancel()
		if px.listener != nil {
			px.listener.Close()
			px.listener = nil
		}
	}
	px.mu.Unlock()
	px.listening.Unlock()
	for _, c := range px.of("") {
		c.close()
	}
	px.wg.Wait()
}

// Log returns a line for every fault so far, in order. Joined by line breaks they are a script that causes the faults of
// rules again at the same matches, without a seed. Faults of the network are comments in it; see [ParseSchedule].
func (px *Proxy) Log() []string {
	return px.judge.log()
}

// Script returns the rules and the seed that the proxy was given.
func (px *Proxy) Script() Script {
	s := px.script
	s.Rules = slices.Clone(s.Rules)
	return s
}

// Calm switches the rules off and heals the network, for a phase in which all must end well. Matches go on being counted.
func (px *Proxy) Calm() {
	px.setCalm(true)
	px.Heal()
}

// Storm switches the rules on again, as they are at first.
func (px *Proxy) Storm() { px.setCalm(false) }

// fail fails the test, and is in the log outside of one.
func (px *Proxy) fail(format string, args ...any) {
	if px.t != nil {
		px.t.Errorf("chaos: "+format, args...)
		return
	}
	px.remark(format, args...)
}

// remark notes a comment.
func (px *Proxy) remark(format string, args ...any) { px.note(comment(fmt.Sprintf(format, args...))) }

func (px *Proxy) name() string {
	if px.addr == "" {
		return "dialer"
	}
	return px.addr
}

// connect makes a session of a client that is in this process.
func (px *Proxy) connect(ctx context.Context, netw, addr string, dial dialFunc) (net.Conn, error) {
	server, err := dial(ctx, netw, addr)
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	end := &pipeEnd{Conn: far}
	client := &clientEnd{Conn: near, end: end, local: server.LocalAddr(), remote: server.RemoteAddr()}
	if !px.open(end, server, addr, client) {
		far.Close()
		server.Close()
		return nil, &net.OpError{Op: "dial", Net: netw, Err: net.ErrClosed}
	}
	return client, nil
}

// open starts a session, and reports whether it did: a proxy that is closed does not. Near is what a client in this process
// has.
func (px *Proxy) open(client, server net.Conn, node string, near *clientEnd) bool {
	px.mu.Lock()
	defer px.mu.Unlock()
	if px.closed {
		return false
	}
	px.lastID++
	c := &session{px: px, id: px.lastID, node: node, client: client, server: server, near: near}
	c.connect()
	if s := px.stateOf(node); s != (state{}) {
		c.state.Store(&s)
	}
	px.sessions[c] = struct{}{}
	if near != nil {
		near.session = c
		if len(px.script.Rules) == 0 && c.state.Load() == nil && canBeDirect(server) {
			near.direct.Store(true)
			return true
		}
	}
	c.start()
	return true
}

// resume starts the pumps of a session that did without, unless it has ended, or the proxy has and is ending it.
func (px *Proxy) resume(c *session) {
	px.mu.Lock()
	defer px.mu.Unlock()
	if px.closed || c.closed.Load() {
		delete(px.sessions, c)
		c.client.Close()
		c.server.Close()
		return
	}
	c.start()
}

func (px *Proxy) forget(c *session) {
	px.mu.Lock()
	defer px.mu.Unlock()
	delete(px.sessions, c)
}

// accept serves a listener.
func (px *Proxy) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			sleep(px.ctx, 10*time.Millisecond) // this client is gone, or there are no more file descriptors
			continue
		}
		px.wg.Go(func() { px.serve(client) })
	}
}

// serve connects a client that came to the listener.
func (px *Proxy) serve(client net.Conn) {
	px.mu.Lock()
	target := px.target
	px.mu.Unlock()
	if px.admit(px.ctx, target, false) != nil {
		client.Close() // the proxy ends
		return
	}
	netw := "tcp"
	if strings.HasPrefix(target, "/") {
		netw = "unix"
	}
	server, err := px.dial(px.ctx, netw, target)
	if err != nil {
		resetConn(client)
		return
	}
	if !px.open(client, server, target, nil) {
		client.Close()
		server.Close()
	}
}

// relisten lets the listener be, or not, as the faults want it.
func (px *Proxy) relisten() {
	px.listening.Lock()
	defer px.listening.Unlock()
	px.mu.Lock()
	refuse := px.stateOf(px.target).refuse
	if l := px.listener; l != nil && refuse {
		px.listener = nil
		px.mu.Unlock()
		l.Close()
		return
	}
	want := px.addr != "" && px.listener == nil && !refuse && !px.closed
	px.mu.Unlock()
	if !want {
		return
	}
	l, err := net.Listen("tcp", px.addr)
	if err != nil {
		px.fail("the proxy cannot listen again: %v", err)
		return
	}
	px.mu.Lock()
	px.listener = l
	px.mu.Unlock()
	px.wg.Go(func() { px.accept(l) })
}

// listen listens on a free port of 127.0.0.1 below those that outgoing connections get, so that none of them is in the way
// when the proxy comes back to it.
func listen() (net.Listener, error) {
	low, high := 10_000, 31_999
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if n, err := strconv.Atoi(strings.Fields(string(b) + " x")[0]); err == nil && n > low+1000 {
			high = n - 1
		}
	}
	var last error
	for range 50 {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(low+rand.IntN(high-low+1))))
		if err == nil {
			return l, nil
		}
		last = err
	}
	return nil, fmt.Errorf("chaos: no free port: %w", last)
}
