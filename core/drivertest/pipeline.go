package drivertest

import (
	"slices"
	"strconv"

	"github.com/go-redisx/redisx/core/driver"
)

var pipelineCases = []testCase{
	{name: "replies come in the order of the commands", run: pipelineOrder},
	{name: "the failure of one says nothing of the others", run: pipelineErrors},
	{name: "an empty list has no replies", run: pipelineEmpty},
	{name: "1000 commands over many slots", run: pipelineLarge},
	{name: "a pipeline is one round trip", run: oneRoundTrip},
	{name: "commands of one slot travel on one connection in order", run: oneConnection},
	{name: "WAIT near a key confirms the writes before it", run: waitNear},
	{name: "a list with a Blocking command runs on a connection of its own", run: pipelineBlocking},
	{name: "a list with a Blocking command over several nodes is an error", run: pipelineBlockingNodes},
	{name: "a command is not changed and may be sent again", run: commandsUnchanged},
	{name: "an invalid command in the list is an error in its place", run: pipelineInvalid},
}

func pipelineOrder(t tester, e *env) {
	d := e.driver(t)
	for range 20 {
		var cmds []driver.Cmd
		for i := range 40 {
			cmds = append(cmds, driver.Cmd{Args: []string{"ECHO", strconv.Itoa(i)}, Near: e.key("")})
		}
		for i, r := range d.DoMulti(e.ctx(t), cmds) {
			wantText(t, "reply", r, strconv.Itoa(i))
		}
	}
}

func pipelineErrors(t tester, e *env) {
	d := e.driver(t)
	rs := d.DoMulti(e.ctx(t), []driver.Cmd{
		cmd("SET", e.key("k"), "v"), cmd("LPUSH", e.key("k"), "x"), cmd("GET", e.key("k")), cmd("INCR", e.key("k")),
		cmd("NOSUCHCOMMAND", e.key("k")), cmd("GET", e.key("missing")), cmd("STRLEN", e.key("k")),
	})
	if len(rs) != 7 {
		t.Fatalf("%d replies to 7 commands", len(rs))
	}
	wantText(t, "SET", rs[0], "OK")
	wantCode(t, "LPUSH", rs[1].Err(), "WRONGTYPE")
	wantText(t, "GET", rs[2], "v")
	wantCode(t, "INCR", rs[3].Err(), "ERR")
	wantCode(t, "unknown command", rs[4].Err(), "ERR")
	wantNull(t, "GET of a missing key", rs[5])
	wantInt(t, "STRLEN", rs[6], 1)
}

func pipelineEmpty(t tester, e *env) {
	d := e.driver(t)
	if rs := d.DoMulti(e.ctx(t), nil); len(rs) != 0 {
		t.Errorf("%d replies to no commands", len(rs))
	}
	if rs := d.DoMulti(e.ctx(t), []driver.Cmd{}); len(rs) != 0 {
		t.Errorf("%d replies to no commands", len(rs))
	}
}

func pipelineLarge(t tester, e *env) {
	d := e.driver(t)
	const n = 500
	var cmds []driver.Cmd
	for i := range n { // keys without a tag, so that a Cluster has to split the list
		key := "drivertest:" + e.tag + ":" + strconv.Itoa(i)
		cmds = append(cmds, driver.Cmd{Args: []string{"SET", key, strconv.Itoa(i), "PX", "60000"}, Keys: driver.Key(1)}, cmd("GET", key))
	}
	rs := d.DoMulti(e.ctx(t), cmds)
	if len(rs) != 2*n {
		t.Fatalf("%d replies to %d commands", len(rs), 2*n)
	}
	for i := range n {
		wantText(t, "SET", rs[2*i], "OK")
		wantText(t, "GET", rs[2*i+1], strconv.Itoa(i))
	}
}

func oneRoundTrip(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	_ = getCall(e.ctx(t), e, d)
	before := p.count("SET")
	p.stall("SET") // a driver that waits for a reply before it sends the next command stops here
	defer p.release()
	done := make(chan []driver.Reply, 1)
	go func() {
		var cmds []driver.Cmd
		for i := range 10 {
			cmds = append(cmds, cmd("SET", e.key("k"), strconv.Itoa(i)))
		}
		done <- d.DoMulti(e.ctx(t), cmds)
	}()
	p.await(t, "SET", before+10)
	p.release()
	for _, r := range <-done {
		wantText(t, "SET", r, "OK")
	}
}

// wantOneLink checks that requests of these names used one connection, and returns it.
func wantOneLink(t tester, p *proxy, names ...string) int {
	t.Helper()
	link := 0
	for _, name := range names {
		for _, r := range p.named(name) {
			if link != 0 && r.link != link {
				t.Errorf("%v used connections %d and %d, want one", names, link, r.link)
			}
			link = r.link
		}
	}
	return link
}

func oneConnection(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	var cmds []driver.Cmd
	for i := range 100 {
		cmds = append(cmds, cmd("SET", e.key("k"+strconv.Itoa(i%3)), strconv.Itoa(i)), cmd("APPEND", e.key("k"+strconv.Itoa(i%3)), "!"))
	}
	for i, r := range d.DoMulti(e.ctx(t), cmds) {
		must(t, r)
		if i%2 == 1 {
			wantInt(t, "APPEND", r, int64(len(strconv.Itoa(i/2))+1))
		}
	}
	wantOneLink(t, p, "SET", "APPEND")
	for i, r := range p.named("SET") {
		if r.args[2] != strconv.Itoa(i) {
			t.Fatalf("SET number %d on the wire is %v", i, r.args)
		}
	}
}

