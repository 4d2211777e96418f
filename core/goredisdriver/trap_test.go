package goredisdriver

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

// gate is a dialer whose connections can be made deaf: what the server answers is held back.
type gate struct{ shut atomic.Pointer[chan struct{}] }

func (g *gate) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &gated{Conn: c, gate: g, end: make(chan struct{})}, nil
}

func (g *gate) close() { ch := make(chan struct{}); g.shut.Store(&ch) }

func (g *gate) open() {
	if ch := g.shut.Swap(nil); ch != nil {
		close(*ch)
	}
}

type gated struct {
	net.Conn
	gate *gate
	end  chan struct{}
	once atomic.Bool
}

func (c *gated) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if ch := c.gate.shut.Load(); ch != nil {
		select {
		case <-*ch:
		case <-c.end:
			return 0, net.ErrClosed
		}
	}
	return n, err
}

func (c *gated) Close() error {
	if !c.once.Swap(true) {
		close(c.end)
	}
	return c.Conn.Close()
}

func gatedClient(t *testing.T, addr string, o redis.Options) (*Driver, *gate) {
	t.Helper()
	g := &gate{}
	o.Addr, o.Dialer, o.PipelinePoolSize = addr, g.dial, -1
	c := redis.NewClient(&o)
	d, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.open(); _ = d.Close(); _ = c.Close() })
	return d, g
}

func TestCallerThatLeavesBeforeSendingSendsNothing(t *testing.T) {
	s := startServer(t)
	d, g := gatedClient(t, s.addr, redis.Options{PoolSize: 1})
	ctx := background(t)
	must(t, d.Do(ctx, command("SET", "n", "0")))
	g.close()
	first, leaveFirst := context.WithCancel(ctx)
	held := make(chan error, 1)
	go func() { held <- d.Do(first, command("INCR", "n")).Err() }()
	eventually(t, 30*time.Second, "the first INCR ran", func() bool { v, _ := s.try("GET", "n"); return v == "1" })

	// The only connection is taken, so that these wait for it.
	second, leaveSecond := context.WithCancel(ctx)
	waiting := make(chan error, 2)
	go func() { waiting <- d.Do(second, command("INCR", "n")).Err() }()
	go func() {
		waiting <- d.DoMulti(second, []driver.Cmd{command("INCR", "n"), command("INCR", "n")})[1].Err()
	}()
	eventually(t, 30*time.Second, "both wait for the connection", func() bool {
		return d.Unwrap().(*redis.Client).PoolStats().PendingRequests == 2
	})
	leaveSecond()
	for range 2 {
		if err := <-waiting; !errors.Is(err, driver.ErrNotSent) || !errors.Is(err, context.Canceled) {
			t.Errorf("waiting for a connection: %v, want not sent and canceled", err)
		}
	}
	leaveFirst()
	if err := <-held; !errors.Is(err, driver.ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for the reply: %v, want unknown and canceled", err)
	}
	g.open()
	if n, err := d.Do(ctx, read("GET", "n")).Int64(); n != 1 {
		t.Errorf("n is %d, %v; want 1", n, err)
	}
}

func TestDefaultClientAnswersAtTheDeadline(t *testing.T) {
	s := startServer(t)
	process := s.process()
	for name, ctx := range map[string]func(time.Time) (context.Context, context.CancelFunc){
		"WithDeadline": func(at time.Time) (context.Context, context.CancelFunc) {
			return context.WithDeadline(context.Background(), at)
		},
		"UntilDeadline": func(at time.Time) (context.Context, context.CancelFunc) { return driver.UntilDeadline(at), func() {} },
	} {
		d := wrap(t, s.addr)
		must(t, d.Do(background(t), command("SET", "n", "0")))
		process.Pause()
		start := time.Now()
		ctx, cancel := ctx(start.Add(500 * time.Millisecond))
		err := d.Do(ctx, command("GET", "n")).Err()
		took := time.Since(start)
		cancel()
		process.Resume()
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, driver.ErrUnknownOutcome) || took > 2*time.Second { // go-redis itself waits 3 s
			t.Errorf("%s: %v after %v, want an unknown outcome at the deadline", name, err, took)
		}
	}
}

