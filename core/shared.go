package core

import (
	"fmt"
	"strings"

	"github.com/go-redisx/redisx/core/driver"
)

// Connections are shared: a command that changes the state of its connection would change what the commands of others mean.
// MULTI would queue them, SELECT would send them to another database. On a dedicated connection all of it is in order.

// harmful reports whether a command must not be sent over a shared connection.
func harmful(args []string) bool {
	if len(args) == 0 {
		return false
	}
	switch name := args[0]; len(name) {
	case 4:
		return fold(name, "AUTH", "EXEC")
	case 5:
		return fold(name, "MULTI", "WATCH") || len(args) > 1 && fold(name, "HELLO")
	case 6:
		return fold(name, "SELECT", "ASKING") || len(args) > 1 && fold(name, "CLIENT") &&
			fold(args[1], "TRACKING", "CACHING", "NO-EVICT", "NO-TOUCH", "SETNAME")
	case 7:
		return fold(name, "UNWATCH", "DISCARD")
	case 8:
		return fold(name, "READONLY")
	case 9:
		return fold(name, "READWRITE")
	}
	return false
}

func fold(s string, any ...string) bool {
	for _, a := range any {
		if strings.EqualFold(s, a) {
			return true
		}
	}
	return false
}

// harmfulList returns the name of a command that makes a pipeline harmful, or "". That includes a whole MULTI … EXEC: its
// parts may be routed, redirected or refused one by one, and what is left of it would stay open on a shared connection.
func harmfulList(cmds []driver.Cmd) string {
	for i := range cmds {
		if harmful(cmds[i].Args) {
			return cmds[i].Name()
		}
	}
	return ""
}

func harmfulErr(name string) error {
	return driver.NotSent(fmt.Errorf("%w: %s changes the state of a connection that others use; send it on a connection of your own (driver.Dedicated), or use a script",
		driver.ErrInvalid, name))
}
