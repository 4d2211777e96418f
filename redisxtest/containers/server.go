package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"
	tcredis "github.com/testcontainers/testcontainers-go/modules/redis"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/redisxtest/internal/absence"
	"github.com/go-redisx/redisx/redisxtest/internal/certificate"
	"github.com/go-redisx/redisx/redisxtest/internal/port"
)

// Server is a server in a container. It is safe for concurrent use.
type Server struct {
	t        testing.TB
	engine   *engine
	ctr      testcontainers.Container
	port     int
	tlsDir   string // "" without TLS
	password string

	mu      sync.Mutex // one change of state at a time
	paused  bool
	stopped bool
}

// Limits on how long the engine may take. An image that has to be pulled comes under startTimeout.
const (
	startTimeout  = 2 * time.Minute
	changeTimeout = 30 * time.Second
)

// StartRedis starts a container of a Redis image, such as "redis:8.0" or one of servers.sh, with the redis module of
// testcontainers-go, and returns when it accepts commands. It ends with the test; if the test fails, the end of its log is
// attached.
//
// Without an engine the test is skipped, or fails if REDISX_TEST_REQUIRE lists "container".
func StartRedis(t testing.TB, image string, opts ...Option) *Server {
	t.Helper()
	return start(t, image, opts)
}

// StartValkey is [StartRedis] for a Valkey image, such as "valkey/valkey:8.1".
func StartValkey(t testing.TB, image string, opts ...Option) *Server {
	t.Helper()
	return start(t, image, opts)
}

func start(t testing.TB, image string, opts []Option) *Server {
	t.Helper()
	var cfg config
	for _, o := range opts {
		o(&cfg)
	}
	if image == "" {
		cfg.err = errors.Join(cfg.err, errors.New(`no image; want one such as "redis:8.0", "valkey/valkey:8.1" or "redisxtest/redis:8.0"`))
	}
	if cfg.err != nil {
		t.Fatalf("redisxtest/containers: %v", cfg.err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	e, err := find(ctx)
	if err != nil {
		absence.Skip(t, "container", "no container engine: %v", err)
	}
	e.sweep(ctx)
	s := &Server{t: t, engine: e, password: cfg.password}
	// t.TempDir fails a test that cannot remove it; it has the certificates alone.
	if cfg.tls {
		s.tlsDir = t.TempDir()
		if err := certificate.ProvideFor(s.tlsDir, e.host); err != nil {
			t.Fatalf("redisxtest/containers: certificates: %v", err)
		}
	}
	if err := s.run(ctx, image, cfg); err != nil {
		t.Fatalf("redisxtest/containers: %s: %v%s", image, err, hint(err))
	}
	return s
}

// run starts the container on a port of its own choice: one that the engine chooses changes at every start.
func (s *Server) run(ctx context.Context, image string, cfg config) error {
	var errs []error
	for range 5 {
		n, err := port.Free() // on an engine elsewhere a guess
		if err != nil {
			return err
		}
		s.port = n
		ctr, err := tcredis.Run(ctx, image, s.customizers(cfg)...)
		if ctr != nil && ctr.Container != nil {
			s.ctr = ctr.Container
		}
		if err == nil {
			err = s.ready(ctx)
		}
		if err == nil {
			s.t.Cleanup(s.remove)
			return nil
		}
		if s.ctr != nil {
			err = fmt.Errorf("%w; its log:\n%s", err, s.log())
		}
		err = errors.Join(err, s.discard())
		if !portTaken(err) {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *Server) customizers(cfg config) []testcontainers.ContainerCustomizer {
	args := []string{"--save", "", "--appendonly", "no"}
	list := []testcontainers.ContainerCustomizer{
		testcontainers.WithLogger(log.TestLogger(s.t)),
		testcontainers.WithLabels(map[string]string{ownerLabel: owner()}),
		testcontainers.WithHostConfigModifier(func(h *container.HostConfig) {
			b := network.PortBinding{HostPort: strconv.Itoa(s.port)}
			if s.engine.local() {
				b.HostIP = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			}
			h.PortBindings = network.PortMap{network.MustParsePort("6379/tcp"): {b}}
		}),
	}
	if cfg.password != "" {
		args = append(args, "--requirepass", cfg.password)
	}
	if s.tlsDir != "" {
		args = append(args, "--port", "0", "--tls-port", "6379", "--tls-cert-file", "/tls/server.pem", "--tls-key-file",
			"/tls/server-key.pem", "--tls-ca-cert-file", "/tls/ca.pem", "--tls-auth-clients", "optional")
		for _, name := range []string{"ca.pem", "server.pem", "server-key.pem"} {
			list = append(list, testcontainers.WithFiles(testcontainers.ContainerFile{
				HostFilePath: filepath.Join(s.tlsDir, name), ContainerFilePath: "/tls/" + name, FileMode: 0o644}))
		}
	}
	list = append(list, testcontainers.WithCmdArgs(append(args, cfg.args...)...))
	// Not the line of the log that the redis module waits for: ready asks the server, whatever its loglevel and logfile are.
	list = append(list, testcontainers.CustomizeRequestOption(func(r *testcontainers.GenericContainerRequest) error {
		r.WaitingFor = nil
		return nil
	}))
	return append(list, cfg.custom...)
}

// portTaken reports whether somebody else has got the port meanwhile.
func portTaken(err error) bool {
	text := err.Error()
	return strings.Contains(text, "port is already allocated") || strings.Contains(text, "address already in use")
}

// hint tells what to do about the usual failures.
func hint(err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "reaper"):
		return "\nthe image of Ryuk cannot be had: set TESTCONTAINERS_RYUK_DISABLED=true; containers of tests that were killed are removed all the same"
	case strings.Contains(text, "create container"):
		return "\nif the image is not here and cannot be pulled: servers.sh in this package makes images without a registry"
	}
	return ""
}

// ready waits until the server answers, which it does last of all. One that ended, or lets nobody in, never will.
func (s *Server) ready(ctx context.Context) error {
	for {
		err := s.do(ctx, "PING").Err()
		if err == nil {
			return nil
		}
		if refused, ok := errors.AsType[*driver.ServerError](err); ok && slices.Contains([]string{"NOAUTH", "WRONGPASS", "NOPERM"}, refused.Code()) {
			return err
		}
		if running, err := s.running(ctx, s.engine.Client(), s.ctr.GetContainerID()); err == nil && !running {
			return errors.New("the server ended")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no answer on %s: %w", s.Addr(), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// remove ends the container with the test.
func (s *Server) remove() {
	if s.t.Failed() {
		s.t.Logf("log of the container on %s:\n%s", s.Addr(), s.log())
	}
	if err := s.discard(); err != nil {
		s.t.Errorf("redisxtest/containers: removing the container on %s: %v", s.Addr(), err)
	}
}

// discard kills at once: a server that is paused cannot end by itself, and there is nothing to save.
func (s *Server) discard() error {
	s.mu.Lock() // a Schedule's call may be under way
	defer s.mu.Unlock()
	if s.ctr == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), changeTimeout)
	defer cancel()
	_, err := s.engine.Client().ContainerRemove(ctx, s.ctr.GetContainerID(), client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	s.ctr = nil
	return err
}

// log is the end of what the server wrote.
func (s *Server) log() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := s.ctr.Logs(ctx)
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, 4<<20))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-16<<10):])
}

