package redisxtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// recordEach runs fn with a client over a recorded driver, for both drivers on the fake and the servers at hand.
func recordEach(t *testing.T, fn func(t *testing.T, c *core.Client), opts ...EachOption) {
	EachDriver(t, func(t *testing.T, d driver.Driver, _ string) {
		c, err := core.New(Record(d), core.WithKeyPrefix(Prefix(t)), core.WithCommandTimeout(5*time.Second))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		fn(t, c)
	}, opts...)
}

func keyCmd(name, key string, rest ...string) driver.Cmd {
	return driver.Cmd{Args: append([]string{name, key}, rest...), Keys: driver.Key(1)}
}

func TestRoundTripsAreTheWaitsOfCallers(t *testing.T) {
	recordEach(t, func(t *testing.T, c *core.Client) {
		ctx, p := testContext(t), c.KeyPrefix()
		RoundTrips(t, c, 0, func() {})
		RoundTrips(t, c, 1, func() { require.NoError(t, c.Do(ctx, keyCmd("SET", p+"k", "v")).Err()) })
		RoundTrips(t, c, 1, func() { // a pipeline is one, also over several slots
			for _, r := range c.DoMulti(ctx, []driver.Cmd{keyCmd("GET", p+"a"), keyCmd("GET", p+"b"), keyCmd("INCR", p+"n")}) {
				require.NoError(t, r.Err())
			}
		})
		RoundTrips(t, c, 2, func() { // and a transaction on a connection of its own
			conn, err := c.Driver().(driver.Dedicated).Dedicate(ctx, p+"k")
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.Do(ctx, keyCmd("WATCH", p+"k")).Err())
			conn.DoMulti(ctx, []driver.Cmd{{Args: []string{"MULTI"}}, keyCmd("INCR", p+"n"), {Args: []string{"EXEC"}}})
		})
		RoundTrips(t, c, 0, func() { // nothing was sent
			done, cancel := context.WithCancel(ctx)
			cancel()
			require.ErrorIs(t, c.Do(done, keyCmd("GET", p+"k")).Err(), core.ErrNotSent)
			require.Error(t, c.Driver().Do(ctx, driver.Cmd{Args: []string{"MULTI"}}).Err())
			require.Error(t, c.Driver().DoMulti(ctx, []driver.Cmd{{Args: []string{"MULTI"}}})[0].Err())
		})
	})
}

// A core.Client sends commands of several goroutines in one list if they come fast enough. That must not change the count.
func TestRoundTripsOfSeveralGoroutinesAddUp(t *testing.T) {
	recordEach(t, func(t *testing.T, c *core.Client) {
		const callers, each = 64, 20
		tr := Observe(t, c, func() {
			var wg sync.WaitGroup
			for i := range callers {
				wg.Go(func() {
					for range each {
						require.NoError(t, c.Do(context.Background(), keyCmd("INCR", fmt.Sprint(c.KeyPrefix(), i))).Err())
					}
				})
			}
			wg.Wait()
		})
		require.Equal(t, callers*each, tr.RoundTrips)
		require.Equal(t, callers*each, tr.Count("incr"))
		require.Len(t, tr.Slots(), callers)
	})
}

// lists counts the lists that reach a driver, to see that core did join commands.
type lists struct {
	driver.Driver
	multi atomic.Int64
}

func (l *lists) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	l.multi.Add(1)
	return l.Driver.DoMulti(ctx, cmds)
}

func TestACommandOfABatchIsARoundTripOfItsCaller(t *testing.T) {
	f := NewFake(t)
	l := &lists{Driver: f.Client().Driver()}
	c, err := core.New(Record(l), core.WithCommandTimeout(20*time.Second))
	require.NoError(t, err)
	defer c.Close()
	const callers = 40
	rounds := 0
	tr := Observe(t, c, func() {
		Eventually(t, 0, func(context.Context) error { // until some have come close enough to share a list
			rounds++
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() { require.NoError(t, c.Do(context.Background(), keyCmd("INCR", "n")).Err()) })
			}
			wg.Wait()
			if l.multi.Load() == 0 {
				return errors.New("core has joined nothing")
			}
			return nil
		})
	})
	require.Equal(t, rounds*callers, tr.RoundTrips)
	require.Equal(t, rounds*callers, f.Count("INCR"))
}

