// Package rueidisdriver lets the toolkit talk to Redis through the rueidis client.
//
// Use it if the application has rueidis already, or wants its pipelining: commands of concurrent callers share a few
// connections by themselves. [Open] connects by URL; [New] takes a client that exists. Both give a [Driver] that keeps
// every promise of package driver, on a single server, Sentinel and Cluster.
//
//	d, err := rueidisdriver.Open(ctx, "redis://localhost:6379")
//	if err != nil {
//		return err
//	}
//	defer d.Close()
//	reply := d.Do(ctx, driver.Cmd{Args: []string{"GET", "greeting"}, Keys: driver.Key(1), Mode: driver.ReadOnly})
//
// # How it differs from the bare client
//
// The client repeats commands by its own rules; the driver repeats only ReadOnly commands, a few times, and commands that
// certainly never left. The client looks at the deadline of a context or at its cancellation, not always at both, and at
// neither while it dials or its queue is full; the driver waits elsewhere then. Blocking commands run on connections that
// the driver keeps for a while (over a client given to [New] it does not), and are ended with CLIENT UNBLOCK. Error texts keep the ERR that the client cuts off. RESP3 maps are
// lists in the order the server sent them.
//
// SUBSCRIBE and its relatives, MONITOR, RESET, QUIT, SYNC, PSYNC, REPLCONF, CLIENT REPLY and SCRIPT DEBUG cannot be sent as
// commands: they take over a connection that others use. [Driver.Subscribe] and [Driver.Track] are there instead. What changes a connection,
// such as MULTI or SELECT, needs one of its own: see [Driver.Dedicate]. WAIT and WAITAOF must be Blocking.
//
// # What the client cannot bear
//
// The client trusts its server. A reply with an impossible length ("$9999999999999", "*-5") or a reply to SUBSCRIBE that
// none is ends the process with a panic, on a goroutine of the client's that nobody else can guard. In a Cluster the client
// looks for an address in every error that begins with MOVED or ASK, also in one that a script made up; a script must not
// return such errors. Where the driver can it turns that panic into an outcome that is unknown; in a pipeline over several
// nodes it cannot.
//
// # What it costs
//
// No allocation over the bare client, and one for a context that has both a deadline and a cancellation. Memory is the
// client's: about 1 MiB of buffers for each connection.
package rueidisdriver
