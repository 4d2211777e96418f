package chaos

import (
	"bytes"
	"strconv"
)

// What a scanner keeps of a command or a push, to look at. Whatever is longer streams through.
const (
	keepBytes = 64 << 10
	keepLine  = 64 << 10 // an inline command, or an error reply
	maxDepth  = 1024     // of aggregates within each other
)

// commandScanner finds the end of commands in a stream of bytes: arrays of bulk strings, and inline commands. It takes the
// bytes as they come, in whatever pieces. Its zero value is at the beginning of a command.
type commandScanner struct {
	args []string // as far as keepBytes reach; of the last command until the next one begins
	kept int      // bytes of them and of their headers; above keepBytes once one was left out, and so all behind it

	line   []byte
	begun  bool
	inline bool
	left   int64 // arguments to come
	body   int64 // bytes of the argument to come, with its line break; 0 is none
	arg    []byte
	whole  bool // arg is complete so far
}

// scan takes bytes up to the end of the command at most. It returns how many it took, whether the command is complete, and
// false if this is no command.
func (s *commandScanner) scan(b []byte) (n int, done, ok bool) {
	if len(b) > 0 && !s.begun {
		s.args, s.kept, s.line, s.begun, s.inline, s.left = s.args[:0], 0, s.line[:0], true, false, -1
		s.inline = b[0] != '*'
	}
	for n < len(b) {
		if s.body > 0 {
			n += s.take(b[n:])
			if s.body == 0 {
				s.left--
			}
		} else {
			taken, full, ok := takeLine(&s.line, b[n:])
			n += taken
			if !ok {
				return n, false, false
			}
			if !full {
				return n, false, true
			}
			if !s.header() {
				return n, false, false
			}
			s.line = s.line[:0]
		}
		if s.left == 0 && s.body == 0 {
			s.begun = false
			return n, true, true
		}
	}
	return n, false, true
}

// header reads the line that is complete.
func (s *commandScanner) header() bool {
	if s.inline {
		for _, w := range bytes.Fields(s.line) {
			s.args = append(s.args, string(w))
		}
		s.left = 0
		return true
	}
	if s.left < 0 {
		n, ok := length(s.line, '*')
		s.left = max(n, 0)
		return ok && n <= 1<<30
	}
	n, ok := length(s.line, '$')
	if !ok || n < 0 {
		return false
	}
	s.body, s.arg = n+2, s.arg[:0]
	s.kept += len(s.line) + int(min(n, keepBytes))
	s.whole = s.kept <= keepBytes
	return true
}

// take takes bytes of an argument.
func (s *commandScanner) take(b []byte) int {
	n := int(min(int64(len(b)), s.body))
	if s.whole {
		s.arg = append(s.arg, b[:n]...)
	}
	if s.body -= int64(n); s.body == 0 && s.whole {
		s.args = append(s.args, string(s.arg[:len(s.arg)-2]))
	}
	return n
}

// takeLine adds bytes to a line up to its end, which it leaves out. It returns how many it took, and false for a line
// without end.
func takeLine(line *[]byte, b []byte) (n int, full, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		*line = append(*line, b...)
		return len(b), false, len(*line) <= keepLine
	}
	*line = append(*line, b[:i]...)
	if l := len(*line); l > 0 && (*line)[l-1] == '\r' {
		*line = (*line)[:l-1]
	}
	return i + 1, true, len(*line) <= keepLine
}

// length reads a line such as *3, after its type.
func length(line []byte, kind byte) (int64, bool) {
	if len(line) < 2 || line[0] != kind {
		return 0, false
	}
	n, err := strconv.ParseInt(string(line[1:]), 10, 64)
	return n, err == nil && n >= -1 && n < 1<<40
}

// replyScanner finds the end of replies and pushes in a stream of bytes, of RESP2 and RESP3, streamed ones included; a type
// it does not know is a line. Its zero value is at the beginning of a reply.
type replyScanner struct {
	arrays bool // set by the caller: collect texts of arrays too, not of pushes alone

	top   byte // the type of what is being read
	keep  bool // its texts are collected
	texts []string
	kept  int // as in commandScanner

	line   []byte
	begun  bool
	levels []int64 // values to come of each aggregate around; streamed is one without number
	body   int64   // as in commandScanner
	chunks bool    // a string in pieces is being read
	text   []byte
}

