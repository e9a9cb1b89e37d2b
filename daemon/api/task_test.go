package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"girderworker/daemon/apitype"
	"girderworker/daemon/plugin"
	"girderworker/queue"
	"girderworker/transforms"
)

// echo is a task that runs busybox with its arguments.
func echo() plugin.Task {
	return plugin.Task{
		Task: apitype.Task{Name: "lab.echo", Title: "Echo", Source: "/echo.toml", Parameters: []apitype.Parameter{{Name: "text", Required: true}}},
		Document: func(c transforms.Task) (*transforms.JobFile, error) {
			text, ok := c.Kwargs.Get("text")
			if !ok {
				return nil, &plugin.ArgumentError{Task: c.Name, Problems: []plugin.ArgumentProblem{{Name: "text", Problem: "missing"}}}
			}
			return transforms.ParseJobFile(fmt.Appendf(nil, `{"image":"busybox","args":["echo",%q],"name":"echo","resources":{"cpus":2,"pids":7},"timeout":"9m"}`, text))
		},
	}
}

func TestTasks(t *testing.T) {
	var registry plugin.Registry
	w := newWorker(t, func(c *Config, _ *queue.Options) { c.Tasks = &registry })
	p := w.person(alice)
	if _, body := p.do("GET", "/v1/tasks", ""); strings.TrimSpace(string(body)) != `{"tasks":[],"problems":[]}` {
		t.Errorf("nothing: %s", body)
	}
	registry.Set("files", []plugin.Task{echo()}, []error{errors.New("/bad.toml:1:2: not good")})
	_, body := p.do("GET", "/v1/tasks", "")
	all := decodeAs[apitype.Tasks](t, body)
	if len(all.Tasks) != 1 || all.Tasks[0].Name != "lab.echo" || len(all.Problems) != 1 {
		t.Errorf("one: %s", body)
	}
	if code, body := p.do("GET", "/v1/tasks/lab.echo", ""); code != 200 || decodeAs[apitype.Task](t, body).Title != "Echo" {
		t.Errorf("%d %s", code, body)
	}
	if e := p.refused("GET", "/v1/tasks/other", "", 404); !strings.Contains(e.Message, "girder-worker tasks") {
		t.Errorf("another: %+v", e)
	}
}

func TestSubmitTask(t *testing.T) {
	var registry plugin.Registry
	w := newWorker(t, func(c *Config, _ *queue.Options) { c.Tasks = &registry })
	registry.Set("files", []plugin.Task{echo()}, nil)
	p := w.person(alice)
	call := `{"id":"one","task":"lab.echo","kwargs":{"text":"hello"},"priority":4,"timeout":"5m","resources":{"memory":"2g","pids":9}}`
	job := p.submit(call)
	if job.Task != "lab.echo" || job.Name != "echo" || job.Image != "busybox" || job.State != "queued" || job.Priority != 4 {
		t.Errorf("answered %+v", job)
	}
	kept, err := w.queue.Job(fmt.Sprintf("one.%d", alice))
	if err != nil {
		t.Fatal(err)
	}
	f, err := transforms.ParseJobFile(kept.Body)
	if err != nil {
		t.Fatal(err)
	}
	if plan, err := f.Plan(); err != nil || strings.Join(plan.Args, " ") != "echo hello" {
		t.Errorf("it is to run %+v (%v)", plan.Args, err)
	}
	if r := f.Resources; r.CPUs != 2 || r.Memory != 2<<30 || r.PIDs != 9 || f.Timeout.Minutes() != 5 {
		t.Errorf("the limits are %+v, %v", r, f.Timeout)
	}
	// What was asked stays the same job when the task is another one.
	registry.Set("files", nil, nil)
	if code, body := p.do("POST", "/v1/jobs", call); code != 200 {
		t.Errorf("again, without the task: %d %s", code, body)
	}
	registry.Set("python", []plugin.Task{echo()}, nil)
	if code, body := p.do("POST", "/v1/jobs", call); code != 200 {
		t.Errorf("again: %d %s", code, body)
	}
	p.refused("POST", "/v1/jobs", strings.Replace(call, "hello", "other", 1), 409)

	if e := p.refused("POST", "/v1/jobs", `{"task":"lab.echo","kwargs":{}}`, 400); !strings.Contains(e.Message, "text: missing") || e.Field != "kwargs.text" {
		t.Errorf("without its argument: %+v", e)
	}
	if e := p.refused("POST", "/v1/jobs", `{"task":"lab.echo","kwargs":{"text":"a"},"user":"root"}`, 400); e.Field != "user" {
		t.Errorf("with a field of the task: %+v", e)
	}
	if job := p.submit(`{"task":"lab.other","args":[1]}`); job.State != "failed" || !strings.Contains(job.Reason, `unknown task "lab.other"`) {
		t.Errorf("unknown: %+v", job)
	}
}

// TestSubmitTaskKeepsSecrets: tokens among the arguments are in no record.
func TestSubmitTaskKeepsSecrets(t *testing.T) {
	var registry plugin.Registry
	task := echo()
	task.Document = func(transforms.Task) (*transforms.JobFile, error) {
		return transforms.ParseJobFile([]byte(`{"image":"busybox","girder":{"api_url":"http://girder.test/api/v1","token":"tell-nobody"}}`))
	}
	registry.Set("files", []plugin.Task{task}, nil)
	w := newWorker(t, func(c *Config, _ *queue.Options) { c.Tasks = &registry })
	for _, name := range []string{"lab.echo", "lab.unknown"} {
		job := w.person(alice).submit(`{"task":"` + name + `","kwargs":{"gc":{"token":"tell-nobody"}},"girder":{"api_url":"http://girder.test/api/v1","token":"tell-nobody"}}`)
		kept, err := w.queue.Job(job.ID)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(kept.Body), "tell-nobody") {
			t.Errorf("%s: the document has the token: %s", name, kept.Body)
		}
	}
}

// TestUnknownTaskWithSecrets: it is a job, born failed, whatever else it says.
func TestUnknownTaskWithSecrets(t *testing.T) {
	w := newWorker(t, nil)
	job := w.person(alice).submit(`{"task":"lab.unknown","outputs":[{"name":"out","url":"http://sink.test/","headers":{"Token":"tell-nobody"}}]}`)
	if job.State != "failed" || !strings.Contains(job.Reason, "unknown task") {
		t.Errorf("%+v", job)
	}
}
