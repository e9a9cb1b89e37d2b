package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"girderworker/daemon/apitype"
	"girderworker/daemon/attempt"
	"girderworker/daemon/jobsync"
	"girderworker/daemon/monitor"
	"girderworker/queue"
	"girderworker/transforms"
)

// prepare makes the request of an attempt. From then on nobody prunes its image.
func (f *front) prepare(job *queue.Job, file *transforms.JobFile, r *running) (*attempt.Request, transforms.Resources, error) {
	defer f.images.Hold()()
	req, res, err := f.request(job, file)
	if err != nil {
		return nil, res, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.imageID, r.grace, r.function = req.ImageID, req.Plan.StopGrace, req.Plan.Python != nil
	return req, res, nil
}

// errPullCanceled: the job was canceled while its image was being pulled.
var errPullCanceled = errors.New("canceled while its image was being pulled")

// pullFor pulls the image of a job that asks for it, as a part of its
// preparation that can be seen and canceled.
func (f *front) pullFor(ctx context.Context, job *queue.Job, file *transforms.JobFile, r *running) error {
	if file.Pull != transforms.PullAlways && file.Pull != transforms.PullMissing {
		return nil
	}
	pulling, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	r.mu.Lock()
	r.abort = func() { abort(errPullCanceled) }
	r.mu.Unlock()
	r.delays.Store(false) // a registry is waited for
	f.lookAgain()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.abort, r.progress = nil, nil
		r.delays.Store(true)
	}()
	// A cancel that came before there was something to abort.
	if now, err := f.store.Job(job.ID); err == nil && now.CancelRequested {
		return errPullCanceled
	}
	img, note, err := f.images.pullAs(pulling, f.rightsOfJob(job), file.Image, ownerUID(job), file.Pull == transforms.PullAlways, false, func(p apitype.Progress) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.progress = &p
	})
	switch {
	case err != nil && errors.Is(context.Cause(pulling), errPullCanceled):
		return errPullCanceled
	case errors.Is(err, monitor.ErrNoSpace):
		// Of the image store: other jobs may still start, and this one would only
		// pull again and again.
		return errors.New(err.Error())
	case err != nil:
		return err
	}
	if strings.HasPrefix(note, usesLocal) {
		r.mu.Lock()
		r.addNote(note)
		r.mu.Unlock()
	}
	f.logger.Info("Image for an attempt", "attempt", r.name, "image", file.Image, "id", img.ID, "note", note)
	return nil
}

// request turns a claimed job, whose document file is, into what the monitor takes but
// the GPUs, which it returns among what the job takes. It changes file.
func (f *front) request(job *queue.Job, file *transforms.JobFile) (*attempt.Request, transforms.Resources, error) {
	var none transforms.Resources
	plan, err := file.Plan()
	if err != nil {
		return nil, none, fmt.Errorf("cannot plan the job: %w", err)
	}
	if job.Source == queue.SourceAMQP { // a person names the address that is good here
		settings, err := reportSettings(f.config.Load())
		if err != nil {
			return nil, none, err
		}
		reachGirder(&plan, job, settings.Reach)
	}
	var image apitype.Image
	if !file.OnHost() {
		if image, err = f.images.Resolve(file.Image, ownerUID(job)); err != nil {
			return nil, none, err
		}
	}
	// The image of a job may have come after the job, so its label may, too.
	gpus := job.Needs.GPUs
	if image.WantsGPU && gpus == 0 && !file.DeclinesGPU() {
		gpus = 1
	}
	file.Resources.GPUs = gpus
	file.Complete(f.settings(f.config.Load()).Defaults) // was done at submission; a job of an older release may lack something
	res := file.Resources
	limits := attempt.Limits{Hard: job.Limits.Hard, Soft: job.Limits.Soft, Idle: job.Limits.Idle, Outage: f.config.Load().Outage}
	if plan.Python != nil {
		limits.Soft = 0 // an exception within, which the function may make something of
	}
	return &attempt.Request{
		Version:  attempt.Version,
		Job:      job.ID,
		Attempt:  job.Attempt,
		Identity: identityOf(job),
		Plan:     plan,
		ImageID:  image.ID,
		Resources: attempt.Resources{
			CPUs: res.CPUs, Memory: res.Memory, PIDs: res.PIDs, Shm: res.Shm, Scratch: res.Scratch, Log: res.Log,
			Swap: res.Swap, Reservation: res.Reservation, CPUSet: res.CPUSet, MemorySet: res.MemorySet, CPUShares: res.CPUShares,
		},
		Limits: limits,
	}, res, nil
}

// reachGirder gives the servers of a task the addresses that are good here, and
// marks those that it may reach wherever they are: where its job is, or, of a task
// without a job in Girder, the first; and where the admin says that Girder is.
func reachGirder(plan *transforms.Plan, job *queue.Job, reach func(string) string) {
	own := ""
	if target, err := jobsync.TargetOf(job.Origin, nil); err == nil {
		own = reach(target.URL)
	}
	for i := range plan.Girders {
		g := &plan.Girders[i]
		at := reach(g.URL)
		if own == "" {
			own = at
		}
		g.Own = transforms.SameServer(at, own) || at != g.URL
		g.URL = at
	}
	for i := range plan.Streams {
		if to := plan.Streams[i].HTTP; to != nil {
			to.Own = slices.ContainsFunc(plan.Girders, func(g transforms.Girder) bool { return g.Own && transforms.SameServer(g.URL, to.URL) })
		}
	}
}

// secrets are those of a job that its attempts need. What else is secret of it,
// for its reports, stays here.
func (f *front) secrets(ctx context.Context, id string) (transforms.Secrets, error) {
	var secrets transforms.Secrets
	data, err := f.store.Secrets(ctx, id)
	if err == nil && len(data) > 0 && json.Unmarshal(data, &secrets) != nil {
		err = errors.New("they are not what they should be") // the cause might quote them
	}
	if err != nil {
		return secrets, fmt.Errorf("cannot read the job's secrets: %w", err)
	}
	return secrets, nil
}

// ownerUID is whose image names a job means: the submitter's, who may be
// another than the identity that it runs as.
func ownerUID(job *queue.Job) int {
	if uid, ok := strings.CutPrefix(job.Owner, "uid:"); ok {
		if n, err := strconv.Atoi(uid); err == nil {
			return n
		}
	}
	return everyone
}

// everyone is the owner of the names that all users see, and the asker who sees
// no others.
const everyone = -1
