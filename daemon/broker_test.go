package daemon_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"girderworker/daemon/amqp/celerytest"
	"girderworker/daemon/amqp/rabbittest"
	"girderworker/daemon/apitype"
	"girderworker/transforms/girder/girdertest"
)

var rabbit rabbittest.Broker // stopped by TestMain

// newCeleryWorld is a daemon that takes tasks from a RabbitMQ, and the real
// Celery client that sends them.
func newCeleryWorld(t *testing.T, slots int) (*world, *celerytest.Client, string) {
	t.Helper()
	vhost := rabbit.Vhost(t)
	url := "amqp://guest:guest@" + rabbit.Addr() + "/" + vhost
	w := newWorker(t, slots, url, "test")
	// What is broadcast before it listens is lost.
	w.eventually("it is connected", func() bool {
		st, err := w.client.Status(t.Context())
		return err == nil && st.Broker != nil && st.Broker.State == "ready"
	})
	return w, celerytest.New(t, url), vhost
}

// newWorker is a daemon that takes tasks from a RabbitMQ.
func newWorker(t *testing.T, slots int, url, host string) *world {
	t.Helper()
	w := newWorld(t)
	w.stop()
	w.configure(fmt.Sprintf("slots = %d\n[celery]\nbroker = %s\nhostname = celery@%s\n", slots, url, host))
	w.start()
	return w
}

// script is what scripts have at their beginning.
const script = `
from celery.result import AsyncResult
TASK = 'girder_worker.docker.tasks.docker_run'
def run(*args, **kw):
    return app.send_task(TASK, args=['busybox'], kwargs=dict(container_args=list(args), entrypoint='sh', pull_image=False, **kw))
`

func decode(t *testing.T, raw json.RawMessage, into any) {
	t.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
}

// TestCelery: what the real client submits runs, and it gets what the Python worker
// would have answered.
func TestCelery(t *testing.T) {
	w, c, vhost := newCeleryWorld(t, 2)
	said := c.Run(t, script+`
good = run('-c', 'echo hello')
bad = run('-c', 'exit 7')
unknown = app.send_task('no.such.task')
app.conf.task_protocol = 1
old = run('-c', 'echo old')
say([good.id, bad.id, unknown.id, old.id])
say([good.get(timeout=90), good.state])
for r in bad, unknown:
    try:
        say(r.get(timeout=90))
    except Exception as e:
        say([type(e).__name__, str(e)])
say([old.get(timeout=90), old.state])
`)
	var ids []string
	decode(t, said[0], &ids)
	want := []string{
		`[null, "SUCCESS"]`,
		`["DockerException", "Non-zero exit code from docker container (7)."]`,
		`["NotRegistered", `,
		`[null, "SUCCESS"]`,
	}
	for i, w := range want {
		if got := string(said[1+i]); !strings.HasPrefix(got, w) {
			t.Errorf("result %d is %s, want %s", i, got, w)
		}
	}
	for i, want := range []string{"hello\n", "", "", "old\n"} {
		job := w.wait(ids[i])
		if job.Source != "amqp" {
			t.Errorf("job %+v", job)
		}
		if i != 2 {
			if log := w.log(ids[i]); log != want {
				t.Errorf("log of job %d is %q", i, log)
			}
		}
	}
	w.eventually("all is told", func() bool {
		st, err := w.client.Status(t.Context())
		return err == nil && st.Reports.Pending() == 0
	})
	if ready, unacked := rabbit.Depth(t, vhost, "celery"); ready+unacked != 0 {
		t.Errorf("%d ready, %d unacked", ready, unacked)
	}
	if log := w.stderr.String(); strings.Contains(log, "guest:guest") || !strings.Contains(log, "guest:**@") {
		t.Errorf("the banner:\n%s", log)
	}
}

