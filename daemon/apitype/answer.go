package apitype

import (
	"encoding/json"
	"time"
)

// Failure is the envelope of every answer that is not 2xx.
type Failure struct {
	Error Error `json:"error"`
}

// Jobs answers a listing and a batch of submissions.
type Jobs struct {
	Jobs []Job `json:"jobs"`
	// Next continues a listing: the value of its parameter cursor. Empty at the end.
	Next string `json:"next,omitempty"`
}

// Batch submits up to 1,000 documents, all or none.
type Batch struct {
	Jobs []json.RawMessage `json:"jobs"`
}

// Reason goes with a cancel or a hold: one line for people.
type Reason struct {
	Reason string `json:"reason,omitempty"`
}

// Why is what a job waits for.
type Why struct {
	ID    string `json:"id"`
	State string `json:"state"`
	// Reason is what the job itself says: why it is held, failed, canceled.
	Reason string `json:"reason,omitempty"`
	Waits  []Wait `json:"waits"`
	// Ahead is how many jobs come first; -1 when that is not known.
	Ahead int `json:"ahead"`
}

// Wait is one thing that a job waits for.
type Wait struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// The streams of a [LogFrame].
const (
	StreamStdout = "stdout"
	StreamStderr = "stderr"
	// StreamMarker is the worker's own line in a log, for example how much was
	// dropped beyond the cap.
	StreamMarker = "marker"
)

// LogFrame is one line of a log in JSON. It holds output (Stream is set), or
// what else a follower asked for: Status, and Job as the last line of all.
type LogFrame struct {
	// Attempt and Offset say where the frame after this one starts: given back
	// as parameters they continue an interrupted log.
	Attempt int       `json:"attempt,omitempty"`
	Offset  int64     `json:"offset,omitempty"`
	Stream  string    `json:"stream,omitempty"`
	Time    time.Time `json:"time,omitzero"`
	// Text is the output where it is UTF-8, Data (base64) where it is not. A
	// frame may end within a character.
	Text string `json:"text,omitempty"`
	Data []byte `json:"data,omitempty"`

	Status *JobStatus `json:"status,omitempty"`
	Job    *Job       `json:"job,omitempty"`
}

// Output is the frame's output, whichever way it was sent.
func (f *LogFrame) Output() []byte {
	if f.Text != "" {
		return []byte(f.Text)
	}
	return f.Data
}

// JobStatus is what changes while a job runs.
type JobStatus struct {
	State    string    `json:"state"`
	Stage    string    `json:"stage,omitempty"`
	Attempt  int       `json:"attempt,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
}

// Event is one line of GET /v1/events.
type Event struct {
	Job             string `json:"job,omitempty"`
	Owner           string `json:"owner,omitempty"`
	Name            string `json:"name,omitempty"`
	State           string `json:"state,omitempty"`
	Attempt         int    `json:"attempt,omitempty"`
	Version         uint64 `json:"version,omitempty"`
	Reason          string `json:"reason,omitempty"`
	CancelRequested bool   `json:"cancel_requested,omitempty"`
	// Lagged is alone in its line: events were missed here because this client
	// read too slowly.
	Lagged bool `json:"lagged,omitempty"`
}

// Images answers a listing and an import.
type Images struct {
	Images []Image `json:"images"`
}

// PullEvent is a line of the answer to a pull. Exactly one of the three is set.
type PullEvent struct {
	Progress *Progress `json:"progress,omitempty"`
	// Image ends a pull that was done, with a Note where something is to be known
	// of it: it was here already, or the registry could not be reached.
	Image *Image `json:"image,omitempty"`
	Note  string `json:"note,omitempty"`
	Error *Error `json:"error,omitempty"`
}

// Version is the daemon's.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	// API is the number in the path of every route.
	API int `json:"api"`
	// Queue is the layout of its queue on disk: a release reads no higher one.
	Queue int `json:"queue,omitempty"`
}

// Pause asks for a pause of the queue, or with Drain for its emptying.
type Pause struct {
	Paused   bool `json:"paused"`
	Draining bool `json:"draining"`
}
