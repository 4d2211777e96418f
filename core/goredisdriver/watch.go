package goredisdriver

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

// watcher keeps one primary tracked and reports to its tracking.
type watcher struct {
	t      *tracking
	addr   string
	node   *redis.Client
	ctx    context.Context
	cancel context.CancelFunc
	up     bool // belongs to the tracking
	pause  backoff

	link     *link
	replies  []func(driver.Reply) error // what the replies that are due mean
	compared time.Time
}

func (w *watcher) run() {
	for {
		err := w.attempt()
		if w.ctx.Err() != nil {
			return
		}
		w.t.d.nodes.reload()
		if !w.t.send(trackEvent{from: w, lost: err}) || !w.pause.wait(w.ctx) {
			return
		}
	}
}

// attempt tracks on a new connection until it is lost.
func (w *watcher) attempt() error {
	d := w.t.d
	link, err := d.dial(w.ctx, w.node, 3)
	if err != nil {
		return err
	}
	defer link.close()
	w.link, w.compared = link, time.Now()
	on := []string{"CLIENT", "TRACKING", "ON", "BCAST"}
	for _, p := range w.t.Prefixes {
		on = append(on, "PREFIX", p)
	}
	commands := [][]string{{"HELLO", "3"}} // go-redis falls back to RESP2 without a word
	w.replies = []func(driver.Reply) error{speaksRESP3}
	if d.nodes.topology != driver.Standalone {
		commands = append(commands, []string{"ROLE"})
		w.replies = append(w.replies, isPrimary)
	}
	commands = append(commands, on)
	w.replies = append(w.replies, w.tracked)
	_ = link.conn.SetWriteDeadline(time.Now().Add(d.tune.silent))
	if err := link.write(commands...); err != nil {
		return err
	}
	l := listener{
		link: link, ctx: w.ctx, probe: []string{"PING"}, check: d.tune.check, silent: d.tune.silent,
		message: w.message, reply: w.reply,
	}
	if d.nodes.topology != driver.Standalone {
		l.probe = []string{"ROLE"}
	}
	return l.receive()
}

func speaksRESP3(r driver.Reply) error {
	m, err := r.Map()
	if err != nil {
		if _, ok := errors.AsType[*driver.ServerError](err); ok {
			return errors.Join(errNoRESP3, err)
		}
		return err
	}
	if n, err := m["proto"].Int64(); err != nil || n != 3 {
		return errNoRESP3
	}
	return nil
}

// isPrimary judges the answer to ROLE. Who may not ask is believed.
func isPrimary(r driver.Reply) error {
	list, _ := r.List()
	if len(list) == 0 {
		return nil
	}
	if role, _ := list[0].Text(); role != "" && role != "master" && role != "primary" {
		return errDemoted
	}
	return nil
}

// tracked judges the answer to CLIENT TRACKING.
func (w *watcher) tracked(r driver.Reply) error {
	if err := r.Err(); err != nil {
		return err
	}
	w.pause.reset()
	if !w.t.send(trackEvent{from: w, up: true}) {
		return w.ctx.Err()
	}
	return nil
}

// reply handles the answers to the first commands, and then those to the signs of life.
func (w *watcher) reply(r driver.Reply) error {
	if len(w.replies) > 0 {
		next := w.replies[0]
		w.replies = w.replies[1:]
		return next(r)
	}
	if w.t.d.nodes.topology == driver.Standalone {
		return nil
	}
	if err := isPrimary(r); err != nil {
		return err
	}
	if w.t.d.nodes.topology == driver.Sentinel && time.Since(w.compared) > 2*w.t.d.tune.check {
		w.compared = time.Now()
		if w.link.moved(w.ctx) {
			return errNewPrimary
		}
	}
	return nil
}

// message handles an invalidation: ["invalidate", [key, ...]], or null in place of the keys when all are gone.
func (w *watcher) message(list []driver.Reply) error {
	if len(list) < 2 {
		return nil
	}
	if kind, _ := list[0].Text(); kind != "invalidate" {
		return nil
	}
	e := trackEvent{from: w, all: list[1].IsNil()}
	if !e.all {
		var err error
		if e.keys, err = list[1].Strings(); err != nil {
			return err
		}
		if len(e.keys) == 0 {
			return nil
		}
	}
	if !w.t.send(e) {
		return w.ctx.Err()
	}
	return nil
}
