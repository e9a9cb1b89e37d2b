package plugin

import (
	"errors"
	"strings"
	"testing"

	"girderworker/daemon/apitype"
)

func named(source string, names ...string) []Task {
	var all []Task
	for _, name := range names {
		all = append(all, Task{Task: apitype.Task{Name: name, Source: source}})
	}
	return all
}

func TestRegistry(t *testing.T) {
	var r Registry
	if all, problems := r.Tasks(); len(all)+len(problems)+len(r.Names()) != 0 {
		t.Error("an empty registry has something")
	}
	r.Set("files", named("a.toml", "b", "a"), []error{errors.New("c.toml: bad")})
	r.Set("python", named("package", "a", "z"), nil)
	if names := strings.Join(r.Names(), " "); names != "a b z" {
		t.Errorf("the names are %q", names)
	}
	if task, ok := r.Lookup("a"); !ok || task.Source != "a.toml" {
		t.Errorf("the first source does not win: %+v", task)
	}
	if _, problems := r.Tasks(); len(problems) != 2 || !strings.Contains(problems[1].Error(), "package: left out, because a.toml has a task a") {
		t.Errorf("the problems are %v", problems)
	}
	held, _ := r.Lookup("b")
	r.Set("files", nil, nil)
	if names := strings.Join(r.Names(), " "); names != "a z" || held.Name != "b" {
		t.Errorf("after a reload the names are %q", names)
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", "-a", ".a", "a b", "a/b", "a\nb", "é", strings.Repeat("a", 257), "girder_worker.docker.tasks.docker_run"} {
		var r Registry
		r.Set("files", named("a.toml", name), nil)
		if _, problems := r.Tasks(); len(problems) != 1 || len(r.Names()) != 0 {
			t.Errorf("%q is taken", name)
		}
	}
}
