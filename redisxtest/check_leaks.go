package redisxtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// leakPatience is how long NoLeaks waits for what is about to end.
const leakPatience = 10 * time.Second

// NoLeaks fails the test if it leaves something running or open behind:
//
//   - a goroutine,
//   - a connection of this process, to Redis or to anything else (on Linux; elsewhere the goroutines have to do),
//   - a dedicated connection that was not closed, or a subscription or tracking whose ctx had not ended, of a driver from
//     [Record], even if closing the driver has cleared it away.
//
// Call it first: it is a Cleanup of the test, which runs after everything that was deferred or registered with Cleanup
// later. What is there when it is called does not count; but a client made before that goes on to be used opens
// connections and starts goroutines, which do. It looks until all is well, and gives up after 10 s: a Cluster client of
// rueidis has goroutines that end some seconds after it was closed. A test that has failed already is not checked.
//
// The process is one, so tests that run in parallel would see each other: it is not for those. In a bubble of
// testing/synctest, which looks for goroutines itself, it ends the test.
func NoLeaks(t testing.TB) {
	t.Helper()
	if inBubble() {
		t.Fatal("redisxtest: NoLeaks in a synctest bubble; synctest.Test itself fails for a goroutine that is left")
	}
	before, held, sockets := goleak.IgnoreCurrent(), holdings.list(), openSockets()
	t.Cleanup(func() {
		t.Helper()
		if t.Failed() || t.Skipped() {
			return
		}
		ctx, cancel := context.WithDeadline(context.Background(), patience(t, time.Now(), leakPatience))
		defer cancel()
		_, err := poll(ctx, func(context.Context) error {
			return errors.Join(leakedHoldings(held), leakedSockets(sockets), goleak.Find(before))
		})
		if err != nil {
			t.Errorf("redisxtest: the test left something behind:\n%v", err)
		}
	})
}

func leakedHoldings(before map[*holding]struct{}) error {
	var lines []string
	for x := range holdings.list() {
		if _, ok := before[x]; !ok {
			lines = append(lines, fmt.Sprintf("%s, opened at %s", x.what, x.where))
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return errors.New("not closed:" + shortList(lines))
}

func leakedSockets(before map[string]string) error {
	var lines []string
	for id, what := range openSockets() {
		if _, ok := before[id]; !ok {
			lines = append(lines, what)
		}
	}
	if len(lines) == 0 {
		return nil
	}
	slices.Sort(lines)
	return fmt.Errorf("%d sockets of this process are open:%s", len(lines), shortList(lines))
}