// Container is the container itself, for what this package does not cover.
func (s *Server) Container() testcontainers.Container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctr
}

// Addr returns host:port as seen from here. It stays the same over Kill and Restart.
func (s *Server) Addr() string { return net.JoinHostPort(s.engine.host, strconv.Itoa(s.port)) }

// URL returns the connection URL, with password and authority if there are. Parameters are added as they are, such as
// "protocol=2".
func (s *Server) URL(params ...string) string {
	u := url.URL{Scheme: "redis", Host: s.Addr()}
	if s.password != "" {
		u.User = url.UserPassword("", s.password)
	}
	if s.tlsDir != "" {
		u.Scheme = "rediss"
		params = append([]string{"ca=" + url.QueryEscape(filepath.Join(s.tlsDir, "ca.pem"))}, params...)
	}
	u.RawQuery = strings.Join(params, "&")
	return u.String()
}

// ClientCertURL is URL with a client certificate, or "" without [TLS].
func (s *Server) ClientCertURL(params ...string) string {
	if s.tlsDir == "" {
		return ""
	}
	file := func(name string) string { return url.QueryEscape(filepath.Join(s.tlsDir, name)) }
	return s.URL(append([]string{"cert=" + file("client.pem"), "key=" + file("client-key.pem")}, params...)...)
}

// Do runs one command as administrator, on a connection of its own, within 5 s.
func (s *Server) Do(args ...string) driver.Reply {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return s.do(ctx, args...)
}

func (s *Server) do(ctx context.Context, args ...string) driver.Reply {
	d, err := goredisdriver.Open(ctx, s.URL())
	if err != nil {
		return driver.ErrReply(err)
	}
	defer func() { _ = d.Close() }()
	return d.Do(ctx, driver.Cmd{Args: args})
}

