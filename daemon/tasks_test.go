package daemon_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"girderworker/daemon/amqp/celerytest"
	"girderworker/daemon/apitype"
	"girderworker/transforms/girder/girdertest"
)

// tasksDir is where a world has its task files.
func (w *world) tasksDir() string { return cmp.Or(w.tasks, filepath.Join(w.dir, "etc", "tasks.d")) }

// task writes a task file, as an editor does: beside it, then over it.
func (w *world) task(name, text string) {
	w.t.Helper()
	if err := os.MkdirAll(w.tasksDir(), 0o755); err != nil {
		w.t.Fatal(err)
	}
	aside := filepath.Join(w.tasksDir(), "."+name)
	if err := os.WriteFile(aside, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(aside, filepath.Join(w.tasksDir(), name)); err != nil {
		w.t.Fatal(err)
	}
}

// examples are the task files of contrib.
func (w *world) examples() {
	w.t.Helper()
	files, err := filepath.Glob("../contrib/tasks/*.toml")
	if err != nil || len(files) == 0 {
		w.t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			w.t.Fatal(err)
		}
		w.task(filepath.Base(file), string(data))
	}
}

func newTaskWorld(t *testing.T, lines ...string) *world {
	t.Helper()
	w := newWorld(t)
	w.stop()
	w.examples()
	w.configure(lines...)
	w.start()
	return w
}

// call runs the command line as root and gives what it wrote, and its exit code.
func (w *world) call(args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), "GIRDER_WORKER_SOCKET="+w.socket())
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), errs.String(), exit.ExitCode()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return out.String(), errs.String(), 0
}

// TestTaskExamples runs the files of contrib, from the command line.
func TestTaskExamples(t *testing.T) {
	w := newTaskWorld(t, "slots = 2")
	dir := w.shared()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a.txt", "hello\n")
	write("1.tif", "")
	if out, errs, code := w.call("run", "--task", "lab.hello", "who={you}; exit 3 $(id)"); out != "Hello, {you}; exit 3 $(id)!\n" || code != 0 {
		t.Errorf("hello: %q %q %d", out, errs, code)
	}
	sums := filepath.Join(dir, "sums")
	if out, errs, code := w.call("run", "--task", "lab.checksum", "file="+filepath.Join(dir, "a.txt"), "sums="+sums, "algorithm=md5sum"); code != 0 {
		t.Errorf("checksum: %q %q %d", out, errs, code)
	}
	if got, err := os.ReadFile(sums); !strings.HasPrefix(string(got), "b1946ac92492d2347c6235b4d2611184  /mnt/girder_worker/args/file/a.txt\n") {
		t.Errorf("the sums are %q (%v)", got, err)
	}
	out, errs, code := w.call("run", "--task", "lab.segment", "slide="+filepath.Join(dir, "1.tif"), "result="+filepath.Join(dir, "mask"), "sigma=1.5", "fill=false", "region=0,0,5,5")
	if out != "--sigma=1.5 --region 0.0,0.0,5.0,5.0 /mnt/girder_worker/args/slide/1.tif /mnt/girder_worker/pipes/result\n" || code != 0 {
		t.Errorf("segment: %q %q %d", out, errs, code)
	}
	if _, errs, code := w.call("run", "--task", "lab.segment", "sigma=51", "thread=2"); code != 125 ||
		!strings.Contains(errs, "thread: there is no such parameter") || !strings.Contains(errs, "slide: missing") || !strings.Contains(errs, "sigma: \"51\" is out of range; it must be a number from 0 to 50") {
		t.Errorf("bad arguments: %q %d", errs, code)
	}
	// The scaffold runs at once.
	if out, errs, code := w.call("tasks", "new", "lab.new", w.tasksDir()); code != 0 {
		t.Fatalf("new: %q %q", out, errs)
	}
	w.eventually("the new task is there", func() bool { _, err := w.client.Task(t.Context(), "lab.new"); return err == nil })
	if out, errs, code := w.call("run", "--task", "lab.new", "who=you", "times=2", "loud=true"); out != "Hello you!\nHello you!\n" || code != 0 {
		t.Errorf("the new task: %q %q %d", out, errs, code)
	}
}

