package jobsync

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"girderworker/daemon/attempt"
	"girderworker/queue"
	"girderworker/transforms/girder"
)

const celeryHandler, workerHandler = "celery_handler", "worker_handler"

// TestStatuses: the changes of state that Girder sees are those that the Python
// worker was recorded with, and those that our own states add.
func TestStatuses(t *testing.T) {
	for name, c := range map[string]struct {
		handler string
		story   func(r *rig, j *job)
		want    string
		log     string
	}{
		"plain": {celeryHandler, func(r *rig, j *job) {
			r.claim(j)
			j.start().write("hello docker!\n")
			j.succeed()
		}, "[2 3]", "hello docker!\n"},
		"fail": {celeryHandler, func(r *rig, j *job) {
			r.claim(j)
			j.start().write("about to fail")
			j.exit(queue.Result{Outcome: "exited", Code: 7})
		}, "[2 4]", "about to fail\nDockerException: Non-zero exit code from docker container (7).\n"},
		"no image": {celeryHandler, func(r *rig, j *job) {
			r.claim(j)
			j.exit(queue.Result{Outcome: "error", Code: 125, Error: "no such image: x"})
		}, "[2 4]", "ImageNotFound: no such image: x\n"},
		"canceled in Girder": {celeryHandler, func(r *rig, j *job) {
			r.claim(j)
			j.start().write("sleeping\n")
			r.until("it runs", func() bool { return r.girder.Job(j.girderID).Status == 2 && j.girderLog() != "" })
			must(r, r.girder.CancelJob(j.girderID))
			r.until("it is canceled here", func() bool { return j.queued().CancelRequested })
			j.exit(queue.Result{Outcome: "canceled", Code: 130})
		}, "[2 824 5]", "sleeping\n"},
		"legacy": {workerHandler, func(r *rig, j *job) {
			r.claim(j)
			j.start().succeed()
		}, "[1 2 3]", ""},
		"retried": {celeryHandler, func(r *rig, j *job) {
			r.claim(j)
			j.start().write("one\n")
			j.exit(queue.Result{Outcome: "interrupted"})
			r.claim(j)
			j.start().write("two\n")
			j.succeed()
		}, "[2 3]", "one\ntwo\n"},
		"canceled as it ends": {celeryHandler, func(r *rig, j *job) {
			r.claim(j)
			j.start()
			r.until("it runs", func() bool { return r.girder.Job(j.girderID).Status == 2 })
			r.during(func(w http.ResponseWriter, req *http.Request, form url.Values, next http.Handler) {
				if form.Get("status") == "3" {
					must(r, r.girder.CancelJob(j.girderID))
				}
				next.ServeHTTP(w, req)
			})
			j.succeed()
		}, "[2 824 5]", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.clock.leaps = true
			r.begin()
			j := r.submit("j", c.handler)
			c.story(r, j)
			r.told()
			if got := j.statuses(); got != c.want && got != strings.Replace(c.want, "[", "[1 ", 1) { // time leaps: it may have waited
				t.Errorf("came to %s, want %s", got, c.want)
				for _, c := range r.girder.Calls("") {
					t.Log(c.Route, c.Form)
				}
				t.Log(r.log.tail())
			}
			if got := j.girderLog(); got != c.log {
				t.Errorf("the log is %q", got)
			}
			if secrets, err := r.store.Secrets(context.Background(), "j"); secrets != nil || err != nil {
				t.Errorf("secrets are left (%v)", err)
			}
			if strings.Contains(r.log.String(), j.token) {
				t.Error("the token was logged")
			}
		})
	}
}

// TestQueued: only a job that waits is told to wait.
func TestQueued(t *testing.T) {
	r := newRig(t)
	r.begin()
	at := r.submit("at-once", celeryHandler)
	r.claim(at)
	at.start().succeed()
	r.told()
	j := r.submit("waits", celeryHandler)
	r.until("it is looked at", func() bool { return r.syncer.Stats().Pending["girder"] == 1 })
	r.clock.advance(time.Second)
	if got := len(r.girder.Calls("PUT /job/{id}")); got != 2 {
		t.Errorf("%d calls", got)
	}
	r.until("it is told to wait", func() bool { r.clock.advance(500 * time.Millisecond); return j.statuses() == "[1]" })
	r.claim(j)
	j.start().succeed()
	r.told()
	if at.statuses() != "[2 3]" || j.statuses() != "[1 2 3]" {
		t.Errorf("came to %s and %s", at.statuses(), j.statuses())
	}
}

// TestBorn: a job that ended before it began has a reason that Girder tells.
func TestBorn(t *testing.T) {
	r := newRig(t)
	r.begin()
	j := r.submit("j", celeryHandler, func(s *queue.Submission) { s.Task, s.Fail = "tasks.nobody", "unknown task tasks.nobody" })
	legacy := r.submit("legacy", workerHandler, func(s *queue.Submission) { s.Fail = "volumes: not a table" })
	r.told()
	if j.statuses() != "[2 4]" || j.girderLog() != "NotRegistered: tasks.nobody\n" {
		t.Errorf("came to %s with %q", j.statuses(), j.girderLog())
	}
	if legacy.statuses() != "[1 2 4]" || legacy.girderLog() != "ValueError: volumes: not a table\n" {
		t.Errorf("legacy: came to %s with %q", legacy.statuses(), legacy.girderLog())
	}
}

