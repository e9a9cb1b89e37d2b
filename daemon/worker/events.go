package worker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"girderworker/daemon/celery"
	"girderworker/queue"
)

// Events tells monitors of the worker and its tasks. Run does the work; the other
// methods may be called from anywhere, at any time.
type Events struct {
	Source *celery.EventSource
	Store  *queue.Store
	// Send sends a message, or drops it: events are never waited for.
	Send func(celery.Message)
	// Pulse is what the worker's own events tell; Every is filled in.
	Pulse  func() celery.Pulse
	Every  time.Duration // between heartbeats; 0: 2 s
	Logger *slog.Logger

	mu     sync.Mutex
	buffer celery.EventBuffer
}

// flushTime is how long an event of a task may wait for others.
const flushTime = time.Second

// Switch switches the events of tasks on or off and returns what was before.
func (e *Events) Switch(on bool) (before bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.buffer.Send(on)
}

// Online tells that the worker is there: Run does at its start, and who sees that the
// broker is another one, or has come back, does again.
func (e *Events) Online() { e.worker(celery.WorkerOnline) }

// Heartbeat sends one at once.
func (e *Events) Heartbeat() { e.worker(celery.WorkerHeartbeat) }

func (e *Events) worker(kind string) {
	p := e.Pulse()
	p.Every = e.every()
	m, err := e.Source.Worker(kind, p, time.Now())
	if err != nil {
		e.Logger.Error("Cannot tell monitors of the worker", "error", err)
		return
	}
	e.Send(m)
}

func (e *Events) every() time.Duration {
	if e.Every > 0 {
		return e.Every
	}
	return 2 * time.Second
}

// Run sends the worker's own events, and those of tasks as the queue changes, until
// ctx ends. Events that come too fast for it are left out: they are for watching.
func (e *Events) Run(ctx context.Context) {
	e.Online()
	defer e.worker(celery.WorkerOffline)
	beat, flush := time.NewTicker(e.every()), time.NewTicker(flushTime)
	defer beat.Stop()
	defer flush.Stop()
	notices := e.Store.Subscribe(ctx, "")
	for {
		select {
		case <-ctx.Done():
			e.flush()
			return
		case <-beat.C:
			e.worker(celery.WorkerHeartbeat)
		case <-flush.C:
			e.flush()
		case n, ok := <-notices:
			if !ok {
				if ctx.Err() == nil {
					notices = e.Store.Subscribe(ctx, "")
				}
				continue
			}
			e.notice(n)
		}
	}
}

// notice turns a change of a job into an event, where somebody wants it.
func (e *Events) notice(n queue.Notice) {
	e.mu.Lock()
	on := e.buffer.Sending()
	e.mu.Unlock()
	if !on {
		return
	}
	j, err := e.Store.Job(n.Job)
	if err != nil {
		return // removed since
	}
	r, err := requestOf(&j)
	if err != nil {
		return // not a task
	}
	now := time.Now()
	var event celery.Event
	switch n.State {
	case queue.Queued, queue.Delayed:
		if n.Version > 1 {
			return // it was told when it came
		}
		event = e.Source.Received(r, now)
	case queue.Running:
		if n.Canceled {
			return // the state was told before
		}
		event = e.Source.Started(r, now)
	case queue.Succeeded:
		event = e.Source.Succeeded(r, nil, ran(&j), now)
	case queue.Failed:
		event = e.Source.Failed(r, resultOf(failureEnd(&j)), now)
	case queue.Canceled:
		if j.Attempt > 0 {
			event = e.Source.Succeeded(r, nil, ran(&j), now) // as its result says
			break
		}
		event = e.Source.Revoked(r, false, "", false, now)
	default:
		return
	}
	e.mu.Lock()
	full := e.buffer.Add(event)
	e.mu.Unlock()
	if full {
		e.flush()
	}
}

// ran is how long the last attempt's container ran.
func ran(j *queue.Job) time.Duration {
	if j.Started.IsZero() || j.Exited.Before(j.Started) {
		return 0
	}
	return j.Exited.Sub(j.Started)
}

func (e *Events) flush() {
	e.mu.Lock()
	events := e.buffer.Take()
	e.mu.Unlock()
	if len(events) == 0 {
		return
	}
	m, err := e.Source.Tasks(events)
	if err != nil {
		e.Logger.Error("Cannot tell monitors of tasks", "error", err)
		return
	}
	e.Send(m)
}
