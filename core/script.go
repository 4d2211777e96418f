package core

import (
	"context"

	"github.com/go-redisx/redisx/core/driver"
)

// Script is a Lua script with a name. It is sent as EVALSHA, and once more with its source if the server does not know it
// (after a restart, a failover, SCRIPT FLUSH, or eviction of scripts since Redis 7.4), also in a pipeline and on a dedicated
// connection. All the keys it touches must be among its keys and, for Cluster, in one slot. It is immutable and safe for
// concurrent use: make it once, in a package variable.
type Script = driver.Script

// NewScript returns a script that may write. The name is shown by metrics and traces, such as "locks.release"; embed the
// source with go:embed.
func NewScript(name, source string) *Script { return driver.NewScript(name, source) }

// ReadOnlyScript returns a script that changes nothing, so that it may be sent again after a connection failure.
func ReadOnlyScript(name, source string) *Script { return driver.ReadOnlyScript(name, source) }

// Run runs a script. It is Do with the script's command.
func (c *Client) Run(ctx context.Context, s *Script, keys, args []string) driver.Reply {
	return c.Do(ctx, s.Cmd(keys, args))
}
