package goredisdriver

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// cluster is three primaries with all slots.
type cluster struct {
	nodes []*server
}

func startCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{}
	for range 3 {
		c.nodes = append(c.nodes, startServer(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-config-file", "nodes.conf"))
	}
	for i, n := range c.nodes {
		n.do("CLUSTER", "ADDSLOTSRANGE", 16384*i/3, 16384*(i+1)/3-1)
		_, port, _ := net.SplitHostPort(c.nodes[0].addr)
		if i > 0 {
			n.do("CLUSTER", "MEET", "127.0.0.1", port)
		}
	}
	for _, n := range c.nodes {
		eventually(t, 30*time.Second, "cluster is ok", func() bool {
			info := n.do("CLUSTER", "INFO").(string)
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	return c
}

// replica starts a replica of a node.
func (c *cluster) replica(t testing.TB, of *server) *server {
	t.Helper()
	r := startServer(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-config-file", "nodes.conf", "--cluster-replica-validity-factor", "0")
	host, port, _ := splitAddr(of.addr)
	r.do("CLUSTER", "MEET", host, port)
	primary := of.do("CLUSTER", "MYID").(string)
	eventually(t, 30*time.Second, "replica is accepted", func() bool {
		_, err := r.try("CLUSTER", "REPLICATE", primary)
		return err == nil
	})
	eventually(t, 30*time.Second, "replica is in sync", func() bool { return r.says("master_link_status:up", "INFO", "replication") })
	eventually(t, 30*time.Second, "the primary says so too", func() bool { return of.says("state=online", "INFO", "replication") })
	return r
}

func (c *cluster) url() string {
	var addrs []string
	for _, n := range c.nodes {
		addrs = append(addrs, n.addr)
	}
	return "redis-cluster://" + strings.Join(addrs, ",")
}

// owner is the node that serves the slot of key.
func (c *cluster) owner(key string) *server {
	for _, n := range c.nodes {
		for _, r := range n.do("CLUSTER", "SLOTS").([]any) {
			row := r.([]any)
			if s := int64(driver.Slot(key)); row[0].(int64) <= s && s <= row[1].(int64) {
				addr := fmt.Sprintf("127.0.0.1:%d", row[2].([]any)[1])
				for _, o := range c.nodes {
					if o.addr == addr {
						return o
					}
				}
			}
		}
	}
	return nil
}

// pair is the owner of key and another node.
func (c *cluster) pair(key string) (from, to *server) {
	from, to = c.owner(key), c.nodes[0]
	if to == from {
		to = c.nodes[1]
	}
	return from, to
}

// keyAt is a key that a node serves.
func (c *cluster) keyAt(n *server, name string) string {
	for i := 0; ; i++ {
		if k := fmt.Sprint(name, i); c.owner(k) == n {
			return k
		}
	}
}

// move is a slot on its way to another node.
type move struct {
	slot         int
	from, to     *server
	fromID, toID string
}

// moveSlot begins to move a slot. It waits until all nodes agree on the epoch: otherwise the new owner may choose one that is too
// small, and a message of the old owner takes the slot back.
func (c *cluster) moveSlot(t testing.TB, key string, from, to *server) *move {
	t.Helper()
	eventually(t, 20*time.Second, "all nodes agree on the epoch", func() bool {
		epochs := map[string]bool{}
		for _, n := range c.nodes {
			epochs[driver.ParseInfo(n.do("CLUSTER", "INFO").(string))["cluster_current_epoch"]] = true
		}
		return len(epochs) == 1
	})
	m := &move{slot: int(driver.Slot(key)), from: from, to: to, fromID: from.do("CLUSTER", "MYID").(string), toID: to.do("CLUSTER", "MYID").(string)}
	to.do("CLUSTER", "SETSLOT", m.slot, "IMPORTING", m.fromID)
	from.do("CLUSTER", "SETSLOT", m.slot, "MIGRATING", m.toID)
	return m
}

// finish gives the slot to its new owner, who chooses a new epoch by that.
func (m *move) finish() {
	for _, n := range []*server{m.to, m.from} {
		n.do("CLUSTER", "SETSLOT", m.slot, "NODE", m.toID)
	}
}

// do runs a command on a server, past the driver.
func (s *server) do(args ...any) any {
	s.t.Helper()
	v, err := s.try(args...)
	if err != nil {
		s.t.Fatalf("%v: %v", args, err)
	}
	return v
}

// says reports whether the reply to a command holds a text. A server that changes its role drops its clients.
func (s *server) says(text string, args ...any) bool {
	v, _ := s.try(args...)
	reply, _ := v.(string)
	return strings.Contains(reply, text)
}

func (s *server) try(args ...any) (any, error) {
	c := redis.NewClient(&redis.Options{Addr: s.addr, MaxRetries: -1, Protocol: 2})
	defer func() { _ = c.Close() }()
	return c.Do(context.Background(), args...).Result()
}

// sentinels is a primary with a replica and one Sentinel.
type sentinels struct {
	primary, replica, sentinel *server
}

func startSentinels(t testing.TB) *sentinels {
	t.Helper()
	s := &sentinels{primary: startServer(t)}
	host, port, _ := net.SplitHostPort(s.primary.addr)
	s.replica = startServer(t, "--replicaof", host+" "+port)
	conf := tempFile(t, "sentinel.conf", []byte(fmt.Sprintf("sentinel monitor mymaster %s %s 1\nsentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n", host, port)))
	s.sentinel = startProgram(t, "redis-sentinel", conf)
	eventually(t, 30*time.Second, "Sentinel knows the replica", func() bool {
		v, err := s.sentinel.try("SENTINEL", "REPLICAS", "mymaster")
		list, _ := v.([]any)
		return err == nil && len(list) == 1
	})
	eventually(t, 30*time.Second, "replica is in sync", func() bool { return s.primary.says("state=online", "INFO", "replication") })
	return s
}

func (s *sentinels) url() string { return "redis-sentinel://" + s.sentinel.addr + "/mymaster" }

// wrapped makes a client with the defaults of go-redis for a URL.
func wrapped(url string) (redis.UniversalClient, error) {
	e, err := core.ParseURL(url)
	if err != nil {
		return nil, err
	}
	switch e.Topology {
	case driver.Cluster:
		return redis.NewClusterClient(&redis.ClusterOptions{Addrs: e.Addrs, Username: e.Username, Password: e.Password, Protocol: e.Protocol, TLSConfig: e.TLS}), nil
	case driver.Sentinel:
		return redis.NewFailoverClient(&redis.FailoverOptions{MasterName: e.MasterName, SentinelAddrs: e.Addrs, Username: e.Username, Password: e.Password, Protocol: e.Protocol, DB: e.DB, TLSConfig: e.TLS}), nil
	}
	return redis.NewClient(&redis.Options{Network: e.Network, Addr: e.Addrs[0], Username: e.Username, Password: e.Password, Protocol: e.Protocol, DB: e.DB, TLSConfig: e.TLS}), nil
}
