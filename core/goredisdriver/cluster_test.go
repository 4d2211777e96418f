package goredisdriver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

func TestCluster(t *testing.T) {
	c := startCluster(t)
	cases := []struct {
		name string
		run  func(*testing.T, *cluster, *Driver)
	}{
		{"keys of two slots are refused before sending", crossSlot},
		{"a transaction with keys of two slots is refused whole", crossSlotTransaction},
		{"a command without keys goes where Near says", near},
		{"XREADGROUP goes to the node of its stream", streamRouting},
		{"ASK and MOVED are followed and nothing runs twice", migration},
		{"a list whose slot moved runs nothing twice", movedList},
		{"a blocking list goes where its keys are", keylessFirst},
		{"a sharded subscription follows its slot", shardedMove},
		{"tracking covers every primary", trackAll},
	}
	for name, connect := range map[string]func(*testing.T) *Driver{
		"Open": func(t *testing.T) *Driver { return open(t, c.url()) },
		"New": func(t *testing.T) *Driver {
			client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{c.nodes[0].addr}})
			d, err := New(client)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = d.Close(); _ = client.Close() })
			return d
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, tc := range cases {
				t.Run(tc.name, func(t *testing.T) { tc.run(t, c, connect(t)) })
			}
		})
	}
}

func crossSlot(t *testing.T, c *cluster, d *Driver) {
	ctx := background(t)
	must(t, d.Do(ctx, command("SET", "one", "1")))
	must(t, d.Do(ctx, command("SET", "two", "2")))
	for _, args := range [][]string{{"DEL", "one", "two"}, {"MGET", "one", "two"}, {"UNLINK", "one", "two"}} {
		r := d.Do(ctx, driver.Cmd{Args: args, Keys: driver.KeyRange(1, 2)})
		if e, ok := r.Err().(*driver.ServerError); !ok || e.Code() != "CROSSSLOT" {
			t.Errorf("%v: %v, want CROSSSLOT", args, r)
		}
	}
	if s, err := d.Do(ctx, read("GET", "one")).Text(); s != "1" || err != nil {
		t.Errorf("half of a refused DEL ran: %q, %v", s, err)
	}
	if n, err := d.Do(ctx, driver.Cmd{Args: []string{"DEL", "{one}a", "{one}b"}, Keys: driver.KeyRange(1, 2)}).Int64(); n != 0 || err != nil {
		t.Errorf("DEL in one slot: %d, %v", n, err)
	}
}

func near(t *testing.T, c *cluster, d *Driver) {
	ctx := background(t)
	for i := range 20 {
		key := "near" + strconv.Itoa(i)
		want := c.owner(key).do("CLUSTER", "MYID").(string)
		id := driver.Cmd{Args: []string{"CLUSTER", "MYID"}, Near: key, Mode: driver.ReadOnly}
		if got, err := d.Do(ctx, id).Text(); got != want {
			t.Fatalf("Near %q reached %q, %v; want %q", key, got, err, want)
		}
		if got, err := d.DoMulti(ctx, []driver.Cmd{read("GET", "other"), id})[1].Text(); got != want {
			t.Fatalf("Near %q in a list reached %q, %v; want %q", key, got, err, want)
		}
		if d.Node(key) != c.owner(key).addr {
			t.Fatalf("Node(%q) is %q, want %q", key, d.Node(key), c.owner(key).addr)
		}
	}
}

