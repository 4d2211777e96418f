package core

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

func TestEveryCallerGetsHisOwnReply(t *testing.T) {
	for _, mode := range []string{"batching", "WithoutBatching"} {
		t.Run(mode, func(t *testing.T) {
			var opts []Option
			if mode != "batching" {
				opts = append(opts, WithoutBatching())
			}
			c := newTestClient(t, &fakeDriver{answer: echo}, opts...)
			var wg sync.WaitGroup
			for g := range 64 {
				wg.Go(func() {
					ctx := context.Background()
					if g%2 == 0 {
						ctx = cancellable(t)
					}
					for i := range 500 {
						want := strconv.Itoa(g*1000 + i)
						if got, err := c.Do(ctx, get(want)).Text(); err != nil || got != want {
							t.Errorf("got %q, %v; want %q", got, err, want)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// blockedDriver holds every call until released.
func blockedDriver() (d *fakeDriver, entered chan struct{}, release chan struct{}) {
	entered, release = make(chan struct{}, 1000), make(chan struct{})
	d = &fakeDriver{answer: func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		entered <- struct{}{}
		select {
		case <-release:
			return echo(ctx, cmd)
		case <-ctx.Done():
			return driver.ErrReply(driver.Unknown(ctx.Err()))
		}
	}}
	return d, entered, release
}

// fill starts as many calls as fit in flight.
func fill(t *testing.T, c *Client, entered chan struct{}, wg *sync.WaitGroup) {
	for range maxInFlight {
		wg.Go(func() { c.Do(context.Background(), get("first")) })
		<-entered
	}
}

func TestCommandsThatArriveWhileTheLaneIsBusyShareABatch(t *testing.T) {
	d, entered, release := blockedDriver()
	c := newTestClient(t, d, WithCommandTimeout(time.Minute))
	var wg sync.WaitGroup
	fill(t, c, entered, &wg)
	for i := range 100 {
		wg.Go(func() {
			if got, err := c.Do(cancellable(t), get(strconv.Itoa(i))).Text(); err != nil || got != strconv.Itoa(i) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	eventually(t, "100 commands queued", func() bool {
		c.lane0.mu.Lock()
		defer c.lane0.mu.Unlock()
		return len(c.lane0.queue) == 100
	})
	close(release)
	wg.Wait()
	batches, _ := d.calls()
	if n := len(batches); n > maxInFlight+4 || batches[maxInFlight] < 50 {
		t.Errorf("calls to the driver: %v; want the 100 waiting commands in one or a few", batches)
	}
}

func TestBatchesAreCapped(t *testing.T) {
	d, entered, release := blockedDriver()
	c := newTestClient(t, d, WithCommandTimeout(time.Minute))
	var wg sync.WaitGroup
	fill(t, c, entered, &wg)
	big := strings.Repeat("x", maxBatchBytes/4)
	for range 20 {
		wg.Go(func() { c.Do(context.Background(), get(big)) })
	}
	for range maxBatch + 100 {
		wg.Go(func() { c.Do(context.Background(), get("small")) })
	}
	eventually(t, "all queued", func() bool {
		c.lane0.mu.Lock()
		defer c.lane0.mu.Unlock()
		return len(c.lane0.queue) == 20+maxBatch+100
	})
	go func() { // later calls enter too
		for range entered {
		}
	}()
	close(release)
	wg.Wait()
	close(entered)
	batches, _ := d.calls()
	for _, n := range batches {
		if n > maxBatch {
			t.Errorf("a batch of %d commands; the cap is %d", n, maxBatch)
		}
	}
	if len(batches) < maxInFlight+4 {
		t.Errorf("%d calls; 5 MiB of values must not fit into fewer than 4 batches", len(batches)-maxInFlight)
	}
}

func TestACallerWhoLeavesTheQueueIsNeverSent(t *testing.T) {
	d, entered, release := blockedDriver()
	c := newTestClient(t, d, WithCommandTimeout(time.Minute))
	var wg sync.WaitGroup
	fill(t, c, entered, &wg)
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan error, 1)
	go func() { left <- c.Do(ctx, set("left")).Err() }()
	eventually(t, "queued", func() bool {
		c.lane0.mu.Lock()
		defer c.lane0.mu.Unlock()
		return len(c.lane0.queue) == 1
	})
	cancel()
	err := <-left
	if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrNotSent) || errors.Is(err, ErrUnknownOutcome) || errors.Is(err, ErrUnavailable) {
		t.Errorf("error %v; want context.Canceled and ErrNotSent only", err)
	}
	close(release)
	wg.Wait()
	c.Do(context.Background(), get("after"))
	if _, seen := d.calls(); strings.Contains(strings.Join(seen, " "), "left") {
		t.Error("the command was sent after its caller was told that it was not")
	}
}

func TestACallerWhoLeavesACommandUnderWayIsToldThatTheOutcomeIsUnknown(t *testing.T) {
	d, entered, release := blockedDriver()
	c := newTestClient(t, d, WithCommandTimeout(time.Minute))
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan error, 1)
	go func() { left <- c.Do(ctx, set("left")).Err() }()
	<-entered
	cancel()
	select {
	case err := <-left:
		if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUnknownOutcome) || errors.Is(err, ErrNotSent) {
			t.Errorf("error %v; want context.Canceled and ErrUnknownOutcome", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("cancelled, and still waiting")
	}
	close(release)
}

func TestSlotsLeftBehindDoNotLeakIntoLaterCalls(t *testing.T) {
	d := &fakeDriver{}
	d.answer = func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		time.Sleep(50 * time.Microsecond)
		return echo(ctx, cmd)
	}
	c := newTestClient(t, d)
	var wg sync.WaitGroup
	for g := range 32 {
		wg.Go(func() {
			for i := range 300 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i%7)*20*time.Microsecond)
				if i%5 == 0 {
					ctx = context.Background()
				}
				want := strconv.Itoa(g*1000 + i)
				r := c.Do(ctx, get(want))
				if got, err := r.Text(); err == nil && got != want {
					t.Errorf("got the reply %q of somebody else; want %q", got, want)
				} else if err != nil && ctx.Err() == nil {
					t.Errorf("error without a reason: %v", err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
}

func TestNoCallOutlivesTheCommandTimeout(t *testing.T) {
	const timeout = 60 * time.Millisecond
	for name, opts := range map[string][]Option{"batching": nil, "alone": {WithoutBatching()}} {
		t.Run(name, func(t *testing.T) {
			d, _, _ := blockedDriver()
			c := newTestClient(t, d, append(opts, WithCommandTimeout(timeout), WithoutBreaker())...)
			var wg sync.WaitGroup
			var worst atomic.Int64
			for g := range 40 {
				wg.Go(func() {
					ctx := context.Background()
					if g%2 == 0 {
						ctx = cancellable(t)
					}
					start := time.Now()
					err := c.Do(ctx, set("x")).Err()
					took := time.Since(start)
					worst.Store(max(worst.Load(), int64(took)))
					if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnavailable) {
						t.Errorf("error %v; want DeadlineExceeded and ErrUnavailable", err)
					}
					if took < timeout-10*time.Millisecond {
						t.Errorf("gave up after %v", took)
					}
					// The promise is 50 ms; the host is shared.
					if took > timeout+500*time.Millisecond {
						t.Errorf("returned after %v", took)
					}
				})
			}
			wg.Wait()
			t.Logf("timeout %v, slowest of 40 callers %v", timeout, time.Duration(worst.Load()))
		})
	}
}

func TestAStalledNodeDoesNotHoldUpTheOthers(t *testing.T) {
	stalled := make(chan struct{})
	d := routedFake{&fakeDriver{node: func(key string) string { return key[:1] }}}
	d.answer = func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		if cmd.Args[1][0] == 'a' {
			select {
			case <-stalled:
			case <-ctx.Done():
			}
		}
		return echo(ctx, cmd)
	}
	c := newTestClient(t, d, WithCommandTimeout(time.Minute))
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { c.Do(cancellable(t), get("a")) })
	}
	eventually(t, "node a is busy", func() bool {
		l, ok := c.lanes.Load("a")
		if !ok {
			return false
		}
		l.(*lane).mu.Lock()
		defer l.(*lane).mu.Unlock()
		return l.(*lane).inFlight == maxInFlight
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 1000 {
			if err := c.Do(cancellable(t), get(fmt.Sprintf("b%d", i))).Err(); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("commands to node b wait behind node a")
	}
	close(stalled)
	wg.Wait()
}

func TestReadsOfABrokenBatchAreSentAgainAndWritesAreNot(t *testing.T) {
	var broken atomic.Bool
	d, entered, release := blockedDriver()
	inner := d.answer
	d.answer = func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		if r := inner(ctx, cmd); cmd.Args[len(cmd.Args)-1] == "first" {
			return r
		}
		if cmd.Mode == driver.Write {
			broken.Store(true)
		}
		if broken.Load() && cmd.Mode == driver.Write || !broken.Load() {
			return driver.ErrReply(driver.Unknown(io.EOF))
		}
		return echo(ctx, cmd)
	}
	c := newTestClient(t, d, WithCommandTimeout(time.Minute), WithoutBreaker())
	var wg sync.WaitGroup
	fill(t, c, entered, &wg)
	errs := make([]error, 20)
	queued := func(n int) func() bool {
		return func() bool {
			c.lane0.mu.Lock()
			defer c.lane0.mu.Unlock()
			return len(c.lane0.queue) == n
		}
	}
	for i := range errs { // reads first, the write last: when it is answered the connection "broke"
		wg.Go(func() {
			cmd := get(strconv.Itoa(i))
			if i == len(errs)-1 {
				cmd = set(strconv.Itoa(i))
			}
			errs[i] = c.Do(context.Background(), cmd).Err()
		})
		eventually(t, "queued", queued(i+1))
	}
	close(release)
	wg.Wait()
	_, seen := d.calls()
	for i, err := range errs {
		n := strings.Count(" "+strings.Join(seen, " ")+" ", " "+strconv.Itoa(i)+" ")
		if i < len(errs)-1 && (err != nil || n != 2) {
			t.Errorf("read %d: sent %d times, error %v; want twice and no error", i, n, err)
		}
		if i == len(errs)-1 && (!errors.Is(err, ErrUnknownOutcome) || n != 1) {
			t.Errorf("write: sent %d times, error %v; want once and ErrUnknownOutcome", n, err)
		}
	}
}

func TestCloseEndsEverythingAndLaterCallsFail(t *testing.T) {
	d := &fakeDriver{answer: echo}
	c, err := New(d)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			ctx := cancellable(t)
			for {
				if err := c.Do(ctx, get("x")).Err(); err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Errorf("error %v; want ErrClosed", err)
					}
					return
				}
			}
		})
	}
	eventually(t, "commands flow", func() bool { b, _ := d.calls(); return len(b) > 1000 })
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	for _, ctx := range []context.Context{context.Background(), cancellable(t)} {
		err := c.Do(ctx, get("x")).Err()
		if !errors.Is(err, ErrClosed) || !errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrNotSent) {
			t.Errorf("after Close: %v; want ErrClosed, ErrUnavailable and ErrNotSent", err)
		}
	}
}

func TestBlockingCommandsStayOutOfTheLane(t *testing.T) {
	d, entered, release := blockedDriver()
	c := newTestClient(t, d, WithCommandTimeout(20*time.Millisecond))
	got := make(chan driver.Reply, 1)
	for range maxInFlight + 1 {
		go func() {
			got <- c.Do(cancellable(t), driver.Cmd{Args: []string{"BLPOP", "q", "0"}, Keys: driver.Key(1), Mode: driver.Blocking})
		}()
		<-entered
	}
	select {
	case r := <-got:
		t.Fatalf("ended by the command timeout: %v", r)
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	if err := c.Do(cancellable(t), get("x")).Err(); err != nil {
		t.Errorf("a command beside them: %v", err)
	}
	for range maxInFlight + 1 {
		if err := (<-got).Err(); err != nil {
			t.Error(err)
		}
	}
}

func TestWithTimeoutGivesSlowCommandsTheirTime(t *testing.T) {
	d := &fakeDriver{answer: func(ctx context.Context, cmd driver.Cmd) driver.Reply {
		select {
		case <-time.After(100 * time.Millisecond):
			return echo(ctx, cmd)
		case <-ctx.Done():
			return driver.ErrReply(driver.Unknown(ctx.Err()))
		}
	}}
	c := newTestClient(t, d, WithCommandTimeout(10*time.Millisecond))
	if err := c.Do(cancellable(t), get("x")).Err(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v; want DeadlineExceeded", err)
	}
	for _, ctx := range []context.Context{context.Background(), cancellable(t)} {
		if err := c.WithTimeout(10*time.Second).Do(ctx, get("x")).Err(); err != nil {
			t.Errorf("with 10 s: %v", err)
		}
	}
}

// A context that can be cancelled and outlives the command timeout is wrapped, by the standard library.
func TestDoAddsNoAllocation(t *testing.T) {
	d := &allocDriver{}
	cmd := get("k")
	short, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		most float64
	}{"background": {context.Background(), 0}, "with a deadline": {short, 0}, "cancellable": {cancellable(t), 6}} {
		client := newTestClient(t, d, WithCommandTimeout(time.Hour))
		client.Do(c.ctx, cmd)
		if n := testing.AllocsPerRun(2000, func() { client.Do(c.ctx, cmd) }); n > c.most {
			t.Errorf("%s: %v allocations per command; want at most %v", name, n, c.most)
		}
	}
}

// allocDriver allocates nothing.
type allocDriver struct{ fakeDriver }

func (*allocDriver) Do(context.Context, driver.Cmd) driver.Reply { return driver.IntReply(1) }
func (*allocDriver) Close() error                                { return nil }
