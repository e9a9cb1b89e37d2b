package worker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"girderworker/daemon/celery"
	"girderworker/daemon/jobsync"
	"girderworker/queue"
	"girderworker/transforms"
)

// origin is what a job's origin has under the name "celery", beside what others
// keep there: what was asked, without a secret.
type origin struct {
	Celery *celery.Request `json:"celery,omitempty"`
}

// kept is what a job's secrets hold: those of its attempts; under "celery" what
// follows the job, whose arguments may be tokens, and the token to make jobs with; and
// the task as it came, in case that it is given back.
type kept struct {
	transforms.Secrets
	Celery   *follow         `json:"celery,omitempty"`
	Original json.RawMessage `json:"original,omitempty"`
}

// maxOriginal is how large a task is kept as it came, at most.
const maxOriginal = 256 << 10

type follow struct {
	celery.Links
	APIURL      string `json:"api_url,omitempty"`
	ClientToken string `json:"client_token,omitempty"`
}

// JobID is the id of the job that a task becomes: its own, or, where that could not
// be a directory's name, one made of it.
func JobID(task string) string {
	// A dot is what the ids have that people of this machine choose.
	if queue.CheckID(task) == nil && len(task) <= 64 && !strings.Contains(task, ".") {
		return task
	}
	sum := sha256.Sum256([]byte(task))
	return "celery-" + hex.EncodeToString(sum[:16])
}

// pack puts what is to be known of a task later into a submission.
func pack(sub *queue.Submission, t *celery.Task, secrets transforms.Secrets, original json.RawMessage) error {
	var err error
	sub.Secrets, sub.Report = nil, 0
	if sub.Origin, err = json.Marshal(origin{&t.Request}); err != nil {
		return fmt.Errorf("cannot keep the task's headers: %w", err)
	}
	k := kept{Secrets: secrets, Original: original}
	if len(t.Callbacks)+len(t.Errbacks)+len(t.Chain) > 0 || t.Chord != nil {
		k.Celery = &follow{t.Links, t.APIURL, t.ClientToken}
	}
	if !secrets.Empty() || k.Celery != nil || k.Original != nil {
		if sub.Secrets, err = json.Marshal(k); err != nil {
			return fmt.Errorf("cannot keep the task's secrets: %w", err)
		}
	}
	if !t.IgnoreResult && t.ReplyTo != "" || k.Celery != nil {
		sub.Report |= queue.SinkCelery
	}
	if t.Job == nil {
		return nil
	}
	target, err := target(t)
	if err != nil {
		return err
	}
	if sub.Origin, sub.Secrets, err = target.Split(sub.Origin, sub.Secrets); err != nil {
		return err
	}
	sub.Report |= queue.SinkGirder
	return nil
}

// target is where Girder is told.
func target(t *celery.Task) (jobsync.Target, error) {
	headers := map[string]any{}
	for name, value := range t.Job.Headers {
		headers[name] = value
	}
	target, err := jobsync.ParseJobInfo(map[string]any{
		"url": t.Job.URL, "method": t.Job.Method, "reference": t.Job.Reference, "logPrint": t.Job.LogPrint, "headers": headers,
	})
	if err != nil {
		return target, err
	}
	if t.Session != nil {
		if err := json.Unmarshal(t.Session, &target.Session); err != nil {
			return target, fmt.Errorf("cannot use girder_client_session_kwargs: %w", err)
		}
	}
	return target, nil
}

// errNoTask: a job that no message asked for.
var errNoTask = errors.New("the job is no task of Celery")

// requestOf is what was asked of a job; errNoTask for one from the socket.
func requestOf(j *queue.Job) (*celery.Request, error) {
	if j.Source != queue.SourceAMQP || len(j.Origin) == 0 {
		return nil, errNoTask
	}
	var o origin
	if err := json.Unmarshal(j.Origin, &o); err != nil {
		return nil, fmt.Errorf("cannot read where job %s came from: %w", j.ID, err)
	}
	if o.Celery == nil {
		return nil, errNoTask
	}
	return o.Celery, nil
}

// TaskID is the id of the task that a job was; false for one from the socket.
func TaskID(j *queue.Job) (string, bool) {
	r, err := requestOf(j)
	if err != nil {
		return "", false
	}
	return r.ID, true
}

// followOf is what follows a job. There is none where the secrets are gone.
func followOf(secrets []byte) (follow, error) {
	if len(secrets) == 0 {
		return follow{}, nil
	}
	var k kept
	if json.Unmarshal(secrets, &k) != nil {
		return follow{}, errors.New("cannot read what follows the job") // the cause may quote a secret
	}
	if k.Celery == nil {
		return follow{}, nil
	}
	return *k.Celery, nil
}

// ErrNoOriginal: a task that was not kept as it came.
var ErrNoOriginal = errors.New("the task was not kept as it came")

// OriginalOf is a task as it came, to be published again, from its job's secrets.
func OriginalOf(secrets []byte) (celery.Message, error) {
	if len(secrets) == 0 {
		return celery.Message{}, ErrNoOriginal
	}
	var k kept
	if json.Unmarshal(secrets, &k) != nil {
		return celery.Message{}, errors.New("cannot read the task as it came") // the cause may quote a secret
	}
	if k.Original == nil {
		return celery.Message{}, ErrNoOriginal
	}
	return celery.DecodeOriginal(k.Original)
}
