package core

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Option configures a [Client].
type Option interface{ apply(*config) }

type option func(*config)

func (f option) apply(c *config) { f(c) }

type config struct {
	name     string
	prefix   string
	hooks    []*Hook
	logger   *slog.Logger
	timeout  time.Duration
	breaker  BreakerConfig
	noBreak  bool
	noBatch  bool
	nilHooks int
}

func defaults() config {
	return config{
		name:    "default",
		logger:  slog.New(slog.DiscardHandler),
		timeout: DefaultCommandTimeout,
		breaker: BreakerConfig{Failures: 5, ProbeInterval: 100 * time.Millisecond, MaxProbeInterval: 500 * time.Millisecond},
	}
}

// DefaultCommandTimeout is how long a command may take unless [WithCommandTimeout] says otherwise.
const DefaultCommandTimeout = 500 * time.Millisecond

// WithName names the client in hooks, metrics and logs. The default is "default". 1 to 128 bytes of letters, digits and
// . _ - / :
func WithName(name string) Option { return option(func(c *config) { c.name = name }) }

// WithKeyPrefix puts a prefix before every key that plugins build, such as "shop:". The default is none; up to 128 bytes of
// letters, digits and . _ - / : are allowed. Commands given to Do are sent as they are.
func WithKeyPrefix(prefix string) Option { return option(func(c *config) { c.prefix = prefix }) }

// WithHook adds a hook; see [Hook]. It may be given several times.
func WithHook(h *Hook) Option {
	return option(func(c *config) {
		if h == nil {
			c.nilHooks++
			return
		}
		c.hooks = append(c.hooks, h)
	})
}

// WithLogger sets the logger for what an operator should know: the breaker opening and closing. The default discards.
func WithLogger(l *slog.Logger) Option {
	return option(func(c *config) {
		if l != nil {
			c.logger = l
		}
	})
}

// WithCommandTimeout bounds every command and pipeline: it takes no longer than d, even if its context allows more, waiting
// for a connection included. When it passes, the error is context.DeadlineExceeded and ErrUnavailable, and for a command
// that was under way ErrUnknownOutcome. The deadline may come up to 1/32 of d later, at most 10 ms, since callers share
// timers. Blocking commands are exempt: their context alone ends them. The default is 500 ms, the least 1 ms.
// [Client.WithTimeout] gives another limit to some calls.
func WithCommandTimeout(d time.Duration) Option { return option(func(c *config) { c.timeout = d }) }

// BreakerConfig configures the circuit breaker. A field that is zero keeps its default.
type BreakerConfig struct {
	// Failures is how many commands or batches in a row have to fail before the breaker opens. Only failures to get an
	// answer count (refused, broken, timed out, LOADING, CLUSTERDOWN, …), not error replies to a wrong command. The end of a
	// caller's own context says nothing of the server either; but after as many of them in a row, with no answer between,
	// a PING in the background gets the whole command timeout, and the breaker opens if that fails too. Default 5.
	Failures int
	// ProbeInterval is the time between the opening and the first PING in the background; the interval doubles with
	// each PING that fails, up to MaxProbeInterval, give or take a fifth. The first PING that is answered closes the
	// breaker. Defaults 100 ms and 500 ms: a server that is back is in use again within a second.
	ProbeInterval, MaxProbeInterval time.Duration
}

// WithBreaker configures the circuit breaker, which is on by default. In Cluster every node has its own.
func WithBreaker(b BreakerConfig) Option {
	return option(func(c *config) {
		c.noBreak = false
		if b.Failures != 0 {
			c.breaker.Failures = b.Failures
		}
		if b.ProbeInterval != 0 {
			c.breaker.ProbeInterval = b.ProbeInterval
		}
		if b.MaxProbeInterval != 0 {
			c.breaker.MaxProbeInterval = b.MaxProbeInterval
		}
	})
}

// WithoutBreaker switches the circuit breaker off: with a dead server every call waits for its own failure.
func WithoutBreaker() Option { return option(func(c *config) { c.noBreak = true }) }

// WithoutBatching switches group commit off: every command is a call of its own to the driver.
func WithoutBatching() Option { return option(func(c *config) { c.noBatch = true }) }

func (c *config) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("redisx: "+format, args...)) }
	if err := checkName("client name", c.name); err != nil {
		faults = append(faults, err)
	}
	if len(c.prefix) > 128 {
		fault("key prefix has %d bytes; want at most 128", len(c.prefix))
	} else if err := checkChars("key prefix", c.prefix); err != nil {
		faults = append(faults, err)
	}
	if c.nilHooks > 0 {
		fault("WithHook(nil)")
	}
	if c.timeout < time.Millisecond {
		fault("command timeout is %v; want at least 1ms", c.timeout)
	}
	if c.breaker.Failures < 1 {
		fault("breaker: Failures is %d; want at least 1", c.breaker.Failures)
	}
	if c.breaker.ProbeInterval < time.Millisecond || c.breaker.MaxProbeInterval < c.breaker.ProbeInterval {
		fault("breaker: ProbeInterval is %v and MaxProbeInterval %v; want at least 1ms, and the maximum not below",
			c.breaker.ProbeInterval, c.breaker.MaxProbeInterval)
	}
	return errors.Join(faults...)
}
