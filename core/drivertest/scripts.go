package drivertest

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

var scriptCases = []testCase{
	{name: "a script the server does not know is sent once more with its source", run: unknownScript},
	{name: "unknown scripts in a pipeline keep their places", run: scriptsInPipeline},
	{name: "NOSCRIPT is never the answer because the context ended", run: scriptsLate},
	{name: "WAIT comes behind a script that is sent again", run: scriptsBeforeWait},
	{name: "an unknown script on a dedicated connection is sent once more", run: scriptsOnConn},
	{name: "a script that answers NOSCRIPT itself is sent once more only", run: falseNoScript},
	{name: "EVALSHA without a Script is left alone", run: bareEvalsha},
	{name: "a read-only script runs", run: readOnlyScript},
	{name: "the error of a script keeps its code", run: scriptError},
	{name: "scripts survive SCRIPT FLUSH between calls", run: flushBetween, alone: true},
	{name: "scripts survive SCRIPT FLUSH under load", run: flushUnderLoad, alone: true},
}

func unknownScript(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	s := driver.NewScript("echo", "return ARGV[1] -- "+e.tag)
	wantText(t, "the first call", d.Do(e.ctx(t), s.Cmd([]string{e.key("k")}, []string{"one"})), "one")
	if sha, eval := p.count("EVALSHA"), p.count("EVAL"); sha != 1 || eval != 1 {
		t.Errorf("on the wire: EVALSHA %d times, EVAL %d times, want once each", sha, eval)
	}
	wantText(t, "the second call", d.Do(e.ctx(t), s.Cmd([]string{e.key("k")}, []string{"two"})), "two")
	if sha, eval := p.count("EVALSHA"), p.count("EVAL"); sha != 2 || eval != 1 {
		t.Errorf("on the wire: EVALSHA %d times, EVAL %d times, want EVALSHA twice and EVAL once", sha, eval)
	}
}

func scriptsInPipeline(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	echo := driver.NewScript("echo", "return ARGV[1] -- "+e.tag)
	incr := driver.NewScript("incr", "return redis.call('INCRBY', KEYS[1], ARGV[1]) -- "+e.tag)
	k, n := []string{e.key("k")}, []string{e.key("n")}
	rs := d.DoMulti(e.ctx(t), []driver.Cmd{
		cmd("SET", e.key("k"), "v"), echo.Cmd(k, []string{"a"}), cmd("GET", e.key("k")), incr.Cmd(n, []string{"5"}),
		echo.Cmd(k, []string{"b"}), cmd("LPUSH", e.key("k"), "x"), incr.Cmd(n, []string{"7"}), cmd("STRLEN", e.key("k")),
	})
	wantText(t, "reply 0", rs[0], "OK")
	wantText(t, "reply 1", rs[1], "a")
	wantText(t, "reply 2", rs[2], "v")
	wantInt(t, "reply 3", rs[3], 5)
	wantText(t, "reply 4", rs[4], "b")
	wantCode(t, "reply 5", rs[5].Err(), "WRONGTYPE")
	wantInt(t, "reply 6", rs[6], 12)
	wantInt(t, "reply 7", rs[7], 1)
	wantText(t, "the counter", e.server.do(t, n[0], "GET", n[0]), "12")
	if sha, eval := p.count("EVALSHA"), p.count("EVAL"); sha < 2 || eval < 2 || eval > 4 {
		t.Errorf("on the wire: EVALSHA %d times, EVAL %d times, want one EVAL for each NOSCRIPT (2 to 4)", sha, eval)
	}
	before := p.count("EVAL")
	rs = d.DoMulti(e.ctx(t), []driver.Cmd{echo.Cmd(k, []string{"c"}), incr.Cmd(n, []string{"1"})})
	wantText(t, "known script", rs[0], "c")
	wantInt(t, "known script", rs[1], 13)
	if p.count("EVAL") != before {
		t.Errorf("EVAL is sent for scripts the server knows")
	}
}

