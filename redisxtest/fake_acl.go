package redisxtest

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// fakeUser is an ACL user of a Fake.
type fakeUser struct {
	on, noPass     bool
	passwords      []string
	keys, channels []string // patterns
	// all says whether commands are allowed that except does not name; names are "GET" or "CLIENT|ID".
	all    bool
	except map[string]bool // true: allowed
}

// newFakeUser is what ACL SETUSER makes of a name it does not know.
func newFakeUser() *fakeUser { return &fakeUser{except: map[string]bool{}} }

// may reports whether a command is allowed.
func (u *fakeUser) may(name string, args []string) bool {
	if len(args) > 1 {
		if allowed, ok := u.except[name+"|"+strings.ToUpper(args[1])]; ok {
			return allowed
		}
	}
	if allowed, ok := u.except[name]; ok {
		return allowed
	}
	return u.all
}

// denies says why a command is refused, as the server words it, or "".
func (u *fakeUser) denies(who string, cmd *fakeCommand, args []string) string {
	if !u.may(cmd.name, args) {
		name := strings.ToLower(cmd.name)
		if len(args) > 1 && containers[cmd.name] {
			name += "|" + strings.ToLower(args[1])
		}
		return fmt.Sprintf("NOPERM User %s has no permissions to run the '%s' command", who, name)
	}
	if !slices.Contains(u.keys, "*") {
		if !within(u.keys, cmd.keys(args), matchGlob) {
			return "NOPERM No permissions to access a key"
		}
	}
	match := matchGlob
	if cmd.name == "PSUBSCRIBE" {
		match = func(p, s string) bool { return p == s || p == "*" } // a pattern is allowed by name only
	}
	if !within(u.channels, cmd.channels(args), match) {
		return "NOPERM No permissions to access a channel"
	}
	return ""
}

// containers are the commands whose errors name the sub-command.
var containers = map[string]bool{
	"ACL": true, "CLIENT": true, "CLUSTER": true, "COMMAND": true, "CONFIG": true, "MEMORY": true, "OBJECT": true, "PUBSUB": true,
	"SCRIPT": true, "XGROUP": true, "XINFO": true,
}

func within(patterns, names []string, match func(pattern, name string) bool) bool {
	for _, n := range names {
		if !slices.ContainsFunc(patterns, func(p string) bool { return match(p, n) }) {
			return false
		}
	}
	return true
}

// channels returns what a Pub/Sub command names.
func (c *fakeCommand) channels(args []string) []string {
	switch c.name {
	case "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE":
		return args[1:]
	case "PUBLISH", "SPUBLISH":
		return args[1:2]
	}
	return nil
}

// set applies one rule of ACL SETUSER and reports whether the Fake knows it.
func (u *fakeUser) set(rule string) bool {
	switch lower := strings.ToLower(rule); lower {
	case "on":
		u.on = true
	case "off":
		u.on = false
	case "nopass":
		u.noPass, u.passwords = true, nil
	case "resetpass":
		u.noPass, u.passwords = false, nil
	case "reset":
		*u = *newFakeUser()
	case "allkeys":
		u.keys = []string{"*"}
	case "resetkeys":
		u.keys = nil
	case "allchannels":
		u.channels = []string{"*"}
	case "resetchannels":
		u.channels = nil
	case "allcommands", "+@all":
		u.all, u.except = true, map[string]bool{}
	case "nocommands", "-@all":
		u.all, u.except = false, map[string]bool{}
	default:
		return u.setNamed(rule)
	}
	return true
}

