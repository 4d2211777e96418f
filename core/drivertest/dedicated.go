package drivertest

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

var dedicatedCases = []testCase{
	{name: "a connection stays the same and is nobody else's", run: sameConn},
	{name: "WATCH MULTI EXEC works", run: transaction},
	{name: "a connection given back carries nothing over", run: carriesNothing},
	{name: "a connection in Cluster goes to the primary of the key", run: connNode},
	{name: "a broken connection stays broken", run: brokenConn},
	{name: "Close is idempotent and ends it", run: closedConn},
	{name: "cancellation is honoured", run: cancelConn},
	{name: "a cancelled command shifts no reply", run: connNoShift},
	{name: "no read timeout ends a blocking command", run: connOutlasts},
	{name: "a reply already on its way is delivered", run: connOnItsWay},
	{name: "a cancelled BLPOP loses no element", run: connRaceElement},
	{name: "a cancelled XREADGROUP loses no entry", run: connRaceEntry},
	{name: "a connection goes on after a cancelled blocking command that delivered nothing", run: connGoesOn},
	{name: "an ended context or a dead server gives no connection", run: noConn},
	{name: "a write whose reply is lost is sent once", run: connLostReply},
	{name: "invalid commands are an error", run: connInvalid},
	{name: "a list with an invalid command is not sent", run: connRefusesWhole},
	{name: "a transaction over several slots changes nothing", run: connTransactionSlots},
	{name: "a script in a transaction is not sent again outside of it", run: connTransactionScript},
	{name: "what a connection was told is gone with it", run: connStateGone},
}

