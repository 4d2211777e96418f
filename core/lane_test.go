package core

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

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

func TestListsOfSeveralCallersSayThatTheyAre(t *testing.T) {
	d, entered, release := blockedDriver()
	var mu sync.Mutex
	together := map[string]bool{}
	answer := d.answer
	d.answer = func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		mu.Lock()
		key := cmd.Args[len(cmd.Args)-1]
		together[key] = together[key] || driver.SentTogether(ctx)
		mu.Unlock()
		return answer(ctx, cmd)
	}
	c := newTestClient(t, d, WithCommandTimeout(time.Minute))
	var wg sync.WaitGroup
	fill(t, c, entered, &wg)
	wg.Go(func() { c.DoMulti(t.Context(), []driver.Cmd{get("own")}) })
	for range 20 {
		wg.Go(func() { c.Do(t.Context(), get("joined")) })
	}
	eventually(t, "20 wait", func() bool {
		c.lane0.mu.Lock()
		defer c.lane0.mu.Unlock()
		return len(c.lane0.queue) == 20
	})
	close(release)
	wg.Wait()
	if want := map[string]bool{"first": false, "own": false, "joined": true}; !maps.Equal(together, want) {
		t.Errorf("the driver was told %v, want %v", together, want)
	}
	derived, cancel := context.WithTimeout(driver.UntilDeadlineTogether(time.Now().Add(time.Minute)), time.Second)
	defer cancel()
	if !driver.SentTogether(derived) || driver.SentTogether(t.Context()) || driver.SentTogether(driver.UntilDeadline(time.Now())) {
		t.Error("a context does not say what it is for")
	}
}
