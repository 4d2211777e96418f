package rueidisdriver

import (
	"context"
	"syscall"
	"testing"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/drivertest"
	"github.com/redis/rueidis"
)

// The other topologies and connections are in redisxtest, which runs the suite on both drivers.
func TestConformance(t *testing.T) {
	config := func(url string) drivertest.Config {
		return drivertest.Config{
			Open:     func(ctx context.Context, url string) (driver.Driver, error) { return Open(ctx, url) },
			Wrapped:  wrapped,
			URL:      url,
			Features: drivertest.Features{AllowFlush: true},
		}
	}
	t.Run("standalone", func(t *testing.T) {
		s := startServer(t)
		c := config(s.url())
		c.Process = drivertest.Process{
			Pause:   func() { s.signal(syscall.SIGSTOP) },
			Resume:  func() { s.signal(syscall.SIGCONT) },
			Restart: func() { s.kill(); s.start() },
		}
		drivertest.Run(t, c)
	})
	t.Run("RESP2", func(t *testing.T) {
		c := config(startServer(t).url() + "?protocol=2")
		c.Wrapped = nil // A client that only speaks RESP2 cannot track; see TestTrackingWithRESP2ClientIsAnError.
		drivertest.Run(t, c)
	})
}

// wrapped makes a driver of a client with the library's default options.
func wrapped(_ context.Context, url string) (driver.Driver, error) {
	e, err := core.ParseURL(url)
	if err != nil {
		return nil, err
	}
	o := rueidis.ClientOption{InitAddress: e.Addrs, Username: e.Username, Password: e.Password, SelectDB: e.DB, TLSConfig: e.TLS}
	o.ForceSingleClient = e.Topology == driver.Standalone
	o.Sentinel.MasterSet = e.MasterName
	// The client cache needs CLIENT TRACKING, which the suite's scripted servers lack.
	o.DisableCache = true
	client, err := rueidis.NewClient(o)
	if err != nil {
		return nil, err
	}
	return New(client)
}
