package config

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the manual's list of options anew")

const manual = "../../man/girder-worker.cfg.5.md"

// TestManual holds girder-worker.cfg(5) against the keys; -update writes its lists.
func TestManual(t *testing.T) {
	data, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	want := string(data)
	for _, part := range []struct{ begin, list, end string }{
		{"has to be restarted.\n\n", keysManual(), "# OPTIONS AND VARIABLES"},
		{"have no effect:\n\n", pythonManual(), "Other options"},
	} {
		before, rest, ok := strings.Cut(want, part.begin)
		_, after, end := strings.Cut(rest, part.end)
		if !ok || !end {
			t.Fatalf("%s has no place for what comes before %s", manual, part.end)
		}
		want = before + part.begin + part.list + "\n" + part.end + after
	}
	if want == string(data) {
		return
	}
	if !*update {
		t.Fatalf("%s does not tell what keys.go and python.go do; -update writes its lists", manual)
	}
	if err := os.WriteFile(manual, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// literal keeps Markdown from reading marks in a text.
func literal(s string) string {
	return strings.NewReplacer("*", `\*`, "_", `\_`, "<", `\<`).Replace(s)
}

func keysManual() string {
	c := Default()
	var b strings.Builder
	section := ""
	for _, k := range c.Keys() {
		if k.Section != section {
			section = k.Section
			fmt.Fprintf(&b, "## [%s]\n\n", literal(section))
		}
		about := []string{}
		if k.set() {
			about = append(about, "Default **"+literal(strings.ReplaceAll(k.Value(), ",", ", "))+"**")
		}
		about = append(about, literal(k.Variable()))
		if section == sectionWorker || k.String() == "celery.broker" {
			about = append(about, "**--"+k.Flag()+"**")
		}
		live := "restart"
		if k.Live {
			live = "live"
		}
		help := strings.ToUpper(k.Help[:1]) + k.Help[1:]
		fmt.Fprintf(&b, "**%s** = *%s*\n: %s. %s. (*%s*)\n\n", literal(k.Name), k.Kind(), literal(help), strings.Join(about, ". "), live)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func pythonManual() string {
	var b strings.Builder
	for _, o := range pythonOptions {
		fmt.Fprintf(&b, "**%s**\n: %s.\n\n", literal(o.key), literal(o.why))
	}
	var names []string
	for name := range pythonVariables {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "**%s**\n: %s.\n\n", literal(envPrefix+name), literal(pythonVariables[name]("true")))
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// The example of the manual is a good configuration.
func TestManualExample(t *testing.T) {
	data, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "```ini\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("there is none")
	}
	s, _ := localFile(t, example)
	c, warnings, err := Load(s)
	if err != nil || len(warnings) > 0 || c.Machine.Slots != 4 {
		t.Errorf("%v, %q", err, warnings)
	}
}
