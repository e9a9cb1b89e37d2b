package jobsync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"girderworker/daemon/attempt"
	"girderworker/queue"
	"girderworker/transforms/girder"
)

// report is what a task needs while its job is reported to Girder.
type report struct {
	target Target
	id     string // of the Girder job
	client *girder.Client
	state  state

	job    queue.Job // as it stands at this step
	events []queue.Event

	told   uint64           // the last event that needs no more
	status girder.JobStatus // what Girder has; 0 when that is not known, or nothing was told
	over   bool             // Girder's job is final, whatever ours does
	asked  bool             // the end of our job was asked for
	called time.Time        // the last call that Girder answered
	calls  int
	dirty  bool          // the state on disk is older
	look   time.Duration // between two looks at a live attempt
	next   time.Time     // not before then is log sent
	failed refusals      // of tokens and the like
	live   progressReader
}

// state is what outlives a restart: JSON in the queue.
type state struct {
	// Cursor is where the log goes on.
	Cursor cursor `json:"cursor"`
	// Intent is a piece of log that was about to be sent.
	Intent *intent `json:"intent,omitempty"`
	// Recent are the hashes of the last pieces that arrived, the newest last; Sent
	// is how many have in all.
	Recent []string `json:"recent,omitempty"`
	Sent   int      `json:"sent,omitempty"`
	// Open is set when the last piece did not end with a line.
	Open bool `json:"open,omitempty"`
	// Failure is set when the error has been written into the log.
	Failure bool `json:"failure,omitempty"`
	// NoLog is set when the rest of the log was given up, GaveUp when everything was.
	NoLog  bool `json:"no_log,omitempty"`
	GaveUp bool `json:"gave_up,omitempty"`
}

const (
	// waitsHere is how long a job has to wait before Girder is told that it does.
	waitsHere = 2 * time.Second
	// pollEvery is how long Girder may say nothing before it is asked about a job
	// that has not ended; with many jobs longer, so that one server gets no more
	// than pollsPerSecond.
	pollEvery      = 5 * time.Second
	pollsPerSecond = 20
	// A token that is refused, a server that redirects: it may be a mistake that is
	// being mended.
	refusedFor = 10 * time.Minute
	// logTries is how often Girder may fail on a piece of log while it answers
	// other calls, before the rest of the log is given up: a job's log has a limit
	// there, and its status must be told.
	logTries = 10
)

// waitedHere tells whether what has waited since then has done so for long enough. Since
// a time to come is since before the clock was set back.
func waitedHere(since, now time.Time) bool {
	return now.Sub(since) >= waitsHere || now.Before(since)
}

// refusals is since when, and how often, Girder has refused.
type refusals struct {
	since time.Time
	log   int
}

// step does what is to be done for a task, and says when to come again.
func (s *Syncer) step(ctx context.Context, t *task, waiters []chan<- checked) outcome {
	if t.sink == queue.SinkCelery {
		return s.publish(ctx, t)
	}
	r := t.report
	read, err := s.store.Reporting(t.seq)
	if err != nil {
		return s.unreadable(ctx, t, read, err)
	}
	if r == nil {
		r = &report{job: read.Job, events: read.Events, look: logEvery}
		if len(read.Report) > 0 {
			err = json.Unmarshal(read.Report, &r.state)
		}
		if err == nil && !r.state.GaveUp {
			err = s.aim(r, read.Secrets)
		}
		if err != nil {
			return s.giveUp(ctx, t, r, err.Error())
		}
		if i := r.state.Intent; i != nil {
			i.uncertain = true // what became of it is not known any more
		}
		t.report = r
	}
	r.job, r.events = read.Job, read.Events
	if r.state.GaveUp {
		return s.forget(ctx, t, r)
	}
	if key := s.hostKey(r.target); key != t.host.key {
		if r.client, err = s.client(r.target); err != nil { // the override may have changed
			return s.giveUp(ctx, t, r, err.Error())
		}
		return outcome{host: key, keep: true, quiet: true}
	}
	now := s.clock.Now()
	if age := s.settings.Load().Age; r.job.State.Final() && s.store.Sure().Sub(r.job.Finished) > age && (t.failures > 0 || t.host.struggles(s)) {
		return s.giveUp(ctx, t, r, fmt.Sprintf("Girder could not be told for %s", age))
	}
	calls := r.calls
	again, err := s.advance(ctx, r, now)
	o := outcome{again: again, err: err, since: r.since(), quiet: r.calls == calls && err == nil}
	switch {
	case errors.Is(err, errDone):
		o.err, o.done, o.since = nil, true, time.Time{}
	case err == nil:
		r.failed = refusals{log: r.failed.log}
	case ctx.Err() != nil:
		return o
	default:
		return s.judge(ctx, t, r, o, now)
	}
	for _, w := range waiters {
		stop := r.asked || r.over || r.status == girder.JobCanceling || r.status.Final()
		answer(w, checked{verdict: Verdict{Stop: stop, Status: r.status}})
	}
	return o
}

