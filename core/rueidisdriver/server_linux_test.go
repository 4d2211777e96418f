package rueidisdriver

import "syscall"

// dieWithTest has the system end a server when the test process ends, however that happens.
func dieWithTest() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
