package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"girderworker/daemon/amqp"
	"girderworker/daemon/amqp/celerytest"
	"girderworker/daemon/amqp/rabbittest"
	"girderworker/daemon/celery"
	"girderworker/daemon/jobsync"
	"girderworker/queue"
)

var rabbit rabbittest.Broker

func TestMain(m *testing.M) {
	code := m.Run()
	rabbit.Stop()
	os.Exit(code)
}

// machine is a worker on a real RabbitMQ, with a queue, whose containers are played:
// one whose first argument is a number exits with it, "wait" runs until it is canceled.
type machine struct {
	t      testing.TB
	store  *queue.Store
	client *amqp.Client
	events *Events
	taken  chan string
}

func startMachine(t *testing.T, vhost, node string) *machine {
	t.Helper()
	brokers, err := amqp.ParseBrokers("amqp://guest:guest@" + rabbit.Addr() + "/" + vhost)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, store: open(t), taken: make(chan string, 100)}
	logger := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	clock := &celery.Clock{}
	panel := &celery.Panel{Node: node, Clock: clock}
	ready := make(chan struct{})
	var once sync.Once
	m.client = amqp.New(amqp.Config{
		Brokers: brokers, NodeName: node, Queues: []string{"celery"}, Logger: logger,
		Free: func() int { return 4 },
		Task: func(ctx context.Context, d *amqp.Delivery) {
			taken, err := intake().Take(d.Delivery)
			if err != nil {
				d.Reject()
				return
			}
			if _, err := m.store.Submit(ctx, taken.Submission); err != nil {
				t.Errorf("cannot keep task %s: %v", taken.Task.ID, err)
				return
			}
			if err := d.Accept(); err != nil {
				t.Errorf("cannot accept task %s: %v", taken.Task.ID, err)
			}
		},
		Control: func(ctx context.Context, d celery.Delivery) {
			c, err := celery.DecodeCommand(d)
			if err != nil {
				t.Error(err)
				return
			}
			clock.Adjust(c.Clock)
			if ours, err := c.For(node, time.Now()); err != nil || !ours {
				return
			}
			reply, ok, err := c.Reply(node, panel.Answer(ctx, &c), clock)
			if err != nil {
				t.Error(err)
			} else if ok {
				if err := m.client.Publish(ctx, reply); err != nil && !errors.Is(err, amqp.ErrUnroutable) {
					t.Errorf("cannot answer %s: %v", c.Method, err)
				}
			}
		},
		Changed: func() {
			if s := m.client.Status(); s.State == amqp.Ready {
				once.Do(func() { close(ready) })
			}
		},
	})
	m.events = &Events{
		Source: &celery.EventSource{Node: node, PID: os.Getpid(), Clock: clock, Ident: "girder-worker", Version: "test", System: "Linux"},
		Store:  m.store, Send: m.client.Event, Pulse: func() celery.Pulse { return celery.Pulse{Active: 1} }, Logger: logger,
	}
	panel.Worker = NewControl(m.store, node, Facts{
		Tasks: ContainerTasks, Process: func(string, int) int { return 0 },
		Stats: func(context.Context) (celery.Stats, error) {
			return celery.Stats{PID: os.Getpid(), Slots: 4, Broker: celery.Broker{Host: "127.0.0.1"}}, nil
		},
		Queues: func() []celery.Queue {
			return []celery.Queue{{Name: "celery", Exchange: "celery", ExchangeType: "direct", RoutingKey: "celery", Durable: true}}
		},
		Configuration: func() map[string]any { return map[string]any{"broker_url": "amqp://guest:hidden@host//"} },
		Report:        func() string { return "girder-worker" },
		Cancel: func(ctx context.Context, id, reason string) error {
			j, err := m.store.Cancel(ctx, id, reason)
			if err == nil && j.State.Active() {
				_, err = m.store.Finish(ctx, id, j.Attempt, &queue.Result{Outcome: "canceled"}, "", time.Now())
			}
			return err
		},
		Events: m.events.Switch, Heartbeat: m.events.Heartbeat,
		Consume:  func(string) error { return errors.New("queues are set in the configuration") },
		Leave:    func(string) error { return errors.New("queues are set in the configuration") },
		Shutdown: func() error { return errors.New("not from afar") },
	}, time.Now, logger)
	syncer := jobsync.New(jobsync.Config{Queue: m.store, StateDir: t.TempDir(), Results: &Results{
		Send: func(ctx context.Context, msg celery.Message) error {
			err := m.client.Publish(ctx, msg)
			if errors.Is(err, amqp.ErrUnroutable) {
				err = fmt.Errorf("%w: %w", ErrNoQueue, err)
			}
			return err
		},
		Origin: "gen1@lab", Now: time.Now, Logger: logger,
	}})
	var work sync.WaitGroup
	work.Go(func() { m.client.Run(ctx) })
	work.Go(func() { syncer.Run(ctx) })
	work.Go(func() { m.events.Run(ctx) })
	work.Go(func() { m.play(ctx) })
	t.Cleanup(func() { cancel(); work.Wait() })
	select {
	case <-ready:
	case <-time.After(time.Minute):
		t.Fatalf("not ready: %+v", m.client.Status())
	}
	return m
}

