package goredisdriver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unsafe"

	"github.com/go-redisx/redisx/core/driver"
)

// Limits that keep a broken or hostile server from exhausting memory or stack before its reply is found to be nonsense.
const (
	maxDepth   = 64      // lists inside lists; Redis itself nests a handful
	maxPrealoc = 1 << 10 // elements allocated on the word of a header alone
	maxChunk   = 1 << 20 // bytes allocated on the word of a header alone
)

var errProtocol = errors.New("redisx: malformed reply")

// builder turns one reply of RESP2 or RESP3, fed line by line, into a [driver.Reply]. It keeps what a client's own parser
// throws away: the order of a map, the spelling of a double, errors inside lists.
type builder struct {
	to      *driver.Reply // where the reply goes when it is complete
	done    bool
	push    bool // the reply is an out-of-band message
	pending byte // type of the reply whose payload is awaited
	stack   []frame
}

// frame is a list that is not complete yet.
type frame struct {
	list []driver.Reply
	left int
	kind byte
}

// reset readies the builder for the next reply.
func (b *builder) reset(to *driver.Reply) {
	if cap(b.stack) > 0 {
		clear(b.stack[:cap(b.stack)])
		b.stack = b.stack[:0]
	}
	b.to, b.done, b.push, b.pending = to, false, false, 0
}

// line takes the next line, without its CRLF. If n >= 0, n bytes of payload and a CRLF follow, which go to payload. The
// bytes of the line are not kept.
func (b *builder) line(line []byte) (n int, err error) {
	if len(line) == 0 || b.done {
		return -1, errProtocol
	}
	rest := line[1:]
	switch kind := line[0]; kind {
	case '+':
		return -1, b.add(driver.StringReply(text(rest)))
	case '-':
		return -1, b.add(driver.ErrReply(driver.NewServerError(string(line))))
	case ':':
		n, err := strconv.ParseInt(view(rest), 10, 64)
		if err != nil {
			return -1, fmt.Errorf("%w: integer", errProtocol)
		}
		return -1, b.add(driver.IntReply(n))
	case ',', '(':
		return -1, b.add(driver.StringReply(string(rest)))
	case '#':
		switch string(rest) {
		case "t":
			return -1, b.add(driver.IntReply(1))
		case "f":
			return -1, b.add(driver.IntReply(0))
		}
		return -1, fmt.Errorf("%w: boolean", errProtocol)
	case '_':
		return -1, b.add(driver.NilReply())
	case '$', '!', '=':
		n, err := length(rest)
		if err != nil {
			return -1, err
		}
		if n < 0 {
			return -1, b.add(driver.NilReply())
		}
		b.pending = kind
		return n, nil
	case '*', '~', '%', '|', '>':
		return -1, b.open(kind, rest)
	}
	return -1, fmt.Errorf("%w: type %q", errProtocol, line[0])
}

// open starts a list.
func (b *builder) open(kind byte, rest []byte) error {
	n, err := length(rest)
	if err != nil {
		return err
	}
	if kind == '>' {
		if len(b.stack) > 0 {
			return fmt.Errorf("%w: push inside a reply", errProtocol)
		}
		b.push = true
	}
	if n < 0 {
		return b.add(driver.NilReply())
	}
	if kind == '%' || kind == '|' {
		if n > 1<<30 {
			return fmt.Errorf("%w: length", errProtocol)
		}
		n *= 2
	}
	if n == 0 {
		if kind == '|' {
			return nil
		}
		return b.add(driver.ListReply([]driver.Reply{}))
	}
	if len(b.stack) == maxDepth {
		return fmt.Errorf("%w: nested deeper than %d", errProtocol, maxDepth)
	}
	b.stack = append(b.stack, frame{list: make([]driver.Reply, 0, min(n, maxPrealoc)), left: n, kind: kind})
	return nil
}