// TestCeleryControl: the worker is seen and told by remote control.
func TestCeleryControl(t *testing.T) {
	w, c, _ := newCeleryWorld(t, 1)
	said := c.Run(t, script+`
import time
r = run('-c', 'trap "exit 0" TERM; echo up; while :; do usleep 20000; done')
say(r.id)
while not (app.control.inspect(timeout=30, limit=1).active() or {}).get('celery@test'):
    pass
i = app.control.inspect(timeout=30, limit=1)
say(i.ping())
say(i.stats()['celery@test']['pool']['max-concurrency'])
say([t['id'] for t in i.active()['celery@test']])
say(i.registered()['celery@test'])
say(i.reserved()['celery@test'])
say(i.report()['celery@test']['ok'])
say([q['name'] for q in i.active_queues()['celery@test']])
never = run('-c', 'echo it ran', )
say(never.id)
never.revoke()
early = 'revoked-before-it-came'
app.control.revoke(early)
app.control.inspect(timeout=30, limit=1).ping() # they come in order
app.send_task(TASK, args=['busybox'], kwargs={'container_args': ['true']}, task_id=early)
`)
	var id, never, report string
	var active, tasks, queues []string
	decode(t, said[0], &id)
	decode(t, said[3], &active)
	decode(t, said[4], &tasks)
	decode(t, said[6], &report)
	decode(t, said[7], &queues)
	decode(t, said[8], &never)
	if got := strings.TrimSpace(string(said[1])); got != `{"celery@test": {"ok": "pong"}}` {
		t.Errorf("ping: %s", got)
	}
	if strings.TrimSpace(string(said[2])) != "1" || fmt.Sprint(active) != "["+id+"]" || strings.TrimSpace(string(said[5])) != "[]" ||
		len(tasks) == 0 || fmt.Sprint(queues) != "[celery]" || !strings.Contains(report, "girder-worker") {
		t.Errorf("inspect: %s", said)
	}
	// The revoked one ends at once, its container with it, and those that came after
	// their revocation are not run.
	w.printed(id, "up")
	began := time.Now()
	c.Run(t, "app.control.revoke('"+id+"')")
	if job := w.wait(id); job.State != "canceled" {
		t.Errorf("job %+v", job)
	}
	t.Logf("revoked and gone in %v, the client's start included", time.Since(began))
	for _, id := range []string{never, "revoked-before-it-came"} {
		w.eventually("it has come", func() bool { _, err := w.client.Job(t.Context(), id); return err == nil })
		if job := w.wait(id); job.State != "canceled" || job.Attempt != 0 {
			t.Errorf("job %+v", job)
		}
	}
}

// TestCeleryRestarts: RabbitMQ and the daemon are restarted under load; nothing is
// lost, nothing runs twice.
func TestCeleryRestarts(t *testing.T) {
	const tasks = 24
	vhost := rabbit.Vhost(t)
	url := "amqp://guest:guest@" + rabbit.Addr() + "/" + vhost
	w, c := newWorker(t, 4, url+"?heartbeat=3", "test"), celerytest.New(t, url) // a doubt takes four of them
	said := c.Run(t, script+fmt.Sprintf("for i in range(%d): say(run('-c', 'usleep 200000; echo %%d' %% i).id)\n", tasks))
	for i := range 4 {
		var id string
		decode(t, said[i*4], &id)
		w.eventually("it has come", func() bool { _, err := w.client.Job(t.Context(), id); return err == nil })
		if i%2 == 0 {
			rabbit.Restart(t, nil)
		} else {
			w.front().Kill()
			w.waitExit()
			w.start()
		}
	}
	for i, raw := range said {
		var id string
		decode(t, raw, &id)
		w.eventually("it has come", func() bool { _, err := w.client.Job(t.Context(), id); return err == nil })
		if job := w.wait(id); job.State != "succeeded" {
			t.Errorf("job %+v", job)
		}
		if log := w.log(id); log != fmt.Sprintln(i) {
			t.Errorf("log of task %d: %q", i, log)
		}
	}
	if ready, unacked := rabbit.Depth(t, vhost, "celery"); ready+unacked != 0 {
		t.Errorf("%d ready, %d unacked", ready, unacked)
	}
}