// scriptsLate ends the context after NOSCRIPT has come and before the script can be sent again.
func scriptsLate(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	k := []string{e.key("k")}
	p.stall("ECHO")
	defer p.release()
	for name, pipeline := range map[string]bool{"alone": false, "in a pipeline": true} {
		s := driver.NewScript("incr", "return redis.call('INCR', KEYS[1]) -- "+e.tag+name)
		cmds := []driver.Cmd{s.Cmd(k, nil)}
		if pipeline {
			cmds = append(cmds, driver.Cmd{Args: []string{"ECHO", "x"}, Near: k[0]})
		} else {
			p.stall("ECHO", "EVAL")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		ended := time.Now().Add(200 * time.Millisecond)
		r := d.DoMulti(ctx, cmds)[0]
		cancel()
		wantPrompt(t, name, ended)
		if err := r.Err(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %s, %v; want DeadlineExceeded", name, short(r), err)
		} else {
			wantTransport(t, name, err)
		}
		p.release()
		wantWorking(t, e, d)
		p.stall("ECHO")
	}
}

func scriptsBeforeWait(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	k := e.key("k")
	s := driver.NewScript("incr", "return redis.call('INCR', KEYS[1]) -- "+e.tag)
	wait := driver.Cmd{Args: []string{"WAIT", "0", "10"}, Near: k, Mode: driver.Blocking}
	rs := d.DoMulti(e.ctx(t), []driver.Cmd{s.Cmd([]string{k}, nil), wait})
	wantInt(t, "the script", rs[0], 1)
	if _, err := rs[1].Int64(); err != nil {
		t.Errorf("WAIT: %s, %v", short(rs[1]), err)
	}
	evals, waits := p.named("EVAL"), p.named("WAIT")
	if len(evals) != 1 || len(waits) == 0 {
		t.Fatalf("on the wire: EVAL %d times, WAIT %d times", len(evals), len(waits))
	}
	last := p.last("WAIT")
	if eval := p.last("EVAL"); last < eval || waits[len(waits)-1].link != evals[0].link {
		t.Errorf("the last WAIT is request %d, the EVAL request %d; WAIT has to confirm it, on its connection", last, eval)
	}
}

func scriptsOnConn(t tester, e *env) {
	d := e.driver(t)
	conn := e.dedicate(t, d)
	key := []string{e.key("n")}
	one := driver.NewScript("incr", "return redis.call('INCR', KEYS[1]) -- one "+e.tag)
	two := driver.NewScript("incr", "return redis.call('INCR', KEYS[1]) -- two "+e.tag)
	wantInt(t, "Do", conn.Do(e.ctx(t), one.Cmd(key, nil)), 1)
	rs := conn.DoMulti(e.ctx(t), []driver.Cmd{cmd("SET", e.key("k"), "v"), two.Cmd(key, nil), cmd("GET", e.key("k"))})
	wantText(t, "DoMulti, first", rs[0], "OK")
	wantInt(t, "DoMulti, second", rs[1], 2)
	wantText(t, "DoMulti, third", rs[2], "v")
}

func falseNoScript(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	liar := driver.NewScript("liar", "redis.call('INCR', KEYS[1]) return redis.error_reply('NOSCRIPT says the script') -- "+e.tag)
	key := e.key("n")
	c := liar.Cmd([]string{key}, nil)
	wantCode(t, "Do", d.Do(e.ctx(t), c).Err(), "NOSCRIPT")
	wantCode(t, "DoMulti", d.DoMulti(e.ctx(t), []driver.Cmd{c})[0].Err(), "NOSCRIPT")
	if sha, eval := p.count("EVALSHA"), p.count("EVAL"); sha != 2 || eval != 2 {
		t.Errorf("on the wire: EVALSHA %d times, EVAL %d times for 2 calls", sha, eval)
	}
}

func bareEvalsha(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	c := driver.NewScript("never seen", "return 1 -- "+e.tag).Cmd([]string{e.key("k")}, nil)
	c.Script = nil
	wantCode(t, "Do", d.Do(e.ctx(t), c).Err(), "NOSCRIPT")
	if sha, eval := p.count("EVALSHA"), p.count("EVAL"); sha != 1 || eval != 0 {
		t.Errorf("on the wire: EVALSHA %d times, EVAL %d times, want EVALSHA once", sha, eval)
	}
}

func readOnlyScript(t tester, e *env) {
	d := e.driver(t)
	s := driver.ReadOnlyScript("get", "return redis.call('GET', KEYS[1]) -- "+e.tag)
	must(t, d.Do(e.ctx(t), cmd("SET", e.key("k"), "v")))
	for range 2 {
		wantText(t, "the script", d.Do(e.ctx(t), s.Cmd([]string{e.key("k")}, nil)), "v")
	}
}

func scriptError(t tester, e *env) {
	d := e.driver(t)
	s := driver.NewScript("refuse", "return redis.error_reply('LOCKED by someone') -- "+e.tag)
	for range 2 {
		err := d.Do(e.ctx(t), s.Cmd([]string{e.key("k")}, nil)).Err()
		wantCode(t, "the script", err, "LOCKED")
		if err != nil && err.Error() != "LOCKED by someone" {
			t.Errorf("error text %q", err)
		}
	}
}

// flushScripts makes the server forget every script.
func (e *env) flushScripts(t tester) {
	t.Helper()
	switch {
	case e.cfg.Process.FlushScripts != nil:
		e.cfg.Process.FlushScripts()
	case e.cfg.Features.AllowFlush:
		e.server.each(t, "SCRIPT", "FLUSH")
	default:
		t.Skipf("Config allows no SCRIPT FLUSH")
	}
}

func flushBetween(t tester, e *env) {
	e.flushScripts(t)
	p := e.proxy(t)
	d := p.driver(t)
	s := driver.NewScript("echo", "return ARGV[1] -- "+e.tag)
	call := func(how string, do func(c driver.Cmd) driver.Reply) {
		t.Helper()
		for i := range 3 {
			want := how + strconv.Itoa(i)
			sha, eval := p.count("EVALSHA"), p.count("EVAL")
			wantText(t, how, do(s.Cmd([]string{e.key("k")}, []string{want})), want)
			if sha, eval = p.count("EVALSHA")-sha, p.count("EVAL")-eval; sha != 1 || eval != 1 {
				t.Errorf("%s after SCRIPT FLUSH: EVALSHA %d times, EVAL %d times, want once each", how, sha, eval)
			}
			e.flushScripts(t)
		}
	}
	call("Do", func(c driver.Cmd) driver.Reply { return d.Do(e.ctx(t), c) })
	call("DoMulti", func(c driver.Cmd) driver.Reply {
		rs := d.DoMulti(e.ctx(t), []driver.Cmd{cmd("SET", e.key("k"), "v"), c, cmd("GET", e.key("k"))})
		wantText(t, "DoMulti, last", rs[2], "v")
		return rs[1]
	})
	if _, ok := d.(driver.Dedicated); ok {
		conn := e.dedicate(t, d)
		call("Conn.Do", func(c driver.Cmd) driver.Reply { return conn.Do(e.ctx(t), c) })
		call("Conn.DoMulti", func(c driver.Cmd) driver.Reply { return conn.DoMulti(e.ctx(t), []driver.Cmd{c, cmd("PING")})[0] })
	}
}

func flushUnderLoad(t tester, e *env) {
	e.flushScripts(t)
	d := e.driver(t)
	key := e.key("n")
	incr := driver.NewScript("incr", "return redis.call('INCR', KEYS[1]) -- "+e.tag)
	const callers, rounds = 4, 50
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range rounds {
				if err := d.Do(e.ctx(t), incr.Cmd([]string{key}, nil)).Err(); err != nil {
					t.Errorf("Do: %v", err)
				}
				for _, r := range d.DoMulti(e.ctx(t), []driver.Cmd{incr.Cmd([]string{key}, nil), incr.Cmd([]string{key}, nil)}) {
					if r.Err() != nil {
						t.Errorf("DoMulti: %v", r.Err())
					}
				}
			}
		})
	}
	for range 30 {
		e.flushScripts(t)
	}
	wg.Wait()
	wantText(t, "the counter", e.server.do(t, key, "GET", key), strconv.Itoa(callers*rounds*3))
}
