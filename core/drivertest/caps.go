package drivertest

import (
	"context"
	"strings"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

var capsCases = []testCase{
	{name: "Caps tells server version topology protocol and commands", run: capsTell},
	{name: "the first answer of Caps is kept", run: capsKept},
	{name: "a failure of Caps is not kept", run: capsFailure},
	{name: "Unwrap returns the client underneath", run: unwrap},
	{name: "one question without an answer is no capability", run: capsHalf},
	{name: "Caps ends with its context", run: capsContext},
	{name: "Caps works for a user without INFO", run: capsWithoutInfo},
}

func capsTell(t tester, e *env) {
	d := e.driver(t)
	caps, err := d.Caps(e.ctx(t))
	if err != nil {
		t.Fatalf("Caps: %v", err)
	}
	if caps.Server == "" || caps.Version == "" {
		t.Errorf("server %q, version %q, want both", caps.Server, caps.Version)
	}
	info, _ := e.server.do(t, "", "INFO", "server").Text()
	fields := driver.ParseInfo(info)
	if v := fields["redis_version"]; v != "" && fields["valkey_version"] == "" && caps.Version != v {
		t.Errorf("version %q, but INFO says %q", caps.Version, v)
	}
	if caps.Topology != e.ep.Topology {
		t.Errorf("topology %s, want %s", caps.Topology, e.ep.Topology)
	}
	if caps.Protocol != e.ep.Protocol {
		t.Errorf("protocol %d, want %d", caps.Protocol, e.ep.Protocol)
	}
	for _, name := range driver.Probed {
		if want := e.server.has(t, name); caps.Has(name) != want {
			t.Errorf("Has(%s) is %v, but COMMAND INFO says %v", name, caps.Has(name), want)
		}
	}
	if caps.Has("NOSUCHCOMMAND") {
		t.Errorf("Has of a command nobody has")
	}
}

func unwrap(t tester, e *env) {
	d := e.driver(t)
	if a, b := d.Unwrap(), d.Unwrap(); a == nil || a != b {
		t.Errorf("Unwrap: %v and then %v", a, b)
	}
}

func capsKept(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	first, err := d.Caps(e.ctx(t))
	if err != nil {
		t.Fatalf("Caps: %v", err)
	}
	before := p.count("COMMAND")
	for range 5 {
		again, err := d.Caps(e.ctx(t))
		if err != nil || again.Version != first.Version {
			t.Errorf("Caps again: %+v, %v", again, err)
		}
	}
	if n := p.count("COMMAND"); n != before {
		t.Errorf("Caps asked the server again")
	}
}

func capsFailure(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	p.down()
	within(t, "Caps of a dead server", budget, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if caps, err := d.Caps(ctx); err == nil {
			t.Logf("Caps was known before: %+v", caps) // a driver may have asked when it connected
		}
	})
	p.up(t)
	wantWorking(t, e, d)
	// Any node may be asked, and a pool that could not dial says so again until it has dialled.
	eventually(t, "Caps works after a failure", budget/2, func() bool {
		caps, err := d.Caps(e.ctx(t))
		return err == nil && caps.Version != ""
	})
}

func capsHalf(t tester, e *env) {
	want, err := e.driver(t).Caps(e.ctx(t))
	if err != nil {
		t.Fatalf("Caps: %v", err)
	}
	for _, question := range []string{"COMMAND", "INFO"} {
		p := e.proxy(t)
		d := p.driver(t)
		p.once(question, resetReply)
		if _, err := d.Caps(e.ctx(t)); err != nil {
			t.Logf("Caps when %s is not answered: %v", question, err)
		}
		got, err := d.Caps(e.ctx(t))
		if err != nil || got.Version != want.Version || got.Server != want.Server || len(got.Commands) != len(want.Commands) {
			t.Errorf("Caps after %s was not answered once: %+v, %v; want %+v", question, got, err, want)
		}
	}
}

func capsContext(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	p.hold()
	defer p.release()
	deadline := time.Now().Add(200 * time.Millisecond)
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	if _, err := d.Caps(ctx); err == nil {
		return // known already
	}
	wantPrompt(t, "Caps", deadline)
	p.release()
	wantWorking(t, e, d)
	if _, err := d.Caps(e.ctx(t)); err != nil {
		t.Errorf("Caps after a failure: %v", err)
	}
}

func capsWithoutInfo(t tester, e *env) {
	u := e.aclUser(t, "+@all", "-info", "~*", "allchannels")
	d := e.driverAt(t, u.url())
	caps, err := d.Caps(e.ctx(t))
	if err != nil {
		t.Fatalf("Caps: %v", err)
	}
	if caps.Version == "" || strings.Contains(caps.Version, " ") || !caps.Has("WAIT") {
		t.Errorf("Caps: %+v", caps)
	}
}
