package rueidisdriver

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"github.com/redis/rueidis"
)

// Option changes how [Open] connects.
type Option interface{ apply(*config) }

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

type config struct {
	tls     *tls.Config
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	client  func(*rueidis.ClientOption)
	invalid []error
	heard   heard
}

// WithTLSConfig sets the TLS configuration: certificates from memory, verification of your own. It turns TLS on whatever
// the URL says, and replaces the URL's ca, cert, key and servername. Without a ServerName the host that is dialled is
// verified. The default is what the URL says. A nil config is an error.
func WithTLSConfig(cfg *tls.Config) Option {
	return optionFunc(func(c *config) {
		if cfg == nil {
			c.invalid = append(c.invalid, errors.New("WithTLSConfig: config is nil"))
			return
		}
		c.tls = cfg.Clone()
	})
}

// WithDialer sets how connections are made, for a proxy, a tunnel or a test. The network is "tcp" or "unix"; TLS is added on
// top. The function must return when its ctx ends, which is at the URL's dial_timeout at the latest. The default is a
// net.Dialer. A nil function is an error.
func WithDialer(dial func(ctx context.Context, network, addr string) (net.Conn, error)) Option {
	return optionFunc(func(c *config) {
		if dial == nil {
			c.invalid = append(c.invalid, errors.New("WithDialer: function is nil"))
			return
		}
		c.dial = dial
	})
}

// WithClientOption has f change the options of the rueidis client before it is made, for what the URL has no word for:
// MaxFlushDelay, PipelineMultiplex, RingScaleEachConn, AuthCredentialsFn. What the URL and the promises of package driver
// decide is set after it and cannot be changed: addresses, kind of deployment, protocol, retries, cache, TLS, replicas and
// how to dial. By default nothing is changed. A nil function is an error.
func WithClientOption(f func(*rueidis.ClientOption)) Option {
	return optionFunc(func(c *config) {
		if f == nil {
			c.invalid = append(c.invalid, errors.New("WithClientOption: function is nil"))
			return
		}
		c.client = f
	})
}
