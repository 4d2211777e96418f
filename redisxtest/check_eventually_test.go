package redisxtest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEventuallyReturnsOnceTheConditionHolds(t *testing.T) {
	n := 0
	Eventually(t, 0, func(context.Context) error {
		if n++; n < 5 {
			return errors.New("not yet")
		}
		return nil
	})
	require.Equal(t, 5, n)
}

func TestEventuallyTellsTheLastErrorAndTriesAtLeastOnce(t *testing.T) {
	r := record(t, func(t testing.TB) {
		n := 0
		Eventually(t, time.Nanosecond, func(context.Context) error { n++; return errors.New("queue has 3 jobs") })
		t.Log("went on")
	})
	require.True(t, r.failed)
	require.Contains(t, r.text(), "queue has 3 jobs")
	require.NotContains(t, r.text(), "went on")
}

// The answer to a call that the deadline cut off is not what was the matter.
func TestEventuallyKeepsTheErrorFromBeforeTheDeadline(t *testing.T) {
	r := record(t, func(t testing.TB) {
		n := 0
		Eventually(t, 20*time.Millisecond, func(ctx context.Context) error {
			if n++; n == 1 {
				return errors.New("queue has 3 jobs")
			}
			<-ctx.Done() // a call that hangs
			return ctx.Err()
		})
	})
	require.True(t, r.failed)
	require.Contains(t, r.text(), "queue has 3 jobs")
}

// late is a test that go test -timeout ends soon.
type late struct {
	testing.TB
	at time.Time
}

func (l late) Deadline() (time.Time, bool) { return l.at, true }

func TestEventuallyEndsBeforeTheDeadlineOfTheTest(t *testing.T) {
	now := time.Now()
	require.Equal(t, now.Add(eventuallyTimeout), patience(record(t, func(testing.TB) {}), now, 0))
	require.Equal(t, now.Add(time.Hour), patience(late{t, now.Add(10 * time.Hour)}, now, time.Hour))
	require.Equal(t, now.Add(900*time.Millisecond), patience(late{t, now.Add(time.Second)}, now, time.Hour))
}

func TestEventuallyRefusesWhatCannotBe(t *testing.T) {
	ok := func(context.Context) error { return nil }
	for name, do := range map[string]func(t testing.TB){
		"no condition": func(t testing.TB) { Eventually(t, 0, nil) },
		"negative":     func(t testing.TB) { Eventually(t, -1, ok) },
	} {
		require.True(t, record(t, do).failed, name)
	}
	synctest.Test(t, func(t *testing.T) {
		r := record(t, func(t testing.TB) { Eventually(t, 0, ok) })
		require.True(t, r.failed)
		require.Contains(t, r.text(), "synctest.Wait")
	})
	require.False(t, inBubble())
}
