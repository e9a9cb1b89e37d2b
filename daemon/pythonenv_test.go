package daemon_test

import (
	"archive/zip"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"girderworker/daemon/apitype"
	"girderworker/daemon/policy/policytest"
)

// pythonEnv is a virtual environment with the wheels of contrib/python. It is below
// neither /tmp nor /var, which functions do not see.
type pythonEnv struct {
	t    testing.TB
	dir  string
	site string
}

const systemPython = "/usr/bin/python3"

func newPythonEnv(t testing.TB) *pythonEnv {
	t.Helper()
	return newVenv(t, nil, "girder_worker", "girder_worker_utils")
}

// newCeleryEnv is one with a Girder Worker on Debian's Celery, from testdata.
func newCeleryEnv(t testing.TB) *pythonEnv {
	t.Helper()
	for _, name := range []string{"celery", "jsonpickle"} {
		if _, err := os.Stat(filepath.Join("/usr/lib/python3/dist-packages", name)); err != nil {
			t.Skipf("needs Debian's Celery: %v (packaging/deps test installs it)", err)
		}
	}
	e := newVenv(t, []string{"--system-site-packages"}, "girder_worker_utils")
	if err := os.CopyFS(e.site, os.DirFS("testdata/python/celery")); err != nil {
		t.Fatal(err)
	}
	return e
}

func newVenv(t testing.TB, options []string, wheels ...string) *pythonEnv {
	t.Helper()
	if _, err := os.Stat(systemPython); err != nil {
		t.Skipf("no Python: %v", err)
	}
	dir := policytest.RootsDir(t)
	e := &pythonEnv{t: t, dir: filepath.Join(dir, "venv")}
	e.command("", systemPython, append(append([]string{"-m", "venv", "--without-pip"}, options...), e.dir)...)
	e.command("", systemPython, "../contrib/python/build.py", "1.2.3", dir)
	e.site = strings.TrimSpace(e.command("", e.python(), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
	for _, wheel := range wheels {
		e.unpack(filepath.Join(dir, wheel+"-1.2.3-py3-none-any.whl"))
	}
	return e
}

// unpack installs a wheel.
func (e *pythonEnv) unpack(wheel string) {
	e.t.Helper()
	z, err := zip.OpenReader(wheel)
	if err == nil {
		err = os.CopyFS(e.site, z)
		z.Close()
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *pythonEnv) python() string { return filepath.Join(e.dir, "bin", "python3") }

func (e *pythonEnv) command(stdin, name string, args ...string) string {
	e.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		e.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// install adds a package with a plugin, from testdata/python or from files; without
// a class nothing tells of the plugin.
func (e *pythonEnv) install(name, class string, files map[string]string) {
	e.t.Helper()
	if files == nil {
		if err := os.CopyFS(filepath.Join(e.site, name), os.DirFS(filepath.Join("testdata", "python", name))); err != nil {
			e.t.Fatal(err)
		}
	}
	for path, text := range files {
		path = filepath.Join(e.site, name, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			e.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			e.t.Fatal(err)
		}
	}
	if class == "" {
		return
	}
	info := filepath.Join(e.site, name+"-1.0.dist-info")
	part := info + ".part"
	err := os.Mkdir(part, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(part, "METADATA"), []byte("Metadata-Version: 2.1\nName: "+name+"\nVersion: 1.0\n"), 0o644)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(part, "entry_points.txt"), []byte("[girder_worker_plugins]\n"+name+" = "+name+":"+class+"\n"), 0o644)
	}
	if err == nil {
		err = os.Rename(part, info)
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

// allowPython has the policy, which is read at the start, let the queue call functions.
func (w *world) allowPython() {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, "etc", "no-policy.toml"), []byte("[amqp]\npython = true\n"), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// prompt runs a program as a person who may submit, and returns what it printed.
func (w *world) prompt(t testing.TB, e *pythonEnv, uid int, program string) string {
	t.Helper()
	out, err := w.atPrompt(e, uid, program).CombinedOutput()
	if err != nil {
		t.Fatalf("the program failed: %v\n%s\n%s", err, out, w.stderr)
	}
	return string(out)
}

func (w *world) atPrompt(e *pythonEnv, uid int, program string) *exec.Cmd {
	cmd := exec.Command(e.python(), "-I", "-c", program)
	cmd.Env = []string{"GIRDER_WORKER_SOCKET=" + w.socket()}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: memberGID, Groups: []uint32{memberGID}}}
	return cmd
}

// discovered waits for a task.
func (w *world) discovered(names ...string) {
	w.t.Helper()
	w.eventually("tasks "+strings.Join(names, " "), func() bool {
		tasks, err := w.client.Tasks(w.t.Context())
		if err != nil {
			return false
		}
		have := map[string]bool{}
		for _, t := range tasks.Tasks {
			have[t.Name] = true
		}
		for _, name := range names {
			if !have[name] {
				return false
			}
		}
		return true
	})
}

func newPythonWorld(t testing.TB) (*world, *pythonEnv) {
	t.Helper()
	e := newPythonEnv(t)
	e.install("gwexample", "GWExamplePlugin", nil)
	e.install("labtasks", "LabPlugin", nil)
	w := newWorld(t)
	w.stop()
	w.configure("slots = 4", "python = "+e.dir)
	w.start()
	w.discovered("gwexample.analyses.tasks.fibonacci", "labtasks.tasks.hello")
	return w, e
}

// callTask hands in a call with the Go client's way.
func (w *world) callTask(task string, args ...any) apitype.Job {
	w.t.Helper()
	if args == nil {
		args = []any{}
	}
	doc, err := json.Marshal(map[string]any{"task": task, "args": args})
	if err != nil {
		w.t.Fatal(err)
	}
	job, err := w.client.Submit(w.t.Context(), doc)
	if err != nil {
		w.t.Fatal(err)
	}
	return job
}
