package core

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// fakeDriver answers from a function, and counts.
type fakeDriver struct {
	answer func(ctx context.Context, cmd driver.Cmd) driver.Reply
	node   func(key string) string

	mu      sync.Mutex
	batches []int // length of every call, 1 for Do
	seen    []string
	closed  atomic.Bool
}

func (d *fakeDriver) note(cmds ...driver.Cmd) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.batches = append(d.batches, len(cmds))
	for _, c := range cmds {
		d.seen = append(d.seen, c.Args[len(c.Args)-1])
	}
}

func (d *fakeDriver) calls() (batches []int, seen []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]int(nil), d.batches...), append([]string(nil), d.seen...)
}

func (d *fakeDriver) Do(ctx context.Context, cmd driver.Cmd) driver.Reply {
	if d.closed.Load() {
		return driver.ErrReply(driver.ErrClosed)
	}
	d.note(cmd)
	return d.answer(ctx, cmd)
}

func (d *fakeDriver) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	out := make([]driver.Reply, len(cmds))
	if !d.closed.Load() {
		d.note(cmds...)
	}
	for i, c := range cmds {
		if d.closed.Load() {
			out[i] = driver.ErrReply(driver.ErrClosed)
			continue
		}
		out[i] = d.answer(ctx, c)
	}
	return out
}

func (d *fakeDriver) Caps(context.Context) (driver.Caps, error) {
	return driver.Caps{Server: "fake"}, nil
}
func (d *fakeDriver) Unwrap() any  { return nil }
func (d *fakeDriver) Close() error { d.closed.Store(true); return nil }

type routedFake struct{ *fakeDriver }

func (d routedFake) Node(key string) string { return d.node(key) }

func echo(_ context.Context, cmd driver.Cmd) driver.Reply {
	return driver.StringReply(cmd.Args[len(cmd.Args)-1])
}

func newTestClient(t testing.TB, d driver.Driver, opts ...Option) *Client {
	t.Helper()
	c, err := New(d, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func get(key string) driver.Cmd {
	return driver.Cmd{Args: []string{"GET", key}, Keys: driver.Key(1), Mode: driver.ReadOnly}
}

func set(key string) driver.Cmd {
	return driver.Cmd{Args: []string{"SET", "k", key}, Keys: driver.Key(1)}
}

func cancellable(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for what another goroutine is about to do.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
