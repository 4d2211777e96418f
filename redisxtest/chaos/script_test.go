package chaos_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

func TestGoAndTextSayTheSame(t *testing.T) {
	for text, rule := range map[string]chaos.Rule{
		"on INCR key=cnt:* nth=3 lose-reply":                  chaos.On("INCR").Key("cnt:*").Nth(3).LoseReply(),
		"on any p=0.05 latency 1ms..20ms":                     chaos.OnAny().P(0.05).LatencyBetween(time.Millisecond, 20*time.Millisecond),
		"on EVALSHA nth=1..2 times=1 latency 5ms":             chaos.On("evalsha").Between(1, 2).Times(1).Latency(5 * time.Millisecond),
		"on SET nth=4.. refuse":                               chaos.On("SET").From(4).Refuse(),
		"on script=locks.release lose-request":                chaos.OnScript("locks.release").LoseRequest(),
		`on script="a b" key="x y" hang`:                      chaos.OnScript("a b").Key("x y").Hang(),
		`on GET key="" duplicate`:                             chaos.On("GET").Key("").Duplicate(),
		`on GET key="\xff\n#" duplicate`:                      chaos.On("GET").Key("\xff\n#").Duplicate(),
		`on GET key=a=\*b duplicate`:                          chaos.On("GET").Key(`a=\*b`).Duplicate(),
		`on SET reply "OOM no"`:                               chaos.On("SET").Reply("OOM no"),
		"on message channel=orders nth=2 lose-subscription 3": chaos.OnMessage().Channel("orders").Nth(2).LoseSubscription(3),
		"on invalidation key=user:* lose-invalidation 1":      chaos.OnInvalidation().Key("user:*").LoseInvalidation(1),
		"on invalidation bug-silent-gap 2":                    chaos.OnInvalidation().BugSilentGap(2),
		"on any bug-retry":                                    chaos.OnAny().P(1).BugRetry(),
		"on GET node=10.0.0.1:7001 nth=2 hang-reply":          chaos.On("GET").Node("10.0.0.1:7001").Nth(2).HangReply(),
		"on GET key=k node=/tmp/s cut 3":                      chaos.On("GET").Key("k").Node("/tmp/s").Cut(3),
		"on message channel=c node=h:1 bug-silent-gap 1":      chaos.OnMessage().Channel("c").Node("h:1").BugSilentGap(1),
		"on GET reset":                                        chaos.On("GET").Reset(),
		"on GET bug-ignore-cancel 1s":                         chaos.On("GET").BugIgnoreCancel(time.Second),
	} {
		require.Equal(t, text, rule.String())
		require.NoError(t, rules(rule).Check(), text)
		require.Equal(t, rules(rule), parse(t, text))
	}
}

func TestParseIsLenientInForm(t *testing.T) {
	got := parse(t, "# a script\r\n\r\n  on\tget  times=2 nth=1 key=\"a\" hang # why\r\nseed 18446744073709551615\n"+
		"on SET reply OOM\non ANY reply WEIRD\non message lose-subscription#x")
	require.Equal(t, `seed 18446744073709551615
on GET key=a nth=1 times=2 hang
on SET reply "OOM command not allowed when used memory > 'maxmemory'."
on any reply "WEIRD"
on message lose-subscription 1
`, got.String())
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"seed":                               "line 1: seed wants one whole number",
		"seed -1":                            "line 1: seed wants one whole number",
		"seed 1\nseed 2":                     "line 2: a second seed",
		"\n\nat 2s pause":                    `line 3: "at"; want "seed" or "on"`,
		"on":                                 "on wants a command, any, script=NAME, message or invalidation",
		"on key=a hang":                      `key="a" after on; want a command`,
		"on GET":                             "no fault; want one of latency, reply, refuse, lose-request, lose-reply, duplicate, hang",
		"on GET los-reply":                   `"los-reply" is no fault; want one of latency,`,
		"on GET hang now":                    `"now" after hang; a fault ends its line`,
		"on GET hang nth=3":                  `nth="3" after hang; a fault ends its line, and key=, nth= and others stand before it`,
		"on GET nht=3 hang":                  "nht=; want key=, channel=, node=, nth=, p= or times=",
		"on GET nth=3 nth=4 hang":            "nth= twice",
		"on GET nth=x hang":                  "nth=x; want a number as in nth=3, nth=3.. or nth=3..5",
		"on GET nth=5..3 hang":               "nth=5..3; want numbers from 1 on",
		"on GET nth=0 hang":                  "nth=0..0; want numbers from 1 on",
		"on GET p=2 hang":                    "p=2; want more than 0 and at most 1",
		"on GET p=NaN hang":                  "p=NaN; want more than 0 and at most 1",
		"on GET p=often hang":                "p=often; want a number such as 0.05",
		"on GET times=0 hang":                "times=0; want at least 1",
		"on GET times=a hang":                "times=a; want a number",
		"on GET latency":                     "latency wants a time, such as 5ms or 1ms..20ms",
		"on GET latency 5":                   "latency wants a time",
		"on GET latency 5ms..1ms":            "latency from 5ms to 1ms",
		"on GET reply":                       "reply wants a text in quotes, or one word such as LOADING",
		"on GET reply OOM no memory":         `"no" after reply`,
		`on GET reply ""`:                    "reply without a text",
		`on GET reply "a\nb"`:                "has a line break",
		`on GET key="a hang`:                 "a quote is not closed",
		`on GET key="a"b hang`:               "after a quoted text; want a space",
		`on GET key=a"b" hang`:               `a quote inside "a"; quote all of it`,
		"on GET channel=c hang":              "a message has a channel, all others have keys",
		"on message key=c lose-subscription": "a message has a channel, all others have keys",
		"on message lose-reply":              "lose-reply does not go with message",
		"on message lose-subscription many":  `lose-subscription "many"; want how many are dropped`,
		"on message lose-subscription 0":     "want at least 1 to be dropped",
		"on GET lose-subscription":           "lose-subscription does not go with GET; want one of latency,",
		"on GET bug-ignore-cancel 1s..2s":    "bug-ignore-cancel wants a time",
		"on GET cut":                         "cut wants the number of bytes that arrive",
		"on GET cut -1":                      "cut -1; want from 0 on",
		"on GET node=h hang":                 "node=h; want host:port",
		"on message reset":                   "reset does not go with message",
		"on script= hang":                    "OnScript without a name",
	} {
		_, err := chaos.Parse(text)
		require.ErrorContains(t, err, "chaos: line ", text)
		require.ErrorContains(t, err, want, text)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("seed 42\non INCR key=cnt:* nth=3 lose-reply")
	f.Add("on script=\"a\\x00\" p=0.25 times=2 latency 1ms..1h # why")
	f.Add("on any reply \"-ERR \\u2028\"\non message channel=[ lose-subscription 2\non invalidation bug-silent-gap")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := chaos.Parse(text)
		if err != nil {
			return
		}
		if err := s.Check(); err != nil {
			t.Fatalf("parsed, but: %v", err)
		}
		again, err := chaos.Parse(s.String())
		if err != nil {
			t.Fatalf("%v\n%s", err, s)
		}
		require.Equal(t, s, again)
	})
}

