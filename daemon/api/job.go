package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"girderworker/daemon/apitype"
	"girderworker/daemon/attempt"
	"girderworker/queue"
	"girderworker/transforms"
)

func isNotFound(err error) bool { return errors.Is(err, queue.ErrNotFound) }

// view is a job as the caller, who may see it, does, without its document.
func (c *call) view(j *queue.Job) apitype.Job {
	v := apitype.Job{
		ID:              c.shown(j.ID),
		Name:            j.Name,
		Source:          string(j.Source),
		Owner:           j.Owner,
		User:            j.Identity.User,
		Task:            j.Task,
		Image:           j.Image,
		State:           string(j.State),
		Reason:          c.shownText(j.Reason, j),
		Untold:          j.Untold,
		Priority:        j.Priority,
		Attempt:         j.Attempt,
		CancelRequested: j.CancelRequested,
		After:           c.shownAll(j.After),
		AfterAny:        c.shownAll(j.AfterAny),
		NotBefore:       j.NotBefore,
		Expires:         j.Expires,
		Created:         j.Created,
		Started:         j.Started,
		Finished:        j.Finished,
	}
	if j.Result != nil {
		v.Outcome = j.Result.Outcome
		v.Error = j.Result.Error
		v.Detail = j.Result.Detail
	}
	if j.State.Final() {
		code := exitCode(j)
		v.ExitCode = &code
		if v.Error == "" && code != 0 && !ownExit(j) {
			v.Error = v.Reason
		}
	}
	return v
}

// ownExit tells whether the job ended with its own exit code, which says it all.
func ownExit(j *queue.Job) bool {
	return j.State == queue.Failed && j.Result != nil && j.Result.Outcome == string(attempt.OutcomeExited) && j.Result.Code != 0
}

// exitCode is what `wait` and `run` end with. The result is the last attempt's:
// a job may have ended without one, or otherwise than it.
func exitCode(j *queue.Job) int {
	switch {
	case j.State == queue.Succeeded:
		return 0
	case j.State == queue.Canceled:
		return attempt.CodeCanceled
	case j.Result != nil && j.Result.Code != 0:
		return j.Result.Code
	}
	return attempt.CodeError
}

// fullView adds what costs more: the document, the live attempt, the place in
// the queue, the result.
func (s *Server) fullView(c *call, j *queue.Job) apitype.Job {
	v := c.view(j)
	v.Document = mask(j.Body)
	if j.State.Active() {
		v.Stage, v.Progress = s.live.Live(j.ID, j.Attempt)
	}
	if j.State == queue.Queued {
		if _, ahead, err := s.queue.Why(j.ID, s.control.Capacity()); err == nil && ahead > 0 {
			v.Position = ahead
		}
	}
	if r, err := s.resultOf(c, j); err == nil && string(r.Result) != "null" {
		v.Result = r.Result
	}
	return v
}

// mask hides the values of variables whose names say that they are secret.
func mask(document json.RawMessage) json.RawMessage {
	var fields map[string]json.RawMessage
	var env map[string]string
	if json.Unmarshal(document, &fields) != nil || json.Unmarshal(fields["env"], &env) != nil {
		return document
	}
	masked := false
	for key := range env {
		upper := strings.ToUpper(key)
		for _, word := range []string{"TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY", "APIKEY", "PRIVATE_KEY", "ACCESS_KEY"} {
			if strings.Contains(upper, word) {
				env[key] = "***"
				masked = true
			}
		}
	}
	if !masked {
		return document
	}
	hidden, err := json.Marshal(env)
	if err == nil {
		fields["env"] = hidden
		hidden, err = json.Marshal(fields)
	}
	if err != nil {
		return nil
	}
	return hidden
}

func (s *Server) getJob(w http.ResponseWriter, _ *http.Request, c *call) error {
	v := s.fullView(c, &c.job)
	s.answer(w, http.StatusOK, &v)
	return nil
}

