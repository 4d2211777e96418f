package chaos_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// bubble runs fn with a connection to a fake in a bubble, where time is exact. Ask sends PING and returns how long the answer
// took.
func bubble(t *testing.T, script string, fn func(t *testing.T, px *chaos.Proxy, nc net.Conn, ask func() time.Duration)) {
	synctest.Test(t, func(t *testing.T) {
		f := redisxtest.NewFake(t, redisxtest.InMemory())
		px := chaos.NewDialer(t, parse(t, script), chaos.DialWith(func(context.Context, string, string) (net.Conn, error) { return f.Dial() }))
		nc, err := px.Dial(t.Context(), "tcp", "fake:1")
		require.NoError(t, err)
		defer nc.Close()
		fn(t, px, nc, func() time.Duration {
			start := time.Now()
			_, err := nc.Write([]byte("PING\r\n"))
			require.NoError(t, err)
			buf := make([]byte, 7)
			_, err = io.ReadFull(nc, buf)
			require.NoError(t, err)
			require.Equal(t, "+PONG\r\n", string(buf))
			return time.Since(start)
		})
	})
}

// With rules that never act and without, as the ways differ.
func eachWay(t *testing.T, fn func(t *testing.T, px *chaos.Proxy, nc net.Conn, ask func() time.Duration)) {
	for _, script := range []string{"", "on NOTHING hang"} {
		t.Run("rules="+script, func(t *testing.T) { bubble(t, script, fn) })
	}
}

func TestLatencyOfTheNetwork(t *testing.T) {
	eachWay(t, func(t *testing.T, px *chaos.Proxy, _ net.Conn, ask func() time.Duration) {
		require.Zero(t, ask())
		end := px.Latency(5 * time.Millisecond)
		require.Equal(t, 10*time.Millisecond, ask())
		more := px.Node("fake:1").Latency(time.Millisecond)
		px.Node("other:1").Latency(time.Hour)
		require.Equal(t, 12*time.Millisecond, ask(), "latencies add up")
		end()
		end()
		require.Equal(t, 2*time.Millisecond, ask())
		more()
		require.Zero(t, ask())
		px.LatencyBetween(time.Millisecond, 3*time.Millisecond)
		drawn := ask()
		require.True(t, 2*time.Millisecond < drawn && drawn < 6*time.Millisecond, drawn)
		require.NotEqual(t, drawn, ask())
		px.Heal()
		require.Zero(t, ask())
	})
}

// What follows does not wait for what is on its way: a pipelined client sees the latency once.
func TestLatencyKeepsThroughputAndOrder(t *testing.T) {
	eachWay(t, func(t *testing.T, px *chaos.Proxy, nc net.Conn, _ func() time.Duration) {
		px.LatencyBetween(10*time.Millisecond, 20*time.Millisecond)
		start := time.Now()
		go func() {
			for i := range 20 {
				fmt.Fprintf(nc, "ECHO %02d\r\n", i)
				time.Sleep(time.Millisecond)
			}
		}()
		for i := range 20 {
			buf := make([]byte, 8)
			_, err := io.ReadFull(nc, buf)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("$2\r\n%02d\r\n", i), string(buf))
		}
		require.Less(t, time.Since(start), 61*time.Millisecond)
	})
}

func TestLatencyOfACommandHoldsWhatIsBehindIt(t *testing.T) {
	bubble(t, "on ECHO latency 5ms", func(t *testing.T, _ *chaos.Proxy, nc net.Conn, ask func() time.Duration) {
		require.Zero(t, ask())
		start := time.Now()
		_, err := nc.Write([]byte("PING\r\nECHO x\r\nPING\r\nECHO y\r\n"))
		require.NoError(t, err)
		_, err = io.ReadFull(nc, make([]byte, 7))
		require.NoError(t, err)
		require.Zero(t, time.Since(start), "what was before it does not wait")
		_, err = io.ReadFull(nc, make([]byte, 21))
		require.NoError(t, err)
		require.Equal(t, 5*time.Millisecond, time.Since(start))
		require.Zero(t, ask())
	})
}

func TestBandwidth(t *testing.T) {
	eachWay(t, func(t *testing.T, px *chaos.Proxy, nc net.Conn, ask func() time.Duration) {
		end := px.Bandwidth(1000)
		px.Bandwidth(2000)
		start := time.Now()
		_, err := nc.Write([]byte("ECHO " + strings.Repeat("x", 993) + "\r\n"))
		require.NoError(t, err)
		_, err = io.ReadFull(nc, make([]byte, 1001))
		require.NoError(t, err)
		took := time.Since(start)
		require.True(t, 1950*time.Millisecond < took && took < 2100*time.Millisecond, "1000 bytes there and 1001 back took %s", took)
		time.Sleep(time.Second) // the line is free again
		end()
		require.Less(t, ask(), 10*time.Millisecond)
	})
}

