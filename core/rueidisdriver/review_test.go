package rueidisdriver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

// TestCloseWhileTheClientsPoolIsEmpty has the application hold the only connection of its client. Nothing can end the wait
// of the client for it, and Close does not wait for that.
func TestCloseWhileTheClientsPoolIsEmpty(t *testing.T) {
	s := startServer(t)
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.addr}, ForceSingleClient: true, BlockingPoolSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	d, err := New(client)
	if err != nil {
		t.Fatal(err)
	}
	held, giveBack := client.Dedicate()
	if err := held.Do(t.Context(), held.B().Ping().Build()).Error(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.Dedicate(ctx, ""); !errors.Is(err, driver.ErrNotSent) {
		t.Errorf("Dedicate: %v", err)
	}
	waits := make(chan error, 1)
	go func() { waits <- d.Do(context.Background(), blpop("l", "1")).Err() }()
	eventually(t, 5*time.Second, "BLPOP to wait", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.waiting) > 0
	})
	done := make(chan struct{})
	go func() { _ = d.Close(); close(done) }()
	if err := <-waits; !errors.Is(err, driver.ErrClosed) {
		t.Errorf("a call that waits while the driver closes: %v", err)
	}
	select {
	case <-done:
	case <-time.After(closeWithin + 10*time.Second):
		t.Error("Close hangs")
	}
	giveBack()
	// The connection that came too late was given back.
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = client.Dedicated(func(c rueidis.DedicatedClient) error { return c.Do(ctx, c.B().Ping().Build()).Error() })
	if err != nil {
		t.Errorf("the client afterwards: %v", err)
	}
}

// TestAbandonedCommandStaysWithItsConnection cancels a command that goes on at the server, and gives the connection back.
func TestAbandonedCommandStaysWithItsConnection(t *testing.T) {
	s := startServer(t)
	each(t, s, func(t *testing.T, d *Driver) {
		for range 3 {
			c, err := d.Dedicate(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
			err = c.Do(ctx, cmd("BLPOP", "l", "0")).Err() // not declared as Blocking
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, driver.ErrUnknownOutcome) {
				t.Errorf("BLPOP: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
			if r := d.Do(ctx, blpop("other", "0.01")); !r.IsNil() {
				t.Errorf("the next user of the connection: %v", r)
			}
			cancel()
		}
	})
}

// TestBrokenConnectionTellsNobodyElsesContext breaks a connection by the end of a context, and uses it with another.
func TestBrokenConnectionTellsNobodyElsesContext(t *testing.T) {
	s := startServer(t)
	p := startProxy(t, s.addr)
	d := open(t, p.url())
	c, err := d.Dedicate(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p.mute.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := c.Do(ctx, blpop("l", "0")).Err(); !errors.Is(err, driver.ErrUnknownOutcome) {
		t.Errorf("BLPOP: %v", err)
	}
	if err := c.Do(t.Context(), cmd("PING")).Err(); err == nil || isContext(err) || !errors.Is(err, driver.ErrNotSent) {
		t.Errorf("the next command: %v", err)
	}
}

// TestDialTimeoutOfAGivenClientIsNotRepeatedForEver has the dialer of a client given to New time out.
func TestDialTimeoutOfAGivenClientIsNotRepeatedForEver(t *testing.T) {
	s := startServer(t)
	dials := make(chan struct{}, 1000)
	broken := make(chan struct{})
	d := fromOption(t, rueidis.ClientOption{
		InitAddress: []string{s.addr}, DisableCache: true, PipelineMultiplex: -1,
		DialCtxFn: func(ctx context.Context, addr string, _ *net.Dialer, _ *tls.Config) (net.Conn, error) {
			select {
			case <-broken:
				dials <- struct{}{}
				ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
				defer cancel()
				<-ctx.Done()
				// What net.Dialer returns after its Timeout: it says that it is context.DeadlineExceeded.
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
			default:
				return net.Dial("tcp", addr)
			}
		},
	})
	if err := d.Do(t.Context(), cmd("PING")).Err(); err != nil {
		t.Fatal(err)
	}
	close(broken)
	s.kill()
	d.Do(context.Background(), keyed("SET", "k", "v"))
	for len(dials) > 0 {
		<-dials
	}
	err := d.Do(context.Background(), keyed("SET", "k", "v")).Err()
	if !errors.Is(err, driver.ErrNotSent) || isContext(err) {
		t.Errorf("got %v", err)
	}
	if n := len(dials); n > 10 {
		t.Errorf("dialled %d times", n)
	} else {
		t.Log(fmt.Sprint(n), err)
	}
}

// TestFreedConnectionGoesToWhoWaits has several callers share the only connection there may be.
func TestFreedConnectionGoesToWhoWaits(t *testing.T) {
	s := startServer(t)
	d := open(t, s.url()+"?pool_size=1")
	c, err := d.Dedicate(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	const waiters = 5
	errs := make(chan error, waiters)
	for range waiters {
		go func() {
			c, err := d.Dedicate(ctx, "")
			if err == nil {
				err = c.Do(ctx, cmd("PING")).Err()
				_ = c.Close()
			}
			errs <- err
		}()
	}
	impatient, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	if _, err := d.Dedicate(impatient, ""); !errors.Is(err, driver.ErrNotSent) {
		t.Errorf("with the pool empty: %v", err)
	}
	_ = c.Close()
	for range waiters {
		if err := <-errs; err != nil {
			t.Errorf("one that waited: %v", err)
		}
	}
}

// TestDialingContextEndsBeforeTheFirstCommand ends the context that dialled a connection when the server has answered the
// greeting: that closes it, and the command of somebody else that comes then was not sent.
func TestDialingContextEndsBeforeTheFirstCommand(t *testing.T) {
	s := startServer(t)
	d := newDialer(&core.Endpoint{Network: "tcp", DialTimeout: 10 * time.Second}, &config{})
	defer d.stop()
	for _, end := range []string{"context", "Close"} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c, err := d.connect(ctx, s.addr, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("PING\r\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		if end == "context" {
			cancel()
		} else {
			_ = c.Close()
		}
		n, err := c.Write([]byte("INCR n\r\n"))
		if _, ok := errors.AsType[*dialError](err); !ok || n != 0 {
			t.Errorf("the first command after %s: %d bytes, %v", end, n, err)
		}
		if err := failure(t.Context(), err); !errors.Is(err, driver.ErrNotSent) {
			t.Errorf("the first command after %s: %v", end, err)
		}
		_ = c.Close()
	}
}
