//go:build unix

package containers

import "syscall"

// ended reports whether no process has this number.
func ended(pid int) bool { return syscall.Kill(pid, 0) == syscall.ESRCH }
