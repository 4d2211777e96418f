package goredisdriver

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

// nodes finds the client of the server a command belongs to. Commands go to the nodes of a Cluster directly: go-redis'
// own routing guesses key positions, splits commands over slots and retries by rules of its own.
type nodes struct {
	single   *redis.Client // Standalone and Sentinel
	cluster  *redis.ClusterClient
	topology driver.Topology
	// real says that the servers know slots; a ClusterClient with ClusterSlots of its own pretends.
	real bool
	// readOnly says that connections of the client's own nodes are READONLY. A server that is no primary any more would answer
	// reads on them, and nobody would notice: the driver has connections of its own.
	readOnly bool

	loaded atomic.Bool   // the slots are known, so that looking one up does no I/O
	next   atomic.Uint32 // spreads commands without a key

	busy func(*redis.Client) bool // whether links belong to it

	mu    sync.Mutex
	extra map[string]*extraNode
}

// extraNode is a server that only a redirection named, or any with readOnly.
type extraNode struct {
	client *redis.Client
	used   time.Time
}

// extraFor is how long such a client is kept without use, at least.
const extraFor = time.Minute

func newNodes(client redis.UniversalClient) *nodes {
	n := &nodes{extra: map[string]*extraNode{}}
	switch c := client.(type) {
	case *redis.ClusterClient:
		n.cluster, n.topology, n.real = c, driver.Cluster, c.Options().ClusterSlots == nil
		n.readOnly = c.Options().ReadOnly && n.real
	case *redis.Client:
		if c.Options().Addr == failoverAddr {
			n.topology = driver.Sentinel
		}
		n.single = c
	}
	return n
}

// failoverAddr is what go-redis calls the address of a client whose primary the Sentinels name.
const failoverAddr = "FailoverClient"

// forKey returns the client of the primary that serves key; "" is any primary.
func (n *nodes) forKey(ctx context.Context, key string) (*redis.Client, error) {
	if n.single != nil {
		return n.single, nil
	}
	if key == "" {
		key = strconv.FormatUint(uint64(n.next.Add(1)%512), 10)
	}
	c, err := n.cluster.MasterForKey(ctx, key)
	if err != nil {
		return nil, err
	}
	n.loaded.Store(true)
	if n.readOnly {
		return n.own(c.Options().Addr, c)
	}
	return c, nil
}

// ready reports whether forKey answers without I/O.
func (n *nodes) ready() bool { return n.single != nil || n.loaded.Load() }

// reload makes a ClusterClient ask for the slots again, in the background.
func (n *nodes) reload() {
	if n.cluster != nil {
		n.cluster.ReloadState(context.Background())
	}
}

// at returns a client for the address in a redirection that came from a node. go-redis does not tell its own client for
// an address, and the new node may not be in its table yet, so that this is one more, in use until the table is new.
func (n *nodes) at(addr string, from *redis.Client) (*redis.Client, error) {
	colon := strings.LastIndexByte(addr, ':') // servers write fd00::1:6379
	if colon < 0 || colon == len(addr)-1 {
		return nil, fmt.Errorf("redisx: redirected to the address %q", addr)
	}
	host, port := strings.Trim(addr[:colon], "[]"), addr[colon+1:]
	if host == "" { // the server does not know its own name: it means the one it was reached by
		host, _, _ = net.SplitHostPort(from.Options().Addr)
	}
	addr = net.JoinHostPort(host, port)
	if from.Options().Addr == addr {
		return from, nil
	}
	return n.own(addr, from)
}

// own returns a client of the driver's own for an address, with the options of another one.
func (n *nodes) own(addr string, from *redis.Client) (*redis.Client, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.extra == nil {
		return nil, redis.ErrClosed
	}
	if e := n.extra[addr]; e != nil {
		e.used = time.Now()
		return e.client, nil
	}
	for other, e := range n.extra { // the table of slots has been read again since
		stats := e.client.PoolStats()
		if time.Since(e.used) > extraFor && stats.TotalConns == stats.IdleConns && !n.busy(e.client) {
			delete(n.extra, other)
			_ = e.client.Close()
		}
	}
	o := n.private(from)
	o.Addr, o.NodeAddress = addr, addr
	o.PoolSize = from.Options().PoolSize
	c := redis.NewClient(o)
	n.extra[addr] = &extraNode{client: c, used: time.Now()}
	return c, nil
}

// close closes the clients this opened.
func (n *nodes) close() {
	n.mu.Lock()
	extra := n.extra
	n.extra = nil
	n.mu.Unlock()
	for _, e := range extra {
		_ = e.client.Close()
	}
}

// redirection reads MOVED and ASK.
func redirection(r driver.Reply) (addr string, ask, ok bool) {
	e, isServer := r.Err().(*driver.ServerError)
	if !isServer || e.Code() != "MOVED" && e.Code() != "ASK" {
		return "", false, false
	}
	fields := strings.Fields(e.Error())
	if len(fields) != 3 {
		return "", false, false
	}
	return fields[2], e.Code() == "ASK", true
}

// primaries returns the addresses of all primaries with a client for each. It asks a Cluster for its present slots.
func (n *nodes) primaries(ctx context.Context) (map[string]*redis.Client, error) {
	if n.single != nil {
		return map[string]*redis.Client{n.single.Options().Addr: n.single}, nil
	}
	var mu sync.Mutex
	all := map[string]*redis.Client{}
	err := n.cluster.ForEachMaster(ctx, func(_ context.Context, c *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		all[c.Options().Addr] = c
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}
