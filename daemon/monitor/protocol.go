package monitor

import (
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
)

// op is what the front asks.
type op string

const (
	opPing   op = "ping"
	opNotify op = "notify" // the service manager, which listens to the monitor only
	opStart  op = "start"
	opCancel op = "cancel"
	opList   op = "list"
	opKill   op = "kill"
	opRemove op = "remove"
	opImage  op = "image"
	opPolicy op = "policy"
	opCounts op = "counts"
	// opRefused tells the audit log of a submission that was refused.
	opRefused op = "refused"
	// opExpect tells of a start to come; it has no reply.
	opExpect op = "expect"
	// opDiscover has the tasks of an interpreter told into the file beside the message.
	opDiscover op = "discover"
)

// request is one message of the front.
type request struct {
	ID      uint64          `json:"id"` // from 1, echoed by the reply; 0 has none
	Op      op              `json:"op"`
	Job     string          `json:"job,omitempty"`
	Attempt int             `json:"attempt,omitempty"`
	Cancel  *attempt.Cancel `json:"cancel,omitempty"`
	Notify  string          `json:"notify,omitempty"`
	Image   *ImageRequest   `json:"image,omitempty"`
	Refused *RefusedJob     `json:"refused,omitempty"`
	// Discover is what to look for.
	Discover *attempt.Discovery `json:"discover,omitempty"`
}

// start is what comes with opStart, in a memory file beside the message.
type start struct {
	Request attempt.Request    `json:"request"`
	Secrets transforms.Secrets `json:"secrets"`
}

// reply answers a request; with ID 0 it is told unasked.
type reply struct {
	ID    uint64 `json:"id"`
	Error *fault `json:"error,omitempty"`
	// Attempts answers opList.
	Attempts []Attempt `json:"attempts,omitempty"`
	// Ended is told unasked: a runner is gone and nothing of it is left.
	Ended *Attempt `json:"ended,omitempty"`
	// Rules answers opPolicy; RulesChanged is told unasked.
	Rules        *Rules `json:"rules,omitempty"`
	RulesChanged bool   `json:"rules_changed,omitempty"`
	// Counts answers opCounts.
	Counts *Counts `json:"counts,omitempty"`
	// Result is what an image helper said, not looked at here.
	Result json.RawMessage `json:"result,omitempty"`
}

// fault is an error on its way to the front.
type fault struct {
	Kind    string `json:"kind,omitempty"`
	Message string `json:"message"`
}

// What a caller of [Client] can tell apart.
var (
	// ErrRefused: the monitor's policy does not allow it, now or later.
	ErrRefused = errors.New("refused by the monitor")
	// ErrBusy: another attempt of the job is still alive.
	ErrBusy = errors.New("another attempt of the job is alive")
	// ErrNoAttempt: there is no such attempt, or it is not alive.
	ErrNoAttempt = errors.New("no such attempt")
	// ErrNoImage: no image is called so, or not for that user.
	ErrNoImage = errors.New("no such image")
	// ErrBadImage: an archive, name or image is not what it should be.
	ErrBadImage = errors.New("bad image")
	// ErrPinned: the image is to stay as it is.
	ErrPinned = errors.New("the image is pinned")
	// ErrNoSpace: the disk is full, or all ids for containers are in use.
	ErrNoSpace = errors.New("no space left")
	// ErrGone: the monitor does not answer any more. The front must end.
	ErrGone = errors.New("the monitor is gone")
)

var kinds = map[string]error{
	"refused":    ErrRefused,
	"busy":       ErrBusy,
	"no-attempt": ErrNoAttempt,
	"no-image":   ErrNoImage,
	"bad-image":  ErrBadImage,
	"pinned":     ErrPinned,
	"no-space":   ErrNoSpace,
}

func toFault(err error) *fault {
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return &fault{"no-space", clip(err.Error())}
	}
	for kind, sentinel := range kinds {
		if errors.Is(err, sentinel) {
			return &fault{kind, clip(err.Error())}
		}
	}
	return &fault{"", clip(err.Error())}
}

// remoteError is a fault at its destination: the monitor's words, with the
// sentinel that they stand for.
type remoteError struct {
	message string
	kind    error
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.kind }

func (f *fault) err() error {
	if f == nil {
		return nil
	}
	return &remoteError{f.Message, kinds[f.Kind]}
}

// Attempt names one attempt.
type Attempt struct {
	Job     string `json:"job"`
	Attempt int    `json:"attempt"`
}

// String is the attempt's name in cgroups, work directories and logs.
func (a Attempt) String() string { return fmt.Sprintf("%s-%d", a.Job, a.Attempt) }

// ImageRequest is one operation of the image store. Names and references are
// the helper's to judge.
type ImageRequest struct {
	// Op is import, rm, prune, verify, pin or unpin.
	Op string `json:"op"`
	// Name is the name an import gets, or the reference for rm and verify.
	Name string `json:"name,omitempty"`
	// Owner is the uid whose names are meant; -1 is everyone's.
	Owner int `json:"owner"`
	// Pulled tells of an import that its archive comes from a pull: it leaves out
	// layers that Owner may use already, and moves no name of a pinned image.
	Pulled bool `json:"pulled,omitempty"`
	// Keep lists image ids that prune leaves, because jobs need them.
	Keep []string `json:"keep,omitempty"`
}

// clip keeps an error within a message.
func clip(s string) string {
	const most = 4096
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