// TestTaskFiles: files come, go bad and go away while jobs run; each job keeps to what
// it was accepted as.
func TestTaskFiles(t *testing.T) {
	w := newTaskWorld(t, "slots = 2")
	const text = "name = \"lab.wait\"\nimage = \"busybox\"\nargs = [\"sh\", \"-c\", \"echo %s; until [ -e /mnt/go ]; do usleep 10000; done; echo end\"]\nbinds = [{source = %q, target = \"/mnt\"}]\n"
	dir := w.shared()
	w.task("wait.toml", fmt.Sprintf(text, "one", dir))
	there := func(name string) bool { _, err := w.client.Task(t.Context(), name); return err == nil }
	w.eventually("the task comes", func() bool { return there("lab.wait") })
	submit := func() apitype.Job {
		t.Helper()
		job, err := w.client.Submit(t.Context(), []byte(`{"task": "lab.wait"}`))
		if err != nil {
			t.Fatal(err)
		}
		return job
	}
	one := submit()
	w.printed(one.ID, "one")
	w.task("wait.toml", fmt.Sprintf(text, "two", dir))
	two := apitype.Job{}
	w.eventually("the task is another", func() bool {
		two = submit()
		doc := string(w.job(two.ID).Document)
		if strings.Contains(doc, "echo two") {
			return true
		}
		if _, err := w.client.Cancel(t.Context(), two.ID, ""); err != nil {
			t.Fatal(err)
		}
		return false
	})
	w.printed(two.ID, "two")
	three := submit() // it waits for a slot
	w.task("wait.toml", "name = \"lab.wait\"\nimage = [\n")
	w.task("other.toml", "name = \"lab.other\"\nimage = \"busybox\"\n")
	w.eventually("the task is gone, and another one there", func() bool { return !there("lab.wait") && there("lab.other") })
	all, err := w.client.Tasks(t.Context())
	if err != nil || len(all.Problems) != 1 || !strings.Contains(all.Problems[0], "wait.toml:2:") {
		t.Errorf("the problems are %q, %v", all.Problems, err)
	}
	w.eventually("the problem is told", func() bool { return strings.Contains(w.stderr.String(), "wait.toml:2:") })
	if log := w.stderr.String(); strings.Count(log, "wait.toml:2:") != 1 {
		t.Errorf("the problem is told %d times:\n%s", strings.Count(log, "wait.toml:2:"), log)
	}
	if st, err := w.client.Status(t.Context()); err != nil || !strings.Contains(strings.Join(st.Warnings, " "), "wait.toml:2:") {
		t.Errorf("status warns of %q, %v", st.Warnings, err)
	}
	if _, errs, _ := w.call("tasks"); !strings.Contains(errs, "wait.toml:2:") {
		t.Errorf("the command line says %q", errs)
	}
	// A directory that goes and comes back is seen again.
	aside := w.tasksDir() + ".aside"
	if err := os.Rename(w.tasksDir(), aside); err != nil {
		t.Fatal(err)
	}
	w.eventually("all are gone", func() bool { return !there("lab.other") && !there("lab.hello") })
	if err := os.Rename(aside, w.tasksDir()); err != nil {
		t.Fatal(err)
	}
	w.eventually("they are back", func() bool { return there("lab.other") && there("lab.hello") })
	w.task("late.toml", "name = \"lab.late\"\nimage = \"busybox\"\n")
	w.eventually("a later one comes", func() bool { return there("lab.late") })

	// A daemon that starts anew goes on with what it accepted.
	w.stop()
	w.start()
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, job := range []apitype.Job{one, two, three} {
		if job = w.wait(job.ID); job.State != "succeeded" || job.Task != "lab.wait" {
			t.Errorf("%+v", job)
		}
	}
	// A retry needs no task either.
	again, err := w.client.Retry(t.Context(), one.ID)
	if err != nil {
		t.Fatal(err)
	}
	if job := w.wait(again.ID); job.State != "succeeded" || job.Task != "lab.wait" || w.log(again.ID) != "one\nend\n" {
		t.Errorf("again: %+v", job)
	}
}

