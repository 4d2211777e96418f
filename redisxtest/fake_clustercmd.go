package redisxtest

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/go-redisx/redisx/core/driver"
)

// clusterCommands are those that a node of a Cluster answers differently.
var clusterCommands map[string]command

func init() {
	clusterCommands = map[string]command{
		"CLUSTER": (*Fake).cmdCluster, "READONLY": (*Fake).cmdReadOnly, "READWRITE": (*Fake).cmdReadOnly, "ASKING": (*Fake).cmdAsking,
		"KEYS": (*Fake).cmdKeysOf, "DBSIZE": (*Fake).cmdDBSize, "RANDOMKEY": (*Fake).cmdRandomKey,
		"FLUSHALL": (*Fake).cmdFlush, "FLUSHDB": (*Fake).cmdFlush, "MOVE": (*Fake).cmdMove, "COPY": (*Fake).cmdCopy,
	}
}

// cmdReadOnly is READONLY and READWRITE: there are no replicas for them to matter.
func (f *Fake) cmdReadOnly(_ *fakeConn, _ []string, r *reply) { r.ok() }

func (f *Fake) cmdAsking(c *fakeConn, _ []string, r *reply) {
	c.asking = true
	r.ok()
}

func (f *Fake) cmdMove(_ *fakeConn, _ []string, r *reply) {
	r.errorf("ERR MOVE is not allowed in cluster mode")
}

func (f *Fake) cmdCopy(c *fakeConn, args []string, r *reply) {
	for i := 3; i+1 < len(args); i++ {
		if strings.EqualFold(args[i], "DB") && args[i+1] != "0" {
			r.errorf("ERR DB index is out of range")
			return
		}
	}
	r.raw(f.eng.run(c.peer, &c.buf, args...))
}

type clusterCommand struct {
	args int // with both names
	run  func(f *Fake, c *fakeConn, args []string, r *reply)
}

var clusterSubcommands = map[string]clusterCommand{
	"INFO":    {2, (*Fake).clusterInfo},
	"NODES":   {2, (*Fake).clusterNodes},
	"SLOTS":   {2, (*Fake).clusterSlots},
	"SHARDS":  {2, (*Fake).clusterShards},
	"MYID":    {2, func(_ *Fake, c *fakeConn, _ []string, r *reply) { r.bulk(c.node.id) }},
	"KEYSLOT": {3, func(_ *Fake, _ *fakeConn, args []string, r *reply) { r.int(int(driver.Slot(args[2]))) }},
	"COUNTKEYSINSLOT": {3, func(f *Fake, c *fakeConn, args []string, r *reply) {
		if slot, ok := slotNumber(args[2], r); ok {
			r.int(len(f.keysAt(c.node, slot)))
		}
	}},
	"GETKEYSINSLOT": {4, func(f *Fake, c *fakeConn, args []string, r *reply) {
		n, err := strconv.Atoi(args[3])
		slot, ok := slotNumber(args[2], r)
		switch {
		case !ok:
		case err != nil || n < 0:
			r.errorf("ERR Invalid number of keys")
		default:
			keys := f.keysAt(c.node, slot)
			r.bulks(keys[:min(n, len(keys))])
		}
	}},
	"REPLICAS": {3, (*Fake).clusterReplicas},
	"SLAVES":   {3, (*Fake).clusterReplicas},
	"SETSLOT":  {0, (*Fake).clusterSetSlot},
}

func (f *Fake) cmdCluster(c *fakeConn, args []string, r *reply) {
	h, ok := clusterSubcommands[strings.ToUpper(args[1])]
	switch {
	case !ok:
		r.unknownSub("CLUSTER", args[1])
	case h.args > 0 && len(args) != h.args || len(args) < 2:
		r.wrongArity("cluster|" + args[1])
	default:
		h.run(f, c, args, r)
	}
}

func slotNumber(s string, r *reply) (int, bool) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n >= slots {
		r.errorf("ERR Invalid or out of range slot")
		return 0, false
	}
	return n, true
}

// keysAt returns the keys of a slot that a node has.
func (f *Fake) keysAt(n *fakeNode, slot int) []string {
	return slices.DeleteFunc(f.keysIn(slot), func(key string) bool { return !f.holds(n, key) })
}

func (f *Fake) clusterInfo(_ *fakeConn, _ []string, r *reply) {
	n := strconv.Itoa(len(f.nodes))
	r.bulk(strings.Join([]string{
		"cluster_state:ok", "cluster_slots_assigned:16384", "cluster_slots_ok:16384", "cluster_slots_pfail:0", "cluster_slots_fail:0",
		"cluster_known_nodes:" + n, "cluster_size:" + n, "cluster_current_epoch:" + n, "cluster_my_epoch:1",
		"cluster_stats_messages_sent:0", "cluster_stats_messages_received:0", "total_cluster_links_buffer_limit_exceeded:0", "",
	}, "\r\n"))
}

// ranges are the slots of a node, first and last of each run.
func (t *slotTable) ranges(n *fakeNode) (list [][2]int) {
	for slot, owner := range t.owner {
		switch last := len(list) - 1; {
		case owner != n:
		case last >= 0 && list[last][1] == slot-1:
			list[last][1] = slot
		default:
			list = append(list, [2]int{slot, slot})
		}
	}
	return list
}

func (n *fakeNode) port() int {
	_, port, _ := net.SplitHostPort(n.addr)
	p, _ := strconv.Atoi(port)
	return p
}

