package daemon_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPythonSettings: what the documentation says of plugins_enabled, plugin_load_path,
// app_main and tmp_root.
func TestPythonSettings(t *testing.T) {
	e := newPythonEnv(t)
	class := "from girder_worker import GirderWorkerPlugin\nclass P(GirderWorkerPlugin):\n    def task_imports(self):\n        return [__name__ + '.tasks']\n"
	tasks := `
import time
from girder_worker.app import app
@app.task
def main():
    return app.main
@app.task(bind=True)
def waits(self):
    with open('/tmp/kept', 'w') as f:
        f.write('x')
    print('written', flush=True)
    while not self.canceled:
        time.sleep(0.01)
exec("@app.task\ndef of_a_program():\n    return 'ran'", {'app': app, '__name__': '__main__'})
`
	for _, name := range []string{"one", "two", "three"} {
		e.install(name, "P", map[string]string{"__init__.py": class, "tasks.py": tasks})
	}
	dirs := []string{filepath.Join(filepath.Dir(e.dir), "more"), filepath.Join(filepath.Dir(e.dir), "most")}
	for i, name := range []string{"four", "five"} {
		if err := os.MkdirAll(filepath.Join(dirs[i], name), 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{"__init__.py": class, "tasks.py": tasks} {
			if err := os.WriteFile(filepath.Join(dirs[i], name, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	root, err := os.MkdirTemp("/var/tmp", "girder-worker-test-")
	if err == nil {
		err = os.Chmod(root, 0o1777)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })

	w := newWorld(t)
	run := func(lines ...string) (names []string, problems string) {
		t.Helper()
		w.stop()
		w.configure(append([]string{"slots = 4", "python = " + e.dir}, lines...)...)
		w.start()
		w.discovered("one.tasks.main")
		all, err := w.client.Tasks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range all.Tasks {
			if strings.HasSuffix(task.Name, ".tasks.main") || strings.HasSuffix(task.Name, ".of_a_program") {
				names = append(names, strings.TrimSuffix(task.Name, ".tasks.main"))
			}
		}
		slices.Sort(names)
		return names, strings.Join(all.Problems, "\n")
	}
	result := func(program string) string {
		return w.prompt(t, e, personUID, "from girder_worker.app import app\nprint(app.send_task("+program+").get(timeout=90))")
	}

	if names, _ := run(); !slices.Equal(names, []string{"girder_worker.of_a_program", "one", "three", "two"}) {
		t.Errorf("all that are installed: %q", names)
	}
	if got := result("'one.tasks.main'"); got != "girder_worker\n" {
		t.Errorf("app_main: %s", got)
	}
	// tmp_root is relative: the temporary directory is in the job's scratch space.
	if entries, err := os.ReadDir(root); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}

	names, problems := run("plugins_enabled = one,two, six", "plugin_load_path = "+strings.Join(dirs, ":"), "tmp_root = "+root, "[celery]", "app_main = lab")
	if !slices.Equal(names, []string{"lab.of_a_program", "one", "two"}) || !strings.Contains(problems, "there is no plugin six here; there are: core, five, four, one, three, two") {
		t.Errorf("enabled: %q, %s", names, problems)
	}
	if got := result("'one.tasks.main'") + result("'lab.of_a_program'"); got != "lab\nran\n" {
		t.Errorf("app_main: %s", got)
	}
	job := w.callTask("one.tasks.waits")
	w.printed(job.ID, "written")
	kept := func() []string {
		found, err := filepath.Glob(filepath.Join(root, "*", "kept"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := kept(); len(found) != 1 {
		t.Errorf("in tmp_root: %q", found)
	}
	if _, err := w.client.Cancel(t.Context(), job.ID, ""); err != nil {
		t.Fatal(err)
	}
	w.wait(job.ID)
	w.eventually("what is temporary is gone", func() bool { entries, err := os.ReadDir(root); return err == nil && len(entries) == 0 })

	if names, _ := run("plugins_enabled = one,four,five", "plugin_load_path = "+strings.Join(dirs, ":")); !slices.Equal(names, []string{"five", "four", "girder_worker.of_a_program", "one"}) {
		t.Errorf("of two directories: %q", names)
	}
	if got := result("'five.tasks.main'"); got != "girder_worker\n" {
		t.Errorf("from a directory: %s", got)
	}
}