// play claims jobs and ends them.
func (m *machine) play(ctx context.Context) {
	timer := time.NewTicker(100 * time.Millisecond)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.store.Wake():
		case <-timer.C:
		}
		jobs, err := m.store.Claim(ctx, queue.Capacity{Slots: 8, CPUs: 64, Memory: 64 << 30}, "boot", 8)
		if err != nil {
			return
		}
		for i := range jobs {
			j := &jobs[i]
			var document struct{ Args []string }
			if err := json.Unmarshal(j.Body, &document); err != nil {
				m.t.Error(err)
			}
			if err := m.store.Started(ctx, j.ID, j.Attempt, time.Now()); err != nil {
				return
			}
			code := 0
			if len(document.Args) > 0 {
				if document.Args[0] == "wait" {
					m.taken <- j.ID
					continue
				}
				fmt.Sscan(document.Args[0], &code)
			}
			if _, err := m.store.Finish(ctx, j.ID, j.Attempt, &queue.Result{Outcome: "exited", Code: code}, "", time.Now()); err != nil {
				return
			}
		}
	}
}

// script asks as Girder does, and says what came back.
const script = `
import threading
from celery import chain, group
from celery.exceptions import TimeoutError
run = 'girder_worker.docker.tasks.docker_run'
def s(*args, **kwargs):
    return app.signature(run, args=('busybox',), kwargs=dict(kwargs, container_args=list(args)))
def outcome(result):
    try:
        return ['returned', result.get(timeout=60)]
    except TimeoutError:
        return ['timeout']
    except Exception as e:
        return [type(e).__module__, type(e).__name__, [str(a) for a in e.args]]
def case(name, result):
    say([name, outcome(result)])
case('success', s('0').apply_async())
case('failure', s('7').apply_async())
case('unknown', app.send_task('no.such.task'))
case('bad call', app.send_task(run))
case('pickle', s('0').apply_async(serializer='pickle'))
case('yaml', s('0').apply_async(serializer='yaml'))
case('zlib', s('0').apply_async(compression='zlib'))
case('bzip2', s('0').apply_async(compression='bzip2'))
case('expired', s('0').apply_async(expires=0.001, countdown=1))
case('countdown', s('0').apply_async(countdown=1))
case('chain', chain(s('0'), s('0').set(immutable=True), s('0').set(immutable=True)).apply_async())
case('broken chain', chain(s('0'), s('3').set(immutable=True), s('0').set(immutable=True)).apply_async())
case('group', group(s('0'), s('0')).apply_async())
case('chain, then a group', chain(s('0'), group(s('0').set(immutable=True), s('0').set(immutable=True))).apply_async())
r = s('0').apply_async(link=s('0').set(immutable=True, task_id='linked', reply_to=app.thread_oid))
case('link', r)
case('linked', app.AsyncResult('linked'))
say(['children', [c.id for c in (r.children or [])]])
app.conf.task_protocol = 1
case('protocol 1', app.signature(run, args=('busybox',), kwargs={}).apply_async())
app.conf.task_protocol = 2
`

