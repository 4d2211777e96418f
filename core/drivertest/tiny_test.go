package drivertest

import (
	"bufio"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// tiny is the smallest driver that keeps the promises the self-test looks at: one connection for each call. Its switches
// break one promise each.
type tiny struct {
	addr   string
	closed atomic.Bool
	ctx    context.Context
	end    context.CancelFunc
	wg     sync.WaitGroup
	lie    lies
}

type lies struct {
	retries, ignoresCancel, swallowsLost, nilError, claimsNotSent bool
	forgetsSource, reverses, leaks, worksClosed, sendsEnded       bool
	overlaps, stripsERR, emptyIsNull, panics, confirmsEarly       bool
	losesReplies, blamesNobody, takesMulti                        bool
}

func openTiny(lie lies) func(ctx context.Context, url string) (driver.Driver, error) {
	return func(ctx context.Context, url string) (driver.Driver, error) {
		ep, err := core.ParseURL(url)
		if err != nil {
			return nil, err
		}
		d := &tiny{addr: ep.Addrs[0], lie: lie}
		d.ctx, d.end = context.WithCancel(context.Background())
		if err := d.Do(ctx, driver.Cmd{Args: []string{"PING"}}).Err(); err != nil {
			return nil, err
		}
		if lie.leaks {
			go func() { <-context.Background().Done() }()
		}
		return d, nil
	}
}

func (d *tiny) Unwrap() any { return d }

func (d *tiny) Close() error {
	d.closed.Store(true)
	d.end()
	d.wg.Wait()
	return nil
}

func (d *tiny) Caps(ctx context.Context) (driver.Caps, error) { return driver.Probe(ctx, d.Do) }

func (d *tiny) Do(ctx context.Context, cmd driver.Cmd) driver.Reply {
	if cmd.Mode == driver.Blocking && cmd.CheckShared() == nil && ctx.Err() == nil && !d.closed.Load() {
		return d.distort(d.block(ctx, cmd))
	}
	return d.DoMulti(ctx, []driver.Cmd{cmd})[0]
}

func (d *tiny) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	rs := make([]driver.Reply, len(cmds))
	fail := func(from int, err error) []driver.Reply {
		for i := from; i < len(rs); i++ {
			rs[i] = driver.ErrReply(err)
		}
		return rs
	}
	if d.closed.Load() && !d.lie.worksClosed {
		return fail(0, driver.ErrClosed)
	}
	if err := ctx.Err(); err != nil && !d.lie.sendsEnded {
		return fail(0, driver.NotSent(err))
	}
	if d.lie.ignoresCancel || d.lie.sendsEnded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), 600*time.Millisecond)
		defer cancel()
	}
	for _, c := range cmds {
		check := c.CheckShared
		if d.lie.takesMulti {
			check = c.Check
		}
		if err := check(); err != nil {
			if d.lie.panics {
				panic(err)
			}
			return fail(0, driver.NotSent(err))
		}
	}
	var n int
	var err error
	for range 2 {
		if n, err = d.pipeline(ctx, cmds, rs); err == nil || !d.lie.retries {
			break
		}
	}
	if err != nil && d.lie.claimsNotSent {
		err = driver.NotSent(errors.New("connection lost"))
	}
	for i, r := range rs[:n] {
		if cmds[i].NeedsSource(r) && !d.lie.forgetsSource {
			rs[i] = d.Do(ctx, cmds[i].WithSource())
		}
		rs[i] = d.distort(rs[i])
	}
	if d.lie.reverses && len(rs) > 1 {
		rs[0], rs[len(rs)-1] = rs[len(rs)-1], rs[0]
	}
	if err != nil {
		return fail(n, err)
	}
	return rs
}

