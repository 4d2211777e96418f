//go:build !linux

package goredisdriver

import "syscall"

func dieWithParent() *syscall.SysProcAttr { return nil }
