package daemon

import (
	"context"
	"errors"
	"time"

	"girderworker/daemon/apitype"
	"girderworker/daemon/config"
	"girderworker/daemon/jobsync"
	"girderworker/queue"
)

// checkTime is how long the start of a job may wait for what Girder says of it.
// A Girder that does not answer stops no job.
const checkTime = 2 * time.Second

// lateReport is when an admin is told that reports wait.
const lateReport = 5 * time.Minute

func reportSettings(c *config.Config) (jobsync.Settings, error) {
	return jobsync.ParseSettings(c.APIURL, c.Retention.Reports)
}

// stoppedInGirder tells whether a claimed job is not to be run, because it was
// canceled, or has ended, in Girder.
func (f *front) stoppedInGirder(ctx context.Context, job *queue.Job) bool {
	bounded, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	v, err := f.reports.Check(bounded, job)
	if err != nil {
		if ctx.Err() == nil {
			f.logger.Info("Starting a job without Girder's word on it", "job", job.ID, "error", err)
		}
		return false
	}
	if v.Stop {
		f.logger.Info("Not starting a job that has ended in Girder", "job", job.ID, "status", int(v.Status))
	}
	return v.Stop
}

// cancelReported cancels a job for which a cancel was seen in Girder.
func (f *front) cancelReported(ctx context.Context, id, reason string) error {
	job, err := f.store.Cancel(ctx, id, reason)
	if err != nil || !job.State.Active() {
		return err
	}
	f.logger.Info("Canceling a job", "job", id, "reason", reason)
	err = f.CancelAttempt(ctx, job)
	if errors.Is(err, context.Canceled) {
		return nil // it is on record: the next front sees to it
	}
	return err
}

func (f *front) reportStatus() apitype.Reports {
	st := f.reports.Stats()
	return apitype.Reports{
		Girder: st.Pending["girder"], Celery: st.Pending["celery"], Oldest: st.Oldest,
		Delivered: st.Delivered, LogBytes: st.LogBytes, Duplicates: st.Duplicates, Refused: st.Refused, GaveUp: st.GaveUp,
	}
}