// dedicate takes a connection for the case's keys and gives it back afterwards.
func (e *env) dedicate(t tester, d driver.Driver) driver.Conn {
	t.Helper()
	conn, err := e.dedicated(t, d).Dedicate(e.ctx(t), e.key(""))
	if err != nil {
		t.Fatalf("Dedicate: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (e *env) dedicated(t tester, d driver.Driver) driver.Dedicated {
	t.Helper()
	dd, ok := d.(driver.Dedicated)
	if !ok {
		t.Skipf("the driver is not Dedicated")
	}
	return dd
}

func connID(t tester, e *env, c driver.Conn) string {
	t.Helper()
	id, err := c.Do(e.ctx(t), driver.Cmd{Args: []string{"CLIENT", "ID"}}).Text()
	if err != nil {
		t.Fatalf("CLIENT ID: %v", err)
	}
	return id
}

func sameConn(t tester, e *env) {
	d := e.driver(t)
	a, b := e.dedicate(t, d), e.dedicate(t, d)
	idA, idB := connID(t, e, a), connID(t, e, b)
	if idA == idB {
		t.Errorf("two connections have the same CLIENT ID %s", idA)
	}
	for range 10 {
		must(t, a.Do(e.ctx(t), cmd("SET", e.key("k"), "v")))
		if id := connID(t, e, a); id != idA {
			t.Errorf("CLIENT ID %s and then %s", idA, id)
		}
		rs := a.DoMulti(e.ctx(t), []driver.Cmd{cmd("GET", e.key("k")), {Args: []string{"CLIENT", "ID"}}})
		wantText(t, "GET in a pipeline", rs[0], "v")
		wantText(t, "CLIENT ID in a pipeline", rs[1], idA)
		other, err := d.Do(e.ctx(t), driver.Cmd{Args: []string{"CLIENT", "ID"}, Near: e.key("")}).Text()
		if err != nil || other == idA {
			t.Errorf("the driver's own CLIENT ID: %s, %v", other, err)
		}
	}
}

func transaction(t tester, e *env) {
	d := e.driver(t)
	conn := e.dedicate(t, d)
	key := e.key("n")
	ctx := e.ctx(t)
	must(t, conn.Do(ctx, cmd("SET", key, "1")))
	must(t, conn.Do(ctx, cmd("WATCH", key)))
	rs := conn.DoMulti(ctx, []driver.Cmd{
		cmd("MULTI"), cmd("INCR", key), cmd("LPUSH", key, "x"), cmd("GET", key), cmd("EXEC"),
	})
	list, err := rs[4].List()
	if err != nil || len(list) != 3 {
		t.Fatalf("EXEC: %s, %v", short(rs[4]), err)
	}
	wantText(t, "INCR's first answer", rs[1], "QUEUED")
	wantInt(t, "INCR", list[0], 2)
	wantCode(t, "LPUSH keeps its own error", list[1].Err(), "WRONGTYPE")
	wantText(t, "GET", list[2], "2")

	must(t, conn.Do(ctx, cmd("WATCH", key)))
	must(t, e.server.do(t, key, "SET", key, "changed"))
	must(t, conn.Do(ctx, driver.Cmd{Args: []string{"MULTI"}}))
	must(t, conn.Do(ctx, cmd("INCR", key)))
	wantNull(t, "EXEC after the watched key changed", conn.Do(ctx, driver.Cmd{Args: []string{"EXEC"}}))
}

func carriesNothing(t tester, e *env) {
	d := e.driver(t)
	must(t, d.Do(e.ctx(t), cmd("SET", e.key("k"), "v")))
	for range 5 {
		conn := e.dedicate(t, d)
		must(t, conn.Do(e.ctx(t), driver.Cmd{Args: []string{"MULTI"}}))
		must(t, conn.Do(e.ctx(t), cmd("SET", e.key("k"), "never")))
		if err := conn.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		next := e.dedicate(t, d)
		wantText(t, "GET on the next connection", next.Do(e.ctx(t), cmd("GET", e.key("k"))), "v")
		_ = next.Close()
		wantText(t, "GET on the driver", d.Do(e.ctx(t), cmd("GET", e.key("k"))), "v")
		wantNull(t, "BLPOP on the driver", d.Do(e.ctx(t), blocking(cmd("BLPOP", e.key("l"), "0.01"))))
	}
}

func connNode(t tester, e *env) {
	nodes := e.needCluster(t)
	d := e.driver(t)
	for _, n := range nodes {
		conn, err := e.dedicated(t, d).Dedicate(e.ctx(t), e.keyAt(n))
		if err != nil {
			t.Fatalf("Dedicate: %v", err)
		}
		want, _ := e.server.at(t, n.addr, "CLUSTER", "MYID").Text()
		wantText(t, "CLUSTER MYID", conn.Do(e.ctx(t), driver.Cmd{Args: []string{"CLUSTER", "MYID"}}), want)
		must(t, conn.Do(e.ctx(t), cmd("GET", e.keyAt(n))))
		_ = conn.Close()
	}
	conn, err := e.dedicated(t, d).Dedicate(e.ctx(t), "")
	if err != nil {
		t.Fatalf("Dedicate to any primary: %v", err)
	}
	defer func() { _ = conn.Close() }()
	wantText(t, "PING", conn.Do(e.ctx(t), driver.Cmd{Args: []string{"PING"}}), "PONG")
}

func brokenConn(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	conn := e.dedicate(t, d)
	must(t, conn.Do(e.ctx(t), cmd("HSET", e.key("h"), "f", "v")))
	p.cut("HSET")
	for i := range 3 {
		err := conn.Do(e.ctx(t), cmd("INCR", e.key("n"))).Err()
		wantTransport(t, "call "+strconv.Itoa(i)+" after it broke", err)
	}
	if err := conn.DoMulti(e.ctx(t), []driver.Cmd{cmd("INCR", e.key("n"))})[0].Err(); err == nil {
		t.Errorf("a pipeline after it broke is no error")
	}
	if n := p.count("INCR"); n > 1 {
		t.Errorf("INCR reached the wire %d times after the connection broke", n)
	}
	wantNull(t, "the counter", e.server.do(t, e.key("n"), "GET", e.key("n")))
	if again := e.dedicate(t, d); again.Do(e.ctx(t), cmd("GET", e.key("k"))).Err() != nil {
		t.Errorf("the next connection does not work")
	}
	wantWorking(t, e, d)
}

func closedConn(t tester, e *env) {
	d := e.driver(t)
	conn := e.dedicate(t, d)
	must(t, conn.Do(e.ctx(t), cmd("GET", e.key("k"))))
	for range 3 {
		if err := conn.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	wantNotSent(t, "Do after Close", conn.Do(e.ctx(t), cmd("SET", e.key("k"), "v")).Err())
	wantNotSent(t, "DoMulti after Close", conn.DoMulti(e.ctx(t), []driver.Cmd{cmd("SET", e.key("k"), "v")})[0].Err())
	wantNull(t, "GET", d.Do(e.ctx(t), cmd("GET", e.key("k"))))
}

func cancelConn(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	conn := e.dedicate(t, d)
	must(t, conn.Do(e.ctx(t), cmd("GET", e.key("k"))))
	before := p.count("GET")
	p.stall("GET")
	defer p.release()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	errs := make(chan error, 1)
	go func() { errs <- conn.Do(ctx, cmd("GET", e.key("k"))).Err() }()
	p.await(t, "GET", before+1)
	ended := time.Now()
	cancel()
	wantEnd(t, errs, ended, context.Canceled)

	p.release()
	conn = e.dedicate(t, d)
	must(t, conn.Do(e.ctx(t), cmd("GET", e.key("k"))))
	p.hold()
	deadline := time.Now().Add(150 * time.Millisecond)
	ctx, cancelDeadline := context.WithDeadline(context.Background(), deadline)
	defer cancelDeadline()
	go func() {
		errs <- conn.DoMulti(ctx, []driver.Cmd{cmd("GET", e.key("k")), cmd("GET", e.key("k"))})[1].Err()
	}()
	wantEnd(t, errs, deadline, context.DeadlineExceeded)
}

func connNoShift(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	conn := e.dedicate(t, d)
	must(t, conn.Do(e.ctx(t), driver.Cmd{Args: []string{"ECHO", "first"}}))
	before := p.count("ECHO")
	p.stall("ECHO")
	ctx, cancel := context.WithCancel(context.Background())
	errs := make(chan error, 1)
	go func() { errs <- conn.Do(ctx, driver.Cmd{Args: []string{"ECHO", "abandoned"}}).Err() }()
	p.await(t, "ECHO", before+1)
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("the abandoned command: %v", err)
	}
	p.release()
	for i := range 3 {
		want := "next" + strconv.Itoa(i)
		r := conn.Do(e.ctx(t), driver.Cmd{Args: []string{"ECHO", want}})
		if got, err := r.Text(); err == nil && got != want {
			t.Errorf("after a cancelled command the reply is %q, want %q or an error", got, want)
		}
	}
}

func noConn(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	dd := e.dedicated(t, d)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	conn, err := dd.Dedicate(ctx, e.key(""))
	if err == nil { // opened at first use
		err = conn.Do(ctx, cmd("INCR", e.key("n"))).Err()
		_ = conn.Close()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: error %v is not %v", err, context.Canceled)
	}
	p.down()
	within(t, "Dedicate on a dead server", budget, func() {
		conn, err := dd.Dedicate(e.ctx(t), e.key(""))
		if err == nil {
			err = conn.Do(e.ctx(t), cmd("INCR", e.key("n"))).Err()
			_ = conn.Close()
		}
		wantTransport(t, "on a dead server", err)
	})
	p.up(t)
	p.hold()
	defer p.release()
	deadline := time.Now().Add(200 * time.Millisecond)
	short, cancelShort := context.WithDeadline(context.Background(), deadline)
	defer cancelShort()
	conn, err = dd.Dedicate(short, e.key(""))
	if err == nil {
		err = conn.Do(short, cmd("INCR", e.key("n"))).Err()
		_ = conn.Close()
	}
	wantPrompt(t, "Dedicate on a silent server", deadline)
	if err == nil {
		t.Errorf("on a silent server: no error")
	}
}

func connLostReply(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	conn := e.dedicate(t, d)
	key := e.key("n")
	must(t, conn.Do(e.ctx(t), cmd("INCR", key)))
	p.once("INCR", loseReply)
	wantUnknown(t, "INCR", conn.Do(e.ctx(t), cmd("INCR", key)).Err())
	wantOnce(t, e, p, "INCR", 2, key, "2")

	conn = e.dedicate(t, d) // one declared ReadOnly has no other connection to be sent again on
	p.once("GET", loseReply)
	wantTransport(t, "GET", conn.Do(e.ctx(t), readOnly(cmd("GET", key))).Err())
	wantWorking(t, e, d)
}

func connInvalid(t tester, e *env) {
	d := e.driver(t)
	conn := e.dedicate(t, d)
	for _, c := range invalidCmds {
		if err := conn.Do(e.ctx(t), c).Err(); err == nil {
			t.Errorf("%q with keys %+v: no error", c.Args, c.Keys)
		}
	}
	if rs := conn.DoMulti(e.ctx(t), nil); len(rs) != 0 {
		t.Errorf("%d replies to no commands", len(rs))
	}
	wantText(t, "PING afterwards", conn.Do(e.ctx(t), driver.Cmd{Args: []string{"PING"}}), "PONG")
}

func connRefusesWhole(t tester, e *env) {
	d := e.driver(t)
	conn := e.dedicate(t, d)
	k := e.key("k")
	multi, exec := driver.Cmd{Args: []string{"MULTI"}}, driver.Cmd{Args: []string{"EXEC"}}
	for _, bad := range []driver.Cmd{{}, {Args: []string{"SUBSCRIBE", "c"}}, {Args: []string{"GET", k}, Keys: driver.Key(5)}} {
		for _, list := range [][]driver.Cmd{{multi, cmd("SET", k, "1"), bad, exec}, {cmd("SET", k, "1"), bad}, {bad, cmd("SET", k, "1")}} {
			for i, r := range conn.DoMulti(e.ctx(t), list) {
				if err := r.Err(); !errors.Is(err, driver.ErrInvalid) || !errors.Is(err, driver.ErrNotSent) {
					t.Errorf("with %q, reply %d: got %s, %v; want ErrInvalid, not sent", bad.Args, i, short(r), err)
				}
			}
		}
	}
	wantNull(t, "GET on the same connection", conn.Do(e.ctx(t), cmd("GET", k)))
	rs := conn.DoMulti(e.ctx(t), []driver.Cmd{multi, cmd("SET", k, "1"), exec})
	wantText(t, "SET in a transaction afterwards", rs[1], "QUEUED")
	wantText(t, "GET afterwards", conn.Do(e.ctx(t), cmd("GET", k)), "1")
}

func connTransactionSlots(t tester, e *env) {
	nodes := e.needCluster(t)
	d := e.driver(t)
	multi, exec := driver.Cmd{Args: []string{"MULTI"}}, driver.Cmd{Args: []string{"EXEC"}}
	for _, n := range nodes {
		for _, other := range nodes {
			a, b := e.keyAt(n), e.keyAt(other)+":"
			for driver.Slot(b) == driver.Slot(a) || !other.serves(driver.Slot(b)) {
				b += "x"
			}
			conn, err := e.dedicated(t, d).Dedicate(e.ctx(t), a)
			if err != nil {
				t.Fatalf("Dedicate: %v", err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			rs := conn.DoMulti(e.ctx(t), []driver.Cmd{multi, cmd("SET", a, "1"), cmd("SET", b, "1"), exec})
			if err := rs[3].Err(); err == nil {
				t.Errorf("EXEC over two slots: %s", short(rs[3]))
			}
			wantNull(t, "the first key", e.server.do(t, a, "GET", a))
			wantNull(t, "the second key", e.server.do(t, b, "GET", b))
			mset := driver.Cmd{Args: []string{"MSET", a, "1", b, "1"}, Keys: driver.Keys{First: 1, Count: 2, Step: 2}}
			rs = conn.DoMulti(e.ctx(t), []driver.Cmd{multi, cmd("SET", a, "1"), mset, exec})
			if err := rs[3].Err(); err == nil {
				t.Errorf("EXEC after one command over two slots: %s", short(rs[3]))
			}
			wantNull(t, "the first key", e.server.do(t, a, "GET", a))
			rs = conn.DoMulti(e.ctx(t), []driver.Cmd{multi, cmd("SET", a, "1"), exec})
			must(t, rs[2])
			must(t, e.server.do(t, a, "DEL", a))
		}
	}
}

func connTransactionScript(t tester, e *env) {
	d := e.driver(t)
	conn := e.dedicate(t, d)
	n := e.key("n")
	s := driver.NewScript("incr", "return redis.call('INCR', KEYS[1]) -- "+e.tag)
	multi, exec := driver.Cmd{Args: []string{"MULTI"}}, driver.Cmd{Args: []string{"EXEC"}}
	rs := conn.DoMulti(e.ctx(t), []driver.Cmd{multi, s.Cmd([]string{n}, nil), cmd("SET", e.key("k"), "v"), exec})
	if list, err := rs[3].List(); err == nil {
		wantCode(t, "the unknown script in EXEC's reply", list[0].Err(), "NOSCRIPT")
	} else {
		wantCode(t, "the unknown script when it is queued", rs[1].Err(), "NOSCRIPT")
	}
	wantNull(t, "what the script would have written", e.server.do(t, n, "GET", n))
	rs = conn.DoMulti(e.ctx(t), []driver.Cmd{multi, s.Cmd([]string{n}, nil).WithSource(), exec})
	list, err := rs[2].List()
	if err != nil || len(list) != 1 {
		t.Fatalf("EXEC: %s, %v", short(rs[2]), err)
	}
	wantInt(t, "the script with its source", list[0], 1)
}

// connStateGone changes the state of connections in every way and looks at the ones that come next.
func connStateGone(t tester, e *env) {
	d := e.driver(t)
	k := e.key("k")
	must(t, d.Do(e.ctx(t), cmd("SET", k, "v")))
	for _, args := range [][]string{
		{"MULTI"}, {"WATCH", k}, {"SELECT", "7"}, {"CLIENT", "TRACKING", "ON", "NOLOOP"}, {"CLIENT", "SETNAME", "somebody"}, {"CLIENT", "NO-EVICT", "on"},
	} {
		conn := e.dedicate(t, d)
		_ = conn.Do(e.ctx(t), driver.Cmd{Args: args}) // whether it succeeds or not
		if err := conn.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		next := e.dedicate(t, d)
		wantText(t, "GET on the next connection after "+args[0], next.Do(e.ctx(t), cmd("GET", k)), "v")
		rs := next.DoMulti(e.ctx(t), []driver.Cmd{{Args: []string{"MULTI"}}, cmd("GET", k), {Args: []string{"EXEC"}}})
		if list, err := rs[2].List(); err != nil || len(list) != 1 {
			t.Errorf("a transaction on the next connection after %q: %s, %v", args, short(rs[2]), err)
		}
		if name, err := next.Do(e.ctx(t), driver.Cmd{Args: []string{"CLIENT", "GETNAME"}}).Text(); err == nil && name == "somebody" {
			t.Errorf("the next connection has the name of the one before")
		}
		_ = next.Close()
		wantNull(t, "BLPOP on the driver after "+args[0], d.Do(e.ctx(t), blocking(cmd("BLPOP", e.key("l"), "0.01"))))
	}
}
