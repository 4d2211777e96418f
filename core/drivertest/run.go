package drivertest

import (
	"context"
	"testing"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// Config says what to test against what. Open and URL are required.
type Config struct {
	// Open opens the driver under test for a URL, as the drivers' own Open does.
	Open func(ctx context.Context, url string) (driver.Driver, error)
	// Wrapped, if set, makes a driver the other way: a client of the library with the library's default options, given to
	// New. The suite runs on it a second time, but for the cases about Open. The client itself is closed through
	// [driver.Driver.Unwrap] after the driver.
	Wrapped func(ctx context.Context, url string) (driver.Driver, error)

	// URL of a running server, in the form package core documents. The suite opens connections of its own to it, so user
	// and password must be good for CLIENT, COMMAND and the data commands.
	URL string

	Features Features
	Process  Process
}

// Features tells the suite what the server at Config.URL is, and what it may do with it. The zero value is a real server
// that other people use.
type Features struct {
	// Fake marks an in-process imitation: cases that depend on the server's inner workings are skipped on it.
	Fake bool
	// AllowFlush lets the suite call FLUSHDB and SCRIPT FLUSH.
	AllowFlush bool
	// NoTracking says that the server lacks CLIENT TRACKING, NoUnblock that it lacks CLIENT UNBLOCK.
	NoTracking, NoUnblock bool
}

// Process controls the server process. A func that is nil skips the cases that need it.
type Process struct {
	// Pause stops the server so that it accepts connections but answers nothing (SIGSTOP); Resume lets it go on.
	Pause, Resume func()
	// Restart ends the server and starts it again at the same address, without its scripts; data may be lost.
	Restart func()
	// FlushScripts empties the script cache; SCRIPT FLUSH is used instead if it is nil and Features.AllowFlush is set.
	FlushScripts func()
}

// Run runs the suite.
func Run(t *testing.T, cfg Config) {
	t.Helper()
	if cfg.Open == nil || cfg.URL == "" {
		t.Fatal("drivertest: Config needs Open and URL")
	}
	if _, err := core.ParseURL(cfg.URL); err != nil {
		t.Fatalf("drivertest: Config.URL: %v", err)
	}
	t.Run("Open", func(t *testing.T) { runAll(t, &env{cfg: cfg, open: cfg.Open}) })
	if cfg.Wrapped != nil {
		t.Run("New", func(t *testing.T) { runAll(t, &env{cfg: cfg, open: cfg.Wrapped, wrapped: true}) })
	}
}

// group is the cases about one paragraph of the contract.
type group struct {
	name  string
	cases []testCase
}

// testCase is one promise. It sees the narrow tester instead of *testing.T so that the package's own tests can watch it
// fail on drivers that break the promise.
type testCase struct {
	name string
	run  func(t tester, e *env)
	// alone keeps a case apart from others because it touches the whole server or counts goroutines.
	alone bool
	// openOnly marks a case about Open, or one that needs a parameter of the URL to take effect.
	openOnly bool
}

var suite = []group{
	{"replies", replyCases},
	{"wire", wireCases},
	{"context", contextCases},
	{"retries", retryCases},
	{"scripts", scriptCases},
	{"pipelines", pipelineCases},
	{"routing", routingCases},
	{"blocking", blockingCases},
	{"dedicated", dedicatedCases},
	{"subscriber", subscriberCases},
	{"tracker", trackerCases},
	{"failures", failureCases},
	{"process", processCases},
	{"invalid", invalidCases},
	{"caps", capsCases},
	{"open", openCases},
	{"close", closeCases},
}

func runAll(t *testing.T, e *env) {
	t.Run("together", func(t *testing.T) { runSome(t, e, false) })
	t.Run("alone", func(t *testing.T) { runSome(t, e, true) })
}

func runSome(t *testing.T, e *env, alone bool) {
	for _, g := range suite {
		var some []testCase
		for _, c := range g.cases {
			if c.alone == alone && (!c.openOnly || !e.wrapped) {
				some = append(some, c)
			}
		}
		if len(some) == 0 {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			if !alone {
				t.Parallel()
			}
			for _, c := range some {
				t.Run(c.name, func(t *testing.T) {
					if !alone {
						t.Parallel()
					}
					c.run(t, e.forCase(t))
				})
			}
		})
	}
}
