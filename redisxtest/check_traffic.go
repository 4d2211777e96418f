package redisxtest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// SeenCommand is a command that was sent. Values and other arguments are not kept.
type SeenCommand struct {
	// Name is the command in upper case, such as "GET".
	Name string
	// Script is the name of the script behind an EVALSHA, "" for other commands.
	Script string
	// Keys are the keys that the command names to the driver.
	Keys []string
}

func see(c *driver.Cmd) SeenCommand {
	s := SeenCommand{Name: c.Name()}
	if c.Script != nil {
		s.Script = c.Script.Name()
	}
	if c.Keys.Count > 0 {
		s.Keys = make([]string, 0, c.Keys.Count)
		c.EachKey(func(k string) { s.Keys = append(s.Keys, k) })
	}
	return s
}

// String returns name, script and keys, such as `EVALSHA(locks.release) "lock:{42}"`.
func (s SeenCommand) String() string {
	b := []byte(s.Name)
	if s.Script != "" {
		b = append(append(append(b, '('), s.Script...), ')')
	}
	for i, k := range s.Keys {
		if i == 10 {
			return fmt.Sprintf("%s … %d keys", b, len(s.Keys))
		}
		b = strconv.AppendQuote(append(b, ' '), k)
	}
	return string(b)
}

// Traffic is what was sent to Redis while a function ran. See [Observe].
type Traffic struct {
	// RoundTrips is how often a caller waited for the server. One command is one, and so is a pipeline, whatever it holds
	// and to however many nodes of a Cluster it goes side by side, and a transaction sent as one list. The waits of
	// several goroutines add up. That a core.Client sends commands of several callers together changes nothing: each
	// waits once.
	RoundTrips int
	// Commands are the commands in the order they were sent.
	Commands []SeenCommand
}

// Count returns how often a command was sent, by its name in any case. "" counts all.
func (tr Traffic) Count(command string) int {
	n := 0
	for _, c := range tr.Commands {
		if command == "" || strings.EqualFold(c.Name, command) {
			n++
		}
	}
	return n
}

// Slots returns the hash slots of all keys, in ascending order, without repetition.
func (tr Traffic) Slots() []uint16 {
	var slots []uint16
	for _, c := range tr.Commands {
		for _, k := range c.Keys {
			slots = append(slots, driver.Slot(k))
		}
	}
	slices.Sort(slots)
	return slices.Compact(slots)
}

// shownCommands is how many commands a failure lists.
const shownCommands = 30

// String lists round trips and commands, for failures. A long list is cut.
func (tr Traffic) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d commands in %d round trips", len(tr.Commands), tr.RoundTrips)
	for i, c := range tr.Commands {
		if i == shownCommands {
			fmt.Fprintf(&b, "\n  … and %d more", len(tr.Commands)-i)
			break
		}
		b.WriteString("\n  " + c.String())
	}
	return b.String()
}

// Observe runs fn and returns what was sent through the driver of c meanwhile, by whomever. The driver must come from
// [Record]; otherwise the test ends. Calls that fn has begun and that go on after it returned count; calls that were
// refused before anything was sent (an invalid command, an open breaker, a ctx that had ended) do not. Observations may
// run side by side, also of one client: each sees everything.
func Observe(t testing.TB, c *core.Client, fn func()) Traffic {
	t.Helper()
	if c == nil || fn == nil {
		t.Fatal("redisxtest: Observe wants a client and a function")
	}
	r, ok := c.Driver().(recorded)
	if !ok {
		t.Fatalf("redisxtest: the driver of the client is a %T; make the client with core.New(redisxtest.Record(d))", c.Driver())
	}
	w := r.observed().open()
	defer r.observed().shut(w) // also if fn ends the test
	fn()
	r.observed().shut(w)
	return Traffic{RoundTrips: w.trips, Commands: w.seen}
}

// RoundTrips fails the test unless the goroutines of fn waited for the server n times together: see [Traffic]. The
// failure lists the commands, by name and keys. It is how to hold on to it that a path is pipelined:
//
//	c, err := core.New(redisxtest.Record(d))
//	redisxtest.RoundTrips(t, c, 1, func() { cart.Load(ctx, 42) })
func RoundTrips(t testing.TB, c *core.Client, n int, fn func()) {
	t.Helper()
	if tr := Observe(t, c, fn); tr.RoundTrips != n {
		t.Errorf("redisxtest: want %d round trips, got %s", n, tr)
	}
}

// CommandCount fails the test unless fn sends a command n times. The name may be in any case; "" is any command. Commands
// inside scripts are not seen. A transaction counts as MULTI, its commands and EXEC.
func CommandCount(t testing.TB, c *core.Client, command string, n int, fn func()) {
	t.Helper()
	if tr := Observe(t, c, fn); tr.Count(command) != n {
		if command == "" {
			command = "commands"
		}
		t.Errorf("redisxtest: want %d %s, got %s", n, strings.ToUpper(command), tr)
	}
}

// SlotsTouched fails the test unless the keys of all commands that fn sends lie in n hash slots of a Cluster. It needs no
// Cluster: a missing hash tag shows on one server too. Keys that a command does not name to the driver are not seen.
func SlotsTouched(t testing.TB, c *core.Client, n int, fn func()) {
	t.Helper()
	if tr := Observe(t, c, fn); len(tr.Slots()) != n {
		t.Errorf("redisxtest: want keys in %d slots, got %d %v in %s", n, len(tr.Slots()), tr.Slots(), tr)
	}
}

// OneSlot fails the test unless all keys lie in one hash slot of a Cluster, as the keys of one script or transaction
// must. The failure lists keys, slots and hash tags.
func OneSlot(t testing.TB, keys ...string) {
	t.Helper()
	if len(keys) == 0 {
		t.Error("redisxtest: OneSlot without keys")
		return
	}
	first := driver.Slot(keys[0])
	same := func(k string) bool { return driver.Slot(k) == first }
	if !slices.ContainsFunc(keys, func(k string) bool { return !same(k) }) {
		return
	}
	var b strings.Builder
	for i, k := range keys {
		if i == shownCommands {
			fmt.Fprintf(&b, "\n  … and %d more", len(keys)-i)
			break
		}
		fmt.Fprintf(&b, "\n  slot %5d  %q  %s", driver.Slot(k), k, describeTag(k))
	}
	t.Errorf("redisxtest: these keys do not lie in one slot; give them the same {hash tag}:%s", b.String())
}

func describeTag(key string) string {
	if i := strings.IndexByte(key, '{'); i >= 0 {
		if n := strings.IndexByte(key[i+1:], '}'); n > 0 {
			return fmt.Sprintf("tag %q", key[i+1:i+1+n])
		}
	}
	return "no tag"
}