// listJobs takes state (may be given several times, or with commas), owner,
// limit and cursor. Newest come first.
func (s *Server) listJobs(w http.ResponseWriter, r *http.Request, c *call) error {
	filter := queue.Filter{Limit: 100}
	for key, values := range r.URL.Query() {
		value := values[len(values)-1]
		var err error
		switch key {
		case "state":
			filter.States, err = parseStates(values)
		case "owner":
			filter.Owner = value
			if uid, err := strconv.Atoi(value); err == nil {
				filter.Owner = "uid:" + strconv.Itoa(uid)
			}
		case "limit":
			filter.Limit, err = strconv.Atoi(value)
			if err != nil || filter.Limit < 1 || filter.Limit > 1000 {
				err = failure(apitype.KindBadRequest, "limit: %q is not a number from 1 to 1000", value)
			}
		case "cursor":
			filter.Before, err = strconv.ParseUint(value, 10, 64)
			if err != nil || filter.Before == 0 {
				err = failure(apitype.KindBadRequest, "cursor: %q was not given by a listing", value)
			}
		default:
			err = failure(apitype.KindBadRequest, "unknown parameter %q", key)
		}
		if err != nil {
			return err
		}
	}
	if !c.admin {
		if filter.Owner != "" && filter.Owner != c.peer.Owner() {
			return failure(apitype.KindForbidden, "only root and the admin group see the jobs of others")
		}
		filter.Owner = c.peer.Owner()
	}
	jobs, err := s.queue.List(filter)
	if err != nil {
		return err
	}
	out := apitype.Jobs{Jobs: make([]apitype.Job, len(jobs))}
	for i := range jobs {
		out.Jobs[i] = c.view(&jobs[i])
		out.Jobs[i].Detail = nil
		if jobs[i].State.Active() {
			out.Jobs[i].Stage, out.Jobs[i].Progress = s.live.Live(jobs[i].ID, jobs[i].Attempt)
		}
	}
	if len(jobs) == filter.Limit {
		out.Next = strconv.FormatUint(jobs[len(jobs)-1].Seq, 10)
	}
	s.answer(w, http.StatusOK, out)
	return nil
}

func parseStates(values []string) ([]queue.State, error) {
	known := []queue.State{queue.Queued, queue.Delayed, queue.Held, queue.Preparing, queue.Running,
		queue.Finishing, queue.Succeeded, queue.Failed, queue.Canceled}
	var states []queue.State
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			state := queue.State(name)
			if !slices.Contains(known, state) {
				return nil, failure(apitype.KindBadRequest, "state: %q is none of %v", name, known)
			}
			states = append(states, state)
		}
	}
	return states, nil
}

func (s *Server) removeJob(w http.ResponseWriter, r *http.Request, c *call) error {
	if !c.job.State.Final() {
		return failure(apitype.KindState, "job %s is %s; cancel it, or wait for its end, before it is removed", c.shown(c.job.ID), c.job.State)
	}
	if err := s.queue.Remove(r.Context(), c.job.ID); err != nil {
		return err
	}
	if err := s.control.RemoveJob(r.Context(), c.job.ID); err != nil {
		return err
	}
	v := c.view(&c.job)
	s.answer(w, http.StatusOK, &v)
	return nil
}

// cancelJob commits the wish first: from then on it holds, whatever becomes of
// this process.
func (s *Server) cancelJob(w http.ResponseWriter, r *http.Request, c *call) error {
	reason, err := s.reason(w, r, c, "canceled by ")
	if err != nil {
		return err
	}
	job, err := s.queue.Cancel(r.Context(), c.job.ID, reason)
	if err != nil {
		return err
	}
	if job.State.Active() {
		if err := s.control.CancelAttempt(r.Context(), job); err != nil {
			s.logger.Warn("Cannot reach attempt to cancel it", slog.String("job", job.ID), slog.Any("error", err))
		}
	}
	v := c.view(&job)
	s.answer(w, http.StatusOK, &v)
	return nil
}

func (s *Server) holdJob(w http.ResponseWriter, r *http.Request, c *call) error {
	reason, err := s.reason(w, r, c, "held by ")
	if err != nil {
		return err
	}
	return s.changed(w, c, func() (queue.Job, error) { return s.queue.Hold(r.Context(), c.job.ID, reason) })
}

// reason reads the body of a cancel or a hold; without one it says who asked.
func (s *Server) reason(w http.ResponseWriter, r *http.Request, c *call, verb string) (string, error) {
	var body apitype.Reason
	if err := s.decode(w, r, &body); err != nil {
		return "", err
	}
	reason := strings.Join(strings.Fields(body.Reason), " ")
	if len(reason) > 1000 {
		return "", failure(apitype.KindBadRequest, "reason: %d bytes; the limit is 1000", len(reason))
	}
	if reason == "" {
		if reason = verb + c.peer.User; c.peer.User == "" {
			reason = verb + c.peer.Owner()
		}
	}
	return reason, nil
}

func (s *Server) releaseJob(w http.ResponseWriter, r *http.Request, c *call) error {
	return s.changed(w, c, func() (queue.Job, error) { return s.queue.Release(r.Context(), c.job.ID) })
}

