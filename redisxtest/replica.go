package redisxtest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// StartReplica starts a replica of a running server that the test started itself, and returns once it has every write that was
// acknowledged before the call. It takes about 20 ms. It is the same program with the same password and TLS; further options
// apply to it alone. The server may be a replica too. Restart brings the replica back as one. It ends with the test.
//
// Deployments have replicas of their own: a node of a Cluster or of a Sentinel is refused, as are a shared and a given server.
func StartReplica(t testing.TB, of *Server, opts ...Option) *Server {
	t.Helper()
	if of == nil {
		t.Fatal("redisxtest: StartReplica of a nil server")
	}
	switch {
	case of.instance == nil:
		t.Fatalf("redisxtest: StartReplica needs a server of the test's own, but %s names a given server; "+
			"StartServer with the option OwnProcess skips the test then", EnvURL)
	case of.shared:
		t.Fatal("redisxtest: StartReplica would disturb the other tests of a shared server; use StartServer")
	case of.instance.cfg.cluster || of.instance.cfg.watched || of.instance.sentinel:
		t.Fatal("redisxtest: StartReplica takes no node of a deployment; StartCluster and StartSentinel have replicas")
	}
	primary := of.instance
	cfg := defaults()
	cfg.binary, cfg.tls, cfg.certFrom, cfg.password = primary.exe.Path, primary.cfg.tls, primary.dir, primary.cfg.password
	for _, o := range opts {
		o.apply(&cfg)
	}
	if cfg.tls != primary.cfg.tls {
		cfg.faults = append(cfg.faults, errors.New("option TLS: the primary has no certificate to share"))
	}
	if cfg.version != "" && cfg.binary == primary.exe.Path {
		cfg.binary = ""
	}
	own := [][]string{{"replicaof", "127.0.0.1", strconv.Itoa(primary.port)}}
	if primary.cfg.password != "" {
		own = append(own, []string{"masterauth", primary.cfg.password})
	}
	if cfg.tls {
		own = append(own, []string{"tls-replication", "yes"})
	}
	cfg.settings = append(own, cfg.settings...)
	if err := cfg.serverFaults(); err != nil {
		t.Fatalf("redisxtest: %v", err)
	}
	exe, err := cfg.choose()
	if err != nil {
		missing(t, "server", err)
	}
	cfg.needClock(t, exe)
	before, err := askReplication(of)
	if err != nil {
		t.Fatalf("redisxtest: StartReplica: the server does not answer: %v", err)
	}
	s := startOwn(t, exe, cfg)
	err = await("the replica is not in sync", func() error {
		r, err := askReplication(s)
		if err != nil {
			return err
		}
		if err := r.follows(of); err != nil {
			return err
		}
		if err := r.reached(before); err != nil {
			return err
		}
		p, err := askReplication(of)
		if err != nil {
			return err
		}
		return p.sends(s)
	})
	if err != nil {
		t.Fatalf("redisxtest: StartReplica: %v", err)
	}
	return s
}

// reached tells whether a replica has not yet what its primary had.
func (r replication) reached(primary replication) error {
	want, err := strconv.ParseInt(primary["master_repl_offset"], 10, 64)
	if err != nil {
		return err
	}
	have, err := strconv.ParseInt(r["slave_repl_offset"], 10, 64)
	if err == nil && have < want {
		err = fmt.Errorf("it is at offset %d of %d", have, want)
	}
	return err
}

// sends tells whether a primary does not yet send its writes to a replica, which may have all up to now: until it has noticed
// that, it keeps what is new.
func (r replication) sends(to *Server) error {
	for name, value := range r {
		its := strings.HasPrefix(name, "slave") && containsField(value, "port="+strconv.Itoa(to.instance.port))
		if its && containsField(value, "state=online") {
			return nil
		}
	}
	return errors.New("it is not online")
}
