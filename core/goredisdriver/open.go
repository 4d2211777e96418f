package goredisdriver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// Open connects to the servers a URL names; [core.Endpoint] lists the schemes and parameters. It returns after a server
// has answered a PING, or with one error that names the cause and contains no password: a wrong URL, a refused
// connection, an unknown certificate authority, a wrong password or database, a server that is no Cluster, a primary
// the Sentinels do not know. It takes as long as ctx and the timeouts in the URL allow.
func Open(ctx context.Context, url string, opts ...Option) (*Driver, error) {
	e, err := core.ParseURL(url)
	if err != nil {
		return nil, err
	}
	cfg := config{tls: e.TLS}
	for _, o := range opts {
		if o != nil {
			o.apply(&cfg)
		}
	}
	if e.Network == "unix" {
		cfg.tls = nil
	}
	gd := &guard{}
	if e.ReadTimeout != e.WriteTimeout {
		gd.read, gd.write = e.ReadTimeout, e.WriteTimeout
	}
	if f := cfg.credentials; f != nil {
		cfg.credentials = func(ctx context.Context) (string, string, error) {
			ctx, cancel := lasting(ctx)
			defer cancel()
			return f(ctx)
		}
	}
	cfg.stage = new(atomic.Uint32)
	d := newDriver(client(e, cfg, gd), true)
	d.guard = gd
	if err := d.ping(ctx); err != nil {
		if ctx.Err() != nil {
			go func() { _ = d.Close() }() // waits for connections under way, as long as the timeouts in the URL
		} else {
			_ = d.Close()
		}
		return nil, openFailed(err, e, cfg)
	}
	return d, nil
}

// ping asks any primary for a sign of life.
func (d *Driver) ping(ctx context.Context) error {
	err := d.Do(ctx, driver.Cmd{Args: []string{"PING"}, Mode: driver.ReadOnly}).Err()
	if e, ok := err.(*driver.ServerError); ok && e.Code() == "NOPERM" && strings.Contains(strings.ToLower(e.Error()), "'ping'") {
		return nil // an ACL user without PING, but connected
	}
	return err
}

// openError is one line for an error of any shape.
type openError struct {
	text string
	err  error
}

func (e *openError) Error() string { return e.text }
func (e *openError) Unwrap() error { return e.err }

var oneLine = strings.NewReplacer("redisx: ", "", "\n", "; ")

// openFailed says why Open failed.
func openFailed(err error, e *core.Endpoint, cfg config) error {
	cause := err
	if op, ok := errors.AsType[*driver.OpError](err); ok { // that the PING was not sent is no news
		cause = op.Err
	}
	text := strings.TrimSpace(oneLine.Replace(cause.Error()))
	if why := explain(err, e, cfg); why != "" {
		text = why + ": " + text
	}
	return &openError{text: fmt.Sprintf("redisx: connecting to %s: %s", e, text), err: err}
}

// explain names the cause where the text of the server or client alone does not.
func explain(err error, e *core.Endpoint, cfg config) string {
	withTLS, without := "rediss://", "redis://"
	if e.Topology != driver.Standalone {
		withTLS, without = "parameter tls=true", "parameter tls=false"
	}
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	inTLS := cfg.stage.Load() == shaking
	op, _ := errors.AsType[*driver.OpError](err)
	switch text := err.Error(); {
	case errors.Is(err, errNoPrimary), strings.Contains(text, "redis: nil"):
		return fmt.Sprintf("the Sentinels know no primary %q", e.MasterName)
	case e.Topology == driver.Sentinel && strings.Contains(strings.ToLower(text), "unknown command 'sentinel'"):
		return "the server is no Sentinel (redis:// is for a single server)"
	case strings.Contains(text, "cluster support disabled"):
		return "the server is no Cluster (redis:// is for a single server)"
	case strings.Contains(text, "cluster: no nodes"), strings.Contains(text, "CLUSTERDOWN"):
		return "the Cluster serves no slots"
	case noTLS:
		return fmt.Sprintf("the server does not speak TLS (%s is without)", without)
	case inTLS && (cutOff(err) || timeout(err) || errors.Is(err, context.Canceled)):
		return fmt.Sprintf("no answer to the TLS handshake; perhaps the server does not speak TLS (%s is without)", without)
	case cfg.tls != nil && cfg.tls.Certificates == nil && cutOff(err):
		return "the server broke the connection off after TLS was set up; it may require a client certificate (parameters cert and key)"
	case cfg.tls == nil && e.Network == "tcp" && cutOff(err) && op != nil && !op.Sent:
		return fmt.Sprintf("the server closed the connection without an answer; perhaps it expects TLS (%s), has too many clients, or is a proxy with no server behind it", withTLS)
	}
	return ""
}

