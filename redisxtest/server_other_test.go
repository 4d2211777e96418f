//go:build !unix

package redisxtest

import (
	"os/exec"
	"testing"
)

func asNobody(t *testing.T, _ *exec.Cmd) { t.Skip("no servers are started here") }
