package core

import (
	"context"
	"strings"
	"testing"

	"github.com/go-redisx/redisx/core/driver"
)

func keyspace(t testing.TB, prefix string) Keyspace {
	c := newTestClient(t, &fakeDriver{answer: echo}, WithKeyPrefix(prefix))
	ks, err := c.NewKeyspace("locks", "orders")
	if err != nil {
		t.Fatal(err)
	}
	return ks
}

func TestKeysHaveTheDocumentedForm(t *testing.T) {
	ks := keyspace(t, "shop:")
	long := strings.Repeat("x", 600)
	for _, c := range []struct{ got, want string }{
		{ks.Key("42"), "shop:locks:orders:{42}"},
		{ks.Part("42", "queue"), "shop:locks:orders:{42}:queue"},
		{ks.Key(""), "shop:locks:orders:{%}"},
		{ks.Key("%"), "shop:locks:orders:{%25}"},
		{ks.Key("a{b}c"), "shop:locks:orders:{a%7Bb%7Dc}"},
		{ks.Scoped("t1").Key("42"), "shop:locks:orders:{%s2:t1%i42}"},
		{ks.Scoped("a").Scoped("").Key("42"), "shop:locks:orders:{%s1:a0:%i42}"},
		{ks.Scoped("a").Key("2:bcd"), "shop:locks:orders:{%s1:a%i2:bcd}"},
		{ks.Scoped("a").Scoped("bc").Key("d"), "shop:locks:orders:{%s1:a2:bc%id}"},
		{ks.Prefix(), "shop:locks:orders:{"},
	} {
		if c.got != c.want {
			t.Errorf("%q; want %q", c.got, c.want)
		}
	}
	if k := ks.Key(long); len(k) > 150 || !strings.HasPrefix(k, "shop:locks:orders:{%h") {
		t.Errorf("an id of 600 bytes became %q", k)
	}
	if exact := strings.Repeat("x", MaxIDLength); ks.Key(exact) != "shop:locks:orders:{"+exact+"}" {
		t.Error("an id of 512 bytes was hashed")
	}
}

func FuzzKeysNeitherCollideNorSplitSlots(f *testing.F) {
	ks := keyspace(f, "p:")
	for _, s := range []string{"", "%", "a", "{", "}", "{}", "a}b{", "%s1:a", "%h", "%25", "1:ab", strings.Repeat("}", 400), "\x00\xff"} {
		for _, s2 := range []string{"", "a", "}", "%", "1:a"} {
			f.Add(s, s2, s2, s)
		}
	}
	f.Fuzz(func(t *testing.T, scope1, id1, scope2, id2 string) {
		type thing struct {
			scope string
			id    string
			is    bool // scoped
		}
		build := func(x thing) (key, part string) {
			k := ks
			if x.is {
				k = ks.Scoped(x.scope)
			}
			return k.Key(x.id), k.Part(x.id, "part")
		}
		all := []thing{{"", id1, false}, {"", id2, false}, {scope1, id1, true}, {scope2, id2, true}, {scope1, id2, true}}
		seen := map[string]thing{}
		for _, x := range all {
			key, part := build(x)
			if driver.Slot(key) != driver.Slot(part) {
				t.Errorf("%q and %q lie in different slots", key, part)
			}
			if i := strings.IndexByte(key, '{'); strings.IndexByte(key[i:], '}') < 2 || strings.Count(key, "{") != 1 || strings.Count(key, "}") != 1 {
				t.Errorf("%q has no single hash tag", key)
			}
			if other, ok := seen[key]; ok && other != x {
				t.Errorf("%+v and %+v share the key %q", other, x, key)
			}
			seen[key] = x
		}
	})
}

func TestNamesOfKeyspacesAreChecked(t *testing.T) {
	c := newTestClient(t, &fakeDriver{answer: echo})
	for _, name := range []string{"", "a{b", "a}b", "a b", "ä", strings.Repeat("x", 129)} {
		if _, err := c.NewKeyspace("locks", name); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("name %q: error %v; want one that says what is allowed", name, err)
		}
	}
	if _, err := New(&fakeDriver{}, WithKeyPrefix("a{b}:")); err == nil {
		t.Error("a prefix with braces is taken")
	}
}

func TestBuildingAKeyIsOneAllocation(t *testing.T) {
	ks := keyspace(t, "shop:")
	var sink string
	if n := testing.AllocsPerRun(100, func() { sink = ks.Key("some-order-id-that-is-not-short") }); n > 1 {
		t.Errorf("%v allocations", n)
	}
	_ = sink
}

// The vectors are those of the Redis Cluster specification and of CLUSTER KEYSLOT.
func TestSlotsAreThoseOfRedis(t *testing.T) {
	for key, want := range map[string]uint16{
		"123456789": 12739, "foo": 12182, "bar": 5061, "{user1000}.following": 3443, "user1000": 3443,
		"foo{}{bar}": 8363, "foo{{bar}}zap": 4015, "foo{bar}{zap}": 5061, "": 0,
	} {
		if got := driver.Slot(key); got != want {
			t.Errorf("slot of %q is %d; want %d", key, got, want)
		}
	}
}

func TestScriptsRunByTheirHash(t *testing.T) {
	s := NewScript("locks.release", "return redis.call('DEL', KEYS[1])")
	d := &fakeDriver{answer: func(_ context.Context, cmd driver.Cmd) driver.Reply {
		if cmd.Args[0] != "EVALSHA" || cmd.Args[1] != s.SHA() || cmd.Args[2] != "1" || cmd.Keys != driver.KeyRange(3, 1) || cmd.Mode != driver.Write {
			t.Errorf("sent %+v", cmd)
		}
		return driver.ErrReply(driver.NewServerError("OOM command not allowed"))
	}}
	c := newTestClient(t, d)
	err := c.Run(context.Background(), s, []string{"k"}, []string{"token"}).Err()
	if err == nil || err.Error() != "redisx: locks.release: OOM command not allowed" || Classify(err) != ClassOOM {
		t.Errorf("error %v", err)
	}
	if got := s.Cmd([]string{"k"}, []string{"v"}).WithSource().Args; got[0] != "EVAL" || got[1] != s.Source() {
		t.Errorf("with source: %q", got)
	}
	ro := ReadOnlyScript("x", "return 1").Cmd(nil, nil)
	if ro.Mode != driver.ReadOnly || ro.Keys != (driver.Keys{}) {
		t.Errorf("a read-only script without keys: %+v", ro)
	}
}
