package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// machine is a server that notes what is done to it, and when.
type machine struct {
	addr  string
	began time.Time
	mu    sync.Mutex
	saw   []string
}

func newMachine() *machine { return &machine{addr: "10.0.0.1:7001", began: time.Now()} }

func (m *machine) note(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.saw = append(m.saw, fmt.Sprint(time.Since(m.began), " ", what))
}

func (m *machine) history() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.saw, ", ")
}

func (m *machine) Addr() string      { return m.addr }
func (m *machine) Pause()            { m.note("pause") }
func (m *machine) Resume()           { m.note("resume") }
func (m *machine) Kill()             { m.note("kill") }
func (m *machine) Restart(keep bool) { m.note(fmt.Sprint("restart ", keep)) }
func (m *machine) Failover() string  { m.note("failover"); return "10.0.0.2:7001" } // as those of launchers, with a result
func (m *machine) FlushScripts()     { m.note("flush") }

func TestAScheduleKeepsItsTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		s := chaos.Run(t,
			chaos.At(3*time.Second).Kill(m).For(time.Second),
			chaos.At(time.Second).Pause(m).For(time.Second),
			chaos.At(2*time.Second).FlushScripts(m),
			chaos.At(0).Failover(m),
		)
		require.NoError(t, s.Wait())
		require.Equal(t, 4*time.Second, time.Since(m.began))
		require.Equal(t, "0s failover, 1s pause, 2s resume, 2s flush, 3s kill, 4s restart true", m.history())
		require.Equal(t, `at 0s failover 10.0.0.1:7001
at 1s pause 10.0.0.1:7001 for 1s
at 2s flush-scripts 10.0.0.1:7001
at 3s kill 10.0.0.1:7001 for 1s`, strings.Join(s.Log(), "\n"))
	})
}

func TestOverlappingStepsAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		s := chaos.Run(t,
			chaos.At(0).Pause(m).For(5*time.Second),
			chaos.At(time.Second).Pause(m).For(time.Second),
			chaos.At(4*time.Second).Pause(m).For(3*time.Second),
			chaos.At(8*time.Second).Pause(m).For(2*time.Second), // resumed at 10s, but killed by then
			chaos.At(9*time.Second).Kill(m).For(2*time.Second),
		)
		require.NoError(t, s.Wait())
		require.Equal(t, "0s pause, 7s resume, 8s pause, 9s kill, 11s restart true", m.history())
	})
}

// A step that takes long holds up none of the others: it may wait for one of them.
func TestASlowStepHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		s := chaos.Run(t,
			chaos.At(0).Pause(m).For(2*time.Second),
			chaos.At(time.Second).Do("slow", func() func() {
				time.Sleep(10 * time.Second)
				m.note("slow")
				return func() { m.note("end of slow") }
			}).For(time.Second),
		)
		require.NoError(t, s.Wait())
		require.Equal(t, "0s pause, 2s resume, 11s slow, 11s end of slow", m.history())
	})
}

func TestAllFaultsEndWithTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, dead := newMachine(), newMachine()
		px := chaos.NewDialer(t)
		ctx, cancel := context.WithCancel(t.Context())
		s, err := chaos.Start(ctx,
			chaos.At(0).Do("a", func() func() { return func() { m.note("end of a") } }),
			chaos.At(0).Pause(m),
			chaos.At(0).Kill(dead),
			chaos.At(0).BlackHole(px, chaos.ToServer),
			chaos.At(0).Pause(m).For(time.Minute),
			chaos.At(time.Hour).Failover(m),
		)
		require.NoError(t, err)
		time.Sleep(time.Second)
		cancel()
		require.ErrorIs(t, s.Wait(), context.Canceled)
		s.Stop()
		s.Stop()
		require.Equal(t, "0s pause, 1s resume, 1s end of a", m.history())
		require.Equal(t, "0s kill", dead.history(), "what is killed without For stays so")
		require.Equal(t, "# at 0s black-hole dialer to-server\n# at 1s end-of-black-hole dialer", strings.Join(px.Log(), "\n"))
		require.Contains(t, strings.Join(s.Log(), "\n"), "# at 1h0m0s failover 10.0.0.1:7001: did not begin")
	})
}

