package redisxtest

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// at sends a command to one node and writes the reply in one line.
func (c *FakeCluster) at(t *testing.T, node int, args ...string) string {
	t.Helper()
	return dialNode(t, c, node).ask(t, args...)
}

func dialNode(t *testing.T, c *FakeCluster, node int) *talker {
	nc, err := c.Dial(c.Addrs()[node])
	require.NoError(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	return newTalker(nc)
}

func (c *talker) ask(t *testing.T, args ...string) string {
	t.Helper()
	c.send(t, args...)
	return c.frame(t)
}

// keyOn returns a key with a tag of its own that a node serves.
func (c *FakeCluster) keyOn(node int) string {
	for i := 0; ; i++ {
		if key := "{" + strconv.Itoa(i) + "}"; c.Node(key) == node {
			return key
		}
	}
}

func slotOf(key string) int { return int(driver.Slot(key)) }

// The bug that Cluster mode is for: related keys without a common hash tag. It shows as it would in production, in every
// form, with either driver.
func TestAMissingHashTagFailsOnTheFakeCluster(t *testing.T) {
	c := NewFakeCluster(t, 3)
	for _, o := range openers {
		t.Run(o.name, func(t *testing.T) {
			ctx := testContext(t)
			d, err := o.open(ctx, c.URL())
			require.NoError(t, err)
			defer d.Close()
			transfer := driver.NewScript("transfer", `redis.call('DECR', KEYS[1]) return redis.call('INCR', KEYS[2])`)
			require.ErrorContains(t, d.Do(ctx, transfer.Cmd([]string{"stock:1", "sold:1"}, nil)).Err(), "CROSSSLOT")
			require.NoError(t, d.Do(ctx, transfer.Cmd([]string{"stock:{1}", "sold:{1}"}, nil)).Err())
			require.ErrorContains(t, d.Do(ctx, driver.Cmd{Args: []string{"MGET", "stock:1", "sold:1"}, Keys: driver.Keys{First: 1, Count: 2, Step: 1}}).Err(), "CROSSSLOT")
			// The script that builds a name itself works by luck, on one node: here it does not.
			builds := driver.NewScript("builds", `return redis.call('INCR', KEYS[1] .. ':count')`)
			err = d.Do(ctx, builds.Cmd([]string{"{1}"}, nil)).Err()
			require.ErrorContains(t, err, "undeclared key '{1}:count'")
			plain := "plain"
			for c.Node(plain) == c.Node(plain+":count") {
				plain += "n"
			}
			err = d.Do(ctx, builds.Cmd([]string{plain}, nil)).Err()
			require.ErrorContains(t, err, "non local key")
			require.True(t, d.Do(ctx, driver.Cmd{Args: []string{"GET", "{1}:count"}, Keys: driver.Key(1)}).IsNil(), "a script that failed has written")
		})
	}
	// The same scripts run on a server of its own, as they do in production.
	ctx, f := testContext(t), NewFake(t)
	require.NoError(t, goredisClient(t, f).Eval(ctx, `return redis.call('INCR', KEYS[1] .. ':count')`, []string{"{1}"}).Err())
}

func TestClientsOfTheirOwnKindUseTheFakeCluster(t *testing.T) {
	ctx, c := testContext(t), NewFakeCluster(t, 3, Password("p@ss"))
	g := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), Password: "p@ss"})
	defer g.Close()
	r, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: c.Addrs(), Password: "p@ss"})
	require.NoError(t, err)
	defer r.Close()
	require.Equal(t, rueidis.ClientModeCluster, r.Mode())
	for i := range 100 {
		require.NoError(t, g.Set(ctx, strconv.Itoa(i), i, time.Minute).Err())
		n, err := r.Do(ctx, r.B().Get().Key(strconv.Itoa(i)).Build()).AsInt64()
		require.NoError(t, err)
		require.EqualValues(t, i, n)
	}
	total := 0
	for node := range 3 {
		n, err := strconv.Atoi(strings.TrimPrefix(talkerWith(t, c, node, "p@ss").ask(t, "DBSIZE"), ":"))
		require.NoError(t, err)
		require.Greater(t, n, 10, "node %d has its share", node)
		total += n
	}
	require.Equal(t, 100, total)
	require.NoError(t, c.Client().Do(ctx, driver.Cmd{Args: []string{"PING"}}).Err())
}

