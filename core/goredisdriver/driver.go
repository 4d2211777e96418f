package goredisdriver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/go-redisx/redisx/core/driver"
)

// Driver is a [driver.Driver] over a go-redis client. It also is a [driver.Router], [driver.Subscriber],
// [driver.Tracker] and [driver.Dedicated]. It is safe for concurrent use.
type Driver struct {
	client redis.UniversalClient
	owned  bool
	nodes  *nodes
	tune   tuning

	workers workers
	guard   *guard // nil if the connections are not the driver's own
	caps    atomic.Pointer[driver.Caps]

	base     context.Context // ends with Close
	stop     context.CancelFunc
	closing  atomic.Bool
	closed   chan struct{}
	closeErr error

	mu    sync.Mutex
	links map[*link]struct{} // connections of its own, in use or idle
	idle  map[*redis.Client][]*link
	sweep bool
}

var (
	_ driver.Driver     = (*Driver)(nil)
	_ driver.Router     = (*Driver)(nil)
	_ driver.Subscriber = (*Driver)(nil)
	_ driver.Tracker    = (*Driver)(nil)
	_ driver.Dedicated  = (*Driver)(nil)
)

var errNoReadTimeout = errors.New("redisx: goredisdriver.New: the client has no ReadTimeout (it is -1 or -2); set one, such as 30s (blocking commands are exempt from it)")

// New wraps a client that the application already has: a *redis.Client (of NewClient or NewFailoverClient) or a
// *redis.ClusterClient. It does no I/O. Whatever the client was configured with, commands sent through the driver keep
// the driver's promises: no retry of writes, deadlines and cancellation honoured. Other commands of the client are not
// affected, and hooks added to a *redis.Client see the driver's commands; those added to a *redis.ClusterClient itself
// do not, those added to its nodes (OnNewNode) do. Such hooks find arguments as *string, and must not keep a command
// after they return. Next to a *redis.ClusterClient that reads from replicas (ReadOnly, RouteByLatency, RouteRandomly) the
// driver has connections of its own to the primaries, which no hook sees. Close leaves the client open.
//
// It refuses nil, clients without a read timeout (a command given up could hold its connection, and Close, for ever) and
// clients that hide where a command goes: *redis.Ring and foreign implementations.
func New(client redis.UniversalClient) (*Driver, error) {
	switch c := client.(type) {
	case nil:
		return nil, errors.New("redisx: goredisdriver.New: client is nil")
	case *redis.Client:
		if c == nil {
			return nil, errors.New("redisx: goredisdriver.New: *redis.Client is nil")
		}
		if c.Options().ReadTimeout <= 0 {
			return nil, errNoReadTimeout
		}
	case *redis.ClusterClient:
		if c == nil {
			return nil, errors.New("redisx: goredisdriver.New: *redis.ClusterClient is nil")
		}
		if c.Options().ReadTimeout <= 0 {
			return nil, errNoReadTimeout
		}
	case *redis.Ring:
		return nil, errors.New("redisx: goredisdriver.New: *redis.Ring spreads keys over independent servers, which scripts and locks cannot rely on; use *redis.Client or *redis.ClusterClient")
	default:
		return nil, fmt.Errorf("redisx: goredisdriver.New: %T; want *redis.Client or *redis.ClusterClient", client)
	}
	return newDriver(client, false), nil
}

func newDriver(client redis.UniversalClient, owned bool) *Driver {
	d := &Driver{
		client: client, owned: owned, nodes: newNodes(client), tune: defaultTuning,
		closed: make(chan struct{}),
		links:  map[*link]struct{}{}, idle: map[*redis.Client][]*link{},
	}
	d.nodes.busy = d.linked
	d.base, d.stop = context.WithCancel(context.Background())
	return d
}

// Unwrap returns the *redis.Client or *redis.ClusterClient underneath.
func (d *Driver) Unwrap() any { return d.client }

// Caps implements [driver.Driver].
func (d *Driver) Caps(ctx context.Context) (driver.Caps, error) {
	if d.closing.Load() {
		return driver.Caps{}, driver.ErrClosed
	}
	if caps := d.caps.Load(); caps != nil {
		return copyCaps(caps), nil
	}
	caps, err := driver.Probe(ctx, d.Do)
	if err != nil {
		return driver.Caps{}, err
	}
	caps.Topology = d.nodes.topology
	d.caps.CompareAndSwap(nil, &caps)
	return copyCaps(d.caps.Load()), nil
}

// copyCaps keeps a caller from changing what the next one gets.
func copyCaps(c *driver.Caps) driver.Caps {
	caps := *c
	caps.Commands = maps.Clone(c.Commands)
	return caps
}

// Node returns the address of the primary that serves key in a Cluster, "" if it is not known yet or there is no Cluster.
func (d *Driver) Node(key string) string {
	if d.nodes.cluster == nil || !d.nodes.ready() || d.closing.Load() {
		return ""
	}
	c, err := d.nodes.cluster.MasterForKey(context.Background(), key)
	if err != nil {
		return ""
	}
	return c.Options().Addr
}

// Close ends what the driver started and waits for it: subscriptions, trackings and dedicated connections break, calls
// under way fail or finish. It closes the client only if Open made it. It is idempotent, and waits for another Close
// under way.
func (d *Driver) Close() error {
	if d.closing.Swap(true) {
		<-d.closed
		return d.closeErr
	}
	d.stop()
	d.mu.Lock()
	links := d.links
	d.links = nil
	clear(d.idle)
	d.mu.Unlock()
	for l := range links {
		l.close()
	}
	d.nodes.close()
	if d.owned {
		d.closeErr = d.client.Close()
	}
	d.workers.close()
	close(d.closed)
	return d.closeErr
}
