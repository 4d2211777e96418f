package redisxtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest/internal/certificate"
)

// instance is a server of our own over all its restarts.
type instance struct {
	exe      Executable
	dir      string // configuration, log, certificates, socket, data
	port     int
	cfg      config
	sentinel bool
	fresh    bool // being started for the first time, perhaps on another port

	mu      sync.RWMutex // held for writing during a start
	process *process     // nil while stopped
	paused  bool
	starts  int // how often it was started
	removed bool

	faults faults
}

// newInstance makes the directory of a server.
func newInstance(exe Executable, cfg config) (*instance, error) {
	// Not t.TempDir: the path of a socket has room for 100 bytes.
	dir, err := os.MkdirTemp("", "redisxtest")
	if err != nil {
		return nil, err
	}
	in := &instance{exe: exe, dir: dir, cfg: cfg}
	if cfg.tls {
		if err := certificate.Provide(dir, cfg.certFrom); err != nil {
			in.remove()
			return nil, fmt.Errorf("certificates: %w", err)
		}
	}
	return in, nil
}

func (in *instance) file(name string) string { return filepath.Join(in.dir, name) }

func (in *instance) url(user, password string, params []string) string {
	at := userinfo(user, password)
	switch {
	case in.cfg.unix:
		return withParams("unix://"+at+in.file("s"), params)
	case in.cfg.tls:
		return withParams("rediss://"+at+loopback(in.port)+"?ca="+in.file("ca.pem"), params)
	}
	return withParams("redis://"+at+loopback(in.port), params)
}

func (in *instance) target() target {
	g := target{network: "tcp", addr: loopback(in.port), password: in.cfg.password}
	if in.cfg.tls {
		g.tls = certificate.Trust(in.file("ca.pem"))
	}
	return g
}

// startAnywhere starts the server on the first port that turns out to be free.
func (in *instance) startAnywhere() error {
	var err error
	for range 20 {
		in.port = randomPort(in.cfg.cluster)
		in.fresh = true
		err = in.start()
		in.fresh = false
		if err == nil || !strings.Contains(in.log(), "Address already in use") {
			return err
		}
		_ = os.Remove(in.file("log"))
	}
	return err
}

// startTimeout bounds the start of a server, which takes about 10 ms on an idle machine.
const startTimeout = 20 * time.Second

// start starts the server on its port and returns once it answers.
func (in *instance) start() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.startLocked()
}

func (in *instance) startLocked() error {
	if in.removed {
		return errors.New("the test of the server has ended")
	}
	args := []string{in.exe.Path, in.file("redis.conf")}
	// A Sentinel keeps what it learns in its configuration file, and has the servers that it watches keep their roles in theirs.
	if _, err := os.Stat(args[1]); err != nil || in.fresh || !in.sentinel && !in.cfg.watched {
		if err := os.WriteFile(args[1], []byte(in.configuration()), 0o600); err != nil {
			return err
		}
	}
	if in.sentinel {
		args = append(args, "--sentinel")
	}
	if in.cfg.clock {
		skewed, err := in.skewed(args)
		if err != nil {
			return err
		}
		args = skewed
	}
	p, err := startProcess(in.dir, args)
	if err != nil {
		return fmt.Errorf("start %s: %w", in.exe.Path, err)
	}
	in.process, in.paused = p, false
	in.starts++
	answer := errors.New("none")
	patience := adminTimeout / 20
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); {
		if !p.running() {
			break
		}
		// Another server may have the port: only the answer of our own process counts, once it has loaded its data.
		// One that says nothing must not be waited for long: ours ends as soon as it finds the port taken.
		g, asked := in.target(), time.Now()
		g.timeout = patience
		replies := g.doAll([]string{"INFO", "server"}, []string{"PING"})
		if time.Since(asked) >= patience {
			patience = min(2*patience, adminTimeout)
		}
		info, err := replies[0].Text()
		if err == nil {
			err = replies[1].Err()
		}
		if e, ok := errors.AsType[*driver.ServerError](err); ok && e.Code() == "MASTERDOWN" { // a replica that wants its primary, but is up
			err = nil
		}
		if err == nil && driver.ParseInfo(info)["process_id"] == fmt.Sprint(p.pid) {
			return nil
		}
		if answer = err; err == nil {
			answer = errors.New("another process answers")
		}
		time.Sleep(time.Millisecond)
	}
	p.kill()
	in.process = nil
	return fmt.Errorf("%s on port %d did not start (last answer: %w); its log:\n%s", in.exe, in.port, answer, in.log())
}

func (in *instance) running() bool {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return in.process != nil && in.process.running()
}

// awake reports whether the server runs and is not paused. While it is being started or stopped it does not.
func (in *instance) awake() bool {
	if !in.mu.TryRLock() {
		return false
	}
	defer in.mu.RUnlock()
	return in.process != nil && !in.paused && in.process.running()
}

// up is awake with the number of the start, but waits while the server is being started or stopped.
func (in *instance) up() (run int, up bool) {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return in.starts, in.process != nil && !in.paused && in.process.running()
}

func (in *instance) isPaused() bool {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return in.process != nil && in.paused && in.process.running()
}

func (in *instance) stop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.stopLocked()
}

func (in *instance) stopLocked() {
	if in.process != nil {
		in.process.kill()
		in.process, in.paused = nil, false
	}
}

func (in *instance) remove() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.removed = true
	in.stopLocked()
	_ = os.RemoveAll(in.dir)
}

// log is the end of the server's log.
func (in *instance) log() string { return in.logFrom(0) }

// logFrom returns the log from a size on, the end of it if it is long.
func (in *instance) logFrom(from int64) string {
	b, err := os.ReadFile(in.file("log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, min(int(from), len(b)), len(b)-16<<10):])
}

func (in *instance) logSize() int64 {
	info, err := os.Stat(in.file("log"))
	if err != nil {
		return 0
	}
	return info.Size()
}
