package redisxtest

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// check answers commands that miniredis would run although the server refuses them, or would run wrongly. It returns the
// reply, or nil and the arguments to go on with.
func (f *Fake) check(c *fakeConn, name string, args []string) (answer []byte, rest []string) {
	r := &reply{resp: c.resp}
	if run := checks[name]; run != nil {
		args = run(f, c, args, r)
	}
	return r.b, args
}

type check func(f *Fake, c *fakeConn, args []string, r *reply) (rest []string)

var checks map[string]check

func init() {
	positive := func(at int) check {
		return func(_ *Fake, _ *fakeConn, args []string, r *reply) []string {
			if len(args) > at {
				if n, err := strconv.Atoi(args[at]); err != nil || n < 0 {
					r.errorf("ERR value is out of range, must be positive")
				}
			}
			return args
		}
	}
	zpop := func(f *Fake, c *fakeConn, args []string, r *reply) []string {
		if args = positive(2)(f, c, args, r); len(r.b) == 0 && len(args) == 3 && args[2] == "0" {
			r.array(0)
		}
		return args
	}
	pairs := func(_ *Fake, _ *fakeConn, args []string, r *reply) []string {
		if len(args)%2 == 0 {
			r.wrongArity(args[0])
		}
		return args
	}
	scan := func(_ *Fake, _ *fakeConn, args []string, r *reply) []string {
		for i := 3; i+1 < len(args); i++ {
			if strings.EqualFold(args[i], "COUNT") {
				if n, err := strconv.Atoi(args[i+1]); err == nil && n < 1 {
					r.errorf("ERR syntax error")
				}
			}
		}
		return args
	}
	checks = map[string]check{
		"SET": setOptions("set", 3), "GETEX": setOptions("getex", 2), "SETEX": expireAt(2, "EX"), "PSETEX": expireAt(2, "PX"),
		"EXPIRE": farExpiry("EX"), "PEXPIRE": farExpiry("PX"), "EXPIREAT": farExpiry("EXAT"), "PEXPIREAT": farExpiry("PXAT"),
		"MSET": pairs, "MSETNX": pairs,
		"INCR": strictInt, "DECR": strictInt, "INCRBY": strictInt, "DECRBY": strictInt,
		"INCRBYFLOAT": func(_ *Fake, _ *fakeConn, args []string, r *reply) []string {
			if isInf(args[2]) {
				r.errorf("ERR increment would produce NaN or Infinity")
			}
			return args
		},
		"SETRANGE": func(f *Fake, c *fakeConn, args []string, r *reply) []string {
			if kind := f.eng.kind(c.db, args[1]); args[3] == "" && (kind == "" || kind == "string") && isInteger(args[2]) && args[2][0] != '-' {
				r.raw(f.eng.run(c.peer, &c.buf, "STRLEN", args[1]))
			}
			return args
		},
		"HINCRBY": hincrby, "HINCRBYFLOAT": hincrbyfloat,
		"HSCAN": scan, "SSCAN": scan, "ZSCAN": scan,
		"LPOP": positive(2), "RPOP": positive(2), "SPOP": positive(2), "ZPOPMIN": zpop, "ZPOPMAX": zpop,
		"COPY": func(_ *Fake, _ *fakeConn, args []string, r *reply) []string {
			for i := 3; i+1 < len(args); i++ {
				if n, err := strconv.Atoi(args[i+1]); strings.EqualFold(args[i], "DB") && err == nil && (n < 0 || n >= databases) {
					r.errorf("ERR DB index is out of range")
				}
			}
			return args
		},
		"ZADD": zadd, "ZINCRBY": func(f *Fake, c *fakeConn, args []string, r *reply) []string {
			f.checkScore(c, args[1], args[3], args[2], r)
			return args
		},
		"XADD": xadd, "XRANGE": xrange, "XREVRANGE": xrange, "XPENDING": xpending, "XREAD": xread, "XREADGROUP": xread,
		"XDEL": streamIDs, "GETRANGE": func(_ *Fake, _ *fakeConn, args []string, r *reply) []string {
			from, err1 := strconv.ParseInt(args[2], 10, 64)
			to, err2 := strconv.ParseInt(args[3], 10, 64)
			if err1 == nil && err2 == nil && from < 0 && to < from {
				return []string{args[0], args[1], "1", "0"} // nothing; miniredis gives the first byte
			}
			return args
		},
		"PFADD": pfadd, "PFCOUNT": pfcount,
		"XTRIM": xtrim, "LMOVE": ends(3), "BLMOVE": ends(3), "LPOS": lpos,
		"BITPOS": func(_ *Fake, _ *fakeConn, args []string, r *reply) []string {
			switch n, err := strconv.ParseInt(args[2], 10, 64); {
			case err != nil:
				r.errorf(errNotInteger)
			case n != 0 && n != 1:
				r.errorf("ERR The bit argument must be 1 or 0.")
			}
			return args
		},
	}
}

