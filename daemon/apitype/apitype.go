// Package apitype holds the JSON of the HTTP API, for the server and the
// client alike. It imports the standard library only.
package apitype

import (
	"encoding/json"
	"time"
)

// Job is a job as the API shows it. Secrets are masked.
type Job struct {
	ID              string          `json:"id"`
	Name            string          `json:"name,omitempty"`
	Source          string          `json:"source"`
	Owner           string          `json:"owner"`
	User            string          `json:"user,omitempty"`
	Task            string          `json:"task"`
	Image           string          `json:"image,omitempty"`
	State           string          `json:"state"`
	Stage           string          `json:"stage,omitempty"`
	Reason          string          `json:"reason,omitempty"`
	Untold          string          `json:"untold,omitempty"` // why the rest of its reports was given up
	Priority        int             `json:"priority"`
	Attempt         int             `json:"attempt"`
	CancelRequested bool            `json:"cancel_requested,omitempty"`
	Progress        *Progress       `json:"progress,omitempty"`
	Position        int             `json:"position,omitempty"` // jobs before it, while queued
	After           []string        `json:"after,omitempty"`
	AfterAny        []string        `json:"after_any,omitempty"`
	NotBefore       time.Time       `json:"not_before,omitzero"`
	Expires         time.Time       `json:"expires,omitzero"`
	Created         time.Time       `json:"created"`
	Started         time.Time       `json:"started,omitzero"`
	Finished        time.Time       `json:"finished,omitzero"`
	ExitCode        *int            `json:"exit_code,omitempty"` // once final
	Outcome         string          `json:"outcome,omitempty"`
	Error           string          `json:"error,omitempty"`
	Detail          json.RawMessage `json:"detail,omitempty"` // attempt.Exit of the last attempt, and its notes
	Document        json.RawMessage `json:"document,omitempty"`
	Result          json.RawMessage `json:"result,omitempty"` // what a function returned; none of lists
}

// Progress is the last progress a job told.
type Progress struct {
	Total   float64 `json:"total"`
	Current float64 `json:"current"`
	Message string  `json:"message,omitempty"`
}

// Image is an image in the store under one owner's names for it. One that has
// names of several owners is listed once for each.
type Image struct {
	ID      string    `json:"id"` // sha256:... of the config
	Names   []string  `json:"names"`
	Owner   int       `json:"owner"` // -1: everyone's
	Digest  string    `json:"digest,omitempty"`
	Size    int64     `json:"size"` // bytes unpacked
	Created time.Time `json:"created,omitzero"`
	Added   time.Time `json:"added"`
	Arch    string    `json:"arch"`
	// WantsGPU says that the image has the label by which jobs get one.
	WantsGPU bool `json:"wants_gpu,omitempty"`
	Pinned   bool `json:"pinned,omitempty"`
	// SignedBy names the keys of this machine that have signed it.
	SignedBy []string `json:"signed_by,omitempty"`
}

// Pruned is what a prune freed.
type Pruned struct {
	Images []string `json:"images"`
	Layers int      `json:"layers"`
	Bytes  int64    `json:"bytes"`
}

// Status is the daemon's own state.
type Status struct {
	Version  string             `json:"version"`
	Commit   string             `json:"commit,omitempty"`
	PID      int                `json:"pid"`
	Started  time.Time          `json:"started"`
	StateDir string             `json:"state_dir"`
	Paused   bool               `json:"paused"`
	Draining bool               `json:"draining"`
	Jobs     map[string]int     `json:"jobs"` // by state
	Capacity map[string]float64 `json:"capacity"`
	InUse    map[string]float64 `json:"in_use"`
	Attempts int                `json:"attempts"` // live runners
	Reports  Reports            `json:"reports"`
	// GPUs are the machine's, by their CDI names, each with the jobs that have it.
	GPUs []GPU `json:"gpus,omitempty"`
	// OldestQueued is since when the job waits that is first of those that could
	// start; zero when there is none.
	OldestQueued time.Time `json:"oldest_queued,omitzero"`
	// Broker is nil where none is configured. Servers are the Girders that jobs
	// report to now.
	Broker  *Broker     `json:"broker,omitempty"`
	Servers []Girder    `json:"girder_servers,omitempty"`
	Disk    Disk        `json:"disk"`
	Images  ImageTotals `json:"images"`
	// Metrics is where numbers are served, host:port; empty: nowhere.
	Metrics string `json:"metrics,omitempty"`
	// Degraded says what does not work now.
	Degraded []string `json:"degraded,omitempty"`
	// Warnings are for the admin: what works less well than it could, and what to do.
	Warnings []string `json:"warnings,omitempty"`
}