func TestFailuresListCommandsAndKeysButNoValues(t *testing.T) {
	c, err := core.New(Record(NewFake(t).Client().Driver()))
	require.NoError(t, err)
	ctx := testContext(t)
	script := driver.NewScript("stock.take", "return redis.call('GET', KEYS[1])")
	send := func() {
		c.Do(ctx, keyCmd("SET", "user:7", "geheim"))
		c.Do(ctx, script.Cmd([]string{"stock:{1}"}, []string{"geheim"}))
	}
	for name, check := range map[string]func(t testing.TB){
		"want 1 round trips, got 2 commands in 2 round trips": func(t testing.TB) { RoundTrips(t, c, 1, send) },
		"want 2 GET, got":              func(t testing.TB) { CommandCount(t, c, "get", 2, send) },
		"want 3 COMMANDS, got":         func(t testing.TB) { CommandCount(t, c, "", 3, send) },
		"want keys in 1 slots, got 2 ": func(t testing.TB) { SlotsTouched(t, c, 1, send) },
	} {
		r := record(t, check)
		require.True(t, r.failed, name)
		require.Contains(t, r.text(), name)
		require.Contains(t, r.text(), `SET "user:7"`)
		require.Contains(t, r.text(), `EVALSHA(stock.take) "stock:{1}"`)
		require.NotContains(t, r.text(), "geheim")
	}
	CommandCount(t, c, "set", 1, send)
	CommandCount(t, c, "", 2, send)
	SlotsTouched(t, c, 2, send)
}

func TestALongListIsCut(t *testing.T) {
	tr := Traffic{Commands: make([]SeenCommand, 1000)}
	require.Equal(t, shownCommands+2, strings.Count(tr.String(), "\n")+1)
	require.Contains(t, tr.String(), "and 970 more")
	require.Less(t, len(SeenCommand{Name: "DEL", Keys: make([]string, 1000)}.String()), 100)
}

func TestAMissingHashTagIsFound(t *testing.T) {
	OneSlot(t, "{a}x", "{a}y", "a")
	r := record(t, func(t testing.TB) { OneSlot(t, "cart:1", "stock:{1}") })
	require.True(t, r.failed)
	require.Contains(t, r.text(), `"cart:1"  no tag`)
	require.Contains(t, r.text(), `"stock:{1}"  tag "1"`)
	require.True(t, record(t, func(t testing.TB) { OneSlot(t) }).failed)
}

func TestChecksRefuseAClientThatIsNotRecorded(t *testing.T) {
	c := NewFake(t).Client()
	r := record(t, func(t testing.TB) { RoundTrips(t, c, 0, func() {}) })
	require.True(t, r.failed)
	require.Contains(t, r.text(), "redisxtest.Record(d)")
	require.True(t, record(t, func(t testing.TB) { RoundTrips(t, nil, 0, func() {}) }).failed)
	_, err := core.New(Record(nil))
	require.Error(t, err)
}

// An observer that has ended keeps nothing, and two see the same.
func TestObservationsOverlap(t *testing.T) {
	d := Record(NewFake(t).Client().Driver())
	c, err := core.New(d)
	require.NoError(t, err)
	var inner Traffic
	outer := Observe(t, c, func() {
		c.Do(testContext(t), keyCmd("GET", "a"))
		inner = Observe(t, c, func() { c.Do(testContext(t), keyCmd("GET", "b")) })
	})
	require.Equal(t, 2, outer.RoundTrips)
	require.Equal(t, []SeenCommand{{Name: "GET", Keys: []string{"b"}}}, inner.Commands)
	record(t, func(t testing.TB) { Observe(t, c, func() { t.FailNow() }) })
	require.Empty(t, d.(recorded).observed().windows)
}

// What chaos does below is what the callers of the recorded driver get.
func TestRecordChangesNothing(t *testing.T) {
	plain := NewFake(t).Client().Driver()
	script := driver.NewScript("x", "return 1")
	d := Record(chaos.Wrap(plain, chaos.Script{Rules: []chaos.Rule{
		chaos.On("INCR").LoseReply(), chaos.OnScript("x").Reply(chaos.NoScript),
	}}))
	require.ErrorIs(t, d.Do(testContext(t), keyCmd("INCR", "n")).Err(), driver.ErrUnknownOutcome)
	se, ok := errors.AsType[*driver.ServerError](d.Do(testContext(t), script.Cmd(nil, nil)).Err())
	require.True(t, ok)
	require.Equal(t, "NOSCRIPT", se.Code())
	require.Same(t, plain.Unwrap(), d.Unwrap())
}

