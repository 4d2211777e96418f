package drivertest

import (
	"context"
	"errors"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

var retryCases = []testCase{
	{name: "a write whose reply is lost is sent once", run: lostReply(loseReply)},
	{name: "a write whose reply is cut in half is sent once", run: lostReply(cutReply)},
	{name: "a write whose connection is reset is sent once", run: lostReply(resetReply)},
	{name: "a write whose request is lost is sent once", run: lostRequest},
	{name: "a script whose reply is lost is sent once", run: lostScript},
	{name: "a pipeline that breaks is sent once", run: lostPipeline},
	{name: "a blocking command whose reply is lost is sent once", run: lostBlocking},
	{name: "a write without an answer in time is sent once", run: writeTimeout},
	{name: "a read may be sent again and then returns its reply", run: lostRead},
	{name: "a read on a dead server comes to an end", run: deadRead},
	{name: "a write the server refuses for now is sent once", run: refusedForNow},
	{name: "a write is not sent again after a broken idle connection", run: brokenIdle},
}

func lostReply(do action) func(t tester, e *env) {
	return func(t tester, e *env) {
		p := e.proxy(t)
		d := p.driver(t)
		key := e.key("n")
		wantInt(t, "INCR", d.Do(e.ctx(t), cmd("INCR", key)), 1)
		p.once("INCR", do)
		r := d.Do(e.ctx(t), cmd("INCR", key))
		wantUnknown(t, "INCR", r.Err())
		if oe, ok := errors.AsType[*driver.OpError](r.Err()); !ok || !oe.Sent {
			t.Errorf("INCR: error %v is not an OpError with Sent", r.Err())
		}
		wantOnce(t, e, p, "INCR", 2, key, "2")
		wantWorking(t, e, d)
	}
}

// wantOnce checks how often a command was on the wire, and its effect. It looks after a further command went through, so
// that one sent again in the background would be seen.
func wantOnce(t tester, e *env, p *proxy, name string, sent int, key, value string) {
	t.Helper()
	wantText(t, "the value on the server", e.server.do(t, key, "GET", key), value)
	if n := p.count(name); n != sent {
		t.Errorf("%s was on the wire %d times, want %d", name, n, sent)
	}
}

func lostRequest(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	key := e.key("n")
	wantInt(t, "INCR", d.Do(e.ctx(t), cmd("INCR", key)), 1)
	p.once("INCR", loseRequest)
	r := d.Do(e.ctx(t), cmd("INCR", key))
	wantUnknown(t, "INCR", r.Err())
	wantOnce(t, e, p, "INCR", 2, key, "1")
	wantWorking(t, e, d)
}

func lostScript(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	key := e.key("n")
	incr := driver.NewScript("incr", "return redis.call('INCR', KEYS[1]) -- "+e.tag).Cmd([]string{key}, nil)
	wantInt(t, "the script", d.Do(e.ctx(t), incr), 1)
	p.once("EVALSHA", loseReply)
	wantUnknown(t, "the script", d.Do(e.ctx(t), incr).Err())
	wantOnce(t, e, p, "EVALSHA", 2, key, "2")
	wantWorking(t, e, d)

	// With its source it is still a Write.
	other := driver.NewScript("incr", "return redis.call('INCR', KEYS[1]) -- other "+e.tag).Cmd([]string{key}, nil)
	before := p.count("EVAL")
	p.once("EVAL", loseReply)
	wantUnknown(t, "the script with its source", d.Do(e.ctx(t), other).Err())
	wantOnce(t, e, p, "EVAL", before+1, key, "3")
}

func lostPipeline(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	_ = getCall(e.ctx(t), e, d)
	n, l := e.key("n"), e.key("l")
	p.once("INCR", loseReply)
	rs := d.DoMulti(e.ctx(t), []driver.Cmd{cmd("RPUSH", l, "first"), cmd("INCR", n), cmd("RPUSH", l, "last"), readOnly(cmd("GET", n))})
	if len(rs) != 4 {
		t.Fatalf("%d replies to 4 commands", len(rs))
	}
	if rs[0].Err() != nil { // it was answered before the connection broke, but the client may not tell replies apart then
		wantUnknown(t, "the command before the lost reply", rs[0].Err())
	}
	wantUnknown(t, "the command whose reply was lost", rs[1].Err())
	wantUnknown(t, "the command after the lost reply", rs[2].Err())
	wantWorking(t, e, d)
	wantOnce(t, e, p, "INCR", 1, n, "1")
	// The last command may have been cut off with the connection; it is not sent on another.
	sent := int64(p.count("RPUSH"))
	if sent > 2 {
		t.Errorf("RPUSH was on the wire %d times, want twice at most", sent)
	}
	if c, _ := e.server.do(t, l, "LLEN", l).Int64(); c < 1 || c > sent {
		t.Errorf("the list has %d elements, want 1 to %d", c, sent)
	}
}

func lostBlocking(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	list := e.key("l")
	must(t, e.server.do(t, list, "RPUSH", list, "a", "b", "c"))
	p.once("BLPOP", loseReply)
	wantUnknown(t, "BLPOP", d.Do(e.ctx(t), blocking(cmd("BLPOP", list, "1"))).Err())
	wantInt(t, "elements left", e.server.do(t, list, "LLEN", list), 2)
	if n := p.count("BLPOP"); n != 1 {
		t.Errorf("BLPOP was on the wire %d times, want once", n)
	}
	wantWorking(t, e, d)
}

func writeTimeout(t tester, e *env) {
	if e.wrapped {
		t.Skipf("needs read_timeout from the URL; a wrapped client has its own")
	}
	p := e.proxy(t)
	d := p.driver(t, "read_timeout", "300ms")
	key := e.key("n")
	must(t, d.Do(e.ctx(t), cmd("INCR", key)))
	p.stall("INCR")
	defer p.release()
	start := time.Now()
	r := d.Do(context.Background(), cmd("INCR", key))
	wantUnknown(t, "INCR", r.Err())
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("INCR took %s with a read timeout of 300ms", took)
	}
	if errors.Is(r.Err(), context.DeadlineExceeded) || errors.Is(r.Err(), context.Canceled) {
		t.Errorf("INCR without a deadline blames the context: %v", r.Err())
	}
	p.release()
	wantWorking(t, e, d)
	wantOnce(t, e, p, "INCR", 2, key, "2")
}

