package redisxtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// step is an operation of a written history: its times in milliseconds, ret 0 for an unknown outcome.
type step[In comparable, Out any] struct {
	call, ret int
	in        In
	out       Out
}

// written makes a history of steps; each has a client of its own.
func written[In comparable, Out any](steps []step[In, Out]) *History[In, Out] {
	h := &History[In, Out]{start: time.Now()}
	for i, s := range steps {
		op := &operation[In, Out]{client: i, in: s.in, call: int64(s.call) * int64(time.Millisecond), out: Outcome[Out]{Unknown: true}}
		if s.ret > 0 {
			op.ret, op.out = int64(s.ret)*int64(time.Millisecond), Outcome[Out]{Value: s.out}
		}
		h.ops = append(h.ops, op)
	}
	return h
}

// linearTable checks written histories.
type linearTable[In comparable, Out any] map[string]struct {
	right bool
	steps []step[In, Out]
}

func runTable[S, In comparable, Out any](t *testing.T, m Model[S, In, Out], table linearTable[In, Out]) {
	for name, c := range table {
		t.Run(name, func(t *testing.T) {
			var ok bool
			r := record(t, func(t testing.TB) { ok = Linearizable(t, written(c.steps), m) })
			require.Equal(t, c.right, ok, r.text())
			require.Equal(t, !c.right, r.failed, r.text())
			if !c.right {
				require.Contains(t, r.text(), "is not linearizable")
			}
		})
	}
}

func TestRegisterModel(t *testing.T) {
	type steps = []step[RegisterCall, RegisterResult]
	write := func(call, ret int, v string) step[RegisterCall, RegisterResult] {
		return step[RegisterCall, RegisterResult]{call, ret, RegisterCall{Op: OpWrite, Key: "k", Value: v}, RegisterResult{}}
	}
	read := func(call, ret int, v string) step[RegisterCall, RegisterResult] {
		return step[RegisterCall, RegisterResult]{call, ret, RegisterCall{Op: OpRead, Key: "k"}, RegisterResult{Value: v, Found: v != ""}}
	}
	cas := func(call, ret int, old, v string, ok bool) step[RegisterCall, RegisterResult] {
		return step[RegisterCall, RegisterResult]{call, ret, RegisterCall{Op: OpCAS, Key: "k", Old: old, Value: v}, RegisterResult{Swapped: ok}}
	}
	other := write(1, 2, "z")
	other.in.Key = "other"
	runTable(t, RegisterModel(), linearTable[RegisterCall, RegisterResult]{
		"read what was written":         {true, steps{write(1, 2, "a"), read(3, 4, "a")}},
		"nothing at first":              {true, steps{read(1, 2, ""), write(3, 4, "a")}},
		"a value out of nowhere":        {false, steps{read(1, 2, "a"), write(3, 4, "a")}},
		"stale":                         {false, steps{write(1, 2, "a"), write(3, 4, "b"), read(5, 6, "a")}},
		"either, side by side":          {true, steps{write(1, 4, "a"), write(2, 5, "b"), read(6, 7, "a")}},
		"back and forth":                {false, steps{write(1, 10, "a"), write(1, 10, "b"), read(11, 12, "a"), read(13, 14, "b")}},
		"new and then old":              {false, steps{write(1, 2, "a"), write(3, 10, "b"), read(4, 5, "b"), read(6, 7, "a")}},
		"lost write":                    {false, steps{write(1, 2, "a"), read(3, 4, "")}},
		"unknown write, seen late":      {true, steps{write(1, 2, "a"), write(3, 0, "b"), read(4, 5, "a"), read(6, 7, "b")}},
		"unknown write, never seen":     {true, steps{write(1, 2, "a"), write(3, 0, "b"), read(4, 5, "a")}},
		"unknown write, seen and gone":  {false, steps{write(1, 2, "a"), write(3, 0, "b"), read(4, 5, "b"), read(6, 7, "a")}},
		"seen before it was written":    {false, steps{read(1, 2, "b"), write(3, 0, "b")}},
		"swap":                          {true, steps{write(1, 2, "a"), cas(3, 4, "a", "b", true), cas(5, 6, "a", "c", false), read(7, 8, "b")}},
		"two swaps of one value":        {false, steps{write(1, 2, "a"), cas(3, 6, "a", "b", true), cas(3, 6, "a", "c", true)}},
		"swap refused for no reason":    {false, steps{write(1, 2, "a"), cas(3, 4, "a", "b", false)}},
		"swap of nothing":               {false, steps{cas(3, 4, "", "b", true)}},
		"unknown swap, seen":            {true, steps{write(1, 2, "a"), cas(3, 0, "a", "b", false), read(4, 5, "b")}},
		"unknown swap that cannot have": {false, steps{write(1, 2, "a"), cas(3, 0, "x", "b", false), read(4, 5, "b")}},
		"keys are apart":                {true, steps{other, read(3, 4, "")}},
	})
}

