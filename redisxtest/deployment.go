package redisxtest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// deployment is several processes that belong together.
type deployment struct {
	t      testing.TB
	exe    Executable
	nodes  []*Server
	shared bool
}

// deploymentConfig reads the options and finds a program; what names the kind for REDISX_TEST_REQUIRE.
func deploymentConfig(t testing.TB, what string, opts []Option) (Executable, config) {
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
	cfg.needClock(t, exe)
	if cfg.password != "" {
		cfg.settings = append(cfg.settings, []string{"masterauth", cfg.password})
	}
	if cfg.tls {
		cfg.settings = append(cfg.settings, []string{"tls-replication", "yes"})
	}
	return exe, cfg
}

// belong makes the deployment one of a test, to which the methods of its nodes report.
func (d *deployment) belong(t testing.TB, shared bool) {
	d.t, d.shared = t, shared
	nodes := make([]*Server, len(d.nodes))
	for i, s := range d.nodes {
		nodes[i] = &Server{t: t, instance: s.instance, shared: shared}
	}
	d.nodes = nodes
}

// logs attaches the logs of a failed test.
func (d *deployment) logs(t testing.TB, from []int64) {
	if !t.Failed() {
		return
	}
	for i, s := range d.nodes {
		if i < len(from) { // what other tests have caused before is no help
			t.Logf("log of %s on %s during this test:\n%s", d.exe, s.Addr(), s.instance.logFrom(from[i]))
			continue
		}
		t.Logf("log of %s on %s:\n%s", d.exe, s.Addr(), s.instance.log())
	}
}

// remove ends all processes.
func (d *deployment) remove() {
	var wg sync.WaitGroup
	for _, s := range d.nodes {
		wg.Go(s.instance.remove)
	}
	wg.Wait()
}

// running reports whether all processes run.
func (d *deployment) running() bool {
	for _, s := range d.nodes {
		if !s.instance.running() {
			return false
		}
	}
	return true
}

// launch adds and starts n nodes side by side.
func (d *deployment) launch(n int, cfg config, sentinel bool) ([]*Server, error) {
	var added []*Server
	for range n {
		in, err := newInstance(d.exe, cfg)
		if err != nil {
			return nil, err
		}
		in.sentinel, cfg.certFrom = sentinel, in.dir
		s := &Server{instance: in}
		added, d.nodes = append(added, s), append(d.nodes, s)
	}
	return added, all(added, func(s *Server) error { return s.instance.startAnywhere() })
}

// all runs f for every server side by side and joins the errors.
func all(list []*Server, f func(*Server) error) error {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, s := range list {
		wg.Go(func() { errs[i] = f(s) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// readyTimeout bounds how long a deployment may take to agree: about 2 s at the start, some 20 s for a Sentinel's replica that
// was down.
const readyTimeout = 60 * time.Second

// await polls until the check is content, and returns its last complaint if it never is.
func await(what string, check func() error) error {
	var err error
	for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); time.Sleep(15 * time.Millisecond) {
		if err = check(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// own reports whether the test may break the deployment and fails it if not.
func (d *deployment) own(method string) bool {
	d.t.Helper()
	if d.shared {
		d.fault("%s would disturb the other tests of a shared deployment; use StartCluster or StartSentinel", method)
	}
	return !d.shared
}

// fault fails the test and lets it go on, as [Server.fault] does.
func (d *deployment) fault(format string, args ...any) {
	d.t.Helper()
	d.t.Errorf("redisxtest: "+format, args...)
}

// up returns those nodes of a list that run and are not paused. They may still not answer.
func up(list []*Server) []*Server {
	var found []*Server
	for _, s := range list {
		if s.instance.awake() {
			found = append(found, s)
		}
	}
	return found
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

// replication is the section of INFO.
type replication map[string]string

func askReplication(n *Server) (replication, error) {
	text, err := n.probe("INFO", "replication").Text()
	return driver.ParseInfo(text), err
}

func (r replication) primary() bool { return r["role"] == "master" }

// follows tells why a node is not an up-to-date replica of the primary.
func (r replication) follows(primary *Server) error {
	if r.primary() || r["master_port"] != strconv.Itoa(primary.instance.port) || r["master_link_status"] != "up" {
		return fmt.Errorf("role %s of port %s, link %s; want a replica of %s", r["role"], r["master_port"], r["master_link_status"],
			primary.Addr())
	}
	return nil
}

// feeds tells why a primary has not so many replicas that are in sync.
func (r replication) feeds(replicas int) error {
	if n := r["connected_slaves"]; !r.primary() || n != strconv.Itoa(replicas) {
		return fmt.Errorf("a %s with %s of %d replicas", r["role"], n, replicas)
	}
	for i := range replicas {
		if s := r["slave"+strconv.Itoa(i)]; !containsField(s, "state=online") {
			return fmt.Errorf("replica %q is not online", s)
		}
	}
	return nil
}
