package core

import "github.com/go-redisx/redisx/core/driver"

// sharedErr returns why a command must not join those of others, or nil. A driver refuses it too, but for a whole list: here
// the lists are made of the commands of several callers.
func sharedErr(cmd *driver.Cmd) error {
	if !cmd.Unshareable() {
		return nil
	}
	return driver.NotSent(cmd.CheckShared())
}

// sharedListErr is sharedErr for a pipeline. One such command refuses all of it: what stands behind a MULTI must not run on
// its own.
func sharedListErr(cmds []driver.Cmd) error {
	for i := range cmds {
		if err := sharedErr(&cmds[i]); err != nil {
			return classifiedErr(err, cmds[i].Name())
		}
	}
	return nil
}
