//go:build !linux

package rueidisdriver

import "syscall"

func dieWithTest() *syscall.SysProcAttr { return nil }
