package redisxtest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cmdClient is CLIENT: what client libraries and the toolkit need of it.
func (f *Fake) cmdClient(c *fakeConn, args []string, r *reply) {
	sub := strings.ToUpper(args[1])
	h, ok := clientCommands[sub]
	switch {
	case !ok:
		r.unknownSub("CLIENT", args[1])
	case len(args) < h.min || h.max > 0 && len(args) > h.max:
		r.wrongArity("client|" + sub)
	default:
		h.run(f, c, args, r)
	}
}

type clientCommand struct {
	min, max int // arguments with both names; max 0 is any number
	run      func(f *Fake, c *fakeConn, args []string, r *reply)
}

var clientCommands = map[string]clientCommand{
	"ID":       {2, 2, func(_ *Fake, c *fakeConn, _ []string, r *reply) { r.int(int(c.id)) }},
	"INFO":     {2, 2, func(f *Fake, c *fakeConn, _ []string, r *reply) { r.bulk(f.describe(c)) }},
	"LIST":     {2, 0, (*Fake).clientList},
	"KILL":     {3, 0, (*Fake).clientKill},
	"UNBLOCK":  {3, 4, (*Fake).clientUnblock},
	"TRACKING": {3, 0, (*Fake).clientTracking},
	"CACHING":  {3, 3, (*Fake).clientCaching},
	"GETREDIR": {2, 2, func(_ *Fake, c *fakeConn, _ []string, r *reply) {
		if c.track == nil {
			r.int(-1)
			return
		}
		r.int(int(c.track.redirect))
	}},
	"TRACKINGINFO": {2, 2, (*Fake).clientTrackingInfo},
	"GETNAME": {2, 2, func(_ *Fake, c *fakeConn, _ []string, r *reply) {
		if c.name == "" {
			r.null()
			return
		}
		r.bulk(c.name)
	}},
	"SETNAME": {3, 3, func(_ *Fake, c *fakeConn, args []string, r *reply) {
		if !plainName(args[2]) {
			r.errorf("ERR Client names cannot contain spaces, newlines or special characters.")
			return
		}
		c.name = args[2]
		r.ok()
	}},
	"SETINFO": {4, 4, func(_ *Fake, c *fakeConn, args []string, r *reply) {
		switch opt := strings.ToUpper(args[2]); {
		case opt != "LIB-NAME" && opt != "LIB-VER":
			r.errorf("ERR Unrecognized option '%s'", args[2])
			return
		case !plainName(args[3]):
			r.errorf("ERR %s cannot contain spaces, newlines or special characters.", strings.ToLower(opt))
			return
		case opt == "LIB-NAME":
			c.lib = args[3]
		default:
			c.libVer = args[3]
		}
		r.ok()
	}},
	"NO-EVICT": {3, 3, func(_ *Fake, c *fakeConn, args []string, r *reply) { onOff(&c.noEvict, args[2], r) }},
	"NO-TOUCH": {3, 3, func(_ *Fake, c *fakeConn, args []string, r *reply) { onOff(&c.noTouch, args[2], r) }},
}

func onOff(to *bool, s string, r *reply) {
	switch strings.ToUpper(s) {
	case "ON":
		*to = true
	case "OFF":
		*to = false
	default:
		r.errorf("ERR syntax error")
		return
	}
	r.ok()
}

func plainName(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < '!' || c > '~' })
}

// describe is the client's line in CLIENT LIST.
func (f *Fake) describe(c *fakeConn) string {
	flags := ""
	if c.subscriptions() > 0 {
		flags += "P"
	}
	if c.multi {
		flags += "x"
	}
	if c.blocked != nil {
		flags += "b"
	}
	redirect := int64(-1)
	if c.track != nil {
		flags, redirect = flags+"t", c.track.redirect
		if c.track.broadcast {
			flags += "B"
		}
	}
	if flags == "" {
		flags = "N"
	}
	multi := -1
	if c.multi {
		multi = len(c.queue)
	}
	now := f.now()
	return fmt.Sprintf("id=%d addr=%s laddr=%s fd=8 name=%s age=%d idle=%d flags=%s db=%d sub=%d psub=%d ssub=%d multi=%d "+
		"cmd=%s user=%s redir=%d resp=%d lib-name=%s lib-ver=%s\n",
		c.id, c.nc.RemoteAddr(), c.nc.LocalAddr(), c.name, int(now.Sub(c.created)/time.Second), int(now.Sub(c.used)/time.Second),
		flags, c.db, len(c.channels), len(c.patterns), len(c.shard), multi, c.last, c.user, redirect, c.resp, c.lib, c.libVer)
}

// kind is what CLIENT LIST TYPE and CLIENT KILL TYPE go by.
func (c *fakeConn) kind() string {
	if c.subscriptions() > 0 {
		return "pubsub"
	}
	return "normal"
}

// clients returns the clients of a node by ID, those of all for nil.
func (f *Fake) clients(of *fakeNode) []*fakeConn {
	list := make([]*fakeConn, 0, len(f.conns))
	for _, c := range f.conns {
		if of == nil || c.node == of {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b *fakeConn) int { return int(a.id - b.id) })
	return list
}

