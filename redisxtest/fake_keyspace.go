package redisxtest

import (
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// keyspace counts the keys of a database that a node has, and those of them with a TTL.
func (f *Fake) keyspace(n *fakeNode, db int) (all, volatile int) {
	if f.slots == nil {
		return f.eng.keys(db)
	}
	if db != 0 {
		return 0, 0
	}
	for _, key := range f.own(n) {
		all++
		if f.eng.expires(0, key) {
			volatile++
		}
	}
	return all, volatile
}

// own returns the keys that a node of a Cluster has, sorted.
func (f *Fake) own(n *fakeNode) []string {
	return slices.DeleteFunc(f.eng.names(0), func(key string) bool { return !f.holds(n, key) })
}

func (f *Fake) cmdKeysOf(c *fakeConn, args []string, r *reply) {
	r.bulks(slices.DeleteFunc(f.own(c.node), func(key string) bool { return !matchGlob(args[1], key) }))
}

func (f *Fake) cmdDBSize(c *fakeConn, _ []string, r *reply) { r.int(len(f.own(c.node))) }

func (f *Fake) cmdRandomKey(c *fakeConn, _ []string, r *reply) {
	keys := f.own(c.node)
	if len(keys) == 0 {
		r.null()
		return
	}
	r.bulk(keys[rand.IntN(len(keys))])
}

// cmdFlush is FLUSHALL and FLUSHDB on one node of a Cluster.
func (f *Fake) cmdFlush(c *fakeConn, args []string, r *reply) {
	if len(args) > 2 || len(args) == 2 && !strings.EqualFold(args[1], "SYNC") && !strings.EqualFold(args[1], "ASYNC") {
		r.errorf("ERR syntax error")
		return
	}
	keys := f.own(c.node)
	if len(keys) > 0 {
		f.eng.run(c.peer, &c.buf, append([]string{"DEL"}, keys...)...)
	}
	for _, key := range keys { // those who track are told of all at once, not of each
		if f.tracks.seen != nil {
			k := dbKey{0, key}
			f.tracks.seen[k] = f.eng.versions((*f.eng.dbs)[0])[key]
		}
	}
	f.tracks.flush(c.node)
	r.ok()
}

// cmdScan walks the keys in the order of a hash, which is also the cursor: keys come and go without moving the others.
func (f *Fake) cmdScan(c *fakeConn, args []string, r *reply) {
	cursor, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		r.errorf("ERR invalid cursor")
		return
	}
	count, pattern, kind := 10, "*", ""
	for i := 2; i < len(args); i += 2 {
		if i+1 == len(args) {
			r.errorf("ERR syntax error")
			return
		}
		switch strings.ToUpper(args[i]) {
		case "COUNT":
			if count, err = strconv.Atoi(args[i+1]); err != nil {
				r.errorf("ERR value is not an integer or out of range")
				return
			}
			if count < 1 {
				r.errorf("ERR syntax error")
				return
			}
		case "MATCH":
			pattern = args[i+1]
		case "TYPE":
			kind = strings.ToLower(args[i+1])
		default:
			r.errorf("ERR syntax error")
			return
		}
	}
	type place struct {
		at  uint64
		key string
	}
	var rest []place
	for _, key := range f.eng.names(c.db) {
		if at := scanHash(key); at >= cursor && f.holds(c.node, key) {
			rest = append(rest, place{at, key})
		}
	}
	slices.SortFunc(rest, func(a, b place) int {
		if a.at != b.at {
			return map[bool]int{true: -1, false: 1}[a.at < b.at]
		}
		return strings.Compare(a.key, b.key)
	})
	next := uint64(0)
	for i := count; i < len(rest); i++ {
		if rest[i].at != rest[i-1].at {
			next, rest = rest[i].at, rest[:i]
			break
		}
	}
	found := []string{}
	for _, p := range rest {
		if matchGlob(pattern, p.key) && (kind == "" || f.eng.kind(c.db, p.key) == kind) {
			found = append(found, p.key)
		}
	}
	r.array(2)
	r.bulk(strconv.FormatUint(next, 10))
	r.bulks(found)
}

// scanHash places a key in the order of SCAN; 0 is kept for the start. 48 bits do for clients that read cursors as floats.
func scanHash(key string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	return max(1, h.Sum64()>>16)
}
