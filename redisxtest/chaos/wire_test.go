package chaos_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

func TestPipelinesOnTheWire(t *testing.T) {
	list := []driver.Cmd{cmd("INCR", "a"), cmd("INCR", "b"), cmd("INCR", "c")}
	t.Run("lose-reply", func(t *testing.T) {
		overWire(t, "on INCR nth=2 lose-reply", func(t *testing.T, o opened) {
			replies := o.d.DoMulti(within(t), list)
			require.NoError(t, replies[0].Err())
			wantUnknown(t, replies[1].Err())
			wantUnknown(t, replies[2].Err())
			require.Equal(t, "111", o.server(t, "a")+o.server(t, "b")+o.server(t, "c"), "what is behind it is run")
		})
	})
	t.Run("lose-request", func(t *testing.T) {
		overWire(t, "on INCR key=b lose-request", func(t *testing.T, o opened) {
			replies := o.d.DoMulti(within(t), list)
			require.NoError(t, replies[0].Err())
			wantUnknown(t, replies[1].Err())
			wantUnknown(t, replies[2].Err())
			require.Equal(t, "1nothingnothing", o.server(t, "a")+o.server(t, "b")+o.server(t, "c"))
		})
	})
	t.Run("hang-reply", func(t *testing.T) {
		overWire(t, "on INCR key=b hang-reply", func(t *testing.T, o opened) {
			replies := o.d.DoMulti(o.until(t, func() bool { return o.fake.Count("INCR") == 3 }), list)
			wantUnknown(t, replies[1].Err())
			wantUnknown(t, replies[2].Err())
			require.Equal(t, "111", o.server(t, "a")+o.server(t, "b")+o.server(t, "c"))
		})
	})
	t.Run("the others", func(t *testing.T) {
		overWire(t, "on INCR key=b reply LOADING\non INCR key=c duplicate\non INCR key=a latency 1ms", func(t *testing.T, o opened) {
			replies := o.d.DoMulti(within(t), list)
			require.NoError(t, replies[0].Err())
			wantCode(t, "LOADING", replies[1].Err())
			n, err := replies[2].Int64()
			require.NoError(t, err)
			require.EqualValues(t, 1, n, "the first of two")
			require.Equal(t, "1nothing2", o.server(t, "a")+o.server(t, "b")+o.server(t, "c"))
			require.NoError(t, o.d.Do(within(t), cmd("SET", "d", "x")).Err(), "replies are not out of step")
			require.Equal(t, "x", o.server(t, "d"))
		})
	})
}

func TestTransactionsOnTheWire(t *testing.T) {
	f := redisxtest.NewFake(t)
	px := chaos.NewProxy(t, f.Addr(), parse(t, "on SET key=k nth=1 reply OOM\non INCR key=n duplicate\non EXEC nth=2 reply LOADING"))
	c := redis.NewClient(&redis.Options{Addr: px.Addr()})
	defer c.Close()
	tx := func(key string) error {
		_, err := c.TxPipelined(within(t), func(p redis.Pipeliner) error {
			p.Set(within(t), key, "v", 0)
			p.Incr(within(t), "n")
			return nil
		})
		return err
	}
	require.ErrorContains(t, tx("k"), "EXECABORT")
	require.Equal(t, "nothing", get(t, f.Client().Driver(), "n"), "a refused command aborts the transaction")
	require.ErrorContains(t, tx("l"), "LOADING")
	require.Equal(t, "nothing", get(t, f.Client().Driver(), "n"), "a refused EXEC discards it")
	require.NoError(t, tx("l"))
	require.Equal(t, "1", get(t, f.Client().Driver(), "n"), "a duplicate would put replies out of step")
}

