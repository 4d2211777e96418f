package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/rueidis"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/core/rueidisdriver"
	"github.com/go-redisx/redisx/redisxtest"
)

// environment holds the server and the clients under comparison, opened when first asked for.
type environment struct {
	url, server string
	dry         bool // only list what there is
	tb          *standIn
	opened      []func()
}

func newEnvironment(url string, dry bool) (env *environment, err error) {
	env = &environment{url: url, dry: dry, tb: &standIn{}}
	if dry {
		return env, nil
	}
	logging.Disable() // go-redis tells of every failed dial on standard error, and some servers here are meant to fail
	if url != "" {
		endpoint, err := core.ParseURL(url)
		if err != nil {
			return nil, err
		}
		if endpoint.Topology != driver.Standalone || endpoint.Network != "tcp" || endpoint.TLS != nil {
			return nil, fmt.Errorf("-redis: want a standalone server over plain TCP; %s", endpoint)
		}
	}
	defer func() {
		if r := recover(); r != nil {
			env.close()
			failed, ok := r.(failed)
			if !ok {
				panic(r)
			}
			env, err = nil, fmt.Errorf("%s", failed)
		}
	}()
	if url == "" {
		env.url = redisxtest.StartServer(env.tb).URL()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	d, err := goredisdriver.Open(ctx, env.url)
	if err != nil {
		env.close()
		return nil, err
	}
	defer func() { _ = d.Close() }()
	caps, err := d.Caps(ctx)
	if err != nil {
		env.close()
		return nil, err
	}
	env.server = caps.Server + " " + caps.Version
	return env, nil
}

func (e *environment) close() {
	for i := len(e.opened) - 1; i >= 0; i-- {
		e.opened[i]()
	}
	e.tb.end()
}

// fill sets the keys that reads read, and loads the script.
func (e *environment) fill(d driver.Driver) error {
	if err := d.Do(context.Background(), driver.Cmd{Args: []string{"SCRIPT", "LOAD", script.Source()}}).Err(); err != nil {
		return err
	}
	for i := range keyCount {
		if err := d.Do(context.Background(), driver.Cmd{Args: []string{"SET", keys[i], value}, Keys: driver.Key(1)}).Err(); err != nil {
			return err
		}
	}
	return nil
}

const keyCount = 1024

var (
	keys = func() (k [keyCount]string) {
		for i := range k {
			k[i] = fmt.Sprintf("bench:key:%d", i)
		}
		return k
	}()
	value  = strings.Repeat("v", 128)
	script = core.NewScript("bench.one", "return 1")
)

func cancellable() (context.Context, context.CancelFunc) {
	return context.WithCancel(context.Background())
}

// clients are the two libraries with their drivers: bare is the library's client with its defaults, same is the client
// underneath the driver, so that it is configured the same.
type clients struct {
	goredisBare, goredisSame *redis.Client
	goredis                  driver.Driver
	rueidisBare, rueidisSame rueidis.Client
	rueidis                  driver.Driver
}

func (e *environment) clients() (c clients, err error) {
	if e.dry {
		return c, nil
	}
	endpoint, err := core.ParseURL(e.url)
	if err != nil {
		return c, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	g, err := goredisdriver.Open(ctx, e.url)
	if err != nil {
		return c, err
	}
	e.opened = append(e.opened, func() { _ = g.Close() })
	r, err := rueidisdriver.Open(ctx, e.url)
	if err != nil {
		return c, err
	}
	e.opened = append(e.opened, func() { _ = r.Close() })
	c.goredis, c.rueidis = g, r
	c.goredisSame, c.rueidisSame = g.Unwrap().(*redis.Client), r.Unwrap().(rueidis.Client)
	c.goredisBare = redis.NewClient(&redis.Options{
		Addr: endpoint.Addrs[0], Username: endpoint.Username, Password: endpoint.Password, DB: endpoint.DB,
	})
	e.opened = append(e.opened, func() { _ = c.goredisBare.Close() })
	c.rueidisBare, err = rueidis.NewClient(rueidis.ClientOption{
		InitAddress: endpoint.Addrs, Username: endpoint.Username, Password: endpoint.Password, SelectDB: endpoint.DB, ForceSingleClient: true,
	})
	if err != nil {
		return c, err
	}
	e.opened = append(e.opened, func() { c.rueidisBare.Close() })
	return c, e.fill(g)
}

// comparisons returns those whose name matches, with their clients open.
func (e *environment) comparisons(match *regexp.Regexp) (out []comparison, err error) {
	c, err := e.clients()
	if err != nil {
		return nil, err
	}
	all := append(driverComparisons(&c), e.coreComparisons(&c)...)
	proxies, err := proxyComparisons(e)
	if err != nil {
		return nil, err
	}
	all = append(all, proxies...)
	for _, x := range all {
		if match.MatchString(fmt.Sprintf("%s/%d", x.name, x.goroutines)) {
			out = append(out, x)
		}
	}
	return out, nil
}

// standIn is the little of testing.TB that redisxtest needs from a program.
type standIn struct {
	testing.TB
	cleanups []func()
}

type failed string

func (s *standIn) Helper()                    {}
func (s *standIn) Name() string               { return "benchmarks" }
func (s *standIn) Failed() bool               { return false }
func (s *standIn) Log(args ...any)            { fmt.Fprintln(os.Stderr, args...) }
func (s *standIn) Logf(f string, args ...any) { fmt.Fprintf(os.Stderr, f+"\n", args...) }
func (s *standIn) Fatal(args ...any)          { panic(failed(fmt.Sprint(args...))) }
func (s *standIn) Fatalf(f string, a ...any)  { panic(failed(fmt.Sprintf(f, a...))) }
func (s *standIn) Error(args ...any)          { fmt.Fprintln(os.Stderr, args...) }
func (s *standIn) Errorf(f string, a ...any)  { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (s *standIn) Skip(args ...any)           { panic(failed(fmt.Sprint(args...))) }
func (s *standIn) Skipf(f string, a ...any)   { panic(failed(fmt.Sprintf(f, a...))) }
func (s *standIn) Cleanup(f func())           { s.cleanups = append(s.cleanups, f) }
func (s *standIn) TempDir() string {
	dir, err := os.MkdirTemp("", "redisx-benchmarks-")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (s *standIn) end() {
	for i := len(s.cleanups) - 1; i >= 0; i-- {
		s.cleanups[i]()
	}
	s.cleanups = nil
}
