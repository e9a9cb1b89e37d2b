package queue

import (
	"encoding/json"
	"time"
)

// State is where a job stands. The edges between states are in transition.go;
// nothing else changes a job's state.
type State string

// The states, each with who moves a job out of it.
const (
	// Queued waits for a slot; a claim moves it on.
	Queued State = "queued"
	// Delayed waits for a time (ETA, retry); the store's clock moves it on.
	Delayed State = "delayed"
	// Held waits for a person, with the reason; release moves it on.
	Held State = "held"
	// Preparing has an attempt whose inputs are being made ready.
	Preparing State = "preparing"
	// Running has a container.
	Running State = "running"
	// Finishing has its exit recorded and its outputs still to be pushed. It holds no slot.
	Finishing State = "finishing"
	// Succeeded, Failed and Canceled are final.
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Canceled  State = "canceled"
)

// Final tells whether no edge leaves s except a person's retry, which makes a new job.
func (s State) Final() bool { return s == Succeeded || s == Failed || s == Canceled }

// Active tells whether an attempt of the job may be alive.
func (s State) Active() bool { return s == Preparing || s == Running || s == Finishing }

// Source says where a job came from.
type Source string

// The sources.
const (
	SourceSocket Source = "socket"
	SourceAMQP   Source = "amqp"
)

// Job is one row of the queue. Numbers are durations in nanoseconds and sizes
// in bytes unless a comment says otherwise. What the job runs is in Body, which
// the queue neither reads nor changes.
type Job struct {
	// ID is unique in the store: the client's own (see [Submission]) or made here.
	ID string `json:"id"`
	// Seq is the order of acceptance, never used twice.
	Seq uint64 `json:"seq"`
	// Version grows by one with every change of the row.
	Version uint64 `json:"version"`

	Source Source `json:"source"`
	// Owner is the unit of fairness and of access: "uid:1000" for socket jobs,
	// the Girder user (or the source's name) for AMQP jobs.
	Owner string `json:"owner"`
	// Identity is who the job runs as on the host.
	Identity Identity `json:"identity"`

	Name     string `json:"name,omitempty"`
	Task     string `json:"task"`
	Image    string `json:"image,omitempty"`
	Priority int    `json:"priority"` // 0–9, 9 first

	State  State  `json:"state"`
	Reason string `json:"reason,omitempty"` // why it is held, delayed, failed or canceled, for a person
	// CancelRequested works in every state; CancelReason is for a person.
	CancelRequested bool   `json:"cancel_requested,omitempty"`
	CancelReason    string `json:"cancel_reason,omitempty"`

	Needs  Needs  `json:"needs"`
	Limits Limits `json:"limits"`

	// Attempt is the number of the current or last attempt, from 1; 0 before the first.
	Attempt int `json:"attempt"`
	// Failures counts attempts that count against Retries: interrupted ones do not.
	Failures int   `json:"failures,omitempty"`
	Retry    Retry `json:"retry"`

	// After lists jobs that must succeed first; AfterAny jobs that must only end.
	After    []string `json:"after,omitempty"`
	AfterAny []string `json:"after_any,omitempty"`

	NotBefore time.Time `json:"not_before,omitzero"`
	Expires   time.Time `json:"expires,omitzero"` // start until then, or fail

	Created  time.Time `json:"created"`
	Queued   time.Time `json:"queued,omitzero"`  // last time it became startable
	Claimed  time.Time `json:"claimed,omitzero"` // current attempt
	Started  time.Time `json:"started,omitzero"` // container of the current attempt
	Exited   time.Time `json:"exited,omitzero"`
	Finished time.Time `json:"finished,omitzero"` // final state reached

	// Result is set with the exit of the last attempt.
	Result *Result `json:"result,omitempty"`

	// Body is the job document as the daemon wants it back, opaque here.
	Body json.RawMessage `json:"body,omitempty"`
	// BodyHash is the SHA-256 of what the submitter sent, for idempotent ids.
	BodyHash string `json:"body_hash"`
	// BootID is the kernel's boot id at the claim of the current attempt.
	BootID string `json:"boot_id,omitempty"`
	// Origin is what is known of where the job came from, opaque here and not
	// secret. It comes with the body.
	Origin json.RawMessage `json:"origin,omitempty"`
	// Report says who is told of changes of state, through the outbox.
	Report Sinks `json:"report,omitempty"`
	// Untold is why the rest of what was to be reported was given up, for a person.
	Untold string `json:"untold,omitempty"`

	// Doubtful says that the job may be another machine's: it is not claimed until
	// that is settled; see [Store.Confirm].
	Doubtful bool `json:"doubtful,omitempty"`
	// HandedBack says of a job in doubt that its message may be in its queue again,
	// because this machine published it; see [Store.Doubt].
	HandedBack bool `json:"handed_back,omitempty"`

	// pending counts the jobs of After and AfterAny that have not ended yet: a
	// queued job is startable when it is 0, and not doubtful.
	pending int
	// passed is when another job first overtook this one because it did not fit
	// into what was free; see claim.go.
	passed time.Time
}

// Identity is who a job belongs to on this host, as the kernel told it.
type Identity struct {
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Groups []int  `json:"groups,omitempty"`
	User   string `json:"user,omitempty"` // login name, for display only
	// Submitter and PID are the user and the process that asked; Seal is by what
	// whoever starts the job knows that all this is true. The queue only keeps them.
	Submitter int    `json:"submitter,omitempty"`
	PID       int    `json:"pid,omitempty"`
	Seal      string `json:"seal,omitempty"`
}

// Needs is what admission counts.
type Needs struct {
	CPUs   float64 `json:"cpus"`
	Memory int64   `json:"memory"`
	GPUs   int     `json:"gpus,omitempty"`
	// Scratch is disk space that the job asked for, and Swap what it may have beside
	// its memory, in bytes.
	Scratch int64 `json:"scratch,omitempty"`
	Swap    int64 `json:"swap,omitempty"`
}

// Limits end an attempt. Zero is no limit.
type Limits struct {
	Hard time.Duration `json:"hard,omitempty"` // wall time, then the cgroup is killed
	Soft time.Duration `json:"soft,omitempty"` // wall time, then the stop signal
	Idle time.Duration `json:"idle,omitempty"` // without output
}

// Retry says what happens after a failed attempt.
type Retry struct {
	Max   int           `json:"max"`             // attempts after the first
	Delay time.Duration `json:"delay,omitempty"` // before the first retry; doubles, at most MaxDelay
	// FailInterrupted fails a job whose attempt a reboot or crash ended, instead of queueing it again.
	FailInterrupted bool `json:"fail_interrupted,omitempty"`
}

// Result is how an attempt ended.
type Result struct {
	// Outcome is one of the attempt's outcomes: exited, canceled, timeout, oom, error, interrupted.
	Outcome string `json:"outcome"`
	// Code is the exit code that `wait` and `run` end with.
	Code int `json:"code"`
	// Error is for a person; empty after a success.
	Error string `json:"error,omitempty"`
	// Detail is the attempt's own record (streams, usage), opaque here.
	Detail json.RawMessage `json:"detail,omitempty"`
	// Started, when not zero, has the end record the start, too, in case nobody has. It
	// is kept with the job and not here.
	Started time.Time `json:"-"`
}