func TestKeyGlobs(t *testing.T) {
	for _, c := range []struct {
		glob string
		yes  []string
		no   []string
	}{
		{"cnt:*", []string{"cnt:", "cnt:1", "cnt:a/b"}, []string{"cnt", "xcnt:1"}},
		{"*:x:*y", []string{"a:x:y", "a:x:b:x:zy"}, []string{"a:x:z", "x:y"}},
		{"h?llo", []string{"hello", "h\xffllo"}, []string{"hllo", "heello"}},
		{"h[a-c_]llo", []string{"hallo", "h_llo"}, []string{"hdllo", "h-llo"}},
		{"h[^a-c]llo", []string{"hdllo"}, []string{"hbllo", "hllo"}},
		{`a\*b`, []string{"a*b"}, []string{"axb"}},
		{`[\]]`, []string{"]"}, []string{`\`, ""}},
		{"[", nil, []string{"a", ""}},
		{`\`, []string{`\`}, []string{"a"}},
		{"*", []string{"", "a"}, nil},
		{"", []string{""}, []string{"a"}},
	} {
		d := chaos.Wrap(&stub{}, rules(chaos.On("MGET").Key(c.glob).Refuse()))
		hit := func(key string) bool {
			return d.Do(within(t), driver.Cmd{Args: []string{"MGET", "\x00none\x00", key}, Keys: driver.KeyRange(1, 2)}).Err() != nil
		}
		for _, key := range c.yes {
			require.True(t, hit(key), "%s and %q", c.glob, key)
		}
		if c.glob == "*" {
			continue // matches the other key too
		}
		for _, key := range c.no {
			require.False(t, hit(key), "%s and %q", c.glob, key)
		}
	}
	d := chaos.Wrap(&stub{}, rules(chaos.OnAny().Key("*").Refuse()))
	require.NoError(t, d.Do(within(t), driver.Cmd{Args: []string{"PING"}}).Err(), "it has no key")
}

// failing is a test that fails, and keeps what it says.
type failing struct {
	testing.TB
	cleanups []func()
	said     strings.Builder
	failed   bool
}

func (f *failing) Helper()           {}
func (f *failing) Failed() bool      { return f.failed }
func (f *failing) Cleanup(fn func()) { f.cleanups = append(f.cleanups, fn) }
func (f *failing) Log(args ...any)   { f.said.WriteString(args[0].(string)) }

func TestReport(t *testing.T) {
	for _, failed := range []bool{false, true} {
		d := chaos.Wrap(&stub{}, parse(t, "seed 3\non SET nth=2 lose-reply\non GET nth=5 hang"))
		f := &failing{TB: t}
		chaos.Report(f, d)
		_ = d.DoMulti(within(t), []driver.Cmd{cmd("SET", "a"), cmd("SET", "b"), cmd("GET", "b")})
		f.failed = failed
		for _, fn := range f.cleanups {
			fn()
		}
		if !failed {
			require.Empty(t, f.said.String())
			continue
		}
		require.Equal(t, `chaos: the script was
seed 3
on SET nth=2 lose-reply
on GET nth=5 hang
chaos: faults: 1; as a script these lines cause the same
on SET nth=2 lose-reply # "b"
chaos: this rule did nothing, of 1 matches: on GET nth=5 hang
`, f.said.String())
	}
	require.Equal(t, uint64(3), chaos.Wrap(&stub{}, chaos.Script{Seed: 3}).Script().Seed)
}
