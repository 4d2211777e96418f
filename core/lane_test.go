package core

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// silent answers nothing, but PING if told so.
func silent(answersPing bool) (d *fakeDriver, pings *atomic.Int32) {
	pings = &atomic.Int32{}
	return &fakeDriver{answer: func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		if cmd.Args[0] == "PING" {
			if pings.Add(1); answersPing {
				return driver.StringReply("PONG")
			}
		}
		<-ctx.Done()
		return driver.ErrReply(driver.Unknown(ctx.Err()))
	}}, pings
}

// hurry makes a call with a deadline of 2 ms.
func hurry(c *Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
	defer cancel()
	return c.Do(ctx, set("x")).Err()
}

func TestASilentServerOpensTheBreakerAlsoForOneImpatientCaller(t *testing.T) {
	for name, opts := range map[string][]Option{"batching": nil, "alone": {WithoutBatching()}} {
		t.Run(name, func(t *testing.T) {
			d, pings := silent(false)
			hour := WithBreaker(BreakerConfig{Failures: 3, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour})
			c := newTestClient(t, d, append(opts, hour, WithCommandTimeout(30*time.Millisecond))...)
			for i := range 2 {
				if err := hurry(c); !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("call %d: %v", i, err)
				}
			}
			if n := pings.Load(); n != 0 {
				t.Errorf("%d PINGs after two calls; want none", n)
			}
			eventually(t, "the breaker is open", func() bool { return errors.Is(hurry(c), ErrBreakerOpen) })
			for range 5 { // callers who were let in before
				c.lane0.breaker.impatient(0)
			}
			time.Sleep(20 * time.Millisecond)
			if n := pings.Load(); n != 1 {
				t.Errorf("%d PINGs; want one", n)
			}
		})
	}
}

func TestCallersInAHurryDoNotOpenTheBreakerOfASlowServer(t *testing.T) {
	d, pings := silent(true)
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 2, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	for range 20 {
		if err := hurry(c); errors.Is(err, ErrBreakerOpen) {
			t.Fatal("the breaker opened although PING is answered")
		}
	}
	eventually(t, "a PING", func() bool { return pings.Load() > 0 })
	for range 20 {
		_ = hurry(c)
	}
	if n := pings.Load(); n != 1 {
		t.Errorf("%d PINGs within one ProbeInterval; want one", n)
	}
}

func TestAnAnswerEndsTheDoubt(t *testing.T) {
	d, pings := silent(false)
	inner := d.answer
	d.answer = func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		if cmd.Args[0] == "GET" {
			return driver.StringReply("v")
		}
		return inner(ctx, cmd)
	}
	c := newTestClient(t, d, fastProbe(3))
	for range 10 {
		_, _ = hurry(c), hurry(c)
		c.Do(t.Context(), get("k"))
	}
	if n := pings.Load(); n != 0 {
		t.Errorf("%d PINGs, with an answer after every second call", n)
	}
}

func TestAViewInAHurryDoesNotOpenTheBreaker(t *testing.T) {
	d, pings := silent(true)
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 2, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	view := c.WithTimeout(time.Millisecond)
	for range 20 {
		if err := view.Do(t.Context(), set("x")).Err(); errors.Is(err, ErrBreakerOpen) {
			t.Fatal("the breaker opened although PING is answered")
		}
		for _, r := range view.DoMulti(t.Context(), []driver.Cmd{set("x")}) {
			if errors.Is(r.Err(), ErrBreakerOpen) {
				t.Fatal("the breaker opened although PING is answered")
			}
		}
	}
	eventually(t, "a PING", func() bool { return pings.Load() > 0 })
}

