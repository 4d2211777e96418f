package redisxtest

import (
	"slices"
	"strconv"
	"strings"
)

// keys returns the keys that a command names, by the server's rules: where the numbers of keys or the options are no such
// thing it is none, and the command itself will say what is wrong. Arguments are as many as the arity asks for.
func (c *fakeCommand) keys(args []string) []string {
	switch c.name {
	case "EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "BLMPOP", "BZMPOP":
		return countedKeys(args, 2)
	case "LMPOP", "ZMPOP", "ZUNION", "ZINTER", "ZDIFF", "ZINTERCARD", "SINTERCARD":
		return countedKeys(args, 1)
	case "ZUNIONSTORE", "ZINTERSTORE", "ZDIFFSTORE":
		return append([]string{args[1]}, countedKeys(args, 2)...)
	case "XREAD":
		return streamKeys(args, 1)
	case "XREADGROUP":
		return streamKeys(args, 4) // a group or a consumer may itself be called STREAMS
	case "GEORADIUS", "GEORADIUSBYMEMBER":
		keys := []string{args[1]}
		for i := len(args) - 2; i > 4; i-- {
			if o := strings.ToUpper(args[i]); o == "STORE" || o == "STOREDIST" {
				return append(keys, args[i+1])
			}
		}
		return keys
	case "MEMORY", "OBJECT", "XGROUP", "XINFO":
		return args[min(2, len(args)):min(3, len(args))]
	}
	if c.first == 0 || c.step == 0 {
		return nil
	}
	last := c.last
	if last < 0 {
		last += len(args)
	}
	var keys []string
	for i := c.first; i <= last && i < len(args); i += c.step {
		keys = append(keys, args[i])
	}
	return keys
}

// countedKeys are the keys behind their number at args[at].
func countedKeys(args []string, at int) []string {
	n, err := strconv.Atoi(args[at])
	if err != nil || n < 1 || n > len(args)-at-1 {
		return nil
	}
	return slices.Clone(args[at+1 : at+1+n])
}

// streamKeys are the keys behind STREAMS, in front of as many IDs.
func streamKeys(args []string, from int) []string {
	for i := from; i < len(args); i++ {
		if strings.EqualFold(args[i], "STREAMS") {
			return args[i+1 : i+1+(len(args)-i-1)/2]
		}
	}
	return nil
}

// cmdKeys is keys for a command that may be unknown, too short, or EXEC.
func cmdKeys(c *fakeCommand, args []string) []string {
	if c == nil || c.arity > 0 && len(args) != c.arity || c.arity < 0 && len(args) < -c.arity {
		return nil
	}
	return c.keys(args)
}
