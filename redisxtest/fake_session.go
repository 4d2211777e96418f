package redisxtest

import (
	"strconv"
	"strings"
)

// login checks a password and makes the client that user.
func (f *Fake) login(c *fakeConn, name, password string, r *reply) bool {
	if u := f.users[name]; u == nil || !u.accepts(password) {
		r.errorf("WRONGPASS invalid username-password pair or user is disabled.")
		return false
	}
	c.user = name
	return true
}

func (f *Fake) cmdAuth(c *fakeConn, args []string, r *reply) {
	name, password := "default", args[len(args)-1]
	switch {
	case len(args) > 3:
		r.errorf("ERR syntax error")
		return
	case len(args) == 3:
		name = args[1]
	case f.users["default"].noPass:
		r.errorf("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?")
		return
	}
	if f.login(c, name, password, r) {
		r.ok()
	}
}

func (f *Fake) cmdHello(c *fakeConn, args []string, r *reply) {
	resp := c.resp
	if len(args) > 1 {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			r.errorf("ERR Protocol version is not an integer or out of range")
			return
		}
		if n != 2 && n != 3 {
			r.errorf("NOPROTO unsupported protocol version")
			return
		}
		resp = n
	}
	var user, password, name string
	login, rename := false, false
	for i := 2; i < len(args); i++ {
		switch opt := strings.ToUpper(args[i]); {
		case opt == "AUTH" && i+2 < len(args):
			user, password, login = args[i+1], args[i+2], true
			i += 2
		case opt == "SETNAME" && i+1 < len(args) && plainName(args[i+1]):
			name, rename = args[i+1], true
			i++
		default:
			r.errorf("ERR Syntax error in HELLO option '%s'", args[i])
			return
		}
	}
	if login && !f.login(c, user, password, r) {
		return
	}
	if c.user == "" {
		r.errorf("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time")
		return
	}
	if rename {
		c.name = name
	}
	c.resp, r.resp = resp, resp
	r.dict(7)
	r.bulk("server")
	r.bulk("redis")
	r.bulk("version")
	r.bulk(fakeVersion)
	r.bulk("proto")
	r.int(resp)
	r.bulk("id")
	r.int(int(c.id))
	r.bulk("mode")
	r.bulk(f.mode())
	r.bulk("role")
	r.bulk("master")
	r.bulk("modules")
	r.array(0)
}

func (f *Fake) cmdReset(c *fakeConn, _ []string, r *reply) {
	f.untrack(c)
	c.reset()
	f.selectDB(c, 0)
	r.resp = c.resp
	r.simple("RESET")
}

func (f *Fake) cmdQuit(c *fakeConn, _ []string, r *reply) {
	f.drop(c)
	c.closing = true
	r.ok()
}

func (f *Fake) cmdPing(c *fakeConn, args []string, r *reply) {
	switch {
	case len(args) > 2:
		r.wrongArity("ping")
	case c.resp == 2 && c.subscriptions() > 0:
		r.bulks([]string{"pong", strings.Join(args[1:], "")})
	case len(args) == 2:
		r.bulk(args[1])
	default:
		r.simple("PONG")
	}
}

func (f *Fake) cmdSelect(c *fakeConn, args []string, r *reply) {
	n, err := strconv.Atoi(args[1])
	switch {
	case err != nil:
		r.errorf("ERR value is not an integer or out of range")
	case f.slots != nil && n != 0:
		r.errorf("ERR SELECT is not allowed in cluster mode")
	case n < 0 || n >= databases:
		r.errorf("ERR DB index is out of range")
	default:
		f.selectDB(c, n)
		r.ok()
	}
}

func (f *Fake) selectDB(c *fakeConn, n int) {
	c.db = n
	f.eng.run(c.peer, &c.buf, "SELECT", strconv.Itoa(n))
}

func (f *Fake) cmdSwapDB(c *fakeConn, args []string, r *reply) {
	if f.slots != nil {
		r.errorf("ERR SWAPDB is not allowed in cluster mode")
		return
	}
	for i, which := range []string{"first", "second"} {
		n, err := strconv.Atoi(args[i+1])
		switch {
		case err != nil:
			r.errorf("ERR invalid %s DB index", which)
			return
		case n < 0 || n >= databases:
			r.errorf("ERR DB index is out of range")
			return
		}
	}
	f.tracks.flush(c.node) // every key of both may have changed
	r.raw(f.eng.run(c.peer, &c.buf, args...))
}

func (f *Fake) cmdRole(_ *fakeConn, _ []string, r *reply) {
	r.array(3)
	r.bulk("master")
	r.int(0)
	r.array(0)
}

// noCluster answers the commands of Cluster mode outside of it.
func (f *Fake) noCluster(_ *fakeConn, _ []string, r *reply) {
	r.errorf("ERR This instance has cluster support disabled")
}

// mode is what HELLO and INFO call the deployment.
func (f *Fake) mode() string {
	if f.slots != nil {
		return "cluster"
	}
	return "standalone"
}
