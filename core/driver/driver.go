// Package driver is the contract between the toolkit and a Redis client library.
//
// It speaks protocol verbs, never domain verbs: a command goes out, a reply comes back. Adding a plugin never touches an
// adapter, and adding an adapter never touches a plugin. Two adapters are maintained beside it, goredisdriver and
// rueidisdriver; package drivertest holds one named case for every promise below, and any third adapter can run it.
//
// # What every driver promises
//
// Replies. A null reply is not an error: [Reply.IsNil] reports it, and an empty string is not null. An error reply is a
// [*ServerError] whose Code is the first word of the text, the same text with either client. Replies inside a list keep
// their own errors. Sentinels of the client library never leak. Keys, arguments and replies are binary safe, integers are
// exact over 64 bits.
//
// Context. Cancellation and deadline are honoured during a command, within 50 ms, also while it waits for a connection or
// blocks on the server, and the error satisfies errors.Is(err, ctx.Err()). If the command may have reached the server the
// error also is [ErrUnknownOutcome]: the server may or may not have run it. If it certainly was not sent it is [ErrNotSent].
//
// Retries. A Write command is sent at most once. The exceptions change nothing on the server: MOVED and ASK redirections
// are followed, a script the server does not know is sent again with its source, and a WAIT or WAITAOF behind such a command
// is sent again behind it. A ReadOnly command may be sent again after a connection failure. Whatever retry policy a wrapped
// client was configured with does not apply to Write commands.
//
// Scripts. A command with a [Script] is sent as EVALSHA; after NOSCRIPT (restart, failover, SCRIPT FLUSH, eviction) it is
// sent once more as EVAL, alone and inside [Driver.DoMulti]. In a pipeline a script sent again runs after the others of
// that pipeline; every reply keeps its place.
//
// Routing. A command goes to the primary that serves its first key ([Cmd.Keys]) or, without keys, the key in [Cmd.Near],
// or else any primary. In Cluster, keys of one command in different slots are a CROSSSLOT error. In DoMulti, commands of
// one slot travel on one connection in order, so a WAIT near a key confirms the writes to that key before it.
//
// Blocking. A Blocking command has a connection of its own; its ctx ends it, never a read timeout, and it is ended with
// CLIENT UNBLOCK so that a reply already on its way is delivered. Nothing else waits behind it.
//
// Failures. Transport errors are an [*OpError] that says whether the outcome is unknown. After the server comes back the
// driver recovers by itself. After Close every call fails with [ErrClosed], and Close waits for what the driver started.
// No error contains a password. Invalid commands (no name, key positions out of range, SUBSCRIBE and others that take their
// connection over) are an [ErrInvalid], never a panic.
//
// Shared connections. What is [Cmd.Unshareable] (MULTI, WATCH, SELECT, AUTH, …, a WAIT that is not Blocking) is an
// [ErrInvalid] in Do, and in DoMulti for the whole list, as its other members may be meant to be part of a transaction. A
// [Conn] takes all of it; there an invalid member refuses its list, so that a transaction is sent whole or not at all, and
// what a Conn left behind (an open MULTI, another database) never reaches the next user of a connection.
//
// The same holds on standalone, Sentinel and Cluster, RESP2 and RESP3, TLS, ACL users and Unix sockets.
package driver

import (
	"context"
	"time"
)

// Driver sends commands. It is safe for concurrent use.
type Driver interface {
	// Do sends one command and returns its reply. A failure is in the reply: [Reply.Err].
	Do(ctx context.Context, cmd Cmd) Reply

	// DoMulti sends commands in one round trip per node and returns one reply for each, in order. It is not atomic, and
	// the failure of one says nothing of the others: when a connection breaks, those without a reply are unknown.
	// A list that contains a Blocking command must belong to one node and runs on a connection of its own.
	DoMulti(ctx context.Context, cmds []Cmd) []Reply

	// Caps tells what the server can do. The first successful answer is kept; a failure is not.
	Caps(ctx context.Context) (Caps, error)

	// Unwrap returns the client underneath: *redis.Client, *redis.ClusterClient or rueidis.Client.
	Unwrap() any

	// Close releases what the driver opened. A client given to New stays open. Close is idempotent.
	Close() error
}

// Mode says what may be done with a command when something goes wrong. The zero value is the careful one.
type Mode uint8

const (
	// Write is sent at most once.
	Write Mode = iota
	// ReadOnly changes nothing on the server, so that it may be sent again. It goes to a primary like any other.
	ReadOnly
	// Blocking waits on the server (BLPOP, XREADGROUP BLOCK, WAIT) on a connection of its own. Sent at most once.
	Blocking
)

// String returns the name of the mode.
func (m Mode) String() string {
	switch m {
	case Write:
		return "write"
	case ReadOnly:
		return "read-only"
	case Blocking:
		return "blocking"
	}
	return "invalid"
}

// Cmd is one command. The driver reads it until the call returns and keeps nothing of it; the same Cmd may be sent again.
// After a ctx ended a call early the driver may still read Args: do not overwrite them then.
type Cmd struct {
	// Args is the command as it goes over the wire, name first. Strings are bytes: any content is allowed.
	Args []string
	// Keys says which of Args are keys. A command whose keys are not named here is not routed in Cluster.
	Keys Keys
	// Near routes a command without keys (WAIT, CLIENT, INFO) to the primary that serves this key.
	Near string
	// Script, if set, is the source behind the SHA1 in an EVALSHA command: see [Script.Cmd].
	Script *Script
	// Mode is Write unless said otherwise.
	Mode Mode
}