// block runs a blocking command and ends it with CLIENT UNBLOCK.
func (d *tiny) block(ctx context.Context, cmd driver.Cmd) driver.Reply {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.addr)
	if err != nil {
		return driver.ErrReply(driver.NotSent(cause(ctx, err)))
	}
	defer conn.Close()
	replies := make(chan driver.Reply, 2)
	d.wg.Go(func() {
		r := bufio.NewReader(conn)
		for range 2 {
			reply, err := readReply(r)
			if err != nil {
				reply = driver.ErrReply(driver.Unknown(err))
			}
			replies <- reply
		}
	})
	if _, err := conn.Write(append(encode("CLIENT", "ID"), encode(cmd.Args...)...)); err != nil {
		return driver.ErrReply(driver.Unknown(err))
	}
	id := <-replies
	select {
	case r := <-replies:
		return r
	case <-d.ctx.Done():
		return driver.ErrReply(driver.ErrClosed)
	case <-ctx.Done():
	}
	if d.lie.losesReplies {
		conn.Close()
		return driver.ErrReply(driver.NotSent(ctx.Err()))
	}
	if d.lie.blamesNobody {
		return driver.ErrReply(driver.Unknown(ctx.Err()))
	}
	n, _ := id.Text()
	d.DoMulti(context.Background(), []driver.Cmd{{Args: []string{"CLIENT", "UNBLOCK", n, "TIMEOUT"}}})
	select {
	case r := <-replies:
		if r.IsNil() {
			return driver.ErrReply(driver.NotSent(ctx.Err()))
		}
		return r
	case <-time.After(driver.PromptCancel):
		return driver.ErrReply(driver.Unknown(ctx.Err()))
	}
}

var errNilSentinel = errors.New("nil message")

func (d *tiny) distort(r driver.Reply) driver.Reply {
	switch text, _ := r.Text(); {
	case d.lie.nilError && r.IsNil():
		return driver.ErrReply(errNilSentinel)
	case d.lie.emptyIsNull && r.Kind() == driver.KindString && text == "":
		return driver.NilReply()
	case d.lie.stripsERR && r.Err() != nil:
		return driver.ErrReply(errors.New(strings.TrimPrefix(r.Err().Error(), "ERR ")))
	}
	return r
}

// pipeline sends everything on a new connection and returns how many replies came.
func (d *tiny) pipeline(ctx context.Context, cmds []driver.Cmd, rs []driver.Reply) (int, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.addr)
	if err != nil {
		return 0, driver.NotSent(cause(ctx, err))
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var out []byte
	for _, c := range cmds {
		out = append(out, encode(c.Args...)...)
	}
	if _, err := conn.Write(out); err != nil {
		return 0, driver.Unknown(cause(ctx, err))
	}
	r := bufio.NewReader(conn)
	for i := range cmds {
		if rs[i], err = readReply(r); err != nil {
			return i, driver.Unknown(cause(ctx, err))
		}
	}
	return len(cmds), nil
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (d *tiny) Subscribe(ctx context.Context, s driver.Subscription) error {
	if len(s.Channels) == 0 {
		return errors.New("no channels")
	}
	if d.closed.Load() {
		return driver.ErrClosed
	}
	d.wg.Add(1)
	defer d.wg.Done()
	for {
		err := d.listen(ctx, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if d.closed.Load() {
			return driver.ErrClosed
		}
		if !d.lie.swallowsLost {
			s.OnLost(err)
		}
	}
}

func (d *tiny) listen(ctx context.Context, s driver.Subscription) error {
	conn, err := net.Dial("tcp", d.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer context.AfterFunc(d.ctx, func() { conn.Close() })()
	if d.lie.confirmsEarly {
		s.OnConfirmed()
		time.Sleep(100 * time.Millisecond) // the gap the lie opens
	}
	if _, err := conn.Write(encode(append([]string{"SUBSCRIBE"}, s.Channels...)...)); err != nil {
		return err
	}
	confirmed := 0
	for r := bufio.NewReader(conn); ; {
		reply, err := readReply(r)
		if err != nil {
			return err
		}
		parts, err := reply.Strings()
		if err != nil {
			return err
		}
		if parts[0] == "subscribe" {
			if confirmed++; confirmed == len(s.Channels) && !d.lie.confirmsEarly {
				s.OnConfirmed()
			}
			continue
		}
		if d.lie.overlaps {
			d.wg.Go(func() { s.OnMessage(parts[1], parts[2]) })
			continue
		}
		s.OnMessage(parts[1], parts[2])
	}
}
