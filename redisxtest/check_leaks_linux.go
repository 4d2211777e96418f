package redisxtest

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// openSockets returns the sockets that this process holds, by inode, with what they are.
func openSockets() map[string]string {
	open := map[string]string{}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return open
	}
	for _, f := range files {
		to, err := os.Readlink("/proc/self/fd/" + f.Name())
		if err != nil {
			continue // it was the directory, or is closed meanwhile
		}
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			open[strings.TrimSuffix(inode, "]")] = "a socket without a connection"
		}
	}
	for _, network := range []string{"tcp", "tcp6", "unix"} {
		table, err := os.ReadFile("/proc/self/net/" + network)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(table)) {
			if inode, what, ok := describeSocket(network, line); ok && open[inode] != "" {
				open[inode] = what
			}
		}
	}
	return open
}

// describeSocket reads the lines of /proc/net/tcp and the like: "  0: 0100007F:1F90 0100007F:C350 01 … inode …".
func describeSocket(network, line string) (inode, what string, ok bool) {
	f := strings.Fields(line)
	if network == "unix" { // Num RefCount Protocol Flags Type St Inode Path
		if len(f) < 7 {
			return "", "", false
		}
		return f[6], strings.TrimSpace("unix " + strings.Join(f[7:], " ")), true
	}
	if len(f) < 10 {
		return "", "", false
	}
	state := map[string]string{"01": "established", "08": "closed by the other end", "0A": "listening"}[f[3]]
	if state == "" {
		state = "state " + f[3]
	}
	return f[9], fmt.Sprintf("%s %s to %s, %s", network, hexAddr(f[1]), hexAddr(f[2]), state), true
}

// hexAddr reads an address of /proc/net/tcp: words of four bytes in the order of the machine, taken to be little endian.
func hexAddr(s string) string {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil {
		return s
	}
	for i := 0; i+4 <= len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	addr, ok := netip.AddrFromSlice(b)
	if !ok {
		return s
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)).String()
}
