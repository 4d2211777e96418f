package rueidisdriver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

// cover keeps one primary covered until ctx ends.
func (t *tracker) cover(ctx context.Context, l *listener, at node) {
	var delay backoff
	for ctx.Err() == nil {
		err := t.coverOnce(ctx, l, at, &delay)
		if ctx.Err() != nil || t.d.closed.Load() {
			return
		}
		t.push(ctx, event{kind: gotLoss, from: l, err: err})
		if !t.d.pause(ctx, delay.step()) {
			return
		}
		switch t.d.topology {
		case driver.Sentinel:
			at = t.d.sentinelPrimary()
		case driver.Cluster: // The client may have replaced what connects to the node.
			if fresh, ok := t.d.clusterPrimaries()[l.name]; ok {
				at = fresh
			}
		}
	}
}

// coverOnce listens on one connection until that is lost, and returns why.
func (t *tracker) coverOnce(ctx context.Context, l *listener, at node, delay *backoff) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opening, stop := context.WithTimeout(ctx, openWithin)
	defer stop()
	c, err := t.d.acquireAt(opening, at)
	if err != nil {
		return err
	}
	defer c.discard()
	// The client calls the hook with nil for FLUSHALL, and once more with nil when the connection ended. By then it has
	// put the reason into the channel, which therefore nobody else may read.
	var lost atomic.Pointer[<-chan error]
	end := make(chan error, 1)
	invalidated := func(messages []rueidis.RedisMessage) {
		if messages == nil {
			if ch := lost.Load(); ch != nil {
				select {
				case err := <-*ch:
					if err == nil {
						err = errConnClosed
					}
					select {
					case end <- err:
					default: // said already
					}
					return
				default:
				}
			}
		}
		t.push(ctx, event{kind: gotKeys, from: l, keys: texts(messages)})
	}
	if _, err = c.listen(opening, func() <-chan error {
		ch := c.wire.SetOnInvalidations(invalidated)
		lost.Store(&ch)
		return ch
	}); err != nil {
		return err
	}
	if err := t.turnOn(opening, c); err != nil {
		return err
	}
	stop()
	delay.reset()
	t.push(ctx, event{kind: gotConfirmation, from: l})
	why := make(chan event, 1)
	t.d.watch(ctx, end, func(e event) { why <- e }, func(ctx context.Context) error { return t.stillPrimary(ctx, c) })
	select {
	case e := <-why:
		return e.err
	default:
		return ctx.Err()
	}
}

// turnOn has the server report changes on a connection.
func (t *tracker) turnOn(ctx context.Context, c *conn) error {
	// With RESP2 the server accepts the command and then reports nothing, without a word.
	hello := c.request(ctx, t.d.builder.Arbitrary("HELLO").Build())
	if err := unanswered(hello.Err()); err != nil {
		return err
	}
	about, _ := hello.Map()
	if proto, _ := about["proto"].Int64(); proto < 3 {
		return &permanentError{errors.New("redisx: tracking needs RESP3, and the client speaks RESP2 to this server")}
	}
	// A client with a cache of its own has tracking on already, in another mode.
	if err := unanswered(c.request(ctx, t.d.builder.Arbitrary("CLIENT", "TRACKING", "OFF").Build()).Err()); err != nil {
		return err
	}
	args := []string{"CLIENT", "TRACKING", "ON", "BCAST"}
	for _, p := range t.t.Prefixes {
		args = append(args, "PREFIX", p)
	}
	return trackingError(c.request(ctx, t.d.builder.Arbitrary(args...).Build()).Err())
}

// stillPrimary asks a connection for the role of its server, which also shows that it still hears.
func (t *tracker) stillPrimary(ctx context.Context, c *conn) error {
	if t.d.topology == driver.Standalone {
		return unanswered(c.request(ctx, t.d.builder.Ping().Build()).Err())
	}
	r := c.request(ctx, t.d.builder.Role().Build())
	if parts, err := r.List(); err == nil && len(parts) > 0 {
		if role, _ := parts[0].Text(); role != "master" {
			return fmt.Errorf("redisx: %s is no primary any more", c.at.name)
		}
	}
	return unanswered(r.Err())
}

// unanswered returns err unless the server answered: a refusal by an ACL is an answer.
func unanswered(err error) error {
	if _, ok := errors.AsType[*driver.ServerError](err); ok {
		return nil
	}
	return err
}

// trackingError tells refusals that stay from those that may pass.
func trackingError(err error) error {
	e, ok := errors.AsType[*driver.ServerError](err)
	if !ok {
		return err
	}
	text := strings.ToLower(e.Error())
	switch {
	case strings.Contains(text, "unknown"):
		return &permanentError{fmt.Errorf("redisx: the server has no CLIENT TRACKING: %w", e)}
	case strings.Contains(text, "overlaps"):
		return &permanentError{fmt.Errorf("redisx: tracking: %w", e)}
	}
	return err
}

func texts(messages []rueidis.RedisMessage) []string {
	if messages == nil {
		return nil
	}
	keys := make([]string, len(messages))
	for i := range messages {
		keys[i], _ = messages[i].ToString()
	}
	return keys
}
