package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/daemon/jobsync"
	"girderworker/queue"
	"girderworker/sandbox"
	"girderworker/transforms"
)

// maxCallData bounds a function's arguments with the results of the jobs before it: what
// a job's secrets may have, and room for the rest of them.
const maxCallData = attempt.MaxSecrets - 64<<10

// completeCall puts into a function's call what is known only at its start: where
// it is, how often it was tried, and the results of the jobs before it.
func (f *front) completeCall(job *queue.Job, p *transforms.Python, secrets *transforms.Secrets) error {
	if len(secrets.Call) == 0 {
		return errors.New("the arguments of its function were deleted when it had ended; call it again")
	}
	var call transforms.PythonCall
	if err := json.Unmarshal(secrets.Call, &call); err != nil {
		return errors.New("cannot understand the function's arguments") // the cause might quote them
	}
	if p.Previous == transforms.PreviousOne || p.Previous == transforms.PreviousList {
		// They are data, whatever they look like: of a field of their own, that nothing
		// of jsonpickle is looked for in.
		before, size := []json.RawMessage{}, len(secrets.Call)
		for _, id := range job.After {
			value, err := f.resultOf(id)
			if err != nil {
				return err
			}
			if size += len(value); size > maxCallData {
				return fmt.Errorf("the results of the jobs before it have, with its own arguments, more than %s, which is what can be passed on; have them write files, and return their paths",
					transforms.FormatBytes(maxCallData))
			}
			before = append(before, value)
		}
		if p.Previous == transforms.PreviousList {
			list, err := json.Marshal(before)
			if err != nil {
				return fmt.Errorf("cannot pass on the results of the jobs before it: %w", err)
			}
			before = []json.RawMessage{list}
		}
		call.Previous = before
	}
	if call.Request == nil {
		call.Request = map[string]any{}
	}
	// Those of its message were of other workers.
	before, _ := call.Request["retries"].(float64)
	call.Request["retries"] = int(before) + job.Failures
	for key, value := range map[string]any{"id": namedID(job), "hostname": f.nodeName()} {
		if call.Request[key] == nil {
			call.Request[key] = value
		}
	}
	settings, err := reportSettings(f.config.Load())
	if err != nil {
		return err
	}
	if err := functionGirders(&call, p, job, settings.Reach); err != nil {
		return err
	}
	call.Module, call.Plugin, call.Path, call.AppMain = p.Module, p.Plugin, p.Path, p.AppMain
	call.Soft = job.Limits.Soft.Seconds()
	data, err := json.Marshal(call)
	if err != nil {
		return fmt.Errorf("cannot encode the function's call: %w", err)
	}
	secrets.Call = data
	return nil
}

// functionGirders gives a function's servers the addresses that are good in its
// container. Of a task's it may reach those that a transfer may wherever they are, see
// [reachGirder]; of a person's call all, as far as policy has services of this machine
// among transfers.
func functionGirders(call *transforms.PythonCall, p *transforms.Python, job *queue.Job, reach func(string) string) error {
	amqp, own := job.Source == queue.SourceAMQP, ""
	if target, err := jobsync.TargetOf(job.Origin, nil); err == nil && amqp {
		own = reach(target.URL)
	}
	return call.MoveGirders(func(api string) string {
		at := api
		if amqp { // a person names the address that is good here
			if at = reach(api); own == "" {
				own = at
			}
			if at == api && !transforms.SameServer(at, own) {
				return api
			}
		}
		inside, service := transforms.FromContainer(at)
		if _, err := sandbox.ParseService(service); err != nil {
			return at
		}
		if !slices.Contains(p.Girders, service) {
			p.Girders = append(p.Girders, service)
		}
		return inside
	})
}

// namedID is a job's id as who asked for it knows it.
func namedID(job *queue.Job) string {
	if uid, is := strings.CutPrefix(job.Owner, "uid:"); is {
		return strings.TrimSuffix(job.ID, "."+uid)
	}
	return job.ID
}

// nodeName is what a task finds as its worker's name.
func (f *front) nodeName() string {
	if f.broker != nil {
		return f.broker.node
	}
	return "celery@localhost"
}

// resultOf is what a job has returned; null for one of a container.
func (f *front) resultOf(id string) (json.RawMessage, error) {
	job, err := f.store.Job(id)
	if err != nil {
		return nil, fmt.Errorf("cannot find job %s, whose result is wanted: %w", id, err)
	}
	dir, err := attempt.NewDir(f.config.Load().StateDir, job.ID, job.Attempt)
	if err != nil {
		return nil, err
	}
	end, err := dir.ReadFunctionEnd()
	if err != nil {
		return nil, fmt.Errorf("cannot have the result of job %s: %w", id, err)
	}
	if end == nil || end.State != attempt.FunctionSuccess {
		return json.RawMessage("null"), nil
	}
	return end.Result, nil
}

// functionEnd brings what a function said of its end together with how its process
// ended, which counts for more. again is after how long it wants to be tried again.
func functionEnd(dir attempt.Dir, exit *attempt.Exit, result *queue.Result) (again *time.Duration) {
	end, err := dir.FunctionEnd(exit)
	switch {
	case exit.Outcome != attempt.OutcomeExited:
		return nil
	case err != nil:
		result.Error = "its result cannot be understood: " + err.Error()
	case exit.Container != nil && exit.Container.Signal != 0:
		return nil
	case end == nil && exit.Code > 128 && exit.Code <= 128+64:
		n := unix.Signal(exit.Code - 128)
		result.Error = fmt.Sprintf("the function's process was killed by signal %d (%s)", n, unix.SignalName(n))
	case end == nil:
		result.Error = fmt.Sprintf("the function's process ended without a result, with exit code %d", exit.Code)
	case end.State == attempt.FunctionSuccess && exit.Code == 0:
		return nil
	case end.State == attempt.FunctionRetry:
		delay := time.Duration(end.Countdown * float64(time.Second))
		again = &delay
		result.Error = "the task asked to be tried again"
		if end.Error != nil {
			result.Error += ": " + end.Error.String()
		}
	case end.State == attempt.FunctionIgnored:
		// Celery keeps no state of it: it must not fail, and what follows it is not run.
		result.Outcome, result.Error = string(attempt.OutcomeCanceled), clipText("the task raised "+end.Error.String(), 1000)
		return nil
	case end.State == attempt.FunctionFailure:
		result.Error = clipText(end.Error.String(), 1000)
	default:
		result.Error = fmt.Sprintf("the function's process ended with exit code %d after it had returned", exit.Code)
	}
	if result.Code == 0 {
		result.Code = 1
	}
	if end == nil || end.Error == nil || again != nil {
		return again
	}
	var detail map[string]json.RawMessage
	if json.Unmarshal(result.Detail, &detail) == nil {
		if data, err := json.Marshal(end.Error); err == nil {
			detail["exception"] = data
			result.Detail, _ = json.Marshal(detail)
		}
	}
	return nil
}

func clipText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n] + "…"
}
