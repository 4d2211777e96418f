package chaos

import (
	"strconv"
	"strings"
)

// positions says where the keys of a command are.
type positions struct {
	first, last, step int // last as COMMAND has it: -1 is the last argument, -2 the one before it
	count             int // the argument that says how many keys follow it
	streams           bool
	store             bool // one more after STORE or STOREDIST
}

// keyPositions lists the commands whose keys are not the first argument alone.
var keyPositions = func() map[string]positions {
	table := map[string]positions{}
	add := func(p positions, names string) {
		for name := range strings.FieldsSeq(names) {
			table[name] = p
		}
	}
	add(positions{}, `ACL ASKING AUTH BGREWRITEAOF BGSAVE CLIENT CLUSTER COMMAND CONFIG DBSIZE DEBUG DISCARD ECHO EXEC FAILOVER
		FLUSHALL FLUSHDB FUNCTION HELLO INFO KEYS LASTSAVE LATENCY LOLWUT MODULE MONITOR MULTI PING PSUBSCRIBE PSYNC PUBLISH PUBSUB
		PUNSUBSCRIBE QUIT RANDOMKEY READONLY READWRITE REPLCONF REPLICAOF RESET ROLE SAVE SCAN SCRIPT SELECT SHUTDOWN SLAVEOF
		SLOWLOG SUBSCRIBE SWAPDB SYNC TIME UNSUBSCRIBE UNWATCH WAIT WAITAOF`)
	add(positions{first: 1, last: -1, step: 1}, `DEL EXISTS UNLINK TOUCH MGET PFCOUNT PFMERGE SDIFF SDIFFSTORE SINTER SINTERSTORE
		SSUBSCRIBE SUNION SUNIONSTORE SUNSUBSCRIBE WATCH`)
	add(positions{first: 1, last: -2, step: 1}, "BLPOP BRPOP BZPOPMAX BZPOPMIN")
	add(positions{first: 1, last: -1, step: 2}, "MSET MSETNX")
	add(positions{first: 1, last: 2, step: 1}, `BLMOVE BRPOPLPUSH COPY GEOSEARCHSTORE LCS LMOVE RENAME RENAMENX RPOPLPUSH SMOVE
		ZRANGESTORE`)
	add(positions{first: 2, last: -1, step: 1}, "BITOP")
	add(positions{first: 2, last: 2, step: 1}, "MEMORY OBJECT XGROUP XINFO")
	add(positions{first: 3, last: 3, step: 1}, "MIGRATE")
	add(positions{count: 1}, "LMPOP SINTERCARD ZDIFF ZINTER ZINTERCARD ZMPOP ZUNION")
	add(positions{count: 2}, "BLMPOP BZMPOP EVAL EVALSHA EVALSHA_RO EVAL_RO FCALL FCALL_RO")
	add(positions{first: 1, last: 1, step: 1, count: 2}, "ZDIFFSTORE ZINTERSTORE ZUNIONSTORE")
	add(positions{first: 1, last: 1, step: 1, store: true}, "GEORADIUS GEORADIUSBYMEMBER SORT")
	add(positions{streams: true}, "XREAD XREADGROUP")
	return table
}()

// keysOf calls f with every key of a command that is known by its bytes alone. For a command it does not know, as those of
// modules, that is the first argument.
func keysOf(name string, args []string, f func(key string)) {
	p, known := keyPositions[name]
	if !known {
		p = positions{first: 1, last: 1, step: 1}
	}
	if p.first > 0 {
		last := p.last
		if last < 0 {
			last += len(args)
		}
		for i := p.first; i <= last && i < len(args); i += p.step {
			f(args[i])
		}
	}
	if p.count > 0 && p.count < len(args) {
		n, err := strconv.Atoi(args[p.count])
		if err != nil {
			return // the server refuses it
		}
		for i := range min(n, len(args)-p.count-1) {
			f(args[p.count+1+i])
		}
	}
	if !p.streams && !p.store {
		return
	}
	for i := 1; i < len(args); i++ {
		word := strings.ToUpper(args[i])
		if p.store && i > 1 && strings.HasPrefix(word, "STORE") && i+1 < len(args) {
			f(args[i+1])
		}
		if p.streams && word == "STREAMS" {
			for _, key := range args[i+1 : i+1+(len(args)-i-1)/2] {
				f(key)
			}
			return
		}
	}
}

// selfMade are commands that clients send by themselves. As with redisxtest.Fake.FailNext, they are met only by name.
var selfMade = map[string]bool{
	"HELLO": true, "AUTH": true, "SELECT": true, "CLIENT": true, "PING": true, "COMMAND": true, "CLUSTER": true, "READONLY": true,
}

// blocks reports whether a command waits on the server.
func blocks(name string, args []string) bool {
	switch name {
	case "BLPOP", "BRPOP", "BLMOVE", "BLMPOP", "BRPOPLPUSH", "BZPOPMAX", "BZPOPMIN", "BZMPOP", "WAIT", "WAITAOF":
		return true
	case "XREAD", "XREADGROUP":
		for _, a := range args[1:] {
			if strings.EqualFold(a, "BLOCK") {
				return true
			}
		}
	}
	return false
}
