package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/go-redisx/redisx/redisxtest"
)

// runDemo sends requests to the service as a user would, and checks what comes back.
func runDemo(ctx context.Context, out io.Writer, base string, s *shop, fake *redisxtest.Fake) error {
	d := &demo{ctx: ctx, out: out, base: base, client: &http.Client{Timeout: 10 * time.Second}}
	defer d.client.CloseIdleConnections()

	// A server of yours may hold the page from an earlier run, so the first answer may come from either.
	d.step("The first reader of a page waits for the database, if nobody was here before")
	d.get("/products/1", http.StatusOK, "")
	d.step("The next ones do not")
	before := s.db.queries.Load()
	for range 3 {
		d.get("/products/1", http.StatusOK, "redis")
	}
	if n := s.db.queries.Load() - before; n != 0 {
		d.fail("the database was asked %d times; want 0", n)
	}
	d.step("A product that does not exist is not found")
	d.get("/products/999", http.StatusNotFound, "")
	d.step("The service is ready")
	d.get("/readyz", http.StatusOK, "")

	if fake != nil {
		d.step("Redis goes down: pages still come, from the database, and the service says that it is not ready")
		if err := fake.Close(); err != nil {
			return err
		}
		d.get("/products/1", http.StatusOK, "database")
		d.get("/readyz", http.StatusServiceUnavailable, "")
		d.step("Redis comes back, empty handed or not: the service finds it again by itself")
		if err := fake.Restart(); err != nil {
			return err
		}
		d.await("/readyz", http.StatusOK)
	}
	if d.err != nil {
		return d.err
	}
	fmt.Fprintf(out, "\nDemo passed: %d requests, %d database queries.\n", d.requests, s.db.queries.Load())
	return nil
}

type demo struct {
	ctx      context.Context
	out      io.Writer
	base     string
	client   *http.Client
	requests int
	err      error // the first failure
}

func (d *demo) step(title string) {
	if d.err == nil {
		fmt.Fprintf(d.out, "\n%s:\n", title)
	}
}

func (d *demo) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("demo: "+format, args...)
	}
}

// send sends one request and returns the status, the source and the body.
func (d *demo) send(path string) (status int, source, body string) {
	if d.err != nil {
		return 0, "", ""
	}
	d.requests++
	req, err := http.NewRequestWithContext(d.ctx, http.MethodGet, d.base+path, nil)
	if err != nil {
		d.fail("%w", err)
		return 0, "", ""
	}
	resp, err := d.client.Do(req)
	if err != nil {
		d.fail("%w", err)
		return 0, "", ""
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		d.fail("%w", err)
	}
	return resp.StatusCode, resp.Header.Get("X-Source"), strings.TrimSpace(string(data))
}

// get sends a request, tells what came back, and fails if it is not what was wanted. An empty source is any.
func (d *demo) get(path string, status int, source string) {
	start := time.Now()
	gotStatus, gotSource, body := d.send(path)
	if d.err != nil {
		return
	}
	from := ""
	if gotSource != "" {
		from = " from " + gotSource
	}
	if body = strings.Join(strings.Fields(body), " "); len(body) > 120 {
		body = body[:120] + " …"
	}
	fmt.Fprintf(d.out, "  GET %-14s %d%s in %s  %s\n", path, gotStatus, from, time.Since(start).Round(100*time.Microsecond), body)
	if gotStatus != status || source != "" && gotSource != source {
		d.fail("GET %s: status %d from %q; want %d from %q", path, gotStatus, gotSource, status, source)
	}
}

// await asks until the status is the one wanted, for at most ten seconds.
func (d *demo) await(path string, status int) {
	deadline := time.Now().Add(10 * time.Second)
	for d.err == nil {
		if got, _, _ := d.send(path); got == status {
			fmt.Fprintf(d.out, "  GET %-14s %d\n", path, got)
			return
		}
		if time.Now().After(deadline) {
			d.fail("GET %s did not become %d within 10 s", path, status)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-d.ctx.Done():
			d.fail("%w", d.ctx.Err())
		}
	}
}