func TestMessagesOnTheWire(t *testing.T) {
	for fault, lost := range map[string]bool{"lose-subscription 2": true, "bug-silent-gap 2": false} {
		t.Run(fault, func(t *testing.T) {
			overWire(t, "on message channel=c nth=2 "+fault, func(t *testing.T, o opened) {
				ctx, cancel := context.WithCancel(within(t))
				defer cancel()
				events := make(chan string, 100)
				done := make(chan error, 1)
				go func() {
					done <- o.d.(driver.Subscriber).Subscribe(ctx, driver.Subscription{
						Channels:    []string{"c", "d"},
						OnConfirmed: func() { events <- "confirmed" },
						OnLost:      func(error) { events <- "lost" },
						OnMessage:   func(_, payload string) { events <- payload },
					})
				}()
				want := func(event string) {
					t.Helper()
					select {
					case got := <-events:
						require.Equal(t, event, got)
					case <-within(t).Done():
						t.Fatalf("no %s", event)
					}
				}
				want("confirmed")
				publish := func(channel, text string) {
					require.NoError(t, o.fake.Client().Do(within(t), driver.Cmd{Args: []string{"PUBLISH", channel, text}}).Err())
				}
				publish("c", "1")
				want("1")
				publish("d", "other")
				want("other")
				publish("c", "2")
				publish("c", "3")
				if lost {
					want("lost")
					want("confirmed")
				}
				publish("c", "4")
				want("4")
				cancel()
				require.ErrorIs(t, <-done, context.Canceled)
			})
		})
	}
}

// Confirmations are no replies, in either protocol, and a gap ends the connection after the last message of it.
func TestRepliesBesideSubscriptions(t *testing.T) {
	for _, protocol := range []string{"2", "3"} {
		for _, way := range []string{"listener", "dialer"} {
			t.Run("RESP"+protocol+"/"+way, func(t *testing.T) {
				f := redisxtest.NewFake(t)
				nc := raw(t, f, way, "on ECHO nth=2 cut 3\non message channel=gap lose-subscription 2")
				r := bufio.NewReader(nc)
				send := func(lines string) {
					_, err := nc.Write([]byte(strings.ReplaceAll(lines, "\n", "\r\n")))
					require.NoError(t, err)
				}
				until := func(end string) {
					got := ""
					for !strings.HasSuffix(got, end) {
						b, err := r.ReadByte()
						require.NoError(t, err, "%q", got)
						got += string(b)
					}
				}
				send("HELLO " + protocol + "\nSUBSCRIBE a b\nPING\nUNSUBSCRIBE a b\nECHO one\nSUBSCRIBE c\nUNSUBSCRIBE\nECHO two\n")
				until("one\r\n")
				rest, err := io.ReadAll(r)
				require.NoError(t, err)
				require.True(t, strings.HasSuffix(string(rest), "\r\n$3\r"), "%q", rest)

				nc = raw(t, f, way, "on message channel=gap lose-subscription 2")
				r = bufio.NewReader(nc)
				send("HELLO " + protocol + "\nSUBSCRIBE gap\n")
				until("gap\r\n:1\r\n")
				publish := func() {
					require.NoError(t, f.Client().Do(within(t), driver.Cmd{Args: []string{"PUBLISH", "gap", "x"}}).Err())
				}
				publish()
				send("PING\n")
				until("\r\n")
				publish()
				_, err = io.ReadAll(r)
				require.NoError(t, err, "closed")
			})
		}
	}
}

func TestInvalidationsOnTheWire(t *testing.T) {
	f := redisxtest.NewFake(t)
	px := chaos.NewProxy(t, f.Addr(), chaos.OnInvalidation().Key("k2").BugSilentGap(1))
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{px.Addr()}})
	require.NoError(t, err)
	defer c.Close()
	read := func(key string) (hit bool) {
		r := c.DoCache(within(t), c.B().Get().Key(key).Cache(), time.Minute)
		_, err := r.ToString()
		require.NoError(t, err)
		return r.IsCacheHit()
	}
	set := func(key string) { require.NoError(t, f.Client().Do(within(t), cmd("SET", key, "v")).Err()) }
	set("k1")
	set("k2")
	require.False(t, read("k1") || read("k2"))
	require.True(t, read("k1") && read("k2"))
	set("k2")
	set("k1")
	require.Eventually(t, func() bool { return !read("k1") }, 20*time.Second, time.Millisecond)
	require.True(t, read("k2"), "its invalidation was lost")
}