func TestCounterModel(t *testing.T) {
	type steps = []step[CounterCall, int64]
	incr := func(call, ret int, n int64) step[CounterCall, int64] {
		return step[CounterCall, int64]{call, ret, CounterCall{Op: OpIncr, Key: "k", By: 1}, n}
	}
	get := func(call, ret int, n int64) step[CounterCall, int64] {
		return step[CounterCall, int64]{call, ret, CounterCall{Op: OpGet, Key: "k"}, n}
	}
	runTable(t, CounterModel(), linearTable[CounterCall, int64]{
		"one after another":             {true, steps{incr(1, 2, 1), incr(3, 4, 2), get(5, 6, 2)}},
		"side by side":                  {true, steps{incr(1, 5, 2), incr(2, 6, 1)}},
		"twice the same":                {false, steps{incr(1, 5, 1), incr(2, 6, 1)}},
		"order of time":                 {false, steps{incr(1, 2, 2), incr(3, 4, 1)}},
		"applied twice":                 {false, steps{incr(1, 2, 2)}},
		"lost":                          {false, steps{incr(1, 2, 1), get(3, 4, 0)}},
		"unknown, applied":              {true, steps{incr(1, 0, 0), incr(2, 3, 2)}},
		"unknown, not applied":          {true, steps{incr(1, 0, 0), incr(2, 3, 1)}},
		"unknown, applied late":         {true, steps{incr(1, 0, 0), incr(2, 3, 1), get(4, 5, 2)}},
		"unknown, applied twice":        {false, steps{incr(1, 0, 0), incr(2, 3, 3)}},
		"unknown, before it was called": {false, steps{incr(1, 2, 2), incr(3, 0, 0)}},
	})
}

func TestIdempotencyModel(t *testing.T) {
	type steps = []step[IdempotencyCall, IdempotencyResult]
	run := func(call, ret int, v, got string, replayed bool) step[IdempotencyCall, IdempotencyResult] {
		return step[IdempotencyCall, IdempotencyResult]{call, ret, IdempotencyCall{"k", v}, IdempotencyResult{got, replayed}}
	}
	runTable(t, IdempotencyModel(), linearTable[IdempotencyCall, IdempotencyResult]{
		"first and replay":                  {true, steps{run(1, 2, "a", "a", false), run(3, 4, "b", "a", true)}},
		"one wins":                          {true, steps{run(1, 5, "a", "b", true), run(2, 6, "b", "b", false)}},
		"both win":                          {false, steps{run(1, 5, "a", "a", false), run(2, 6, "b", "b", false)}},
		"a replay of nothing":               {false, steps{run(1, 2, "a", "a", true)}},
		"another result":                    {false, steps{run(1, 2, "a", "a", false), run(3, 4, "b", "c", true)}},
		"a replay as first":                 {false, steps{run(1, 2, "a", "a", false), run(3, 4, "b", "a", false)}},
		"the later one wins":                {false, steps{run(1, 2, "a", "b", true), run(3, 4, "b", "b", false)}},
		"unknown, it counted":               {true, steps{run(1, 0, "a", "", false), run(2, 3, "b", "a", true)}},
		"unknown, it did not":               {true, steps{run(1, 0, "a", "", false), run(2, 3, "b", "b", false)}},
		"unknown, it counted and did not":   {false, steps{run(1, 0, "a", "", false), run(2, 3, "b", "a", true), run(4, 5, "c", "c", false)}},
		"unknown, seen before it was begun": {false, steps{run(1, 2, "b", "a", true), run(3, 0, "a", "", false)}},
	})
}

