package redisxtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// Pause stops the process in its tracks (SIGSTOP): connections stay and nothing answers. Resume lets it go on.
func (s *Server) Pause() {
	s.t.Helper()
	s.control("Pause", (*process).pause, true)
}

// Resume ends Pause.
func (s *Server) Resume() {
	s.t.Helper()
	s.control("Resume", (*process).resume, false)
}

func (s *Server) control(method string, do func(*process) error, paused bool) {
	s.t.Helper()
	if !s.own(method) {
		return
	}
	s.instance.mu.Lock()
	defer s.instance.mu.Unlock()
	if s.instance.process == nil {
		s.fault("%s: the server is not running", method)
		return
	}
	if err := do(s.instance.process); err != nil {
		s.fault("%s: %v", method, err)
		return
	}
	s.instance.paused = paused
}

// Kill ends the process at once (SIGKILL). Restart brings it back.
func (s *Server) Kill() {
	s.t.Helper()
	if s.own("Kill") {
		s.instance.stop()
	}
}

// Stop is Kill: nothing here persists unless an option says so.
func (s *Server) Stop() {
	s.t.Helper()
	if s.own("Stop") {
		s.instance.stop()
	}
}

// Restart ends the process if it runs, or is paused, and starts it again on the same port. It returns once the server serves.
//
// With keepData it comes back with every key it had when it ended: its clients are cut off and then it is saved (SHUTDOWN
// SAVE), so that no acknowledged write is lost. Of a server that was killed before there is what its configuration persisted,
// by default nothing. Without keepData it comes back empty, persistence or not. With keepData the server must be able to save:
// one that is made to fail by [Server.Busy], [Server.Loading], [Server.FailSaves] or [Server.RefuseClients] fails the test.
//
// A replica gets the keys of its primary in any case, soon after Restart returns. A node of a Cluster keeps nodes.conf: it comes
// back as the member it was, with its slots if no replica took over meanwhile, and then, if it comes back empty, empties its
// replicas too. What a Sentinel knows is in its configuration and stays, as does the role of a server that it watches.
// Scripts are gone and settings changed at run time too, except that Sentinels have the servers that they watch write theirs
// down when there is a failover.
func (s *Server) Restart(keepData bool) {
	s.t.Helper()
	if !s.own("Restart") {
		return
	}
	s.instance.mu.Lock()
	defer s.instance.mu.Unlock()
	if err := s.instance.restartLocked(keepData); err != nil {
		s.fault("Restart: %v", err)
	}
}

func (in *instance) restartLocked(keepData bool) error {
	if in.removed {
		return errors.New("the test of the server has ended")
	}
	extra := false
	if keepData && in.process != nil && in.process.running() && !in.sentinel {
		var err error
		if extra, err = in.shutdown(); err != nil {
			return err
		}
	}
	in.stopLocked()
	if err := in.mend(); err != nil {
		return err
	}
	if !keepData {
		for _, path := range in.data() {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	if err := in.startLocked(); err != nil {
		return err
	}
	if extra { // what the test did not ask to persist must not come back once more after a Kill
		return os.Remove(in.dump())
	}
	return nil
}

// dump is the file of the snapshot.
func (in *instance) dump() string { return in.data()[0] }

// data is the files with the keys: the snapshot, the log since version 7, and before.
func (in *instance) data() []string {
	set := map[string]string{
		"dir": in.dir, "dbfilename": "dump.rdb", "appenddirname": "appendonlydir", "appendfilename": "appendonly.aof",
	}
	for _, l := range in.cfg.settings {
		if name := strings.ToLower(l[0]); len(l) == 2 && set[name] != "" {
			set[name] = l[1]
		}
	}
	dir := set["dir"]
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(in.dir, dir)
	}
	var paths []string
	for _, name := range []string{"dbfilename", "appenddirname", "appendfilename"} {
		paths = append(paths, filepath.Join(dir, set[name]))
	}
	return paths
}

// shutdownTimeout is for saving.
const shutdownTimeout = 30 * time.Second

// shutdown has the server save its keys and end. It reports whether the file that it left is not one which the configuration
// would have made.
func (in *instance) shutdown() (extra bool, err error) {
	if err := in.process.resume(); err != nil {
		return false, err
	}
	in.paused = false
	g := in.target()
	g.timeout = shutdownTimeout
	replies := g.doAll([]string{"CONFIG", "GET", "appendonly"}, []string{"CONFIG", "GET", "save"})
	var values [2]string
	for i, r := range replies {
		pair, err := r.Strings()
		if err == nil && len(pair) != 2 {
			err = fmt.Errorf("CONFIG GET: %v", pair)
		}
		if err != nil {
			return false, err
		}
		values[i] = pair[1]
	}
	cmd := []string{"SHUTDOWN", "SAVE"}
	if values[0] == "yes" { // the log has all
		cmd[1] = "NOSAVE"
	}
	if in.exe.atLeast(7) {
		cmd = append(cmd, "NOW") // without waiting for replicas
	}
	// No reply is the good one.
	if err := g.do(cmd...).Err(); err != nil {
		if e, ok := errors.AsType[*driver.ServerError](err); ok {
			return false, fmt.Errorf("%s: %w", cmd[0], e)
		}
	}
	for deadline := time.Now().Add(shutdownTimeout); in.process.running(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false, errors.New("the server does not shut down")
		}
	}
	return cmd[1] == "SAVE" && values[1] == "", nil
}
