// Package chaos makes Redis fail on purpose, for tests of what an application does then. It works in three places, in one
// language:
//
//   - [Wrap] puts a [Script] around a driver: a seed and rules that say on which command, key, script, message or
//     invalidation which fault happens.
//   - [NewProxy] and [NewDialer] do what a script says to the connections of any client, and what a [Network] can do to
//     them.
//   - [Run] lets servers pause, die and fail over, and networks fail, at moments that are set with [At].
//
// The same script and the same calls give the same faults, and every fault is noted as a line that causes it again: see
// [Driver], [Report], [Proxy] and [Schedule].
//
// # Rules
//
// A rule in Go is a [Match], which says where and when, ended by the fault:
//
//	chaos.On("INCR").Key("cnt:*").Nth(3).LoseReply()
//
// and as text, for [Parse] and as [Rule.String] prints it:
//
//	on INCR key=cnt:* nth=3 lose-reply
//
// Where: a command's name, any, script=NAME, message (of Pub/Sub) or invalidation (of a [driver.Tracker]), key=GLOB or
// channel=GLOB, and node=HOST:PORT. When: nth=3, nth=3..5 or nth=3.. among the matches of this rule, p=0.05, times=2. Values
// with spaces, quotes or # are quoted as in Go. A # begins a comment. [ParseAll] takes the steps of a [Schedule] in
// the same text.
//
//	latency 5ms, latency 1ms..20ms   the call waits before the command is sent; those of several rules add up
//	reply "OOM no memory"            an error reply, the command is not run; one known word is enough: reply OOM
//	refuse                           no connection: not run, and the caller knows (driver.ErrNotSent)
//	lose-request                     the connection breaks on the way there: not run, the caller does not know
//	lose-reply                       the connection breaks on the way back: run, the caller does not know
//	duplicate                        run twice, the first reply returned
//	hang                             lost on the way there without a sign: not run, the call ends with its ctx
//	hang-reply                       lost on the way back without a sign: run, the call ends with its ctx
//	reset                            lose-reply with a connection that is reset (of a proxy only)
//	cut 3                            lose-reply after the first 3 bytes of the reply (of a proxy only)
//	lose-subscription 3              OnLost, three messages dropped, OnConfirmed
//	lose-invalidation 3              the same for invalidations
//	bug-retry                        a command whose outcome is unknown is sent again
//	bug-ignore-cancel 1s             the end of ctx is noticed so much later
//	bug-silent-gap 3                 three messages or invalidations dropped without a word
//
// The last three break the driver contract, for tests of tests.
//
// # Which rule applies
//
// Every rule counts every match, also of commands that another rule made fail and while the driver is calm. Of the faults
// that end a command the first rule's is taken. Whether and how a rule with p or a span of latency acts on its nth match
// depends on the seed, the position of the rule and n, and on nothing else. With several goroutines the number is that of
// arrival.
//
// Invalid commands, calls with an ended ctx and calls after Close go to the driver below, and do not count. A command that
// the driver sends again by itself (a script with its source, a redirection, a read) is one command.
//
// # Pipelines
//
// In DoMulti every command counts by itself. A connection that breaks takes with it what comes later in the list for the
// same node, as far as a [driver.Router] tells nodes apart: after lose-reply and hang-reply those are run and unknown, after
// lose-request and hang they are not run and unknown. Refuse fails all commands for that node. The other faults touch their
// command alone; latency holds the whole list. Calls of other goroutines are not touched, though they may share a connection
// in reality.
//
// On a [driver.Conn] all of this breaks the connection for good. A command of a transaction that gets an error reply makes
// the server abort it, and EXEC itself with an error reply discards it.
//
// A NOSCRIPT given to a command with a Script is what a caller sees only if the driver did not send the source; likewise
// MOVED is what is left when following it led nowhere, and a lost read is one that was lost at every attempt.
//
// # On the wire
//
// A [Proxy] sees what clients send, so each attempt of a client is a match, and a write that a client library sends again is
// applied again. On any and nth count in the order of arrival, over all connections, without what clients send by
// themselves: HELLO, AUTH, SELECT, CLIENT, PING, COMMAND, CLUSTER and READONLY are met by name only. Where the keys are it
// knows of the commands of Redis; of others the first argument is the key. Only what lies in the first 64 KiB of a command
// is looked at; commands that a person types (inline ones) are taken apart at their spaces, without a look at quotes.
//
// A fault ends the connection it meets, with all that is behind it there, so that replies are never out of step: there is no
// fault that drops one reply and lets those behind it through. Replies of commands before it arrive first.
//
//   - latency: the command and all behind it on its connection wait, in order, and several at once do not add up.
//   - reply: a command without effect is sent in its place (ECHO without its argument, DISCARD for EXEC), and the answer
//     replaced. The server must be there to answer. In a transaction it aborts it.
//   - lose-reply, cut, reset: when the reply begins to arrive. What the client had sent behind the command is run.
//   - duplicate: the first reply arrives after the second has come, unless it is longer than 64 KiB. Not in a transaction, nor
//     for commands that change their connection or are longer than 64 KiB.
//   - hang, hang-reply: the connection stays and carries nothing more in that direction until [Network.Heal] resets it.
//   - lose-subscription, lose-invalidation: so many are dropped, then the connection is closed. bug-silent-gap: they are
//     dropped.
//   - refuse, bug-retry and bug-ignore-cancel are for drivers: NewProxy refuses them.
//
// After MONITOR, SYNC, CLIENT REPLY and SCRIPT DEBUG a connection passes unchanged. What a client encrypts has no commands
// to see: rules and TLS together fail the test, unless TLS is done behind the proxy ([DialWith], [Proxy.DialTLS]).
package chaos
