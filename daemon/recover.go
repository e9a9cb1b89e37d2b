package daemon

import (
	"context"
	"fmt"

	"girderworker/daemon/attempt"
	"girderworker/daemon/monitor"
	"girderworker/queue"
)

// recover brings the queue and the machine together after a restart. The
// monitor has swept what had no runner before it started this process.
func (f *front) recover(ctx context.Context) error {
	alive, err := f.monitor.List(ctx)
	if err != nil {
		return err
	}
	live := make(map[monitor.Attempt]bool, len(alive))
	for _, a := range alive {
		live[a] = true
	}
	jobs, err := f.store.Active()
	if err != nil {
		return err
	}
	for i := range jobs {
		job := &jobs[i]
		a := monitor.Attempt{Job: job.ID, Attempt: job.Attempt}
		if live[a] {
			delete(live, a)
			f.holdAgain(job)
			f.attempts.begin(job, f.asRequested(a), f.resume)
		} else {
			f.attempts.begin(job, f.asRequested(a), f.settle)
		}
	}
	// What runs without a job in the queue (an old copy was put back) must not.
	for a := range live {
		f.logger.Error("Ending an attempt that the queue does not know", "attempt", a)
		if err := f.monitor.Kill(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// asRequested notes what a live attempt was asked for, before anybody can ask
// which images are needed.
func (f *front) asRequested(a monitor.Attempt) func(*running) {
	dir, err := attempt.NewDir(f.config.Load().StateDir, a.Job, a.Attempt)
	var req *attempt.Request
	if err == nil {
		// A request of a newer release is not readable; its attempt still ends.
		req, err = dir.ReadRequest()
	}
	if err != nil {
		f.logger.Warn("Cannot read the request of a live attempt", "attempt", a, "error", err)
		return nil
	}
	return func(r *running) {
		r.imageID, r.grace, r.function = req.ImageID, req.Plan.StopGrace, req.Plan.Python != nil
	}
}

// resume follows an attempt that an earlier front started.
func (f *front) resume(ctx context.Context, job *queue.Job, r *running) {
	f.started(r)
	defer f.freeGPUs(r.name)
	f.follow(ctx, r)
}

// settle records the end of an attempt that has no runner any more.
func (f *front) settle(ctx context.Context, job *queue.Job, r *running) {
	f.started(r)
	dir, err := attempt.NewDir(f.config.Load().StateDir, r.name.Job, r.name.Attempt)
	over := false
	if err == nil {
		over, err = dir.Ended()
	}
	switch {
	case err != nil:
		f.fail(fmt.Errorf("cannot tell how attempt %s ended: %w", r.name, err))
	case over:
		done, err := f.readEvents(contextDone(), dir, r)
		if err != nil {
			f.logger.Warn("Cannot read the events of an attempt", "attempt", r.name, "error", err)
		}
		f.conclude(ctx, dir, r, done)
	case job.BootID != "" && job.BootID != f.bootID:
		f.interrupt(ctx, r.name, "the machine was restarted")
	case job.State == queue.Running:
		f.lost(ctx, r, "its runner died while the daemon was away")
	default:
		f.interrupt(ctx, r.name, "the daemon was restarted before it had begun")
	}
}
