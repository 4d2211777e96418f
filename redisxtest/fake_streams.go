package redisxtest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// Streams of miniredis, seen through types of the same layout: it knows no deleted entries in pending lists, no XGROUP
// SETID and no lag, and its XINFO and XCLAIM are of little use. newEngine checks that the layout is still this one.
type (
	streamData struct {
		entries         []miniredis.StreamEntry
		groups          map[string]*groupData
		lastAllocatedID string
		_               sync.Mutex
	}
	groupData struct {
		stream    *streamData
		lastID    string
		pending   []pendingData
		consumers map[string]*consumerData
	}
	consumerData struct {
		numPendingEntries     int
		lastSeen, lastSuccess time.Time
	}
	pendingData struct {
		id, consumer  string
		deliveryCount int
		lastDelivery  time.Time
	}
)

// streamMeta is what miniredis does not keep. Counters of a stream that was copied begin with what it holds.
type streamMeta struct {
	added      int
	maxDeleted string
	read       map[string]int // by group; none or -1 is unknown
}

func (e *engine) stream(k dbKey) *streamData {
	db := (*e.dbs)[k.db]
	if db == nil {
		return nil
	}
	return (*streamsOf(db))[k.key]
}

// streamID is an ID in two numbers.
type streamID [2]uint64

var lastStreamID = streamID{math.MaxUint64, math.MaxUint64}

func (id streamID) String() string { return fmt.Sprintf("%d-%d", id[0], id[1]) }

func (id streamID) compare(o streamID) int { return slices.Compare(id[:], o[:]) }

// parseStreamID reads a full ID or its first part alone, to which seq is added.
func parseStreamID(s string, seq uint64) (streamID, bool) {
	ms, rest, full := strings.Cut(s, "-")
	a, err := strconv.ParseUint(ms, 10, 64)
	if err != nil {
		return streamID{}, false
	}
	if full {
		if seq, err = strconv.ParseUint(rest, 10, 64); err != nil {
			return streamID{}, false
		}
	}
	return streamID{a, seq}, true
}

func mustStreamID(s string) streamID {
	id, _ := parseStreamID(s, 0)
	return id
}

func (s *streamData) last() streamID {
	last := mustStreamID(s.lastAllocatedID)
	if n := len(s.entries); n > 0 {
		if id := mustStreamID(s.entries[n-1].ID); id.compare(last) > 0 {
			last = id
		}
	}
	return last
}

func (s *streamData) first() streamID {
	if len(s.entries) == 0 {
		return streamID{}
	}
	return mustStreamID(s.entries[0].ID)
}

func (s *streamData) find(id streamID) *miniredis.StreamEntry {
	i, ok := slices.BinarySearchFunc(s.entries, id, func(e miniredis.StreamEntry, id streamID) int { return mustStreamID(e.ID).compare(id) })
	if !ok {
		return nil
	}
	return &s.entries[i]
}

// meta returns what is known about a stream.
func (f *Fake) meta(s *streamData) *streamMeta {
	m := f.streams[s]
	if m == nil {
		if len(f.streams) >= 1000 { // forget those that are gone
			live := map[*streamData]*streamMeta{}
			for _, db := range *f.eng.dbs {
				for _, o := range *streamsOf(db) {
					if f.streams[o] != nil {
						live[o] = f.streams[o]
					}
				}
			}
			f.streams = live
		}
		m = &streamMeta{added: len(s.entries), read: map[string]int{}}
		f.streams[s] = m
	}
	return m
}

// tombstones reports whether entries behind an ID may have been deleted.
func (m *streamMeta) tombstones(s *streamData, from streamID) bool {
	if len(s.entries) == 0 || m.maxDeleted == "" {
		return false
	}
	deleted := mustStreamID(m.maxDeleted)
	return s.first().compare(deleted) <= 0 && from.compare(deleted) <= 0
}

// readUpTo estimates how many entries there ever were up to an ID, -1 if nobody knows.
func (m *streamMeta) readUpTo(s *streamData, id streamID) int {
	switch last := s.last(); {
	case m.added == 0:
		return 0
	case len(s.entries) == 0 && id.compare(last) < 1, id.compare(last) == 0:
		return m.added
	case id.compare(last) > 0:
		return -1
	}
	if m.maxDeleted == "" || mustStreamID(m.maxDeleted).compare(s.first()) < 0 {
		switch c := id.compare(s.first()); {
		case c < 0:
			return m.added - len(s.entries)
		case c == 0:
			return m.added - len(s.entries) + 1
		}
	}
	return -1
}

