package redisxtest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// faults are those that a server has at present, by method, with the start that they belong to.
type faults struct {
	sync.Mutex
	active map[string]int
}

// begin has a server fail in some way until the returned function is called. That may happen more than once, and after the
// server was killed, when it does nothing: a server starts without faults. One that ends by itself may be made again meanwhile.
func (s *Server) begin(method string, endsItself bool, start, end func() error) func() {
	s.t.Helper()
	nothing := func() {}
	if !s.own(method) {
		return nothing
	}
	in := s.instance
	if in.sentinel {
		s.fault("%s: a Sentinel has no data that could fail", method)
		return nothing
	}
	run, up := in.up()
	if !up {
		s.fault("%s: the server does not run, or is paused", method)
		return nothing
	}
	var err error
	if !endsItself {
		err = in.claim(method, run)
	}
	if err == nil {
		if err = start(); err != nil {
			in.release(method, run)
		}
	}
	if err != nil {
		s.fault("%s: %v", method, err)
		return nothing
	}
	var mu sync.Mutex
	over := false
	return func() {
		s.t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		if in.isPaused() {
			s.fault("the end of %s: the server is paused; Resume comes first", method)
			return
		}
		over = true
		defer in.release(method, run) // no sooner than all is as before, which the next one takes for the normal state
		// A server that was started again has its configuration, in which a Sentinel may have had it write down the fault.
		now, up := in.up()
		if !up || now != run && !in.cfg.watched {
			return
		}
		if err := end(); err != nil {
			if now, up := in.up(); up && now == run {
				s.fault("the end of %s: %v", method, err)
			}
		}
	}
}

// claim keeps a fault from being made twice: the second would take the first for the normal state.
func (in *instance) claim(method string, run int) error {
	in.faults.Lock()
	defer in.faults.Unlock()
	if in.faults.active[method] == run {
		return errors.New("it is so already; end that first")
	}
	if in.faults.active == nil {
		in.faults.active = map[string]int{}
	}
	in.faults.active[method] = run
	return nil
}

func (in *instance) release(method string, run int) {
	in.faults.Lock()
	defer in.faults.Unlock()
	if in.faults.active[method] == run {
		delete(in.faults.active, method)
	}
}

// settings are names and values for CONFIG SET, in order.
type settings [][2]string

// configured is a fault made of settings.
func (s *Server) configured(method string, list settings) func() {
	s.t.Helper()
	var before settings
	return s.begin(method, false, func() (err error) {
		before, err = s.configure(list)
		return err
	}, func() error {
		_, err := s.configure(before)
		return err
	})
}

// configure changes settings, and returns what undoes it: the values before, the last one first. If one cannot be changed the
// others are not.
func (s *Server) configure(list settings) (before settings, err error) {
	for _, x := range list {
		var value string
		if value, err = s.setting(x[0]); err == nil {
			err = s.Do("CONFIG", "SET", x[0], x[1]).Err()
		}
		if err != nil {
			err = fmt.Errorf("CONFIG SET %s: %w", x[0], err)
			break
		}
		before = append(before, [2]string{x[0], value})
	}
	slices.Reverse(before)
	if err != nil && len(before) > 0 {
		_, undo := s.configure(before)
		return nil, errors.Join(err, undo)
	}
	return before, err
}

func (s *Server) setting(name string) (string, error) {
	pair, err := s.Do("CONFIG", "GET", name).Strings()
	if err == nil && len(pair) != 2 {
		err = errors.New("this server has no such setting")
	}
	if err != nil {
		return "", err
	}
	return pair[1], nil
}

// FillMemory has the server refuse what needs memory, most writes, with OOM: its limit is set below what it uses. Keys are not
// touched, whatever the eviction policy. The returned function ends it.
func (s *Server) FillMemory() (end func()) {
	s.t.Helper()
	return s.configured("FillMemory", settings{{"maxmemory-policy", "noeviction"}, {"maxmemory", "1"}})
}

// NoReplicas has the server refuse writes with NOREPLICAS, as one that lost the replicas which it must have does
// (min-replicas-to-write). The returned function ends it.
func (s *Server) NoReplicas() (end func()) {
	s.t.Helper()
	return s.configured("NoReplicas", settings{{"min-replicas-to-write", "1000"}})
}