// In RESP2 invalidations are messages on the connection that CLIENT TRACKING names, not on that which reads.
func TestRedirectedInvalidations(t *testing.T) {
	s := redisxtest.StartServer(t)
	px := chaos.NewDialer(t, chaos.OnInvalidation().Key("k").Nth(2).LoseInvalidation(1))
	dial := func() (net.Conn, *bufio.Reader) {
		nc, err := px.Dial(within(t), "tcp", s.Addr())
		require.NoError(t, err)
		t.Cleanup(func() { nc.Close() })
		require.NoError(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
		return nc, bufio.NewReader(nc)
	}
	ask := func(nc net.Conn, r *bufio.Reader, command string) string {
		_, err := fmt.Fprint(nc, command+"\r\n")
		require.NoError(t, err)
		line, err := r.ReadString('\n')
		require.NoError(t, err)
		return strings.TrimSpace(line)
	}
	told, events := dial()
	reads, replies := dial()
	id := ask(told, events, "CLIENT ID")[1:]
	ask(told, events, "SUBSCRIBE __redis__:invalidate")
	require.Equal(t, "+OK", ask(reads, replies, "CLIENT TRACKING ON REDIRECT "+id))
	for range 2 {
		require.Equal(t, ":0", ask(reads, replies, "STRLEN k"))
		require.NoError(t, s.Do("SET", "k", "").Err())
	}
	got, err := io.ReadAll(events)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(got), "\r\nk\r\n"), "%q", got)
	require.Equal(t, ":0", ask(reads, replies, "STRLEN k"), "the other connection goes on")
}

func TestScriptsOnTheWire(t *testing.T) {
	script := driver.NewScript("test.one", "return 1")
	f := redisxtest.NewFake(t)
	px := chaos.NewProxy(t, f.Addr(), chaos.OnScript("test.one").Key("{a}2").Reply(chaos.OOM), chaos.NameScripts(script))
	d, err := drivers["goredis"](within(t), px.URL(f.URL()), nil)
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, d.Do(within(t), script.Cmd([]string{"{a}1"}, nil)).Err())
	wantCode(t, "OOM", d.Do(within(t), script.Cmd([]string{"{a}1", "{a}2"}, []string{"x"})).Err())
	f.FlushScripts()
	wantCode(t, "OOM", d.Do(within(t), script.Cmd([]string{"{a}2"}, []string{"x"})).Err())
}

// What clients send by themselves does not count, or a run would not be like the next.
func TestAnyOnTheWireIsWhatTheApplicationSends(t *testing.T) {
	overWire(t, "on any nth=1 reply OOM\non HELLO nth=100 hang", func(t *testing.T, o opened) {
		require.NoError(t, o.d.Do(within(t), cmd("PING")).Err())
		wantCode(t, "OOM", o.d.Do(within(t), cmd("GET", "k")).Err())
		require.NoError(t, o.d.Do(within(t), cmd("GET", "k")).Err())
	})
}

// Pasted back, the log of a run causes the same faults.
func TestTheLogOfAProxyIsAScript(t *testing.T) {
	f := redisxtest.NewFake(t)
	run := func(script chaos.Script) (saw, log string) {
		require.NoError(t, f.Client().Do(within(t), driver.Cmd{Args: []string{"FLUSHALL"}}).Err())
		px := chaos.NewProxy(t, f.Addr(), script)
		d, err := drivers["goredis"](within(t), px.URL(f.URL("pool_size=1")), nil)
		require.NoError(t, err)
		defer d.Close()
		for i := range 60 {
			r := d.Do(within(t), cmd("INCR", fmt.Sprint("k", i%7)))
			n, err := r.Int64()
			saw += fmt.Sprintln(n, err != nil)
		}
		return saw, strings.Join(px.Log(), "\n")
	}
	saw, log := run(parse(t, "seed 7\non INCR p=0.2 lose-reply\non any p=0.1 reply OOM\non any p=0.1 latency 1ns..900us\non INCR key=k3 p=0.3 cut 2"))
	require.Greater(t, strings.Count(log, "\n"), 10)
	again, same := run(parse(t, log))
	require.Equal(t, saw, again)
	require.Equal(t, log, same)
}

