package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"girderworker/daemon/celery"
	"girderworker/daemon/jobsync"
	"girderworker/queue"
	"girderworker/transforms"
	"girderworker/transforms/recordtest"
)

const (
	token = "pLHr0cdUyQ2RxBOda5AIaCMry1KyCbksH7g1XwAcXip0IeREt6jjltCKFWFXZl1v"
	gc    = `{"py/object": "girder_client.GirderClient", "urlBase": "http://girder.test/api/v1/", "token": "gcTOKENgcTOKEN"}`
)

func settings() Settings {
	return Settings{
		Defaults: transforms.Defaults{Resources: transforms.Resources{CPUs: 1, Memory: 1 << 30}, Timeout: time.Hour},
		Machine:  transforms.Resources{CPUs: 4, Memory: 8 << 30},
		Identity: queue.Identity{UID: 100000, GID: 100000},
		Tasks:    ContainerTasks(),
	}
}

func intake() *Intake {
	return &Intake{Settings: settings, Document: func(t *celery.Task) (*transforms.JobFile, transforms.Secrets, error) {
		return Document(t, transforms.RunOptions{})
	}}
}

func message(id, body string, change func(*celery.Delivery)) celery.Delivery {
	d := celery.Delivery{
		Queue: "celery", RoutingKey: "celery", Body: []byte(body),
		Properties: celery.Properties{ContentType: "application/json", ContentEncoding: "utf-8", CorrelationID: id, ReplyTo: "replies"},
		Headers: map[string]any{
			"task": transforms.TaskDockerRun, "id": id, "root_id": id, "timelimit": []any{nil, nil},
			"jobInfoSpec": map[string]any{"method": "PUT", "url": "http://girder.test/api/v1/job/6b00f6cc4c398922d75c6423",
				"reference": "6b00f6cc4c398922d75c6423", "headers": map[string]any{"Girder-Token": token}, "logPrint": true},
			"girder_api_url": "http://girder.test/api/v1", "girder_client_token": "clientTOKENclientTOKEN",
		},
	}
	if change != nil {
		change(&d)
	}
	return d
}

const plain = `[["busybox"], {"container_args": ["echo", 1, true], "pull_image": false}, {}]`

