package chaos_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// What the caller gets and what the server holds, for each fault on the second of three INCR.
func TestFaultsOnACommand(t *testing.T) {
	for _, c := range []struct {
		rule  chaos.Rule
		check func(t *testing.T, r driver.Reply)
		holds string // after the third
	}{
		{chaos.On("INCR").Nth(2).LoseReply(), func(t *testing.T, r driver.Reply) { wantUnknown(t, r.Err()) }, "3"},
		{chaos.On("incr").Nth(2).LoseRequest(), func(t *testing.T, r driver.Reply) { wantUnknown(t, r.Err()) }, "2"},
		{chaos.On("INCR").Nth(2).Refuse(), func(t *testing.T, r driver.Reply) {
			require.ErrorIs(t, r.Err(), driver.ErrNotSent)
			require.NotErrorIs(t, r.Err(), driver.ErrUnknownOutcome)
			require.ErrorIs(t, r.Err(), chaos.ErrInjected)
		}, "2"},
		{chaos.On("INCR").Nth(2).Duplicate(), func(t *testing.T, r driver.Reply) {
			n, err := r.Int64()
			require.NoError(t, err)
			require.EqualValues(t, 2, n)
		}, "4"},
		{chaos.On("INCR").Nth(2).Reply(chaos.OOM), func(t *testing.T, r driver.Reply) { wantCode(t, "OOM", r.Err()) }, "2"},
		{chaos.On("INCR").Nth(2).Reply("-WHAT ever"), func(t *testing.T, r driver.Reply) { wantCode(t, "WHAT", r.Err()) }, "2"},
		{chaos.On("INCR").Nth(2).Latency(time.Millisecond), func(t *testing.T, r driver.Reply) { require.NoError(t, r.Err()) }, "3"},
	} {
		t.Run(c.rule.String(), func(t *testing.T) {
			each(t, func(t *testing.T, plain driver.Driver) {
				d := chaos.Wrap(plain, rules(c.rule))
				require.NoError(t, d.Do(within(t), cmd("INCR", "n")).Err())
				c.check(t, d.Do(within(t), cmd("INCR", "n")))
				require.NoError(t, d.Do(within(t), cmd("INCR", "n")).Err())
				require.Equal(t, c.holds, get(t, plain, "n"))
				require.Len(t, d.Log(), 1)
			})
		})
	}
}

func TestLatencyHoldsTheCommandBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := chaos.Wrap(&stub{}, rules(chaos.On("GET").Latency(20*time.Millisecond), chaos.OnAny().Latency(time.Second)))
		start := time.Now()
		require.NoError(t, d.Do(within(t), cmd("GET", "k")).Err())
		require.Equal(t, 1020*time.Millisecond, time.Since(start), "latencies of two rules add up")
		start = time.Now()
		_ = d.DoMulti(within(t), []driver.Cmd{cmd("GET", "k"), cmd("SET", "k", "v")})
		require.Equal(t, 2020*time.Millisecond, time.Since(start), "and those of a list")
	})
}

// A wait caused by a fault ends with ctx, at once and in the words of the contract, and nothing is run afterwards.
func TestWaitsEndWithTheirContext(t *testing.T) {
	for _, rule := range []chaos.Rule{chaos.On("SET").Hang(), chaos.On("SET").Latency(time.Hour)} {
		t.Run(rule.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stub{}
				d := chaos.Wrap(s, rules(rule))
				cancelled, cancel := context.WithCancel(context.Background())
				time.AfterFunc(time.Second, cancel)
				start := time.Now()
				err := d.Do(cancelled, cmd("SET", "k", "v")).Err()
				require.Equal(t, time.Second, time.Since(start))
				require.ErrorIs(t, err, context.Canceled)
				wantUnknown(t, err)

				start = time.Now()
				set := []driver.Cmd{cmd("SET", "k", "v"), cmd("SET", "k", "v")}
				for _, r := range d.DoMulti(driver.UntilDeadline(time.Now().Add(time.Second)), set) {
					require.ErrorIs(t, r.Err(), context.DeadlineExceeded)
					wantUnknown(t, r.Err())
				}
				require.Equal(t, time.Second, time.Since(start))
				require.Empty(t, s.seen)
			})
		})
	}
}

// A reply that hangs belongs to a command that was run.
func TestHangReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{}
		d := chaos.Wrap(s, rules(chaos.On("SET").Nth(2).HangReply()))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		replies := d.DoMulti(ctx, []driver.Cmd{cmd("SET", "k"), cmd("SET", "k"), cmd("GET", "k")})
		require.Equal(t, time.Second, time.Since(start))
		require.NoError(t, replies[0].Err())
		wantUnknown(t, replies[1].Err())
		wantUnknown(t, replies[2].Err())
		require.Equal(t, []string{"SET", "SET", "GET"}, s.seen)
	})
}