func TestNodesOfACluster(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a Cluster")
	}
	cl := redisxtest.StartCluster(t, 3, 0)
	sick := cl.Node("a")
	healthy := "b"
	for i := 0; cl.Node(healthy) == sick; i++ {
		healthy = fmt.Sprint("b", i)
	}
	for name, open := range drivers {
		t.Run(name, func(t *testing.T) {
			px := chaos.NewDialer(t, chaos.On("INCR").Node(sick.Addr()).Nth(1).LoseReply())
			d, err := open(within(t), cl.URL(), px.Dial)
			require.NoError(t, err)
			defer d.Close()
			require.NoError(t, d.Do(within(t), cmd("INCR", healthy)).Err())
			wantUnknown(t, d.Do(within(t), cmd("INCR", "a")).Err())
			require.NoError(t, d.Do(within(t), cmd("INCR", "a")).Err())

			below, err := open(within(t), cl.URL(), nil)
			require.NoError(t, err)
			w := chaos.Wrap(below, rules(chaos.On("INCR").Node(sick.Addr()).Times(1).LoseRequest()))
			defer w.Close()
			require.Eventually(t, func() bool { return w.(driver.Router).Node("a") != "" }, 20*time.Second, time.Millisecond)
			require.NoError(t, w.Do(within(t), cmd("INCR", healthy)).Err())
			wantUnknown(t, w.Do(within(t), cmd("INCR", "a")).Err())

			end := px.Node(sick.Addr()).BlackHole(chaos.Both)
			require.ErrorIs(t, d.Do(brief(t), cmd("INCR", "a")).Err(), context.DeadlineExceeded)
			require.NoError(t, d.Do(within(t), cmd("INCR", healthy)).Err(), "the other nodes are not disturbed")
			end()
			require.Eventually(t, func() bool { return d.Do(within(t), cmd("INCR", "a")).Err() == nil }, 20*time.Second, time.Millisecond)
		})
	}
}

func TestTLS(t *testing.T) {
	s := redisxtest.StartServer(t, redisxtest.TLS())
	for name, open := range drivers {
		t.Run("bytes/"+name, func(t *testing.T) {
			px := chaos.NewProxy(t, s.Addr())
			d, err := open(within(t), px.URL(s.URL()), nil)
			require.NoError(t, err)
			defer d.Close()
			end := px.Latency(time.Millisecond)
			require.NoError(t, d.Do(within(t), cmd("SET", "k", "v")).Err())
			end()
			end = px.BlackHole(chaos.ToClient)
			require.ErrorIs(t, d.Do(brief(t), cmd("SET", "k", "v")).Err(), context.DeadlineExceeded)
			end()
			px.Reset()
			require.Eventually(t, func() bool { return d.Do(within(t), cmd("SET", "k", "v")).Err() == nil }, 20*time.Second, time.Millisecond)
		})
	}
	t.Run("rules are refused", func(t *testing.T) {
		tb := &recorder{TB: t}
		px := chaos.NewProxy(tb, s.Addr(), chaos.OnAny().LoseReply())
		ctx, cancel := context.WithTimeout(within(t), 5*time.Second)
		defer cancel()
		_, err := drivers["goredis"](ctx, px.URL(s.URL()), nil)
		require.Error(t, err)
		px.Close()
		require.Contains(t, tb.text(), "speaks TLS, which hides commands from rules")
	})
	t.Run("rules above TLS", func(t *testing.T) {
		e, err := core.ParseURL(s.URL())
		require.NoError(t, err)
		px := chaos.NewDialer(t, chaos.On("INCR").Nth(1).LoseReply(), chaos.DialWith((&tls.Dialer{Config: e.TLS}).DialContext))
		u, err := url.Parse(s.URL())
		require.NoError(t, err)
		u.Scheme, u.RawQuery = "redis", ""
		d, err := drivers["goredis"](within(t), u.String(), px.Dial)
		require.NoError(t, err)
		defer d.Close()
		wantUnknown(t, d.Do(within(t), cmd("INCR", "n")).Err())
		require.Equal(t, "1", get(t, d, "n"))

		px = chaos.NewDialer(t, chaos.On("INCR").Nth(1).LoseReply())
		c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.Addr()}, TLSConfig: e.TLS, DialCtxFn: px.DialTLS, DisableCache: true})
		require.NoError(t, err)
		defer c.Close()
		require.Error(t, c.Do(within(t), c.B().Incr().Key("n").Build()).Error())
		require.Equal(t, "2", get(t, d, "n"))
	})
}

