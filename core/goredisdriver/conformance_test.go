package goredisdriver

import (
	"context"
	"syscall"
	"testing"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/drivertest"
)

func conformance(url string, process drivertest.Process) drivertest.Config {
	return drivertest.Config{
		Open: func(ctx context.Context, url string) (driver.Driver, error) { return Open(ctx, url) },
		Wrapped: func(_ context.Context, url string) (driver.Driver, error) {
			c, err := wrapped(url)
			if err != nil {
				return nil, err
			}
			return New(c)
		},
		URL: url, Features: drivertest.Features{AllowFlush: true}, Process: process,
	}
}

func (s *server) process() drivertest.Process {
	return drivertest.Process{
		Pause:   func() { _ = s.cmd.Process.Signal(syscall.SIGSTOP) },
		Resume:  func() { _ = s.cmd.Process.Signal(syscall.SIGCONT) },
		Restart: s.restart,
	}
}

// The other topologies and connections are in redisxtest, which runs the suite on both drivers.
func TestConformance(t *testing.T) {
	s := startServer(t)
	drivertest.Run(t, conformance("redis://"+s.addr, s.process()))
}
