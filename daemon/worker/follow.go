package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"girderworker/daemon/celery"
	"girderworker/transforms/girder"
	"girderworker/transforms/jsonpickle"
)

// Jobs makes the Girder jobs of tasks that follow others: its Prepare is that of
// [Results]. It is what create_task_job of girder_worker/context/nongirder_context.py
// does when a task of the Python worker publishes another.
type Jobs struct {
	// Create makes a job on the server of an API.
	Create func(ctx context.Context, api, token string, j girder.NewJob) (spec map[string]any, err error)
	// Usual is the title, the type, whether it is public, and the other fields of a
	// task's jobs, for what a call does not say; zero where nothing is known. May be nil.
	Usual func(task string) girder.NewJob
	// Missed is told of a task that is published without a job, because Girder
	// refuses to make one.
	Missed func(task string, err error)

	mu   sync.Mutex
	made map[string]map[string]any // jobInfoSpec by task, until its parent is done with
}

// maxMade bounds the specs that are kept.
const maxMade = 1000

// Prepare makes the job of a follow-up task, once however often it is called while
// this process lives. Where Girder does not answer, the error has it called again
// later; where it refuses, the task goes without a job.
func (j *Jobs) Prepare(ctx context.Context, parent Parent, f *celery.Follow) error {
	if parent.APIURL == "" || parent.Token == "" || f.Message.Headers["jobInfoSpec"] != nil {
		return nil
	}
	j.mu.Lock()
	spec := j.made[f.ID]
	j.mu.Unlock()
	if spec == nil {
		usual := girder.NewJob{}
		if j.Usual != nil {
			usual = j.Usual(f.Task)
		}
		job, err := jobOf(parent, f, usual)
		if err == nil {
			spec, err = j.Create(ctx, parent.APIURL, parent.Token, job)
		}
		switch {
		case err != nil && (ctx.Err() != nil || girder.Temporary(err)):
			return fmt.Errorf("cannot make its job in Girder: %w", err)
		case err != nil:
			j.Missed(f.ID, err)
			return nil
		case spec == nil:
			return nil
		}
		j.mu.Lock()
		if j.made == nil || len(j.made) >= maxMade {
			j.made = map[string]map[string]any{}
		}
		j.made[f.ID] = spec
		j.mu.Unlock()
	}
	f.Message.Headers["jobInfoSpec"] = spec
	return nil
}

// jobOf is the job of a follow-up task. What its call does not say is as in the
// class Task of girder_worker.
func jobOf(parent Parent, f *celery.Follow, usual girder.NewJob) (girder.NewJob, error) {
	text := func(key, otherwise string) string {
		s, _ := f.Job[key].(string)
		return cmp.Or(s, otherwise)
	}
	public, is := f.Job["girder_job_public"].(bool)
	if !is {
		public = usual.Public
	}
	job := girder.NewJob{
		Title: text("girder_job_title", cmp.Or(usual.Title, "<unnamed job>")), Type: text("girder_job_type", cmp.Or(usual.Type, "celery")),
		Handler: text("girder_job_handler", "celery_handler"), Public: public,
	}
	var err error
	if job.Args, err = jsonpickle.EncodePlain(f.Args); err != nil {
		job.Args, err = []byte("[]"), nil // for display only
	}
	job.Kwargs = []byte("{}")
	if f.Kwargs != nil {
		if kwargs, err := jsonpickle.EncodePlain(f.Kwargs); err == nil {
			job.Kwargs = kwargs
		}
	}
	other := map[string]any{}
	if usual.Other != nil {
		if err := json.Unmarshal(usual.Other, &other); err != nil {
			return job, fmt.Errorf("cannot read the fields of the task's jobs: %w", err)
		}
	}
	if raw, is := f.Job["girder_job_other_fields"]; is {
		if encoded, err := json.Marshal(raw); err == nil {
			json.Unmarshal(encoded, &other) // what is no object adds nothing
		}
	}
	if other == nil {
		other = map[string]any{}
	}
	other["celeryTaskId"], other["celeryParentTaskId"] = f.ID, parent.Request.ID
	job.Other, err = json.Marshal(other)
	return job, err
}