// ReadOnly has the server refuse writes with READONLY, as a primary that was demoted does, while it goes on to serve reads. The
// returned function ends it. The server is a replica of nobody meanwhile and says so in ROLE and INFO; its data stays, its own
// replicas go on to follow it, what expires is only hidden until the end, and blocked clients get UNBLOCKED.
//
// A Sentinel takes a primary that says so for down after some 20 s. A Cluster node cannot be made read-only: after
// [Cluster.Failover] the old primary refuses writes with MOVED. A replica refuses writes anyway.
func (s *Server) ReadOnly() (end func()) {
	s.t.Helper()
	var before settings
	return s.begin("ReadOnly", false, func() error {
		if s.instance.cfg.cluster || s.clustered() {
			return errors.New("a Cluster node cannot be made a replica of nobody; use Failover")
		}
		if err := s.mustBePrimary(); err != nil {
			return err
		}
		// Without the first the server would refuse reads, too.
		var err error
		if before, err = s.configure(settings{{"replica-serve-stale-data", "yes"}, {"replica-read-only", "yes"}}); err != nil {
			return err
		}
		return s.Do("REPLICAOF", "127.0.0.1", nowhere).Err()
	}, func() error {
		_, undo := s.configure(before)
		r, err := askReplication(s)
		if err == nil && !r.primary() && r["master_port"] == nowhere { // Sentinels may have made it something else
			err = s.Do("REPLICAOF", "NO", "ONE").Err()
		}
		return errors.Join(undo, err)
	})
}

// nowhere is a port that no server can have, now or later.
const nowhere = "0"

func (s *Server) clustered() bool {
	v, err := s.setting("cluster-enabled")
	return err == nil && v == "yes"
}

func (s *Server) mustBePrimary() error {
	r, err := askReplication(s)
	if err == nil && !r.primary() {
		err = errors.New("the server is a replica")
	}
	return err
}

// FailSaves has the server refuse writes with MISCONF, as one that cannot save to its disk does. The returned function ends it.
func (s *Server) FailSaves() (end func()) {
	s.t.Helper()
	var before settings
	return s.begin("FailSaves", false, func() error {
		dump := s.instance.dump()
		if err := os.Rename(dump, dump+aside); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		// A directory cannot be replaced by the file that was written beside it, whoever the server runs as.
		err := os.Mkdir(dump, 0o700)
		if err == nil {
			before, err = s.configure(settings{{"save", "3600 1000000"}, {"stop-writes-on-bgsave-error", "yes"}})
		}
		if err == nil {
			err = s.bgsave("err")
		}
		if err != nil {
			_, undo := s.configure(before)
			err = errors.Join(err, s.instance.mend(), undo)
		}
		return err
	}, func() error {
		dump := s.instance.dump()
		_, statErr := os.Stat(dump + aside)
		if err := s.instance.mend(); err != nil {
			return err
		}
		err := s.bgsave("ok")
		_, undo := s.configure(before)
		err = errors.Join(err, undo)
		if err == nil && os.IsNotExist(statErr) {
			err = s.forget()
		}
		return err
	})
}

// forget removes the snapshot of a server that was not to make one: it must not come back after a Kill.
func (s *Server) forget() error {
	if save, err := s.setting("save"); err != nil || save != "" {
		return err
	}
	return os.Remove(s.instance.dump())
}

// bgsave saves in the background until it ends in the way that is wanted.
func (s *Server) bgsave(status string) error {
	asked := false
	return await("BGSAVE", func() error {
		text, err := s.Do("INFO", "persistence").Text()
		if err != nil {
			return err
		}
		info := driver.ParseInfo(text)
		switch {
		case info["rdb_bgsave_in_progress"] != "0":
			return errors.New("it takes its time")
		case asked && info["rdb_last_bgsave_status"] == status:
			return nil
		}
		asked = true
		if err := s.Do("BGSAVE").Err(); err != nil {
			return err
		}
		return fmt.Errorf("it was %s; want %s", info["rdb_last_bgsave_status"], status)
	})
}

// aside is where FailSaves puts the file in the way.
const aside = ".aside"