func talkerWith(t *testing.T, c *FakeCluster, node int, password string) *talker {
	k := dialNode(t, c, node)
	require.Equal(t, "+OK", k.ask(t, "AUTH", password))
	return k
}

func TestFakeNodesAnswerOnlyForTheirSlots(t *testing.T) {
	c := NewFakeCluster(t, 3)
	a, b := c.keyOn(0), c.keyOn(1)
	moved := fmt.Sprintf("-MOVED %d %s", slotOf(b), c.Addrs()[1])
	const cross = "-CROSSSLOT Keys in request don't hash to the same slot"
	for _, test := range []struct {
		want string
		args []string
	}{
		{"+OK", []string{"SET", a, "v"}},
		{moved, []string{"SET", b, "v"}},
		{moved, []string{"XREAD", "COUNT", "1", "STREAMS", b, "0"}},
		{moved, []string{"XREADGROUP", "GROUP", "streams", "streams", "STREAMS", b, ">"}},
		{moved, []string{"XINFO", "STREAM", b}},
		{moved, []string{"XGROUP", "CREATE", b, "g", "$", "MKSTREAM"}},
		{moved, []string{"OBJECT", "IDLETIME", b}},
		{moved, []string{"MEMORY", "USAGE", b}},
		{moved, []string{"BLPOP", b, "0"}},
		{moved, []string{"WATCH", b}},
		{moved, []string{"EVAL", "return 1", "1", b}},
		{moved, []string{"EVALSHA", strings.Repeat("f", 40), "1", b}},
		{moved, []string{"SSUBSCRIBE", b}},
		{moved, []string{"SPUBLISH", b, "m"}},
		{cross, []string{"MSET", a, "1", b, "2"}},
		{cross, []string{"DEL", a, b}},
		{cross, []string{"SINTERCARD", "2", a, b, "LIMIT", "1"}},
		{cross, []string{"LMPOP", "2", a, b, "LEFT"}},
		{cross, []string{"BLMPOP", "0", "2", a, b, "LEFT"}},
		{cross, []string{"ZUNIONSTORE", a, "1", b}},
		{cross, []string{"ZUNION", "2", a, b}},
		{cross, []string{"XREAD", "STREAMS", a, b, "0", "0"}},
		{cross, []string{"BITOP", "NOT", a, b}},
		{cross, []string{"COPY", a, b}},
		{cross, []string{"LMOVE", a, b, "LEFT", "LEFT"}},
		{cross, []string{"GEORADIUS", a, "0", "0", "1", "m", "STORE", b}},
		{cross, []string{"SSUBSCRIBE", a, b}},
		{cross, []string{"EVAL", "return 1", "2", a, b}},
		{":0", []string{"SINTERCARD", "2", a + "x", a + "y"}},
		{":1", []string{"EVAL", "return 1", "0"}},
		{"+OK", []string{"SELECT", "0"}},
		{"-ERR SELECT is not allowed in cluster mode", []string{"SELECT", "1"}},
		{"-ERR SWAPDB is not allowed in cluster mode", []string{"SWAPDB", "0", "1"}},
		{"-ERR MOVE is not allowed in cluster mode", []string{"MOVE", a, "1"}},
		{"-ERR DB index is out of range", []string{"COPY", a, a + "copy", "DB", "1"}},
		{":1", []string{"COPY", a, a + "copy"}},
		{"+OK", []string{"READONLY"}},
		{"+OK", []string{"READWRITE"}},
		{"+OK", []string{"ASKING"}},
		{":" + strconv.Itoa(slotOf("{x}y")), []string{"CLUSTER", "KEYSLOT", "{x}y"}},
		{":2", []string{"CLUSTER", "COUNTKEYSINSLOT", strconv.Itoa(slotOf(a))}},
		{":0", []string{"CLUSTER", "COUNTKEYSINSLOT", strconv.Itoa(slotOf(b))}},
		{"-ERR Invalid or out of range slot", []string{"CLUSTER", "COUNTKEYSINSLOT", "16384"}},
		{"-ERR unknown subcommand 'FORGET'. Try CLUSTER HELP.", []string{"CLUSTER", "FORGET", "x"}},
	} {
		require.Equal(t, test.want, c.at(t, 0, test.args...), test.args)
	}
}

