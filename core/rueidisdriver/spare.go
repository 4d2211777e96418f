package rueidisdriver

import (
	"slices"
	"time"
)

// Spare connections save a Blocking command the two round trips of taking one from the client's pool and learning its
// CLIENT ID. They lead to where the last ones were needed. A driver over a client given to New has none: the pool is not its
// own.

// takeSpare returns a spare connection to a server, or nil.
func (d *Driver) takeSpare(at node) *conn {
	if at.name == "" {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	conns := d.spare[at.name]
	if len(conns) == 0 {
		return nil
	}
	c := conns[len(conns)-1]
	d.spare[at.name] = conns[:len(conns)-1]
	return d.renew(c, at)
}

// renew makes a new conn of one that was given back, whose last user may still hold it. The caller holds d.mu.
func (d *Driver) renew(c *conn, at node) *conn {
	fresh := &conn{d: d, at: at, wire: c.wire, giveBack: c.giveBack, id: c.id, spareSince: c.spareSince}
	delete(d.conns, c)
	d.conns[fresh] = struct{}{}
	return fresh
}

// queueForSpare has the next spare connection to a server sent to the channel, until leave is called.
func (d *Driver) queueForSpare(at node) (spare chan *conn, leave func()) {
	if at.name == "" {
		return nil, func() {}
	}
	spare = make(chan *conn, 1)
	d.mu.Lock()
	if conns := d.spare[at.name]; len(conns) > 0 { // put there since takeSpare looked
		d.spare[at.name] = conns[:len(conns)-1]
		spare <- d.renew(conns[len(conns)-1], at)
	} else {
		d.waiting[at.name] = append(d.waiting[at.name], spare)
	}
	d.mu.Unlock()
	return spare, func() {
		d.mu.Lock()
		rest := slices.DeleteFunc(d.waiting[at.name], func(c chan *conn) bool { return c == spare })
		if d.waiting[at.name] = rest; len(rest) == 0 {
			delete(d.waiting, at.name)
		}
		d.mu.Unlock()
		select {
		case c := <-spare: // too late
			_ = c.Close()
		default:
		}
	}
}

// putSpare keeps a connection for later, for spareFor at the most. It reports false if there is no room.
func (d *Driver) putSpare(c *conn) bool {
	if c.at.name == "" {
		return false
	}
	c.spareSince = time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return false
	}
	if w := d.waiting[c.at.name]; len(w) > 0 {
		d.waiting[c.at.name] = w[1:]
		w[0] <- d.renew(c, c.at)
		return true
	}
	if len(d.spare[c.at.name]) >= maxSpare {
		return false
	}
	d.spare[c.at.name] = append(d.spare[c.at.name], c)
	if d.sweep == nil {
		d.sweepAfter(d.spareFor)
	}
	return true
}

// sweepAfter has sweepSpare run later. The caller holds d.mu.
func (d *Driver) sweepAfter(wait time.Duration) {
	d.sweep = time.AfterFunc(wait, func() { d.run(d.sweepSpare) })
}

// sweepSpare gives back the connections that were spare for spareFor, and comes again for the others.
func (d *Driver) sweepSpare() {
	var old []*conn
	next := time.Duration(-1)
	d.mu.Lock()
	for name, conns := range d.spare { // in each the oldest is the first
		for len(conns) > 0 && time.Since(conns[0].spareSince) >= d.spareFor {
			old = append(old, conns[0])
			conns = conns[1:]
		}
		if len(conns) == 0 {
			delete(d.spare, name)
			continue
		}
		d.spare[name] = conns
		if wait := d.spareFor - time.Since(conns[0].spareSince); next < 0 || wait < next {
			next = max(wait, 0)
		}
	}
	d.sweep = nil
	if next >= 0 && !d.stopped {
		d.sweepAfter(next)
	}
	d.mu.Unlock()
	for _, c := range old {
		c.discard()
	}
}

// dropSpare gives back all spare connections to a server.
func (d *Driver) dropSpare(at node) {
	d.mu.Lock()
	conns := d.spare[at.name]
	delete(d.spare, at.name)
	d.mu.Unlock()
	for _, c := range conns {
		c.discard()
	}
}
