package goredisdriver

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/go-redisx/redisx/core/driver"
)

var replies = map[string]string{ // and how the reply describes itself
	"+OK\r\n":                              "\"OK\"",
	"$0\r\n\r\n":                           "\"\"",
	"$-1\r\n":                              "nil",
	"*-1\r\n":                              "nil",
	"_\r\n":                                "nil",
	"*0\r\n":                               "[]",
	"%0\r\n":                               "[]",
	":9223372036854775807\r\n":             "9223372036854775807",
	":-9223372036854775808\r\n":            "-9223372036854775808",
	"$4\r\n\r\n\x00\xff\r\n":               "\"\\r\\n\\x00\\xff\"",
	",1.10\r\n":                            "\"1.10\"",
	",inf\r\n":                             "\"inf\"",
	"(3492890328409238509324850943850\r\n": "\"3492890328409238509324850943850\"",
	"#t\r\n":                               "1",
	"#f\r\n":                               "0",
	"=8\r\ntxt:text\r\n":                   "\"text\"",
	"-WRONGTYPE no\r\n":                    "error: WRONGTYPE no",
	"!8\r\nERR a\r\nb\r\n":                 "error: ERR a\r\nb",
	"%2\r\n+b\r\n:1\r\n+a\r\n:2\r\n":       "[\"b\" 1 \"a\" 2]",
	"~2\r\n+x\r\n_\r\n":                    "[\"x\" nil]",
	"*3\r\n-ERR x\r\n*1\r\n:1\r\n$1\r\na\r\n": "[error: ERR x [1] \"a\"]",
	"|1\r\n+ttl\r\n:3600\r\n+v\r\n":           "\"v\"",
	"*2\r\n|1\r\n+a\r\n*0\r\n:1\r\n:2\r\n":    "[1 2]",
	"|0\r\n:5\r\n":                            "5",
	">2\r\n+invalidate\r\n_\r\n":              "[\"invalidate\" nil]",
}

func TestParserReadsEveryTypeOfReply(t *testing.T) {
	for raw, want := range replies {
		for name, r := range map[string]io.Reader{"whole": strings.NewReader(raw), "bytes": iotest.OneByteReader(strings.NewReader(raw))} {
			reply, push, err := readReply(bufio.NewReaderSize(r, 16))
			if err != nil || reply.String() != want || push != (raw[0] == '>') {
				t.Errorf("%q (%s): %s, %v, %v; want %s", raw, name, reply, push, err, want)
			}
		}
		for n := range len(raw) {
			if _, _, err := readReply(bufio.NewReader(strings.NewReader(raw[:n]))); err == nil {
				t.Errorf("%q cut to %q is a reply", raw, raw[:n])
			}
		}
	}
}

func TestParserRefusesNonsenseWithoutBelievingIt(t *testing.T) {
	for _, raw := range []string{
		"\r\n", "x\r\n", ":\r\n", ":1x\r\n", "#x\r\n", "$x\r\n", "$-2\r\n", "$1\r\nabc\r\n", "+OK\n", "*1\r\n>1\r\n+x\r\n",
		"$9223372036854775807\r\n", "*9223372036854775807\r\n", "%9223372036854775807\r\n", "$99999999999\r\n", "*999999999\r\n",
		strings.Repeat("*1\r\n", 100000), "+" + strings.Repeat("x", 3<<20),
	} {
		if r, _, err := readReply(bufio.NewReader(strings.NewReader(raw))); err == nil {
			t.Errorf("%.40q is %s", raw, r)
		}
	}
}

// FuzzReply checks that no bytes make the parser panic, and that both ways into it agree: from a connection of the driver's
// own, and through the writer that go-redis fills.
func FuzzReply(f *testing.F) {
	for raw := range replies {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bufio.NewReader(bytes.NewReader(raw))
		direct, push, err := readReply(r)
		var copied [1]driver.Reply
		s := sink{}
		s.reset(copied[:])
		err2 := pour(&s, bufio.NewReader(bytes.NewReader(raw)))
		if push || errors.Is(err2, errStale) {
			return
		}
		if (err == nil) != (err2 == nil) || err == nil && !direct.Equal(copied[0]) {
			t.Fatalf("%q: direct %s, %v; copied %s, %v", raw, direct, err, copied[0], err2)
		}
	})
}

// pour feeds a sink as go-redis does.
func pour(s *sink, r *bufio.Reader) error {
	for s.next == 0 {
		line, err := readLine(r)
		if err != nil {
			return err
		}
		if _, err := s.Write(line); err != nil {
			return err
		}
		if _, err := s.Write([]byte("\r\n")); err != nil {
			return err
		}
		if s.state != wantPayload {
			continue
		}
		n := int64(s.n)
		if n > math.MaxInt64-2 {
			return errProtocol
		}
		if _, err := io.CopyN(s, r, n+2); err != nil {
			return err
		}
	}
	return nil
}
