package rueidisdriver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// server is a redis-server of the test's own.
type server struct {
	t    testing.TB
	addr string
	port int
	dir  string
	args []string
	cmd  *exec.Cmd
}

func binary(t testing.TB, name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		if strings.Contains(os.Getenv("REDISX_TEST_REQUIRE"), "server") {
			t.Fatalf("REDISX_TEST_REQUIRE wants a server, but there is no %s on PATH", name)
		}
		t.Skipf("SKIPPED: no %s on PATH", name)
	}
	return path
}

// freePort returns a port that nobody listens on. The bus of a Cluster is 10000 above it; both lie below the ephemeral range.
func freePort(t testing.TB) int {
	for range 200 {
		port := 20000 + rand.IntN(2700)
		free := true
		for _, p := range []int{port, port + 10000} {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
			if free = free && err == nil; err == nil {
				_ = l.Close()
			}
		}
		if free {
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	s := &server{t: t, port: freePort(t), dir: t.TempDir(), args: args}
	s.addr = fmt.Sprintf("127.0.0.1:%d", s.port)
	s.start()
	return s
}

func (s *server) start() {
	s.t.Helper()
	args := append([]string{"--port", fmt.Sprint(s.port), "--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--logfile", "log",
		"--enable-debug-command", "yes"}, s.args...)
	s.cmd = exec.Command(binary(s.t, "redis-server"), args...)
	s.cmd.Dir = s.dir
	s.cmd.SysProcAttr = dieWithTest()
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd := s.cmd
	s.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(s.t, 5*time.Second, "redis-server to listen", func() bool {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func (s *server) kill() { _ = s.cmd.Process.Kill(); _ = s.cmd.Wait() }

func (s *server) signal(sig syscall.Signal) { _ = s.cmd.Process.Signal(sig) }

func (s *server) url() string { return "redis://" + s.addr }

// cli runs one command over a connection of its own.
func (s *server) cli(args ...string) driver.Reply {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	d, err := Open(ctx, s.url())
	if err != nil {
		return driver.ErrReply(err)
	}
	defer d.Close()
	return d.Do(ctx, driver.Cmd{Args: args})
}

func open(t testing.TB, url string, opts ...Option) *Driver {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	d, err := Open(ctx, url, opts...)
	if err != nil {
		t.Fatalf("Open(%s): %v", url, err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// eventually polls until ok holds, and fails the test after the limit.
func eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); ; <-tick.C {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", limit, what)
		}
	}
}

func cmd(args ...string) driver.Cmd { return driver.Cmd{Args: args} }

func keyed(args ...string) driver.Cmd { return driver.Cmd{Args: args, Keys: driver.Key(1)} }

func reading(args ...string) driver.Cmd {
	return driver.Cmd{Args: args, Keys: driver.Key(1), Mode: driver.ReadOnly}
}
