package celery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"girderworker/transforms/jsonpickle"
)

// Worker is what remote control may ask of a worker, and do to it. Methods that
// return an error have it sent to whoever asked, so it must hold no secret.
type Worker interface {
	// Active, Reserved and Scheduled are the tasks that run, that wait to run, and
	// that wait for their time.
	Active(context.Context) ([]TaskInfo, error)
	Reserved(context.Context) ([]TaskInfo, error)
	Scheduled(context.Context) ([]Scheduled, error)
	// Find returns those of the ids that it knows, with "active", "reserved" or "ready".
	Find(ctx context.Context, ids []string) ([]Found, error)
	// Revocations are the ids that are not to be run.
	Revocations(context.Context) ([]Revocation, error)
	// Registered are the names of the tasks that it can run.
	Registered() []string
	Stats(context.Context) (Stats, error)
	Queues() []Queue
	// Configuration is what may be seen of it; secrets are masked again here.
	Configuration() map[string]any
	// Report is text for a bug report.
	Report() string

	// Revoke ends the tasks, or remembers not to start them. It returns those that
	// it had, which is what Celery calls terminated.
	Revoke(ctx context.Context, ids []string) (known []string, err error)
	// SendEvents switches task events on or off and returns what was before.
	SendEvents(on bool) (before bool)
	// Heartbeat sends a worker-heartbeat at once.
	Heartbeat()
	// Consume and Cancel begin and end taking tasks from a queue.
	Consume(queue string) error
	Cancel(queue string) error
	// Shutdown ends the worker when what runs has ended.
	Shutdown() error
}

// Answer is what a command came to.
type Answer struct {
	Value  jsonpickle.Value // plain
	Silent bool             // nothing is sent, not even null
}

// Panel carries commands out, in Celery's words.
type Panel struct {
	Node   string
	Worker Worker
	Clock  *Clock
}

// ErrUnsupported: a command that Celery knows and this worker does not obey.
var ErrUnsupported = errors.New("not supported")

// maxListed bounds the tasks in one answer.
const maxListed = 1000

// Answer carries one command out. A failure is part of the answer.
func (p *Panel) Answer(ctx context.Context, c *Command) Answer {
	handle, ok := commands[c.Method]
	if !ok {
		// As Python writes the key that it did not find.
		return errorAnswer("KeyError(" + Repr(c.Method) + ")")
	}
	value, err := handle(p, ctx, mapFields("argument", c.Arguments))
	switch {
	case errors.Is(err, errSilent):
		return Answer{Silent: true}
	case err != nil:
		return errorAnswer(err.Error())
	}
	return Answer{Value: value}
}

var errSilent = errors.New("nothing to say")

func errorAnswer(text string) Answer { return Answer{Value: dict("error", cut(text, maxRepr))} }

func ok(format string, args ...any) jsonpickle.Value { return dict("ok", fmt.Sprintf(format, args...)) }

type handler func(*Panel, context.Context, *fields) (jsonpickle.Value, error)

// commands are those of Celery's worker, with the older names of some.
var commands = map[string]handler{
	"ping":          func(*Panel, context.Context, *fields) (jsonpickle.Value, error) { return ok("pong"), nil },
	"active":        (*Panel).active,
	"dump_active":   (*Panel).active,
	"reserved":      (*Panel).reserved,
	"dump_reserved": (*Panel).reserved,
	"scheduled":     (*Panel).scheduled,
	"dump_schedule": (*Panel).scheduled,
	"query_task":    (*Panel).query,
	"revoked":       (*Panel).revoked,
	"dump_revoked":  (*Panel).revoked,
	"registered":    (*Panel).registered,
	"dump_tasks":    (*Panel).registered,
	"stats":         (*Panel).stats,
	"active_queues": (*Panel).queues,
	"conf":          (*Panel).conf,
	"dump_conf":     (*Panel).conf,
	"report": func(p *Panel, _ context.Context, _ *fields) (jsonpickle.Value, error) {
		return ok("%s", newMasker().text(p.Worker.Report())), nil
	},
	"clock": func(p *Panel, _ context.Context, _ *fields) (jsonpickle.Value, error) {
		return dict("clock", p.Clock.Value()), nil
	},
	"hello":          (*Panel).hello,
	"revoke":         (*Panel).revoke,
	"terminate":      (*Panel).terminate,
	"enable_events":  (*Panel).enableEvents,
	"disable_events": (*Panel).disableEvents,
	"heartbeat": func(p *Panel, _ context.Context, _ *fields) (jsonpickle.Value, error) {
		p.Worker.Heartbeat()
		return nil, nil
	},
	"add_consumer":    (*Panel).addConsumer,
	"cancel_consumer": (*Panel).cancelConsumer,
	"shutdown": func(p *Panel, _ context.Context, _ *fields) (jsonpickle.Value, error) {
		if err := p.Worker.Shutdown(); err != nil {
			return nil, err
		}
		return nil, errSilent // Celery is gone before it can answer
	},
	"rate_limit":   (*Panel).taskSetting,
	"time_limit":   (*Panel).taskSetting,
	"election":     unsupported("leaders are not elected"),
	"pool_grow":    unsupported("the number of slots is set in the configuration"),
	"pool_shrink":  unsupported("the number of slots is set in the configuration"),
	"pool_restart": unsupported("each job has a process of its own"),
	"autoscale":    unsupported("the number of slots is set in the configuration"),
	"memsample":    unsupported("there is no Python interpreter to look into"),
	"memdump":      unsupported("there is no Python interpreter to look into"),
	"objgraph":     unsupported("there is no Python interpreter to look into"),
}

