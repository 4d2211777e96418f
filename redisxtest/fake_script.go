package redisxtest

import (
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	lua "github.com/yuin/gopher-lua"
)

// scriptRun is a script that runs. It is the context.Context of its Lua machine, which asks it before every instruction
// whether to go on; that is where a script that takes long lets others in, who are told BUSY.
type scriptRun struct {
	f      *Fake
	c      *fakeConn
	script *luaScript
	// declared are the keys that KEYS names.
	declared map[string]struct{}
	readOnly bool
	wrote    bool
	resp     int // what redis.setresp chose
	names    *lua.LTable
	locked   map[*lua.LTable]bool
	line     int // where the last error was raised

	started time.Time
	steps   int
	once    sync.Once
	done    chan struct{} // closed when the script is to end, and when it has
	killed  error
}

// Deadline, Done, Err and Value are the context of the Lua machine.
func (run *scriptRun) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value is none.
func (run *scriptRun) Value(any) any { return nil }

// Done counts instructions and now and then lets others in.
func (run *scriptRun) Done() <-chan struct{} {
	if run.steps++; run.steps&0xfff == 0 && time.Since(run.started) > run.f.busyAfter() {
		run.f.mu.Unlock()
		runtime.Gosched()
		run.f.mu.Lock()
	}
	return run.done
}

// Err tells why the script is to end.
func (run *scriptRun) Err() error {
	select {
	case <-run.done:
		return run.killed
	default:
		return nil
	}
}

// AfterFunc spares the contexts of coroutines from asking Done, which only the script itself may.
func (run *scriptRun) AfterFunc(f func()) (stop func() bool) {
	stopped := make(chan struct{})
	run.f.wg.Go(func() {
		select {
		case <-run.done:
			f()
		case <-stopped:
		}
	})
	return sync.OnceValue(func() bool {
		close(stopped)
		return true
	})
}

var (
	errScriptKilled = errors.New("killed by SCRIPT KILL")
	errScriptEnded  = errors.New("the script has ended")
	errScriptClosed = errors.New("the fake server was closed")
)

// kill has the script end at its next instruction.
func (run *scriptRun) kill(why error) {
	run.once.Do(func() {
		run.killed = why
		close(run.done)
	})
}

// busyAfter is how long a script may run before others are told BUSY.
func (f *Fake) busyAfter() time.Duration {
	ms, err := strconv.Atoi(f.config["busy-reply-threshold"])
	if err != nil || ms <= 0 {
		return time.Duration(1<<63 - 1)
	}
	return time.Duration(ms) * time.Millisecond
}

// whileBusy answers a client while a script runs for too long.
func (f *Fake) whileBusy(c *fakeConn, args []string) {
	name := strings.ToUpper(args[0])
	run := f.script.Load()
	r := reply{resp: c.resp}
	switch {
	case name == "SCRIPT" && len(args) == 2 && strings.EqualFold(args[1], "KILL") && c.user != "":
		if run.wrote {
			r.errorf("UNKILLABLE Sorry the script already executed write commands against the dataset. You can either wait the script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command.")
			break
		}
		run.kill(errScriptKilled)
		r.ok()
	case name == "HELLO" || name == "AUTH" || name == "QUIT" || name == "RESET":
		f.run(c, args)
		return
	default:
		f.counts[name]++
		c.dirty = c.dirty || c.multi
		r.errorf("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.")
	}
	c.send(r.b)
}

// cmdEval is EVAL, EVALSHA and their _RO forms.
func (f *Fake) cmdEval(c *fakeConn, args []string, r *reply) {
	name := strings.ToUpper(args[0])
	n, err := strconv.Atoi(args[2])
	switch {
	case err != nil:
		r.errorf("ERR value is not an integer or out of range")
		return
	case n > len(args)-3:
		r.errorf("ERR Number of keys can't be greater than number of args")
		return
	case n < 0:
		r.errorf("ERR Number of keys can't be negative")
		return
	}
	var script *luaScript
	if strings.HasPrefix(name, "EVALSHA") {
		if script = c.node.scripts[strings.ToLower(args[1])]; script == nil {
			r.errorf("NOSCRIPT No matching script. Please use EVAL.")
			return
		}
	} else if script, err = c.node.load(args[1]); err != nil {
		r.errorf("%s", err)
		return
	}
	readOnly := strings.HasSuffix(name, "_RO")
	switch {
	case f.slots != nil && script.has("no-cluster"):
		r.errorf("ERR Can not run script on cluster, 'no-cluster' flag is set.")
		return
	case readOnly && script.shebang && !script.has("no-writes"):
		r.errorf("ERR Can not execute a script with write flag using *_ro command.")
		return
	}
	run := &scriptRun{f: f, c: c, script: script, declared: map[string]struct{}{}, readOnly: readOnly || script.has("no-writes"), resp: 2,
		started: time.Now(), done: make(chan struct{})}
	keys, argv := args[3:3+n], args[3+n:]
	for _, key := range keys {
		run.declared[key] = struct{}{}
	}
	run.run(keys, argv, r)
}

