package rueidisdriver

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

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

const (
	// sentinelRefresh is how often the client asks the Sentinels for the primary, besides listening to them.
	sentinelRefresh = 2 * time.Second
	// clusterRefresh is how often the client looks at the topology when nothing goes wrong.
	clusterRefresh = 5 * time.Second
	// maxRedirections bounds a loop of redirections for a command without a deadline.
	maxRedirections = 16
)

// Open connects by URL, which [core.ParseURL] describes, and makes sure that the server answers. It returns one error that
// names the cause, and no password: a wrong URL or option, a refused connection, an unknown authority, a wrong password or
// database, a server that is no Cluster, Sentinels that do not know the primary. It returns when ctx ends at the latest.
//
// The client has one timeout for reading and writing, which is the URL's read_timeout; write_timeout changes nothing here.
// A connection that does not answer a ping of the client's within read_timeout is replaced.
//
// The driver owns its client. Its goroutines are the client's, for each connection, and a few of the driver's own for
// calls that have to be watched; Close ends all of them.
func Open(ctx context.Context, url string, opts ...Option) (*Driver, error) {
	e, err := core.ParseURL(url)
	if err != nil {
		return nil, err
	}
	var cfg config
	for _, o := range opts {
		if o == nil {
			cfg.invalid = append(cfg.invalid, errors.New("an option is nil"))
			continue
		}
		o.apply(&cfg)
	}
	if err := errors.Join(cfg.invalid...); err != nil {
		return nil, fmt.Errorf("redisx: rueidisdriver.Open: %w", err)
	}
	if cfg.tls != nil {
		e.TLS = cfg.tls
	}
	option := clientOption(e, &cfg)
	d, err := dialDriver(ctx, e, &cfg, option)
	if err != nil {
		return nil, openError(ctx, e, &cfg, err)
	}
	d.strict = option.DisableAutoPipelining
	if option.AlwaysRESP2 {
		option.AlwaysRESP2 = false
		d.tracking = func(ctx context.Context) (*Driver, error) {
			other, err := dialDriver(ctx, e, &cfg, option)
			if err != nil {
				return nil, openError(ctx, e, &cfg, err)
			}
			return other, nil
		}
	}
	if err := d.verify(ctx, e); err != nil {
		_ = d.Close()
		return nil, openError(ctx, e, &cfg, err)
	}
	return d, nil
}

// verify makes sure that the server runs commands and is what the URL says.
func (d *Driver) verify(ctx context.Context, e *core.Endpoint) error {
	if d.topology != e.Topology {
		return errNoCluster
	}
	r := d.inquire(ctx, driver.Cmd{Args: []string{"PING"}, Mode: driver.ReadOnly})
	if e, ok := errors.AsType[*driver.ServerError](r.Err()); ok && e.Code() == "NOPERM" {
		r = driver.NilReply() // The server let us in; what this user may do is not ours to judge.
	}
	if err := r.Err(); err != nil {
		return err
	}
	if e.Topology == driver.Cluster {
		// Some servers answer CLUSTER SLOTS without being a Cluster. Those that can tell, tell here.
		info := d.inquire(ctx, driver.Cmd{Args: []string{"INFO", "cluster"}, Mode: driver.ReadOnly})
		if text, err := info.Text(); err == nil && driver.ParseInfo(text)["cluster_enabled"] == "0" {
			return errNoCluster
		}
	}
	return nil
}

// inquire sends a command on a context that cannot be cancelled, and waits for it or ctx. A cancellable one would move the
// connection to the client's background goroutines for good, which costs a program that sends one command at a time.
func (d *Driver) inquire(ctx context.Context, cmd driver.Cmd) driver.Reply {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(openTimeout)
	}
	done := make(chan driver.Reply, 1)
	if !d.run(func() { done <- d.Do(driver.UntilDeadline(deadline), cmd) }) {
		return driver.ErrReply(driver.ErrClosed)
	}
	select {
	case r := <-done:
		return r
	case <-ctx.Done():
		return driver.ErrReply(driver.Unknown(ctx.Err()))
	}
}