func TestBlackHole(t *testing.T) {
	eachWay(t, func(t *testing.T, px *chaos.Proxy, nc net.Conn, ask func() time.Duration) {
		for _, dir := range []chaos.Direction{chaos.ToServer, chaos.ToClient, chaos.Both} {
			end := px.BlackHole(dir)
			time.AfterFunc(3*time.Second, end)
			require.Equal(t, 3*time.Second, ask(), "what was held back arrives")
		}
		end := px.BlackHole(chaos.Both)
		_, err := nc.Write(make([]byte, 100_000))
		require.NoError(t, err, "as into the buffer of a socket")
		require.NoError(t, nc.SetReadDeadline(time.Now().Add(time.Second)))
		_, err = nc.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = px.Dial(ctx, "tcp", "fake:1")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.AfterFunc(time.Second, end)
		start := time.Now()
		second, err := px.Dial(t.Context(), "tcp", "fake:1")
		require.NoError(t, err)
		require.Equal(t, time.Second, time.Since(start))
		second.Close()
	})
}

// The proxy holds back as much as a socket would, and no more.
func TestABlackHoleIsBounded(t *testing.T) {
	bubble(t, "", func(t *testing.T, px *chaos.Proxy, nc net.Conn, _ func() time.Duration) {
		px.BlackHole(chaos.ToServer)
		require.NoError(t, nc.SetWriteDeadline(time.Now().Add(time.Second)))
		n, err := nc.Write(make([]byte, 8<<20))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.True(t, 1<<20 <= n && n <= 2<<20, n)
	})
}

func TestHalfOpen(t *testing.T) {
	eachWay(t, func(t *testing.T, px *chaos.Proxy, nc net.Conn, _ func() time.Duration) {
		px.HalfOpen()
		_, err := nc.Write([]byte("PING\r\n"))
		require.NoError(t, err)
		require.NoError(t, nc.SetReadDeadline(time.Now().Add(time.Hour)))
		_, err = nc.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		second, err := px.Dial(t.Context(), "tcp", "fake:1")
		require.NoError(t, err)
		defer second.Close()
		_, err = second.Write([]byte("PING\r\n"))
		require.NoError(t, err)
		_, err = second.Read(make([]byte, 7))
		require.NoError(t, err, "new connections work")
		px.Heal()
		require.NoError(t, nc.SetReadDeadline(time.Time{}), "as on a socket")
		_, err = nc.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET, "what was lost cannot come back")
		_, err = second.Write([]byte("PING\r\n"))
		require.NoError(t, err)
	})
}

func TestResetRefuseAndSlowAccept(t *testing.T) {
	eachWay(t, func(t *testing.T, px *chaos.Proxy, nc net.Conn, ask func() time.Duration) {
		end := px.Node("fake:1").Refuse()
		require.Zero(t, ask(), "connections that exist stay")
		_, err := px.Dial(t.Context(), "tcp", "fake:1")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.ErrorIs(t, err, chaos.ErrInjected)
		end()
		end = px.SlowAccept(time.Second)
		start := time.Now()
		second, err := px.Dial(t.Context(), "tcp", "fake:1")
		require.NoError(t, err)
		second.Close()
		require.Equal(t, time.Second, time.Since(start))
		end()
		px.Node("other:1").Reset()
		require.Zero(t, ask())
		px.Reset()
		_, err = nc.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.Equal(t, `# at 0s refuse fake:1
# at 0s end-of-refuse fake:1
# at 0s slow-accept dialer 1s
# at 1s end-of-slow-accept dialer
# at 1s reset other:1
# at 1s reset dialer`, strings.Join(px.Log(), "\n"))
	})
}

