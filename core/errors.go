package core

import (
	"context"
	"errors"
	"strings"

	"github.com/go-redisx/redisx/core/driver"
)

var (
	// ErrUnavailable is the one question a plugin asks to apply its failure policy: errors.Is(err, ErrUnavailable) holds
	// if Redis cannot serve the command at present, for whatever reason other than the command itself: connection lost or
	// refused, deadline passed, breaker open, client closed, LOADING, BUSY, CLUSTERDOWN, MASTERDOWN, READONLY during a
	// failover, redirections without end, and the refusals to write OOM, MISCONF and NOREPLICAS. It does not hold if the
	// caller cancelled, and not for missing permissions (NOPERM, NOAUTH) or mistakes (WRONGTYPE, ERR).
	ErrUnavailable = errors.New("redisx: redis is unavailable")

	// ErrUnknownOutcome marks a failure after the command may have been sent: it may or may not have been applied.
	ErrUnknownOutcome = driver.ErrUnknownOutcome
	// ErrNotSent marks a failure before the command was sent: it certainly was not applied.
	ErrNotSent = driver.ErrNotSent
	// ErrClosed is returned after Close.
	ErrClosed = driver.ErrClosed
	// ErrNil is returned by the accessors of a reply that is null. It is not a failure: see driver.Reply.IsNil.
	ErrNil = driver.ErrNil
	// ErrBreakerOpen is returned, without any I/O, while the circuit breaker is open. It is also ErrUnavailable and ErrNotSent.
	ErrBreakerOpen error = &Error{Class: ClassBreakerOpen, Err: breakerOpen{}}
)

type breakerOpen struct{}

func (breakerOpen) Error() string        { return "redisx: circuit breaker is open" }
func (breakerOpen) Is(target error) bool { return target == ErrNotSent }

// Class sorts errors by what can be done about them. Metrics use its name as a label.
type Class uint8

// The classes. Those marked (*) are ErrUnavailable.
const (
	ClassNone           Class = iota // no error
	ClassCanceled                    // the caller's context was cancelled, or ended a blocking command that found nothing
	ClassTimeout                     // (*) a deadline passed: the caller's, or the command timeout
	ClassNotSent                     // (*) no connection
	ClassUnknownOutcome              // (*) the connection broke before the reply came
	ClassBreakerOpen                 // (*) not tried: the breaker is open
	ClassClosed                      // (*) the client is closed
	ClassLoading                     // (*) LOADING: the server reads its data set
	ClassBusy                        // (*) BUSY: a script has been running for too long
	ClassReadOnly                    // (*) READONLY: not a primary (any more)
	ClassMasterDown                  // (*) MASTERDOWN: a replica without its primary
	ClassClusterDown                 // (*) CLUSTERDOWN: slots without a primary, or no majority
	ClassMoved                       // (*) MOVED, ASK or TRYAGAIN after redirections were followed in vain
	ClassOOM                         // (*) OOM: maxmemory reached and nothing to evict
	ClassNotDurable                  // (*) MISCONF, NOREPLICAS: writes are refused by configuration
	ClassTooManyClients              // (*) maxclients reached
	ClassNoScript                    // NOSCRIPT in spite of sending the source
	ClassDenied                      // NOPERM, NOAUTH, WRONGPASS, DENIED
	ClassServer                      // any other error reply: the command is wrong for this key or this server
	ClassOther                       // not from Redis: an invalid command, a reply of the wrong type
)

var classNames = [...]string{
	"none", "canceled", "timeout", "not_sent", "unknown_outcome", "breaker_open", "closed", "loading", "busy", "readonly",
	"masterdown", "clusterdown", "moved", "oom", "not_durable", "too_many_clients", "noscript", "denied", "server", "other",
}

// String returns the class in lower case with underscores.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return "invalid"
}

// Unavailable reports whether errors of the class are ErrUnavailable.
func (c Class) Unavailable() bool { return c >= ClassTimeout && c <= ClassTooManyClients }

// dead reports whether errors of the class say that the node answers nobody: what the breaker counts. A refusal to write
// leaves reads, and a READONLY replica is about to become known as one.
func (c Class) dead() bool {
	switch c {
	case ClassTimeout, ClassNotSent, ClassUnknownOutcome, ClassLoading, ClassMasterDown, ClassClusterDown, ClassTooManyClients:
		return true
	}
	return false
}

