package rueidisdriver

import (
	"slices"
	"time"
)

// Spare connections save a Blocking command the two round trips of taking one from the client's pool and learning its
// CLIENT ID. They lead to where the last ones were needed.

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
	fresh := &conn{d: d, at: at, wire: c.wire, id: c.id, spareSince: c.spareSince}
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

// putSpare keeps a connection for later, and gives back those that have waited for too long. It reports false if there is
// no room.
func (d *Driver) putSpare(c *conn) bool {
	if c.at.name == "" {
		return false
	}
	c.spareSince = time.Now()
	var old []*conn
	d.mu.Lock()
	kept := false
	if w := d.waiting[c.at.name]; len(w) > 0 && !d.stopped {
		d.waiting[c.at.name] = w[1:]
		w[0] <- d.renew(c, c.at)
		d.mu.Unlock()
		return true
	}
	if !d.stopped {
		for name, conns := range d.spare {
			for len(conns) > 0 && time.Since(conns[0].spareSince) > spareFor {
				old = append(old, conns[0])
				conns = conns[1:]
			}
			if len(conns) == 0 {
				delete(d.spare, name)
			} else {
				d.spare[name] = conns
			}
		}
		if kept = len(d.spare[c.at.name]) < maxSpare; kept {
			d.spare[c.at.name] = append(d.spare[c.at.name], c)
		}
	}
	d.mu.Unlock()
	for _, c := range old {
		c.discard()
	}
	return kept
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