const streamed = -1

// scan takes bytes as commandScanner.scan does.
func (s *replyScanner) scan(b []byte) (n int, done, ok bool) {
	if len(b) > 0 && !s.begun {
		s.begun, s.top, s.keep, s.texts, s.kept = true, b[0], b[0] == '>' || b[0] == '*' && s.arrays, nil, 0
		s.line, s.levels, s.body, s.chunks = s.line[:0], append(s.levels[:0], 1), 0, false
	}
	for n < len(b) {
		if s.body > 0 {
			n += s.take(b[n:])
			if s.body > 0 {
				return n, false, true
			}
			if !s.chunks {
				s.collect()
				s.value()
			}
		} else {
			taken, full, ok := takeLine(&s.line, b[n:])
			n += taken
			if !ok {
				return n, false, false
			}
			if !full {
				return n, false, true
			}
			if !s.header() {
				return n, false, false
			}
			s.line = s.line[:0]
		}
		if len(s.levels) == 0 {
			s.begun = false
			return n, true, true
		}
	}
	return n, false, true
}

// value counts a value that is complete, and what is complete with it.
func (s *replyScanner) value() {
	for len(s.levels) > 0 {
		last := &s.levels[len(s.levels)-1]
		if *last != streamed {
			*last--
		}
		if *last != 0 {
			return
		}
		s.levels = s.levels[:len(s.levels)-1]
	}
}

// header reads the line that is complete.
func (s *replyScanner) header() bool {
	if len(s.line) == 0 {
		return false
	}
	kind, rest := s.line[0], s.line[1:]
	if s.chunks {
		n, ok := length(s.line, ';')
		if !ok || n < 0 {
			return false
		}
		if n == 0 {
			s.chunks = false
			s.collect()
			s.value()
			return true
		}
		s.body = n + 2
		return true
	}
	switch kind {
	case '$', '!', '=':
		s.text = s.text[:0]
		if len(rest) == 1 && rest[0] == '?' {
			s.chunks = true
			return true
		}
		n, ok := length(s.line, kind)
		switch {
		case !ok:
			return false
		case n < 0:
			s.value()
		default:
			s.body = n + 2
		}
		return true
	case '*', '~', '>', '%', '|':
		return s.aggregate(kind, rest)
	case '.':
		if s.levels[len(s.levels)-1] != streamed {
			return false
		}
		s.levels[len(s.levels)-1] = 1
		s.value()
		return true
	}
	if s.text = append(s.text[:0], rest...); kind != '_' {
		s.collect()
	}
	s.value()
	return true
}

// aggregate begins one.
func (s *replyScanner) aggregate(kind byte, rest []byte) bool {
	if len(s.levels) > maxDepth {
		return false
	}
	if len(rest) == 1 && rest[0] == '?' {
		s.levels = append(s.levels, streamed)
		return true
	}
	n, ok := length(s.line, kind)
	if !ok {
		return false
	}
	if kind == '%' || kind == '|' {
		n *= 2
	}
	if kind == '|' && n >= 0 {
		// An attribute stands before the value it is about, and is none itself.
		if s.levels[len(s.levels)-1] != streamed {
			s.levels[len(s.levels)-1]++
		}
	}
	if n <= 0 {
		s.value()
		return true
	}
	s.levels = append(s.levels, n)
	return true
}

// take takes bytes of a string.
func (s *replyScanner) take(b []byte) int {
	n := int(min(int64(len(b)), s.body))
	if s.keep && len(s.text)+s.kept <= keepBytes {
		s.text = append(s.text, b[:min(n, int(max(s.body-2, 0)))]...)
	}
	s.body -= int64(n)
	return n
}

// collect keeps the text that is complete.
func (s *replyScanner) collect() {
	if s.kept += len(s.text) + 16; s.keep && s.kept <= keepBytes {
		s.texts = append(s.texts, string(s.text))
	}
}
