package redisxtest

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tracking is what a client asked for with CLIENT TRACKING ON.
type tracking struct {
	broadcast, optIn, optOut, noLoop bool
	redirect                         int64
	prefixes                         []string
}

// trackTable knows who is to be told about which keys, in the manner of the server: names, whatever the database.
type trackTable struct {
	clients map[*fakeConn]struct{}
	// read holds who has read a key since it was last told, for clients without BCAST.
	read map[string]map[*fakeConn]struct{}
	// seen holds the versions of all keys when they were last compared; nil while there is nothing to compare for.
	seen       map[dbKey]uint
	touched    []dbKey // changed in a way that versions do not show
	wrote      bool    // a command ran that may have changed something
	flushed    map[*fakeNode]struct{}
	broadcasts int // how many clients use BCAST
}

func newTrackTable() trackTable {
	return trackTable{clients: map[*fakeConn]struct{}{}, read: map[string]map[*fakeConn]struct{}{}, flushed: map[*fakeNode]struct{}{}}
}

// flush notes that every key of a node is gone.
func (t *trackTable) flush(n *fakeNode) { t.flushed[n] = struct{}{} }

// invalidationChannel carries the messages for connections that speak RESP2.
const invalidationChannel = "__redis__:invalidate"

func (f *Fake) track(c *fakeConn, t *tracking) {
	f.untrack(c)
	c.track = t
	f.tracks.clients[c] = struct{}{}
	if t.broadcast {
		f.tracks.broadcasts++
		f.compare()
	}
}

// compare starts comparing versions unless that is going on.
func (f *Fake) compare() {
	if f.tracks.seen == nil {
		f.tracks.seen, f.tracks.touched = f.versions(), nil
	}
}

func (f *Fake) untrack(c *fakeConn) {
	if c.track == nil {
		return
	}
	if c.track.broadcast {
		f.tracks.broadcasts--
	}
	c.track = nil
	delete(f.tracks.clients, c)
	for key, readers := range f.tracks.read {
		delete(readers, c)
		if len(readers) == 0 {
			delete(f.tracks.read, key)
		}
	}
}

func (f *Fake) touch(k dbKey) {
	if f.tracks.seen != nil && f.eng.version(k) != 0 {
		f.tracks.touched = append(f.tracks.touched, k)
	}
}

// remember notes the keys that a tracking client reads.
func (f *Fake) remember(c *fakeConn, cmd *fakeCommand, args []string) {
	t := c.track
	if t == nil || t.broadcast || t.optIn && c.caching != "YES" || t.optOut && c.caching == "NO" {
		return
	}
	f.compare()
	for _, key := range cmd.keys(args) {
		if f.tracks.read[key] == nil {
			f.tracks.read[key] = map[*fakeConn]struct{}{}
		}
		f.tracks.read[key][c] = struct{}{}
	}
}

// versions is the version counter of every key that exists or existed.
func (f *Fake) versions() map[dbKey]uint {
	all := map[dbKey]uint{}
	for id, db := range *f.eng.dbs {
		for key, v := range f.eng.versions(db) {
			all[dbKey{id, key}] = v
		}
	}
	return all
}

// changed returns the names of the keys that changed since the last call.
func (f *Fake) changed() []string {
	names := map[string]struct{}{}
	for id, db := range *f.eng.dbs {
		for key, v := range f.eng.versions(db) {
			if k := (dbKey{id, key}); f.tracks.seen[k] != v {
				f.tracks.seen[k] = v
				names[key] = struct{}{}
			}
		}
	}
	for _, k := range f.tracks.touched {
		names[k.key] = struct{}{}
	}
	f.tracks.touched = nil
	return slices.Sorted(maps.Keys(names))
}

// invalidate tells clients about changed keys: those that expired, or whatever cause's command did. f.mu is held.
func (f *Fake) invalidate(cause *fakeConn, expired []dbKey) {
	if len(f.tracks.flushed) > 0 {
		for c := range f.tracks.clients {
			if _, ok := f.tracks.flushed[c.node]; !ok {
				continue
			}
			maps.DeleteFunc(f.tracks.read, func(_ string, readers map[*fakeConn]struct{}) bool {
				delete(readers, c)
				return len(readers) == 0
			})
			f.tell(c, nil)
		}
		clear(f.tracks.flushed)
	}
	if f.tracks.broadcasts == 0 && len(f.tracks.read) == 0 {
		f.tracks.seen = nil
	}
	if f.tracks.seen == nil || !f.tracks.wrote && len(expired) == 0 {
		return
	}
	f.tracks.wrote = false
	keys := f.changed()
	if len(keys) == 0 {
		return
	}
	if len(expired) > 0 {
		cause = nil
	}
	for c := range f.tracks.clients {
		if c.track.noLoop && c == cause {
			for _, key := range keys {
				delete(f.tracks.read[key], c)
			}
			continue
		}
		var mine []string
		for _, key := range keys {
			if f.holds(c.node, key) && c.track.concerns(key, c, f.tracks.read) {
				mine = append(mine, key)
			}
		}
		if len(mine) > 0 {
			f.tell(c, mine)
		}
	}
	for _, key := range keys {
		delete(f.tracks.read, key)
	}
}

