package queue

import (
	"errors"
	"fmt"
)

// What a caller can tell apart.
var (
	// ErrNotFound: no job of that id.
	ErrNotFound = errors.New("no such job")
	// ErrConflict: the id is taken by a job with another body.
	ErrConflict = errors.New("the id is taken by another job")
	// ErrInvalid: a submission that no queue could hold: a bad id, a priority
	// outside 0–9, negative needs.
	ErrInvalid = errors.New("bad submission")
	// ErrFull: the queue holds as many jobs as the configuration allows.
	ErrFull = errors.New("the queue is full")
	// ErrNoSpace: the disk has no room for another job; nothing accepted is touched.
	ErrNoSpace = errors.New("no space left for the queue")
	// ErrLocked: another daemon holds the state directory.
	ErrLocked = errors.New("the state directory is in use by another daemon")
	// ErrNewerSchema: the database was written by a newer release.
	ErrNewerSchema = errors.New("the queue was written by a newer release")
	// ErrNotEmpty: a restore would take the place of jobs.
	ErrNotEmpty = errors.New("the queue here is not empty")
	errNoBackup = errors.New("it is no whole backup of girder-worker")
	// ErrClosed: the store is closed.
	ErrClosed = errors.New("the queue is closed")
	// ErrDependency: a job named in after or after_any is unknown or the job itself.
	ErrDependency = errors.New("bad dependency")
	// ErrUntold: a job that ended, and of which somebody has still to be told.
	ErrUntold = errors.New("its end has still to be reported to where it came from: try again later")
	// ErrNotHoldable: a job that came over AMQP waits for no person.
	ErrNotHoldable = errors.New("only a job from the socket can be held")
	// ErrStarted: the job was started, or is not in doubt.
	ErrStarted = errors.New("it is this machine's")
	// ErrWaitedFor: another job of this machine waits for it.
	ErrWaitedFor = errors.New("another job here waits for it")
	// ErrBroken: a write to the disk failed in a way that leaves its outcome
	// unknown; the store refuses all work until it is opened again.
	ErrBroken = errors.New("the queue's disk failed: restart the daemon after checking it")
)

// TransitionError is an edge that the table does not have, or a report from an
// attempt that is not the job's current one.
type TransitionError struct {
	ID       string
	From, To State
	// Attempt is the attempt that reported and Current the job's own; both 0
	// when the edge is what was wrong.
	Attempt, Current int
}

// Error names the job and both states.
func (e *TransitionError) Error() string {
	if e.Attempt != e.Current {
		return fmt.Sprintf("cannot move job %s to %s: attempt %d is not its current one, which is %d", e.ID, e.To, e.Attempt, e.Current)
	}
	return fmt.Sprintf("cannot move job %s from %s to %s", e.ID, e.From, e.To)
}