// added counts an entry that XADD has made.
func (f *Fake) added(s *streamData) {
	if f.streams[s] == nil {
		f.meta(s).added = len(s.entries)
		return
	}
	f.streams[s].added++
}

// deletes notes the highest ID that XDEL deletes; what it returns is to be called afterwards.
func (f *Fake) deletes(k dbKey, ids []string) func() {
	s := f.eng.stream(k)
	if s == nil {
		return func() {}
	}
	m, highest := f.meta(s), streamID{}
	for _, text := range ids {
		if id, ok := parseStreamID(text, 0); ok && s.find(id) != nil && id.compare(highest) > 0 {
			highest = id
		}
	}
	return func() {
		if highest != (streamID{}) && s.find(highest) == nil && highest.compare(mustStreamID(m.maxDeleted)) > 0 {
			m.maxDeleted = highest.String()
		}
	}
}

// groupReads counts what a group reads; what it returns is to be called afterwards.
func (f *Fake) groupReads(c *fakeConn, args []string) func() {
	last := map[*groupData]string{}
	for _, key := range streamKeys(args, 4) {
		if s := f.eng.stream(dbKey{c.db, key}); s != nil && s.groups[args[2]] != nil {
			f.meta(s)
			f.consumer(s.groups[args[2]], args[3])
			last[s.groups[args[2]]] = s.groups[args[2]].lastID
		}
	}
	return func() {
		for g, from := range last {
			if g.lastID == from {
				continue
			}
			g.consumers[args[3]].lastSuccess = f.now()
			m := f.meta(g.stream)
			i, _ := slices.BinarySearchFunc(g.stream.entries, next(mustStreamID(from)), func(e miniredis.StreamEntry, id streamID) int {
				return mustStreamID(e.ID).compare(id)
			})
			for _, e := range g.stream.entries[i:] {
				id := mustStreamID(e.ID)
				if id.compare(mustStreamID(g.lastID)) > 0 {
					break
				}
				if n, known := m.read[args[2]]; known && n >= 0 && !m.tombstones(g.stream, id) {
					m.read[args[2]]++
				} else {
					m.read[args[2]] = m.readUpTo(g.stream, id)
				}
			}
		}
	}
}

const (
	errNotStream  = "WRONGTYPE Operation against a key holding the wrong kind of value"
	errStreamID   = "ERR Invalid stream ID specified as stream command argument"
	errNotInteger = "ERR value is not an integer or out of range"
)

// streamGroup finds a group, or says why not.
func (f *Fake) streamGroup(k dbKey, group string, r *reply) (*streamData, *groupData) {
	if kind := f.eng.kind(k.db, k.key); kind != "" && kind != "stream" {
		r.errorf(errNotStream)
		return nil, nil
	}
	s := f.eng.stream(k)
	if s == nil || s.groups[group] == nil {
		r.errorf("NOGROUP No such key '%s' or consumer group '%s'", k.key, group)
		return nil, nil
	}
	return s, s.groups[group]
}

func (f *Fake) consumer(g *groupData, name string) *consumerData {
	c := g.consumers[name]
	if c == nil {
		c = &consumerData{}
		g.consumers[name] = c
	}
	c.lastSeen = f.now()
	return c
}

func (r *reply) entry(e *miniredis.StreamEntry) {
	r.array(2)
	r.bulk(e.ID)
	r.bulks(e.Values)
}

