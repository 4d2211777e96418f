package goredisdriver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

var (
	errNoChannels = errors.New("redisx: subscription without channels")
	errTwoSlots   = errors.New("redisx: sharded channels of one subscription must share a slot")
	errSlotMoved  = errors.New("redisx: the slot of the channels moved to another node")
	errNewPrimary = errors.New("redisx: the Sentinels named another primary")
	errLeft       = errors.New("redisx: the node does not serve the Cluster any more")
)

// Subscribe implements [driver.Subscriber]. It runs on the goroutine of its caller.
func (d *Driver) Subscribe(ctx context.Context, s driver.Subscription) error {
	if err := d.refuseSubscription(ctx, s); err != nil {
		return err
	}
	inner, cancel := d.both(ctx)
	defer cancel()
	sub := &subscription{d: d, Subscription: s, pause: backoff{tune: d.tune}}
	for {
		err := sub.attempt(inner)
		if inner.Err() != nil {
			return d.ended(ctx)
		}
		if never(err) {
			return err
		}
		if s.OnLost != nil {
			s.OnLost(err)
		}
		if !sub.pause.wait(inner) {
			return d.ended(ctx)
		}
	}
}

func (d *Driver) refuseSubscription(ctx context.Context, s driver.Subscription) error {
	if d.closing.Load() {
		return driver.ErrClosed
	}
	if len(s.Channels) == 0 {
		return errNoChannels
	}
	if s.Sharded && d.nodes.real {
		for _, c := range s.Channels[1:] {
			if driver.Slot(c) != driver.Slot(s.Channels[0]) {
				return errTwoSlots
			}
		}
	}
	return ctx.Err()
}

// never reports whether a subscription can never work: the server does not know the command.
func never(err error) bool {
	e, ok := errors.AsType[*driver.ServerError](err)
	return ok && e.Code() == "ERR" && strings.Contains(strings.ToLower(e.Error()), "unknown command")
}

// subscription is one call of Subscribe.
type subscription struct {
	driver.Subscription
	d     *Driver
	pause backoff
	// to is where a redirection sent the next attempt.
	to *redis.Client
	// last is where the attempt before this one was made.
	last *redis.Client

	link      *link
	missing   map[string]bool // channels not confirmed yet
	confirmed bool
	compared  time.Time
}

// attempt subscribes on a new connection and receives until it is lost.
func (s *subscription) attempt(ctx context.Context) error {
	node := s.to
	if s.to = nil; node == nil {
		var err error
		if node, err = s.place(ctx); err != nil {
			return err
		}
	}
	s.last = node
	link, err := s.d.dial(ctx, node, 0)
	if err != nil {
		s.d.nodes.reload()
		return err
	}
	defer link.close()
	s.link, s.confirmed, s.compared = link, false, time.Now()
	s.missing = make(map[string]bool, len(s.Channels))
	args := []string{"SUBSCRIBE"}
	if s.Sharded {
		args[0] = "SSUBSCRIBE"
	}
	for _, c := range s.Channels {
		if !s.missing[c] {
			s.missing[c] = true
			args = append(args, c)
		}
	}
	_ = link.conn.SetWriteDeadline(time.Now().Add(s.d.tune.silent))
	if err := link.write(args); err != nil {
		return err
	}
	l := listener{
		link: link, ctx: ctx, probe: []string{"PING"}, check: s.d.tune.check, silent: s.d.tune.silent,
		message: s.message, reply: func(r driver.Reply) error { return s.reply(ctx, r) },
	}
	err = l.receive()
	if s.confirmed {
		s.pause.reset()
	}
	s.d.nodes.reload()
	return err
}

// place returns the node to subscribe at. Every node of a Cluster gets every message of plain channels, so that the failover of
// the one that was tried last is not waited for.
func (s *subscription) place(ctx context.Context) (*redis.Client, error) {
	node, err := s.d.node(ctx, s.Channels[0])
	if err != nil || node != s.last || s.Sharded || !s.d.nodes.real {
		return node, err
	}
	for range 16 { // what this draws may be the same node again
		if other, err := s.d.node(ctx, ""); err == nil && other != s.last {
			return other, nil
		}
	}
	return node, nil
}

// message handles what the server sends: confirmations and messages.
func (s *subscription) message(list []driver.Reply) error {
	if len(list) < 3 {
		return nil
	}
	kind, _ := list[0].Text()
	channel, _ := list[1].Text()
	switch kind {
	case "subscribe", "ssubscribe":
		delete(s.missing, channel)
		if len(s.missing) == 0 && !s.confirmed {
			s.confirmed = true
			if s.OnConfirmed != nil {
				s.OnConfirmed()
			}
		}
	case "unsubscribe", "sunsubscribe":
		return errSlotMoved // nobody here asked for it
	case "message", "smessage":
		// What comes before the confirmation was not promised, and the first callback must not be a message.
		if s.confirmed && s.OnMessage != nil {
			payload, err := list[2].Text()
			if err != nil {
				return err
			}
			s.OnMessage(channel, payload)
		}
	}
	return nil
}

// reply handles a frame that is no message: the refusal of the subscription, or the answer to a PING.
func (s *subscription) reply(ctx context.Context, r driver.Reply) error {
	if !s.confirmed {
		if addr, _, ok := redirection(r); ok {
			s.to, _ = s.d.nodes.at(addr, s.link.node)
			return fmt.Errorf("%w: %w", errSlotMoved, r.Err())
		}
		if err := r.Err(); err != nil {
			return err
		}
		return nil
	}
	return s.compare(ctx)
}

// compare looks, from time to time, whether this still is a server that gets every message.
func (s *subscription) compare(ctx context.Context) error {
	if s.d.nodes.topology == driver.Standalone || time.Since(s.compared) < 2*s.d.tune.check {
		return nil
	}
	s.compared = time.Now()
	if s.d.nodes.topology == driver.Sentinel {
		if s.link.moved(ctx) {
			return errNewPrimary
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.d.tune.silent)
	defer cancel()
	info, err := s.d.exec(ctx, s.link.node, []string{"CLUSTER", "INFO"}).Text()
	if err == nil && driver.ParseInfo(info)["cluster_state"] == "fail" {
		return errLeft // cut off from the others, who may go on without it
	}
	return nil
}