// A whole client in a bubble, with hours of outage.
func TestAClientInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := redisxtest.NewFake(t, redisxtest.InMemory())
		px := chaos.NewDialer(t, chaos.On("INCR").Nth(2).LoseReply(),
			chaos.DialWith(func(context.Context, string, string) (net.Conn, error) { return f.Dial() }))
		d, err := goredisdriver.Open(t.Context(), f.URL(), goredisdriver.WithDialer(px.Dial))
		require.NoError(t, err)
		defer d.Close()
		require.NoError(t, d.Do(t.Context(), cmd("INCR", "n")).Err())
		wantUnknown(t, d.Do(t.Context(), cmd("INCR", "n")).Err())
		end := px.BlackHole(chaos.Both)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		require.Error(t, d.Do(ctx, cmd("INCR", "n")).Err())
		require.LessOrEqual(t, time.Since(start), time.Hour)
		end()
		require.NoError(t, d.Do(t.Context(), cmd("INCR", "n")).Err())
	})
}

func TestTheListenerRefusesAndComesBack(t *testing.T) {
	f := redisxtest.NewFake(t)
	px := chaos.NewProxy(t, f.Addr())
	end := px.Refuse()
	_, err := net.Dial("tcp", px.Addr())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	end()
	pong(t, px)
	end = px.Node(f.Addr()).Refuse()
	_, err = net.Dial("tcp", px.Addr())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	end()
	end = px.SlowAccept(30 * time.Millisecond)
	start := time.Now()
	pong(t, px)
	require.GreaterOrEqual(t, time.Since(start), 30*time.Millisecond)
	end()
	px.Close()
	_, err = net.Dial("tcp", px.Addr())
	require.Error(t, err)
	px.Close()
	_, err = px.Dial(within(t), "tcp", f.Addr())
	require.ErrorIs(t, err, net.ErrClosed)
}

// pong asks the server through the proxy, on a new connection.
func pong(t *testing.T, px *chaos.Proxy) {
	t.Helper()
	nc, err := net.Dial("tcp", px.Addr())
	require.NoError(t, err)
	defer nc.Close()
	require.NoError(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = nc.Write([]byte("PING\r\n"))
	require.NoError(t, err)
	buf := make([]byte, 7)
	_, err = io.ReadFull(nc, buf)
	require.NoError(t, err)
}

func TestTheAddressStaysWhateverTheServerDoes(t *testing.T) {
	s := redisxtest.StartServer(t, redisxtest.OwnProcess())
	f := redisxtest.NewFake(t)
	px := chaos.NewProxy(t, s.Addr())
	addr := px.Addr()
	pong(t, px)
	s.Kill()
	nc, err := net.Dial("tcp", addr)
	if err == nil { // or the reset was there before Dial returned
		require.NoError(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
		_, err = nc.Read(make([]byte, 1))
		nc.Close()
	}
	require.ErrorIs(t, err, syscall.ECONNRESET, "there is no server")
	px.SetTarget(f.Addr())
	pong(t, px)
	require.Equal(t, 1, f.Count("PING"))
	require.Equal(t, addr, px.Addr())
}

func TestURL(t *testing.T) {
	tb := &recorder{TB: t}
	px := chaos.NewProxy(tb, "127.0.0.1:1")
	require.Equal(t, "rediss://u:p%40ss@"+px.Addr()+"/3?protocol=2", px.URL("rediss://u:p%40ss@example.com:7000/3?protocol=2"))
	for _, wrong := range []string{"redis-cluster://u:secret@h:1,h:2", "unix:///tmp/x", "127.0.0.1:6379", "redis://a:secret@h:1,h:2", "::"} {
		require.Empty(t, px.URL(wrong))
	}
	require.Equal(t, 5, strings.Count(tb.text(), "want that of one server"))
	require.NotContains(t, tb.text(), "secret")
	px.SetTarget("redis://u:secret@h:1")
	px.BlackHole(0)
	px.Bandwidth(0)
	px.Latency(-1)
	px.LatencyBetween(2, 1)
	px.SlowAccept(0)
	require.Contains(t, tb.text(), "black-hole 0; want ToServer, ToClient or Both")
	require.Contains(t, tb.text(), "bandwidth 0; want at least 1 byte per second")
	require.Contains(t, tb.text(), "latency from -1ns to -1ns; want more than 0")
	require.Contains(t, tb.text(), "slow-accept 0s; want more than 0")
	require.NotContains(t, tb.text(), "secret")
	require.Equal(t, 11, strings.Count(tb.text(), "\n")+1)
}

func TestWhatCannotBeOnTheWireIsRefused(t *testing.T) {
	for want, opts := range map[string][]any{
		"rule 1: refuse is for a driver":              {chaos.On("GET").Refuse()},
		"bug-retry is for a driver; use Wrap":         {chaos.OnAny().BugRetry()},
		"bug-ignore-cancel is for a driver":           {chaos.OnAny().BugIgnoreCancel(1)},
		"script=a.b is not known; tell it with":       {chaos.OnScript("a.b").Hang()},
		"rule 2: nth=0..0; want numbers from 1":       {chaos.Script{Rules: []chaos.Rule{chaos.OnAny().Hang(), chaos.OnAny().Nth(0).Hang()}}},
		"node=h; want host:port":                      {chaos.OnAny().Node("h").Hang()},
		"cut -1; want from 0 on":                      {chaos.OnAny().Cut(-1)},
		"DialWith: function is nil":                   {chaos.DialWith(nil)},
		"NameScripts: a script is nil":                {chaos.NameScripts(nil)},
		"an option is nil":                            {nil},
		"lose-reply does not go with message":         {chaos.OnMessage().LoseReply()},
		`target "…@h"; want host:port, or the path`:   {target("redis://u:secret@h")},
		`target "127.0.0.1"; want host:port, or the `: {target("127.0.0.1")},
	} {
		addr := "127.0.0.1:1"
		var options []chaos.Option
		for _, o := range opts {
			if s, ok := o.(target); ok {
				addr = string(s)
				continue
			}
			option, _ := o.(chaos.Option) // or nil
			options = append(options, option)
		}
		_, err := chaos.StartProxy(addr, options...)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "secret")
	}
	for want, rule := range map[string]chaos.Rule{
		"reset needs a connection; use NewProxy":   chaos.OnAny().Reset(),
		"cut needs a connection":                   chaos.OnAny().Cut(1),
		"node= needs commands on a driver of a Cl": chaos.OnAny().Node("h:1").Hang(),
	} {
		require.ErrorContains(t, chaos.Wrap(&stub{}, rules(rule)).Do(within(t), cmd("GET", "k")).Err(), want)
	}
}

// target is an address in the table above.
type target string

// Close waits for everything, however it stands with the connections.
func TestCloseEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	f := redisxtest.NewFake(t)
	px, err := chaos.StartProxy(f.Addr(), chaos.On("HANG").Hang(), chaos.On("LATE").Latency(time.Hour), chaos.On("HUSH").HangReply())
	require.NoError(t, err)
	var all []net.Conn
	for i, text := range []string{"PING\r\n", "HANG\r\n", "LATE\r\n", "HUSH\r\n", "*2\r\n$3\r\nhal"} {
		for _, way := range []string{"listener", "dialer"} {
			nc, err := net.Dial("tcp", px.Addr())
			if way == "dialer" {
				nc, err = px.Dial(within(t), "tcp", f.Addr())
			}
			require.NoError(t, err)
			_, err = nc.Write([]byte(text))
			require.NoError(t, err)
			if i%2 == 0 {
				nc.Close()
			}
			all = append(all, nc)
		}
	}
	px.BlackHole(chaos.ToClient)
	px.SlowAccept(time.Hour)
	nc, err := net.Dial("tcp", px.Addr())
	require.NoError(t, err)
	all = append(all, nc)
	px.Close()
	for _, nc := range all {
		nc.Close()
	}
	require.NoError(t, f.Close())
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, 20*time.Second, time.Millisecond, "Eventually has one itself")
}

