package drivertest

import (
	"strconv"

	"github.com/go-redisx/redisx/core/driver"
)

var routingCases = []testCase{
	{name: "a command goes to the primary that serves its first key", run: routeByKey},
	{name: "a command without keys goes near the key that is named", run: routeNear},
	{name: "a command without any key goes to some primary", run: routeAnywhere},
	{name: "keys in the middle of the arguments are found", run: routeMiddle},
	{name: "keys in different slots are a CROSSSLOT error in Cluster", run: crossSlot},
	{name: "MOVED is followed for writes", run: followMoved},
	{name: "a redirected list with a Blocking command runs nothing twice", run: followMovedBlocking},
	{name: "ASK is followed for writes", run: followAsk, alone: true},
	{name: "Router names the node behind a key", run: routerNode},
}

func (e *env) needCluster(t tester) []primary {
	t.Helper()
	if e.ep.Topology != driver.Cluster {
		t.Skipf("the server is no Cluster")
	}
	nodes, err := e.server.primaries()
	if err != nil || len(nodes) < 2 {
		t.Skipf("a Cluster of %d primaries (%v); the case needs 2", len(nodes), err)
	}
	return nodes
}

// owner returns the primary that serves a key.
func owner(t tester, nodes []primary, key string) primary {
	t.Helper()
	for _, n := range nodes {
		if n.serves(driver.Slot(key)) {
			return n
		}
	}
	t.Fatalf("no primary serves slot %d", driver.Slot(key))
	return primary{}
}

// keyAt returns a key of this case that a primary serves.
func (e *env) keyAt(n primary) string {
	for i := 0; ; i++ {
		if k := "drivertest:" + e.tag + ":" + strconv.Itoa(i); n.serves(driver.Slot(k)) {
			return k
		}
	}
}

func routeByKey(t tester, e *env) {
	d := e.driver(t)
	for i := range 50 {
		key := "drivertest:" + e.tag + ":" + strconv.Itoa(i)
		must(t, d.Do(e.ctx(t), driver.Cmd{Args: []string{"SET", key, "v", "PX", "60000"}, Keys: driver.Key(1)}))
		wantText(t, "GET on the primary of the key", e.server.do(t, key, "GET", key), "v")
	}
}

func routeNear(t tester, e *env) {
	d := e.driver(t)
	if e.ep.Topology != driver.Cluster {
		wantText(t, "ECHO near a key", d.Do(e.ctx(t), driver.Cmd{Args: []string{"ECHO", "x"}, Near: e.key("k")}), "x")
		return
	}
	for _, n := range e.needCluster(t) {
		id, err := e.server.at(t, n.addr, "CLUSTER", "MYID").Text()
		if err != nil {
			t.Fatalf("CLUSTER MYID: %v", err)
		}
		c := driver.Cmd{Args: []string{"CLUSTER", "MYID"}, Near: e.keyAt(n)}
		wantText(t, "CLUSTER MYID by Do", d.Do(e.ctx(t), c), id)
		wantText(t, "CLUSTER MYID by DoMulti", d.DoMulti(e.ctx(t), []driver.Cmd{cmd("GET", e.keyAt(n)), c})[1], id)
		wantText(t, "CLUSTER MYID as Blocking", d.Do(e.ctx(t), blocking(c)), id)
	}
}

func routeAnywhere(t tester, e *env) {
	d := e.driver(t)
	for range 10 {
		wantText(t, "PING", d.Do(e.ctx(t), driver.Cmd{Args: []string{"PING"}}), "PONG")
		role, err := d.Do(e.ctx(t), driver.Cmd{Args: []string{"ROLE"}}).List()
		if err != nil {
			if e.cfg.Features.Fake {
				continue
			}
			t.Fatalf("ROLE: %v", err)
		}
		wantText(t, "ROLE", role[0], "master")
	}
	rs := d.DoMulti(e.ctx(t), []driver.Cmd{
		cmd("PING"), cmd("SET", e.key("k"), "v"), {Args: []string{"ECHO", "x"}}, cmd("GET", e.keyElsewhere(0)),
	})
	wantText(t, "PING in a pipeline", rs[0], "PONG")
	wantText(t, "SET in a pipeline", rs[1], "OK")
	wantText(t, "ECHO in a pipeline", rs[2], "x")
	wantNull(t, "GET in a pipeline", rs[3])
}

