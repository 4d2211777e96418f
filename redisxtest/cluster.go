package redisxtest

import (
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/go-redisx/redisx/core/driver"
)

// slots of a Cluster.
const slots = 16384

// Cluster is a Redis Cluster of plain processes on loopback. It is safe for concurrent use.
type Cluster struct {
	*deployment
	masters, replicas int
	cfg               config
}

// StartCluster starts a Cluster of masters primaries with replicas replicas each and returns when every node says that the
// cluster is ok and knows who serves each of the 16384 slots, and every replica is in sync. That takes about 2 s, which is
// the server's own delay. It ends with the test. Options apply to every node; the node timeout is 2 s unless
// Config("cluster-node-timeout", …) says otherwise.
//
// Without a program to start the test is skipped, or fails if REDISX_TEST_REQUIRE lists "cluster".
func StartCluster(t testing.TB, masters, replicas int, opts ...Option) *Cluster {
	t.Helper()
	if masters < 1 || replicas < 0 || masters*(replicas+1) > 100 {
		t.Fatalf("redisxtest: a cluster of %d primaries with %d replicas each; want at least 1 and 0, and at most 100 nodes", masters, replicas)
	}
	d, cfg := newDeployment(t, "cluster", opts)
	cfg.cluster = true
	own := [][]string{{"cluster-enabled", "yes"}, {"cluster-config-file", "nodes.conf"}, {"cluster-node-timeout", "2000"},
		{"repl-diskless-sync-delay", "0"}}
	if cfg.tls {
		own = append(own, []string{"tls-cluster", "yes"})
	}
	cfg.settings = append(own, cfg.settings...)
	c := &Cluster{deployment: d, masters: masters, replicas: replicas, cfg: cfg}
	d.start(masters*(replicas+1), cfg, false)
	c.form()
	return c
}

// URL returns a redis-cluster:// URL that names every node. Parameters are added as they are.
func (c *Cluster) URL(params ...string) string {
	if c.cfg.tls {
		params = append([]string{"tls=true", "ca=" + c.nodes[0].instance.file("ca.pem")}, params...)
	}
	return withParams("redis-cluster://"+userinfo("", c.cfg.password)+hosts(c.nodes), params)
}

// Nodes returns every node, first those that began as primaries. Failovers do not change the order.
func (c *Cluster) Nodes() []*Server { return append([]*Server(nil), c.nodes...) }

// Node returns the primary that serves a key at present, as the nodes that answer see it, or nil if they know of none.
func (c *Cluster) Node(key string) *Server {
	for _, n := range c.nodes {
		slot, err := n.Do("CLUSTER", "KEYSLOT", key).Int64()
		if err != nil {
			continue
		}
		owners, err := slotOwners(n)
		if err != nil || owners[slot] == "" {
			continue
		}
		for _, o := range c.nodes {
			if o.Addr() == owners[slot] {
				return o
			}
		}
	}
	return nil
}

// form makes the nodes a cluster.
func (c *Cluster) form() {
	c.t.Helper()
	first := c.nodes[0]
	for i, n := range c.nodes {
		if i < c.masters {
			add := []string{"CLUSTER", "ADDSLOTS"}
			for slot := slots * i / c.masters; slot < slots*(i+1)/c.masters; slot++ {
				add = append(add, strconv.Itoa(slot))
			}
			c.command(n, add...)
		}
		// Epochs of their own spare the nodes from settling collisions first.
		c.command(n, "CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		if i > 0 {
			c.command(first, "CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(n.instance.port), strconv.Itoa(n.instance.port+10_000))
		}
	}
	ids := make([]string, c.masters)
	for i := range ids {
		id, err := c.nodes[i].Do("CLUSTER", "MYID").Text()
		if err != nil {
			c.t.Fatalf("redisxtest: CLUSTER MYID: %v", err)
		}
		ids[i] = id
	}
	for i, n := range c.nodes[c.masters:] {
		c.await("a replica does not learn of its primary", func() error {
			return n.Do("CLUSTER", "REPLICATE", ids[i%c.masters]).Err()
		})
	}
	c.await("the cluster does not form", func() error {
		var errs []error
		for _, n := range c.nodes {
			errs = append(errs, c.agrees(n))
		}
		return errors.Join(errs...)
	})
}

// agrees tells what a node is not yet content with.
func (c *Cluster) agrees(n *Server) error {
	text, err := n.Do("CLUSTER", "INFO").Text()
	if err != nil {
		return err
	}
	info := driver.ParseInfo(text)
	if info["cluster_state"] != "ok" || info["cluster_known_nodes"] != strconv.Itoa(len(c.nodes)) {
		return fmt.Errorf("%s: state %s, knows %s of %d nodes", n.Addr(), info["cluster_state"], info["cluster_known_nodes"], len(c.nodes))
	}
	owners, err := slotOwners(n)
	if err != nil {
		return err
	}
	replicas := map[string]bool{}
	for slot, o := range owners {
		if o == "" {
			return fmt.Errorf("%s: knows nobody for slot %d", n.Addr(), slot)
		}
		replicas[o] = true
	}
	if len(replicas) != c.masters {
		return fmt.Errorf("%s: knows %d of %d primaries", n.Addr(), len(replicas), c.masters)
	}
	return inSync(n, c.replicas)
}

// inSync checks the replication of a node: a primary has all its replicas, a replica is connected.
func inSync(n *Server, replicas int) error {
	text, err := n.Do("INFO", "replication").Text()
	if err != nil {
		return err
	}
	info := driver.ParseInfo(text)
	switch {
	case info["role"] == "slave" && info["master_link_status"] != "up":
		return fmt.Errorf("%s: no link to its primary", n.Addr())
	case info["role"] == "master" && info["connected_slaves"] != strconv.Itoa(replicas):
		return fmt.Errorf("%s: has %s of %d replicas", n.Addr(), info["connected_slaves"], replicas)
	case info["role"] == "master":
		for i := range replicas {
			if s := info["slave"+strconv.Itoa(i)]; !containsField(s, "state=online") {
				return fmt.Errorf("%s: replica %q is not online", n.Addr(), s)
			}
		}
	}
	return nil
}

// slotOwners asks a node for the primary of every slot.
func slotOwners(n *Server) ([slots]string, error) {
	var owners [slots]string
	ranges, err := n.Do("CLUSTER", "SLOTS").List()
	if err != nil {
		return owners, err
	}
	for _, r := range ranges {
		parts, err := r.List()
		if err != nil || len(parts) < 3 {
			return owners, fmt.Errorf("CLUSTER SLOTS: %w in %s", err, r)
		}
		low, err1 := parts[0].Int64()
		high, err2 := parts[1].Int64()
		node, err3 := parts[2].List()
		if err := errors.Join(err1, err2, err3); err != nil || low < 0 || high >= slots || len(node) < 2 {
			return owners, fmt.Errorf("CLUSTER SLOTS: %w in %s", err, r)
		}
		port, err := node[1].Int64()
		if err != nil {
			return owners, err
		}
		for s := low; s <= high; s++ {
			owners[s] = loopback(int(port))
		}
	}
	return owners, nil
}
