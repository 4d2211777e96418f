package drivertest

import (
	"strconv"
	"strings"

	"github.com/go-redisx/redisx/core/driver"
)

// wireCases need replies no real server can be made to send on demand.
var wireCases = []testCase{
	{name: "every RESP3 type has its place in a Reply", run: resp3Types},
	{name: "a push or an attribute between replies shifts nothing", run: pushBetween},
	{name: "a reply in many small pieces is read", run: smallPieces},
	{name: "a malformed reply leaves the outcome unknown and the driver recovers", run: malformed},
	{name: "a standalone server that answers CLUSTER SLOTS is standalone", run: falseCluster, openOnly: true},
	{name: "a server with RESP2 only is spoken to in RESP2", run: resp2Only, openOnly: true},
}

// scripted opens the driver under test at a server of the suite.
func (e *env) scripted(t tester, h Handler) (*Scripted, driver.Driver) {
	t.Helper()
	if e.ep.Topology != driver.Standalone {
		t.Skipf("the suite's scripted server is a standalone one")
	}
	s := NewScripted(t, h)
	return s, e.driverAt(t, withParams(s.URL(), "protocol", strconv.Itoa(e.ep.Protocol)))
}

// canned answers GET by the table.
func canned(table map[string]string) Handler {
	return func(_ *Peer, args []string) (string, bool) {
		if args[0] != "GET" {
			return "", false
		}
		raw, ok := table[args[1]]
		return raw, ok
	}
}

func resp3Types(t tester, e *env) {
	if e.ep.Protocol != 3 {
		t.Skipf("the driver is tested with RESP2")
	}
	digits := strings.Repeat("1234567890", 5)
	table := []struct{ name, raw, want string }{ // want is what Reply.String says
		{"null", "_\r\n", "nil"},
		{"RESP2 null string", "$-1\r\n", "nil"},
		{"RESP2 null list", "*-1\r\n", "nil"},
		{"true", "#t\r\n", "1"},
		{"false", "#f\r\n", "0"},
		{"double", ",3.250\r\n", `"3.250"`},
		{"infinite double", ",-inf\r\n", `"-inf"`},
		{"big number", "(" + digits + "\r\n", `"` + digits + `"`},
		{"verbatim string", "=8\r\ntxt:a\r\nb\r\n", `"a\r\nb"`},
		{"set", "~2\r\n:1\r\n$1\r\nx\r\n", `[1 "x"]`},
		{"map in wire order", "%3\r\n+z\r\n:1\r\n+a\r\n:2\r\n+m\r\n%1\r\n+k\r\n_\r\n", `["z" 1 "a" 2 "m" ["k" nil]]`},
		{"map with odd keys", "%2\r\n:5\r\n:1\r\n+a\r\n*1\r\n#t\r\n", `[5 1 "a" [1]]`},
		{"empty map", "%0\r\n", "[]"},
		{"empty set", "~0\r\n", "[]"},
		{"empty list", "*0\r\n", "[]"},
		{"list with nulls", "*3\r\n_\r\n$0\r\n\r\n*-1\r\n", `[nil "" nil]`},
		{"attribute", "|1\r\n+ttl\r\n:3600\r\n+value\r\n", `"value"`},
		{"attribute inside", "*2\r\n:1\r\n|1\r\n+ttl\r\n:3600\r\n:2\r\n", "[1 2]"},
		{"nested error", "*2\r\n-MYCODE text\r\n+ok\r\n", `[error: MYCODE text "ok"]`},
		{"nested blob error", "*2\r\n!11\r\nMYCODE text\r\n+ok\r\n", `[error: MYCODE text "ok"]`},
		{"blob error", "!11\r\nMYCODE text\r\n", "error: MYCODE text"},
		{"error without a code", "-something broke\r\n", "error: ERR something broke"},
		{"empty status", "+\r\n", `""`},
	}
	raws := map[string]string{}
	for _, row := range table {
		raws[row.name] = row.raw
	}
	_, d := e.scripted(t, canned(raws))
	ctx := e.ctx(t)
	for _, row := range table {
		r := d.Do(ctx, cmd("GET", row.name))
		if got := r.String(); got != row.want {
			t.Errorf("%s: got %s of kind %s, want %s", row.name, got, r.Kind(), row.want)
		}
		if row.want == "nil" {
			wantNull(t, row.name, r)
		}
		multi := d.DoMulti(ctx, []driver.Cmd{cmd("GET", row.name), cmd("GET", "empty status")})
		if multi[0].String() != row.want || multi[1].String() != `""` {
			t.Errorf("%s in a pipeline: got %s and %s", row.name, multi[0], multi[1])
		}
	}
}