const inspection = `
run = 'girder_worker.docker.tasks.docker_run'
i = app.control.inspect(timeout=60, limit=1)
say(['ping', i.ping()])
r = app.send_task(run, args=['busybox'], kwargs={'container_args': ['wait'], 'pull_image': False}, task_id='waits')
import time
end = time.time() + 60
while time.time() < end:
    active = i.active() or {}
    if active.get('celery@lab'):
        break
say(['active', [[t['id'], t['args'], t['kwargs'], t['type'], t['hostname']] for t in active['celery@lab']]])
say(['reserved', i.reserved()])
say(['scheduled', i.scheduled()])
say(['registered', i.registered()])
say(['stats', sorted(i.stats()['celery@lab'])])
say(['report', i.report()])
say(['conf', i.conf()])
say(['queues', [q['name'] for q in i.active_queues()['celery@lab']]])
say(['query', {k: v[0] for k, v in i.query_task('waits')['celery@lab'].items()}])
say(['others', app.control.inspect(timeout=0.3, destination=['celery@other']).ping()])
app.control.revoke('comes-later')
app.control.revoke('waits', terminate=True)
say(['revoked', [r.get(timeout=60), sorted(i.revoked()['celery@lab'])]])
try:
    app.send_task(run, args=['busybox'], task_id='comes-later').get(timeout=60)
except Exception as e:
    say(['later', [type(e).__module__, type(e).__name__, list(e.args)]])
`

func answers(t *testing.T, said []json.RawMessage) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, line := range said {
		var pair [2]json.RawMessage
		var name string
		if err := errors.Join(json.Unmarshal(line, &pair), json.Unmarshal(pair[0], &name)); err != nil {
			t.Fatal(err)
		}
		got[name] = string(pair[1])
	}
	return got
}

// TestCelery: what the real client sends comes back as the Python worker's answers do.
func TestCelery(t *testing.T) {
	vhost := rabbit.Vhost(t)
	client := celerytest.New(t, "amqp://guest:guest@"+rabbit.Addr()+"/"+vhost)
	startMachine(t, vhost, "celery@lab")
	got := answers(t, client.Run(t, script))
	for name, want := range map[string]string{
		"success":             `["returned", null]`,
		"failure":             `["celery.exceptions", "DockerException", ["Non-zero exit code from docker container (7)."]]`,
		"unknown":             `["celery.exceptions", "NotRegistered", ["no.such.task"]]`,
		"bad call":            `["builtins", "TypeError", ["docker_run() missing 1 required positional argument: 'image'"]]`,
		"pickle":              `a pickle`,
		"yaml":                `YAML`,
		"zlib":                `["returned", null]`,
		"bzip2":               `["returned", null]`,
		"countdown":           `["returned", null]`,
		"expired":             `["celery.exceptions", "TaskRevokedError", ["expired"]]`,
		"chain":               `["returned", null]`,
		"broken chain":        `["celery.exceptions", "DockerException", ["Non-zero exit code from docker container (3)."]]`,
		"group":               `["returned", [null, null]]`,
		"chain, then a group": `["returned", [null, null]]`,
		"link":                `["returned", null]`,
		"linked":              `["returned", null]`,
		"children":            `["linked"]`,
		"protocol 1":          `["returned", null]`,
	} {
		if !strings.Contains(got[name], want) {
			t.Errorf("%s: %s, want %s", name, got[name], want)
		}
	}
}

