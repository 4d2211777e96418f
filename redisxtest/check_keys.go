package redisxtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

const (
	// scanTimeout bounds a look at all keys.
	scanTimeout = 30 * time.Second
	// scanStep is how many keys a step of SCAN looks at.
	scanStep = 500
	// orphanPatience is how long NoOrphanKeys waits for what is on its way out.
	orphanPatience = 2 * time.Second
)

// AllKeysHaveTTL fails the test if a key lives for ever. It looks at the keys that begin with one of prefixes, without any at
// those of the client's key prefix, and if that is empty at every key of the database, so give a shared server's client a
// prefix. In Cluster every primary is scanned. Keys that go away meanwhile are in order. The failure lists up to 30 keys.
//
// It reads with SCAN and PTTL through the driver of c, which no [Observe] sees, and works with any driver and any server.
// Keys written while it scans may be missed. If slots move meanwhile it fails, and so it does if the server cannot be
// asked.
func AllKeysHaveTTL(t testing.TB, c *core.Client, prefixes ...string) {
	t.Helper()
	checkTTLs(t, c, prefixes, "live for ever", func(_ time.Duration, forever bool) bool { return !forever })
}

// TTLWithin is [AllKeysHaveTTL] with bounds: the time that each key has left must lie between low and high, both
// included. A key that lives for ever lies in no bounds. Allow for the time that has passed since the key was written.
func TTLWithin(t testing.TB, c *core.Client, low, high time.Duration, prefixes ...string) {
	t.Helper()
	if low < 0 || high < low {
		t.Fatalf("redisxtest: TTLWithin %s to %s; want 0 <= low <= high", low, high)
	}
	fault := fmt.Sprintf("do not expire within %s to %s", low, high)
	checkTTLs(t, c, prefixes, fault, func(ttl time.Duration, forever bool) bool { return !forever && low <= ttl && ttl <= high })
}

func checkTTLs(t testing.TB, c *core.Client, prefixes []string, fault string, ok func(ttl time.Duration, forever bool) bool) {
	t.Helper()
	k := newKeyScan(t, c, prefixes)
	ctx, cancel := context.WithDeadline(context.Background(), patience(t, time.Now(), scanTimeout))
	defer cancel()
	var bad []string
	err := k.each(ctx, func(keys []string) error {
		ttls, err := k.ttls(ctx, keys)
		if err != nil {
			return err
		}
		for i, ms := range ttls {
			switch {
			case ms == -2: // gone meanwhile
			case ms == -1 && !ok(0, true):
				bad = append(bad, fmt.Sprintf("%q  no TTL", keys[i]))
			case ms >= 0 && !ok(time.Duration(ms)*time.Millisecond, false):
				bad = append(bad, fmt.Sprintf("%q  %s", keys[i], time.Duration(ms)*time.Millisecond))
			}
		}
		return nil
	})
	switch {
	case err != nil:
		t.Errorf("redisxtest: cannot look at the keys under %q: %v", k.prefixes, err)
	case len(bad) > 0:
		t.Errorf("redisxtest: %d keys under %q %s:%s", len(bad), k.prefixes, fault, shortList(bad))
	}
}

// NoOrphanKeys remembers the keys there are and fails the test if it leaves others behind when it ends, with a TTL or
// without. Prefixes are as for [AllKeysHaveTTL]. The check is a Cleanup of the test: it runs after everything that was
// deferred or registered with Cleanup after it, and before the Cleanups registered earlier; call it right after making c
// and before making what uses c, and close c in a Cleanup registered before, not with defer. Keys have 2 s to go away. A
// test that has failed already is not checked.
func NoOrphanKeys(t testing.TB, c *core.Client, prefixes ...string) {
	t.Helper()
	k := newKeyScan(t, c, prefixes)
	ctx, cancel := context.WithDeadline(context.Background(), patience(t, time.Now(), scanTimeout))
	defer cancel()
	before := map[string]bool{}
	if err := k.each(ctx, func(keys []string) error {
		for _, key := range keys {
			before[key] = true
		}
		return nil
	}); err != nil {
		t.Fatalf("redisxtest: cannot look at the keys under %q: %v", k.prefixes, err)
	}
	t.Cleanup(func() {
		t.Helper()
		if t.Failed() || t.Skipped() {
			return
		}
		start := time.Now()
		ctx, cancel := context.WithDeadline(context.Background(), patience(t, start, scanTimeout))
		defer cancel()
		var left []string
		var looked error
		_, _ = poll(ctx, func(ctx context.Context) error { // what it has to say is in left and looked
			left = nil
			looked = k.each(ctx, func(keys []string) error {
				for _, key := range keys {
					if !before[key] {
						left = append(left, strconv.Quote(key))
					}
				}
				return nil
			})
			if looked == nil && len(left) == 0 || errors.Is(looked, driver.ErrClosed) || time.Since(start) > orphanPatience {
				return nil
			}
			return errors.New("not yet")
		})
		switch {
		case errors.Is(looked, driver.ErrClosed):
			t.Error("redisxtest: NoOrphanKeys: the client was closed before the test ended; close it in a Cleanup registered " +
				"before NoOrphanKeys is called, not with defer")
		case looked != nil:
			t.Errorf("redisxtest: cannot look at the keys under %q: %v", k.prefixes, looked)
		case len(left) > 0:
			t.Errorf("redisxtest: the test left %d keys under %q behind:%s", len(left), k.prefixes, shortList(left))
		}
	})
}

