package rueidisdriver

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

const (
	// slotsFor is how long the slot map is trusted while somebody asks for it, slotsPause the least time between two
	// looks, however much there is to doubt.
	slotsFor   = 10 * time.Second
	slotsPause = 200 * time.Millisecond
	// lookWithin bounds one look at the topology.
	lookWithin = 2 * time.Second
	// lookNext is how long one node may take before another is asked too.
	lookNext = 200 * time.Millisecond
)

// node is one server of the deployment.
type node struct {
	// name tells servers apart; "" if the client does not say which one it is.
	name string
	// client makes connections of their own to it; shared sends on the shared ones.
	client interface {
		Dedicate() (rueidis.DedicatedClient, func())
	}
	shared rueidis.CommandClient
	// pin is a key that every command must be given the slot of, if the client wants one.
	pin string
}

// nodeOf returns the primary that serves key, or any.
func (d *Driver) nodeOf(ctx context.Context, key string) (node, error) {
	switch d.topology {
	case driver.Standalone:
		return node{name: "server", client: d.client, shared: d.client}, nil
	case driver.Sentinel:
		return d.sentinelPrimary(), nil
	}
	if key == "" {
		key = d.anywhere()
	}
	addr := d.slots.node(key)
	if addr == "" {
		if err := d.look(ctx); err != nil {
			return node{}, err
		}
		addr = d.slots.node(key)
	}
	return d.nodeAt(addr, key), nil
}

func (d *Driver) sentinelPrimary() node {
	if nodes := d.client.Nodes(); len(nodes) == 1 {
		for addr, client := range nodes {
			return node{name: addr, client: client, shared: client}
		}
	}
	return node{client: d.client, shared: d.client} // the client knows replicas too and does not say which is which
}

// nodeAt returns the node of a Cluster with an address. If the client calls it by another name, the client finds it by key.
func (d *Driver) nodeAt(addr, key string) node {
	if client, ok := d.client.Nodes()[addr]; ok && addr != "" {
		return node{name: addr, client: client, shared: client}
	}
	return node{client: d.client, shared: d.client, pin: key}
}

// follow returns the node that a redirection for key names. The client learns of a new one by a command that it redirects
// itself, whatever comes of that.
func (d *Driver) follow(ctx context.Context, key string, to redirect) (node, error) {
	if _, ok := d.client.Nodes()[to.addr]; !ok {
		_ = d.send(ctx, &driver.Cmd{Args: []string{"EXISTS", key}, Keys: driver.Key(1), Mode: driver.ReadOnly})
		if err := ctx.Err(); err != nil {
			return node{}, driver.NotSent(err)
		}
	}
	return d.nodeAt(to.addr, key), nil
}

// redirect is what MOVED or ASK says.
type redirect struct {
	code string
	slot uint16
	addr string
}