// cutOff reports whether the server closed the connection.
func cutOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

const (
	noRetries = -1 // the driver repeats reads itself
	onePool   = -1 // pipelines use the same connections, so that pool_size means what it says
)

// client makes the go-redis client for an endpoint.
func client(e *core.Endpoint, cfg config, gd *guard) redis.UniversalClient {
	dial, timeout := gd.dialer(cfg.dial(e)), max(e.ReadTimeout, e.WriteTimeout)
	quiet := &maintnotifications.Config{Mode: maintnotifications.ModeDisabled} // it looks up host names, and no server here has it
	switch e.Topology {
	case driver.Cluster:
		return redis.NewClusterClient(&redis.ClusterOptions{
			Addrs: e.Addrs, ClientName: e.ClientName, Protocol: e.Protocol,
			Username: e.Username, Password: e.Password, CredentialsProviderContext: cfg.credentials,
			Dialer: dial, DialTimeout: e.DialTimeout, DialerRetries: 1,
			ReadTimeout: timeout, WriteTimeout: timeout, ContextTimeoutEnabled: true,
			MaxRetries: noRetries, PoolSize: e.PoolSize, PipelinePoolSize: onePool, DisableIdentity: true,
			DisableRoutingPolicies: true, MaintNotificationsConfig: quiet,
		})
	case driver.Sentinel:
		return redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: e.MasterName, SentinelAddrs: e.Addrs,
			SentinelUsername: e.SentinelUsername, SentinelPassword: e.SentinelPassword,
			ClientName: e.ClientName, Protocol: e.Protocol, DB: e.DB,
			Username: e.Username, Password: e.Password, CredentialsProviderContext: cfg.credentials,
			Dialer: dial, DialTimeout: e.DialTimeout, DialerRetries: 1,
			ReadTimeout: timeout, WriteTimeout: timeout, ContextTimeoutEnabled: true,
			MaxRetries: noRetries, PoolSize: e.PoolSize, PipelinePoolSize: onePool, DisableIdentity: true,
		})
	}
	return redis.NewClient(&redis.Options{
		Network: e.Network, Addr: e.Addrs[0], ClientName: e.ClientName, Protocol: e.Protocol, DB: e.DB,
		Username: e.Username, Password: e.Password, CredentialsProviderContext: cfg.credentials,
		Dialer: dial, DialTimeout: e.DialTimeout, DialerRetries: 1,
		ReadTimeout: timeout, WriteTimeout: timeout, ContextTimeoutEnabled: true,
		MaxRetries: noRetries, PoolSize: e.PoolSize, PipelinePoolSize: onePool, DisableIdentity: true, MaintNotificationsConfig: quiet,
	})
}

// dialer makes connections that the guard can interrupt.
func (gd *guard) dialer(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return gd.wire(c), nil
	}
}

// dial opens connections with TLS on top. go-redis' own TLS dialer does not observe ctx.
func (c config) dial(e *core.Endpoint) dialFunc {
	raw := c.dialer
	if raw == nil {
		raw = (&net.Dialer{
			Timeout:         e.DialTimeout,
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
		}).DialContext
	}
	if c.tls == nil {
		return raw
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, e.DialTimeout)
		defer cancel()
		conn, err := raw(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		cfg := c.tls
		if cfg.ServerName == "" {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				host = addr
			}
			cfg = cfg.Clone()
			cfg.ServerName = host
		}
		secure := tls.Client(conn, cfg)
		c.stage.CompareAndSwap(0, shaking)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("TLS with %s: %w", addr, err)
		}
		c.stage.Store(shaken)
		return secure, nil
	}
}
