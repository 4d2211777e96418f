package rueidisdriver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

var (
	// errConnClosed stands for the client's own sentinel, which must not leak.
	errConnClosed = errors.New("connection closed")
	// errForeign is a failure that another command's context caused. It strikes only commands that had not left yet.
	errForeign = errors.New("connection ended by another deadline")
)

// dialError marks a failure before a connection was ready for commands. Whatever waited for it was not sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// Timeout and Temporary make it a net.Error if the cause is one.
func (e *dialError) Timeout() bool {
	t, ok := errors.AsType[net.Error](e.err)
	return ok && t.Timeout()
}
func (e *dialError) Temporary() bool { return false }

// failure classifies an error that came instead of a reply, for the caller whose ctx this is.
func failure(ctx context.Context, err error) error {
	ctxErr := ctx.Err()
	if isContext(err) {
		ctxErr = ended(ctx)
	}
	_, dialling := errors.AsType[*dialError](err)
	switch {
	case isContext(err) && ctxErr == nil && dialFailed(err):
		// Another command's deadline, or the dialer's own timeout, which calls itself context.DeadlineExceeded.
		return driver.NotSent(fmt.Errorf("%w (%s)", errForeign, err.Error())) // not its context error: that was somebody else's
	case isContext(err) && ctxErr == nil:
		// The client keeps a context error only in connections that broke while dialing, or while a single command used
		// them unpipelined. Nothing else had been written to them.
		return driver.NotSent(errForeign)
	case isContext(err) && dialling:
		return driver.NotSent(ctxErr)
	case isContext(err):
		return driver.Unknown(ctxErr)
	case notSent(err):
		if ctxErr != nil {
			return driver.NotSent(fmt.Errorf("%w while connecting: %w", ctxErr, plain(err)))
		}
		return driver.NotSent(plain(err))
	case ctxErr != nil:
		return driver.Unknown(fmt.Errorf("%w: %w", ctxErr, plain(err)))
	}
	return driver.Unknown(plain(err))
}

// ended returns ctx.Err() after a timeout that may be that of ctx. The clock of a connection can be early; whoever is told
// of a deadline is to find its context over when it looks.
func ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= clockSlack {
		<-ctx.Done()
	}
	return ctx.Err()
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// dialFailed reports whether a client's own dialer failed.
func dialFailed(err error) bool {
	e, ok := errors.AsType[*net.OpError](err)
	return ok && e.Op == "dial"
}

// notSent reports whether err shows that no connection was ready, so that no command left.
func notSent(err error) bool {
	if _, ok := errors.AsType[*dialError](err); ok {
		return true
	}
	if dialFailed(err) {
		return true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return true
	}
	// An error reply in the place of a transport error answered the handshake (WRONGPASS) or a look at the topology.
	if _, ok := rueidis.IsRedisErr(err); ok {
		return true
	}
	return errors.Is(err, rueidis.ErrNoSlot) || errors.Is(err, rueidis.ErrNoAddr) || errors.Is(err, rueidis.ErrNoCache)
}

// plain replaces the client's own error types and sentinels.
func plain(err error) error {
	if e, ok := rueidis.IsRedisErr(err); ok {
		return handshakeError(e)
	}
	switch {
	case errors.Is(err, rueidis.ErrClosing), errors.Is(err, rueidis.ErrDedicatedClientRecycled):
		return errConnClosed
	case errors.Is(err, rueidis.ErrNoSlot):
		return driver.NewServerError("CLUSTERDOWN no node is known to serve the slot")
	case errors.Is(err, rueidis.ErrNoAddr):
		return errors.New("no server could be reached")
	case errors.Is(err, rueidis.ErrNoCache):
		return errors.New("the server refuses CLIENT TRACKING; a rueidis client for it needs ClientOption.DisableCache")
	}
	return err
}

// handshakeError restores the text of an error reply of which only the client's shortened form is left.
func handshakeError(e *rueidis.RedisError) *driver.ServerError {
	text := e.Error()
	if text == "DB index is out of range" || len(text) > 8 && text[:8] == "invalid " {
		text = "ERR " + text
	}
	return driver.NewServerError(text)
}

// transport reports whether a reply is a failure to get one, other than by the caller's context or a closed driver.
func transport(r driver.Reply) bool {
	if r.Kind() != driver.KindError {
		return false
	}
	e, ok := r.Err().(*driver.OpError)
	if !ok || isContext(e.Err) {
		return false
	}
	_, answered := errors.AsType[*driver.ServerError](e.Err)
	return !answered
}
