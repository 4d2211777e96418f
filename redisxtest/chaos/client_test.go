package chaos_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// A client over the wrapper classifies faults as it does those of a real network, batching included.
func TestClientOverTheWrapper(t *testing.T) {
	each(t, func(t *testing.T, plain driver.Driver) {
		d := chaos.Wrap(plain, parse(t, "on INCR nth=2 lose-reply\non INCR nth=3 refuse\non INCR nth=4 reply LOADING"))
		c, err := core.New(d)
		require.NoError(t, err)
		for _, want := range []core.Class{core.ClassNone, core.ClassUnknownOutcome, core.ClassNotSent, core.ClassLoading, core.ClassNone} {
			require.Equal(t, want, core.Classify(c.Do(within(t), cmd("INCR", "n")).Err()))
		}
		require.Equal(t, "3", get(t, plain, "n"))

		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 20 {
					if err := c.Do(within(t), cmd("INCR", "m")).Err(); err != nil {
						t.Errorf("after the faults: %v", err)
					}
				}
			})
		}
		wg.Wait()
		require.Equal(t, "160", get(t, plain, "m"))
		require.NoError(t, c.Close())
		require.ErrorIs(t, d.Do(within(t), cmd("INCR", "n")).Err(), driver.ErrClosed, "the client owns the wrapper")
	})
}