func TestTheErrorTellsWhoseDeadlineItWas(t *testing.T) {
	d, _ := silent(true)
	c := newTestClient(t, d, WithCommandTimeout(20*time.Millisecond), WithoutBreaker())
	own := "command timeout of 20ms"
	for name, do := range map[string]func(ctx context.Context) error{
		"Do":      func(ctx context.Context) error { return c.Do(ctx, set("x")).Err() },
		"DoMulti": func(ctx context.Context) error { return c.DoMulti(ctx, []driver.Cmd{set("x")})[0].Err() },
	} {
		err := do(t.Context())
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), own) {
			t.Errorf("%s: %v; want it to name the %s", name, err, own)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if err := do(ctx); !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "command timeout") {
			t.Errorf("%s with a deadline of its own: %v", name, err)
		}
		cancel()
	}
	if err := c.WithTimeout(5*time.Millisecond).Do(t.Context(), set("x")).Err(); !strings.Contains(err.Error(), "command timeout of 5ms") {
		t.Errorf("a view: %v", err)
	}
}

func TestACancelledCallerIsToldSoAlsoUnderAnOpenBreaker(t *testing.T) {
	d, dead, _ := switchable()
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 1, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	dead.Store(true)
	c.Do(t.Context(), set("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range []error{c.Do(ctx, set("x")).Err(), c.DoMulti(ctx, []driver.Cmd{set("x")})[0].Err()} {
		if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrNotSent) || errors.Is(err, ErrUnavailable) {
			t.Errorf("%v; want context.Canceled and ErrNotSent", err)
		}
	}
}

func TestResultsOfAnEarlierEpochCountForNothing(t *testing.T) {
	d, dead, _ := switchable()
	c := newTestClient(t, d, fastProbe(2))
	b := &c.lane0.breaker
	old, _ := b.begin()
	dead.Store(true)
	for range 2 {
		c.Do(t.Context(), set("x"))
	}
	dead.Store(false)
	eventually(t, "closed again", func() bool { _, ok := b.begin(); return ok })
	for range 5 {
		b.fail(old, ClassTimeout)
	}
	if _, ok := b.begin(); !ok {
		t.Fatal("failures from before the last opening opened it again")
	}
	now, _ := b.begin()
	b.fail(now, ClassTimeout)
	b.end(old, nil)
	b.fail(now, ClassTimeout)
	if _, ok := b.begin(); ok {
		t.Error("a success from before the last opening hid a failure")
	}
}

func TestAnErrorReplyIsASignOfLife(t *testing.T) {
	d, dead, _ := switchable()
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 3, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	dead.Store(true)
	for range 3 {
		for range 2 {
			c.Do(t.Context(), set("x"))
		}
		c.lane0.breaker.end(0, driver.NewServerError("WRONGTYPE of something"))
	}
	if open := c.openBreakers(); len(open) > 0 {
		t.Error("open, although every third command was answered")
	}
}

func TestProbesGrowRarerUpToTheMaximum(t *testing.T) {
	d, dead, pings := switchable()
	dead.Store(true)
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 1, ProbeInterval: time.Millisecond, MaxProbeInterval: 64 * time.Millisecond}))
	start := time.Now()
	c.Do(t.Context(), set("x"))
	time.Sleep(300 * time.Millisecond)
	n, elapsed := pings.Load(), time.Since(start)
	if most := 7 + int32(elapsed/(51*time.Millisecond)); n > most { // 1, 2, … 32, then 64 ms, less a fifth
		t.Errorf("%d PINGs in %v; want at most %d", n, elapsed, most)
	}

	often, dead2, pings2 := switchable()
	dead2.Store(true)
	c = newTestClient(t, often, WithBreaker(BreakerConfig{Failures: 1, ProbeInterval: time.Millisecond, MaxProbeInterval: 2 * time.Millisecond}))
	c.Do(t.Context(), set("x"))
	eventually(t, "30 PINGs, which doubling for ever would take days for", func() bool { return pings2.Load() >= 30 })
}

