package redisxtest

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// target is where the admin commands of this package go, past any driver under test.
type target struct {
	network, addr  string
	tls            *tls.Config
	user, password string
	db             int
	timeout        time.Duration // of one exchange; adminTimeout if zero
}

// adminTimeout bounds one command, so that a paused server fails a test and does not hang it.
const adminTimeout = 5 * time.Second

// probeTimeout bounds what is asked again and again.
const probeTimeout = 2 * time.Second

// do sends one command on a connection of its own, in RESP2.
func (g target) do(args ...string) driver.Reply { return g.doAll(args)[0] }

// doAll sends several on one connection and returns the replies, which all are the failure if there was one.
func (g target) doAll(cmds ...[]string) []driver.Reply {
	replies, err := g.exchange(cmds)
	if err != nil {
		replies = make([]driver.Reply, len(cmds))
		for i := range replies {
			replies[i] = driver.ErrReply(fmt.Errorf("redisxtest: %s: %w", g.addr, err))
		}
	}
	return replies
}

func (g target) exchange(cmds [][]string) ([]driver.Reply, error) {
	l, err := g.dial()
	if err != nil {
		return nil, err
	}
	defer l.nc.Close()
	if err := l.send(cmds...); err != nil {
		return nil, err
	}
	return l.read(len(cmds))
}

// line is an admin connection.
type line struct {
	nc net.Conn
	r  *bufio.Reader

	mu   sync.Mutex // of what follows, and of reading after Server.occupy
	left int        // replies that are to come
}

// dial connects and logs in. The timeout of the target holds from then on until the line's deadline is changed.
func (g target) dial() (*line, error) {
	timeout := g.timeout
	if timeout == 0 {
		timeout = adminTimeout
	}
	nc, err := net.DialTimeout(g.network, g.addr, timeout)
	if err != nil {
		return nil, err
	}
	l, err := g.login(nc, timeout)
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	return l, nil
}

func (g target) login(nc net.Conn, timeout time.Duration) (*line, error) {
	if err := nc.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	if g.tls != nil {
		nc = tls.Client(nc, g.tls)
	}
	l := &line{nc: nc, r: bufio.NewReader(nc)}
	var first [][]string
	if g.password != "" {
		user := g.user
		if user == "" {
			user = "default"
		}
		first = append(first, []string{"AUTH", user, g.password})
	}
	if g.db != 0 {
		first = append(first, []string{"SELECT", strconv.Itoa(g.db)})
	}
	if len(first) == 0 {
		return l, nil
	}
	if err := l.send(first...); err != nil {
		return nil, err
	}
	for _, args := range first {
		rep, err := readReply(l.r)
		if err == nil {
			err = rep.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", args[0], err)
		}
	}
	return l, nil
}

func (l *line) send(cmds ...[]string) error {
	var out reply
	for _, args := range cmds {
		out.bulks(args)
	}
	_, err := l.nc.Write(out.b)
	return err
}

func (l *line) read(n int) ([]driver.Reply, error) {
	replies := make([]driver.Reply, n)
	for i := range replies {
		var err error
		if replies[i], err = readReply(l.r); err != nil {
			return nil, err
		}
	}
	return replies, nil
}

// succeed sends commands and returns the first error.
func (l *line) succeed(cmds ...[]string) error {
	if err := l.send(cmds...); err != nil {
		return err
	}
	replies, err := l.read(len(cmds))
	if err != nil {
		return err
	}
	for i, r := range replies {
		if err := r.Err(); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(cmds[i][:min(2, len(cmds[i]))], " "), err)
		}
	}
	return nil
}

// readReply reads one RESP2 reply.
func readReply(r *bufio.Reader) (driver.Reply, error) {
	line, err := readLine(r)
	if err != nil {
		return driver.Reply{}, err
	}
	if line == "" {
		return driver.Reply{}, protocolError("empty reply line")
	}
	text := line[1:]
	n, numErr := strconv.ParseInt(text, 10, 64)
	if line[0] != '+' && line[0] != '-' && numErr != nil {
		return driver.Reply{}, protocolError("not a RESP2 reply")
	}
	switch line[0] {
	case '+':
		return driver.StringReply(text), nil
	case '-':
		return driver.ErrReply(driver.NewServerError(text)), nil
	case ':':
		return driver.IntReply(n), nil
	case '$':
		if n < 0 {
			return driver.NilReply(), nil
		}
		b := make([]byte, n+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return driver.Reply{}, err
		}
		return driver.StringReply(string(b[:n])), nil
	case '*':
		if n < 0 {
			return driver.NilReply(), nil
		}
		list := make([]driver.Reply, 0, n)
		for range n {
			item, err := readReply(r)
			if err != nil {
				return driver.Reply{}, err
			}
			list = append(list, item)
		}
		return driver.ListReply(list), nil
	}
	return driver.Reply{}, protocolError("not a RESP2 reply")
}