func TestLockModel(t *testing.T) {
	type lockStep = step[LockCall, LockResult]
	type steps = []lockStep
	op := func(what Op, call, ret int, owner string, ttl int, ok bool, fence uint64) lockStep {
		return lockStep{call, ret, LockCall{what, "k", owner, time.Duration(ttl) * time.Millisecond}, LockResult{OK: ok, Fence: fence}}
	}
	acquire := func(call, ret int, owner string, ttl int, fence uint64) lockStep {
		return op(OpAcquire, call, ret, owner, ttl, fence > 0, fence)
	}
	release := func(call, ret int, owner string, ok bool) lockStep { return op(OpRelease, call, ret, owner, 0, ok, 0) }
	extend := func(call, ret int, owner string, ttl int, ok bool) lockStep {
		return op(OpExtend, call, ret, owner, ttl, ok, 0)
	}
	runTable(t, LockModel(), linearTable[LockCall, LockResult]{
		"one after the other":             {true, steps{acquire(1, 2, "a", 100, 1), release(3, 4, "a", true), acquire(5, 6, "b", 100, 2)}},
		"refused meanwhile":               {true, steps{acquire(1, 2, "a", 100, 1), acquire(3, 4, "b", 100, 0), release(5, 6, "a", true)}},
		"a refusal says nothing":          {true, steps{acquire(1, 2, "b", 100, 0), acquire(3, 4, "a", 100, 1)}},
		"two holders":                     {false, steps{acquire(1, 2, "a", 100, 1), acquire(3, 4, "b", 100, 2)}},
		"two holders, no end":             {false, steps{acquire(1, 2, "a", 0, 1), acquire(300, 400, "b", 100, 2)}},
		"after the lease":                 {true, steps{acquire(1, 2, "a", 100, 1), acquire(103, 104, "b", 100, 2)}},
		"too early":                       {false, steps{acquire(10, 20, "a", 100, 1), acquire(50, 100, "b", 100, 2)}},
		"waited for the lease":            {true, steps{acquire(10, 20, "a", 100, 1), acquire(50, 111, "b", 100, 2)}},
		"clocks have a grain":             {true, steps{acquire(10, 20, "a", 100, 1), acquire(50, 109, "b", 100, 2)}},
		"unknown, extended, too early":    {false, steps{acquire(1, 0, "a", 20, 1), extend(10, 11, "a", 100, true), acquire(50, 51, "b", 100, 2)}},
		"the same fence":                  {false, steps{acquire(1, 2, "a", 100, 7), release(3, 4, "a", true), acquire(5, 6, "b", 100, 7)}},
		"a lower fence after the lease":   {false, steps{acquire(1, 2, "a", 100, 7), acquire(203, 204, "b", 100, 6)}},
		"fences side by side":             {true, steps{acquire(1, 9, "a", 100, 2), release(10, 11, "a", true), acquire(1, 9, "b", 3, 1)}},
		"no fences":                       {true, steps{op(OpAcquire, 1, 2, "a", 100, true, 0), release(3, 4, "a", true), op(OpAcquire, 5, 6, "b", 100, true, 0)}},
		"no fences, two holders":          {false, steps{op(OpAcquire, 1, 2, "a", 100, true, 0), op(OpAcquire, 5, 6, "b", 100, true, 0)}},
		"extended":                        {false, steps{acquire(1, 2, "a", 100, 1), extend(50, 51, "a", 100, true), acquire(120, 121, "b", 100, 2)}},
		"after the extension":             {true, steps{acquire(1, 2, "a", 100, 1), extend(50, 51, "a", 100, true), acquire(152, 153, "b", 100, 2)}},
		"made shorter":                    {true, steps{acquire(1, 2, "a", 100, 1), extend(10, 11, "a", 20, true), acquire(40, 41, "b", 100, 2)}},
		"perhaps made shorter":            {true, steps{acquire(1, 2, "a", 100, 1), extend(10, 0, "a", 20, true), acquire(40, 41, "b", 100, 2)}},
		"perhaps extended":                {true, steps{acquire(1, 2, "a", 100, 1), extend(50, 0, "a", 100, true), acquire(120, 121, "b", 100, 2)}},
		"perhaps extended, and too early": {false, steps{acquire(1, 2, "a", 100, 1), extend(50, 0, "a", 100, true), acquire(60, 61, "b", 100, 2)}},
		"extended after the end":          {true, steps{acquire(1, 2, "a", 100, 1), extend(200, 201, "a", 100, false), acquire(202, 203, "b", 100, 2)}},
		"extended what another holds":     {false, steps{acquire(1, 2, "a", 100, 1), acquire(150, 151, "b", 100, 2), extend(152, 153, "a", 100, true)}},
		"lost too early":                  {false, steps{acquire(1, 2, "a", 100, 1), extend(50, 51, "a", 100, false)}},
		"released what it had lost":       {true, steps{acquire(1, 2, "a", 100, 1), acquire(150, 151, "b", 100, 2), release(152, 153, "a", false)}},
		"released another's":              {false, steps{acquire(1, 2, "a", 100, 1), acquire(150, 151, "b", 100, 2), release(152, 153, "a", true)}},
		"released twice":                  {false, steps{acquire(1, 2, "a", 100, 1), release(3, 4, "a", true), release(5, 6, "a", true)}},
		"release refused though held":     {false, steps{acquire(1, 2, "a", 100, 1), release(3, 4, "a", false)}},
		"unknown release, done":           {true, steps{acquire(1, 2, "a", 100, 1), release(3, 0, "a", true), acquire(5, 6, "b", 100, 2)}},
		"unknown release, of another":     {false, steps{acquire(1, 2, "a", 100, 1), release(3, 0, "c", true), acquire(5, 6, "b", 100, 2)}},
		"unknown acquisition, nothing":    {true, steps{acquire(1, 0, "a", 100, 1), acquire(5, 6, "b", 100, 1)}},
		"unknown acquisition, held":       {true, steps{acquire(1, 0, "a", 100, 1), release(3, 4, "a", true), acquire(5, 6, "b", 100, 2)}},
		"it took a fence":                 {false, steps{acquire(1, 0, "a", 100, 1), release(3, 4, "a", true), acquire(5, 6, "b", 100, 1)}},
		"unknown, held, two holders":      {false, steps{acquire(1, 0, "a", 100, 1), extend(3, 4, "a", 100, true), acquire(5, 6, "b", 100, 2), release(7, 8, "a", true)}},
		"unknown, then its lease ran out": {true, steps{acquire(1, 0, "a", 100, 1), extend(3, 4, "a", 100, true), acquire(150, 151, "b", 100, 2)}},
	})

	// What the owner may rely on goes before what it asked for: it waited for 500 ms and then got 100.
	for at, right := range map[int]bool{550: false, 620: true} {
		h := written(steps{acquire(1, 501, "a", 100, 1), acquire(at, at+1, "b", 100, 2)})
		h.ops[0].out.Value.Until = h.start.Add(600 * time.Millisecond)
		r := record(t, func(t testing.TB) { Linearizable(t, h, LockModel()) })
		require.Equal(t, !right, r.failed, r.text())
	}
	for name, s := range map[string]steps{
		"the same owner twice": {acquire(1, 2, "a", 100, 1), acquire(3, 4, "a", 100, 2)},
		"extends nothing":      {extend(1, 2, "a", 100, true)},
		"no owner":             {acquire(1, 2, "", 100, 1)},
		"a negative TTL":       {acquire(1, 2, "a", -100, 1)},
		"another operation":    {op("incr", 1, 2, "a", 1, true, 0)},
	} {
		r := record(t, func(t testing.TB) { Linearizable(t, written(s), LockModel()) })
		require.True(t, r.failed, name)
		require.NotContains(t, r.text(), "not linearizable", name)
	}
}

