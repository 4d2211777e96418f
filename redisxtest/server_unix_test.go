//go:build unix

package redisxtest

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// The program may be killed before it reads the process ID that the watchdog writes.
func TestWatchdogEndsTheServerOfAProgramThatIsGoneAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "server")
	require.NoError(t, os.Mkdir(dir, 0o700))
	r, w, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, r.Close())
	defer w.Close()
	cmd := exec.Command("/bin/sh", "-c", watchdog, "redisxtest-watchdog", dir, "/bin/sh", "-c", "echo $$ >"+dir+".pid; exec sleep 60")
	cmd.ExtraFiles = []*os.File{w}
	err = cmd.Run() // its standard input has ended
	if status, ok := errors.AsType[*exec.ExitError](err); ok {
		require.True(t, status.Exited(), "a signal ended the watchdog: %v", err)
	} else {
		require.NoError(t, err)
	}
	require.NoDirExists(t, dir)
	if b, err := os.ReadFile(dir + ".pid"); err == nil { // it came so far
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		require.NoError(t, err)
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "the server lives on")
	}
}

// asNobody has a command run this test program as a user without rights, who must be able to read it.
func asNobody(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the tests run as a user without rights anyway")
	}
	dir, err := os.MkdirTemp("", "redisxtest-nobody")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	from, err := os.Open(os.Args[0])
	require.NoError(t, err)
	defer from.Close()
	copied := filepath.Join(dir, "test")
	to, err := os.OpenFile(copied, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(to, from)
	require.NoError(t, err)
	require.NoError(t, to.Close())
	const nobody = 65534
	cmd.Path, cmd.Dir = copied, dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}
