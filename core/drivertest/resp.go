package drivertest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/go-redisx/redisx/core/driver"
)

// The suite reads and writes the protocol itself, so that it shares no fault with a driver.

// encode returns a command as it goes over the wire.
func encode(args ...string) []byte {
	b := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n", len(a))
		b = append(append(b, a...), '\r', '\n')
	}
	return b
}

// readFrame reads one complete value, request or reply, appends its bytes to buf and returns them.
func readFrame(r *bufio.Reader, buf []byte) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return buf, err
	}
	buf = append(buf, line...)
	if len(line) < 3 {
		return buf, nil // an empty inline command
	}
	n, children := 0, 0
	switch line[0] {
	case '$', '=', '!', '*', '~', '>', '%', '|':
		if n, err = strconv.Atoi(strings.TrimSpace(string(line[1:]))); err != nil {
			return buf, fmt.Errorf("drivertest: bad length in %q", line)
		}
	}
	switch line[0] {
	case '$', '=', '!':
		if n >= 0 {
			body := make([]byte, n+2)
			if _, err := io.ReadFull(r, body); err != nil {
				return buf, err
			}
			buf = append(buf, body...)
		}
	case '*', '~', '>':
		children = n
	case '%':
		children = 2 * n
	case '|':
		children = 2*n + 1 // the attribute and the value it belongs to
	}
	for range children {
		if buf, err = readFrame(r, buf); err != nil {
			return buf, err
		}
	}
	return buf, nil
}

// arguments takes a request apart; an inline command or garbage gives nil.
func arguments(raw []byte) []string {
	if len(raw) == 0 || raw[0] != '*' {
		return nil
	}
	r, err := parse(raw)
	if err != nil {
		return nil
	}
	args, _ := r.Strings()
	return args
}

// parse turns the bytes of one value into a reply.
func parse(raw []byte) (driver.Reply, error) { return readReply(bufio.NewReader(bytes.NewReader(raw))) }

// readReply reads one RESP2 or RESP3 reply; pushes and attributes come as lists.
func readReply(r *bufio.Reader) (driver.Reply, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return driver.Reply{}, err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return driver.Reply{}, fmt.Errorf("drivertest: empty reply line")
	}
	body := line[1:]
	switch line[0] {
	case '+', ',', '(':
		return driver.StringReply(body), nil
	case '-':
		return driver.ErrReply(driver.NewServerError(body)), nil
	case '_':
		return driver.NilReply(), nil
	case '#':
		if body == "t" {
			return driver.IntReply(1), nil
		}
		return driver.IntReply(0), nil
	}
	n, err := strconv.ParseInt(body, 10, 64)
	if err != nil {
		return driver.Reply{}, fmt.Errorf("drivertest: bad number in reply line %q", line)
	}
	switch line[0] {
	case ':':
		return driver.IntReply(n), nil
	case '%', '|':
		n *= 2
	}
	if n < 0 {
		return driver.NilReply(), nil
	}
	switch line[0] {
	case '$', '=', '!':
		b := make([]byte, n+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return driver.Reply{}, err
		}
		if line[0] == '!' {
			return driver.ErrReply(driver.NewServerError(string(b[:n]))), nil
		}
		return driver.StringReply(string(b[:n])), nil
	}
	list := make([]driver.Reply, n)
	for i := range list {
		if list[i], err = readReply(r); err != nil {
			return driver.Reply{}, err
		}
	}
	return driver.ListReply(list), nil
}
