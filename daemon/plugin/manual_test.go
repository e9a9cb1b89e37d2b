package plugin

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestManual: the page has every type and every key, and its examples are good.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../../man/girder-worker-tasks.5.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(TypeNames(), "name", "title", "description", "type", "required", "default", "choices", "min", "max", "step", "length",
		"parameters", "girder_job", "public", "other_fields") {
		if !strings.Contains(string(page), "**"+name+"**") {
			t.Errorf("it lacks **%s**", name)
		}
	}
	for _, field := range notInFile {
		if field != "task" && field != "kwargs" && !strings.Contains(string(page), "**"+field+"**") {
			t.Errorf("it lacks **%s**", field)
		}
	}
	examples := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(examples) < 2 {
		t.Errorf("%d examples", len(examples))
	}
	for _, e := range examples {
		if _, problems := Parse("example", []byte(e[1])); problems != nil {
			t.Errorf("%s\n%v", e[1], problems)
		}
	}
}

// TestExamples: the files in contrib are good. They are run by the daemon's tests.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../contrib/tasks/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, problems := Parse(file, data); problems != nil {
			t.Error(problems)
		}
	}
}
