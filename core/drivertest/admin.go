package drivertest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
)

// admin is the suite's own way to the server, past the driver under test. Safe for concurrent use, one command at a time.
type admin struct {
	ep *core.Endpoint

	mu    sync.Mutex
	conns map[string]*adminConn
}

type adminConn struct {
	net.Conn
	r *bufio.Reader
}

// do runs a command on the primary that serves key, or on any if key is empty.
func (a *admin) do(t tester, key string, args ...string) driver.Reply {
	t.Helper()
	addrs, err := a.primaries()
	if err != nil {
		t.Fatalf("the suite's own connection: %v", err)
	}
	addr := addrs[0].addr
	for _, p := range addrs {
		if a.ep.Topology == driver.Cluster && key != "" && p.serves(driver.Slot(key)) {
			addr = p.addr
		}
	}
	return a.at(t, addr, args...)
}

// each runs a command on every primary.
func (a *admin) each(t tester, args ...string) {
	t.Helper()
	addrs, err := a.primaries()
	if err != nil {
		t.Fatalf("the suite's own connection: %v", err)
	}
	for _, p := range addrs {
		must(t, a.at(t, p.addr, args...))
	}
}

// has reports whether the server knows a command.
func (a *admin) has(t tester, name string) bool {
	t.Helper()
	list, err := a.do(t, "", "COMMAND", "INFO", name).List()
	return err == nil && len(list) == 1 && !list[0].IsNil() && list[0].Err() == nil
}

// at runs a command on the node at addr. A failure to reach it is in the reply.
func (a *admin) at(t tester, addr string, args ...string) driver.Reply {
	t.Helper()
	r, err := a.roundTrip(addr, a.ep.TLS, args)
	if err != nil {
		return driver.ErrReply(fmt.Errorf("the suite's own connection to %s: %w", addr, err))
	}
	return r
}

// primary is one primary and the slots it serves; start and end alternate.
type primary struct {
	addr  string
	slots []int64
}

func (p primary) serves(slot uint16) bool {
	for i := 0; i+1 < len(p.slots); i += 2 {
		if p.slots[i] <= int64(slot) && int64(slot) <= p.slots[i+1] {
			return true
		}
	}
	return false
}

// primaries asks the deployment where its primaries are; it keeps nothing, since they may move.
func (a *admin) primaries() ([]primary, error) {
	switch a.ep.Topology {
	case driver.Cluster:
		all, err := a.clusterNodes()
		return all, err
	case driver.Sentinel:
		err := errors.New("no Sentinel")
		for _, s := range a.ep.Addrs {
			var r driver.Reply
			if r, err = a.roundTrip(s, a.ep.TLS, []string{"SENTINEL", "GET-MASTER-ADDR-BY-NAME", a.ep.MasterName}); err != nil {
				continue
			}
			var host []string
			if host, err = r.Strings(); err == nil && len(host) == 2 {
				return []primary{{addr: net.JoinHostPort(host[0], host[1])}}, nil
			}
		}
		return nil, err
	}
	return []primary{{addr: a.ep.Addrs[0]}}, nil
}

func (a *admin) clusterNodes() ([]primary, error) {
	var last error
	for _, seed := range a.ep.Addrs {
		r, err := a.roundTrip(seed, a.ep.TLS, []string{"CLUSTER", "SLOTS"})
		if err == nil {
			err = r.Err()
		}
		if err != nil {
			last = err
			continue
		}
		ranges, _ := r.List()
		slots := map[string][]int64{}
		var order []string
		for _, rg := range ranges {
			f, _ := rg.List()
			if len(f) < 3 {
				continue
			}
			from, _ := f[0].Int64()
			to, _ := f[1].Int64()
			node, _ := f[2].List()
			host, _ := node[0].Text()
			port, _ := node[1].Int64()
			if host == "" {
				host, _, _ = net.SplitHostPort(seed)
			}
			addr := net.JoinHostPort(host, strconv.FormatInt(port, 10))
			if slots[addr] == nil {
				order = append(order, addr)
			}
			slots[addr] = append(slots[addr], from, to)
		}
		var out []primary
		for _, addr := range order {
			out = append(out, primary{addr, slots[addr]})
		}
		if len(out) > 0 {
			return out, nil
		}
		last = errors.New("CLUSTER SLOTS is empty")
	}
	return nil, last
}

func (a *admin) roundTrip(addr string, config *tls.Config, args []string) (driver.Reply, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.conns[addr]
	if c == nil {
		var err error
		if c, err = a.dial(addr, config, strings.EqualFold(args[0], "SENTINEL")); err != nil {
			return driver.Reply{}, err
		}
		if a.conns == nil {
			a.conns = map[string]*adminConn{}
		}
		a.conns[addr] = c
	}
	r, err := c.do(args...)
	if err != nil {
		c.Close()
		delete(a.conns, addr)
	}
	return r, err
}

func (a *admin) dial(addr string, config *tls.Config, sentinel bool) (*adminConn, error) {
	conn, err := dial(a.ep.Network, addr, config)
	if err != nil {
		return nil, err
	}
	c := &adminConn{conn, bufio.NewReader(conn)}
	user, password, db := a.ep.Username, a.ep.Password, a.ep.DB
	if sentinel {
		user, password, db = a.ep.SentinelUsername, a.ep.SentinelPassword, 0
	}
	var setup [][]string
	switch {
	case user != "":
		setup = append(setup, []string{"AUTH", user, password})
	case password != "":
		setup = append(setup, []string{"AUTH", password})
	}
	if db != 0 {
		setup = append(setup, []string{"SELECT", strconv.Itoa(db)})
	}
	for _, args := range setup {
		r, err := c.do(args...)
		if err == nil {
			err = r.Err()
		}
		if err != nil {
			conn.Close()
			return nil, fmt.Errorf("%s: %w", args[0], err)
		}
	}
	return c, nil
}

func (c *adminConn) do(args ...string) (driver.Reply, error) {
	_ = c.SetDeadline(time.Now().Add(budget))
	if _, err := c.Write(encode(args...)); err != nil {
		return driver.Reply{}, err
	}
	return readReply(c.r)
}

func (a *admin) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.conns {
		c.Close()
	}
	a.conns = nil
}

// dial opens a connection, TLS if config says so.
func dial(network, addr string, config *tls.Config) (net.Conn, error) {
	d := &net.Dialer{Timeout: 2 * time.Second}
	if config == nil {
		return d.Dial(network, addr)
	}
	return tls.DialWithDialer(d, network, addr, config)
}
