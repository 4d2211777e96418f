package rueidisdriver

import "time"

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
	fresh := &conn{d: d, at: at, wire: c.wire, id: c.id, spareSince: c.spareSince}
	delete(d.conns, c)
	d.conns[fresh] = struct{}{}
	return fresh
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
