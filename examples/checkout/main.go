// Command checkout is the HTTP service of a small shop, and the first thing to run:
//
//	go run ./examples/checkout             serve, on an embedded fake of Redis: nothing to install
//	go run ./examples/checkout -demo       drive itself with real HTTP requests, tell what happened, and end
//	go run ./examples/checkout -redis redis://localhost:6379 -driver rueidis
//
// Products are read through a cache of two tiers: the first request goes to the (slow) database, the next ones come from
// memory. A new price is seen by every instance at once. When Redis is down pages and prices still come, and /readyz says so.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9/logging"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/core/rueidisdriver"
	"github.com/go-redisx/redisx/redisxtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "checkout:", err)
		os.Exit(1)
	}
}

// run is main with its surroundings as arguments. It returns when ctx ends, or when the demo is over.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("checkout", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // main prints the error, once
	listen := flags.String("listen", "127.0.0.1:8080", "`address` to serve on; with port 0 any free one")
	url := flags.String("redis", "", "`URL` of a server, such as redis://localhost:6379 (default: an embedded fake)")
	name := flags.String("driver", "goredis", "client library: goredis or rueidis")
	demo := flags.Bool("demo", false, "send requests to the service, tell what happened, and end")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		flags.SetOutput(stderr)
		flags.PrintDefaults()
		return err
	} else if err != nil {
		return fmt.Errorf("%w; see -help", err)
	}
	if given(flags, "redis") && *url == "" {
		return errors.New("-redis is empty; give a URL such as redis://localhost:6379, or leave it out for the embedded fake")
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see -help", flags.Arg(0))
	}
	// The demo takes any free port, unless told otherwise, so that it runs beside a service already started.
	if *demo && !given(flags, "listen") {
		*listen = "127.0.0.1:0"
	}

	source := *url
	var fake *redisxtest.Fake
	if source == "" {
		var err error
		if fake, err = redisxtest.StartFake(); err != nil {
			return fmt.Errorf("starting the embedded fake: %w", err)
		}
		defer func() { _ = fake.Close() }()
		source = fake.URL()
	}
	db, logger := newDatabase(), slog.New(slog.NewTextHandler(stderr, nil))
	first, err := start(ctx, *name, source, *listen, db, logger)
	if err != nil {
		return err
	}
	defer first.stop(ctx)

	what := "an embedded fake of Redis"
	if fake == nil {
		what = "the Redis server given"
	}
	fmt.Fprintf(stdout, "checkout: serving on %s, with %s, through %s\n", first.base, what, *name)
	if *demo {
		second, err := start(ctx, *name, source, "127.0.0.1:0", db, logger)
		if err != nil {
			return err
		}
		defer second.stop(ctx)
		return runDemo(ctx, stdout, first, second, db, fake)
	}
	fmt.Fprintf(stdout, `
Try:
  curl -i %[1]s/products/1      # X-Source tells where it came from: database at first,
  curl -i %[1]s/products/1      # then memory
  curl -X PUT -d '{"cents": 1999}' %[1]s/products/1
  curl %[1]s/readyz

Stop with Ctrl-C.
`, first.base)
	select {
	case err := <-first.served:
		return err
	case <-ctx.Done():
		fmt.Fprintln(stdout, "checkout: stopping")
		return nil
	}
}

// instance is the service as one process of a fleet would run it: with a client, a cache and a server of its own.
type instance struct {
	base    string
	shop    *shop
	clients *core.Group
	server  *http.Server
	served  chan error
}

func start(ctx context.Context, name, url, listen string, db *database, logger *slog.Logger) (*instance, error) {
	d, err := open(ctx, name, url)
	if err != nil {
		return nil, err
	}
	client, err := core.New(d, core.WithName("shop"), core.WithKeyPrefix("shop:"), core.WithLogger(logger))
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	i := &instance{clients: core.NewGroup(), served: make(chan error, 1)}
	if err := i.clients.Add("redis", client); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	if i.shop, err = newShop(client, db); err != nil {
		return nil, errors.Join(err, i.clients.Close())
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		err = fmt.Errorf("listening: %w; choose another address with -listen", err)
		return nil, errors.Join(err, i.shop.close(), i.clients.Close())
	}
	i.base = "http://" + l.Addr().String()
	i.server = &http.Server{Handler: i.shop.handler(i.clients), ReadHeaderTimeout: 5 * time.Second}
	go func() { i.served <- i.server.Serve(l) }()
	return i, nil
}

// stop ends the server, then the cache, then the client.
func (i *instance) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = i.server.Shutdown(ctx) // what is still open after 5 s is cut off by the end of the process
	_ = i.shop.close()         // invalidations that could not be delivered: the values expire within a minute
	_ = i.clients.Close()
}

// open opens a driver by name.
func open(ctx context.Context, name, url string) (driver.Driver, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	switch name {
	case "goredis":
		logging.Disable() // go-redis logs every failed dial on standard error; the client's logger tells what matters
		return goredisdriver.Open(ctx, url)
	case "rueidis":
		return rueidisdriver.Open(ctx, url)
	}
	return nil, fmt.Errorf("-driver %q; want goredis or rueidis", name)
}

func given(flags *flag.FlagSet, name string) (ok bool) {
	flags.Visit(func(f *flag.Flag) { ok = ok || f.Name == name })
	return ok
}