// One that ended before the call sends nothing, is known to, and does not count.
func TestEndedContextIsNoMatch(t *testing.T) {
	each(t, func(t *testing.T, plain driver.Driver) {
		d := chaos.Wrap(plain, rules(chaos.On("SET").Nth(1).LoseReply()))
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		require.ErrorIs(t, d.Do(ctx, cmd("SET", "k", "v")).Err(), driver.ErrNotSent)
		require.ErrorIs(t, d.DoMulti(ctx, []driver.Cmd{cmd("SET", "k", "v")})[0].Err(), driver.ErrNotSent)
		wantUnknown(t, d.Do(within(t), cmd("SET", "k", "v")).Err())
	})
}

func TestInvalidCommandsAreNoMatch(t *testing.T) {
	each(t, func(t *testing.T, plain driver.Driver) {
		d := chaos.Wrap(plain, rules(chaos.OnAny().LoseReply()))
		require.ErrorIs(t, d.Do(within(t), driver.Cmd{}).Err(), driver.ErrInvalid)
		for _, r := range d.DoMulti(within(t), []driver.Cmd{cmd("SET", "k", "v"), {Args: []string{"MULTI"}}}) {
			require.ErrorIs(t, r.Err(), driver.ErrInvalid)
		}
		require.Empty(t, d.Log())
	})
}

func TestClosedDriver(t *testing.T) {
	each(t, func(t *testing.T, plain driver.Driver) {
		d := chaos.Wrap(plain, rules(chaos.On("GET").Hang(), chaos.OnAny().LoseReply()))
		hung := make(chan error, 1)
		go func() { hung <- d.Do(context.Background(), cmd("GET", "k")).Err() }()
		require.Eventually(t, func() bool { return len(d.Log()) == 1 }, 10*time.Second, time.Millisecond)
		require.NoError(t, d.Close())
		require.ErrorIs(t, <-hung, driver.ErrClosed)
		require.NoError(t, d.Close())
		require.ErrorIs(t, d.Do(within(t), cmd("SET", "k", "v")).Err(), driver.ErrClosed)
		require.ErrorIs(t, d.DoMulti(within(t), []driver.Cmd{cmd("SET", "k", "v")})[0].Err(), driver.ErrClosed)
		_, err := d.Caps(within(t))
		require.ErrorIs(t, err, driver.ErrClosed)
		require.ErrorIs(t, d.(driver.Subscriber).Subscribe(within(t), driver.Subscription{Channels: []string{"c"}}), driver.ErrClosed)
		require.ErrorIs(t, d.(driver.Tracker).Track(within(t), driver.Tracking{Prefixes: []string{"p"}}), driver.ErrClosed)
		_, err = d.(driver.Dedicated).Dedicate(within(t), "k")
		require.ErrorIs(t, err, driver.ErrClosed)
		require.Len(t, d.Log(), 1)
	})
}

// Lists: a connection that breaks takes with it what comes later.
func TestFaultsInAPipeline(t *testing.T) {
	incrs := []driver.Cmd{cmd("INCR", "a"), cmd("INCR", "b"), cmd("INCR", "c")}
	for _, c := range []struct {
		rule  chaos.Rule
		want  [3]string // per reply: "ok", "unknown", "not sent" or a code
		holds [3]string
	}{
		{chaos.On("INCR").Nth(2).LoseReply(), [3]string{"ok", "unknown", "unknown"}, [3]string{"1", "1", "1"}},
		{chaos.On("INCR").Nth(2).LoseRequest(), [3]string{"ok", "unknown", "unknown"}, [3]string{"1", "nothing", "nothing"}},
		{chaos.On("INCR").Nth(2).Refuse(), [3]string{"not sent", "not sent", "not sent"}, [3]string{"nothing", "nothing", "nothing"}},
		{chaos.On("INCR").Nth(2).Reply(chaos.ReadOnly), [3]string{"ok", "READONLY", "ok"}, [3]string{"1", "nothing", "1"}},
		{chaos.On("INCR").Nth(2).Duplicate(), [3]string{"ok", "ok", "ok"}, [3]string{"1", "2", "1"}},
		{chaos.On("INCR").Key("b").Latency(time.Millisecond), [3]string{"ok", "ok", "ok"}, [3]string{"1", "1", "1"}},
	} {
		t.Run(c.rule.String(), func(t *testing.T) {
			each(t, func(t *testing.T, plain driver.Driver) {
				d := chaos.Wrap(plain, rules(c.rule))
				rs := d.DoMulti(within(t), incrs)
				require.Len(t, rs, 3)
				for i, r := range rs {
					switch c.want[i] {
					case "ok":
						n, err := r.Int64()
						require.NoError(t, err)
						require.EqualValues(t, 1, n)
					case "unknown":
						wantUnknown(t, r.Err())
					case "not sent":
						require.ErrorIs(t, r.Err(), driver.ErrNotSent)
					default:
						wantCode(t, c.want[i], r.Err())
					}
				}
				require.Equal(t, c.holds, [3]string{get(t, plain, "a"), get(t, plain, "b"), get(t, plain, "c")})
			})
		})
	}
}

