package daemon_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"girderworker/daemon/amqp/celerytest"
	"girderworker/daemon/policy/policytest"
	"girderworker/transforms/girder/girdertest"
)

// What the pages of Girder Worker's documentation show, and the ways in which each
// is tried:
//
//	prompt  a Python prompt with the wheels of contrib/python, on the Unix socket
//	celery  a Celery client, through RabbitMQ
//	girder  the same with a job in a Girder, as a Girder server makes it
//
// A program leaves the call's result in result; running(result) waits until it has
// written something, and cancels its job in Girder.
var documented = []struct {
	name, page string
	ways       []string
	program    string
	prints     string // of the program; in all ways the same
	state      string // of the job; empty: succeeded

	// In Girder.
	title, kind string // empty: those of a task that says nothing
	statuses    []int  // nil: running and succeeded
	log         string // it begins so; *: see also
	also        func(t *testing.T, g *girdertest.Server, job girdertest.Job)
}{
	{
		name: "hello", page: "Getting Started: Executing the Task", ways: everyWay,
		program: `
from gw_task_plugin.tasks import example_task
result = example_task.delay()
print(result.get(timeout=90))`,
		prints: "Hello World!\n", title: "Example Task",
	},
	{
		name: "fibonacci", page: "Plugins: Task Plugin from Scratch", ways: everyWay,
		program: `
from gwexample.analyses.tasks import fibonacci
result = fibonacci.delay(26)
print(result.get(timeout=90))`,
		prints: "121393\n",
	},
	{
		name: "time limit", page: "Plugins: Plugin Class", ways: everyWay,
		program: `
from limited.tasks import sleeps
result = sleeps.delay()
try:
    result.get(timeout=90)
except Exception as e:
    print(type(e).__name__)`,
		prints: "TimeLimitExceeded\n", state: "failed", statuses: []int{2, 4}, log: "*",
		also: func(t *testing.T, _ *girdertest.Server, job girdertest.Job) {
			// It may be over before Celery is imported.
			if log := strings.Join(job.Log, ""); !strings.Contains(log, "TimeLimitExceeded: over its time limit of 1s") {
				t.Errorf("log %q", log)
			}
		},
	},
	{
		name: "cancelable", page: "Plugins: Writing cancelable tasks", ways: everyWay,
		program: `
from my_worker_tasks import my_cancellable_task
result = my_cancellable_task.delay()
running(result)
result.revoke()`,
		state: "canceled", statuses: []int{2, 824, 5}, log: "working\ncleaned up\n",
	},
	{
		name: "ignored", page: "Celery, Tasks: Ignore", ways: everyWay,
		program: `
from my_worker_tasks.tasks import declines
result = declines.delay('ignore')
result.get(timeout=90, propagate=False)`,
		state: "canceled", statuses: []int{2, 5}, log: "Ignore: nothing to do\n",
	},
	{
		name: "rejected", page: "Celery, Tasks: Reject", ways: everyWay,
		program: `
from my_worker_tasks.tasks import declines
result = declines.delay('reject')
result.get(timeout=90, propagate=False)`,
		state: "canceled", statuses: []int{2, 5}, log: "Reject: not here\n",
	},
	{
		name: "requeued", page: "Celery, Tasks: Reject", ways: everyWay,
		program: `
from my_worker_tasks.tasks import declines
result = declines.delay('requeue')
print(result.get(timeout=90))`,
		prints: "1\n", log: "Reject: later\n",
	},
	{
		name: "arguments", page: "Using Girder Worker with Girder: Running tasks as Girder jobs", ways: everyWay,
		program: `
from my_worker_tasks import my_task
result = my_task.delay(1, [2.5, None], kwarg1='hello', kwarg2='world')
print(result.get(timeout=90))`,
		prints: "[1, [2.5, None], 'hello', 'world']\n",
	},
	{
		name: "fields", page: "Using Girder Worker with Girder: Running tasks as Girder jobs", ways: everyWay,
		program: `
from my_worker_tasks import my_task
result = my_task.delay(girder_job_title='This is my job', girder_job_type='my_task', girder_job_public=True,
                       girder_job_other_fields={'meta': {'special_key': 'Special Value'}})
print(result.get(timeout=90))`,
		prints: "[None, None, None, None]\n", title: "This is my job", kind: "my_task",
		also: func(t *testing.T, _ *girdertest.Server, job girdertest.Job) {
			if fmt.Sprint(job.Other["meta"]) != "map[special_key:Special Value]" || !job.Public {
				t.Errorf("%+v", job)
			}
		},
	},
	{
		name: "job", page: "Using Girder Worker with Girder: Running tasks as Girder jobs", ways: []string{"prompt"},
		program: `
from my_worker_tasks import my_task
result = my_task.delay(girder_job_title='This is my job', girder_job_type='my_task', girder_job_other_fields={'meta': {'special_key': 'Special Value'}})
job = result.job
print(job['title'], job['type'], job['meta'])`,
		prints: "This is my job my_task {'special_key': 'Special Value'}\n",
	},
	{
		name: "output", page: "Using Girder Worker with Girder: Running tasks as Girder jobs", ways: everyWay,
		program: `
from my_worker_tasks.tasks import tells
result = tells.delay()
print(result.get(timeout=90))`,
		prints: "None\n", log: "*",
		also: func(t *testing.T, _ *girdertest.Server, job girdertest.Job) {
			log := strings.Join(job.Log, "")
			if want := []string{"printed", "told", "written"}; !slices.Equal(slices.Sorted(slices.Values(strings.Fields(log))), want) {
				t.Errorf("log %q", log) // standard output and error are read side by side
			}
			if p := job.Progress; p == nil || *p != (girdertest.Progress{Total: 4, Current: 3, Message: "three"}) {
				t.Errorf("progress %+v", p)
			}
		},
	},
	{
		name: "failing", page: "Using Girder Worker with Girder: Running tasks as Girder jobs", ways: everyWay,
		program: `
from my_worker_tasks.tasks import failing
result = failing.delay('broken')
try:
    result.get(timeout=90)
except ValueError as e:
    print(repr(e), 'tasks.py' in result.traceback)`,
		prints: "ValueError('broken') True\n", state: "failed", statuses: []int{2, 4}, log: "before it fails\nValueError: broken\n  File \"",
		also: func(t *testing.T, _ *girdertest.Server, job girdertest.Job) {
			if log := strings.Join(job.Log, ""); strings.Count(log, "ValueError: broken\n") != 1 || !strings.Contains(log, "raise ValueError(text)") {
				t.Errorf("log %q", log)
			}
		},
	},
	{
		name: "file", page: "Using Girder Worker with Girder: Downloading files from Girder for use in tasks", ways: everyWay,
		program: `
from girder_worker_utils.transforms.girder_io import GirderFileId
from my_worker_tasks import my_task
result = my_task.delay(input_file=GirderFileId(os.environ['FILE'], gc=girder()))
print(result.get(timeout=90))`,
		prints: "a scan\n",
	},
	{
		name: "upload", page: "girder_worker_utils: result hooks", ways: everyWay,
		program: `
from girder_worker_utils.transforms.girder_io import GirderFileId, GirderUploadToFolder
from my_worker_tasks.tasks import copy
result = copy.delay(GirderFileId(os.environ['FILE'], gc=girder()), girder_result_hooks=[GirderUploadToFolder(os.environ['FOLDER'], gc=girder())])
print(result.get(timeout=90) == os.environ['FOLDER'])`,
		prints: "True\n",
	},
	{
		name: "client", page: "girder_worker.task: the client of Girder that a task has", ways: []string{"girder"},
		program: `
from my_worker_tasks.tasks import asks_girder
result = asks_girder.delay()
print(result.get(timeout=90))`,
		prints: "3.2.9\n",
	},
	{
		name: "worker_handler", page: "Girder's jobs: a job with celeryTaskName", ways: []string{"girder"},
		program: `
import uuid
from girder_worker.app import app
id = str(uuid.uuid4())
job = new_job(id, title='Legacy', type='legacy', handler='worker_handler', other={'celeryTaskName': 'my_worker_tasks.tasks.my_task'})
result = app.send_task(job['celeryTaskName'], [1, 2], {'kwarg1': 'hello'}, task_id=id, headers={'jobInfoSpec': job['jobInfoSpec'], 'apiUrl': API})
print(result.get(timeout=90))`,
		prints: "[1, 2, 'hello', None]\n", title: "Legacy", kind: "legacy",
	},
	{
		name: "session", page: "Using Girder Worker with Girder: Customizing communication back to Girder server", ways: everyWay,
		program: `
from my_worker_tasks import my_task
result = my_task.apply_async((), {'girder_client_session_kwargs': {'headers': {'x-test': 'true'}}})
print(result.get(timeout=90))`,
		prints: "[None, None, None, None]\n",
		also: func(t *testing.T, g *girdertest.Server, job girdertest.Job) {
			for _, call := range g.Calls("PUT /job/{id}") {
				if strings.HasSuffix(call.Path, job.ID) && call.Header.Get("X-Test") != "true" {
					t.Errorf("%+v", call)
				}
			}
		},
	},
	{
		name: "chain", page: "Celery's own: a task after another", ways: everyWay,
		program: `
from my_worker_tasks.tasks import add
result = (add.s(1, 2) | add.s(10)).delay()
print(result.get(timeout=90), result.parent.get(timeout=90))`,
		prints: "13 3\n",
		also: func(t *testing.T, g *girdertest.Server, job girdertest.Job) {
			if parent := g.Job(job.Parent); parent.Status != 3 || parent.Other["celeryTaskId"] != job.Other["celeryParentTaskId"] {
				t.Errorf("%+v has the parent %+v", job, parent)
			}
		},
	},
	{
		name: "retries", page: "Celery's own: the ways to have a task tried again", ways: everyWay,
		program: `
from my_worker_tasks import retries as r
calls = [r.raised.delay(), r.called.delay(), r.exceeds.delay(), r.gives_up.delay(), r.more.delay(), r.endless.delay(), r.at.delay(True), r.at.delay(False),
         r.same.delay(1, b=2), r.others.delay(1), r.by_itself.delay(), r.backs_off.delay(), r.both.delay(), r.of_class.delay(), r.as_function.delay()]
for result in calls:
    try:
        print(result.get(timeout=90))
    except Exception as e:
        print(type(e).__name__ + ':', str(e).replace(result.id, 'ID'))
result = r.goes_on.delay()
print(result.get(timeout=90))`,
		prints: `2
1
MaxRetriesExceededError: Can't retry my_worker_tasks.retries.exceeds[ID]: it has been tried 2 times
OSError: after 1
3
5
1
1
[1, 2]
ValueError: my_worker_tasks.retries.others cannot be retried with other args, queue here; have its caller call it anew
OSError: again
1
1
2
gives_up itself raised after 0
1
`,
		log: "goes on after a Retry\n",
	},
	{
		name: "another", page: "Celery's own: a task that starts another", ways: everyWay,
		program: `
from my_worker_tasks.tasks import starts_another
result = starts_another.delay()
try:
    print(result.get(timeout=90))
except RuntimeError as e:
    print(str(e).partition(', which')[0], '; have the caller put them together' in str(e))`,
		prints: "my_worker_tasks.tasks.add cannot be started from within a task True\n", state: "failed", statuses: []int{2, 4}, log: "RuntimeError: my_worker",
	},
	{
		name: "request", page: "Celery's own: what a task knows of its call", ways: everyWay,
		program: `
from my_worker_tasks.tasks import request
result = request.delay(1, two='2')
r = result.get(timeout=90)
print(r.pop('id') == result.id, r.pop('host').startswith('celery@'), sorted(r.items()))`,
		prints: "True True [('args', [1]), ('directly', False), ('kwargs', {'two': '2'}), ('retries', 0), ('task', 'my_worker_tasks.tasks.request')]\n",
	},
}

