package redisxtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Executable is a server program that can be started.
type Executable struct {
	// Kind is "redis" or "valkey".
	Kind string
	// Version is what the program says, such as "7.0.15".
	Version string
	Path    string
}

// String returns kind and version, such as "redis-7.0.15".
func (e Executable) String() string { return e.Kind + "-" + e.Version }

// atLeast reports whether the major version is not below one. All of Valkey is above 7.
func (e Executable) atLeast(major int) bool {
	first, _, _ := strings.Cut(e.Version, ".")
	n, err := strconv.Atoi(first)
	return err == nil && n >= major
}

// Executables returns the server programs at hand: those that REDISX_SERVER_BIN lists, else redis-server and
// valkey-server on PATH. A directory in the list stands for every one in it and in its direct sub-directories, such as a folder
// of unpacked versions, and in the bin of each. It is empty if there are none; programs that do not run are an error.
func Executables() ([]Executable, error) { return executables(os.Getenv(EnvBinaries)) }

// errBroken marks a program that is there, or was said to be, and does not run.
var errBroken = errors.New("a server program cannot be used")

func executables(list string) ([]Executable, error) {
	var found []Executable
	var errs []error
	seen := map[string]bool{}
	names := filepath.SplitList(list)
	listed := len(names) > 0
	if !listed {
		names = []string{"redis-server", "valkey-server"}
	}
	for _, name := range names {
		paths, err := programs(name)
		if err != nil {
			if listed {
				errs = append(errs, fmt.Errorf("%s: %w", EnvBinaries, err))
			}
			continue
		}
		for _, path := range paths {
			if real, err := filepath.EvalSymlinks(path); err == nil {
				if seen[real] { // Valkey packages bring a redis-server that is a link
					continue
				}
				seen[real] = true
			}
			e, err := identify(path)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			found = append(found, e)
		}
	}
	if len(errs) > 0 {
		return found, fmt.Errorf("%w: %w", errBroken, errors.Join(errs...))
	}
	return found, nil
}

// programs resolves a name as on PATH, and a directory to every server program in it, in its direct sub-directories, and in the
// bin of each, in this order and by name.
func programs(name string) ([]string, error) {
	if info, err := os.Stat(name); err != nil || !info.IsDir() {
		path, err := exec.LookPath(name)
		return []string{path}, err
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	dirs := []string{name, filepath.Join(name, "bin")}
	for _, e := range entries {
		if dir := filepath.Join(name, e.Name()); e.Name() != "bin" {
			dirs = append(dirs, dir, filepath.Join(dir, "bin"))
		}
	}
	var paths []string
	for _, dir := range dirs {
		for _, program := range []string{"redis-server", "valkey-server"} {
			path, err := exec.LookPath(filepath.Join(dir, program))
			if err != nil || slices.Contains(paths, path) {
				continue
			}
			paths = append(paths, path)
		}
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%s is a directory without a redis-server or valkey-server that can be run, in it, in its direct sub-directories or in the bin of one", name)
	}
	return paths, nil
}

var identified struct {
	sync.Mutex
	by map[string]Executable
}

// identify asks a program what it is, once.
func identify(path string) (Executable, error) {
	identified.Lock()
	defer identified.Unlock()
	if e, ok := identified.by[path]; ok {
		return e, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.WaitDelay = time.Second // what it has started itself may hold its output open
	out, err := cmd.Output()
	if err != nil {
		return Executable{}, fmt.Errorf("redisxtest: %s --version: %w", path, err)
	}
	// "Redis server v=7.0.15 sha=..." or "Valkey server v=8.1.1 sha=..."
	text := string(out)
	e := Executable{Kind: "redis", Path: path}
	if strings.HasPrefix(text, "Valkey") {
		e.Kind = "valkey"
	}
	_, rest, ok := strings.Cut(text, " v=")
	if !ok {
		return Executable{}, fmt.Errorf("redisxtest: %s is not a Redis or Valkey server: --version says %.60q", path, text)
	}
	e.Version, _, _ = strings.Cut(strings.TrimSpace(rest), " ")
	if identified.by == nil {
		identified.by = map[string]Executable{}
	}
	identified.by[path] = e
	return e, nil
}

// choose returns the program that the options ask for. The error says why there is none.
func (c *config) choose() (Executable, error) {
	if c.binary != "" {
		path, err := exec.LookPath(c.binary)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return Executable{}, err
		}
		var e Executable
		if err == nil {
			e, err = identify(path)
		}
		if err != nil {
			err = fmt.Errorf("%w: %w", errBroken, err)
		}
		return e, err
	}
	all, err := Executables()
	if err != nil {
		return Executable{}, err
	}
	kind, version, ok := strings.Cut(c.version, " ")
	if !ok {
		kind, version = "", c.version
	}
	for _, e := range all {
		if (kind == "" || kind == e.Kind) && strings.HasPrefix(e.Version, version) {
			return e, nil
		}
	}
	if c.version != "" {
		return Executable{}, fmt.Errorf("no server of version %q among %v", c.version, all)
	}
	return Executable{}, fmt.Errorf("no redis-server or valkey-server on PATH and none in %s", EnvBinaries)
}