// mend removes what FailSaves has left behind with a server that was killed.
func (in *instance) mend() error {
	dump := in.dump()
	info, err := os.Stat(dump)
	if errors.Is(err, os.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.Remove(dump); err != nil {
		return err
	}
	if err := os.Rename(dump+aside, dump); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// RefuseClients has the server refuse new connections with "ERR max number of clients reached", and so [Server.Do] too, and what
// other methods do by it: they, and the ends of other faults, fail meanwhile. Connections that are there stay. The returned
// function ends it.
func (s *Server) RefuseClients() (end func()) {
	s.t.Helper()
	var l *line
	var before string
	return s.begin("RefuseClients", false, func() (err error) {
		if before, err = s.setting("maxclients"); err != nil {
			return err
		}
		if l, err = s.target().dial(); err != nil {
			return err
		}
		s.t.Cleanup(func() { _ = l.nc.Close() })
		return l.succeed([]string{"CONFIG", "SET", "maxclients", "1"})
	}, func() error {
		defer l.nc.Close()
		if err := l.nc.SetDeadline(time.Now().Add(adminTimeout)); err != nil {
			return err
		}
		return l.succeed([]string{"CONFIG", "SET", "maxclients", before})
	})
}

// KillClients closes the connections of a kind, "normal", "pubsub", "replica" or "master", and returns how many there were. The
// clients may connect again at once.
func (s *Server) KillClients(kind string) int {
	s.t.Helper()
	if !s.own("KillClients") {
		return 0
	}
	if !slices.Contains([]string{"normal", "pubsub", "replica", "master"}, kind) {
		s.fault("KillClients(%q): want normal, pubsub, replica or master", kind)
		return 0
	}
	n, err := s.Do("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes").Int64()
	if err != nil {
		s.fault("KillClients(%q): %v", kind, err)
	}
	return int(n)
}

// SetACL changes an ACL user at run time, or makes one, as ACL SETUSER does: rules add to what the user may, so "reset" comes
// first to begin anew. They hold for connections that are open, too; but a new password is asked of new ones only. The
// returned function brings the user back as it was.
//
// The default user is refused: this package itself comes as that. On a Cluster it is one node that changes.
func (s *Server) SetACL(user string, rules ...string) (end func()) {
	s.t.Helper()
	var undo []string
	return s.begin("SetACL", true, func() error {
		if user == "" || user == "default" {
			return errors.New("want a user other than the default one, by whom tests control the server")
		}
		before, err := s.aclRules(user)
		if err == nil {
			err = s.Do(append([]string{"ACL", "SETUSER", user}, rules...)...).Err()
		}
		if err != nil {
			return errors.New(hideSecrets(err.Error(), rules))
		}
		undo = []string{"ACL", "DELUSER", user}
		if before != nil {
			undo = append([]string{"ACL", "SETUSER", user, "reset"}, before...)
		}
		return nil
	}, func() error { return s.Do(undo...).Err() })
}

// hideSecrets takes out of an error those rules that are passwords or their hashes: a server repeats what it does not like.
func hideSecrets(text string, rules []string) string {
	for _, r := range rules {
		if len(r) > 1 && strings.ContainsRune("><#!", rune(r[0])) {
			text = strings.ReplaceAll(text, r, r[:1]+"***")
		}
	}
	return text
}

// run tells starts apart.
func (in *instance) run() int {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return in.starts
}

// aclRules returns the rules of a user, nil if there is none.
func (s *Server) aclRules(user string) ([]string, error) {
	list, err := s.Do("ACL", "LIST").Strings()
	if err != nil {
		return nil, err
	}
	for _, l := range list {
		if rest, ok := strings.CutPrefix(l, "user "+user+" "); ok {
			return splitRules(rest), nil
		}
	}
	return nil, nil
}

// splitRules splits at spaces outside of selectors, which are in parentheses.
func splitRules(s string) []string {
	rules := []string{}
	depth, from := 0, 0
	for i := 0; i <= len(s); i++ {
		switch {
		case i == len(s) || s[i] == ' ' && depth == 0:
			if i > from {
				rules = append(rules, s[from:i])
			}
			from = i + 1
		case s[i] == '(' && (i == from || depth > 0):
			depth++
		case s[i] == ')' && depth > 0:
			depth--
		}
	}
	return rules
}
