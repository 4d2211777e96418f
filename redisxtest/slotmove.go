package redisxtest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// MoveSlot moves the slot of a key, with all its keys, to another primary while clients use it: those that come for a key that
// has moved already are told so (ASK), commands on keys of which some have moved fail (TRYAGAIN). Nothing is lost. It returns
// when every node that runs names the new owner, which takes about 0.1 s for few keys. If the node serves the slot already
// there is nothing to do. Several slots may move at once; a slot of which a move has begun and not ended is refused.
func (c *Cluster) MoveSlot(key string, to *Server) {
	c.t.Helper()
	if c.own("MoveSlot") && c.member("MoveSlot", to) {
		if from := c.Node(key); from != nil && from.instance == to.instance {
			return
		}
		if err := c.moveSlot(driver.Slot(key), to); err != nil {
			c.fault("MoveSlot: %v", err)
		}
	}
}

func (c *Cluster) moveSlot(slot uint16, to *Server) error {
	if err := c.open(slot); err != nil {
		return err
	}
	defer c.closed(slot)
	return c.carry(slot, to)
}

// carry moves a slot that is open for this move.
func (c *Cluster) carry(slot uint16, to *Server) error {
	m, err := c.beginMove(slot, to)
	if err != nil {
		return err
	}
	return m.finish()
}

// open keeps a slot from being moved twice at once: the first to end would give it to a node without the keys.
func (c *Cluster) open(slot uint16) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.moving[slot] {
		return fmt.Errorf("a move of slot %d has begun; end that first", slot)
	}
	if c.moving == nil {
		c.moving = map[uint16]bool{}
	}
	c.moving[slot] = true
	return nil
}

func (c *Cluster) closed(slot uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.moving, slot)
}

// SlotMove is the move of a slot that has begun and not ended, see [Cluster.BeginMove]. Its methods fail the test if they do
// not succeed, and then the slot may stay open. It is safe for concurrent use; a step waits for the other.
type SlotMove struct {
	c        *Cluster
	slot     uint16
	from, to *Server
	id       string // of to

	mu   sync.Mutex
	over bool
}

// BeginMove begins what [Cluster.MoveSlot] does, and leaves it to the test how far it goes: from now on the owner of the slot
// answers ASK for keys that it does not have, and TRYAGAIN for commands on several keys of which it has some. Call Step for
// keys to move, then Finish or Abort.
func (c *Cluster) BeginMove(key string, to *Server) *SlotMove {
	c.t.Helper()
	nothing := &SlotMove{c: c, over: true}
	if !c.own("BeginMove") || !c.member("BeginMove", to) {
		return nothing
	}
	slot := driver.Slot(key)
	err := c.open(slot)
	var m *SlotMove
	if err == nil {
		if m, err = c.beginMove(slot, to); err != nil {
			c.closed(slot)
		}
	}
	if err != nil {
		c.fault("BeginMove: %v", err)
		return nothing
	}
	return m
}

func (c *Cluster) beginMove(slot uint16, to *Server) (*SlotMove, error) {
	var seen []*view
	err := await("the nodes do not agree", func() (err error) {
		seen, err = c.agreed()
		return err
	})
	if err != nil {
		return nil, err
	}
	m := &SlotMove{c: c, slot: slot, from: c.byAddr(seen[0].owners[slot]), to: to, id: seen[0].at(to).id}
	switch {
	case m.from == nil:
		return nil, fmt.Errorf("nobody serves slot %d", slot)
	case m.from.Addr() == to.Addr():
		return nil, fmt.Errorf("%s serves slot %d already", to.Addr(), slot)
	case !containsField(seen[0].at(to).flags, "master"):
		return nil, fmt.Errorf("%s is not a primary", to.Addr())
	}
	// The new owner opens first: whom the old one sends there must find it open.
	if err := m.set(m.to, "IMPORTING", seen[0].at(m.from).id); err != nil {
		return nil, err
	}
	if err := m.set(m.from, "MIGRATING", m.id); err != nil {
		return nil, errors.Join(err, m.set(m.to, "STABLE"))
	}
	return m, nil
}

// agreed returns what the nodes that run say, once they say the same of slots and epoch. Epochs are what matters: a new owner
// takes the next one, and if that of the old owner is not smaller, because word of it had not come, its next message takes the
// slot back.
func (c *Cluster) agreed() ([]*view, error) {
	seen := views(up(c.nodes))
	if len(seen) == 0 {
		return nil, errors.New("no node answers")
	}
	for _, v := range seen {
		if err := v.agrees(seen[0]); err != nil {
			return nil, err
		}
	}
	return seen, nil
}