func TestHangInAPipeline(t *testing.T) {
	s := &stub{}
	d := chaos.Wrap(s, rules(chaos.On("B").Hang()))
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		for s.count() == 0 {
			time.Sleep(time.Millisecond)
		}
	}()
	rs := d.DoMulti(ctx, []driver.Cmd{cmd("A"), cmd("B"), cmd("C")})
	require.NoError(t, rs[0].Err(), "its reply had come")
	for _, r := range rs[1:] {
		wantUnknown(t, r.Err())
		require.ErrorIs(t, r.Err(), context.Canceled)
	}
	require.Equal(t, []string{"A"}, s.seen)
}

// What broke the connection first decides; faults behind it still say what of the rest arrived.
func TestSeveralFaultsInAPipeline(t *testing.T) {
	s := &stub{}
	d := chaos.Wrap(s, rules(chaos.On("B").LoseReply(), chaos.On("C").Duplicate(), chaos.On("D").Reply(chaos.Busy),
		chaos.On("E").LoseRequest(), chaos.On("F").Hang()))
	rs := d.DoMulti(context.Background(), []driver.Cmd{cmd("A"), cmd("B"), cmd("C"), cmd("D"), cmd("E"), cmd("F")})
	require.NoError(t, rs[0].Err())
	for _, r := range rs[1:] {
		wantUnknown(t, r.Err())
		require.ErrorContains(t, r.Err(), "reply lost")
	}
	require.Equal(t, []string{"A", "B", "C", "C"}, s.seen)
	require.Len(t, d.Log(), 5)
}

// In a Cluster the list for another node is not touched.
func TestFaultsInAPipelineStayOnTheirNode(t *testing.T) {
	s := &routed{}
	d := chaos.Wrap(s, rules(chaos.On("SET").Key("a1").LoseRequest()))
	rs := d.DoMulti(context.Background(), []driver.Cmd{cmd("SET", "b1", ""), cmd("SET", "a1", ""), cmd("SET", "b2", ""), cmd("SET", "a2", "")})
	require.NoError(t, rs[0].Err())
	wantUnknown(t, rs[1].Err())
	require.NoError(t, rs[2].Err())
	wantUnknown(t, rs[3].Err())
}

// routed has two nodes, named by the first letter of a key.
type routed struct{ stub }

func (*routed) Node(key string) string { return key[:1] }

func TestBlockingCommands(t *testing.T) {
	each(t, func(t *testing.T, plain driver.Driver) {
		d := chaos.Wrap(plain, rules(chaos.On("BLPOP").Nth(1).LoseReply(), chaos.On("BLPOP").Duplicate()))
		require.NoError(t, plain.Do(within(t), cmd("RPUSH", "l", "1", "2", "3")).Err())
		pop := driver.Cmd{Args: []string{"BLPOP", "l", "0"}, Keys: driver.Key(1), Mode: driver.Blocking}
		wantUnknown(t, d.Do(within(t), pop).Err())
		got, err := d.Do(within(t), pop).Strings()
		require.NoError(t, err)
		require.Equal(t, []string{"l", "2"}, got, "the lost reply took one; a Blocking command is not delivered twice")
		got, err = d.Do(within(t), pop).Strings()
		require.NoError(t, err)
		require.Equal(t, []string{"l", "3"}, got)

		// A fault on the reply leaves the end of ctx what it is.
		d = chaos.Wrap(plain, rules(chaos.On("BLPOP").LoseReply()))
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, d.Do(ctx, pop).Err(), context.DeadlineExceeded)
	})
}

func TestScriptsGoByName(t *testing.T) {
	each(t, func(t *testing.T, plain driver.Driver) {
		add := driver.NewScript("counter.add", "return redis.call('INCRBY', KEYS[1], ARGV[1])")
		other := driver.NewScript("counter.other", "return redis.call('DECR', KEYS[1])")
		d := chaos.Wrap(plain, parse(t, "on script=counter.add nth=2 duplicate\non EVALSHA nth=4 reply NOSCRIPT"))
		for range 2 {
			require.NoError(t, d.Do(within(t), add.Cmd([]string{"n"}, []string{"10"})).Err())
		}
		require.NoError(t, d.Do(within(t), other.Cmd([]string{"n"}, nil)).Err())
		require.Equal(t, "29", get(t, plain, "n"))
		wantCode(t, "NOSCRIPT", d.Do(within(t), add.Cmd([]string{"n"}, []string{"10"})).Err())
		require.Equal(t, []string{
			`on script=counter.add nth=2 duplicate # "n"`,
			`on EVALSHA nth=4 reply "NOSCRIPT No matching script. Please use EVAL." # "n"`,
		}, d.Log())
	})
}

