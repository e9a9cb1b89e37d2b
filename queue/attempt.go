package queue

import (
	"context"
	"fmt"
	"time"
)

// Retries wait at least Retry.Delay, doubled with each failure up to maxDelay,
// and up to jitterShare of it longer, so that jobs that failed together do not
// come back together.
const (
	maxDelay    = time.Hour
	jitterShare = 0.1
)

// Outcomes of an attempt that mean more to the queue than text.
const (
	outcomeExited      = "exited"
	outcomeCanceled    = "canceled"
	outcomeInterrupted = "interrupted"
)

// The following move a job with a live attempt. An attempt that is not the
// job's current one is answered with *TransitionError and changes nothing. A
// report that repeats what is recorded is no error: a daemon that died between
// the commit and its own note sends it again.

// Started: preparing → running.
func (s *Store) Started(ctx context.Context, id string, attempt int, at time.Time) error {
	return s.do(ctx, func(t *txn) error {
		j, err := t.current(id, attempt, Running)
		if err != nil || j.State == Running {
			return err
		}
		return t.started(&j, at)
	})
}

func (t *txn) started(j *Job, at time.Time) error {
	return t.move(j, Running, func(j *Job) { j.Started = clean(at) })
}

// Exited records the end of the attempt: → finishing, which frees its slot.
func (s *Store) Exited(ctx context.Context, id string, attempt int, r Result, at time.Time) error {
	return s.do(ctx, func(t *txn) error {
		j, err := t.current(id, attempt, Finishing)
		if err != nil || j.State == Finishing {
			return err
		}
		return t.exited(&j, &r, at)
	})
}

func (t *txn) exited(j *Job, r *Result, at time.Time) error {
	if j.State == Preparing && !r.Started.IsZero() {
		if err := t.started(j, r.Started); err != nil {
			return err
		}
	}
	return t.move(j, Finishing, func(j *Job) {
		j.Result, j.Exited = copyResult(r), clean(at)
	})
}

// Finish ends a finishing job: succeeded, failed, canceled, or delayed and
// queued again when Result and Retry say so. problem is the first side effect
// that failed for good, or empty. Exited and Finish in one call, and so in one
// commit, when r is not nil. The job comes without its body.
func (s *Store) Finish(ctx context.Context, id string, attempt int, r *Result, problem string, at time.Time) (j Job, err error) {
	return s.end(ctx, id, attempt, r, problem, nil, at)
}

// FinishAgain is Finish of an attempt that asks for another one after a delay,
// whatever the job's Retry says. A cancel counts for more.
func (s *Store) FinishAgain(ctx context.Context, id string, attempt int, r *Result, delay time.Duration, at time.Time) (Job, error) {
	return s.end(ctx, id, attempt, r, "", &delay, at)
}

func (s *Store) end(ctx context.Context, id string, attempt int, r *Result, problem string, again *time.Duration, at time.Time) (j Job, err error) {
	err = s.do(ctx, func(t *txn) error {
		to := Succeeded
		if j, err = t.current(id, attempt, to); err != nil {
			return err
		}
		switch {
		case j.State == Finishing:
		case r == nil || j.State != Preparing && j.State != Running:
			return &TransitionError{ID: id, From: j.State, To: to}
		default:
			if err := t.exited(&j, r, at); err != nil {
				return err
			}
		}
		if again != nil && !j.CancelRequested {
			return t.again(&j, *again, r.Error, at)
		}
		return t.finish(&j, problem, at)
	})
	if err != nil {
		return Job{}, err
	}
	return j, nil
}

// finish decides what becomes of a finishing job.
func (t *txn) finish(j *Job, problem string, at time.Time) error {
	var r Result
	if j.Result != nil {
		r = *j.Result
	}
	switch {
	case j.CancelRequested || r.Outcome == outcomeCanceled:
		return t.move(j, Canceled, func(j *Job) {
			j.Reason = firstOf(j.CancelReason, r.Error, "canceled")
		})
	case r.Outcome == outcomeInterrupted:
		return t.requeue(j, firstOf(r.Error, "interrupted"))
	case r.Outcome == outcomeExited && r.Code == 0 && problem == "":
		return t.move(j, Succeeded, func(j *Job) { j.Reason = "" })
	}
	reason := firstOf(r.Error, problem, fmt.Sprintf("it exited with code %d", r.Code))
	if j.Failures >= j.Retry.Max {
		return t.move(j, Failed, func(j *Job) {
			j.Failures++
			j.Reason = reason
		})
	}
	return t.again(j, t.backoff(j.Retry.Delay, j.Failures), reason, at)
}

// again has a job whose attempt failed tried again after a delay.
func (t *txn) again(j *Job, delay time.Duration, reason string, at time.Time) error {
	to := Delayed
	if delay == 0 {
		to = Queued
	}
	return t.move(j, to, func(j *Job) {
		j.Failures++
		j.Reason = fmt.Sprintf("attempt %d failed: %s", j.Attempt, reason)
		j.NotBefore = clean(at.Add(delay))
	})
}

// backoff is how long the retry waits that follows failures earlier ones.
func (t *txn) backoff(first time.Duration, failures int) time.Duration {
	d := min(first, maxDelay)
	for ; failures > 0 && d < maxDelay; failures-- {
		d = min(2*d, maxDelay)
	}
	return d + time.Duration(t.jitter()*jitterShare*float64(d))
}

// requeue puts a job whose attempt was lost back, without counting it.
func (t *txn) requeue(j *Job, reason string) error {
	if j.Retry.FailInterrupted {
		return t.move(j, Failed, func(j *Job) { j.Reason = reason })
	}
	return t.move(j, Queued, func(j *Job) {
		j.Reason = fmt.Sprintf("attempt %d was interrupted: %s", j.Attempt, reason)
	})
}

// Interrupt ends an attempt that was lost (reboot, dead runner, handed back):
// queued again without counting, or failed where Retry.FailInterrupted. A job
// whose end was asked for is canceled. One that is finishing has its exit on
// record and cannot be interrupted. The job comes without its body.
func (s *Store) Interrupt(ctx context.Context, id string, attempt int, reason string) (j Job, err error) {
	err = s.do(ctx, func(t *txn) error {
		if j, err = t.current(id, attempt, Queued); err != nil {
			return err
		}
		if j.State != Preparing && j.State != Running {
			return &TransitionError{ID: id, From: j.State, To: Queued}
		}
		if j.CancelRequested {
			return t.move(&j, Canceled, func(j *Job) { j.Reason = firstOf(j.CancelReason, "canceled") })
		}
		return t.requeue(&j, firstOf(reason, "lost"))
	})
	if err != nil {
		return Job{}, err
	}
	return j, nil
}

// current loads the job and refuses a report to move it to state to that does
// not come from its current attempt.
func (t *txn) current(id string, attempt int, to State) (Job, error) {
	j, err := t.find(id)
	if err != nil {
		return Job{}, err
	}
	if !j.State.Active() {
		return Job{}, &TransitionError{ID: id, From: j.State, To: to}
	}
	if j.Attempt != attempt {
		return Job{}, &TransitionError{ID: id, From: j.State, To: to, Attempt: attempt, Current: j.Attempt}
	}
	return j, nil
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

func copyResult(r *Result) *Result {
	c := *r
	c.Detail, c.Started = append([]byte(nil), r.Detail...), time.Time{}
	return &c
}
