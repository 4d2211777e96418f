package redisxtest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// fakeVersion is the server the Fake resembles most.
const fakeVersion = "7.2.0"

// infoSections in the order of the server.
var infoSections = []string{"server", "clients", "memory", "persistence", "stats", "replication", "cpu", "errorstats", "cluster", "keyspace"}

func (f *Fake) cmdInfo(c *fakeConn, args []string, r *reply) {
	want := map[string]bool{}
	for _, a := range args[1:] {
		want[strings.ToLower(a)] = true
	}
	all := len(args) == 1 || want["all"] || want["default"] || want["everything"]
	var b strings.Builder
	for _, s := range infoSections {
		if !all && !want[s] {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString("# " + strings.ToUpper(s[:1]) + s[1:] + "\r\n")
		for _, line := range f.infoLines(c, s) {
			b.WriteString(line + "\r\n")
		}
	}
	r.bulk(b.String())
}

func (f *Fake) infoLines(c *fakeConn, section string) []string {
	up := f.now().Sub(f.started)
	switch section {
	case "server":
		_, port, _ := strings.Cut(c.node.addr, ":")
		return []string{
			"redis_version:" + fakeVersion, "redis_build_id:redisxtest-fake", "redis_mode:" + f.mode(), "os:in-process", "arch_bits:64",
			"process_id:1", "run_id:" + c.node.id, "tcp_port:" + port,
			"server_time_usec:" + strconv.FormatInt(f.now().UnixMicro(), 10),
			"uptime_in_seconds:" + strconv.Itoa(int(up/time.Second)), "uptime_in_days:" + strconv.Itoa(int(up/(24*time.Hour))),
		}
	case "clients":
		return []string{
			"connected_clients:" + strconv.Itoa(len(f.clients(c.node))), "maxclients:" + f.config["maxclients"],
			"blocked_clients:" + strconv.Itoa(len(f.waiters)), "tracking_clients:" + strconv.Itoa(len(f.tracks.clients)),
		}
	case "memory":
		return []string{"used_memory:1048576", "used_memory_human:1.00M", "maxmemory:" + f.config["maxmemory"],
			"maxmemory_policy:" + f.config["maxmemory-policy"]}
	case "persistence":
		aof := "0"
		if f.config["appendonly"] == "yes" {
			aof = "1"
		}
		return []string{"loading:0", "async_loading:0", "rdb_changes_since_last_save:0", "rdb_bgsave_in_progress:0",
			"rdb_last_bgsave_status:ok", "aof_enabled:" + aof, "aof_last_write_status:ok"}
	case "stats":
		total := 0
		for _, n := range f.counts {
			total += n
		}
		return []string{"total_connections_received:" + strconv.FormatInt(f.nextID, 10), "total_commands_processed:" + strconv.Itoa(total),
			"rejected_connections:0", "evicted_keys:0"}
	case "replication":
		return []string{"role:master", "connected_slaves:0", "master_failover_state:no-failover",
			"master_replid:" + strings.Repeat("f", 40), "master_repl_offset:0"}
	case "cluster":
		return []string{"cluster_enabled:" + map[bool]string{true: "1", false: "0"}[f.slots != nil]}
	case "keyspace":
		var lines []string
		for id := range databases {
			if all, volatile := f.keyspace(c.node, id); all > 0 {
				lines = append(lines, fmt.Sprintf("db%d:keys=%d,expires=%d,avg_ttl=0", id, all, volatile))
			}
		}
		return lines
	}
	return nil
}

// fakeConfig is what CONFIG GET knows. Only what the toolkit looks at is here, and nothing of it changes behaviour.
func fakeConfig() map[string]string {
	return map[string]string{
		"appendfsync": "everysec", "appendonly": "no", "busy-reply-threshold": "5000", "databases": strconv.Itoa(databases), "maxclients": "10000", "maxmemory": "0",
		"maxmemory-policy": "noeviction", "min-replicas-to-write": "0", "notify-keyspace-events": "", "requirepass": "",
		"save": "3600 1 300 100 60 10000", "timeout": "0", "tracking-table-max-keys": "1000000",
	}
}

func (f *Fake) cmdConfig(_ *fakeConn, args []string, r *reply) {
	sub := strings.ToUpper(args[1])
	switch {
	case sub == "RESETSTAT" && len(args) == 2:
		clear(f.counts)
		r.ok()
	case sub == "GET" && len(args) > 2:
		var names []string
		for _, name := range slices.Sorted(maps.Keys(f.config)) {
			if slices.ContainsFunc(args[2:], func(p string) bool { return matchGlob(strings.ToLower(p), name) }) {
				names = append(names, name)
			}
		}
		r.dict(len(names))
		for _, name := range names {
			r.bulk(name)
			r.bulk(f.config[name])
		}
	case sub == "SET" && len(args) > 3 && len(args)%2 == 0:
		for i := 2; i < len(args); i += 2 {
			if _, ok := f.config[strings.ToLower(args[i])]; !ok {
				r.errorf("ERR Unknown option or number of arguments for CONFIG SET - '%s'", args[i])
				return
			}
		}
		for i := 2; i < len(args); i += 2 {
			name, value := strings.ToLower(args[i]), args[i+1]
			if name == "databases" || name == "requirepass" {
				r.errorf("ERR CONFIG SET failed (possibly related to argument '%s') - can't set immutable config", name)
				return
			}
			if name == "notify-keyspace-events" && value != "" {
				r.errorf("ERR the fake server has no keyspace notifications")
				return
			}
			f.config[name] = value
		}
		r.ok()
	case sub == "GET" || sub == "SET" || sub == "RESETSTAT":
		r.wrongArity("config|" + sub)
	default:
		r.unknownSub("CONFIG", args[1])
	}
}
