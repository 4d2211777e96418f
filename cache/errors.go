package cache

import (
	"errors"
	"fmt"
	"sort"
	"strings"
)

var (
	// ErrNotFound says that what was asked for does not exist. A loader returns it (wrapped, if it likes) and the cache keeps
	// that as a negative entry, for [WithNegativeTTL]; calls that find such an entry return it.
	ErrNotFound = errors.New("redisx: cache: not found")
	// ErrClosed is returned after [Cache.Close].
	ErrClosed = errors.New("redisx: cache: closed")
	// ErrLoadTimeout is returned to a caller who waited for a load for as long as [WithLoadTimeout] allows.
	ErrLoadTimeout = errors.New("redisx: cache: load timed out")
	// ErrQueued says that Redis could not be reached and that the invalidation waits in the process until it can: this
	// process already treats it as done, others do not know of it yet. The cause is in the error too.
	ErrQueued = errors.New("redisx: cache: redis is unavailable; the invalidation is queued")
	// ErrNoRemote is returned for what needs Redis while the cache runs without: see [WithoutRemote] and [Cache.SetMode].
	ErrNoRemote = errors.New("redisx: cache: no redis in this mode")
)

// PanicError is what every caller who waited for a load gets if the loader panicked or ended its goroutine. The lease is
// released: the next caller loads again.
type PanicError struct {
	// Value is what the loader panicked with.
	Value any
	// Stack is the stack of the loader's goroutine at that time.
	Stack []byte
}

// Error shows the value, not the stack.
func (e *PanicError) Error() string {
	return fmt.Sprintf("redisx: cache: loader panicked: %v", e.Value)
}

// Unwrap returns the value the loader panicked with, if that was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// BatchError tells what failed of a batch; the rest of it succeeded. It unwraps to each error once, so that errors.Is and
// errors.As work.
type BatchError[K comparable] struct {
	// Errors holds the error of every key that failed.
	Errors map[K]error
}

// Error counts the failures and shows at most three different ones. It shows no keys: they may hold personal data.
func (e *BatchError[K]) Error() string {
	seen := map[string]int{}
	for _, err := range e.Errors {
		seen[err.Error()]++
	}
	texts := make([]string, 0, len(seen))
	for text := range seen {
		texts = append(texts, text)
	}
	sort.Slice(texts, func(i, j int) bool {
		if seen[texts[i]] != seen[texts[j]] {
			return seen[texts[i]] > seen[texts[j]]
		}
		return texts[i] < texts[j]
	})
	more := ""
	if len(texts) > 3 {
		texts, more = texts[:3], "; …"
	}
	return fmt.Sprintf("redisx: cache: %d keys failed: %s%s", len(e.Errors), strings.Join(texts, "; "), more)
}

// Unwrap returns the errors, each once.
func (e *BatchError[K]) Unwrap() []error {
	var out []error
	seen := map[string]bool{}
	for _, err := range e.Errors {
		if text := err.Error(); !seen[text] {
			seen[text] = true
			out = append(out, err)
		}
	}
	return out
}