func TestATransactionStaysInOneSlot(t *testing.T) {
	c := NewFakeCluster(t, 3)
	a, b := c.keyOn(0), c.keyOn(1)
	k := dialNode(t, c, 0)
	for _, step := range []struct{ want, line string }{
		{"+OK", "MULTI"},
		{"+QUEUED", "SET " + a + " 1"},
		{fmt.Sprintf("-MOVED %d %s", slotOf(b), c.Addrs()[1]), "SET " + b + " 1"},
		{"-EXECABORT Transaction discarded because of previous errors.", "EXEC"},
		{"+OK", "MULTI"},
		{"+QUEUED", "SET " + a + " 1"},
		{"+QUEUED", "SET " + sameNode(c, a) + " 1"},
		{"-" + crossSlot, "EXEC"},
		{"-ERR EXEC without MULTI", "EXEC"},
		{":0", "EXISTS " + a},
		{"+OK", "MULTI"},
		{"+QUEUED", "SET " + a + " 1"},
		{"*[ +OK ]", "EXEC"},
	} {
		require.Equal(t, step.want, k.ask(t, strings.Fields(step.line)...), step.line)
	}
	require.NoError(t, c.MoveSlot(slotOf(b), 0))
	require.Equal(t, "+OK", k.ask(t, "MULTI"))
	require.Equal(t, "+QUEUED", k.ask(t, "SET", b, "1"))
	require.NoError(t, c.MoveSlot(slotOf(b), 2))
	require.Equal(t, fmt.Sprintf("-MOVED %d %s", slotOf(b), c.Addrs()[2]), k.ask(t, "EXEC"))
	require.Equal(t, "$-1", c.at(t, 2, "GET", b))
}

// sameNode is a key of another slot on the node of a key.
func sameNode(c *FakeCluster, key string) string {
	for i := 0; ; i++ {
		if k := "other" + strconv.Itoa(i); c.Node(k) == c.Node(key) && slotOf(k) != slotOf(key) {
			return k
		}
	}
}

func TestEachFakeNodeSeesItsOwnKeys(t *testing.T) {
	ctx, c := testContext(t), NewFakeCluster(t, 2)
	a, b := c.keyOn(0), c.keyOn(1)
	client := c.Client()
	for _, key := range []string{a, b, a + "2"} {
		require.NoError(t, client.Do(ctx, driver.Cmd{Args: []string{"SET", key, "v", "EX", "60"}, Keys: driver.Key(1)}).Err())
	}
	require.Equal(t, fmt.Sprintf("*[ %q %q ]", a, a+"2"), c.at(t, 0, "KEYS", "*"))
	require.Equal(t, fmt.Sprintf("*[ %q ]", b), c.at(t, 1, "KEYS", "*"))
	require.Equal(t, fmt.Sprintf(`*[ "0" *[ %q ] ]`, b), c.at(t, 1, "SCAN", "0", "COUNT", "100"))
	require.Equal(t, strconv.Quote(b), c.at(t, 1, "RANDOMKEY"))
	require.Equal(t, ":2", c.at(t, 0, "DBSIZE"))
	require.Contains(t, c.at(t, 0, "INFO", "keyspace"), "db0:keys=2,expires=2")
	require.Equal(t, "+OK", c.at(t, 0, "FLUSHALL"))
	require.Equal(t, ":0", c.at(t, 0, "DBSIZE"))
	require.Equal(t, "$-1", c.at(t, 0, "RANDOMKEY"))
	require.Equal(t, strconv.Quote("v"), c.at(t, 1, "GET", b))
	c.Advance(time.Minute)
	require.Equal(t, ":0", c.at(t, 1, "DBSIZE"))
}

func TestFakeNodesKnowTheTopology(t *testing.T) {
	c := NewFakeCluster(t, 3)
	require.NoError(t, c.MoveSlot(0, 2))
	ids := map[string]bool{}
	for node := range 3 {
		id, err := strconv.Unquote(c.at(t, node, "CLUSTER", "MYID"))
		require.NoError(t, err)
		require.Len(t, id, 40)
		ids[id] = true
		nodes, err := strconv.Unquote(c.at(t, node, "CLUSTER", "NODES"))
		require.NoError(t, err)
		require.Contains(t, nodes, id+" "+c.Addrs()[node]+"@")
		require.Equal(t, 1, strings.Count(nodes, "myself,master"))
		require.Equal(t, 3, strings.Count(nodes, "\n"))
		require.Contains(t, nodes, " 1-5460\n")
		require.Contains(t, nodes, " 0 10922-16383\n")
		require.Contains(t, c.at(t, node, "CLUSTER", "INFO"), `cluster_state:ok\r\n`)
		require.Contains(t, c.at(t, node, "INFO"), `cluster_enabled:1`)
		_, port, _ := net.SplitHostPort(c.Addrs()[2])
		require.Contains(t, c.at(t, node, "CLUSTER", "SLOTS"), `*[ *[ :0 :0 *[ "127.0.0.1" :`+port+" ")
		require.Contains(t, c.at(t, node, "CLUSTER", "SHARDS"), `*[ "slots" *[ :0 :0 :10922 :16383 ]`)
	}
	require.Len(t, ids, 3)
}