func streamRouting(t *testing.T, c *cluster, d *Driver) {
	ctx := background(t)
	for i := range 9 {
		key := "stream" + strconv.Itoa(i)
		d.Do(ctx, command("DEL", key))
		must(t, d.Do(ctx, driver.Cmd{Args: []string{"XGROUP", "CREATE", key, "g", "$", "MKSTREAM"}, Keys: driver.Key(2)}))
		must(t, d.Do(ctx, driver.Cmd{Args: []string{"XADD", key, "*", "f", "v"}, Keys: driver.Key(1)}))
		args := []string{"XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "BLOCK", "1000", "STREAMS", key, ">"}
		r := d.Do(ctx, driver.Cmd{Args: args, Keys: driver.Key(9), Mode: driver.Blocking})
		if m, err := r.Map(); err != nil || len(m) != 1 {
			t.Fatalf("XREADGROUP: %v, %v", r, err)
		}
	}
}

// migration moves the slot of a key to another node while the driver uses it.
func migration(t *testing.T, c *cluster, d *Driver) {
	ctx := background(t)
	key := fmt.Sprintf("migrant%d", time.Now().UnixNano())
	from := c.owner(key)
	to := c.nodes[0]
	if to == from {
		to = c.nodes[1]
	}
	must(t, d.Do(ctx, read("GET", key))) // the table of slots is loaded
	m := c.moveSlot(t, key, from, to)

	for want := int64(1); want <= 3; want++ { // the key is on neither, so that the old node answers ASK
		if n, err := d.Do(ctx, command("INCR", key)).Int64(); n != want {
			t.Fatalf("INCR by ASK: %d, %v; want %d", n, err, want)
		}
	}
	rs := d.DoMulti(ctx, []driver.Cmd{command("INCR", key), read("GET", "elsewhere"), command("INCR", key), read("GET", key)})
	for i, want := range map[int]string{0: "4", 2: "5", 3: "5"} {
		if got, err := rs[i].Text(); got != want {
			t.Errorf("list by ASK, reply %d: %q, %v; want %q", i, got, err, want)
		}
	}
	list := "{" + key + "}list"
	must(t, d.Do(ctx, command("RPUSH", list, "x")))
	pop := driver.Cmd{Args: []string{"BLPOP", list, "1"}, Keys: driver.Key(1), Mode: driver.Blocking}
	if got, err := d.Do(ctx, pop).Strings(); len(got) != 2 {
		t.Errorf("BLPOP by ASK: %v, %v", got, err)
	}

	m.finish()
	if n, err := d.Do(ctx, command("INCR", key)).Int64(); n != 6 {
		t.Errorf("INCR by MOVED: %d, %v; want 6", n, err)
	}
	if n, err := d.DoMulti(ctx, []driver.Cmd{command("INCR", key), command("SET", "elsewhere", "1")})[0].Int64(); n != 7 {
		t.Errorf("list by MOVED: %d, %v; want 7", n, err)
	}
	eventually(t, 30*time.Second, "Node knows the new owner", func() bool {
		must(t, d.Do(ctx, read("GET", key)))
		return d.Node(key) == to.addr
	})
}

func shardedMove(t *testing.T, c *cluster, d *Driver) {
	ctx, cancel := context.WithCancel(background(t))
	channel := fmt.Sprintf("channel%d", time.Now().UnixNano())
	from := c.owner(channel)
	to := c.nodes[0]
	if to == from {
		to = c.nodes[1]
	}
	events, done := make(chan string, 100), make(chan error, 1)
	go func() {
		done <- d.Subscribe(ctx, driver.Subscription{
			Channels: []string{channel}, Sharded: true,
			OnConfirmed: func() { events <- "confirmed" },
			OnLost:      func(error) { events <- "lost" },
			OnMessage:   func(_, payload string) { events <- payload },
		})
	}()
	want(t, events, "confirmed")
	from.do("SPUBLISH", channel, "one")
	want(t, events, "one")
	c.moveSlot(t, channel, from, to).finish()
	want(t, events, "lost")
	until(t, events, "confirmed") // attempts before the new owner is ready may fail
	to.do("SPUBLISH", channel, "two")
	want(t, events, "two")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Subscribe returned %v", err)
	}
	if err := d.Subscribe(background(t), driver.Subscription{Channels: []string{"a", "b"}, Sharded: true}); err == nil {
		t.Error("sharded channels of two slots are accepted")
	}
}

