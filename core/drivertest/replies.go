package drivertest

import (
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/go-redisx/redisx/core/driver"
)

var replyCases = []testCase{
	{name: "a null reply is not an error", run: nullReply},
	{name: "a null is a null in a pipeline and in a list", run: nullInside},
	{name: "an empty string is not null", run: emptyString},
	{name: "an empty list is not null", run: emptyList},
	{name: "an error reply is a ServerError with its code and text", run: errorReply},
	{name: "replies inside a list keep their own errors", run: errorInside},
	{name: "keys arguments and replies are binary safe", run: binarySafe},
	{name: "integers are exact over 64 bits", run: exactIntegers},
	{name: "a status is a string", run: statusReply},
	{name: "doubles are numbers in the server's spelling", run: doubles},
	{name: "maps and pairs read the same in either protocol", run: maps},
	{name: "lists nest", run: nestedLists},
	{name: "a value of 1 MB comes whole", run: largeValue},
	{name: "a list of 10000 comes whole and in order", run: longList},
	{name: "replies stay valid for good", run: repliesStay},
}

// wantNull checks all a null promises.
func wantNull(t tester, what string, r driver.Reply) {
	t.Helper()
	if !r.IsNil() || r.Err() != nil || r.Kind() != driver.KindNil {
		t.Errorf("%s: got %s of kind %s with error %v, want a null without error", what, short(r), r.Kind(), r.Err())
		return
	}
	if _, err := r.Text(); !errors.Is(err, driver.ErrNil) {
		t.Errorf("%s: Text of a null returns %v, want ErrNil", what, err)
	}
}

func nullReply(t tester, e *env) {
	d, ctx, key := e.driver(t), e.ctx(t), e.key("k")
	wantNull(t, "GET of a missing key", d.Do(ctx, readOnly(cmd("GET", key))))
	wantNull(t, "GET as a Write", d.Do(ctx, cmd("GET", key)))
	must(t, d.Do(ctx, cmd("SET", key, "1")))
	wantNull(t, "SET NX of an existing key", d.Do(ctx, cmd("SET", key, "2", "NX")))
	null := driver.NewScript("null", "return false -- "+e.tag)
	wantNull(t, "a script that returns false", d.Do(ctx, null.Cmd([]string{key}, nil)))
	wantNull(t, "BLPOP that times out", d.Do(ctx, blocking(cmd("BLPOP", e.key("empty"), "0.05"))))
}

func nullInside(t tester, e *env) {
	d, ctx := e.driver(t), e.ctx(t)
	must(t, d.Do(ctx, cmd("SET", e.key("k"), "v")))
	rs := d.DoMulti(ctx, []driver.Cmd{cmd("GET", e.key("missing")), cmd("GET", e.key("k")), cmd("GET", e.key("missing"))})
	wantNull(t, "first of the pipeline", rs[0])
	wantText(t, "second of the pipeline", rs[1], "v")
	wantNull(t, "third of the pipeline", rs[2])
	list, err := d.Do(ctx, driver.Cmd{Args: []string{"MGET", e.key("k"), e.key("missing")}, Keys: driver.KeyRange(1, 2)}).List()
	if err != nil || len(list) != 2 {
		t.Fatalf("MGET: %v, %v", list, err)
	}
	wantText(t, "first of MGET", list[0], "v")
	wantNull(t, "second of MGET", list[1])
}

func emptyString(t tester, e *env) {
	d, ctx := e.driver(t), e.ctx(t)
	must(t, d.Do(ctx, cmd("SET", e.key("k"), "")))
	r := d.Do(ctx, cmd("GET", e.key("k")))
	if r.IsNil() || r.Kind() != driver.KindString {
		t.Errorf("got %s of kind %s, want an empty string", short(r), r.Kind())
	}
	wantText(t, "GET", r, "")
}