func TestASlotOnTheMoveAsksAndTellsToTryAgain(t *testing.T) {
	c := NewFakeCluster(t, 2)
	key := c.keyOn(0)
	old, young := dialNode(t, c, 0), dialNode(t, c, 1)
	slot := slotOf(key)
	ask := fmt.Sprintf("-ASK %d %s", slot, c.Addrs()[1])
	moved := fmt.Sprintf("-MOVED %d %s", slot, c.Addrs()[0])
	const tryAgain = "-TRYAGAIN Multiple keys request during rehashing of slot"
	require.Equal(t, "+OK", old.ask(t, "MSET", key+"1", "1", key+"2", "2"))
	require.Error(t, c.MoveKey(key+"1"), "nothing moves yet")
	require.NoError(t, c.BeginMove(slot, 1))
	require.Error(t, c.BeginMove(slot, 0))
	require.Error(t, c.MoveKey(key+"missing"))

	require.Equal(t, `"1"`, old.ask(t, "GET", key+"1"), "what is here is served here")
	require.Equal(t, ask, old.ask(t, "GET", key+"3"))
	require.Equal(t, moved, young.ask(t, "GET", key+"3"), "without ASKING")
	require.Equal(t, "+OK", young.ask(t, "ASKING"))
	require.Equal(t, "+OK", young.ask(t, "SET", key+"3", "3"))
	require.Equal(t, moved, young.ask(t, "GET", key+"3"), "ASKING is for one command")
	require.Equal(t, ask, old.ask(t, "GET", key+"3"), "it is there now")
	require.Equal(t, tryAgain, old.ask(t, "MGET", key+"1", key+"3"))
	require.Equal(t, `*[ "1" "2" ]`, old.ask(t, "MGET", key+"1", key+"2"))
	require.Equal(t, "+OK", young.ask(t, "ASKING"))
	require.Equal(t, tryAgain, young.ask(t, "MGET", key+"3", key+"1"))
	require.Equal(t, "+OK", young.ask(t, "ASKING"))
	require.Contains(t, young.ask(t, "SET", key+"1", "lost"), "still", "no key is on two nodes")
	require.Equal(t, ":2", old.ask(t, "DBSIZE"))
	require.Equal(t, ":1", young.ask(t, "DBSIZE"))

	require.NoError(t, c.MoveKey(key+"1"))
	require.NoError(t, c.MoveKey(key+"1"))
	require.Equal(t, ask, old.ask(t, "GET", key+"1"))
	require.Equal(t, "+OK", young.ask(t, "ASKING"))
	require.Equal(t, "+OK", young.ask(t, "MULTI"))
	require.Equal(t, "+QUEUED", young.ask(t, "INCR", key+"1"))
	require.Equal(t, "+QUEUED", young.ask(t, "INCR", key+"4"))
	require.Equal(t, tryAgain, young.ask(t, "EXEC"), "one of two keys is not there")

	require.NoError(t, c.MoveSlot(slot, 1))
	require.Equal(t, 1, c.Node(key))
	require.Equal(t, `*[ "1" "2" "3" ]`, young.ask(t, "MGET", key+"1", key+"2", key+"3"))
	require.Equal(t, fmt.Sprintf("-MOVED %d %s", slot, c.Addrs()[1]), old.ask(t, "GET", key+"1"))
	for _, bad := range [][2]int{{-1, 0}, {slots, 0}, {0, 2}, {0, -1}} {
		require.Error(t, c.MoveSlot(bad[0], bad[1]))
		require.Error(t, c.BeginMove(bad[0], bad[1]))
	}
	require.Error(t, c.BeginMove(slot, 1), "it is there")
}