func TestCalmAndStorm(t *testing.T) {
	d := chaos.Wrap(&stub{}, rules(chaos.On("SET").Nth(2).LoseReply(), chaos.On("SET").From(3).Refuse()))
	require.NoError(t, d.Do(within(t), cmd("SET", "k", "v")).Err())
	d.Calm()
	require.NoError(t, d.Do(within(t), cmd("SET", "k", "v")).Err(), "calm")
	require.NoError(t, d.Do(within(t), cmd("SET", "k", "v")).Err(), "calm")
	require.Empty(t, d.Log())
	d.Storm()
	require.ErrorIs(t, d.Do(within(t), cmd("SET", "k", "v")).Err(), driver.ErrNotSent)
	require.Equal(t, []string{`on SET nth=4 refuse # "k"`}, d.Log(), "calm counts")
}

func TestBugRetry(t *testing.T) {
	each(t, func(t *testing.T, plain driver.Driver) {
		d := chaos.Wrap(plain, rules(chaos.On("INCR").Nth(2).LoseReply(), chaos.On("INCR").BugRetry()))
		for i, want := range []int64{1, 3} {
			n, err := d.Do(within(t), cmd("INCR", "n")).Int64()
			require.NoError(t, err)
			require.Equal(t, want, n, "call %d", i)
		}
		require.Equal(t, []string{`on INCR nth=2 lose-reply # "n"`, `on INCR nth=2 bug-retry # "n"`}, d.Log())
	})
}

func TestBugIgnoreCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := chaos.Wrap(&stub{}, rules(chaos.On("GET").BugIgnoreCancel(time.Second), chaos.On("GET").Hang()))
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		require.ErrorIs(t, d.Do(ctx, cmd("GET", "k")).Err(), context.Canceled)
		require.Equal(t, 2*time.Second, time.Since(start))
	})
}

// A wrong script, or no driver, is told by every call: it must not pass for one without faults.
func TestMistakesAreTold(t *testing.T) {
	bad := rules(chaos.On("GET").Nth(0).LoseReply(), chaos.On("GET").Nth(1).Hang(), chaos.OnMessage().LoseReply())
	require.EqualError(t, bad.Check(), `chaos: rule 1: nth=0..0; want numbers from 1 on, the smaller first
chaos: rule 3: lose-reply does not go with message; want lose-subscription or bug-silent-gap`)
	f := redisxtest.NewFake(t)
	for name, d := range map[string]chaos.Driver{
		"script": chaos.Wrap(f.Client().Driver(), bad), "nil": chaos.Wrap(nil, chaos.Script{}),
		"nil in an interface": chaos.Wrap((*stub)(nil), chaos.Script{}),
	} {
		require.ErrorContains(t, d.Do(within(t), cmd("GET", "k")).Err(), "chaos: ", name)
		require.ErrorContains(t, d.DoMulti(within(t), []driver.Cmd{cmd("GET", "k")})[0].Err(), "chaos: ", name)
		_, err := d.Caps(within(t))
		require.ErrorContains(t, err, "chaos: ", name)
		if s, ok := d.(driver.Subscriber); ok {
			require.ErrorContains(t, s.Subscribe(within(t), driver.Subscription{Channels: []string{"c"}}), "chaos: ", name)
		}
		require.NoError(t, d.Close(), name)
	}
	for _, rule := range []chaos.Rule{
		{}, chaos.On("").Hang(), chaos.On("CLIENT ID").Hang(), chaos.On("any").Hang(), chaos.OnScript("").Hang(), chaos.On("GET").P(0).Hang(),
		chaos.On("GET").P(1.1).Hang(), chaos.On("GET").Times(0).Hang(), chaos.On("GET").Between(3, 2).Hang(), chaos.On("GET").From(0).Hang(),
		chaos.On("GET").Channel("c").Hang(), chaos.OnMessage().Key("c").LoseSubscription(1), chaos.OnMessage().LoseSubscription(0),
		chaos.OnInvalidation().LoseSubscription(1), chaos.On("GET").BugSilentGap(1), chaos.On("GET").Latency(0), chaos.On("GET").LatencyBetween(2, 1),
		chaos.On("GET").LatencyBetween(-1, 1), chaos.On("GET").Reply(""), chaos.On("GET").Reply("ERR a\r\nb"), chaos.On("GET").BugIgnoreCancel(0),
	} {
		require.Error(t, rules(rule).Check(), rule.String())
	}
}
