package redisxtest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest/internal/certificate"
	"github.com/go-redisx/redisx/redisxtest/internal/port"
)

func text(t testing.TB, r driver.Reply) string {
	t.Helper()
	s, err := r.Text()
	require.NoError(t, err)
	return s
}

func TestServerStartsQuicklyOnLoopbackWithoutPersistence(t *testing.T) {
	start := time.Now()
	s := StartServer(t, OwnProcess())
	t.Logf("started %s in %s", s.Executable(), time.Since(start))
	_, number, err := net.SplitHostPort(s.Addr())
	require.NoError(t, err)
	n, _ := strconv.Atoi(number)
	require.Less(t, n, port.Ephemeral())
	require.Equal(t, "PONG", text(t, s.Do("PING")))
	for name, want := range map[string]string{"bind": "127.0.0.1", "save": "", "appendonly": "no"} {
		list, err := s.Do("CONFIG", "GET", name).Strings()
		require.NoError(t, err)
		require.Equal(t, []string{name, want}, list)
	}
}

func TestServerIsGoneAfterTheTest(t *testing.T) {
	StartServer(t, OwnProcess()) // skips where there is none
	var addr, dir string
	t.Run("inner", func(t *testing.T) {
		s := StartServer(t, OwnProcess())
		addr, dir = s.Addr(), s.instance.dir
	})
	_, err := net.DialTimeout("tcp", addr, time.Second)
	require.Error(t, err)
	require.NoDirExists(t, dir)
}

// A schedule or a goroutine of the test may come late.
func TestServerStaysGoneAfterTheTest(t *testing.T) {
	StartServer(t, OwnProcess()) // skips where there is none
	for range 20 {
		var s *Server
		var wg sync.WaitGroup
		record(t, func(t testing.TB) {
			s = StartServer(t, OwnProcess())
			wg.Go(func() {
				for range 3 {
					s.Restart(false)
				}
			})
		})
		wg.Wait()
		require.False(t, s.instance.running())
		require.NoDirExists(t, s.instance.dir)
	}
}

func TestServerControl(t *testing.T) {
	s := StartServer(t, OwnProcess())
	require.NoError(t, s.Do("SET", "k", "v").Err())
	sha := text(t, s.Do("SCRIPT", "LOAD", "return 1"))
	s.FlushScripts()
	require.ErrorContains(t, s.Do("EVALSHA", sha, "0").Err(), "NOSCRIPT")

	s.Pause()
	nc, err := net.Dial("tcp", s.Addr())
	require.NoError(t, err)
	defer nc.Close()
	_, err = nc.Write([]byte("PING\r\n"))
	require.NoError(t, err)
	require.NoError(t, nc.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	b := make([]byte, 7)
	_, err = nc.Read(b)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "a paused server answers")
	s.Resume()
	require.NoError(t, nc.SetReadDeadline(time.Now().Add(5*time.Second)))
	_, err = nc.Read(b)
	require.NoError(t, err)
	require.Equal(t, "+PONG\r\n", string(b))

	s.Kill()
	require.Error(t, s.Do("PING").Err(), "a killed server answers")
	s.Restart(true)
	require.True(t, s.Do("GET", "k").IsNil(), "keys outlived kill -9 without persistence")

	s.Pause()
	s.Restart(false)
	require.Equal(t, "PONG", text(t, s.Do("PING")))
}

func TestServerOptions(t *testing.T) {
	t.Run("Config", func(t *testing.T) {
		s := StartServer(t, Config("maxmemory", "2mb"), Config("save", "900", "1"), Config("notify-keyspace-events", "KA"))
		require.Contains(t, text(t, s.Do("INFO", "memory")), "maxmemory:2097152")
		list, err := s.Do("CONFIG", "GET", "save").Strings()
		require.NoError(t, err)
		require.Equal(t, []string{"save", "900 1"}, list)
	})
	t.Run("Password and User", func(t *testing.T) {
		s := StartServer(t, Password(`p"w\ @:/é`), User("reader", "r pw", "~*", "+get", "+acl|whoami", "-set"))
		require.Equal(t, "PONG", text(t, s.Do("PING")))
		g := s.target()
		g.password = ""
		require.ErrorContains(t, g.do("PING").Err(), "NOAUTH")
		g.user, g.password = "reader", "r pw"
		require.ErrorContains(t, g.do("SET", "k", "v").Err(), "NOPERM")
		require.Equal(t, "reader", text(t, g.do("ACL", "WHOAMI")))
		require.Contains(t, s.UserURL("reader"), "reader:r%20pw@")
	})
	t.Run("TLS", func(t *testing.T) {
		s := StartServer(t, TLS())
		require.True(t, strings.HasPrefix(s.URL(), "rediss://127.0.0.1:"))
		require.Equal(t, "PONG", text(t, s.Do("PING")))
		g := s.target()
		g.tls = certificate.Trust("/nonexistent")
		require.ErrorContains(t, g.do("PING").Err(), "unknown authority")
		for _, u := range []string{s.URL("protocol=2"), s.ClientCertURL()} {
			t.Setenv(EnvURL, u)
			require.Equal(t, "PONG", text(t, StartServer(t).Do("PING")))
		}
	})
	t.Run("UnixSocket", func(t *testing.T) {
		s := StartServer(t, UnixSocket(), Password("pw"))
		t.Setenv(EnvURL, s.URL())
		require.Equal(t, "PONG", text(t, StartServer(t).Do("PING")))
	})
	t.Run("Version and Binary", func(t *testing.T) {
		s := StartServer(t, OwnProcess())
		exe := s.Executable()
		require.Equal(t, exe, StartServer(t, Binary(exe.Path)).Executable())
		require.Equal(t, exe, StartServer(t, Version(exe.Kind+" "+exe.Version[:1])).Executable())
	})
}

