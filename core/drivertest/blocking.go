package drivertest

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

var blockingCases = []testCase{
	{name: "no read timeout ends a blocking command", run: outlastsTimeout},
	{name: "a blocking command without result is null", run: blockedNull},
	{name: "nothing waits behind a blocking command", run: nothingWaits},
	{name: "XREADGROUP delivers what arrives while it blocks", run: blockedGroup},
	{name: "a reply already on its way is delivered", run: onItsWay},
	{name: "a cancelled BLPOP loses no element", run: raceElement},
	{name: "a cancelled XREADGROUP loses no entry", run: raceEntry},
	{name: "a cancelled blocking command takes nothing later", run: takesNothingLater},
}

func outlastsTimeout(t tester, e *env) {
	params := []string{"read_timeout", "300ms"}
	d := e.driver(t, params...)
	key := e.key("l")
	start := time.Now()
	wantNull(t, "BLPOP", d.Do(e.ctx(t), blocking(cmd("BLPOP", key, "0.9"))))
	if took := time.Since(start); took < 850*time.Millisecond {
		t.Errorf("BLPOP with a timeout of 900ms returned after %s", took)
	}
	pushed := time.AfterFunc(700*time.Millisecond, func() { e.server.do(t, key, "RPUSH", key, "x") })
	defer pushed.Stop()
	r := d.Do(e.ctx(t), blocking(cmd("BLPOP", key, "0")))
	if got := r.String(); got != `["`+key+`" "x"]` {
		t.Errorf("BLPOP without a timeout: %s", got)
	}
}

func blockedNull(t tester, e *env) {
	d := e.driver(t)
	wantNull(t, "BLPOP", d.Do(e.ctx(t), blocking(cmd("BLPOP", e.key("l"), "0.05"))))
	key := e.key("s")
	must(t, e.server.do(t, key, "XGROUP", "CREATE", key, "g", "$", "MKSTREAM"))
	args := []string{"XREADGROUP", "GROUP", "g", "c", "BLOCK", "50", "STREAMS", key, ">"}
	wantNull(t, "XREADGROUP", d.Do(e.ctx(t), driver.Cmd{Args: args, Keys: driver.Key(7), Mode: driver.Blocking}))
	wantCode(t, "BLPOP of a stream", d.Do(e.ctx(t), blocking(cmd("BLPOP", key, "0.05"))).Err(), "WRONGTYPE")
}

func nothingWaits(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	must(t, d.Do(e.ctx(t), cmd("SET", e.key("k"), "v")))
	const waiters = 5
	ctx, cancel := context.WithCancel(e.ctx(t))
	defer cancel()
	var wg sync.WaitGroup
	for i := range waiters {
		wg.Go(func() { d.Do(ctx, blocking(cmd("BLPOP", e.key("l"+strconv.Itoa(i)), "30"))) })
	}
	p.await(t, "BLPOP", waiters)
	within(t, "20 GET, SET and pipelines beside blocking commands", 2*time.Second, func() {
		for range 20 {
			wantText(t, "GET", d.Do(e.ctx(t), readOnly(cmd("GET", e.key("k")))), "v")
			wantText(t, "SET", d.Do(e.ctx(t), cmd("SET", e.key("k"), "v")), "OK")
			wantText(t, "pipeline", d.DoMulti(e.ctx(t), []driver.Cmd{cmd("GET", e.key("k")), cmd("PING")})[0], "v")
		}
	})
	own := map[int]bool{}
	for _, r := range p.named("BLPOP") {
		if own[r.link] {
			t.Errorf("two blocking commands shared a connection at once")
		}
		own[r.link] = true
	}
	for _, name := range []string{"GET", "SET"} {
		for _, r := range p.named(name) {
			if own[r.link] {
				t.Errorf("%s shared a connection with a blocking command", name)
				return
			}
		}
	}
	cancel()
	wg.Wait()
}

