package drivertest

import (
	"bufio"
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// recorder lets a case fail without failing the test around it.
type recorder struct {
	mu       sync.Mutex
	failed   bool
	skipped  bool
	lines    []string
	cleanups []func()
}

func (r *recorder) Helper() {}

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

func (r *recorder) Logf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func (r *recorder) Errorf(format string, args ...any) {
	r.Logf("FAILED: "+format, args...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Skipf(format string, args ...any) {
	r.Logf("SKIPPED: "+format, args...)
	r.mu.Lock()
	r.skipped = true
	r.mu.Unlock()
	runtime.Goexit()
}

// record runs f to its end, its cleanups included. A panic counts as a failure.
func record(f func(t tester)) *recorder {
	r := &recorder{}
	protected := func(f func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() {
				if v := recover(); v != nil {
					r.Errorf("panic: %v", v)
				}
			}()
			f()
		}()
		<-done
	}
	protected(func() { f(r) })
	for len(r.cleanups) > 0 {
		last := r.cleanups[len(r.cleanups)-1]
		r.cleanups = r.cleanups[:len(r.cleanups)-1]
		protected(last)
	}
	return r
}

func find(t *testing.T, group, name string) testCase {
	t.Helper()
	for _, g := range suite {
		for _, c := range g.cases {
			if g.name == group && c.name == name {
				return c
			}
		}
	}
	t.Fatalf("no case %q in group %q", name, group)
	return testCase{}
}

func shortBudget(t *testing.T) {
	t.Helper()
	oldBudget, oldSettle := budget, settle
	budget, settle = 1500*time.Millisecond, time.Second
	t.Cleanup(func() { budget, settle = oldBudget, oldSettle })
}

func runOn(t *testing.T, c testCase, lie lies) *recorder {
	t.Helper()
	_, server := startStore(t)
	e := &env{cfg: Config{URL: withParams(server.URL(), "protocol", "2"), Open: openTiny(lie)}, open: openTiny(lie)}
	return record(func(t tester) { c.run(t, e.forCase(t)) })
}

// liars are drivers that break a promise, and the case that has to notice.
var liars = []struct {
	name        string
	lie         lies
	group, test string
}{
	{"retries writes", lies{retries: true}, "retries", "a write whose reply is lost is sent once"},
	{"retries writes after a reset", lies{retries: true}, "retries", "a write whose connection is reset is sent once"},
	{"claims that a lost write was not sent", lies{claimsNotSent: true}, "retries", "a write whose reply is lost is sent once"},
	{"ignores cancellation", lies{ignoresCancel: true}, "context", "cancellation is honoured during GET"},
	{"ignores deadlines", lies{ignoresCancel: true}, "context", "a deadline is honoured during GET"},
	{"sends with an ended context", lies{sendsEnded: true}, "context", "a context that has ended sends nothing"},
	{"swallows OnLost", lies{swallowsLost: true}, "subscriber", "a broken connection is lost and confirmed again"},
	{"confirms before the server does", lies{confirmsEarly: true}, "subscriber", "everything published after OnConfirmed arrives in order"},
	{"overlaps callbacks", lies{overlaps: true}, "subscriber", "a slow callback overlaps with none"},
	{"returns a sentinel for null", lies{nilError: true}, "wire", "a server with RESP2 only is spoken to in RESP2"},
	{"takes an empty string for null", lies{emptyIsNull: true}, "replies", "an empty string is not null"},
	{"strips ERR and the error's type", lies{stripsERR: true}, "pipelines", "the failure of one says nothing of the others"},
	{"forgets the source of scripts", lies{forgetsSource: true}, "scripts", "a script the server does not know is sent once more with its source"},
	{"mixes up replies", lies{reverses: true}, "pipelines", "replies come in the order of the commands"},
	{"loses replies of cancelled commands", lies{losesReplies: true}, "blocking", "a cancelled BLPOP loses no element"},
	{"drops replies on their way", lies{losesReplies: true}, "blocking", "a reply already on its way is delivered"},
	{"leaves cancelled commands blocked", lies{losesReplies: true}, "blocking", "a cancelled blocking command takes nothing later"},
	{"never asks what became of a command", lies{blamesNobody: true}, "context", "cancellation is honoured while BLPOP blocks"},
	{"leaks goroutines", lies{leaks: true}, "close", "Close leaves no goroutine"},
	{"works after Close", lies{worksClosed: true}, "close", "Close is idempotent and later calls are ErrClosed"},
	{"sends MULTI among the commands of others", lies{takesMulti: true}, "invalid", "a transaction among shared connections is refused whole"},
	{"panics on invalid commands", lies{panics: true}, "invalid", "invalid commands are an error and never a panic"},
}

func TestHonestDriverPasses(t *testing.T) {
	shortBudget(t)
	for _, l := range liars {
		t.Run(l.test, func(t *testing.T) {
			r := runOn(t, find(t, l.group, l.test), lies{})
			if r.failed || r.skipped {
				t.Errorf("the case fails or is skipped on a driver that keeps its promise:\n%s", strings.Join(r.lines, "\n"))
			}
		})
	}
}

func TestBrokenPromisesAreNoticed(t *testing.T) {
	shortBudget(t)
	for _, l := range liars {
		t.Run(l.name, func(t *testing.T) {
			r := runOn(t, find(t, l.group, l.test), l.lie)
			if !r.failed {
				t.Errorf("case %q does not notice a driver that %s:\n%s", l.test, l.name, strings.Join(r.lines, "\n"))
			}
		})
	}
}

func TestRunPassesOverWhatNeedsOpen(t *testing.T) {
	for _, g := range suite {
		seen := map[string]bool{}
		for _, c := range g.cases {
			if c.run == nil || c.name == "" || seen[c.name] {
				t.Errorf("case %q of group %s is empty or there twice", c.name, g.name)
			}
			seen[c.name] = true
		}
	}
}

func TestProxyActsOnOneReply(t *testing.T) {
	for do, applied := range map[action]string{loseReply: "1", cutReply: "1", resetReply: "1", loseRequest: ""} {
		s, server := startStore(t)
		r := record(func(t tester) {
			e := (&env{cfg: Config{URL: withParams(server.URL(), "protocol", "2")}, open: openTiny(lies{})}).forCase(t)
			p := e.proxy(t)
			d := p.driver(t)
			p.once("INCR", do)
			if err := d.Do(e.ctx(t), cmd("INCR", "n")).Err(); err == nil {
				t.Errorf("the fault did not happen")
			}
			wantInt(t, "ECHO after the fault", d.Do(e.ctx(t), cmd("ECHO", "7")), 7)
			if p.count("INCR") != 1 || p.count("ECHO") != 1 {
				t.Errorf("counted INCR %d times, ECHO %d times, want once each", p.count("INCR"), p.count("ECHO"))
			}
		})
		if r.failed {
			t.Errorf("action %d: %s", do, strings.Join(r.lines, "\n"))
		}
		if s.values["n"] != applied {
			t.Errorf("action %d: the server holds %q, want %q", do, s.values["n"], applied)
		}
	}
}

func TestReadFrameTakesWholeValues(t *testing.T) {
	for _, raw := range []string{
		"+OK\r\n", ":1\r\n", "$3\r\na\r\n\r\n", "$-1\r\n", "*-1\r\n", "*0\r\n", "*2\r\n$1\r\na\r\n*1\r\n:1\r\n", "%1\r\n+k\r\n~1\r\n_\r\n",
		"|1\r\n+a\r\n+b\r\n:1\r\n", ">2\r\n+x\r\n=5\r\ntxt:a\r\n", "!3\r\nERR\r\n",
	} {
		got, err := readFrame(bufio.NewReader(strings.NewReader(raw+"+next\r\n")), nil)
		if err != nil || string(got) != raw {
			t.Errorf("got %q, %v, want %q", got, err, raw)
		}
	}
}

func ExampleNewScripted() {
	var t recorder // in a test, its *testing.T
	server := NewScripted(&t, func(_ *Peer, args []string) (string, bool) {
		if args[0] == "GET" {
			return Bulk("scripted"), true
		}
		return "", false
	})
	d, err := openTiny(lies{})(context.Background(), server.URL())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer d.Close()
	fmt.Println(d.Do(context.Background(), cmd("GET", "k")), d.Do(context.Background(), cmd("PING")), server.Count("GET"))
	// Output: "scripted" "PONG" 1
}