// aim finds out where a job reports to.
func (s *Syncer) aim(r *report, secrets []byte) (err error) {
	if r.target, err = TargetOf(r.job.Origin, secrets); err != nil {
		return err
	}
	if err := r.target.check(); err != nil {
		return err
	}
	if len(secrets) == 0 {
		return errors.New("its token is gone: secrets are in no backup")
	}
	if _, r.id, err = girder.SplitJobURL(r.target.URL); err != nil {
		return err
	}
	r.client, err = s.client(r.target)
	return err
}

func answer(w chan<- checked, c checked) {
	select {
	case w <- c:
	default: // it has been answered
	}
}

// struggles tells whether the last that was heard of a server was bad.
func (h *host) struggles(s *Syncer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return h.failures > 0
}

// since is when the first event happened that needs something still.
func (r *report) since() time.Time {
	for _, e := range r.events {
		if e.Seq > r.told && e.Left&queue.SinkGirder != 0 {
			return e.Time
		}
	}
	return time.Time{}
}

// unreadable ends a task whose job is gone.
func (s *Syncer) unreadable(ctx context.Context, t *task, read queue.Reporting, err error) outcome {
	if !errors.Is(err, queue.ErrNotFound) {
		return outcome{err: err, keep: true}
	}
	if n := len(read.Events); n > 0 {
		if err := s.store.Delivered(ctx, t.seq, read.Events[n-1].Seq, t.sink); err != nil {
			return outcome{err: err, keep: true}
		}
	}
	return outcome{done: true, quiet: true}
}

// errDone ends a task.
var errDone = errors.New("everything is told")

// advance tells what there is to tell. The time that it returns is when to come
// again; zero: when the queue has something new. Everything that it did is kept in
// r, so that it can be called again after an error.
func (s *Syncer) advance(ctx context.Context, r *report, now time.Time) (again time.Time, err error) {
	if r.job.Doubtful {
		return now.Add(pollEvery), nil // what Girder has may be another machine's doing
	}
	if i := r.state.Intent; i != nil && i.uncertain {
		if err := s.resolve(ctx, r); err != nil {
			return time.Time{}, err
		}
	}
	for i, e := range r.events {
		if e.Seq <= r.told || e.Left&queue.SinkGirder == 0 {
			continue
		}
		switch e.State {
		case queue.Queued, queue.Delayed, queue.Held:
			if i < len(r.events)-1 || e.Attempt > 0 {
				break
			}
			if !waitedHere(e.Time, now) {
				return e.Time.Add(waitsHere), nil
			}
			if err := s.setStatus(ctx, r, girder.JobQueued); err != nil {
				return time.Time{}, err
			}
		case queue.Preparing:
			if err := s.setStatus(ctx, r, girder.JobRunning); err != nil {
				return time.Time{}, err
			}
		case queue.Succeeded, queue.Failed, queue.Canceled:
			more, err := s.finish(ctx, r, e)
			if more {
				again = now
			}
			return again, err
		}
		r.told = e.Seq
		s.count.delivered.Add(1)
	}
	if r.job.State.Final() {
		if r.since().IsZero() && len(r.events) == 0 {
			return time.Time{}, errDone
		}
		return now, nil // its event was written after these were read
	}
	if r.job.State.Active() && r.job.Attempt > 0 {
		if !now.Before(r.next) {
			if err := s.follow(ctx, r, now); err != nil {
				return time.Time{}, err
			}
			r.next = now.Add(r.look)
		}
		again = r.next
	}
	poll := r.called.Add(s.pollEvery())
	if !now.Before(poll) {
		if err := s.tell(ctx, r, girder.JobReport{}); err != nil {
			return time.Time{}, err
		}
		poll = now.Add(s.pollEvery())
	}
	if again.IsZero() || poll.Before(again) {
		again = poll
	}
	return again, nil
}

func (s *Syncer) pollEvery() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(pollEvery, time.Duration(len(s.tasks))*time.Second/pollsPerSecond)
}

