package redisxtest

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Sentinel is a primary with replicas, watched by three Sentinels, of plain processes on loopback. It is safe for
// concurrent use.
//
// Methods that change it fail the test if that does not succeed within a minute, or if it is shared, and return: they may be
// called from any goroutine.
type Sentinel struct {
	*deployment
	replicas int
	cfg      config
}

// masterName is what the Sentinels call the primary.
const masterName = "mymaster"

// watchers is how many Sentinels there are.
const watchers = 3

// StartSentinel starts a primary, its replicas and three Sentinels with a quorum of two, and returns when every replica is
// in sync and every Sentinel knows of all the others. That takes about 2 s. It ends with the test. Options apply to the
// primary and its replicas. A primary is taken for down after 2 s. Tests that break nothing share one: [SharedSentinel].
//
// Without a program to start the test is skipped, or fails if REDISX_TEST_REQUIRE lists "sentinel". It is started even if
// REDISX_TEST_URL names a server.
func StartSentinel(t testing.TB, replicas int, opts ...Option) *Sentinel {
	t.Helper()
	checkReplicas(t, replicas)
	exe, cfg := deploymentConfig(t, "sentinel", opts)
	s := newSentinel(exe, cfg, replicas)
	t.Cleanup(func() {
		s.logs(t, nil)
		s.remove()
	})
	if err := s.start(); err != nil {
		t.Fatalf("redisxtest: %v", err)
	}
	s.belong(t, false)
	return s
}

func checkReplicas(t testing.TB, replicas int) {
	t.Helper()
	if replicas < 1 || replicas > 20 {
		t.Fatalf("redisxtest: %d replicas; want 1 to 20", replicas)
	}
}

func newSentinel(exe Executable, cfg config, replicas int) *Sentinel {
	cfg.watched = true
	return &Sentinel{deployment: &deployment{exe: exe}, replicas: replicas, cfg: cfg}
}

// start starts all processes and waits until they agree.
func (s *Sentinel) start() error {
	primaries, err := s.launch(1, s.cfg, false)
	if err != nil {
		return err
	}
	port := strconv.Itoa(primaries[0].instance.port)
	cfg := s.cfg
	cfg.settings = append(slices.Clip(cfg.settings), []string{"replicaof", "127.0.0.1", port})
	if _, err := s.launch(s.replicas, cfg, false); err != nil {
		return err
	}
	watch := [][]string{
		{"sentinel", "monitor", masterName, "127.0.0.1", port, "2"},
		// Twice how often Sentinels ask: one that has just learnt of a primary, on a busy machine, must not take it for down.
		{"sentinel", "down-after-milliseconds", masterName, "2000"},
		{"sentinel", "failover-timeout", masterName, "5000"},
	}
	if s.cfg.password != "" {
		watch = append(watch, []string{"sentinel", "auth-pass", masterName, s.cfg.password})
	}
	if _, err := s.launch(watchers, config{settings: watch, clock: s.cfg.clock, preload: s.cfg.preload}, true); err != nil {
		return err
	}
	return await("the sentinels do not agree", s.settled)
}

func (s *Sentinel) data() []*Server      { return s.nodes[:s.replicas+1] }
func (s *Sentinel) sentinels() []*Server { return s.nodes[s.replicas+1:] }

// URL returns a redis-sentinel:// URL that names the Sentinels. Parameters are added as they are.
func (s *Sentinel) URL(params ...string) string {
	return withParams("redis-sentinel://"+userinfo("", s.cfg.password)+hosts(s.sentinels())+"/"+masterName, params)
}

// Sentinels returns the three Sentinels.
func (s *Sentinel) Sentinels() []*Server { return append([]*Server(nil), s.sentinels()...) }

// Nodes returns the primary and the replicas; the first began as primary.
func (s *Sentinel) Nodes() []*Server { return append([]*Server(nil), s.data()...) }

// Primary returns the node that the first Sentinel that answers names, or nil if none does.
func (s *Sentinel) Primary() *Server {
	for _, w := range up(s.sentinels()) {
		if n, err := s.named(w); err == nil {
			return n
		}
	}
	return nil
}