func unsupported(why string) handler {
	return func(*Panel, context.Context, *fields) (jsonpickle.Value, error) {
		return nil, fmt.Errorf("%w: %s", ErrUnsupported, why)
	}
}

// Commands are the names that a [Panel] knows.
func Commands() []string { return slices.Sorted(maps.Keys(commands)) }

func (p *Panel) active(ctx context.Context, f *fields) (jsonpickle.Value, error) {
	safe := f.boolean("safe", false)
	infos, err := p.Worker.Active(ctx)
	return infoList(infos, safe), err
}

func (p *Panel) reserved(ctx context.Context, _ *fields) (jsonpickle.Value, error) {
	infos, err := p.Worker.Reserved(ctx)
	return infoList(infos, false), err
}

func infoList(infos []TaskInfo, safe bool) jsonpickle.Value {
	list := &jsonpickle.List{}
	for _, i := range infos[:min(len(infos), maxListed)] {
		list.Items = append(list.Items, i.value(safe))
	}
	return list
}

func (p *Panel) scheduled(ctx context.Context, _ *fields) (jsonpickle.Value, error) {
	all, err := p.Worker.Scheduled(ctx)
	if err != nil {
		return nil, err
	}
	list := &jsonpickle.List{}
	for _, s := range all[:min(len(all), maxListed)] {
		list.Items = append(list.Items, dict("eta", s.ETA, "priority", s.Priority, "request", s.Task.value(false)))
	}
	return list, nil
}

func (p *Panel) query(ctx context.Context, f *fields) (jsonpickle.Value, error) {
	ids, err := f.ids("ids")
	if err != nil {
		return nil, err
	}
	found, err := p.Worker.Find(ctx, ids)
	if err != nil {
		return nil, err
	}
	d := &jsonpickle.Dict{}
	for _, t := range found[:min(len(found), maxListed)] {
		d.Members = append(d.Members, jsonpickle.Member{Key: t.Task.Request.ID, Value: &jsonpickle.List{
			Items: []jsonpickle.Value{t.State, t.Task.value(false)}}})
	}
	return d, nil
}

func (p *Panel) revoked(ctx context.Context, _ *fields) (jsonpickle.Value, error) {
	all, err := p.Worker.Revocations(ctx)
	if err != nil {
		return nil, err
	}
	ids := []string{}
	for _, r := range all[:min(len(all), maxRevoked)] {
		ids = append(ids, r.ID)
	}
	return valueOf(ids), nil
}

func (p *Panel) registered(_ context.Context, f *fields) (jsonpickle.Value, error) {
	builtins := f.boolean("builtins", false)
	names := slices.DeleteFunc(slices.Sorted(slices.Values(p.Worker.Registered())), func(name string) bool {
		return !builtins && strings.HasPrefix(name, "celery.")
	})
	return valueOf(slices.Compact(names)), nil
}

func (p *Panel) stats(ctx context.Context, _ *fields) (jsonpickle.Value, error) {
	s, err := p.Worker.Stats(ctx)
	if err != nil {
		return nil, err
	}
	return s.value(p.Clock.Value()), nil
}

func (p *Panel) queues(context.Context, *fields) (jsonpickle.Value, error) {
	list := &jsonpickle.List{}
	for _, q := range p.Worker.Queues() {
		list.Items = append(list.Items, q.value())
	}
	return list, nil
}

func (p *Panel) conf(context.Context, *fields) (jsonpickle.Value, error) {
	return maskConfiguration(p.Worker.Configuration()), nil
}