// bruteForce tries every order. It knows nothing of the tricks of the checker.
func bruteForce[S comparable, In comparable, Out any](m Model[S, In, Out], state S, left []*operation[In, Out]) bool {
	known := false
	for i, op := range left {
		known = known || !op.out.Unknown
		first := true
		for _, o := range left {
			first = first && (o.out.Unknown || o.ret >= op.call)
		}
		if !first {
			continue
		}
		rest := append(append([]*operation[In, Out]{}, left[:i]...), left[i+1:]...)
		if next, ok := m.Step(state, op.in, op.out); ok && bruteForce(m, next, rest) {
			return true
		}
	}
	return !known // what is unknown need not have happened
}

// randomly compares the checker with brute force on small histories, which are made by running the model with a few lies.
func randomly[S, In comparable, Out any](t *testing.T, m Model[S, In, Out], in func(r *rand.Rand) In, out func(r *rand.Rand) Out) {
	const histories = 4000
	right := 0
	for seed := range uint64(histories) {
		r := rand.New(rand.NewPCG(seed, 1))
		ops := make([]*operation[In, Out], 2+r.IntN(5))
		for i := range ops {
			op := &operation[In, Out]{client: i, in: in(r), call: int64(r.IntN(20)), out: Outcome[Out]{Value: out(r)}}
			op.ret = op.call + 1 + int64(r.IntN(8))
			if r.IntN(4) == 0 {
				op.ret, op.out = 0, Outcome[Out]{Unknown: true}
			}
			ops[i] = op
		}
		want := bruteForce(m, m.Init, ops)
		got := m.check(ops, time.Minute)
		if want {
			right++
		}
		if want != (got == "Ok") {
			for _, op := range byCall(ops) {
				t.Logf("%d to %d %s", op.call, op.ret, m.show(op))
			}
			t.Fatalf("seed %d: brute force says %v, the checker %v", seed, want, got)
		}
	}
	t.Logf("%d of %d are linearizable", right, histories)
	require.Greater(t, right, histories/100, "the histories are too wrong to show anything")
	require.Less(t, right, histories*99/100, "the histories are too right to show anything")
}

