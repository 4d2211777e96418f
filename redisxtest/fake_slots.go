package redisxtest

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/go-redisx/redisx/core/driver"
)

// slotTable is who serves which slot. The keys of all nodes are in one engine; where a key of a slot on the move is kept
// is written down here.
type slotTable struct {
	owner [slots]*fakeNode
	// migrating and importing are what CLUSTER SETSLOT said: on the owner where the slot goes to, elsewhere who is to get it.
	migrating map[int]*fakeNode
	importing map[int]*fakeNode
	moved     map[string]struct{} // keys of such slots that the importing node has
}

func newSlotTable(nodes []*fakeNode) *slotTable {
	t := &slotTable{migrating: map[int]*fakeNode{}, importing: map[int]*fakeNode{}, moved: map[string]struct{}{}}
	for slot := range t.owner {
		t.owner[slot] = nodes[((slot+1)*len(nodes)-1)/slots]
	}
	return t
}

// nodeID is an ID of 40 hexadecimal digits, as nodes have.
func nodeID(addr string) string {
	sum := sha1.Sum([]byte(addr))
	return hex.EncodeToString(sum[:])
}

// home is the node that has a key, or would have it if it existed.
func (t *slotTable) home(key string) *fakeNode {
	slot := int(driver.Slot(key))
	if _, ok := t.moved[key]; ok {
		return t.importing[slot]
	}
	return t.owner[slot]
}

// holds reports whether a key is, or was, in the keyspace of a node.
func (f *Fake) holds(n *fakeNode, key string) bool { return f.slots == nil || f.slots.home(key) == n }

const crossSlot = "CROSSSLOT Keys in request don't hash to the same slot"

// redirect is what a node answers to a client that names keys which it does not serve, or "".
func (t *slotTable) redirect(f *Fake, c *fakeConn, keys []string, shard bool) string {
	if len(keys) == 0 {
		return ""
	}
	slot := int(driver.Slot(keys[0]))
	several, here, missing := false, 0, 0
	for _, key := range keys {
		if int(driver.Slot(key)) != slot {
			return crossSlot
		}
		several = several || key != keys[0]
		switch exists := f.eng.version(dbKey{0, key}) != 0; {
		case exists && t.home(key) == c.node:
			here++
		default:
			missing++
		}
	}
	const tryAgain = "TRYAGAIN Multiple keys request during rehashing of slot"
	owner, target := t.owner[slot], t.migrating[slot]
	switch {
	case owner == c.node && target != nil && missing > 0 && !shard:
		if here > 0 {
			return tryAgain
		}
		return fmt.Sprintf("ASK %d %s", slot, target.addr)
	case owner != c.node && t.importing[slot] == c.node && c.asking && !shard:
		if several && missing > 0 {
			return tryAgain
		}
		for _, key := range keys {
			if f.eng.version(dbKey{0, key}) != 0 && t.home(key) == owner {
				return fmt.Sprintf("ERR the fake server has %q on %s still and cannot have it here as well: ASKING is for those who were sent", key, owner.addr)
			}
		}
	case owner != c.node:
		return fmt.Sprintf("MOVED %d %s", slot, owner.addr)
	}
	return ""
}

// local reports whether all keys that exist are on the node of a client.
func (t *slotTable) local(f *Fake, c *fakeConn, keys []string) bool {
	return !slices.ContainsFunc(keys, func(key string) bool { return f.eng.version(dbKey{0, key}) != 0 && t.home(key) != c.node })
}

// placed writes down the keys that a command has made on a node that imports their slot.
func (f *Fake) placed(c *fakeConn, cmd *fakeCommand, args []string) {
	if f.slots == nil || len(f.slots.importing) == 0 {
		return
	}
	for _, key := range append(cmd.keys(args), c.executed...) {
		slot := int(driver.Slot(key))
		if f.slots.importing[slot] == c.node && f.slots.owner[slot] != c.node && f.eng.version(dbKey{0, key}) != 0 {
			f.slots.moved[key] = struct{}{}
		}
	}
}

