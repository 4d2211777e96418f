package chaos

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// ErrInjected is in every failure to get a reply that this package made. Error replies do not carry it: they are what a
// server sends, a *driver.ServerError.
var ErrInjected = errors.New("injected by chaos")

var (
	errRefused     = fmt.Errorf("%w: %w", ErrInjected, syscall.ECONNREFUSED)
	errRequestLost = fmt.Errorf("%w: request lost: %w", ErrInjected, syscall.ECONNRESET)
	errReplyLost   = fmt.Errorf("%w: reply lost: %w", ErrInjected, io.ErrUnexpectedEOF)
	errBroken      = fmt.Errorf("%w: the connection broke earlier", ErrInjected)
	errLost        = fmt.Errorf("%w: subscription lost: %w", ErrInjected, io.ErrUnexpectedEOF)
)

// Texts of error replies, as servers send them, for [Match.Reply]. In a script the first word stands for the whole.
const (
	Loading     = "LOADING Redis is loading the dataset in memory"
	Busy        = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
	ReadOnly    = "READONLY You can't write against a read only replica."
	MasterDown  = "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."
	ClusterDown = "CLUSTERDOWN The cluster is down"
	TryAgain    = "TRYAGAIN Multiple keys request during rehashing of slot"
	Moved       = "MOVED 3999 127.0.0.1:1" // leads nowhere
	NoScript    = "NOSCRIPT No matching script. Please use EVAL."
	OOM         = "OOM command not allowed when used memory > 'maxmemory'."
	Misconf     = "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk."
	NoReplicas  = "NOREPLICAS Not enough good replicas to write."
	NoPerm      = "NOPERM User default has no permissions to run this command"
	NoAuth      = "NOAUTH Authentication required."
)

var texts = []string{
	Loading, Busy, ReadOnly, MasterDown, ClusterDown, TryAgain, Moved, NoScript, OOM, Misconf, NoReplicas, NoPerm, NoAuth,
}

// fullText is the text for a word of a script: that of a known code, otherwise the word itself.
func fullText(word string) string {
	for _, t := range texts {
		if code, _, _ := strings.Cut(t, " "); code == word {
			return t
		}
	}
	return word
}

type kind uint8

const (
	noFault kind = iota
	latency
	reply
	refuse
	loseRequest
	loseReply
	duplicate
	hang
	hangReply
	reset
	cut
	loseSubscription
	loseInvalidation
	bugRetry
	bugIgnoreCancel
	bugSilentGap
)

var kindNames = [...]string{
	"no fault", "latency", "reply", "refuse", "lose-request", "lose-reply", "duplicate", "hang", "hang-reply", "reset", "cut",
	"lose-subscription", "lose-invalidation", "bug-retry", "bug-ignore-cancel", "bug-silent-gap",
}

func (k kind) String() string { return kindNames[k] }

// terminal reports whether a command has room for one such fault only.
func (k kind) terminal() bool { return k != latency && k != bugRetry && k != bugIgnoreCancel }

// gap reports whether the fault is about messages or invalidations, with a number of them.
func (k kind) gap() bool { return k == loseSubscription || k == loseInvalidation || k == bugSilentGap }

// fault is what happens.
type fault struct {
	kind     kind
	text     string        // of an error reply
	min, max time.Duration // of latency, the same unless it is drawn; min alone of bugIgnoreCancel
	drop     int           // how many messages, or bytes before the cut
}

func (f fault) String() string {
	switch {
	case f.kind == latency && f.min != f.max:
		return fmt.Sprintf("%s %s..%s", f.kind, f.min, f.max)
	case f.kind == latency || f.kind == bugIgnoreCancel:
		return fmt.Sprintf("%s %s", f.kind, f.min)
	case f.kind == reply:
		return fmt.Sprintf("%s %s", f.kind, strconv.Quote(f.text))
	case f.kind.gap() || f.kind == cut:
		return fmt.Sprintf("%s %d", f.kind, f.drop)
	}
	return f.kind.String()
}

// check returns what is wrong with the fault by itself.
func (f fault) check() string {
	switch {
	case f.kind == noFault:
		return "no fault; end the rule with one"
	case f.kind == latency && (f.min < 0 || f.max <= 0 || f.max < f.min):
		return fmt.Sprintf("latency from %s to %s; want more than 0, the smaller first", f.min, f.max)
	case f.kind == bugIgnoreCancel && f.min <= 0:
		return fmt.Sprintf("bug-ignore-cancel %s; want more than 0", f.min)
	case f.kind == reply && strings.Trim(f.text, "- ") == "":
		return "reply without a text"
	case f.kind == reply && strings.ContainsAny(f.text, "\r\n"):
		return fmt.Sprintf("reply %q has a line break; an error reply is one line", f.text)
	case f.kind == cut && f.drop < 0:
		return fmt.Sprintf("cut %d; want from 0 on the bytes of the reply that arrive", f.drop)
	case f.kind.gap() && f.drop < 1:
		return fmt.Sprintf("%s %d; want at least 1 to be dropped", f.kind, f.drop)
	}
	return ""
}

// transport reports whether a reply is a failure to get one.
func transport(r driver.Reply) bool {
	err := r.Err()
	if err == nil {
		return false
	}
	_, ok := errors.AsType[*driver.ServerError](err)
	return !ok
}
