package chaos

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	commandFaults = "latency, reply, refuse, lose-request, lose-reply, duplicate, hang, hang-reply, reset, cut, bug-retry, bug-ignore-cancel"
	allFaults     = commandFaults + ", lose-subscription, lose-invalidation, bug-silent-gap"
)

// Parse reads a script: at most one line "seed N" and rules, as the package comment shows them. Empty lines and comments are
// left out. The error names the first line that cannot be read, and what could stand there.
func Parse(text string) (Script, error) {
	var s Script
	seeded := false
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		words, err := split(strings.TrimSuffix(line, "\r"))
		if err == nil {
			switch {
			case len(words) == 0:
				continue
			case words[0].is("seed"):
				if seeded {
					err = fmt.Errorf("a second seed; one is allowed")
				} else {
					s.Seed, err = parseSeed(words[1:])
				}
				seeded = true
			case words[0].is("on"):
				var r Rule
				if r, err = parseRule(words[1:]); err == nil {
					s.Rules = append(s.Rules, r)
				}
			default:
				err = fmt.Errorf(`%q; want "seed" or "on", or "at" if read by ParseAll`, words[0].text)
			}
		}
		if err != nil {
			return Script{}, fmt.Errorf("chaos: line %d: %w", n, err)
		}
	}
	return s, nil
}

func parseSeed(words []word) (uint64, error) {
	if len(words) == 1 && words[0].name == "" {
		if seed, err := strconv.ParseUint(words[0].text, 10, 64); err == nil {
			return seed, nil
		}
	}
	return 0, fmt.Errorf("seed wants one whole number from 0 on, such as: seed 42")
}

func parseRule(words []word) (Rule, error) {
	if len(words) == 0 {
		return Rule{}, fmt.Errorf("on wants a command, any, script=NAME, message or invalidation")
	}
	m, err := parseOn(words[0])
	if err != nil {
		return Rule{}, err
	}
	words = words[1:]
	seen := map[string]bool{}
	for len(words) > 0 && words[0].name != "" {
		w := words[0]
		if seen[w.name] {
			return Rule{}, fmt.Errorf("%s= twice; once is allowed", w.name)
		}
		seen[w.name] = true
		if m, err = parseOption(m, w); err != nil {
			return Rule{}, err
		}
		words = words[1:]
	}
	if len(words) == 0 {
		return Rule{}, fmt.Errorf("no fault; want one of %s", allFaults)
	}
	r, err := parseFault(m, words[0], words[1:])
	if err != nil {
		return Rule{}, err
	}
	if wrong := r.check(); wrong != "" {
		return Rule{}, fmt.Errorf("%s", wrong)
	}
	return r, nil
}

func parseOn(w word) (Match, error) {
	switch {
	case w.name == "script":
		return OnScript(w.text), nil
	case w.name != "" || w.quoted:
		return Match{}, fmt.Errorf("%s after on; want a command, any, script=NAME, message or invalidation", w)
	}
	switch strings.ToLower(w.text) {
	case onAny:
		return OnAny(), nil
	case onMessage:
		return OnMessage(), nil
	case onInvalidation:
		return OnInvalidation(), nil
	}
	return On(w.text), nil
}

func parseOption(m Match, w word) (Match, error) {
	switch w.name {
	case "key":
		return m.Key(w.text), nil
	case "channel":
		return m.Channel(w.text), nil
	case "node":
		return m.Node(w.text), nil
	case "nth":
		first, last, span := strings.Cut(w.text, "..")
		from, err := strconv.Atoi(first)
		to := from
		if err == nil && span && last == "" {
			return m.From(from), nil
		}
		if err == nil && span {
			to, err = strconv.Atoi(last)
		}
		if err != nil {
			return m, fmt.Errorf("nth=%s; want a number as in nth=3, nth=3.. or nth=3..5", w.text)
		}
		return m.Between(from, to), nil
	case "p":
		p, err := strconv.ParseFloat(w.text, 64)
		if err != nil {
			return m, fmt.Errorf("p=%s; want a number such as 0.05", w.text)
		}
		return m.P(p), nil
	case "times":
		n, err := strconv.Atoi(w.text)
		if err != nil {
			return m, fmt.Errorf("times=%s; want a number", w.text)
		}
		return m.Times(n), nil
	}
	return m, fmt.Errorf("%s=; want key=, channel=, node=, nth=, p= or times=", w.name)
}

