package driver

import (
	"context"
	"errors"
	"strings"
)

var (
	// ErrNotSent marks a failure before the command left: the server certainly did not run it.
	ErrNotSent = errors.New("redisx: not sent")
	// ErrUnknownOutcome marks a failure after the command may have left: the server may or may not have run it.
	ErrUnknownOutcome = errors.New("redisx: outcome unknown")
	// ErrClosed is what every call returns after Close. It is also ErrNotSent.
	ErrClosed error = closedError{}
)

type closedError struct{}

func (closedError) Error() string        { return "redisx: client is closed" }
func (closedError) Is(target error) bool { return target == ErrNotSent }

// ServerError is an error reply of the server.
type ServerError struct {
	code, text string
}

// NewServerError returns the error for the text of an error reply, with or without its leading "-". The code is the first
// word if it looks like one (capitals, digits, underscore), otherwise ERR, which is then put in front as servers do.
func NewServerError(text string) *ServerError {
	text = strings.TrimPrefix(text, "-")
	word, _, _ := strings.Cut(text, " ")
	if !isCode(word) {
		return &ServerError{code: "ERR", text: strings.TrimSpace("ERR " + text)}
	}
	return &ServerError{code: word, text: text}
}

func isCode(word string) bool {
	if len(word) < 2 || word[0] < 'A' || word[0] > 'Z' {
		return false
	}
	for i := 1; i < len(word); i++ {
		c := word[i]
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// Code returns the first word: ERR, WRONGTYPE, NOSCRIPT, … Branch on it: the rest of the text differs between servers.
func (e *ServerError) Code() string { return e.code }

// Error returns the whole text as the server sent it.
func (e *ServerError) Error() string { return e.text }

// ErrorType returns the code; OpenTelemetry uses it as error.type.
func (e *ServerError) ErrorType() string { return e.code }

// OpError is a failure to get a reply. It unwraps to its cause and to [ErrNotSent] or [ErrUnknownOutcome].
type OpError struct {
	// Sent is true if the command may have reached the server.
	Sent bool
	// Err is the cause: a context error, a network error, io.EOF, …
	Err error
}

// NotSent wraps the cause of a failure before sending. It returns nil for nil and leaves an OpError as it is.
func NotSent(err error) error { return opError(err, false) }

// Unknown wraps the cause of a failure that leaves the outcome unknown. It returns nil for nil and leaves an OpError as it is.
func Unknown(err error) error { return opError(err, true) }

func opError(err error, sent bool) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*OpError](err); ok || errors.Is(err, ErrClosed) {
		return err
	}
	return &OpError{Sent: sent, Err: err}
}

// Error says what happened and what is known of the command.
func (e *OpError) Error() string {
	if e.Sent {
		return "redisx: outcome unknown: " + e.Err.Error()
	}
	return "redisx: not sent: " + e.Err.Error()
}

// Unwrap returns the cause and the mark.
func (e *OpError) Unwrap() []error {
	if e.Sent {
		return []error{e.Err, ErrUnknownOutcome}
	}
	return []error{e.Err, ErrNotSent}
}

// Timeout reports whether the cause is a deadline, as net.Error does.
func (e *OpError) Timeout() bool {
	if errors.Is(e.Err, context.DeadlineExceeded) {
		return true
	}
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](e.Err)
	return ok && t.Timeout()
}
