package redisxtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// FakeCluster is a [Fake] in Cluster mode: several primaries in one process, each with its own address, keys, scripts,
// clients and trackers, that go-redis and rueidis use over redis-cluster:// without being told. It is safe for concurrent
// use.
//
// Nodes answer as real ones do: MOVED for a slot that another node serves, ASK and TRYAGAIN while it moves, CROSSSLOT for
// keys of different slots, in commands, transactions and scripts alike. One thing is stricter than on a real server: a
// script that touches a key which is not in KEYS fails even if that key happens to be on the same node, since it works
// there by luck. So a missing hash tag shows in a test.
//
// The nodes share a clock, ACL users, configuration and what [FakeCluster.FailNext] ordered. There are no replicas, no
// failover and no node that is down while others are up.
type FakeCluster struct{ f *Fake }

// fakeNode is one address of a Fake.
type fakeNode struct {
	index    int
	id, addr string
	listener net.Listener          // guarded by Fake.life
	scripts  map[string]*luaScript // by SHA-1; guarded by Fake.mu, as what follows
	random   lrand48
}

// NewFakeCluster starts a FakeCluster of 1 to 100 primaries that share the slots evenly. It is closed when the test ends.
// It takes the options of [NewFake].
func NewFakeCluster(t testing.TB, masters int, opts ...Option) *FakeCluster {
	t.Helper()
	c, err := StartFakeCluster(masters, opts...)
	if err != nil {
		t.Fatal(err)
	}
	c.f.attach(t)
	return c
}

// StartFakeCluster starts a FakeCluster outside of tests. The caller closes it.
func StartFakeCluster(masters int, opts ...Option) (*FakeCluster, error) {
	if masters < 1 || masters > 100 {
		return nil, fmt.Errorf("redisxtest: a fake cluster of %d primaries; want 1 to 100", masters)
	}
	f, err := startFake(masters, opts)
	if err != nil {
		return nil, err
	}
	return &FakeCluster{f}, nil
}

// Addrs returns host:port of every node. Nodes are numbered in this order, which never changes.
func (c *FakeCluster) Addrs() []string {
	addrs := make([]string, len(c.f.nodes))
	for i, n := range c.f.nodes {
		addrs[i] = n.addr
	}
	return addrs
}

// URL returns a redis-cluster:// URL that names every node, with the password if there is one. Parameters are added as
// they are, such as "protocol=2".
func (c *FakeCluster) URL(params ...string) string {
	return withParams("redis-cluster://"+userinfo("", c.f.cfg.password)+strings.Join(c.Addrs(), ","), params)
}

// UserURL is [FakeCluster.URL] for a user that the option [User] made, and "" for any other.
func (c *FakeCluster) UserURL(name string, params ...string) string {
	for _, u := range c.f.cfg.users {
		if u.name == name {
			return withParams("redis-cluster://"+userinfo(name, u.password)+strings.Join(c.Addrs(), ","), params)
		}
	}
	return ""
}

// Client returns a new client over go-redis, closed with the FakeCluster. Options that core.New refuses fail the test, or
// panic outside of one.
func (c *FakeCluster) Client(opts ...core.Option) *core.Client {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := c.f.open(ctx, c.URL(), opts)
	switch {
	case err == nil:
		return client
	case c.f.t != nil:
		c.f.t.Helper()
		c.f.t.Fatalf("redisxtest: client of the fake cluster: %v", err)
	}
	panic(fmt.Sprintf("redisxtest: client of the fake cluster: %v", err))
}

// Dial returns a connection to the node at addr that needs no socket, also without [InMemory]. It is what a client's
// dialer calls in a testing/synctest bubble.
func (c *FakeCluster) Dial(addr string) (net.Conn, error) { return c.f.dial(addr) }

// Close stops all nodes and breaks their connections. It waits until everything it started has ended. It is idempotent.
func (c *FakeCluster) Close() error { return c.f.Close() }

// Restart is [Fake.Restart] for all nodes. Slots stay where they are.
func (c *FakeCluster) Restart() error { return c.f.Restart() }

// FlushScripts makes every node forget its scripts. SCRIPT FLUSH does it on one.
func (c *FakeCluster) FlushScripts() { c.f.FlushScripts() }

// Advance moves the clock of all nodes on: see [Fake.Advance].
func (c *FakeCluster) Advance(d time.Duration) { c.f.Advance(d) }

// FailNext is [Fake.FailNext] for the next n commands that arrive at any node.
func (c *FakeCluster) FailNext(n int, text string, commands ...string) {
	c.f.FailNext(n, text, commands...)
}

// Count tells how often a command has arrived at any node, those answered with MOVED or ASK included.
func (c *FakeCluster) Count(command string) int { return c.f.Count(command) }

// Node returns the number of the node that serves the slot of a key.
func (c *FakeCluster) Node(key string) int {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	return c.f.slots.owner[driver.Slot(key)].index
}

// MoveSlot gives a slot with all its keys to a node, at once or as the end of what [FakeCluster.BeginMove] began. Clients
// find out by MOVED; those blocked on its keys get it too, those subscribed to its channels are unsubscribed, those that
// track its keys are told that they changed. It fails for a slot or node that does not exist.
func (c *FakeCluster) MoveSlot(slot, node int) error {
	return c.move(slot, node, func(to *fakeNode) error { c.f.setSlot(slot, to); return nil })
}

// BeginMove begins to move a slot: its node answers ASK for keys that it does not have, and TRYAGAIN for several of which
// it has some. Keys that clients then make on the other node belong there; [FakeCluster.MoveKey] brings others. MoveSlot
// ends it, to either node. It fails for a slot or node that does not exist, and for a node that has the slot.
func (c *FakeCluster) BeginMove(slot, node int) error {
	return c.move(slot, node, func(to *fakeNode) error {
		t := c.f.slots
		if t.owner[slot] == to || t.migrating[slot] != nil && t.migrating[slot] != to {
			return fmt.Errorf("redisxtest: slot %d cannot begin to move to node %d: it is there, or on its way elsewhere", slot, node)
		}
		t.migrating[slot], t.importing[slot] = to, to
		return nil
	})
}

// MoveKey brings one key to the node that its slot moves to. It fails if the slot does not move or there is no such key.
func (c *FakeCluster) MoveKey(key string) error {
	slot := int(driver.Slot(key))
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.f.tick()
	switch to := c.f.slots.migrating[slot]; {
	case to == nil:
		return fmt.Errorf("redisxtest: slot %d of key %q is not on the move: BeginMove comes first", slot, key)
	case c.f.eng.version(dbKey{0, key}) == 0:
		return fmt.Errorf("redisxtest: there is no key %q to move", key)
	case c.f.slots.home(key) != to:
		c.f.carry([]string{key}, to)
		c.f.settle(nil)
	}
	return nil
}

func (c *FakeCluster) move(slot, node int, do func(to *fakeNode) error) error {
	var faults []error
	if slot < 0 || slot >= slots {
		faults = append(faults, fmt.Errorf("redisxtest: slot %d; want 0 to %d", slot, slots-1))
	}
	if node < 0 || node >= len(c.f.nodes) {
		faults = append(faults, fmt.Errorf("redisxtest: node %d; want 0 to %d", node, len(c.f.nodes)-1))
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.f.tick()
	err := do(c.f.nodes[node])
	c.f.settle(nil)
	return err
}
