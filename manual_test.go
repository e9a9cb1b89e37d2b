package main_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestManual: every command and every flag that the program tells of is in its
// manual, and the manual names no flag that it does not have.
func TestManual(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "girder-worker")
	run(t, nil, "go", "build", "-tags", "seccomp netgo osusergo", "-o", binary, ".")
	manual := read(t, "man/girder-worker.1.md")

	known := map[string]bool{"--help": true}
	command := regexp.MustCompile(`(?m)^  ([a-z]+) +[A-Z]`)
	flag := regexp.MustCompile(`(?m)^ +(?:-[a-zA-Z], )?(--[a-z-]+)`)
	var visit func(path []string)
	visit = func(path []string) {
		help := run(t, nil, binary, append(path, "--help")...)
		name := strings.Join(path, " ")
		if name != "" && !strings.Contains(manual, "**"+name+"**") && !strings.Contains(manual, "**"+strings.Join(path, "** **")+"**") {
			t.Errorf("the manual lacks the command %s", name)
		}
		for _, m := range flag.FindAllStringSubmatch(help, -1) {
			known[m[1]] = true
			// The daemon's flags are the keys of the configuration file.
			if name != "daemon" && m[1] != "--help" && !strings.Contains(manual, "**"+m[1]+"**") {
				t.Errorf("the manual lacks %s of girder-worker %s", m[1], name)
			}
		}
		_, commands, _ := strings.Cut(help, "Usage:")
		commands, _, _ = strings.Cut(commands, "Flags")
		if !strings.Contains(help, name+" COMMAND") {
			return
		}
		for _, m := range command.FindAllStringSubmatch(commands, -1) {
			visit(append(path[:len(path):len(path)], m[1]))
		}
	}
	visit(nil)
	for _, m := range regexp.MustCompile(`\*\*(--[a-z-]+)\*\*`).FindAllStringSubmatch(manual, -1) {
		if !known[m[1]] {
			t.Errorf("the manual names %s, which no command has", m[1])
		}
	}
}
