package cache

import (
	"slices"
	"sync"
	"time"
)

// sender numbers what a pubSubFeed publishes, so that receivers notice what they missed. A number is open from when a
// message takes it until its outcome is known; then it is published, or void: nobody shall wait for it.
type sender struct {
	id senderID

	mu   sync.Mutex
	last uint64
	open map[uint64]time.Time // when it was taken
	void []span               // in order, not yet told in a heartbeat that was acknowledged
	// late are messages about changes that did happen, and whose publication failed.
	late []lateMessage
	// beats are the times of the last heartbeats, each at its remainder.
	beat  uint64
	beats [64]time.Time
	// fine holds the numbers published of late, each at its remainder.
	fine [1024]uint64
}

type lateMessage struct {
	seq     uint64
	payload string
}

const (
	// maxLate bounds what waits to be published. What is beyond is given up, as a number that is neither published nor void:
	// so that every receiver finds a gap, and trusts nothing of before.
	maxLate = 1024
	// maxVoid bounds the spans of a heartbeat; those given up look like gaps too.
	maxVoid = 256
)

func (s *sender) take(now time.Time) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[uint64]time.Time{}
	}
	s.last++
	s.open[s.last] = now
	return s.last
}

// published tells that a message is on its way to all receivers.
func (s *sender) published(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, seq)
	s.late = slices.DeleteFunc(s.late, func(m lateMessage) bool { return m.seq == seq })
	s.fine[seq%uint64(len(s.fine))] = seq
}

// avoid tells that a message may never be published.
func (s *sender) avoid(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.voided(seq)
}

func (s *sender) voided(seq uint64) {
	if _, ok := s.open[seq]; !ok {
		return
	}
	delete(s.open, seq)
	// Mostly it is one of the last.
	i := len(s.void)
	for i > 0 && s.void[i-1].first > seq {
		i--
	}
	before := i > 0 && s.void[i-1].last+1 == seq
	behind := i < len(s.void) && s.void[i].first == seq+1
	switch {
	case before && behind:
		s.void[i-1].last = s.void[i].last
		s.void = slices.Delete(s.void, i, i+1)
	case before:
		s.void[i-1].last = seq
	case behind:
		s.void[i].first = seq
	default:
		s.void = slices.Insert(s.void, i, span{seq, seq})
	}
	if len(s.void) > maxVoid {
		s.void = slices.Delete(s.void, 0, len(s.void)-maxVoid)
	}
}

// publishLater keeps a message whose publication failed.
func (s *sender) publishLater(seq uint64, payload string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.open[seq]; !ok {
		return
	}
	delete(s.open, seq)
	if len(s.late) < maxLate {
		s.late = append(s.late, lateMessage{seq, payload})
	}
}

func (s *sender) due() []lateMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.late)
}

// heartbeat returns what to tell the others, and up to where it goes.
func (s *sender) heartbeat(now time.Time) (payload string, resolved uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resolved = s.last
	for seq, taken := range s.open {
		if now.Sub(taken) > outcomeWithin {
			s.voided(seq)
			continue
		}
		resolved = min(resolved, seq-1)
	}
	for _, m := range s.late {
		resolved = min(resolved, m.seq-1)
	}
	var told []span
	for _, v := range s.void {
		if v.first > resolved {
			break
		}
		told = append(told, span{v.first, min(v.last, resolved)})
	}
	s.beat++
	s.beats[s.beat%uint64(len(s.beats))] = now
	return encodeHeartbeat(s.id, resolved, told, s.beat), resolved
}

// beatSent returns when an own heartbeat was sent; false if that is long ago, or never was.
func (s *sender) beatSent(beat uint64) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if beat == 0 || beat > s.beat || s.beat-beat >= uint64(len(s.beats)) {
		return time.Time{}, false
	}
	return s.beats[beat%uint64(len(s.beats))], true
}

// told is called when a heartbeat was acknowledged.
func (s *sender) told(resolved uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := 0
	for i < len(s.void) && s.void[i].last <= resolved {
		i++
	}
	s.void = slices.Delete(s.void, 0, i)
	if len(s.void) > 0 && s.void[0].first <= resolved {
		s.void[0].first = resolved + 1
	}
}

// knows reports whether an own message that came back needs no second look: the engine has seen to it, or is about to, as
// its outcome is known or will be told. One that became void may have happened at any time.
func (s *sender) knows(seq uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fine[seq%uint64(len(s.fine))] == seq {
		return true
	}
	_, open := s.open[seq]
	return open
}
