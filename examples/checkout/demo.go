package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/redisxtest"
)

// runDemo sends requests to two instances of the service as users would, and checks what comes back.
func runDemo(ctx context.Context, out io.Writer, a, b *instance, db *database, fake *redisxtest.Fake) error {
	d := &demo{ctx: ctx, out: out, db: db, client: &http.Client{Timeout: 10 * time.Second}}
	d.client.Transport = &http.Transport{MaxIdleConnsPerHost: readers}
	defer d.client.CloseIdleConnections()

	d.hits(a, b)
	d.stampede(a, b)
	d.invalidation(a, b)
	d.step("A product that does not exist is remembered as such")
	d.queries("at most 1", func(n int64) bool { return n <= 1 }, func() {
		for range 3 {
			d.get(a, "/products/999", http.StatusNotFound, "")
		}
	})
	d.step("The service is ready")
	d.get(a, "/readyz", http.StatusOK, "")
	if fake != nil {
		d.outage(a, b, fake)
	}
	if d.err != nil {
		return d.err
	}
	fmt.Fprintf(out, "\nDemo passed: %d requests, %d database queries.\n", d.requests.Load(), db.queries.Load())
	return nil
}

// hits shows the two tiers.
func (d *demo) hits(a, b *instance) {
	// A server of yours may hold the page from an earlier run, so the first answer may come from either.
	d.step("The first reader of a page waits for the database, if nobody was here before")
	d.get(a, "/products/1", http.StatusOK, "")
	d.awaitMemory("/products/1", a, b)
	d.step("The next ones do not, at either of two instances, and mostly do not even ask Redis")
	d.queries("0", func(n int64) bool { return n == 0 }, func() {
		for range 3 {
			d.get(a, "/products/1", http.StatusOK, "")
			d.get(b, "/products/1", http.StatusOK, "")
		}
	})
}

const readers = 50

// stampede has many ask for what is nowhere but in the database.
func (d *demo) stampede(a, b *instance) {
	d.step(fmt.Sprintf("A page that is in no cache is asked for %d times at once, at two instances", 2*readers))
	d.put(a, "/products/2", 650)
	d.queries("1", func(n int64) bool { return n == 1 }, func() {
		var all sync.WaitGroup
		start, failed := time.Now(), atomic.Int64{}
		for i := range 2 * readers {
			all.Go(func() {
				if status, _, _, err := d.send(http.MethodGet, [2]*instance{a, b}[i%2], "/products/2", ""); err != nil || status != http.StatusOK {
					failed.Add(1)
				}
			})
		}
		all.Wait()
		fmt.Fprintf(d.out, "  %d answers in %s\n", 2*readers, time.Since(start).Round(time.Millisecond))
		if n := failed.Load(); n > 0 {
			d.fail("%d of the readers failed", n)
		}
	})
}

// invalidation changes a price at one instance and looks at the other.
func (d *demo) invalidation(a, b *instance) {
	d.step("A new price, set at one instance, is what the other shows, which had the old one in memory")
	cents := 1000 + rand.IntN(1000)
	d.awaitMemory("/products/2", a)
	d.put(b, "/products/2", cents)
	d.awaitPrice(b, "/products/2", cents)
	d.awaitPrice(a, "/products/2", cents)
}

// outage takes Redis away.
func (d *demo) outage(a, b *instance, fake *redisxtest.Fake) {
	// A load is reported to those who made it too, which drops the entry: so read it again, and have it for the outage.
	d.awaitMemory("/products/1", a)
	d.step("Redis goes down: pages that are known still come, others from the database, and the service says that it is not ready")
	if err := fake.Close(); err != nil {
		d.fail("%w", err)
	}
	d.queries("0", func(n int64) bool { return n == 0 }, func() { d.get(a, "/products/1", http.StatusOK, "") })
	d.get(a, "/products/3", http.StatusOK, "database")
	d.get(a, "/readyz", http.StatusServiceUnavailable, "")
	d.step("A price that changes meanwhile is seen by all once Redis is back, empty handed or not")
	cents := 2000 + rand.IntN(1000)
	d.put(a, "/products/1", cents)
	d.awaitPrice(a, "/products/1", cents)
	if err := fake.Restart(); err != nil {
		d.fail("%w", err)
	}
	d.await(a, "/readyz", func(status int, _, _ string) bool { return status == http.StatusOK })
	d.awaitPrice(b, "/products/1", cents)
	d.awaitMemory("/products/1", a, b)
}

