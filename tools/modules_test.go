package tools

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

func TestModuleFiles(t *testing.T) {
	all := modules(t)
	byPath := map[string]module{}
	for _, m := range all {
		byPath[m.path()] = m
	}
	for _, m := range all {
		t.Run(m.dir, func(t *testing.T) {
			if want := prefix + m.dir; m.path() != want {
				t.Errorf("module path %s; want %s", m.path(), want)
			}
			if m.file.Go == nil || m.file.Go.Version != "1.26.0" || m.file.Toolchain != nil {
				t.Error("want go 1.26.0 and no toolchain line")
			}
			if m.dir == "core" && len(m.file.Require) > 0 {
				t.Error("core requires something")
			}
			for _, r := range m.file.Require {
				if strings.HasPrefix(r.Mod.Path, prefix) && r.Mod.Version != version {
					t.Errorf("requires %s at %s; want %s", r.Mod.Path, r.Mod.Version, version)
				}
				if strings.HasPrefix(r.Mod.Version, "v0.0.0-") && !r.Indirect {
					t.Errorf("requires %s at a commit", r.Mod.Path)
				}
			}
			checkReplaces(t, m, byPath)
		})
	}
}

// checkReplaces wants every sibling in the transitive closure replaced by its relative path, sorted, and nothing else.
func checkReplaces(t *testing.T, m module, byPath map[string]module) {
	want := map[string]bool{}
	var visit func(module)
	visit = func(x module) {
		for _, r := range x.file.Require {
			if sibling, ok := byPath[r.Mod.Path]; ok && !want[r.Mod.Path] {
				want[r.Mod.Path] = true
				visit(sibling)
			}
		}
	}
	visit(m)
	var order []string
	for _, r := range m.file.Replace {
		order = append(order, r.Old.Path)
		sibling, ok := byPath[r.Old.Path]
		if !ok || !want[r.Old.Path] {
			t.Errorf("replaces %s, which is no sibling that it needs", r.Old.Path)
			continue
		}
		delete(want, r.Old.Path)
		rel, err := filepath.Rel(m.dir, sibling.dir)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Clean(r.New.Path) != rel {
			t.Errorf("replaces %s by %s; want %s", r.Old.Path, r.New.Path, rel)
		}
	}
	for path := range want {
		t.Errorf("does not replace %s", path)
	}
	if !slices.IsSorted(order) {
		t.Errorf("replace lines are not sorted: %q", order)
	}
}

func TestTheWorkspaceListsEveryModule(t *testing.T) {
	name := filepath.Join(root(t), "go.work")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	work, err := modfile.ParseWork(name, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	var used, listed, found []string
	for _, u := range work.Use {
		used = append(used, filepath.Clean(u.Path))
	}
	for _, m := range modules(t) {
		listed = append(listed, m.dir)
	}
	goFiles(t, func(path string) {
		for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(root(t), dir, "go.mod")); err == nil {
				if !slices.Contains(found, dir) {
					found = append(found, dir)
				}
				break
			}
		}
	})
	slices.Sort(used)
	slices.Sort(listed)
	slices.Sort(found)
	if !slices.Equal(used, listed) || !slices.Equal(listed, found) {
		t.Errorf("go.work uses %q, modules.txt lists %q, there are %q", used, listed, found)
	}
	if work.Go == nil || work.Go.Version != "1.26.0" || work.Toolchain != nil {
		t.Error("go.work: want go 1.26.0 and no toolchain line")
	}
}
