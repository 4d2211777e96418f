package redisxtest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/go-redisx/redisx/core/driver"
)

// Sentinel is a primary with replicas, watched by three Sentinels, of plain processes on loopback. It is safe for
// concurrent use.
type Sentinel struct {
	*deployment
	data, sentinels []*Server
	cfg             config
}

// masterName is what the Sentinels call the primary.
const masterName = "mymaster"

// StartSentinel starts a primary, its replicas and three Sentinels with a quorum of two, and returns when every replica is
// in sync and every Sentinel knows of all the others. That takes about 2 s. It ends with the test. Options apply to the
// primary and its replicas. A primary is taken for down after 1 s.
//
// Without a program to start the test is skipped, or fails if REDISX_TEST_REQUIRE lists "sentinel".
func StartSentinel(t testing.TB, replicas int, opts ...Option) *Sentinel {
	t.Helper()
	if replicas < 1 || replicas > 20 {
		t.Fatalf("redisxtest: %d replicas; want 1 to 20", replicas)
	}
	d, cfg := newDeployment(t, "sentinel", opts)
	cfg.settings = append([][]string{{"repl-diskless-sync-delay", "0"}}, cfg.settings...)
	s := &Sentinel{deployment: d, cfg: cfg}
	s.data = d.start(1+replicas, cfg, false)
	primary := s.data[0]
	for _, r := range s.data[1:] {
		d.command(r, "REPLICAOF", "127.0.0.1", strconv.Itoa(primary.instance.port))
	}
	watch := [][]string{
		{"sentinel", "monitor", masterName, "127.0.0.1", strconv.Itoa(primary.instance.port), "2"},
		{"sentinel", "down-after-milliseconds", masterName, "1000"},
		{"sentinel", "failover-timeout", masterName, "5000"},
	}
	if cfg.password != "" {
		watch = append(watch, []string{"sentinel", "auth-pass", masterName, cfg.password})
	}
	s.sentinels = d.start(3, config{settings: watch}, true)
	d.await("the sentinels do not agree", s.agree)
	return s
}

// URL returns a redis-sentinel:// URL that names the Sentinels. Parameters are added as they are.
func (s *Sentinel) URL(params ...string) string {
	return withParams("redis-sentinel://"+userinfo("", s.cfg.password)+hosts(s.sentinels)+"/"+masterName, params)
}

// Sentinels returns the three Sentinels.
func (s *Sentinel) Sentinels() []*Server { return append([]*Server(nil), s.sentinels...) }

// Nodes returns the primary and the replicas; the first began as primary.
func (s *Sentinel) Nodes() []*Server { return append([]*Server(nil), s.data...) }

// Primary returns the node that the Sentinels name at present, or nil if none answers.
func (s *Sentinel) Primary() *Server {
	for _, w := range s.sentinels {
		addr, err := w.Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName).Strings()
		if err != nil || len(addr) != 2 {
			continue
		}
		for _, n := range s.data {
			if strings.HasSuffix(n.Addr(), ":"+addr[1]) {
				return n
			}
		}
	}
	return nil
}

// Failover makes a replica the primary and returns when every Sentinel names it and it is one, which takes about 1 s. The
// other nodes follow it within 10 s, which is how often Sentinels look. Failover fails the test if that does not happen,
// and must be called from the test's goroutine.
func (s *Sentinel) Failover() {
	s.t.Helper()
	old := s.Primary()
	// Sentinels refuse for a moment after they met, and while another failover has not ended.
	s.await("SENTINEL FAILOVER", func() error { return s.sentinels[0].Do("SENTINEL", "FAILOVER", masterName).Err() })
	s.await("no failover", func() error {
		primary := s.Primary()
		if primary == nil || primary == old {
			return errors.New("the primary is the old one")
		}
		for _, w := range s.sentinels {
			addr, err := w.Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName).Strings()
			if err != nil {
				return err
			}
			if len(addr) != 2 || !strings.HasSuffix(primary.Addr(), ":"+addr[1]) {
				return fmt.Errorf("%s names %v", w.Addr(), addr)
			}
		}
		role, err := primary.Do("ROLE").List()
		if err != nil {
			return err
		}
		if name, _ := role[0].Text(); name != "master" {
			return fmt.Errorf("%s is still a %s", primary.Addr(), name)
		}
		return nil
	})
}

// agree tells what is not settled yet.
func (s *Sentinel) agree() error {
	primary := s.Primary()
	if primary == nil {
		return errors.New("no sentinel names a primary")
	}
	errs := []error{inSync(primary, len(s.data)-1)}
	for _, n := range s.data {
		if n != primary {
			errs = append(errs, follows(n, primary))
		}
	}
	for _, w := range s.sentinels {
		m, err := w.Do("SENTINEL", "MASTER", masterName).Map()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		field := func(name string) string { t, _ := m[name].Text(); return t }
		if field("num-slaves") != strconv.Itoa(len(s.data)-1) || field("num-other-sentinels") != "2" || field("flags") != "master" ||
			field("port") != strconv.Itoa(primary.instance.port) {
			errs = append(errs, fmt.Errorf("%s: primary %s (%s), %s replicas, %s other sentinels", w.Addr(), field("port"), field("flags"),
				field("num-slaves"), field("num-other-sentinels")))
		}
	}
	return errors.Join(errs...)
}

// follows checks that a node is an up-to-date replica of the primary.
func follows(n, primary *Server) error {
	text, err := n.Do("INFO", "replication").Text()
	if err != nil {
		return err
	}
	info := driver.ParseInfo(text)
	if info["role"] != "slave" || info["master_port"] != strconv.Itoa(primary.instance.port) || info["master_link_status"] != "up" {
		return fmt.Errorf("%s: role %s of %s, link %s", n.Addr(), info["role"], info["master_port"], info["master_link_status"])
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