// Keys locates the keys in Cmd.Args: Count keys from index First on, Step apart. The zero value means no keys.
type Keys struct {
	First, Count, Step int
}

// Key is one key at index i of the arguments.
func Key(i int) Keys { return Keys{First: i, Count: 1, Step: 1} }

// KeyRange is n keys side by side from index first on.
func KeyRange(first, n int) Keys { return Keys{First: first, Count: n, Step: 1} }

// Caps is what the server at the other end can do. It is probed, never guessed from a version number.
type Caps struct {
	// Server is "redis", "valkey", or another name the server gives itself. Version is its own version, such as "7.0.15".
	Server, Version string
	// Topology is how the driver talks to it.
	Topology Topology
	// Protocol is the RESP version in use on the driver's connections, 2 or 3.
	Protocol int
	// Commands holds what [Probed] lists and the server has, upper case, as COMMAND INFO tells.
	Commands map[string]bool
}

// Has reports whether the server has a command of those in [Probed], given in upper case.
func (c Caps) Has(command string) bool { return c.Commands[command] }

// Topology is the shape of the deployment.
type Topology uint8

const (
	// Standalone is one server, with or without replicas that the driver does not use.
	Standalone Topology = iota
	// Sentinel is one primary that Sentinels name, and may replace.
	Sentinel
	// Cluster is Redis Cluster: 16384 slots over several primaries.
	Cluster
)

// String returns "standalone", "sentinel" or "cluster".
func (t Topology) String() string {
	switch t {
	case Standalone:
		return "standalone"
	case Sentinel:
		return "sentinel"
	case Cluster:
		return "cluster"
	}
	return "invalid"
}

// Router is an optional ability of drivers of a Cluster: it names the node behind a key, so that a caller can keep
// batches for different nodes apart. The answer is a hint: it may be out of date, and "" means not known yet. It does no
// I/O and does not block.
type Router interface {
	Node(key string) string
}

// Subscriber is the optional ability to receive Pub/Sub messages on a connection of its own.
type Subscriber interface {
	// Subscribe receives messages until ctx ends, and returns ctx.Err() after the last callback. It reconnects by itself,
	// with a growing delay of at most 500 ms. It returns another error only for a subscription that can never work: no
	// channels, sharded on a server without it, driver closed.
	//
	// OnConfirmed runs once the server has confirmed every channel: whatever is published from then on is delivered or
	// OnLost is called. OnLost runs whenever messages may have been missed (the connection broke, stopped answering, a
	// slot moved, or an attempt to subscribe failed, for instance with NOPERM) and carries the reason; OnConfirmed
	// follows when the subscription stands again. The first call is OnConfirmed or OnLost. Callbacks of one
	// subscription never overlap, and a slow one delays the messages behind it.
	Subscribe(ctx context.Context, s Subscription) error
}

// Subscription is what to receive. Callbacks that are nil are not called.
type Subscription struct {
	// Channels to subscribe to. With Sharded (SSUBSCRIBE, Redis 7) they must share one slot in Cluster.
	Channels []string
	Sharded  bool

	OnMessage   func(channel, payload string)
	OnConfirmed func()
	OnLost      func(reason error)
}

// Tracker is the optional ability to be told by the server which keys changed: CLIENT TRACKING in broadcast mode.
type Tracker interface {
	// Track reports changed keys until ctx ends, on every primary, and returns ctx.Err() after the last callback. It
	// follows failovers and topology changes. The rules of [Subscriber.Subscribe] for OnConfirmed and OnLost hold, with
	// one addition: OnConfirmed means that every primary confirmed, OnLost that at least one is not covered.
	Track(ctx context.Context, t Tracking) error
}

// Tracking is what to be told about. Callbacks that are nil are not called.
type Tracking struct {
	// Prefixes of keys, at least one; none may be a prefix of another (the server refuses that).
	Prefixes []string

	// OnInvalidate gets the names of changed, deleted, expired or evicted keys, or nil after FLUSHALL or FLUSHDB: then
	// everything changed. Changes made through this driver are reported too.
	OnInvalidate func(keys []string)
	OnConfirmed  func()
	OnLost       func(reason error)
}

// Dedicated is the optional ability to hold one connection for a while.
type Dedicated interface {
	// Dedicate opens (or reuses) a connection to the primary that serves key, or to any primary if key is empty.
	Dedicate(ctx context.Context, key string) (Conn, error)
}

// Conn is one connection, for one goroutine at a time. Once it broke every further call fails; it never reconnects.
type Conn interface {
	// Do is [Driver.Do] on this connection. When ctx ends during a Blocking command, CLIENT UNBLOCK is sent from another
	// connection, and the answer decides: the reply that was on its way is returned as usual, without error; if the
	// server gave up without result the error is ctx.Err() and nothing was delivered; if neither can be told within
	// 50 ms the connection is closed and the outcome is unknown.
	Do(ctx context.Context, cmd Cmd) Reply
	// DoMulti is a pipeline on this connection. MULTI, commands, EXEC in one list are a transaction. Nothing is redirected.
	DoMulti(ctx context.Context, cmds []Cmd) []Reply
	// Close gives the connection back. It is idempotent.
	Close() error
}

// PromptCancel is how fast a call returns after its ctx ended, at the most.
const PromptCancel = 50 * time.Millisecond
