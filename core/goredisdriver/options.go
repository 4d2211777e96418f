package goredisdriver

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"time"
)

// Option changes how [Open] connects, beyond what the URL says.
type Option interface{ apply(*config) }

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

type config struct {
	tls         *tls.Config
	dialer      dialFunc
	credentials func(ctx context.Context) (user, password string, err error)
	stage       *atomic.Uint32
}

// Stages of opening: how far a TLS handshake has come with any server.
const (
	shaking uint32 = iota + 1
	shaken
)

type option func(*config)

func (o option) apply(c *config) { o(c) }

// WithTLSConfig sets the TLS configuration, in place of the parameters ca, cert, key and servername of the URL. It is
// cloned; an empty ServerName means the host that is dialled. It turns TLS on for any URL except unix://. The default is
// what the URL says; nil changes nothing.
func WithTLSConfig(t *tls.Config) Option {
	return option(func(c *config) {
		if t != nil {
			c.tls = t.Clone()
		}
	})
}

// WithDialer sets the function that opens network connections, to servers and Sentinels alike, for a proxy or a test.
// TLS, if any, is put on top. It must observe ctx. The default is a net.Dialer with keep-alive; nil changes nothing.
func WithDialer(dial func(ctx context.Context, network, addr string) (net.Conn, error)) Option {
	return option(func(c *config) {
		if dial != nil {
			c.dialer = dial
		}
	})
}

// WithCredentials sets a function that is asked for user and password whenever a connection is opened, in place of those
// in the URL, so that they can change. An empty user is the default user. It must observe ctx. It does not apply to the
// Sentinels themselves. The default is what the URL says; nil changes nothing.
func WithCredentials(f func(ctx context.Context) (user, password string, err error)) Option {
	return option(func(c *config) {
		if f != nil {
			c.credentials = f
		}
	})
}

// tuning holds the times that tests shorten.
type tuning struct {
	check  time.Duration // how often a subscription or tracking asks for a sign of life
	silent time.Duration // how long the answer may take
	verify time.Duration // how often the set of primaries is compared
	retry  time.Duration // first pause before connecting again
	most   time.Duration // longest such pause
}

var defaultTuning = tuning{
	check: 1500 * time.Millisecond, silent: 2500 * time.Millisecond, verify: time.Second,
	retry: 50 * time.Millisecond, most: 500 * time.Millisecond,
}
