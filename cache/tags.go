package cache

import (
	"context"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// tagState is what this process knows of the version of a tag, of the generation that Clear ends, or of the count of tags
// invalidated. Entries of the local tier point to it: one atomic load tells whether they are still valid.
type tagState struct {
	name string
	ver  atomic.Uint64 // 0: not known

	gone  atomic.Bool // dropped, since there are too many: whoever finds it takes a new one
	fixed atomic.Bool // never dropped

	mu    sync.Mutex
	word  uint64 // the hub's word under which ver was learned
	epoch uint64 // grows with every change
	// learned and changedAt are moments of the hub's seq.
	learned, bumped uint64
	// recent are the latest values of bumped, in a ring: one invalidation has up to three, when it begins, when it is
	// acknowledged and when the server tells of it.
	recent   [6]uint64
	bumps    uint
	covered  int64 // until when the key in Redis surely lives, clock ns
	pendings int   // invalidations under way or queued
	// What came in while some were: the latest version told, and whether there was news without a version.
	seen   uint64
	unsure bool
	own    uint64 // the last version this process gave it, and when
	ownAt  int64
	high   uint64 // the highest version known so far; versions do not fall
}

// unsettled marks versions that Redis does not have: an invalidation under way, or queued. No stored version equals it.
const unsettled = 1 << 63

// state returns the state of a version's key.
func (h *hub) state(name string) *tagState {
	if v, ok := h.states.Load(name); ok {
		return v.(*tagState)
	}
	v, had := h.states.LoadOrStore(name, &tagState{name: name})
	if !had {
		h.stateCount.Add(1)
	}
	return v.(*tagState)
}

// maxStates is how many tags a process remembers, about 200 bytes each. Of more than that a part is dropped now and then,
// any: what the local tier has under them is read again.
const maxStates = 1 << 17

func (h *hub) sweepStates() (dropped bool) {
	if h.stateCount.Load() <= maxStates {
		return false
	}
	left := maxStates / 4
	h.states.Range(func(name, v any) bool {
		if s := v.(*tagState); !s.fixed.Load() && s.drop(h) {
			h.states.Delete(name)
			h.stateCount.Add(-1)
			left--
		}
		return left > 0
	})
	return true
}

// drop makes a state worthless: nothing that depends on it is valid, nor is what is being loaded under it.
func (s *tagState) drop(h *hub) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pendings > 0 {
		return false
	}
	s.gone.Store(true)
	s.epoch++
	s.bump(h)
	s.ver.Store(unsettled | s.bumped) // equals none
	return true
}

// known returns the version if it surely is the current one.
func (s *tagState) known(h *hub, word uint64) (uint64, bool) {
	if h.client == nil {
		return s.ver.Load(), true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.ver.Load()
	if s.pendings > 0 {
		return v, true
	}
	if s.gone.Load() {
		return 0, false
	}
	return v, h.feed != nil && trusted(word) && s.word == word && v != 0
}

// knownSince is known, and was so at a moment of the hub's seq and ever since.
func (s *tagState) knownSince(h *hub, word, moment uint64) (uint64, bool) {
	v, ok := s.known(h, word)
	s.mu.Lock()
	defer s.mu.Unlock()
	return v, ok && s.learned < moment && s.bumped < moment
}

// bump notes that there was news, with mu held.
func (s *tagState) bump(h *hub) {
	s.bumped = h.seq.Add(1)
	s.recent[s.bumps%uint(len(s.recent))] = s.bumped
	s.bumps++
}

// bumpedBetween reports whether a change became known after one moment and not after another. It may be wrong in saying so
// if there were many since.
func (s *tagState) bumpedBetween(after, until uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after >= until || s.bumped <= after {
		return false
	}
	if s.recent[s.bumps%uint(len(s.recent))] > after {
		return true // what was before is forgotten
	}
	for _, at := range s.recent {
		if at > after && at <= until {
			return true
		}
	}
	return false
}

// changed takes the news of a change; version 0 is "ask". News of what is known already are none.
func (s *tagState) changed(h *hub, version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.high = max(s.high, version)
	now := s.ver.Load()
	if version != 0 && version <= now && now < unsettled {
		return
	}
	s.epoch++
	s.bump(h)
	if s.pendings > 0 {
		s.seen, s.unsure = max(s.seen, version), s.unsure || version == 0
		return
	}
	if s.gone.Load() {
		return
	}
	s.ver.Store(version)
	s.word, s.learned = h.word.Load(), s.bumped
}

// standIn returns the version, or one that no other equals while it is not known: what is stored under that is not valid again
// when the version becomes unknown once more.
func (s *tagState) standIn(h *hub) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.ver.Load()
	if v == 0 && h.client != nil {
		v = unsettled | h.seq.Add(1)
		s.ver.Store(v)
		s.word = math.MaxUint64 // no word: it is still to be asked for
	}
	return v
}

// forget makes the version unknown.
func (s *tagState) forget(h *hub) { s.changed(h, 0) }

