package jobsync

import (
	"errors"
	"io"
	"time"

	"girderworker/daemon/attempt"
	"girderworker/transforms/girder"
)

// progressReader is what an attempt has told of its progress, the latest only.
type progressReader struct {
	attempt int
	offset  int64 // in its events

	progress, offered, sent *attempt.Progress

	stage                   string
	since                   time.Time
	stageOffered, stageTold string
}

// readProgress reads what the current attempt has told since the last time.
func (s *Syncer) readProgress(r *report) error {
	p := &r.live
	if r.job.Attempt == 0 {
		return nil
	}
	if p.attempt != r.job.Attempt {
		p.attempt, p.offset = r.job.Attempt, 0
	}
	dir, err := attempt.NewDir(s.stateDir, r.job.ID, p.attempt)
	if err != nil {
		return &localError{err}
	}
	events, err := dir.Events(p.offset)
	if err != nil {
		return &localError{err}
	}
	defer events.Close()
	for {
		e, err := events.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, attempt.ErrCorrupt) {
			return nil // what is damaged is missed; the job's end is told all the same
		}
		if err != nil {
			return &localError{err}
		}
		p.offset = events.Offset()
		if e.Progress != nil {
			p.progress = e.Progress
		}
		if e.Stage != "" {
			p.stage, p.since = e.Stage, e.Time
		}
	}
}

// unsent tells whether there is progress that Girder does not have.
func (p *progressReader) unsent() bool {
	return p.progress != nil && (p.sent == nil || *p.sent != *p.progress)
}

// stages are what Girder shows while a job that tells no progress itself does
// something else than run. They are no status: some of Girder's own refuse a cancel.
var stages = map[string]string{"preparing": "Preparing", "running": "Running", "finishing": "Storing results"}

// stageDue tells whether a stage has lasted long enough to be told.
func (p *progressReader) stageDue(now time.Time) bool {
	if p.progress != nil || p.stage == p.stageTold || stages[p.stage] == "" {
		return false
	}
	return p.stage == "running" && p.stageTold != "" || p.stage != "running" && waitedHere(p.since, now)
}

// withProgress adds the latest progress to a call.
func (r *report) withProgress(call girder.JobReport, now time.Time) girder.JobReport {
	p := &r.live
	switch {
	case p.progress != nil:
		latest := *p.progress
		p.offered = &latest
		if latest.Total != 0 || latest.Current != 0 {
			call.ProgressTotal, call.ProgressCurrent = &latest.Total, &latest.Current
		}
		if latest.Message != "" {
			call.ProgressMessage = &latest.Message
		}
	case p.stageDue(now):
		message := stages[p.stage]
		call.ProgressMessage = &message
		p.stageOffered = p.stage
	}
	return call
}

// told notes that what the last call offered has arrived.
func (p *progressReader) told() {
	if p.offered != nil {
		p.sent, p.offered = p.offered, nil
	}
	if p.stageOffered != "" {
		p.stageTold, p.stageOffered = p.stageOffered, ""
	}
}
