package daemon_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"girderworker/daemon/jobsync"
	"girderworker/queue"
	"girderworker/transforms/girder/girdertest"
)

// girderJob is a job of ours that reports to a Girder job.
type girderJob struct {
	id, girderID, token string
}

// fromGirder puts jobs into the queue of a daemon that is paused for it, as the
// broker's side does: scripts by their ids.
func (w *world) fromGirder(g *girdertest.Server, scripts map[string]string, fields ...any) map[string]girderJob {
	w.t.Helper()
	if _, err := w.client.Pause(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	patterns := map[string]string{}
	for id, script := range scripts {
		patterns[id] = w.submit(script, fields...).ID
	}
	w.stop()
	dir := filepath.Join(w.state(), "queue")
	give := func(uid, gid int) {
		names, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, name := range append(names, dir) {
			if err := os.Chown(name, uid, gid); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	owner, err := os.Stat(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	of := owner.Sys().(*syscall.Stat_t)
	give(0, 0) // the queue wants its own user
	defer give(int(of.Uid), int(of.Gid))
	store, err := queue.Open(queue.Options{Dir: dir})
	if err != nil {
		w.t.Fatal(err)
	}
	jobs := map[string]girderJob{}
	user := g.AddUser(false)
	for id, pattern := range patterns {
		p, err := store.Job(pattern)
		if err != nil {
			w.t.Fatal(err)
		}
		j := girderJob{id: id}
		j.girderID, j.token = g.AddJob(user, "celery_handler")
		sub := queue.Submission{
			ID: id, Source: queue.SourceAMQP, Owner: "girder", Identity: p.Identity, Task: p.Task, Image: p.Image, Priority: p.Priority,
			Needs: p.Needs, Limits: p.Limits, Body: p.Body, Report: queue.SinkGirder,
		}
		target := jobsync.Target{URL: g.API() + "/job/" + j.girderID, Headers: map[string]string{"Girder-Token": j.token}}
		secrets, err := store.Secrets(context.Background(), pattern)
		if err != nil {
			w.t.Fatal(err)
		}
		if sub.Origin, sub.Secrets, err = target.Split(nil, secrets); err != nil {
			w.t.Fatal(err)
		}
		if _, err := store.Submit(context.Background(), sub); err != nil {
			w.t.Fatal(err)
		}
		if _, err := store.Cancel(context.Background(), pattern, "it was only a pattern"); err != nil {
			w.t.Fatal(err)
		}
		jobs[id] = j
	}
	if err := store.Close(); err != nil {
		w.t.Fatal(err)
	}
	return jobs
}

// TestGirder: jobs are reported to Girder while they run, one is canceled there
// without a revoke, one was before it began, and the daemon is killed with half
// of it untold.
func TestGirder(t *testing.T) {
	w := newWorld(t)
	g := girdertest.New(t, girdertest.Config{})
	jobs := w.fromGirder(g, map[string]string{
		"good":   "echo hello docker!",
		"bad":    "printf 'about to fail'; exit 7",
		"long":   "echo sleeping; sleep 600",
		"never":  "echo it ran",
		"killed": "echo first; sleep 3",
	})
	if err := g.CancelJob(jobs["never"].girderID); err != nil {
		t.Fatal(err)
	}
	w.start()
	if _, err := w.client.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.eventually("the first line of all is in Girder", func() bool {
		return len(g.Job(jobs["long"].girderID).Log) > 0 && len(g.Job(jobs["killed"].girderID).Log) > 0
	})
	g.Fail("", -1, girdertest.DropBefore())
	w.wait("good")
	if err := w.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.waitExit()
	g.Mend()
	w.start()
	if err := g.CancelJob(jobs["long"].girderID); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{
		"good":   "succeeded [2 3] hello docker!\n",
		"bad":    "failed [2 4] about to fail\nDockerException: Non-zero exit code from docker container (7).\n",
		"long":   "canceled [2 824 5] sleeping\n",
		"never":  "canceled [5] ",
		"killed": "succeeded [2 3] first\n",
	} {
		job := w.wait(id)
		j := jobs[id]
		var got string
		w.eventually("Girder knows of "+id, func() bool {
			in := g.Job(j.girderID)
			var statuses []int
			for _, s := range in.Timestamps {
				statuses = append(statuses, s.Status)
			}
			got = fmt.Sprintf("%s %v %s", job.State, statuses, strings.Join(in.Log, ""))
			return in.Status >= 3 && in.Status <= 5
		})
		if got = strings.Replace(got, "[1 ", "[", 1); got != want { // it may have waited for the daemon
			t.Errorf("%s: %q, want %q", id, got, want)
		}
		if strings.Contains(w.stderr.String(), j.token) {
			t.Errorf("the token of %s was logged", id)
		}
	}
	if st, err := w.client.Status(t.Context()); err != nil || st.Reports.GaveUp != 0 || st.Reports.Duplicates != 0 {
		t.Errorf("status %+v (%v)", st.Reports, err)
	}
}

// TestGirderIsElsewhere: a task names Girder by an address that is not good here;
// its files come from and go to where the configuration says.
func TestGirderIsElsewhere(t *testing.T) {
	w := newWorld(t)
	g := girdertest.New(t, girdertest.Config{MinChunk: 1})
	w.configure("slots = 4", "api_url = http://girder.invalid/api/v1="+g.API())
	w.stop()
	w.start()
	user := g.AddUser(true)
	item := g.AddItem(g.AddFolder(user, "data"), "item")
	file := g.AddFile(item, "in.txt", []byte("there"))
	jobs := w.fromGirder(g, map[string]string{"elsewhere": "cat /mnt/girder_worker/default/*/in.txt | tee /mnt/girder_worker/default/out.txt; exit 0"},
		"girder", map[string]any{"api_url": "http://girder.invalid/api/v1", "token": g.AddToken(user, girdertest.ScopeRead, girdertest.ScopeWrite)},
		"downloads", []map[string]any{{"name": "in", "file_id": file}},
		"uploads", []map[string]any{{"path": "out.txt", "item_id": item}, {"path": "missing", "item_id": item}})
	w.start()
	if _, err := w.client.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if job := w.wait("elsewhere"); job.State != "failed" || !strings.Contains(job.Reason, "missing: there is no such file") {
		t.Errorf("job %+v", job)
	}
	if files := g.Files(item); len(files) != 2 || string(files[1].Data) != "there" {
		t.Errorf("files are %+v", files)
	}
	// What failed after the container is in the log where Girder's users look.
	w.eventually("Girder has the end", func() bool { return g.Job(jobs["elsewhere"].girderID).Status == 4 })
	if log := strings.Join(g.Job(jobs["elsewhere"].girderID).Log, ""); !strings.HasPrefix(log, "there") || !strings.Contains(log, "FileNotFoundError: cannot upload") {
		t.Errorf("Girder's log is %q", log)
	}
}