func TestServerFaultsAreReported(t *testing.T) {
	type say struct {
		name, want string
		do         func(t testing.TB)
	}
	StartServer(t, OwnProcess()) // skips where there is none
	for _, c := range []say{
		// Found out at once: a server that ends is not waited for.
		{"bad option of the server", "no-such-option", func(t testing.TB) { StartServer(t, Config("no-such-option", "1")) }},
		{"a port of one's own", "set by this package", func(t testing.TB) { StartServer(t, Config("port", "7000")) }},
		{"a password as a setting", "Password", func(t testing.TB) { StartCluster(t, 1, 0, Config("RequirePass", "x")) }},
		{"not to be run", "permission denied", func(t testing.TB) { StartServer(t, Binary("/etc/passwd")) }},
		{"not a server", "not a Redis or Valkey server", func(t testing.TB) { StartServer(t, Binary("true")) }},
		{"bad user", `user "a b"`, func(t testing.TB) { StartServer(t, User("a b", "x")) }},
		{"line break", "line break", func(t testing.TB) { StartServer(t, Config("save", "1\nport 1")) }},
		{"process of a shared server", "disturb the other tests", func(t testing.TB) { SharedServer(t).Kill() }},
		{"options of a shared server", "only Binary and Version", func(t testing.TB) { SharedServer(t, Password("x")) }},
		{"unknown user", `no user "nobody"`, func(t testing.TB) { StartServer(t, OwnProcess()).UserURL("nobody") }},
		{"pause when killed", "not running", func(t testing.TB) { s := StartServer(t, OwnProcess()); s.Kill(); s.Pause() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := record(t, c.do)
			require.True(t, r.failed, "it passed")
			require.Contains(t, r.text(), c.want)
		})
	}
}

func TestSkipsAreLoudAndFailWhereRequired(t *testing.T) {
	t.Setenv(EnvURL, "")
	t.Setenv(EnvBinaries, "")
	t.Setenv("PATH", t.TempDir())
	t.Setenv(EnvRequire, "")
	r := record(t, func(t testing.TB) { StartServer(t) })
	require.True(t, r.skipped)
	require.False(t, r.failed)
	require.Contains(t, r.text(), "no redis-server or valkey-server on PATH")

	t.Setenv(EnvRequire, "cluster, server")
	r = record(t, func(t testing.TB) { StartServer(t) })
	require.True(t, r.failed)
	require.Contains(t, r.text(), `requires "server"`)

	t.Setenv(EnvRequire, "servers")
	r = record(t, func(t testing.TB) { StartServer(t) })
	require.True(t, r.failed, "a word that means nothing requires nothing, silently")
	require.Contains(t, r.text(), "it may list server, cluster, sentinel, container, clock")
}

func TestAProgramThatDoesNotRunIsAFailureEverywhere(t *testing.T) {
	t.Setenv(EnvURL, "")
	t.Setenv(EnvRequire, "")
	t.Setenv(EnvBinaries, filepath.Join(t.TempDir(), "redis-server"))
	for name, start := range map[string]func(t testing.TB){
		"StartServer": func(t testing.TB) { StartServer(t) }, "SharedServer": func(t testing.TB) { SharedServer(t) },
		"StartCluster": func(t testing.TB) { StartCluster(t, 3, 0) }, "StartSentinel": func(t testing.TB) { StartSentinel(t, 1) },
	} {
		r := record(t, start)
		require.True(t, r.failed && !r.skipped, name)
		require.Contains(t, r.text(), EnvBinaries, name)
	}
}

