package redisxtest

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var record7 = flag.Bool("record", false, "rewrite testdata/fake from a real server")

// The files in testdata/fake are conversations with a real server, recorded by `go test -run Conversations -record` from
// redis 7.0: "a GET k" sends on connection a, "a" alone reads one more frame, "a !" expects none, "a ?" expects the
// connection to be closed; the indented line below is what came back. $a is the client ID of connection a.
func TestFakeHoldsTheConversationsOfARealServer(t *testing.T) {
	files, err := filepath.Glob("testdata/fake/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			if *record7 {
				require.NoError(t, os.WriteFile(path, []byte(converse(t, string(b), StartServer(t, OwnProcess()).Addr())), 0o644))
				return
			}
			t.Parallel()
			require.Equal(t, string(b), converse(t, string(b), NewFake(t).Addr()))
		})
	}
}

// The recording itself is checked where there is a server of that version.
func TestRecordedConversationsAreThoseOfARealServer(t *testing.T) {
	s := StartServer(t, OwnProcess())
	if e := s.Executable(); e.Kind != "redis" || !strings.HasPrefix(e.Version, "7.0.") {
		skip(t, "redis7.0", "%s words some replies differently from the recorded 7.0", e)
	}
	files, err := filepath.Glob("testdata/fake/*.txt")
	require.NoError(t, err)
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, s.Do("FLUSHALL").Err())
			require.NoError(t, s.Do("SCRIPT", "FLUSH").Err())
			require.Equal(t, string(b), converse(t, string(b), s.Addr()))
		})
	}
}

type talker struct {
	nc net.Conn
	r  *bufio.Reader
	id string
}

func newTalker(nc net.Conn) *talker { return &talker{nc: nc, r: bufio.NewReader(nc)} }

func converse(t *testing.T, script, addr string) string {
	talkers := map[string]*talker{}
	var out strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "  ") {
			continue
		}
		out.WriteString(line + "\n")
		words := splitWords(t, line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		who := talkers[words[0]]
		if who == nil {
			nc, err := net.Dial("tcp", addr)
			require.NoError(t, err)
			defer nc.Close()
			who = newTalker(nc)
			who.send(t, "CLIENT", "ID")
			who.id = strings.TrimPrefix(who.frame(t), ":")
			talkers[words[0]] = who
		}
		switch args := words[1:]; {
		case len(args) == 1 && args[0] == "!":
			require.NoError(t, who.nc.SetReadDeadline(time.Now().Add(30*time.Millisecond)))
			_, err := who.r.Peek(1)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded, "%s: a frame came where none should", line)
			continue
		case len(args) == 1 && args[0] == "?":
			require.NoError(t, who.nc.SetReadDeadline(time.Now().Add(5*time.Second)))
			_, err := who.r.Peek(1)
			require.Error(t, err, "%s: still open", line)
			require.False(t, errors.Is(err, os.ErrDeadlineExceeded), "%s: still open", line)
			continue
		case len(args) > 0:
			silent := args[0] == "~" // send only; the reply is read later
			if silent {
				args = args[1:]
			}
			for i := range args {
				for name, o := range talkers {
					if args[i] == "$"+name {
						args[i] = o.id
					}
				}
			}
			who.send(t, args...)
			if silent {
				// What is sent next must find the server in this command.
				time.Sleep(20 * time.Millisecond)
				continue
			}
		}
		f := who.frame(t)
		if strings.Contains(line, "HELLO") && strings.HasPrefix(f, "%") {
			f = "(a map)"
		}
		if strings.Contains(line, "CLIENT ID") || strings.Contains(line, "GETREDIR") || strings.Contains(f, "redir") {
			for name, o := range talkers {
				f = strings.ReplaceAll(f+" ", ":"+o.id+" ", ":$"+name+" ")
				f = strings.TrimSuffix(f, " ")
			}
		}
		out.WriteString("  " + f + "\n")
	}
	return out.String()
}

func splitWords(t *testing.T, line string) (words []string) {
	for rest := strings.TrimSpace(line); rest != ""; rest = strings.TrimSpace(rest) {
		if rest[0] == '"' {
			q, err := strconv.QuotedPrefix(rest)
			require.NoError(t, err, line)
			w, err := strconv.Unquote(q)
			require.NoError(t, err, line)
			words, rest = append(words, w), rest[len(q):]
			continue
		}
		var w string
		w, rest, _ = strings.Cut(rest, " ")
		words = append(words, w)
	}
	return words
}

func (c *talker) send(t *testing.T, args ...string) {
	var r reply
	r.bulks(args)
	_, err := c.nc.Write(r.b)
	require.NoError(t, err)
}

// frame reads one frame and writes it in one line.
func (c *talker) frame(t *testing.T) string {
	require.NoError(t, c.nc.SetReadDeadline(time.Now().Add(5*time.Second)))
	line, err := readLine(c.r)
	require.NoError(t, err)
	require.NotEmpty(t, line)
	n, _ := strconv.Atoi(line[1:])
	switch kind := line[0]; kind {
	case '$', '=':
		if n < 0 {
			return line
		}
		b := make([]byte, n+2)
		for i := range b {
			b[i], err = c.r.ReadByte()
			require.NoError(t, err)
		}
		return strconv.Quote(string(b[:n]))
	case '*', '~', '>', '%':
		if n < 0 {
			return line
		}
		if kind == '%' {
			n *= 2
		}
		items := make([]string, n)
		for i := range items {
			items[i] = c.frame(t)
		}
		return fmt.Sprintf("%c[%s ]", kind, " "+strings.Join(items, " "))
	}
	return line
}