// retryJob answers 201 with the copy.
func (s *Server) retryJob(w http.ResponseWriter, r *http.Request, c *call) error {
	if !c.job.State.Final() {
		return failure(apitype.KindState, "job %s is %s; only a job that has ended can be retried", c.shown(c.job.ID), c.job.State)
	}
	if f, err := transforms.ParseJobFile(c.job.Body); err == nil {
		if f.Python != nil {
			return failure(apitype.KindState, "job %s cannot be retried: the arguments of its function were deleted when it had ended; call it again", c.job.ID)
		}
		if _, err := f.TakeSecrets(); err != nil {
			return failure(apitype.KindState, "job %s cannot be retried: the tokens and keys that it came with were deleted when it had ended; "+
				"submit its document again, with them", c.shown(c.job.ID))
		}
	}
	job, err := s.queue.Retry(r.Context(), c.job.ID)
	if err != nil {
		return err
	}
	v := c.view(&job)
	w.Header().Set("Location", "/v1/jobs/"+v.ID)
	s.answer(w, http.StatusCreated, &v)
	return nil
}

func (s *Server) changed(w http.ResponseWriter, c *call, change func() (queue.Job, error)) error {
	job, err := change()
	if err != nil {
		return err
	}
	v := c.view(&job)
	s.answer(w, http.StatusOK, &v)
	return nil
}

func (s *Server) whyJob(w http.ResponseWriter, _ *http.Request, c *call) error {
	waits, ahead, err := s.queue.Why(c.job.ID, s.control.Capacity())
	if err != nil {
		return err
	}
	out := apitype.Why{ID: c.shown(c.job.ID), State: string(c.job.State), Reason: c.shownText(c.job.Reason, &c.job), Waits: []apitype.Wait{}, Ahead: ahead}
	if out.Reason == "" && c.job.State.Active() {
		if stage, _ := s.live.Live(c.job.ID, c.job.Attempt); stage != out.State {
			out.Reason = stage
		}
	}
	if paused, draining := s.control.Paused(); paused && (c.job.State == queue.Queued || c.job.State == queue.Delayed) {
		text := "the queue is paused; an admin resumes it with `girder-worker resume`"
		if draining {
			text = "the worker is being drained; an admin ends that with `girder-worker resume`"
		}
		out.Waits = append(out.Waits, apitype.Wait{Kind: "paused", Text: text})
	}
	for _, wait := range waits {
		switch wait.Kind {
		case "paused":
			continue
		case "reserved": // whose job that is, is not everybody's business
			if !c.admin {
				wait.Text = "what is free is kept for a job that did not fit for long"
			}
		}
		wait.Text = c.shownText(wait.Text, &c.job)
		out.Waits = append(out.Waits, apitype.Wait(wait))
	}
	s.answer(w, http.StatusOK, out)
	return nil
}

// maxWait is how long one request of a long poll lasts; the client asks again.
const maxWait = 5 * time.Minute

// waitJob answers when the job is final, or as it is after timeout.
func (s *Server) waitJob(w http.ResponseWriter, r *http.Request, c *call) error {
	timeout := time.Minute
	if value := r.URL.Query().Get("timeout"); value != "" {
		seconds, err := strconv.ParseFloat(value, 64)
		if err != nil || !(seconds >= 0 && seconds <= maxWait.Seconds()) {
			return failure(apitype.KindBadRequest, "timeout: %q is not a number of seconds from 0 to %v", value, maxWait.Seconds())
		}
		timeout = time.Duration(seconds * float64(time.Second))
	}
	ctx, end := s.lasting(w, r)
	defer end()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	job, err := s.await(ctx, c.job.ID)
	if err != nil {
		return err
	}
	v := s.fullView(c, &job)
	s.answer(w, http.StatusOK, &v)
	return nil
}

// await returns the job when it is final, or as it is when ctx ends.
func (s *Server) await(ctx context.Context, id string) (queue.Job, error) {
	for {
		notices := s.queue.Subscribe(ctx, id)
		for open := true; open; _, open = <-notices {
			job, err := s.queue.Job(id)
			if err != nil || job.State.Final() || ctx.Err() != nil {
				return job, err
			}
		}
		if ctx.Err() != nil {
			return s.queue.Job(id)
		}
	}
}

// lasting lifts the limits of time from a request, and returns its context,
// which ends with the client, or when the server begins to stop.
func (s *Server) lasting(w http.ResponseWriter, r *http.Request) (context.Context, context.CancelFunc) {
	control := http.NewResponseController(w)
	if err := errors.Join(control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Time{})); err != nil {
		s.logger.Debug("Cannot lift the time limit of a request", slog.Any("error", err))
	}
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(s.stopping, cancel)
	return ctx, func() { stop(); cancel() }
}
