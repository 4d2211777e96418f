package redisxtest

import (
	"errors"
	"testing"

	"github.com/go-redisx/redisx/redisxtest/internal/absence"
)

// Environment variables of this package.
const (
	// EnvURL names a server to test against instead of starting one: a connection URL as core.ParseURL takes it.
	EnvURL = "REDISX_TEST_URL"
	// EnvBinaries lists the programs to start, separated as in PATH, instead of what is found on PATH.
	EnvBinaries = "REDISX_SERVER_BIN"
	// EnvRequire lists what must be there, separated by commas: server, cluster, sentinel, container, clock. What is listed fails
	// a test where it would be skipped.
	EnvRequire = absence.EnvRequire
)

// missing ends the test for want of a program. A setting that names one which does not run is a mistake, not an absence.
func missing(t testing.TB, what string, err error) {
	t.Helper()
	if errors.Is(err, errBroken) {
		t.Fatalf("redisxtest: %v", err)
	}
	skip(t, what, "no %s: %v", what, err)
}

// skip ends the test because what is missing, as a failure if it is required, and never silently.
func skip(t testing.TB, what, format string, args ...any) {
	t.Helper()
	absence.Skip(t, what, format, args...)
}
