package redisxtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/goredisdriver"
)

// Fake is an in-process server that go-redis and rueidis use over TCP without being told. It runs one command at a time
// like the real one, in RESP2 and RESP3. It is safe for concurrent use.
//
// Data commands are miniredis; connections, transactions, blocking, Pub/Sub, CLIENT TRACKING, expiry, scripts, consumer
// groups and the commands that describe the server are the Fake's own. It calls itself redis 7.2.0. What it lacks it
// refuses with an error: functions, replication, most of ACL, modules, TTLs of hash fields, keyspace notifications, SORT,
// OBJECT but for IDLETIME.
// [NewFakeCluster] is a Cluster of such servers.
//
// A script that does not end makes others see BUSY after 5 s of wall clock, or what CONFIG SET busy-reply-threshold says;
// SCRIPT KILL ends it, and Close ends any. In a testing/synctest bubble only Close does, since no time passes meanwhile.
// Blocking commands in scripts are refused, as Redis 7.0 does. cmsgpack and struct are missing.
//
// Time is the wall clock until [Fake.Advance] moves it. An expired key is gone for every command that comes after, and
// clients that track it are told at that command, when Advance passes the moment, or about 20 ms after it.
type Fake struct {
	t     testing.TB // nil outside of tests
	cfg   config
	nodes []*fakeNode // one, or those of a FakeCluster

	mu       sync.Mutex // one command at a time; guards everything below
	users    map[string]*fakeUser
	eng      *engine
	commands map[string]*fakeCommand
	conns    map[int64]*fakeConn
	nextID   int64
	waiters  []*waiter // in the order they began to block
	tracks   trackTable
	streams  map[*streamData]*streamMeta
	slots    *slotTable // nil unless it is a Cluster
	offset   time.Duration
	fail     failure
	counts   map[string]int
	config   map[string]string
	started  time.Time
	expiry   *time.Timer

	script atomic.Pointer[scriptRun] // the one that runs

	life    sync.Mutex // guards what follows and the nodes' listeners; never held while a command runs
	sockets map[*fakeConn]struct{}
	opened  []*core.Client
	closed  bool
	wg      sync.WaitGroup
}

// failure is what FailNext ordered.
type failure struct {
	met      bool // a command has come
	left     int
	text     string
	commands []string
}

// NewFake starts a Fake that is closed when the test ends. It takes the options [Password], [User] and [InMemory]; one that
// needs a real server ends the test.
func NewFake(t testing.TB, opts ...Option) *Fake {
	t.Helper()
	f, err := StartFake(opts...)
	if err != nil {
		t.Fatal(err)
	}
	f.attach(t)
	return f
}

// attach closes the Fake with a test, and fails the test if a failure that it ordered has not come.
func (f *Fake) attach(t testing.TB) {
	f.t = t
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.fail.left > 0 && !f.fail.met {
			t.Errorf("redisxtest: FailNext(%d, %q) has met no command; a test that orders a failure should see it", f.fail.left, f.fail.text)
		}
	})
}

// StartFake starts a Fake outside of tests, for programs that demonstrate themselves. The caller closes it.
func StartFake(opts ...Option) (*Fake, error) { return startFake(0, opts) }