// recorder is a test that notes what fails it.
type recorder struct {
	testing.TB
	mu    sync.Mutex
	lines []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

// scripted is a server that reads a line for each of its answers and then gives them, in pieces of one byte.
func scripted(t *testing.T, answers ...string) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			r := bufio.NewReader(far)
			for range answers {
				if _, err := r.ReadString('\n'); err != nil {
					return
				}
			}
			for _, b := range []byte(strings.Join(answers, "")) {
				if _, err := far.Write([]byte{b}); err != nil {
					return
				}
			}
			_, _ = io.Copy(io.Discard, r)
		}()
		t.Cleanup(func() { near.Close() })
		return near, nil
	}
}

// Whatever a server sends between replies, the reply that is lost is the right one.
func TestRepliesOfEveryKindAreCounted(t *testing.T) {
	answers := []string{
		"+OK\r\n", "-ERR no\r\n", ":1\r\n", "$-1\r\n", "*-1\r\n", "$0\r\n\r\n", "$5\r\na\r\nbc\r\n", "_\r\n", "#t\r\n", ",1.5\r\n", "(123\r\n",
		"!3\r\nERR\r\n", "=5\r\ntxt:a\r\n", "*2\r\n*1\r\n:1\r\n$1\r\nx\r\n", "%1\r\n+a\r\n~2\r\n:1\r\n:2\r\n", "*0\r\n", "%0\r\n",
		"|1\r\n+ttl\r\n:1\r\n+with attribute\r\n", "*2\r\n|1\r\n+a\r\n*1\r\n:1\r\n:1\r\n:2\r\n", "|0\r\n:1\r\n",
		"$?\r\n;4\r\nabcd\r\n;1\r\n\n\r\n;0\r\n", "*?\r\n:1\r\n*?\r\n.\r\n*1\r\n:1\r\n.\r\n", "%?\r\n+a\r\n:1\r\n.\r\n",
		">2\r\n+push\r\n:1\r\n+behind a push\r\n", "?unknown type\r\n",
	}
	last := "+last\r\n"
	for _, way := range []string{"lose-reply", "cut 3"} {
		px := chaos.NewDialer(t, parse(t, "on LAST "+way), chaos.DialWith(scripted(t, append(answers, last)...)))
		nc, err := px.Dial(within(t), "tcp", "x:1")
		require.NoError(t, err)
		defer nc.Close()
		require.NoError(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
		go func() {
			for _, b := range []byte(strings.Repeat("FIRST\r\n", len(answers)) + "LAST\r\n") { // half frames of one byte
				if _, err := nc.Write([]byte{b}); err != nil {
					return
				}
			}
		}()
		got, err := io.ReadAll(nc)
		require.NoError(t, err)
		want := strings.Join(answers, "")
		if way == "cut 3" {
			want += last[:3]
		}
		require.Equal(t, want, string(got))
	}
}

// When the client goes on, both have run.
func TestTheReplyOfADuplicateWaitsForTheSecond(t *testing.T) {
	second := make(chan struct{})
	px := chaos.NewDialer(t, chaos.On("INCR").Duplicate(), chaos.DialWith(func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			_, _ = io.ReadFull(far, make([]byte, len("INCR k\r\nINCR k\r\n")))
			fmt.Fprint(far, ":1\r\n")
			<-second
			fmt.Fprint(far, ":2\r\n")
		}()
		return near, nil
	}))
	nc, err := px.Dial(within(t), "tcp", "x:1")
	require.NoError(t, err)
	defer nc.Close()
	_, err = nc.Write([]byte("INCR k\r\n"))
	require.NoError(t, err)
	require.NoError(t, nc.SetReadDeadline(time.Now().Add(30*time.Millisecond)))
	_, err = nc.Read(make([]byte, 4))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	close(second)
	require.NoError(t, nc.SetReadDeadline(time.Now().Add(20*time.Second)))
	got, err := io.ReadAll(nc)
	require.NoError(t, err)
	require.Equal(t, ":1\r\n", string(got))
}

