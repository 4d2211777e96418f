package redisxtest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The files in testdata/corpus are commands, one a line, that the Fake and every real server at hand are asked in RESP2 and
// RESP3. Replies must be the same byte for byte; so nothing is recorded that could grow old. A line of three hyphens
// empties the servers. In front of a command, in brackets and separated by spaces, may be what it is for and how its reply
// is compared:
//
//	>=7.2 <7.2   only servers of that version; Valkey counts as Redis 7.2 and as its own version if that is higher
//	redis valkey only that kind
//	sort         elements in any order
//	near         integers that differ by at most 2000
//	shape        kinds and lengths only
//	code         errors by their first word
//
// known.txt lists the differences that are known, as file, command and, behind #, the reason. One that is gone must go
// from the list.
func TestFakeAnswersLikeRealServers(t *testing.T) {
	servers, err := Executables()
	require.NoError(t, err)
	if len(servers) == 0 || os.Getenv(EnvURL) != "" {
		skip(t, "server", "the corpus is compared with servers that the test starts itself")
	}
	known := readKnown(t)
	for _, exe := range servers {
		t.Run(exe.String(), func(t *testing.T) {
			t.Parallel()
			s := StartServer(t, Binary(exe.Path))
			for _, resp := range []string{"2", "3"} {
				met := map[string]bool{}
				for file, lines := range readCorpus(t) {
					compareCorpus(t, exe, resp, file, lines, known, met, s.Addr())
				}
				for _, k := range known {
					if k.applies(exe, resp) && !met[k.file+": "+k.command] {
						t.Errorf("RESP%s: %s: %s: the known difference is gone, or the line is", resp, k.file, k.command)
					}
				}
			}
		})
	}
}

// The corpus is only worth something if it is large and a difference in it is seen.
func TestTheCorpusSeesDifferences(t *testing.T) {
	total := 0
	for _, lines := range readCorpus(t) {
		for _, l := range lines {
			if l.command != "---" {
				total++
			}
		}
	}
	t.Logf("%d commands, %d known differences", total, len(readKnown(t)))
	require.GreaterOrEqual(t, total, 800)
	for _, c := range []struct {
		opts, a, b string
		same       bool
	}{
		{"", ":1", ":1", true}, {"", ":1", ":2", false}, {"near", ":1", ":2", true}, {"near", ":1", ":9000", false},
		{"sort", "*[ :1 :2 ]", "*[ :2 :1 ]", true}, {"", "*[ :1 :2 ]", "*[ :2 :1 ]", false}, {"shape", `"a"`, `"b"`, true},
		{"shape", `*[ :1 ]`, `*[ :1 :2 ]`, false}, {"code", "-ERR a", "-ERR b", true}, {"code", "-ERR a", "-OOM a", false},
	} {
		l := corpusLine{opts: strings.Fields(c.opts)}
		require.Equal(t, c.same, l.same(parseFrame(t, c.a), parseFrame(t, c.b)), c)
	}
}

// parseFrame reads what frame.String writes of integers and words.
func parseFrame(t *testing.T, s string) frame {
	if s[0] != '*' {
		return frame{kind: s[0], text: s[1:]}
	}
	f := frame{kind: '*'}
	for _, w := range strings.Fields(s[2 : len(s)-1]) {
		f.items = append(f.items, parseFrame(t, w))
	}
	return f
}

type corpusLine struct {
	opts    []string
	command string
	reason  string
	file    string
}

func readCorpus(t *testing.T) map[string][]corpusLine {
	files, err := filepath.Glob("testdata/corpus/*.txt")
	require.NoError(t, err)
	all := map[string][]corpusLine{}
	for _, path := range files {
		if name := strings.TrimSuffix(filepath.Base(path), ".txt"); name != "known" {
			all[name] = readLines(t, path)
		}
	}
	return all
}

func readLines(t *testing.T, path string) (lines []corpusLine) {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		var l corpusLine
		if line[0] == '[' {
			opts, rest, ok := strings.Cut(line[1:], "] ")
			require.True(t, ok, line)
			l.opts, line = strings.Fields(opts), rest
		}
		l.command = line
		lines = append(lines, l)
	}
	return lines
}

func readKnown(t *testing.T) []corpusLine {
	lines := readLines(t, "testdata/corpus/known.txt")
	for i := range lines {
		var ok bool
		lines[i].command, lines[i].reason, ok = cutLast(lines[i].command, " # ")
		require.True(t, ok && lines[i].reason != "", "no reason: %s", lines[i].command)
		lines[i].file, lines[i].command, ok = strings.Cut(lines[i].command, ": ")
		require.True(t, ok, "no file: %s", lines[i].command)
	}
	return lines
}