// TestCheck: a job that was canceled before it began is found out, and one whose
// server is away is not waited for.
func TestCheck(t *testing.T) {
	r := newRig(t)
	r.begin()
	check := func(j *job) (Verdict, error) {
		q := j.queued()
		return r.syncer.Check(context.Background(), &q)
	}
	good := r.submit("good", celeryHandler)
	r.claim(good)
	if v, err := check(good); err != nil || v.Stop || v.Status != 2 {
		t.Errorf("a good one: %+v, %v", v, err)
	}
	dead := r.submit("dead", celeryHandler)
	must(t, r.girder.CancelJob(dead.girderID)) // INACTIVE: canceled at once
	var dying *job
	for _, j := range []*job{dead, nil} {
		if j == nil {
			dying = r.submit("dying", workerHandler)
			j = dying
			must(t, r.girder.SetJobStatus(j.girderID, 1))
			must(t, r.girder.CancelJob(j.girderID))
		}
		r.claim(j)
		v, err := check(j)
		if err != nil || !v.Stop {
			t.Errorf("%s: %+v, %v", j.id, v, err)
		}
		if !j.queued().CancelRequested {
			t.Errorf("%s: not canceled here", j.id)
		}
		j.exit(queue.Result{Outcome: "canceled"})
	}
	good.start().succeed()
	r.told()
	for j, want := range map[*job]string{good: "[2 3]", dead: "[5]", dying: "[1 824 5]"} {
		if got := j.statuses(); got != want {
			t.Errorf("%s came to %s", j.id, got)
		}
	}

	r.during(func(http.ResponseWriter, *http.Request, url.Values, http.Handler) { panic(http.ErrAbortHandler) })
	late := r.submit("late", celeryHandler)
	later := r.submit("later", celeryHandler)
	r.claim(late, later)
	for range 2 { // the second is not even tried
		if v, err := check(late); err == nil || v.Stop {
			t.Errorf("away: %+v, %v", v, err)
		}
	}
	if v, err := check(later); err == nil || v.Stop {
		t.Errorf("still away: %+v, %v", v, err)
	}
	q, _ := r.store.Job("late")
	q.Report = 0
	if v, err := r.syncer.Check(context.Background(), &q); err != nil || v.Stop {
		t.Errorf("one that reports to nobody: %+v, %v", v, err)
	}
	r.during(nil)
	r.clock.leap()
	r.clock.advance(time.Minute)
	late.start().succeed()
	later.start().succeed()
	r.told()
}

// TestProgress: the latest of a burst, and with every flush after it.
func TestProgress(t *testing.T) {
	r := newRig(t)
	r.clock.leaps = true
	r.begin()
	j := r.submit("j", celeryHandler)
	r.claim(j)
	j.start()
	for i := range 100 {
		j.progress(100, float64(i), "step")
	}
	j.progress(100, 100, "all steps")
	r.until("it is told", func() bool { p := r.girder.Job(j.girderID).Progress; return p != nil && p.Current == 100 })
	j.write("and a line\n")
	r.until("the line is told", func() bool { return j.girderLog() != "" })
	j.progress(100, 50, "back\x00 again \xff")
	j.succeed()
	r.told()
	if p := r.girder.Job(j.girderID).Progress; p == nil || p.Total != 100 || p.Current != 50 || p.Message != "back\x00 again \ufffd" {
		t.Errorf("progress %+v", p)
	}
	for _, c := range r.girder.Calls("PUT /job/{id}") {
		if c.Form["log"] != nil && (c.Form["progressTotal"] == nil || c.Form["progressMessage"] == nil) {
			t.Errorf("a flush without progress: %v", c.Form)
		}
		if f := c.Form["status"]; f != nil && len(c.Form) != 1 {
			t.Errorf("a status is told together with %v", c.Form)
		}
	}
}

// TestStage: what a job does before it runs is a message and no status.
func TestStage(t *testing.T) {
	r := newRig(t)
	r.begin()
	j := r.submit("j", celeryHandler)
	r.claim(j)
	j.start()
	must(t, j.events.Append(stageEvent("preparing", r.clock.Now())))
	r.until("it is prepared", func() bool {
		r.clock.advance(500 * time.Millisecond)
		p := r.girder.Job(j.girderID).Progress
		return p != nil && p.Message == "Preparing"
	})
	must(t, j.events.Append(stageEvent("running", r.clock.Now())))
	r.until("it runs", func() bool {
		r.clock.advance(500 * time.Millisecond)
		return r.girder.Job(j.girderID).Progress.Message == "Running"
	})
	j.succeed()
	r.told()
	if j.statuses() != "[2 3]" {
		t.Errorf("came to %s", j.statuses())
	}
}

func TestRoute(t *testing.T) {
	for _, c := range []struct {
		handler  string
		from, to int
		want     string
	}{
		{celeryHandler, 0, 2, "[2]"}, {celeryHandler, 0, 4, "[1 4]"}, {celeryHandler, 0, 5, "[5]"}, {workerHandler, 0, 2, "[1 2]"},
		{workerHandler, 0, 5, "[1 5]"}, {celeryHandler, 824, 3, "[]"}, {celeryHandler, 824, 2, "[]"}, {celeryHandler, 824, 5, "[5]"}, {celeryHandler, 822, 3, "[823 3]"},
		{celeryHandler, 821, 3, "[]"}, {celeryHandler, 5, 2, "[]"}, {"other", 0, 4, "[1 4]"}, {"other", 2, 3, "[3]"}, {"other", 2, 2, "[]"},
	} {
		if got := statusList(c.handler, c.from, c.to); got != c.want {
			t.Errorf("%s from %d to %d by %s, want %s", c.handler, c.from, c.to, got, c.want)
		}
	}
}

func statusList(handler string, from, to int) string {
	list := []int{}
	for _, s := range route(handler, girder.JobStatus(from), girder.JobStatus(to)) {
		list = append(list, int(s))
	}
	return fmt.Sprint(list)
}

func stageEvent(stage string, at time.Time) attempt.Event {
	return attempt.Event{Stage: stage, Time: at}
}