// Pause freezes the server: connections stay, nothing answers, until [Server.Resume]. Both do nothing the second time.
// If it does not work the test fails and goes on, so that it may be called from any goroutine; so may Kill and Restart.
func (s *Server) Pause() {
	s.t.Helper()
	s.change("Pause", func(ctx context.Context, cli client.APIClient, id string) error {
		if s.stopped {
			return errors.New("the server does not run")
		}
		if s.paused {
			return nil
		}
		_, err := cli.ContainerPause(ctx, id, client.ContainerPauseOptions{})
		s.paused = err == nil
		return err
	})
}

// Resume ends a Pause.
func (s *Server) Resume() {
	s.t.Helper()
	s.change("Resume", func(ctx context.Context, cli client.APIClient, id string) error { return s.resume(ctx, cli, id) })
}

func (s *Server) resume(ctx context.Context, cli client.APIClient, id string) error {
	if !s.paused {
		return nil
	}
	_, err := cli.ContainerUnpause(ctx, id, client.ContainerUnpauseOptions{})
	s.paused = err != nil
	return err
}

// Kill ends the server at once, as SIGKILL does. Its address stays its own.
func (s *Server) Kill() {
	s.t.Helper()
	s.change("Kill", s.kill)
}

func (s *Server) kill(ctx context.Context, cli client.APIClient, id string) error {
	if s.stopped {
		return nil
	}
	if err := s.resume(ctx, cli, id); err != nil { // a frozen process does not die
		return err
	}
	// The engine refuses to kill what ended by itself, such as by SHUTDOWN.
	if _, err := cli.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: "KILL"}); err != nil {
		if running, failed := s.running(ctx, cli, id); failed != nil || running {
			return err
		}
	}
	return s.ended(ctx, cli, id)
}

func (s *Server) running(ctx context.Context, cli client.APIClient, id string) (bool, error) {
	st, err := cli.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return false, err
	}
	return st.Container.State.Running, nil
}

// ended waits for the end of the server.
func (s *Server) ended(ctx context.Context, cli client.APIClient, id string) error {
	for {
		running, err := s.running(ctx, cli, id)
		if err != nil {
			return err
		}
		if !running {
			s.stopped = true
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server does not end: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Restart starts the server again on the same address, and ends it first if it runs. With keepData a running server saves
// its keys as it ends (SHUTDOWN SAVE), so that no acknowledged write is lost; one that ended before has what its
// configuration persisted. Without, it has no keys.
func (s *Server) Restart(keepData bool) {
	s.t.Helper()
	s.change("Restart", func(ctx context.Context, cli client.APIClient, id string) error {
		if err := s.resume(ctx, cli, id); err != nil {
			return err
		}
		running, err := s.running(ctx, cli, id)
		if err != nil {
			return err
		}
		if !running {
			s.stopped = true
		} else if keepData {
			// Its success is the end of the connection.
			if err := s.do(ctx, "SHUTDOWN", "SAVE").Err(); err != nil && !errors.Is(err, driver.ErrUnknownOutcome) {
				return err
			}
			if err := s.ended(ctx, cli, id); err != nil {
				return err
			}
		} else if err := s.empty(ctx); err != nil {
			return err
		}
		if err := s.kill(ctx, cli, id); err != nil {
			return err
		}
		if _, err := cli.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
			return err
		}
		s.stopped = false
		if err := s.ready(ctx); err != nil || keepData {
			return err
		}
		return s.empty(ctx) // of what was persisted before it was killed, and of writes since it was emptied
	})
}

// empty removes the keys and what is saved of them.
func (s *Server) empty(ctx context.Context) error {
	if err := s.do(ctx, "FLUSHALL").Err(); err != nil {
		return err
	}
	for {
		err := s.do(ctx, "SAVE").Err()
		if err == nil || !strings.Contains(err.Error(), "save already in progress") {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// change alters the state of the container, one change at a time. It fails the test and lets it go on: not every goroutine
// may end it.
func (s *Server) change(method string, do func(context.Context, client.APIClient, string) error) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), changeTimeout)
	defer cancel()
	if s.ctr == nil {
		s.t.Errorf("redisxtest/containers: %s: the container is gone", method)
		return
	}
	if err := do(ctx, s.engine.Client(), s.ctr.GetContainerID()); err != nil {
		s.t.Errorf("redisxtest/containers: %s of the container on %s: %v", method, s.Addr(), err)
	}
}