// redirected answers a command whose keys are elsewhere, and reports whether it did.
func (f *Fake) redirected(c *fakeConn, cmd *fakeCommand, args []string, r *reply) bool {
	keys := cmd.keys(args)
	c.executed = nil
	if cmd.name == "EXEC" {
		for _, queued := range c.queue {
			keys = append(keys, cmdKeys(f.command(queued[0]), queued)...)
		}
		c.executed = keys
	}
	why := f.slots.redirect(f, c, keys, shardCommand[cmd.name])
	if why == "" {
		return false
	}
	r.errorf("%s", why)
	if cmd.name == "EXEC" {
		c.endMulti()
	}
	return true
}

var shardCommand = map[string]bool{"SSUBSCRIBE": true, "SUNSUBSCRIBE": true, "SPUBLISH": true}

// outOfReach answers a script's command whose keys the script did not declare, or that another node has.
func (f *Fake) outOfReach(c *fakeConn, cmd *fakeCommand, args []string, r *reply) bool {
	keys := cmdKeys(cmd, args)
	for _, key := range keys {
		if _, ok := c.script.declared[key]; ok {
			continue
		}
		if f.slots.redirect(f, c, []string{key}, false) != "" {
			r.errorf("ERR Script attempted to access a non local key in a cluster node")
		} else {
			r.errorf("ERR Script attempted to access an undeclared key '%.128s': a script may only use the keys that KEYS names", key)
		}
		return true
	}
	if why := f.slots.redirect(f, c, keys, false); why != "" {
		r.errorf("ERR Script attempted to access a non local key in a cluster node")
		return true
	}
	return false
}

// setSlot gives a slot to a node, with all its keys.
func (f *Fake) setSlot(slot int, to *fakeNode) {
	t := f.slots
	from := t.owner[slot]
	var left []string
	for _, key := range f.keysIn(slot) {
		if t.home(key) != to {
			left = append(left, key)
		}
	}
	f.carry(left, to)
	for key := range t.moved {
		if int(driver.Slot(key)) == slot {
			delete(t.moved, key)
		}
	}
	delete(t.migrating, slot)
	delete(t.importing, slot)
	t.owner[slot] = to
	if from == to {
		return
	}
	moved := fmt.Sprintf("-MOVED %d %s\r\n", slot, to.addr)
	for _, w := range slices.Clone(f.waiters) {
		keys := cmdKeys(f.commands[w.name], w.args)
		if w.c.node == from && w.c.blocked == w && len(keys) > 0 && int(driver.Slot(keys[0])) == slot {
			f.unblock(w, []byte(moved))
		}
	}
	for _, c := range f.clients(from) {
		var gone []string
		for channel := range c.shard {
			if int(driver.Slot(channel)) == slot {
				gone = append(gone, channel)
			}
		}
		slices.Sort(gone)
		for _, channel := range gone {
			r := reply{resp: c.resp}
			unsubscribeFrom("sunsubscribe", shardOf)(f, c, []string{"SUNSUBSCRIBE", channel}, &r)
			c.send(r.b)
		}
	}
}

// carry brings keys from the node that has them to another: a DEL there, a RESTORE here, and told as such.
func (f *Fake) carry(keys []string, to *fakeNode) {
	for _, key := range keys {
		from := f.slots.home(key)
		f.slots.moved[key] = struct{}{}
		for c := range f.tracks.clients {
			if c.node == from && c.track.concerns(key, c, f.tracks.read) || c.node == to && c.track.broadcast && c.track.concerns(key, c, nil) {
				f.tell(c, []string{key})
			}
			if c.node == from {
				delete(f.tracks.read[key], c)
			}
		}
		for _, c := range f.clients(from) {
			if _, ok := c.watch[dbKey{0, key}]; ok {
				c.watch[dbKey{0, key}] = ^uint(0) // gone from here, whatever its version
			}
		}
	}
}

// keysIn returns the keys of a slot, sorted, whoever has them.
func (f *Fake) keysIn(slot int) []string {
	var keys []string
	for _, key := range f.eng.names(0) {
		if int(driver.Slot(key)) == slot {
			keys = append(keys, key)
		}
	}
	return keys
}
