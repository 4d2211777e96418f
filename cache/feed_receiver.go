package cache

import (
	"slices"
	"time"
)

// receiver finds out what a pubSubFeed missed of what others published. It knows each sender by the numbers it has seen
// since the last heartbeat; that they come in another order, over several connections, is no gap.
type receiver struct {
	senders map[senderID]*sight
	// since is when the subscription was confirmed. A sender heard of for the first time long after is taken to have begun
	// with 1, as everything before would have been heard; before that the first thing heard of it is its beginning.
	since time.Time
}

// sight is what was seen of one sender.
type sight struct {
	heard time.Time
	// Everything up to base is settled. Of those above, bit i of seen is for number first+i; first is a multiple of 64.
	base, first uint64
	seen        []uint64
}

const (
	// maxSeen bounds the numbers between two heartbeats; with more of them it is taken as a gap.
	maxSeen = 1 << 20
	// maxSenders bounds the senders that are known, forgetAfter how long one may be silent. One that comes back is new.
	maxSenders  = 4096
	forgetAfter = time.Minute
)

// begin forgets everything, as a subscription was confirmed.
func (r *receiver) begin(now time.Time) {
	r.senders = map[senderID]*sight{}
	r.since = now
}

// message takes note of a message. It reports true if there must have been others that were missed.
func (r *receiver) message(id senderID, seq uint64, now time.Time) (gap bool) {
	s := r.sight(id, seq-1, now)
	return s.add(seq)
}

// heartbeat compares what a sender says with what was seen. It reports true if something was missed.
func (r *receiver) heartbeat(id senderID, resolved uint64, void []span, now time.Time) (gap bool) {
	s := r.sight(id, resolved, now)
	if resolved <= s.base {
		return false
	}
	gap = s.missing(resolved, void)
	s.settle(resolved)
	return gap
}

// sight returns what is known of a sender; base is where it begins if it has been there before us.
func (r *receiver) sight(id senderID, base uint64, now time.Time) *sight {
	s := r.senders[id]
	if s == nil {
		if len(r.senders) >= maxSenders {
			r.drop()
		}
		if now.Sub(r.since) > echoWithin {
			base = 0
		}
		s = &sight{base: base, first: (base + 1) &^ 63}
		if r.senders == nil {
			r.senders = map[senderID]*sight{}
		}
		r.senders[id] = s
	}
	s.heard = now
	return s
}

// drop forgets the sender that was silent longest.
func (r *receiver) drop() {
	var oldest senderID
	var at time.Time
	for id, s := range r.senders {
		if at.IsZero() || s.heard.Before(at) {
			oldest, at = id, s.heard
		}
	}
	delete(r.senders, oldest)
}

// sweep forgets senders that went away.
func (r *receiver) sweep(now time.Time) {
	for id, s := range r.senders {
		if now.Sub(s.heard) > forgetAfter {
			delete(r.senders, id)
		}
	}
}

func (s *sight) add(seq uint64) (gap bool) {
	if seq <= s.base {
		return false // late, or told twice
	}
	i := seq - s.first
	if i >= maxSeen {
		s.settle(seq)
		return true
	}
	word := int(i / 64)
	if word >= len(s.seen) {
		s.seen = append(s.seen, make([]uint64, word+1-len(s.seen))...)
	}
	s.seen[word] |= 1 << (i % 64)
	return false
}

// missing reports whether a number above base and up to the given one was neither seen nor void.
func (s *sight) missing(upTo uint64, void []span) bool {
	if upTo-s.base > maxSeen {
		return true
	}
	for _, v := range void {
		for seq := max(v.first, s.base+1); seq <= min(v.last, upTo); seq++ {
			if s.add(seq) {
				return true
			}
		}
	}
	for seq := s.base + 1; seq <= upTo; seq++ {
		i := seq - s.first
		word := int(i / 64)
		if word >= len(s.seen) {
			return true
		}
		if i%64 == 0 && seq+63 <= upTo { // a word at once
			if s.seen[word] != ^uint64(0) {
				return true
			}
			seq += 63
			continue
		}
		if s.seen[word]&(1<<(i%64)) == 0 {
			return true
		}
	}
	return false
}

// settle makes a number the base.
func (s *sight) settle(base uint64) {
	s.base = base
	first := (base + 1) &^ 63
	words := (first - s.first) / 64
	s.first = first
	if words >= uint64(len(s.seen)) {
		s.seen = s.seen[:0]
		if cap(s.seen) > 1024 {
			s.seen = nil
		}
		return
	}
	s.seen = slices.Delete(s.seen, 0, int(words))
}
