package redisxtest

import (
	"fmt"
	"sync"
	"testing"
)

// sharedDeployments are those of SharedCluster and SharedSentinel by program and shape.
var sharedDeployments struct {
	sync.Mutex
	by map[string]*sharing
}

// sharing is one of them, whose lock is held while it is started: others that want the same wait for it.
type sharing struct {
	sync.Mutex
	cluster  *Cluster
	sentinel *Sentinel
}

// share returns the entry of a program and shape.
func share(kind string, exe Executable, shape ...int) *sharing {
	sharedDeployments.Lock()
	defer sharedDeployments.Unlock()
	key := fmt.Sprint(kind, shape, exe.Path)
	s := sharedDeployments.by[key]
	if s == nil {
		s = &sharing{}
		if sharedDeployments.by == nil {
			sharedDeployments.by = map[string]*sharing{}
		}
		sharedDeployments.by[key] = s
	}
	return s
}

// SharedCluster returns the one Cluster of this shape that tests of this program share, as [StartCluster] starts it, started by
// the first that asks. It keeps running until the program ends; tests keep apart by [Prefix] and must not flush it, and the
// methods that would break it fail the test. It may be given a program with [Binary] or [Version], but no other option.
func SharedCluster(t testing.TB, masters, replicas int, opts ...Option) *Cluster {
	t.Helper()
	checkShape(t, masters, replicas)
	exe := sharedExecutable(t, "cluster", opts)
	s := share("cluster", exe, masters, replicas)
	s.Lock()
	defer s.Unlock()
	if s.cluster != nil && !s.cluster.running() {
		s.cluster.remove()
		s.cluster = nil
	}
	if s.cluster == nil {
		c := newCluster(exe, defaults(), masters, replicas)
		if err := c.start(); err != nil {
			t.Errorf("redisxtest: shared cluster: %v", err)
			c.logs(t, nil)
			c.remove()
			t.FailNow()
		}
		s.cluster = c
	}
	return &Cluster{deployment: s.cluster.lend(t), masters: masters, replicas: replicas, cfg: s.cluster.cfg}
}

// SharedSentinel returns the one deployment of this shape that tests of this program share, as [StartSentinel] starts it. The
// rest is as with [SharedCluster].
func SharedSentinel(t testing.TB, replicas int, opts ...Option) *Sentinel {
	t.Helper()
	checkReplicas(t, replicas)
	exe := sharedExecutable(t, "sentinel", opts)
	s := share("sentinel", exe, replicas)
	s.Lock()
	defer s.Unlock()
	if s.sentinel != nil && !s.sentinel.running() {
		s.sentinel.remove()
		s.sentinel = nil
	}
	if s.sentinel == nil {
		d := newSentinel(exe, defaults(), replicas)
		if err := d.start(); err != nil {
			t.Errorf("redisxtest: shared sentinel: %v", err)
			d.logs(t, nil)
			d.remove()
			t.FailNow()
		}
		s.sentinel = d
	}
	return &Sentinel{deployment: s.sentinel.lend(t), replicas: replicas, cfg: s.sentinel.cfg}
}

func sharedExecutable(t testing.TB, what string, opts []Option) Executable {
	t.Helper()
	cfg := defaults()
	for _, o := range opts {
		o.apply(&cfg)
	}
	if !cfg.plain() {
		t.Fatalf("redisxtest: a shared %s takes only Binary and Version; use StartCluster or StartSentinel", what)
	}
	exe, err := cfg.choose()
	if err != nil {
		missing(t, what, err)
	}
	return exe
}

// plain reports whether nothing but the program was chosen.
func (c *config) plain() bool {
	return !c.tls && !c.unix && !c.inMemory && !c.clock && c.password == "" &&
		len(c.settings) == 0 && len(c.users) == 0 && len(c.faults) == 0
}

// lend is the deployment for one test, which gets the logs from now on if it fails.
func (d *deployment) lend(t testing.TB) *deployment {
	mine := &deployment{exe: d.exe, nodes: d.nodes}
	mine.belong(t, true)
	from := make([]int64, len(d.nodes))
	for i, s := range d.nodes {
		from[i] = s.instance.logSize()
	}
	t.Cleanup(func() { mine.logs(t, from) })
	return mine
}