// load compiles a script and keeps it, also if it then fails.
func (n *fakeNode) load(source string) (*luaScript, error) {
	if s := n.scripts[sha1Hex(source)]; s != nil {
		return s, nil
	}
	s, err := compileScript(source)
	if err != nil {
		return nil, err
	}
	if n.scripts == nil {
		n.scripts = map[string]*luaScript{}
	}
	n.scripts[s.sha] = s
	return s, nil
}

func (run *scriptRun) run(keys, argv []string, r *reply) {
	f, c := run.f, run.c
	outer, db := c.resp, c.db
	c.script = run
	f.script.Store(run)
	defer func() {
		f.script.Store(nil)
		c.script = nil
		c.resp = outer
		if c.db != db {
			f.selectDB(c, db)
		}
		run.kill(errScriptEnded) // lets go of coroutines that have not ended
	}()
	l := newLua(run)
	defer l.Close()
	l.SetContext(run)
	list := func(items []string) *lua.LTable {
		t := l.NewTable()
		for _, s := range items {
			t.Append(lua.LString(s))
		}
		return t
	}
	l.G.Global.RawSetString("KEYS", list(keys))
	l.G.Global.RawSetString("ARGV", list(argv))
	fn := l.NewFunctionFromProto(run.script.proto)
	fn.Env = run.names
	l.Push(fn)
	err := l.PCall(0, 1, nil)
	c.resp = outer
	if err != nil {
		r.errorf("%s", run.fault(err))
		return
	}
	run.reply(l.Get(-1), r)
}

var linePrefix = regexp.MustCompile(`^` + chunkName + `:(\d+): `)

// fault words an error that ended a script as the server does.
func (run *scriptRun) fault(err error) string {
	text, line := "", run.line
	switch v := raised(err).(type) {
	case *lua.LTable:
		s, ok := v.RawGetString("err").(lua.LString)
		if !ok {
			s = "ERR unknown error" // what takes real servers down
		}
		text = string(s)
	case lua.LString:
		text = "ERR " + string(v)
		if m := linePrefix.FindStringSubmatch(string(v)); m != nil && line == 0 {
			line, _ = strconv.Atoi(m[1])
		}
	default:
		text = "ERR " + v.String()
	}
	switch why := run.Err(); why {
	case nil:
	case errScriptKilled:
		text = "ERR Script killed by user with SCRIPT KILL..."
	default:
		text = "ERR Script killed: " + why.Error()
	}
	return fmt.Sprintf("%s script: %s, on @%s:%d.", text, run.script.sha, chunkName, max(line, 1))
}

// lineOf is the line of the script that runs, 0 if there is none.
func lineOf(l *lua.LState) int {
	for level := 0; ; level++ {
		dbg, ok := l.GetStack(level)
		if !ok {
			return 0
		}
		if inLua(l, dbg) {
			return dbg.CurrentLine
		}
	}
}

func (f *Fake) cmdScript(c *fakeConn, args []string, r *reply) {
	sub := strings.ToUpper(args[1])
	switch {
	case sub == "LOAD" && len(args) == 3:
		s, err := c.node.load(args[2])
		if err != nil {
			r.errorf("%s", err)
			return
		}
		r.bulk(s.sha)
	case sub == "EXISTS" && len(args) > 2:
		r.array(len(args) - 2)
		for _, sha := range args[2:] {
			found := 0
			if c.node.scripts[strings.ToLower(sha)] != nil {
				found = 1
			}
			r.int(found)
		}
	case sub == "FLUSH" && (len(args) == 2 || len(args) == 3 && (strings.EqualFold(args[2], "SYNC") || strings.EqualFold(args[2], "ASYNC"))):
		clear(c.node.scripts)
		r.ok()
	case sub == "FLUSH":
		r.errorf("ERR SCRIPT FLUSH only support SYNC|ASYNC option")
	case sub == "KILL" && len(args) == 2:
		r.errorf("NOTBUSY No scripts in execution right now.")
	case sub == "LOAD" || sub == "EXISTS" || sub == "KILL":
		r.wrongArity("script|" + sub)
	default:
		r.unknownSub("SCRIPT", args[1])
	}
}
