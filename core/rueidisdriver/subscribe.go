package rueidisdriver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

const (
	// heartbeat is how often a connection that only listens is asked whether it still hears, heardWithin how long the
	// answer may take. Together they bound how long a silent loss goes unnoticed.
	heartbeat   = 1500 * time.Millisecond
	heardWithin = 2 * time.Second
	// backlog is how many messages wait for a slow callback before the connection stops reading.
	backlog = 1024
	// Delays between attempts to subscribe.
	firstDelay = 50 * time.Millisecond
	lastDelay  = 500 * time.Millisecond
	// openWithin bounds one attempt.
	openWithin = 4 * time.Second
)

// event is what happened on a connection that listens, in order.
type event struct {
	kind eventKind
	// channel of a message or confirmation; payload of a message.
	channel, payload string
	// keys of an invalidation; nil means everything.
	keys []string
	// err is why a connection was lost.
	err error
	// from is the part of a tracker that it comes from.
	from *listener
}

type eventKind uint8

const (
	gotMessage eventKind = iota
	gotKeys
	gotChannel // confirmed
	gotConfirmation
	gotEnd // of the subscription to a channel, by the server
	gotLoss
)

// permanentError is a reason that no new attempt will remove.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// backoff is a delay that doubles with every failure, less up to half of it, so that a fleet does not knock all at once.
type backoff struct{ next time.Duration }

func (b *backoff) reset() { b.next = 0 }

func (b *backoff) step() time.Duration {
	if b.next == 0 {
		b.next = firstDelay
	} else {
		b.next = min(2*b.next, lastDelay)
	}
	return b.next/2 + rand.N(b.next/2+1)
}

// Subscribe implements [driver.Subscriber]. Callbacks run on the goroutine of the caller.
func (d *Driver) Subscribe(ctx context.Context, s driver.Subscription) error {
	if err := d.checkSubscription(s); err != nil {
		return err
	}
	s.Channels = slices.Compact(slices.Sorted(slices.Values(s.Channels)))
	var delay backoff
	for {
		err := d.subscribeOnce(ctx, s, &delay)
		if err := d.ended(ctx); err != nil {
			return err
		}
		if p, ok := errors.AsType[*permanentError](err); ok {
			return p.err
		}
		if s.OnLost != nil {
			s.OnLost(err)
		}
		d.pause(ctx, delay.step())
		if err := d.ended(ctx); err != nil {
			return err
		}
	}
}

// ended returns why nothing more will be received, or nil.
func (d *Driver) ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.over() {
		return driver.ErrClosed
	}
	return nil
}

func (d *Driver) checkSubscription(s driver.Subscription) error {
	if d.over() {
		return driver.ErrClosed
	}
	if len(s.Channels) == 0 {
		return errors.New("redisx: subscription without channels")
	}
	if s.Sharded && d.topology == driver.Cluster {
		for _, ch := range s.Channels[1:] {
			if driver.Slot(ch) != driver.Slot(s.Channels[0]) {
				return fmt.Errorf("redisx: sharded channels %q and %q are in different slots: %w", s.Channels[0], ch, driver.CrossSlot().Err())
			}
		}
	}
	return nil
}

// subscribeOnce receives on one connection until that is lost, and returns why.
func (d *Driver) subscribeOnce(ctx context.Context, s driver.Subscription, delay *backoff) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	key := ""
	if s.Sharded {
		key = s.Channels[0]
	}
	opening, stop := context.WithTimeout(ctx, openWithin)
	defer stop()
	c, err := d.acquire(opening, key)
	if err != nil {
		return err
	}
	defer c.discard()
	events := make(chan event, backlog)
	push := func(e event) {
		select {
		case events <- e:
		case <-ctx.Done():
		}
	}
	hooks := rueidis.PubSubHooks{
		OnMessage: func(m rueidis.PubSubMessage) { push(event{kind: gotMessage, channel: m.Channel, payload: m.Message}) },
		OnSubscription: func(s rueidis.PubSubSubscription) {
			kind := gotEnd
			if s.Kind == "subscribe" || s.Kind == "ssubscribe" {
				kind = gotChannel
			}
			push(event{kind: kind, channel: s.Channel})
		},
	}
	lost, err := c.listen(opening, func() <-chan error { return c.wire.SetPubSubHooks(hooks) })
	if err != nil {
		return err
	}
	if err := d.subscribe(opening, c, s, s.Channels); err != nil {
		return err
	}
	stop()
	d.run(func() {
		d.watch(ctx, lost, push, func(ctx context.Context) error { return d.subscribe(ctx, c, s, s.Channels[:1]) })
	})
	return deliver(ctx, s, events, delay)
}

