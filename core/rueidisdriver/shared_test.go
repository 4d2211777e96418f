package rueidisdriver

import (
	"errors"
	"strings"
	"testing"

	"github.com/go-redisx/redisx/core/driver"
)

func TestRefusalNamesItsCommand(t *testing.T) {
	d := open(t, startServer(t).url())
	for _, list := range []struct {
		name string
		cmds []driver.Cmd
	}{
		{"SELECT", []driver.Cmd{keyed("SET", "k", "v"), cmd("SELECT", "3")}},
		{"SELECT", []driver.Cmd{blpop("l", "0.1"), keyed("SET", "k", "v"), cmd("select", "3"), {}}},
		{"SELECT", []driver.Cmd{{}, cmd("SELECT", "3"), cmd("GET", "k")}},
		{"WAIT", []driver.Cmd{cmd("wait", "0", "1")}},
		{"WAIT", []driver.Cmd{keyed("SET", "k", "v"), cmd("WAIT", "0", "1")}},
		{"WAITAOF", []driver.Cmd{blpop("l", "0.1"), keyed("SET", "k", "v"), {Args: []string{"WAITAOF", "0", "0", "1"}, Mode: driver.ReadOnly}}},
	} {
		for i, r := range d.DoMulti(t.Context(), list.cmds) {
			if err := r.Err(); !errors.Is(err, driver.ErrInvalid) || !errors.Is(err, driver.ErrNotSent) || !strings.Contains(err.Error(), list.name+" ") {
				t.Errorf("reply %d to %v: %v", i, list.cmds, r)
			}
		}
	}
	if r := d.Do(t.Context(), cmd("WAIT", "0", "1")); !errors.Is(r.Err(), driver.ErrInvalid) {
		t.Errorf("WAIT that is not Blocking: %v", r)
	}
	if r := d.Do(t.Context(), reading("GET", "k")); !r.IsNil() {
		t.Errorf("a refused list left %v", r)
	}
}

func TestSharedChecksCostNothing(t *testing.T) {
	d := open(t, startServer(t).url())
	for _, c := range []driver.Cmd{keyed("SET", "k", "v"), keyed("EXPIRE", "k", "1"), keyed("GETEX", "k"), keyed("APPEND", "k", "v")} {
		if n := testing.AllocsPerRun(100, func() {
			if err := d.check(&c); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", c.Args[0], n)
		}
	}
}

// TestScriptInsideATransactionIsNotSentAgain has the server refuse a script after MULTI, in the same list and in one before.
func TestScriptInsideATransactionIsNotSentAgain(t *testing.T) {
	s := startServer(t)
	d := open(t, s.url())
	c, err := d.Dedicate(t.Context(), "n")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sc := driver.NewScript("incr", "return redis.call('INCR', KEYS[1]) -- "+t.Name()).Cmd([]string{"n"}, nil)
	nested := func(what string, r driver.Reply) {
		t.Helper()
		l, err := r.List()
		if err != nil || len(l) != 1 {
			t.Errorf("%s: %v", what, r)
			return
		}
		if e, ok := l[0].Err().(*driver.ServerError); !ok || e.Code() != "NOSCRIPT" {
			t.Errorf("%s: %v", what, r)
		}
	}
	nested("one list", c.DoMulti(t.Context(), []driver.Cmd{cmd("MULTI"), sc, cmd("EXEC")})[2])
	c.Do(t.Context(), cmd("multi"))
	if got, _ := c.Do(t.Context(), sc).Text(); got != "QUEUED" {
		t.Errorf("after MULTI: %q", got)
	}
	nested("one by one", c.Do(t.Context(), cmd("exec")))
	if n, err := c.Do(t.Context(), sc).Int64(); n != 1 || err != nil {
		t.Errorf("after EXEC the script is sent with its source: %d, %v", n, err)
	}
}

// TestWaitIsSentAgainBehindAScript has a WAIT sent twice, on one connection: the second covers the writes before the script, too.
func TestWaitIsSentAgainBehindAScript(t *testing.T) {
	sc := driver.NewScript("s", "return 1").Cmd([]string{"k"}, nil)
	wait := driver.Cmd{Args: []string{"WAIT", "2", "1"}, Near: "k", Mode: driver.Blocking}
	for _, n := range [][2]int64{{1, 2}, {2, 1}} {
		replies := []driver.Reply{driver.StringReply("OK"), driver.ErrReply(driver.NewServerError("NOSCRIPT No matching script")), driver.IntReply(n[0])}
		resendScripts([]driver.Cmd{keyed("SET", "k", "v"), sc, wait}, replies, func(cmds []driver.Cmd) []driver.Reply {
			if len(cmds) != 2 || cmds[0].Name() != "EVAL" || cmds[1].Name() != "WAIT" {
				t.Errorf("sent again: %v", cmds)
			}
			return []driver.Reply{driver.IntReply(1), driver.IntReply(n[1])}
		})
		if got, err := replies[2].Int64(); got != n[1] || err != nil {
			t.Errorf("%d and then %d confirmed: %v", n[0], n[1], replies[2])
		}
	}
}

func TestRedirections(t *testing.T) {
	for text, want := range map[string]redirect{
		"MOVED 3999 127.0.0.1:6381":     {"MOVED", 3999, "127.0.0.1:6381"},
		"ASK 0 db.example.com:6381":     {"ASK", 0, "db.example.com:6381"},
		"MOVED 16383 ::1:6381":          {"MOVED", 16383, "[::1]:6381"},
		"MOVED 16383 [::1]:6381":        {"MOVED", 16383, "[::1]:6381"},
		"MOVED 3999 127.0.0.1:6381 now": {"MOVED", 3999, "127.0.0.1:6381"},
	} {
		if got, ok := redirection(driver.ErrReply(driver.NewServerError(text))); !ok || got != want {
			t.Errorf("%q: %+v, %v", text, got, ok)
		}
	}
	for _, text := range []string{"MOVED", "ASK 1", "MOVED 16384 h:1", "MOVED x h:1", "MOVED 1 :6381", "MOVED 1 ?:6381", "MOVED 1 host", "ERR MOVED 1 h:1", "ASKED 1 h:1"} {
		if got, ok := redirection(driver.ErrReply(driver.NewServerError(text))); ok {
			t.Errorf("%q: %+v", text, got)
		}
	}
	if _, ok := redirection(driver.ErrReply(driver.NotSent(errors.New("MOVED 1 h:1")))); ok {
		t.Error("a failure is no redirection")
	}
}

// TestNamesTheClientPanicsOn sends names that the client's builder refuses with a panic and the contract does not list.
func TestNamesTheClientPanicsOn(t *testing.T) {
	d := open(t, startServer(t).url())
	c, err := d.Dedicate(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, name := range []string{"MY.VERYSUBSCRIBE", "my.unsubscribe", "\u017fubscribe", "p\u017fubscribe", "xxxxx\u017fubscribe"} {
		for _, err := range []error{
			d.Do(t.Context(), cmd(name, "a")).Err(), c.Do(t.Context(), cmd(name)).Err(), d.DoMulti(t.Context(), []driver.Cmd{cmd(name)})[0].Err(),
		} {
			if !errors.Is(err, driver.ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