const loopbackHost = "127.0.0.1"

func (f *Fake) clusterNodes(c *fakeConn, _ []string, r *reply) {
	var b strings.Builder
	for _, n := range f.nodes {
		flags := "master"
		if n == c.node {
			flags = "myself,master"
		}
		fmt.Fprintf(&b, "%s %s@%d %s - 0 0 %d connected", n.id, n.addr, n.port()+10_000, flags, n.index+1)
		for _, rg := range f.slots.ranges(n) {
			if rg[0] == rg[1] {
				fmt.Fprintf(&b, " %d", rg[0])
			} else {
				fmt.Fprintf(&b, " %d-%d", rg[0], rg[1])
			}
		}
		if n == c.node {
			for slot := range slots {
				if to := f.slots.migrating[slot]; to != nil && f.slots.owner[slot] == n {
					fmt.Fprintf(&b, " [%d->-%s]", slot, to.id)
				}
				if f.slots.importing[slot] == n && f.slots.owner[slot] != n {
					fmt.Fprintf(&b, " [%d-<-%s]", slot, f.slots.owner[slot].id)
				}
			}
		}
		b.WriteString("\n")
	}
	r.bulk(b.String())
}

func (f *Fake) clusterSlots(_ *fakeConn, _ []string, r *reply) {
	type run struct {
		from, to int
		n        *fakeNode
	}
	var all []run
	for _, n := range f.nodes {
		for _, rg := range f.slots.ranges(n) {
			all = append(all, run{rg[0], rg[1], n})
		}
	}
	slices.SortFunc(all, func(a, b run) int { return a.from - b.from })
	r.array(len(all))
	for _, a := range all {
		r.array(3)
		r.int(a.from)
		r.int(a.to)
		r.array(4)
		r.bulk(loopbackHost)
		r.int(a.n.port())
		r.bulk(a.n.id)
		r.array(0)
	}
}

func (f *Fake) clusterShards(_ *fakeConn, _ []string, r *reply) {
	r.array(len(f.nodes))
	for _, n := range f.nodes {
		r.dict(2)
		r.bulk("slots")
		ranges := f.slots.ranges(n)
		r.array(2 * len(ranges))
		for _, rg := range ranges {
			r.int(rg[0])
			r.int(rg[1])
		}
		r.bulk("nodes")
		r.array(1)
		r.dict(7)
		r.bulk("id")
		r.bulk(n.id)
		r.bulk("port")
		r.int(n.port())
		r.bulk("ip")
		r.bulk(loopbackHost)
		r.bulk("endpoint")
		r.bulk(loopbackHost)
		r.bulk("role")
		r.bulk("master")
		r.bulk("replication-offset")
		r.int(0)
		r.bulk("health")
		r.bulk("online")
	}
}

// node finds a node by its ID.
func (f *Fake) node(id string) *fakeNode {
	for _, n := range f.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

func (f *Fake) clusterReplicas(_ *fakeConn, args []string, r *reply) {
	if f.node(args[2]) == nil {
		r.errorf("ERR Unknown node %s", args[2])
		return
	}
	r.array(0)
}

// clusterSetSlot is CLUSTER SETSLOT as tools use it to move a slot. Since the nodes share one table, NODE counts as soon as
// one of them is told.
func (f *Fake) clusterSetSlot(c *fakeConn, args []string, r *reply) {
	if len(args) < 4 {
		r.wrongArity("cluster|setslot")
		return
	}
	slot, ok := slotNumber(args[2], r)
	if !ok {
		return
	}
	t, how := f.slots, strings.ToUpper(args[3])
	if how == "STABLE" && len(args) == 4 {
		if t.owner[slot] == c.node {
			delete(t.migrating, slot)
		} else if t.importing[slot] == c.node {
			delete(t.importing, slot)
			f.bringBack(slot)
		}
		r.ok()
		return
	}
	if len(args) != 5 || how != "MIGRATING" && how != "IMPORTING" && how != "NODE" {
		r.errorf("ERR Invalid CLUSTER SETSLOT action or number of arguments. Try CLUSTER HELP")
		return
	}
	other := f.node(args[4])
	switch {
	case other == nil && how == "NODE":
		r.errorf("ERR Unknown node %s", args[4])
	case other == nil:
		r.errorf("ERR I don't know about node %s", args[4])
	case how == "NODE":
		if t.owner[slot] == c.node && other != c.node && len(f.keysAt(c.node, slot)) > 0 {
			r.errorf("ERR Can't assign hashslot %d to a different node while I still hold keys for this hash slot.", slot)
			return
		}
		f.setSlot(slot, other)
		r.ok()
	case how == "MIGRATING" && t.owner[slot] != c.node:
		r.errorf("ERR I'm not the owner of hash slot %d", slot)
	case how == "IMPORTING" && t.owner[slot] == c.node:
		r.errorf("ERR I'm already the owner of hash slot %d", slot)
	case how == "MIGRATING":
		t.migrating[slot] = other
		r.ok()
	default:
		if old := t.importing[slot]; old != nil && old != c.node {
			r.errorf("ERR the fake server imports a slot on one node at a time, and %s imports %d", old.addr, slot)
			return
		}
		t.importing[slot] = c.node
		r.ok()
	}
}

// bringBack gives the keys of a slot whose import was called off to its owner.
func (f *Fake) bringBack(slot int) {
	for key := range f.slots.moved {
		if int(driver.Slot(key)) == slot {
			delete(f.slots.moved, key)
		}
	}
}