// Without a sign means that the end of the server's side is none either.
func TestWhatHangsDoesNotEnd(t *testing.T) {
	for _, fault := range []string{"hang", "hang-reply"} {
		for _, way := range []string{"listener", "dialer"} {
			t.Run(fault+"/"+way, func(t *testing.T) {
				f := redisxtest.NewFake(t)
				nc := raw(t, f, way, "on ECHO "+fault+"\non PING nth=1 latency 1ns")
				_, err := nc.Write([]byte("PING\r\nECHO x\r\n"))
				require.NoError(t, err)
				_, err = io.ReadFull(nc, make([]byte, 7))
				require.NoError(t, err)
				if fault == "hang-reply" {
					require.Eventually(t, func() bool { return f.Count("ECHO") == 1 }, 20*time.Second, time.Millisecond)
					require.NoError(t, f.Close())
				}
				require.NoError(t, nc.SetReadDeadline(time.Now().Add(30*time.Millisecond)))
				_, err = nc.Read(make([]byte, 1))
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				require.Equal(t, fault == "hang-reply", f.Count("ECHO") == 1)
			})
		}
	}
}

// Two goroutines per connection, and none after it.
func TestGoroutines(t *testing.T) {
	far := make(chan net.Conn, 10)
	px := chaos.NewDialer(t, chaos.DialWith(func(context.Context, string, string) (net.Conn, error) {
		near, server := net.Pipe()
		far <- server
		return near, nil
	}))
	before := runtime.NumGoroutine()
	for range 10 {
		nc, err := px.Dial(within(t), "tcp", "x:1")
		require.NoError(t, err)
		defer nc.Close()
	}
	require.Equal(t, before+20, runtime.NumGoroutine())
	for range 10 {
		(<-far).Close()
	}
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, 20*time.Second, time.Millisecond, "Eventually has one itself")
}

