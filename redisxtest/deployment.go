package redisxtest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// deployment is several processes that belong together.
type deployment struct {
	t     testing.TB
	exe   Executable
	nodes []*Server
}

// newDeployment reads the options and finds a program; what names the kind for REDISX_TEST_REQUIRE.
func newDeployment(t testing.TB, what string, opts []Option) (*deployment, config) {
	t.Helper()
	cfg := defaults()
	for _, o := range opts {
		o.apply(&cfg)
	}
	if cfg.unix {
		cfg.faults = append(cfg.faults, fmt.Errorf("option UnixSocket: the nodes of a %s talk over TCP", what))
	}
	if cfg.tls && what == "sentinel" {
		cfg.faults = append(cfg.faults, errors.New("option TLS: StartSentinel does not take it"))
	}
	if err := cfg.serverFaults(); err != nil {
		t.Fatalf("redisxtest: %v", err)
	}
	exe, err := cfg.choose()
	if err != nil {
		missing(t, what, err)
	}
	if cfg.password != "" {
		cfg.settings = append(cfg.settings, []string{"masterauth", cfg.password})
	}
	if cfg.tls {
		cfg.settings = append(cfg.settings, []string{"tls-replication", "yes"})
	}
	d := &deployment{t: t, exe: exe}
	t.Cleanup(d.stop)
	return d, cfg
}

// stop attaches the logs of a failed test and ends all processes.
func (d *deployment) stop() {
	for _, s := range d.nodes {
		if d.t.Failed() {
			d.t.Logf("log of %s on %s:\n%s", d.exe, s.Addr(), s.instance.log())
		}
	}
	var wg sync.WaitGroup
	for _, s := range d.nodes {
		wg.Go(s.instance.remove)
	}
	wg.Wait()
}

// start adds and starts n nodes side by side.
func (d *deployment) start(n int, cfg config, sentinel bool) []*Server {
	d.t.Helper()
	var added []*Server
	for range n {
		in, err := newInstance(d.exe, cfg)
		if err != nil {
			d.t.Fatalf("redisxtest: %v", err)
		}
		in.sentinel, cfg.certFrom = sentinel, in.dir
		s := &Server{t: d.t, instance: in}
		added, d.nodes = append(added, s), append(d.nodes, s)
	}
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i, s := range added {
		wg.Go(func() { errs[i] = s.instance.startAnywhere() })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		d.t.Fatalf("redisxtest: %v", err)
	}
	return added
}

// readyTimeout bounds how long a deployment may take to agree, which is about 2 s.
const readyTimeout = 30 * time.Second

// await polls until every check is content, and fails the test with the last complaint.
func (d *deployment) await(what string, check func() error) {
	d.t.Helper()
	var err error
	for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	d.t.Fatalf("redisxtest: %s: %v", what, err)
}

// command sends an admin command that must succeed.
func (d *deployment) command(s *Server, args ...string) {
	d.t.Helper()
	if err := s.Do(args...).Err(); err != nil {
		d.t.Fatalf("redisxtest: %s on %s: %v", args[:min(2, len(args))], s.Addr(), err)
	}
}

// hosts joins the addresses of servers as a URL has them.
func hosts(list []*Server) string {
	s := ""
	for i, n := range list {
		if i > 0 {
			s += ","
		}
		s += n.Addr()
	}
	return s
}
