package redisxtest

import (
	"errors"
	"fmt"
	"strings"
)

// Option changes how a server is started. StartServer takes all but InMemory, fakes only Password, User and InMemory.
type Option interface {
	EachOption
	apply(*config)
}

type option func(*config)

func (o option) apply(c *config) { o(c) }

func (o option) applyEach(c *eachConfig) { c.server = append(c.server, o) }

type config struct {
	binary, version string
	settings        [][]string
	tls, unix       bool
	clock           bool
	preload         string // the library for it
	cluster         bool
	watched         bool   // by Sentinels
	certFrom        string // directory with certificates to share, instead of new ones
	password        string
	users           []user
	inMemory        bool
	faults          []error
}

type user struct {
	name, password string
	rules          []string
}

func defaults() config { return config{} }

// serverOnly names the options in use that only a real server can honour.
func (c *config) serverOnly() []string {
	var names []string
	for _, o := range []struct {
		set  bool
		name string
	}{
		{c.binary != "", "Binary"}, {c.version != "", "Version"}, {len(c.settings) > 0, "Config"}, {c.tls, "TLS"}, {c.unix, "UnixSocket"},
		{c.clock, "ClockSkew"},
	} {
		if o.set {
			names = append(names, o.name)
		}
	}
	return names
}

// serverFaults tells what no real server can be started with.
func (c *config) serverFaults() error {
	faults := c.faults
	if c.inMemory {
		faults = append(faults, errors.New("option InMemory is for fakes"))
	}
	return errors.Join(faults...)
}

// OwnProcess says that a test pauses, kills or restarts its server. It changes nothing unless REDISX_TEST_URL names a given
// server: then the test is skipped.
func OwnProcess() Option { return option(func(*config) {}) }

// Password makes the default user need a password. It is part of URL. Empty is no password, the default.
func Password(password string) Option {
	return option(func(c *config) { c.password = password })
}

// User adds an ACL user with a password and rules such as "~*", "&*", "+@all", "-set". Without rules it may do nothing. A
// Fake knows no selectors, no %R~ and no hashed passwords. See UserURL.
func User(name, password string, rules ...string) Option {
	return option(func(c *config) {
		if name == "" || name == "default" || strings.ContainsAny(name, " \t\r\n") || password == "" {
			c.faults = append(c.faults, fmt.Errorf("user %q: want a name other than default, without spaces, and a password", name))
			return
		}
		c.users = append(c.users, user{name, password, rules})
	})
}

// InMemory makes a Fake without a socket, for use inside a testing/synctest bubble: time would stand still there while a
// socket waits. It is reached through [Fake.Dial] and [Fake.Client]; Addr and URL are placeholders for clients that are
// given Dial. Start it inside the bubble, and close it there.
func InMemory() Option { return option(func(c *config) { c.inMemory = true }) }

// Binary starts this program instead of the redis-server or valkey-server on PATH. A name without a slash is looked up
// on PATH. Where there is none the test is skipped; one that is not a server fails it.
func Binary(path string) Option {
	return option(func(c *config) { c.binary = path })
}

// Version starts, of the binaries at hand, the first whose version begins with prefix, such as "7.0" or "8."; with a name
// in front, "valkey 8", of that kind. Without one the test is skipped.
func Version(prefix string) Option {
	return option(func(c *config) { c.version = prefix })
}

// Config sets a line of the configuration file, such as Config("maxmemory", "1mb") or Config("save", "900", "1"). A later
// one goes before an earlier one and before the defaults of this package. What this package needs for itself is refused: where
// the server listens, its log, that it stays in the foreground, and requirepass, which [Password] sets.
func Config(name string, values ...string) Option {
	return option(func(c *config) {
		if name == "" || strings.ContainsAny(name+strings.Join(values, ""), "\r\n") {
			c.faults = append(c.faults, fmt.Errorf("config %q: a name or value is empty or has a line break", name))
			return
		}
		switch strings.ToLower(name) {
		case "port", "tls-port", "bind", "unixsocket", "daemonize", "logfile", "requirepass":
			c.faults = append(c.faults, fmt.Errorf("config %q is set by this package; the options Password, TLS and UnixSocket change it", name))
			return
		}
		c.settings = append(c.settings, append([]string{name}, values...))
	})
}

// ClockSkew starts the server so that [Server.SetClockSkew] can set its clock wrong. It needs libfaketime (Debian's package
// faketime); where that is missing, or does not work with the server, the test is skipped, or fails if REDISX_TEST_REQUIRE lists "clock". Each look at the clock
// then costs the server some µs.
func ClockSkew() Option { return option(func(c *config) { c.clock = true }) }

// TLS makes the server speak TLS only, with a certificate of an authority made for this server. URL then is rediss:// with
// the parameter ca; ClientCertURL has a client certificate too.
func TLS() Option {
	return option(func(c *config) { c.tls = true })
}

// UnixSocket makes URL a unix:// URL. The server listens on its TCP port as well.
func UnixSocket() Option {
	return option(func(c *config) { c.unix = true })
}
