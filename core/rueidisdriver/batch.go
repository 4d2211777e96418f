package rueidisdriver

import (
	"context"
	"errors"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

// DoMulti implements [driver.Driver].
func (d *Driver) DoMulti(ctx context.Context, cmds []driver.Cmd) []driver.Reply {
	if len(cmds) == 0 {
		return nil
	}
	var faults []error // by index; nil if there are none, as always
	blocking, scripts, readOnly := false, false, true
	if d.over() {
		return failReplies(make([]driver.Reply, len(cmds)), driver.ErrClosed)
	}
	for i := range cmds {
		if err := d.check(&cmds[i]); err != nil {
			if cmds[i].Unshareable() {
				return failReplies(make([]driver.Reply, len(cmds)), err)
			}
			if faults == nil {
				faults = make([]error, len(cmds))
			}
			faults[i] = err
		}
		blocking = blocking || cmds[i].Mode == driver.Blocking
		readOnly = readOnly && cmds[i].Mode == driver.ReadOnly
		scripts = scripts || cmds[i].Script != nil
	}
	if faults == nil && !blocking && !scripts {
		return d.sendMulti(ctx, cmds, readOnly)
	}
	send := func(cmds []driver.Cmd) []driver.Reply { return d.block(ctx, cmds) }
	if !blocking {
		once := func(cmds []driver.Cmd) []driver.Reply { return d.sendMulti(ctx, cmds, readOnly) }
		send = func(cmds []driver.Cmd) []driver.Reply {
			replies := once(cmds)
			resendScripts(cmds, replies, once)
			return replies
		}
	}
	if faults != nil {
		return withFaults(cmds, faults, send)
	}
	return send(cmds)
}

// withFaults sends the commands that can be sent and puts the faults of the others in their places.
func withFaults(cmds []driver.Cmd, faults []error, send func([]driver.Cmd) []driver.Reply) []driver.Reply {
	replies := make([]driver.Reply, len(cmds))
	var good []driver.Cmd
	var at []int
	for i, err := range faults {
		if err != nil {
			replies[i] = driver.ErrReply(err)
			continue
		}
		good, at = append(good, cmds[i]), append(at, i)
	}
	if len(good) == 0 {
		return replies
	}
	for i, r := range send(good) {
		replies[at[i]] = r
	}
	return replies
}

// resendScripts sends the scripts that the server did not know once more, with their source, in one pipeline. A WAIT behind
// one of them is sent again too, as it has to confirm what the script writes. It goes over the same connection, so that it
// covers all that the one before did.
func resendScripts(cmds []driver.Cmd, replies []driver.Reply, send func([]driver.Cmd) []driver.Reply) {
	again, at := driver.SendAgain(cmds, replies)
	if again == nil {
		return
	}
	for i, r := range send(again) {
		replies[at[i]] = r
	}
}

// sendMulti sends a pipeline, and repeats what may be repeated: all of it if every command is ReadOnly, otherwise what
// certainly was not sent because another command's context broke the connection.
func (d *Driver) sendMulti(ctx context.Context, cmds []driver.Cmd, readOnly bool) []driver.Reply {
	replies := make([]driver.Reply, len(cmds))
	if !d.tryMulti(ctx, cmds, replies) {
		return replies
	}
	for attempt, since := 0, time.Now(); attempt < maxForeign && time.Since(since) < foreignFor; attempt++ {
		var failed []driver.Cmd
		var at []int
		for i, r := range replies {
			if transport(r) && (readOnly && attempt < maxRepeats || errors.Is(r.Err(), errForeign)) {
				failed, at = append(failed, cmds[i]), append(at, i)
			}
		}
		if failed == nil || d.closed.Load() || !d.pause(ctx, repeatAfter(attempt)) {
			break
		}
		got := make([]driver.Reply, len(failed))
		d.tryMulti(ctx, failed, got)
		for i, r := range got {
			replies[at[i]] = r
		}
	}
	for i, r := range replies {
		replies[i] = late(ctx, r)
	}
	return replies
}

// tryMulti sends a pipeline once and reports whether a reply is missing.
func (d *Driver) tryMulti(ctx context.Context, cmds []driver.Cmd, replies []driver.Reply) (failed bool) {
	if err := ctx.Err(); err != nil {
		for i := range replies {
			replies[i] = driver.ErrReply(driver.NotSent(err))
		}
		return false
	}
	list, _ := d.lists.Get().(*[]rueidis.Completed)
	if list == nil {
		list = new([]rueidis.Completed)
	}
	cs := (*list)[:0]
	if d.topology == driver.Cluster {
		cs = d.buildRouted(cs, cmds)
	} else {
		cs = append(cs, d.build(&cmds[0])) // the connection is chosen by the first
		for i := range cmds[1:] {
			cs = append(cs, d.builder.Arbitrary(cmds[i+1].Args...).Build())
		}
	}
	results := d.many(ctx, cs)
	for i := range results {
		if d.convert(ctx, &results[i], &replies[i]) {
			failed = true
		}
	}
	if !failed && cap(cs) <= largePipeline { // After a failure the client may still look at the list.
		clear(cs)
		*list = cs[:0]
		d.lists.Put(list)
	}
	return failed
}

// buildRouted builds a list for a Cluster. Commands that may go anywhere go with the first of the others, so that they cost
// no round trip to another node.
func (d *Driver) buildRouted(cs []rueidis.Completed, cmds []driver.Cmd) []rueidis.Completed {
	near := ""
	for i := range cmds {
		if near = cmds[i].Route(); near != "" {
			break
		}
	}
	if near == "" {
		near = d.anywhere()
	}
	for i := range cmds {
		cmd := cmds[i]
		if cmd.Keys.Count == 0 && cmd.Near == "" {
			cmd.Near = near
		}
		cs = append(cs, d.build(&cmd))
	}
	return cs
}