func routeMiddle(t tester, e *env) {
	d := e.driver(t)
	for i := range 10 { // slots of different primaries
		key := e.keyElsewhere(i)
		must(t, e.server.do(t, key, "XGROUP", "CREATE", key, "g", "$", "MKSTREAM"))
		must(t, e.server.do(t, key, "XADD", key, "1-1", "f", "v"))
		args := []string{"XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "STREAMS", key, ">"}
		for name := range must(t, d.Do(e.ctx(t), driver.Cmd{Args: args, Keys: driver.Key(7)})).Pairs() {
			wantText(t, "XREADGROUP's stream", name, key)
		}
		args = []string{"XREAD", "COUNT", "1", "STREAMS", key, "0"}
		for name := range must(t, d.Do(e.ctx(t), readOnly(driver.Cmd{Args: args, Keys: driver.Key(4)}))).Pairs() {
			wantText(t, "XREAD's stream", name, key)
		}
		must(t, e.server.do(t, key, "DEL", key))
	}
	// Step: every second argument is a key.
	must(t, d.Do(e.ctx(t), driver.Cmd{Args: []string{"MSET", e.key("a"), "1", e.key("b"), "2"}, Keys: driver.Keys{First: 1, Count: 2, Step: 2}}))
	wantText(t, "GET", d.Do(e.ctx(t), cmd("GET", e.key("b"))), "2")
}

func crossSlot(t tester, e *env) {
	d := e.driver(t)
	a, b := e.key("a"), e.keyElsewhere(0)
	must(t, d.Do(e.ctx(t), cmd("SET", a, "1")))
	must(t, d.Do(e.ctx(t), cmd("SET", b, "2")))
	s := driver.NewScript("two", "return #KEYS -- "+e.tag)
	cmds := []driver.Cmd{
		{Args: []string{"MGET", a, b}, Keys: driver.KeyRange(1, 2)},
		{Args: []string{"DEL", a, b}, Keys: driver.KeyRange(1, 2)},
		{Args: []string{"MSET", a, "1", b, "2"}, Keys: driver.Keys{First: 1, Count: 2, Step: 2}},
		s.Cmd([]string{a, b}, nil),
		{Args: []string{"BLPOP", a + "l", b + "l", "0.05"}, Keys: driver.KeyRange(1, 2), Mode: driver.Blocking},
	}
	for _, c := range cmds {
		err := d.Do(e.ctx(t), c).Err()
		multi := d.DoMulti(e.ctx(t), []driver.Cmd{cmd("GET", e.key("k")), c, cmd("GET", e.key("k"))})
		if e.ep.Topology != driver.Cluster {
			if err != nil {
				t.Errorf("%s over two slots without a Cluster: %v", c.Name(), err)
			}
			continue
		}
		wantCode(t, c.Name(), err, "CROSSSLOT")
		wantCode(t, c.Name()+" in a pipeline", multi[1].Err(), "CROSSSLOT")
		if c.Mode != driver.Blocking { // a list with a Blocking command belongs to one node as a whole
			wantNull(t, "the command before it", multi[0])
			wantNull(t, "the command after it", multi[2])
		}
	}
	if e.ep.Topology == driver.Cluster {
		wantText(t, "the first key after DEL", e.server.do(t, a, "GET", a), "1")
	}
}

func followMoved(t tester, e *env) {
	nodes := e.needCluster(t)
	p := e.proxy(t)
	d := p.driver(t)
	for _, n := range nodes {
		for _, other := range nodes {
			key, wrong := e.keyAt(n), e.keyAt(other)
			must(t, e.server.do(t, key, "DEL", key))
			// Keys are not named, so the driver cannot know that the command belongs elsewhere.
			c := driver.Cmd{Args: []string{"INCR", key}, Near: wrong}
			wantInt(t, "Do", d.Do(e.ctx(t), c), 1)
			wantInt(t, "DoMulti", d.DoMulti(e.ctx(t), []driver.Cmd{cmd("GET", wrong), c})[1], 2)
			wantText(t, "the counter", e.server.do(t, key, "GET", key), "2")
			must(t, e.server.do(t, key, "DEL", key))
		}
	}
}

// followMovedBlocking sends lists of which one command, whose key is not named, belongs elsewhere.
func followMovedBlocking(t tester, e *env) {
	nodes := e.needCluster(t)
	d := e.driver(t)
	for _, n := range nodes {
		for _, other := range nodes {
			here, there := e.keyAt(n)+"n", e.keyAt(other)
			for !n.serves(driver.Slot(here)) {
				here += "n"
			}
			hidden := driver.Cmd{Args: []string{"INCR", there}, Near: here}
			wait := driver.Cmd{Args: []string{"WAIT", "0", "10"}, Near: here, Mode: driver.Blocking}
			for i, list := range [][]driver.Cmd{
				{cmd("INCR", here), hidden, wait}, {hidden, cmd("INCR", here), wait}, {wait, hidden, cmd("INCR", here)},
			} {
				must(t, e.server.do(t, here, "SET", here, "0", "PX", "60000"))
				must(t, e.server.do(t, there, "SET", there, "0", "PX", "60000"))
				for k, r := range d.DoMulti(e.ctx(t), list) {
					want := int64(1)
					if list[k].Name() == "WAIT" {
						want = 0
					}
					if got, err := r.Int64(); err != nil || got != want && want > 0 {
						t.Errorf("list %d, %s: got %s (%v), want %d", i, list[k].Name(), short(r), err, want)
					}
				}
				wantText(t, "the key at home after list "+strconv.Itoa(i), e.server.do(t, here, "GET", here), "1")
				wantText(t, "the key elsewhere after list "+strconv.Itoa(i), e.server.do(t, there, "GET", there), "1")
			}
		}
	}
}

func followAsk(t tester, e *env) {
	nodes := e.needCluster(t)
	if e.cfg.Features.Fake {
		t.Skipf("needs a real Cluster, whose slots can migrate")
	}
	d := e.driver(t)
	key := e.key("n")
	from := owner(t, nodes, key)
	to := nodes[0]
	if to.addr == from.addr {
		to = nodes[1]
	}
	must(t, d.Do(e.ctx(t), cmd("GET", key)))
	slot := strconv.Itoa(int(driver.Slot(key)))
	fromID, _ := e.server.at(t, from.addr, "CLUSTER", "MYID").Text()
	toID, _ := e.server.at(t, to.addr, "CLUSTER", "MYID").Text()
	must(t, e.server.at(t, to.addr, "CLUSTER", "SETSLOT", slot, "IMPORTING", fromID))
	must(t, e.server.at(t, from.addr, "CLUSTER", "SETSLOT", slot, "MIGRATING", toID))
	wantInt(t, "Do", d.Do(e.ctx(t), cmd("INCR", key)), 1)
	rs := d.DoMulti(e.ctx(t), []driver.Cmd{cmd("INCR", key), cmd("INCR", key)})
	wantInt(t, "DoMulti, first", rs[0], 2)
	wantInt(t, "DoMulti, second", rs[1], 3)
	wantInt(t, "a script", d.Do(e.ctx(t), driver.NewScript("incr", "return redis.call('INCR', KEYS[1]) -- "+e.tag).Cmd([]string{key}, nil)), 4)
	must(t, e.server.at(t, to.addr, "ASKING"))
	must(t, e.server.at(t, to.addr, "DEL", key))
	must(t, e.server.at(t, from.addr, "CLUSTER", "SETSLOT", slot, "STABLE"))
	must(t, e.server.at(t, to.addr, "CLUSTER", "SETSLOT", slot, "STABLE"))
}

func routerNode(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	r, ok := d.(driver.Router)
	if !ok {
		t.Skipf("the driver is no Router")
	}
	if e.ep.Topology != driver.Cluster {
		must(t, d.Do(e.ctx(t), cmd("GET", e.key("k"))))
		if n := r.Node(e.key("k")); n != "" {
			t.Errorf("Node without a Cluster: %q, want none", n)
		}
		return
	}
	names := map[string]string{}
	for _, n := range e.needCluster(t) {
		key := e.keyAt(n)
		must(t, d.Do(e.ctx(t), cmd("GET", key)))
		eventually(t, "Node knows the key", budget/2, func() bool { return r.Node(key) != "" })
		name := r.Node(key)
		if other, ok := names[name]; ok {
			t.Errorf("Node names %q for keys of %s and of %s", name, other, n.addr)
		}
		names[name] = n.addr
		for range 100 {
			if again := r.Node(key); again != name {
				t.Fatalf("Node is %q and then %q", name, again)
			}
		}
	}
	p.hold()
	defer p.release()
	within(t, "Node without a network", prompt, func() {
		for range 100 {
			_ = r.Node(e.key("k"))
		}
	})
}
