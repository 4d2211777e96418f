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

func TestConformance(t *testing.T) {
	s := startServer(t)
	drivertest.Run(t, drivertest.Config{
		Open: func(ctx context.Context, url string) (driver.Driver, error) { return Open(ctx, url) },
		Wrapped: func(_ context.Context, url string) (driver.Driver, error) {
			e, err := core.ParseURL(url)
			if err != nil {
				return nil, err
			}
			client, err := rueidis.NewClient(rueidis.ClientOption{
				InitAddress: e.Addrs, Username: e.Username, Password: e.Password, SelectDB: e.DB,
				ForceSingleClient: true, DisableCache: true,
			})
			if err != nil {
				return nil, err
			}
			return New(client)
		},
		URL:      s.url(),
		Features: drivertest.Features{AllowFlush: true},
		Process: drivertest.Process{
			Pause:   func() { s.signal(syscall.SIGSTOP) },
			Resume:  func() { s.signal(syscall.SIGCONT) },
			Restart: func() { s.kill(); s.start() },
		},
	})
}