// A script that the server does not know costs a round trip more, which only the server sees.
func TestAScriptSentAgainIsSeenByTheFake(t *testing.T) {
	f := NewFake(t)
	c, err := core.New(Record(f.Client().Driver()))
	require.NoError(t, err)
	script := driver.NewScript("x", "return 1")
	run := func() { require.NoError(t, c.Do(testContext(t), script.Cmd(nil, nil)).Err()) }
	RoundTrips(t, c, 1, run)
	require.Equal(t, []int{1, 1}, []int{f.Count("EVALSHA"), f.Count("EVAL")})
	RoundTrips(t, c, 1, run)
	require.Equal(t, []int{2, 1}, []int{f.Count("EVALSHA"), f.Count("EVAL")})
}

type (
	hasR struct{}
	hasS struct{}
	hasT struct{}
	hasD struct{}
)

func (hasR) Node(string) string                                   { return "node" }
func (hasS) Subscribe(context.Context, driver.Subscription) error { return nil }
func (hasT) Track(context.Context, driver.Tracking) error         { return nil }
func (hasD) Dedicate(context.Context, string) (driver.Conn, error) {
	return nil, driver.ErrClosed
}

// The wrapper is asked for what the driver below can do, ability by ability.
func TestRecordHasTheAbilitiesOfTheDriverBelow(t *testing.T) {
	type base struct{ driver.Driver }
	for _, d := range []driver.Driver{
		base{},
		struct {
			base
			hasR
		}{},
		struct {
			base
			hasS
		}{},
		struct {
			base
			hasR
			hasS
		}{},
		struct {
			base
			hasT
		}{},
		struct {
			base
			hasR
			hasT
		}{},
		struct {
			base
			hasS
			hasT
		}{},
		struct {
			base
			hasR
			hasS
			hasT
		}{},
		struct {
			base
			hasD
		}{},
		struct {
			base
			hasR
			hasD
		}{},
		struct {
			base
			hasS
			hasD
		}{},
		struct {
			base
			hasR
			hasS
			hasD
		}{},
		struct {
			base
			hasT
			hasD
		}{},
		struct {
			base
			hasR
			hasT
			hasD
		}{},
		struct {
			base
			hasS
			hasT
			hasD
		}{},
		struct {
			base
			hasR
			hasS
			hasT
			hasD
		}{},
	} {
		_, wantR := d.(driver.Router)
		_, wantS := d.(driver.Subscriber)
		_, wantT := d.(driver.Tracker)
		_, wantD := d.(driver.Dedicated)
		w := Record(d)
		r, isR := w.(driver.Router)
		s, isS := w.(driver.Subscriber)
		tr, isT := w.(driver.Tracker)
		de, isD := w.(driver.Dedicated)
		require.Equal(t, []bool{wantR, wantS, wantT, wantD}, []bool{isR, isS, isT, isD}, "%T", d)
		_, ok := w.(recorded)
		require.True(t, ok)
		if isR {
			require.Equal(t, "node", r.Node("k"))
		}
		if isS {
			require.NoError(t, s.Subscribe(testContext(t), driver.Subscription{}))
		}
		if isT {
			require.NoError(t, tr.Track(testContext(t), driver.Tracking{}))
		}
		if isD {
			_, err := de.Dedicate(testContext(t), "k")
			require.ErrorIs(t, err, driver.ErrClosed)
		}
	}
}

func TestAPipelineOverTheNodesOfAClusterIsOneRoundTrip(t *testing.T) {
	cl := sharedCluster(t)
	for _, o := range openers {
		d, err := o.open(testContext(t), cl.URL())
		require.NoError(t, err)
		c, err := core.New(Record(d))
		require.NoError(t, err)
		p := Prefix(t)
		cmds := make([]driver.Cmd, 30)
		for i := range cmds {
			cmds[i] = keyCmd("SET", fmt.Sprint(p, i), "v")
		}
		tr := Observe(t, c, func() {
			for _, r := range c.DoMulti(testContext(t), cmds) {
				require.NoError(t, r.Err())
			}
		})
		require.Equal(t, 1, tr.RoundTrips)
		require.Len(t, tr.Slots(), 30)
		require.NoError(t, c.Close())
	}
}

// sharedCluster is one Cluster for the checks: it takes 2 s to start.
func sharedCluster(t testing.TB) *Cluster {
	t.Helper()
	if os.Getenv(EnvURL) != "" {
		t.Skip("a server is given")
	}
	return StartCluster(t, 3, 0)
}
