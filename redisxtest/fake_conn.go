package redisxtest

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2/server"
)

// fakeConn is one client of a Fake. One goroutine reads and runs its commands, one writes, so that a client that does not
// read holds up nobody.
type fakeConn struct {
	f    *Fake
	node *fakeNode
	nc   net.Conn
	peer *server.Peer // this client as miniredis sees it
	buf  engineBuffer // what miniredis replied

	// Guarded by Fake.mu.
	id                        int64
	name, lib, libVer, user   string
	resp, db                  int
	gone, closing             bool
	asking                    bool       // ASKING came just before
	script                    *scriptRun // whose commands these are
	outer                     int        // resp while a command of a script runs, which has its own
	queue                     [][]string // commands of MULTI
	executed                  []string   // keys of the transaction that just ran, in a Cluster
	multi, dirty              bool
	watch                     map[dbKey]uint
	blocked                   *waiter
	pending                   [][]string // commands that came while blocked
	channels, patterns, shard map[string]struct{}
	track                     *tracking
	caching                   string // CLIENT CACHING for the next command: "", "YES" or "NO"
	after                     []byte // pushes to itself, sent behind the reply
	noTouch, noEvict          bool
	created, used             time.Time
	last                      string

	out struct {
		sync.Mutex
		cond   *sync.Cond
		bytes  []byte
		closed bool // nothing more will come
	}
}

func newFakeConn(f *Fake, node *fakeNode, nc net.Conn) *fakeConn {
	now := time.Now()
	c := &fakeConn{f: f, node: node, nc: nc, resp: 2, created: now, used: now}
	c.out.cond = sync.NewCond(&c.out)
	c.peer = c.buf.peer()
	return c
}

// reset is the state of a new connection, also after RESET.
func (c *fakeConn) reset() {
	c.channels, c.patterns, c.shard = map[string]struct{}{}, map[string]struct{}{}, map[string]struct{}{}
	c.queue, c.multi, c.dirty, c.watch = nil, false, false, nil
	c.resp, c.db, c.name, c.caching = 2, 0, "", ""
	c.noTouch, c.noEvict, c.asking = false, false, false
	c.user = ""
	if u := c.f.users["default"]; u.noPass && u.on {
		c.user = "default"
	}
}

// read runs commands until the connection breaks.
func (c *fakeConn) read() {
	c.f.mu.Lock()
	c.f.nextID++
	c.id = c.f.nextID
	c.f.conns[c.id] = c
	c.reset()
	c.f.mu.Unlock()
	r := bufio.NewReader(c.nc)
	for {
		args, err := readCommand(r)
		if err != nil {
			var protocol protocolError
			if errors.As(err, &protocol) {
				c.send([]byte("-ERR Protocol error: " + string(protocol) + "\r\n"))
			}
			break
		}
		if len(args) == 0 {
			continue
		}
		c.f.mu.Lock()
		if !c.gone {
			c.f.handle(c, args)
		}
		c.f.mu.Unlock()
	}
	c.f.mu.Lock()
	c.f.drop(c)
	c.f.mu.Unlock()
	c.finish()
}

// drop forgets a client whose connection is gone. Fake.mu is held.
func (f *Fake) drop(c *fakeConn) {
	c.gone = true
	delete(f.conns, c.id)
	if c.blocked != nil {
		f.forget(c.blocked)
	}
	f.untrack(c)
}

// send queues bytes for the client and never blocks.
func (c *fakeConn) send(b []byte) {
	c.out.Lock()
	defer c.out.Unlock()
	if !c.out.closed {
		c.out.bytes = append(c.out.bytes, b...)
		c.out.cond.Signal()
	}
}

// finish closes the connection once everything queued has been written.
func (c *fakeConn) finish() {
	c.out.Lock()
	defer c.out.Unlock()
	c.out.closed = true
	c.out.cond.Signal()
}

func (c *fakeConn) write() {
	defer c.nc.Close()
	for {
		c.out.Lock()
		for len(c.out.bytes) == 0 && !c.out.closed {
			c.out.cond.Wait()
		}
		b := c.out.bytes
		c.out.bytes = nil
		c.out.Unlock()
		if len(b) == 0 {
			return
		}
		if _, err := c.nc.Write(b); err != nil {
			return
		}
	}
}

// protocolError is input that is not RESP; the server says so and hangs up.
type protocolError string

func (e protocolError) Error() string { return string(e) }

// readCommand reads one command: an array of bulk strings, or a line of words.
func readCommand(r *bufio.Reader) ([]string, error) {
	line, err := readLine(r)
	if err != nil {
		return nil, err
	}
	if line == "" || line[0] != '*' {
		return strings.Fields(line), nil
	}
	n, err := strconv.Atoi(line[1:])
	if err != nil || n > 1<<20 {
		return nil, protocolError("invalid multibulk length")
	}
	args := make([]string, 0, max(0, min(n, 64)))
	for range n {
		line, err := readLine(r)
		if err != nil {
			return nil, err
		}
		if line == "" || line[0] != '$' {
			return nil, protocolError("expected '$', got '" + strings.ToValidUTF8(line[:min(len(line), 1)], "?") + "'")
		}
		size, err := strconv.Atoi(line[1:])
		if err != nil || size < 0 || size > 512<<20 {
			return nil, protocolError("invalid bulk length")
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		args = append(args, string(b[:size]))
	}
	return args, nil
}

// readLine reads up to CRLF or LF, at most 64 KB.
func readLine(r *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return strings.TrimSuffix(string(line[:len(line)-1]), "\r"), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return "", err
		}
		if len(line) > 64<<10 {
			return "", protocolError("too big inline request")
		}
	}
}
