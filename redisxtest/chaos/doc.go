// Package chaos makes a driver fail on purpose, for tests of what an application does when Redis does.
//
// [Wrap] puts a [Script] around a driver: a seed and rules that say on which command, key, script, message or invalidation
// which fault happens. The same script and the same calls give the same faults, and every fault is noted as a line that
// causes it again: see [Driver] and [Report].
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
// Where: a command's name, any, script=NAME, message (of Pub/Sub) or invalidation (of a [driver.Tracker]), and key=GLOB or
// channel=GLOB. When: nth=3, nth=3..5 or nth=3.. among the matches of this rule, p=0.05, times=2. Values with spaces, quotes or
// # are quoted as in Go. A # begins a comment.
//
//	latency 5ms, latency 1ms..20ms   the call waits before the command is sent; one of several rules for a command add up
//	reply "OOM no memory"            an error reply, the command is not run; one known word is enough: reply OOM
//	refuse                           no connection: not run, and the caller knows (driver.ErrNotSent)
//	lose-request                     the connection breaks on the way there: not run, the caller does not know
//	lose-reply                       the connection breaks on the way back: run, the caller does not know
//	duplicate                        run twice, the first reply returned
//	hang                             lost on the way there without a sign: not run, the call ends with its ctx
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
// Every rule counts every match, also of commands that another rule made fail and while the driver is calm. Of the faults that
// end a command the first rule's is taken. Whether and how a rule with p or a span of latency acts on its nth match depends on
// the seed, the position of the rule and n, and on nothing else. With several goroutines the number is that of arrival.
//
// Invalid commands, calls with an ended ctx and calls after Close go to the driver below, and do not count. A command that the
// driver sends again by itself (a script with its source, a redirection, a read) is one command.
//
// # Pipelines
//
// In DoMulti every command counts by itself. A connection that breaks takes with it what comes later in the list for the same
// node, as far as a [driver.Router] tells nodes apart: after lose-reply those are run and unknown, after lose-request and hang
// they are not run and unknown. Refuse fails all commands for that node. The other faults touch their command alone; latency
// holds the whole list. Calls of other goroutines are not touched, though they may share a connection in reality.
//
// On a [driver.Conn] all of this breaks the connection for good. A command of a transaction that gets an error reply makes the
// server abort it, and EXEC itself with an error reply discards it.
//
// A NOSCRIPT given to a command with a Script is what a caller sees only if the driver did not send the source; likewise MOVED
// is what is left when following it led nowhere, and a lost read is one that was lost at every attempt.
package chaos
