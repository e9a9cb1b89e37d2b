package cli

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestAdminManual: every command that girder-worker(8) tells an admin to type is
// one, with the flags that it has and as many words as it takes; and what it calls a
// unit or a file of the package is one.
func TestAdminManual(t *testing.T) {
	page, err := os.ReadFile("../../man/girder-worker.8.md")
	if err != nil {
		t.Fatal(err)
	}
	typed := regexp.MustCompile("(?m)(?:^    |`)girder-worker ([^`#\n]*)").FindAllStringSubmatch(string(page), -1)
	if len(typed) < 10 {
		t.Fatalf("only %d commands found", len(typed))
	}
	for _, m := range typed {
		root := (&app{Process: thisProcess()}).root()
		cmd, rest, err := root.Find(strings.Fields(m[1]))
		if err != nil || cmd == root {
			t.Errorf("girder-worker %s: no such command", m[1])
			continue
		}
		if err := cmd.ParseFlags(rest); err != nil {
			t.Errorf("girder-worker %s: %v", m[1], err)
			continue
		}
		// In a sentence a command is named without its arguments.
		if words := cmd.Flags().Args(); len(words) > 0 && cmd.Args != nil {
			if err := cmd.Args(cmd, words); err != nil {
				t.Errorf("girder-worker %s: %v", m[1], err)
			}
		}
	}
	packed, err := os.ReadFile("../../packaging/nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`girder-worker\.(?:service|socket|slice)|worker\.cfg|policy\.toml`).FindAllString(string(page), -1) {
		if !strings.Contains(string(packed), name) {
			t.Errorf("%s is not in the packages", name)
		}
	}
}