func TestDriversFollowASlotThatMoves(t *testing.T) {
	for _, o := range openers {
		t.Run(o.name, func(t *testing.T) {
			ctx, c := testContext(t), NewFakeCluster(t, 3)
			d, err := o.open(ctx, c.URL())
			require.NoError(t, err)
			defer d.Close()
			key := c.keyOn(0)
			incr := driver.Cmd{Args: []string{"INCR", key}, Keys: driver.Key(1)}
			script := driver.NewScript("incr", "return redis.call('INCR', KEYS[1])").Cmd([]string{key}, nil)
			want := int64(0)
			count := func(cmd driver.Cmd) {
				t.Helper()
				want++
				n, err := d.Do(ctx, cmd).Int64()
				require.NoError(t, err)
				require.Equal(t, want, n)
			}
			count(incr)
			require.NoError(t, c.BeginMove(slotOf(key), 1))
			count(script)
			require.NoError(t, c.MoveKey(key))
			count(incr)
			count(script)
			require.NoError(t, c.MoveSlot(slotOf(key), 1))
			count(incr)
			count(script)
			require.NoError(t, c.MoveSlot(slotOf(key), 2))
			count(script)
			count(incr)
		})
	}
}

func TestAMovedSlotTakesItsWaitersSubscribersAndTrackersAlong(t *testing.T) {
	c := NewFakeCluster(t, 2)
	key := c.keyOn(0)
	waits, listens, tracks, there := dialNode(t, c, 0), dialNode(t, c, 0), dialNode(t, c, 0), dialNode(t, c, 1)
	waits.send(t, "BLPOP", key+"list", "0")
	for _, k := range []*talker{listens, tracks, there} {
		require.Contains(t, k.ask(t, "HELLO", "3"), "cluster")
	}
	require.Equal(t, `>[ "ssubscribe" "`+key+`" :1 ]`, listens.ask(t, "SSUBSCRIBE", key))
	require.Equal(t, "+OK", tracks.ask(t, "SET", key, "v"))
	require.Equal(t, "+OK", tracks.ask(t, "CLIENT", "TRACKING", "ON"))
	require.Equal(t, `"v"`, tracks.ask(t, "GET", key))
	require.Equal(t, "+OK", there.ask(t, "CLIENT", "TRACKING", "ON", "BCAST"))
	require.Eventually(t, func() bool {
		c.f.mu.Lock()
		defer c.f.mu.Unlock()
		return len(c.f.waiters) == 1
	}, 5*time.Second, time.Millisecond)
	require.NoError(t, c.MoveSlot(slotOf(key), 1))
	require.Equal(t, fmt.Sprintf("-MOVED %d %s", slotOf(key), c.Addrs()[1]), waits.frame(t))
	require.Equal(t, `>[ "sunsubscribe" "`+key+`" :0 ]`, listens.frame(t))
	require.Equal(t, `>[ "invalidate" *[ "`+key+`" ] ]`, tracks.frame(t))
	require.Equal(t, `>[ "invalidate" *[ "`+key+`" ] ]`, there.frame(t))
}

func TestInvalidationsComeFromTheNodeOfTheKey(t *testing.T) {
	c := NewFakeCluster(t, 2)
	a, b := c.keyOn(0), c.keyOn(1)
	first, second := dialNode(t, c, 0), dialNode(t, c, 1)
	for _, k := range []*talker{first, second} {
		k.ask(t, "HELLO", "3")
		require.Equal(t, "+OK", k.ask(t, "CLIENT", "TRACKING", "ON", "BCAST"))
	}
	require.Equal(t, "+OK", c.at(t, 0, "SET", a, "v", "PX", "3600000"))
	require.Equal(t, "+OK", c.at(t, 1, "SET", b, "v"))
	require.Equal(t, `>[ "invalidate" *[ "`+a+`" ] ]`, first.frame(t))
	require.Equal(t, `>[ "invalidate" *[ "`+b+`" ] ]`, second.frame(t))
	c.Advance(time.Hour)
	require.Equal(t, `>[ "invalidate" *[ "`+a+`" ] ]`, first.frame(t))
	require.Equal(t, "+OK", c.at(t, 1, "FLUSHALL"))
	require.Equal(t, `>[ "invalidate" _ ]`, second.frame(t))
	require.Equal(t, "+PONG", first.ask(t, "PING"), "the other node has flushed nothing")
	require.Equal(t, "+PONG", second.ask(t, "PING"), "told once")
}