func emptyList(t tester, e *env) {
	d, ctx := e.driver(t), e.ctx(t)
	r := d.Do(ctx, cmd("LRANGE", e.key("missing"), "0", "-1"))
	if list, err := r.List(); r.IsNil() || err != nil || len(list) != 0 {
		t.Errorf("LRANGE of a missing key: got %s of kind %s, want an empty list", short(r), r.Kind())
	}
	if m, err := d.Do(ctx, cmd("HGETALL", e.key("missing"))).Map(); err != nil || len(m) != 0 {
		t.Errorf("HGETALL of a missing key: got %v, %v, want an empty map", m, err)
	}
}

func errorReply(t tester, e *env) {
	d, ctx, key := e.driver(t), e.ctx(t), e.key("k")
	must(t, d.Do(ctx, cmd("SET", key, "text")))
	custom := "return redis.error_reply('MYCODE the rest of it')"
	for _, c := range []struct {
		cmd  driver.Cmd
		code string
	}{
		{cmd("LPUSH", key, "x"), "WRONGTYPE"},
		{cmd("INCR", key), "ERR"},
		{driver.Cmd{Args: []string{"NOSUCHCOMMAND", key}, Keys: driver.Key(1)}, "ERR"},
		{cmd("SET", key, "v", "EX", "never"), "ERR"},
		{driver.Cmd{Args: []string{"EVAL", custom, "1", key}, Keys: driver.Key(3)}, "MYCODE"},
	} {
		want := e.server.do(t, key, c.cmd.Args...).Err()
		for how, got := range map[string]error{
			"Do":      d.Do(ctx, c.cmd).Err(),
			"DoMulti": d.DoMulti(ctx, []driver.Cmd{c.cmd})[0].Err(),
		} {
			wantCode(t, how+" "+c.cmd.Name(), got, c.code)
			if got != nil && want != nil && got.Error() != want.Error() {
				t.Errorf("%s %s: error text %q, but the server sent %q", how, c.cmd.Name(), got, want)
			}
			if errors.Is(got, driver.ErrUnknownOutcome) || errors.Is(got, driver.ErrNotSent) {
				t.Errorf("%s %s: an answer of the server is marked as a failure to get one: %v", how, c.cmd.Name(), got)
			}
		}
	}
}

func errorInside(t tester, e *env) {
	d, ctx, key := e.driver(t), e.ctx(t), e.key("k")
	src := "return {1, {err='MYCODE inside'}, {'a', {err='DEEPER one'}}, 'last'}"
	list, err := d.Do(ctx, driver.Cmd{Args: []string{"EVAL", src, "1", key}, Keys: driver.Key(3)}).List()
	if err != nil || len(list) != 4 {
		t.Fatalf("got %v, %v, want a list of 4", list, err)
	}
	wantInt(t, "element 0", list[0], 1)
	wantCode(t, "element 1", list[1].Err(), "MYCODE")
	inner, err := list[2].List()
	if err != nil || len(inner) != 2 {
		t.Fatalf("element 2: got %v, %v, want a list of 2", inner, err)
	}
	wantText(t, "element 2.0", inner[0], "a")
	wantCode(t, "element 2.1", inner[1].Err(), "DEEPER")
	wantText(t, "element 3", list[3], "last")
}

func everyByte() string {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return string(b) + "\r\n$-1\r\n\xff\xfe\x00\xc3\x28"
}

func binarySafe(t tester, e *env) {
	d, ctx := e.driver(t), e.ctx(t)
	data := everyByte()
	key := e.key(data)
	must(t, d.Do(ctx, cmd("SET", key, data)))
	wantText(t, "GET", d.Do(ctx, cmd("GET", key)), data)
	wantText(t, "the value on the server", e.server.do(t, key, "GET", key), data)
	hash := e.key("h")
	must(t, d.Do(ctx, cmd("HSET", hash, data, data)))
	m, err := d.Do(ctx, cmd("HGETALL", hash)).Map()
	if err != nil || len(m) != 1 {
		t.Fatalf("HGETALL: %d fields, %v", len(m), err)
	}
	wantText(t, "the field", m[data], data)
	echo := driver.NewScript("echo", "return {KEYS[1], ARGV[1]} -- "+e.tag)
	list, err := d.Do(ctx, echo.Cmd([]string{key}, []string{data})).Strings()
	if err != nil || len(list) != 2 || list[0] != key || list[1] != data {
		t.Errorf("a script gets key and argument as %.200q, %v", list, err)
	}
}