func (f *Fake) clientList(me *fakeConn, args []string, r *reply) {
	want := func(*fakeConn) bool { return true }
	switch {
	case len(args) == 2:
	case strings.EqualFold(args[2], "TYPE") && len(args) == 4:
		kind := strings.ToLower(args[3])
		if !slices.Contains([]string{"normal", "pubsub", "master", "replica", "slave"}, kind) {
			r.errorf("ERR Unknown client type '%s'", args[3])
			return
		}
		want = func(c *fakeConn) bool { return c.kind() == kind }
	case strings.EqualFold(args[2], "ID") && len(args) > 3:
		want = func(c *fakeConn) bool { return slices.Contains(args[3:], strconv.FormatInt(c.id, 10)) }
	default:
		r.errorf("ERR syntax error")
		return
	}
	var b strings.Builder
	for _, c := range f.clients(me.node) {
		if want(c) {
			b.WriteString(f.describe(c))
		}
	}
	r.bulk(b.String())
}

func (f *Fake) clientKill(c *fakeConn, args []string, r *reply) {
	if len(args) == 3 { // the old form: an address
		for _, o := range f.clients(c.node) {
			if o.nc.RemoteAddr().String() == args[2] {
				f.kill(o, c)
				r.ok()
				return
			}
		}
		r.errorf("ERR No such client")
		return
	}
	if len(args)%2 != 0 {
		r.errorf("ERR syntax error")
		return
	}
	skipMe := true
	var filters []func(*fakeConn) bool
	for i := 2; i < len(args); i += 2 {
		value := args[i+1]
		switch strings.ToUpper(args[i]) {
		case "ID":
			id, err := strconv.ParseInt(value, 10, 64)
			if err != nil || id < 1 {
				r.errorf("ERR client-id should be greater than 0")
				return
			}
			filters = append(filters, func(o *fakeConn) bool { return o.id == id })
		case "TYPE":
			filters = append(filters, func(o *fakeConn) bool { return strings.EqualFold(o.kind(), value) })
		case "ADDR":
			filters = append(filters, func(o *fakeConn) bool { return o.nc.RemoteAddr().String() == value })
		case "LADDR":
			filters = append(filters, func(o *fakeConn) bool { return o.nc.LocalAddr().String() == value })
		case "USER":
			filters = append(filters, func(o *fakeConn) bool { return o.user == value })
		case "SKIPME":
			skipMe = !strings.EqualFold(value, "no")
		default:
			r.errorf("ERR syntax error")
			return
		}
	}
	n := 0
	for _, o := range f.clients(c.node) {
		if o == c && skipMe || slices.ContainsFunc(filters, func(ok func(*fakeConn) bool) bool { return !ok(o) }) {
			continue
		}
		f.kill(o, c)
		n++
	}
	r.int(n)
}

// kill breaks a connection; the killer's own is closed behind its reply.
func (f *Fake) kill(c, killer *fakeConn) {
	f.drop(c)
	if c != killer {
		_ = c.nc.Close()
		return
	}
	c.closing = true
}

func (f *Fake) clientUnblock(me *fakeConn, args []string, r *reply) {
	id, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		r.errorf("ERR value is not an integer or out of range")
		return
	}
	how := "TIMEOUT"
	if len(args) == 4 {
		how = strings.ToUpper(args[3])
	}
	if how != "TIMEOUT" && how != "ERROR" {
		r.errorf("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
		return
	}
	o := f.conns[id]
	if o == nil || o.node != me.node || o.blocked == nil {
		r.int(0)
		return
	}
	r.int(1)
	if how == "ERROR" {
		f.unblock(o.blocked, []byte("-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"))
	} else {
		f.expire(o.blocked)
	}
}

func (f *Fake) clientCaching(c *fakeConn, args []string, r *reply) {
	how := strings.ToUpper(args[2])
	switch {
	case c.track == nil || !c.track.optIn && !c.track.optOut:
		r.errorf("ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled")
	case how != "YES" && how != "NO":
		r.errorf("ERR syntax error")
	case how == "YES" && !c.track.optIn:
		r.errorf("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.")
	case how == "NO" && !c.track.optOut:
		r.errorf("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.")
	default:
		c.caching = how
		r.ok()
	}
}

func (f *Fake) clientTrackingInfo(c *fakeConn, _ []string, r *reply) {
	flags, redirect, prefixes := []string{"off"}, int64(-1), []string{}
	if t := c.track; t != nil {
		flags, redirect, prefixes = []string{"on"}, t.redirect, t.prefixes
		for _, o := range []struct {
			set  bool
			name string
		}{
			{t.broadcast, "bcast"}, {t.optIn, "optin"}, {t.optOut, "optout"}, {t.noLoop, "noloop"},
			{c.caching == "YES", "caching-yes"}, {c.caching == "NO", "caching-no"},
			{t.redirect != 0 && f.conns[t.redirect] == nil, "broken_redirect"},
		} {
			if o.set {
				flags = append(flags, o.name)
			}
		}
	}
	r.dict(3)
	r.bulk("flags")
	r.set(flags)
	r.bulk("redirect")
	r.int(int(redirect))
	r.bulk("prefixes")
	r.bulks(prefixes)
}