// runs is the beginning of a command that runs a program.
func (e *pythonEnv) runs() []string { return []string{e.python(), "-I", "-B", "-c"} }

var everyWay = []string{"prompt", "celery", "girder"}

// documentedPackages have the tasks of the table, each with its plugin's class.
var documentedPackages = map[string]string{
	"gw_task_plugin": "GwTaskPlugin", "gwexample": "GWExamplePlugin", "limited": "Limited", "my_worker_tasks": "MyWorkerTasks",
}

// beforeAll begins every program, and asGirder does after it where there is a Girder.
const (
	beforeAll = `
import os, sys
def girder():
    try:
        from girder_client import GirderClient
    except ImportError:
        return None  # the one that the environment names
    gc = GirderClient(apiUrl=os.environ['GIRDER_API_URL'])
    gc.token = os.environ['GIRDER_TOKEN']
    return gc
def running(result):
    print('running', result.id, flush=True)
    sys.stdin.readline()
`
	asGirder = `
import json, os, urllib.parse, urllib.request
from celery.signals import before_task_publish
API, TOKEN = os.environ['API'], os.environ['TOKEN']
def new_job(id, other=None, **fields):
    fields['otherFields'] = json.dumps({'celeryTaskId': id, **(other or {})})
    request = urllib.request.Request(API + '/job', urllib.parse.urlencode(fields).encode(), {'Girder-Token': TOKEN})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)
def publish(headers=None, **kwargs):
    if 'jobInfoSpec' not in headers:
        fields = {k: headers.get('girder_job_' + k) for k in ('title', 'type', 'handler', 'public')}
        headers['jobInfoSpec'] = new_job(headers['id'], headers['girder_job_other_fields'], **fields)['jobInfoSpec']
    headers['girder_api_url'], headers['girder_client_token'] = API, TOKEN
before_task_publish.connect(publish, weak=False)
`
)