// A value of any size streams through, with rules and without.
func TestBigValuesAreNotKept(t *testing.T) {
	const size = 64 << 20
	for _, script := range []string{"", "on GET lose-reply\non SET key=other hang\non any p=0.0001 latency 1ns"} {
		px := chaos.NewDialer(t, parse(t, script), chaos.DialWith(func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				defer far.Close()
				if _, err := io.CopyN(io.Discard, far, size); err != nil {
					return
				}
				go func() {
					fmt.Fprintf(far, "$%d\r\n", size)
					_, _ = io.CopyN(far, zeros{}, size)
					fmt.Fprint(far, "\r\n")
				}()
				_, _ = io.Copy(io.Discard, far)
			}()
			return near, nil
		}))
		nc, err := px.Dial(within(t), "tcp", "x:1")
		require.NoError(t, err)
		fmt.Fprintf(nc, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n", size)
		_, err = io.CopyN(nc, zeros{}, size)
		require.NoError(t, err)
		fmt.Fprint(nc, "\r\n")
		_, err = io.CopyN(io.Discard, nc, size)
		require.NoError(t, err)
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		require.Less(t, m.HeapAlloc, uint64(size/2), "what passed is not kept")
		nc.Close()
		px.Close()
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// bulk is a command as clients send it.
func bulk(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b.String()
}

// sizes are lengths around what is kept of a command or a push.
var sizes = []int{10, 65_000, 65_480, 65_510, 65_536, 65_600, 80_000, 200_000}

// Keys behind a long value are not looked at, and no value is taken for a key because of one.
func TestWhatIsBehindALongValueIsNoKey(t *testing.T) {
	f := redisxtest.NewFake(t)
	for _, size := range sizes {
		nc := raw(t, f, "dialer", "on MSET key=v2 reply OOM\non MSET key=k1 latency 1ms")
		_, err := nc.Write([]byte(bulk("MSET", "k1", strings.Repeat("x", size), "k2", "v2")))
		require.NoError(t, err)
		line, err := bufio.NewReader(nc).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "+OK\r\n", line, size)
	}
}

// A command whose name alone is longer than what is kept has a reply like any other.
func TestLongNamesHaveReplies(t *testing.T) {
	f := redisxtest.NewFake(t)
	for _, size := range sizes {
		nc := raw(t, f, "dialer", "on ECHO lose-reply")
		_, err := nc.Write([]byte(bulk(strings.Repeat("x", size)) + bulk("ECHO", "lost")))
		require.NoError(t, err)
		got, err := io.ReadAll(nc)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(got), "-ERR") && strings.Count(string(got), "\r\n") == 1, "%d: %.200q", size, got)
	}
}

// Messages are messages however long they are: they match rules, and are no replies to anything.
func TestLongMessagesAreMessages(t *testing.T) {
	f := redisxtest.NewFake(t)
	for _, protocol := range []string{"2", "3"} {
		for _, subscribe := range []string{"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"} {
			publish := "PUBLISH"
			if subscribe == "SSUBSCRIBE" {
				publish = "SPUBLISH"
			}
			for _, size := range sizes {
				nc := raw(t, f, "dialer", "on message channel=c nth=2 lose-subscription 1\non PING nth=1 cut 3")
				r := bufio.NewReader(nc)
				_, err := fmt.Fprintf(nc, "HELLO %s\r\n%s c\r\n", protocol, subscribe)
				require.NoError(t, err)
				for line := ""; line != ":1\r\n"; {
					line, err = r.ReadString('\n')
					require.NoError(t, err)
				}
				payload := strings.Repeat("x", size)
				for range 2 {
					require.NoError(t, f.Client().Do(within(t), driver.Cmd{Args: []string{publish, "c", payload}}).Err())
				}
				got, err := io.ReadAll(r)
				require.NoError(t, err)
				require.Equal(t, 1, strings.Count(string(got), payload), "RESP%s %s of %d bytes: the second is lost, and ends the connection", protocol, subscribe, size)
			}
		}
	}
}

