package jobsync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"girderworker/daemon/attempt"
	"girderworker/queue"
)

// publish hands the end of a job to whoever publishes results.
func (s *Syncer) publish(ctx context.Context, t *task) outcome {
	read, err := s.store.Reporting(t.seq)
	if err != nil {
		return s.unreadable(ctx, t, read, err)
	}
	var end *queue.Event
	for i := range read.Events {
		if read.Events[i].Left&queue.SinkCelery != 0 && read.Events[i].State.Final() {
			end = &read.Events[i]
		}
	}
	if end == nil {
		return outcome{done: true, quiet: true}
	}
	if age := s.settings.Load().Age; s.store.Sure().Sub(end.Time) > age && (t.failures > 0 || t.host.struggles(s) || s.results == nil) {
		err = fmt.Errorf("%w: the broker could not be reached for %s", ErrUnpublishable, age)
	} else if s.results == nil {
		return outcome{away: true, keep: true, err: errNoBroker}
	} else {
		err = s.results.Publish(ctx, Result{
			Job: &read.Job, Secrets: read.Secrets, State: end.State, Time: end.Time,
			Value: s.value(&read.Job), Failure: FailureOf(&read.Job),
		})
	}
	switch {
	case err == nil:
		s.count.delivered.Add(1)
	case errors.Is(err, ErrUnpublishable):
		s.log.Warn("Giving up the result of a job", "job", read.Job.ID, "error", err)
		if err := s.store.SetUntold(ctx, t.seq, "its result: "+err.Error()); err != nil {
			return outcome{err: err, keep: true}
		}
		s.count.gaveUp.Add(1)
	default:
		s.log.Debug("Cannot publish a result; trying again", "job", read.Job.ID, "error", err)
		return outcome{away: true, keep: true, err: err}
	}
	if err := s.store.Delivered(ctx, t.seq, end.Seq, queue.SinkCelery); err != nil {
		return outcome{err: err, keep: true}
	}
	return outcome{done: true}
}

var errNoBroker = errors.New("no broker is configured")

// value is what a function returned, where the job was one.
func (s *Syncer) value(j *queue.Job) json.RawMessage {
	null := json.RawMessage("null")
	dir, err := attempt.NewDir(s.stateDir, j.ID, max(j.Attempt, 1))
	if err != nil {
		return null
	}
	end, err := dir.ReadFunctionEnd()
	if err != nil {
		s.log.Warn("Cannot tell what a function returned", "job", j.ID, "error", err)
	}
	if err != nil || end == nil || end.State != attempt.FunctionSuccess {
		return null
	}
	return end.Result
}
