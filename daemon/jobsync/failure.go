package jobsync

import (
	"encoding/json"
	"fmt"
	"strings"

	"girderworker/daemon/attempt"
	"girderworker/queue"
)

// Failure is the end of a job as a Python exception says it: Girder shows it in
// the job's log, and Celery raises it where the result is asked for.
type Failure struct {
	// Type is the exception's class, Module where Python finds it.
	Type, Module string
	Message      string
	// Args and Traceback are those of an exception of a function in Python: a JSON
	// list, and text. Its log has told of it already.
	Args, Traceback string
}

// FailureOf is why a failed job failed, in the words that the Python worker would
// have used where it knows the case. It is the zero Failure for any other job.
func FailureOf(j *queue.Job) Failure {
	if j.State != queue.Failed {
		return Failure{}
	}
	r := j.Result
	reason := j.Reason
	if reason == "" {
		reason = "it failed"
	}
	if r != nil && len(r.Detail) > 0 {
		if e := attempt.ExceptionOf(r.Detail); e != nil {
			return Failure{e.Type, e.Module, e.Message, string(e.Args), e.Traceback}
		}
	}
	switch {
	case j.Attempt == 0 || r == nil:
		if strings.HasPrefix(reason, "unknown task") {
			return Failure{Type: "NotRegistered", Module: "celery.exceptions", Message: j.Task}
		}
		if strings.HasPrefix(reason, "expired") {
			return Failure{Type: "TaskRevokedError", Module: "celery.exceptions", Message: "expired"}
		}
		if message, ok := strings.CutPrefix(reason, "TypeError: "); ok {
			return Failure{Type: "TypeError", Module: "builtins", Message: message} // a call that Python would not have made
		}
		return Failure{Type: "ValueError", Module: "builtins", Message: reason}
	case r.Outcome == "exited" && r.Code != 0 && r.Error == "":
		return Failure{Type: "DockerException", Module: "docker.errors", Message: fmt.Sprintf("Non-zero exit code from docker container (%d).", r.Code)}
	case r.Outcome == "oom":
		return Failure{Type: "DockerException", Module: "docker.errors", Message: fmt.Sprintf("Non-zero exit code from docker container (%d): %s", r.Code, or(r.Error, reason))}
	case r.Outcome == "timeout" && strings.HasPrefix(r.Error, "over its soft time limit"):
		return Failure{Type: "SoftTimeLimitExceeded", Module: "billiard.exceptions", Message: r.Error}
	case r.Outcome == "timeout":
		return Failure{Type: "TimeLimitExceeded", Module: "billiard.exceptions", Message: or(r.Error, reason)}
	}
	return classOf(or(r.Error, reason))
}

// classOf is the exception that the Python worker, docker-py or girder_client would
// have raised for an attempt's error. The texts are those of the packages image, pull,
// girder and runner; TestCeleryRecorded holds them together.
func classOf(text string) Failure {
	switch {
	case strings.HasPrefix(text, "no such image"):
		return Failure{Type: "ImageNotFound", Module: "docker.errors", Message: text}
	case strings.HasPrefix(text, "cannot pull "):
		return Failure{Type: "APIError", Module: "docker.errors", Message: text}
	case strings.Contains(text, "Girder answered "):
		return Failure{Type: "HttpError", Module: "girder_client", Message: text}
	case strings.HasPrefix(text, "cannot upload ") && strings.HasSuffix(text, "there is no such file or directory"):
		return Failure{Type: "FileNotFoundError", Module: "builtins", Message: text}
	}
	return Failure{Type: "DockerException", Module: "docker.errors", Message: text}
}

func or(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// String is the last line that Python prints of an exception.
func (f Failure) String() string { return f.Type + ": " + f.Message }

// Value is the failure as a result message of Celery carries it.
func (f Failure) Value() json.RawMessage {
	raw, _ := json.Marshal(map[string]any{"exc_type": f.Type, "exc_message": []string{f.Message}, "exc_module": f.Module})
	return raw
}
