package goredisdriver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

// States of a call: whether its command has been handed to a connection.
const (
	callNew       uint32 = iota
	callSent             // may have been written
	callAbandoned        // its caller left before it was written, and it never will be
)

// call is a command on its way through go-redis. It embeds a command type of go-redis that is never retried and copies the
// raw reply to a writer; the writer is a sink, which builds the reply while it arrives.
type call struct {
	*redis.RawWriteToCmd
	args  []any         // *string each: go-redis writes them without a boxing allocation
	reply *driver.Reply // filled in by the sink
	state atomic.Uint32
}

// newCommand returns what a call embeds. Its ctx is never used: go-redis is given that of each use.
func newCommand(to *sink) *redis.RawWriteToCmd {
	return redis.NewRawWriteToCmd(context.Background(), to)
}

// set readies a call. args has room for as many pointers; the strings are read when the command is written.
func (c *call) set(cmd []string, args []any, reply *driver.Reply) {
	for i := range cmd {
		args = append(args, &cmd[i])
	}
	c.args, c.reply = args, reply
	c.state.Store(callNew)
}

// reset forgets the command, so that the call can be used again.
func (c *call) reset() {
	c.SetErr(nil)
	c.args, c.reply = nil, nil
}

var noCommand = []any{"PING"}

// Args is what go-redis writes. It is called right before that (and by hooks of the application, perhaps earlier), so
// that a call whose Args were never asked for is certainly not sent. A call that was given up before sends a PING in
// its place: the caller has been told that nothing happens.
func (c *call) Args() []any {
	if c.state.CompareAndSwap(callNew, callSent) || c.state.Load() == callSent {
		return c.args
	}
	return noCommand
}

// abandon reports whether the command may have been sent; if not, it will not be.
func (c *call) abandon() (sent bool) {
	return !c.state.CompareAndSwap(callNew, callAbandoned)
}

// Name is the command in lower case, for hooks.
func (c *call) Name() string { return strings.ToLower(*c.args[0].(*string)) }

// FullName is Name, for hooks.
func (c *call) FullName() string { return c.Name() }

// String is Name, for hooks: arguments may be secrets.
func (c *call) String() string { return c.Name() }

// Err is the error of the reply, for hooks.
func (c *call) Err() error {
	if err := c.RawWriteToCmd.Err(); err != nil {
		return err
	}
	return c.reply.Err()
}

// failure is why the call has no reply.
func (c *call) failure(ctx context.Context, err error) error {
	if own := c.RawWriteToCmd.Err(); own != nil {
		err = own
	}
	return fault(ctx, err, c.state.Load() == callSent)
}

// errStale makes go-redis drop the connection a complete reply came from.
var errStale = errors.New("redisx: connection to a server that is no primary")

// readOnly reports whether a server that is no primary gave a reply, itself or from within a script.
func readOnly(r driver.Reply) bool {
	e, ok := r.Err().(*driver.ServerError)
	return ok && (e.Code() == "READONLY" || strings.Contains(e.Error(), "-READONLY "))
}

// sink receives the raw replies to the commands of a pipeline, one after the other: a line, CRLF, and for strings the
// payload, which arrives by ReadFrom.
type sink struct {
	b       builder
	replies []driver.Reply // where they go
	next    int            // how many are there
	n       int            // length of the payload that is due
	state   sinkState
	stale   bool // a server that is no primary answered
}

func (s *sink) reset(replies []driver.Reply) {
	s.replies, s.next, s.state, s.stale = replies, 0, wantLine, false
	if len(replies) > 0 {
		s.b.reset(&replies[0])
	}
}

type sinkState uint8

const (
	wantLine sinkState = iota
	wantEnd
	wantPayload
)

// Write takes a line or the CRLF behind it.
func (s *sink) Write(p []byte) (int, error) {
	switch s.state {
	case wantLine:
		n, err := s.b.line(p)
		if err == nil && s.b.push {
			err = fmt.Errorf("%w: push instead of a reply", errProtocol)
		}
		if err != nil {
			return 0, err
		}
		s.n, s.state = n, wantEnd
	case wantEnd:
		if s.n >= 0 {
			s.state = wantPayload
			break
		}
		s.state = wantLine
		if err := s.verdict(); err != nil {
			return 0, err
		}
	default:
		return 0, errProtocol
	}
	return len(p), nil
}

// ReadFrom takes a payload. A short count makes io.CopyN report the error even though all bytes were read.
func (s *sink) ReadFrom(r io.Reader) (int64, error) {
	if s.state != wantPayload {
		return 0, errProtocol
	}
	if l, ok := r.(*io.LimitedReader); ok && l.N == int64(s.n)+2 {
		r = l.R // what is read is the same, with fewer calls
	}
	str, err := readPayload(r, s.n)
	if err != nil {
		return 0, err
	}
	if err := s.b.payload(str); err != nil {
		return 0, err
	}
	s.state = wantLine
	if err := s.verdict(); err != nil {
		return int64(s.n), err
	}
	return int64(s.n) + 2, nil
}

// verdict looks at a complete reply. go-redis drops a connection on READONLY, so that a client behind a DNS name or a
// Sentinel finds the new primary, but raw replies hide errors from it. So the last reply of the pipeline, when nothing is
// left to read, comes with an error.
func (s *sink) verdict() error {
	if !s.b.done {
		return nil
	}
	if s.next == len(s.replies) {
		return errProtocol // a reply nobody asked for
	}
	if s.replies[s.next].Kind() == driver.KindError {
		s.stale = s.stale || readOnly(s.replies[s.next])
	}
	s.next++
	if s.next < len(s.replies) {
		s.b.reset(&s.replies[s.next])
	} else if s.stale {
		return errStale
	}
	return nil
}
