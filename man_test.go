package main_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cpuguy83/go-md2man/v2/md2man"
)

// pages are the manual's, by name.
func pages(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob("man/*.md")
	if err != nil || len(names) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	all := map[string]string{}
	for _, name := range names {
		all[strings.TrimSuffix(filepath.Base(name), ".md")] = read(t, name)
	}
	return all
}

var titleLine = regexp.MustCompile(`^% ([A-Z.-]+)\(([1-8])\) \| (.*)\n`)

// mark is what only the source of a page has. *** stands for a secret.
var mark = regexp.MustCompile("(^|[^*])[*][*]($|[^*])|\\\\[_\\[]|<!--|```")

// TestPagesRender: each page becomes one that man shows, without a warning, with
// nothing lost on the way, and under the name of its file.
func TestPagesRender(t *testing.T) {
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip("groff is not installed: packaging/deps test")
	}
	for name, text := range pages(t) {
		title := titleLine.FindStringSubmatch(text)
		if title == nil || strings.ToLower(title[1])+"."+title[2] != name {
			t.Errorf("%s: its first line does not name it", name)
			continue
		}
		roff := md2man.Render([]byte(titleLine.ReplaceAllString(text, "%% \"$1\" \"$2\" \"\" \"$3\" \"\"\n")))
		cmd := exec.CommandContext(t.Context(), groff, "-ww", "-Wbreak", "-z", "-rLL=140n", "-man", "-t", "-Tutf8", "-K", "utf8")
		cmd.Stdin = bytes.NewReader(roff)
		said, err := cmd.CombinedOutput() // but for lines that long names leave too wide a gap in
		if err != nil || len(said) > 0 {
			t.Errorf("%s: %v\n%s", name, err, said)
		}
		cmd = exec.CommandContext(t.Context(), groff, "-man", "-t", "-Tutf8", "-K", "utf8", "-P-cbou", "-rLL=100n")
		cmd.Stdin = bytes.NewReader(roff)
		shown, err := cmd.Output()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if at := mark.FindIndex(shown); at != nil {
			t.Errorf("%s shows marks of its source: …%s", name, shown[max(0, at[0]-60):min(len(shown), at[1]+60)])
		}
	}
}

// TestPagesExist: what a page names as another of ours is there.
func TestPagesExist(t *testing.T) {
	all := pages(t)
	for name, text := range all {
		for _, m := range regexp.MustCompile(`\*\*(girder-worker[a-z.-]*)\*\*\(([1-8])\)`).FindAllStringSubmatch(text, -1) {
			if _, ok := all[m[1]+"."+m[2]]; !ok {
				t.Errorf("%s names %s(%s), which is not there", name, m[1], m[2])
			}
		}
	}
}

// TestManualIsComplete: every exit code, metric and file that the program has is
// in some page.
func TestManualIsComplete(t *testing.T) {
	var b strings.Builder
	for _, text := range pages(t) {
		b.WriteString(strings.ReplaceAll(text, `\_`, "_"))
	}
	manual := b.String()
	metric := regexp.MustCompile(`"(girder_worker_[a-z_]+)"`)
	for _, name := range files(t) {
		if !strings.HasPrefix(name, "daemon/") || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, m := range metric.FindAllStringSubmatch(read(t, name), -1) {
			if !strings.Contains(manual, m[1]) {
				t.Errorf("no page tells of the metric %s (%s)", m[1], name)
			}
		}
	}
	for _, m := range regexp.MustCompile(`exit[A-Z][A-Za-z]* += (\d+)`).FindAllStringSubmatch(read(t, "daemon/cli/cli.go"), -1) {
		if !regexp.MustCompile(`(?m)^(\d+, )?` + m[1] + `\b`).MatchString(manual) {
			t.Errorf("no page tells of exit code %s", m[1])
		}
	}
}
