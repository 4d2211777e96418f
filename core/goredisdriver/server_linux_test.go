package goredisdriver

import "syscall"

// dieWithParent makes servers end with the test, however it ends.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