func TestAProbeGoesToItsNode(t *testing.T) {
	d := routedFake{&fakeDriver{node: func(key string) string { return key[:1] }}}
	near := make(chan string, 100)
	d.answer = func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		if cmd.Args[0] == "PING" {
			near <- cmd.Near
			return driver.StringReply("PONG")
		}
		return driver.ErrReply(driver.NotSent(errors.New("refused")))
	}
	c := newTestClient(t, d, fastProbe(1))
	c.Do(t.Context(), get("b1"))
	if key := <-near; key != "b1" {
		t.Errorf("PING near %q; want b1", key)
	}
}

func TestAPipelineTellsEachBreakerOfItsOwnNode(t *testing.T) {
	d := routedFake{&fakeDriver{node: func(key string) string { return key[:1] }}}
	d.answer = func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		switch key := cmd.Route(); {
		case key == "b-slow", key[0] == 'a':
			return driver.ErrReply(driver.Unknown(context.DeadlineExceeded))
		case key == "c-wrong":
			return driver.ErrReply(driver.NewServerError("WRONGTYPE of something"))
		case key == "c-slow":
			return driver.ErrReply(driver.Unknown(context.DeadlineExceeded))
		}
		return echo(ctx, cmd)
	}
	c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 3, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	for range 3 {
		c.DoMulti(t.Context(), []driver.Cmd{get("b-slow"), get("a1"), get("b2"), get("a2"), get("b-slow"), get("c-wrong"), get("c-slow")})
	}
	if open := c.openBreakers(); len(open) != 1 || open[0] != "a" {
		t.Errorf("open breakers %q; want that of node a alone: b and c answered one command each", open)
	}
}

func TestACallerWaitsNoLongerThanTheTimeoutForAStuckLane(t *testing.T) {
	stuck := make(chan struct{})
	entered := make(chan struct{}, maxInFlight)
	d := &fakeDriver{answer: func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		entered <- struct{}{}
		<-stuck // a driver that breaks its promise
		return echo(ctx, cmd)
	}}
	c := newTestClient(t, d, WithCommandTimeout(30*time.Millisecond))
	var wg sync.WaitGroup
	fill(t, c, entered, &wg)
	got := make(chan error, 1)
	go func() { got <- c.Do(context.Background(), set("waiting")).Err() }()
	select {
	case err := <-got:
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrNotSent) {
			t.Errorf("%v; want DeadlineExceeded and ErrNotSent", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("still waiting")
	}
	close(stuck)
	wg.Wait()
}

func TestCloseFailsWhatIsQueued(t *testing.T) {
	release := make(chan struct{})
	entered := make(chan struct{}, 100)
	d := &fakeDriver{answer: func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		entered <- struct{}{}
		<-release
		return echo(ctx, cmd)
	}}
	c, err := New(d, WithCommandTimeout(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	fill(t, c, entered, &wg)
	got := make(chan error, 5)
	for range cap(got) {
		go func() { got <- c.Do(context.Background(), set("queued")).Err() }()
	}
	eventually(t, "queued", func() bool {
		c.lane0.mu.Lock()
		defer c.lane0.mu.Unlock()
		return len(c.lane0.queue) == cap(got)
	})
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	close(release)
	for range cap(got) {
		select {
		case err := <-got:
			if !errors.Is(err, ErrClosed) {
				t.Errorf("%v; want ErrClosed", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a queued command waits for ever")
		}
	}
	wg.Wait()
	if !c.lane0.idle() {
		t.Errorf("%d places are still taken", c.lane0.inFlight)
	}
}

func TestCloseWaitsForWhatTheClientStarted(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{}, 1)
	d := &fakeDriver{answer: func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		if cmd.Args[0] == "PING" {
			entered <- struct{}{}
			<-release // deaf to its context
		}
		return driver.ErrReply(driver.NotSent(errors.New("refused")))
	}}
	c, err := New(d, fastProbe(1))
	if err != nil {
		t.Fatal(err)
	}
	c.Do(t.Context(), set("x"))
	<-entered
	closed := make(chan struct{})
	go func() { defer close(closed); _ = c.Close() }()
	select {
	case <-closed:
		t.Error("Close returned while a probe was running")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("Close hangs")
	}
}

// keeper reads its commands after the call has ended, as a driver may that was called back.
type keeper struct {
	fakeDriver
	mu   sync.Mutex
	kept [][]driver.Cmd
}

func (d *keeper) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	if cmds[0].Args[2] != "slow" {
		return d.fakeDriver.DoMulti(ctx, cmds)
	}
	<-ctx.Done()
	d.mu.Lock()
	d.kept = append(d.kept, cmds)
	d.mu.Unlock()
	return repeated(len(cmds), driver.ErrReply(driver.Unknown(ctx.Err())))
}

