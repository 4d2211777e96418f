package redisxtest

import "fmt"

// Op is what an operation of a [History] does. Each model says which it knows.
type Op string

// The operations of the models.
const (
	OpRead    Op = "read"    // RegisterModel
	OpWrite   Op = "write"   // RegisterModel
	OpCAS     Op = "cas"     // RegisterModel
	OpGet     Op = "get"     // CounterModel
	OpIncr    Op = "incr"    // CounterModel
	OpAcquire Op = "acquire" // LockModel
	OpExtend  Op = "extend"  // LockModel
	OpRelease Op = "release" // LockModel
)

// wantOp returns an error unless op is one of those.
func wantOp(op Op, of ...Op) error {
	for _, o := range of {
		if op == o {
			return nil
		}
	}
	return fmt.Errorf("operation %q; want one of %q", op, of)
}

// shown joins an operation and its outcome.
func shown[Out any](call string, out Outcome[Out], result func(Out) string) string {
	if out.Unknown {
		return call + ": outcome unknown"
	}
	return call + ": " + result(out.Value)
}

// RegisterCall reads or changes a value.
type RegisterCall struct {
	// Op is OpRead, OpWrite (sets Value) or OpCAS (sets Value if it is Old).
	Op         Op
	Key        string
	Value, Old string
}

// RegisterResult is what a RegisterCall returned.
type RegisterResult struct {
	// Value and Found are what OpRead found. A key that was never written is not found.
	Value string
	Found bool
	// Swapped is whether OpCAS has set the value.
	Swapped bool
}

// RegisterState is the state of a [RegisterModel].
type RegisterState struct {
	Value string
	Found bool
}

// RegisterModel is a value that can be read, written and swapped, such as a string in Redis: a read finds what was
// written last, OpCAS sets the value exactly if it is there and is Old. Values should be unique, so that a stale one is
// seen to be stale.
func RegisterModel() Model[RegisterState, RegisterCall, RegisterResult] {
	return Model[RegisterState, RegisterCall, RegisterResult]{
		Name: "register",
		Key:  func(in RegisterCall) string { return in.Key },
		Step: func(s RegisterState, in RegisterCall, out Outcome[RegisterResult]) (RegisterState, bool) {
			switch in.Op {
			case OpWrite:
				return RegisterState{in.Value, true}, true
			case OpCAS:
				swaps := s.Found && s.Value == in.Old
				if swaps {
					s.Value = in.Value
				}
				return s, out.Unknown || out.Value.Swapped == swaps
			}
			return s, out.Unknown || out.Value.Found == s.Found && (!s.Found || out.Value.Value == s.Value)
		},
		Check: func(in RegisterCall) error { return wantOp(in.Op, OpRead, OpWrite, OpCAS) },
		Show: func(in RegisterCall, out Outcome[RegisterResult]) string {
			switch in.Op {
			case OpWrite:
				return shown(fmt.Sprintf("write %q", in.Value), out, func(RegisterResult) string { return "ok" })
			case OpCAS:
				return shown(fmt.Sprintf("cas %q to %q", in.Old, in.Value), out, func(r RegisterResult) string {
					return map[bool]string{true: "swapped", false: "not swapped"}[r.Swapped]
				})
			}
			return shown("read", out, func(r RegisterResult) string {
				if !r.Found {
					return "nothing"
				}
				return fmt.Sprintf("%q", r.Value)
			})
		},
	}
}

// CounterCall reads or changes a number.
type CounterCall struct {
	// Op is OpGet or OpIncr, which adds By.
	Op  Op
	Key string
	By  int64
}

// CounterModel is a number that begins with 0, such as one of INCRBY. The result of either operation is the number after
// it. It finds increments that are lost, and those that are applied twice because somebody sent them again.
func CounterModel() Model[int64, CounterCall, int64] {
	return Model[int64, CounterCall, int64]{
		Name: "counter",
		Key:  func(in CounterCall) string { return in.Key },
		Step: func(n int64, in CounterCall, out Outcome[int64]) (int64, bool) {
			if in.Op == OpIncr {
				n += in.By
			}
			return n, out.Unknown || out.Value == n
		},
		Check: func(in CounterCall) error { return wantOp(in.Op, OpGet, OpIncr) },
		Show: func(in CounterCall, out Outcome[int64]) string {
			call := "get"
			if in.Op == OpIncr {
				call = fmt.Sprintf("incr by %d", in.By)
			}
			return shown(call, out, func(n int64) string { return fmt.Sprint(n) })
		},
	}
}

// IdempotencyCall runs something at most once for a key.
type IdempotencyCall struct {
	Key string
	// Value is the result that this run would have, if it is the one that counts. Make it unique.
	Value string
}

// IdempotencyResult is what an IdempotencyCall returned.
type IdempotencyResult struct {
	Value string
	// Replayed is whether the result is that of an earlier run.
	Replayed bool
}

// IdempotencyState is the state of an [IdempotencyModel].
type IdempotencyState struct {
	Value  string
	Stored bool
}

// IdempotencyModel is a store of results by key: the first run stores its own, every later one gets that, as a replay. A
// run that stored nothing (it failed, or another was under way) did not happen: give core.ErrNotSent to done. Records do
// not expire in this model; let the history be shorter.
func IdempotencyModel() Model[IdempotencyState, IdempotencyCall, IdempotencyResult] {
	return Model[IdempotencyState, IdempotencyCall, IdempotencyResult]{
		Name: "idempotency key",
		Key:  func(in IdempotencyCall) string { return in.Key },
		Step: func(s IdempotencyState, in IdempotencyCall, out Outcome[IdempotencyResult]) (IdempotencyState, bool) {
			replay := s.Stored
			if !replay {
				s = IdempotencyState{in.Value, true}
			}
			return s, out.Unknown || out.Value == IdempotencyResult{s.Value, replay}
		},
		Show: func(in IdempotencyCall, out Outcome[IdempotencyResult]) string {
			return shown(fmt.Sprintf("run for %q", in.Value), out, func(r IdempotencyResult) string {
				return fmt.Sprintf("%q%s", r.Value, map[bool]string{true: " replayed"}[r.Replayed])
			})
		},
	}
}
