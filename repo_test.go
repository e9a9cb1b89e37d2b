package main_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// files returns every file of the repository but what is built, by its path
// from the top.
func files(t *testing.T) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name == ".git" || name == "build" {
				return filepath.SkipDir
			}
			return nil
		}
		if name != ".git" && name != "girder-worker" && !strings.HasSuffix(name, ".test") && !strings.HasSuffix(name, ".out") {
			all = append(all, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestTopLevel: a stranger sees the rooms and nothing else.
func TestTopLevel(t *testing.T) {
	allowed := strings.Fields(`daemon queue sandbox transforms contrib packaging man main.go go.mod go.sum Makefile
		README.md ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md LICENSE .ci .gitignore staticcheck.conf`)
	for _, name := range files(t) {
		top, _, _ := strings.Cut(name, "/")
		if !slices.Contains(allowed, top) && !(top == name && strings.HasSuffix(name, "_test.go")) {
			t.Errorf("%s: the top level holds only %s and tests", name, strings.Join(allowed, " "))
		}
	}
	for _, name := range allowed {
		if _, err := os.Stat(name); err != nil && name != "staticcheck.conf" {
			t.Errorf("the top level lacks %s", name)
		}
	}
}

// long are the files that may be longer than maxLines, and why.
var long = map[string]string{
	"sandbox/image/archive.go": "every format of archive, side by side: what one reader must refuse, the others must too",
	"sandbox/image/layer.go":   "one walk over a hostile tar: split, its checks would lie apart from what they guard",
}

const (
	maxLines     = 600
	maxTestLines = 900
)

// forbiddenNames say nothing of what a package owns.
var forbiddenNames = strings.Fields("util utils common manager managers types helper helpers misc base lib shared core models")

// TestGoFiles looks at what gofmt and go vet do not: sizes, names, package
// comments, init functions, leftovers.
func TestGoFiles(t *testing.T) {
	leftover := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)
	comments := map[string][]string{} // directory → files with a package comment
	packages := map[string]bool{}
	for _, name := range files(t) {
		if !strings.HasSuffix(name, ".go") || strings.Contains(name, "/testdata/") {
			continue
		}
		text := read(t, name)
		isTest := strings.HasSuffix(name, "_test.go")

		limit := maxLines
		if isTest {
			limit = maxTestLines
		}
		if n := strings.Count(text, "\n"); n > limit && long[name] == "" {
			t.Errorf("%s has %d lines: split it by topic, or list it with the reason", name, n)
		}
		if where := leftover.FindStringIndex(text); where != nil {
			t.Errorf("%s:%d: finish it, or say in ARCHITECTURE.md what is left out", name, 1+strings.Count(text[:where[0]], "\n"))
		}
		if strings.Contains(text, `panic("contract`+`")`) {
			t.Errorf("%s holds a function that was never written", name)
		}

		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, text, parser.ParseComments)
		if err != nil {
			t.Error(err)
			continue
		}
		if slices.Contains(forbiddenNames, f.Name.Name) || slices.Contains(forbiddenNames, filepath.Base(filepath.Dir(name))) {
			t.Errorf("%s: a package is named after what it owns", name)
		}
		dir := filepath.Dir(name)
		if !isTest {
			packages[dir] = true
			if f.Doc != nil {
				comments[dir] = append(comments[dir], name)
			}
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if ok && fn.Recv == nil && fn.Name.Name == "init" && !isReexecHook(name) {
				t.Errorf("%s: func init hides work from its reader; only libcontainer's re-exec hook has one", fset.Position(fn.Pos()))
			}
		}
	}
	for dir := range packages {
		if len(comments[dir]) != 1 {
			t.Errorf("package %s has %d package comments, want exactly one: %v", dir, len(comments[dir]), comments[dir])
		}
	}
}

// isReexecHook names where init may be: the hook of the package that runs
// containers, and tests.
func isReexecHook(name string) bool {
	dir, base := filepath.Split(name)
	return dir == "sandbox/runc/" || strings.HasSuffix(base, "_test.go")
}

// TestNoForeignNames: the repository works wherever it is cloned, so it names
// neither a machine's paths nor where packages are downloaded from.
func TestNoForeignNames(t *testing.T) {
	names := []string{
		"/wor" + "k/wt", "/wor" + "k/main", "/wor" + "k/shared", "/ro" + "ot/go",
		"proxy.golang" + ".org", "sum.golang" + ".org", "deb.debian" + ".org", "archive.ubuntu" + ".com",
		"registry-1." + "docker.io", "pypi" + ".org", "files.pythonhosted" + ".org", "registry.npmjs" + ".org",
	}
	for _, file := range files(t) {
		text := read(t, file)
		for _, name := range names {
			if i := strings.Index(text, name); i >= 0 {
				t.Errorf("%s:%d names %s", file, 1+strings.Count(text[:i], "\n"), name)
			}
		}
	}
}

// TestDocumentedTargets: what the documentation tells a reader to type exists.
func TestDocumentedTargets(t *testing.T) {
	makefile := read(t, "Makefile")
	for _, doc := range []string{"README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"} {
		for _, m := range regexp.MustCompile("`make ([a-z-]+)").FindAllStringSubmatch(read(t, doc), -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s says make %s, which the Makefile does not have", doc, m[1])
			}
		}
	}
}

// TestDocumentedNames: the tests and files that the documentation names exist.
func TestDocumentedNames(t *testing.T) {
	var tests strings.Builder
	exists := map[string]bool{}
	for _, name := range files(t) {
		for dir := name; dir != "."; dir = filepath.Dir(dir) {
			exists[dir] = true
		}
		if strings.HasSuffix(name, "_test.go") {
			tests.WriteString(read(t, name))
		}
	}
	testName := regexp.MustCompile("`(?:Test|Fuzz)[A-Za-z]+`")
	fileName := regexp.MustCompile("`((?:daemon|queue|sandbox|transforms|packaging|contrib|man)/[a-z0-9/_.-]+)`")
	for _, doc := range []string{"README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"} {
		text := read(t, doc)
		for _, name := range testName.FindAllString(text, -1) {
			if !strings.Contains(tests.String(), "func "+strings.Trim(name, "`")+"(") {
				t.Errorf("%s names %s, which is no test", doc, name)
			}
		}
		for _, m := range fileName.FindAllStringSubmatch(text, -1) {
			if !exists[strings.TrimSuffix(m[1], "/")] {
				t.Errorf("%s names %s, which does not exist", doc, m[1])
			}
		}
	}
}