// A plain subscription has every node to choose from when its own is gone.
func TestSubscriptionLeavesADeadNode(t *testing.T) {
	c := startCluster(t)
	for _, n := range c.nodes {
		n.do("CONFIG", "SET", "cluster-require-full-coverage", "no")
	}
	channel := ""
	for i := 0; channel == ""; i++ {
		if name := "c" + strconv.Itoa(i); c.owner(name) == c.nodes[0] {
			channel = name
		}
	}
	d := open(t, c.url())
	ctx, cancel := context.WithCancel(background(t))
	events, done := make(chan string, 1000), make(chan error, 1)
	go func() {
		done <- d.Subscribe(ctx, driver.Subscription{
			Channels: []string{channel}, OnConfirmed: func() { events <- "confirmed" }, OnLost: func(error) { events <- "lost" },
			OnMessage: func(_, payload string) { events <- payload },
		})
	}()
	want(t, events, "confirmed")
	c.nodes[0].stop() // for good: nobody takes its place
	want(t, events, "lost")
	until(t, events, "confirmed")
	eventually(t, 30*time.Second, "publications arrive", func() bool {
		_, _ = c.nodes[1].try("PUBLISH", channel, "hello")
		select {
		case e := <-events:
			return e == "hello"
		default:
			return false
		}
	})
	cancel()
	<-done
}

func want(t testing.TB, events <-chan string, event string) {
	t.Helper()
	select {
	case e := <-events:
		if e != event {
			t.Fatalf("%q, want %q", e, event)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("nothing happens, want %q", event)
	}
}

// until skips what happens before an event.
func until(t testing.TB, events <-chan string, event string) {
	t.Helper()
	over := time.After(30 * time.Second)
	for {
		select {
		case e := <-events:
			if e == event {
				return
			}
		case <-over:
			t.Fatalf("no %q", event)
		}
	}
}

func trackAll(t *testing.T, c *cluster, d *Driver) {
	ctx, cancel := context.WithCancel(background(t))
	events, done := make(chan string, 100), make(chan error, 1)
	prefix := fmt.Sprintf("t%d:", time.Now().UnixNano())
	go func() {
		done <- d.Track(ctx, driver.Tracking{
			Prefixes: []string{prefix}, OnConfirmed: func() { events <- "confirmed" }, OnLost: func(error) { events <- "lost" },
			OnInvalidate: func(keys []string) {
				for _, k := range keys {
					events <- k
				}
			},
		})
	}()
	want(t, events, "confirmed")
	seen := map[string]bool{}
	change := func() {
		for i := range 12 {
			key := prefix + strconv.Itoa(i)
			must(t, d.Do(ctx, command("SET", key, "1")))
			want(t, events, key)
			seen[c.owner(key).addr] = true
		}
	}
	change()
	if len(seen) != 3 {
		t.Fatalf("keys lie on %d nodes", len(seen))
	}
	for _, n := range c.nodes {
		n.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		want(t, events, "lost")
		want(t, events, "confirmed")
	}
	change()
	cancel()
	<-done
}

func TestClusterFailover(t *testing.T) {
	c := startCluster(t)
	replica := c.replica(t, c.nodes[0])
	d := open(t, c.url())
	var key string
	for i := 0; key == ""; i++ {
		if k := "f" + strconv.Itoa(i); c.owner(k) == c.nodes[0] {
			key = k
		}
	}
	ctx, cancel := context.WithCancel(background(t))
	events, done := make(chan string, 1000), make(chan error, 1)
	go func() {
		done <- d.Track(ctx, driver.Tracking{
			Prefixes: []string{"f"}, OnConfirmed: func() { events <- "confirmed" }, OnLost: func(error) { events <- "lost" },
			OnInvalidate: func(keys []string) { events <- keys[0] },
		})
	}()
	want(t, events, "confirmed")
	must(t, d.Do(ctx, command("SET", key, "1")))
	want(t, events, key)
	eventually(t, 30*time.Second, "replica has the key", func() bool {
		return replica.says("keys=1", "INFO", "keyspace")
	})
	c.nodes[0].stop()
	want(t, events, "lost")
	eventually(t, 30*time.Second, "the driver finds the new primary", func() bool {
		try, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		return d.Do(try, command("SET", key, "2")).Err() == nil
	})
	until(t, events, "confirmed")
	must(t, d.Do(ctx, command("SET", key, "3")))
	want(t, events, key)
	if d.Node(key) != replica.addr {
		t.Errorf("Node is %q, want %q", d.Node(key), replica.addr)
	}
	cancel()
	<-done
}
