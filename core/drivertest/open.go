package drivertest

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

var openCases = []testCase{
	{name: "a wrong password is one clear error without the password", run: wrongPassword, openOnly: true},
	{name: "a missing database is one clear error", run: wrongDB, openOnly: true},
	{name: "a refused port is one clear error", run: refusedPort, openOnly: true},
	{name: "a malformed URL is one clear error without the password", run: wrongURL, openOnly: true},
	{name: "an unknown authority is one clear error", run: unknownCA, openOnly: true},
	{name: "a server that is no Cluster is one clear error", run: notCluster, openOnly: true},
	{name: "TLS at a server without it is one clear error", run: notTLS, openOnly: true},
	{name: "a server that is no Sentinel is one clear error", run: notSentinel, openOnly: true},
	{name: "Open ends with its context", run: openContext, openOnly: true},
	{name: "an ended context opens nothing", run: openEnded, openOnly: true},
	{name: "client name and protocol of the URL are used", run: urlUsed, openOnly: true},
	{name: "an ACL user and a password with special characters work", run: specialPassword, openOnly: true},
	{name: "no error contains the password", run: noPassword, openOnly: true},
}

const marker = "S3cretMarker"

// wantOpenError opens a URL that cannot work and returns the error.
func (e *env) wantOpenError(t tester, url string, names ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	start := time.Now()
	d, err := e.open(ctx, url)
	if took := time.Since(start); took > budget/2+prompt {
		t.Errorf("Open took %s", took)
	}
	if err == nil {
		_ = d.Close()
		t.Fatalf("Open of %q works", url)
	}
	text := err.Error()
	t.Logf("Open: %v", err)
	if strings.Contains(text, marker) {
		t.Errorf("the error contains the password: %v", err)
	}
	if strings.Contains(text, "\n") {
		t.Errorf("the error is several: %q", text)
	}
	if strings.Count(text, "redisx:") > 1 {
		t.Errorf("the error says who it is from more than once: %q", text)
	}
	for _, name := range names {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(name)) {
			t.Errorf("the error does not say %q: %v", name, err)
		}
	}
	return err
}

func wrongPassword(t tester, e *env) {
	err := e.wantOpenError(t, withUser(e.cfg.URL, "drivertest-nobody", marker))
	if se, ok := errors.AsType[*driver.ServerError](err); !ok {
		t.Errorf("error %v is no ServerError", err)
	} else if !e.cfg.Features.Fake && se.Code() != "WRONGPASS" {
		t.Errorf("error %v has code %s, want WRONGPASS", err, se.Code())
	}
	if e.ep.Password == "" {
		return // the default user takes any password then
	}
	err = e.wantOpenError(t, withUser(e.cfg.URL, "", marker))
	if _, ok := errors.AsType[*driver.ServerError](err); !ok {
		t.Errorf("error %v is no ServerError", err)
	}
}

func wrongDB(t tester, e *env) {
	if e.ep.Topology == driver.Cluster {
		t.Skipf("a Cluster has no databases")
	}
	base, query, _ := strings.Cut(e.cfg.URL, "?")
	if e.ep.Topology == driver.Standalone && e.ep.Network == "tcp" {
		scheme, rest, _ := strings.Cut(base, "://")
		host, _, _ := strings.Cut(rest, "/")
		base = scheme + "://" + host
	}
	err := e.wantOpenError(t, withParams(base+"?"+query, "db", "9999"), "DB index")
	if _, ok := errors.AsType[*driver.ServerError](err); !ok {
		t.Errorf("error %v is no ServerError", err)
	}
}

func refusedPort(t tester, e *env) {
	err := e.wantOpenError(t, "redis://:"+marker+"@"+closedPort(t), "refused")
	wantNotSent(t, "Open", err)
}

func wrongURL(t tester, e *env) {
	for _, url := range []string{
		"", "localhost", "http://:" + marker + "@localhost", "redis://:" + marker + "@localhost:port",
		"redis://:" + marker + "@localhost?nosuch=1", "redis://:" + marker + "%zz@localhost", "redis://:" + marker + "@localhost/notadb",
	} {
		_ = e.wantOpenError(t, url)
	}
	_ = e.wantOpenError(t, "redis://localhost?nosuch=1", "nosuch")
}

func unknownCA(t tester, e *env) {
	if e.ep.Topology != driver.Standalone || e.ep.Network != "tcp" {
		t.Skipf("the case uses one server over TCP")
	}
	config, caFile := frontTLS(t)
	p := e.proxyTLS(t, config, caFile)
	base := "rediss://" + p.fronts[0].addr
	if e.ep.Password != "" {
		base = withUser(base, e.ep.Username, e.ep.Password)
	}
	_ = e.wantOpenError(t, base, "certificate")
	d := e.driverAt(t, withParams(base, "ca", caFile))
	wantText(t, "PING with the authority", d.Do(e.ctx(t), cmd("PING")), "PONG")
}

func notCluster(t tester, e *env) {
	if e.ep.Topology != driver.Standalone || e.ep.Network != "tcp" || e.ep.TLS != nil {
		t.Skipf("the case uses one server over plain TCP")
	}
	url := "redis-cluster://" + e.ep.Addrs[0]
	if e.ep.Password != "" {
		url = withUser(url, e.ep.Username, e.ep.Password)
	}
	_ = e.wantOpenError(t, url, "cluster")
}

func notTLS(t tester, e *env) {
	if e.ep.Topology != driver.Standalone || e.ep.Network != "tcp" || e.ep.TLS != nil {
		t.Skipf("the case uses one server over plain TCP")
	}
	_ = e.wantOpenError(t, "rediss://:"+marker+"@"+e.ep.Addrs[0], "does not speak TLS")
}