// payload takes the bytes that line announced. It keeps the string.
func (b *builder) payload(s string) error {
	kind := b.pending
	b.pending = 0
	switch {
	case kind == '!':
		return b.add(driver.ErrReply(driver.NewServerError(s)))
	case kind == '=' && len(s) >= 4 && s[3] == ':': // "txt:" or "mkd:"
		s = s[4:]
	}
	return b.add(driver.StringReply(s))
}

// add puts a complete reply where it belongs and closes the lists that it completes.
func (b *builder) add(r driver.Reply) error {
	for {
		if len(b.stack) == 0 {
			*b.to, b.done = r, true
			return nil
		}
		top := &b.stack[len(b.stack)-1]
		if top.kind != '|' { // attributes say something about the reply that follows; nobody here reads them
			top.list = append(top.list, r)
		}
		if top.left--; top.left > 0 {
			return nil
		}
		kind := top.kind
		r = driver.ListReply(top.list)
		*top = frame{} // or the list would live as long as the builder
		b.stack = b.stack[:len(b.stack)-1]
		if kind == '|' {
			return nil
		}
	}
}

func length(digits []byte) (int, error) {
	n, err := strconv.Atoi(view(digits))
	if err != nil || n < -1 {
		return 0, fmt.Errorf("%w: length", errProtocol)
	}
	return n, nil
}

// text copies a status, except for the most frequent one, which costs nothing.
func text(b []byte) string {
	if string(b) == "OK" {
		return "OK"
	}
	return string(b)
}

// view is b as a string for a callee that does not keep it.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// readPayload reads n bytes and the CRLF behind them. It trusts n only as far as bytes arrive.
func readPayload(r io.Reader, n int) (string, error) {
	if n > maxChunk {
		return readLong(r, n)
	}
	buf := make([]byte, n+2)
	if _, err := io.ReadFull(r, buf); err != nil {
		return "", err
	}
	if buf[n] != '\r' || buf[n+1] != '\n' {
		return "", fmt.Errorf("%w: string without its end", errProtocol)
	}
	return unsafe.String(unsafe.SliceData(buf), n), nil // nobody else has buf
}

func readLong(r io.Reader, n int) (string, error) {
	if n > 1<<40 {
		return "", fmt.Errorf("%w: length", errProtocol)
	}
	var buf []byte
	for want := n + 2; len(buf) < want; {
		chunk := min(want-len(buf), max(len(buf), maxChunk))
		at := len(buf)
		buf = append(buf, make([]byte, chunk)...)
		if _, err := io.ReadFull(r, buf[at:]); err != nil {
			return "", err
		}
	}
	if buf[n] != '\r' || buf[n+1] != '\n' {
		return "", fmt.Errorf("%w: string without its end", errProtocol)
	}
	return unsafe.String(unsafe.SliceData(buf), n), nil
}

// readReply reads one reply from a connection that the driver reads itself.
func readReply(r *bufio.Reader) (reply driver.Reply, push bool, err error) {
	b := builder{to: &reply}
	for !b.done {
		line, err := readLine(r)
		if err != nil {
			return driver.Reply{}, false, err
		}
		n, err := b.line(line)
		if err != nil {
			return driver.Reply{}, false, err
		}
		if n < 0 {
			continue
		}
		s, err := readPayload(r, n)
		if err != nil {
			return driver.Reply{}, false, err
		}
		if err := b.payload(s); err != nil {
			return driver.Reply{}, false, err
		}
	}
	return reply, b.push, nil
}

// readLine reads up to the next CRLF; the result is valid until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		long := append([]byte(nil), line...)
		for errors.Is(err, bufio.ErrBufferFull) {
			if len(long) > maxChunk {
				return nil, fmt.Errorf("%w: line longer than %d bytes", errProtocol, maxChunk)
			}
			line, err = r.ReadSlice('\n')
			long = append(long, line...)
		}
		line = long
	}
	if err != nil {
		return nil, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return nil, fmt.Errorf("%w: line", errProtocol)
	}
	return line[:len(line)-2], nil
}
