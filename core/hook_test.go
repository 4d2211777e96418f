package core

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/go-redisx/redisx/core/driver"
)

type ctxKey struct{}

func recorder(name string, log *[]string) *Hook {
	add := func(s string) { *log = append(*log, name+" "+s) }
	return &Hook{
		CommandStart: func(ctx context.Context, c Command) context.Context {
			add("start " + c.Name + " " + c.Script)
			return context.WithValue(ctx, ctxKey{}, name)
		},
		CommandEnd: func(ctx context.Context, c Command, r CommandResult) {
			add("end " + c.Name + " " + r.Class.String() + " seen " + ctx.Value(ctxKey{}).(string))
		},
		OperationStart: func(ctx context.Context, o Operation) context.Context {
			add("begin " + o.Plugin + " " + o.Verb + " key=" + o.Key)
			return nil
		},
		OperationEnd: func(_ context.Context, o Operation, r OperationResult) { add("done " + o.Verb + " " + r.Outcome) },
		Event:        func(_ context.Context, e Event) { add("event " + e.Client + " " + e.Name + " " + e.Kind) },
	}
}

func TestHooksComposeStartInOrderAndEndInReverse(t *testing.T) {
	var log []string
	c := newTestClient(t, &fakeDriver{answer: echo}, WithHook(recorder("a", &log)), WithHook(recorder("b", &log)), WithHook(&Hook{}))
	c.Do(context.Background(), get("k"))
	c.Run(context.Background(), NewScript("locks.take", "return 1"), []string{"k"}, nil)
	c.DoMulti(context.Background(), []driver.Cmd{get("k"), get("k")})
	ctx, span := c.StartOperation(context.Background(), &Operation{Plugin: "locks", Verb: "acquire", Key: "personal"})
	span.End(ctx, "acquired", nil)
	c.Emit(ctx, &Event{Name: "renewed", Kind: "ok"})
	want := []string{
		"a start GET ", "b start GET ", "b end GET none seen b", "a end GET none seen b",
		"a start EVALSHA locks.take", "b start EVALSHA locks.take", "b end EVALSHA none seen b", "a end EVALSHA none seen b",
		"a start PIPELINE ", "b start PIPELINE ", "b end PIPELINE none seen b", "a end PIPELINE none seen b",
		"a begin locks acquire key=", "b begin locks acquire key=", "b done acquire acquired", "a done acquire acquired",
		"a event default renewed ok", "b event default renewed ok",
	}
	if !reflect.DeepEqual(log, want) {
		t.Errorf("got\n%q\nwant\n%q", log, want)
	}
}

func TestKeysReachHooksOnlyIfAskedFor(t *testing.T) {
	var log []string
	h := recorder("a", &log)
	h.WithKeys = true
	c := newTestClient(t, &fakeDriver{answer: echo}, WithHook(h))
	_, span := c.StartOperation(context.Background(), &Operation{Plugin: "locks", Verb: "acquire", Key: "k1"})
	span.End(context.Background(), "x", nil)
	if log[0] != "a begin locks acquire key=k1" {
		t.Errorf("got %q", log)
	}
}

func TestHooksSeeFailuresAndNils(t *testing.T) {
	var got []CommandResult
	h := &Hook{CommandEnd: func(_ context.Context, _ Command, r CommandResult) { got = append(got, r) }}
	replies := []driver.Reply{driver.NilReply(), driver.ErrReply(driver.NewServerError("OOM x"))}
	c := newTestClient(t, &fakeDriver{answer: func(context.Context, driver.Cmd) driver.Reply {
		r := replies[0]
		replies = replies[1:]
		return r
	}}, WithHook(h))
	c.Do(context.Background(), get("k"))
	c.Do(context.Background(), get("k"))
	if len(got) != 2 || !got[0].Nil || got[0].Err != nil || got[1].Class != ClassOOM || !errors.Is(got[1].Err, ErrUnavailable) {
		t.Errorf("got %+v", got)
	}
}

func TestWithoutHooksNothingIsAllocated(t *testing.T) {
	c := newTestClient(t, &allocDriver{})
	ctx := context.Background()
	if n := testing.AllocsPerRun(1000, func() {
		ctx, span := c.StartOperation(ctx, &Operation{Plugin: "locks", Verb: "acquire", Name: "n"})
		c.Emit(ctx, &Event{Name: "x"})
		span.End(ctx, "ok", nil)
	}); n > 0 {
		t.Errorf("%v allocations per operation; want 0", n)
	}
}

func BenchmarkOperationWithoutHooks(b *testing.B) {
	c := newTestClient(b, &allocDriver{})
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		ctx, span := c.StartOperation(ctx, &Operation{Plugin: "locks", Verb: "acquire", Name: "n"})
		span.End(ctx, "ok", nil)
	}
}

func BenchmarkDoThroughTheClient(b *testing.B) {
	c := newTestClient(b, &allocDriver{})
	cmd := get("k")
	for name, ctx := range map[string]context.Context{"background": context.Background(), "cancellable": cancellable(b)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.Do(ctx, cmd)
			}
		})
	}
	b.Run("refused", func(b *testing.B) {
		c := newTestClient(b, &allocDriver{})
		c.lane0.breaker.epoch.Store(1)
		b.ReportAllocs()
		for b.Loop() {
			c.Do(context.Background(), cmd)
		}
	})
}
