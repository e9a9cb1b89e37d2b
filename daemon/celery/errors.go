package celery

import (
	"errors"
	"fmt"
)

// End is what becomes of a delivery that is no task to run, see the package comment.
type End int

// The ends.
const (
	// Reject drops the delivery: log it, count it, acknowledge it.
	Reject End = iota + 1
	// Fail makes a job that is born failed, and tells who can be told.
	Fail
)

func (e End) String() string {
	if e == Reject {
		return "reject"
	}
	return "fail"
}

// Reason is why, as a metric's label: one of a closed list.
type Reason string

// The reasons.
const (
	ReasonUnknown     Reason = "unknown_message"  // names no task
	ReasonID          Reason = "task_id"          // no usable task or id
	ReasonHeader      Reason = "header"           // a wrong type or value
	ReasonJobInfo     Reason = "job_info"         // jobInfoSpec or jobInfo
	ReasonContentType Reason = "content_type"     // pickle, yaml, ...
	ReasonEncoding    Reason = "content_encoding" // a charset nobody writes, broken base64
	ReasonCompression Reason = "compression"      // unknown, or damaged
	ReasonTooLarge    Reason = "too_large"        // bytes, depth, values
	ReasonBody        Reason = "body"             // broken JSON, not three parts
	ReasonRefused     Reason = "refused"          // would need code to run
	ReasonSignature   Reason = "signature"        // callbacks, errbacks, chain, chord
)

// Reasons is all of them.
var reasons = [...]Reason{
	ReasonUnknown, ReasonID, ReasonHeader, ReasonJobInfo, ReasonContentType, ReasonEncoding,
	ReasonCompression, ReasonTooLarge, ReasonBody, ReasonRefused, ReasonSignature,
}

// Reasons returns every Reason there is, for metrics that want them all from the start.
func Reasons() []Reason { return append([]Reason(nil), reasons[:]...) }

// Error is why a delivery is no task to run.
type Error struct {
	End    End
	Reason Reason
	Err    error
}

func (e *Error) Error() string { return "cannot read the task message: " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Errors of publishing and remote control.
var (
	// ErrChord: chords need a result store that counts; the rpc:// backend has none.
	ErrChord = errors.New("a chord needs a result backend that counts, which rpc:// is not")
	// ErrSignature: not a signature that can be published.
	ErrSignature = errors.New("not a signature that can be published")
	// ErrRequest: a message on the control exchange that is no request.
	ErrRequest = errors.New("not a control request")
)

func failed(reason Reason, format string, args ...any) *Error {
	return &Error{Fail, reason, fmt.Errorf(format, args...)}
}
