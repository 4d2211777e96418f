package redisxtest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/drivertest"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/core/rueidisdriver"
)

// wrappers make the drivers out of clients that an application configured with nothing but the address.
var wrappers = map[string]func(ctx context.Context, url string) (driver.Driver, error){
	"goredis": func(_ context.Context, url string) (driver.Driver, error) {
		e, err := core.ParseURL(url)
		if err != nil {
			return nil, err
		}
		return opened(goredisdriver.New(redis.NewUniversalClient(&redis.UniversalOptions{
			Addrs: e.Addrs, MasterName: e.MasterName, IsClusterMode: e.Topology == driver.Cluster, DB: e.DB, Protocol: e.Protocol,
			Username: e.Username, Password: e.Password, TLSConfig: e.TLS,
		})))
	},
	"rueidis": func(_ context.Context, url string) (driver.Driver, error) {
		e, err := core.ParseURL(url)
		if err != nil {
			return nil, err
		}
		o := rueidis.ClientOption{InitAddress: e.Addrs, SelectDB: e.DB, Username: e.Username, Password: e.Password, TLSConfig: e.TLS}
		o.Sentinel.MasterSet = e.MasterName
		client, err := rueidis.NewClient(o)
		if err != nil {
			return nil, err
		}
		d, err := rueidisdriver.New(client)
		if err != nil {
			client.Close()
			return nil, err
		}
		return d, nil
	},
}

var together = flag.Bool("together", false, "run the conformance suites in this process, one after the other")

const envApart = "REDISXTEST_APART"

// apart runs a test in a process of its own, beside others: the suite mostly waits, and its cases that count goroutines
// bear no company. Use -together to debug one.
func apart(t *testing.T, run func(t *testing.T)) {
	t.Helper()
	if *together || os.Getenv(envApart) == t.Name() {
		run(t)
		return
	}
	t.Parallel()
	pattern := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+pattern, "-test.timeout=8m", "-test.v=true")
	cmd.Env = append(os.Environ(), envApart+"="+t.Name())
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, failures(out))
	case strings.Contains(string(out), "[no tests to run]"):
		t.Errorf("nothing ran:\n%s", out)
	case strings.Contains(string(out), "--- SKIP: "+t.Name()+" "):
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "redisxtest: SKIPPED") {
				fmt.Fprint(os.Stderr, line)
			}
		}
		t.Skip("skipped in its own process; standard error says why")
	case testing.Verbose():
		t.Logf("%s", out)
	}
}

// failures leaves out of verbose output what passed.
func failures(out []byte) string {
	var b strings.Builder
	for line := range strings.Lines(string(out)) {
		if mark := strings.TrimSpace(line); !strings.HasPrefix(mark, "===") && !strings.HasPrefix(mark, "--- PASS") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// conform runs the suite of package drivertest on both drivers.
func conform(t *testing.T, cfg drivertest.Config) {
	t.Helper()
	wrapped := cfg.Wrapped == nil
	for _, o := range openers {
		t.Run(o.name, func(t *testing.T) {
			cfg := cfg
			cfg.Open, cfg.Wrapped = o.open, nil
			if wrapped {
				cfg.Wrapped = wrappers[o.name]
			}
			drivertest.Run(t, cfg)
		})
	}
}

// noWrapped leaves out the drivers made by New, on profiles that differ in the connection only.
func noWrapped(context.Context, string) (driver.Driver, error) { panic("not called") }

// owned is the process control of a server of the test's own.
func owned(s *Server) drivertest.Process {
	return drivertest.Process{Pause: s.Pause, Resume: s.Resume, Restart: func() { s.Restart(false) }, FlushScripts: s.FlushScripts}
}

func TestConformanceOnTheFake(t *testing.T) { apart(t, conformFake) }

func conformFake(t *testing.T) {
	f := NewFake(t)
	conform(t, drivertest.Config{
		URL:      f.URL(),
		Features: drivertest.Features{Fake: true, AllowFlush: true},
		Process: drivertest.Process{
			Restart: func() {
				if err := f.Restart(); err != nil {
					t.Error(err)
				}
			},
			FlushScripts: f.FlushScripts,
		},
	})
}

// The suite takes the fake Cluster for a real one, and may move its slots.
func TestConformanceOnTheFakeCluster(t *testing.T) {
	apart(t, func(t *testing.T) {
		c := NewFakeCluster(t, 3)
		conform(t, drivertest.Config{
			URL:      c.URL(),
			Features: drivertest.Features{AllowFlush: true},
			Process:  drivertest.Process{FlushScripts: c.FlushScripts},
		})
	})
}

// Every program at hand, side by side.
func TestConformanceOnAServer(t *testing.T) {
	found, err := Executables()
	require.NoError(t, err)
	if os.Getenv(EnvURL) != "" || len(found) < 2 {
		apart(t, func(t *testing.T) { conformServer(t) })
		return
	}
	for _, e := range found {
		t.Run(e.String(), func(t *testing.T) {
			apart(t, func(t *testing.T) { conformServer(t, Binary(e.Path)) })
		})
	}
}

func conformServer(t *testing.T, opts ...Option) {
	s := StartServer(t, opts...)
	if os.Getenv(EnvURL) != "" {
		conform(t, drivertest.Config{URL: s.URL()})
		return
	}
	conform(t, drivertest.Config{URL: s.URL(), Features: drivertest.Features{AllowFlush: true}, Process: owned(s)})
}

func TestConformanceOnACluster(t *testing.T) {
	long(t)
	apart(t, func(t *testing.T) {
		c := StartCluster(t, 3, 0)
		conform(t, drivertest.Config{URL: c.URL(), Features: drivertest.Features{AllowFlush: true}})
	})
}

func TestConformanceOnSentinel(t *testing.T) {
	long(t)
	apart(t, func(t *testing.T) {
		s := StartSentinel(t, 1)
		conform(t, drivertest.Config{URL: s.URL(), Features: drivertest.Features{AllowFlush: true}})
	})
}

// long leaves a suite out of -short.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("redisxtest: the whole suite once more; not with -short")
	}
}

// The same promises hold however the connection is made.
func TestConformanceOnOtherConnections(t *testing.T) {
	long(t)
	for _, c := range []struct {
		name string
		opts []Option
		url  func(s *Server) string
	}{
		{"RESP2", []Option{OwnProcess()}, func(s *Server) string { return s.URL("protocol=2") }},
		{"TLS", []Option{TLS()}, func(s *Server) string { return s.ClientCertURL() }},
		{"ACL user", []Option{Password("default's own"), User("app", "p@ss", "~*", "&*", "+@all")}, func(s *Server) string { return s.UserURL("app") }},
		{"Unix socket", []Option{UnixSocket()}, func(s *Server) string { return s.URL() }},
		{"RESP2 on the fake", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			apart(t, func(t *testing.T) {
				if c.url == nil {
					conform(t, drivertest.Config{URL: NewFake(t).URL("protocol=2"), Wrapped: noWrapped,
						Features: drivertest.Features{Fake: true, AllowFlush: true}})
					return
				}
				s := StartServer(t, c.opts...)
				conform(t, drivertest.Config{URL: c.url(s), Wrapped: noWrapped, Features: drivertest.Features{AllowFlush: true}, Process: owned(s)})
			})
		})
	}
}
