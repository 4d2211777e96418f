package redisxtest

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Failover makes a replica the primary of its slots in an orderly way (CLUSTER FAILOVER), which by itself loses no write: the
// primary holds its clients back until the replica has all. That does not hold if the nodes replace a primary on their own
// meanwhile, as they do with one that does not answer for the node timeout, on a machine that stalls so long; a test that counts
// every write sets a longer one with Config("cluster-node-timeout", …).
//
// Given a primary it chooses one of its replicas; given a replica it is that one. It returns the new primary once both roles
// have changed and every node that runs knows, or nil after failing the test. That takes about 1 s. A node that was elected
// before is elected again only four times the node timeout later, and a primary replaced again twice the node timeout later:
// Failover waits for that.
func (c *Cluster) Failover(n *Server) *Server {
	c.t.Helper()
	if !c.own("Failover") || !c.member("Failover", n) {
		return nil
	}
	if c.replicas == 0 {
		c.fault("Failover: the cluster has no replicas")
		return nil
	}
	var replica, primary *Server
	err := await("no replica to take over", func() (err error) {
		replica, primary, err = c.heir(n)
		return err
	})
	if err == nil {
		err = c.replace(primary, replica)
	}
	if err != nil {
		c.fault("Failover: %v", err)
		return nil
	}
	return replica
}

// heir finds a replica that is in sync, and its primary, which has to know it as such: otherwise it ignores its request.
func (c *Cluster) heir(n *Server) (replica, primary *Server, err error) {
	v, err := look(n)
	if err != nil {
		return nil, nil, err
	}
	err = fmt.Errorf("%s has no replica", n.Addr())
	for _, w := range views(up(c.nodes)) {
		switch {
		case v.primary() && w.replication["master_port"] == strconv.Itoa(n.instance.port): // a replica of n
			replica, primary = w.of, c.byAddr(n.Addr())
		case !v.primary() && w.of.instance == n.instance: // n itself
			port, _ := strconv.Atoi(w.replication["master_port"])
			replica, primary = w.of, c.byAddr(loopback(port))
		default:
			continue
		}
		if primary == nil {
			err = fmt.Errorf("%s: its primary is not of this cluster", n.Addr())
			continue
		}
		if err = w.follows(primary); err != nil {
			continue
		}
		p, e := look(primary)
		if err = e; err != nil {
			continue
		}
		if known := p.at(replica); known.primary == p.at(primary).id {
			return replica, primary, nil
		}
		err = fmt.Errorf("%s does not know %s as its replica", primary.Addr(), replica.Addr())
	}
	return nil, nil, err
}

// attempt is how long a manual failover is given before it is asked for again: the server's own limit is 5 s, and an election
// that was missed is not held again.
const attempt = 5500 * time.Millisecond

// replace has the replica take over, and waits until that is so and known.
func (c *Cluster) replace(primary, replica *Server) error {
	c.awaitVotes(primary, replica)
	c.change.Lock()
	defer c.change.Unlock()
	var asked time.Time
	return await("the failover does not happen", func() error {
		v, err := look(replica)
		if err != nil {
			return err
		}
		if v.primary() {
			return c.replaced(primary, replica)
		}
		if time.Since(asked) > attempt {
			asked = time.Now()
			if err := replica.probe("CLUSTER", "FAILOVER").Err(); err != nil {
				asked = time.Time{}
				return err
			}
		}
		return errors.New("the replica is not promoted")
	})
}

// awaitVotes waits until an election can be won: the others vote for a replica of the same primary only twice the node timeout
// after they last did, and a node stands again only four times the node timeout after it last did, but no sooner than 4 s.
func (c *Cluster) awaitVotes(primary, replica *Server) {
	timeout := 2 * time.Second
	if pair, err := replica.probe("CONFIG", "GET", "cluster-node-timeout").Strings(); err == nil && len(pair) == 2 {
		if ms, err := strconv.Atoi(pair[1]); err == nil {
			timeout = time.Duration(ms) * time.Millisecond
		}
	}
	const slack = 100 * time.Millisecond
	c.mu.Lock()
	voted, stood := c.voted[primary.instance], c.stood[replica.instance]
	c.mu.Unlock()
	wait := max(time.Until(voted.Add(2*timeout+slack)), time.Until(stood.Add(max(4*timeout, 4*time.Second)+slack)))
	time.Sleep(min(wait, readyTimeout/2)) // a failover that is lost is asked for again
	c.mu.Lock()
	defer c.mu.Unlock()
	c.voted[primary.instance], c.stood[replica.instance] = time.Now(), time.Now()
}

// replaced tells who has not noticed that old serves no slots any more. With a heir old has to be its replica, without one
// it does not count.
func (c *Cluster) replaced(old, heir *Server) error {
	var list []*Server
	for _, n := range up(c.nodes) {
		if heir != nil || n.instance != old.instance {
			list = append(list, n)
		}
	}
	seen := views(list)
	if len(seen) == 0 {
		return errors.New("no node answers")
	}
	roles := map[string]bool{}
	for _, v := range seen {
		if v.info["cluster_state"] != "ok" {
			return fmt.Errorf("%s: state %s", v.of.Addr(), v.info["cluster_state"])
		}
		roles[v.of.Addr()] = v.primary() && v.isPrimary()
		if heir != nil && v.of.instance == old.instance {
			if err := v.follows(heir); err != nil {
				return fmt.Errorf("%s: %w", old.Addr(), err)
			}
		}
	}
	if _, answers := roles[old.Addr()]; heir != nil && !answers {
		return fmt.Errorf("%s does not answer", old.Addr())
	}
	for _, v := range seen {
		for slot, o := range v.owners {
			// A node that is paused or dead may own slots, if it is not the one.
			if is, known := roles[o]; o == old.Addr() || o == "" || known && !is {
				return fmt.Errorf("%s: slot %d is served by %q", v.of.Addr(), slot, o)
			}
		}
		if err := v.agrees(seen[0]); err != nil {
			return err
		}
	}
	return nil
}

// AwaitFailover waits until replicas have taken over from a primary that was killed or paused: every other node that runs
// says that the cluster is ok, none of them names old for a slot, and whoever they name instead knows it. That takes about
// the node timeout and 1 s to 2 s more. Of a node that had no slots it returns when the cluster is ok.
func (c *Cluster) AwaitFailover(old *Server) {
	c.t.Helper()
	if !c.own("AwaitFailover") || !c.member("AwaitFailover", old) {
		return
	}
	if err := await("no failover", func() error { return c.replaced(old, nil) }); err != nil {
		c.fault("AwaitFailover: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.voted[old.instance] = time.Now()
}

// AwaitReady waits until all is well: every node answers, none has doubts about another, all slots are served and all nodes
// agree by whom, and every replica is in sync with a primary. After [Server.Restart] or [Server.Resume] of a node that takes
// about 1 s to 3 s.
func (c *Cluster) AwaitReady() {
	c.t.Helper()
	if err := await("the cluster is not well", c.settled); err != nil {
		c.fault("AwaitReady: %v", err)
	}
}
