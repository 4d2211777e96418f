package redisxtest

import (
	"fmt"
	"strconv"
	"strings"
)

// configuration is the configuration file: the defaults of tests, then what the options ask for.
func (in *instance) configuration() string {
	c := &in.cfg
	lines := [][]string{
		{"bind", "127.0.0.1"}, {"dir", in.dir}, {"daemonize", "no"}, {"logfile", ""},
	}
	if c.tls {
		lines = append(lines, []string{"port", "0"}, []string{"tls-port", strconv.Itoa(in.port)},
			[]string{"tls-cert-file", in.file("server.pem")}, []string{"tls-key-file", in.file("server-key.pem")},
			[]string{"tls-ca-cert-file", in.file("ca.pem")}, []string{"tls-auth-clients", "optional"})
	} else {
		lines = append(lines, []string{"port", strconv.Itoa(in.port)})
	}
	if !in.sentinel {
		// Without the delay a replica is in sync at once.
		lines = append(lines, []string{"save", ""}, []string{"appendonly", "no"}, []string{"repl-diskless-sync-delay", "0"})
		if in.exe.atLeast(7) { // before, DEBUG was always allowed
			lines = append(lines, []string{"enable-debug-command", "local"})
		}
	}
	if c.unix {
		lines = append(lines, []string{"unixsocket", in.file("s")}, []string{"unixsocketperm", "700"})
	}
	if c.password != "" {
		lines = append(lines, []string{"requirepass", c.password})
	}
	for _, u := range c.users {
		lines = append(lines, append([]string{"user", u.name, "on", ">" + u.password}, u.rules...))
	}
	lines = append(lines, c.settings...)

	var b strings.Builder
	set := map[string]bool{}
	for _, l := range c.settings {
		set[strings.ToLower(l[0])] = true
	}
	for i, l := range lines {
		// save adds up over its lines: the default one must go if the test has its own.
		if i < len(lines)-len(c.settings) && set[l[0]] {
			continue
		}
		b.WriteString(l[0])
		for _, v := range l[1:] {
			b.WriteString(" " + quoteConfig(v))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// quoteConfig writes a value so that the server reads exactly these bytes.
func quoteConfig(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(s) {
		switch {
		case c == '"' || c == '\\':
			b.WriteString(`\` + string(rune(c)))
		case c < ' ' || c > '~':
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
