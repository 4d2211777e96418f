package tools

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// snippet is a Go code block of a Markdown file.
type snippet struct {
	file string
	line int
	code string
}

// snippets returns the Go blocks of a file.
func snippets(t testing.TB, path string) (out []snippet) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var code []string
	in, start := false, 0
	for i, line := range strings.Split(string(data), "\n") {
		switch {
		case !in && strings.HasPrefix(line, "```go"):
			in, start, code = true, i+1, nil
		case in && strings.HasPrefix(line, "```"):
			in = false
			out = append(out, snippet{file: path, line: start, code: strings.Join(code, "\n") + "\n"})
		case in:
			code = append(code, line)
		}
	}
	return out
}

func markdown(t testing.TB) (files []string) {
	top := root(t)
	err := filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".github" && path != top {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".md") {
			files = append(files, path)
		}
		return nil
	})
	if err != nil || len(files) < 3 {
		t.Fatalf("%d Markdown files, %v", len(files), err)
	}
	return files
}

// TestGoSnippetsInTheDocsCompile type-checks every Go block, in the workspace. A block that is a whole file is taken as it
// is; any other is the body of a function, with the imports it seems to need. The files exist in an overlay only.
func TestGoSnippetsInTheDocsCompile(t *testing.T) {
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	var pkgs []string
	for _, file := range markdown(t) {
		for _, s := range snippets(t, file) {
			rel, err := filepath.Rel(root(t), s.file)
			if err != nil {
				t.Fatal(err)
			}
			name := "s" + strings.Map(letters, rel) + itoa(s.line)
			source := filepath.Join(dir, name+".go")
			if err := os.WriteFile(source, []byte(program(s.code)), 0o644); err != nil {
				t.Fatal(err)
			}
			overlay.Replace[filepath.Join(root(t), "examples", "docs", name, "main.go")] = source
			pkgs = append(pkgs, "./examples/docs/"+name)
		}
	}
	if len(pkgs) == 0 {
		t.Fatal("no Go block in any Markdown file")
	}
	data, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", append([]string{"build", "-overlay", file}, pkgs...)...)
	cmd.Dir = root(t)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%d Go blocks", len(pkgs))
}

func letters(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
		return r
	}
	return '_'
}

func itoa(n int) string {
	s := ""
	for ; n > 0; n /= 10 {
		s = string(rune('0'+n%10)) + s
	}
	return "_" + s
}

var imports = map[string]string{
	"context.": "context", "errors.": "errors", "fmt.": "fmt", "http.": "net/http", "slog.": "log/slog", "time.": "time", "testing.": "testing",
	"cache.": prefix + "cache", "io.": "io",
	"core.": prefix + "core", "driver.": prefix + "core/driver", "goredisdriver.": prefix + "core/goredisdriver",
	"rueidisdriver.": prefix + "core/rueidisdriver", "redisxtest.": prefix + "redisxtest", "drivertest.": prefix + "core/drivertest", "chaos.": prefix + "redisxtest/chaos",
	"containers.": prefix + "redisxtest/containers",
	"log.":        "log", "redis.": "github.com/redis/go-redis/v9", "tls.": "crypto/tls", "os.": "os", "require.": "github.com/stretchr/testify/require",
}

// program makes a file of a snippet.
func program(code string) string {
	if strings.HasPrefix(code, "package ") {
		return code
	}
	var b strings.Builder
	b.WriteString("package snippet\n\nimport (\n")
	for use, path := range imports {
		if regexp.MustCompile(`(^|[^\w.])`+regexp.QuoteMeta(use)+`[A-Z]`).MatchString(code) || use == "context." {
			b.WriteString("\t\"" + path + "\"\n")
		}
	}
	b.WriteString(")\n\n")
	if strings.Contains("\n"+code, "\nfunc ") || strings.Contains("\n"+code, "\ntype ") {
		b.WriteString("var _ context.Context\n\n" + code)
		return b.String()
	}
	// What a reader has at hand in the middle of a page.
	b.WriteString("func snippet(ctx context.Context) (err error) {\n")
	for name, kind := range map[string]string{"client": "*core.Client", "d": "driver.Driver"} {
		used := regexp.MustCompile(`\b` + name + `\b`).MatchString(code)
		declared := regexp.MustCompile(`(?m)^` + name + `(, err)? := |func\(.*\b` + name + ` `).MatchString(code)
		if used && !declared {
			fmt.Fprintf(&b, "\tvar %s %s\n\t_ = %s\n", name, kind, name)
		}
	}
	out := b.String()
	for _, use := range []string{"core.", "driver."} {
		if line := "\t\"" + imports[use] + "\"\n"; strings.Contains(out, " "+use) || strings.Contains(out, "*"+use) {
			if !strings.Contains(out, line) {
				out = strings.Replace(out, "import (\n", "import (\n"+line, 1)
			}
		}
	}
	return out + body(code)
}

