package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strings"
	"time"

	"girderworker/daemon/apitype"
	"girderworker/daemon/attempt"
	"girderworker/daemon/plugin"
	"girderworker/queue"
	"girderworker/transforms"
)

// submitCall accepts a call of docker_run or of a discovered task, transforms and
// all, as a Python program makes it. It answers as submit does.
func (s *Server) submitCall(w http.ResponseWriter, r *http.Request, c *call) error {
	body, err := s.readBody(w, r, transforms.MaxDocument)
	if err != nil {
		return err
	}
	asked := append([]byte(nil), body.Bytes()...)
	s.release(body)
	var in apitype.Call
	if err := json.Unmarshal(asked, &in); err != nil {
		return failure(apitype.KindBadRequest, "cannot understand the call: %v", err)
	}
	f, err := s.callDocument(&in)
	if err != nil {
		return err
	}
	identity, err := s.runAs(*c.peer)
	if err != nil {
		return failure(apitype.KindForbidden, "%v", err)
	}
	if s.expect != nil {
		s.expect()
	}
	release := s.images.Hold()
	defer release()
	sub, err := s.accepted(in.Task, f, asked, c, identity, s.settings.Load(), nil)
	if err != nil {
		return err
	}
	accepted, err := s.queue.Submit(r.Context(), sub)
	if errors.Is(err, queue.ErrConflict) || errors.Is(err, queue.ErrDependency) {
		told := explain(err)
		told.Message = strings.ReplaceAll(told.Message, sub.ID, in.ID)
		return &refusal{told}
	}
	if err != nil {
		return err
	}
	code := http.StatusCreated
	if accepted[0].Existing {
		code = http.StatusOK
	}
	v := c.view(&accepted[0].Job)
	w.Header().Set("Location", "/v1/jobs/"+v.ID)
	s.answer(w, code, &v)
	return nil
}

// callDocument is the document that a call comes to.
func (s *Server) callDocument(in *apitype.Call) (*transforms.JobFile, error) {
	task := transforms.Task{Name: in.Task, APIURL: in.APIURL, Session: in.Session}
	if err := task.Decode(in.Args, in.Kwargs); err != nil {
		return nil, err
	}
	for _, h := range in.Hooks {
		task.Hooks = append(task.Hooks, []byte(h))
	}
	document := func(t transforms.Task) (*transforms.JobFile, error) { return transforms.FromContainerTask(t) }
	if in.Task != transforms.TaskDockerRun {
		found, ok := s.tasks.Lookup(in.Task)
		if !ok {
			return nil, failure(apitype.KindNotFound, "unknown task %q; this worker knows %s", in.Task, s.known())
		}
		document = found.Document
	}
	f, err := document(task)
	if err != nil {
		return nil, callerError(err)
	}
	frame, err := callFrame(in)
	if err != nil {
		return nil, err
	}
	if f, err = frame.Called(f); err != nil {
		return nil, err
	}
	switch {
	case f.Python != nil:
		f.Python.Previous = transforms.Previous(in.Previous)
		if err := f.Python.Check(); err != nil {
			return nil, err
		}
		if err := f.TellFunction(in.APIURL, in.Token, nil); err != nil {
			return nil, err
		}
	case in.Previous != "" && in.Previous != string(transforms.PreviousNone):
		return nil, failure(apitype.KindBadRequest, "previous: %s takes no result of another task; use an immutable signature (si)", in.Task)
	}
	return f, nil
}

// callerError makes the errors of tasks, which are the caller's mistakes, answers.
func callerError(err error) error {
	var document *transforms.DocumentError
	var arguments *plugin.ArgumentError
	if errors.As(err, &document) || errors.As(err, &arguments) {
		return err
	}
	return failure(apitype.KindBadRequest, "%v", err)
}

