package redisxtest

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/core/rueidisdriver"
)

// EachOption changes what Each runs on. An [Option] given to Each makes it start servers of its own with it, instead of
// sharing one, and the fake too; a fake that cannot honour it is left out.
type EachOption interface{ applyEach(*eachConfig) }

type eachOption func(*eachConfig)

func (o eachOption) applyEach(c *eachConfig) { o(c) }

type eachConfig struct {
	server   []Option
	client   []core.Option
	realOnly bool
	fakeOnly bool
	cluster  bool
	sentinel bool
}

// ClientOptions are for the clients that Each makes, after its own: a random key prefix and a command timeout of 5 s.
func ClientOptions(opts ...core.Option) EachOption {
	return eachOption(func(c *eachConfig) { c.client = append(c.client, opts...) })
}

// RealOnly leaves the fake out.
func RealOnly() EachOption { return eachOption(func(c *eachConfig) { c.realOnly = true }) }

// FakeOnly leaves real servers out.
func FakeOnly() EachOption { return eachOption(func(c *eachConfig) { c.fakeOnly = true }) }

// OnCluster adds a Cluster of three primaries without replicas for each program: a shared one, or with an [Option] one of each
// subtest's own. Keys that one command uses together need a hash tag there. What is not at hand skips, or fails if
// REDISX_TEST_REQUIRE lists "cluster". It is started even if REDISX_TEST_URL names a server.
func OnCluster() EachOption { return eachOption(func(c *eachConfig) { c.cluster = true }) }

// OnSentinel adds a primary with one replica that is watched by Sentinels, as [OnCluster] does; what is required is "sentinel".
func OnSentinel() EachOption { return eachOption(func(c *eachConfig) { c.sentinel = true }) }

// opener is a maintained driver.
type opener struct {
	name string
	open func(ctx context.Context, url string) (driver.Driver, error)
}

var openers = []opener{
	{"goredis", func(ctx context.Context, url string) (driver.Driver, error) {
		return opened(goredisdriver.Open(ctx, url))
	}},
	{"rueidis", func(ctx context.Context, url string) (driver.Driver, error) {
		return opened(rueidisdriver.Open(ctx, url))
	}},
}

// opened keeps a nil *Driver from becoming a driver.Driver that is not nil.
func opened[D driver.Driver](d D, err error) (driver.Driver, error) {
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Each runs fn as a subtest for every driver with every server at hand: the fake, and each program that [Executables]
// finds or the server that REDISX_TEST_URL names. Clients have a random key prefix and are closed when fn ends. Real
// servers are shared within the test program: no FLUSHALL.
//
// What is not at hand shows as a skipped subtest, is reported once on standard error, and fails if REDISX_TEST_REQUIRE
// lists "server".
func Each(t *testing.T, fn func(t *testing.T, c *core.Client), opts ...EachOption) {
	t.Helper()
	var cfg eachConfig
	for _, o := range opts {
		o.applyEach(&cfg)
	}
	EachDriver(t, func(t *testing.T, d driver.Driver, _ string) {
		c, err := core.New(d, append([]core.Option{core.WithKeyPrefix(Prefix(t)), core.WithCommandTimeout(5 * time.Second)}, cfg.client...)...)
		if err != nil {
			t.Fatalf("redisxtest: client: %v", err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Errorf("redisxtest: closing the client: %v", err)
			}
		})
		fn(t, c)
	}, opts...)
}

// EachDriver is [Each] for tests of a driver: fn gets it open, and the URL it was opened with. It is closed when fn ends.
func EachDriver(t *testing.T, fn func(t *testing.T, d driver.Driver, url string), opts ...EachOption) {
	t.Helper()
	var cfg eachConfig
	for _, o := range opts {
		o.applyEach(&cfg)
	}
	if cfg.fakeOnly && (cfg.realOnly || cfg.cluster || cfg.sentinel) {
		t.Fatal("redisxtest: FakeOnly leaves nothing for RealOnly, OnCluster or OnSentinel to run on")
	}
	for _, o := range openers {
		t.Run(o.name, func(t *testing.T) {
			for _, s := range cfg.servers(t) {
				t.Run(s.name, func(t *testing.T) {
					url := s.url(t)
					ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
					defer cancel()
					d, err := o.open(ctx, url)
					if err != nil {
						t.Fatalf("redisxtest: %v", err)
					}
					t.Cleanup(func() {
						if err := d.Close(); err != nil {
							t.Errorf("redisxtest: closing the driver: %v", err)
						}
					})
					fn(t, d, url)
				})
			}
		})
	}
}

// backend is a server for subtests.
type backend struct {
	name string
	url  func(t *testing.T) string
}

// servers returns the servers at hand, with one that skips in the place of those that are not.
func (c *eachConfig) servers(t *testing.T) (list []backend) {
	t.Helper()
	var plain config
	for _, o := range c.server {
		o.apply(&plain)
	}
	if _, err := fakeUsers(plain); err == nil && !c.realOnly {
		list = append(list, backend{"fake", func(t *testing.T) string { return NewFake(t, c.server...).URL() }})
	} else if c.fakeOnly {
		t.Fatalf("redisxtest: FakeOnly: %v", err)
	}
	if c.fakeOnly {
		return list
	}
	defer func() { list = append(list, c.deployments()...) }()
	if os.Getenv(EnvURL) != "" {
		return append(list, backend{"given", func(t *testing.T) string { return StartServer(t, c.server...).URL() }})
	}
	if plain.binary != "" || plain.version != "" {
		return append(list, backend{"server", func(t *testing.T) string { return StartServer(t, c.server...).URL() }})
	}
	found, err := Executables()
	if err != nil || len(found) == 0 {
		return append(list, backend{"server", func(t *testing.T) string {
			if err != nil {
				t.Fatalf("redisxtest: %v", err)
			}
			skip(t, "server", "no redis-server or valkey-server on PATH and none in %s", EnvBinaries)
			return ""
		}})
	}
	for _, e := range found {
		list = append(list, backend{e.String(), func(t *testing.T) string {
			if len(c.server) == 0 {
				return SharedServer(t, Binary(e.Path)).URL()
			}
			return StartServer(t, append([]Option{Binary(e.Path)}, c.server...)...).URL()
		}})
	}
	return list
}

// deployments returns the Clusters and Sentinels that were asked for.
func (c *eachConfig) deployments() []backend {
	type kind struct {
		name string
		on   bool
		url  func(t *testing.T, opts []Option) string
	}
	shared := len(c.server) == 0
	kinds := []kind{
		{"cluster", c.cluster, func(t *testing.T, opts []Option) string {
			if shared {
				return SharedCluster(t, 3, 0, opts...).URL()
			}
			return StartCluster(t, 3, 0, opts...).URL()
		}},
		{"sentinel", c.sentinel, func(t *testing.T, opts []Option) string {
			if shared {
				return SharedSentinel(t, 1, opts...).URL()
			}
			return StartSentinel(t, 1, opts...).URL()
		}},
	}
	var plain config
	for _, o := range c.server {
		o.apply(&plain)
	}
	found, err := Executables()
	var list []backend
	for _, k := range kinds {
		switch {
		case !k.on:
		case plain.binary != "" || plain.version != "" || err != nil || len(found) == 0: // they find or miss the program
			list = append(list, backend{k.name, func(t *testing.T) string { return k.url(t, c.server) }})
		default:
			for _, e := range found {
				list = append(list, backend{e.String() + "-" + k.name, func(t *testing.T) string {
					return k.url(t, append([]Option{Binary(e.Path)}, c.server...))
				}})
			}
		}
	}
	return list
}