func open(t *testing.T) *queue.Store {
	t.Helper()
	s, err := queue.Open(queue.Options{Dir: filepath.Join(t.TempDir(), "queue")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// take takes a message into a queue.
func take(t *testing.T, s *queue.Store, d celery.Delivery) queue.Job {
	t.Helper()
	taken, err := intake().Take(d)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := s.Submit(t.Context(), taken.Submission)
	if err != nil {
		t.Fatal(err)
	}
	return accepted[0].Job
}

func TestTake(t *testing.T) {
	later := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	for name, c := range map[string]struct {
		d     celery.Delivery
		check func(queue.Submission) bool
		fail  string
	}{
		"docker_run": {message("a", plain, nil), func(s queue.Submission) bool {
			f, err := transforms.ParseJobFile(s.Body)
			return err == nil && s.ID == "a" && s.Source == queue.SourceAMQP && s.Owner == "queue:celery" && s.Identity.UID == 100000 && s.Image == "busybox" &&
				s.Task == transforms.TaskDockerRun && slices.Equal(f.Args, []string{"echo", "1", "True"}) && f.Network == "private" && s.Needs.CPUs == 1 &&
				s.Limits.Hard == time.Hour && s.Report == queue.SinkGirder|queue.SinkCelery
		}, ""},
		"headers": {message("a", plain, func(d *celery.Delivery) {
			d.Headers["eta"], d.Headers["expires"] = later.Format(time.RFC3339), later.Add(time.Hour).Format(time.RFC3339)
			d.Headers["timelimit"], d.Properties.Priority = []any{60, 20.5}, 7
		}), func(s queue.Submission) bool {
			return s.NotBefore.Equal(later) && s.Expires.Equal(later.Add(time.Hour)) && s.Limits.Hard == time.Minute && s.Limits.Soft == 20500*time.Millisecond && s.Priority == 7
		}, ""},
		"soft beyond hard": {message("a", plain, func(d *celery.Delivery) { d.Headers["timelimit"] = []any{5, 60} }), func(s queue.Submission) bool { return s.Limits.Hard == 5*time.Second && s.Limits.Soft == 0 }, ""},
		"nobody waits":     {message("a", plain, func(d *celery.Delivery) { d.Properties.ReplyTo = "" }), func(s queue.Submission) bool { return s.Report == queue.SinkGirder }, ""},
		"ignored": {message("a", plain, func(d *celery.Delivery) { d.Headers["ignore_result"] = true; delete(d.Headers, "jobInfoSpec") }), func(s queue.Submission) bool {
			m, err := OriginalOf(s.Secrets)
			return s.Report == 0 && err == nil && string(m.Body) == plain && m.Headers["id"] == "a"
		}, ""},
		"a chain waits": {message("a", `[["busybox"], {}, {"chain": [{"task": "t"}]}]`, func(d *celery.Delivery) { d.Properties.ReplyTo = "" }), func(s queue.Submission) bool { return s.Report == queue.SinkGirder|queue.SinkCelery }, ""},
		"an odd id":     {message("fetch:2026/11", plain, nil), func(s queue.Submission) bool { return strings.HasPrefix(s.ID, "celery-") && queue.CheckID(s.ID) == nil }, ""},
		"the user of a hook": {message("a", plain, func(d *celery.Delivery) {
			d.Headers["girder_result_hooks"] = []any{map[string]any{"py/object": "girder_worker.docker.transforms.girder.GirderUploadVolumePathJobArtifact",
				"gc":          map[string]any{"py/object": "girder_client.GirderClient", "urlBase": "http://girder.test/api/v1/", "token": "gcTOKENgcTOKEN"},
				"_volumepath": map[string]any{"py/object": "girder_worker.docker.transforms.VolumePath", "filename": "out", "_volume": map[string]any{"py/object": "girder_worker.docker.transforms._DefaultTemporaryVolume"}},
				"job_id":      nil, "name": nil, "_upload_on_exception": false,
				"job": map[string]any{"_id": map[string]any{"py/object": "bson.objectid.ObjectId", "py/state": map[string]any{"py/b64": "awDvbf0kdNsZWzog"}},
					"userId": map[string]any{"py/object": "bson.objectid.ObjectId", "py/state": map[string]any{"py/b64": "awDvbf0kdNsZWzog"}}}}}
		}), func(s queue.Submission) bool { return s.Owner == "girder:6b00ef6dfd2474db195b3a20" && len(s.Body) > 0 }, ""},
		"slicer":        {message("a", `[[], {"image": "busybox", "container_args": ["x"]}, {}]`, func(d *celery.Delivery) { d.Headers["task"] = transforms.TaskSlicerRun }), func(s queue.Submission) bool { return s.Image == "busybox" }, ""},
		"unknown task":  {message("a", plain, func(d *celery.Delivery) { d.Headers["task"] = "no.such.task" }), nil, `unknown task "no.such.task"; this worker knows `},
		"no image":      {message("a", `[[], {}, {}]`, nil), nil, "TypeError: docker_run() missing 1 required positional argument: 'image'"},
		"bad keyword":   {message("a", `[["busybox"], {"privileged": true}, {}]`, nil), nil, "privileged"},
		"pickle":        {message("a", plain, func(d *celery.Delivery) { d.Properties.ContentType = "application/x-python-serialize" }), nil, "a pickle"},
		"bad header":    {message("a", plain, func(d *celery.Delivery) { d.Headers["eta"] = 5 }), nil, "header eta"},
		"code":          {message("a", `[[{"py/function": "os.system"}], {}, {}]`, nil), nil, "py/function"},
		"spec":          {message("a", plain, func(d *celery.Delivery) { d.Headers["jobInfoSpec"] = map[string]any{"url": "http://girder.test/"} }), nil, "address of a Girder job"},
		"session":       {message("a", plain, func(d *celery.Delivery) { d.Headers["girder_client_session_kwargs"] = 5 }), nil, "girder_client_session_kwargs"},
		"a large chain": {message("a", `[["busybox"], {}, {"chain": [{"task": "t", "args": ["`+strings.Repeat("x", 2<<20)+`"]}]}]`, nil), nil, "at most 1048576 can be kept"},
	} {
		taken, err := intake().Take(c.d)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sub := taken.Submission
		if (sub.Fail != "") != (c.fail != "") || !strings.Contains(sub.Fail, c.fail) {
			t.Errorf("%s: fails with %q, want %q", name, sub.Fail, c.fail)
		}
		if c.check != nil && !c.check(sub) {
			t.Errorf("%s: %+v\nbody %s", name, sub, sub.Body)
		}
		for what, text := range map[string]string{"origin": string(sub.Origin), "body": string(sub.Body), "reason": sub.Fail} {
			for _, secret := range []string{token, "gcTOKEN", "clientTOKEN"} {
				if strings.Contains(text, secret) {
					t.Errorf("%s: a token is in the %s: %s", name, what, text)
				}
			}
		}
		// Every submission is one that the queue takes, and is told of where it can be.
		s := open(t)
		if _, err := s.Submit(t.Context(), sub); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.fail != "" && name != "spec" && name != "bad header" && sub.Report&queue.SinkGirder == 0 {
			t.Errorf("%s: Girder is not told", name)
		}
		if sub.Report&queue.SinkGirder != 0 {
			target, err := jobsync.TargetOf(sub.Origin, sub.Secrets)
			if err != nil || target.Headers["Girder-Token"] != token {
				t.Errorf("%s: reports to %v (%v)", name, target, err)
			}
		}
	}
}

func TestFits(t *testing.T) {
	have := transforms.Resources{CPUs: 4, Memory: 8 << 30, Shm: 1 << 30, Scratch: 1 << 40, Log: 1 << 30}
	for want, r := range map[string]transforms.Resources{
		"": {CPUs: 4, Memory: 8 << 30}, "8 cpus": {CPUs: 8}, "memory": {Memory: 9 << 30}, "shm": {Shm: 2 << 30}, "scratch": {Scratch: 1<<40 + 1}, "log": {Log: 1<<30 + 1}, "1 gpus": {GPUs: 1}, " ": {},
	} {
		err := fits(r, have)
		if (err == nil) != (strings.TrimSpace(want) == "") || err != nil && !strings.Contains(err.Error(), strings.Fields(want)[0]) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if err := fits(transforms.Resources{CPUs: 99}, transforms.Resources{}); err != nil {
		t.Errorf("a machine that is not known: %v", err)
	}
}

func TestTakeRejects(t *testing.T) {
	_, err := intake().Take(message("", plain, nil))
	var bad *celery.Error
	if !errors.As(err, &bad) || bad.End != celery.Reject {
		t.Errorf("no id: %v", err)
	}
}

// TestTwice: a task that is delivered again is the job that it already is.
func TestTwice(t *testing.T) {
	s := open(t)
	for i := range 2 {
		taken, err := intake().Take(message("a", plain, func(d *celery.Delivery) { d.Redelivered = i > 0 }))
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := s.Submit(t.Context(), taken.Submission)
		if err != nil || accepted[0].Existing != (i > 0) {
			t.Errorf("delivery %d: %+v, %v", i, accepted, err)
		}
	}
}

// TestAttemptSecrets: what attempts need of the secrets is where they look for it.
func TestAttemptSecrets(t *testing.T) {
	body := `[["busybox"], {"container_args": ["cat", {"py/object": "girder_worker.docker.transforms.girder.GirderFileIdToVolume", "gc": ` + gc + `, "_file_id": "6b00f6cc4c398922d75c6423", ` +
		`"_volume": {"py/object": "girder_worker.docker.transforms._DefaultTemporaryVolume"}, "_filename": null, "_file_path": null}]}, {"errbacks": [{"task": "t.eb", "args": ["` + token + `"]}]}]`
	taken, err := intake().Take(message("a", body, nil))
	if err != nil || taken.Submission.Fail != "" {
		t.Fatalf("%v %s", err, taken.Submission.Fail)
	}
	var secrets transforms.Secrets
	if err := json.Unmarshal(taken.Submission.Secrets, &secrets); err != nil || len(secrets.Tokens) != 1 {
		t.Errorf("%+v, %v", secrets, err)
	}
	links, err := followOf(taken.Submission.Secrets)
	if err != nil || len(links.Errbacks) != 1 || celery.Repr(links.Errbacks[0].Args) != "('"+token+"',)" {
		t.Errorf("%+v, %v", links, err)
	}
}

// broker keeps what is published.
type broker struct {
	sent []celery.Message
	fail func(celery.Message) error
}

func (b *broker) send(_ context.Context, m celery.Message) error {
	if b.fail != nil {
		if err := b.fail(m); err != nil {
			return err
		}
	}
	b.sent = append(b.sent, m)
	return nil
}

func (b *broker) results() *Results {
	return &Results{Send: b.send, Origin: "gen1@lab", Now: time.Now, Logger: slog.New(slog.DiscardHandler)}
}

// end runs a job in the queue to its end, without a container.
func end(t *testing.T, s *queue.Store, id string, r queue.Result) {
	t.Helper()
	jobs, err := s.Claim(t.Context(), queue.Capacity{Slots: 1, CPUs: 4, Memory: 8 << 30}, "boot", 1)
	if err != nil || len(jobs) != 1 || jobs[0].ID != id {
		t.Fatalf("claimed %v, %v", jobs, err)
	}
	if err := s.Started(t.Context(), id, 1, time.Now()); err != nil {
		t.Fatal(err)
	}
	if r.Outcome == "canceled" {
		if _, err := s.Cancel(t.Context(), id, "canceled"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Finish(t.Context(), id, 1, &r, "", time.Now()); err != nil {
		t.Fatal(err)
	}
}

// publish publishes the end of a job as what drains the outbox does.
func publish(t *testing.T, s *queue.Store, id string, r *Results) error {
	t.Helper()
	j, err := s.Job(id)
	if err != nil {
		t.Fatal(err)
	}
	read, err := s.Reporting(j.Seq)
	if err != nil {
		t.Fatal(err)
	}
	return r.Publish(t.Context(), jobsync.Result{Job: &read.Job, Secrets: read.Secrets, State: j.State, Time: time.Now(),
		Value: json.RawMessage("null"), Failure: jobsync.FailureOf(&read.Job)})
}

func TestPublish(t *testing.T) {
	const chained = `[["busybox"], {}, {"chain": [{"task": "t.last", "options": {"task_id": "last", "reply_to": "replies"}, "immutable": true}, ` +
		`{"task": "t.next", "args": ["x"], "options": {"task_id": "next", "reply_to": "replies"}}], "errbacks": [{"task": "t.eb", "options": {"task_id": "eb"}}], "callbacks": [{"task": "t.cb", "options": {"task_id": "cb"}}]}]`
	for name, c := range map[string]struct {
		body string
		task string
		end  *queue.Result
		want []string // routing key and what the body begins with or holds
	}{
		"success":  {plain, "", &queue.Result{Outcome: "exited"}, []string{`replies {"task_id": "a", "status": "SUCCESS", "result": null, "traceback": null, "children": []}`}},
		"exit":     {plain, "", &queue.Result{Outcome: "exited", Code: 7}, []string{`replies {"task_id": "a", "status": "FAILURE", "result": {"exc_type": "DockerException", "exc_message": ["Non-zero exit code from docker container (7)."], "exc_module": "docker.errors"}`}},
		"canceled": {plain, "", &queue.Result{Outcome: "canceled"}, []string{`replies {"task_id": "a", "status": "SUCCESS", "result": null`}},
		"unknown":  {plain, "no.such", nil, []string{`replies {"task_id": "a", "status": "FAILURE", "result": {"exc_type": "NotRegistered", "exc_message": ["no.such"], "exc_module": "celery.exceptions"}, "traceback": null`}},
		"bad call": {`[[], {}, {}]`, "", nil, []string{`replies {"task_id": "a", "status": "FAILURE", "result": {"exc_type": "TypeError", "exc_message": ["docker_run() missing 1 required positional argument: 'image'"], "exc_module": "builtins"}`}},
		"a chain goes on": {chained, "", &queue.Result{Outcome: "exited"}, []string{`celery [[null], {}, {"callbacks": null`, `celery [[null, "x"], {}, {"callbacks": null, "errbacks": null, "chain": [{"task": "t.last"`,
			`replies {"task_id": "a", "status": "SUCCESS", "result": null, "traceback": null, "children": [[["cb", null], null], [["next", null], null]]}`}},
		"a chain breaks":      {chained, "", &queue.Result{Outcome: "exited", Code: 1}, []string{`celery [["a"], {}, `, `replies {"task_id": "next", "status": "FAILURE"`, `replies {"task_id": "last", "status": "FAILURE"`, `replies {"task_id": "a", "status": "FAILURE"`}},
		"a chain is canceled": {chained, "", &queue.Result{Outcome: "canceled"}, []string{`replies {"task_id": "next", "status": "REVOKED"`, `replies {"task_id": "last", "status": "REVOKED"`, `replies {"task_id": "a", "status": "SUCCESS"`}},
	} {
		s := open(t)
		j := take(t, s, message("a", c.body, func(d *celery.Delivery) {
			if c.task != "" {
				d.Headers["task"] = c.task
			}
		}))
		if c.end != nil {
			if j.State.Final() {
				t.Errorf("%s: %s", name, j.Reason)
				continue
			}
			end(t, s, "a", *c.end)
		}
		b := &broker{}
		if err := publish(t, s, "a", b.results()); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(b.sent) != len(c.want) {
			t.Errorf("%s: %d messages", name, len(b.sent))
		}
		for i, m := range b.sent {
			got := fmt.Sprintf("%s %s", m.RoutingKey, m.Body)
			if i >= len(c.want) || !strings.HasPrefix(got, c.want[i]) {
				t.Errorf("%s: message %d is %s", name, i, got)
			}
		}
	}
}

// TestPublishRevoked: a job that was canceled before it began was revoked.
func TestPublishRevoked(t *testing.T) {
	s := open(t)
	take(t, s, message("a", plain, nil))
	if _, err := s.Cancel(t.Context(), "a", "revoked"); err != nil {
		t.Fatal(err)
	}
	b := &broker{}
	if err := publish(t, s, "a", b.results()); err != nil || len(b.sent) != 1 || !strings.Contains(string(b.sent[0].Body), `"REVOKED", "result": {"exc_type": "TaskRevokedError", "exc_message": ["revoked"]`) {
		t.Errorf("%v %v", b.sent, err)
	}
}

func TestPublishFails(t *testing.T) {
	s := open(t)
	take(t, s, message("a", `[["busybox"], {}, {"callbacks": [{"task": "t.cb"}], "chord": {"task": "t.chord"}}]`, nil))
	end(t, s, "a", queue.Result{Outcome: "exited"})
	b, away := &broker{}, errors.New("the broker is away")
	r := b.results()
	unsupported := 0
	r.Unsupported = func(reason error) {
		if errors.Is(reason, celery.ErrChord) {
			unsupported++
		}
	}
	b.fail = func(m celery.Message) error {
		if m.RoutingKey == "replies" {
			return away
		}
		return nil
	}
	if err := publish(t, s, "a", r); !errors.Is(err, away) || errors.Is(err, jobsync.ErrUnpublishable) || unsupported != 1 {
		t.Errorf("%v, %d", err, unsupported)
	}
	b.fail = func(celery.Message) error { return fmt.Errorf("sent: %w", ErrNoQueue) }
	if err := publish(t, s, "a", r); err != nil {
		t.Errorf("queues that are gone: %v", err)
	}
	b.fail = nil
	if err := publish(t, s, "a", r); err != nil || len(b.sent) != 3 || b.sent[0].Properties.CorrelationID != b.sent[1].Properties.CorrelationID {
		t.Errorf("%v %v", b.sent, err)
	}
	r.Prepare = func(_ context.Context, parent Parent, f *celery.Follow) error {
		if parent.Request.ID != "a" || parent.Token != "clientTOKENclientTOKEN" || f.Message.Headers["girder_api_url"] != "http://girder.test/api/v1" || f.Message.Headers["girder_client_token"] != parent.Token {
			t.Errorf("%+v is followed by %+v", parent, f.Message.Headers)
		}
		return away
	}
	if err := publish(t, s, "a", r); !errors.Is(err, away) {
		t.Errorf("%v", err)
	}
	for _, j := range []queue.Job{{ID: "x", Source: queue.SourceSocket}, {ID: "x", Source: queue.SourceAMQP}, {ID: "x", Source: queue.SourceAMQP, Origin: []byte("{}")}, {ID: "x", Source: queue.SourceAMQP, Origin: []byte("[")}} {
		if err := r.Publish(t.Context(), jobsync.Result{Job: &j, State: queue.Succeeded}); !errors.Is(err, jobsync.ErrUnpublishable) {
			t.Errorf("%+v: %v", j, err)
		}
	}
}

func TestControl(t *testing.T) {
	s := open(t)
	take(t, s, message("running", plain, nil))
	var mu sync.Mutex
	var canceled []string
	c := NewControl(s, "celery@lab", Facts{
		Process: func(string, int) int { return 77 },
		Cancel: func(ctx context.Context, id, reason string) error {
			mu.Lock()
			canceled = append(canceled, id)
			mu.Unlock()
			_, err := s.Cancel(ctx, id, reason)
			return err
		},
	}, time.Now, slog.New(slog.DiscardHandler))
	if _, err := s.Claim(t.Context(), queue.Capacity{Slots: 1, CPUs: 4, Memory: 8 << 30}, "boot", 1); err != nil {
		t.Fatal(err)
	}
	take(t, s, message("waiting", plain, nil))
	take(t, s, message("odd/id", plain, func(d *celery.Delivery) { d.Headers["eta"] = time.Now().Add(time.Hour).Format(time.RFC3339) }))
	if _, err := s.Submit(t.Context(), queue.Submission{ID: "socket", Source: queue.SourceSocket, Owner: "uid:1", Task: "t"}); err != nil {
		t.Fatal(err)
	}
	names := func(infos []celery.TaskInfo, err error) string {
		if err != nil {
			t.Error(err)
		}
		var ids []string
		for _, i := range infos {
			ids = append(ids, fmt.Sprint(i.Request.ID, " ", i.PID, " ", !i.Started.IsZero(), " ", string(i.Request.PlainArgs)))
		}
		return strings.Join(ids, "; ")
	}
	if got := names(c.Active(t.Context())); got != `running 77 true ["busybox"]` {
		t.Errorf("active: %s", got)
	}
	if got := names(c.Reserved(t.Context())); got != `waiting 0 false ["busybox"]` {
		t.Errorf("reserved: %s", got)
	}
	if all, err := c.Scheduled(t.Context()); err != nil || len(all) != 1 || all[0].Task.Request.ID != "odd/id" || all[0].ETA.IsZero() {
		t.Errorf("scheduled: %+v, %v", all, err)
	}
	found, err := c.Find(t.Context(), []string{"waiting", "odd/id", "running", "socket", "none"})
	if err != nil || len(found) != 3 || found[0].State != "reserved" || found[2].State != "active" {
		t.Errorf("found: %+v, %v", found, err)
	}

	known, err := c.Revoke(t.Context(), []string{"running", "odd/id", "later", "socket"})
	if err != nil || !slices.Equal(known, []string{"odd/id", "running"}) {
		t.Errorf("revoked %v, %v", known, err)
	}
	if slices.Sort(canceled); !slices.Equal(canceled, []string{JobID("odd/id"), "running"}) {
		t.Errorf("canceled %v", canceled)
	}
	if j, err := s.Job("running"); err != nil || !j.CancelRequested {
		t.Errorf("%+v, %v", j, err)
	}
	if j, err := s.Job("socket"); err != nil || j.State != queue.Queued {
		t.Errorf("a message canceled a job of the socket: %+v, %v", j, err)
	}
	all, err := c.Revocations(t.Context())
	var ids []string
	for _, r := range all {
		ids = append(ids, r.ID)
		if age := time.Since(r.At); age < -time.Minute || age > time.Minute {
			t.Errorf("%s was revoked at %s", r.ID, r.At)
		}
	}
	if slices.Sort(ids); err != nil || !slices.Equal(ids, []string{"later", "odd/id", "running"}) {
		t.Errorf("revocations: %v, %v", ids, err)
	}
	if j := take(t, s, message("later", plain, nil)); j.State != queue.Canceled {
		t.Errorf("a revoked task is %s", j.State)
	}
	if found, err := c.Find(t.Context(), []string{"later"}); err != nil || found[0].State != "ready" {
		t.Errorf("%+v, %v", found, err)
	}
}

// TestRecords takes every task that was recorded.
func TestRecords(t *testing.T) {
	taken, failed := 0, map[string]string{}
	for _, file := range recordtest.Files(t, ".amqp.json") {
		for _, d := range tasksOf(t, file) {
			got, err := intake().Take(d)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			taken++
			if got.Submission.Fail != "" {
				failed[filepath.Base(file)] = got.Submission.Fail
			}
			if got.Submission.Report&queue.SinkGirder == 0 {
				t.Errorf("%s: Girder is not told", file)
			}
			if strings.Contains(string(got.Submission.Origin)+string(got.Submission.Body), got.Task.Job.Headers["Girder-Token"]) {
				t.Errorf("%s: a token is kept in the open", file)
			}
		}
	}
	t.Logf("took %d tasks, of which born failed: %v", taken, failed)
	if taken == 0 {
		t.Error("no tasks")
	}
}

// tasksOf are the tasks in a file of recordings, as they are delivered.
func tasksOf(t *testing.T, file string) (all []celery.Delivery) {
	t.Helper()
	for _, m := range recordtest.Messages(t, file) {
		if m.Task(t) == "" {
			continue
		}
		p := m.Properties
		all = append(all, celery.Delivery{
			Queue: "celery", RoutingKey: m.RoutingKeys[0], Headers: recordtest.Table(t, p.Headers), Body: []byte(m.Body),
			Properties: celery.Properties{ContentType: p.ContentType, CorrelationID: p.CorrelationID, ReplyTo: p.ReplyTo},
		})
	}
	return all
}
