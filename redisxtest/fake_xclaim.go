package redisxtest

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
)

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