func blockedGroup(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	c := e.blockedCmd(t, "XREADGROUP")
	key := c.Route()
	for i := range 3 {
		done := make(chan driver.Reply, 1)
		go func() { done <- d.Do(e.ctx(t), c) }()
		p.await(t, "XREADGROUP", i+1)
		want := strconv.Itoa(i + 1)
		must(t, e.server.do(t, key, "XADD", key, want+"-1", "f", want))
		r := <-done
		n := 0
		for stream, entries := range r.Pairs() {
			n++
			wantText(t, "stream", stream, key)
			if got := entries.String(); got != `[["`+want+`-1" ["f" "`+want+`"]]]` {
				t.Errorf("entries: %s", got)
			}
		}
		if n != 1 {
			t.Errorf("XREADGROUP: %s", short(r))
		}
	}
}

func onItsWay(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	_ = getCall(e.ctx(t), e, d) // so that CLIENT UNBLOCK finds a connection
	e.stuckReplies(t, p, func() doer { return d })
}

// stuckReplies cancels BLPOP while its reply is stuck in the proxy, and lets it go on when the driver asks the server what
// became of the command.
func (e *env) stuckReplies(t tester, p *proxy, next func() doer) {
	t.Helper()
	if e.cfg.Features.NoUnblock {
		t.Skipf("the server has no CLIENT UNBLOCK")
	}
	key, delivered := e.key("l"), 0
	unblocks := func() (n int) {
		for _, r := range p.named("CLIENT") {
			if len(r.args) > 1 && strings.EqualFold(r.args[1], "UNBLOCK") {
				n++
			}
		}
		return n
	}
	const rounds = 5
	for i := range rounds {
		d := next()
		must(t, e.server.do(t, key, "RPUSH", key, strconv.Itoa(i)))
		blpops, before := p.count("BLPOP"), unblocks()
		p.stall("BLPOP")
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan driver.Reply, 1)
		go func() { done <- d.Do(ctx, blocking(cmd("BLPOP", key, "60"))) }()
		p.await(t, "BLPOP", blpops+1)
		eventually(t, "the server has run BLPOP", budget/2, func() bool {
			n, _ := e.server.do(t, key, "LLEN", key).Int64()
			return n == 0
		})
		cancel()
		if !p.until(budget/2, func() bool { return unblocks() > before || len(done) > 0 }) {
			t.Errorf("no CLIENT UNBLOCK was sent")
		}
		p.release()
		switch r := <-done; {
		case r.Err() == nil:
			delivered++
			if got := r.String(); got != `["`+key+`" "`+strconv.Itoa(i)+`"]` {
				t.Errorf("BLPOP: %s", got)
			}
		default: // too late, or lost: then it must say so
			wantUnknown(t, "BLPOP whose reply was not returned", r.Err())
		}
		must(t, e.server.do(t, key, "DEL", key))
	}
	t.Logf("%d of %d replies were delivered", delivered, rounds)
	if delivered == 0 {
		t.Errorf("not one of %d replies on their way was delivered", rounds)
	}
}

// doer is a Driver or a Conn.
type doer interface {
	Do(ctx context.Context, cmd driver.Cmd) driver.Reply
}

const races = 40

// race runs a blocking command while arrive runs and its context ends, in random order but close together.
func race(d doer, c driver.Cmd, arrive func()) driver.Reply {
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	var wg sync.WaitGroup
	jitter := func() time.Duration { return time.Duration(1500+rand.IntN(2500)) * time.Microsecond }
	wg.Add(2)
	time.AfterFunc(jitter(), func() { defer wg.Done(); cancel() })
	time.AfterFunc(jitter(), func() { defer wg.Done(); arrive() })
	r := d.Do(ctx, c)
	wg.Wait()
	return r
}

func raceElement(t tester, e *env) {
	d := e.driver(t)
	e.raceElements(t, func() doer { return d })
}