// read takes a version that was asked for when the epoch was what is given, and returns the one to go by. A version that is
// lower than one known before comes from a replica that took over and had not heard of it: it is brought back.
func (s *tagState) read(h *hub, version, epoch, word uint64, covered int64) uint64 {
	s.mu.Lock()
	high := s.high
	fell := version < high && s.epoch == epoch && s.pendings == 0
	version = max(version, high)
	s.high = version
	s.readLocked(h, version, epoch, word, covered)
	s.mu.Unlock()
	if fell {
		h.queue.put(op{kind: opRaise, name: s.name, least: high})
	}
	return version
}

func (s *tagState) readLocked(h *hub, version, epoch, word uint64, covered int64) {
	if s.epoch != epoch || s.pendings > 0 || s.gone.Load() || h.word.Load() != word {
		return
	}
	if s.ver.Load() != version {
		s.ver.Store(version)
		s.learned = h.seq.Add(1)
	} else if s.word != word {
		s.learned = h.seq.Add(1)
	}
	s.word = word
	s.covered = max(s.covered, covered)
}

// covers reports whether the key in Redis lives for another d.
func (s *tagState) covers(h *hub, d time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.covered >= h.clock.now()+int64(d)
}

// tagTTL is how long the key of a tag lives at least when something that lives for hard is stored under it.
func tagTTL(hard time.Duration) time.Duration { return 4 * hard }

// versionCmd asks for a version. The key gets at least half of the time to live.
func versionCmd(name string, ttl time.Duration) driver.Cmd {
	return versionScript.Cmd([]string{name}, []string{millis(ttl)})
}

// resolve returns the current versions. It asks Redis for those that are not known, or do not live for as long as hard.
func (h *hub) resolve(ctx context.Context, states []*tagState, word uint64, hard time.Duration) ([]uint64, error) {
	out := make([]uint64, len(states))
	var ask []int
	for i, s := range states {
		v, ok := s.known(h, word)
		if out[i] = v; h.client != nil && (!ok || hard > 0 && v < unsettled && !s.covers(h, hard)) {
			ask = append(ask, i)
		}
	}
	if len(ask) == 0 {
		return out, nil
	}
	ttl := tagTTL(max(hard, h.cfg.hard(h.cfg.ttl)))
	cmds, epochs := make([]driver.Cmd, len(ask)), make([]uint64, len(ask))
	for n, i := range ask {
		cmds[n] = versionCmd(states[i].name, ttl)
		epochs[n] = states[i].epochNow()
	}
	covered := h.clock.now() + int64(ttl/2)
	var replies []driver.Reply
	if len(cmds) == 1 {
		replies = []driver.Reply{h.client.Do(ctx, cmds[0])}
	} else {
		replies = h.client.DoMulti(ctx, cmds)
	}
	for n, i := range ask {
		v, err := versionOf(replies[n])
		if err != nil {
			return nil, err
		}
		out[i] = states[i].read(h, v, epochs[n], word, covered)
	}
	return out, nil
}

func (s *tagState) epochNow() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

func versionOf(r driver.Reply) (uint64, error) {
	n, err := r.Int64()
	return uint64(n), err
}

// bump ends a version. Whatever this process has under the tag is invalid from the first moment on, and stays so if Redis
// cannot be told: then the invalidation is queued.
func (h *hub) bump(ctx context.Context, s *tagState) error {
	s.unsettle(h)
	if h.client == nil {
		s.settle(h, h.seq.Add(1), 0)
		return nil
	}
	version, err := h.sendBump(ctx, s)
	if err != nil && h.queueable(err) {
		h.queue.put(op{kind: opBump, name: s.name, state: s})
		return queued(err)
	}
	s.settle(h, version, int64(tagTTL(h.cfg.hard(h.cfg.ttl))/2))
	return err
}

func (s *tagState) unsettle(h *hub) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	s.pendings++
	if s.pendings == 1 {
		s.seen, s.unsure = 0, false
	}
	s.bump(h)
	s.ver.Store(unsettled | s.bumped)
}

// settleQueued ends an unsettle whose place in the queue another one has taken.
func (s *tagState) settleQueued() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pendings--
	s.unsure = true
}

// settle ends an unsettle; version 0 is not known.
func (s *tagState) settle(h *hub, version uint64, covered int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pendings--
	s.bump(h)
	s.seen, s.unsure = max(s.seen, version), s.unsure || version == 0
	if s.pendings > 0 {
		return
	}
	if s.unsure {
		version = 0
	} else {
		version = s.seen
	}
	s.ver.Store(version)
	s.word, s.learned = h.word.Load(), s.bumped
	if version != 0 {
		s.covered = h.clock.now() + covered
	}
}

// sendBump gives a tag its next version in Redis, which it returns.
func (h *hub) sendBump(ctx context.Context, s *tagState) (uint64, error) {
	args := []string{millis(tagTTL(h.cfg.hard(h.cfg.ttl))), "", ""}
	m, inline := h.message(kindTag, s.name)
	if inline {
		args[1], args[2] = h.feed.channel(), m.payload
	}
	r := h.client.Do(ctx, bumpScript.Cmd([]string{s.name}, args))
	version, err := versionOf(r)
	h.tell(ctx, m, inline, version, err)
	if err == nil {
		s.mu.Lock()
		s.own, s.ownAt, s.high = version, h.clock.now(), max(s.high, version)
		s.mu.Unlock()
	}
	return version, err
}

func millis(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Millisecond-1)/time.Millisecond), 10)
}