func TestTheCheckerAgreesWithBruteForce(t *testing.T) {
	t.Run("register", func(t *testing.T) {
		values := []string{"a", "b"}
		randomly(t, RegisterModel(), func(r *rand.Rand) RegisterCall {
			return RegisterCall{Op: []Op{OpRead, OpWrite, OpCAS}[r.IntN(3)], Value: values[r.IntN(2)], Old: values[r.IntN(2)]}
		}, func(r *rand.Rand) RegisterResult {
			return RegisterResult{Value: values[r.IntN(2)], Found: r.IntN(4) > 0, Swapped: r.IntN(2) == 0}
		})
	})
	t.Run("counter", func(t *testing.T) {
		randomly(t, CounterModel(), func(r *rand.Rand) CounterCall {
			return CounterCall{Op: []Op{OpGet, OpIncr, OpIncr}[r.IntN(3)], By: 1}
		}, func(r *rand.Rand) int64 { return int64(r.IntN(4)) })
	})
	t.Run("idempotency", func(t *testing.T) {
		randomly(t, IdempotencyModel(), func(r *rand.Rand) IdempotencyCall {
			return IdempotencyCall{Value: []string{"a", "b"}[r.IntN(2)]}
		}, func(r *rand.Rand) IdempotencyResult {
			return IdempotencyResult{[]string{"a", "b"}[r.IntN(2)], r.IntN(3) > 0}
		})
	})
	t.Run("lock", func(t *testing.T) { // with ends of leases as operations like the others
		randomly(t, LockModel(), func(r *rand.Rand) LockCall {
			return LockCall{Op: []Op{OpAcquire, OpAcquire, OpExtend, OpRelease, opExpire}[r.IntN(5)], Owner: []string{"a", "b"}[r.IntN(2)]}
		}, func(r *rand.Rand) LockResult { return LockResult{OK: r.IntN(2) == 0, Fence: uint64(r.IntN(4))} })
	})
}

