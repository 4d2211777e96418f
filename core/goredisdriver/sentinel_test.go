package goredisdriver

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

func splitAddr(addr string) (host, port string, err error) { return net.SplitHostPort(addr) }

func contains(s, part string) bool { return strings.Contains(s, part) }

// TestSentinelFailover has the Sentinel promote the replica under a driver in use.
func TestSentinelFailover(t *testing.T) {
	s := startSentinels(t)
	d := open(t, s.url())
	ctx, cancel := context.WithCancel(background(t))
	if caps, err := d.Caps(ctx); err != nil || caps.Topology != driver.Sentinel {
		t.Fatalf("Caps: %v, %v", caps, err)
	}
	must(t, d.Do(ctx, command("SET", "k", "1")))
	messages, changes, done := make(chan string, 1000), make(chan string, 1000), make(chan error, 2)
	go func() {
		done <- d.Subscribe(ctx, driver.Subscription{
			Channels: []string{"c"}, OnConfirmed: func() { messages <- "confirmed" }, OnLost: func(error) { messages <- "lost" },
			OnMessage: func(_, p string) { messages <- p },
		})
	}()
	go func() {
		done <- d.Track(ctx, driver.Tracking{
			Prefixes: []string{"k"}, OnConfirmed: func() { changes <- "confirmed" }, OnLost: func(error) { changes <- "lost" },
			OnInvalidate: func(keys []string) { changes <- keys[0] },
		})
	}()
	want(t, messages, "confirmed")
	want(t, changes, "confirmed")
	conn, err := d.Dedicate(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	must(t, conn.Do(ctx, command("GET", "k")))
	eventually(t, 30*time.Second, "the Sentinel begins a failover", func() bool {
		_, err := s.sentinel.try("SENTINEL", "FAILOVER", "mymaster") // NOGOODSLAVE until it has heard from the replica
		return err == nil
	})
	eventually(t, 30*time.Second, "replica is promoted", func() bool { return s.replica.says("role:master", "INFO", "replication") })
	eventually(t, 30*time.Second, "the driver writes to the new primary", func() bool {
		try, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		if d.Do(try, command("SET", "moved", "yes")).Err() != nil {
			return false
		}
		v, _ := s.replica.try("GET", "moved")
		return v == "yes"
	})
	await := func(events chan string) {
		t.Helper()
		want(t, events, "lost")
		until(t, events, "confirmed")
	}
	await(messages)
	await(changes)
	eventually(t, 30*time.Second, "publications through the new primary arrive", func() bool {
		_, _ = s.replica.try("PUBLISH", "c", "hello")
		select {
		case m := <-messages:
			return m == "hello"
		default:
			return false
		}
	})
	eventually(t, 30*time.Second, "changes on the new primary are reported", func() bool {
		_, _ = s.replica.try("SET", "k", "2")
		select {
		case m := <-changes:
			return m == "k"
		default:
			return false
		}
	})
	eventually(t, 30*time.Second, "a dedicated connection to the old primary breaks", func() bool {
		return conn.Do(ctx, command("GET", "k")).Err() != nil // the Sentinel kills the clients of a demoted primary
	})
	if err := conn.Do(ctx, command("GET", "k")).Err(); !errors.Is(err, driver.ErrNotSent) {
		t.Errorf("a broken connection answers %v", err)
	}
	_ = conn.Close()
	cancel()
	<-done
	<-done
}

func TestOpenNamesAnUnknownPrimary(t *testing.T) {
	s := startSentinels(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err := Open(ctx, "redis-sentinel://"+s.sentinel.addr+"/nobody")
	if err == nil || !contains(err.Error(), `no primary "nobody"`) {
		t.Errorf("Open: %v", err)
	}
}