func TestABatchThatWasCalledBackIsNotOverwritten(t *testing.T) {
	d := &keeper{}
	c := newTestClient(t, d, WithCommandTimeout(500*time.Millisecond), WithoutBreaker())
	for _, round := range []string{"slow", "other"} {
		blocked, entered, release := blockedDriver()
		d.answer = blocked.answer
		var wg sync.WaitGroup
		fill(t, c, entered, &wg)
		for range 10 {
			wg.Go(func() { c.Do(context.Background(), set(round)) })
		}
		eventually(t, "queued", func() bool {
			c.lane0.mu.Lock()
			defer c.lane0.mu.Unlock()
			return len(c.lane0.queue) == 10
		})
		close(release)
		wg.Wait() // the first round ends by the command timeout
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.kept) == 0 {
		t.Fatal("no batch was called back")
	}
	for _, cmds := range d.kept {
		for _, cmd := range cmds {
			if len(cmd.Args) != 3 || cmd.Args[2] != "slow" {
				t.Fatalf("a command of the batch has become %q", cmd.Args)
			}
		}
	}
}

func TestABudgetHandsOutNoContextThatIsOver(t *testing.T) {
	b := newBudget(time.Minute)
	over := driver.UntilDeadline(time.Now().Add(-time.Second))
	b.current.Store(&tick{ctx: over}) // as after a pause of the process that was longer than the timer
	if err := b.context().Err(); err != nil {
		t.Error(err)
	}
}

func TestLanesOfNodesThatAreGoneAreDropped(t *testing.T) {
	d := routedFake{&fakeDriver{answer: echo, node: func(key string) string { return key }}}
	c := newTestClient(t, d)
	busy := c.laneFor(&driver.Cmd{Args: []string{"GET", "busy"}, Keys: driver.Key(1)})
	busy.enter()
	often := c.laneFor(&driver.Cmd{Args: []string{"GET", "often"}, Keys: driver.Key(1)})
	for i := range 10_000 {
		if err := c.Do(t.Context(), get(fmt.Sprintf("node%d", i))).Err(); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			c.Do(t.Context(), get("often"))
		}
	}
	n := 0
	c.lanes.Range(func(any, any) bool { n++; return true })
	if n != c.laneCount || n > 4*fewLanes {
		t.Errorf("%d lanes, counted as %d, after 10000 nodes; want at most %d", n, c.laneCount, 4*fewLanes)
	}
	for node, l := range map[string]*lane{"busy": busy, "often": often} {
		if now, _ := c.lanes.Load(node); now != l {
			t.Errorf("the lane of node %q, which is in use, was dropped", node)
		}
	}
	busy.leave()
}

func TestLanesAreBounded(t *testing.T) {
	d := routedFake{&fakeDriver{answer: echo, node: func(key string) string { return key }}}
	c := newTestClient(t, d)
	for i := range maxLanes + 50 {
		c.laneFor(&driver.Cmd{Args: []string{"GET", fmt.Sprint("n", i)}, Keys: driver.Key(1)}).enter()
	}
	if c.laneCount != maxLanes {
		t.Errorf("%d lanes; want %d", c.laneCount, maxLanes)
	}
	if l := c.laneFor(&driver.Cmd{Args: []string{"GET", "one more"}, Keys: driver.Key(1)}); l != c.lane0 {
		t.Error("a node beyond the last lane has one of its own")
	}
}

