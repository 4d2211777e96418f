package tools

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

// prefix is what every module path of the repository begins with.
const prefix = "github.com/go-redisx/redisx/"

// version is what siblings require each other at until the first tag.
const version = "v0.1.0"

type module struct {
	dir      string
	released bool
	file     *modfile.File
}

func (m module) path() string { return m.file.Module.Mod.Path }

func root(t testing.TB) string {
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// modules reads modules.txt and the go.mod of each.
func modules(t testing.TB) []module {
	t.Helper()
	f, err := os.Open(filepath.Join(root(t), "modules.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []module
	for scan := bufio.NewScanner(f); scan.Scan(); {
		fields := strings.Fields(scan.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 2 || fields[1] != "yes" && fields[1] != "no" {
			t.Fatalf("modules.txt: %q; want a directory and yes or no", scan.Text())
		}
		name := filepath.Join(root(t), fields[0], "go.mod")
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		file, err := modfile.Parse(name, data, nil)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, module{dir: fields[0], released: fields[1] == "yes", file: file})
	}
	if len(out) < 4 {
		t.Fatalf("modules.txt lists %d modules", len(out))
	}
	return out
}

// goFiles calls f with every Go file of the repository, by path from the root.
func goFiles(t testing.TB, f func(path string)) {
	t.Helper()
	top, n := root(t), 0
	err := filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") && path != top {
			return filepath.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(path, ".go") {
			rel, err := filepath.Rel(top, path)
			if err != nil {
				return err
			}
			f(filepath.ToSlash(rel))
			n++
		}
		return nil
	})
	if err != nil || n < 20 {
		t.Fatalf("%d Go files, %v", n, err)
	}
}