func lostRead(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	must(t, d.Do(e.ctx(t), cmd("SET", e.key("k"), "v")))
	p.once("GET", loseReply)
	r := d.Do(e.ctx(t), readOnly(cmd("GET", e.key("k"))))
	t.Logf("GET was on the wire %d times, reply %s", p.count("GET"), short(r))
	if err := r.Err(); err != nil {
		wantUnknown(t, "GET", err)
	} else {
		wantText(t, "GET", r, "v")
	}
	// One that is not declared ReadOnly is a Write, whatever its name.
	before := p.count("GET")
	p.once("GET", loseReply)
	wantUnknown(t, "GET as a Write", d.Do(e.ctx(t), cmd("GET", e.key("k"))).Err())
	if n := p.count("GET") - before; n != 1 {
		t.Errorf("GET as a Write was on the wire %d times, want once", n)
	}
	wantWorking(t, e, d)
}

func deadRead(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	_ = getCall(e.ctx(t), e, d)
	p.down()
	within(t, "GET without a deadline on a dead server", 2*budget, func() {
		wantTransport(t, "GET", getCall(context.Background(), e, d))
	})
	p.up(t)
	wantWorking(t, e, d)
}

func refusedForNow(t tester, e *env) {
	for _, text := range []string{
		"LOADING Redis is loading the dataset in memory", "TRYAGAIN Multiple keys request during rehashing of slot",
		"CLUSTERDOWN The cluster is down", "MASTERDOWN Link with MASTER is down", "BUSY Redis is busy running a script.",
		"READONLY You can't write against a read only replica.", "ERR max number of clients reached",
		"NOREPLICAS Not enough good replicas to write.",
	} {
		s, d := e.scripted(t, func(_ *Peer, args []string) (string, bool) {
			if args[0] == "INCR" {
				return "-" + text + "\r\n", true
			}
			return "", false
		})
		want := driver.NewServerError(text)
		err := d.Do(e.ctx(t), cmd("INCR", "k")).Err()
		wantCode(t, "Do", err, want.Code())
		if err != nil && err.Error() != text {
			t.Errorf("error text %q, but the server sent %q", err, text)
		}
		wantCode(t, "DoMulti", d.DoMulti(e.ctx(t), []driver.Cmd{cmd("INCR", "k"), cmd("PING")})[0].Err(), want.Code())
		if n := s.Count("INCR"); n != 2 {
			t.Errorf("after %s INCR was sent %d times for 2 calls", want.Code(), n)
		}
	}
}

func brokenIdle(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	key := e.key("n")
	must(t, d.Do(e.ctx(t), cmd("INCR", key)))
	sent, done := 1, int64(1)
	for range 10 {
		p.cut("")
		r := d.Do(e.ctx(t), cmd("INCR", key))
		got, err := r.Int64()
		switch {
		case err == nil:
			done = got
		case errors.Is(err, driver.ErrNotSent), errors.Is(err, driver.ErrUnknownOutcome):
			wantTransport(t, "INCR", err)
		default:
			t.Errorf("INCR: %v", err)
		}
		if n := p.count("INCR") - sent; n > 1 {
			t.Errorf("one call was on the wire %d times", n)
		}
		sent = p.count("INCR")
	}
	n, _ := e.server.do(t, key, "GET", key).Int64()
	if n > 11 || n < done {
		t.Errorf("the server counted %d for 11 calls, the last reply was %d", n, done)
	}
	if int64(sent) < n {
		t.Errorf("the server counted %d, but %d were sent", n, sent)
	}
	wantWorking(t, e, d)
}