// Confirmations count for the command they are of: UNSUBSCRIBE of all has any number of them.
func TestConfirmationsAreThoseOfTheirCommand(t *testing.T) {
	f := redisxtest.NewFake(t)
	for _, protocol := range []string{"2", "3"} {
		nc := raw(t, f, "dialer", "on SUBSCRIBE nth=2 lose-reply")
		_, err := fmt.Fprintf(nc, "HELLO %s\r\nSUBSCRIBE a b c\r\nUNSUBSCRIBE\r\nSUBSCRIBE d\r\n", protocol)
		require.NoError(t, err)
		got, err := io.ReadAll(nc)
		require.NoError(t, err)
		require.Equal(t, 3, strings.Count(string(got), "unsubscribe\r\n"), "%q", got)
		require.NotContains(t, string(got), "\r\nd\r\n")
	}
}

// In RESP2 a connection has messages to come as long as it has channels of either kind.
func TestChannelsOfBothKinds(t *testing.T) {
	f := redisxtest.NewFake(t)
	nc := raw(t, f, "dialer", "on message channel=a nth=1 lose-subscription 1\non PING cut 3")
	r := bufio.NewReader(nc)
	_, err := nc.Write([]byte("SUBSCRIBE a\r\nSSUBSCRIBE b\r\nSUNSUBSCRIBE b\r\n"))
	require.NoError(t, err)
	for line := ""; line != ":0\r\n"; {
		line, err = r.ReadString('\n')
		require.NoError(t, err)
	}
	require.NoError(t, f.Client().Do(within(t), driver.Cmd{Args: []string{"PUBLISH", "a", "lost"}}).Err())
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Empty(t, string(got))
}

// Wherever a stream is cut in two, in either direction, the same bytes arrive and the same commands are met: transactions,
// pushes between replies, replies of every shape.
func TestHalfFramesAtEveryPosition(t *testing.T) {
	sent := bulk("HELLO", "3") + bulk("SUBSCRIBE", "c") + bulk("MULTI") + bulk("SET", "k", "v") + bulk("EXEC") + "PING\r\n\r\n" + bulk("ECHO", "a\r\nb") +
		bulk("INCR", "n") + bulk("ECHO", "last")
	answers := "%1\r\n+proto\r\n:3\r\n" + ">3\r\n+subscribe\r\n+c\r\n:1\r\n" + "+OK\r\n+QUEUED\r\n" + ">3\r\n+message\r\n+c\r\n$2\r\nm1\r\n" + "*1\r\n+OK\r\n" +
		">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n" + "+PONG\r\n$4\r\na\r\nb\r\n" + ">3\r\n+message\r\n+c\r\n$2\r\nm2\r\n"
	incr := ":1\r\n:2\r\n" // twice, as it is delivered
	last := "$4\r\nlast\r\n"
	script := "on INCR key=n duplicate\non message channel=c nth=1 bug-silent-gap 1\non invalidation key=k bug-silent-gap 1\non ECHO nth=2 cut 5"
	want := strings.Replace(strings.Replace(answers, ">3\r\n+message\r\n+c\r\n$2\r\nm1\r\n", "", 1), ">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n", "", 1) +
		":1\r\n" + last[:5]
	arrives := strings.Replace(sent, bulk("INCR", "n"), bulk("INCR", "n")+bulk("INCR", "n"), 1)
	reply := answers + incr + last
	for cut := range max(len(sent), len(reply)) {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			px := chaos.NewDialer(t, parse(t, script), chaos.DialWith(func(context.Context, string, string) (net.Conn, error) { return near, nil }))
			nc, err := px.Dial(t.Context(), "tcp", "x:1")
			require.NoError(t, err)
			in := func(c net.Conn, s string) {
				at := min(cut, len(s))
				for _, part := range []string{s[:at], s[at:]} {
					if _, err := c.Write([]byte(part)); err != nil {
						return
					}
					time.Sleep(time.Nanosecond) // both halves are looked at by themselves
				}
			}
			go in(nc, sent)
			got := make([]byte, len(arrives))
			_, err = io.ReadFull(far, got)
			require.NoError(t, err)
			require.Equal(t, arrives, string(got), cut)
			go in(far, reply)
			all, err := io.ReadAll(nc)
			require.NoError(t, err)
			require.Equal(t, want, string(all), cut)
			require.Len(t, px.Log(), 4)
			nc.Close()
			far.Close()
			time.Sleep(time.Second) // until who writes has noticed
		})
	}
}
