package goredisdriver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

// server is a redis-server of a test's own.
type server struct {
	t    testing.TB
	addr string
	bin  string
	args []string
	cmd  *exec.Cmd
	over chan struct{} // closed when it has ended
}

// startServer runs redis-server, or another program that takes the same arguments, on a free port.
func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	return startProgram(t, "redis-server", args...)
}

func startProgram(t testing.TB, bin string, args ...string) *server {
	t.Helper()
	path, err := exec.LookPath(bin)
	if err != nil {
		if strings.Contains(os.Getenv("REDISX_TEST_REQUIRE"), "server") {
			t.Fatalf("REDISX_TEST_REQUIRE demands a server, but %s is not on PATH", bin)
		}
		t.Skipf("SKIPPED: %s is not on PATH", bin)
	}
	for range 5 {
		port := freePort(t)
		s := &server{t: t, addr: fmt.Sprintf("127.0.0.1:%d", port), bin: path}
		s.args = append(slices.Clone(args), "--port", fmt.Sprint(port), "--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", "", "--loglevel", "warning")
		if s.start() {
			t.Cleanup(s.stop)
			return s
		}
		s.stop() // somebody else took the port
	}
	t.Fatalf("%s does not start", bin)
	return nil
}

func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 20000 + rand.IntN(2000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		_ = l.Close()
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+10000)); err == nil { // the bus of a Cluster
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// start reports false if the server ended: it could not have its port.
func (s *server) start() bool {
	s.t.Helper()
	s.cmd, s.over = exec.Command(s.bin, s.args...), make(chan struct{})
	s.cmd.SysProcAttr = dieWithParent()
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func(cmd *exec.Cmd, over chan struct{}) { _ = cmd.Wait(); close(over) }(s.cmd, s.over)
	ended := false
	eventually(s.t, 30*time.Second, "server answers", func() bool {
		select {
		case <-s.over:
			ended = true
		default:
		}
		return ended || s.itself()
	})
	return !ended
}

// itself reports whether this server, and not another one, answers at its address.
func (s *server) itself() bool {
	password := ""
	if i := slices.Index(s.args, "--requirepass"); i >= 0 {
		password = s.args[i+1]
	}
	c := redis.NewClient(&redis.Options{Addr: s.addr, Password: password, MaxRetries: -1, DialerRetries: 1, Protocol: 2})
	defer func() { _ = c.Close() }()
	info, err := c.Info(context.Background(), "server").Result()
	return err == nil && strings.Contains(info, fmt.Sprintf("process_id:%d\r", s.cmd.Process.Pid))
}

func (s *server) stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		<-s.over
		s.cmd = nil
	}
}

func (s *server) restart() {
	s.stop()
	if !s.start() {
		s.t.Errorf("the server does not start again")
	}
}

// eventually polls until f holds.
func eventually(t testing.TB, within time.Duration, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func open(t testing.TB, url string, opts ...Option) *Driver {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	d, err := Open(ctx, url, opts...)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// wrap is New over a client with go-redis' default options.
func wrap(t testing.TB, addr string) *Driver {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr})
	d, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(); _ = c.Close() })
	return d
}

func command(args ...string) driver.Cmd {
	c := driver.Cmd{Args: args}
	if len(args) > 1 {
		c.Keys = driver.Key(1)
	}
	return c
}

func read(args ...string) driver.Cmd {
	c := command(args...)
	c.Mode = driver.ReadOnly
	return c
}

func must(t testing.TB, r driver.Reply) driver.Reply {
	t.Helper()
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	return r
}

// background is a context that ends with the test.
func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func tempFile(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
