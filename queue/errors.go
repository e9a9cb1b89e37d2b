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
	// ErrFull: the queue holds as many jobs as the configuration allows.
	ErrFull = errors.New("the queue is full")
	// ErrNoSpace: the disk has no room for another job; nothing accepted is touched.
	ErrNoSpace = errors.New("no space left for the queue")
	// ErrLocked: another daemon holds the state directory.
	ErrLocked = errors.New("the state directory is in use by another daemon")
	// ErrNewerSchema: the database was written by a newer release.
	ErrNewerSchema = errors.New("the queue was written by a newer release")
	// ErrClosed: the store is closed.
	ErrClosed = errors.New("the queue is closed")
	// ErrDependency: a job named in after or after_any is unknown or the job itself.
	ErrDependency = errors.New("bad dependency")
)

// TransitionError is an edge that the table does not have.
type TransitionError struct {
	ID       string
	From, To State
}

// Error names the job and both states.
func (e *TransitionError) Error() string {
	return fmt.Sprintf("cannot move job %s from %s to %s", e.ID, e.From, e.To)
}