// openTimeout bounds the questions of Open when its ctx does not.
const openTimeout = 10 * time.Second

// dialDriver makes a driver with a client of its own. NewClient knows no ctx, so it runs on a goroutine; when ctx ends its
// connections are closed, which ends it.
func dialDriver(ctx context.Context, e *core.Endpoint, cfg *config, option rueidis.ClientOption) (*Driver, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dials := newDialer(e, cfg)
	option.DialCtxFn, option.DialFn = dials.connect, nil
	opening, cancel := context.WithCancel(ctx)
	defer cancel()
	dials.opening = opening
	type made struct {
		client rueidis.Client
		err    error
	}
	done := make(chan made, 1)
	var given atomic.Bool // the result has an owner: the caller, or the goroutine itself
	go func() {
		client, err := newClient(option)
		if !given.CompareAndSwap(false, true) {
			if client != nil {
				client.Close()
			}
			return
		}
		done <- made{client, err}
	}()
	var m made
	select {
	case m = <-done:
	case <-ctx.Done():
		if given.CompareAndSwap(false, true) {
			return nil, ctx.Err()
		}
		m = <-done
	}
	if m.err != nil {
		return nil, m.err
	}
	dials.opened()
	if err := ctx.Err(); err != nil { // Its connections may be closed already.
		m.client.Close()
		return nil, err
	}
	d := newDriver(m.client)
	d.owned = dials
	return d, nil
}

// newClient makes a client. Some failures leave one behind that would go on dialling.
func newClient(option rueidis.ClientOption) (rueidis.Client, error) {
	client, err := rueidis.NewClient(option)
	if err != nil && client != nil {
		client.Close()
		client = nil
	}
	return client, err
}

// clientOption translates the URL, and adds what the promises of package driver need.
func clientOption(e *core.Endpoint, cfg *config) rueidis.ClientOption {
	o := rueidis.ClientOption{
		ClientName:       e.ClientName,
		ConnWriteTimeout: e.ReadTimeout,
		BlockingPoolSize: e.PoolSize,
		Dialer:           net.Dialer{Timeout: e.DialTimeout},
	}
	if cfg.client != nil {
		cfg.client(&o)
	}
	o.InitAddress = e.Addrs
	if o.AuthCredentialsFn == nil {
		o.Username, o.Password = e.Username, e.Password
	}
	o.SelectDB = e.DB
	o.TLSConfig = e.TLS
	o.AlwaysRESP2 = e.Protocol == 2
	o.DisableRetry = true // send and sendMulti repeat what may be repeated.
	o.DisableCache = true
	o.ConnLifetime = 0 // The client sends what was on its way then again.
	o.SendToReplicas, o.ReplicaOnly = nil, false
	o.Standalone = rueidis.StandaloneOption{}
	o.ForceSingleClient = e.Topology == driver.Standalone
	o.ClusterOption.MaxMovedRedirections = maxRedirections
	if o.ClusterOption.ShardsRefreshInterval == 0 {
		o.ClusterOption.ShardsRefreshInterval = clusterRefresh
	}
	o.Sentinel = rueidis.SentinelOption{}
	if e.Topology == driver.Sentinel {
		o.Sentinel = rueidis.SentinelOption{
			MasterSet:               e.MasterName,
			Username:                e.SentinelUsername,
			Password:                e.SentinelPassword,
			ClientName:              e.ClientName,
			Dialer:                  net.Dialer{Timeout: e.DialTimeout},
			TLSConfig:               e.TLS,
			TopologyRefreshInterval: sentinelRefresh,
		}
	}
	return o
}

var errNoCluster = errors.New("the server is not a Cluster (cluster-enabled no); use redis:// or rediss:// for a single server")

