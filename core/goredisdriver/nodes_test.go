package goredisdriver

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

// A client that reads from replicas has connections that a server answers after it was demoted. The driver has none such.
func TestClusterClientThatReadsFromReplicas(t *testing.T) {
	c := startCluster(t)
	for name, o := range map[string]*redis.ClusterOptions{"ReadOnly": {ReadOnly: true}, "RouteRandomly": {RouteRandomly: true}, "plain": {}} {
		o.Addrs = []string{c.nodes[0].addr}
		client := redis.NewClusterClient(o)
		d, err := New(client)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close(); _ = client.Close() })
		ctx := background(t)
		must(t, d.Do(ctx, command("SET", "k", "v")))
		conn, err := d.Dedicate(ctx, "k")
		if err != nil {
			t.Fatal(err)
		}
		info := driver.Cmd{Args: []string{"CLIENT", "INFO"}, Near: "k"}
		for how, r := range map[string]driver.Reply{
			"Do": d.Do(ctx, info), "DoMulti": d.DoMulti(ctx, []driver.Cmd{info})[0], "blocking": d.Do(ctx, blocking(info)), "dedicated": conn.Do(ctx, info),
		} {
			text, err := r.Text()
			_, flags, _ := strings.Cut(text, " flags=")
			flags, _, _ = strings.Cut(flags, " ")
			if err != nil || strings.Contains(flags, "r") {
				t.Errorf("%s, %s: flags %q, %v; want none that is READONLY", name, how, flags, err)
			}
		}
		_ = conn.Close()
		if v, err := d.Do(ctx, read("GET", "k")).Text(); v != "v" {
			t.Errorf("%s: GET: %q, %v", name, v, err)
		}
	}
}

// A list over several nodes that was given up gives its connections back, even if a node does not answer.
func TestListGivenUpHoldsNoConnection(t *testing.T) {
	c := startCluster(t)
	d := open(t, c.url()+"?read_timeout=1m")
	ctx := background(t)
	var list []driver.Cmd
	for _, n := range c.nodes {
		for i := 0; ; i++ {
			if k := "k" + string(rune('a'+i)); c.owner(k) == n {
				list = append(list, read("GET", k))
				break
			}
		}
	}
	for _, r := range d.DoMulti(ctx, list) {
		must(t, r)
	}
	node, err := d.node(ctx, list[0].Route())
	if err != nil {
		t.Fatal(err)
	}
	c.nodes[0].process().Pause()
	defer c.nodes[0].process().Resume()
	short, leave := context.WithCancel(ctx)
	time.AfterFunc(200*time.Millisecond, leave)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := d.DoMulti(short, list)[0].Err(); !errors.Is(err, context.Canceled) {
				t.Errorf("a list with a silent node: %v", err)
			}
		})
	}
	all.Wait()
	eventually(t, 30*time.Second, "the connections are not in use", func() bool {
		s := node.PoolStats()
		return s.TotalConns-s.IdleConns <= 1 // go-redis may be asking for the slots
	})
}

// A client for an address that only redirections name goes after a while, but not while something needs it.
func TestExtraNodesGo(t *testing.T) {
	c := startCluster(t)
	d := open(t, c.url())
	ctx := background(t)
	home, err := d.node(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	extra := func(addr string) *redis.Client {
		e, err := d.nodes.at(addr, home)
		if err != nil {
			t.Fatal(err)
		}
		d.nodes.mu.Lock()
		for _, e := range d.nodes.extra {
			e.used = e.used.Add(-2 * extraFor)
		}
		d.nodes.mu.Unlock()
		return e
	}
	var addrs []string
	for _, n := range c.nodes {
		if n.addr != home.Options().Addr {
			addrs = append(addrs, n.addr)
		}
	}
	node := extra(addrs[0])
	l, err := d.dial(ctx, node, 0)
	if err != nil {
		t.Fatal(err)
	}
	extra(addrs[1])
	if err := d.exec(ctx, node, []string{"PING"}).Err(); err != nil {
		t.Errorf("the node of a connection: %v", err)
	}
	l.close()
	extra(addrs[1])
	extra("127.0.0.1:1")
	if r := d.exec(ctx, node, []string{"PING"}); r.Err() == nil {
		t.Error("a node nobody needs stays")
	}
}

func TestAddressesOfRedirections(t *testing.T) {
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	d, err := New(client)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close(); _ = client.Close() }()
	from := redis.NewClient(&redis.Options{Addr: "[fd00::1]:7000"})
	defer func() { _ = from.Close() }()
	for said, want := range map[string]string{
		"10.0.0.1:7001": "10.0.0.1:7001", "host:7001": "host:7001", "fd00::2:7001": "[fd00::2]:7001", "[fd00::2]:7001": "[fd00::2]:7001",
		":7001": "[fd00::1]:7001", "fd00::1:7000": "[fd00::1]:7000",
	} {
		to, err := d.nodes.at(said, from)
		if err != nil || to.Options().Addr != want {
			t.Errorf("%q: %v, %v; want %q", said, to, err, want)
		}
		if same := to == from; same != (want == from.Options().Addr) {
			t.Errorf("%q: the same node: %v", said, same)
		}
	}
	for _, said := range []string{"", "nothing", "10.0.0.1:"} {
		if _, err := d.nodes.at(said, from); err == nil {
			t.Errorf("%q is an address", said)
		}
	}
}
