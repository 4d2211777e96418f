package driver

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Probed lists the commands that [Caps.Commands] tells of: everything newer than Redis 6.2, or missing in some servers
// that speak the protocol, that the toolkit has a use for.
var Probed = []string{
	"SSUBSCRIBE", "SPUBLISH", "WAITAOF", "FCALL", "XAUTOCLAIM", "XACKDEL", "XDELEX", "GETEX", "GETDEL", "COPY", "LMPOP",
	"ZMPOP", "BLMPOP", "OBJECT", "HPEXPIRE", "HGETEX", "EXPIRETIME", "MSETEX", "DELEX", "DELIFEQ", "INCREX", "CLUSTER",
	"WAIT", "EVALSHA_RO", "MEMORY", "CONFIG", "ROLE",
}

// Probe asks a server what it can do: INFO server, HELLO and COMMAND INFO, by way of do. It serves drivers; the topology
// is theirs to fill in. A server that refuses INFO (an ACL user without it) is asked by HELLO alone; if it refuses all
// three the error is returned.
func Probe(ctx context.Context, do func(ctx context.Context, cmd Cmd) Reply) (Caps, error) {
	caps := Caps{Server: "redis", Protocol: 2, Commands: map[string]bool{}}
	hello := do(ctx, Cmd{Args: []string{"HELLO"}, Mode: ReadOnly})
	info := do(ctx, Cmd{Args: []string{"INFO", "server"}, Mode: ReadOnly})
	list := do(ctx, Cmd{Args: append([]string{"COMMAND", "INFO"}, Probed...), Mode: ReadOnly})
	if hello.Err() != nil && info.Err() != nil && list.Err() != nil {
		return Caps{}, fmt.Errorf("redisx: probing the server: %w", info.Err())
	}
	for _, r := range []Reply{hello, info, list} {
		if err := r.Err(); err != nil && !refused(err) {
			return Caps{}, fmt.Errorf("redisx: probing the server: %w", err)
		}
	}
	if m, err := hello.Map(); err == nil {
		if s, err := m["server"].Text(); err == nil {
			caps.Server = s
		}
		if s, err := m["version"].Text(); err == nil {
			caps.Version = s
		}
		if n, err := m["proto"].Int64(); err == nil {
			caps.Protocol = int(n)
		}
	}
	if text, err := info.Text(); err == nil {
		fields := ParseInfo(text)
		if name := fields["server_name"]; name != "" { // Valkey
			caps.Server = name
		}
		switch {
		case fields["valkey_version"] != "":
			caps.Server, caps.Version = "valkey", fields["valkey_version"]
		case fields["redis_version"] != "":
			caps.Version = fields["redis_version"]
		}
	}
	commands, _ := list.List()
	for i, c := range commands {
		if i < len(Probed) && !c.IsNil() && c.Err() == nil {
			caps.Commands[Probed[i]] = true
		}
	}
	return caps, nil
}

// refused reports whether an error is a final answer: the server does not have the command, or not for this user. Any other
// (no reply, LOADING, BUSY, too many clients, …) leaves the capabilities unknown for now.
func refused(err error) bool {
	e, ok := err.(*ServerError)
	return ok && (e.Code() == "NOPERM" || e.Code() == "NOPROTO" || e.Code() == "ERR" && !strings.HasPrefix(e.Error(), "ERR max number of clients"))
}

// ParseInfo reads the "name:value" lines of an INFO reply. The values are as the server sent them.
func ParseInfo(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		name, value, ok := strings.Cut(strings.TrimRight(line, "\r"), ":")
		if ok && !strings.HasPrefix(name, "#") {
			fields[name] = value
		}
	}
	return fields
}

// ClientID reads the reply of CLIENT ID, for drivers.
func ClientID(r Reply) (string, error) {
	n, err := r.Int64()
	return strconv.FormatInt(n, 10), err
}
