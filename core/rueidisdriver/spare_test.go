package rueidisdriver

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

// connections returns how many clients a server has, and has had.
func connections(t *testing.T, s *server) (now int, total int64) {
	t.Helper()
	list, err := s.cli("CLIENT", "LIST").Text()
	if err != nil {
		t.Fatal(err)
	}
	info, _ := s.cli("INFO", "stats").Text()
	total, err = driver.StringReply(driver.ParseInfo(info)["total_connections_received"]).Int64()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(list, "\n"), total
}

func TestSpareConnectionsAreNotKeptForGood(t *testing.T) {
	s := startServer(t)
	d := open(t, s.url())
	d.spareFor = 300 * time.Millisecond
	before, _ := connections(t, s)
	goroutines := runtime.NumGoroutine()
	for range 2 { // the second time the timer starts anew
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if r := d.Do(t.Context(), blpop("l", "0.2")); !r.IsNil() {
					t.Error(r)
				}
			})
		}
		wg.Wait()
		eventually(t, 10*time.Second, "connections to be given back", func() bool {
			now, _ := connections(t, s)
			return now <= before
		})
	}
	if r := d.Do(t.Context(), blpop("l", "0.01")); !r.IsNil() {
		t.Error(r)
	}
	_ = d.Close()
	eventually(t, 5*time.Second, "goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines })
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sweep != nil {
		t.Error("a timer is left after Close")
	}
}

// TestGivenClientHasItsPoolBack uses the only connection of an application's client, and leaves it to the application.
func TestGivenClientHasItsPoolBack(t *testing.T) {
	s := startServer(t, "--user", "u", "on", ">p", "~*", "+@all", "-@pubsub")
	for name, o := range map[string]rueidis.ClientOption{
		"RESP3": {}, "RESP2": {AlwaysRESP2: true, DisableCache: true},
		"UserWithoutPubSub": {Username: "u", Password: "p"}, "UserWithoutPubSubRESP2": {Username: "u", Password: "p", AlwaysRESP2: true, DisableCache: true},
	} {
		t.Run(name, func(t *testing.T) { givenClientHasItsPoolBack(t, s, o) })
	}
}

func givenClientHasItsPoolBack(t *testing.T, s *server, o rueidis.ClientOption) {
	o.InitAddress, o.ForceSingleClient, o.BlockingPoolSize = []string{s.addr}, true, 1
	client, err := rueidis.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	d, err := New(client)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	own := func(after string) {
		t.Helper()
		done := make(chan error, 1)
		go func() {
			done <- client.Dedicated(func(c rueidis.DedicatedClient) error {
				if info, err := c.Do(ctx, c.B().Arbitrary("CLIENT", "INFO").Build()).ToString(); err != nil || !strings.Contains(info, " db=0 ") ||
					!strings.Contains(info, " multi=-1 ") {
					t.Errorf("after %s: %s, %v", after, info, err)
				}
				return nil
			})
		}()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Fatalf("after %s: the application waits for a connection", after)
		}
	}
	if r := d.Do(ctx, blpop("l", "0.01")); !r.IsNil() {
		t.Error(r)
	}
	own("BLPOP")
	short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	if err := d.Do(short, blpop("l", "0")).Err(); !isContext(err) {
		t.Error(err)
	}
	stop()
	own("BLPOP that was ended")
	for _, left := range []driver.Cmd{cmd("SELECT", "5"), cmd("MULTI"), cmd("PING")} {
		c, err := d.Dedicate(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Do(ctx, left).Err(); err != nil {
			t.Error(err)
		}
		_ = c.Close()
		own(left.Name())
	}
	// A loop uses that connection again and again.
	_, before := connections(t, s)
	for range 20 {
		if r := d.Do(ctx, blpop("l", "0.001")); !r.IsNil() {
			t.Error(r)
		}
	}
	if _, after := connections(t, s); after-before > 10 { // those of connections itself included
		t.Errorf("20 BLPOP made %d connections", after-before)
	}
}

// TestFirstBlockingCommandAfterARestart breaks all connections soon after one was used.
func TestFirstBlockingCommandAfterARestart(t *testing.T) {
	s := startServer(t)
	p := startProxy(t, s.addr)
	for name, d := range map[string]*Driver{
		"Open": open(t, p.url()), "OpenRESP2": open(t, p.url()+"?protocol=2"),
		"New": fromOption(t, rueidis.ClientOption{InitAddress: []string{p.addr}}),
	} {
		for range 3 {
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() { d.Do(t.Context(), blpop("l", "0.05")) })
			}
			wg.Wait()
			p.cut()
			time.Sleep(20 * time.Millisecond) // no restart is faster
			if r := d.Do(t.Context(), blpop("l", "0.01")); !r.IsNil() {
				t.Errorf("%s: %v", name, r)
			}
		}
	}
}

// TestSpareOfAUserWithoutPing has the server refuse the question whether a connection still works.
func TestSpareOfAUserWithoutPing(t *testing.T) {
	s := startServer(t, "--user", "u", "on", ">p", "~*", "&*", "+@all", "-ping")
	d := open(t, "redis://u:p@"+s.addr)
	_, before := connections(t, s)
	for range 10 {
		if r := d.Do(t.Context(), blpop("l", "0.001")); !r.IsNil() {
			t.Error(r)
		}
		time.Sleep(2 * trustFor)
	}
	if _, after := connections(t, s); after-before > 6 {
		t.Errorf("10 BLPOP made %d connections", after-before)
	}
}
