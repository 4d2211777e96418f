package tools

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var plugins = []string{"cache", "locks", "ratelimit", "idempotency", "streams", "metrics", "tracing"}

// TestLayers holds the rules of who may import whom, given in docs/guide/architecture.md.
func TestLayers(t *testing.T) {
	fset := token.NewFileSet()
	goFiles(t, func(path string) {
		f, err := parser.ParseFile(fset, filepath.Join(root(t), path), nil, parser.ImportsOnly)
		if err != nil {
			t.Error(err)
			return
		}
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Error(err)
				continue
			}
			if fault := layerFault(path, imported); fault != "" {
				t.Errorf("%s imports %s: %s", path, imported, fault)
			}
		}
	})
}

// layerFault says what is wrong with an import, or "".
func layerFault(file, imported string) string {
	dir := filepath.ToSlash(filepath.Dir(file))
	test := strings.HasSuffix(file, "_test.go")
	std := !strings.Contains(strings.SplitN(imported, "/", 2)[0], ".")
	own, ours := strings.CutPrefix(imported, prefix)
	owner := owningModule(dir)

	switch {
	case owner == "core" && !std && own != "core" && !strings.HasPrefix(own, "core/"):
		return "core imports the standard library only"
	case owner == "core" && ours && (strings.HasPrefix(own, "core/goredisdriver") || strings.HasPrefix(own, "core/rueidisdriver")):
		return "core knows no driver"
	case dir == "core/driver" && !std:
		return "the contract imports the standard library only"
	case strings.HasPrefix(owner, "core") && strings.HasPrefix(own, "redisxtest"):
		return "core and the drivers never require redisxtest"
	case owner == "redisxtest/containers" && strings.HasPrefix(own, "redisxtest/internal/"):
		return "" // ADR 7: what is there only grows
	case ours && strings.Contains("/"+own+"/", "/internal/") && !strings.HasPrefix(own, owner+"/"):
		return "another module's internal package"
	}
	if isPlugin(owner) && ours && !test {
		switch {
		case isPlugin(owningModule(own)) && owningModule(own) != owner:
			return "a plugin never imports another plugin"
		case strings.HasPrefix(own, "core/goredisdriver"), strings.HasPrefix(own, "core/rueidisdriver"), strings.HasPrefix(own, "redisxtest"):
			return "a plugin imports core alone; drivers and redisxtest are for its tests"
		}
	}
	return ""
}

func isPlugin(name string) bool {
	for _, p := range plugins {
		if name == p {
			return true
		}
	}
	return false
}

// owningModule is the directory of the module that a directory belongs to.
func owningModule(dir string) string {
	for _, m := range []string{"core/goredisdriver", "core/rueidisdriver", "redisxtest/containers"} {
		if dir == m || strings.HasPrefix(dir, m+"/") {
			return m
		}
	}
	first, _, _ := strings.Cut(dir, "/")
	return first
}

func TestTheLayerCheckFindsWhatItIsFor(t *testing.T) {
	for _, c := range [][2]string{
		{"core/client.go", "github.com/redis/go-redis/v9"},
		{"core/client_test.go", "github.com/stretchr/testify/require"},
		{"core/client.go", prefix + "core/goredisdriver"},
		{"core/driver/cmd.go", prefix + "core"},
		{"core/goredisdriver/x_test.go", prefix + "redisxtest"},
		{"cache/cache.go", prefix + "locks"},
		{"cache/cache.go", prefix + "core/rueidisdriver"},
		{"cache/cache.go", prefix + "redisxtest"},
		{"cache/cache.go", prefix + "core/internal/x"},
		{"redisxtest/server.go", prefix + "core/internal/x"},
		{"redisxtest/containers/server.go", prefix + "core/internal/x"},
	} {
		if layerFault(c[0], c[1]) == "" {
			t.Errorf("%s may import %s", c[0], c[1])
		}
	}
	for _, c := range [][2]string{
		{"core/client.go", "net/http"}, {"core/client.go", prefix + "core/driver"}, {"cache/cache.go", prefix + "core"},
		{"cache/cache_test.go", prefix + "redisxtest"}, {"cache/l1.go", "github.com/maypok86/otter/v2"},
		{"redisxtest/containers/server.go", prefix + "redisxtest/internal/port"},
	} {
		if fault := layerFault(c[0], c[1]); fault != "" {
			t.Errorf("%s may not import %s: %s", c[0], c[1], fault)
		}
	}
}