func pushBetween(t tester, e *env) {
	if e.ep.Protocol != 3 {
		t.Skipf("the driver is tested with RESP2, which has neither")
	}
	push := ">2\r\n+someday\r\n*1\r\n:1\r\n"
	_, d := e.scripted(t, func(_ *Peer, args []string) (string, bool) {
		if args[0] != "GET" {
			return "", false
		}
		return push + "|1\r\n+a\r\n+b\r\n" + Bulk(args[1]) + push, true
	})
	ctx := e.ctx(t)
	for i := range 20 {
		want := strconv.Itoa(i)
		wantText(t, "Do", d.Do(ctx, cmd("GET", want)), want)
		rs := d.DoMulti(ctx, []driver.Cmd{cmd("GET", want), cmd("GET", "x")})
		wantText(t, "DoMulti, first", rs[0], want)
		wantText(t, "DoMulti, second", rs[1], "x")
	}
}

func smallPieces(t tester, e *env) {
	value := strings.Repeat("0123456789", 3)
	_, d := e.scripted(t, func(p *Peer, args []string) (string, bool) {
		if args[0] != "GET" {
			return "", false
		}
		raw := "*2\r\n" + Bulk(value) + ":12345\r\n"
		for i := range raw { // Go's default is TCP_NODELAY, so most of them are packets of their own
			p.Write(raw[i : i+1])
		}
		return "", true
	})
	if got := d.Do(e.ctx(t), cmd("GET", "k")).String(); got != `["`+value+`" 12345]` {
		t.Errorf("got %s", got)
	}
}

func malformed(t tester, e *env) {
	for name, raw := range map[string]string{
		"unknown type":        "?what\r\n",
		"length not a number": "$abc\r\nxyz\r\n",
		"integer not one":     ":12x\r\n",
		"empty line":          "\r\n",
		"another protocol":    "HTTP/1.1 400 Bad Request\r\n\r\n",
		"cut short":           "$100\r\nabc",
		"bad inside a list":   "*2\r\n:1\r\n?\r\n",
	} {
		s, d := e.scripted(t, func(p *Peer, args []string) (string, bool) {
			switch args[0] {
			case "INCR":
				p.Write(raw)
				p.Hangup() // so that a client that wants more of it need not wait
				return "", true
			case "GET":
				return Bulk(args[1]), true
			}
			return "", false
		})
		ctx := e.ctx(t)
		r := d.Do(ctx, cmd("INCR", "k"))
		if r.Err() == nil {
			t.Errorf("%s: got %s, want an error", name, short(r))
		} else {
			wantUnknown(t, name, r.Err())
		}
		if n := s.Count("INCR"); n != 1 {
			t.Errorf("%s: INCR was sent %d times, want once", name, n)
		}
		eventually(t, name+": the driver works again", budget/2, func() bool {
			text, err := d.Do(ctx, readOnly(cmd("GET", "after"))).Text()
			if err == nil && text != "after" {
				t.Errorf("%s: the next reply is %q, want that to GET after", name, text)
			}
			return err == nil
		})
	}
}

func falseCluster(t tester, e *env) {
	_, d := e.scripted(t, func(_ *Peer, args []string) (string, bool) {
		switch args[0] {
		case "CLUSTER": // with an address that leads nowhere
			return "*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n" + Bulk("127.0.0.1") + ":1\r\n" + Bulk(strings.Repeat("a", 40)), true
		case "GET":
			return Bulk("here"), true
		}
		return "", false
	})
	ctx := e.ctx(t)
	wantText(t, "GET", d.Do(ctx, cmd("GET", "k")), "here")
	caps, err := d.Caps(ctx)
	if err != nil || caps.Topology != driver.Standalone {
		t.Errorf("Caps: %s, %v, want standalone", caps.Topology, err)
	}
}

func resp2Only(t tester, e *env) {
	_, d := e.scripted(t, func(_ *Peer, args []string) (string, bool) {
		switch args[0] {
		case "HELLO":
			return "-ERR unknown command 'HELLO'\r\n", true
		case "CLIENT":
			if len(args) > 1 && strings.EqualFold(args[1], "TRACKING") {
				return "-ERR unknown subcommand 'TRACKING'\r\n", true
			}
		case "HGETALL":
			return "*2\r\n" + Bulk("f") + Bulk("v"), true
		case "GET":
			return "$-1\r\n", true
		}
		return "", false
	})
	ctx := e.ctx(t)
	m, err := d.Do(ctx, cmd("HGETALL", "h")).Map()
	if err != nil || len(m) != 1 {
		t.Errorf("HGETALL: %v, %v", m, err)
	}
	wantNull(t, "GET", d.Do(ctx, cmd("GET", "k")))
	if caps, err := d.Caps(ctx); err != nil || caps.Protocol != 2 {
		t.Errorf("Caps: protocol %d, %v, want 2", caps.Protocol, err)
	}
}
