//go:build !unix

package redisxtest

import "errors"

// process does not exist here: servers cannot be started, only given by REDISX_TEST_URL.
type process struct{ pid int }

var errNoProcess = errors.New("servers are started on Unix systems only; set " + EnvURL)

func startProcess(string, []string) (*process, error) { return nil, errNoProcess }

func (*process) running() bool { return false }
func (*process) kill()         {}
func (*process) pause() error  { return errNoProcess }
func (*process) resume() error { return errNoProcess }