func TestReadOnlyReplyDropsTheConnection(t *testing.T) {
	s := startServer(t)
	d := open(t, "redis://"+s.addr)
	ctx := background(t)
	id := func() string { return must(t, d.Do(ctx, driver.Cmd{Args: []string{"CLIENT", "ID"}})).String() }
	before := id()
	if id() != before {
		t.Fatal("the pool does not reuse its connection")
	}
	s.do("REPLICAOF", "127.0.0.1", "1")
	for _, write := range []func() driver.Reply{
		func() driver.Reply { return d.Do(ctx, command("SET", "k", "v")) },
		func() driver.Reply {
			return d.DoMulti(ctx, []driver.Cmd{command("SET", "k", "v"), read("GET", "k")})[0]
		},
	} {
		r := write()
		if e, ok := r.Err().(*driver.ServerError); !ok || e.Code() != "READONLY" {
			t.Errorf("%v, want READONLY", r)
		}
		if now := id(); now == before {
			t.Error("the connection to a replica stays in use")
		} else {
			before = now
		}
	}
	rs := d.DoMulti(ctx, []driver.Cmd{command("SET", "k", "v"), read("GET", "k"), {Args: []string{"ECHO", "last"}}})
	if s, err := rs[2].Text(); s != "last" || !rs[1].IsNil() {
		t.Errorf("replies behind READONLY: %v, %v", rs, err)
	}
}

// nosy is a hook that looks at everything, as tracing does, and may panic.
type nosy struct {
	names chan string
	panic atomic.Bool
}

func (h *nosy) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *nosy) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		name := cmd.Name() + "/" + cmd.FullName() + "/" + cmd.String()
		if s, ok := cmd.Args()[0].(*string); ok { // not one of those go-redis itself sends on a new connection
			name += "/" + *s
		}
		h.names <- name
		if h.panic.Load() {
			panic("hook")
		}
		err := next(ctx, cmd)
		_, _ = cmd.Args(), cmd.Err()
		return err
	}
}

func (h *nosy) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, c := range cmds {
			h.names <- c.Name()
		}
		return next(ctx, cmds)
	}
}

// saw drains what the hook saw, among it this.
func (h *nosy) saw(t *testing.T, name string) {
	t.Helper()
	found := false
	for len(h.names) > 0 {
		found = <-h.names == name || found
	}
	if !found {
		t.Errorf("the hook did not see %q", name)
	}
}

func TestHooksOfTheClientSeeTheCommands(t *testing.T) {
	s := startServer(t)
	c := redis.NewClient(&redis.Options{Addr: s.addr, MaxRetries: -1})
	h := &nosy{names: make(chan string, 100)}
	c.AddHook(h)
	d, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(); _ = c.Close() })
	ctx := background(t)
	if s, err := d.Do(ctx, command("Set", "k", "secret")).Text(); s != "OK" {
		t.Errorf("SET: %q, %v", s, err)
	}
	h.saw(t, "set/set/set/Set")
	if s, err := d.DoMulti(ctx, []driver.Cmd{read("GET", "k")})[0].Text(); s != "secret" {
		t.Errorf("GET: %q, %v", s, err)
	}
	h.saw(t, "get")
	h.panic.Store(true)
	err = d.Do(ctx, command("SET", "k", "v")).Err()
	if err == nil || !strings.Contains(err.Error(), "panic") {
		t.Errorf("panic in a hook: %v", err)
	}
	h.panic.Store(false)
	must(t, d.Do(ctx, command("SET", "k", "v")))

	// A failure to connect is told even though the hook asked for the arguments.
	s.stop()
	eventually(t, 30*time.Second, "a refused connection is not sent", func() bool {
		for len(h.names) > 0 {
			<-h.names
		}
		return errors.Is(d.Do(ctx, command("SET", "k", "v")).Err(), driver.ErrNotSent)
	})
}

func TestNewRefusesWhatItCannotKeepPromisesFor(t *testing.T) {
	ring := redis.NewRing(&redis.RingOptions{})
	defer func() { _ = ring.Close() }()
	var none *redis.Client
	var noCluster *redis.ClusterClient
	patient := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", ReadTimeout: -1})
	defer func() { _ = patient.Close() }()
	for _, c := range []redis.UniversalClient{nil, none, noCluster, ring, patient} {
		if d, err := New(c); err == nil || d != nil {
			t.Errorf("New(%T) works", c)
		}
	}
}