func (t *tracking) concerns(key string, c *fakeConn, read map[string]map[*fakeConn]struct{}) bool {
	if !t.broadcast {
		_, ok := read[key][c]
		return ok
	}
	return len(t.prefixes) == 0 || slices.ContainsFunc(t.prefixes, func(p string) bool { return strings.HasPrefix(key, p) })
}

// tell sends one invalidation message; nil keys mean all.
func (f *Fake) tell(c *fakeConn, keys []string) {
	to := c
	if c.track.redirect != 0 {
		if to = f.conns[c.track.redirect]; to == nil {
			if c.resp == 3 {
				r := reply{resp: 3}
				r.push(2)
				r.bulk("tracking-redir-broken")
				r.int(int(c.track.redirect))
				c.send(r.b)
			}
			return
		}
	}
	r := reply{resp: to.resp}
	switch {
	case to.resp == 3:
		r.push(2)
		r.bulk("invalidate")
	case to != c && to.subscriptions() > 0:
		r.array(3)
		r.bulk("message")
		r.bulk(invalidationChannel)
	default:
		return // RESP2 without redirection to a subscriber has no way to be told
	}
	if keys == nil {
		r.null()
	} else {
		r.bulks(keys)
	}
	to.send(r.b)
}

// watchExpiry makes sure that keys that expire while nobody asks are reported. f.mu is held.
func (f *Fake) watchExpiry() {
	if f.tracks.seen == nil || f.expiry != nil || !f.eng.volatile() {
		return
	}
	f.expiry = time.AfterFunc(20*time.Millisecond, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.expiry = nil
		f.tick()
		f.watchExpiry()
	})
}

// clientTracking is CLIENT TRACKING.
func (f *Fake) clientTracking(c *fakeConn, args []string, r *reply) {
	t := &tracking{}
	for i := 3; i < len(args); i++ {
		more := i+1 < len(args)
		switch opt := strings.ToUpper(args[i]); {
		case opt == "REDIRECT" && more:
			i++
			id, err := strconv.ParseInt(args[i], 10, 64)
			switch {
			case t.redirect != 0:
				r.errorf("ERR A client can only redirect to a single other client")
				return
			case err != nil:
				r.errorf("ERR Invalid client ID")
				return
			case f.conns[id] == nil || f.conns[id].node != c.node:
				r.errorf("ERR The client ID you want redirect to does not exist")
				return
			}
			t.redirect = id
		case opt == "PREFIX" && more:
			i++
			t.prefixes = append(t.prefixes, args[i])
		case opt == "BCAST":
			t.broadcast = true
		case opt == "OPTIN":
			t.optIn = true
		case opt == "OPTOUT":
			t.optOut = true
		case opt == "NOLOOP":
			t.noLoop = true
		default:
			r.errorf("ERR syntax error")
			return
		}
	}
	switch strings.ToUpper(args[2]) {
	case "OFF":
		f.untrack(c)
		r.ok()
	case "ON":
		if fault := t.join(c.track); fault != "" {
			r.errorf("ERR %s", fault)
			return
		}
		f.track(c, t)
		r.ok()
	default:
		r.errorf("ERR syntax error")
	}
}

// join checks the options against each other and against what the client has asked for before, whose prefixes stay.
func (t *tracking) join(old *tracking) (fault string) {
	switch {
	case len(t.prefixes) > 0 && !t.broadcast:
		return "PREFIX option requires BCAST mode to be enabled"
	case old != nil && old.broadcast != t.broadcast:
		return "You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode."
	case t.broadcast && (t.optIn || t.optOut):
		return "OPTIN and OPTOUT are not compatible with BCAST"
	case t.optIn && t.optOut:
		return "You can't specify both OPTIN mode and OPTOUT mode"
	case old != nil && (old.optIn && t.optOut || old.optOut && t.optIn):
		return "You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode."
	}
	if old != nil {
		for _, p := range old.prefixes {
			if !slices.Contains(t.prefixes, p) {
				t.prefixes = append(t.prefixes, p)
			}
		}
	}
	for i, a := range t.prefixes {
		for _, b := range t.prefixes[i+1:] {
			if strings.HasPrefix(a, b) || strings.HasPrefix(b, a) {
				return "Prefix '" + a + "' overlaps with an existing prefix '" + b + "'. Prefixes for a single client must not overlap."
			}
		}
	}
	return ""
}