// body uses every variable that the snippet declares and leaves unused.
func body(code string) string {
	var uses []string
	for _, m := range regexp.MustCompile(`(?m)^(\w+(?:, \w+)*) := `).FindAllStringSubmatch(code, -1) {
		for name := range strings.SplitSeq(m[1], ",") {
			if name = strings.TrimSpace(name); name != "_" && name != "err" {
				uses = append(uses, "\t_ = "+name)
			}
		}
	}
	return code + strings.Join(uses, "\n") + "\n\treturn err\n}\n"
}

// TestDocsAndOptionsAgree wants every option of a package in its reference page, and every option that any page names to
// exist.
func TestDocsAndOptionsAgree(t *testing.T) {
	pages := map[string]string{"cache": "cache.md", "core": "core.md", "core/goredisdriver": "drivers.md", "core/rueidisdriver": "drivers.md"}
	for dir, page := range pages {
		options := map[string]bool{}
		files, err := filepath.Glob(filepath.Join(root(t), dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^func (With\w+)\(`).FindAllStringSubmatch(string(data), -1) {
				options[m[1]] = true
			}
		}
		if len(options) == 0 {
			t.Errorf("%s has no options", dir)
		}
		data, err := os.ReadFile(filepath.Join(root(t), "docs", "reference", page))
		if err != nil {
			t.Fatal(err)
		}
		for o := range options {
			if !strings.Contains(string(data), "`"+o) {
				t.Errorf("docs/reference/%s does not tell of %s.%s", page, filepath.Base(dir), o)
			}
		}
		for _, file := range markdown(t) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`\b`+filepath.Base(dir)+`\.(With\w+)`).FindAllStringSubmatch(string(data), -1) {
				if !options[m[1]] {
					t.Errorf("%s names %s.%s, which does not exist", file, filepath.Base(dir), m[1])
				}
			}
		}
	}
}

// TestEveryEventIsInTheDocs wants the names and kinds of a plugin's events, and the outcomes of its operations, in its page.
func TestEveryEventIsInTheDocs(t *testing.T) {
	words := regexp.MustCompile(`emit(?:Some)?\("(\w+)", "(\w+)"|: +\{"(\w+)", "(\w+)"\}|outcome\w+ += "(\w+)"`)
	for dir, page := range map[string]string{"cache": "cache.md"} {
		data, err := os.ReadFile(filepath.Join(root(t), "docs", "reference", page))
		if err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(root(t), dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, f := range files {
			source, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range words.FindAllStringSubmatch(string(source), -1) {
				for _, word := range m[1:] {
					if word == "" {
						continue
					}
					found++
					if !strings.Contains(string(data), "`"+word+"`") {
						t.Errorf("docs/reference/%s does not tell of %q of %s", page, word, f)
					}
				}
			}
		}
		if found < 20 {
			t.Errorf("%s has %d events and outcomes", dir, found)
		}
	}
}

// TestLinksInTheDocsLead wants every relative link of a Markdown file to name something that is there.
func TestLinksInTheDocsLead(t *testing.T) {
	for _, file := range markdown(t) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := regexp.MustCompile("(?s)```.*?```|`[^`\n]*`").ReplaceAllString(string(data), "") // a[K](x) is no link
		for _, m := range regexp.MustCompile(`\]\(([^)#\s]+)`).FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), m[1])); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}