// subscribe sends SUBSCRIBE or SSUBSCRIBE. Sent again it changes nothing, but shows that both directions work.
func (d *Driver) subscribe(ctx context.Context, c *conn, s driver.Subscription, channels []string) error {
	var cmd rueidis.Completed
	if s.Sharded {
		cmd = d.builder.Ssubscribe().Channel(channels...).Build()
	} else {
		cmd = d.builder.Subscribe().Channel(channels...).Build()
	}
	r := c.request(ctx, cmd)
	err := r.Err()
	if e, ok := errors.AsType[*driver.ServerError](err); ok {
		switch {
		case s.Sharded && e.Code() == "ERR" && strings.Contains(e.Error(), "unknown command"):
			return &permanentError{fmt.Errorf("redisx: the server has no sharded Pub/Sub (Redis 7): %w", e)}
		case e.Code() == "MOVED":
			if to, ok := redirection(r); ok {
				d.slots.learn(d, to)
				_, _ = d.follow(ctx, channels[0], to)
			}
		}
	}
	return err
}

// deliver runs the callbacks, and returns why the connection was lost.
func deliver(ctx context.Context, s driver.Subscription, events <-chan event, delay *backoff) error {
	missing := map[string]bool{}
	for _, ch := range s.Channels {
		missing[ch] = true
	}
	confirmed := false
	for {
		var e event
		select {
		case e = <-events:
		case <-ctx.Done():
			return ctx.Err()
		}
		switch e.kind {
		case gotLoss:
			return e.err
		case gotEnd:
			return fmt.Errorf("redisx: the server ended the subscription to %q", e.channel)
		case gotChannel:
			delete(missing, e.channel)
			if len(missing) == 0 && !confirmed {
				confirmed = true
				delay.reset()
				if s.OnConfirmed != nil {
					s.OnConfirmed()
				}
			}
		case gotMessage:
			if s.OnMessage != nil && ctx.Err() == nil {
				s.OnMessage(e.channel, e.payload)
			}
		}
	}
}

// watch reports the loss of a connection: what the client notices, and what only a question finds out. It returns when ctx
// ends or the connection is lost. A nil channel is never ready.
func (d *Driver) watch(ctx context.Context, lost <-chan error, push func(event), ask func(context.Context) error) {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-lost:
			if err == nil {
				err = errConnClosed
			}
			push(event{kind: gotLoss, err: driver.Unknown(plain(err))})
			return
		case <-tick.C:
			asking, cancel := context.WithTimeoutCause(ctx, heardWithin, errSilent)
			err := ask(asking)
			if err != nil && context.Cause(asking) == errSilent {
				err = errSilent
			}
			cancel()
			if err != nil && ctx.Err() == nil {
				push(event{kind: gotLoss, err: err})
				return
			}
		}
	}
}

var errSilent = errors.New("redisx: the connection stopped answering")

// listen installs hooks on a connection. With RESP2 the client dials a second connection for them, without a context.
func (c *conn) listen(ctx context.Context, install func() <-chan error) (<-chan error, error) {
	j := &job{done: make(chan struct{}, 1)}
	var lost <-chan error
	j.fn = func() { lost = install() }
	if !c.d.start(j) {
		return nil, driver.ErrClosed
	}
	if !j.await(ctx) {
		return nil, driver.NotSent(ctx.Err())
	}
	return lost, nil
}

// request sends one command of the client's on this connection.
func (c *conn) request(ctx context.Context, cmd rueidis.Completed) driver.Reply {
	j := &job{ctx: withoutDeadline{ctx}, to: c.wire, one: c.route(cmd), done: make(chan struct{}, 1)}
	if !c.d.start(j) {
		return driver.ErrReply(driver.ErrClosed)
	}
	if !j.await(ctx) {
		return driver.ErrReply(driver.Unknown(ctx.Err()))
	}
	if err := j.result.NonRedisError(); err != nil {
		return driver.ErrReply(failure(ctx, err))
	}
	m, _ := j.result.ToMessage()
	return message(&m)
}