// raceElements checks that an element is either returned or still there, unless the outcome is declared unknown. next
// returns what to use for the next round.
func (e *env) raceElements(t tester, next func() doer) {
	t.Helper()
	key := e.key("l")
	returned, kept, unknown := 0, 0, 0
	for i := range races {
		want := strconv.Itoa(i)
		r := race(next(), blocking(cmd("BLPOP", key, "20")), func() { must(t, e.server.do(t, key, "RPUSH", key, want)) })
		left, _ := e.server.do(t, key, "LLEN", key).Int64()
		switch err := r.Err(); {
		case err == nil && !r.IsNil():
			returned++
			if got := r.String(); got != `["`+key+`" "`+want+`"]` || left != 0 {
				t.Errorf("BLPOP: %s with %d left, want element %s", got, left, want)
			}
		case errors.Is(err, driver.ErrUnknownOutcome):
			unknown++
		case errors.Is(err, context.Canceled):
			kept++
			if left != 1 {
				t.Errorf("BLPOP says nothing was delivered (%v), but the list holds %d elements, want 1", err, left)
			}
		default:
			t.Errorf("BLPOP: %s", short(r))
		}
		must(t, e.server.do(t, key, "DEL", key))
	}
	t.Logf("of %d elements %d were returned, %d kept, %d unknown", races, returned, kept, unknown)
	if unknown == races {
		t.Errorf("every outcome is unknown; CLIENT UNBLOCK tells")
	}
}

func raceEntry(t tester, e *env) {
	d := e.driver(t)
	e.raceEntries(t, func() doer { return d })
}

// raceEntries is raceElements for XREADGROUP: an entry is returned and pending, or not delivered.
func (e *env) raceEntries(t tester, next func() doer) {
	t.Helper()
	c := e.blockedCmd(t, "XREADGROUP")
	key := c.Route()
	returned, kept, unknown := 0, 0, 0
	for i := range races {
		id := strconv.Itoa(i+1) + "-0"
		r := race(next(), c, func() { must(t, e.server.do(t, key, "XADD", key, id, "f", "v")) })
		pending, _ := e.server.do(t, key, "XPENDING", key, "g", "-", "+", "10").List()
		switch err := r.Err(); {
		case err == nil && !r.IsNil():
			returned++
			if len(pending) != 1 {
				t.Errorf("XREADGROUP returned %s, and %d entries are pending, want 1", short(r), len(pending))
			}
		case errors.Is(err, driver.ErrUnknownOutcome):
			unknown++
		case errors.Is(err, context.Canceled):
			kept++
			if len(pending) != 0 {
				t.Errorf("XREADGROUP says nothing was delivered (%v), but %d entries are pending", err, len(pending))
			}
		default:
			t.Errorf("XREADGROUP: %s", short(r))
		}
		// Read what was not delivered, so that the next round starts clean.
		e.server.do(t, key, "XREADGROUP", "GROUP", "g", "c", "COUNT", "10", "STREAMS", key, ">")
		e.server.do(t, key, "XACK", key, "g", id)
		must(t, e.server.do(t, key, "XDEL", key, id))
	}
	t.Logf("of %d entries %d were returned, %d not delivered, %d unknown", races, returned, kept, unknown)
	if unknown == races {
		t.Errorf("every outcome is unknown; CLIENT UNBLOCK tells")
	}
}

func takesNothingLater(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	for i := range 5 {
		key := e.key("l" + strconv.Itoa(i)) // one whose outcome is unknown may still wait for its own
		ctx, cancel := context.WithCancel(context.Background())
		errs := make(chan error, 1)
		go func() { errs <- d.Do(ctx, blocking(cmd("BLPOP", key, "60"))).Err() }()
		p.await(t, "BLPOP", i+1)
		e.awaitBlocked(t)
		cancel()
		err := <-errs
		if errors.Is(err, driver.ErrUnknownOutcome) {
			continue // the driver closes the connection; the server may notice later
		}
		must(t, e.server.do(t, key, "RPUSH", key, "x"))
		if n, _ := e.server.do(t, key, "LLEN", key).Int64(); n != 1 {
			t.Errorf("a BLPOP that had ended (%v) took an element afterwards", err)
		}
		must(t, e.server.do(t, key, "DEL", key))
	}
}
