package chaos

import (
	"bytes"
	"context"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pieces scans a stream in pieces and returns where its frames end, and whether all of it could be read.
func pieces(scan func([]byte) (int, bool, bool), b []byte, size func(i int) int) (ends []int, ok bool) {
	at, i := 0, 0
	for at < len(b) {
		rest := b[at:min(len(b), at+max(1, size(i)))]
		i++
		for len(rest) > 0 {
			n, done, ok := scan(rest)
			if !ok {
				return ends, false
			}
			if n == 0 {
				panic("no progress")
			}
			rest = rest[n:]
			at += n
			if done {
				ends = append(ends, at)
			}
		}
	}
	return ends, true
}

// However a stream is cut, its frames are the same.
func FuzzScanners(f *testing.F) {
	for _, s := range []string{
		"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING a b\r\n\r\n*0\r\n*-1\r\n*1\r\n$0\r\n\r\n", "+OK\r\n>2\r\n+a\r\n$?\r\n;1\r\nx\r\n;0\r\n*?\r\n:1\r\n.\r\n",
		"|1\r\n+a\r\n:1\r\n%?\r\n+a\r\n*?\r\n.\r\n.\r\n", "*1024\r\n", "$9223372036854775807\r\n", "*-2\r\n", ".\r\n", "\x16\x03\x01", "*?\r\n*?\r\n*?\r\n",
		"*1\r\n$99999\r\n", "%1099511627775\r\n+a\r\n",
	} {
		f.Add([]byte(s), uint64(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		for _, scanner := range []func() func([]byte) (int, bool, bool){
			func() func([]byte) (int, bool, bool) { return new(commandScanner).scan },
			func() func([]byte) (int, bool, bool) { return (&replyScanner{arrays: true}).scan },
		} {
			whole, ok := pieces(scanner(), b, func(int) int { return len(b) })
			bytewise, okBytewise := pieces(scanner(), b, func(int) int { return 1 })
			drawn, okDrawn := pieces(scanner(), b, func(i int) int { return int(mix(seed+uint64(i)) % 9) })
			if !slices.Equal(whole, bytewise) || !slices.Equal(whole, drawn) || ok != okBytewise || ok != okDrawn {
				t.Fatalf("%q: %v %v, byte by byte %v %v, drawn %v %v", b, whole, ok, bytewise, okBytewise, drawn, okDrawn)
			}
		}
	})
}

func TestCommandsAreTakenApart(t *testing.T) {
	for text, want := range map[string][]string{
		"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n": {"GET", "a\r\nb"},
		"  ping   x \r\n":                     {"ping", "x"},
		"PING\n":                              {"PING"},
		"*1\r\n$0\r\n\r\n":                    {""},
		"\r\n":                                nil,
		"*0\r\n":                              nil,
	} {
		var s commandScanner
		n, done, ok := s.scan([]byte(text))
		require.True(t, done && ok && n == len(text), text)
		require.Equal(t, want, s.args, text)
	}
	var s commandScanner
	_, done, ok := s.scan([]byte("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$" + strconv.Itoa(2*keepBytes) + "\r\n"))
	require.True(t, !done && ok)
	n, done, ok := s.scan(append(bytes.Repeat([]byte("x"), 2*keepBytes), "\r\nPING\r\n"...))
	require.True(t, done && ok && n == 2*keepBytes+2)
	require.Equal(t, []string{"SET", "k"}, s.args, "what is too long is not kept")
}

// The positions are those that a real server names.
func TestKeysAreWhereTheServerSays(t *testing.T) {
	data, err := os.ReadFile("../commands.txt")
	require.NoError(t, err)
	checked := 0
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		name, sub, _ := strings.Cut(words[0], "|")
		if len(words) < 6 || strings.HasPrefix(name, "pf") && name != "pfadd" && name != "pfcount" && name != "pfmerge" {
			continue
		}
		movable := strings.Contains(words[2], "movablekeys")
		first, last, step := number(t, words[3]), number(t, words[4]), number(t, words[5])
		if movable || sub == "" && strings.Contains(string(data), "\n"+name+"|") {
			continue // below, or a container of commands
		}
		args := []string{name, "1", "2", "3", "4", "5", "6"}
		var want, got []string
		if last < 0 {
			last += len(args)
		}
		for i := first; first > 0 && i <= last; i += step {
			want = append(want, args[i])
		}
		if first == 0 && sub != "" && keyPositions[strings.ToUpper(name)].first == 2 {
			continue // OBJECT HELP and the like
		}
		keysOf(strings.ToUpper(name), args, func(k string) { got = append(got, k) })
		require.Equal(t, want, got, line)
		checked++
	}
	require.Greater(t, checked, 150)
	for text, want := range map[string]string{
		"EVAL src 2 a b x":                 "a b",
		"EVALSHA sha 0 x":                  "",
		"EVALSHA sha many x":               "",
		"EVALSHA sha 9 a":                  "a",
		"EVALSHA sha -1 a":                 "",
		"FCALL f 1 a b":                    "a",
		"ZUNIONSTORE d 2 a b WEIGHTS 1 2":  "d a b",
		"ZINTER 2 a b WITHSCORES":          "a b",
		"LMPOP 2 a b LEFT":                 "a b",
		"BLMPOP 0 2 a b LEFT":              "a b",
		"SINTERCARD 1 a LIMIT 1":           "a",
		"XREAD COUNT 2 streams a b 0 0":    "a b",
		"XREADGROUP GROUP g c STREAMS a >": "a",
		"XREAD STREAMS":                    "",
		"SORT a BY x STORE d":              "a d",
		"GEORADIUS a 1 1 1 m STOREDIST d":  "a d",
		"SET store STORE":                  "store",
		"MIGRATE h 1 k 0 1000":             "k",
		"JSON.SET doc $ 1":                 "doc",
		"GET":                              "",
		"MSET a":                           "a",
		"BITOP AND d a b":                  "d a b",
		"XINFO STREAM a":                   "a",
	} {
		args := strings.Fields(text)
		var got []string
		keysOf(args[0], args, func(k string) { got = append(got, k) })
		require.Equal(t, want, strings.Join(got, " "), text)
	}
}

func number(t *testing.T, s string) int {
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}

// When Close returns no pump runs any more.
func TestCloseWaits(t *testing.T) {
	px, err := StartDialer(DialWith(func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		t.Cleanup(func() { far.Close() })
		return near, nil
	}))
	require.NoError(t, err)
	for range 100 {
		nc, err := px.Dial(t.Context(), "tcp", "x:1")
		require.NoError(t, err)
		defer nc.Close()
	}
	all := px.of("")
	require.Len(t, all, 100)
	px.Close()
	for _, c := range all {
		require.Zero(t, c.left.Load())
	}
}

// A queue that is never empty takes no more room than what is in it.
func TestAQueueThatIsNeverEmptyStaysSmall(t *testing.T) {
	p := newPump(&session{px: &Proxy{judge: newJudge(Script{})}}, ToServer, nil, nil)
	want, got := 0, 0
	for i := range 100_000 {
		p.hold = time.Unix(int64(i), 0) // a piece of its own
		p.emit([]byte{byte(i)})
		if i >= 10 {
			if p.queue[p.first].buf[0] != byte(got) {
				t.Fatalf("piece %d is %d", got, p.queue[p.first].buf[0])
			}
			p.queued -= len(p.queue[p.first].buf)
			p.pop()
			got++
		}
		want = max(want, cap(p.queue))
	}
	if want > 300 || p.queued != 10*(1+pieceCost) {
		t.Errorf("room for %d pieces, %d bytes queued", want, p.queued)
	}
}
