package celery

import (
	"fmt"
	"strings"
	"time"

	"girderworker/transforms/jsonpickle"
)

// State is how a task stands, in the words of Celery's result backends.
type State string

// The states that a worker tells.
const (
	Started State = "STARTED" // only tracked where somebody asks for it
	Success State = "SUCCESS"
	Failure State = "FAILURE"
	Retry   State = "RETRY"
	Revoked State = "REVOKED"
)

// Result is what is told to the caller.
type Result struct {
	State State
	// Value is what the task returned, for Started and Success: nil for docker_run.
	// It must have a form in plain JSON.
	Value jsonpickle.Value
	// Exception is why not, for the other states.
	Exception Exception
	// Traceback is text for a person; "": none, which is null.
	Traceback string
	// Children are the tasks that were published because of this one.
	Children []Child
}

// Exception is an exception as data. A client that has imported Module gets that
// class; any other one a class of the same name, made for the occasion.
type Exception struct {
	Type   string
	Module string
	Args   []jsonpickle.Value // of the constructor
}

// Child is a published task, or a group of some.
type Child struct {
	ID    string
	Group []Child // of a group, its members; nil: a task
}

// ExitCode is how docker_run tells of a container that ended with a code.
func ExitCode(code int) Exception {
	return Exception{"DockerException", "docker.errors", []jsonpickle.Value{
		fmt.Sprintf("Non-zero exit code from docker container (%d).", code)}}
}

// DockerError is how docker_run tells of a container that could not be run.
func DockerError(reason string) Exception {
	return Exception{"DockerException", "docker.errors", []jsonpickle.Value{reason}}
}

// ImageNotFound is how docker_run tells of an image that is not there.
func ImageNotFound(reason string) Exception {
	return Exception{"ImageNotFound", "docker.errors", []jsonpickle.Value{reason}}
}

// OutOfMemory tells that the container met its memory limit.
func OutOfMemory(reason string) Exception {
	return Exception{"MemoryError", "builtins", []jsonpickle.Value{reason}}
}

// HardLimit tells that the hard time limit ended the task.
func HardLimit(limit time.Duration) Exception {
	return Exception{"TimeLimitExceeded", "billiard.exceptions", []jsonpickle.Value{limit.Seconds()}}
}

// SoftLimit tells that the soft time limit ended the task.
func SoftLimit() Exception {
	return Exception{"SoftTimeLimitExceeded", "billiard.exceptions", nil}
}

// Lost tells that the task was under way when the machine went down.
func Lost(reason string) Exception {
	return Exception{"WorkerLostError", "billiard.exceptions", []jsonpickle.Value{reason}}
}

// Invalid tells that the message could not be understood, or not be obeyed.
func Invalid(reason string) Exception {
	return Exception{"InvalidTaskError", "celery.exceptions", []jsonpickle.Value{reason}}
}

// Failed is any other failure.
func Failed(reason string) Exception {
	return Exception{"RuntimeError", "builtins", []jsonpickle.Value{reason}}
}

// NotRegistered is the result of a task that this worker does not know.
func NotRegistered(task string) Result {
	return Result{State: Failure, Exception: Exception{"NotRegistered", "celery.exceptions", []jsonpickle.Value{task}}}
}

// RevokedBecause is the result of a task that was not run, or ended, because
// somebody said so: "revoked", "expired" or "terminated", in Celery's words.
func RevokedBecause(reason string) Result {
	return Result{State: Revoked, Exception: Exception{"TaskRevokedError", "celery.exceptions", []jsonpickle.Value{reason}}}
}

// FailedWith is the result of a task that ended in e, with a traceback that says
// as much as e does: there are no Python frames to name.
func FailedWith(e Exception) Result {
	return Result{State: Failure, Exception: e, Traceback: "Traceback (most recent call last):\n" + e.qualified() + "\n"}
}

// String is the exception as Python's repr shows it.
func (e Exception) String() string {
	args := make([]string, 0, len(e.Args))
	for _, a := range e.Args {
		args = append(args, Repr(a))
	}
	return e.Type + "(" + strings.Join(args, ", ") + ")"
}

// qualified is the last line of a traceback.
func (e Exception) qualified() string {
	name := e.Type
	if e.Module != "" && e.Module != "builtins" {
		name = e.Module + "." + name
	}
	if len(e.Args) == 0 {
		return name
	}
	if s, ok := e.Args[0].(string); ok {
		return name + ": " + s
	}
	return name + ": " + Repr(e.Args[0])
}

// Reply is the message that tells the caller, to be published transiently. ok is
// false where nobody is to be told: no reply_to, or the result is to be ignored.
func (r *Request) Reply(res Result) (m Message, ok bool, err error) {
	if r.IgnoreResult {
		return Message{}, false, nil
	}
	return reply(r.ID, r.ReplyTo, r.CorrelationID, res)
}

func reply(id, replyTo, correlation string, res Result) (Message, bool, error) {
	if replyTo == "" {
		return Message{}, false, nil
	}
	if correlation == "" {
		correlation = id
	}
	value := res.Value
	if res.State != Success && res.State != Started {
		value = dict(
			"exc_type", res.Exception.Type,
			"exc_message", &jsonpickle.List{Items: res.Exception.Args},
			"exc_module", res.Exception.Module)
	}
	var traceback jsonpickle.Value
	if res.Traceback != "" {
		traceback = strings.ToValidUTF8(res.Traceback, "\uFFFD")
	}
	body, err := jsonpickle.EncodePlain(clean(dict(
		"task_id", id, "status", string(res.State), "result", value, "traceback", traceback,
		"children", childrenValue(res.Children))))
	if err != nil {
		return Message{}, false, fmt.Errorf("cannot write the result of task %s: %w", id, err)
	}
	p := jsonProperties(transient)
	p.CorrelationID = correlation
	return Message{RoutingKey: replyTo, Properties: p, Headers: map[string]any{}, Body: body}, true, nil
}

// childrenValue is a list of what Celery's AsyncResult.as_tuple gives.
func childrenValue(children []Child) *jsonpickle.List {
	list := &jsonpickle.List{}
	for _, c := range children {
		var members jsonpickle.Value
		if c.Group != nil {
			members = childrenValue(c.Group)
		}
		list.Items = append(list.Items, &jsonpickle.List{Items: []jsonpickle.Value{
			&jsonpickle.List{Items: []jsonpickle.Value{c.ID, nil}}, members}})
	}
	return list
}