// finish tells the end: the rest of the log, the error, the status. more: it was a
// long log, and others have their turn now.
func (s *Syncer) finish(ctx context.Context, r *report, e queue.Event) (more bool, err error) {
	if more, err = s.drain(ctx, r, drainAtOnce); more || err != nil {
		return more, err
	}
	if err := s.readProgress(r); err == nil && r.live.unsent() {
		if err := s.tell(ctx, r, r.withProgress(girder.JobReport{}, s.clock.Now())); err != nil {
			return false, err
		}
	}
	status := girder.JobCanceled
	switch e.State {
	case queue.Succeeded:
		status = girder.JobSuccess
	case queue.Failed:
		status = girder.JobError
		if err := s.sendFailure(ctx, r); err != nil {
			return false, err
		}
	}
	// No status leads straight from what a job is born with to an error or success.
	if r.status == 0 && e.State != queue.Canceled && !r.over {
		if err := s.setStatus(ctx, r, girder.JobRunning); err != nil {
			return false, err
		}
	}
	if err := s.setStatus(ctx, r, status); err != nil {
		return false, err
	}
	if err := s.store.Delivered(ctx, r.job.Seq, e.Seq, queue.SinkGirder); err != nil {
		return false, err
	}
	s.count.delivered.Add(1)
	return false, errDone
}

// setStatus brings the Girder job to a status, or accepts that it cannot be.
func (s *Syncer) setStatus(ctx context.Context, r *report, want girder.JobStatus) error {
	if r.over || r.status == want {
		return nil
	}
	err := s.tell(ctx, r, girder.JobReport{Status: &want})
	if !errors.Is(err, girder.ErrTransition) {
		return err
	}
	job, err := r.client.UpdateJob(ctx, r.id, girder.JobReport{}) // it answers without the log
	err = s.tally(ctx, err)
	if err != nil {
		return err
	}
	s.seen(ctx, r, job.Status)
	if job.Status == girder.JobCanceling && want == girder.JobSuccess {
		want = girder.JobCanceled // as the Python worker does
	}
	if r.over || job.Status == want {
		return nil
	}
	if job.Status == girder.JobCanceling && want != girder.JobCanceled && want != girder.JobError {
		return nil // the end that was asked for is what is told next
	}
	path := route(job.Handler, job.Status, want)
	if path == nil {
		s.count.refused.Add(1)
		if want.Final() {
			s.log.Warn("Girder refuses the status of a job", "job", r.job.ID, "girder", r.target, "has", job.Status, "want", want)
		}
		return nil
	}
	for _, status := range path {
		if err := s.tell(ctx, r, girder.JobReport{Status: &status}); err != nil {
			return err
		}
	}
	return nil
}

// tell makes one call, and looks at what the answer says of the job.
func (s *Syncer) tell(ctx context.Context, r *report, report girder.JobReport) error {
	job, err := r.client.UpdateJob(ctx, r.id, report)
	err = s.tally(ctx, err)
	if err != nil {
		return err
	}
	if report.ProgressMessage != nil || report.ProgressTotal != nil {
		r.live.told()
	}
	s.seen(ctx, r, job.Status)
	return nil
}

// seen obeys what Girder says of its job: one that was canceled there is canceled here.
func (s *Syncer) seen(ctx context.Context, r *report, status girder.JobStatus) {
	r.called = s.clock.Now()
	r.calls++
	r.status = status
	ours := r.job.State
	if status.Final() {
		r.over = true
	}
	if status != girder.JobCanceling && status != girder.JobCanceled || ours.Final() || r.asked {
		return
	}
	if !r.job.CancelRequested {
		if err := s.cancel(ctx, r.job.ID, "canceled in Girder"); err != nil {
			s.log.Warn("Cannot cancel a job that was canceled in Girder", "job", r.job.ID, "error", err)
			return // the next answer says it again
		}
	}
	r.asked = true
}

// judge decides what follows from an error.
func (s *Syncer) judge(ctx context.Context, t *task, r *report, o outcome, now time.Time) outcome {
	var status *girder.StatusError
	answered := errors.As(o.err, &status)
	var piece *pieceError
	switch {
	case errors.As(o.err, &piece):
		s.log.Debug("Girder failed on a piece of a log; trying again", "job", r.job.ID, "girder", r.target, "error", o.err)
	case errors.Is(o.err, girder.ErrNoSuch) && answered && status.Type != "":
		return s.giveUp(ctx, t, r, "Girder does not have the job any more: "+o.err.Error())
	case errors.Is(o.err, girder.ErrDenied), errors.Is(o.err, girder.ErrRedirect),
		answered && status.Status < 500 && status.Status != http.StatusTooManyRequests:
		s.count.refused.Add(1)
		if r.failed.since.IsZero() {
			r.failed.since = now
			s.log.Warn("Girder refuses the reports of a job; trying again", "job", r.job.ID, "girder", r.target, "error", o.err)
		}
		if now.Sub(r.failed.since) >= refusedFor {
			return s.giveUp(ctx, t, r, "Girder refused it: "+o.err.Error())
		}
	case answered && status.Status != http.StatusBadGateway && status.Status != http.StatusServiceUnavailable &&
		status.Status != http.StatusGatewayTimeout && status.Status != http.StatusTooManyRequests:
		// An error within Girder may be about this job alone.
		s.log.Debug("Girder failed on a report; trying again", "job", r.job.ID, "girder", r.target, "error", o.err)
	case isGirder(o.err):
		o.away = true
		if r.dirty && r.job.State.Final() {
			if err := s.save(ctx, r); err != nil {
				s.log.Error("Cannot keep how far a log was sent", "job", r.job.ID, "error", err)
			}
		}
		s.log.Debug("Cannot reach Girder; trying again", "job", r.job.ID, "girder", r.target, "error", o.err)
	default:
		s.log.Error("Cannot report a job; trying again", "job", r.job.ID, "error", o.err)
	}
	return o
}

