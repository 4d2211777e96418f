package redisxtest

import (
	"context"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// hasty is a test that go test -timeout always ends soon.
type hasty struct{ testing.TB }

func (hasty) Deadline() (time.Time, bool) { return time.Now().Add(1500 * time.Millisecond), true }

// leaky runs fn as a test that checks itself for leaks, and does not wait long. What fn leaves is for the caller to clear away.
func leaky(t *testing.T, fn func(t testing.TB)) *recorder {
	t.Helper()
	return record(t, func(t testing.TB) {
		t = hasty{t} // which NoLeaks asks once fn has ended
		NoLeaks(t)
		fn(t)
	})
}

func TestALeakedGoroutineIsFound(t *testing.T) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	r := leaky(t, func(testing.TB) { wg.Go(func() { <-end }) })
	require.True(t, r.failed)
	require.Contains(t, r.text(), "TestALeakedGoroutineIsFound")
	close(end)
	wg.Wait()
}

func TestWhatEndsInTimeIsNoLeak(t *testing.T) {
	r := record(t, func(t testing.TB) {
		NoLeaks(t)
		timer := time.NewTimer(100 * time.Millisecond)
		go func() { <-timer.C }()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		time.AfterFunc(100*time.Millisecond, func() { l.Close() })
	})
	require.False(t, r.failed, r.text())
}

func TestALeakedClientIsFound(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("a client of go-redis has no goroutine")
	}
	f := NewFake(t)
	for _, o := range openers {
		var d driver.Driver
		r := leaky(t, func(t testing.TB) {
			var err error
			d, err = o.open(testContext(t), f.URL())
			require.NoError(t, err)
			require.NoError(t, d.Do(testContext(t), driver.Cmd{Args: []string{"PING"}}).Err())
		})
		require.True(t, r.failed, o.name)
		require.Contains(t, r.text(), "sockets of this process are open", o.name)
		require.Contains(t, r.text(), " to "+f.Addr()+", established", o.name)
		require.NoError(t, d.Close())
	}
}

// Closing the client clears these away, and yet somebody forgot them.
func TestWhatOnlyCloseEndedIsFound(t *testing.T) {
	f := NewFake(t)
	for _, o := range openers {
		r := leaky(t, func(t testing.TB) {
			below, err := o.open(testContext(t), f.URL())
			require.NoError(t, err)
			d := Record(below)
			_, err = d.(driver.Dedicated).Dedicate(testContext(t), "cart:7")
			require.NoError(t, err)
			var wg, stand sync.WaitGroup
			stand.Add(2)
			wg.Go(func() {
				s := driver.Subscription{Channels: []string{"news"}, OnConfirmed: sync.OnceFunc(stand.Done)}
				_ = d.(driver.Subscriber).Subscribe(context.Background(), s)
			})
			wg.Go(func() {
				s := driver.Tracking{Prefixes: []string{"cart:"}, OnConfirmed: sync.OnceFunc(stand.Done)}
				_ = d.(driver.Tracker).Track(context.Background(), s)
			})
			stand.Wait()
			require.NoError(t, d.Close())
			wg.Wait()
			require.Error(t, d.(driver.Subscriber).Subscribe(context.Background(), driver.Subscription{Channels: []string{"never stood"}}))
		})
		require.True(t, r.failed)
		for _, want := range []string{`a dedicated connection near key "cart:7", opened at `, `a subscription to ["news"]`, `tracking of ["cart:"]`, "check_leaks_test.go:"} {
			require.Contains(t, r.text(), want)
		}
		require.NotContains(t, r.text(), f.Addr()) // the connections are gone
		require.NotContains(t, r.text(), "never stood")
	}
}

// useAll uses every ability of a client in the right way.
func useAll(t testing.TB, d driver.Driver) {
	c, err := core.New(Record(d), core.WithKeyPrefix(Prefix(t)), core.WithCommandTimeout(5*time.Second))
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 10 {
				require.NoError(t, c.Do(context.Background(), keyCmd("INCR", c.KeyPrefix()+"n")).Err())
			}
		})
	}
	wg.Wait()
	conn, err := c.Driver().(driver.Dedicated).Dedicate(testContext(t), c.KeyPrefix()+"n")
	require.NoError(t, err)
	require.NoError(t, conn.Do(testContext(t), keyCmd("DEL", c.KeyPrefix()+"n")).Err())
	require.NoError(t, conn.Close())
	ctx, cancel := context.WithCancel(testContext(t))
	stands := make(chan struct{}, 2)
	note := func() {
		select {
		case stands <- struct{}{}:
		default:
		}
	}
	wg.Go(func() {
		_ = c.Driver().(driver.Subscriber).Subscribe(ctx, driver.Subscription{Channels: []string{c.KeyPrefix()}, OnConfirmed: note})
	})
	wg.Go(func() {
		_ = c.Driver().(driver.Tracker).Track(ctx, driver.Tracking{Prefixes: []string{c.KeyPrefix()}, OnConfirmed: note})
	})
	<-stands
	cancel()
	wg.Wait()
}

func TestWhatIsClosedIsNoLeak(t *testing.T) {
	urls := map[string]func(t testing.TB) string{
		"fake":     func(t testing.TB) string { return NewFake(t).URL() },
		"server":   func(t testing.TB) string { return SharedServer(t).URL() },
		"cluster":  func(t testing.TB) string { return StartCluster(t, 3, 0).URL() },
		"sentinel": func(t testing.TB) string { return StartSentinel(t, 1).URL() },
	}
	for kind, url := range urls {
		t.Run(kind, func(t *testing.T) {
			NoLeaks(t)
			u := url(t)
			for _, o := range openers {
				d, err := o.open(testContext(t), u)
				require.NoError(t, err)
				useAll(t, d)
			}
		})
	}
}

func TestNoLeaksRefusesABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t, func(t testing.TB) { NoLeaks(t) })
		require.True(t, r.failed)
		require.Contains(t, r.text(), "synctest")
	})
}
