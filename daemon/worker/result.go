package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"girderworker/daemon/celery"
	"girderworker/daemon/jobsync"
	"girderworker/queue"
	"girderworker/transforms/jsonpickle"
)

// ErrNoQueue is what [Results.Send] returns when a message has reached the broker
// and there was no queue for it.
var ErrNoQueue = errors.New("no queue took the message")

// Results tells callers how their tasks ended, and publishes what follows. It is a
// [jobsync.Publisher].
type Results struct {
	// Send publishes a message; nil is certain.
	Send func(context.Context, celery.Message) error
	// Prepare may make the Girder job of a follow-up task, and add its jobInfoSpec to
	// the headers. nil: follow-up tasks have no Girder job.
	Prepare func(ctx context.Context, parent Parent, f *celery.Follow) error
	Origin  string // "gen<pid>@<host>", for display
	Queue   string // of follow-up tasks that name none
	Now     func() time.Time
	Logger  *slog.Logger
	// Unsupported counts follow-up tasks that can never be published: chords.
	Unsupported func(reason error)
}

// Parent is the task that another one follows.
type Parent struct {
	Request *celery.Request
	APIURL  string // of Girder; empty: not told
	Token   string // that may make jobs there, and nothing else; empty: none
}

var _ jobsync.Publisher = (*Results)(nil)

// Publish sends the follow-up tasks first and the result, which names them, last:
// as Celery does. After an error all is sent again, the tasks under the same ids.
func (r *Results) Publish(ctx context.Context, end jobsync.Result) error {
	request, err := requestOf(end.Job)
	if err != nil {
		return fmt.Errorf("%w: %w", jobsync.ErrUnpublishable, err)
	}
	after, err := followOf(end.Secrets)
	if err != nil {
		return fmt.Errorf("%w: %w", jobsync.ErrUnpublishable, err)
	}
	result := resultOf(end)
	follower := celery.Follower{Now: r.Now(), Origin: r.Origin, Queue: r.Queue}

	var messages []celery.Message
	var follows []celery.Follow
	var impossible error
	switch {
	case end.State == queue.Succeeded:
		follows, result.Children, impossible = follower.AfterSuccess(request, &after.Links, result.Value)
	case end.State == queue.Canceled:
		// The next link of a task that was canceled is not run, though the Python
		// worker would: its result reads as a success.
		messages, follows, impossible = follower.AfterFailure(request, &after.Links, celery.RevokedBecause("revoked"))
	default:
		messages, follows, impossible = follower.AfterFailure(request, &after.Links, result)
	}
	if impossible != nil {
		r.Logger.Warn("Not all that follows a task can be published", "job", end.Job.ID, "error", impossible)
		if r.Unsupported != nil {
			r.Unsupported(impossible)
		}
	}
	for i := range follows {
		// As Girder Worker does: whoever runs it may call Girder in the same name.
		for name, value := range map[string]string{"girder_api_url": after.APIURL, "girder_client_token": after.ClientToken} {
			if headers := follows[i].Message.Headers; value != "" && headers[name] == nil {
				headers[name] = value
			}
		}
		if r.Prepare != nil {
			if err := r.Prepare(ctx, Parent{request, after.APIURL, after.ClientToken}, &follows[i]); err != nil {
				return fmt.Errorf("cannot prepare task %s, which follows: %w", follows[i].ID, err)
			}
		}
		if err := r.Send(ctx, follows[i].Message); errors.Is(err, ErrNoQueue) {
			r.Logger.Warn("A task that follows was lost: there is no such queue", "job", end.Job.ID,
				"task", follows[i].Task, "id", follows[i].ID, "queue", follows[i].Message.RoutingKey)
		} else if err != nil {
			return fmt.Errorf("cannot publish task %s, which follows: %w", follows[i].ID, err)
		}
	}
	own, ok, err := request.Reply(result)
	if err != nil {
		return fmt.Errorf("%w: %w", jobsync.ErrUnpublishable, err)
	}
	if ok {
		messages = append(messages, own)
	}
	for _, m := range messages {
		// A reply queue that is gone means that nobody waits any more.
		if err := r.Send(ctx, m); err != nil && !errors.Is(err, ErrNoQueue) {
			return fmt.Errorf("cannot publish the result: %w", err)
		}
	}
	return nil
}

// resultOf is the end of a job in Celery's words. A task that was canceled while it
// ran has returned, as far as Celery knows: that is how the Python worker tells it,
// and what callers of docker_run get.
func resultOf(end jobsync.Result) celery.Result {
	switch end.State {
	case queue.Succeeded:
		return celery.Result{State: celery.Success, Value: valueOf(end.Value)}
	case queue.Canceled:
		if end.Job.Attempt > 0 {
			return celery.Result{State: celery.Success}
		}
		return celery.RevokedBecause("revoked")
	}
	f := end.Failure
	e := celery.Exception{Type: f.Type, Module: f.Module, Args: []jsonpickle.Value{f.Message}}
	if f.Traceback != "" {
		if v, err := jsonpickle.Decode([]byte(f.Args), jsonpickle.Options{}); err == nil {
			if list, ok := v.(*jsonpickle.List); ok {
				e.Args = list.Items
			}
		}
		return celery.Result{State: celery.Failure, Exception: e, Traceback: f.Traceback}
	}
	switch f.Type {
	case "TaskRevokedError":
		return celery.RevokedBecause(f.Message)
	case "NotRegistered":
		return celery.NotRegistered(f.Message)
	case "":
		return celery.FailedWith(celery.Failed("it failed"))
	case "TimeLimitExceeded":
		if end.Job.Limits.Hard > 0 {
			e = celery.HardLimit(end.Job.Limits.Hard)
		}
	}
	return celery.FailedWith(e)
}

// valueOf is JSON as the value that the caller gets; what is none is null.
func valueOf(data []byte) jsonpickle.Value {
	v, err := jsonpickle.Decode(data, jsonpickle.Options{})
	if err != nil {
		return nil
	}
	return v
}

// failureEnd is the end of a failed job, as it is handed to Publish.
func failureEnd(j *queue.Job) jobsync.Result {
	return jobsync.Result{Job: j, State: j.State, Failure: jobsync.FailureOf(j)}
}
