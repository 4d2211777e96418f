package redisxtest

import (
	"maps"
	"slices"
	"strings"
)

// allowedSubscribed are the commands of a RESP2 connection with subscriptions. In RESP3 it may run any.
var allowedSubscribed = map[string]bool{
	"SUBSCRIBE": true, "UNSUBSCRIBE": true, "PSUBSCRIBE": true, "PUNSUBSCRIBE": true, "SSUBSCRIBE": true, "SUNSUBSCRIBE": true,
	"PING": true, "QUIT": true, "RESET": true,
}

func (c *fakeConn) subscriptions() int { return len(c.channels) + len(c.patterns) + len(c.shard) }

// subscribeTo is SUBSCRIBE, PSUBSCRIBE and SSUBSCRIBE.
func subscribeTo(kind string, set func(*fakeConn) map[string]struct{}) command {
	return func(_ *Fake, c *fakeConn, args []string, r *reply) {
		for _, name := range args[1:] {
			set(c)[name] = struct{}{}
			r.push(3)
			r.bulk(kind)
			r.bulk(name)
			r.int(c.confirmed(kind))
		}
	}
}

// unsubscribeFrom is UNSUBSCRIBE, PUNSUBSCRIBE and SUNSUBSCRIBE.
func unsubscribeFrom(kind string, set func(*fakeConn) map[string]struct{}) command {
	return func(_ *Fake, c *fakeConn, args []string, r *reply) {
		names := args[1:]
		if len(names) == 0 {
			names = slices.Sorted(maps.Keys(set(c)))
		}
		for _, name := range names {
			delete(set(c), name)
			r.push(3)
			r.bulk(kind)
			r.bulk(name)
			r.int(c.confirmed(kind))
		}
		if len(names) == 0 {
			r.push(3)
			r.bulk(kind)
			r.null()
			r.int(c.confirmed(kind))
		}
	}
}

// confirmed is the count in a confirmation: sharded subscriptions are counted apart.
func (c *fakeConn) confirmed(kind string) int {
	if strings.HasPrefix(kind, "s") && kind != "subscribe" {
		return len(c.shard)
	}
	return len(c.channels) + len(c.patterns)
}

func channelsOf(c *fakeConn) map[string]struct{} { return c.channels }
func patternsOf(c *fakeConn) map[string]struct{} { return c.patterns }
func shardOf(c *fakeConn) map[string]struct{}    { return c.shard }

func (f *Fake) cmdPublish(c *fakeConn, args []string, r *reply) {
	r.int(f.publish(c, args[1], args[2]))
}

// publish delivers a message and returns how many times.
func (f *Fake) publish(from *fakeConn, channel, message string) int {
	n := 0
	for _, c := range f.clients(nil) {
		here := 0
		if _, ok := c.channels[channel]; ok {
			f.deliver(from, c, "message", channel, message)
			here++
		}
		for _, p := range slices.Sorted(maps.Keys(c.patterns)) {
			if matchGlob(p, channel) {
				f.deliver(from, c, "pmessage", p, channel, message)
				here++
			}
		}
		if c.node == from.node { // the other nodes of a Cluster deliver, but do not tell how often
			n += here
		}
	}
	return n
}

func (f *Fake) cmdSpublish(from *fakeConn, args []string, r *reply) {
	n := 0
	for _, c := range f.clients(from.node) {
		if _, ok := c.shard[args[1]]; ok {
			f.deliver(from, c, "smessage", args[1], args[2])
			n++
		}
	}
	r.int(n)
}

// protocol is the one the client speaks, also while its script has chosen another.
func (c *fakeConn) protocol() int {
	if c.outer != 0 {
		return c.outer
	}
	return c.resp
}

func (f *Fake) deliver(from, to *fakeConn, parts ...string) {
	r := reply{resp: to.protocol()}
	r.push(len(parts))
	for _, p := range parts {
		r.bulk(p)
	}
	if to == from {
		to.after = append(to.after, r.b...)
		return
	}
	to.send(r.b)
}

func (f *Fake) cmdPubsub(me *fakeConn, args []string, r *reply) {
	set := channelsOf
	sub := strings.ToUpper(args[1])
	if strings.HasPrefix(sub, "SHARD") {
		set, sub = shardOf, strings.TrimPrefix(sub, "SHARD")
	}
	counts := map[string]int{}
	patterns := map[string]struct{}{}
	for _, c := range f.clients(me.node) {
		for name := range set(c) {
			counts[name]++
		}
		for p := range c.patterns {
			patterns[p] = struct{}{}
		}
	}
	switch {
	case sub == "CHANNELS" && len(args) <= 3:
		var names []string
		for _, name := range slices.Sorted(maps.Keys(counts)) {
			if len(args) == 2 || matchGlob(args[2], name) {
				names = append(names, name)
			}
		}
		r.bulks(names)
	case sub == "NUMSUB":
		r.array(2 * (len(args) - 2))
		for _, name := range args[2:] {
			r.bulk(name)
			r.int(counts[name])
		}
	case strings.EqualFold(args[1], "NUMPAT") && len(args) == 2:
		r.int(len(patterns))
	default:
		r.unknownSub("PUBSUB", args[1])
	}
}

// matchGlob is the server's pattern matching: * ? [a-c] [^x] and \ to escape.
func matchGlob(p, s string) bool {
	for p != "" {
		switch p[0] {
		case '*':
			for p != "" && p[0] == '*' {
				p = p[1:]
			}
			for i := 0; i <= len(s); i++ {
				if matchGlob(p, s[i:]) {
					return true
				}
			}
			return false
		case '[':
			if s == "" {
				return false
			}
			ok, rest := matchClass(p[1:], s[0])
			if !ok {
				return false
			}
			p, s = rest, s[1:]
			continue
		case '\\':
			if len(p) > 1 {
				p = p[1:]
			}
			if s == "" || s[0] != p[0] {
				return false
			}
		case '?':
			if s == "" {
				return false
			}
		default:
			if s == "" || s[0] != p[0] {
				return false
			}
		}
		p, s = p[1:], s[1:]
	}
	return s == ""
}

// matchClass matches c against the class that p begins with and returns what follows it.
func matchClass(p string, c byte) (ok bool, rest string) {
	not := p != "" && p[0] == '^'
	if not {
		p = p[1:]
	}
	match := false
	for p != "" && p[0] != ']' {
		switch {
		case p[0] == '\\' && len(p) > 1:
			match = match || p[1] == c
			p = p[2:]
		case len(p) > 2 && p[1] == '-':
			low, high := min(p[0], p[2]), max(p[0], p[2])
			match = match || low <= c && c <= high
			p = p[3:]
		default:
			match = match || p[0] == c
			p = p[1:]
		}
	}
	if p != "" {
		p = p[1:]
	}
	return match != not, p
}
