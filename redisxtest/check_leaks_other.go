//go:build !linux

package redisxtest

// openSockets is empty: nothing portable tells which sockets a process holds.
func openSockets() map[string]string { return nil }
