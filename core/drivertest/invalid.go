package drivertest

import (
	"errors"

	"github.com/go-redisx/redisx/core/driver"
)

var invalidCases = []testCase{
	{name: "invalid commands are an error and never a panic", run: invalidCommands},
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