func cutLast(s, sep string) (string, string, bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// applies reports whether a line is for a server.
func (l corpusLine) applies(exe Executable, resp string) bool {
	version := exe.Version
	for _, o := range l.opts {
		switch {
		case o == "redis" || o == "valkey":
			if exe.Kind != o {
				return false
			}
		case o == "resp2" || o == "resp3":
			if "resp"+resp != o {
				return false
			}
		case strings.HasPrefix(o, ">=") && older(version, o[2:]), strings.HasPrefix(o, "<") && !older(version, o[1:]):
			return false
		}
	}
	return true
}

func older(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		m, _ := strconv.Atoi(x[i])
		n, _ := strconv.Atoi(y[i])
		if m != n {
			return m < n
		}
	}
	return false
}

func compareCorpus(t *testing.T, exe Executable, resp, file string, lines []corpusLine, known []corpusLine, met map[string]bool, addr string) {
	t.Helper()
	f := NewFake(t)
	var both [2]*talker
	for i, a := range []string{f.Addr(), addr} {
		nc, err := net.Dial("tcp", a)
		require.NoError(t, err)
		defer nc.Close()
		both[i] = newTalker(nc)
		for _, args := range [][]string{{"HELLO", resp}, {"FLUSHALL"}, {"SCRIPT", "FLUSH"}} {
			both[i].send(t, args...)
			require.NotEqual(t, byte('-'), readFrame(t, both[i].r).kind, args)
		}
	}
	for _, l := range lines {
		if !l.applies(exe, resp) {
			continue
		}
		args := splitWords(t, l.command)
		if l.command == "---" {
			args = []string{"FLUSHALL"}
		}
		var got [2]frame
		for i, k := range both {
			k.send(t, args...)
			require.NoError(t, k.nc.SetReadDeadline(time.Now().Add(10*time.Second)))
			got[i] = readFrame(t, k.r)
		}
		listed := slices.ContainsFunc(known, func(k corpusLine) bool {
			return k.file == file && k.command == l.command && k.applies(exe, resp)
		})
		if l.same(got[0], got[1]) {
			continue
		}
		if met[file+": "+l.command] = true; !listed {
			t.Errorf("RESP%s: %s: %s\n    fake: %s\n    real: %s", resp, file, l.command, got[0], got[1])
		}
	}
}

// frame is a reply.
type frame struct {
	kind  byte
	text  string
	items []frame
}

func (f frame) String() string {
	if strings.IndexByte("*~%>", f.kind) < 0 || f.items == nil {
		return string(f.kind) + f.text
	}
	s := string(f.kind) + "["
	for _, i := range f.items {
		s += " " + i.String()
	}
	return s + " ]"
}

func readFrame(t *testing.T, r *bufio.Reader) frame {
	line, err := readLine(r)
	require.NoError(t, err)
	require.NotEmpty(t, line)
	f := frame{kind: line[0], text: line[1:]}
	n, _ := strconv.Atoi(f.text)
	switch f.kind {
	case '$', '=':
		if n >= 0 {
			b := make([]byte, n+2)
			for i := range b {
				b[i], err = r.ReadByte()
				require.NoError(t, err)
			}
			f.text = strconv.Quote(string(b[:n]))
		}
	case '*', '~', '>', '%':
		if n < 0 {
			return f
		}
		if f.kind == '%' {
			n *= 2
		}
		f.text, f.items = "", make([]frame, n)
		for i := range f.items {
			f.items[i] = readFrame(t, r)
		}
	}
	return f
}

// same compares replies as the options of the line say.
func (l corpusLine) same(a, b frame) bool {
	for _, o := range l.opts {
		switch o {
		case "sort":
			a, b = sorted(a), sorted(b)
		case "near":
			m, err1 := strconv.Atoi(a.text)
			n, err2 := strconv.Atoi(b.text)
			return a.kind == b.kind && err1 == nil && err2 == nil && max(m-n, n-m) <= 2000
		case "shape":
			a, b = shape(a), shape(b)
		case "code":
			a, b = codeOnly(a), codeOnly(b)
		}
	}
	return a.String() == b.String()
}

func sorted(f frame) frame {
	if len(f.items) == 0 {
		return f
	}
	step := 1
	if f.kind == '%' {
		step = 2
	}
	var parts []string
	for c := range slices.Chunk(f.items, step) {
		s := ""
		for _, i := range c {
			s += sorted(i).String() + " "
		}
		parts = append(parts, s)
	}
	slices.Sort(parts)
	return frame{kind: f.kind, text: strings.Join(parts, " ")}
}

func shape(f frame) frame {
	g := frame{kind: f.kind}
	if f.items != nil {
		g.text = fmt.Sprint(len(f.items))
		for _, i := range f.items {
			g.text += " " + shape(i).String()
		}
	}
	return g
}

func codeOnly(f frame) frame {
	if f.kind == '-' {
		f.text, _, _ = strings.Cut(f.text, " ")
	}
	return f
}