func TestOpenNamesTheCause(t *testing.T) {
	s := startServer(t, "--requirepass", "pass-word")
	plain := startServer(t)
	hangUp := startListener(t, func(c net.Conn) {})
	mute := startListener(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	babble := startListener(t, func(c net.Conn) { _, _ = io.WriteString(c, "-ERR unknown command\r\n"); _, _ = io.Copy(io.Discard, c) })
	for url, cause := range map[string]string{
		"redis://:wr0ng@" + s.addr:                                   "WRONGPASS",
		"redis://" + s.addr:                                          "NOAUTH",
		"redis://:pass-word@" + s.addr + "/99":                       "DB index is out of range",
		"redis://127.0.0.1:1":                                        "refused",
		"redis-cluster://:pass-word@" + s.addr:                       "no Cluster",
		"redis-cluster://:wr0ng@" + s.addr:                           "WRONGPASS",
		"redis-sentinel://127.0.0.1:1/m":                             "refused",
		"rediss://:pass-word@" + s.addr + "?dial_timeout=300ms":      "does not speak TLS",
		"redis-cluster://" + s.addr + "?tls=true&dial_timeout=300ms": "does not speak TLS",
		"rediss://" + babble.addr:                                    "does not speak TLS",
		"rediss://" + mute.addr + "?dial_timeout=300ms":              "does not speak TLS",
		"redis://" + hangUp.addr:                                     "perhaps it expects TLS (rediss://)",
		"redis-cluster://" + hangUp.addr:                             "perhaps it expects TLS (parameter tls=true)",
		"redis-sentinel://" + plain.addr + "/m":                      "no Sentinel",
		"redis-sentinel://" + plain.addr + "," + hangUp.addr + "/m":  "no Sentinel",
		"redis://:pass-word@" + s.addr + "?nonsense=1":               "nonsense",
		"unix:///nowhere/redis.sock":                                 "no such file",
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		d, err := Open(ctx, url)
		if cancel(); err == nil {
			_ = d.Close()
			t.Errorf("Open(%q) works", url)
			continue
		}
		text := err.Error()
		if strings.Count(text, "redisx:") != 1 {
			t.Errorf("Open(%q): %v; want one \"redisx:\"", url, err)
		}
		if !strings.Contains(text, cause) || strings.Contains(text, "wr0ng") || strings.Contains(text, "pass-word") || strings.Contains(text, "\n") {
			t.Errorf("Open(%q): %v; want one line that says %q", url, err, cause)
		}
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for _, scheme := range []string{"redis://%", "rediss://%", "redis-cluster://%", "redis-sentinel://%/m"} {
		scheme += "?dial_timeout=20s&read_timeout=20s"
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(100*time.Millisecond, cancel)
		start := time.Now()
		_, err := Open(ctx, strings.Replace(scheme, "%", l.Addr().String(), 1))
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: Open took %v", scheme, took)
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want canceled", scheme, err)
		}
	}
}

func TestOptionsTakeEffect(t *testing.T) {
	s := startServer(t, "--requirepass", "right")
	var dialled, asked atomic.Int32
	d := open(t, "redis://:wrong@"+s.addr,
		WithDialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			dialled.Add(1)
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}),
		WithCredentials(func(context.Context) (string, string, error) { asked.Add(1); return "", "right", nil }),
		WithDialer(nil), WithCredentials(nil), WithTLSConfig(nil), nil)
	must(t, d.Do(background(t), command("SET", "k", "v")))
	if dialled.Load() == 0 || asked.Load() == 0 {
		t.Errorf("dialled %d times, asked %d times", dialled.Load(), asked.Load())
	}
	conn, err := d.Dedicate(background(t), "")
	if err != nil {
		t.Fatal(err)
	}
	must(t, conn.Do(background(t), command("GET", "k")))
	_ = conn.Close()
}

func TestCapsAreTheCallersOwn(t *testing.T) {
	d := open(t, "redis://"+startServer(t).addr)
	for range 3 {
		caps, err := d.Caps(background(t))
		if err != nil || !caps.Has("GETEX") {
			t.Fatalf("%v, %v; want GETEX", caps, err)
		}
		clear(caps.Commands)
	}
}