// Many clients through faults that come and go: nothing hangs, nothing races, and in the end all is well.
func TestStormOfTheNetwork(t *testing.T) {
	overWire(t, "on any p=0.02 lose-reply\non any p=0.02 reset\non any p=0.02 reply OOM\non INCR p=0.05 duplicate", func(t *testing.T, o opened) {
		ctx, cancel := context.WithCancel(within(t))
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					call, stop := context.WithTimeout(ctx, 50*time.Millisecond)
					o.d.DoMulti(call, []driver.Cmd{cmd("INCR", "n"), cmd("GET", "n")})
					stop()
				}
			})
		}
		for range 5 {
			ends := []func(){o.px.LatencyBetween(1, time.Millisecond), o.px.BlackHole(chaos.ToClient), o.px.Bandwidth(100_000)}
			time.Sleep(2 * time.Millisecond)
			o.px.HalfOpen()
			for _, end := range ends {
				end()
			}
			time.Sleep(2 * time.Millisecond)
			o.px.Reset()
			o.px.Heal()
		}
		cancel()
		wg.Wait()
		o.px.Calm()
		require.Eventually(t, func() bool { return o.d.Do(within(t), cmd("SET", "k", "v")).Err() == nil }, 20*time.Second, time.Millisecond)
		for range 50 {
			require.NoError(t, o.d.Do(within(t), cmd("GET", "k")).Err())
		}
	})
}

// Without rules a dialer's connection has no pumps before the first fault, and loses nothing when it gets them.
func TestAConnectionWithoutFaultsIsDirect(t *testing.T) {
	f := redisxtest.NewFake(t)
	px := chaos.NewDialer(t)
	before := runtime.NumGoroutine()
	nc, err := px.Dial(within(t), "tcp", f.Addr())
	require.NoError(t, err)
	defer nc.Close()
	ask := func() {
		_, err := nc.Write([]byte("PING\r\n"))
		require.NoError(t, err)
		buf := make([]byte, 7)
		_, err = io.ReadFull(nc, buf)
		require.NoError(t, err)
	}
	ask()
	require.LessOrEqual(t, runtime.NumGoroutine(), before+2, "the two of the fake")
	answer := make(chan error, 1)
	require.NoError(t, nc.SetReadDeadline(time.Now().Add(20*time.Second)))
	go func() { // is reading when the fault comes
		_, err := io.ReadFull(nc, make([]byte, 7))
		answer <- err
	}()
	end := px.BlackHole(chaos.ToServer)
	_, err = nc.Write([]byte("PING\r\n"))
	require.NoError(t, err)
	select {
	case err := <-answer:
		t.Fatalf("through a black hole: %v", err)
	case <-time.After(30 * time.Millisecond):
	}
	end()
	require.NoError(t, <-answer)
	require.NoError(t, nc.SetReadDeadline(time.Now().Add(time.Millisecond)))
	_, err = nc.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, nc.SetReadDeadline(time.Time{}))
	ask()

	nc, err = px.Dial(within(t), "tcp", f.Addr())
	require.NoError(t, err)
	defer nc.Close()
	require.NoError(t, nc.SetDeadline(time.Now().Add(30*time.Millisecond)))
	end = px.BlackHole(chaos.ToClient)
	_, err = nc.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the deadline is that of before")
	end()

	for what, fault := range map[string]func(){"reset": px.Reset, "close": px.Close} {
		nc, err := px.Dial(within(t), "tcp", f.Addr())
		if errors.Is(err, net.ErrClosed) {
			continue // closed first
		}
		require.NoError(t, err)
		fault()
		_, err = nc.Read(make([]byte, 1))
		if what == "reset" {
			require.ErrorIs(t, err, syscall.ECONNRESET)
		} else {
			require.Equal(t, io.EOF, err)
		}
		nc.Close()
		_, err = nc.Write([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)
	}
}

