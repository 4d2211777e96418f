package core

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/go-redisx/redisx/core/driver"
)

func TestErrorsAreClassified(t *testing.T) {
	server := func(text string) error { return driver.NewServerError(text) }
	for _, c := range []struct {
		err         error
		class       Class
		unavailable bool
		is          error
	}{
		{driver.ErrClosed, ClassClosed, true, ErrNotSent},
		{driver.NotSent(context.Canceled), ClassCanceled, false, context.Canceled},
		{driver.Unknown(context.Canceled), ClassCanceled, false, ErrUnknownOutcome},
		{driver.Unknown(context.DeadlineExceeded), ClassTimeout, true, context.DeadlineExceeded},
		{driver.Unknown(os.ErrDeadlineExceeded), ClassTimeout, true, ErrUnknownOutcome},
		{driver.Unknown(io.EOF), ClassUnknownOutcome, true, io.EOF},
		{driver.NotSent(io.EOF), ClassNotSent, true, ErrNotSent},
		{server("LOADING Redis is loading the dataset in memory"), ClassLoading, true, nil},
		{server("BUSY Redis is busy"), ClassBusy, true, nil},
		{server("READONLY You can't write"), ClassReadOnly, true, nil},
		{server("MASTERDOWN Link"), ClassMasterDown, true, nil},
		{server("CLUSTERDOWN The cluster is down"), ClassClusterDown, true, nil},
		{server("MOVED 1 h:1"), ClassMoved, true, nil},
		{server("ASK 1 h:1"), ClassMoved, true, nil},
		{server("TRYAGAIN x"), ClassMoved, true, nil},
		{server("OOM command not allowed"), ClassOOM, true, nil},
		{server("MISCONF x"), ClassNotDurable, true, nil},
		{server("NOREPLICAS x"), ClassNotDurable, true, nil},
		{server("ERR max number of clients reached"), ClassTooManyClients, true, nil},
		{server("NOSCRIPT x"), ClassNoScript, false, nil},
		{server("NOPERM x"), ClassDenied, false, nil},
		{server("NOAUTH x"), ClassDenied, false, nil},
		{server("WRONGPASS x"), ClassDenied, false, nil},
		{server("WRONGTYPE x"), ClassServer, false, nil},
		{server("unknown command"), ClassServer, false, nil},
		{driver.ErrNil, ClassOther, false, nil},
		{driver.NotSent(driver.Cmd{}.Check()), ClassOther, false, driver.ErrInvalid},
		{driver.Cmd{Args: []string{"psubscribe", "x"}}.Check(), ClassOther, false, driver.ErrInvalid},
		{driver.Cmd{Args: []string{"CLIENT", "reply", "OFF"}}.Check(), ClassOther, false, driver.ErrInvalid},
		{driver.Cmd{Args: []string{"GET", "k"}, Keys: driver.Key(2)}.Check(), ClassOther, false, driver.ErrInvalid},
		{ErrBreakerOpen, ClassBreakerOpen, true, ErrNotSent},
	} {
		err := classifiedErr(c.err, "GET")
		wrapped := fmt.Errorf("locks: %w", err)
		if got := Classify(wrapped); got != c.class {
			t.Errorf("%v: class %v; want %v", c.err, got, c.class)
		}
		if errors.Is(wrapped, ErrUnavailable) != c.unavailable {
			t.Errorf("%v: ErrUnavailable %v; want %v", c.err, !c.unavailable, c.unavailable)
		}
		if c.is == driver.ErrInvalid && !errors.Is(wrapped, ErrNotSent) {
			t.Errorf("%v is not ErrNotSent", c.err)
		}
		if c.is != nil && !errors.Is(wrapped, c.is) {
			t.Errorf("%v is not %v", c.err, c.is)
		}
		if errors.Is(wrapped, ErrNotSent) && errors.Is(wrapped, ErrUnknownOutcome) {
			t.Errorf("%v is both not sent and of unknown outcome", c.err)
		}
	}
	if Classify(nil) != ClassNone {
		t.Error("nil has a class")
	}
}

func TestServerErrorsKeepTextAndCode(t *testing.T) {
	for text, want := range map[string][2]string{
		"WRONGTYPE Operation":     {"WRONGTYPE", "WRONGTYPE Operation"},
		"-ERR wrong":              {"ERR", "ERR wrong"},
		"unknown command 'x'":     {"ERR", "ERR unknown command 'x'"},
		"Redis is busy":           {"ERR", "ERR Redis is busy"},
		"EXECABORT":               {"EXECABORT", "EXECABORT"},
		"MY_CODE2 text":           {"MY_CODE2", "MY_CODE2 text"},
		"":                        {"ERR", "ERR"},
		"A single letter no code": {"ERR", "ERR A single letter no code"},
	} {
		e := driver.NewServerError(text)
		if e.Code() != want[0] || e.Error() != want[1] {
			t.Errorf("%q: code %q, text %q; want %q", text, e.Code(), e.Error(), want)
		}
	}
}

func TestErrorTypeIsTheCodeOrTheClass(t *testing.T) {
	for want, err := range map[string]error{
		"WRONGTYPE": driver.NewServerError("WRONGTYPE x"), "timeout": driver.Unknown(context.DeadlineExceeded), "closed": driver.ErrClosed,
	} {
		e, ok := errors.AsType[*Error](classifiedErr(err, "GET"))
		if !ok || e.ErrorType() != want {
			t.Errorf("%v: type %q; want %q", err, e.ErrorType(), want)
		}
	}
}
