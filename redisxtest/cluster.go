package redisxtest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// slots of a Cluster.
const slots = 16384

// Cluster is a Redis Cluster of plain processes on loopback. It is safe for concurrent use.
//
// Methods that change it fail the test if that does not succeed within a minute, or if the Cluster is shared, and return: they
// may be called from any goroutine.
type Cluster struct {
	*deployment
	masters, replicas int
	cfg               config

	// Held while a slot gets its new owner or a replica takes over: each of these takes the next epoch, and of two at once the
	// nodes could take one back.
	change sync.Mutex

	mu     sync.Mutex
	moving map[uint16]bool         // slots that are open
	voted  map[*instance]time.Time // when a replica of this node was elected
	stood  map[*instance]time.Time // when this node was
}

// StartCluster starts a Cluster of masters primaries with replicas replicas each and returns when every node says that the
// cluster is ok and knows who serves each of the 16384 slots, and every replica is in sync. That takes about 2 s, which is
// the server's own delay. It ends with the test. Options apply to every node; the node timeout is 2 s unless
// Config("cluster-node-timeout", …) says otherwise. Tests that break nothing share one: [SharedCluster].
//
// Without a program to start the test is skipped, or fails if REDISX_TEST_REQUIRE lists "cluster". It is started even if
// REDISX_TEST_URL names a server.
func StartCluster(t testing.TB, masters, replicas int, opts ...Option) *Cluster {
	t.Helper()
	checkShape(t, masters, replicas)
	exe, cfg := deploymentConfig(t, "cluster", opts)
	c := newCluster(exe, cfg, masters, replicas)
	t.Cleanup(func() {
		c.logs(t, nil)
		c.remove()
	})
	if err := c.start(); err != nil {
		t.Fatalf("redisxtest: %v", err)
	}
	c.belong(t, false)
	return c
}

func checkShape(t testing.TB, masters, replicas int) {
	t.Helper()
	if masters < 1 || replicas < 0 || masters*(replicas+1) > 100 {
		t.Fatalf("redisxtest: a cluster of %d primaries with %d replicas each; want at least 1 and 0, and at most 100 nodes", masters, replicas)
	}
}

func newCluster(exe Executable, cfg config, masters, replicas int) *Cluster {
	cfg.cluster = true
	own := [][]string{{"cluster-enabled", "yes"}, {"cluster-config-file", "nodes.conf"}, {"cluster-node-timeout", "2000"}}
	if cfg.tls {
		own = append(own, []string{"tls-cluster", "yes"})
	}
	cfg.settings = append(own, cfg.settings...)
	return &Cluster{
		deployment: &deployment{exe: exe}, masters: masters, replicas: replicas, cfg: cfg,
		moving: map[uint16]bool{}, voted: map[*instance]time.Time{}, stood: map[*instance]time.Time{},
	}
}