// startFake starts a server of its own for masters = 0, else a Cluster of that many.
func startFake(masters int, opts []Option) (*Fake, error) {
	cfg := defaults()
	for _, o := range opts {
		o.apply(&cfg)
	}
	users, err := fakeUsers(cfg)
	if err != nil {
		return nil, fmt.Errorf("redisxtest: fake server: %w", err)
	}
	f := &Fake{
		cfg:     cfg,
		users:   users,
		streams: map[*streamData]*streamMeta{},
		conns:   map[int64]*fakeConn{},
		sockets: map[*fakeConn]struct{}{},
		tracks:  newTrackTable(),
		counts:  map[string]int{},
		config:  fakeConfig(),
		started: time.Now(),
	}
	if f.eng, err = newEngine(); err != nil {
		return nil, fmt.Errorf("redisxtest: fake server: %w", err)
	}
	f.commands = fakeCommands(f.eng.has, masters > 0)
	listeners := make([]net.Listener, max(1, masters))
	for i := range listeners {
		n := &fakeNode{index: i, addr: loopback(i + 1)}
		if !cfg.inMemory {
			if listeners[i], err = listenLoopback(); err != nil {
				for _, l := range listeners[:i] {
					_ = l.Close()
				}
				return nil, fmt.Errorf("redisxtest: fake server: %w", err)
			}
			n.addr = listeners[i].Addr().String()
		}
		n.id = nodeID(n.addr)
		f.nodes = append(f.nodes, n)
	}
	if masters > 0 {
		f.slots = newSlotTable(f.nodes)
	}
	for i, l := range listeners {
		if l != nil {
			f.serve(f.nodes[i], l)
		}
	}
	return f, nil
}

// Addr returns host:port. It stays the same over Restart.
func (f *Fake) Addr() string { return f.nodes[0].addr }

// URL returns the address as a redis:// URL, with the password if there is one. Parameters are added as they are, such as
// "protocol=2".
func (f *Fake) URL(params ...string) string {
	return withParams("redis://"+userinfo("", f.cfg.password)+f.Addr(), params)
}

// UserURL is [Fake.URL] for a user that the option [User] made, and "" for any other.
func (f *Fake) UserURL(name string, params ...string) string {
	for _, u := range f.cfg.users {
		if u.name == name {
			return withParams("redis://"+userinfo(name, u.password)+f.Addr(), params)
		}
	}
	return ""
}

// Client returns a new client of the Fake over go-redis, closed with the Fake. Options that core.New refuses fail the test,
// or panic outside of one.
func (f *Fake) Client(opts ...core.Option) *core.Client {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := f.open(ctx, f.URL(), opts)
	switch {
	case err == nil:
		return c
	case f.t != nil:
		f.t.Helper()
		f.t.Fatalf("redisxtest: client of the fake server: %v", err)
	}
	panic(fmt.Sprintf("redisxtest: client of the fake server: %v", err))
}

func (f *Fake) open(ctx context.Context, url string, opts []core.Option) (*core.Client, error) {
	var dial []goredisdriver.Option
	if f.cfg.inMemory {
		dial = append(dial, goredisdriver.WithDialer(func(_ context.Context, _, addr string) (net.Conn, error) { return f.dial(addr) }))
	}
	d, err := goredisdriver.Open(ctx, url, dial...)
	if err != nil {
		return nil, err
	}
	c, err := core.New(d, opts...)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	f.life.Lock()
	defer f.life.Unlock()
	f.opened = append(f.opened, c)
	return c, nil
}

// Dial returns a connection that needs no socket: see [InMemory].
func (f *Fake) Dial() (net.Conn, error) { return f.dial(f.Addr()) }

func (f *Fake) dial(addr string) (net.Conn, error) {
	i := slices.IndexFunc(f.nodes, func(n *fakeNode) bool { return n.addr == addr })
	if i < 0 {
		return nil, fmt.Errorf("redisxtest: no fake server at %q", addr)
	}
	client, server := net.Pipe()
	if !f.accept(f.nodes[i], server) {
		return nil, errors.New("redisxtest: the fake server is closed")
	}
	return client, nil
}

// Close stops the Fake and breaks its connections. It waits until everything it started has ended. It is idempotent.
func (f *Fake) Close() error {
	f.life.Lock()
	clients := f.opened
	f.opened = nil
	f.life.Unlock()
	var errs []error
	for _, c := range clients {
		errs = append(errs, c.Close())
	}
	return errors.Join(append(errs, f.stop())...)
}