// Broker is how the daemon stands at RabbitMQ.
type Broker struct {
	State   string `json:"state"`             // ready, connecting or degraded
	Address string `json:"address,omitempty"` // password masked; empty while it is not connected
	// Since is when the connection was made or lost.
	Since    time.Time     `json:"since,omitzero"`
	Queues   []BrokerQueue `json:"queues"`
	Problems []string      `json:"problems,omitempty"`
	Accepted int64         `json:"accepted"` // tasks since the start
	Rejected int64         `json:"rejected"`
}

// BrokerQueue is a queue that tasks are taken from.
type BrokerQueue struct {
	Name string `json:"name"`
	// Waiting: a consumer waits there for the next task.
	Waiting bool   `json:"waiting"`
	Problem string `json:"problem,omitempty"`
}

// Girder is a server that jobs report to.
type Girder struct {
	Address string `json:"address"`
	// Problem is why it could not be told last time, and Next when it is tried again.
	Problem string    `json:"problem,omitempty"`
	Next    time.Time `json:"next,omitzero"`
}

// Disk is the file system of the state directory, in bytes.
type Disk struct {
	Size       int64 `json:"size"`
	Free       int64 `json:"free"`
	FreeInodes int64 `json:"free_inodes"`
}

// ImageTotals are the images of the store.
type ImageTotals struct {
	Count int   `json:"count"`
	Bytes int64 `json:"bytes"` // unpacked; a layer counts for each image that has it
}

// Reports is how the reports to those who asked for jobs stand.
type Reports struct {
	// Girder and Celery are how many jobs each has still to be told something of,
	// and Oldest since when the first of it waits.
	Girder int       `json:"girder"`
	Celery int       `json:"celery"`
	Oldest time.Time `json:"oldest,omitzero"`
	// What follows is counted since the daemon's start.
	Delivered  uint64 `json:"delivered"`
	LogBytes   uint64 `json:"log_bytes"`
	Duplicates uint64 `json:"duplicates"` // pieces of logs that may be there twice
	Refused    uint64 `json:"refused"`
	GaveUp     uint64 `json:"gave_up"` // jobs
}

// Pending is how many jobs somebody has still to be told of.
func (r Reports) Pending() int { return r.Girder + r.Celery }

// GPU is a device that jobs count.
type GPU struct {
	Name string   `json:"name"`
	Jobs []string `json:"jobs"`
	// Missing says that the device is not there any more, and a job still has it.
	Missing bool `json:"missing,omitempty"`
}

// Error is the body of every answer that is not 2xx.
type Error struct {
	// Kind is machine-readable and one of the Kind constants.
	Kind string `json:"kind"`
	// Message is one line for a person: the bad input, the reason, what to do.
	Message string `json:"message"`
	// Field names the part of the document that is to blame, where one is.
	Field string `json:"field,omitempty"`
}

// The kinds of error.
const (
	KindBadRequest   = "bad-request"
	KindUnauthorized = "unauthorized"
	KindForbidden    = "forbidden"
	KindNotFound     = "not-found"
	KindNoImage      = "no-such-image"
	KindConflict     = "conflict"
	KindTooLarge     = "too-large"
	KindState        = "wrong-state"
	KindFull         = "queue-full"
	KindNoSpace      = "no-space"
	KindUnavailable  = "unavailable"
	KindInternal     = "internal"
)
