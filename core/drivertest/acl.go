package drivertest

import "crypto/rand"

// aclUser is a user of the server that exists for one case.
type aclUser struct {
	env            *env
	name, password string
}

// aclUser makes a user with these rules.
func (e *env) aclUser(t tester, rules ...string) *aclUser {
	t.Helper()
	if e.wrapped {
		t.Skipf("needs a user in the URL; a wrapped client has its own")
	}
	if !e.server.has(t, "ACL") {
		t.Skipf("the server has no ACL")
	}
	u := &aclUser{env: e, name: "drivertest-" + e.tag, password: rand.Text()}
	u.allow(t, append([]string{"reset", "on", ">" + u.password}, rules...)...)
	t.Cleanup(func() { u.each(t, "ACL", "DELUSER", u.name) })
	return u
}

// allow applies further rules.
func (u *aclUser) allow(t tester, rules ...string) {
	t.Helper()
	u.each(t, append([]string{"ACL", "SETUSER", u.name}, rules...)...)
}

func (u *aclUser) each(t tester, args ...string) {
	t.Helper()
	u.env.server.each(t, args...)
}

// url returns the URL of the server for this user.
func (u *aclUser) url() string { return withUser(u.env.cfg.URL, u.name, u.password) }