// hello answers a starting peer, and learns what it knows. A worker does not answer itself.
func (p *Panel) hello(ctx context.Context, f *fields) (jsonpickle.Value, error) {
	from := f.text("from_node", maxID)
	if err := f.err(); err != nil {
		return nil, err
	}
	if from == p.Node {
		return nil, errSilent
	}
	if ids := revokedIDs(f.value("revoked")); len(ids) > 0 {
		if _, err := p.Worker.Revoke(ctx, ids); err != nil {
			return nil, err
		}
	}
	all, err := p.Worker.Revocations(ctx)
	if err != nil {
		return nil, err
	}
	return dict("revoked", revocations(all), "clock", p.Clock.Forward()), nil
}

// ids reads one id or a list of ids.
func (f *fields) ids(name string) ([]string, error) {
	var ids []string
	switch v := f.value(name).(type) {
	case nil:
	case string:
		ids = []string{v}
	case []any:
		for _, item := range v {
			id, ok := item.(string)
			if !ok {
				return nil, fmt.Errorf("argument %s: %s, not an id", name, kindOf(item))
			}
			ids = append(ids, id)
		}
	default:
		return nil, fmt.Errorf("argument %s: %s, not an id or a list of ids", name, kindOf(v))
	}
	if len(ids) > maxRevoked {
		return nil, fmt.Errorf("argument %s: %d ids, at most %d are allowed", name, len(ids), maxRevoked)
	}
	for _, id := range ids {
		if id == "" || len(id) > maxID {
			return nil, fmt.Errorf("argument %s: an id of %d bytes", name, len(id))
		}
	}
	return ids, nil
}

// revoke ends what runs and remembers what has not come. With terminate Celery
// kills the process; here the container is stopped either way.
func (p *Panel) revoke(ctx context.Context, f *fields) (jsonpickle.Value, error) {
	ids, err := f.ids("task_id")
	if err != nil {
		return nil, err
	}
	terminate := f.boolean("terminate", false)
	if err := f.err(); err != nil {
		return nil, err
	}
	return p.revokeAll(ctx, ids, terminate)
}

func (p *Panel) terminate(ctx context.Context, f *fields) (jsonpickle.Value, error) {
	ids, err := f.ids("task_id")
	if err != nil {
		return nil, err
	}
	return p.revokeAll(ctx, ids, true)
}

func (p *Panel) revokeAll(ctx context.Context, ids []string, terminate bool) (jsonpickle.Value, error) {
	var known []string
	if len(ids) > 0 {
		var err error
		if known, err = p.Worker.Revoke(ctx, ids); err != nil {
			return nil, err
		}
	}
	switch {
	case !terminate:
		return ok("tasks %s flagged as revoked", strings.Join(ids, ", ")), nil
	case len(known) == 0:
		return ok("terminate: tasks unknown"), nil
	}
	return ok("terminate: %s", strings.Join(known, ", ")), nil
}

func (p *Panel) enableEvents(context.Context, *fields) (jsonpickle.Value, error) {
	if p.Worker.SendEvents(true) {
		return ok("task events already enabled"), nil
	}
	return ok("task events enabled"), nil
}

func (p *Panel) disableEvents(context.Context, *fields) (jsonpickle.Value, error) {
	if !p.Worker.SendEvents(false) {
		return ok("task events already disabled"), nil
	}
	return ok("task events disabled"), nil
}

// queueName reads the queue of add_consumer and cancel_consumer.
func (f *fields) queueName() (string, error) {
	name := f.text("queue", maxID)
	if name == "" && len(f.errs) == 0 {
		f.wrong("queue", "there is none")
	}
	return name, f.err()
}

func (p *Panel) addConsumer(_ context.Context, f *fields) (jsonpickle.Value, error) {
	queue, err := f.queueName()
	if err == nil {
		err = p.Worker.Consume(queue)
	}
	if err != nil {
		return nil, err
	}
	return ok("add consumer %s", queue), nil
}

func (p *Panel) cancelConsumer(_ context.Context, f *fields) (jsonpickle.Value, error) {
	queue, err := f.queueName()
	if err == nil {
		err = p.Worker.Cancel(queue)
	}
	if err != nil {
		return nil, err
	}
	return ok("no longer consuming from %s", queue), nil
}

// taskSetting answers what would change a task for all its later calls.
func (p *Panel) taskSetting(_ context.Context, f *fields) (jsonpickle.Value, error) {
	name := f.text("task_name", maxName)
	if !slices.Contains(p.Worker.Registered(), name) {
		return nil, errors.New("unknown task")
	}
	return nil, fmt.Errorf("%w: limits are set in the configuration, or with each call", ErrUnsupported)
}

// Found is a task with how it stands.
type Found struct {
	State string // "active", "reserved", "ready"
	Task  TaskInfo
}

// Scheduled is a task that waits for its time.
type Scheduled struct {
	ETA      time.Time
	Priority int // Celery's timer's: 6
	Task     TaskInfo
}