// callFrame is what a call says of when and for how long it runs, as a document.
func callFrame(in *apitype.Call) (*transforms.JobFile, error) {
	now := time.Now()
	seconds := func(field string, s float64) (time.Duration, error) {
		if math.IsNaN(s) || s < 0 || s > transforms.MaxDuration.Seconds() {
			return 0, failure(apitype.KindBadRequest, "%s: %v is no number of seconds", field, s)
		}
		return time.Duration(s * float64(time.Second)), nil
	}
	countdown, err := seconds("countdown", in.Countdown)
	expires, err2 := seconds("expires", in.Expires.In)
	timeout, err3 := seconds("timeout", in.Timeout)
	soft, err4 := seconds("soft_timeout", in.SoftTimeout)
	if err := cmp.Or(err, err2, err3, err4); err != nil {
		return nil, err
	}
	f := &transforms.JobFile{
		Task: in.Task, ID: in.ID, Name: in.Girder.Title, Priority: in.Priority, After: in.After,
		NotBefore: in.NotBefore, Expires: in.Expires.At, Timeout: timeout, SoftTimeout: soft,
	}
	if countdown > 0 {
		f.NotBefore = now.Add(countdown)
	}
	if expires > 0 {
		f.Expires = now.Add(expires)
	}
	return f, nil
}

// maxResultWait is how long one request waits for a result.
const maxResultWait = time.Minute

// jobResult answers with the result when the job is final, or with how it stands
// after wait.
func (s *Server) jobResult(w http.ResponseWriter, r *http.Request, c *call) error {
	job := c.job
	if value := r.URL.Query().Get("wait"); value != "" {
		wait, err := time.ParseDuration(value)
		if err != nil || wait < 0 {
			return failure(apitype.KindBadRequest, "wait: %q is no duration such as 30s", value)
		}
		ctx, end := s.lasting(w, r)
		defer end()
		ctx, cancel := context.WithTimeout(ctx, min(wait, maxResultWait))
		defer cancel()
		if job, err = s.await(ctx, job.ID); err != nil {
			return err
		}
	}
	answer, err := s.resultOf(c, &job)
	if err != nil {
		return err
	}
	s.answer(w, http.StatusOK, answer)
	return nil
}

func (s *Server) resultOf(c *call, j *queue.Job) (*apitype.Result, error) {
	out := &apitype.Result{ID: c.shown(j.ID), Result: json.RawMessage("null")}
	switch {
	case j.State == queue.Succeeded:
		out.State = "SUCCESS"
		dir, err := attempt.NewDir(s.stateDir, j.ID, j.Attempt)
		if err != nil {
			return nil, err
		}
		end, err := dir.ReadFunctionEnd()
		if err != nil {
			return nil, err
		}
		if end != nil && end.State == attempt.FunctionSuccess {
			out.Result = end.Result
		}
	case j.State == queue.Canceled:
		out.State = "REVOKED"
		out.Error = &apitype.Exception{Type: "TaskRevokedError", Module: "celery.exceptions", Message: cmp.Or(c.shownText(j.Reason, j), "revoked")}
	case j.State == queue.Failed:
		out.State, out.Error = "FAILURE", exceptionOf(j)
		out.Error.Message = c.shownText(out.Error.Message, j)
	case j.State.Active():
		out.State = "STARTED"
	case j.Failures > 0:
		out.State = "RETRY"
	default:
		out.State = "PENDING"
	}
	return out, nil
}

// exceptionOf is why a job failed, as an exception.
func exceptionOf(j *queue.Job) *apitype.Exception {
	message := j.Reason
	if r := j.Result; r != nil {
		if e := attempt.ExceptionOf(r.Detail); e != nil {
			return &apitype.Exception{Type: e.Type, Module: e.Module, Message: e.Message, Args: e.Args, Traceback: e.Traceback}
		}
		message = cmp.Or(r.Error, message)
		switch {
		case r.Outcome == string(attempt.OutcomeTimeout):
			return &apitype.Exception{Type: "TimeLimitExceeded", Module: "billiard.exceptions", Message: message}
		case r.Outcome == string(attempt.OutcomeExited) && r.Error == "":
			return &apitype.Exception{Type: "DockerException", Module: "docker.errors", Message: message}
		}
	}
	return &apitype.Exception{Type: "RuntimeError", Module: "builtins", Message: cmp.Or(message, "it failed")}
}