// named asks a Sentinel for the primary.
func (s *Sentinel) named(w *Server) (*Server, error) {
	addr, err := w.probe("SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName).Strings()
	if err != nil {
		return nil, err
	}
	for _, n := range s.data() {
		if len(addr) == 2 && n.Addr() == net.JoinHostPort(addr[0], addr[1]) {
			return n, nil
		}
	}
	return nil, fmt.Errorf("%s names %v as primary", w.Addr(), addr)
}

// Failover makes a replica the primary and returns it once every Sentinel that runs names it and the old primary has become
// its replica, or nil after failing the test. That takes about 1 s.
//
// Sentinels leave the old primary a primary for some 10 s, while it takes writes that will be lost; Failover has it follow at
// once. For a test of just that, send SENTINEL FAILOVER mymaster to one of [Sentinel.Sentinels] and use AwaitFailover.
func (s *Sentinel) Failover() *Server {
	s.t.Helper()
	if !s.own("Failover") {
		return nil
	}
	heir, err := s.failover()
	if err != nil {
		s.fault("Failover: %v", err)
		return nil
	}
	return heir
}

func (s *Sentinel) failover() (heir *Server, err error) {
	old := s.Primary()
	if old == nil {
		return nil, errors.New("no sentinel names a primary")
	}
	// Sentinels refuse for a moment after they met, and while another failover has not ended. One that was begun may be given up.
	var asked time.Time
	err = await("SENTINEL FAILOVER", func() error {
		if heir, err = s.replaced(old); err == nil || time.Since(asked) < sentinelAttempt {
			return err
		}
		watch := up(s.sentinels())
		if len(watch) == 0 {
			return errors.New("no sentinel runs")
		}
		if err := watch[0].probe("SENTINEL", "FAILOVER", masterName).Err(); err != nil {
			return err
		}
		asked = time.Now()
		return err
	})
	if err != nil {
		return nil, err
	}
	// What a Sentinel does to a primary that has been replaced.
	port := strconv.Itoa(heir.instance.port)
	if r, err := askReplication(old); err != nil || r.follows(heir) != nil {
		err := succeed(old, []string{"MULTI"}, []string{"REPLICAOF", "127.0.0.1", port}, []string{"CONFIG", "REWRITE"},
			[]string{"CLIENT", "KILL", "TYPE", "normal"}, []string{"CLIENT", "KILL", "TYPE", "pubsub"}, []string{"EXEC"})
		if err != nil {
			return nil, err
		}
	}
	return heir, await("the old primary does not follow", func() error {
		r, err := askReplication(old)
		if err != nil {
			return err
		}
		return r.follows(heir)
	})
}

// sentinelAttempt is longer than the failover timeout, after which a failover that stands still is given up.
const sentinelAttempt = 12 * time.Second

// replaced returns the primary that every Sentinel that runs names instead of old, and which is one.
func (s *Sentinel) replaced(old *Server) (*Server, error) {
	watch := up(s.sentinels())
	if len(watch) == 0 {
		return nil, errors.New("no sentinel runs")
	}
	var heir *Server
	for _, w := range watch {
		n, err := s.named(w)
		if err != nil {
			return nil, err
		}
		if n.instance == old.instance || heir != nil && n.instance != heir.instance {
			return nil, fmt.Errorf("%s names %s", w.Addr(), n.Addr())
		}
		heir = n
	}
	r, err := askReplication(heir)
	if err == nil && !r.primary() {
		err = fmt.Errorf("%s is not a primary", heir.Addr())
	}
	return heir, err
}

// AwaitFailover waits until a replica has taken over from a primary that was killed or paused: every Sentinel that runs names
// the same other node, which is a primary. It returns that, or nil after failing the test. It takes about 3 s to 4 s, of which
// 2 s is the time after which a primary is taken for down. The other replicas follow soon, and old 10 s after it is back; see
// AwaitReady.
func (s *Sentinel) AwaitFailover(old *Server) *Server {
	s.t.Helper()
	if !s.own("AwaitFailover") {
		return nil
	}
	if old == nil || !slices.ContainsFunc(s.data(), func(n *Server) bool { return n.instance == old.instance }) {
		s.fault("AwaitFailover: not a node that the Sentinels watch")
		return nil
	}
	var heir *Server
	err := await("no failover", func() (err error) {
		heir, err = s.replaced(old)
		return err
	})
	if err != nil {
		s.fault("AwaitFailover: %v", err)
		return nil
	}
	return heir
}

// AwaitReady waits until all is well: every process answers, every Sentinel names the same primary, has no doubts about it and
// knows of all the others, and every other node is a replica of it in sync. After a primary was killed, replaced and restarted
// that takes some 10 s, which is when Sentinels have it follow.
func (s *Sentinel) AwaitReady() {
	s.t.Helper()
	if err := await("the deployment is not well", s.settled); err != nil {
		s.fault("AwaitReady: %v", err)
	}
}

// settled tells what is not well yet.
func (s *Sentinel) settled() error {
	if n := len(s.nodes) - len(up(s.nodes)); n > 0 {
		return fmt.Errorf("%d of %d processes are killed or paused", n, len(s.nodes))
	}
	primary, err := s.replaced(&Server{})
	if err != nil {
		return err
	}
	err = all(s.data(), func(n *Server) error {
		r, err := askReplication(n)
		switch {
		case err != nil:
		case n.instance == primary.instance:
			err = r.feeds(s.replicas)
		default:
			err = r.follows(primary)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", n.Addr(), err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return all(s.sentinels(), s.content)
}

// content tells what a Sentinel is not content with.
func (s *Sentinel) content(w *Server) error {
	replies := w.target().doAll([]string{"SENTINEL", "MASTER", masterName}, []string{"SENTINEL", "REPLICAS", masterName},
		[]string{"SENTINEL", "SENTINELS", masterName})
	m, err := replies[0].Map()
	if err != nil {
		return fmt.Errorf("%s: %w", w.Addr(), err)
	}
	field := func(name string) string { t, _ := m[name].Text(); return t }
	if field("num-slaves") != strconv.Itoa(s.replicas) || field("num-other-sentinels") != strconv.Itoa(watchers-1) || field("flags") != "master" {
		return fmt.Errorf("%s: the primary is %s, %s replicas, %s other sentinels", w.Addr(), field("flags"), field("num-slaves"),
			field("num-other-sentinels"))
	}
	for i, want := range []string{"slave", "sentinel"} {
		list, err := replies[i+1].List()
		if err != nil {
			return fmt.Errorf("%s: %w", w.Addr(), err)
		}
		for _, item := range list {
			m, err := item.Map()
			if err != nil {
				return fmt.Errorf("%s: %w", w.Addr(), err)
			}
			if flags, _ := m["flags"].Text(); flags != want {
				name, _ := m["name"].Text()
				return fmt.Errorf("%s: %s is %s", w.Addr(), name, flags)
			}
		}
	}
	return nil
}

// containsField reports whether a comma separated list has the item.
func containsField(list, item string) bool {
	for f := range strings.SplitSeq(list, ",") {
		if f == item {
			return true
		}
	}
	return false
}