func (f *Fake) stop() error {
	f.life.Lock()
	f.closed = true
	for _, n := range f.nodes {
		if n.listener != nil {
			_ = n.listener.Close()
			n.listener = nil
		}
	}
	for c := range f.sockets {
		_ = c.nc.Close()
	}
	f.life.Unlock()

	done := make(chan struct{})
	go func() {
		defer close(done)
		f.wg.Wait()
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.expiry != nil {
			f.expiry.Stop()
		}
	}()
	deadline := time.After(10 * time.Second)
	for {
		if run := f.script.Load(); run != nil {
			run.kill(errScriptClosed)
		}
		select {
		case <-done:
			return nil
		case <-time.After(10 * time.Millisecond): // what was sent before may begin a script yet
		case <-deadline:
			return errors.New("redisxtest: the fake server does not stop: a command runs without end")
		}
	}
}

// Restart closes the Fake if it runs and starts it again on the same address. Connections break, scripts, subscriptions
// and tracking are forgotten, keys stay.
func (f *Fake) Restart() error {
	if err := f.stop(); err != nil {
		return err
	}
	f.FlushScripts()
	listeners := make([]net.Listener, len(f.nodes))
	for i, n := range f.nodes {
		if f.cfg.inMemory {
			break
		}
		var err error
		if listeners[i], err = net.Listen("tcp", n.addr); err != nil {
			for _, l := range listeners[:i] {
				_ = l.Close()
			}
			return fmt.Errorf("redisxtest: restart of the fake server: %w", err)
		}
	}
	f.life.Lock()
	f.closed = false
	f.life.Unlock()
	for i, l := range listeners {
		if l != nil {
			f.serve(f.nodes[i], l)
		}
	}
	return nil
}

// FlushScripts forgets every script, as SCRIPT FLUSH or a failover does.
func (f *Fake) FlushScripts() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nodes {
		clear(n.scripts)
	}
}

// Advance moves the Fake's clock on by d: TIME, stream IDs, expiry and the timeouts of blocked commands. Negative
// durations are ignored.
func (f *Fake) Advance(d time.Duration) {
	if d <= 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.offset += d
	f.tick()
	now := f.now()
	for _, w := range slices.Clone(f.waiters) {
		if !w.deadline.IsZero() && !w.deadline.After(now) {
			f.expire(w)
		}
	}
	f.settle(nil)
}

// FailNext answers the next n commands with an error reply of that text, such as "LOADING Redis is loading the dataset in
// memory", without running them. With names, only those commands fail and count. What clients send by themselves (HELLO,
// AUTH, SELECT, CLIENT, PING, COMMAND, CLUSTER, READONLY, ASKING) fails only if it is named. A later call replaces an earlier
// one; n = 0 ends it. If none of them comes before a test ends, the test fails.
func (f *Fake) FailNext(n int, text string, commands ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := make([]string, len(commands))
	for i, c := range commands {
		names[i] = strings.ToUpper(c)
	}
	f.fail = failure{left: n, text: text, commands: names}
}

// Count tells how often a command has arrived since the start, commands inside scripts not counted.
func (f *Fake) Count(command string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[strings.ToUpper(command)]
}

// now is the Fake's clock. f.mu is held.
func (f *Fake) now() time.Time { return time.Now().Add(f.offset) }

func (f *Fake) serve(n *fakeNode, l net.Listener) {
	f.life.Lock()
	n.listener = l
	f.life.Unlock()
	f.wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			f.accept(n, nc)
		}
	})
}

// accept starts serving a connection and reports whether it did.
func (f *Fake) accept(n *fakeNode, nc net.Conn) bool {
	f.life.Lock()
	defer f.life.Unlock()
	if f.closed {
		_ = nc.Close()
		return false
	}
	c := newFakeConn(f, n, nc)
	f.sockets[c] = struct{}{}
	f.wg.Go(c.write)
	f.wg.Go(func() {
		c.read()
		f.life.Lock()
		delete(f.sockets, c)
		f.life.Unlock()
	})
	return true
}
