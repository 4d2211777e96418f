package core

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// Health is the state of a client's server, for readiness checks and for people. It holds no secrets.
type Health struct {
	// Up is true if the server answered PING, be it that the user may not send it (NOPERM, a warning). Err is why not.
	Up  bool
	Err error
	// Latency is how long PING took.
	Latency time.Duration
	// Role is "master", "slave" or "sentinel" as ROLE says, "" if the server does not tell.
	Role string
	// Server and Version are those of driver.Caps, Topology is how the driver talks to it.
	Server, Version string
	Topology        driver.Topology
	Caps            driver.Caps
	// Breaker lists the nodes whose circuit breaker is open; "" stands for the one server that is not a Cluster's.
	Breaker []string
	// Warnings are what will hurt later: an eviction policy that drops keys without a TTL (locks, streams and idempotency
	// records are lost silently), no persistence, a replica instead of a primary, a Cluster that is not ok or is talked to
	// as if it was one server. In Cluster
	// the node looked at is any one primary. What the server refuses to tell (an ACL user without CONFIG or INFO) is
	// itself a warning, never an assumption.
	Warnings []string
}

// Health asks the server how it is. It takes no longer than the command timeout, and passes the breaker: it is a question,
// not a use. Err is set if the server is not Up; trouble in finding out more is a warning.
func (c *Client) Health(ctx context.Context) Health {
	ctx, release := c.budget.within(ctx)
	defer release()
	h := Health{Breaker: c.openBreakers()}
	start := time.Now()
	switch answer, err := c.ask(ctx, "PING").Text(); {
	case err == nil && answer != "PONG":
		h.Err = fmt.Errorf("redisx: the server answers PING with something else than PONG: is it Redis?")
		return h
	case err == nil:
	case Code(err) == "NOPERM":
		h.warn("the user may not PING: NOPERM")
	default:
		h.Err = classifiedErr(err, "PING")
		return h
	}
	h.Up, h.Latency = true, time.Since(start)
	caps, err := c.driver.Caps(ctx)
	if err != nil {
		h.warn("capabilities are unknown: %s", reason(err))
	}
	h.Caps, h.Server, h.Version, h.Topology = caps, caps.Server, caps.Version, caps.Topology

	if role, err := c.ask(ctx, "ROLE").List(); err == nil && len(role) > 0 {
		h.Role, _ = role[0].Text()
	} else if fields, err := c.info(ctx, "replication"); err == nil {
		h.Role = fields["role"]
	} else {
		h.warn("role is unknown: %s", reason(err))
	}
	if h.Role == "slave" {
		h.warn("the server is a replica: writes fail with READONLY")
	}
	c.checkEviction(ctx, &h)
	c.checkPersistence(ctx, &h)
	c.checkCluster(ctx, &h)
	return h
}

func (h *Health) warn(format string, args ...any) {
	h.Warnings = append(h.Warnings, fmt.Sprintf(format, args...))
}

// reason is an error without its text, which may name users: the code of a reply, or the class.
func reason(err error) string {
	if code := Code(err); code != "" {
		return code
	}
	return Classify(err).String()
}

func (c *Client) ask(ctx context.Context, args ...string) driver.Reply {
	return c.driver.Do(ctx, driver.Cmd{Args: args, Mode: driver.ReadOnly})
}

func (c *Client) info(ctx context.Context, section string) (map[string]string, error) {
	text, err := c.ask(ctx, "INFO", section).Text()
	if err != nil {
		return nil, err
	}
	return driver.ParseInfo(text), nil
}

// config returns one configuration value.
func (c *Client) config(ctx context.Context, name string) (string, error) {
	m, err := c.ask(ctx, "CONFIG", "GET", name).Map()
	if err != nil {
		return "", err
	}
	v, ok := m[name]
	if !ok {
		return "", fmt.Errorf("redisx: the server has no configuration %s", name)
	}
	return v.Text()
}

func (c *Client) checkEviction(ctx context.Context, h *Health) {
	policy := ""
	if fields, err := c.info(ctx, "memory"); err == nil {
		policy = fields["maxmemory_policy"]
	}
	if policy == "" {
		var err error
		if policy, err = c.config(ctx, "maxmemory-policy"); err != nil {
			h.warn("eviction policy is unknown: %s", reason(err))
			return
		}
	}
	if policy != "noeviction" && !strings.HasPrefix(policy, "volatile-") {
		h.warn("maxmemory-policy is %s: under memory pressure the server drops keys without a TTL; use noeviction or volatile-*", policy)
	}
}

func (c *Client) checkPersistence(ctx context.Context, h *Health) {
	fields, err := c.info(ctx, "persistence")
	if err != nil {
		h.warn("persistence is unknown: %s", reason(err))
		return
	}
	if fields["rdb_last_bgsave_status"] == "err" {
		h.warn("the last RDB save failed: the server may refuse writes with MISCONF")
	}
	if fields["aof_last_write_status"] == "err" {
		h.warn("the last write to the AOF failed: the server refuses writes with MISCONF")
	}
	if fields["aof_enabled"] == "1" {
		return
	}
	save, err := c.config(ctx, "save")
	switch {
	case err != nil:
		h.warn("persistence is unknown: AOF is off, and CONFIG GET save says %s", reason(err))
	case save == "":
		h.warn("no persistence: neither AOF nor RDB saves, a restart loses everything")
	}
}

func (c *Client) checkCluster(ctx context.Context, h *Health) {
	text, err := c.ask(ctx, "CLUSTER", "INFO").Text()
	if err != nil {
		if h.Topology == driver.Cluster { // any other server has nothing to tell
			h.warn("cluster state is unknown: %s", reason(err))
		}
		return
	}
	fields := driver.ParseInfo(text)
	if state := fields["cluster_state"]; state != "" && state != "ok" {
		h.warn("cluster_state is %s", state)
	}
	if size := fields["cluster_size"]; h.Topology != driver.Cluster && size != "" && size != "0" && size != "1" {
		h.warn("the server is one of the %s primaries of a Cluster: keys of the others fail with MOVED; use redis-cluster://", size)
	}
}

// openBreakers returns the nodes behind an open breaker.
func (s *clientState) openBreakers() (nodes []string) {
	if _, ok := s.lane0.breaker.begin(); !ok {
		nodes = append(nodes, "")
	}
	s.lanes.Range(func(node, l any) bool {
		if _, ok := l.(*lane).breaker.begin(); !ok {
			nodes = append(nodes, node.(string))
		}
		return true
	})
	return nodes
}
