package worker

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"girderworker/daemon/celery"
	"girderworker/queue"
	"girderworker/sandbox"
	"girderworker/transforms"
	"girderworker/transforms/jsonpickle"
)

// Settings are what an Intake takes from the configuration of today.
type Settings struct {
	Defaults transforms.Defaults
	// Machine is what it has at most for one job; zero fields are not held against.
	Machine transforms.Resources
	// GPUs is how many devices a task comes to, see [transforms.Resources]; nil: as
	// many as it asks for.
	GPUs func(transforms.Resources) (int, error)
	// Identity is who tasks run as.
	Identity queue.Identity
	// Tasks are the names that can be run.
	Tasks []string
}

// Intake turns task messages into submissions.
type Intake struct {
	Settings func() Settings
	// Document makes the job document of a known task, and takes its secrets out.
	// What it refuses is told to the caller, so its error must hold no secret.
	Document func(*celery.Task) (*transforms.JobFile, transforms.Secrets, error)
}

// Taken is what a delivery comes to.
type Taken struct {
	Submission queue.Submission
	Task       celery.Task
	// Reason is set, for a metric, when the message could not be read well enough
	// to be run: the submission is then born failed.
	Reason celery.Reason
}

// Take reads a delivery. The error is a [*celery.Error] whose End is Reject: nobody
// can be told. Whatever else is wrong makes a submission that is born failed.
func (in *Intake) Take(d celery.Delivery) (Taken, error) {
	t, err := celery.Decode(d, celery.Options{Pickle: transforms.PickleOptions()})
	var bad *celery.Error
	if errors.As(err, &bad) && bad.End == celery.Reject {
		return Taken{}, bad
	}
	var taken Taken
	hash := sha256.New()
	hash.Write([]byte(t.Name + "\x00"))
	hash.Write(d.Body)
	s := in.Settings()
	sub := queue.Submission{
		ID: JobID(t.ID), Source: queue.SourceAMQP, Owner: owner(&t), Identity: s.Identity, Task: t.Name,
		Priority: t.Priority, NotBefore: t.ETA, Expires: t.Expires, BodyHash: hex.EncodeToString(hash.Sum(nil)),
		Limits: queue.Limits{Hard: t.Hard, Soft: t.Soft},
	}
	var secrets transforms.Secrets
	switch {
	case bad != nil:
		taken.Reason = bad.Reason
		sub.Fail = bad.Error()
	case !slices.Contains(s.Tasks, t.Name):
		sub.Fail = fmt.Sprintf("unknown task %.200q; this worker knows %s", t.Name, strings.Join(s.Tasks, ", "))
	default:
		if secrets, err = in.fill(&sub, &t, s); err != nil {
			sub.Fail = err.Error()
			secrets = transforms.Secrets{}
		}
	}
	var original json.RawMessage
	if sub.Fail == "" {
		// Without it the task can be run here and not be given back, which is all.
		if original, err = celery.EncodeOriginal(d); err != nil || len(original) > maxOriginal {
			original = nil
		}
	}
	if err := pack(&sub, &t, secrets, original); err != nil {
		// It cannot be kept as it is: it fails, without what is in the way.
		sub.Fail = cmp.Or(sub.Fail, err.Error())
		t.Links = celery.Links{}
		t.Job = nil
		if err := pack(&sub, &t, transforms.Secrets{}, nil); err != nil {
			return Taken{}, &celery.Error{End: celery.Reject, Reason: celery.ReasonHeader, Err: err}
		}
	}
	if original != nil && len(sub.Secrets) > maxSecrets {
		if err := pack(&sub, &t, secrets, nil); err != nil {
			return Taken{}, &celery.Error{End: celery.Reject, Reason: celery.ReasonHeader, Err: err}
		}
	}
	if len(sub.Secrets) > maxSecrets {
		sub.Fail = cmp.Or(sub.Fail, fmt.Sprintf("what follows the task has %d bytes, at most %d can be kept", len(sub.Secrets), maxSecrets))
		t.Links = celery.Links{}
		if err := pack(&sub, &t, transforms.Secrets{}, nil); err != nil {
			return Taken{}, &celery.Error{End: celery.Reject, Reason: celery.ReasonHeader, Err: err}
		}
	}
	sub.Fail = short(sub.Fail)
	taken.Submission, taken.Task = sub, t
	return taken, nil
}

const (
	maxSecrets = 1 << 20 // the queue's
	maxReason  = 4096    // the same
)

// short is a reason that the queue takes.
func short(s string) string {
	if len(s) <= maxReason {
		return s
	}
	return strings.ToValidUTF8(s[:maxReason-3], "") + "…"
}

