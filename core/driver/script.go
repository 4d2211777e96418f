package driver

import (
	"crypto/sha1"
	"encoding/hex"
	"strconv"
	"strings"
)

// Script is the source of a Lua script with its SHA1. It is immutable and safe for concurrent use.
type Script struct {
	name, source, sha string
	readOnly          bool
}

// NewScript returns a script. The name is what metrics and traces show, such as "locks.release".
func NewScript(name, source string) *Script {
	sum := sha1.Sum([]byte(source))
	return &Script{name: name, source: source, sha: hex.EncodeToString(sum[:])}
}

// ReadOnlyScript returns a script that changes nothing, so that its command may be sent again after a connection failure.
func ReadOnlyScript(name, source string) *Script {
	s := NewScript(name, source)
	s.readOnly = true
	return s
}

// Name returns the name.
func (s *Script) Name() string { return s.name }

// SHA returns the SHA1 in hexadecimal, the argument of EVALSHA.
func (s *Script) SHA() string { return s.sha }

// Source returns the Lua source.
func (s *Script) Source() string { return s.source }

// Cmd returns the EVALSHA command that runs the script with these keys and arguments.
func (s *Script) Cmd(keys, args []string) Cmd {
	wire := make([]string, 0, 3+len(keys)+len(args))
	wire = append(wire, "EVALSHA", s.sha, strconv.Itoa(len(keys)))
	wire = append(append(wire, keys...), args...)
	cmd := Cmd{Args: wire, Script: s}
	if len(keys) > 0 {
		cmd.Keys = KeyRange(3, len(keys))
	}
	if s.readOnly {
		cmd.Mode = ReadOnly
	}
	return cmd
}

// NeedsSource reports whether a reply to cmd says that the server does not know its script, so that [Cmd.WithSource] has
// to be sent. Drivers call it; nobody else needs to.
func (c Cmd) NeedsSource(r Reply) bool {
	if c.Script == nil || r.kind != KindError {
		return false
	}
	e, ok := r.Err().(*ServerError)
	return ok && e.code == "NOSCRIPT"
}

// SendAgain returns what of a pipeline has to be sent again because the server did not know a script, and the places in the
// pipeline: the scripts with their source, and each WAIT or WAITAOF behind one, which has confirmed nothing of it. Drivers call
// it, on the connection the pipeline went over; nobody else needs to.
func SendAgain(cmds []Cmd, replies []Reply) (again []Cmd, at []int) {
	for i := range cmds {
		switch {
		case cmds[i].NeedsSource(replies[i]):
			again = append(again, cmds[i].WithSource())
		case len(at) > 0 && replies[i].Err() == nil && cmds[i].Waits():
			again = append(again, cmds[i])
		default:
			continue
		}
		at = append(at, i)
	}
	return again, at
}

// Waits reports whether the command is WAIT or WAITAOF: it is about the writes before it on its connection, changes nothing,
// and may be sent again behind a write that was.
func (c Cmd) Waits() bool {
	return len(c.Args) > 0 && fold(c.Args[0], "WAIT", "WAITAOF")
}

// Fewer is what two answers to WAIT or WAITAOF confirm together, element by element: when the writes before it went to two
// places, no more than the fewer of both was confirmed. If they are not of one kind the later one, b, counts.
func Fewer(a, b Reply) Reply {
	switch {
	case a.kind == KindInt && b.kind == KindInt:
		return IntReply(min(a.num, b.num))
	case a.kind == KindList && b.kind == KindList:
		as, bs := a.list(), b.list()
		both := make([]Reply, min(len(as), len(bs)))
		for i := range both {
			both[i] = Fewer(as[i], bs[i])
		}
		return ListReply(both)
	}
	return b
}

// WithSource returns the command with EVAL and the source instead of EVALSHA and the SHA1.
func (c Cmd) WithSource() Cmd {
	args := append([]string(nil), c.Args...)
	if len(args) > 1 && c.Script != nil {
		args[0] = "EVAL" + strings.TrimPrefix(strings.ToUpper(args[0]), "EVALSHA")
		args[1] = c.Script.source
	}
	c.Args = args
	return c
}
