package rueidisdriver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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
		conn, err := d.Dedicate(ctx, keys[0])
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// The member that cannot be sent to any node ends the transaction, not only itself.
		rs = conn.DoMulti(ctx, []driver.Cmd{cmd("MULTI"), keyed("SET", keys[0], "tx"), two, cmd("EXEC")})
		if err := rs[3].Err(); err == nil {
			t.Errorf("a transaction with keys in two slots: %v", rs)
		}
		rs = conn.DoMulti(ctx, []driver.Cmd{cmd("MULTI"), keyed("SET", keys[0], "tx"), cmd("EXEC")})
		if l, err := rs[2].List(); err != nil || len(l) != 1 {
			t.Errorf("transaction: %v", rs)
		}
		caps, err := d.Caps(ctx)
		if err != nil || caps.Topology != driver.Cluster {
			t.Errorf("%+v, %v", caps, err)
		}
	})
}

// TestBlockingListOfOneNode asks for nothing but the list: the driver has to find out by itself where the slots are.
func TestBlockingListOfOneNode(t *testing.T) {
	c := startCluster(t, 0)
	keys := c.keys()
	near := ""
	for i := 0; near == "" || driver.Slot(near) == driver.Slot(keys[0]) || driver.Slot(near) > 5000; i++ {
		near = fmt.Sprint("near", i)
	}
	eachCluster(t, c, func(t *testing.T, d *Driver) {
		for i, r := range d.DoMulti(t.Context(), []driver.Cmd{blpop(keys[0], "0.01"), blpop(near, "0.01")}) {
			if !r.IsNil() {
				t.Errorf("reply %d: %v", i, r)
			}
		}
		for i, r := range d.DoMulti(t.Context(), []driver.Cmd{blpop(keys[0], "0.01"), blpop(keys[1], "0.01")}) {
			if !errors.Is(r.Err(), driver.ErrInvalid) || !errors.Is(r.Err(), driver.ErrNotSent) {
				t.Errorf("two nodes, reply %d: %v", i, r)
			}
		}
	})
}