// history answers XREADGROUP for one stream and what is pending already: entries that are gone show as such.
func (f *Fake) history(c *fakeConn, args []string) ([]byte, bool) {
	at := len(args) - 3
	if at < 4 || !strings.EqualFold(args[at], "STREAMS") || args[at+2] == ">" || args[at+2] == "$" {
		return nil, false
	}
	count := math.MaxInt
	for i := 4; i < at; i++ {
		switch opt := strings.ToUpper(args[i]); {
		case opt == "COUNT" && i+1 < at:
			i++
			n, err := strconv.Atoi(args[i])
			if err != nil {
				return nil, false
			}
			if n > 0 {
				count = n
			}
		case opt == "BLOCK" && i+1 < at:
			i++
		case opt != "NOACK":
			return nil, false
		}
	}
	id, ok := parseStreamID(args[at+2], 0)
	s := f.eng.stream(dbKey{c.db, args[at+1]})
	if !ok || s == nil || s.groups[args[2]] == nil {
		return nil, false
	}
	g := s.groups[args[2]]
	f.consumer(g, args[3])
	list := &reply{resp: c.resp}
	n := 0
	from, _ := g.search(next(id))
	for i := from; i < len(g.pending) && n < count; i++ {
		p := &g.pending[i]
		if p.consumer != args[3] {
			continue
		}
		n++
		if e := s.find(mustStreamID(p.id)); e != nil {
			p.deliveryCount++
			p.lastDelivery = f.now()
			list.entry(e)
			continue
		}
		list.array(2)
		list.bulk(p.id)
		list.nullArray()
	}
	r := &reply{resp: c.resp}
	if c.resp == 3 {
		r.head('%', 1)
	} else {
		r.array(1)
		r.array(2)
	}
	r.bulk(args[at+1])
	r.array(n)
	r.raw(list.b)
	return r.b, true
}

// cmdXGroup is what miniredis lacks of XGROUP: SETID, ENTRIESREAD, and checks. It reports whether it answered.
func (f *Fake) xgroup(c *fakeConn, args []string, r *reply) bool {
	sub := strings.ToUpper(args[1])
	minimum := map[string]int{"CREATE": 5, "SETID": 5, "DESTROY": 4, "CREATECONSUMER": 5, "DELCONSUMER": 5}[sub]
	if minimum == 0 {
		r.unknownSub("XGROUP", args[1])
		return true
	}
	if len(args) < minimum || sub != "CREATE" && sub != "SETID" && len(args) > minimum {
		r.wrongArity("xgroup|" + sub)
		return true
	}
	if sub != "CREATE" && sub != "SETID" {
		return false
	}
	mkStream, read := false, -1
	for i := 5; i < len(args); i++ {
		switch opt := strings.ToUpper(args[i]); {
		case opt == "MKSTREAM" && sub == "CREATE":
			mkStream = true
		case opt == "ENTRIESREAD" && i+1 < len(args):
			i++
			n, err := strconv.Atoi(args[i])
			if err != nil {
				r.errorf(errNotInteger)
				return true
			}
			if n < -1 {
				r.errorf("ERR value for ENTRIESREAD must be positive or -1")
				return true
			}
			read = n
		default:
			r.errorf("ERR unknown subcommand or wrong number of arguments for '%s'. Try XGROUP HELP.", args[1])
			return true
		}
	}
	k := dbKey{c.db, args[2]}
	if kind := f.eng.kind(k.db, k.key); kind != "" && kind != "stream" {
		r.errorf(errNotStream)
		return true
	}
	s := f.eng.stream(k)
	id, valid := parseStreamID(args[4], 0)
	switch {
	case s == nil && !mkStream:
		r.errorf("ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM option to create an empty stream automatically.")
		return true
	case sub == "SETID" && s.groups[args[3]] == nil:
		r.errorf("NOGROUP No such consumer group '%s' for key name '%s'", args[3], args[2])
		return true
	case args[4] != "$" && !valid:
		r.errorf(errStreamID)
		return true
	}
	if args[4] == "$" && s != nil {
		id = s.last()
	}
	if sub == "SETID" {
		s.groups[args[3]].lastID = id.String()
		f.meta(s).read[args[3]] = read
		r.ok()
		return true
	}
	create := []string{"XGROUP", "CREATE", args[2], args[3], id.String()}
	if mkStream {
		create = append(create, "MKSTREAM")
	}
	out := f.eng.run(c.peer, &c.buf, create...)
	if s = f.eng.stream(k); s != nil && len(out) > 0 && out[0] == '+' {
		f.meta(s).read[args[3]] = read
	}
	r.raw(out)
	return true
}

func (f *Fake) cmdXGroup(c *fakeConn, args []string, r *reply) {
	f.tracks.wrote = true
	if !f.xgroup(c, args, r) {
		r.raw(f.eng.run(c.peer, &c.buf, args...))
	}
}

// errLayout is what newEngine says about a miniredis whose streams are other ones.
var errLayout = errors.New("this version of miniredis keeps streams in another way")
