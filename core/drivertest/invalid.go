package drivertest

import (
	"errors"

	"github.com/go-redisx/redisx/core/driver"
)

var invalidCases = []testCase{
	{name: "invalid commands are an error and never a panic", run: invalidCommands},
	{name: "commands that change a shared connection are refused", run: refuseShared},
	{name: "a transaction among shared connections is refused whole", run: refuseTransaction},
}

// invalidCmds have no name, keys outside their arguments, or take over their connection.
var invalidCmds = []driver.Cmd{
	{},
	{Args: []string{}},
	{Args: []string{""}},
	{Args: []string{"", "x"}},
	{Args: []string{"GET", "k"}, Keys: driver.Key(2)},
	{Args: []string{"GET", "k"}, Keys: driver.Key(0)},
	{Args: []string{"GET", "k"}, Keys: driver.Key(-1)},
	{Args: []string{"GET", "k"}, Keys: driver.KeyRange(1, 2)},
	{Args: []string{"GET", "k"}, Keys: driver.Keys{First: 1, Count: 1}},
	{Args: []string{"GET", "k"}, Keys: driver.Keys{First: 1, Count: -1, Step: 1}},
	{Args: []string{"GET", "k"}, Keys: driver.Keys{First: 1, Count: 1, Step: -1}},
	{Args: []string{"MSET", "a", "1", "b", "2"}, Keys: driver.Keys{First: 1, Count: 3, Step: 2}},
	{Args: []string{"SUBSCRIBE", "c"}},
	{Args: []string{"ssubscribe", "c"}},
	{Args: []string{"PUnsubscribe"}},
	{Args: []string{"MONITOR"}},
	{Args: []string{"QUIT"}},
	{Args: []string{"RESET"}},
	{Args: []string{"CLIENT", "REPLY", "OFF"}},
	{Args: []string{"replconf", "ACK", "1"}},
	{Args: []string{"SCRIPT", "DEBUG", "YES"}},
}

func invalidCommands(t tester, e *env) {
	d := e.driver(t)
	for _, c := range invalidCmds {
		for _, mode := range []driver.Mode{driver.Write, driver.ReadOnly, driver.Blocking} {
			c.Mode = mode
			if err := d.Do(e.ctx(t), c).Err(); !errors.Is(err, driver.ErrInvalid) {
				t.Errorf("Do(%q, keys %+v, %s): %v; want ErrInvalid", c.Args, c.Keys, mode, err)
			}
			rs := d.DoMulti(e.ctx(t), []driver.Cmd{c})
			if len(rs) != 1 || !errors.Is(rs[0].Err(), driver.ErrInvalid) {
				t.Errorf("DoMulti(%q, keys %+v, %s): %v, want one ErrInvalid", c.Args, c.Keys, mode, rs)
			}
		}
	}
	wantWorking(t, e, d)
}

// stateCmds change what later commands on their connection mean.
var stateCmds = [][]string{
	{"MULTI"}, {"exec"}, {"DISCARD"}, {"WATCH", "k"}, {"unwatch"}, {"SELECT", "7"}, {"AUTH", "x"}, {"AUTH", "user", "x"}, {"HELLO", "2"},
	{"ASKING"}, {"READONLY"}, {"readwrite"}, {"CLIENT", "TRACKING", "ON"}, {"client", "caching", "YES"}, {"CLIENT", "SETNAME", "x"},
	{"CLIENT", "NO-EVICT", "on"}, {"CLIENT", "NO-TOUCH", "on"},
}

func refuseShared(t tester, e *env) {
	d := e.driver(t)
	k := e.key("k")
	for _, args := range stateCmds {
		for _, mode := range []driver.Mode{driver.Write, driver.ReadOnly, driver.Blocking} {
			c := driver.Cmd{Args: args, Mode: mode}
			wantRefused(t, d.Do(e.ctx(t), c), c)
			for _, r := range d.DoMulti(e.ctx(t), []driver.Cmd{cmd("SET", k, "1"), c, cmd("SET", k, "2")}) {
				wantRefused(t, r, c)
			}
		}
	}
	for _, args := range [][]string{{"WAIT", "0", "1"}, {"waitaof", "0", "0", "1"}} {
		for _, mode := range []driver.Mode{driver.Write, driver.ReadOnly} {
			c := driver.Cmd{Args: args, Mode: mode, Near: k}
			wantRefused(t, d.Do(e.ctx(t), c), c)
			for _, r := range d.DoMulti(e.ctx(t), []driver.Cmd{cmd("SET", k, "1"), c}) {
				wantRefused(t, r, c)
			}
		}
	}
	wantNull(t, "the key of refused lists", e.server.do(t, k, "GET", k))
	wantWorking(t, e, d)
}

func wantRefused(t tester, r driver.Reply, c driver.Cmd) {
	t.Helper()
	if err := r.Err(); !errors.Is(err, driver.ErrInvalid) || !errors.Is(err, driver.ErrNotSent) {
		t.Errorf("with %q, %s: got %s, %v; want ErrInvalid, not sent", c.Args, c.Mode, short(r), err)
	}
}

func refuseTransaction(t tester, e *env) {
	d := e.driver(t)
	k := e.key("k")
	for _, list := range [][]driver.Cmd{
		{{Args: []string{"MULTI"}}, cmd("SET", k, "1"), {Args: []string{"EXEC"}}},
		{{Args: []string{"MULTI"}, Near: k}, cmd("SET", k, "1"), {}, {Args: []string{"EXEC"}, Near: k}},
		{{Args: []string{"MULTI"}}, cmd("SET", k, "1"), cmd("SET", e.keyElsewhere(0), "1"), {Args: []string{"EXEC"}}},
		{{Args: []string{"MULTI"}}, blocking(cmd("BLPOP", e.key("l"), "1")), cmd("SET", k, "1"), {Args: []string{"EXEC"}}},
	} {
		for i, r := range d.DoMulti(e.ctx(t), list) {
			if err := r.Err(); !errors.Is(err, driver.ErrInvalid) {
				t.Errorf("reply %d: got %s, %v; want ErrInvalid", i, short(r), err)
			}
		}
	}
	wantNull(t, "the key of refused transactions", e.server.do(t, k, "GET", k))
	for range 50 { // every connection there is
		wantNull(t, "GET afterwards", d.Do(e.ctx(t), cmd("GET", k)))
	}
}
