package redisxtest

import (
	"errors"
	"fmt"
	"maps"
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

// claim gives a pending entry to a consumer.
func (f *Fake) claim(g *groupData, i int, to string) {
	p := &g.pending[i]
	if old := g.consumers[p.consumer]; old != nil {
		old.numPendingEntries--
	}
	c := f.consumer(g, to)
	c.numPendingEntries++
	c.lastSuccess = f.now()
	p.consumer = to
}

// drop takes a pending entry off the list.
func (g *groupData) drop(i int) {
	if c := g.consumers[g.pending[i].consumer]; c != nil {
		c.numPendingEntries--
	}
	g.pending = slices.Delete(g.pending, i, i+1)
}

func (g *groupData) search(id streamID) (int, bool) {
	return slices.BinarySearchFunc(g.pending, id, func(p pendingData, id streamID) int { return mustStreamID(p.id).compare(id) })
}

func (f *Fake) cmdXAutoClaim(c *fakeConn, args []string, r *reply) {
	minIdle, err := strconv.ParseInt(args[4], 10, 64)
	if err != nil {
		r.errorf("ERR Invalid min-idle-time argument for XAUTOCLAIM")
		return
	}
	exclusive := strings.HasPrefix(args[5], "(")
	start, ok := parseRangeID(strings.TrimPrefix(args[5], "("), 0)
	if !ok {
		r.errorf(errStreamID)
		return
	}
	count, justID := 100, false
	for i := 6; i < len(args); i++ {
		switch opt := strings.ToUpper(args[i]); {
		case opt == "COUNT" && i+1 < len(args):
			i++
			if count, err = strconv.Atoi(args[i]); err != nil || count < 1 {
				r.errorf("ERR COUNT must be > 0")
				return
			}
		case opt == "JUSTID":
			justID = true
		default:
			r.errorf("ERR syntax error")
			return
		}
	}
	s, g := f.streamGroup(dbKey{c.db, args[1]}, args[2], r)
	if g == nil {
		return
	}
	f.consumer(g, args[3])
	if exclusive {
		start = next(start)
	}
	i, _ := g.search(start)
	var claimed []*miniredis.StreamEntry
	var deleted []string
	for attempts := count * 10; i < len(g.pending) && attempts > 0 && count > 0; attempts-- {
		p := &g.pending[i]
		e := s.find(mustStreamID(p.id))
		if e == nil {
			deleted = append(deleted, p.id)
			g.drop(i)
			count--
			continue
		}
		if f.now().Sub(p.lastDelivery) < time.Duration(minIdle)*time.Millisecond {
			i++
			continue
		}
		f.claim(g, i, args[3])
		p.lastDelivery = f.now()
		if !justID {
			p.deliveryCount++
		}
		claimed = append(claimed, e)
		count--
		i++
	}
	cursor := "0-0"
	if i < len(g.pending) {
		cursor = g.pending[i].id
	}
	r.array(3)
	r.bulk(cursor)
	r.array(len(claimed))
	for _, e := range claimed {
		if justID {
			r.bulk(e.ID)
		} else {
			r.entry(e)
		}
	}
	r.bulks(deleted)
}

func next(id streamID) streamID {
	if id[1] == math.MaxUint64 {
		return streamID{id[0] + 1, 0}
	}
	return streamID{id[0], id[1] + 1}
}

// parseRangeID reads an ID that may be - or +.
func parseRangeID(s string, seq uint64) (streamID, bool) {
	switch s {
	case "-":
		return streamID{}, true
	case "+":
		return lastStreamID, true
	}
	return parseStreamID(s, seq)
}

func (f *Fake) cmdXClaim(c *fakeConn, args []string, r *reply) {
	s, g := f.streamGroup(dbKey{c.db, args[1]}, args[2], r)
	if g == nil {
		return
	}
	minIdle, err := strconv.ParseInt(args[4], 10, 64)
	if err != nil {
		r.errorf("ERR Invalid min-idle-time argument for XCLAIM")
		return
	}
	minIdle = max(0, minIdle)
	var ids []streamID
	at := 5
	for ; at < len(args); at++ {
		id, ok := parseStreamID(args[at], 0)
		if !ok {
			break
		}
		ids = append(ids, id)
	}
	now := f.now()
	delivered, retries, force, justID := now, -1, false, false
	var last streamID
	for ; at < len(args); at++ {
		opt, more := strings.ToUpper(args[at]), at+1 < len(args)
		var n int64
		if more && (opt == "IDLE" || opt == "TIME" || opt == "RETRYCOUNT") {
			at++
			if n, err = strconv.ParseInt(args[at], 10, 64); err != nil {
				r.errorf("ERR Invalid %s option argument for XCLAIM", opt)
				return
			}
		}
		switch {
		case opt == "FORCE":
			force = true
		case opt == "JUSTID":
			justID = true
		case opt == "IDLE" && more:
			delivered = now.Add(-time.Duration(n) * time.Millisecond)
		case opt == "TIME" && more:
			delivered = time.UnixMilli(n)
		case opt == "RETRYCOUNT" && more:
			if retries = int(n); retries < 0 {
				r.errorf("ERR Invalid RETRYCOUNT option argument for XCLAIM")
				return
			}
		case opt == "LASTID" && more:
			at++
			var ok bool
			if last, ok = parseStreamID(args[at], 0); !ok {
				r.errorf(errStreamID)
				return
			}
		default:
			r.errorf("ERR Unrecognized XCLAIM option '%s'", args[at])
			return
		}
	}
	if delivered.After(now) {
		delivered = now
	}
	if last.compare(mustStreamID(g.lastID)) > 0 {
		g.lastID = last.String()
	}
	f.consumer(g, args[3])
	var claimed []*miniredis.StreamEntry
	for _, id := range ids {
		i, pending := g.search(id)
		e := s.find(id)
		if e == nil {
			if pending {
				g.drop(i)
			}
			continue
		}
		switch {
		case !pending && !force:
			continue
		case !pending:
			g.pending = slices.Insert(g.pending, i, pendingData{id: id.String()})
		case now.Sub(g.pending[i].lastDelivery) < time.Duration(minIdle)*time.Millisecond:
			continue
		}
		f.claim(g, i, args[3])
		p := &g.pending[i]
		p.lastDelivery = delivered
		switch {
		case retries >= 0:
			p.deliveryCount = retries
		case !justID:
			p.deliveryCount++
		}
		claimed = append(claimed, e)
	}
	r.array(len(claimed))
	for _, e := range claimed {
		if justID {
			r.bulk(e.ID)
		} else {
			r.entry(e)
		}
	}
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

func (f *Fake) cmdXInfo(c *fakeConn, args []string, r *reply) {
	sub := strings.ToUpper(args[1])
	want := map[string]int{"STREAM": 3, "GROUPS": 3, "CONSUMERS": 4}[sub]
	switch {
	case want == 0:
		r.unknownSub("XINFO", args[1])
		return
	case sub == "STREAM" && len(args) > 3 && strings.EqualFold(args[3], "FULL"):
		r.errorf("ERR the fake server has no XINFO STREAM FULL")
		return
	case len(args) != want:
		r.wrongArity("xinfo|" + sub)
		return
	}
	k := dbKey{c.db, args[2]}
	s := f.eng.stream(k)
	switch kind := f.eng.kind(k.db, k.key); {
	case kind == "":
		r.errorf("ERR no such key")
		return
	case kind != "stream" || s == nil:
		r.errorf(errNotStream)
		return
	}
	m := f.meta(s)
	switch sub {
	case "STREAM":
		f.xinfoStream(s, m, r)
	case "GROUPS":
		r.array(len(s.groups))
		for _, name := range slices.Sorted(maps.Keys(s.groups)) {
			xinfoGroup(s, m, name, r)
		}
	default:
		g := s.groups[args[3]]
		if g == nil {
			r.errorf("NOGROUP No such consumer group '%s' for key name '%s'", args[3], args[2])
			return
		}
		ms := func(t time.Time) int {
			if t.IsZero() {
				return -1
			}
			return int(f.now().Sub(t).Milliseconds())
		}
		r.array(len(g.consumers))
		for _, name := range slices.Sorted(maps.Keys(g.consumers)) {
			c, n := g.consumers[name], 0
			for _, p := range g.pending {
				if p.consumer == name {
					n++
				}
			}
			r.dict(4)
			r.bulk("name")
			r.bulk(name)
			r.bulk("pending")
			r.int(n)
			r.bulk("idle")
			r.int(max(0, ms(c.lastSeen)))
			r.bulk("inactive")
			r.int(ms(c.lastSuccess))
		}
	}
}

func (f *Fake) xinfoStream(s *streamData, m *streamMeta, r *reply) {
	deleted := m.maxDeleted
	if deleted == "" {
		deleted = "0-0"
	}
	r.dict(10)
	for _, p := range []struct {
		name string
		n    int
		s    string
	}{
		{"length", len(s.entries), ""}, {"radix-tree-keys", min(1, len(s.entries)), ""}, {"radix-tree-nodes", 2, ""},
		{"last-generated-id", 0, s.last().String()}, {"max-deleted-entry-id", 0, deleted}, {"entries-added", m.added, ""},
		{"recorded-first-entry-id", 0, s.first().String()}, {"groups", len(s.groups), ""},
	} {
		r.bulk(p.name)
		if p.s != "" {
			r.bulk(p.s)
		} else {
			r.int(p.n)
		}
	}
	for i, name := range []string{"first-entry", "last-entry"} {
		r.bulk(name)
		if len(s.entries) == 0 {
			r.null()
			continue
		}
		r.entry(&s.entries[i*(len(s.entries)-1)])
	}
}

func xinfoGroup(s *streamData, m *streamMeta, name string, r *reply) {
	g := s.groups[name]
	read, known := m.read[name]
	if !known {
		read = -1
	}
	lag := -1
	switch at := mustStreamID(g.lastID); {
	case m.added == 0:
		lag = 0
	case read >= 0 && !m.tombstones(s, at):
		lag = m.added - read
	default:
		if n := m.readUpTo(s, at); n >= 0 {
			lag = m.added - n
		}
	}
	r.dict(6)
	r.bulk("name")
	r.bulk(name)
	r.bulk("consumers")
	r.int(len(g.consumers))
	r.bulk("pending")
	r.int(len(g.pending))
	r.bulk("last-delivered-id")
	r.bulk(mustStreamID(g.lastID).String())
	for _, p := range []struct {
		name string
		n    int
	}{{"entries-read", read}, {"lag", lag}} {
		r.bulk(p.name)
		if p.n < 0 {
			r.null()
		} else {
			r.int(p.n)
		}
	}
}

// errLayout is what newEngine says about a miniredis whose streams are other ones.
var errLayout = errors.New("this version of miniredis keeps streams in another way")