func waitNear(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	// WAIT for no replica returns at once; that it follows SET on the same connection is the point.
	wait := driver.Cmd{Args: []string{"WAIT", "0", "100"}, Near: e.key("k"), Mode: driver.Blocking}
	rs := d.DoMulti(e.ctx(t), []driver.Cmd{cmd("SET", e.key("k"), "v"), wait})
	wantText(t, "SET", rs[0], "OK")
	if n, err := rs[1].Int64(); err != nil || n < 0 {
		t.Errorf("WAIT: %s", short(rs[1]))
	}
	wantOneLink(t, p, "SET", "WAIT")
	rs = d.DoMulti(e.ctx(t), []driver.Cmd{cmd("HSET", e.key("h"), "f", "v"), wait})
	wantInt(t, "HSET", rs[0], 1)
	if _, err := rs[1].Int64(); err != nil {
		t.Errorf("WAIT: %s", short(rs[1]))
	}
	waits := p.named("WAIT")
	if len(waits) != 2 || waits[1].link != wantOneLink(t, p, "HSET") {
		t.Errorf("WAIT did not follow HSET on its connection: %v, HSET %v", waits, p.named("HSET"))
	}
}

func pipelineBlocking(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	must(t, d.Do(e.ctx(t), cmd("SET", e.key("k"), "v")))
	done := make(chan []driver.Reply, 1)
	go func() {
		done <- d.DoMulti(e.ctx(t), []driver.Cmd{
			cmd("HSET", e.key("h"), "f", "v"), blocking(cmd("BLPOP", e.key("l"), "5")), cmd("HGET", e.key("h"), "f"),
		})
	}()
	p.await(t, "BLPOP", 1)
	for range 20 { // nothing waits behind it
		wantText(t, "GET meanwhile", d.Do(e.ctx(t), readOnly(cmd("GET", e.key("k")))), "v")
	}
	select {
	case rs := <-done:
		t.Fatalf("the list returned before its BLPOP: %v", rs)
	default:
	}
	must(t, e.server.do(t, e.key("l"), "RPUSH", e.key("l"), "x"))
	rs := <-done
	wantInt(t, "HSET", rs[0], 1)
	if got := rs[1].String(); got != `["`+e.key("l")+`" "x"]` {
		t.Errorf("BLPOP: %s", got)
	}
	wantText(t, "HGET", rs[2], "v")
	own := wantOneLink(t, p, "HSET", "BLPOP", "HGET")
	for _, r := range p.named("GET") {
		if r.link == own {
			t.Errorf("GET shared the connection of the blocking list")
		}
	}
}

func pipelineBlockingNodes(t tester, e *env) {
	nodes := e.needCluster(t)
	d := e.driver(t)
	for i, r := range d.DoMulti(e.ctx(t), []driver.Cmd{cmd("GET", e.keyAt(nodes[0])), blocking(cmd("BLPOP", e.keyAt(nodes[1]), "0.01"))}) {
		if r.Err() == nil {
			t.Errorf("reply %d: %s, want an error", i, short(r))
		}
	}
	wantWorking(t, e, d)
}

func commandsUnchanged(t tester, e *env) {
	d := e.driver(t)
	script := driver.NewScript("echo", "return ARGV[1] -- "+e.tag).Cmd([]string{e.key("k")}, []string{"v"})
	cmds := []driver.Cmd{cmd("SET", e.key("k"), "v"), script, readOnly(cmd("GET", e.key("k"))), blocking(cmd("BLPOP", e.key("l"), "0.01"))}
	for _, c := range cmds {
		args := slices.Clone(c.Args)
		for range 2 {
			must(t, d.Do(e.ctx(t), c))
			for _, r := range d.DoMulti(e.ctx(t), []driver.Cmd{c, c}) {
				must(t, r)
			}
		}
		if !slices.Equal(args, c.Args) {
			t.Errorf("the driver changed %q to %q", args, c.Args)
		}
	}
	// After the call its caller may reuse the slice.
	args := []string{"SET", e.key("reused"), "first"}
	must(t, d.Do(e.ctx(t), driver.Cmd{Args: args, Keys: driver.Key(1)}))
	args[0], args[1], args[2] = "GET", e.key("k"), "second"
	wantText(t, "GET", d.Do(e.ctx(t), readOnly(cmd("GET", e.key("reused")))), "first")
}

func pipelineInvalid(t tester, e *env) {
	d := e.driver(t)
	rs := d.DoMulti(e.ctx(t), []driver.Cmd{cmd("SET", e.key("k"), "v"), {}, cmd("GET", e.key("k"))})
	if len(rs) != 3 {
		t.Fatalf("%d replies to 3 commands", len(rs))
	}
	if rs[1].Err() == nil {
		t.Errorf("a command without a name: got %s, want an error", short(rs[1]))
	}
	// Either the others run or nothing does, and they say so.
	if rs[0].Err() == nil {
		wantText(t, "GET", rs[2], "v")
	} else if n, _ := e.server.do(t, e.key("k"), "EXISTS", e.key("k")).Int64(); n != 0 {
		t.Errorf("SET ran although its reply is %v", rs[0].Err())
	}
	wantWorking(t, e, d)
}