func exactIntegers(t tester, e *env) {
	d, ctx := e.driver(t), e.ctx(t)
	for _, n := range []int64{math.MaxInt64, math.MinInt64, math.MaxInt64 - 1, 1<<53 + 1, -(1<<53 + 1), 0, -1} {
		text := strconv.FormatInt(n, 10)
		key := e.key(text)
		must(t, d.Do(ctx, cmd("SET", key, text)))
		r := d.Do(ctx, cmd("INCRBY", key, "0"))
		wantInt(t, "INCRBY 0", r, n)
		if r.Kind() != driver.KindInt {
			t.Errorf("INCRBY: kind %s, want integer", r.Kind())
		}
		wantInt(t, "GET", d.Do(ctx, cmd("GET", key)), n)
	}
}

func statusReply(t tester, e *env) {
	d, ctx := e.driver(t), e.ctx(t)
	r := d.Do(ctx, cmd("SET", e.key("k"), "v"))
	wantText(t, "SET", r, "OK")
	if ok, err := r.Bool(); !ok || err != nil {
		t.Errorf("Bool of OK: %v, %v", ok, err)
	}
}

func doubles(t tester, e *env) {
	d, ctx, key := e.driver(t), e.ctx(t), e.key("z")
	for member, score := range map[string]float64{"a": 3.25, "b": -0.001, "c": math.Inf(1), "d": math.Inf(-1), "e": 17, "f": 1e300} {
		must(t, d.Do(ctx, cmd("ZADD", key, strconv.FormatFloat(score, 'g', -1, 64), member)))
		r := d.Do(ctx, cmd("ZSCORE", key, member))
		if f, err := r.Float64(); err != nil || f != score {
			t.Errorf("ZSCORE: got %s (%v), want %v", short(r), err, score)
		}
		if r.Kind() != driver.KindString {
			t.Errorf("ZSCORE: kind %s, want string: a double keeps the server's spelling", r.Kind())
		}
		if raw, err := e.server.do(t, key, "ZSCORE", key, member).Text(); err == nil {
			wantText(t, "ZSCORE as RESP2 spells it", r, raw)
		}
	}
	n := 0
	for member, score := range d.Do(ctx, cmd("ZRANGE", key, "0", "-1", "WITHSCORES")).Pairs() {
		if _, err := member.Text(); err != nil {
			t.Errorf("ZRANGE WITHSCORES: member %v", err)
		}
		if _, err := score.Float64(); err != nil {
			t.Errorf("ZRANGE WITHSCORES: score %v", err)
		}
		n++
	}
	if n != 6 {
		t.Errorf("ZRANGE WITHSCORES: %d pairs, want 6", n)
	}
}

