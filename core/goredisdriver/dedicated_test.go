package goredisdriver

import (
	"strings"
	"testing"

	"github.com/go-redisx/redisx/core/driver"
)

// A server may refuse an unknown script when it is queued. Sent again, its source would run after EXEC.
func TestScriptOfATransactionIsNotSentAgain(t *testing.T) {
	s := startScripted(t, func(_ int, args []string) string {
		if a, ok := greet(args); ok {
			return a
		}
		switch strings.ToUpper(args[0]) {
		case "EVALSHA":
			return "-NOSCRIPT No matching script.\r\n"
		case "EXEC":
			return "-EXECABORT Transaction discarded because of previous errors.\r\n"
		}
		return "+OK\r\n"
	})
	ctx := background(t)
	conn, err := wrap(t, s.addr).Dedicate(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	script := driver.NewScript("incr", "return redis.call('INCR', KEYS[1])").Cmd([]string{"n"}, nil)
	multi, exec := driver.Cmd{Args: []string{"multi"}}, driver.Cmd{Args: []string{"EXEC"}}
	refused := func(when string, r driver.Reply) {
		t.Helper()
		if e, ok := r.Err().(*driver.ServerError); !ok || e.Code() != "NOSCRIPT" {
			t.Errorf("%s: %v, want NOSCRIPT", when, r)
		}
	}
	refused("in one list", conn.DoMulti(ctx, []driver.Cmd{multi, script, exec})[1])
	must(t, conn.Do(ctx, multi))
	refused("in a transaction begun before", conn.Do(ctx, script))
	refused("together with EXEC", conn.DoMulti(ctx, []driver.Cmd{script, exec})[0])
	if n := s.count("EVAL "); n != 0 {
		t.Errorf("the source was sent %d times", n)
	}
	must(t, conn.DoMulti(ctx, []driver.Cmd{script})[0]) // no transaction is open now
}

// A list on a connection is sent whole: without the member that no slot can serve the others would be run.
func crossSlotTransaction(t *testing.T, c *cluster, d *Driver) {
	ctx := background(t)
	conn, err := d.Dedicate(ctx, "{tx}a")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	mset := driver.Cmd{Args: []string{"MSET", "{tx}a", "1", "elsewhere", "1"}, Keys: driver.Keys{First: 1, Count: 2, Step: 2}}
	rs := conn.DoMulti(ctx, []driver.Cmd{{Args: []string{"MULTI"}}, command("SET", "{tx}a", "1"), mset, {Args: []string{"EXEC"}}})
	for i, code := range map[int]string{2: "CROSSSLOT", 3: "EXECABORT"} {
		if e, ok := rs[i].Err().(*driver.ServerError); !ok || e.Code() != code {
			t.Errorf("reply %d: %v, want %s", i, rs[i], code)
		}
	}
	if r := conn.Do(ctx, read("GET", "{tx}a")); !r.IsNil() {
		t.Errorf("half of a transaction ran: %v", r)
	}
}
