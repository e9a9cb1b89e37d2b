package celery

import (
	"fmt"
	"strings"
	"time"

	"girderworker/transforms/jsonpickle"
)

// EventSource makes the events of one worker, for Flower and other monitors.
type EventSource struct {
	Node  string
	PID   int
	Clock *Clock
	// Software is told with the worker's own events: sw_ident, sw_ver, sw_sys.
	Ident, Version, System string
}

// Pulse is what a worker's own events tell.
type Pulse struct {
	Every     time.Duration // between heartbeats
	Active    int           // tasks that run
	Processed int64         // tasks that ended since the start
	Load      [3]float64    // of the machine
}

// Kinds of a worker's own events, which are always sent.
const (
	WorkerOnline    = "worker-online"
	WorkerHeartbeat = "worker-heartbeat"
	WorkerOffline   = "worker-offline"
)

// Worker is one of the worker's own events as a message. now must be in the
// machine's own zone: monitors correct times by its offset.
func (s *EventSource) Worker(kind string, p Pulse, now time.Time) (Message, error) {
	e := s.event(kind, now, dict("freq", p.Every.Seconds(), "active", p.Active, "processed", p.Processed,
		"loadavg", []any{p.Load[0], p.Load[1], p.Load[2]}, "sw_ident", s.Ident, "sw_ver", s.Version, "sw_sys", s.System))
	return s.message(strings.ReplaceAll(kind, "-", "."), e)
}

// Event is an event of a task, to be sent with others by [EventSource.Tasks].
type Event struct{ fields *jsonpickle.Dict }

// Received tells that a task was accepted.
func (s *EventSource) Received(r *Request, now time.Time) Event {
	return s.task("task-received", r, now, "name", r.DisplayName(), "args", r.ArgsRepr, "kwargs", r.KwargsRepr,
		"root_id", orNil(r.RootID), "parent_id", orNil(r.ParentID), "retries", r.Retries, "eta", r.ETA, "expires", r.Expires)
}

// Started tells that a task runs.
func (s *EventSource) Started(r *Request, now time.Time) Event {
	return s.task("task-started", r, now)
}

// Succeeded tells the result, as Python shows it, and how long the task ran.
func (s *EventSource) Succeeded(r *Request, result jsonpickle.Value, runtime time.Duration, now time.Time) Event {
	return s.task("task-succeeded", r, now, "result", Repr(result), "runtime", runtime.Seconds())
}

// Failed tells of a failure.
func (s *EventSource) Failed(r *Request, res Result, now time.Time) Event {
	return s.task("task-failed", r, now, "exception", res.Exception.String(), "traceback", orNil(res.Traceback))
}

// Retried tells that a task failed and will be tried again.
func (s *EventSource) Retried(r *Request, res Result, now time.Time) Event {
	return s.task("task-retried", r, now, "exception", res.Exception.String(), "traceback", orNil(res.Traceback))
}

// Revoked tells that a task was not run, or ended by signal when terminated.
func (s *EventSource) Revoked(r *Request, terminated bool, signal string, expired bool, now time.Time) Event {
	return s.task("task-revoked", r, now, "terminated", terminated, "signum", orNil(signal), "expired", expired)
}

// Rejected tells that a message was given back or thrown away.
func (s *EventSource) Rejected(r *Request, requeue bool, now time.Time) Event {
	return s.task("task-rejected", r, now, "requeue", requeue)
}

func (s *EventSource) task(kind string, r *Request, now time.Time, pairs ...any) Event {
	return Event{s.event(kind, now, dict(append([]any{"uuid", r.ID}, pairs...)...))}
}

func (s *EventSource) event(kind string, now time.Time, fields *jsonpickle.Dict) *jsonpickle.Dict {
	e := dict("hostname", s.Node, "utcoffset", utcOffset(now), "pid", s.PID, "clock", s.Clock.Forward())
	e.Members = append(e.Members, fields.Members...)
	e.Members = append(e.Members, dict("timestamp", unix(now), "type", kind).Members...)
	return e
}

// utcOffset is in whole hours west of Greenwich, rounded down, as Python's
// time.timezone // 3600.
func utcOffset(now time.Time) int {
	_, east := now.Zone()
	hours := -east / 3600
	if -east%3600 < 0 {
		hours--
	}
	return hours
}

// Tasks are several events of tasks in one message.
func (s *EventSource) Tasks(events []Event) (Message, error) {
	list := &jsonpickle.List{}
	for _, e := range events {
		list.Items = append(list.Items, e.fields)
	}
	return s.message("task.multi", list)
}

func (s *EventSource) message(routingKey string, v jsonpickle.Value) (Message, error) {
	body, err := jsonpickle.EncodePlain(clean(v))
	if err != nil {
		return Message{}, fmt.Errorf("cannot write the event %s: %w", routingKey, err)
	}
	return Message{Exchange: EventExchange, RoutingKey: routingKey, Properties: jsonProperties(transient),
		Headers: map[string]any{"hostname": s.Node}, Body: body}, nil
}

// maxBuffered is how many events of tasks go into one message, as in Celery.
const maxBuffered = 10

// EventBuffer keeps events of tasks until they are worth a message. The zero value
// is off and drops what it is given. It is for one goroutine.
type EventBuffer struct {
	on     bool
	events []Event
}

// Send switches it on or off and returns what was before.
func (b *EventBuffer) Send(on bool) (before bool) {
	before, b.on = b.on, on
	return before
}

// Sending tells whether it is on: whether making an event is worth the while.
func (b *EventBuffer) Sending() bool { return b.on }

// Add keeps an event; full tells that it is time to take them.
func (b *EventBuffer) Add(e Event) (full bool) {
	if !b.on {
		return false
	}
	b.events = append(b.events, e)
	return len(b.events) >= maxBuffered
}

// Take returns what was kept and forgets it; Celery takes once a second at the latest.
func (b *EventBuffer) Take() []Event {
	events := b.events
	b.events = nil
	return events
}
