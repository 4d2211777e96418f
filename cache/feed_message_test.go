package cache

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMessagesComeBackAsTheyWere(t *testing.T) {
	id := senderID{0, 1, 2, 0xff, '{', '\n', 7, 8}
	names := []string{"", "a", "\x00\xff}", strings.Repeat("long", 1000)}
	var m wireMessage
	for _, kind := range []messageKind{kindChanged, kindTag, kindWake} {
		seq := uint64(1 << 40)
		version := uint64(0)
		if kind == kindWake {
			seq = 0
		}
		payload := encodeNames(kind, id, seq, names)
		if kind == kindTag {
			require.ErrorIs(t, m.parse(payload), errMalformed, "a tag without its version")
			require.ErrorIs(t, m.parse(payload+"12a"), errMalformed)
			require.ErrorIs(t, m.parse(payload+"12345678901234567"), errMalformed)
			payload += "9007199254740992"
			version = 9007199254740992
		}
		require.NoError(t, m.parse(payload))
		require.Equal(t, wireMessage{kind: kind, sender: id, seq: seq, version: version, names: names, spans: m.spans}, m)
		for i := range len(payload) - 16 {
			require.ErrorIs(t, m.parse(payload[:i]), errMalformed)
		}
	}
	for _, spans := range [][]span{nil, {{1, 1}}, {{1, 5}, {7, 7}, {100, 1 << 50}}} {
		require.NoError(t, m.parse(encodeHeartbeat(id, 1<<50, spans, 7)))
		require.Equal(t, kindHeartbeat, m.kind)
		require.EqualValues(t, 1<<50, m.seq)
		require.ElementsMatch(t, spans, m.spans)
		require.EqualValues(t, 7, m.beat)
	}
	require.ErrorIs(t, m.parse(encodeHeartbeat(id, 4, []span{{1, 5}}, 7)), errMalformed, "void beyond what is resolved")
	require.ErrorIs(t, m.parse(encodeNames(kindChanged, id, 0, names)), errMalformed, "without a number")
	require.ErrorIs(t, m.parse(encodeNames(kindWake, id, 1, names)), errMalformed, "with one")
	require.ErrorIs(t, m.parse(encodeNames(kindChanged, id, 1, nil)), errMalformed, "without names")
	require.ErrorIs(t, m.parse("1c12345678\x01\xff\xff\xff\xff\xff\xff\xff\x7f\x00"), errMalformed, "more names than bytes")
}

func FuzzParseMessage(f *testing.F) {
	id := senderID{1, 2, 3}
	f.Add(encodeNames(kindChanged, id, 1, []string{"a", "b"}))
	f.Add(encodeNames(kindTag, id, 1<<60, []string{"a"}) + "123")
	f.Add(encodeHeartbeat(id, 1<<62, []span{{1, 5}, {7, 1 << 61}}, 7))
	f.Add("1h12345678\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x02\x01\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x01\x01")
	f.Fuzz(func(t *testing.T, payload string) {
		var m wireMessage
		if m.parse(payload) != nil {
			return
		}
		// Whatever is understood is safe to act on.
		var r receiver
		now := time.Now()
		if m.kind == kindHeartbeat {
			last := uint64(0)
			for _, s := range m.spans {
				if s.first <= last || s.last < s.first || s.last > m.seq {
					t.Fatalf("spans %v up to %d", m.spans, m.seq)
				}
				last = s.last
			}
			r.heartbeat(m.sender, 1, nil, now)
			r.heartbeat(m.sender, m.seq, m.spans, now)
		} else if m.seq != 0 {
			r.message(m.sender, 1, now)
			r.message(m.sender, m.seq, now)
		}
		for _, s := range r.senders {
			if len(s.seen) > maxSeen/64 {
				t.Fatalf("%d words are kept", len(s.seen))
			}
		}
	})
}