// TestPythonDocumentation: tasks in an environment with the wheels.
func TestPythonDocumentation(t *testing.T) {
	e, callers := newPythonEnv(t), newCallers(t)
	for name, class := range documentedPackages {
		e.install(name, class, nil)
	}
	testDocumented(t, e.dir, "", map[string][]string{"prompt": e.runs(), "celery": callers.runs(), "girder": callers.runs()})
}

// TestPythonDocumentationCelery: tasks in an environment with a Girder Worker on
// Celery, as Kitware's is.
func TestPythonDocumentationCelery(t *testing.T) {
	e := newCeleryEnv(t)
	for name, class := range documentedPackages {
		e.install(name, class, nil)
	}
	testDocumented(t, e.dir, "", map[string][]string{"girder": newCallers(t).runs()})
}

// newCallers is an environment that has the packages for their callers: Celery's
// application has no config, by which the documentation's plugin class calls its conf.
func newCallers(t *testing.T) *pythonEnv {
	e := newCeleryEnv(t)
	for name := range documentedPackages {
		e.install(name, "", nil)
	}
	return e
}

// TestPythonDocumentationReal: tasks in an environment with Kitware's Girder Worker.
func TestPythonDocumentationReal(t *testing.T) {
	python := os.Getenv("GIRDER_WORKER_REAL")
	if python == "" {
		t.Skip("GIRDER_WORKER_REAL names no Python interpreter that can import Kitware's girder_worker")
	}
	// Nothing is installed there.
	dir := policytest.RootsDir(t)
	for name := range documentedPackages {
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(filepath.Join("testdata", "python", name))); err != nil {
			t.Fatal(err)
		}
	}
	run := []string{python, "-I", "-B", "-c", "import logging, sys; logging.disable(logging.WARNING); sys.path.insert(0, " + fmt.Sprintf("%q", dir) + "); exec(sys.argv[1])"}
	testDocumented(t, python, dir, map[string][]string{"celery": run, "girder": run})
}