// Run ends with the test.
func TestRunEndsWithTheTest(t *testing.T) {
	m := newMachine()
	t.Run("test", func(t *testing.T) {
		began := make(chan struct{})
		chaos.Run(t, chaos.At(0).Pause(m), chaos.At(0).Do("tell", func() func() { close(began); return nil }), chaos.At(time.Hour).Failover(m))
		<-began
	})
	require.Contains(t, m.history(), "resume")
	require.NotContains(t, m.history(), "failover")
}

func TestAStepThatFailsFailsTheTestAndTheOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		tb := &recorder{TB: t}
		s := chaos.Run(tb,
			chaos.At(0).Try("gone", func() (func() error, error) { return nil, errors.New("the server is gone") }).For(time.Second),
			chaos.At(0).Do("panics", func() func() { panic("why") }),
			chaos.At(0).Do("fatal", func() func() { runtime.Goexit(); return nil }),
			chaos.At(time.Second).Try("end", func() (func() error, error) { return func() error { return errors.New("not ended") }, nil }).For(time.Second),
			chaos.At(2*time.Second).Failover(m),
		)
		err := s.Wait()
		for _, want := range []string{
			"at 0s do gone for 1s: the server is gone", "at 0s do panics: panic: why", "at 0s do fatal: it did not return", "do end for 1s: its end: not ended",
		} {
			require.ErrorContains(t, err, want)
			require.Contains(t, tb.text(), want)
			require.Contains(t, strings.Join(s.Log(), "\n"), want)
		}
		require.Equal(t, "2s failover", m.history())
	})
}

