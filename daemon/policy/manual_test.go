package policy

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestManual: girder-worker-policy.toml(5) tells of every key, and its example is
// a good policy.
func TestManual(t *testing.T) {
	data, err := os.ReadFile("../../man/girder-worker-policy.toml.5.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	keys := slices.Concat(slices.Collect(maps.Keys(new(section).listKeys())), limitKeys, []string{"gpus", "seccomp_unconfined", "switch_user", "girder_key", "python", "commands"})
	for _, key := range keys {
		if !strings.Contains(page, "**"+strings.ReplaceAll(key, "_", `\_`)+"**") {
			t.Errorf("the manual lacks %s", key)
		}
		// A key that is none would be found out here.
		if err := new(section).set(key, nil); err == nil || strings.Contains(err.Error(), "is not a key") {
			t.Errorf("%s is not a key: %v", key, err)
		}
	}
	_, list, _ := strings.Cut(page, "# KEYS OF A SECTION")
	for line := range strings.Lines(list) {
		term, isTerm := strings.CutPrefix(line, "**")
		if name, _, ok := strings.Cut(term, "**"); isTerm && ok && strings.Contains(line, " = *") {
			if key := strings.ReplaceAll(name, `\_`, "_"); !slices.Contains(keys, key) {
				t.Errorf("the manual has %s, which is no key", key)
			}
		}
	}
	_, rest, _ := strings.Cut(page, "```toml\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("there is no example")
	}
	if _, err := Parse("example", []byte(strings.ReplaceAll(example, "group.imaging", "group.4711")), SystemNames()); err != nil {
		t.Error(err)
	}
}