// testDocumented runs what the ways, each with its interpreter, have in the table.
func testDocumented(t *testing.T, interpreter, path string, ways map[string][]string) {
	vhost := rabbit.Vhost(t)
	url := "amqp://guest:guest@" + rabbit.Addr() + "/" + vhost
	g := girdertest.New(t, girdertest.Config{})
	user := g.AddUser(false)
	token := g.AddToken(user, girdertest.ScopeCreateJob)
	data := g.AddToken(user, girdertest.ScopeRead, girdertest.ScopeWrite)
	folder, results := g.AddFolder(user, "data"), g.AddFolder(user, "results")
	file := g.AddFile(g.AddItem(folder, "scan"), "scan.txt", []byte("a scan"))
	w := newWorld(t)
	w.stop()
	w.allowPython()
	lines := []string{"slots = 4", "python = " + interpreter}
	if path != "" {
		lines = append(lines, "plugin_load_path = "+path)
	}
	w.configure(append(lines, "[celery]", "broker = "+url, "hostname = celery@test")...)
	w.start()
	w.discovered("gw_task_plugin.tasks.example_task", "gwexample.analyses.tasks.fibonacci", "limited.tasks.sleeps", "my_worker_tasks.tasks.my_task")
	socket := w.socket()
	t.Run("all", func(t *testing.T) {
		for _, d := range documented {
			for way, command := range ways {
				if !slices.Contains(d.ways, way) {
					continue
				}
				t.Run(d.name+"/"+way, func(t *testing.T) {
					t.Parallel()
					w := &world{t: t, config: w.config, client: w.client, stderr: w.stderr} // whose failures are this test's
					program := beforeAll + d.program + "\nprint(result.id)\n"
					env := []string{
						"GIRDER_WORKER_SOCKET=" + socket, "GIRDER_WORKER_BROKER=" + url, "GIRDER_WORKER_BACKEND=rpc://",
						"API=" + g.API(), "TOKEN=" + token, "GIRDER_API_URL=" + g.API(), "GIRDER_TOKEN=" + data, "FILE=" + file, "FOLDER=" + results, "HOME=/nonexistent",
					}
					if way == "girder" {
						program = asGirder + program
					}

					prints, id := w.caller(t, g, way, env, append(slices.Clone(command), program), func(id string) string {
						if way == "prompt" { // a person's ids are their own
							id += fmt.Sprintf(".%d", personUID)
						}
						return id
					})
					job := w.wait(id)
					want := d.state
					if want == "" {
						want = "succeeded"
					}
					if prints != d.prints || job.State != want {
						t.Errorf("printed %q, want %q; the job: %s %s", prints, d.prints, job.State, job.Reason)
					}
					if way != "girder" {
						return
					}
					var in girdertest.Job
					w.eventually("Girder knows of the end", func() bool {
						in, _ = g.JobOf(id)
						return in.Status >= 3 && in.Status <= 5
					})
					statuses := d.statuses
					if statuses == nil {
						statuses = []int{2, 3}
					}
					var told []int
					for _, s := range in.Timestamps {
						if s.Status != 1 { // it may have waited
							told = append(told, s.Status)
						}
					}
					if !slices.Equal(told, statuses) {
						t.Errorf("statuses %v, want %v", told, statuses)
					}
					if log := strings.Join(in.Log, ""); d.log != "*" && (!strings.HasPrefix(log, d.log) || d.log == "" && log != "") {
						t.Errorf("log %q, want %q", log, d.log)
					}
					if d.title != "" && in.Title != d.title || d.kind != "" && in.Type != d.kind {
						t.Errorf("it is %q of the type %q", in.Title, in.Type)
					}
					if d.also != nil {
						d.also(t, g, in)
					}
				})
			}
		}
	})
}