// start starts the nodes and makes them a cluster.
func (c *Cluster) start() error {
	if _, err := c.launch(c.masters*(c.replicas+1), c.cfg, false); err != nil {
		return err
	}
	return c.form()
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

// Node returns the primary that serves a key at present, as the first node that answers sees it, or nil if it knows of none.
// Until a failover that is due the dead primary is still the one.
func (c *Cluster) Node(key string) *Server {
	slot := driver.Slot(key)
	for _, n := range up(c.nodes) {
		owners, err := slotOwners(n)
		if err == nil && owners[slot] != "" {
			return c.byAddr(owners[slot])
		}
	}
	return nil
}

func (c *Cluster) byAddr(addr string) *Server {
	for _, n := range c.nodes {
		if n.Addr() == addr {
			return n
		}
	}
	return nil
}

// member fails the test if the node is not of this cluster.
func (c *Cluster) member(method string, n *Server) bool {
	c.t.Helper()
	if n != nil {
		for _, m := range c.nodes {
			if m.instance == n.instance {
				return true
			}
		}
	}
	c.fault("%s: not a node of this cluster", method)
	return false
}

// form makes the nodes a cluster.
func (c *Cluster) form() error {
	for i, n := range c.nodes {
		var cmds [][]string
		if i < c.masters {
			add := []string{"CLUSTER", "ADDSLOTS"}
			for slot := slots * i / c.masters; slot < slots*(i+1)/c.masters; slot++ {
				add = append(add, strconv.Itoa(slot))
			}
			cmds = append(cmds, add)
		}
		// Epochs of their own spare the nodes from settling collisions first.
		cmds = append(cmds, []string{"CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i + 1)})
		if err := succeed(n, cmds...); err != nil {
			return err
		}
	}
	if err := c.meet(); err != nil {
		return err
	}
	met := time.Now()
	meetAgain := func() {
		if time.Since(met) > handshake {
			_ = c.meet()
			met = time.Now()
		}
	}
	ids := make([]string, c.masters)
	for i := range ids {
		id, err := c.nodes[i].Do("CLUSTER", "MYID").Text()
		if err != nil {
			return err
		}
		ids[i] = id
	}
	for i, n := range c.nodes[c.masters:] {
		err := await("a replica does not learn of its primary", func() error {
			meetAgain()
			return n.Do("CLUSTER", "REPLICATE", ids[i%c.masters]).Err()
		})
		if err != nil {
			return err
		}
	}
	return await("the cluster does not form", func() error {
		meetAgain()
		return c.formed()
	})
}

// handshake is longer than a node waits for another to answer when they meet; then it forgets it.
const handshake = 3 * time.Second

// meet introduces the first node to those that it does not know.
func (c *Cluster) meet() error {
	v, err := look(c.nodes[0])
	if err != nil {
		return err
	}
	var cmds [][]string
	for _, n := range c.nodes[1:] {
		if m := v.at(n); m.id == "" || containsField(m.flags, "handshake") {
			port := n.instance.port
			cmds = append(cmds, []string{"CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(port), strconv.Itoa(port + 10_000)})
		}
	}
	if len(cmds) == 0 {
		return nil
	}
	return succeed(c.nodes[0], cmds...)
}

// formed is settled with the shape that was asked for.
func (c *Cluster) formed() error {
	if err := c.settled(); err != nil {
		return err
	}
	return all(c.nodes, func(n *Server) error {
		r, err := askReplication(n)
		if err == nil && r.primary() {
			err = r.feeds(c.replicas)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", n.Addr(), err)
		}
		return nil
	})
}

// succeed sends commands on one connection and returns the first error.
func succeed(n *Server, cmds ...[]string) error {
	for i, r := range n.target().doAll(cmds...) {
		if err := r.Err(); err != nil {
			return fmt.Errorf("%s on %s: %w", strings.Join(cmds[i][:min(2, len(cmds[i]))], " "), n.Addr(), err)
		}
	}
	return nil
}

// view is what a node of a cluster says of all.
type view struct {
	of      *Server
	info    map[string]string
	members []member
	owners  [slots]string
	replication
}

// member is a node as another sees it.
type member struct {
	id, addr, flags, link string
	primary               string // id
}

// look asks a node, and is quicker to give up than an admin command.
func look(n *Server) (*view, error) {
	g := n.target()
	g.timeout = probeTimeout
	r := g.doAll([]string{"CLUSTER", "INFO"}, []string{"CLUSTER", "NODES"}, []string{"CLUSTER", "SLOTS"}, []string{"INFO", "replication"})
	info, err1 := r[0].Text()
	list, err2 := r[1].Text()
	owners, err3 := readSlots(r[2])
	repl, err4 := r[3].Text()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	v := &view{of: n, info: driver.ParseInfo(info), owners: owners, replication: driver.ParseInfo(repl)}
	for line := range strings.Lines(list) {
		// id ip:port@busport[,hostname] flags primary ping-sent pong-received epoch link-state slots…
		f := strings.Fields(line)
		if len(f) < 8 {
			return nil, fmt.Errorf("%s: CLUSTER NODES: a line is short: %q", n.Addr(), line)
		}
		addr, _, _ := strings.Cut(f[1], "@")
		v.members = append(v.members, member{id: f[0], addr: addr, flags: f[2], primary: f[3], link: f[7]})
	}
	return v, nil
}

// views asks all nodes of a list side by side, those that do not answer left out.
func views(list []*Server) []*view {
	found := make([]*view, len(list))
	var wg sync.WaitGroup
	for i, n := range list {
		wg.Go(func() { found[i], _ = look(n) })
	}
	wg.Wait()
	some := found[:0]
	for _, v := range found {
		if v != nil {
			some = append(some, v)
		}
	}
	return some
}

// settled tells what is not well yet: every node answers, knows every other and has no doubts about it, all slots are served,
// all agree by whom, and every replica is in sync.
func (c *Cluster) settled() error {
	if n := len(c.nodes) - len(up(c.nodes)); n > 0 {
		return fmt.Errorf("%d of %d nodes are killed or paused", n, len(c.nodes))
	}
	seen := views(c.nodes)
	if len(seen) < len(c.nodes) {
		return fmt.Errorf("%d of %d nodes do not answer", len(c.nodes)-len(seen), len(c.nodes))
	}
	replicas, fed := 0, 0
	for _, v := range seen {
		if err := v.content(len(c.nodes)); err != nil {
			return fmt.Errorf("%s: %w", v.of.Addr(), err)
		}
		if err := v.agrees(seen[0]); err != nil {
			return err
		}
		if v.primary() {
			n, _ := strconv.Atoi(v.replication["connected_slaves"])
			if err := v.feeds(n); err != nil {
				return fmt.Errorf("%s: %w", v.of.Addr(), err)
			}
			fed += n
		} else {
			replicas++
		}
	}
	if fed != replicas {
		return fmt.Errorf("of %d replicas %d are fed by a primary", replicas, fed)
	}
	return nil
}

// content tells what a node alone is not content with.
func (v *view) content(nodes int) error {
	if v.info["cluster_state"] != "ok" || v.info["cluster_known_nodes"] != strconv.Itoa(nodes) {
		return fmt.Errorf("state %s, knows %s of %d nodes", v.info["cluster_state"], v.info["cluster_known_nodes"], nodes)
	}
	for _, m := range v.members {
		for _, bad := range []string{"fail", "fail?", "handshake", "noaddr"} {
			if containsField(m.flags, bad) {
				return fmt.Errorf("%s is %s", m.addr, m.flags)
			}
		}
		if m.link != "connected" {
			return fmt.Errorf("the link to %s is %s", m.addr, m.link)
		}
	}
	for slot, o := range v.owners {
		if o == "" {
			return fmt.Errorf("knows nobody for slot %d", slot)
		}
	}
	if !v.primary() && v.replication["master_link_status"] != "up" {
		return errors.New("no link to its primary")
	}
	if v.primary() != v.isPrimary() {
		return errors.New("replication and cluster differ about its role")
	}
	return nil
}

// isPrimary is the role of a node by what it says as a member of the cluster.
func (v *view) isPrimary() bool {
	for _, m := range v.members {
		if containsField(m.flags, "myself") {
			return containsField(m.flags, "master")
		}
	}
	return false
}

func (v *view) member(id string) *member {
	for i := range v.members {
		if v.members[i].id == id {
			return &v.members[i]
		}
	}
	return nil
}

// at is the member with an address, or an empty one.
func (v *view) at(n *Server) member {
	for _, m := range v.members {
		if m.addr == n.Addr() {
			return m
		}
	}
	return member{}
}

// agrees tells where two nodes differ.
func (v *view) agrees(w *view) error {
	if a, b := v.info["cluster_current_epoch"], w.info["cluster_current_epoch"]; a != b {
		return fmt.Errorf("%s is in epoch %s, %s in %s", v.of.Addr(), a, w.of.Addr(), b)
	}
	for _, m := range v.members {
		if n := w.member(m.id); n == nil || n.primary != m.primary {
			return fmt.Errorf("%s and %s differ about whom %s follows", v.of.Addr(), w.of.Addr(), m.addr)
		}
	}
	for slot := range v.owners {
		if a, b := v.owners[slot], w.owners[slot]; a != b {
			return fmt.Errorf("slot %d: %s says %q, %s says %q", slot, v.of.Addr(), a, w.of.Addr(), b)
		}
	}
	return nil
}

// slotOwners asks a node for the primary of every slot.
func slotOwners(n *Server) ([slots]string, error) { return readSlots(n.probe("CLUSTER", "SLOTS")) }

func readSlots(reply driver.Reply) ([slots]string, error) {
	var owners [slots]string
	ranges, err := reply.List()
	if err != nil {
		return owners, err
	}
	for _, r := range ranges {
		parts, err := r.List()
		if err != nil {
			return owners, err
		}
		if len(parts) < 3 {
			return owners, fmt.Errorf("CLUSTER SLOTS: a range is short: %s", r)
		}
		low, err1 := parts[0].Int64()
		high, err2 := parts[1].Int64()
		node, err3 := parts[2].List()
		if err := errors.Join(err1, err2, err3); err != nil {
			return owners, err
		}
		if low < 0 || high >= slots || len(node) < 2 {
			return owners, fmt.Errorf("CLUSTER SLOTS: no range of slots: %s", r)
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