func TestTheLogOfASharedServerIsThatOfTheTest(t *testing.T) {
	StartServer(t, OwnProcess()) // skips where there is none
	const before, during = "a line of an earlier test", "a line of this test"
	s := SharedServer(t)
	say := func(line string) {
		require.NoError(t, s.Do("EVAL", "redis.log(redis.LOG_WARNING, ARGV[1])", "0", line).Err())
	}
	say(before)
	r := record(t, func(t testing.TB) { SharedServer(t); say(during); t.Error("failed") })
	require.Contains(t, r.text(), during)
	require.NotContains(t, r.text(), before)
}

func TestGivenServer(t *testing.T) {
	own := StartServer(t, Password("secret"))
	t.Setenv(EnvURL, own.URL())
	t.Setenv(EnvRequire, "")
	s := StartServer(t)
	require.NoError(t, s.Do("SET", "k", "v").Err())
	require.Equal(t, "v", text(t, own.Do("GET", "k")))
	require.Equal(t, own.URL()+"?protocol=2", s.URL("protocol=2"))

	require.True(t, record(t, func(t testing.TB) { StartServer(t, TLS()) }).skipped)
	require.True(t, record(t, func(t testing.TB) { StartServer(t, OwnProcess()).Kill() }).skipped)
	r := record(t, func(t testing.TB) { StartServer(t).Kill() })
	require.True(t, r.failed)
	require.Contains(t, r.text(), "needs a process")
	require.NoError(t, own.Do("PING").Err())

	own.Kill()
	r = record(t, func(t testing.TB) { StartServer(t) })
	require.True(t, r.failed, "a given server that is down is an error, not a skip")
	require.NotContains(t, r.text(), "secret")
}

func TestSharedServerIsOneProcess(t *testing.T) {
	own := StartServer(t, OwnProcess()) // skips where there is none
	a, b := SharedServer(t), SharedServer(t)
	require.Equal(t, a.Addr(), b.Addr())
	require.NotEqual(t, a.Addr(), own.Addr())
}

const envHelper = "REDISXTEST_HELPER"

// helper is this test program run as a child: it starts a server or a Cluster, says where, and ends in the way it is told.
func helper() {
	exe := Executable{Kind: "redis", Version: os.Getenv("REDISXTEST_VERSION"), Path: os.Getenv("REDISXTEST_BINARY")}
	d := &deployment{exe: exe}
	var err error
	if os.Getenv("REDISXTEST_SHAPE") == "cluster" {
		c := newCluster(exe, defaults(), 2, 1)
		d, err = c.deployment, c.start()
	} else {
		_, err = d.launch(1, defaults(), false)
	}
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for _, n := range d.nodes {
		fmt.Print(n.Addr(), " ", n.instance.dir, " ")
	}
	fmt.Println()
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	if os.Getenv(envHelper) == "panic" {
		panic("as a test may")
	}
	os.Exit(0)
}

func TestServersDieWithTheProgramHoweverItEnds(t *testing.T) {
	t.Parallel()
	exe := StartServer(t, OwnProcess()).Executable()
	for _, c := range []struct {
		name, shape, end string
		nobody           bool
	}{
		{"exit", "server", "exit", false},
		{"panic", "server", "panic", false},
		{"kill -9", "server", "kill -9", false},
		{"panic with a cluster", "cluster", "panic", false},
		{"kill -9 with a cluster", "cluster", "kill -9", false},
		{"kill -9 with a cluster of an unprivileged user", "cluster", "kill -9", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			if c.nobody {
				asNobody(t, cmd)
			}
			cmd.Env = append(os.Environ(), envHelper+"="+c.end, "REDISXTEST_SHAPE="+c.shape, "REDISXTEST_BINARY="+exe.Path,
				"REDISXTEST_VERSION="+exe.Version)
			stdin, err := cmd.StdinPipe()
			require.NoError(t, err)
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			line, err := bufio.NewReader(stdout).ReadString('\n')
			require.NoError(t, err)
			f := strings.Fields(line)
			want := 2
			if c.shape == "cluster" {
				want = 8
			}
			require.Len(t, f, want, line)
			for i := 0; i < len(f); i += 2 {
				require.NoError(t, target{network: "tcp", addr: f[i]}.do("PING").Err())
				require.DirExists(t, f[i+1])
			}

			if c.end == "kill -9" {
				require.NoError(t, cmd.Process.Kill())
			} else {
				_, _ = stdin.Write([]byte("\n"))
			}
			_ = cmd.Wait()
			require.NoError(t, await("servers outlive the program", func() error {
				for i := 0; i < len(f); i += 2 {
					if (target{network: "tcp", addr: f[i]}).do("PING").Err() == nil {
						return errors.New(f[i])
					}
					if _, err := os.Stat(f[i+1]); !os.IsNotExist(err) {
						return fmt.Errorf("%s: %w", f[i+1], err)
					}
				}
				return nil
			}))
		})
	}
}