// shortList puts a line for each into a failure, the first of them if there are many.
func shortList(lines []string) string {
	slices.Sort(lines)
	var b strings.Builder
	for i, l := range lines {
		if i == shownCommands {
			fmt.Fprintf(&b, "\n  … and %d more", len(lines)-i)
			break
		}
		b.WriteString("\n  " + l)
	}
	return b.String()
}

// keyScan looks at the keys under some prefixes.
type keyScan struct {
	d        driver.Driver
	prefixes []string
}

func newKeyScan(t testing.TB, c *core.Client, prefixes []string) *keyScan {
	t.Helper()
	if c == nil {
		t.Fatal("redisxtest: a check of keys without a client")
	}
	if len(prefixes) == 0 {
		prefixes = []string{c.KeyPrefix()}
	}
	d := c.Driver()
	if r, ok := d.(recorded); ok {
		d = r.observed().Driver // what a check asks is not what the application sends
	}
	return &keyScan{d: d, prefixes: prefixes}
}

// each calls f with the keys, each key once, some at a time.
func (k *keyScan) each(ctx context.Context, f func(keys []string) error) error {
	caps, err := k.d.Caps(ctx)
	if err != nil {
		return err
	}
	if caps.Topology != driver.Cluster {
		return k.eachOn(ctx, "", map[string]bool{}, f)
	}
	before, err := k.primaries(ctx)
	if err != nil {
		return err
	}
	near, err := nearKeys(before)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, key := range near {
		if err := k.eachOn(ctx, key, seen, f); err != nil {
			return err
		}
	}
	after, err := k.primaries(ctx)
	if err == nil && after != before {
		err = errors.New("slots of the Cluster have moved meanwhile: keys may have been missed")
	}
	return err
}

// eachOn is each for the primary that serves the key near.
func (k *keyScan) eachOn(ctx context.Context, near string, seen map[string]bool, f func(keys []string) error) error {
	for _, prefix := range k.prefixes {
		for cursor := "0"; ; {
			cmd := driver.Cmd{
				Args: []string{"SCAN", cursor, "MATCH", globEscape(prefix) + "*", "COUNT", strconv.Itoa(scanStep)},
				Near: near, Mode: driver.ReadOnly,
			}
			parts, err := k.d.Do(ctx, cmd).List()
			if err != nil {
				return err
			}
			if len(parts) != 2 {
				return fmt.Errorf("SCAN: a reply of %d elements", len(parts))
			}
			next, err1 := parts[0].Text()
			found, err2 := parts[1].Strings()
			if err := errors.Join(err1, err2); err != nil {
				return fmt.Errorf("SCAN: %w", err)
			}
			var fresh []string
			for _, key := range found {
				if !seen[key] && strings.HasPrefix(key, prefix) {
					seen[key] = true
					fresh = append(fresh, key)
				}
			}
			if len(fresh) > 0 {
				if err := f(fresh); err != nil {
					return err
				}
			}
			if cursor = next; cursor == "0" {
				break
			}
		}
	}
	return nil
}

// globEscape makes MATCH take a prefix by its letters.
func globEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, "]", `\]`).Replace(s)
}

// ttls returns what PTTL says of each key.
func (k *keyScan) ttls(ctx context.Context, keys []string) ([]int64, error) {
	p := driver.NewPipeline(len(keys))
	for _, key := range keys {
		p.Read(driver.Key(1), "PTTL", key)
	}
	out := make([]int64, len(keys))
	for i, r := range k.d.DoMulti(ctx, p.Cmds()) {
		ms, err := r.Int64()
		if err != nil {
			return nil, fmt.Errorf("PTTL: %w", err)
		}
		out[i] = ms
	}
	return out, nil
}

// primaries returns who serves each slot, "" for nobody.
func (k *keyScan) primaries(ctx context.Context) (owners [driver.Slots]string, err error) {
	ranges, err := k.d.Do(ctx, driver.Cmd{Args: []string{"CLUSTER", "SLOTS"}, Mode: driver.ReadOnly}).List()
	if err != nil {
		return owners, err
	}
	for _, r := range ranges {
		parts, err := r.List()
		if err != nil || len(parts) < 3 {
			return owners, errors.New("CLUSTER SLOTS: not a range of slots")
		}
		low, err1 := parts[0].Int64()
		high, err2 := parts[1].Int64()
		node, err3 := parts[2].List()
		if err1 != nil || err2 != nil || err3 != nil || low < 0 || high >= driver.Slots || len(node) < 3 {
			return owners, errors.New("CLUSTER SLOTS: not a range of slots")
		}
		id, err := node[2].Text()
		if err != nil {
			return owners, fmt.Errorf("CLUSTER SLOTS: %w", err)
		}
		for s := low; s <= high; s++ {
			owners[s] = id
		}
	}
	return owners, nil
}

// nearKeys returns, for each primary, a key that it serves.
func nearKeys(owners [driver.Slots]string) ([]string, error) {
	todo := map[string]bool{}
	for slot, o := range owners {
		if o == "" {
			return nil, fmt.Errorf("nobody serves slot %d of the Cluster", slot)
		}
		todo[o] = true
	}
	var near []string
	for i := 0; len(todo) > 0 && i < 2_000_000; i++ {
		key := strconv.Itoa(i)
		if o := owners[driver.Slot(key)]; todo[o] {
			delete(todo, o)
			near = append(near, key)
		}
	}
	if len(todo) > 0 {
		return nil, errors.New("no key was found for a primary of the Cluster")
	}
	return near, nil
}
