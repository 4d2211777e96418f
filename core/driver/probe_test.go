package driver

import (
	"context"
	"errors"
	"testing"
)

func TestProbeKeepsNoAnswerThatIsNotFinal(t *testing.T) {
	ok := map[string]Reply{
		"HELLO":   ErrReply(NewServerError("ERR unknown command 'HELLO'")),
		"INFO":    StringReply("redis_version:7.0.15\r\n"),
		"COMMAND": ListReply(make([]Reply, len(Probed))),
	}
	for _, c := range []struct {
		text  string
		final bool
	}{
		{"NOPERM this user has no permissions", true}, {"ERR unknown command", true}, {"NOPROTO unsupported protocol version", true},
		{"LOADING Redis is loading the dataset in memory", false}, {"BUSY Redis is busy running a script", false},
		{"ERR max number of clients reached", false}, {"CLUSTERDOWN The cluster is down", false}, {"", false},
	} {
		for name := range ok {
			answer := func(_ context.Context, cmd Cmd) Reply {
				switch {
				case cmd.Name() != name:
					return ok[cmd.Name()]
				case c.text == "":
					return ErrReply(Unknown(errors.New("connection lost")))
				}
				return ErrReply(NewServerError(c.text))
			}
			if caps, err := Probe(context.Background(), answer); (err == nil) != c.final {
				t.Errorf("%s is answered %q: %+v, %v; want an error: %v", name, c.text, caps, err, !c.final)
			}
		}
	}
}

func TestChangesConnection(t *testing.T) {
	for _, args := range [][]string{
		{"multi"}, {"EXEC"}, {"Discard"}, {"WATCH", "k"}, {"unwatch"}, {"SELECT", "1"}, {"auth", "x"}, {"HELLO", "3"}, {"ASKING"},
		{"READONLY"}, {"readwrite"}, {"CLIENT", "tracking", "ON"}, {"client", "CACHING", "yes"}, {"CLIENT", "setname", "x"},
		{"CLIENT", "NO-EVICT", "on"}, {"CLIENT", "no-touch", "on"}, {"CLIENT", "CAPA", "redirect"}, {"CLIENT", "import-source", "on"},
	} {
		if !ChangesConnection(args) {
			t.Errorf("%q does not", args)
		}
		if err := (Cmd{Args: args}).CheckShared(); !errors.Is(err, ErrInvalid) {
			t.Errorf("CheckShared(%q): %v", args, err)
		}
		if err := (Cmd{Args: args}).Check(); err != nil {
			t.Errorf("Check(%q): %v", args, err)
		}
	}
	for _, args := range [][]string{
		nil, {""}, {"GET", "MULTI"}, {"HELLO"}, {"CLIENT"}, {"CLIENT", "ID"}, {"CLIENT", "UNBLOCK", "1"}, {"CLIENT", "NO-LOOP"}, {"PING"}, {"SELECTED"},
	} {
		if ChangesConnection(args) {
			t.Errorf("%q does", args)
		}
	}
}

func TestTakesOver(t *testing.T) {
	for _, args := range [][]string{
		{"SUBSCRIBE", "c"}, {"psubscribe", "c*"}, {"SSUBSCRIBE", "c"}, {"unsubscribe"}, {"PUNSUBSCRIBE"}, {"SUNSUBSCRIBE"}, {"MONITOR"}, {"sync"},
		{"PSYNC", "?", "-1"}, {"QUIT"}, {"reset"}, {"CLIENT", "reply", "OFF"}, {"SCRIPT", "debug", "YES"}, {"ReplConf", "ACK", "1"},
	} {
		if !TakesOver(args) || !errors.Is((Cmd{Args: args}).Check(), ErrInvalid) {
			t.Errorf("%q does not", args)
		}
	}
	for _, args := range [][]string{nil, {"SCRIPT", "LOAD", "x"}, {"CLIENT", "ID"}, {"CLIENT"}, {"PUBLISH", "c", "x"}, {"SUBSCRIBED"}} {
		if TakesOver(args) {
			t.Errorf("%q does", args)
		}
	}
}
