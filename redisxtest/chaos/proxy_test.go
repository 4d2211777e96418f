package chaos_test

import (
	"context"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/core/rueidisdriver"
	"github.com/go-redisx/redisx/redisxtest"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// opened are the ways to a fake through a proxy.
type opened struct {
	fake *redisxtest.Fake
	px   *chaos.Proxy
	d    driver.Driver
}

// drivers opens drivers with a name.
var drivers = map[string]func(ctx context.Context, url string, dial func(context.Context, string, string) (net.Conn, error)) (driver.Driver, error){
	"goredis": func(ctx context.Context, url string, dial func(context.Context, string, string) (net.Conn, error)) (driver.Driver, error) {
		return goredisdriver.Open(ctx, url, goredisdriver.WithDialer(dial))
	},
	"rueidis": func(ctx context.Context, url string, dial func(context.Context, string, string) (net.Conn, error)) (driver.Driver, error) {
		if dial == nil {
			return rueidisdriver.Open(ctx, url)
		}
		return rueidisdriver.Open(ctx, url, rueidisdriver.WithDialer(dial))
	},
}

// overWire runs fn for both drivers, by a listener and by a dialer, in RESP2 and RESP3.
func overWire(t *testing.T, script string, fn func(t *testing.T, o opened)) {
	for name, open := range drivers {
		for _, way := range []string{"listener", "dialer"} {
			for _, protocol := range []string{"2", "3"} {
				t.Run(name+"/"+way+"/RESP"+protocol, func(t *testing.T) {
					f := redisxtest.NewFake(t)
					o := opened{fake: f}
					var err error
					if way == "listener" {
						o.px = chaos.NewProxy(t, f.Addr(), parse(t, script))
						o.d, err = open(within(t), o.px.URL(f.URL("protocol="+protocol)), nil)
					} else {
						o.px = chaos.NewDialer(t, parse(t, script))
						o.d, err = open(within(t), f.URL("protocol="+protocol), o.px.Dial)
					}
					require.NoError(t, err)
					t.Cleanup(func() { o.d.Close() })
					fn(t, o)
				})
			}
		}
	}
}

// brief is a context that ends soon, for what never answers.
func brief(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// until is a context that ends when something has come to pass, for a call that never answers.
func (o opened) until(t *testing.T, passed func() bool) context.Context {
	ctx, cancel := context.WithCancel(within(t))
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		for ctx.Err() == nil && !passed() {
			time.Sleep(time.Millisecond)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return ctx
}

// server is what the fake holds, past the proxy.
func (o opened) server(t *testing.T, key string) string { return get(t, o.fake.Client().Driver(), key) }

func TestFaultsOnTheWire(t *testing.T) {
	for fault, want := range map[string]struct {
		applied string
		unknown bool
		code    string
		hangs   bool
	}{
		"lose-reply":   {applied: "1", unknown: true},
		"lose-request": {applied: "nothing", unknown: true},
		"reset":        {applied: "1", unknown: true},
		"cut 1":        {applied: "1", unknown: true},
		"cut 0":        {applied: "1", unknown: true},
		"hang":         {applied: "nothing", unknown: true, hangs: true},
		"hang-reply":   {applied: "1", unknown: true, hangs: true},
		"reply OOM":    {applied: "nothing", code: "OOM"},
		"latency 1ms":  {applied: "1"},
		"duplicate":    {applied: "2"},
	} {
		t.Run(fault, func(t *testing.T) {
			overWire(t, "on INCR key=cnt:* nth=1 "+fault, func(t *testing.T, o opened) {
				require.NoError(t, o.d.Do(within(t), cmd("INCR", "other")).Err())
				ctx := within(t)
				if want.hangs {
					ctx = o.until(t, func() bool { return len(o.px.Log()) > 0 && (want.applied == "nothing" || o.fake.Count("INCR") == 2) })
				}
				r := o.d.Do(ctx, cmd("INCR", "cnt:1"))
				switch {
				case want.unknown:
					wantUnknown(t, r.Err())
				case want.code != "":
					wantCode(t, want.code, r.Err())
				default:
					n, err := r.Int64()
					require.NoError(t, err)
					require.EqualValues(t, 1, n)
				}
				require.Equal(t, want.applied, o.server(t, "cnt:1"))
				if want.hangs {
					o.px.Heal() // which resets the connection; that is found out by a command at the latest
					require.Eventually(t, func() bool { return o.d.Do(within(t), cmd("INCR", "other")).Err() == nil }, 20*time.Second, time.Millisecond)
				} else {
					require.NoError(t, o.d.Do(within(t), cmd("INCR", "other")).Err())
					require.Equal(t, "2", o.server(t, "other"))
				}
				text := fault
				if fault == "reply OOM" {
					text = `reply "` + chaos.OOM + `"`
				}
				require.Equal(t, `on INCR key=cnt:* nth=1 `+text+` # "cnt:1"`, strings.Split(strings.Join(o.px.Log(), "\n"), "\n# ")[0])
			})
		})
	}
}

// What go-redis does with its defaults, and what the drivers are for.
func TestALostReplyWithDefaultOptions(t *testing.T) {
	f := redisxtest.NewFake(t)
	px := chaos.NewProxy(t, f.Addr(), chaos.On("INCR").Nth(1).LoseReply())
	c := redis.NewClient(&redis.Options{Addr: px.Addr()})
	defer c.Close()
	n, err := c.Incr(within(t), "n").Result()
	require.NoError(t, err)
	require.EqualValues(t, 2, n, "go-redis sends a write again by default, and says nothing")

	px = chaos.NewProxy(t, f.Addr(), chaos.On("INCR").Nth(1).LoseReply())
	r, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{f.Addr()}, DialCtxFn: px.DialTLS, DisableCache: true})
	require.NoError(t, err)
	defer r.Close()
	require.Error(t, r.Do(within(t), r.B().Incr().Key("m").Build()).Error())
	require.Equal(t, "1", get(t, f.Client().Driver(), "m"))
}

func TestTheEndOfAConnectionIsOfTheKindOrdered(t *testing.T) {
	for fault, want := range map[string]error{"lose-reply": nil, "reset": syscall.ECONNRESET} {
		for _, way := range []string{"listener", "dialer"} {
			t.Run(fault+"/"+way, func(t *testing.T) {
				f := redisxtest.NewFake(t)
				nc := raw(t, f, way, "on PING "+fault)
				_, err := nc.Write([]byte("PING\r\n"))
				require.NoError(t, err)
				_, err = nc.Read(make([]byte, 16))
				if want == nil {
					require.EqualError(t, err, "EOF")
				} else {
					require.ErrorIs(t, err, want)
				}
			})
		}
	}
}

// raw is a connection to a fake through a proxy.
func raw(t *testing.T, f *redisxtest.Fake, way, script string) net.Conn {
	t.Helper()
	var nc net.Conn
	var err error
	if way == "dialer" {
		nc, err = chaos.NewDialer(t, parse(t, script)).Dial(within(t), "tcp", f.Addr())
	} else {
		nc, err = net.Dial("tcp", chaos.NewProxy(t, f.Addr(), parse(t, script)).Addr())
	}
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	require.NoError(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
	return nc
}