// answered reports whether an error is an answer of the server. CROSSSLOT may be the driver's own word.
func answered(err error) bool {
	code := Code(err)
	return code != "" && code != "CROSSSLOT"
}

var classByCode = map[string]Class{
	"LOADING": ClassLoading, "BUSY": ClassBusy, "READONLY": ClassReadOnly, "MASTERDOWN": ClassMasterDown,
	"CLUSTERDOWN": ClassClusterDown, "MOVED": ClassMoved, "ASK": ClassMoved, "TRYAGAIN": ClassMoved, "OOM": ClassOOM,
	"MISCONF": ClassNotDurable, "NOREPLICAS": ClassNotDurable, "NOSCRIPT": ClassNoScript, "NOPERM": ClassDenied,
	"NOAUTH": ClassDenied, "WRONGPASS": ClassDenied, "DENIED": ClassDenied,
}

// Classify returns the class of an error of this toolkit, ClassNone for nil.
func Classify(err error) Class {
	if err == nil {
		return ClassNone
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	if s, ok := errors.AsType[*driver.ServerError](err); ok {
		if c, ok := classByCode[s.Code()]; ok {
			return c
		}
		if strings.HasPrefix(s.Error(), "ERR max number of clients") {
			return ClassTooManyClients
		}
		return ClassServer
	}
	switch {
	case errors.Is(err, driver.ErrInvalid):
		return ClassOther
	case errors.Is(err, ErrClosed):
		return ClassClosed
	case errors.Is(err, context.Canceled):
		return ClassCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return ClassTimeout
	}
	if op, ok := errors.AsType[*driver.OpError](err); ok {
		switch {
		case op.Timeout():
			return ClassTimeout
		case op.Sent:
			return ClassUnknownOutcome
		}
		return ClassNotSent
	}
	return ClassOther
}

// Code returns the code of an error reply, such as "WRONGTYPE", and "" for any other error.
func Code(err error) string {
	if s, ok := errors.AsType[*driver.ServerError](err); ok {
		return s.Code()
	}
	return ""
}

// Error is what a failed command of a [Client] returns: the cause with its class. It unwraps to the cause and is
// ErrUnavailable if its class is.
type Error struct {
	// Command is the name of the command, or of its script.
	Command string
	Class   Class
	Err     error
}

// Error names the command and the cause. Neither keys nor values are in it.
func (e *Error) Error() string {
	if e.Command == "" {
		return e.Err.Error()
	}
	return "redisx: " + e.Command + ": " + trimPrefix(e.Err.Error())
}

func trimPrefix(s string) string {
	const p = "redisx: "
	if len(s) > len(p) && s[:len(p)] == p {
		return s[len(p):]
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether the target is ErrUnavailable and the class says so.
func (e *Error) Is(target error) bool { return target == ErrUnavailable && e.Class.Unavailable() }

// ErrorType returns the code of an error reply, or the name of the class; OpenTelemetry uses it as error.type.
func (e *Error) ErrorType() string {
	if code := Code(e.Err); code != "" {
		return code
	}
	return e.Class.String()
}

// commandName is the name that errors and hooks show: that of the script, or of the command.
func commandName(cmd *driver.Cmd) string {
	if cmd.Script != nil && cmd.Script.Name() != "" {
		return cmd.Script.Name()
	}
	return cmd.Name()
}

// classified returns the reply with its error, if it has one, as an *Error.
func classified(r driver.Reply, cmd *driver.Cmd) driver.Reply {
	err := r.Err()
	if err == nil {
		return r
	}
	if _, ok := err.(*Error); ok {
		return r
	}
	return driver.ErrReply(classifiedErr(err, commandName(cmd)))
}

func classifiedErr(err error, name string) error {
	if _, ok := err.(*Error); ok {
		return err
	}
	if errors.Is(err, driver.ErrInvalid) {
		err = driver.NotSent(err) // whoever refused it
	}
	return &Error{Command: name, Class: Classify(err), Err: err}
}
