package goredisdriver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
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
	port := freePort(t)
	s := &server{t: t, addr: fmt.Sprintf("127.0.0.1:%d", port), bin: path}
	s.args = append(args, "--port", fmt.Sprint(port), "--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", "", "--loglevel", "warning")
	s.start()
	t.Cleanup(s.stop)
	return s
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

func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command(s.bin, s.args...)
	s.cmd.SysProcAttr = dieWithParent()
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, 10*time.Second, "server accepts connections", func() bool {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	})
}

func (s *server) stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *server) restart() { s.stop(); s.start() }

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
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
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