// storesEmpty are commands that remove their destination if there is nothing to store.
var storesEmpty = map[string]bool{
	"SINTERSTORE": true, "SUNIONSTORE": true, "SDIFFSTORE": true, "ZINTERSTORE": true, "ZUNIONSTORE": true,
}

func isInteger(s string) bool {
	n, err := strconv.ParseInt(s, 10, 64)
	return err == nil && strconv.FormatInt(n, 10) == s
}

func isInf(s string) bool {
	n, ok := luaNumber(s)
	return ok && math.IsInf(n, 0)
}

// longestTTL is how far in the future an expiry may be, in milliseconds; what is beyond is refused as the server refuses
// what overflows. It is 285 years.
const longestTTL = 9_000_000_000_000

// checkTTL reads a time to live given in a unit, and says what is wrong with it.
func (f *Fake) checkTTL(name, unit, value string, r *reply) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		r.errorf(errNotInteger)
		return
	}
	if n <= 0 || !f.inReach(unit, n) {
		r.errorf("ERR invalid expire time in '%s' command", name)
	}
}

func (f *Fake) inReach(unit string, n int64) bool {
	if n < 0 {
		n = max(n, -math.MaxInt64)
		n = -n
	}
	if unit == "EX" || unit == "EXAT" {
		if n > math.MaxInt64/1000 {
			return false
		}
		n *= 1000
	}
	if strings.HasSuffix(unit, "AT") {
		n -= f.now().UnixMilli()
	}
	return n <= longestTTL
}

func expireAt(at int, unit string) check {
	return func(f *Fake, _ *fakeConn, args []string, r *reply) []string {
		f.checkTTL(strings.ToLower(args[0]), unit, args[at], r)
		return args
	}
}

func farExpiry(unit string) check {
	return func(f *Fake, _ *fakeConn, args []string, r *reply) []string {
		if n, err := strconv.ParseInt(args[2], 10, 64); err == nil && !f.inReach(unit, n) {
			r.errorf("ERR invalid expire time in '%s' command", strings.ToLower(args[0]))
		}
		return args
	}
}

// setOptions checks the options of SET and GETEX.
func setOptions(name string, from int) check {
	return func(f *Fake, _ *fakeConn, args []string, r *reply) []string {
		life, condition, unit, value := "", "", "", ""
		for i := from; i < len(args); i++ {
			opt := strings.ToUpper(args[i])
			switch {
			case opt == "NX" || opt == "XX":
				if name != "set" || condition != "" && condition != opt {
					r.errorf("ERR syntax error")
					return args
				}
				condition = opt
				continue
			case opt == "GET" && name == "set":
				continue
			case opt == "KEEPTTL" && name == "set", opt == "PERSIST" && name == "getex":
			case slices.Contains([]string{"EX", "PX", "EXAT", "PXAT"}, opt) && i+1 < len(args):
				i++
				unit, value = opt, args[i]
			default:
				r.errorf("ERR syntax error")
				return args
			}
			if life != "" {
				r.errorf("ERR syntax error")
				return args
			}
			life = opt
		}
		if unit != "" {
			f.checkTTL(name, unit, value, r)
		}
		return args
	}
}

// strictInt refuses to count what the server does not take for an integer, such as "+5" and "05".
func strictInt(f *Fake, c *fakeConn, args []string, r *reply) []string {
	if strings.EqualFold(args[0], "DECRBY") && args[2] == strconv.Itoa(math.MinInt64) {
		r.errorf("ERR decrement would overflow")
		return args
	}
	if f.eng.kind(c.db, args[1]) == "string" {
		if v, err := f.eng.m.DB(c.db).Get(args[1]); err == nil && !isInteger(v) {
			r.errorf(errNotInteger)
		}
	}
	return args
}

