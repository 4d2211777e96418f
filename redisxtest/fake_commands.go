package redisxtest

import (
	_ "embed"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// command answers one command of a client. Fake.mu is held.
type command func(f *Fake, c *fakeConn, args []string, r *reply)

// fakeCommand is a command that the Fake has.
type fakeCommand struct {
	name              string
	arity             int
	flags             []string
	first, last, step int
	categories        []string // of ACL
	local             command  // nil: miniredis runs it
}

func (c *fakeCommand) has(flag string) bool { return c != nil && slices.Contains(c.flags, flag) }

// commandTable lists name, arity, flags, first key, last key, key step and ACL categories of commands and sub-commands, as
// COMMAND tells them.
//
//go:embed commands.txt
var commandTable string

// localCommands are those the Fake answers itself.
var localCommands = map[string]command{
	"AUTH": (*Fake).cmdAuth, "HELLO": (*Fake).cmdHello, "RESET": (*Fake).cmdReset, "QUIT": (*Fake).cmdQuit,
	"PING": (*Fake).cmdPing, "SELECT": (*Fake).cmdSelect, "SWAPDB": (*Fake).cmdSwapDB, "CLIENT": (*Fake).cmdClient,
	"ACL": (*Fake).cmdACL, "COMMAND": (*Fake).cmdCommand, "INFO": (*Fake).cmdInfo, "CONFIG": (*Fake).cmdConfig,
	"ROLE": (*Fake).cmdRole, "CLUSTER": (*Fake).noCluster, "READONLY": (*Fake).noCluster, "READWRITE": (*Fake).noCluster,
	"ASKING": (*Fake).noCluster,

	"MULTI": (*Fake).cmdMulti, "EXEC": (*Fake).cmdExec, "DISCARD": (*Fake).cmdDiscard,
	"WATCH": (*Fake).cmdWatch, "UNWATCH": (*Fake).cmdUnwatch,

	"SUBSCRIBE": subscribeTo("subscribe", channelsOf), "UNSUBSCRIBE": unsubscribeFrom("unsubscribe", channelsOf),
	"PSUBSCRIBE": subscribeTo("psubscribe", patternsOf), "PUNSUBSCRIBE": unsubscribeFrom("punsubscribe", patternsOf),
	"SSUBSCRIBE": subscribeTo("ssubscribe", shardOf), "SUNSUBSCRIBE": unsubscribeFrom("sunsubscribe", shardOf),
	"PUBLISH": (*Fake).cmdPublish, "SPUBLISH": (*Fake).cmdSpublish, "PUBSUB": (*Fake).cmdPubsub,

	"SCAN": (*Fake).cmdScan,
	"TTL":  ttlCommand(false, time.Second), "PTTL": ttlCommand(false, time.Millisecond),
	"EXPIRETIME": ttlCommand(true, time.Second), "PEXPIRETIME": ttlCommand(true, time.Millisecond),
	"XSETID": (*Fake).cmdXSetID,
	"XGROUP": (*Fake).cmdXGroup, "XINFO": (*Fake).cmdXInfo, "XCLAIM": (*Fake).cmdXClaim, "XAUTOCLAIM": (*Fake).cmdXAutoClaim,
	"EVAL": (*Fake).cmdEval, "EVALSHA": (*Fake).cmdEval, "EVAL_RO": (*Fake).cmdEval, "EVALSHA_RO": (*Fake).cmdEval, "SCRIPT": (*Fake).cmdScript,
}

// parsedCommands are the rows of commandTable by upper-case name, sub-commands as "CLIENT|ID".
var parsedCommands = func() map[string]fakeCommand {
	all := map[string]fakeCommand{}
	list := func(s string) []string {
		if s == "-" {
			return nil
		}
		return strings.Split(s, ",")
	}
	for line := range strings.Lines(commandTable) {
		f := strings.Fields(line)
		c := fakeCommand{name: strings.ToUpper(f[0]), flags: list(f[2]), categories: list(f[6])}
		for i, to := range map[int]*int{1: &c.arity, 3: &c.first, 4: &c.last, 5: &c.step} {
			*to, _ = strconv.Atoi(f[i])
		}
		all[c.name] = c
	}
	return all
}()

// fakeCommands returns the commands by upper-case name: those of the table that someone answers.
func fakeCommands(engineHas func(string) bool, cluster bool) map[string]*fakeCommand {
	all := map[string]*fakeCommand{}
	for name, c := range parsedCommands {
		c.local = localCommands[name]
		if run, ok := clusterCommands[name]; ok && cluster {
			c.local = run
		}
		// WAIT and BLMPOP are run by the code that blocks.
		if c.local != nil || engineHas(name) || name == "BLMPOP" {
			all[name] = &c
		}
	}
	return all
}

func (f *Fake) cmdCommand(_ *fakeConn, args []string, r *reply) {
	names := slices.Sorted(maps.Keys(f.commands))
	sub := ""
	if len(args) > 1 {
		sub = strings.ToUpper(args[1])
	}
	switch sub {
	case "COUNT":
		if len(args) > 2 {
			r.wrongArity("command|count")
			return
		}
		r.int(len(names))
	case "LIST":
		r.array(len(names))
		for _, n := range names {
			r.bulk(strings.ToLower(n))
		}
	case "INFO":
		if len(args) > 2 {
			names = args[2:]
		}
		fallthrough
	case "":
		r.array(len(names))
		for _, n := range names {
			f.commands[strings.ToUpper(n)].info(r)
		}
	default:
		r.unknownSub("COMMAND", args[1])
	}
}

// info is one entry of COMMAND INFO, null for a command that does not exist.
func (c *fakeCommand) info(r *reply) {
	if c == nil {
		r.null()
		return
	}
	r.array(10)
	r.bulk(strings.ToLower(c.name))
	r.int(c.arity)
	r.array(len(c.flags))
	for _, f := range c.flags {
		r.simple(f)
	}
	r.int(c.first)
	r.int(c.last)
	r.int(c.step)
	r.array(len(c.categories))
	for _, name := range c.categories {
		r.simple("@" + name)
	}
	for range 3 { // tips, key specifications, sub-commands
		r.array(0)
	}
}