// The way changes in the middle of a stream without a byte lost or out of order.
func TestAStreamGoesOnWhenFaultsBegin(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	const size = 16 << 20 // more than the buffers of sockets take
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(i * 7 >> 3)
	}
	for range 3 {
		px := chaos.NewDialer(t)
		nc, err := px.Dial(within(t), "tcp", l.Addr().String())
		require.NoError(t, err)
		require.NoError(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
		server, err := l.Accept()
		require.NoError(t, err)
		wrote := make(chan error, 1)
		go func() {
			_, err := nc.Write(sent)
			wrote <- err
		}()
		got := make([]byte, size)
		_, err = io.ReadFull(server, got[:1<<20]) // so it is writing, and cannot be done
		require.NoError(t, err)
		end := px.Latency(time.Microsecond)
		_, err = io.ReadFull(server, got[1<<20:size/2])
		require.NoError(t, err)
		end()
		_, err = io.ReadFull(server, got[size/2:])
		require.NoError(t, err)
		require.NoError(t, <-wrote)
		require.True(t, bytes.Equal(sent, got))
		nc.Close()
		server.Close()
		px.Close()
	}
}

// A listener lets go on what waited for it, as Dial does.
func TestSlowAcceptEndsForWhoWaits(t *testing.T) {
	px := chaos.NewProxy(t, redisxtest.NewFake(t).Addr())
	end := px.SlowAccept(time.Hour)
	nc, err := net.Dial("tcp", px.Addr())
	require.NoError(t, err)
	defer nc.Close()
	require.NoError(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = nc.Write([]byte("PING\r\n"))
	require.NoError(t, err)
	px.Latency(time.Microsecond) // something else that changes
	end()
	_, err = io.ReadFull(nc, make([]byte, 7))
	require.NoError(t, err)
}

// Faults that begin for others do not make a new connection wait from the start.
func TestSlowAcceptIsCountedOnce(t *testing.T) {
	bubble(t, "", func(t *testing.T, px *chaos.Proxy, _ net.Conn, _ func() time.Duration) {
		px.SlowAccept(time.Second)
		go func() {
			for range 5 {
				time.Sleep(300 * time.Millisecond)
				px.Node("other:1").Latency(time.Millisecond)
			}
		}()
		start := time.Now()
		nc, err := px.Dial(t.Context(), "tcp", "fake:1")
		require.NoError(t, err)
		require.Equal(t, time.Second, time.Since(start))
		nc.Close()
		time.Sleep(time.Second)
	})
}

// A listener has two goroutines for each connection, too, and none after many.
func TestGoroutinesOfAListener(t *testing.T) {
	for _, script := range []string{"", "on NOTHING hang"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		px := chaos.NewProxy(t, l.Addr().String(), parse(t, script))
		before := runtime.NumGoroutine()
		var open []net.Conn
		for range 10 {
			nc, err := net.Dial("tcp", px.Addr())
			require.NoError(t, err)
			server, err := l.Accept()
			require.NoError(t, err)
			open = append(open, nc, server)
		}
		count := 0
		for range 2000 { // until those that dialled have ended
			if count = runtime.NumGoroutine(); count == before+20 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		require.Equal(t, before+20, count)
		for _, c := range open {
			c.Close()
		}
		go func() {
			for {
				server, err := l.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(server, server); server.Close() }()
			}
		}()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range 50 {
					nc, err := net.Dial("tcp", px.Addr())
					if err != nil {
						t.Error(err)
						return
					}
					_, err = nc.Write([]byte("PING\r\n"))
					if err == nil {
						_, err = io.ReadFull(nc, make([]byte, 6))
					}
					if err != nil {
						t.Error(err)
					}
					nc.Close()
				}
			})
		}
		wg.Wait()
		l.Close()
		require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, 20*time.Second, time.Millisecond, "Eventually has one itself")
	}
}

// Close during traffic, while faults begin for connections that did without goroutines: nothing is left, nothing races.
func TestCloseWhileFaultsBegin(t *testing.T) {
	f := redisxtest.NewFake(t)
	before := runtime.NumGoroutine()
	for range 50 {
		px, err := chaos.StartDialer()
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 5 {
			nc, err := px.Dial(within(t), "tcp", f.Addr())
			require.NoError(t, err)
			defer nc.Close()
			wg.Go(func() {
				for err := error(nil); err == nil; {
					if _, err = nc.Write([]byte("PING\r\n")); err == nil {
						_, err = io.ReadFull(nc, make([]byte, 7))
					}
				}
			})
		}
		wg.Go(func() { px.Latency(time.Microsecond); px.Heal(); px.HalfOpen() })
		px.Close()
		wg.Wait()
	}
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, 20*time.Second, time.Millisecond, "Eventually has one itself")
}