// fill adds what the task runs.
func (in *Intake) fill(sub *queue.Submission, t *celery.Task, s Settings) (transforms.Secrets, error) {
	f, secrets, err := in.Document(t)
	if err != nil {
		return secrets, err
	}
	f.Timeout, f.SoftTimeout = cmp.Or(t.Hard, f.Timeout), cmp.Or(t.Soft, f.SoftTimeout)
	if f.Timeout > 0 && f.SoftTimeout >= f.Timeout {
		f.SoftTimeout = 0 // the hard one comes first
	}
	if f.Network == "" {
		f.Network = sandbox.NetworkPrivate // tasks may call Girder
	}
	if err := fits(f.Resources, s.Machine); err != nil {
		return secrets, err
	}
	if f.Resources.GPUs != 0 && s.GPUs != nil {
		if f.Resources.GPUs, err = s.GPUs(f.Resources); err != nil {
			return secrets, fmt.Errorf("cannot give the task its GPUs: %w", err)
		}
	}
	scratch := f.Resources.Scratch // that it asked for; the default one is a bound
	f.Complete(s.Defaults)
	sub.Name, sub.Image = f.Name, f.Image
	sub.Needs = queue.Needs{CPUs: f.Resources.CPUs, Memory: f.Resources.Memory, GPUs: f.Resources.GPUs, Scratch: scratch, Swap: f.Resources.Swap}
	sub.Limits = queue.Limits{Hard: f.Timeout, Soft: f.SoftTimeout, Idle: f.IdleTimeout}
	sub.Retry = queue.Retry{Max: f.Retries.Max, Delay: f.Retries.Delay, FailInterrupted: f.Retries.FailInterrupted}
	sub.Body = f.AppendJSON(nil)
	return secrets, nil
}

// fits refuses what would wait for ever.
func fits(want, have transforms.Resources) error {
	tooMuch := func(what, want, have string) error {
		return fmt.Errorf("the task asks for %s %s, and a job can have at most %s on this machine", what, want, have)
	}
	switch {
	case have.CPUs > 0 && want.CPUs > have.CPUs:
		return tooMuch("cpus", strconv.FormatFloat(want.CPUs, 'f', -1, 64), strconv.FormatFloat(have.CPUs, 'f', -1, 64))
	case have.Memory > 0 && want.Memory > have.Memory:
		return tooMuch("memory", transforms.FormatBytes(want.Memory), transforms.FormatBytes(have.Memory))
	case have.Shm > 0 && want.Shm > have.Shm:
		return tooMuch("shm", transforms.FormatBytes(want.Shm), transforms.FormatBytes(have.Shm))
	case have.Scratch > 0 && want.Scratch > have.Scratch:
		return tooMuch("scratch space", transforms.FormatBytes(want.Scratch), transforms.FormatBytes(have.Scratch))
	case have.Log > 0 && want.Log > have.Log:
		return tooMuch("log", transforms.FormatBytes(want.Log), transforms.FormatBytes(have.Log))
	case want.Swap > have.Swap:
		return tooMuch("swap", transforms.FormatBytes(want.Swap), transforms.FormatBytes(have.Swap))
	case want.GPUs > have.GPUs:
		return tooMuch("gpus", strconv.Itoa(want.GPUs), strconv.Itoa(have.GPUs))
	}
	return nil
}

// owner is the unit of fairness: the Girder user whose job document one of the
// hooks carries, else the queue that the task came through.
func owner(t *celery.Task) string {
	for _, hook := range t.HookTables {
		table, _ := hook.(map[string]any)
		job, _ := table["job"].(map[string]any)
		if id := objectID(job["userId"]); id != "" {
			return "girder:" + id
		}
	}
	return "queue:" + cmp.Or(t.Queue, t.RoutingKey, "celery")
}

// objectID reads {"py/object": "bson.objectid.ObjectId", "py/state": {"py/b64": ...}}
// or text; "" where it is neither.
func objectID(v any) string {
	var raw []byte
	switch v := v.(type) {
	case string:
		raw, _ = hex.DecodeString(v)
	case map[string]any:
		state, _ := v["py/state"].(map[string]any)
		text, _ := state["py/b64"].(string)
		raw, _ = base64.StdEncoding.DecodeString(text)
	}
	if len(raw) != len(jsonpickle.ObjectID{}) {
		return ""
	}
	return jsonpickle.ObjectID(raw).String()
}

// RevokedFor is how long a revocation of a task that has not come is remembered.
const RevokedFor = 7 * 24 * time.Hour