func TestSchedulesAsText(t *testing.T) {
	m := newMachine()
	px := chaos.NewDialer(t)
	node := px.Node("10.0.0.1:7002")
	do := func() func() { return nil }
	targets := map[string]any{"a b": m, "px": px, "10.0.0.1:7002": node, "fill": do, "x=y": func() {}, "nodes": several{m}}
	for text, step := range map[string]chaos.Step{
		`at 2s pause "a b" for 1s`:                        chaos.At(2 * time.Second).Pause(m).As("a b").For(time.Second),
		`at 0s kill "a b"`:                                chaos.At(0).Kill(m).As("a b"),
		`at 1ms failover "a b"`:                           chaos.At(time.Millisecond).Failover(m).As("a b"),
		`at 0s failover nodes "a b"`:                      chaos.At(0).Failover(several{m}, m).As("nodes"),
		`at 0s flush-scripts "a b"`:                       chaos.At(0).FlushScripts(m).As("a b"),
		`at 0s latency px 1ms..5ms`:                       chaos.At(0).Latency(px, time.Millisecond, 5*time.Millisecond).As("px"),
		`at 0s latency px 1ms for 2s`:                     chaos.At(0).Latency(px, time.Millisecond, time.Millisecond).As("px").For(2 * time.Second),
		`at 0s bandwidth px 1000`:                         chaos.At(0).Bandwidth(px, 1000).As("px"),
		`at 0s black-hole 10.0.0.1:7002 to-client for 1s`: chaos.At(0).BlackHole(node, chaos.ToClient).For(time.Second),
		`at 0s refuse px`:                                 chaos.At(0).Refuse(px).As("px"),
		`at 0s slow-accept px 1s`:                         chaos.At(0).SlowAccept(px, time.Second).As("px"),
		`at 0s half-open px`:                              chaos.At(0).HalfOpen(px).As("px"),
		`at 0s reset px`:                                  chaos.At(0).Reset(px).As("px"),
		`at 0s heal px`:                                   chaos.At(0).Heal(px).As("px"),
		`at 0s do fill for 1s`:                            chaos.At(0).Do("fill", do).For(time.Second),
		`at 0s do x=y`:                                    chaos.At(0).Do("x=y", do),
	} {
		require.Equal(t, strings.ReplaceAll(text, `nodes "a b"`, "nodes 10.0.0.1:7001"), step.String())
		steps, err := chaos.ParseSchedule("# why\n\n"+text+" # how\r\n", targets)
		require.NoError(t, err, text)
		require.Len(t, steps, 1)
		require.Equal(t, text, steps[0].String())
	}
	require.Equal(t, "at 0s refuse dialer", chaos.At(0).Refuse(px).String())
	require.Equal(t, "at 0s pause 10.0.0.1:7001", chaos.At(0).Pause(m).String())
	for text, want := range map[string]string{
		"\nat 2s":                     "line 2: want: at TIME ACTION TARGET",
		"on GET hang x":               "want: at TIME ACTION TARGET",
		"at noon pause px":            "at noon; want a time",
		"at -1s heal px":              "at -1s; want 0 or more",
		"at 0s pause b":               `target "b" is not known; want one of 10.0.0.1:7002, a b, fill, nodes, px, x=y`,
		"at 0s pause px":              "a *chaos.Proxy is no target for pause",
		"at 0s stop px":               `"stop" is no action; want one of pause, kill,`,
		`at 0s stop "a b"`:            `"stop" is no action`,
		`at 0s refuse "a b"`:          "a *chaos_test.machine is no target for refuse",
		"at 0s refuse px now":         `"now" after refuse`,
		"at 0s refuse px for":         `"for" after refuse`,
		"at 0s refuse px for ever":    "for ever; want a time",
		"at 0s refuse px for 0s":      "for 0s; want more than 0",
		"at 0s reset px for 1s":       "reset has no end",
		"at 0s bandwidth px":          "bandwidth wants bytes per second",
		"at 0s bandwidth px 0":        "bandwidth 0; want at least 1",
		"at 0s black-hole px":         "black-hole wants to-server, to-client or both",
		"at 0s latency px":            "latency wants a time",
		"at 0s slow-accept px":        "slow-accept wants a time",
		`at 0s failover "a b" for 1s`: "failover has no end",
		"at 0s failover px":           "failover of a *chaos.Proxy; want one with a method Failover that takes 0 arguments",
		"at 0s failover nodes":        "takes 0 arguments",
		"at 0s failover nodes px":     "takes 1 arguments such as these",
		"at 0s failover nodes b":      `target "b" is not known`,
		`at 0s pause "a b`:            "a quote is not closed",
	} {
		_, err := chaos.ParseSchedule(text, targets)
		require.ErrorContains(t, err, want, text)
	}
	for want, step := range map[string]chaos.Step{
		"step 1: an empty step":      {},
		"do without a name":          chaos.At(0).Do("", do),
		"Do: function is nil":        chaos.At(0).Do("x", nil),
		"Try: function is nil":       chaos.At(0).Try("x", nil),
		"pause of nil":               chaos.At(0).Pause(nil),
		"failover of a <nil>":        chaos.At(0).Failover(nil),
		"failover of nil":            chaos.At(0).Failover((*machine)(nil)),
		"kill of nil":                chaos.At(0).Kill((*machine)(nil)),
		"refuse of nil":              chaos.At(0).Refuse(nil),
		"has no Restart() and no Re": chaos.At(0).Kill(mortal{}).For(1),
	} {
		_, err := chaos.Start(t.Context(), step)
		require.ErrorContains(t, err, want)
	}
}

func TestRulesAndStepsInOneText(t *testing.T) {
	m := newMachine()
	targets := map[string]any{"s": m}
	script, steps, err := chaos.ParseAll("seed 7\n\tat 2s pause s for 1s # x\r\n# at 3s kill s\non INCR nth=3 lose-reply\n at 0s kill s", targets)
	require.NoError(t, err)
	require.Equal(t, "seed 7\non INCR nth=3 lose-reply\n", script.String())
	require.Len(t, steps, 2)
	require.Equal(t, "at 2s pause s for 1s", steps[0].String())
	require.Equal(t, "at 0s kill s", steps[1].String())
	for text, want := range map[string]string{
		"seed 1\nat 2s stop s":      `line 2: "stop" is no action`,
		"at 0s kill s\non GET nope": `line 2: "nope" is no fault`,
		"\n\npause s":               `line 3: "pause"; want "seed" or "on", or "at"`,
	} {
		script, steps, err := chaos.ParseAll(text, targets)
		require.ErrorContains(t, err, want)
		require.Zero(t, script)
		require.Empty(t, steps)
	}
}