type demo struct {
	ctx      context.Context
	out      io.Writer
	db       *database
	client   *http.Client
	requests atomic.Int64
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

// queries counts what f asks the database.
func (d *demo) queries(want string, ok func(int64) bool, f func()) {
	if d.err != nil {
		return
	}
	before := d.db.queries.Load()
	f()
	n := d.db.queries.Load() - before
	if d.err == nil {
		fmt.Fprintf(d.out, "  database queries: %d\n", n)
	}
	if !ok(n) {
		d.fail("the database was asked %d times; want %s", n, want)
	}
}

// send sends one request and returns the status, the source and the body. It may be called by many goroutines.
func (d *demo) send(method string, i *instance, path, body string) (status int, source, answer string, err error) {
	d.requests.Add(1)
	req, err := http.NewRequestWithContext(d.ctx, method, i.base+path, strings.NewReader(body))
	if err != nil {
		return 0, "", "", err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return 0, "", "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header.Get("X-Source"), strings.Join(strings.Fields(string(data)), " "), err
}

// get sends a request, tells what came back, and fails if it is not what was wanted. An empty source is any.
func (d *demo) get(i *instance, path string, status int, source string) {
	if d.err != nil {
		return
	}
	start := time.Now()
	gotStatus, gotSource, body, err := d.send(http.MethodGet, i, path, "")
	if err != nil {
		d.fail("%w", err)
		return
	}
	d.tell("GET", path, gotStatus, gotSource, body, start)
	if gotStatus != status || source != "" && gotSource != source {
		d.fail("GET %s: status %d from %q; want %d from %q", path, gotStatus, gotSource, status, source)
	}
}

func (d *demo) put(i *instance, path string, cents int) {
	if d.err != nil {
		return
	}
	start := time.Now()
	body := fmt.Sprintf(`{"cents": %d}`, cents)
	status, _, _, err := d.send(http.MethodPut, i, path, body)
	if err != nil {
		d.fail("%w", err)
		return
	}
	d.tell("PUT", path, status, "", body, start)
	if status != http.StatusNoContent {
		d.fail("PUT %s: status %d; want %d", path, status, http.StatusNoContent)
	}
}

func (d *demo) tell(method, path string, status int, source, body string, start time.Time) {
	if source != "" {
		source = " from " + source
	}
	if len(body) > 100 {
		body = body[:100] + " …"
	}
	fmt.Fprintf(d.out, "  %s %-14s %d%s in %s  %s\n", method, path, status, source, time.Since(start).Round(100*time.Microsecond), body)
}

// await asks until the answer is the one wanted, for at most ten seconds.
func (d *demo) await(i *instance, path string, ok func(status int, source, body string) bool) {
	start := time.Now()
	for d.err == nil {
		status, source, body, err := d.send(http.MethodGet, i, path, "")
		switch {
		case err != nil:
			d.fail("%w", err)
		case ok(status, source, body):
			d.tell("GET", path, status, source, body, start)
			return
		case time.Since(start) > 10*time.Second:
			d.fail("GET %s: still status %d from %q after 10 s: %s", path, status, source, body)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-d.ctx.Done():
			d.fail("%w", d.ctx.Err())
		}
	}
}

// awaitMemory waits until the instances are told of changes, so that they may answer from memory.
func (d *demo) awaitMemory(path string, instances ...*instance) {
	for _, i := range instances {
		d.await(i, path, func(_ int, source, _ string) bool { return source == "memory" })
	}
}

func (d *demo) awaitPrice(i *instance, path string, cents int) {
	d.await(i, path, func(_ int, _, body string) bool { return strings.Contains(body, fmt.Sprintf(`"cents":%d`, cents)) })
}
