package redisxtest

import (
	"errors"
	"fmt"
	"time"
)

// LockCall takes, extends or gives up a lock.
type LockCall struct {
	// Op is OpAcquire, OpExtend or OpRelease.
	Op  Op
	Key string
	// Owner names one lease: that which OpAcquire asks for, and the later operations mean. Two leases need two names,
	// also those of one client; after an OpAcquire of unknown outcome the next needs another.
	Owner string
	// TTL is how long OpAcquire and OpExtend ask for; 0 means that the lease does not end by itself.
	TTL time.Duration
}

// LockResult is what a LockCall returned.
type LockResult struct {
	// OK is whether the lock was acquired, extended or released. For OpExtend and OpRelease false means that the owner
	// did not hold it any more.
	OK bool
	// Fence is the fencing token of OpAcquire; 0 means that there is none.
	Fence uint64
	// Until is the moment up to which the owner may take the lock for his, after OpAcquire or OpExtend. If it is zero,
	// that is TTL after the call, less 2 ms for the grain of clocks.
	Until time.Time
}

// LockState is the state of a [LockModel].
type LockState struct {
	Owner string
	// Fence is the highest fencing token that must have been given out.
	Fence uint64
}

// lockGrain is how much earlier than by the test's clock a server may end a lease, as it counts in milliseconds.
const lockGrain = 2 * time.Millisecond

// opExpire is the end of a lease, which nobody calls.
const opExpire Op = "expire"

// LockModel is a lock with leases and fencing tokens. What it checks:
//
//   - At most one owner holds the lock. An acquisition succeeds only if nobody holds it: it was never acquired, was
//     released, or the lease has run out. A lease runs out at the earliest at Until of its last extension, or TTL after
//     it was called for. A lock that passes to another earlier than that fails.
//   - Fencing tokens grow: each is higher than that of every acquisition before. One of unknown outcome may have taken
//     one too.
//   - An owner that is told it released or extended the lock held it, and one that is told it did not hold it any more
//     did not: somebody released it, or the lease may have run out.
//
// It does not check that a free lock can be acquired (a refusal says nothing: others may wait in a queue), that a lease
// does run out, or that what the lock protects looks at the tokens. Time is that of this process: with a server whose
// clock jumps, and with [Fake.Advance], leases end early.
func LockModel() Model[LockState, LockCall, LockResult] {
	return Model[LockState, LockCall, LockResult]{
		Name:  "lock",
		Key:   func(in LockCall) string { return in.Key },
		Step:  stepLock,
		Check: checkLock,
		Show:  showLock,
		imply: expirations,
	}
}

func stepLock(s LockState, in LockCall, out Outcome[LockResult]) (LockState, bool) {
	holds, ok := s.Owner == in.Owner, out.Value.OK
	switch in.Op {
	case OpAcquire:
		switch {
		case out.Unknown && s.Owner == "":
			return LockState{in.Owner, s.Fence + 1}, true
		case out.Unknown:
			return s, false
		case !ok:
			return s, true
		case s.Owner != "", out.Value.Fence != 0 && out.Value.Fence <= s.Fence:
			return s, false
		}
		return LockState{in.Owner, max(s.Fence, out.Value.Fence)}, true
	case OpExtend:
		return s, out.Unknown || ok == holds
	}
	// OpRelease and opExpire
	if holds && (out.Unknown || ok) {
		return LockState{"", s.Fence}, true
	}
	return s, out.Unknown || ok == holds
}

func checkLock(in LockCall) error {
	if in.Owner == "" {
		return errors.New("no owner")
	}
	if in.TTL < 0 {
		return fmt.Errorf("a TTL of %s", in.TTL)
	}
	return wantOp(in.Op, OpAcquire, OpExtend, OpRelease)
}

func showLock(in LockCall, out Outcome[LockResult]) string {
	call := fmt.Sprintf("%s as %q", in.Op, in.Owner)
	if in.TTL > 0 {
		call += " for " + in.TTL.String()
	}
	return shown(call, out, func(r LockResult) string {
		switch {
		case !r.OK:
			return "refused"
		case r.Fence > 0:
			return fmt.Sprintf("ok, fence %d", r.Fence)
		}
		return "ok"
	})
}

type lockOperation = operation[LockCall, LockResult]

// expirations returns the end of each lease, as an operation that nobody calls and that may happen at any time from when
// the lease may have run out, or never.
func expirations(ops []*lockOperation, start time.Time) ([]*lockOperation, error) {
	type lease struct{ key, owner string }
	leases := map[lease][]*lockOperation{} // what made them longer; the first is the acquisition
	var order []lease
	for _, op := range byCall(ops) {
		l := lease{op.in.Key, op.in.Owner}
		switch {
		case op.in.Op == OpRelease, !op.out.Unknown && !op.out.Value.OK:
		case op.in.Op == OpAcquire && len(leases[l]) > 0:
			return nil, fmt.Errorf("owner %q acquires %q twice, or extends it before; each lease needs a name of its own", l.owner, l.key)
		case op.in.Op == OpAcquire:
			leases[l] = []*lockOperation{op}
			order = append(order, l)
		case len(leases[l]) == 0:
			return nil, fmt.Errorf("owner %q extends %q without having called for it", l.owner, l.key)
		default:
			leases[l] = append(leases[l], op)
		}
	}
	var out []*lockOperation
	for _, l := range order {
		if end, ends := leaseEnd(leases[l], start); ends {
			out = append(out, &lockOperation{
				in: LockCall{Op: opExpire, Key: l.key, Owner: l.owner}, call: end, out: Outcome[LockResult]{Unknown: true},
				implied: fmt.Sprintf("the lease of %q may end from here on", l.owner),
			})
		}
	}
	return out, nil
}

// leaseEnd returns when a lease may have run out, at the earliest: the earliest end that one of the operations set which
// may have been the last to happen. One of unknown outcome may have been at any time, and so may have made the lease
// shorter.
func leaseEnd(ops []*lockOperation, start time.Time) (end int64, ends bool) {
	for i, op := range ops {
		last := true
		for _, later := range ops[i+1:] {
			// An acquisition of unknown outcome has happened, and first, if the lease was extended.
			before := later.call > op.ret && !op.out.Unknown || op.out.Unknown && op.in.Op == OpAcquire
			last = last && (later.out.Unknown || !before)
		}
		var e int64
		switch {
		case !last:
			continue
		case !op.out.Unknown && !op.out.Value.Until.IsZero():
			e = int64(op.out.Value.Until.Sub(start))
		case op.in.TTL == 0:
			continue
		default:
			e = op.call + int64(op.in.TTL-lockGrain)
		}
		if e = max(e, op.call, 0); !ends || e < end {
			end, ends = e, true
		}
	}
	return end, ends
}
