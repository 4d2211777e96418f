//go:build unix

package redisxtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// watchdog is a shell that starts the server, reports its process ID and waits for the pipe from the test program. The
// pipe ends on purpose (a line comes) or because the program is gone, however that happened; then the directory goes too. The
// program may be gone before it has read the process ID: the signal of that must not end the shell, which has work to do.
//
// A parent-death signal would be shorter, but Linux ties it to the thread that forked: it needs a thread kept for it, which
// every leak detector reports, and elsewhere it does not exist. The server is the shell's child and is reaped by it alone,
// so its process ID cannot pass to another process meanwhile.
const watchdog = `
dir=$1; shift
"$@" </dev/null >>"$dir/log" 2>&1 &
pid=$!
trap '' PIPE
echo $pid >&3
exec 3>&-
read -r planned
end=$?
kill -9 $pid
wait $pid
if [ -e "$dir/skew" ]; then rm -f "/dev/shm/faketime_shm_$pid" "/dev/shm/sem.faketime_sem_$pid"; fi
if [ $end -ne 0 ]; then rm -rf "$dir"; fi
`

// process is a running server and its watchdog.
type process struct {
	cmd   *exec.Cmd
	pid   int
	hold  *os.File // open as long as the server is to live
	alive *os.File // reads end of file once the server is gone: it inherited the other end
}

func startProcess(dir string, args []string) (*process, error) {
	in, hold, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	alive, out, err := os.Pipe()
	if err != nil {
		_ = hold.Close()
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command("/bin/sh", append([]string{"-c", watchdog, "redisxtest-watchdog", dir}, args...)...)
	cmd.Stdin, cmd.ExtraFiles = in, []*os.File{out}
	// A group of its own keeps an interrupt at the terminal away from the watchdog, which has to outlive the program.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, hold.Close(), alive.Close())
	}
	p := &process{cmd: cmd, hold: hold, alive: alive}
	_ = out.Close()
	if err := p.readPID(); err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

func (p *process) readPID() error {
	if err := p.alive.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return err
	}
	var line []byte
	for b := make([]byte, 1); ; line = append(line, b[0]) {
		if _, err := p.alive.Read(b); err != nil {
			return fmt.Errorf("no process ID from the watchdog: %w", err)
		}
		if b[0] == '\n' {
			break
		}
	}
	pid, err := strconv.Atoi(string(line))
	p.pid = pid
	return err
}

// running looks without waiting whether the other end of the pipe is still held.
func (p *process) running() bool {
	if p.alive.SetReadDeadline(time.Time{}) != nil {
		return false
	}
	raw, err := p.alive.SyscallConn()
	if err != nil {
		return false
	}
	running := false
	err = raw.Read(func(fd uintptr) bool {
		n, err := syscall.Read(int(fd), make([]byte, 1))
		running = n > 0 || err != nil
		return true
	})
	return err == nil && running
}

// kill ends the server and returns once it and its watchdog are gone.
func (p *process) kill() {
	if p.pid > 0 {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
	_, _ = p.hold.WriteString("end\n")
	_ = p.hold.Close()
	_ = p.cmd.Wait()
	_ = p.alive.Close()
}

func (p *process) pause() error {
	if err := syscall.Kill(p.pid, syscall.SIGSTOP); err != nil {
		return err
	}
	// The signal takes effect on its own time; a test wants it done.
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); {
		if runtime.GOOS != "linux" || p.stopped() {
			return nil
		}
		time.Sleep(100 * time.Microsecond)
	}
	return errors.New("the process does not stop")
}

// stopped reports whether the main thread is in the state T.
func (p *process) stopped() bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/stat")
	if err != nil {
		return true
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	return ok && strings.HasPrefix(rest, "T")
}

func (p *process) resume() error { return syscall.Kill(p.pid, syscall.SIGCONT) }