func TestNewRefusesANilPointer(t *testing.T) {
	var none *fakeDriver
	for _, d := range []driver.Driver{nil, none} {
		if _, err := New(d); err == nil || !strings.Contains(err.Error(), "nil driver") {
			t.Errorf("New(%T): %v", d, err)
		}
	}
}

// inCluster is a fake that is a Cluster's.
type inCluster struct{ *fakeDriver }

func (inCluster) Caps(context.Context) (driver.Caps, error) {
	return driver.Caps{Server: "fake", Topology: driver.Cluster}, nil
}

func TestHealthOfAClusterAndOfANodeTakenForAServer(t *testing.T) {
	info := func(text string) map[string]driver.Reply {
		return map[string]driver.Reply{"CLUSTER INFO": driver.StringReply(text)}
	}
	for _, c := range []struct {
		name    string
		cluster bool
		over    map[string]driver.Reply
		want    string
	}{
		{"a sound Cluster", true, info("cluster_state:ok\r\ncluster_size:3\r\n"), ""},
		{"a broken Cluster", true, info("cluster_state:fail\r\ncluster_size:3\r\n"), "cluster_state is fail"},
		{"a Cluster that does not tell", true, nil, "cluster state is unknown"},
		{"a server", false, nil, ""},
		{"a Cluster of one, as a server", false, info("cluster_state:ok\r\ncluster_size:1\r\n"), ""},
		{"a node, as a server", false, info("cluster_state:ok\r\ncluster_size:3\r\n"), "one of the 3 primaries"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d driver.Driver = serverLike(c.over)
			if c.cluster {
				d = inCluster{serverLike(c.over)}
			}
			h := newTestClient(t, d).Health(t.Context())
			if all := strings.Join(h.Warnings, "\n"); !h.Up || !strings.Contains(all, c.want) || c.want == "" && all != "" {
				t.Errorf("up %v, warnings %q; want %q", h.Up, all, c.want)
			}
		})
	}
	h := newTestClient(t, serverLike(map[string]driver.Reply{"PING": driver.StringReply("+HELLO")})).Health(t.Context())
	if h.Up || h.Err == nil {
		t.Errorf("a server that answers PING with something else: %+v", h)
	}
}

