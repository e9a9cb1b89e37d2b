package plugin

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCommandArguments: values become arguments whatever they hold, and no options.
func TestCommandArguments(t *testing.T) {
	const file = `name = "t"
command = ["/bin/echo", "{default}"]
args = ["{s}", "-a", "{s}{n}", { if = "f", args = ["{s}"] }, "{n}", "{c}", "{v}", "--", "{s}"]
[[parameters]]
name = "s"
type = "string"
[[parameters]]
name = "n"
type = "integer"
default = -1
[[parameters]]
name = "c"
type = "choice"
choices = ["-c"]
default = "-c"
[[parameters]]
name = "v"
type = "string-vector"
default = "x,-y"
[[parameters]]
name = "f"
type = "boolean"
default = true
`
	p, _, err := plan(t, file, `{"s": "a {x} $b"}`)
	if err != nil || !slices.Equal(p.Command, []string{"/bin/echo", "{default}"}) || p.Image != "" || !p.Options.Init ||
		strings.Join(p.Args, "|") != "a {x} $b|-a|a {x} $b-1|a {x} $b|-1|-c|x,-y|--|a {x} $b" {
		t.Errorf("got %+v, %v", p, err)
	}
	var bad *ArgumentError
	if _, _, err := plan(t, file, `{"s": "-o"}`); !errors.As(err, &bad) || len(bad.Problems) != 3 || !strings.Contains(err.Error(), `s: "-o" begins with '-', so the program would take it for an option; the task's file can have "--" before it, or an option such as --s={s}`) {
		t.Errorf("got %v", err)
	}
	if _, _, err := plan(t, file, `{"s": "a", "v": "-y"}`); err == nil || !strings.Contains(err.Error(), "v: ") || strings.Contains(err.Error(), "s: ") {
		t.Errorf("got %v", err)
	}
	// An image is a world of its own.
	image := strings.Replace(file, `command = ["/bin/echo", "{default}"]`, `image = "i"`, 1)
	if _, _, err := plan(t, image, `{"s": "-o"}`); err != nil {
		t.Error(err)
	}
}

// TestCommandMissing: a file whose program is not there is good, and its calls are not.
func TestCommandMissing(t *testing.T) {
	_, _, err := plan(t, "name = \"t\"\ncommand = \"/no/such/program\"\n", "{}")
	if err == nil || !strings.HasPrefix(err.Error(), "command: there is no program /no/such/program") || !strings.HasSuffix(err.Error(), "(it is that of t.toml)") {
		t.Errorf("got %v", err)
	}
	task, problems := Parse("t.toml", []byte("name = \"t\"\n\ncommand = \"/no/such/program\"\n"))
	if problems != nil {
		t.Fatal(problems)
	}
	var r Registry
	r.Set("files", []Task{task}, nil)
	all, problems := r.Tasks()
	if len(all) != 1 || len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), "t.toml:3:1: command: there is no program") {
		t.Errorf("%v, %v", all, problems)
	}
}

func TestHasCommand(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.toml": "name = \"a\"\nimage = \"i\"\n", "b.toml": "command = [\n", "c.toml": "name = \"c\"\ncommand = \"one\"\n",
		"d.toml": "name = \"d\"\ncommand = [\"two\", \"-x\"]\n", "e.toml": "name = \"e\"\ncommand = \"theirs\"\n", "f.toml~": "name = \"f\"\ncommand = \"old\"\n", "g.toml": "name = \"g\"\n#command = \"no\"\n",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	if err := os.Chmod(filepath.Join(dir, "e.toml"), 0o666); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]bool{
		"one": true, "two -x": true, "two": false, "two -x -y": false, "one -x": false, "theirs": false, "old": false, "no": false, "": false,
	} {
		if has, err := HasCommand(dir, strings.Fields(command)); has != want || err != nil {
			t.Errorf("%s: %v, %v", command, has, err)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if has, err := HasCommand(dir, []string{"one"}); has || err == nil {
		t.Errorf("a directory that all may write: %v, %v", has, err)
	}
}
