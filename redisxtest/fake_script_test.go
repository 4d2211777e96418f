package redisxtest

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// endless runs a script without end and returns when others are told so, with the channel of its error.
func endless(t *testing.T, f *Fake, script string, keys ...string) (*talker, chan error) {
	t.Helper()
	k := dialTalker(t, f)
	require.Equal(t, "+OK", k.ask(t, "CONFIG", "SET", "busy-reply-threshold", "1"))
	c := goredisClient(t, f, func(o *redis.Options) { o.ReadTimeout, o.MaxRetries = time.Minute, -1 })
	done := make(chan error, 1)
	go func() { done <- c.Eval(testContext(t), script, keys).Err() }()
	require.Eventually(t, func() bool { return strings.HasPrefix(k.ask(t, "PING"), "-BUSY") }, 10*time.Second, time.Millisecond)
	return k, done
}

func TestAnEndlessScriptIsBusyUntilItIsKilled(t *testing.T) {
	for name, script := range map[string]string{
		"loop": "while true do end", "caught": "while true do pcall(function() while true do end end) end",
		"calls": "while true do redis.call('GET', KEYS[1]) end",
	} {
		t.Run(name, func(t *testing.T) {
			f := NewFake(t)
			k, done := endless(t, f, script, "k")
			require.Contains(t, dialTalker(t, f).ask(t, "HELLO", "3"), "server", "a client can connect to kill it")
			require.Equal(t, "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", k.ask(t, "GET", "k"))
			require.Equal(t, "+OK", k.ask(t, "SCRIPT", "KILL"))
			require.ErrorContains(t, <-done, "Script killed by user with SCRIPT KILL")
			require.Equal(t, "+PONG", k.ask(t, "PING"))
			require.Equal(t, "-NOTBUSY No scripts in execution right now.", k.ask(t, "SCRIPT", "KILL"))
		})
	}
}

func TestAScriptThatHasWrittenCannotBeKilledButClosed(t *testing.T) {
	for name, script := range map[string]string{
		"loop":      "redis.call('SET', KEYS[1], 'v') while true do end",
		"coroutine": "redis.call('SET', KEYS[1], 'v') local f = coroutine.wrap(function() coroutine.yield() end) f() while true do end",
	} {
		t.Run(name, func(t *testing.T) {
			f := NewFake(t)
			k, done := endless(t, f, script, "k")
			require.Contains(t, k.ask(t, "SCRIPT", "KILL"), "-UNKILLABLE")
			require.NoError(t, f.Close())
			require.Error(t, <-done)
		})
	}
	// Close ends one that lets nobody in, too.
	f := NewFake(t)
	k := dialTalker(t, f)
	k.send(t, "EVAL", "coroutine.wrap(function() while true do end end)()", "0")
	require.Eventually(t, func() bool { return f.script.Load() != nil }, 5*time.Second, time.Millisecond)
	require.NoError(t, f.Close())
}

func TestEachFakeNodeHasItsOwnScripts(t *testing.T) {
	c := NewFakeCluster(t, 2)
	sha, err := strconv.Unquote(c.at(t, 0, "SCRIPT", "LOAD", "return 7"))
	require.NoError(t, err)
	require.Equal(t, ":7", c.at(t, 0, "EVALSHA", sha, "0"))
	require.Equal(t, "-NOSCRIPT No matching script. Please use EVAL.", c.at(t, 1, "EVALSHA", sha, "0"))
	require.Equal(t, "*[ :0 ]", c.at(t, 1, "SCRIPT", "EXISTS", sha))
	require.Equal(t, ":7", c.at(t, 1, "EVAL", "return 7", "0"))
	require.Equal(t, "+OK", c.at(t, 0, "SCRIPT", "FLUSH"))
	require.Equal(t, ":7", c.at(t, 1, "EVALSHA", sha, "0"))
	require.NoError(t, c.Restart())
	require.Equal(t, "*[ :0 ]", c.at(t, 1, "SCRIPT", "EXISTS", sha))
}

func TestScriptFlagsOfTheShebangCount(t *testing.T) {
	f, c := NewFake(t), NewFakeCluster(t, 1)
	k := dialTalker(t, f)
	require.Equal(t, ":1", k.ask(t, "EVAL", "#!lua\nreturn 1", "0"))
	require.Contains(t, k.ask(t, "EVAL", "#!lua flags=no-writes\nreturn redis.call('SET', KEYS[1], 'v')", "1", "k"), "Write commands are not allowed")
	require.Contains(t, k.ask(t, "EVAL_RO", "#!lua\nreturn 1", "0"), "Can not execute a script with write flag")
	require.Contains(t, k.ask(t, "EVAL", "#!lua flags=x\nreturn 1", "0"), "Unexpected flag in script shebang: x")
	require.Contains(t, c.at(t, 0, "EVAL", "#!lua flags=no-cluster\nreturn 1", "0"), "'no-cluster' flag is set")
	require.Contains(t, k.ask(t, "EVAL", "#!lua\n\nerror('x')", "0"), "user_script:3: x", "lines are counted with the shebang")
}

func TestAScriptLeavesItsClientAsItWas(t *testing.T) {
	f := NewFake(t)
	k := dialTalker(t, f)
	k.ask(t, "HELLO", "3")
	k.ask(t, "SUBSCRIBE", "ch")
	require.Equal(t, ":1", k.ask(t, "EVAL", "redis.call('SELECT', 3) redis.call('SET', KEYS[1], 'v') return redis.call('PUBLISH', 'ch', 'm')", "1", "k"))
	require.Equal(t, `>[ "message" "ch" "m" ]`, k.frame(t), "in the protocol of the client")
	require.Equal(t, "_", k.ask(t, "GET", "k"), "in the database of the client")
	require.Equal(t, "+OK", k.ask(t, "CLIENT", "TRACKING", "ON"))
	require.Equal(t, "_", k.ask(t, "EVAL", "redis.setresp(3) return redis.call('GET', KEYS[1])", "1", "read"))
	require.Equal(t, "+OK", dialTalker(t, f).ask(t, "SET", "read", "v"))
	require.Equal(t, `>[ "invalidate" *[ "read" ] ]`, k.frame(t), "what a script read is tracked")
	require.Equal(t, "-ERR unknown command 'FCALL', with args beginning with: 'f' '0' ", k.ask(t, "FCALL", "f", "0"))
	for _, refused := range []string{"return struct.pack('i', 1)", "return cmsgpack.pack(1)", "return load"} {
		require.Contains(t, k.ask(t, "EVAL", refused, "0"), "nonexistent global variable", "refused, not guessed")
	}
}
