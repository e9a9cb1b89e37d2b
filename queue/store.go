package queue

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"time"
)

// Options configure [Open]. Zero fields get defaults.
type Options struct {
	// Dir holds the database files; it is made 0700 when missing.
	Dir    string
	Logger *slog.Logger
	// Now is the clock, for tests.
	Now func() time.Time
	// MaxJobs is how many jobs may wait; more are refused with ErrFull. 0: 2,000,000.
	MaxJobs int
	// Retention ends the history: final jobs older than Age, or beyond Count, are removed. Zero: kept.
	Retention Retention
}

// Retention bounds the history of finished jobs.
type Retention struct {
	Age   time.Duration
	Count int
}

// Store is the queue on disk. All methods are safe for concurrent use; every
// method that changes something returns only after the change is durable.
type Store struct{}

// Open locks dir, opens or makes the database, and migrates it.
func Open(o Options) (*Store, error) { panic("contract") }

// Close ends the committer, then the files. Calls under way end with ErrClosed.
func (s *Store) Close() error { panic("contract") }

// Submission is a job to accept.
type Submission struct {
	// ID, when not empty, makes the submission idempotent within Source and
	// Owner: the same ID with the same BodyHash answers the job that exists,
	// with another BodyHash ErrConflict.
	ID        string
	Source    Source
	Owner     string
	Identity  Identity
	Name      string
	Task      string
	Image     string
	Priority  int
	Needs     Needs
	Limits    Limits
	Retry     Retry
	After     []string
	AfterAny  []string
	NotBefore time.Time
	Expires   time.Time
	Hold      string // not empty: born held, with this reason
	Fail      string // not empty: born failed, with this reason (unknown task)
	Report    bool   // its changes of state go to the outbox
	Body      json.RawMessage
	BodyHash  string
}

// Accepted is the answer to one Submission.
type Accepted struct {
	Job Job
	// Existing is set when an equal submission was accepted before.
	Existing bool
}

// Submit accepts all submissions or none. Concurrent calls share commits.
func (s *Store) Submit(ctx context.Context, subs ...Submission) ([]Accepted, error) {
	panic("contract")
}

// Job returns a job, active or from the history.
func (s *Store) Job(id string) (Job, error) { panic("contract") }

// Filter chooses jobs for List. Zero fields choose all.
type Filter struct {
	States []State
	Owner  string
	// Before continues a listing: only jobs with a smaller Seq. Newest come first.
	Before uint64
	Limit  int // 0: 1000
}

// List returns jobs, newest first.
func (s *Store) List(f Filter) ([]Job, error) { panic("contract") }

// Counts is how many jobs are in each state, the history included.
func (s *Store) Counts() map[State]int { panic("contract") }

// Capacity is what the machine has for jobs.
type Capacity struct {
	Slots  int
	CPUs   float64
	Memory int64
	GPUs   int
}

// InUse is what jobs in preparing and running take; derived from the jobs, never counted apart.
func (s *Store) InUse() Capacity { panic("contract") }

// Claim moves at most max startable jobs that fit into total less InUse to
// preparing, with a new attempt number, in the order of fairness. It also
// settles what has become due: delayed jobs, expiry, dependencies.
func (s *Store) Claim(ctx context.Context, total Capacity, bootID string, max int) ([]Job, error) {
	panic("contract")
}

// NextDue is when Claim has something to do again without any other change;
// zero when nothing waits for time.
func (s *Store) NextDue() time.Time { panic("contract") }

// Wake is signalled (never blocking, capacity 1) when Claim may find something new.
func (s *Store) Wake() <-chan struct{} { panic("contract") }

// The following move a job with a live attempt. An attempt that is not the
// job's current one is answered with *TransitionError and changes nothing.

// Started: preparing → running.
func (s *Store) Started(ctx context.Context, id string, attempt int, at time.Time) error {
	panic("contract")
}

// Exited records the end of the attempt: → finishing, which frees its slot.
func (s *Store) Exited(ctx context.Context, id string, attempt int, r Result, at time.Time) error {
	panic("contract")
}

