package drivertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

func lateReplies(t tester, e *env) {
	p := e.proxy(t)
	d := p.driver(t)
	for i := range 20 {
		must(t, d.Do(e.ctx(t), cmd("SET", e.key(strconv.Itoa(i)), "old"+strconv.Itoa(i))))
	}
	before := p.count("GET")
	p.stall("GET")
	defer p.release()
	ctx, cancel := context.WithCancel(context.Background())
	var calls sync.WaitGroup
	for i := range 20 {
		calls.Go(func() { d.Do(ctx, cmd("GET", e.key(strconv.Itoa(i)))) })
	}
	p.await(t, "GET", before+1)
	cancel()
	calls.Wait()
	errs := make(chan string, 20)
	for i := range 20 { // sent while the others' replies are still under way
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), budget)
			defer cancel()
			want := "echo" + strconv.Itoa(i)
			r := d.Do(ctx, readOnly(driver.Cmd{Args: []string{"ECHO", want}}))
			if got, err := r.Text(); err == nil && got != want {
				errs <- got
			}
		})
	}
	p.release()
	calls.Wait()
	close(errs)
	for got := range errs {
		t.Errorf("a caller got the reply %q that belongs to another", got)
	}
	wantWorking(t, e, d)
}

func manyCancels(t tester, e *env) {
	d := e.driver(t)
	const callers, rounds = 8, 150
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			bg, cancel := context.WithTimeout(context.Background(), 2*budget)
			defer cancel()
			key, other := e.key("k"+strconv.Itoa(i)), e.key("o"+strconv.Itoa(i))
			for n := range rounds {
				want := fmt.Sprint(i, "/", n)
				if err := d.Do(bg, cmd("SET", key, want)).Err(); err != nil {
					t.Errorf("SET without cancellation: %v", err)
					return
				}
				short, cancel := context.WithCancel(bg)
				timer := time.AfterFunc(time.Duration(rand.IntN(300))*time.Microsecond, cancel)
				if n%3 == 0 {
					d.DoMulti(short, []driver.Cmd{cmd("SET", other, want), cmd("GET", other)})
				} else if r := d.Do(short, cmd("GET", key)); r.Err() == nil {
					wantText(t, "GET that beat its cancellation", r, want)
				} else if !errors.Is(r.Err(), context.Canceled) {
					t.Errorf("a cancelled GET returns %v", r.Err())
				}
				timer.Stop()
				cancel()
				if got, err := d.Do(bg, cmd("GET", key)).Text(); err != nil || got != want {
					t.Errorf("GET without cancellation: got %q, %v, want %q", got, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}
