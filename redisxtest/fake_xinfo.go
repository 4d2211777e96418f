package redisxtest

import (
	"maps"
	"slices"
	"strings"
	"time"
)

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