func hincrby(f *Fake, c *fakeConn, args []string, r *reply) []string {
	by, err := strconv.ParseInt(args[3], 10, 64)
	if err != nil || f.eng.kind(c.db, args[1]) != "hash" {
		return args
	}
	v := f.eng.m.DB(c.db).HGet(args[1], args[2])
	switch n, err := strconv.ParseInt(v, 10, 64); {
	case v == "":
	case err != nil || !isInteger(v):
		r.errorf("ERR hash value is not an integer")
	case by > 0 && n > math.MaxInt64-by, by < 0 && n < math.MinInt64-by:
		r.errorf("ERR increment or decrement would overflow")
	}
	return args
}

func hincrbyfloat(f *Fake, c *fakeConn, args []string, r *reply) []string {
	if isInf(args[3]) {
		r.errorf("ERR value is NaN or Infinity")
		return args
	}
	if f.eng.kind(c.db, args[1]) == "hash" {
		if v := f.eng.m.DB(c.db).HGet(args[1], args[2]); v != "" {
			if _, ok := luaNumber(v); !ok {
				r.errorf("ERR hash value is not a float")
			}
		}
	}
	return args
}

// checkScore refuses what is no score, and sums that are none. It returns the sum and whether there was a score before.
func (f *Fake) checkScore(c *fakeConn, key, member, by string, r *reply) (sum, old float64, exists bool) {
	n, ok := luaNumber(by)
	if !ok || math.IsNaN(n) {
		r.errorf("ERR value is not a valid float")
		return 0, 0, false
	}
	if f.eng.kind(c.db, key) == "zset" {
		if members, err := f.eng.m.DB(c.db).SortedSet(key); err == nil {
			old, exists = members[member]
		}
	}
	if math.IsNaN(old + n) {
		r.errorf("ERR resulting score is not a number (NaN)")
	}
	return old + n, old, exists
}

func zadd(f *Fake, c *fakeConn, args []string, r *reply) []string {
	flags := map[string]bool{}
	at := 2
	for ; at < len(args); at++ {
		o := strings.ToUpper(args[at])
		if !slices.Contains([]string{"NX", "XX", "GT", "LT", "CH", "INCR"}, o) {
			break
		}
		flags[o] = true
	}
	rest := args[at:]
	if len(rest) == 0 || len(rest)%2 != 0 || flags["NX"] && (flags["XX"] || flags["GT"] || flags["LT"]) || flags["GT"] && flags["LT"] {
		return args // miniredis knows what to say
	}
	for i := 0; i < len(rest); i += 2 {
		if n, ok := luaNumber(rest[i]); !ok || math.IsNaN(n) {
			r.errorf("ERR value is not a valid float")
			return args
		}
	}
	if flags["INCR"] && len(rest) == 2 && len(r.b) == 0 {
		sum, old, exists := f.checkScore(c, args[1], rest[1], rest[0], r)
		if len(r.b) == 0 && exists && (flags["GT"] && sum <= old || flags["LT"] && sum >= old) {
			r.null()
		}
	}
	return args
}

// pfadd tells whether the estimate has changed; miniredis says so always.
func pfadd(f *Fake, c *fakeConn, args []string, r *reply) []string {
	if f.eng.version(dbKey{c.db, args[1]}) == 0 {
		return args
	}
	before := string(f.eng.run(c.peer, &c.buf, "PFCOUNT", args[1]))
	out := f.eng.run(c.peer, &c.buf, args...)
	if len(out) == 0 || out[0] == '-' {
		r.raw(out)
		return args
	}
	f.tracks.wrote = true
	if before == string(f.eng.run(c.peer, &c.buf, "PFCOUNT", args[1])) {
		r.int(0)
	} else {
		r.int(1)
	}
	return args
}

// pfcount counts the union of several; miniredis adds them up.
func pfcount(f *Fake, c *fakeConn, args []string, r *reply) []string {
	if len(args) < 3 {
		return args
	}
	const scratch = "\x00redisxtest:pfcount"
	defer f.eng.run(c.peer, &c.buf, "DEL", scratch)
	out := f.eng.run(c.peer, &c.buf, append([]string{"PFMERGE", scratch}, args[1:]...)...)
	if len(out) == 0 || out[0] == '-' {
		r.raw(out)
		return args
	}
	r.raw(f.eng.run(c.peer, &c.buf, "PFCOUNT", scratch))
	return args
}

// ends checks the ends of lists in two arguments; miniredis takes an element away and puts it nowhere.
func ends(at int) check {
	return func(_ *Fake, _ *fakeConn, args []string, r *reply) []string {
		for _, end := range args[at : at+2] {
			if !strings.EqualFold(end, "LEFT") && !strings.EqualFold(end, "RIGHT") {
				r.errorf("ERR syntax error")
				break
			}
		}
		return args
	}
}

