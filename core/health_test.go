package core

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-redisx/redisx/core/driver"
)

// serverLike answers what Health asks, with overrides by command line.
func serverLike(over map[string]driver.Reply) *fakeDriver {
	answers := map[string]driver.Reply{
		"PING":                        driver.StringReply("PONG"),
		"ROLE":                        driver.ListReply([]driver.Reply{driver.StringReply("master"), driver.IntReply(0)}),
		"INFO memory":                 driver.StringReply("# Memory\r\nmaxmemory_policy:noeviction\r\n"),
		"INFO persistence":            driver.StringReply("aof_enabled:0\r\nrdb_last_bgsave_status:ok\r\n"),
		"CONFIG GET save":             driver.ListReply([]driver.Reply{driver.StringReply("save"), driver.StringReply("3600 1")}),
		"INFO replication":            driver.StringReply("role:master\r\n"),
		"CONFIG GET maxmemory-policy": driver.ListReply([]driver.Reply{driver.StringReply("maxmemory-policy"), driver.StringReply("noeviction")}),
	}
	for k, v := range over {
		answers[k] = v
	}
	return &fakeDriver{answer: func(_ context.Context, cmd driver.Cmd) driver.Reply {
		if r, ok := answers[strings.Join(cmd.Args, " ")]; ok {
			return r
		}
		return driver.ErrReply(driver.NewServerError("unknown command"))
	}}
}

func TestHealthWarnsOfWhatWillHurt(t *testing.T) {
	noperm := driver.ErrReply(driver.NewServerError("NOPERM User alice has no permissions"))
	for name, c := range map[string]struct {
		over map[string]driver.Reply
		want string // "" is no warning
	}{
		"a sound server":  {nil, ""},
		"allkeys-lru":     {map[string]driver.Reply{"INFO memory": driver.StringReply("maxmemory_policy:allkeys-lru\r\n")}, "maxmemory-policy is allkeys-lru"},
		"volatile-lru":    {map[string]driver.Reply{"INFO memory": driver.StringReply("maxmemory_policy:volatile-lru\r\n")}, ""},
		"no persistence":  {map[string]driver.Reply{"CONFIG GET save": driver.ListReply([]driver.Reply{driver.StringReply("save"), driver.StringReply("")})}, "no persistence"},
		"AOF alone":       {map[string]driver.Reply{"INFO persistence": driver.StringReply("aof_enabled:1\r\n"), "CONFIG GET save": driver.ListReply([]driver.Reply{driver.StringReply("save"), driver.StringReply("")})}, ""},
		"a failed save":   {map[string]driver.Reply{"INFO persistence": driver.StringReply("aof_enabled:1\r\nrdb_last_bgsave_status:err\r\n")}, "RDB save failed"},
		"a replica":       {map[string]driver.Reply{"ROLE": driver.ListReply([]driver.Reply{driver.StringReply("slave")})}, "replica"},
		"no ROLE":         {map[string]driver.Reply{"ROLE": noperm}, ""},
		"nothing allowed": {map[string]driver.Reply{"ROLE": noperm, "INFO replication": noperm}, "role is unknown: NOPERM"},
		"no CONFIG":       {map[string]driver.Reply{"CONFIG GET save": noperm}, "persistence is unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newTestClient(t, serverLike(c.over)).Health(context.Background())
			if !h.Up || h.Err != nil || h.Server != "fake" {
				t.Errorf("%+v", h)
			}
			all := strings.Join(h.Warnings, "\n")
			if c.want == "" && len(h.Warnings) > 0 || !strings.Contains(all, c.want) {
				t.Errorf("warnings %q; want %q", h.Warnings, c.want)
			}
			if strings.Contains(all, "alice") {
				t.Errorf("a user's name in %q", all)
			}
		})
	}
}

func TestHealthOfADeadServer(t *testing.T) {
	c := newTestClient(t, serverLike(map[string]driver.Reply{"PING": driver.ErrReply(driver.NotSent(io.EOF))}))
	if h := c.Health(context.Background()); h.Up || !errors.Is(h.Err, ErrUnavailable) {
		t.Errorf("%+v; want down and ErrUnavailable", h)
	}
}

func TestGroup(t *testing.T) {
	var order []string
	closing := func(name string) *Client {
		d := &closeNoter{fakeDriver: serverLike(nil), name: name, order: &order}
		c, err := New(d)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	g := NewGroup()
	serve := func() (int, string) {
		w := httptest.NewRecorder()
		g.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return w.Code, w.Body.String()
	}
	if code, _ := serve(); code != http.StatusServiceUnavailable {
		t.Errorf("an empty group is ready: %d", code)
	}
	first := closing("first")
	if err := errors.Join(g.Add("cache", first), g.Add("streams", closing("second"))); err != nil {
		t.Fatal(err)
	}
	if g.Add("cache", first) == nil || g.Add("", first) == nil || g.Add("nil", nil) == nil {
		t.Error("a duplicate, an empty name or a nil client is taken")
	}
	if c, ok := g.Get("cache"); !ok || c != first {
		t.Error("Get finds another client")
	}
	code, body := serve()
	var report struct {
		Ready   bool
		Clients map[string]struct {
			Up      bool
			Role    string
			Breaker string
		}
	}
	if err := json.Unmarshal([]byte(body), &report); err != nil {
		t.Fatal(err)
	}
	if s := report.Clients["streams"]; code != 200 || !report.Ready || !s.Up || s.Role != "master" || s.Breaker != "closed" {
		t.Errorf("%d %s", code, body)
	}
	down := &fakeDriver{answer: func(context.Context, driver.Cmd) driver.Reply {
		return driver.ErrReply(driver.NotSent(errors.New("dial tcp 192.0.2.7:6379: refused")))
	}}
	dead, err := New(down)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Add("dead", dead); err != nil {
		t.Fatal(err)
	}
	code, body = serve()
	if code != http.StatusServiceUnavailable || !strings.Contains(body, `"not_sent"`) || strings.Contains(body, "192.0.2.7") {
		t.Errorf("%d %s; want 503, the class and no address", code, body)
	}
	for range 2 {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
	if strings.Join(order, " ") != "second first" {
		t.Errorf("closed in the order %q", order)
	}
	if err := g.Add("late", dead); !errors.Is(err, ErrClosed) {
		t.Errorf("adding to a closed group: %v", err)
	}
}

type closeNoter struct {
	*fakeDriver
	name  string
	order *[]string
}

func (d *closeNoter) Close() error { *d.order = append(*d.order, d.name); return nil }

func TestNewListsEveryFault(t *testing.T) {
	_, err := New(nil, WithName("a b"), WithKeyPrefix("{"), WithHook(nil), WithCommandTimeout(0), WithBreaker(BreakerConfig{Failures: -1, ProbeInterval: -1}))
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{"nil driver", "client name", "key prefix", "WithHook", "command timeout", "Failures", "ProbeInterval"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not mention %q", err, want)
		}
	}
}
