package goredisdriver

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

var (
	errNoReply   = errors.New("redisx: a hook of the client returned without a reply")
	errNoPrimary = errors.New("redisx: the Sentinels know no such primary")
)

// fault says in the words of the contract why a command has no reply. sent is whether it was handed to a connection.
func fault(ctx context.Context, err error, sent bool) error {
	switch {
	case err == nil:
		err = errNoReply
	case errors.Is(err, redis.ErrClosed):
		return driver.ErrClosed
	case errors.Is(err, redis.Nil):
		err = errNoPrimary
	}
	if e, ok := errors.AsType[redis.Error](err); ok {
		// The reply to the command would be known: the server refused the connection, by AUTH, SELECT, too many clients.
		return driver.NewServerError(e.Error())
	}
	if sent && neverSent(err) {
		sent = false // a hook looked at the arguments
	}
	err = because(ctx, err)
	if sent {
		return driver.Unknown(err)
	}
	return driver.NotSent(err)
}

// because prefers the end of ctx as the reason: go-redis reports a deadline as "i/o timeout".
func because(ctx context.Context, err error) error {
	if e := ctx.Err(); e != nil {
		return e
	}
	if deadline, ok := ctx.Deadline(); ok && timeout(err) && !time.Now().Before(deadline) {
		return context.DeadlineExceeded // the timer of ctx is about to fire
	}
	return err
}

func timeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// neverSent recognizes failures to get a connection.
func neverSent(err error) bool {
	if errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrPoolExhausted) {
		return true
	}
	e, ok := errors.AsType[*net.OpError](err)
	return ok && e.Op == "dial"
}

// broken reports whether a reply is a failure of the connection, after which a read may be sent again.
func broken(r driver.Reply) bool {
	e, ok := r.Err().(*driver.OpError)
	return ok && !e.Timeout() && !errors.Is(e, context.Canceled)
}
