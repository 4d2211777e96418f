package rueidisdriver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

type cluster struct{ nodes []*server }

// startCluster starts three primaries and as many replicas of the first as asked for.
func startCluster(t *testing.T, replicas int) *cluster {
	t.Helper()
	c := &cluster{}
	for range 3 + replicas {
		c.nodes = append(c.nodes, startServer(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0",
			"--repl-diskless-sync-delay", "0"))
	}
	must := func(s *server, args ...string) {
		t.Helper()
		if err := s.cli(args...).Err(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
	for i, s := range c.nodes[:3] {
		must(s, "CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(i*5461), fmt.Sprint(min(i*5461+5460+i/2, 16383)))
	}
	for i, s := range c.nodes {
		must(s, "CLUSTER", "SET-CONFIG-EPOCH", fmt.Sprint(i+1))
	}
	for _, s := range c.nodes[1:] {
		must(s, "CLUSTER", "MEET", "127.0.0.1", fmt.Sprint(c.nodes[0].port))
	}
	c.settle(t, len(c.nodes))
	if replicas > 0 {
		id, err := c.nodes[0].cli("CLUSTER", "MYID").Text()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range c.nodes[3:] {
			must(s, "CLUSTER", "REPLICATE", id)
		}
		for _, s := range c.nodes[3:] {
			eventually(t, 15*time.Second, "the replica", func() bool {
				text, _ := s.cli("INFO", "replication").Text()
				return driver.ParseInfo(text)["master_link_status"] == "up"
			})
		}
		eventually(t, 15*time.Second, "everybody to know the replica", func() bool {
			for _, s := range c.nodes {
				text, _ := s.cli("CLUSTER", "NODES").Text()
				if strings.Count(text, "slave") != replicas {
					return false
				}
			}
			return true
		})
	}
	return c
}

func (c *cluster) settle(t *testing.T, n int) {
	t.Helper()
	eventually(t, 20*time.Second, "the Cluster", func() bool {
		for _, s := range c.nodes {
			text, _ := s.cli("CLUSTER", "INFO").Text()
			info := driver.ParseInfo(text)
			if info["cluster_state"] != "ok" || info["cluster_known_nodes"] != fmt.Sprint(n) {
				return false
			}
		}
		return true
	})
}

func (c *cluster) url() string {
	return "redis-cluster://" + c.nodes[0].addr + "," + c.nodes[1].addr + "," + c.nodes[2].addr
}

// keys returns a key for each of the three primaries.
func (c *cluster) keys() (keys [3]string) {
	for i := 0; keys[0] == "" || keys[1] == "" || keys[2] == ""; i++ {
		k := fmt.Sprint("key", i)
		keys[min(int(driver.Slot(k))/5461, 2)] = k
	}
	return keys
}

func eachCluster(t *testing.T, c *cluster, f func(t *testing.T, d *Driver)) {
	t.Run("Open", func(t *testing.T) { f(t, open(t, c.url())) })
	t.Run("OpenRESP2", func(t *testing.T) { f(t, open(t, c.url()+"?protocol=2")) })
	t.Run("New", func(t *testing.T) {
		client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{c.nodes[0].addr}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		d, err := New(client)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		f(t, d)
	})
}

func TestClusterRouting(t *testing.T) {
	c := startCluster(t, 1)
	keys := c.keys()
	eachCluster(t, c, func(t *testing.T, d *Driver) {
		ctx := t.Context()
		port := func(r driver.Reply) string {
			text, err := r.Text()
			if err != nil {
				t.Errorf("INFO: %v", err)
			}
			return driver.ParseInfo(text)["tcp_port"]
		}
		for i, k := range keys {
			if err := d.Do(ctx, keyed("SET", k, k)).Err(); err != nil {
				t.Errorf("SET %s: %v", k, err)
			}
			if got := port(d.Do(ctx, driver.Cmd{Args: []string{"INFO", "server"}, Near: k})); got != fmt.Sprint(c.nodes[i].port) {
				t.Errorf("Near %s: port %s, want %d", k, got, c.nodes[i].port)
			}
			rs := d.DoMulti(ctx, []driver.Cmd{keyed("SET", k, k), {Args: []string{"INFO", "server"}, Near: k}, cmd("PING"), reading("GET", keys[(i+1)%3])})
			if got := port(rs[1]); got != fmt.Sprint(c.nodes[i].port) || rs[2].Err() != nil || rs[3].Err() != nil {
				t.Errorf("in a list: %v", rs)
			}
			conn, err := d.Dedicate(ctx, k)
			if err != nil {
				t.Fatal(err)
			}
			if got := port(conn.Do(ctx, cmd("INFO", "server"))); got != fmt.Sprint(c.nodes[i].port) {
				t.Errorf("Dedicate(%s): port %s, want %d", k, got, c.nodes[i].port)
			}
			if err := conn.Do(ctx, keyed("SET", k, k)).Err(); err != nil {
				t.Error(err)
			}
			_ = conn.Close()
			eventually(t, 3*time.Second, "Node", func() bool { return strings.HasSuffix(d.Node(k), fmt.Sprint(":", c.nodes[i].port)) })
			// The key of a script and of XREADGROUP stands in the middle.
			sc := driver.NewScript("s", "return redis.call('GET', KEYS[1]) -- "+t.Name())
			if got, err := d.Do(ctx, sc.Cmd([]string{k}, nil)).Text(); got != k || err != nil {
				t.Errorf("script: %q, %v", got, err)
			}
			stream := "{" + k + "}:stream" + t.Name()
			d.Do(ctx, driver.Cmd{Args: []string{"XGROUP", "CREATE", stream, "g", "$", "MKSTREAM"}, Keys: driver.Key(2)})
			r := d.Do(ctx, driver.Cmd{Args: []string{"XREADGROUP", "GROUP", "g", "c", "BLOCK", "10", "STREAMS", stream, ">"}, Keys: driver.Key(7), Mode: driver.Blocking})
			if !r.IsNil() {
				t.Errorf("XREADGROUP: %v", r)
			}
			rs = d.DoMulti(ctx, []driver.Cmd{keyed("SET", k, k), {Args: []string{"WAIT", "0", "10"}, Near: k, Mode: driver.Blocking}})
			if rs[0].Err() != nil || rs[1].Err() != nil {
				t.Errorf("SET, WAIT: %v", rs)
			}
		}
		for range 40 { // any primary: never a replica, which would refuse
			if err := d.Do(ctx, cmd("SCRIPT", "FLUSH")).Err(); err != nil {
				t.Error(err)
			}
			if role, _ := d.Do(ctx, cmd("ROLE")).List(); len(role) == 0 || role[0].String() != `"master"` {
				t.Errorf("role: %v", role)
			}
		}
		var e *driver.ServerError
		two := driver.Cmd{Args: []string{"DEL", keys[0], keys[1]}, Keys: driver.KeyRange(1, 2)}
		if err := d.Do(ctx, two).Err(); !errors.As(err, &e) || e.Code() != "CROSSSLOT" {
			t.Errorf("DEL over two slots: %v", err)
		}
		rs := d.DoMulti(ctx, []driver.Cmd{keyed("SET", keys[0], "v"), two, reading("GET", keys[2])})
		if rs[0].Err() != nil || rs[1].Err() == nil || rs[2].Err() != nil {
			t.Errorf("DEL over two slots in a list: %v", rs)
		}
		rs = d.DoMulti(ctx, []driver.Cmd{blpop(keys[0], "0.01"), blpop(keys[1], "0.01")})
		if rs[0].Err() == nil || rs[1].Err() == nil {
			t.Errorf("a Blocking list over two nodes: %v", rs)
		}
		rs = d.DoMulti(ctx, []driver.Cmd{cmd("MULTI"), keyed("SET", keys[0], "tx"), cmd("EXEC")})
		if l, err := rs[2].List(); err != nil || len(l) != 1 {
			t.Errorf("transaction: %v", rs)
		}
		caps, err := d.Caps(ctx)
		if err != nil || caps.Topology != driver.Cluster {
			t.Errorf("%+v, %v", caps, err)
		}
	})
}

func TestClusterSlotMoves(t *testing.T) {
	c := startCluster(t, 0)
	key := c.keys()[0]
	slot := fmt.Sprint(driver.Slot(key))
	at := 0
	// move gives the slot, without keys, to another node.
	move := func(to int) {
		t.Helper()
		id, err := c.nodes[to].cli("CLUSTER", "MYID").Text()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range []int{to, at} {
			if err := c.nodes[i].cli("CLUSTER", "SETSLOT", slot, "NODE", id).Err(); err != nil {
				t.Fatal(err)
			}
		}
		at = to
	}
	eachCluster(t, c, func(t *testing.T, d *Driver) {
		ctx := t.Context()
		d.Node(key)
		if r := d.Do(ctx, blpop(key, "0.01")); !r.IsNil() {
			t.Fatal(r)
		}
		j, _, _ := subscribe(t, d, driver.Subscription{Channels: []string{key}, Sharded: true})
		j.wait(5*time.Second, "confirmed", 1)
		move((at + 1) % 3)
		if r := d.Do(ctx, blpop(key, "0.01")); !r.IsNil() {
			t.Errorf("BLPOP after the slot moved: %v", r)
		}
		move((at + 1) % 3)
		for range 5 {
			if err := d.Do(ctx, keyed("SET", key, "v")).Err(); err != nil {
				t.Errorf("SET after the slot moved: %v", err)
			}
		}
		rs := d.DoMulti(ctx, []driver.Cmd{cmd("MULTI"), keyed("SET", key, "tx"), {Args: []string{"DEL", key}, Keys: driver.Key(1)}, cmd("EXEC")})
		if l, err := rs[3].List(); err != nil || len(l) != 2 {
			t.Errorf("transaction after the slot moved: %v", rs)
		}
		eventually(t, 5*time.Second, "Node", func() bool { return strings.HasSuffix(d.Node(key), fmt.Sprint(":", c.nodes[at].port)) })
		j.wait(10*time.Second, "lost", 1)
		eventually(t, 10*time.Second, "a message", func() bool {
			c.nodes[at].cli("SPUBLISH", key, "x")
			return j.count("message") > 0
		})
	})
}

func TestClusterTrackingFollowsFailover(t *testing.T) {
	c := startCluster(t, 1)
	keys := c.keys()
	d := open(t, c.url())
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{c.nodes[1].addr}, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	n, err := New(client)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	var js []*journal
	for _, d := range []*Driver{d, n} {
		j, _, _ := track(t, d, "key")
		j.wait(5*time.Second, "confirmed", 1)
		js = append(js, j)
	}
	for _, k := range keys {
		if err := d.Do(t.Context(), keyed("SET", k, "v")).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, j := range js {
		for _, k := range keys {
			j.wait(3*time.Second, "key "+k, 1)
		}
		if j.count("lost") != 0 {
			t.Errorf("got %v", j.entries())
		}
	}
	conn, err := d.Dedicate(t.Context(), keys[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The primary stays, as a replica: its connections do not break.
	if err := c.nodes[3].cli("CLUSTER", "FAILOVER").Err(); err != nil {
		t.Fatal(err)
	}
	for _, j := range js {
		j.wait(10*time.Second, "lost", 1)
		j.wait(10*time.Second, "confirmed", 2)
	}
	eventually(t, 10*time.Second, "a write", func() bool { return d.Do(t.Context(), keyed("SET", keys[0], "w")).Err() == nil })
	for _, j := range js {
		j.wait(3*time.Second, "key "+keys[0], 2)
	}
	// And now the new primary dies.
	c.nodes[3].kill()
	lost := js[0].count("lost")
	js[0].wait(5*time.Second, "lost", lost+1)
	eventually(t, 20*time.Second, "a write after the failover", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return d.Do(ctx, keyed("SET", keys[0], "x")).Err() == nil
	})
	js[0].wait(15*time.Second, "confirmed", 3)
	seen := js[0].count("key " + keys[0])
	d.Do(t.Context(), keyed("SET", keys[0], "y"))
	js[0].wait(3*time.Second, "key "+keys[0], seen+1)
}