// TestCeleryChain: the next link of a chain has a job of its own in Girder, which
// names its parent's task.
func TestCeleryChain(t *testing.T) {
	w, c, _ := newCeleryWorld(t, 1)
	g := girdertest.New(t, girdertest.Config{})
	user := g.AddUser(false)
	token := g.AddToken(user, girdertest.ScopeCreateJob)
	said := c.Run(t, script+fmt.Sprintf(`
from celery import chain, signature
def link(**options):
    return signature(TASK, args=['busybox'], kwargs={'container_args': ['true'], 'pull_image': False}, immutable=True, options=options)
r = chain(link(), link(girder_job_title='The second')).apply_async(
    headers={'girder_api_url': %q, 'girder_client_token': %q})
r.get(timeout=90)
say([r.parent.id, r.id])
`, g.API(), token))
	var ids []string
	decode(t, said[0], &ids)
	for _, id := range ids {
		if job := w.wait(id); job.State != "succeeded" {
			t.Errorf("job %+v", job)
		}
	}
	made := g.Calls("POST /job")
	if len(made) != 1 {
		t.Fatalf("%d jobs were made: %+v\n%s", len(made), made, w.stderr)
	}
	if form := made[0].Form; form["title"][0] != "The second" || form["handler"][0] != "celery_handler" ||
		!strings.Contains(form["otherFields"][0], ids[0]) || !strings.Contains(form["otherFields"][0], ids[1]) {
		t.Errorf("the job was made of %v", form)
	}
	w.eventually("its end is told", func() bool {
		reports := g.Calls("PUT /job/{id}")
		return len(reports) > 0 && g.Job(path.Base(reports[0].Path)).Status == 3
	})
}