func maps(t tester, e *env) {
	for _, protocol := range []string{"2", "3"} {
		if e.wrapped && protocol != strconv.Itoa(e.ep.Protocol) {
			continue // a wrapped client is what it is
		}
		d, ctx := e.driver(t, "protocol", protocol), e.ctx(t)
		hash, stream := e.key("h"+protocol), e.key("s"+protocol)
		must(t, d.Do(ctx, cmd("HSET", hash, "one", "1", "two", "2")))
		r := d.Do(ctx, cmd("HGETALL", hash))
		if list, err := r.List(); err != nil || len(list) != 4 {
			t.Errorf("protocol %s: HGETALL as a list: %s (%v), want 4 elements", protocol, short(r), err)
		}
		m, err := r.Map()
		if err != nil || len(m) != 2 {
			t.Fatalf("protocol %s: HGETALL: %v, %v", protocol, m, err)
		}
		wantText(t, "field one", m["one"], "1")
		wantText(t, "field two", m["two"], "2")

		must(t, d.Do(ctx, cmd("XADD", stream, "1-1", "f", "v")))
		r = must(t, d.Do(ctx, driver.Cmd{Args: []string{"XREAD", "STREAMS", stream, "0"}, Keys: driver.Key(2)}))
		n := 0
		for name, entries := range r.Pairs() {
			wantText(t, "protocol "+protocol+": XREAD's stream", name, stream)
			if list, err := entries.List(); err != nil || len(list) != 1 {
				t.Errorf("protocol %s: XREAD's entries: %s, %v", protocol, short(entries), err)
			}
			n++
		}
		if n != 1 {
			t.Errorf("protocol %s: XREAD of one stream: %d pairs", protocol, n)
		}
	}
}

func nestedLists(t tester, e *env) {
	d, ctx := e.driver(t), e.ctx(t)
	r := d.Do(ctx, driver.Cmd{Args: []string{"EVAL", "return {1,{2,{3,{}},'x'},{}}", "1", e.key("k")}, Keys: driver.Key(3)})
	if got := r.String(); got != `[1 [2 [3 []] "x"] []]` {
		t.Errorf("got %s", got)
	}
}

func largeValue(t tester, e *env) {
	d, ctx := e.driver(t), e.ctx(t)
	v := strings.Repeat(everyByte(), 1<<20/len(everyByte())+1)
	must(t, d.Do(ctx, cmd("SET", e.key("k"), v)))
	if got, err := d.Do(ctx, cmd("GET", e.key("k"))).Text(); err != nil || got != v {
		t.Errorf("got %d bytes (%v), want the %d that were set", len(got), err, len(v))
	}
	rs := d.DoMulti(ctx, []driver.Cmd{cmd("GET", e.key("k")), cmd("STRLEN", e.key("k"))})
	if got, err := rs[0].Bytes(); err != nil || string(got) != v {
		t.Errorf("in a pipeline: got %d bytes (%v), want the %d that were set", len(got), err, len(v))
	}
	wantInt(t, "STRLEN", rs[1], int64(len(v)))
}

func longList(t tester, e *env) {
	d, ctx := e.driver(t), e.ctx(t)
	args := []string{"RPUSH", e.key("l")}
	for i := range 10_000 {
		args = append(args, strconv.Itoa(i))
	}
	wantInt(t, "RPUSH", d.Do(ctx, cmd(args...)), 10_000)
	list, err := d.Do(ctx, cmd("LRANGE", e.key("l"), "0", "-1")).Strings()
	if err != nil || len(list) != 10_000 {
		t.Fatalf("LRANGE: %d elements, %v", len(list), err)
	}
	for i, s := range list {
		if s != strconv.Itoa(i) {
			t.Fatalf("element %d is %q", i, s)
		}
	}
}

func repliesStay(t tester, e *env) {
	d, ctx := e.driver(t), e.ctx(t)
	must(t, d.Do(ctx, cmd("SET", e.key("k"), "the first value")))
	first := d.Do(ctx, cmd("GET", e.key("k")))
	multi := d.DoMulti(ctx, []driver.Cmd{cmd("GET", e.key("k")), cmd("EXISTS", e.key("k"))})
	must(t, d.Do(ctx, cmd("SET", e.key("k"), "XXXXXXXXXXXXXXX")))
	for range 50 {
		must(t, d.Do(ctx, cmd("GET", e.key("k"))))
		d.DoMulti(ctx, []driver.Cmd{cmd("GET", e.key("k")), cmd("GET", e.key("k"))})
	}
	wantText(t, "a reply read after others came", first, "the first value")
	wantText(t, "a reply of a pipeline read after others came", multi[0], "the first value")
	b, _ := first.Bytes()
	clear(b)
	wantText(t, "a reply after its Bytes were overwritten", first, "the first value")
}
