package goredisdriver

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

var errSilent = errors.New("redisx: the connection stopped answering")

// listener receives messages on a link and notices when it no longer can.
type listener struct {
	link    *link
	ctx     context.Context
	probe   []string      // asked for a sign of life
	check   time.Duration // how often
	silent  time.Duration // how long until the answer counts as missing
	asked   time.Time     // when the question without an answer was sent; zero if there is none
	checked time.Time
	// message gets what the server sends unasked, reply everything else. An error ends receive.
	message func(list []driver.Reply) error
	reply   func(driver.Reply) error
}

// receive delivers messages until ctx ends or the link is lost, and returns why. Whatever arrives is a sign of life. The
// first thing to arrive has to be there in time, like an answer.
func (l *listener) receive() error {
	l.asked = time.Now()
	l.checked = l.asked
	stop := context.AfterFunc(l.ctx, func() { _ = l.link.conn.SetReadDeadline(past) })
	defer stop()
	for {
		if err := l.wait(); err != nil {
			return err
		}
		r, push, err := readReply(l.link.r)
		if err != nil {
			return err
		}
		l.asked = time.Time{}
		if list, _ := r.List(); push || isMessage(list) {
			err = l.message(list)
		} else {
			err = l.reply(r)
		}
		if err != nil {
			return err
		}
	}
}

// isMessage tells messages of RESP2, which come as lists, from replies. The answer to PING, ["pong", ""], is none.
func isMessage(list []driver.Reply) bool {
	if len(list) < 3 {
		return false
	}
	switch kind, _ := list[0].Text(); kind {
	case "message", "smessage", "subscribe", "ssubscribe", "unsubscribe", "sunsubscribe":
		return true
	}
	return false
}

// wait returns when a frame begins to arrive. Meanwhile it asks for signs of life.
func (l *listener) wait() error {
	for {
		now := time.Now()
		due := l.checked.Add(l.check)
		if !l.asked.IsZero() {
			due = l.asked.Add(l.silent)
		}
		if !now.Before(due) {
			if !l.asked.IsZero() {
				return errSilent
			}
			_ = l.link.conn.SetWriteDeadline(now.Add(l.silent))
			if err := l.link.write(l.probe); err != nil {
				return err
			}
			l.asked, l.checked = now, now
			continue
		}
		if l.link.r.Buffered() > 0 {
			_ = l.link.conn.SetReadDeadline(now.Add(l.silent)) // for the rest of the frame
			return l.ctx.Err()
		}
		_ = l.link.conn.SetReadDeadline(due)
		if err := l.ctx.Err(); err != nil { // after setting the deadline, so that it cannot undo what the end of ctx set
			return err
		}
		if _, err := l.link.r.Peek(1); err == nil {
			_ = l.link.conn.SetReadDeadline(now.Add(l.check + l.silent))
			return l.ctx.Err()
		} else if !timeout(err) {
			return err
		}
	}
}

// backoff is a growing pause.
type backoff struct {
	tune tuning
	next time.Duration
}

func (b *backoff) reset() { b.next = 0 }

// wait reports false if ctx ended.
func (b *backoff) wait(ctx context.Context) bool {
	b.next = min(max(2*b.next, b.tune.retry), b.tune.most)
	t := time.NewTimer(b.next/2 + rand.N(b.next/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// both returns a context that ends with ctx and with the driver.
func (d *Driver) both(ctx context.Context) (context.Context, context.CancelFunc) {
	inner, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(d.base, cancel)
	return inner, func() { stop(); cancel() }
}

// ended is what a subscription or tracking returns.
func (d *Driver) ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return driver.ErrClosed
}

// moved reports whether new connections of node go to another server than this link: the Sentinels named another
// primary. The old one may not know, and keep this connection open.
func (l *link) moved(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	o := l.node.Options()
	c, err := o.Dialer(ctx, o.Network, o.Addr)
	if err != nil {
		return false // not known; the link has signs of life of its own
	}
	defer func() { _ = c.Close() }()
	return !sameHost(c.RemoteAddr(), l.conn.RemoteAddr())
}

func sameHost(a, b net.Addr) bool { return a.String() == b.String() }
