package tools

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	modpath "golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// pack writes the released modules of the working tree as one version each into a file system module proxy.
func pack(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, m := range modules(t) {
		if !m.released {
			continue
		}
		escaped, err := modpath.EscapePath(m.path())
		if err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(dir, filepath.FromSlash(escaped), "@v")
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		src := filepath.Join(root(t), m.dir)
		out, err := os.Create(filepath.Join(at, version+".zip"))
		if err != nil {
			t.Fatal(err)
		}
		if err := zip.CreateFromDir(out, modpath.Version{Path: m.path(), Version: version}, src); err != nil {
			t.Fatalf("%s: %v", m.dir, err)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		mod, err := os.ReadFile(filepath.Join(src, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		info, err := json.Marshal(map[string]string{"Version": version, "Time": time.Now().UTC().Format(time.RFC3339)})
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{version + ".mod": mod, version + ".info": info, "list": []byte(version + "\n")} {
			if err := os.WriteFile(filepath.Join(at, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// user is an empty module of somebody who uses the toolkit.
type user struct {
	t   *testing.T
	dir string
	env []string
}

func newUser(t *testing.T, proxy, cache string) *user {
	t.Helper()
	upstream, err := exec.Command("go", "env", "GOPROXY").Output()
	if err != nil {
		t.Fatal(err)
	}
	u := &user{t: t, dir: t.TempDir(), env: append(os.Environ(),
		"GOWORK=off", "GOFLAGS=-modcacherw -trimpath", "GOTOOLCHAIN=local", "GOMODCACHE="+cache,
		"GONOSUMDB="+prefix+"*", "GOPROXY=file://"+filepath.ToSlash(proxy)+","+strings.TrimSpace(string(upstream)),
	)}
	u.run("go", "mod", "init", "example.com/user")
	return u
}

func (u *user) run(args ...string) string {
	u.t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = u.dir, u.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		u.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// build makes ./program of the program of README.md that contains a text, with a driver, for the server at a URL.
func (u *user) build(programs []snippet, text, driver, url string) {
	u.t.Helper()
	program := ""
	for _, s := range programs {
		if strings.HasPrefix(s.code, "package main") && strings.Contains(s.code, text) {
			program = strings.ReplaceAll(s.code, "goredisdriver", driver)
		}
	}
	const there = `"redis://localhost:6379"`
	if !strings.Contains(program, there) {
		u.t.Fatalf("README.md has no program with %s that connects to %s", text, there)
	}
	program = strings.ReplaceAll(program, there, strconv.Quote(url))
	if err := os.WriteFile(filepath.Join(u.dir, "main.go"), []byte(program), 0o644); err != nil {
		u.t.Fatal(err)
	}
	u.run("go", "mod", "tidy")
	u.run("go", "build", "-o", "program", ".")
}

// without wants none of some names in a list.
func (u *user) without(what, list string, foreign []string) {
	u.t.Helper()
	for _, name := range foreign {
		if strings.Contains(list, name) {
			u.t.Errorf("%s is in %s", name, what)
		}
	}
}

// serveFake runs the fake of redisxtest as a program of a user, and returns its URL.
func serveFake(t *testing.T, u *user) string {
	t.Helper()
	u.run("go", "get", prefix+"redisxtest@"+version)
	program := fmt.Sprintf(`package main

import (
	"fmt"
	"io"
	"os"

	"%sredisxtest"
)

func main() {
	f, err := redisxtest.StartFake()
	if err != nil {
		panic(err)
	}
	fmt.Println(f.URL())
	_, _ = io.Copy(io.Discard, os.Stdin)
}
`, prefix)
	if err := os.WriteFile(filepath.Join(u.dir, "main.go"), []byte(program), 0o644); err != nil {
		t.Fatal(err)
	}
	u.run("go", "mod", "tidy")
	u.run("go", "build", "-o", "fake", ".")
	cmd := exec.CommandContext(t.Context(), filepath.Join(u.dir, "fake"))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(url)
}

// TestWhatGoGetSees does what the README tells a user, from packed modules, and looks at what came along.
func TestWhatGoGetSees(t *testing.T) {
	// The module cache is empty at first; -trimpath lets builds of the same sources share work wherever they lie.
	proxy, cache := pack(t), t.TempDir()
	programs := snippets(t, filepath.Join(root(t), "README.md"))
	fake := serveFake(t, newUser(t, proxy, cache))
	for name, other := range map[string]string{"goredisdriver": "rueidis", "rueidisdriver": "go-redis"} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t, proxy, cache)
			u.run("go", "get", prefix+"core/"+name+"@"+version)
			u.build(programs, "INCR", name, fake)
			if out := u.run("./program"); !strings.HasPrefix(out, "visits: ") {
				t.Errorf("the program prints %q", out)
			}
			foreign := []string{"redis/" + other, "opentelemetry", "prometheus", "testcontainers", "miniredis", "redisxtest"}
			u.without("go list -m all", u.run("go", "list", "-m", "all"), foreign)
			u.without("the binary", u.run("go", "list", "-deps", "."), foreign)
		})
		t.Run("cache with "+name, func(t *testing.T) {
			u := newUser(t, proxy, cache)
			u.run("go", "get", prefix+"cache@"+version, prefix+"core/"+name+"@"+version)
			u.build(programs, "cache.New", name, fake)
			want := "loading teapot\n" + strings.Repeat("price: 2400 <nil>\n", 3)
			if out := u.run("./program"); out != want {
				t.Errorf("the program prints %q; want %q", out, want)
			}
			// The tests of cache use both drivers and redisxtest, so that these are in the module graph, and not downloaded.
			u.without("go list -m all", u.run("go", "list", "-m", "all"), []string{"opentelemetry", "prometheus", "testcontainers"})
			u.without("the binary", u.run("go", "list", "-deps", "."),
				[]string{"redis/" + other, "opentelemetry", "prometheus", "testcontainers", "miniredis", "redisxtest", "testify"})
		})
	}
	t.Run("redisxtest", func(t *testing.T) {
		u := newUser(t, proxy, cache)
		u.run("go", "get", prefix+"redisxtest@"+version)
		test := fmt.Sprintf("package user\n\nimport (\n\t\"testing\"\n\n\t\"%sredisxtest\"\n)\n\nfunc TestFake(t *testing.T) {\n\tf := redisxtest.NewFake(t)\n\tif f.URL() == \"\" {\n\t\tt.Fatal(\"no URL\")\n\t}\n}\n", prefix)
		if err := os.WriteFile(filepath.Join(u.dir, "user_test.go"), []byte(test), 0o644); err != nil {
			t.Fatal(err)
		}
		u.run("go", "mod", "tidy")
		u.run("go", "test", "./...")
	})
}