type mortal struct{}

func (mortal) Kill() {}

// several are machines of which one is to be named.
type several struct{ m *machine }

func (s several) Failover(m *machine) *machine { m.note("failover of one"); return s.m }

func FuzzParseSchedule(f *testing.F) {
	f.Add("at 2s pause s for 1s\nat 0s latency n 1ms..2ms # x")
	f.Add("at 1h do f for 1ns\nat 0 black-hole n both")
	m := newMachine()
	px, err := chaos.StartDialer()
	require.NoError(f, err)
	targets := map[string]any{"s": m, "n": px, "f": func() {}, "x=\"y": m}
	f.Fuzz(func(t *testing.T, text string) {
		steps, err := chaos.ParseSchedule(text, targets)
		if err != nil {
			return
		}
		for _, s := range steps {
			again, err := chaos.ParseSchedule(s.String(), targets)
			if err != nil || len(again) != 1 || again[0].String() != s.String() {
				t.Fatalf("%s: %v %v", s, again, err)
			}
		}
	})
}

func TestFailoverCallsWhatTheLaunchersHave(t *testing.T) {
	m := newMachine()
	steps, err := chaos.ParseSchedule("at 0s failover alone\nat 1ms failover nodes alone", map[string]any{"alone": m, "nodes": several{m}})
	require.NoError(t, err)
	require.NoError(t, chaos.Run(t, steps...).Wait())
	require.Regexp(t, "^.*failover, .*failover of one$", m.history())
}

// With servers: what they do is what the schedule says.
func TestAScheduleOfServers(t *testing.T) {
	s := redisxtest.StartServer(t, redisxtest.OwnProcess())
	px := chaos.NewProxy(t, s.Addr())
	steps, err := chaos.ParseSchedule("at 0s pause primary for 50ms\nat 100ms kill primary for 10ms\nat 120ms black-hole proxy both for 20ms",
		map[string]any{"primary": s, "proxy": px})
	require.NoError(t, err)
	run := chaos.Run(t, steps...)
	require.NoError(t, run.Wait())
	pong(t, px)
	require.Equal(t, "at 0s pause primary for 50ms\nat 100ms kill primary for 10ms\nat 120ms black-hole proxy both for 20ms", strings.Join(run.Log(), "\n"))
}

// An error of several lines is several comments, so that the log can be read back.
func TestErrorsOfManyLinesAreComments(t *testing.T) {
	s, err := chaos.Start(t.Context(), chaos.At(0).Try("x", func() (func() error, error) { return nil, errors.New("a\nat b") }))
	require.NoError(t, err)
	require.ErrorContains(t, s.Wait(), "at b")
	s.Stop()
	steps, err := chaos.ParseSchedule(strings.Join(s.Log(), "\n"), map[string]any{"x": func() {}})
	require.NoError(t, err)
	require.Len(t, steps, 1)
}

// The launchers' own Failover, by the schedule, while a client writes.
func TestAFailoverOfServers(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a Sentinel and a Cluster")
	}
	t.Run("Sentinel", func(t *testing.T) {
		s := redisxtest.StartSentinel(t, 1, redisxtest.OwnProcess())
		old := s.Primary()
		steps, err := chaos.ParseSchedule("at 10ms failover sentinel", map[string]any{"sentinel": s})
		require.NoError(t, err)
		require.NoError(t, chaos.Run(t, steps...).Wait())
		require.NotEqual(t, old.Addr(), s.Primary().Addr())
	})
	t.Run("Cluster", func(t *testing.T) {
		cl := redisxtest.StartCluster(t, 3, 1, redisxtest.OwnProcess())
		old := cl.Node("a")
		run := chaos.Run(t, chaos.At(10*time.Millisecond).Failover(cl, old))
		require.NoError(t, run.Wait())
		require.NotEqual(t, old.Addr(), cl.Node("a").Addr())
		require.Contains(t, run.Log()[0], "at 10ms failover ")
		require.Contains(t, run.Log()[0], old.Addr())
	})
}