func parseFault(m Match, name word, args []word) (Rule, error) {
	k := noFault
	for i, n := range kindNames {
		if name.is(n) {
			k = kind(i)
		}
	}
	if k == noFault {
		return Rule{}, fmt.Errorf("%s is no fault; want one of %s", name, allFaults)
	}
	f := fault{kind: k}
	most := 1
	var err error
	switch {
	case k == latency || k == bugIgnoreCancel:
		f.min, f.max, err = parseSpan(args, k == latency)
	case k == reply && (len(args) == 0 || args[0].name != ""):
		err = fmt.Errorf(`reply wants a text in quotes, or one word such as LOADING`)
	case k == reply:
		f.text = args[0].text
		if !args[0].quoted {
			f.text = fullText(f.text)
		}
	case k == cut:
		var n word
		if len(args) > 0 {
			n = args[0]
		}
		if f.drop, err = strconv.Atoi(n.text); err != nil || n.name != "" {
			err = fmt.Errorf("cut wants the number of bytes that arrive, such as 3")
		}
	case k.gap() && len(args) == 0:
		f.drop = 1
	case k.gap():
		f.drop, err = strconv.Atoi(args[0].text)
		if err != nil || args[0].name != "" {
			err = fmt.Errorf("%s %s; want how many are dropped, such as 3", k, args[0])
		}
	default:
		most = 0
	}
	if err != nil {
		return Rule{}, err
	}
	if len(args) > most {
		return Rule{}, fmt.Errorf("%s after %s; a fault ends its line, and key=, nth= and others stand before it", args[most], k)
	}
	return Rule{m, f}, nil
}

// parseSpan reads a duration, or two with .. between.
func parseSpan(args []word, span bool) (least, most time.Duration, err error) {
	if len(args) > 0 && args[0].name == "" {
		first, last, two := strings.Cut(args[0].text, "..")
		least, err = time.ParseDuration(first)
		most = least
		if err == nil && two && span {
			most, err = time.ParseDuration(last)
		}
		if err == nil && (span || !two) {
			return least, most, nil
		}
	}
	if span {
		return 0, 0, fmt.Errorf("latency wants a time, such as 5ms or 1ms..20ms")
	}
	return 0, 0, fmt.Errorf("bug-ignore-cancel wants a time, such as 1s")
}

// word is a piece of a line: text, "text in quotes", name=text or name="text in quotes".
type word struct {
	name, text string
	quoted     bool
}

func (w word) is(s string) bool { return w.name == "" && !w.quoted && w.text == s }

func (w word) String() string {
	if w.name != "" {
		return w.name + "=" + strconv.Quote(w.text)
	}
	return strconv.Quote(w.text)
}

// split takes a line apart.
func split(line string) ([]word, error) {
	var words []word
	for {
		line = strings.TrimLeft(line, " \t")
		if line == "" || line[0] == '#' {
			return words, nil
		}
		var w word
		if i := strings.IndexAny(line, "= \t\"#"); i > 0 && line[i] == '=' {
			w.name, line = line[:i], line[i+1:]
		}
		if strings.HasPrefix(line, `"`) {
			q, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, fmt.Errorf("%.40s: a quote is not closed, or escaped in a way that Go does not know", line)
			}
			w.text, _ = strconv.Unquote(q) // what QuotedPrefix takes, Unquote takes
			w.quoted = true
			line = line[len(q):]
			if line != "" && !strings.ContainsRune(" \t#", rune(line[0])) {
				return nil, fmt.Errorf("%.40s after a quoted text; want a space", line)
			}
		} else {
			i := strings.IndexAny(line, " \t\"#")
			if i < 0 {
				i = len(line)
			}
			w.text, line = line[:i], line[i:]
			if strings.HasPrefix(line, `"`) {
				return nil, fmt.Errorf("a quote inside %q; quote all of it", w.text)
			}
		}
		words = append(words, w)
	}
}

// quote returns a text as it stands in a script, in quotes where it needs them.
func quote(s string) string {
	if plainWord(s) {
		return s
	}
	return strconv.Quote(s)
}

func plainWord(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '"' || s[i] == '#' {
			return false
		}
	}
	return s != ""
}
