package jobsync

import (
	"encoding/json"
	"fmt"
	"strings"

	"girderworker/queue"
)

// Failure is the end of a job as a Python exception says it: Girder shows it in
// the job's log, and Celery raises it where the result is asked for.
type Failure struct {
	// Type is the exception's class, Module where Python finds it.
	Type, Module string
	Message      string
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
	switch {
	case j.Attempt == 0 || r == nil:
		if strings.HasPrefix(reason, "unknown task") {
			return Failure{"NotRegistered", "celery.exceptions", j.Task}
		}
		if strings.HasPrefix(reason, "expired") {
			return Failure{"TaskRevokedError", "celery.exceptions", "expired"}
		}
		if message, ok := strings.CutPrefix(reason, "TypeError: "); ok {
			return Failure{"TypeError", "builtins", message} // a call that Python would not have made
		}
		return Failure{"ValueError", "builtins", reason}
	case r.Outcome == "exited" && r.Code != 0 && r.Error == "":
		return Failure{"DockerException", "docker.errors", fmt.Sprintf("Non-zero exit code from docker container (%d).", r.Code)}
	case r.Outcome == "oom":
		return Failure{"DockerException", "docker.errors", fmt.Sprintf("Non-zero exit code from docker container (%d): %s", r.Code, or(r.Error, reason))}
	case r.Outcome == "timeout" && strings.HasPrefix(r.Error, "over its soft time limit"):
		return Failure{"SoftTimeLimitExceeded", "billiard.exceptions", r.Error}
	case r.Outcome == "timeout":
		return Failure{"TimeLimitExceeded", "billiard.exceptions", or(r.Error, reason)}
	}
	return classOf(or(r.Error, reason))
}

// classOf is the exception that the Python worker, docker-py or girder_client would
// have raised for an attempt's error. The texts are those of the packages image, pull,
// girder and runner; TestCeleryRecorded holds them together.
func classOf(text string) Failure {
	switch {
	case strings.HasPrefix(text, "no such image"):
		return Failure{"ImageNotFound", "docker.errors", text}
	case strings.HasPrefix(text, "cannot pull "):
		return Failure{"APIError", "docker.errors", text}
	case strings.Contains(text, "Girder answered "):
		return Failure{"HttpError", "girder_client", text}
	case strings.HasPrefix(text, "cannot upload ") && strings.HasSuffix(text, "there is no such file or directory"):
		return Failure{"FileNotFoundError", "builtins", text}
	}
	return Failure{"DockerException", "docker.errors", text}
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