// lpos bounds COUNT, for which miniredis makes room.
func lpos(f *Fake, c *fakeConn, args []string, _ *reply) []string {
	for i := 3; i+1 < len(args); i += 2 {
		if n, err := strconv.ParseInt(args[i+1], 10, 64); strings.EqualFold(args[i], "COUNT") && err == nil && n > 1<<20 {
			args = slices.Clone(args)
			args[i+1] = "0" // all
		}
	}
	return args
}

func xtrim(_ *Fake, _ *fakeConn, args []string, r *reply) []string {
	how, i := strings.ToUpper(args[2]), 3
	if how != "MAXLEN" && how != "MINID" {
		r.errorf("ERR syntax error")
		return args
	}
	if args[i] == "~" || args[i] == "=" {
		i++
	}
	if i == len(args) {
		i-- // the sign is the threshold, and no good one
	}
	checkThreshold(how, args[i], r)
	return args
}

// checkThreshold says what is wrong with up to where a stream is trimmed.
func checkThreshold(how, value string, r *reply) {
	if how == "MINID" {
		if _, ok := parseStreamID(value, 0); !ok {
			r.errorf(errStreamID)
		}
		return
	}
	switch n, err := strconv.ParseInt(value, 10, 64); {
	case err != nil:
		r.errorf(errNotInteger)
	case n < 0:
		r.errorf("ERR The MAXLEN argument must be >= 0.")
	}
}

func xrange(f *Fake, c *fakeConn, args []string, r *reply) []string {
	if kind := f.eng.kind(c.db, args[1]); kind != "" && kind != "stream" {
		r.errorf(errNotStream)
		return args
	}
	if len(args) == 6 && strings.EqualFold(args[4], "COUNT") {
		if n, err := strconv.ParseInt(args[5], 10, 64); err == nil && n <= 0 && rangeEnd(args[2]) && rangeEnd(args[3]) {
			if f.eng.kind(c.db, args[1]) == "" {
				r.array(0)
			} else {
				r.nullArray()
			}
		}
	}
	return args
}

// streamIDs checks all IDs before the first is worked on.
func streamIDs(f *Fake, c *fakeConn, args []string, r *reply) []string {
	if f.eng.kind(c.db, args[1]) != "stream" {
		return args
	}
	for _, id := range args[2:] {
		if _, ok := parseStreamID(id, 0); !ok {
			r.errorf(errStreamID)
			break
		}
	}
	return args
}

// rangeEnd reports whether the server takes s for an end of a range of a stream.
func rangeEnd(s string) bool {
	_, ok := parseStreamID(strings.TrimPrefix(s, "("), 0)
	return ok || s == "-" || s == "+"
}

func xpending(_ *Fake, _ *fakeConn, args []string, _ *reply) []string {
	at := 3
	if len(args) > 4 && strings.EqualFold(args[3], "IDLE") {
		at = 5
	}
	if at < len(args) {
		if id, ok := parseStreamID(strings.TrimPrefix(args[at], "("), 0); ok && strings.HasPrefix(args[at], "(") {
			args = slices.Clone(args)
			args[at] = next(id).String()
		}
	}
	return args
}

func xread(f *Fake, c *fakeConn, args []string, r *reply) []string {
	group := strings.EqualFold(args[0], "XREADGROUP")
	i := 1
	if group {
		i = 4
	}
	for ; i < len(args) && !strings.EqualFold(args[i], "STREAMS"); i++ {
		opt := strings.ToUpper(args[i])
		switch {
		case (opt == "COUNT" || opt == "BLOCK") && i+1 < len(args):
			i++
			n, err := strconv.ParseInt(args[i], 10, 64)
			switch {
			case err != nil && opt == "COUNT":
				r.errorf(errNotInteger)
			case err != nil:
				r.errorf("ERR timeout is not an integer or out of range")
			case n < 0 && opt == "BLOCK":
				r.errorf("ERR timeout is negative")
			}
			if len(r.b) > 0 {
				return args
			}
		case opt == "NOACK" && group:
		default:
			r.errorf("ERR syntax error")
			return args
		}
	}
	if i >= len(args) || (len(args)-i-1)%2 != 0 {
		return args
	}
	for _, key := range args[i+1 : i+1+(len(args)-i-1)/2] {
		if kind := f.eng.kind(c.db, key); kind != "" && kind != "stream" {
			r.errorf(errNotStream)
			return args
		}
	}
	for _, id := range args[i+1+(len(args)-i-1)/2:] {
		switch {
		case id == ">" && !group:
			r.errorf("ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.")
			return args
		case id == "$" && group:
			r.errorf("ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just return an empty result set.")
			return args
		}
	}
	return args
}

