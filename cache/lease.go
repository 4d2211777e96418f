package cache

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	mathrand "math/rand/v2"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// acquire gets the right to load, or the value that somebody else loaded in the meantime. Without Redis there is nobody to
// wait for. f.token is "" if there is no lease.
func (c *Cache[K, V]) acquire(f *flight[K, V]) (*entry[V], error) {
	if !c.remoteOn() {
		c.captureLocal(f)
		return nil, nil
	}
	token := newToken()
	delay := 2 * time.Millisecond
	for {
		word, epoch := c.word.Load(), f.t.st.epoch.Load()
		woken, stopWaiting := f.t.st.await(f.t.keys.v)
		state, raw, got, err := c.lease(f, token, word)
		if err != nil {
			stopWaiting()
			if f.ctx.Err() != nil {
				return nil, f.reasonOf(context.Cause(f.ctx))
			}
			c.stat.add(statRemoteErrors)
			c.captureLocal(f)
			if !errors.Is(err, core.ErrNotSent) {
				f.token = token // it may be ours: the fill decides, or gives it back
			}
			return nil, nil
		}
		switch state {
		case leaseFound:
			stopWaiting()
			found, err := c.open(f.ctx, &f.t, raw, word, got, c.momentAt(f.t.keys.v))
			if err != nil {
				c.captureLocal(f)
				return nil, nil //nolint:nilerr // Redis went away: the value is loaded without it
			}
			if found.v == fresh {
				c.keep(&f.t, found.e, epoch, word)
				return found.e, nil
			}
			if found.v != none {
				f.stale = found.e
			}
			f.known = found.known // to be replaced
			continue
		case leaseOurs:
			stopWaiting()
			f.token = token
			return nil, nil
		}
		// Somebody else loads.
		if c.unattended(f) {
			stopWaiting()
			until := c.clock.now() + int64(refreshElsewhere)
			c.setPause(&f.t, func(p *pause) { p.refresh = until })
			return nil, errBusy
		}
		if c.feed != nil && trusted(c.word.Load()) {
			delay = max(delay, 250*time.Millisecond)
		}
		timer := time.NewTimer(delay/2 + mathrand.N(delay))
		select {
		case <-woken:
		case <-timer.C:
			delay = min(2*delay, 50*time.Millisecond)
		case <-f.ctx.Done():
		}
		timer.Stop()
		stopWaiting()
		if f.ctx.Err() != nil {
			return nil, f.reasonOf(context.Cause(f.ctx))
		}
		// Most of the time the value is there now.
		if found, err := c.fetch(f.ctx, &f.t, f.t.st.epoch.Load()); err == nil && found.v == fresh {
			return found.e, nil
		} else if err == nil {
			f.known = found.known
			if found.v != none {
				f.stale = found.e
			}
		}
	}
}

// refreshElsewhere is how long a refresh is left to the process that is at it.
const refreshElsewhere = 100 * time.Millisecond

// unattended reports whether nobody waits for a flight.
func (c *Cache[K, V]) unattended(f *flight[K, V]) bool {
	sh := &c.shards[f.t.shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return f.waiters == 0 && f.background
}

const (
	leaseFound = iota
	leaseOurs
	leaseTaken
)

// lease asks for the right to load; versions that are not known travel along.
func (c *Cache[K, V]) lease(f *flight[K, V], token string, word uint64) (state int, raw string, got map[*tagState]uint64, err error) {
	states := append(append(make([]*tagState, 0, 4), c.scope.gens...), c.scope.bumps)
	a := c.asking(states, word)
	willWait := "1"
	if c.unattended(f) {
		willWait = "0"
	}
	cmd := leaseScript.Cmd([]string{f.t.keys.v, f.t.keys.l(), f.t.keys.w()}, []string{token, millis(c.cfg.lease), f.known, willWait})
	start := c.clock.now()
	var r driver.Reply
	if len(a.cmds) == 0 {
		r = c.client.Do(f.ctx, cmd)
	} else {
		replies := c.client.DoMulti(f.ctx, append([]driver.Cmd{cmd}, a.cmds...))
		r, got = replies[0], a.answered(c.hub, replies[1:])
	}
	state, raw, stamp, err := leased(r)
	if err != nil {
		return 0, "", nil, err
	}
	c.learn(f.t.keys.v, stamp, start)
	c.capture(f, &a)
	return state, raw, got, nil
}

func leased(r driver.Reply) (state int, raw string, stamp int64, err error) {
	list, err := r.List()
	if err != nil {
		return 0, "", 0, err
	}
	if len(list) == 1 {
		n, err := list[0].Int64()
		if err == nil && n != leaseTaken {
			err = errUnexpected
		}
		return leaseTaken, "", 0, err
	}
	n, stamp, err := stamped(r)
	if err == nil && n == leaseFound {
		if len(list) != 3 {
			return 0, "", 0, errUnexpected
		}
		raw, err = list[2].Text()
	}
	return int(n), raw, stamp, err
}

// capture notes the versions at the start of a load: of the generations, and of the count of bumps behind them.
func (c *Cache[K, V]) capture(f *flight[K, V], a *asking) {
	n := len(a.versions) - 1
	f.gens, f.bumps, f.ok = a.versions[:n:n], a.versions[n], true
	for _, v := range a.versions {
		f.ok = f.ok && v != 0
	}
}

// captureLocal is capture without Redis: what this process knows last.
func (c *Cache[K, V]) captureLocal(f *flight[K, V]) {
	f.token, f.ok = "", c.client == nil
	f.gens = nil
	for _, s := range c.scope.gens {
		f.gens = append(f.gens, s.ver.Load())
	}
}

func newToken() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// renewing keeps the lease while the loader runs.
func (c *Cache[K, V]) renewing(f *flight[K, V]) (stop func()) {
	if f.token == "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(f.ctx)
	every := c.cfg.lease / 3
	timer := time.AfterFunc(every, func() {
		c.start(func() { // seldom: most loads are over by then
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				n, err := c.client.Run(ctx, renewScript, []string{f.t.keys.l()}, []string{f.token, millis(c.cfg.lease)}).Int64()
				if ctx.Err() != nil {
					return
				}
				if err == nil && n == 0 {
					f.killed.Store(true)
					return
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	})
	return func() {
		timer.Stop()
		cancel()
	}
}

// release gives up the lease of a load that brought nothing to store.
func (c *Cache[K, V]) release(f *flight[K, V]) error {
	if f.token == "" {
		return nil
	}
	ctx, cancel := c.background()
	defer cancel()
	channel, payload := c.wakeUp(&f.t)
	args := []string{f.token, channel, payload}
	list, err := c.client.Run(ctx, releaseScript, []string{f.t.keys.l(), f.t.keys.w()}, args).List()
	if err == nil && channel == "" && len(list) == 2 {
		if n, _ := list[1].Int64(); n == 1 {
			c.wakeOthers(ctx, &f.t)
		}
	}
	return err
}

// background is the context of what must be done when nobody waits for it any more.
func (h *hub) background() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 5*time.Second)
}

// wakeUp returns what a script publishes to those who wait for a fill, if it does.
func (c *Cache[K, V]) wakeUp(t *target[K]) (channel, payload string) {
	if c.feed == nil || !c.feed.inline() {
		return "", ""
	}
	return c.feed.channel(), c.feed.wake(t.keys.w()).payload
}

func (c *Cache[K, V]) wakeOthers(ctx context.Context, t *target[K]) {
	if c.feed != nil {
		_ = c.feed.publish(ctx, c.feed.wake(t.keys.v+":w"), 0) // whoever waits looks after a while anyway
	}
}