// caller runs a program, and returns what it printed but its last line, which is
// the job's id; shown is that as an admin sees it.
func (w *world) caller(t *testing.T, g *girdertest.Server, way string, env, command []string, shown func(string) string) (prints, id string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Env, cmd.Dir = append(env, "LANG=C.UTF-8"), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: personUID, Gid: memberGID, Groups: []uint32{memberGID}}}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for scan := bufio.NewScanner(out); scan.Scan(); {
		line := scan.Text()
		id, asks := strings.CutPrefix(line, "running ")
		if !asks {
			lines = append(lines, line)
			continue
		}
		w.eventually("it is there", func() bool { _, err := w.client.Job(t.Context(), shown(id)); return err == nil })
		w.printed(shown(id), "working")
		if way == "girder" {
			job, _ := g.JobOf(id)
			if err := g.CancelJob(job.ID); err != nil {
				t.Error(err)
			}
		}
		fmt.Fprintln(in)
	}
	if err := cmd.Wait(); err != nil || len(lines) == 0 {
		t.Fatalf("the program failed: %v\n%s\n%s\n%s", err, strings.Join(lines, "\n"), stderr.String(), w.stderr)
	}
	last := len(lines) - 1
	if last > 0 {
		prints = strings.Join(lines[:last], "\n") + "\n"
	}
	return prints, shown(lines[last])
}