// count lets clients increment a counter of which some replies are lost, and returns what they saw.
func count(t *testing.T, rules ...chaos.Rule) *History[CounterCall, int64] {
	t.Helper()
	below, err := goredisdriver.Open(testContext(t), NewFake(t).URL())
	require.NoError(t, err)
	d := chaos.Wrap(below, chaos.Script{Seed: 1, Rules: rules})
	c, err := core.New(d, core.WithoutBreaker(), core.WithoutBatching(), core.WithCommandTimeout(20*time.Second))
	require.NoError(t, err)
	defer c.Close()
	h := NewHistory(CounterModel())
	var wg sync.WaitGroup
	for client := range 4 {
		wg.Go(func() {
			for range 250 {
				done := h.Call(client, CounterCall{Op: OpIncr, Key: "n", By: 1})
				done(c.Do(context.Background(), keyCmd("INCR", "n")).Int64())
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1000, h.Len())
	return h
}

// Lost replies are no fault of a counter: the caller is told that the outcome is unknown. A driver that sends the command again is.
func TestACounterIsLinearizableUnlessTheDriverSendsWritesAgain(t *testing.T) {
	h := count(t, chaos.On("INCR").P(0.025).LoseReply())
	unknown := 0
	for _, op := range h.ops {
		if op.out.Unknown {
			unknown++
		}
	}
	require.Greater(t, unknown, 5)
	start := time.Now()
	require.True(t, Linearizable(t, h, CounterModel()))
	t.Logf("%d of 1000 unknown: judged in %s", unknown, time.Since(start))

	h = count(t, chaos.On("INCR").P(0.025).LoseReply(), chaos.On("INCR").BugRetry())
	start = time.Now()
	r := record(t, func(t testing.TB) { Linearizable(t, h, CounterModel()) })
	require.True(t, r.failed)
	require.Contains(t, r.text(), "not linearizable")
	t.Logf("judged in %s\n%s", time.Since(start), r.text())

	// And among others whose outcome is unknown, where there is more to try.
	h = count(t, chaos.On("INCR").P(0.05).LoseReply(), chaos.On("INCR").P(0.5).BugRetry())
	start = time.Now()
	r = record(t, func(t testing.TB) { Linearizable(t, h, CounterModel()) })
	t.Logf("with unknown ones among them judged in %s", time.Since(start))
	require.Contains(t, r.text(), "not linearizable")
}

func TestAFailureShowsTheOperationAndWhatIsAroundIt(t *testing.T) {
	h := &History[CounterCall, int64]{start: time.Now()}
	add := func(client int, call, ret, n int64) {
		op := &operation[CounterCall, int64]{client: client, in: CounterCall{Op: OpIncr, Key: "n", By: 1}, call: call * 1e6, ret: ret * 1e6}
		if op.out.Value = n; ret == 0 {
			op.out.Unknown = true
		}
		h.ops = append(h.ops, op)
	}
	for i := range int64(500) {
		add(int(i%3), 10*i, 10*i+5, i+1)
	}
	add(7, 5001, 0, 0)      // may make one more
	add(8, 5002, 5010, 503) // but not two
	for i := range int64(500) {
		add(int(i%3), 10*i+6000, 10*i+6005, i+504)
	}
	// This one is wrong too, but that shows only later.
	h.ops = append(h.ops, &operation[CounterCall, int64]{client: 9, in: CounterCall{Op: OpGet, Key: "n"}, call: 4e9, ret: 20e9, out: Outcome[int64]{Value: 99999}})
	dir := filepath.Join(t.TempDir(), "made")
	t.Setenv(EnvArtifacts, dir)
	r := record(t, func(t testing.TB) { Linearizable(t, h, CounterModel()) })
	require.True(t, r.failed)
	for _, want := range []string{
		`counter "n": the history is not linearizable: 1003 operations of 6 clients, 1 of them with unknown outcome`,
		"can have left the state 500.",
		"> client 8        5.002s to 5.01s       incr by 1: 503",
		"  client 7        5.001s to ?           incr by 1: outcome unknown",
		"incr by 1: 500\n",
		"  client 9            4s to later       get: outcome unknown",
		"and 490 before",
	} {
		require.Contains(t, r.text(), want)
	}
	require.NotContains(t, r.text(), "incr by 1: 504")
	require.NotContains(t, r.text(), "incr by 1: 489\n")
	files, err := filepath.Glob(filepath.Join(dir, "linearizable-TestAFailureShows*.html"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.Contains(t, r.text(), files[0])
	page, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.Contains(t, string(page), "incr by 1: 503")
}

func TestAHistoryThatIsTooHardIsNotPassed(t *testing.T) {
	// Every subset of these is another sum, and none is the one that was seen.
	h := &History[CounterCall, int64]{start: time.Now()}
	for i := range int64(40) {
		h.ops = append(h.ops, &operation[CounterCall, int64]{in: CounterCall{Op: OpIncr, By: 2 << i}, call: i, out: Outcome[int64]{Unknown: true}})
	}
	h.ops = append(h.ops, &operation[CounterCall, int64]{in: CounterCall{Op: OpGet}, call: 100, ret: 101, out: Outcome[int64]{Value: 1}})
	r := record(t, func(tb testing.TB) {
		Linearizable(late{tb, time.Now().Add(100 * time.Millisecond)}, h, CounterModel())
	})
	require.True(t, r.failed)
	require.Contains(t, r.text(), "not decided in time")
	require.NotContains(t, r.text(), "not linearizable")
}

func TestManyAlikeOfUnknownOutcomeAreNoHardship(t *testing.T) {
	h := &History[CounterCall, int64]{start: time.Now()}
	for i := range int64(60) {
		h.ops = append(h.ops, &operation[CounterCall, int64]{in: CounterCall{Op: OpIncr, By: 1}, call: i, out: Outcome[int64]{Unknown: true}})
	}
	h.ops = append(h.ops, &operation[CounterCall, int64]{in: CounterCall{Op: OpGet}, call: 100, ret: 101, out: Outcome[int64]{Value: 61}})
	r := record(t, func(t testing.TB) { Linearizable(t, h, CounterModel()) })
	require.Contains(t, r.text(), "not linearizable")
	h.ops[60].out.Value = 60
	require.True(t, Linearizable(t, h, CounterModel()))
}

func TestAHistoryThatShowsNothingFails(t *testing.T) {
	m := CounterModel()
	incr := CounterCall{Op: OpIncr, Key: "n", By: 1}
	for want, fill := range map[string]func(h *History[CounterCall, int64]){
		"no operations": func(*History[CounterCall, int64]) {},
		"no outcome is known": func(h *History[CounterCall, int64]) {
			h.Call(1, incr)(0, driver.Unknown(errors.New("broken")))
			h.Call(2, incr)
		},
		"of the 1 operations": func(h *History[CounterCall, int64]) { h.Call(1, incr)(0, driver.NotSent(errors.New("refused"))) },
		"done was called 1 times": func(h *History[CounterCall, int64]) {
			done := h.Call(1, incr)
			done(1, nil)
			done(1, nil)
		},
		`operation "read"`: func(h *History[CounterCall, int64]) { h.Call(1, CounterCall{Op: OpRead})(0, nil) },
	} {
		h := NewHistory(m)
		fill(h)
		r := record(t, func(t testing.TB) { require.False(t, Linearizable(t, h, m)) })
		require.True(t, r.failed)
		require.Contains(t, r.text(), strings.TrimSpace(want))
	}
	require.True(t, record(t, func(t testing.TB) { Linearizable(t, nil, m) }).failed)
	require.True(t, record(t, func(t testing.TB) { Linearizable(t, NewHistory(m), Model[int64, CounterCall, int64]{}) }).failed)
}

// What an error says of an operation decides whether it happened.
func TestErrorsDecideWhetherAnOperationHappened(t *testing.T) {
	for _, c := range []struct {
		err            error
		never, unknown bool
	}{
		{nil, false, false},
		{driver.NotSent(context.Canceled), true, true},
		{core.ErrClosed, true, true},
		{core.ErrBreakerOpen, true, true},
		{fmt.Errorf("cart: %w", driver.ErrInvalid), true, true},
		{fmt.Errorf("cart: %w", &core.Error{Err: driver.NewServerError("OOM command not allowed")}), true, true},
		{driver.Unknown(context.Canceled), false, true},
		{&core.Error{Err: driver.Unknown(context.DeadlineExceeded)}, false, true},
		{errors.Join(core.ErrUnknownOutcome, driver.NewServerError("ERR in the middle of a script")), false, true},
		{context.DeadlineExceeded, false, true},
		{errors.New("anything"), false, true},
	} {
		var h History[CounterCall, int64]
		h.Call(1, CounterCall{Op: OpIncr})(1, c.err)
		require.Equal(t, c.never, h.ops[0].never, "%v", c.err)
		require.Equal(t, c.unknown, h.ops[0].out.Unknown, "%v", c.err)
	}
}

// Time stands still in a bubble, and yet what came first is known.
func TestAHistoryKeepsTheOrderInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHistory(CounterModel())
		h.Call(1, CounterCall{Op: OpIncr, By: 1})(2, nil)
		h.Call(1, CounterCall{Op: OpIncr, By: 1})(1, nil)
		require.True(t, record(t, func(t testing.TB) { Linearizable(t, h, CounterModel()) }).failed)
	})
}
