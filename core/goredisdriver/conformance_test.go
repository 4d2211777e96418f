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

func TestConformanceStandalone(t *testing.T) {
	s := startServer(t)
	drivertest.Run(t, conformance("redis://"+s.addr, s.process()))
}

func TestConformanceRESP2(t *testing.T) {
	s := startServer(t)
	cfg := conformance("redis://"+s.addr+"/3?protocol=2", s.process())
	cfg.Wrapped = nil // New over RESP3 says enough
	drivertest.Run(t, cfg)
}

func TestConformanceCluster(t *testing.T) {
	c := startCluster(t)
	drivertest.Run(t, conformance(c.url(), drivertest.Process{}))
}

func TestConformanceSentinel(t *testing.T) {
	s := startSentinels(t)
	drivertest.Run(t, conformance(s.url(), drivertest.Process{}))
}