func notSentinel(t tester, e *env) {
	if e.ep.Topology != driver.Standalone || e.ep.Network != "tcp" || e.ep.TLS != nil {
		t.Skipf("the case uses one server over plain TCP")
	}
	want := "no Sentinel"
	if e.ep.Password != "" {
		want = "NOAUTH" // it tells strangers nothing
	}
	_ = e.wantOpenError(t, "redis-sentinel://"+e.ep.Addrs[0]+"/nosuchprimary", want)
}

func openContext(t tester, e *env) {
	p := e.proxy(t)
	p.hold()
	defer p.release()
	deadline := time.Now().Add(300 * time.Millisecond)
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	within(t, "Open of a silent server", budget, func() {
		d, err := e.open(ctx, p.url())
		wantPrompt(t, "Open", deadline)
		if err == nil {
			_ = d.Close()
			t.Errorf("Open of a silent server works")
			return
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v is not %v", err, context.DeadlineExceeded)
		}
	})
	cancelled, cancelNow := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancelNow)
	within(t, "Open of a silent server", budget, func() {
		d, err := e.open(cancelled, p.url())
		if err == nil {
			_ = d.Close()
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v is not %v", err, context.Canceled)
		}
	})
	p.release()
	if !p.until(budget, func() bool { return p.open() == 0 }) {
		t.Errorf("%d connections are left of an Open that failed", p.open())
	}
}

func openEnded(t tester, e *env) {
	p := e.proxy(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	d, err := e.open(ctx, p.url())
	if err == nil {
		_ = d.Close()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v is not %v", err, context.Canceled)
	}
	if !p.until(budget, func() bool { return p.open() == 0 }) {
		t.Errorf("%d connections are left", p.open())
	}
}

func urlUsed(t tester, e *env) {
	d := e.driver(t, "client_name", "drivertest-"+e.tag)
	wantText(t, "CLIENT GETNAME", d.Do(e.ctx(t), driver.Cmd{Args: []string{"CLIENT", "GETNAME"}}), "drivertest-"+e.tag)
	if _, ok := d.(driver.Dedicated); ok {
		wantText(t, "CLIENT GETNAME on a connection", e.dedicate(t, d).Do(e.ctx(t), driver.Cmd{Args: []string{"CLIENT", "GETNAME"}}), "drivertest-"+e.tag)
	}
	d = e.driver(t, "protocol", "2")
	caps, err := d.Caps(e.ctx(t))
	if err != nil || caps.Protocol != 2 {
		t.Errorf("protocol %d, %v, want 2", caps.Protocol, err)
	}
	if e.ep.Topology == driver.Cluster || e.ep.DB != 0 {
		return
	}
	base, query, _ := strings.Cut(e.cfg.URL, "?")
	if e.ep.Network == "tcp" && e.ep.Topology == driver.Standalone {
		scheme, rest, _ := strings.Cut(base, "://")
		host, _, _ := strings.Cut(rest, "/")
		base = scheme + "://" + host
	}
	other := e.driverAt(t, withParams(base+"?"+query, "db", "9"))
	must(t, other.Do(e.ctx(t), cmd("SET", e.key("k"), "in 9", "PX", "60000")))
	wantNull(t, "GET in database 0", d.Do(e.ctx(t), cmd("GET", e.key("k"))))
	wantText(t, "GET in database 9", other.Do(e.ctx(t), cmd("GET", e.key("k"))), "in 9")
	must(t, other.Do(e.ctx(t), cmd("RPUSH", e.key("l"), "x")))
	if got := other.Do(e.ctx(t), blocking(cmd("BLPOP", e.key("l"), "1"))).String(); got != `["`+e.key("l")+`" "x"]` {
		t.Errorf("BLPOP in database 9: %s", got)
	}
}

func specialPassword(t tester, e *env) {
	u := e.aclUser(t, "+@all", "~*", "allchannels")
	u.password = marker + "@:/?#[]% +&=" + e.tag
	u.allow(t, ">"+u.password)
	d := e.driverAt(t, u.url())
	wantText(t, "ACL WHOAMI", d.Do(e.ctx(t), driver.Cmd{Args: []string{"ACL", "WHOAMI"}}), u.name)
	if _, ok := d.(driver.Dedicated); ok {
		wantText(t, "ACL WHOAMI on a connection", e.dedicate(t, d).Do(e.ctx(t), driver.Cmd{Args: []string{"ACL", "WHOAMI"}}), u.name)
	}
}

func noPassword(t tester, e *env) {
	u := e.aclUser(t, "+@all", "~*", "allchannels")
	u.password = marker
	u.allow(t, ">"+u.password)
	p := e.proxy(t)
	d := e.driverAt(t, withUser(p.url(), u.name, u.password))
	check := func(what string, err error) {
		t.Helper()
		if err != nil && strings.Contains(err.Error(), marker) {
			t.Errorf("%s: the error contains the password: %v", what, err)
		}
	}
	check("a bad command", d.Do(e.ctx(t), cmd("SET", e.key("k"))).Err())
	p.once("INCR", loseReply)
	check("a lost reply", d.Do(e.ctx(t), cmd("INCR", e.key("n"))).Err())
	u.allow(t, "resetpass", ">changed"+e.tag) // new connections are refused from now on
	p.cut("")
	for range 5 {
		r := d.Do(e.ctx(t), cmd("INCR", e.key("n")))
		check("a password that has changed", r.Err())
		if r.Err() == nil {
			t.Errorf("INCR works with a password that has changed")
		}
	}
	p.down()
	check("a dead server", d.Do(e.ctx(t), cmd("INCR", e.key("n"))).Err())
}