// TestPythonElsewhere: api_url is for what a function calls, too; of this machine's
// services it reaches its own Girder and no other.
func TestPythonElsewhere(t *testing.T) {
	e := newPythonEnv(t)
	e.install("my_worker_tasks", "MyWorkerTasks", nil)
	g, other := girdertest.New(t, girdertest.Config{}), girdertest.New(t, girdertest.Config{})
	vhost := rabbit.Vhost(t)
	url := "amqp://guest:guest@" + rabbit.Addr() + "/" + vhost
	c := celerytest.New(t, url)
	w := newWorld(t)
	w.stop()
	policy := filepath.Join(w.dir, "etc", "policy.toml")
	if err := os.WriteFile(policy, []byte("[amqp]\npython = true\n[socket]\ntransfers = [\"*\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.configure("slots = 4", "python = "+e.dir, "policy_file = "+policy, "api_url = http://girder.invalid/api/v1="+g.API(), "[celery]", "broker = "+url, "hostname = celery@test")
	w.start()
	w.discovered("my_worker_tasks.tasks.my_task")
	fileOn := func(g *girdertest.Server) (id, token string) {
		user := g.AddUser(false)
		return g.AddFile(g.AddItem(g.AddFolder(user, "data"), "scan"), "scan.txt", []byte("a scan")), g.AddToken(user, girdertest.ScopeRead)
	}
	file, token := fileOn(g)
	otherFile, otherToken := fileOn(other)
	job, jobToken := g.AddJob(g.AddUser(false), "celery_handler")
	said := c.Run(t, fmt.Sprintf(`
API, JOB, TOKEN = 'http://girder.invalid/api/v1', %q, %q
def file(api, id, token):
    return {'py/object': 'girder_worker_utils.transforms.girder_io.GirderFileId', 'file_id': id,
            'gc': {'py/object': 'girder_client.GirderClient', 'urlBase': api + '/', 'token': token}}
def send(name, kwargs={}, **headers):
    r = app.send_task('my_worker_tasks.tasks.' + name, kwargs=kwargs, headers={'girder_api_url': API, 'girder_client_token': 'x', **headers})
    try:
        say(r.get(timeout=90))
    except Exception as e:
        say(repr(e))
send('my_task', {'input_file': file(API, %q, %q)}, jobInfoSpec={'method': 'PUT', 'url': API + '/job/' + JOB, 'reference': JOB, 'logPrint': True, 'headers': {'Girder-Token': TOKEN}})
send('asks_girder')
send('my_task', {'input_file': file(%q, %q, %q)})
`, job, jobToken, file, token, other.API(), otherFile, otherToken))
	if string(said[0]) != `"a scan"`+"\n" || string(said[1]) != `"3.2.9"`+"\n" || !strings.Contains(string(said[2]), "URLError") {
		t.Errorf("said %s", said)
	}
	w.eventually("the job is told", func() bool { return g.Job(job).Status == 3 })

	// A person's call reaches what their transfers may.
	program := fmt.Sprintf(`
from girder_worker_utils._girder import GirderClient
from girder_worker_utils.transforms.girder_io import GirderFileId
from my_worker_tasks import my_task
gc = GirderClient(apiUrl=%q)
gc.token = %q
print(my_task.delay(input_file=GirderFileId(%q, gc=gc)).get(timeout=90, propagate=False))`, other.API(), otherToken, otherFile)
	if got := w.prompt(t, e, personUID, program); !strings.Contains(got, "urlopen error") {
		t.Errorf("without local transfers: %s", got)
	}
	if calls := other.Calls(""); len(calls) > 0 {
		t.Errorf("the other server was asked: %+v", calls)
	}
}
