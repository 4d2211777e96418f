package drivertest

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// tester is what a case needs of *testing.T.
type tester interface {
	Helper()
	Cleanup(func())
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// budget ends every command of a case; reaching it is a failure. The package's own tests shorten it.
var budget = 10 * time.Second

// prompt is driver.PromptCancel with room for a busy machine.
const prompt = 5 * driver.PromptCancel

// env is what one case works with.
type env struct {
	cfg     Config
	open    func(ctx context.Context, url string) (driver.Driver, error)
	wrapped bool

	ep     *core.Endpoint
	tag    string
	server *admin
}

func (e *env) forCase(t tester) *env {
	t.Helper()
	ep, err := core.ParseURL(e.cfg.URL)
	if err != nil {
		t.Fatalf("URL: %v", err)
	}
	c := *e
	c.ep, c.tag = ep, strings.ToLower(rand.Text()[:12])
	c.server = &admin{ep: ep}
	t.Cleanup(c.server.close)
	return &c
}

// key returns a key of this case. All keys of a case share a slot.
func (e *env) key(name string) string { return "drivertest:{" + e.tag + "}:" + name }

// keyElsewhere returns a key of this case in another slot than key's, number n of them.
func (e *env) keyElsewhere(n int) string {
	home := driver.Slot(e.key(""))
	for i := 0; ; i++ {
		k := "drivertest:{" + e.tag + strings.Repeat("x", i) + "}:other"
		if driver.Slot(k) == home {
			continue
		}
		if n == 0 {
			return k
		}
		n--
	}
}

// ctx returns a context with the budget of a case.
func (e *env) ctx(t tester) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	t.Cleanup(cancel)
	return ctx
}

// driver opens the driver under test at the server itself. Parameters are name, value, name, value, …
func (e *env) driver(t tester, params ...string) driver.Driver {
	t.Helper()
	return e.driverAt(t, withParams(e.cfg.URL, params...))
}

// driverAt opens the driver under test at a URL and closes it after the case.
func (e *env) driverAt(t tester, url string) driver.Driver {
	t.Helper()
	d, err := e.open(e.ctx(t), url)
	if err != nil {
		t.Fatalf("opening the driver: %v", err)
	}
	t.Cleanup(func() { e.shut(t, d) })
	return d
}

// shut closes a driver, and the client underneath if it came from Config.Wrapped.
func (e *env) shut(t tester, d driver.Driver) {
	t.Helper()
	within(t, "Close", budget, func() {
		if err := d.Close(); err != nil {
			t.Logf("Close: %v", err) // a connection the case broke may not close cleanly
		}
		if !e.wrapped {
			return
		}
		switch c := d.Unwrap().(type) {
		case interface{ Close() error }:
			_ = c.Close() // a second Close may say so
		case interface{ Close() }:
			c.Close()
		}
	})
}

// within fails the case if f takes longer than limit. f may go on then.
func within(t tester, what string, limit time.Duration, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		t.Errorf("%s does not return within %s", what, limit)
	}
}

// eventually polls until ok says so.
func eventually(t tester, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	end := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// cmd builds a Write command whose key is the first argument after the name, if it has one.
func cmd(args ...string) driver.Cmd {
	c := driver.Cmd{Args: args}
	if len(args) > 1 {
		c.Keys = driver.Key(1)
	}
	return c
}

func readOnly(c driver.Cmd) driver.Cmd {
	c.Mode = driver.ReadOnly
	return c
}

func blocking(c driver.Cmd) driver.Cmd {
	c.Mode = driver.Blocking
	return c
}

// must fails the case at once if the reply is an error.
func must(t tester, r driver.Reply) driver.Reply {
	t.Helper()
	if err := r.Err(); err != nil {
		t.Fatalf("unexpected error: %v", err)
	}
	return r
}

// wantText checks a string reply.
func wantText(t tester, what string, r driver.Reply, want string) {
	t.Helper()
	got, err := r.Text()
	if err != nil || got != want {
		t.Errorf("%s: got %s (%v), want %q", what, short(r), err, want)
	}
}

// wantInt checks an integer reply.
func wantInt(t tester, what string, r driver.Reply, want int64) {
	t.Helper()
	got, err := r.Int64()
	if err != nil || got != want {
		t.Errorf("%s: got %s (%v), want %d", what, short(r), err, want)
	}
}

func short(r driver.Reply) string {
	s := r.String()
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return s
}

// wantUnknown checks that an error leaves the outcome open.
func wantUnknown(t tester, what string, err error) {
	t.Helper()
	if !errors.Is(err, driver.ErrUnknownOutcome) || errors.Is(err, driver.ErrNotSent) {
		t.Errorf("%s: got error %v, want one that is ErrUnknownOutcome and not ErrNotSent", what, err)
	}
}

// wantNotSent checks that an error says the command did not leave.
func wantNotSent(t tester, what string, err error) {
	t.Helper()
	if !errors.Is(err, driver.ErrNotSent) || errors.Is(err, driver.ErrUnknownOutcome) {
		t.Errorf("%s: got error %v, want one that is ErrNotSent and not ErrUnknownOutcome", what, err)
	}
}

// wantTransport checks that an error says what is known of the command, either way.
func wantTransport(t tester, what string, err error) {
	t.Helper()
	if errors.Is(err, driver.ErrNotSent) == errors.Is(err, driver.ErrUnknownOutcome) {
		t.Errorf("%s: got error %v, want one that is either ErrNotSent or ErrUnknownOutcome", what, err)
	}
}

// wantCode checks that an error is an error reply with this code.
func wantCode(t tester, what string, err error, code string) {
	t.Helper()
	if se, ok := errors.AsType[*driver.ServerError](err); !ok || se.Code() != code {
		t.Errorf("%s: got error %v, want a ServerError with code %s", what, err, code)
	}
}

// wantPrompt checks that a call came back soon enough after its context ended.
func wantPrompt(t tester, what string, ended time.Time) {
	t.Helper()
	late := time.Since(ended)
	t.Logf("%s: returned %s after its context ended", what, late.Round(100*time.Microsecond))
	if late > prompt {
		t.Errorf("%s: returned %s after its context ended, want %s at most", what, late, prompt)
	}
}