// openError says what went wrong, in one sentence and without a password.
func openError(ctx context.Context, e *core.Endpoint, cfg *config, err error) error {
	if op, ok := errors.AsType[*driver.OpError](err); ok {
		err = op.Err
	}
	cause := plain(err)
	server, answered := errors.AsType[*driver.ServerError](cause)
	switch {
	case ctx.Err() != nil:
		if isContext(cause) {
			cause = ctx.Err()
		} else {
			cause = fmt.Errorf("%w: %w", ctx.Err(), cause)
		}
	case e.Topology == driver.Sentinel && (rueidis.IsRedisNil(err) || answered && strings.Contains(server.Error(), "No such master")):
		cause = fmt.Errorf("the Sentinels do not know a primary named %q", e.MasterName)
	case answered && strings.Contains(server.Error(), "DB index is out of range"):
		cause = fmt.Errorf("database %d: %w", e.DB, cause)
	case answered && e.Topology == driver.Cluster && strings.Contains(server.Error(), "cluster support disabled"):
		cause = errNoCluster
	case e.Topology == driver.Sentinel && answered && strings.Contains(strings.ToLower(server.Error()), "unknown command 'sentinel'"):
		cause = fmt.Errorf("the server is no Sentinel (redis:// is for a single server): %w", cause)
	}
	if why := cfg.heard.explain(e, cause); why != "" {
		cause = fmt.Errorf("%s: %w", why, cause)
	}
	return fmt.Errorf("redisx: connecting to %s: %w", e, &redacted{cause, e})
}

// explain tells what a failure to connect has to do with TLS, or "".
func (h *heard) explain(e *core.Endpoint, err error) string {
	withTLS, without := "rediss://", "redis://"
	if e.Topology != driver.Standalone {
		withTLS, without = "parameter tls=true", "parameter tls=false"
	}
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	t, timeout := errors.AsType[net.Error](err)
	timeout = timeout && t.Timeout() || isContext(err)
	cutOff := isCutOff(err)
	switch {
	case e.TLS == nil && h.alert.Load():
		return fmt.Sprintf("the server answers with a TLS alert: it expects TLS (%s)", withTLS)
	case e.TLS == nil && e.Network == "tcp" && cutOff && !h.answered.Load():
		return fmt.Sprintf("the server closed the connection without an answer; perhaps it expects TLS (%s), has too many clients, or is a proxy with no server behind it", withTLS)
	case e.TLS == nil && e.Network == "tcp" && cutOff:
		return "the server closed the connection after an answer; perhaps it has too many clients"
	case e.TLS == nil:
	case noTLS:
		return fmt.Sprintf("the server does not speak TLS (%s is without)", without)
	case h.shaking.Load() && !h.shaken.Load() && (cutOff || timeout):
		return fmt.Sprintf("no answer to the TLS handshake; perhaps the server does not speak TLS (%s is without)", without)
	case h.shaken.Load() && !h.answered.Load() && (cutOff || strings.Contains(err.Error(), "remote error: tls:")) &&
		len(e.TLS.Certificates) == 0 && e.TLS.GetClientCertificate == nil:
		return "the server closed the connection after TLS was set up; it may require a client certificate (parameters cert and key)"
	}
	return ""
}

// isCutOff reports whether the other end closed the connection.
func isCutOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// redacted is an error whose text contains no password, whatever a server or a dialer put into it.
type redacted struct {
	err error
	e   *core.Endpoint
}

// oneLine leaves one line that says redisx once.
var oneLine = strings.NewReplacer("redisx: ", "", "\n", "; ")

// Error implements error.
func (r *redacted) Error() string {
	text := oneLine.Replace(r.err.Error())
	for _, secret := range []string{r.e.Password, r.e.SentinelPassword} {
		if len(secret) > 3 {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	return text
}

// Unwrap returns the cause, and says that no command was sent.
func (r *redacted) Unwrap() []error { return []error{r.err, driver.NotSent(r.err)} }