// A sender and a receiver, with messages that overtake each other, become void or are lost: compared with the plain rule.
func TestNothingIsMissedQuietlyAndNothingElseIsAGap(t *testing.T) {
	for run := range 40 {
		rnd := rand.New(rand.NewPCG(uint64(run), 1))
		now := time.Now()
		s := &sender{id: senderID{1}}
		var r receiver
		var m wireMessage
		r.begin(now)
		beat := func() bool {
			payload, resolved := s.heartbeat(now)
			require.NoError(t, m.parse(payload))
			if rnd.IntN(5) > 0 { // the acknowledgement may be lost: then more is told the next time
				s.told(resolved)
			}
			return r.heartbeat(m.sender, m.seq, m.spans, now)
		}
		require.False(t, beat())
		lost := map[uint64]bool{} // published and not received
		var waiting []uint64
		for range 1000 {
			switch n := rnd.IntN(100); {
			case n < 50:
				waiting = append(waiting, s.take(now))
			case n < 95 && len(waiting) > 0:
				i := rnd.IntN(len(waiting))
				seq := waiting[i]
				waiting = append(waiting[:i], waiting[i+1:]...)
				switch k := rnd.IntN(400); {
				case k == 0:
					s.published(seq)
					lost[seq] = true
				case k < 20:
					s.avoid(seq)
				case k < 40:
					require.False(t, r.message(s.id, seq, now))
					s.avoid(seq) // published all the same
				default:
					require.False(t, r.message(s.id, seq, now))
					s.published(seq)
				}
			case n >= 95:
				_, resolved := s.heartbeat(now)
				want := false
				for seq := range lost {
					if seq <= resolved {
						want = true
						delete(lost, seq)
					}
				}
				require.Equal(t, want, beat(), "run %d", run)
			}
		}
	}
}

func TestAMessageThatComesVeryLateIsNoGap(t *testing.T) {
	var r receiver
	now := time.Now()
	r.begin(now)
	id := senderID{1}
	require.False(t, r.heartbeat(id, 1000, nil, now))
	require.False(t, r.message(id, 5, now))
	require.False(t, r.heartbeat(id, 500, nil, now), "nor is a heartbeat")
	require.False(t, r.message(id, 1001, now))
	require.False(t, r.heartbeat(id, 1001, nil, now))
	require.True(t, r.heartbeat(id, 1002, nil, now))
}

func TestReceiverIsBounded(t *testing.T) {
	var r receiver
	now := time.Now()
	r.begin(now)
	for i := range maxSenders + 200 {
		r.message(senderID{byte(i), byte(i >> 8), byte(i >> 16)}, 1, now.Add(time.Duration(i)))
	}
	require.Len(t, r.senders, maxSenders)
	r.begin(now)
	id := senderID{1}
	require.False(t, r.heartbeat(id, 10, nil, now))
	require.True(t, r.message(id, 10+2*maxSeen, now), "so many at once are a gap")
	require.False(t, r.heartbeat(id, 10+2*maxSeen, nil, now))
	require.False(t, r.message(id, 10+2*maxSeen+1, now))
	require.True(t, r.heartbeat(id, 1<<60, []span{{12 + 2*maxSeen, 1 << 60}}, now))
	require.LessOrEqual(t, cap(r.senders[id].seen), maxSeen/64)
	r.sweep(now.Add(2 * forgetAfter))
	require.Empty(t, r.senders)
}

func TestSenderIsBounded(t *testing.T) {
	s := &sender{id: senderID{1}}
	now := time.Now()
	for i := range 10_000 {
		seq := s.take(now)
		if i%2 == 0 {
			s.avoid(seq)
		} else {
			s.published(seq)
		}
	}
	require.Len(t, s.void, maxVoid)
	require.Empty(t, s.open)
	for range 2 * maxLate {
		s.publishLater(s.take(now), "x")
	}
	require.Len(t, s.late, maxLate)
	require.Empty(t, s.open)
}
