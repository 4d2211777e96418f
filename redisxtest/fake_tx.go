package redisxtest

import "strings"

func (f *Fake) cmdMulti(c *fakeConn, _ []string, r *reply) {
	if c.multi {
		r.errorf("ERR MULTI calls can not be nested")
		return
	}
	c.multi = true
	r.ok()
}

// endMulti forgets the transaction and what it watched.
func (c *fakeConn) endMulti() { c.queue, c.multi, c.dirty, c.watch = nil, false, false, nil }

func (f *Fake) cmdDiscard(c *fakeConn, _ []string, r *reply) {
	if !c.multi {
		r.errorf("ERR DISCARD without MULTI")
		return
	}
	c.endMulti()
	r.ok()
}

func (f *Fake) cmdWatch(c *fakeConn, args []string, r *reply) {
	if c.multi {
		r.errorf("ERR WATCH inside MULTI is not allowed")
		return
	}
	if c.watch == nil {
		c.watch = map[dbKey]uint{}
	}
	for _, key := range args[1:] {
		k := dbKey{c.db, key}
		if _, ok := c.watch[k]; !ok {
			c.watch[k] = f.eng.stamp(k)
		}
	}
	r.ok()
}

func (f *Fake) cmdUnwatch(c *fakeConn, _ []string, r *reply) {
	c.watch = nil
	r.ok()
}

func (f *Fake) cmdExec(c *fakeConn, _ []string, r *reply) {
	if !c.multi {
		r.errorf("ERR EXEC without MULTI")
		return
	}
	queue, dirty, watch := c.queue, c.dirty, c.watch
	c.endMulti()
	if dirty {
		r.errorf("EXECABORT Transaction discarded because of previous errors.")
		return
	}
	for k, stamp := range watch {
		if f.eng.stamp(k) != stamp {
			r.nullArray()
			return
		}
	}
	r.array(len(queue))
	for _, args := range queue {
		name := strings.ToUpper(args[0])
		if out, blocks, _ := f.attempt(c, name, args); blocks {
			r.raw(out)
			continue
		}
		f.exec(c, name, args, r)
	}
}