// TestInspect: the real client sees the worker and can cancel its tasks.
func TestInspect(t *testing.T) {
	vhost := rabbit.Vhost(t)
	client := celerytest.New(t, "amqp://guest:guest@"+rabbit.Addr()+"/"+vhost)
	startMachine(t, vhost, "celery@lab")
	got := answers(t, client.Run(t, inspection))
	for name, want := range map[string]string{
		"ping":       `{"celery@lab": {"ok": "pong"}}`,
		"active":     `[["waits", ["busybox"], {"container_args": ["wait"], "pull_image": false}, "girder_worker.docker.tasks.docker_run", "celery@lab"]]`,
		"reserved":   `{"celery@lab": []}`,
		"scheduled":  `{"celery@lab": []}`,
		"registered": `{"celery@lab": ["girder_worker.docker.tasks.docker_run", "slicer_cli_web.girder_worker_plugin.direct_docker_run.run"]}`,
		"stats":      `["broker", "clock", "pid", "pool", "prefetch_count", "rusage", "total", "uptime"]`,
		"report":     `{"celery@lab": {"ok": "girder-worker"}}`,
		"conf":       `{"celery@lab": {"broker_url": "amqp://guest:********@host//"}}`,
		"queues":     `["celery"]`,
		"query":      `{"waits": "active"}`,
		"others":     `null`,
		"revoked":    `[null, ["comes-later", "waits"]]`,
		"later":      `["celery.exceptions", "TaskRevokedError", ["revoked"]]`,
	} {
		if got[name] != want {
			t.Errorf("%s: %s, want %s", name, got[name], want)
		}
	}
}

// TestEvents: a real monitor follows the worker and its tasks.
func TestEvents(t *testing.T) {
	vhost := rabbit.Vhost(t)
	client := celerytest.New(t, "amqp://guest:guest@"+rabbit.Addr()+"/"+vhost)
	startMachine(t, vhost, "celery@lab")
	said := client.Run(t, `
while not app.control.enable_events(reply=True, timeout=60, limit=1):
    pass
run = 'girder_worker.docker.tasks.docker_run'
state = app.events.State()
seen = []
def on(event):
    state.event(event)
    kind = event['type']
    if kind not in seen:
        seen.append(kind)
    if kind == 'worker-heartbeat':
        # For twice as long as it is between two.
        alive.update(w.hostname for w in state.workers.values() if w.alive)
    if kind == 'worker-heartbeat' and not sent:
        sent.append(app.send_task(run, args=['busybox'], task_id='good'))
        sent.append(app.send_task(run, args=['busybox'], kwargs={'container_args': ['5']}, task_id='bad'))
    tasks = {t.uuid: t.state for t in state.tasks.values()}
    if tasks == {'good': 'SUCCESS', 'bad': 'FAILURE'}:
        receiver.should_stop = True
sent, alive = [], set()
with app.connection_for_read() as connection:
    receiver = app.events.Receiver(connection, handlers={'*': on})
    receiver.capture(limit=None, timeout=60, wakeup=False)
say(['seen', sorted(seen)])
say(['tasks', {t.uuid: [t.state, t.name, t.args, t.exception, t.worker.hostname, t.received is not None, t.started is not None] for t in state.tasks.values()}])
say(['workers', {w.hostname: [w.hostname in alive, w.sw_ident] for w in state.workers.values()}])
`)
	got := answers(t, said)
	var seen []string
	if err := json.Unmarshal([]byte(got["seen"]), &seen); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"task-received", "task-started", "task-succeeded", "task-failed", "worker-heartbeat"} {
		if !slices.Contains(seen, kind) {
			t.Errorf("no %s among %s", kind, got["seen"])
		}
	}
	const name = `"girder_worker.docker.tasks.docker_run"`
	for _, want := range []string{
		`"good": ["SUCCESS", ` + name + `, "['busybox']", null, "celery@lab", true, true]`,
		`"bad": ["FAILURE", ` + name + `, "['busybox']", "DockerException('Non-zero exit code from docker container (5).')", "celery@lab", true, true]`,
	} {
		if !strings.Contains(got["tasks"], want) {
			t.Errorf("tasks %s, want %s", got["tasks"], want)
		}
	}
	if got["workers"] != `{"celery@lab": [true, "girder-worker"]}` {
		t.Errorf("workers %s", got["workers"])
	}
}