// isGirder tells the troubles of a call from those of this machine.
func isGirder(err error) bool {
	var ours *localError
	return !errors.As(err, &ours) && !errors.Is(err, queue.ErrClosed) && !errors.Is(err, queue.ErrNoSpace) &&
		!errors.Is(err, queue.ErrBroken) && !errors.Is(err, attempt.ErrCorrupt)
}

// localError is a file of this machine that cannot be read.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// giveUp ends the reports of a job, and says so where a person looks.
func (s *Syncer) giveUp(ctx context.Context, t *task, r *report, reason string) outcome {
	s.log.Warn("Giving up the reports of a job to Girder", "job", r.job.ID, "girder", r.target, "reason", reason)
	if err := s.store.SetUntold(ctx, t.seq, reason); err != nil {
		return outcome{err: err, keep: true}
	}
	s.count.gaveUp.Add(1)
	r.state.GaveUp = true
	if !r.job.State.Final() {
		if err := s.save(ctx, r); err != nil {
			return outcome{err: err, keep: true}
		}
		t.report = r
	}
	return s.forget(ctx, t, r)
}

// forget takes the events of a job that was given up out of the outbox.
func (s *Syncer) forget(ctx context.Context, t *task, r *report) outcome {
	if n := len(r.events); n > 0 {
		if err := s.store.Delivered(ctx, t.seq, r.events[n-1].Seq, queue.SinkGirder); err != nil {
			return outcome{err: err, keep: true}
		}
	}
	return outcome{done: true, quiet: true}
}

// save commits the state.
func (s *Syncer) save(ctx context.Context, r *report) error {
	raw, err := json.Marshal(r.state)
	if err != nil {
		return err
	}
	if err := s.store.SetReport(ctx, r.job.Seq, raw); err != nil {
		return err
	}
	r.dirty = false
	return nil
}

// route is how a job gets from one status to another by Girder's rules; nil when
// it cannot.
func route(handler string, from, to girder.JobStatus) []girder.JobStatus {
	rules := transitions[handler]
	if rules == nil {
		rules = transitions[""]
	}
	came := map[girder.JobStatus]girder.JobStatus{from: from}
	for queue := []girder.JobStatus{from}; len(queue) > 0; queue = queue[1:] {
		for _, next := range rules[queue[0]] {
			if _, ok := came[next]; ok || next == girder.JobCanceling && to != girder.JobCanceled || next.Final() && next != to {
				continue
			}
			came[next] = queue[0]
			queue = append(queue, next)
		}
	}
	if _, ok := came[to]; !ok {
		return nil
	}
	var path []girder.JobStatus
	for at := to; at != from; at = came[at] {
		path = append([]girder.JobStatus{at}, path...)
	}
	return path
}

// transitions are Girder's, by the job's handler; "" is any other. A status that
// a job has already is accepted always.
var transitions = map[string]map[girder.JobStatus][]girder.JobStatus{
	"celery_handler": {0: {1, 2, 5, 824}, 1: {2, 4, 5, 824}, 2: fromRunning, 824: {4, 5}, 820: {2, 4, 821}, 821: {4}, 822: {4, 823}, 823: {3, 4}},
	"worker_handler": {0: {1, 824}, 1: {2, 4, 5, 824}, 2: fromRunning, 824: {4, 5}, 820: {2, 4, 821}, 821: {4}, 822: {4, 823}, 823: {3, 4}},
	"":               {0: {1, 2, 5}, 1: {2, 4, 5}, 2: {3, 4, 5}},
}

var fromRunning = []girder.JobStatus{3, 4, 5, 820, 821, 822, 823, 824}
