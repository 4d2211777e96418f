package chaos

import (
	"context"
	"errors"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// sender is what commands go out on: a driver.Driver or a driver.Conn.
type sender interface {
	Do(ctx context.Context, cmd driver.Cmd) driver.Reply
	DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply
}

// step is what becomes of one command of a list.
type step struct {
	send  int         // how often it is sent
	as    *driver.Cmd // what is sent in its place
	at    int         // where its first reply lies among those of what was sent
	err   error       // what the caller gets instead of the reply
	cut   bool        // the connection broke at it or before
	hangs bool        // no reply comes before ctx ends
}

// run sends commands with the faults decided for them. Conn is nil on shared connections.
func (w *wrapped) run(ctx context.Context, to sender, cmds []driver.Cmd, verdicts []verdict, c *conn) []driver.Reply {
	caller := ctx
	delay, late := time.Duration(0), time.Duration(0)
	for _, v := range verdicts {
		delay += v.delay
		late = max(late, v.late)
	}
	if late > 0 {
		var release func()
		ctx, release = belated(ctx, late)
		defer release()
	}
	if delay > 0 {
		if err := w.wait(ctx, delay); err != nil {
			c.breakOff()
			return same(len(cmds), err)
		}
	}
	steps := w.plan(cmds, verdicts, c)
	answers := w.deliver(ctx, to, cmds, steps)
	replies := make([]driver.Reply, len(cmds))
	broke, waited := false, error(nil)
	for i := range steps {
		s := &steps[i]
		broke = broke || s.cut
		if s.hangs && waited == nil {
			waited = w.hang(ctx)
		}
		switch {
		case s.hangs:
			replies[i] = driver.ErrReply(waited)
		case s.err == nil || s.send > 0 && s.as == nil && transport(answers[s.at]): // it failed by itself
			replies[i] = answers[s.at]
		default:
			replies[i] = driver.ErrReply(s.err)
		}
	}
	if broke {
		c.breakOff()
	}
	for i, v := range verdicts {
		if v.retry != "" && c == nil && caller.Err() == nil && errors.Is(replies[i].Err(), driver.ErrUnknownOutcome) {
			w.note(v.retry)
			replies[i] = to.Do(ctx, cmds[i])
		}
	}
	return replies
}

// plan applies verdicts to a list, the consequences of a broken connection included.
func (w *wrapped) plan(cmds []driver.Cmd, verdicts []verdict, c *conn) []step {
	steps := make([]step, len(cmds))
	for i, v := range verdicts {
		s := &steps[i]
		s.send = 1
		switch v.fault.kind {
		case reply:
			s.send, s.err = 0, driver.NewServerError(v.fault.text)
			if s.as = c.refusal(&cmds[i]); s.as != nil {
				s.send = 1
			}
		case duplicate:
			s.send = 2
		}
		if s.send > 0 && s.as == nil {
			c.follow(&cmds[i])
		}
	}
	for i, v := range verdicts {
		k := v.fault.kind
		if k != loseReply && k != loseRequest && k != hang && k != hangReply {
			continue
		}
		for j := i; j < len(cmds); j++ {
			if s := &steps[j]; w.together(&cmds[i], &cmds[j]) {
				s.cutBy(k)
			}
		}
	}
	for i, v := range verdicts {
		for j := range steps {
			if v.fault.kind == refuse && w.together(&cmds[i], &cmds[j]) {
				steps[j] = step{err: driver.NotSent(errRefused), cut: true}
			}
		}
	}
	return steps
}

// cutBy breaks the connection at a command or before it. What broke it first decides what the caller sees.
func (s *step) cutBy(k kind) {
	if k == loseRequest || k == hang {
		s.send = 0
	}
	if s.cut {
		return
	}
	s.cut, s.hangs = true, k == hang || k == hangReply
	if s.err = driver.Unknown(errReplyLost); k == loseRequest {
		s.err = driver.Unknown(errRequestLost)
	}
}

// together reports whether two commands of a list may share a connection.
func (w *wrapped) together(a, b *driver.Cmd) bool {
	if w.router == nil {
		return true
	}
	x, y := w.router.Node(a.Route()), w.router.Node(b.Route())
	return x == y || a.Route() == "" || b.Route() == "" || x == "" || y == ""
}

// deliver sends what is to be sent.
func (w *wrapped) deliver(ctx context.Context, to sender, cmds []driver.Cmd, steps []step) []driver.Reply {
	var list []driver.Cmd
	for i := range steps {
		s := &steps[i]
		s.at = len(list)
		for range s.send {
			if s.as != nil {
				list = append(list, *s.as)
			} else {
				list = append(list, cmds[i])
			}
		}
	}
	switch {
	case len(list) == 0:
		return nil
	case len(cmds) > 1:
		return to.DoMulti(ctx, list)
	}
	answers := make([]driver.Reply, len(list))
	for i := range list {
		if answers[i] = to.Do(ctx, list[i]); i == 0 && transport(answers[i]) {
			break // a second delivery would not be a duplicate
		}
	}
	return answers
}

// belated returns a context that ends so much later than ctx. Release must be called.
func belated(ctx context.Context, late time.Duration) (later context.Context, release func()) {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(over)
		timer := time.NewTimer(late)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-later.Done():
		}
	})
	return later, func() {
		cancel()
		if !stop() {
			<-over
		}
	}
}