func (m *SlotMove) set(n *Server, args ...string) error {
	return succeed(n, append([]string{"CLUSTER", "SETSLOT", strconv.Itoa(int(m.slot))}, args...))
}

// Slot is the number of the slot.
func (m *SlotMove) Slot() int { return int(m.slot) }

// From is the owner until Finish, nil if the move did not begin.
func (m *SlotMove) From() *Server { return m.from }

// To is the owner from Finish on, nil if the move did not begin.
func (m *SlotMove) To() *Server { return m.to }

// Step moves up to n keys, at least 1, and returns how many are left at the old owner. Keys that are written meanwhile for the
// first time are made at the new owner.
func (m *SlotMove) Step(n int) int {
	m.c.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if n < 1 || m.over {
		m.c.fault("Step(%d): want at least 1 key, and a move that has begun and not ended", n)
		return 0
	}
	left, err := m.step(n)
	if err != nil {
		m.c.fault("Step: %v", err)
	}
	return left
}

// step moves up to n keys in batches.
func (m *SlotMove) step(n int) (left int, err error) {
	slot := strconv.Itoa(int(m.slot))
	for n > 0 {
		keys, err := m.from.Do("CLUSTER", "GETKEYSINSLOT", slot, strconv.Itoa(min(n, batch))).Strings()
		if err != nil {
			return 0, fmt.Errorf("CLUSTER GETKEYSINSLOT on %s: %w", m.from.Addr(), err)
		}
		if len(keys) == 0 {
			break
		}
		timeout := strconv.FormatInt(migrateTimeout.Milliseconds(), 10)
		cmd := []string{"MIGRATE", "127.0.0.1", strconv.Itoa(m.to.instance.port), "", "0", timeout, "REPLACE"}
		if password := m.c.cfg.password; password != "" {
			cmd = append(cmd, "AUTH", password)
		}
		g := m.from.target()
		g.timeout = 2 * migrateTimeout
		if err := g.do(slices.Concat(cmd, []string{"KEYS"}, keys)...).Err(); err != nil {
			return 0, fmt.Errorf("MIGRATE from %s to %s: %w", m.from.Addr(), m.to.Addr(), err)
		}
		n -= len(keys)
	}
	count, err := m.from.Do("CLUSTER", "COUNTKEYSINSLOT", slot).Int64()
	return int(count), err
}

// batch is how many keys one MIGRATE takes along: the node serves nobody meanwhile. Its timeout is for large values.
const (
	batch          = 100
	migrateTimeout = 10 * time.Second
)

// Finish moves the keys that are left and gives the slot to its new owner. It returns when every node that runs names it.
// After the end of the move it does nothing.
func (m *SlotMove) Finish() {
	m.c.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return
	}
	m.over = true
	defer m.c.closed(m.slot)
	if err := m.finish(); err != nil {
		m.c.fault("Finish: %v", err)
	}
}

// Abort gives the old owner back what has moved. It returns when every node that runs names it. After the end of the move it
// does nothing.
//
// There is no way back for single keys that loses no write, as clients on their way to the new owner would make keys anew that
// have just left it. So the move is brought to its end, and the slot is moved back in the same way.
func (m *SlotMove) Abort() {
	m.c.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return
	}
	m.over = true
	defer m.c.closed(m.slot)
	err := m.finish()
	if err == nil {
		err = m.c.carry(m.slot, m.from)
	}
	if err != nil {
		m.c.fault("Abort: %v", err)
	}
}

func (m *SlotMove) finish() error {
	err := await("keys are left", func() error {
		left, err := m.step(math.MaxInt)
		if err == nil && left > 0 {
			err = fmt.Errorf("%d of them", left)
		}
		return err
	})
	if err != nil {
		return err
	}
	m.c.change.Lock()
	defer m.c.change.Unlock()
	var seen []*view
	if err := await("the nodes do not agree", func() error { seen, err = m.c.agreed(); return err }); err != nil {
		return err
	}
	// The new owner first, so that there always is one. The old one stops sending clients on with ASK by this: it names the new.
	if err := m.set(m.to, "NODE", m.id); err != nil {
		return err
	}
	if err := m.set(m.from, "NODE", m.id); err != nil {
		return err
	}
	for _, v := range seen {
		if n := v.of; v.primary() && n.Addr() != m.to.Addr() && n.Addr() != m.from.Addr() {
			if err := m.set(n, "NODE", m.id); err != nil && n.instance.awake() {
				return err
			}
		}
	}
	return await("the new owner is not known to all", func() error {
		seen, err := m.c.agreed()
		if err != nil {
			return err
		}
		if o := seen[0].owners[m.slot]; o != m.to.Addr() {
			return fmt.Errorf("%s names %s", seen[0].of.Addr(), o)
		}
		return nil
	})
}
