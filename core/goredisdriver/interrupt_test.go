package goredisdriver

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

func TestShortReadTimeoutLeavesRoomForAReply(t *testing.T) {
	s := startServer(t)
	ctx := background(t)
	eventually(t, 30*time.Second, "a reply within 2 ms", func() bool {
		d, err := Open(context.Background(), "redis://"+s.addr+"?read_timeout=2ms")
		if err != nil {
			return false // a slow machine
		}
		defer func() { _ = d.Close() }()
		return d.Do(ctx, command("SET", "k", "v")).Err() == nil
	})
}

// talk answers what go-redis sends on a new connection. After ECHO it lets hold return before it reads on.
func talk(c net.Conn, hold func()) {
	r := bufio.NewReader(c)
	for {
		command, _, err := readReply(r)
		if err != nil {
			return
		}
		args, err := command.Strings()
		if err != nil || len(args) == 0 {
			return
		}
		answer, ok := greet(args)
		if !ok {
			answer = "+OK\r\n"
		}
		if args[0] == "GET" {
			hold()
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return
		}
		if args[0] == "ECHO" {
			hold()
		}
	}
}

var large = strings.Repeat("x", 64<<20) // more than any socket holds

// The time for writing does not bound the wait for a reply, nor the other way round.
func TestTimeoutsToReadAndWriteAreApart(t *testing.T) {
	l := startListener(t, func(c net.Conn) { talk(c, func() { time.Sleep(4 * time.Second) }) })
	ctx := background(t)
	echo := driver.Cmd{Args: []string{"ECHO", ""}}
	failed := func(what string, r driver.Reply) {
		if err := r.Err(); !errors.Is(err, driver.ErrUnknownOutcome) {
			t.Errorf("%s that takes longer than the time for it: %v", what, r)
		}
	}
	var all sync.WaitGroup
	d := open(t, "redis://"+l.addr+"?write_timeout=1s&read_timeout=30s")
	all.Go(func() {
		if err := d.Do(ctx, read("GET", "k")).Err(); err != nil {
			t.Errorf("a reply that takes longer than the time to write: %v", err)
		}
	})
	all.Go(func() {
		if err := d.Do(ctx, echo).Err(); err == nil {
			failed("a write", d.Do(ctx, command("SET", "k", large)))
		}
	})
	d2 := open(t, "redis://"+l.addr+"?write_timeout=30s&read_timeout=2s")
	all.Go(func() { failed("a reply", d2.Do(ctx, read("GET", "k"))) })
	all.Go(func() {
		conn, err := d2.Dedicate(ctx, "")
		if err != nil {
			t.Error(err)
			return
		}
		failed("a reply on a connection", conn.Do(ctx, read("GET", "k")))
		_ = conn.Close()
	})
	all.Wait()
	d2 = open(t, "redis://"+l.addr+"?write_timeout=30s&read_timeout=2s&pool_size=1")
	must(t, d2.Do(ctx, echo))
	if r := d2.Do(ctx, command("SET", "k", large)); r.Err() != nil {
		t.Errorf("a write that takes longer than the time to read: %v", r)
	}
}

// A server with TLS that does not read must not hold a call that was given up: to say goodbye to it takes 5 s.
func TestGivingUpAWriteOverTLS(t *testing.T) {
	ca := newAuthority(t)
	certFile, keyFile := ca.issue(t)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	var all sync.WaitGroup
	dial := func(context.Context, string, string) (net.Conn, error) { // no buffers: a byte written is a byte read
		ours, theirs := net.Pipe()
		all.Go(func() {
			talk(tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}), func() { <-over })
			_ = theirs.Close()
		})
		return ours, nil
	}
	t.Cleanup(all.Wait)
	t.Cleanup(func() { close(over) })
	d := open(t, "rediss://127.0.0.1:1?pool_size=1&write_timeout=30s&ca="+ca.file, WithDialer(dial))
	ctx := background(t)
	conn, err := d.Dedicate(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func(context.Context, driver.Cmd) driver.Reply{"pooled": d.Do, "dedicated": conn.Do} {
		must(t, do(ctx, driver.Cmd{Args: []string{"ECHO", ""}}))
		short, leave := context.WithTimeout(ctx, 300*time.Millisecond)
		start := time.Now()
		err := do(short, command("SET", "k", large)).Err()
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > 3*time.Second {
			t.Errorf("%s: %v after %v", name, err, took)
		}
		leave()
	}
}

// What an application gets as a context it may keep.
func TestContextOfCredentialsStaysItsOwn(t *testing.T) {
	s := startServer(t)
	var kept []context.Context
	d := open(t, "redis://"+s.addr, WithCredentials(func(ctx context.Context) (string, string, error) {
		kept = append(kept, ctx)
		return "", "", ctx.Err()
	}))
	must(t, d.Do(background(t), command("SET", "k", "v")))
	s.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	eventually(t, 30*time.Second, "a new connection", func() bool {
		d.Do(driver.UntilDeadline(time.Now().Add(time.Second)), command("SET", "k", "v"))
		return len(kept) > 1
	})
	for _, ctx := range kept {
		_, _ = ctx.Deadline()
		if err := ctx.Err(); !errors.Is(err, context.Canceled) {
			t.Errorf("after the call it was for: %v, want canceled", err)
		}
	}
}