// TestCeleryRunOptions: what the machine gives to tasks comes to them, within policy,
// a reload brings more, and what none could use keeps the daemon from starting.
func TestCeleryRunOptions(t *testing.T) {
	vhost := rabbit.Vhost(t)
	url := "amqp://guest:guest@" + rabbit.Addr() + "/" + vhost
	w, c := newWorld(t), celerytest.New(t, url)
	w.stop()
	policy := filepath.Join(w.dir, "policy.toml")
	reference := filepath.Join(w.dir, "reference")
	if err := os.Mkdir(reference, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(policy, fmt.Sprintf("[amqp]\nread = [%q]\n", reference))
	write(filepath.Join(reference, "atlas"), "brain\n")
	configure := func(options string) {
		w.configure(fmt.Sprintf("slots = 1\npolicy_file = %s\n[celery]\nbroker = %s\nhostname = celery@test\n[docker]\nrun_options = %s\n", policy, url, options))
	}
	configure(`{"mem_limit": "1 gallon"}`)
	w.launch()
	if w.waitExit() == 0 || !strings.Contains(w.stderr.String(), "docker.run_options is bad: mem_limit: ") {
		t.Errorf("it started:\n%s", w.stderr)
	}
	configure(fmt.Sprintf(`{"volumes": ["%s:/reference"], "environment": {"OFFLINE": "1"}, "shm_size": "1m"}`, reference))
	w.start()
	tell := func(more string) (string, apitype.Job) {
		t.Helper()
		var id string
		decode(t, c.Run(t, script+`
r = run('-c', 'cat /reference/atlas; echo $OFFLINE$OWN; df -k /dev/shm | tail -1 | awk "{print \\$2}"; touch /reference/x 2>/dev/null || echo closed'`+more+`)
try:
    r.get(timeout=90)
except Exception as e:
    pass
say(r.id)
`)[0], &id)
		job := w.wait(id)
		return w.log(id), job
	}
	if log, job := tell(""); log != "brain\n1\n1024\nclosed\n" {
		t.Errorf("a task that says nothing: %q %+v", log, job)
	}
	if log, job := tell(", environment={'OWN': '2'}, shm_size='2m'"); log != "brain\n2\n2048\nclosed\n" {
		t.Errorf("a task with keywords of its own: %q %+v", log, job)
	}
	// Policy is asked as if the task had.
	other := t.TempDir()
	configure(fmt.Sprintf(`{"volumes": ["%s:/reference"]}`, other))
	w.eventually("the configuration is read", func() bool { return strings.Contains(w.stderr.String(), "changed=docker.run_options") })
	if _, job := tell(""); job.State != "failed" || !strings.Contains(job.Reason, other) {
		t.Errorf("beyond policy: %+v", job)
	}
}

// TestCeleryTargets: a task reaches its own Girder on this machine, and of its other
// services those that policy names.
func TestCeleryTargets(t *testing.T) {
	vhost := rabbit.Vhost(t)
	url := "amqp://guest:guest@" + rabbit.Addr() + "/" + vhost
	w, c := newWorld(t), celerytest.New(t, url)
	w.stop()
	policy := filepath.Join(w.dir, "policy.toml")
	if err := os.WriteFile(policy, []byte("[amqp]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.configure(fmt.Sprintf("slots = 1\npolicy_file = %s\n[celery]\nbroker = %s\nhostname = celery@test\n", policy, url))
	w.start()
	g := girdertest.New(t, girdertest.Config{})
	user := g.AddUser(false)
	token := g.AddToken(user, girdertest.ScopeRead)
	file := g.AddFile(g.AddItem(g.AddFolder(user, "data"), "scan"), "scan.txt", []byte("a scan\n"))
	var taken atomic.Int64
	service := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		taken.Add(n)
	}))
	t.Cleanup(service.Close)
	run := func(where string) apitype.Job {
		t.Helper()
		var id string
		decode(t, c.Run(t, script+fmt.Sprintf(`
D = 'girder_worker.docker.transforms.'
fetched = {'py/object': D + 'girder.GirderFileIdToVolume', '_file_id': %q, '_filename': None, '_file_path': None, '_volume': {'py/object': D + '_DefaultTemporaryVolume'},
    'gc': {'py/object': 'girder_client.GirderClient', 'urlBase': %q, 'token': %q}}
r = app.send_task(TASK, args=['busybox'], kwargs=dict(container_args=['cat', fetched], pull_image=False, stream_connectors=[{'py/object': D + 'Connect',
    '_input': {'py/object': D + 'ContainerStdOut'}, '_output': {'py/object': D + 'ChunkedTransferEncodingStream', 'url': %q, 'headers': {}}}]))
try:
    r.get(timeout=90)
except Exception as e:
    pass
say(r.id)
`, file, g.API()+"/", token, where))[0], &id)
		return w.wait(id)
	}
	job := run(service.URL + "/sink")
	if job.State != "failed" || !strings.Contains(job.Reason, "not among transfers of the policy") || taken.Load() != 0 {
		t.Errorf("a service of this machine: %+v, it has %d bytes", job, taken.Load())
	}
	if len(g.Calls("GET /file/{id}/download")) == 0 {
		t.Errorf("its own Girder was not asked: %+v", job)
	}
	if err := os.WriteFile(policy, []byte(fmt.Sprintf("[amqp]\ntransfers = [%q]\n", strings.TrimPrefix(service.URL, "http://"))), 0o644); err != nil {
		t.Fatal(err)
	}
	w.eventually("the policy is read", func() bool { return strings.Contains(w.stderr.String(), "Policy reloaded") })
	if job := run(service.URL + "/sink"); job.State != "succeeded" || taken.Load() != int64(len("a scan\n")) {
		t.Errorf("a service that policy names: %+v, it has %d bytes", job, taken.Load())
	}
}