func TestWhatSaysNothingIsNoSignOfLife(t *testing.T) {
	timeout := driver.ErrReply(driver.Unknown(context.DeadlineExceeded))
	nothing := map[string]driver.Reply{
		"invalid":   driver.ErrReply(driver.NotSent(driver.ErrInvalid)),
		"CROSSSLOT": driver.CrossSlot(),
		"cancelled": driver.ErrReply(driver.Unknown(context.Canceled)),
	}
	for name, silent := range nothing {
		for _, list := range [][]driver.Reply{{silent}, {silent, timeout}, {timeout, silent}, {silent, silent}} {
			var o opinion
			for _, r := range list {
				o.add(r.Err())
			}
			if o.alive || o.err == nil || len(list) > 1 && !Classify(o.err).dead() != !strings.Contains(fmt.Sprint(list), "deadline") {
				t.Errorf("%s: %v says alive %v, %v", name, list, o.alive, o.err)
			}
		}
		d := &fakeDriver{answer: func(_ context.Context, cmd driver.Cmd) driver.Reply {
			if cmd.Args[0] == "SILENT" {
				return silent
			}
			return timeout
		}}
		c := newTestClient(t, d, WithBreaker(BreakerConfig{Failures: 3, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
		for range 3 {
			c.Do(t.Context(), set("x"))
			c.Do(t.Context(), driver.Cmd{Args: []string{"SILENT"}})
			c.DoMulti(t.Context(), []driver.Cmd{{Args: []string{"SILENT"}}})
			c.DoMulti(t.Context(), []driver.Cmd{{Args: []string{"SILENT"}}, {Args: []string{"SILENT"}}})
		}
		if open := c.openBreakers(); len(open) != 1 {
			t.Errorf("%s between timeouts kept the breaker closed", name)
		}
	}
	for _, r := range []driver.Reply{driver.StringReply("x"), driver.NilReply(), driver.ErrReply(driver.NewServerError("WRONGTYPE x"))} {
		for _, list := range [][]driver.Reply{{r, timeout}, {timeout, r}} {
			if err := verdict(list); err != nil {
				t.Errorf("%v: %v; an answer is life", list, err)
			}
		}
	}
}

func TestCancelledPipelinesOpenTheBreakerOfASilentServer(t *testing.T) {
	d, pings := silent(false)
	c := newTestClient(t, d, WithCommandTimeout(30*time.Millisecond), WithBreaker(BreakerConfig{Failures: 3, ProbeInterval: time.Hour, MaxProbeInterval: time.Hour}))
	eventually(t, "the breaker is open", func() bool {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Millisecond, cancel)
		return errors.Is(c.DoMulti(ctx, []driver.Cmd{set("x"), set("y")})[0].Err(), ErrBreakerOpen)
	})
	if n := pings.Load(); n != 1 {
		t.Errorf("%d PINGs; want one", n)
	}
}

func TestABlockingListThatFoundNothingIsNoOutage(t *testing.T) {
	d := &fakeDriver{answer: func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		switch cmd.Args[0] {
		case "BLPOP":
			<-ctx.Done()
			return driver.ErrReply(ctx.Err())
		case "PING":
			return driver.ErrReply(driver.NotSent(errors.New("refused")))
		}
		return driver.StringReply("OK")
	}}
	c := newTestClient(t, d, fastProbe(1))
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
		rs := c.DoMulti(ctx, []driver.Cmd{set("x"), {Args: []string{"BLPOP", "q", "0"}, Keys: driver.Key(1), Mode: driver.Blocking}})
		cancel()
		if err := rs[1].Err(); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnavailable) || Classify(err) != ClassCanceled {
			t.Errorf("%v, %s; want the deadline, class canceled and not ErrUnavailable", err, Classify(err))
		}
	}
	time.Sleep(10 * time.Millisecond)
	if open := c.openBreakers(); len(open) > 0 {
		t.Error("consumers that found nothing opened the breaker")
	}
}

func TestAProbeAsksTheNodeThatIsDeadAndNotTheOneItsKeyMovedTo(t *testing.T) {
	var moved, gone atomic.Bool
	d := routedFake{&fakeDriver{node: func(key string) string {
		switch {
		case key == "k" && moved.Load(), gone.Load():
			return "b"
		case key == "k" || key == "7":
			return "a"
		}
		return "b"
	}}}
	near := make(chan string, 10_000)
	d.answer = func(_ context.Context, cmd driver.Cmd) driver.Reply {
		if cmd.Args[0] == "PING" {
			near <- cmd.Near
		}
		if d.node(cmd.Route()) == "a" {
			return driver.ErrReply(driver.NotSent(errors.New("refused")))
		}
		return driver.StringReply("PONG")
	}
	c := newTestClient(t, d, fastProbe(1))
	l := c.laneFor(&driver.Cmd{Args: []string{"GET", "k"}, Keys: driver.Key(1)})
	moved.Store(true)
	l.breaker.fail(0, ClassNotSent)
	for range 5 {
		if key := <-near; key != "7" {
			t.Fatalf("PING near %q, which node b serves; want 7", key)
		}
	}
	if _, ok := l.breaker.begin(); ok {
		t.Error("node b's answer closed the breaker of node a")
	}
	gone.Store(true)
	eventually(t, "a node that serves no slot is asked no more", func() bool { _, ok := l.breaker.begin(); return ok })
}
