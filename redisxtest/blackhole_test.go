package redisxtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/core/rueidisdriver"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

// dialled opens each driver with the dialer of a proxy.
var dialled = map[string]func(ctx context.Context, url string, px *chaos.Proxy) (driver.Driver, error){
	"goredis": func(ctx context.Context, url string, px *chaos.Proxy) (driver.Driver, error) {
		return opened(goredisdriver.Open(ctx, url, goredisdriver.WithDialer(px.Dial)))
	},
	"rueidis": func(ctx context.Context, url string, px *chaos.Proxy) (driver.Driver, error) {
		return opened(rueidisdriver.Open(ctx, url, rueidisdriver.WithDialer(px.Dial)))
	},
}

// A node of a Cluster that swallows everything, as behind a broken switch, must cost its own keys alone.
func TestBlackHoledNodeStallsNoOther(t *testing.T) {
	apart(t, func(t *testing.T) {
		c := StartCluster(t, 3, 0, patient)
		for name, open := range dialled {
			t.Run(name, func(t *testing.T) {
				px := chaos.NewDialer(t)
				d, err := open(t.Context(), c.URL(), px)
				require.NoError(t, err)
				defer func() { require.NoError(t, d.Close()) }()
				blackHole(t, c, d, px)
			})
		}
	})
}

// keyOn is a key that a node serves.
func keyOn(c *Cluster, n *Server) string {
	for i := 0; ; i++ {
		if key := fmt.Sprint("k", i); c.Node(key) == n {
			return key
		}
	}
}

const blackHoleDeadline = 2 * time.Second

func blackHole(t *testing.T, c *Cluster, d driver.Driver, px *chaos.Proxy) {
	var keys []string
	for _, n := range c.Nodes() {
		keys = append(keys, keyOn(c, n))
	}
	lost := c.Nodes()[0]
	set := func(key string) driver.Cmd {
		return driver.Cmd{Args: []string{"SET", key, "v"}, Keys: driver.Key(1)}
	}
	do := func(key string) (time.Duration, error) {
		ctx, cancel := context.WithTimeout(t.Context(), blackHoleDeadline)
		defer cancel()
		start := time.Now()
		err := d.Do(ctx, set(key)).Err()
		return time.Since(start), err
	}
	// others are calls to the other nodes, beside callers that keep on trying the lost one.
	others := func(phase string, n int) {
		t.Helper()
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						if took, err := do(keys[0]); took > 5*blackHoleDeadline {
							t.Errorf("%s: a call to the lost node ended after %s: %v", phase, took, err)
						}
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
		var times []time.Duration
		for i := range n {
			took, err := do(keys[1+i%2])
			if err != nil {
				t.Errorf("%s: another node: %v after %s", phase, err, took)
				break
			}
			times = append(times, took)
			time.Sleep(time.Millisecond)
		}
		close(stop)
		wg.Wait()
		slices.Sort(times)
		if len(times) > 0 {
			t.Logf("%s: other nodes answer in %s, 99th percentile %s, %s at most", phase, times[len(times)/2], times[len(times)*99/100], times[len(times)-1])
		}
	}
	others("all well", 500)

	end := px.Node(lost.Addr()).BlackHole(chaos.Both)
	others("one node lost", 2000)
	if _, err := do(keys[0]); err == nil {
		t.Error("the lost node answers: this test shows nothing")
	}
	ctx, cancel := context.WithTimeout(t.Context(), blackHoleDeadline)
	for i, r := range d.DoMulti(ctx, []driver.Cmd{set(keys[0]), set(keys[1]), set(keys[2])}) {
		switch err := r.Err(); {
		case i > 0 && err != nil:
			t.Errorf("a list that goes to the lost node too: node %d: %v", i, err)
		case i == 0 && !errors.Is(err, driver.ErrUnknownOutcome) && !errors.Is(err, driver.ErrNotSent):
			t.Errorf("the lost node, in a list: %v", err)
		}
	}
	cancel()

	end()
	eventually(t, "the node is not found again", func() bool { _, err := do(keys[0]); return err == nil })
	others("well again", 500)
}