func TestPubSubReachesAllFakeNodesAndShardedPubSubOne(t *testing.T) {
	c := NewFakeCluster(t, 2)
	far := dialNode(t, c, 1)
	require.Equal(t, `*[ "subscribe" "ch" :1 ]`, far.ask(t, "SUBSCRIBE", "ch"))
	require.Equal(t, ":0", c.at(t, 0, "PUBLISH", "ch", "m"), "a node counts its own subscribers")
	require.Equal(t, `*[ "message" "ch" "m" ]`, far.frame(t))
	require.Equal(t, `*[ "ch" :0 ]`, c.at(t, 0, "PUBSUB", "NUMSUB", "ch"))
	require.Equal(t, `*[ "ch" :1 ]`, c.at(t, 1, "PUBSUB", "NUMSUB", "ch"))
	key := c.keyOn(1)
	require.Equal(t, `*[ "ssubscribe" "`+key+`" :1 ]`, far.ask(t, "SSUBSCRIBE", key))
	require.Equal(t, ":1", c.at(t, 1, "SPUBLISH", key, "m"))
	require.Equal(t, `*[ "smessage" "`+key+`" "m" ]`, far.frame(t))
	require.Equal(t, ":0", c.at(t, 0, "CLIENT", "KILL", "TYPE", "pubsub"), "clients of another node")
}

func TestFakeClusterRunsInsideSynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := StartFakeCluster(3, InMemory())
		require.NoError(t, err)
		ctx := context.Background()
		clients := []*redis.ClusterClient{redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(),
			Dialer: func(_ context.Context, _, addr string) (net.Conn, error) { return c.Dial(addr) }})}
		own := c.Client(core.WithCommandTimeout(time.Second))
		for _, g := range clients {
			for node := range 3 {
				key := c.keyOn(node)
				require.NoError(t, g.Set(ctx, key, "v", time.Hour).Err())
				require.Equal(t, "v", text(t, own.Do(ctx, driver.Cmd{Args: []string{"GET", key}, Keys: driver.Key(1)})))
				time.Sleep(time.Hour)
				require.ErrorIs(t, g.Get(ctx, key).Err(), redis.Nil)
				start := time.Now()
				require.ErrorIs(t, g.BLPop(ctx, time.Minute, key).Err(), redis.Nil)
				require.Equal(t, time.Minute, time.Since(start))
			}
			require.NoError(t, g.Close())
		}
		require.NoError(t, c.Restart())
		require.NoError(t, c.Close())
		_, err = c.Dial("127.0.0.1:9")
		require.ErrorContains(t, err, "127.0.0.1:9")
	})
}

func TestFakeClusterRefusesWhatCannotBe(t *testing.T) {
	for _, n := range []int{-1, 0, 101} {
		_, err := StartFakeCluster(n)
		require.ErrorContains(t, err, "1 to 100")
		require.True(t, record(t, func(tb testing.TB) { NewFakeCluster(tb, n) }).failed)
	}
	_, err := StartFakeCluster(3, TLS())
	require.ErrorContains(t, err, "TLS")
	r := record(t, func(tb testing.TB) { NewFakeCluster(tb, 1).FailNext(1, "ERR x") })
	require.True(t, r.failed, "a failure that was ordered and did not come")
	require.Equal(t, "", NewFakeCluster(t, 1).UserURL("nobody"))
}

func TestScanComesInPieces(t *testing.T) {
	ctx, f := testContext(t), NewFake(t)
	c := goredisClient(t, f)
	for i := range 200 {
		require.NoError(t, c.Set(ctx, "k"+strconv.Itoa(i), "v", 0).Err())
	}
	require.NoError(t, c.LPush(ctx, "list", "v").Err())
	seen, cursor, calls := map[string]bool{}, uint64(0), 0
	for {
		keys, next, err := c.ScanType(ctx, cursor, "k*", 20, "string").Result()
		require.NoError(t, err)
		require.LessOrEqual(t, len(keys), 20)
		for _, k := range keys {
			require.False(t, seen[k], "%s came twice", k)
			seen[k] = true
		}
		calls++
		require.NoError(t, c.Set(ctx, "new"+strconv.Itoa(calls), "v", 0).Err(), "keys come and go meanwhile")
		if cursor = next; cursor == 0 {
			break
		}
	}
	require.Len(t, seen, 200)
	require.Greater(t, calls, 9)
	for want, args := range map[string][]any{
		"ERR invalid cursor": {"SCAN", "x"}, "ERR syntax error": {"SCAN", "0", "COUNT", "0"},
		"ERR value is not an integer or out of range": {"SCAN", "0", "COUNT", "x"},
	} {
		require.EqualError(t, c.Do(ctx, args...).Err(), want)
	}
}
