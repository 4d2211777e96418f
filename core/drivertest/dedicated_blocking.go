package drivertest

import (
	"context"
	"errors"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

func connOutlasts(t tester, e *env) {
	d := e.driver(t, "read_timeout", "300ms")
	conn := e.dedicate(t, d)
	key := e.key("l")
	wantNull(t, "BLPOP", conn.Do(e.ctx(t), blocking(cmd("BLPOP", key, "0.8"))))
	pushed := time.AfterFunc(600*time.Millisecond, func() { e.server.do(t, key, "RPUSH", key, "x") })
	defer pushed.Stop()
	if got := conn.Do(e.ctx(t), blocking(cmd("BLPOP", key, "0"))).String(); got != `["`+key+`" "x"]` {
		t.Errorf("BLPOP: %s", got)
	}
	// An idle connection is not a broken one.
	id := connID(t, e, conn)
	wantNull(t, "BLPOP in a pipeline", conn.DoMulti(e.ctx(t), []driver.Cmd{cmd("PING"), blocking(cmd("BLPOP", key, "0.5"))})[1])
	if again := connID(t, e, conn); again != id {
		t.Errorf("CLIENT ID %s and then %s", id, again)
	}
}

// freshConn returns a func that gives the same connection while it works and a new one after it broke.
func (e *env) freshConn(t tester, d driver.Driver) func() doer {
	t.Helper()
	conn := e.dedicate(t, d)
	return func() doer {
		if conn.Do(e.ctx(t), driver.Cmd{Args: []string{"PING"}}).Err() != nil {
			_ = conn.Close()
			conn = e.dedicate(t, d)
		}
		return conn
	}
}

func connOnItsWay(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	_ = getCall(e.ctx(t), e, d)
	e.stuckReplies(t, p, e.freshConn(t, d))
}

func connRaceElement(t tester, e *env) {
	d := e.driver(t)
	e.raceElements(t, e.freshConn(t, d))
}

func connRaceEntry(t tester, e *env) {
	d := e.driver(t)
	e.raceEntries(t, e.freshConn(t, d))
}

func connGoesOn(t tester, e *env) {
	if e.cfg.Features.NoUnblock {
		t.Skipf("the server has no CLIENT UNBLOCK")
	}
	p := e.proxy(t)
	d := p.driver(t)
	conn := e.dedicate(t, d)
	id := connID(t, e, conn)
	key, known, on := e.key("l"), 0, 0
	for i := range 5 {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan driver.Reply, 1)
		go func() { done <- conn.Do(ctx, blocking(cmd("BLPOP", key, "60"))) }()
		p.await(t, "BLPOP", i+1)
		e.awaitBlocked(t)
		ended := time.Now()
		cancel()
		r := <-done
		wantPrompt(t, "BLPOP", ended)
		if !errors.Is(r.Err(), context.Canceled) {
			t.Fatalf("BLPOP: %s, want an error that is %v", short(r), context.Canceled)
		}
		if errors.Is(r.Err(), driver.ErrUnknownOutcome) {
			if err := conn.Do(e.ctx(t), cmd("PING")).Err(); err == nil {
				t.Errorf("the outcome is unknown, but the connection is still open")
			}
			conn = e.dedicate(t, d)
			id = connID(t, e, conn)
			continue
		}
		known++
		again, err := conn.Do(e.ctx(t), driver.Cmd{Args: []string{"CLIENT", "ID"}}).Text()
		switch {
		case err != nil:
			// On a slow machine the answer to CLIENT UNBLOCK comes too late for a call that has to end at once.
			t.Logf("given up after a call whose outcome is known: %v", err)
			conn = e.dedicate(t, d)
			id = connID(t, e, conn)
		case again != id:
			t.Errorf("CLIENT ID %s and then %s", id, again)
		default:
			on++
		}
	}
	if known == 0 {
		t.Errorf("not one of 5 cancelled calls knows that nothing was delivered; CLIENT UNBLOCK tells")
	} else if on == 0 {
		t.Errorf("not one of 5 connections goes on after a cancelled call whose outcome is known")
	}
}
