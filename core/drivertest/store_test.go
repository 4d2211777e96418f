package drivertest

import (
	"fmt"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// store is a server with just enough commands for the self-test.
type store struct {
	mu      sync.Mutex
	values  map[string]string
	scripts map[string]bool
	subs    map[*Peer][]string
	lists   map[string][]string
	waiters []*waiter
	quit    chan struct{}
}

// waiter is a blocked BLPOP.
type waiter struct {
	peer  int
	key   string
	reply chan string
}

// startStore runs a store until the test ends.
func startStore(t TB) (*store, *Scripted) {
	s := &store{
		values: map[string]string{}, scripts: map[string]bool{}, subs: map[*Peer][]string{},
		lists: map[string][]string{}, quit: make(chan struct{}),
	}
	server := NewScripted(t, s.handle)
	t.Cleanup(func() { close(s.quit) })
	return s, server
}

// wake gives the blocked BLPOPs of a key what there is.
func (s *store) wake(key string) {
	for i := 0; i < len(s.waiters) && len(s.lists[key]) > 0; {
		w := s.waiters[i]
		if w.key != key {
			i++
			continue
		}
		w.reply <- "*2\r\n" + Bulk(key) + Bulk(s.lists[key][0])
		s.lists[key] = s.lists[key][1:]
		s.waiters = append(s.waiters[:i:i], s.waiters[i+1:]...)
	}
}

func (s *store) blpop(p *Peer, key, seconds string) string {
	s.mu.Lock()
	w := &waiter{peer: p.ID, key: key, reply: make(chan string, 1)}
	s.waiters = append(s.waiters, w)
	s.wake(key)
	s.mu.Unlock()
	limit, _ := time.ParseDuration(seconds + "s")
	select {
	case r := <-w.reply:
		return r
	case <-time.After(limit):
	case <-s.quit:
	}
	s.unblock(p.ID)
	return <-w.reply
}

// unblock ends the BLPOP of a connection without result.
func (s *store) unblock(peer int) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range s.waiters {
		if w.peer == peer {
			w.reply <- "*-1\r\n"
			s.waiters = append(s.waiters[:i:i], s.waiters[i+1:]...)
			return 1
		}
	}
	return 0
}

func (s *store) handle(p *Peer, args []string) (string, bool) {
	switch {
	case args[0] == "BLPOP":
		return s.blpop(p, args[1], args[len(args)-1]), true
	case args[0] == "CLIENT" && len(args) > 2 && args[1] == "UNBLOCK":
		var id int
		fmt.Sscan(args[2], &id)
		return fmt.Sprintf(":%d\r\n", s.unblock(id)), true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch args[0] {
	case "SET":
		s.values[args[1]] = args[2]
		return "+OK\r\n", true
	case "GET":
		v, ok := s.values[args[1]]
		if !ok {
			return "$-1\r\n", true
		}
		return Bulk(v), true
	case "INCR":
		var n int
		if v, ok := s.values[args[1]]; ok {
			if _, err := fmt.Sscan(v, &n); err != nil {
				return "-ERR value is not an integer or out of range\r\n", true
			}
		}
		s.values[args[1]] = fmt.Sprint(n + 1)
		return fmt.Sprintf(":%d\r\n", n+1), true
	case "STRLEN":
		return fmt.Sprintf(":%d\r\n", len(s.values[args[1]])), true
	case "LPUSH":
		return "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n", true
	case "ECHO":
		return Bulk(args[1]), true
	case "RPUSH":
		s.lists[args[1]] = append(s.lists[args[1]], args[2:]...)
		n := len(s.lists[args[1]])
		s.wake(args[1])
		return fmt.Sprintf(":%d\r\n", n), true
	case "LLEN":
		return fmt.Sprintf(":%d\r\n", len(s.lists[args[1]])), true
	case "DEL":
		delete(s.lists, args[1])
		delete(s.values, args[1])
		return ":1\r\n", true
	case "EVALSHA":
		if !s.scripts[args[1]] {
			return "-NOSCRIPT No matching script.\r\n", true
		}
		return Bulk(args[len(args)-1]), true
	case "EVAL":
		s.scripts[driver.NewScript("", args[1]).SHA()] = true
		return Bulk(args[len(args)-1]), true
	case "SUBSCRIBE":
		s.subs[p] = args[1:]
		reply := ""
		for i, c := range args[1:] {
			reply += "*3\r\n" + Bulk("subscribe") + Bulk(c) + fmt.Sprintf(":%d\r\n", i+1)
		}
		return reply, true
	case "PUBLISH":
		n := 0
		for peer, channels := range s.subs {
			for _, c := range channels {
				if c == args[1] {
					peer.Write("*3\r\n" + Bulk("message") + Bulk(c) + Bulk(args[2]))
					n++
				}
			}
		}
		return fmt.Sprintf(":%d\r\n", n), true
	}
	return "", false
}