func TestClusterSlotMoves(t *testing.T) {
	c := startCluster(t, 0)
	key := c.keys()[0]
	at := 0
	// move gives the slot, without keys, to another node.
	move := func(to int) {
		t.Helper()
		c.migrate(t, key, at, to).finish()
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
		d.Do(ctx, keyed("DEL", key))
		for range 3 {
			move((at + 1) % 3)
			// Nothing is redirected on a connection, but whoever asks for another one after MOVED gets the right one.
			moved := 0
			for done := false; !done; {
				conn, err := d.Dedicate(ctx, key)
				if err != nil {
					t.Fatal(err)
				}
				rs := conn.DoMulti(ctx, []driver.Cmd{cmd("MULTI"), keyed("SET", key, "tx"), keyed("DEL", key), cmd("EXEC")})
				l, err := rs[3].List()
				if done = err == nil && len(l) == 2; !done {
					e, ok := rs[1].Err().(*driver.ServerError)
					if moved++; !ok || e.Code() != "MOVED" || moved > 1 {
						t.Fatalf("transaction after the slot moved: %v", rs)
					}
				}
				_ = conn.Close()
			}
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

// migration moves the slot of a key to another node, step by step.
type migration struct {
	t        *testing.T
	c        *cluster
	slot     string
	from, to *server
	toID     string
}

// migrate begins. It waits until all agree on the epoch: otherwise the new owner may choose one that is too small, and a
// message on its way from the old owner takes the slot back, with all that was written.
func (c *cluster) migrate(t *testing.T, key string, from, to int) *migration {
	t.Helper()
	eventually(t, 15*time.Second, "one epoch", func() bool {
		epochs := map[string]bool{}
		for _, s := range c.nodes {
			text, _ := s.cli("CLUSTER", "INFO").Text()
			epochs[driver.ParseInfo(text)["cluster_current_epoch"]] = true
		}
		return len(epochs) == 1 && !epochs[""]
	})
	id := func(s *server) string {
		text, err := s.cli("CLUSTER", "MYID").Text()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	m := &migration{t: t, c: c, slot: fmt.Sprint(driver.Slot(key)), from: c.nodes[from], to: c.nodes[to], toID: id(c.nodes[to])}
	m.run(m.to, "CLUSTER", "SETSLOT", m.slot, "IMPORTING", id(m.from))
	m.run(m.from, "CLUSTER", "SETSLOT", m.slot, "MIGRATING", m.toID)
	return m
}

func (m *migration) run(s *server, args ...string) {
	m.t.Helper()
	if err := s.cli(args...).Err(); err != nil {
		m.t.Fatalf("%q: %v", args, err)
	}
}

// move hands keys over.
func (m *migration) move(keys ...string) {
	m.t.Helper()
	m.run(m.from, append([]string{"MIGRATE", "127.0.0.1", fmt.Sprint(m.to.port), "", "0", "5000", "KEYS"}, keys...)...)
}

// finish makes the target the owner, the target first. Everybody is told, as it takes a while to get around.
func (m *migration) finish() {
	m.t.Helper()
	m.run(m.to, "CLUSTER", "SETSLOT", m.slot, "NODE", m.toID)
	m.run(m.from, "CLUSTER", "SETSLOT", m.slot, "NODE", m.toID)
	for _, s := range m.c.nodes {
		if s != m.from && s != m.to {
			m.run(s, "CLUSTER", "SETSLOT", m.slot, "NODE", m.toID)
		}
	}
}

func TestBlockingFollowsAMigratingSlot(t *testing.T) {
	c := startCluster(t, 0)
	key := c.keys()[0]
	l, here, there := "{"+key+"}l", "{"+key+"}here", "{"+key+"}there"
	from := 0
	eachCluster(t, c, func(t *testing.T, d *Driver) {
		ctx := t.Context()
		for _, k := range []string{here, there} {
			if err := d.Do(ctx, keyed("SET", k, "0")).Err(); err != nil {
				t.Fatal(err)
			}
		}
		to := (from + 1) % 3
		m := c.migrate(t, key, from, to)
		m.move(there)
		from = to
		// It waits at the target, and the element is pushed there.
		done := make(chan driver.Reply, 1)
		go func() { done <- d.Do(ctx, blpop(l, "10")) }()
		eventually(t, 5*time.Second, "BLPOP to block at the target", func() bool {
			info, _ := c.nodes[to].cli("INFO", "clients").Text()
			return driver.ParseInfo(info)["blocked_clients"] == "1"
		})
		if err := d.Do(ctx, keyed("RPUSH", l, "x")).Err(); err != nil {
			t.Error(err)
		}
		if got, err := (<-done).Strings(); err != nil || len(got) != 2 || got[1] != "x" {
			t.Errorf("BLPOP: %v, %v", got, err)
		}
		if r := d.Do(ctx, blpop(l, "0.01")); !r.IsNil() {
			t.Errorf("BLPOP of an empty list: %v", r)
		}
		// A list of which some keys are here and some there. Each command runs once.
		sc := driver.NewScript("incr", "return redis.call('INCR', KEYS[1]) -- "+t.Name())
		wait := driver.Cmd{Args: []string{"WAIT", "0", "1"}, Near: key, Mode: driver.Blocking}
		rs := d.DoMulti(ctx, []driver.Cmd{keyed("INCR", here), keyed("INCR", there), sc.Cmd([]string{there}, nil), wait})
		for i, want := range []int64{1, 1, 2, 0} {
			if n, err := rs[i].Int64(); n != want || err != nil {
				t.Errorf("reply %d: %v; want %d", i, rs[i], want)
			}
		}
		m.move(here)
		m.finish()
		rs = d.DoMulti(ctx, []driver.Cmd{keyed("INCR", here), wait, keyed("INCR", there), wait})
		for i, want := range []int64{2, 0, 3, 0} {
			if n, err := rs[i].Int64(); n != want || err != nil {
				t.Errorf("reply %d after the slot moved: %v; want %d", i, rs[i], want)
			}
		}
		d.Do(ctx, driver.Cmd{Args: []string{"DEL", here, there}, Keys: driver.KeyRange(1, 2)})
	})
}

// TestScriptErrorsThatLookLikeRedirections has scripts return errors that make the client look for an address.
func TestScriptErrorsThatLookLikeRedirections(t *testing.T) {
	c := startCluster(t, 0)
	eachCluster(t, c, func(t *testing.T, d *Driver) {
		for _, text := range []string{"MOVED", "ASK", "ASKED nicely", "MOVEDON x", "MOVED 1"} {
			eval := driver.Cmd{Args: []string{"EVAL", "return redis.error_reply(ARGV[1])", "1", "k", text}, Keys: driver.Key(3)}
			for _, ctx := range []context.Context{context.Background(), t.Context()} {
				ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
				for what, err := range map[string]error{
					"Do": d.Do(ctx, eval).Err(), "DoMulti": d.DoMulti(ctx, []driver.Cmd{eval, reading("GET", "k")})[0].Err(),
				} {
					if err == nil {
						t.Errorf("%s, %q: no error", what, text)
					}
				}
				cancel()
			}
		}
		if err := d.Do(t.Context(), keyed("SET", "k", "v")).Err(); err != nil {
			t.Error(err)
		}
	})
}

// TestSilentNodeHidesNoTopology stops one node of three: the others still tell where everything is.
func TestSilentNodeHidesNoTopology(t *testing.T) {
	c := startCluster(t, 0)
	for range 8 { // which node is asked first is chance
		d := open(t, c.url())
		c.nodes[2].signal(syscall.SIGSTOP)
		ctx, cancel := context.WithTimeout(t.Context(), lookWithin)
		err := d.look(ctx)
		cancel()
		c.nodes[2].signal(syscall.SIGCONT)
		if err != nil {
			t.Errorf("looking at the topology: %v", err)
		}
		_ = d.Close()
	}
}

// TestNothingIsLostWhileASlotMoves counts what was acknowledged while the keys of a slot move from node to node.
func TestNothingIsLostWhileASlotMoves(t *testing.T) {
	c := startCluster(t, 0)
	tag := c.keys()[0]
	d := open(t, c.url())
	const n = 20
	key := func(i int) string { return fmt.Sprintf("{%s}%d", tag, i%n) }
	var acknowledged, unknown [n]atomic.Int64
	count := func(i int, r driver.Reply) {
		switch err := r.Err(); {
		case err == nil:
			acknowledged[i%n].Add(1)
		case errors.Is(err, driver.ErrUnknownOutcome):
			unknown[i%n].Add(1)
		case !errors.Is(err, driver.ErrNotSent):
			t.Errorf("INCR: %v", err)
		}
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := g; !stop.Load(); i++ {
				if i%2 == 0 {
					count(i, d.Do(context.Background(), keyed("INCR", key(i))))
					continue
				}
				for j, r := range d.DoMulti(context.Background(), []driver.Cmd{keyed("INCR", key(i)), keyed("INCR", key(i+7))}) {
					count(i+7*j, r)
				}
			}
		})
	}
	for from := range 3 {
		m := c.migrate(t, tag, from, (from+1)%3)
		for {
			keys, err := m.from.cli("CLUSTER", "GETKEYSINSLOT", m.slot, "3").Strings()
			if err != nil {
				t.Fatal(err)
			}
			if len(keys) == 0 {
				break
			}
			m.move(keys...)
		}
		m.finish()
	}
	stop.Store(true)
	wg.Wait()
	total := int64(0)
	for i := range n {
		got, err := d.Do(t.Context(), reading("GET", key(i))).Int64()
		a, u := acknowledged[i].Load(), unknown[i].Load()
		if total += a; err != nil || got < a || got > a+u {
			t.Errorf("key %d: %d, %v; %d acknowledged, %d unknown", i, got, err, a, u)
		}
	}
	t.Logf("%d acknowledged", total)
}

// TestDoubtIsNeverForgotten has a doubt come up when the goroutine that would look is about to end.
func TestDoubtIsNeverForgotten(t *testing.T) {
	c := startCluster(t, 0)
	d := open(t, c.url())
	if err := d.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.slots.dirty.Store(true)
	d.slots.doubt(d)
	eventually(t, 5*time.Second, "a look at the topology", func() bool { return !d.slots.dirty.Load() })
}