// TestTaskPolicy: a task file grants nothing.
func TestTaskPolicy(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.examples()
	policy := filepath.Join(w.dir, "etc", "policy.toml")
	if err := os.WriteFile(policy, []byte("[socket]\nimages = [\"other*\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.configure("slots = 1", "policy_file = "+policy)
	w.start()
	if _, err := w.client.Submit(t.Context(), []byte(`{"task": "lab.hello", "kwargs": {"who": "you"}}`)); err == nil || !strings.Contains(err.Error(), "image") {
		t.Errorf("got %v", err)
	}
}

// TestCeleryTasks: Girder and others ask for tasks through RabbitMQ, with values and
// with what docker_run takes, and get their ends as docker_run's.
func TestCeleryTasks(t *testing.T) {
	vhost := rabbit.Vhost(t)
	url := "amqp://guest:guest@" + rabbit.Addr() + "/" + vhost
	w, c := newWorld(t), celerytest.New(t, url)
	w.stop()
	w.examples()
	w.task("show.toml", `name = "lab.show"
image = "busybox"
entrypoint = ["sh", "-c", 'echo "$1"; cat "$0"; cp "$0" "$2"; exit "$3"']
args = ["{file}", "{text}", "{out}", "{code}"]
[[parameters]]
name = "file"
type = "file"
[[parameters]]
name = "text"
type = "string"
[[parameters]]
name = "out"
type = "new-file"
[[parameters]]
name = "code"
type = "integer"
default = 0
max = 9
[girder_job]
title = "Shown"
type = "show"
`)
	w.configure(fmt.Sprintf("slots = 2\n[celery]\nbroker = %s\nhostname = celery@test\n", url))
	w.start()
	if log := w.stderr.String(); !strings.Contains(log, "lab.show") {
		t.Errorf("the banner lacks the task:\n%s", log)
	}
	g := girdertest.New(t, girdertest.Config{})
	user := g.AddUser(false)
	token := g.AddToken(user, girdertest.ScopeRead, girdertest.ScopeWrite)
	folder := g.AddFolder(user, "data")
	file := g.AddFile(g.AddItem(folder, "scan"), "scan.txt", []byte("a scan\n"))
	legacy, jobToken := g.AddJob(user, "worker_handler")
	spec, err := json.Marshal(map[string]any{
		"method": "PUT", "url": g.API() + "/job/" + legacy, "reference": legacy, "logPrint": true, "headers": map[string]any{"Girder-Token": jobToken},
	})
	if err != nil {
		t.Fatal(err)
	}
	create := g.AddToken(user, girdertest.ScopeCreateJob)
	said := c.Run(t, script+fmt.Sprintf(`
import json
D = 'girder_worker.docker.transforms.'
gc = {'py/object': 'girder_client.GirderClient', 'urlBase': %[1]q, 'token': %[2]q}
default = {'py/object': D + '_DefaultTemporaryVolume'}
fetched = {'py/object': D + 'girder.GirderFileIdToVolume', '_file_id': %[3]q, '_filename': None, '_file_path': None, '_volume': default, 'gc': gc}
out = {'py/object': D + 'VolumePath', 'filename': 'out.txt', '_volume': default}
hook = {'py/object': D + 'girder.GirderUploadVolumePathToFolder', 'folder_id': %[4]q, 'upload_kwargs': {}, 'delete_file': False, 'must_exist': True, 'gc': gc, '_volumepath': out}
def show(*args, **kw):
    options = kw.pop('options', {})
    return app.send_task('lab.show', args=args, kwargs=kw, **options)
say(app.control.inspect(timeout=30, limit=1).registered()['celery@test'])
results = [
    show(fetched, text='{scan}', out=out, options=dict(headers={'girder_result_hooks': [hook]})),
    show(fetched, 'x', out, code=7),
    show(fetched, 'x', out, 'many', nothing=1),
    show('6b00f0cb9508e6951c974251', 'x', out),
    app.send_task('lab.missing'),
    app.send_task('lab.hello', kwargs={'who': 'Girder'}, headers={'jobInfoSpec': json.loads(%[5]q), 'apiUrl': %[1]q}),
]
for r in results:
    try:
        said = r.get(timeout=90)
    except Exception as e:
        said = [type(e).__name__, str(e)]
    say([r.id, said])
from celery import chain, signature
r = chain(signature('lab.hello', kwargs={'who': 'a'}, immutable=True), signature('lab.show', kwargs={'file': fetched, 'text': 't', 'out': out}, immutable=True)).apply_async(
    headers={'girder_api_url': %[1]q, 'girder_client_token': %[6]q})
r.get(timeout=90)
`, g.API(), token, file, folder, spec, create))
	var registered []string
	decode(t, said[0], &registered)
	if s := strings.Join(registered, " "); !strings.Contains(s, "lab.hello") || !strings.Contains(s, "lab.show") || !strings.Contains(s, "docker_run") {
		t.Errorf("registered are %q", s)
	}
	for i, want := range []struct{ says, log string }{
		{`null`, "{scan}\na scan\n"},
		{`["DockerException", "Non-zero exit code from docker container (7)."]`, "x\na scan\n"},
		{`code: \"many\" is not a whole number; it must be a whole number of at most 9`, ""},
		{`an argument is an id in Girder, and nothing says which server`, ""},
		{`["NotRegistered"`, ""},
		{`null`, "Hello, Girder!\n"},
	} {
		var pair []json.RawMessage
		decode(t, said[1+i], &pair)
		var id string
		decode(t, pair[0], &id)
		if !strings.Contains(string(pair[1]), want.says) {
			t.Errorf("result %d is %s, want %s", i, pair[1], want.says)
		}
		job := w.wait(id)
		if log := ""; want.log != "" {
			if log = w.log(id); log != want.log {
				t.Errorf("the log of %d is %q, want %q", i, log, want.log)
			}
		}
		if strings.Contains(string(job.Document), token) || strings.Contains(job.Reason, token) {
			t.Errorf("job %d tells the token: %+v", i, job)
		}
		if i == 2 && !strings.Contains(job.Reason, "nothing: there is no such parameter") {
			t.Errorf("not every mistake is named: %s", job.Reason)
		}
	}
	w.eventually("the job is told to Girder", func() bool {
		return g.Job(legacy).Status == 3 && strings.Contains(strings.Join(g.Job(legacy).Log, ""), "Hello, Girder!")
	})
	w.eventually("the upload is there", func() bool { return len(g.Calls("POST /file")) > 0 })
	made := g.Calls("POST /job")
	if len(made) != 1 || made[0].Form["title"][0] != "Shown" || made[0].Form["type"][0] != "show" {
		t.Errorf("jobs made for the chain: %+v", made)
	}
}
