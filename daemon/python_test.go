package daemon_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
)

// uuids are the ids of calls.
var uuids = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// TestPython: what the documentation of Girder Worker shows, from a Python prompt.
func TestPython(t *testing.T) {
	w, e := newPythonWorld(t)
	for name, test := range map[string]struct{ program, want string }{
		"hello": {`
from labtasks.tasks import hello
a = hello.delay()
print(a.get(timeout=60), a.status, a.ready(), a.successful(), a.job['title'], a.job['type'])`,
			"Hello World! SUCCESS True True Example Task example\n"},
		"fibonacci": {`
from gwexample.analyses.tasks import fibonacci
print(fibonacci.delay(26).get(timeout=60))`, "121393\n"},
		"called here": {`
from gwexample.analyses.tasks import fibonacci
print(fibonacci(10))`, "55\n"},
		"fields": {`
from labtasks.tasks import add
r = add.delay(1, b=2, girder_job_title='This is my job', girder_job_type='my_task', girder_job_public=True,
              girder_job_other_fields={'meta': {'special_key': 'Special Value'}})
r.get(timeout=60)
assert r['title'] == 'This is my job'
print(r.job['title'], r.job['type'], r.job['public'], r.job['meta'], r.job['name'])`,
			"This is my job my_task True {'special_key': 'Special Value'} This is my job\n"},
		"configuration": {`
from girder_worker.app import app
app.config.update({'TASK_TIME_LIMIT': 300})
print(app.config is app.conf, app.conf.task_time_limit, app.conf['task_time_limit'], app.conf.get('CELERYD_TASK_TIME_LIMIT'), 'TASK_TIME_LIMIT' in app.conf)
app.conf.task_time_limit = 5
print(app.conf.pop('TASK_TIME_LIMIT'), app.conf.get('task_time_limit'), app.conf.no_such_option)`,
			"True 300 300 300 True\n5 None None\n"},
		"exceptions": {`
from labtasks.tasks import fail, fail_own, OwnError
try:
    fail.delay('broken').get(timeout=60)
except ValueError as e:
    print(repr(e), 'tasks.py' in e.traceback)
r = fail_own.delay()
try:
    r.get(timeout=60)
except OwnError as e:
    print(repr(e), r.state, r.failed())`,
			"ValueError('broken', 42) True\nOwnError('mine') FAILURE True\n"},
		"canvas": {`
from girder_worker.canvas import chain, group, chord
from labtasks.tasks import add, total
print((add.s(1, 2) | add.s(10) | add.si(5, 5)).delay().get(timeout=60))
r = chain(add.s(1), add.s(4))()
print(r.get(timeout=60), r.parent.get(timeout=60))
print(group(add.s(i, i) for i in range(3))().get(timeout=60))
print(chord([add.s(i, i) for i in range(4)])(total.s()).get(timeout=60))`,
			"10\n6 2\n[0, 2, 4]\n12\n"},
		"a chain that fails": {`
from girder_worker.canvas import chain, chord
from labtasks.tasks import add, fail, total
for call in chain(add.si(1, 2), fail.si('first'), add.s(10), add.s(20)), chord([add.si(1, 2), fail.si('one')], total.s()):
    r = call()
    try:
        r.get(timeout=60)
    except ValueError as e:
        print(e, r.state, r.get(propagate=False))`,
			"('first', 42) FAILURE job ID, which had to succeed first, failed\n('one', 42) FAILURE job ID, which had to succeed first, failed\n"},
		"results are data": {`
from girder_worker.canvas import chain
from labtasks.tasks import pickled, shape, filled
print(chain(pickled.s(), shape.s())().get(timeout=60))
try:
    chain(filled.s(), shape.s())().get(timeout=60)
except Exception as e:
    print('passed on' in str(e))`,
			"{'py/object': 'datetime.date', 'py/reduce': [{'py/type': 'os.getcwd'}, []]}\nTrue\n"},
		"retry": {`
from labtasks.tasks import third_time
print(third_time.delay().get(timeout=60))`, "2\n"},
		"autoretry": {`
from girder_worker.app import app
waits = []
class Noted(app.Task):
    retry_backoff, retry_backoff_max, retry_jitter = True, 5, False
    def retry(self, exc=None, **options):
        waits.append(options)
        return exc
@app.task(base=Noted, bind=True, autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,), retry_kwargs={'max_retries': 9})
def fails(self, retries, exc):
    self.request.retries = retries
    raise exc
for retries in range(4):
    try:
        fails(retries, OSError('x'))
    except OSError:
        pass
fails.retry_jitter = True
for exc in OSError('x'), FileNotFoundError('x'), KeyError('x'):
    try:
        fails(2, exc)
    except Exception:
        pass
last = waits.pop()
print([w['countdown'] for w in waits], waits[0]['max_retries'], 0 <= last['countdown'] <= 4, last['max_retries'])`,
			"[1, 2, 4, 5] 9 True 9\n"},
		"no links": {`
from labtasks.tasks import add
try:
    add.apply_async((1,), link=add.s())
except Exception as e:
    print(e)`, "link cannot be given here; put calls together with a.s() | b.s(), group or chord\n"},
		"countdown": {`
import time
from labtasks.tasks import add
r = add.apply_async((1, 1), countdown=3600)
print(r.state)
r.revoke()
begun = time.time()
r = add.apply_async((1, 1), countdown=1)
print(r.get(timeout=60), time.time() - begun >= 1)`, "PENDING\n2 True\n"},
		"revoke": {`
import time
from labtasks.tasks import until_canceled
from girder_worker.exceptions import TaskRevokedError
r = until_canceled.delay()
while r.state != 'STARTED':
    time.sleep(0.01)
r.revoke(terminate=True)
try:
    r.get(timeout=60)
except TaskRevokedError:
    print(r.state)`, "REVOKED\n"},
		"soft time limit": {`
from labtasks.tasks import soft
from girder_worker.exceptions import SoftTimeLimitExceeded
print(soft.delay(True).get(timeout=60))
try:
    soft.delay(False).get(timeout=60)
except SoftTimeLimitExceeded as e:
    print(repr(e))`, "stopped in time\nSoftTimeLimitExceeded(1)\n"},
		"no task": {`
from girder_worker.app import app
from girder_worker.exceptions import WorkerError
try:
    app.send_task('no.such.task')
except WorkerError as e:
    print(str(e)[:27], e.kind)`, "unknown task \"no.such.task\" not-found\n"},
		"wrong arguments": {`
from labtasks.tasks import add
try:
    add.delay(1, c=2)
except TypeError as e:
    print(e)`, "labtasks.tasks.add(): got an unexpected keyword argument 'c'\n"},
		"names of Girder 5": {`
from girder_worker.utils.transforms.common import TemporaryDirectory
from girder_worker.utils.transforms.girder_io import GirderFileId, GirderUploadToItem
from girder_worker.utils.decorators import argument
from girder_worker.utils.transform import ResultTransform
from girder_worker.utils import types, girder_job
from girder_worker import _pickle
flat = _pickle.flatten(GirderFileId('1'))
flat['py/object'] = flat['py/object'].replace('girder_worker_utils', 'girder_worker.utils')
print(_pickle.restore(flat).file_id, issubclass(GirderUploadToItem, ResultTransform), types.Integer.__name__)`, "1 True Integer\n"},
		"timeout": {`
from labtasks.tasks import until_canceled
from girder_worker.exceptions import TimeoutError
r = until_canceled.delay()
try:
    r.get(timeout=0.2)
except TimeoutError:
    print('timeout')
r.revoke()
r.get(timeout=60, propagate=False)`, "timeout\n"},
		"docker_run": {`
from girder_worker.docker.tasks import docker_run
from girder_worker.docker.transforms import VolumePath, Connect, NamedOutputPipe, HostStdOut
print(docker_run('busybox', pull_image=False, container_args=['sh', '-c', 'echo a > $0; cat $0', VolumePath('x')]))
r = docker_run.delay('busybox', pull_image=False, container_args=['sh', '-c', 'exit 3'])
try:
    r.get(timeout=60)
except Exception as e:
    print(type(e).__name__, e)
print(docker_run.delay('busybox', pull_image=False, container_args=['sh', '-c', 'echo x > $0', Connect(NamedOutputPipe('p'), HostStdOut())]).get(timeout=60))`,
			"None\nTaskError DockerException: it exited with code 3\nNone\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := uuids.ReplaceAllString(w.prompt(t, e, personUID, test.program), "ID"); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

// TestPythonSandbox: a function sees the machine's files and can change nothing.
func TestPythonSandbox(t *testing.T) {
	w, e := newPythonWorld(t)
	out := w.prompt(t, e, personUID, `
import json
from labtasks.tasks import surroundings
print(json.dumps(surroundings.delay().get(timeout=60)))`)
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for key, want := range map[string]string{
		"uid": fmt.Sprint(personUID), "cwd": "/tmp", "tmp": "true", "usr": "Read-only file system", "shadow": "No such file or directory", "passwd": "true",
		"run": "[girder_worker]", "var": "[tmp]", "network": "[lo]", "stdin": "", "caps": "0000000000000000",
		"env": "[GIRDER_WORKER_PROGRESS HOME HOSTNAME LANG PATH TMPDIR]",
	} {
		if fmt.Sprint(got[key]) != want {
			t.Errorf("%s: %v, want %s", key, got[key], want)
		}
	}
}

// TestPythonRestart: who waits for a result outlasts a restart of the daemon.
func TestPythonRestart(t *testing.T) {
	w, e := newPythonWorld(t)
	cmd := w.atPrompt(e, personUID, `
from labtasks.tasks import until_canceled
r = until_canceled.delay()
print(r.id, flush=True)
try:
    r.get(timeout=120)
except Exception as e:
    print(type(e).__name__, e)`)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	out := bufio.NewReader(pipe)
	line, err := out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(line) + fmt.Sprintf(".%d", personUID)
	w.eventually("it runs", func() bool { return strings.Contains(w.log(id), "waiting") })
	w.stop()
	w.start()
	if _, err := w.client.Cancel(t.Context(), id, ""); err != nil {
		t.Fatal(err)
	}
	line, err = out.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "TaskRevokedError") {
		t.Errorf("%v, it said %q", err, line)
	}
}

// TestPythonTold: log, progress, and how a job of a function is shown.
func TestPythonTold(t *testing.T) {
	w, _ := newPythonWorld(t)
	job := w.wait(w.callTask("labtasks.tasks.reports").ID)
	if job.State != "succeeded" || job.Task != "labtasks.tasks.reports" {
		t.Errorf("%+v", job)
	}
	if bytes.Contains(job.Detail, []byte(`"result"`)) {
		t.Errorf("the queue keeps what a function returned, too: %s", job.Detail)
	}
	if log := w.log(job.ID); log != "written\nprinted\ntold\n" && log != "told\nwritten\nprinted\n" {
		t.Errorf("log: %q", log)
	}
	failed := w.wait(w.callTask("labtasks.tasks.fail", "broken").ID)
	if failed.State != "failed" || failed.Error != "ValueError: ('broken', 42)" {
		t.Errorf("%+v", failed)
	}
	if log := w.log(failed.ID); !strings.HasPrefix(log, "ValueError: ('broken', 42)\n  File \"") || !strings.Contains(log, "raise ValueError(text, 42)") {
		t.Errorf("log: %q", log)
	}
	// The command line shows what comes back.
	for args, want := range map[string]string{"a=1 b=2": "3\n", "a=[1] b=[2.5]": "[1,2.5]\n", "a=x b=y": "\"xy\"\n"} {
		if out, errs, code := w.call(append([]string{"run", "--task", "labtasks.tasks.add"}, strings.Fields(args)...)...); out != want || code != 0 {
			t.Errorf("%s: %q %q %d", args, out, errs, code)
		}
	}
	for args, want := range map[string]string{
		"a=1 wrong=2": "wrong: there is no such parameter; those of labtasks.tasks.add are a, b", "b=2": "a: missing",
	} {
		before, err := w.client.Jobs(t.Context(), client.JobFilter{})
		if err != nil {
			t.Fatal(err)
		}
		out, errs, code := w.call(append([]string{"run", "--task", "labtasks.tasks.add"}, strings.Fields(args)...)...)
		if code == 0 || !strings.Contains(errs, want) {
			t.Errorf("%s: %q %q %d", args, out, errs, code)
		}
		if after, err := w.client.Jobs(t.Context(), client.JobFilter{}); err != nil || len(after.Jobs) != len(before.Jobs) {
			t.Errorf("%s is a job: %v, %+v", args, err, after)
		}
	}
	// A decorator that gives the function an argument.
	if out, errs, code := w.call("run", "--task", "labtasks.tasks.decorated", "b=2"); out != "3\n" || code != 0 {
		t.Errorf("%q %q %d", out, errs, code)
	}
	if out, errs, _ := w.call("show", w.wait(w.callTask("labtasks.tasks.add", 1, 2).ID).ID); !strings.Contains(strings.Join(strings.Fields(out), " "), " result: 3 ") {
		t.Errorf("%s%s", out, errs)
	}
	third := w.wait(w.callTask("labtasks.tasks.third_time").ID)
	if third.State != "succeeded" || third.Attempt != 3 {
		t.Errorf("%+v", third)
	}
	canceled := w.callTask("labtasks.tasks.until_canceled")
	w.printed(canceled.ID, "waiting")
	if _, err := w.client.Cancel(t.Context(), canceled.ID, ""); err != nil {
		t.Fatal(err)
	}
	if job := w.wait(canceled.ID); job.State != "canceled" || !strings.Contains(w.log(job.ID), "cleaned up True") {
		t.Errorf("%+v: %q", job, w.log(job.ID))
	}
	if job := w.wait(w.callTask("labtasks.tasks.too_long").ID); job.State != "failed" || job.Outcome != "timeout" {
		t.Errorf("%+v", job)
	}
	// gwexample's plugin class sets it.
	fib := w.wait(w.callTask("gwexample.analyses.tasks.fibonacci", 3).ID)
	if !bytes.Contains(fib.Document, []byte(`"timeout":"5m0s"`)) {
		t.Errorf("%s", fib.Document)
	}
}

// TestPythonBadTasks: what a function does wrong is named and stays its own.
func TestPythonBadTasks(t *testing.T) {
	w, _ := newPythonWorld(t)
	for task, want := range map[string]string{
		"unholdable":       "TypeError: a task returned a set, which JSON cannot hold; return a list",
		"endless":          "ValueError: Out of range float values are not JSON compliant",
		"dies":             "the function's process was killed by signal 9 (SIGKILL)",
		"segfaults":        "the function's process was killed by signal 11 (SIGSEGV)",
		"leaves":           "the function's process ended without a result, with exit code 0",
		"changes_its_mind": "the function's process ended with exit code 3 after it had returned",
		"exits":            "SystemExit: 3",
		"large":            "ValueError: the result has 2097186 bytes as JSON",
		"binary":           "",
		"forks":            "",
	} {
		job := w.wait(w.callTask("labtasks.tasks." + task).ID)
		if want == "" {
			if job.State != "succeeded" {
				t.Errorf("%s: %+v\n%s", task, job, w.log(job.ID))
			}
		} else if job.State != "failed" || !strings.HasPrefix(job.Error, want) {
			t.Errorf("%s: %s %d %q, want %q\n%s", task, job.State, *job.ExitCode, job.Error, want, w.log(job.ID))
		}
	}
	job := w.wait(w.callTask("labtasks.tasks.is_late").ID)
	if job.State != "failed" || !bytes.Contains(job.Detail, []byte(`"code":1,`)) {
		t.Errorf("a function that a signal interrupts after its end: %s %s", job.State, job.Detail)
	}
	// What a function leaves behind ends as it does where an interpreter ends.
	job = w.wait(w.callTask("labtasks.tasks.lingers").ID)
	if log := w.log(job.ID); job.State != "succeeded" || log != "a thread ended\nan exit handler ran\n" {
		t.Errorf("a function with a thread and an exit handler: %+v\n%s", job, log)
	}
	// Who has said that it is over is held to it.
	job = w.wait(w.callTask("labtasks.tasks.pretends").ID)
	if job.State != "succeeded" || string(job.Result) != `"pretended"` {
		t.Errorf("a function that went on after its end: %+v", job)
	}
	job = w.wait(w.callTask("labtasks.tasks.leaves_a_writer").ID)
	if log := w.log(job.ID); job.State != "succeeded" || !strings.Contains(log, "the last line\n") {
		t.Errorf("a function that left a process which writes: %+v, a log of %d bytes", job, len(log))
	}
	w.eventually("what it left has ended", func() bool {
		return !slices.ContainsFunc(w.processes(), func(pid int) bool {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			return bytes.HasPrefix(line, []byte("sleep\x00")) || bytes.HasPrefix(line, []byte("sh\x00"))
		})
	})
	// One that has left no descriptor can still be told of.
	job = w.wait(w.callTask("labtasks.tasks.exhausts").ID)
	if log := w.log(job.ID); job.State != "failed" || !strings.HasPrefix(job.Error, "OSError: ") || !strings.Contains(log, "in exhausts") {
		t.Errorf("a function that has opened all it can: %+v\n%s", job, log)
	}
	if job := w.wait(w.callTask("labtasks.tasks.add", 1, 2).ID); job.State != "succeeded" {
		t.Errorf("%+v", job)
	}
}

// TestPythonPlugins: a bad plugin is named and leaves the others working; what is
// installed later is found; the configuration says which count.
func TestPythonPlugins(t *testing.T) {
	w, e := newPythonWorld(t)
	class := "from girder_worker import GirderWorkerPlugin\nclass P(GirderWorkerPlugin):\n    def task_imports(self):\n        return [__name__ + '.tasks']\n"
	task := "from girder_worker.app import app\n@app.task\ndef t():\n    return 1\n"
	for name, text := range map[string]string{
		"broken":  "import no_such_module\n" + task,
		"exiting": "import os\nos._exit(5)\n",
		"forking": "import os, time\nif os.fork() == 0:\n    time.sleep(600)\n" + task,
		"hanging": "import time\ntime.sleep(600)\n",
		"noisy":   "import os\nprint('{\"done\": true}')\nos.write(1, b'\\xff\\x00' * 100000)\n" + task,
		"twice":   task + "@app.task(name='twice.tasks.t')\ndef other():\n    return 2\n",
	} {
		e.install(name, "P", map[string]string{"__init__.py": class, "tasks.py": text})
	}
	w.configure("slots = 4", "python = "+e.dir, "python_import_time = 10s")
	if err := w.cmd.Process.Signal(syscall.SIGHUP); err != nil { // a change may wait for half a minute
		t.Fatal(err)
	}
	w.discovered("forking.tasks.t", "noisy.tasks.t", "twice.tasks.t", "labtasks.tasks.add")
	w.eventually("all problems", func() bool {
		tasks, err := w.client.Tasks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Join(tasks.Problems, "\n")
		for _, want := range []string{
			"plugin broken: ModuleNotFoundError: No module named 'no_such_module' (" + e.site + "/broken/tasks.py, line 1)",
			"plugin exiting: its import did not end well: exit status 5",
			"plugin hanging: its import did not end well: it took longer than 10s (python_import_time)",
			"plugin twice: two functions are the task twice.tasks.t; the first counts",
		} {
			if !strings.Contains(all, want) {
				return false
			}
		}
		return true
	})
	for _, name := range []string{"forking.tasks.t", "noisy.tasks.t", "labtasks.tasks.hello"} {
		if job := w.wait(w.callTask(name).ID); job.State != "succeeded" {
			t.Errorf("%s: %+v", name, job)
		}
	}

	// The scaffold, installed as pip does that without a network, and as it is.
	scaffold := strings.TrimSpace(e.command("", binary, "tasks", "new", "--python", "newlab", filepath.Dir(e.dir)))
	built := e.command("", "/bin/sh", "-c", `cd "$0" && "$1" -B -c 'import build_offline, sys; print(build_offline.build_wheel(sys.argv[1]), build_offline.build_editable(sys.argv[2]))' "$2" "$3"`,
		scaffold, systemPython, filepath.Dir(e.dir), t.TempDir())
	e.unpack(filepath.Join(filepath.Dir(e.dir), strings.Fields(built)[0]))
	w.discovered("newlab.tasks.example_task")
	if out, errs, code := w.call("run", "--task", "newlab.tasks.example_task", "who=5"); out != "\"Hello 5!\"\n" || code != 0 {
		t.Errorf("%q %q %d", out, errs, code)
	}
	other := strings.TrimSpace(e.command("", binary, "tasks", "new", "--python", "asitis", filepath.Dir(e.dir)))
	w.configure("slots = 4", "python = "+e.dir, "plugins_enabled = asitis,labtasks", "plugin_load_path = "+other)
	w.discovered("asitis.tasks.example_task")
	if job := w.wait(w.callTask("asitis.tasks.example_task").ID); job.State != "succeeded" {
		t.Errorf("%+v", job)
	}
	tasks, err := w.client.Tasks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks.Tasks {
		if strings.HasPrefix(task.Name, "noisy.") {
			t.Errorf("%s is there, and not enabled", task.Name)
		}
	}
}

// TestPythonEdited: a module that is edited where it is installed is looked at again,
// also when that makes its package whole.
func TestPythonEdited(t *testing.T) {
	w, e := newPythonWorld(t)
	add := func(file, name string) {
		t.Helper()
		file = filepath.Join(e.site, "labtasks", file)
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, fmt.Appendf(text, "\n\n@app.task\ndef %s():\n    return %[1]q\n", name), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add("tasks.py", "another")
	w.discovered("labtasks.tasks.another")
	if job := w.wait(w.callTask("labtasks.tasks.another").ID); job.State != "succeeded" {
		t.Errorf("%+v", job)
	}
	class := filepath.Join(e.site, "labtasks", "__init__.py")
	text, err := os.ReadFile(class)
	if err == nil {
		err = os.WriteFile(class, append(text, "syntax error\n"...), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("the mistake is named", func() bool {
		tasks, err := w.client.Tasks(t.Context())
		return err == nil && strings.Contains(strings.Join(tasks.Problems, "\n"), "plugin labtasks: SyntaxError")
	})
	if err := os.WriteFile(class, text, 0o644); err != nil {
		t.Fatal(err)
	}
	w.eventually("it is mended", func() bool {
		tasks, err := w.client.Tasks(t.Context())
		return err == nil && len(tasks.Problems) == 0
	})
}

// TestPythonCelery: the real Celery client gets what a function returns and raises.
func TestPythonCelery(t *testing.T) {
	e := newPythonEnv(t)
	e.install("gwexample", "GWExamplePlugin", nil)
	e.install("labtasks", "LabPlugin", nil)
	w, c, _ := newCeleryWorld(t, 2)
	w.stop()
	w.allowPython()
	config, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.config, bytes.Replace(config, []byte("slots = 2"), []byte("slots = 2\npython = "+e.dir), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.discovered("gwexample.analyses.tasks.fibonacci", "labtasks.tasks.add")
	said := c.Run(t, `
from celery import signature
say(app.send_task('gwexample.analyses.tasks.fibonacci', [26]).get(timeout=90))
bad = app.send_task('labtasks.tasks.fail', ['broken'])
try:
    bad.get(timeout=90)
except ValueError as e:
    say([repr(e), 'tasks.py' in bad.traceback, bad.id])
say((signature('labtasks.tasks.add', (1, 2)) | signature('labtasks.tasks.add', (10,))).apply_async().get(timeout=90))
say(app.send_task('labtasks.tasks.third_time').get(timeout=90))
for retries in 1, 2, 7:
    r = app.send_task('labtasks.tasks.third_time', retries=retries)
    say([r.get(timeout=90), r.id])
try:
    app.send_task('labtasks.tasks.add', [1], {'wrong': 2}).get(timeout=90)
except TypeError as e:
    say(str(e))
`)
	for i, want := range []string{"121393", `["ValueError('broken', 42)", true, `, "13", "2", "[2, ", "[2, ", "[7, ", `"add() got an unexpected keyword argument`} {
		if !strings.HasPrefix(string(said[i]), want) {
			t.Errorf("result %d: %s, want %s", i, said[i], want)
		}
	}
	// What other workers have tried counts.
	for i, attempts := range []int{2, 1, 1} {
		var told []any
		decode(t, said[4+i], &told)
		if job := w.wait(told[1].(string)); job.Attempt != attempts {
			t.Errorf("%d attempts, want %d: %s", job.Attempt, attempts, said[4+i])
		}
	}
}

// TestPythonSlow: a task that waits in the broker at the daemon's start is known when
// it is taken, and stays known while its interpreter cannot be asked.
func TestPythonSlow(t *testing.T) {
	e := newPythonEnv(t)
	e.install("labtasks", "LabPlugin", nil)
	slow := filepath.Join(filepath.Dir(e.dir), "slow-python")
	text := []byte("#!/bin/sh\nsleep 4\nexec " + e.python() + " \"$@\"\n") // longer than the broker takes
	if err := os.WriteFile(slow, text, 0o755); err != nil {
		t.Fatal(err)
	}
	w, c, _ := newCeleryWorld(t, 2)
	w.stop()
	w.allowPython()
	config, err := os.ReadFile(w.config)
	if err == nil {
		err = os.WriteFile(w.config, bytes.Replace(config, []byte("slots = 2"), []byte("slots = 2\npython = "+slow), 1), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	var id string
	decode(t, c.Run(t, "say(app.send_task('labtasks.tasks.add', [1, 2]).id)")[0], &id)
	w.start()
	w.eventually("the task is taken", func() bool {
		_, err := w.client.Job(t.Context(), id)
		return err == nil
	})
	if job := w.wait(id); job.State != "succeeded" {
		t.Errorf("%+v", job)
	}

	if err := os.Rename(slow, slow+".away"); err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	troubled := func() bool {
		tasks, err := w.client.Tasks(t.Context())
		return err == nil && strings.Contains(strings.Join(tasks.Problems, "\n"), slow)
	}
	w.eventually("a failed look", troubled)
	w.discovered("labtasks.tasks.add")
	if err := os.Rename(slow+".away", slow); err != nil {
		t.Fatal(err)
	}
	w.eventually("another look", func() bool { return !troubled() })
	w.discovered("labtasks.tasks.add")
}

// TestPythonTrust: what others than root can change is not run, nor what policy does
// not grant; each refusal says what to do.
func TestPythonTrust(t *testing.T) {
	w, e := newPythonWorld(t)
	hello := func() (string, error) {
		doc := []byte(`{"task": "labtasks.tasks.hello", "args": []}`)
		job, err := w.client.Submit(t.Context(), doc)
		if err != nil {
			return "", err
		}
		return w.wait(job.ID).Error, nil
	}
	if text, err := hello(); text != "" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	// Between its discovery and the call.
	if err := os.Chmod(filepath.Dir(e.python()), 0o775); err != nil {
		t.Fatal(err)
	}
	if text, err := hello(); !strings.Contains(text, "chmod go-w "+filepath.Dir(e.python())) || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	// So it is for what it imports from by other ways, and for a file.
	for _, name := range []string{filepath.Join(e.site, "labtasks"), filepath.Dir(e.dir)} {
		if err := os.Chmod(name, 0o775); err != nil {
			t.Fatal(err)
		}
		if text, err := hello(); !strings.Contains(text, "chmod go-w "+name) || err != nil {
			t.Errorf("%q, %v", text, err)
		}
		if err := os.Chmod(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	problem := func(want string) {
		t.Helper()
		if err := w.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		w.eventually(want, func() bool {
			tasks, err := w.client.Tasks(t.Context())
			return err == nil && strings.Contains(strings.Join(tasks.Problems, "\n"), want)
		})
	}
	problem("chmod go-w " + filepath.Dir(e.python()))
	if err := os.Chmod(filepath.Dir(e.python()), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"labtasks/tasks.py", "gwexample/analyses"} {
		name = filepath.Join(e.site, name)
		fi, err := os.Stat(name)
		if err == nil {
			err = os.Chmod(name, fi.Mode()|0o020)
		}
		if err != nil {
			t.Fatal(err)
		}
		problem("chmod go-w " + name)
		if err := os.Chmod(name, fi.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	// Somebody's own directory among those that it imports from.
	theirs := filepath.Join(filepath.Dir(e.dir), "theirs")
	err := os.Mkdir(theirs, 0o755)
	if err == nil {
		err = os.Chown(theirs, personUID, memberGID)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(e.site, "editable.pth"), []byte(theirs+"\n"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	problem("none of its tasks is used, because of where it imports from: " + theirs + " can be changed by others than root")
	if text, err := hello(); !strings.Contains(fmt.Sprint(text, err), "unknown task") {
		t.Errorf("got %q, %v", text, err)
	}
	if err := os.Remove(filepath.Join(e.site, "editable.pth")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "etc", "no-policy.toml"), []byte("[socket]\npython = false\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.discovered("labtasks.tasks.hello")
	w.eventually("the policy is read", func() bool { return strings.Contains(w.stderr.String(), "Policy reloaded") })
	w.eventually("a refusal", func() bool {
		_, err = hello()
		return err != nil
	})
	var told *client.Error
	if !errors.As(err, &told) || told.Kind != apitype.KindForbidden || !strings.Contains(told.Text, "can allow it with python in a section of policy.toml") {
		t.Errorf("%T %v", err, err)
	}
}

// TestPythonFromQueue: without leave, nobody calls a function through RabbitMQ.
func TestPythonFromQueue(t *testing.T) {
	e := newPythonEnv(t)
	e.install("labtasks", "LabPlugin", nil)
	w, c, _ := newCeleryWorld(t, 2)
	w.stop()
	config, err := os.ReadFile(w.config)
	if err == nil {
		err = os.WriteFile(w.config, bytes.Replace(config, []byte("slots = 2"), []byte("slots = 2\npython = "+e.dir), 1), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.start()
	w.discovered("labtasks.tasks.add")
	var said string
	decode(t, c.Run(t, `
try:
    app.send_task('labtasks.tasks.add', [1, 2]).get(timeout=90)
except Exception as e:
    say(str(e))
`)[0], &said)
	if !strings.Contains(said, "python = true in [amqp] of policy.toml") {
		t.Errorf("got %q", said)
	}
}