func (u *fakeUser) setNamed(rule string) bool {
	if rule == "" {
		return false
	}
	rest := rule[1:]
	switch rule[0] {
	case '>':
		u.passwords, u.noPass = append(u.passwords, rest), false
	case '<':
		u.passwords = slices.DeleteFunc(u.passwords, func(p string) bool { return p == rest })
	case '~':
		u.keys = append(u.keys, rest)
	case '&':
		u.channels = append(u.channels, rest)
	case '+', '-':
		name := strings.ToUpper(rest)
		if category, ok := strings.CutPrefix(strings.ToLower(rest), "@"); ok {
			return u.setCategory(category, rule[0] == '+')
		}
		if name == "" {
			return false
		}
		if !strings.Contains(name, "|") { // a rule about a command takes back those about its sub-commands
			maps.DeleteFunc(u.except, func(s string, _ bool) bool { return strings.HasPrefix(s, name+"|") })
		}
		u.except[name] = rule[0] == '+'
	default:
		return false
	}
	return true
}

// setCategory applies a rule to every command and sub-command of a category.
func (u *fakeUser) setCategory(category string, allow bool) bool {
	known := false
	for name, c := range parsedCommands {
		if slices.Contains(c.categories, category) {
			u.except[name], known = allow, true
		}
	}
	return known
}

// accepts checks a password.
func (u *fakeUser) accepts(password string) bool {
	ok := u.noPass
	for _, p := range u.passwords {
		ok = subtle.ConstantTimeCompare([]byte(p), []byte(password)) == 1 || ok
	}
	return ok && u.on
}

// fakeUsers takes what the options ask for, or says what only a real server can do.
func fakeUsers(cfg config) (map[string]*fakeUser, error) {
	var faults []error
	for _, name := range cfg.serverOnly() {
		faults = append(faults, fmt.Errorf("option %s needs a real server: StartServer", name))
	}
	faults = append(faults, cfg.faults...)
	users := map[string]*fakeUser{}
	for _, u := range append(cfg.users, user{"default", cfg.password, []string{"allcommands", "allkeys", "allchannels"}}) {
		f := newFakeUser()
		f.on, f.noPass = true, u.password == ""
		if u.password != "" {
			f.passwords = []string{u.password}
		}
		for _, rule := range u.rules {
			if !f.set(rule) {
				faults = append(faults, fmt.Errorf("user %s: rule %q needs a real server: the fake has no selectors, key permissions or hashed passwords", u.name, hidePassword(rule)))
			}
		}
		users[u.name] = f
	}
	return users, errors.Join(faults...)
}

// hidePassword keeps the password of a rule out of an error.
func hidePassword(rule string) string {
	if rule != "" && strings.ContainsRune("><#!", rune(rule[0])) {
		return rule[:1] + "***"
	}
	return rule
}

func (f *Fake) cmdACL(c *fakeConn, args []string, r *reply) {
	sub := strings.ToUpper(args[1])
	switch {
	case sub == "WHOAMI" && len(args) == 2:
		r.bulk(c.user)
	case sub == "USERS" && len(args) == 2:
		r.bulks(slices.Sorted(maps.Keys(f.users)))
	case sub == "SETUSER" && len(args) > 2:
		f.aclSetUser(args[2], args[3:], r)
	case sub == "DELUSER" && len(args) > 2:
		n := 0
		for _, name := range args[2:] {
			if name == "default" {
				r.errorf("ERR The 'default' user cannot be removed")
				return
			}
			if f.users[name] != nil {
				n++
			}
			delete(f.users, name)
			for _, o := range f.clients(nil) {
				if o.user == name {
					f.kill(o, c)
				}
			}
		}
		r.int(n)
	case sub == "WHOAMI" || sub == "USERS" || sub == "SETUSER" || sub == "DELUSER":
		r.wrongArity("acl|" + sub)
	default:
		r.unknownSub("ACL", args[1])
	}
}

func (f *Fake) aclSetUser(name string, rules []string, r *reply) {
	u := newFakeUser()
	if old := f.users[name]; old != nil {
		*u = *old
		u.except = maps.Clone(old.except)
		u.passwords, u.keys, u.channels = slices.Clone(old.passwords), slices.Clone(old.keys), slices.Clone(old.channels)
	}
	for _, rule := range rules {
		if !u.set(rule) {
			r.errorf("ERR Error in ACL SETUSER modifier '%s': the fake server does not know it", hidePassword(rule))
			return
		}
	}
	f.users[name] = u
	r.ok()
}