// Finish ends a finishing job: succeeded, failed, canceled, or delayed and
// queued again when Result and Retry say so. problem is the first side effect
// that failed for good, or empty. Exited and Finish in one call, and so in one
// commit, when r is not nil.
func (s *Store) Finish(ctx context.Context, id string, attempt int, r *Result, problem string, at time.Time) (Job, error) {
	panic("contract")
}

// Interrupt ends an attempt that was lost (reboot, dead runner, handed back):
// queued again without counting, or failed where Retry.FailInterrupted.
func (s *Store) Interrupt(ctx context.Context, id string, attempt int, reason string) (Job, error) {
	panic("contract")
}

// Cancel asks for the end of a job: a job without attempt is canceled at once,
// one with an attempt gets CancelRequested. A final job is answered as it is.
func (s *Store) Cancel(ctx context.Context, id, reason string) (Job, error) { panic("contract") }

// Hold and Release are a person's; only queued and delayed jobs can be held.
func (s *Store) Hold(ctx context.Context, id, reason string) (Job, error) { panic("contract") }

// Release lets a held job queue again.
func (s *Store) Release(ctx context.Context, id string) (Job, error) { panic("contract") }

// Retry queues a copy of a final job under a new id and returns the copy.
func (s *Store) Retry(ctx context.Context, id string) (Job, error) { panic("contract") }

// Remove deletes a final job from the history.
func (s *Store) Remove(ctx context.Context, id string) error { panic("contract") }

// Sweep applies the retention and returns the ids it removed, so that their files can go too.
func (s *Store) Sweep(ctx context.Context) ([]string, error) { panic("contract") }

// Active returns the jobs in preparing, running and finishing, for recovery.
func (s *Store) Active() ([]Job, error) { panic("contract") }

// Wait is why a job that has not started waits.
type Wait struct {
	// Kind is machine-readable: "slots", "cpus", "memory", "gpus", "turn",
	// "too-large", "reserved", "time", "after", "held", "paused".
	Kind string `json:"kind"`
	// Text is for a person and names numbers and ids.
	Text string `json:"text"`
}

// Why tells what a job waits for under total, and how many jobs are before it (-1: unknown).
func (s *Store) Why(id string, total Capacity) (waits []Wait, ahead int, err error) {
	panic("contract")
}

// Notice is a change that was committed.
type Notice struct {
	Job      string
	Seq      uint64
	State    State
	Version  uint64
	Canceled bool // CancelRequested
}

// Subscribe delivers notices of id ("" for all) until ctx ends. A subscriber
// that lags is closed early: it reads the job again and subscribes anew.
func (s *Store) Subscribe(ctx context.Context, id string) <-chan Notice { panic("contract") }

// Event is a row of the outbox.
type Event struct {
	Seq     uint64    `json:"seq"`
	Job     string    `json:"job"`
	Attempt int       `json:"attempt"`
	State   State     `json:"state"`
	Time    time.Time `json:"time"`
	Result  *Result   `json:"result,omitempty"`
}

// Pending returns outbox events with a Seq larger than after, oldest first.
func (s *Store) Pending(after uint64, limit int) ([]Event, error) { panic("contract") }

// Delivered removes events from the outbox.
func (s *Store) Delivered(ctx context.Context, seqs ...uint64) error { panic("contract") }

// Revoke remembers, across restarts and until expiry, that a job of this id is
// not to be run though it has not come yet; it cancels one that has.
func (s *Store) Revoke(ctx context.Context, id string, until time.Time) error { panic("contract") }

// Backup writes a consistent copy without holding a read transaction while w is slow.
func (s *Store) Backup(ctx context.Context, w io.Writer) error { panic("contract") }

// Check verifies the database's structure and every invariant of the layout.
func (s *Store) Check() error { panic("contract") }

// Probe commits and reads an empty change: the self-check behind the watchdog.
func (s *Store) Probe(ctx context.Context) error { panic("contract") }