// xadd checks the options, takes out LIMIT, which changes nothing that a client may rely on, and knows deleted IDs.
func xadd(f *Fake, c *fakeConn, args []string, r *reply) []string {
	rest := []string{args[0], args[1]}
	trim, approximate, limit := "", false, false
	i := 2
options:
	for ; i < len(args); i++ {
		switch opt := strings.ToUpper(args[i]); {
		case opt == "NOMKSTREAM":
			rest = append(rest, args[i])
		case (opt == "MAXLEN" || opt == "MINID") && i+1 < len(args):
			if trim != "" && trim != opt {
				r.errorf("ERR syntax error, MAXLEN and MINID options at the same time are not compatible")
				return args
			}
			trim = opt
			rest = append(rest, args[i])
			i++
			if args[i] == "~" || args[i] == "=" {
				approximate = args[i] == "~"
				rest = append(rest, args[i])
				i++
			}
			if i < len(args) {
				if checkThreshold(opt, args[i], r); len(r.b) > 0 {
					return args
				}
				rest = append(rest, args[i])
			}
		case opt == "LIMIT" && i+1 < len(args):
			i++
			limit = true
			if n, err := strconv.ParseInt(args[i], 10, 64); err != nil {
				r.errorf(errNotInteger)
				return args
			} else if n < 0 {
				r.errorf("ERR The LIMIT argument must be >= 0.")
				return args
			}
		default:
			break options
		}
	}
	if limit && !approximate {
		r.errorf("ERR syntax error, LIMIT cannot be used without the special ~ option")
		return args
	}
	if i < len(args) {
		if s := f.eng.stream(dbKey{c.db, args[1]}); s != nil {
			text, any := strings.CutSuffix(args[i], "-*") // the newest of its millisecond
			low := uint64(0)
			if any {
				low = math.MaxUint64
			}
			if id, ok := parseStreamID(text, low); ok && id != (streamID{}) && id.compare(s.last()) <= 0 && (len(args)-i)%2 == 1 {
				r.errorf("ERR The ID specified in XADD is equal or smaller than the target stream top item")
			}
		}
		rest = append(rest, args[i:]...)
	}
	return rest
}

// cmdXSetID is XSETID without its options.
func (f *Fake) cmdXSetID(c *fakeConn, args []string, r *reply) {
	id, ok := parseStreamID(args[2], 0)
	if !ok {
		r.errorf(errStreamID)
		return
	}
	kind, s := f.eng.kind(c.db, args[1]), f.eng.stream(dbKey{c.db, args[1]})
	switch {
	case len(args) > 3:
		r.errorf("ERR the fake server has no options for XSETID")
	case kind == "":
		r.errorf("ERR no such key")
	case kind != "stream" || s == nil:
		r.errorf(errNotStream)
	case id.compare(mustStreamID(f.meta(s).maxDeleted)) < 0:
		r.errorf("ERR The ID specified in XSETID is smaller than current max_deleted_entry_id")
	case len(s.entries) > 0 && id.compare(mustStreamID(s.entries[len(s.entries)-1].ID)) < 0:
		r.errorf("ERR The ID specified in XSETID is smaller than the target stream top item")
	default:
		s.lastAllocatedID = id.String()
		r.ok()
	}
}

// ttlCommand is TTL, PTTL, EXPIRETIME and PEXPIRETIME, which round.
func ttlCommand(absolute bool, unit time.Duration) command {
	return func(f *Fake, c *fakeConn, args []string, r *reply) {
		at, exists, volatile := f.eng.expiry(dbKey{c.db, args[1]})
		f.remember(c, f.command(args[0]), args)
		switch {
		case !exists:
			r.int(-2)
		case !volatile:
			r.int(-1)
		default:
			ms := at.Round(time.Millisecond).UnixMilli()
			if !absolute {
				ms = max(0, at.Sub(f.now()).Round(time.Millisecond).Milliseconds())
			}
			if unit == time.Second {
				ms = (ms + 500) / 1000
			}
			r.int(int(ms))
		}
	}
}