// redirection reads a reply that is MOVED or ASK: "MOVED 3999 127.0.0.1:6381".
func redirection(r driver.Reply) (to redirect, ok bool) {
	e, ok := r.Err().(*driver.ServerError)
	if !ok || e.Code() != "MOVED" && e.Code() != "ASK" {
		return to, false
	}
	fields := strings.Fields(e.Error())
	if len(fields) < 3 {
		return to, false
	}
	slot, err := strconv.ParseUint(fields[1], 10, 16)
	host, port, found := cutLast(fields[2], ":")
	if err != nil || slot >= driver.Slots || !found || host == "" || host == "?" {
		return to, false
	}
	return redirect{code: e.Code(), slot: uint16(slot), addr: net.JoinHostPort(strings.Trim(host, "[]"), port)}, true
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// learn takes note of a slot that moved, so that the next connection for it goes to the right place at once.
func (s *slotMap) learn(d *Driver, to redirect) {
	if old := s.table.Load(); old != nil && old.owner(to.slot) != to.addr {
		t := &slotTable{names: old.names, slots: old.slots}
		i := slices.Index(t.names, to.addr)
		if i < 0 {
			i = len(t.names)
			t.names = append(slices.Clip(t.names), to.addr)
		}
		t.slots[to.slot] = uint16(i + 1)
		s.table.CompareAndSwap(old, t) // a look that ended meanwhile knows more
	}
	s.doubt(d)
}

// slotMap is what the driver knows of a Cluster: which node serves which slot.
type slotMap struct {
	table atomic.Pointer[slotTable]
	// asked is set by every Node, dirty by failures.
	asked, dirty atomic.Bool
	running      atomic.Bool
	wake         chan struct{}
	once         sync.Once
}

type slotTable struct {
	names []string
	slots [driver.Slots]uint16 // index in names plus 1, 0 if not served
}

func (s *slotMap) node(key string) string { return s.table.Load().owner(driver.Slot(key)) }

// owner returns the node that serves a slot, or "".
func (t *slotTable) owner(slot uint16) string {
	if t == nil || t.slots[slot] == 0 {
		return ""
	}
	return t.names[t.slots[slot]-1]
}

// keyOf returns a key that a node serves, given by its number in slots, or "" if it serves none.
func (t *slotTable) keyOf(number uint16) string {
	if !slices.Contains(t.slots[:], number) {
		return ""
	}
	for i := range 1 << 20 {
		if key := "redisx-" + strconv.Itoa(i); t.slots[driver.Slot(key)] == number {
			return key
		}
	}
	return ""
}

func (s *slotMap) signal() chan struct{} {
	s.once.Do(func() { s.wake = make(chan struct{}, 1) })
	return s.wake
}

// doubt has the map looked up again soon, if anybody uses it.
func (s *slotMap) doubt(d *Driver) {
	if d.topology != driver.Cluster || s.table.Load() == nil {
		return
	}
	if !s.dirty.Swap(true) {
		select {
		case s.signal() <- struct{}{}:
		default:
		}
	}
	s.keep(d)
}

// Node implements [driver.Router]. It returns "" unless the driver talks to a Cluster. The first call starts a goroutine
// that keeps the answer up to date; it rests when nobody asks any more.
func (d *Driver) Node(key string) string {
	if d.topology != driver.Cluster {
		return ""
	}
	if !d.slots.asked.Load() {
		d.slots.asked.Store(true)
	}
	if !d.slots.running.Load() {
		d.slots.keep(d)
	}
	return d.slots.node(key)
}

// keep starts the goroutine that looks the map up.
func (s *slotMap) keep(d *Driver) {
	if s.running.Load() || !s.running.CompareAndSwap(false, true) {
		return
	}
	wake := s.signal()
	loop := func() {
		defer func() {
			s.running.Store(false)
			if s.dirty.Load() { // doubted when this was about to end
				s.keep(d)
			}
		}()
		for s.asked.Swap(false) || s.dirty.Load() || s.table.Load() == nil {
			s.dirty.Store(false)
			ctx, cancel := context.WithTimeout(d.ctx, lookWithin)
			err := d.look(ctx)
			cancel()
			if !d.pause(d.ctx, slotsPause) {
				return
			}
			if err != nil {
				s.dirty.Store(true)
				continue
			}
			t := time.NewTimer(slotsFor)
			select {
			case <-t.C:
			case <-wake:
			case <-d.ctx.Done():
			}
			t.Stop()
		}
	}
	if !d.run(loop) {
		s.running.Store(false)
	}
}

// look reads the slot map from the servers: from one, and from the next as well if that takes its time, as a node that is
// silent tells nothing.
func (d *Driver) look(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		t   *slotTable
		err error
	}
	nodes := d.client.Nodes()
	answers := make(chan answer, len(nodes))
	next := time.NewTimer(lookNext)
	defer next.Stop()
	last := driver.NotSent(errors.New("no node of the Cluster is known"))
	asked, open := 0, 0
	for addr, client := range nodes {
		if !d.run(func() {
			t, err := d.readSlots(ctx, addr, client)
			answers <- answer{t, err}
		}) {
			return driver.ErrClosed
		}
		asked, open = asked+1, open+1
		next.Reset(lookNext)
		for waiting := true; waiting && open > 0; {
			late := next.C
			if asked == len(nodes) {
				late = nil
			}
			select {
			case a := <-answers:
				if a.err == nil {
					d.slots.table.Store(a.t)
					return nil
				}
				last, open = a.err, open-1
			case <-late:
				waiting = false
			case <-ctx.Done():
				return driver.Unknown(ctx.Err())
			}
		}
	}
	return last
}

func (d *Driver) readSlots(ctx context.Context, addr string, client rueidis.Client) (*slotTable, error) {
	r := d.ask(ctx, client, "CLUSTER", "SLOTS")
	ranges, err := r.List()
	if err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(addr)
	t, index := &slotTable{}, map[string]uint16{}
	for _, rg := range ranges {
		parts, _ := rg.List()
		if len(parts) < 3 {
			continue
		}
		first, err1 := parts[0].Int64()
		last, err2 := parts[1].Int64()
		name := nodeName(parts[2], host)
		if err1 != nil || err2 != nil || name == "" || first < 0 || last >= driver.Slots {
			continue
		}
		i := index[name]
		if i == 0 {
			t.names = append(t.names, name)
			i = uint16(len(t.names))
			index[name] = i
		}
		for s := first; s <= last; s++ {
			t.slots[s] = i
		}
	}
	if len(t.names) == 0 {
		return nil, errors.New("redisx: the Cluster serves no slots")
	}
	return t, nil
}

// nodeName reads the address of a node in CLUSTER SLOTS the way the client does, so that both call it the same. A node
// that does not know its own address has the one it was asked at.
func nodeName(r driver.Reply, host string) string {
	parts, _ := r.List()
	if len(parts) < 2 {
		return ""
	}
	endpoint, _ := parts[0].Text()
	port, err := parts[1].Int64()
	switch {
	case err != nil || endpoint == "?":
		return ""
	case endpoint == "":
		endpoint = host
	}
	return net.JoinHostPort(strings.Trim(endpoint, "[]"), strconv.FormatInt(port, 10))
}

// ask sends one command to one node, on the node's shared connection, and returns when ctx ends at the latest.
func (d *Driver) ask(ctx context.Context, to rueidis.CommandClient, args ...string) driver.Reply {
	j := d.job(withoutDeadline{ctx}, to)
	j.one = d.builder.Arbitrary(args...).Build()
	if !d.start(j) {
		return driver.ErrReply(driver.ErrClosed)
	}
	if !j.await(ctx) {
		return driver.ErrReply(driver.Unknown(ctx.Err()))
	}
	result := j.result
	d.free(j)
	if err := result.NonRedisError(); err != nil {
		return driver.ErrReply(failure(ctx, err))
	}
	m, _ := result.ToMessage()
	return message(&m)
}
