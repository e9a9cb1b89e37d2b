package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/amqp"
	"girderworker/daemon/celery"
	"girderworker/daemon/config"
	"girderworker/daemon/policy"
	"girderworker/daemon/worker"
	"girderworker/queue"
	"girderworker/transforms"
	"girderworker/transforms/girder"
)

// broker is the front as a Celery worker on a RabbitMQ.
type broker struct {
	f       *front
	logger  *slog.Logger
	node    string
	brokers []amqp.Broker
	client  *amqp.Client
	intake  worker.Intake
	panel   celery.Panel
	clock   celery.Clock
	events  *worker.Events
	changed chan struct{} // capacity 1: the client's status is another
	replies chan struct{} // one for each answer under way
	doubted chan struct{} // capacity 1: there is a doubt more
	drained chan struct{} // capacity 1: what has not started is to be handed back
	work    sync.WaitGroup

	admitted atomic.Bool // tasks may be taken: the peers were met over this connection

	// settling is held to forget a job that is another machine's, and shared to take one.
	settling sync.RWMutex

	mu      sync.Mutex
	doubts  map[string]doubt // jobs that may be another machine's
	rest    time.Time        // nothing is taken until then
	total   map[string]int64 // tasks accepted, by name
	refused map[celery.Reason]int64
}

const (
	// maxReplies bounds the answers to remote control under way.
	maxReplies = 32
	// intakeRest is for a queue that is full or a disk that is.
	intakeRest = 5 * time.Second
)

// newBroker is nil where no broker is configured.
func newBroker(f *front, c *config.Config) (*broker, error) {
	if c.Celery.Broker == "" {
		return nil, nil
	}
	brokers, err := amqp.ParseBrokers(c.Celery.Broker)
	if err != nil {
		return nil, fmt.Errorf("celery.broker: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("cannot find the machine's name: %w", err)
	}
	node, err := nodeName(c.Celery.Hostname, host)
	if err != nil {
		return nil, fmt.Errorf("celery.hostname: %w", err)
	}
	queues, err := queueNames(c.Celery.Queues)
	if err != nil {
		return nil, fmt.Errorf("celery.queues: %w", err)
	}
	b := &broker{
		f: f, logger: f.logger.With("part", "broker"), node: node, brokers: brokers, replies: make(chan struct{}, maxReplies),
		changed: make(chan struct{}, 1), doubted: make(chan struct{}, 1), drained: make(chan struct{}, 1), doubts: map[string]doubt{}, total: map[string]int64{}, refused: map[celery.Reason]int64{},
	}
	b.intake = worker.Intake{Settings: b.settings, Document: b.document}
	b.client = amqp.New(amqp.Config{
		Brokers: brokers, NodeName: node, Version: f.options.Version, Queues: queues, Logger: b.logger,
		TLS:  amqp.TLS{CA: c.Celery.CA, Cert: c.Celery.Cert, Key: c.Celery.Key, ServerName: c.Celery.ServerName},
		Free: b.free, Task: b.take, Control: b.command,
		Changed: func() {
			if b.client.Status().Broker == "" {
				b.admitted.Store(false)
			}
			select {
			case b.changed <- struct{}{}:
			default:
			}
		},
	})
	return b, nil
}

// nodeName is Celery's name of a worker: NAME@HOST, where %h is the machine's name.
func nodeName(configured, host string) (string, error) {
	name := strings.ReplaceAll(configured, "%h", host)
	switch {
	case name == "":
		name = "celery@" + host
	case !strings.Contains(name, "@"):
		name += "@" + host
	}
	if len(name) > 200 || strings.ContainsAny(name, " *#/,") {
		return "", fmt.Errorf("%q is no name of a worker: NAME@HOST", name)
	}
	return name, nil
}

func queueNames(list string) (names []string, err error) {
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		if name == "" || slices.Contains(names, name) {
			continue
		}
		if err := checkQueueName(name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil, errors.New("name at least one queue; Girder's is celery")
	}
	return names, nil
}

func checkQueueName(name string) error {
	if name == "" || len(name) > 255 || strings.HasPrefix(name, "amq.") {
		return fmt.Errorf("%q is no name of a queue", name)
	}
	return nil
}

// results is where the ends of tasks go.
func (b *broker) results() *worker.Results {
	jobs := worker.Jobs{
		Create: func(ctx context.Context, api, token string, j girder.NewJob) (map[string]any, error) {
			return b.f.reports.CreateJob(ctx, api, token, j)
		},
		Usual: func(task string) girder.NewJob {
			t, ok := b.f.tasks.Lookup(task)
			if !ok {
				return girder.NewJob{}
			}
			j := t.GirderJob
			return girder.NewJob{Title: cmp.Or(j.Title, t.Title), Type: j.Type, Public: j.Public, Other: j.OtherFields}
		},
		Missed: func(task string, err error) {
			b.logger.Warn("Publishing a task without a job in Girder, which refuses to make one", "task", task, "error", err)
		},
	}
	return &worker.Results{
		Prepare: jobs.Prepare, Unsupported: func(error) { b.count(celery.ReasonSignature) },
		Send: func(ctx context.Context, m celery.Message) error {
			err := b.client.Publish(ctx, m)
			if errors.Is(err, amqp.ErrUnroutable) {
				return worker.ErrNoQueue
			}
			return err
		},
		Origin: fmt.Sprintf("gen%d@%s", os.Getpid(), b.node), Queue: "celery", Now: time.Now, Logger: b.logger,
	}
}

// start begins to work; taking ends with claims, and sending with work.
func (b *broker) start(claims, work context.Context, claiming, working *sync.WaitGroup) {
	b.panel = celery.Panel{Node: b.node, Clock: &b.clock, Worker: worker.NewControl(b.f.store, b.node, b.facts(), time.Now, b.logger)}
	b.events = &worker.Events{
		Source: &celery.EventSource{Node: b.node, PID: os.Getpid(), Clock: &b.clock, Ident: "girder-worker", Version: b.f.options.Version, System: "Linux"},
		Store:  b.f.store, Send: b.client.Event, Pulse: b.pulse, Logger: b.logger,
	}
	b.banner()
	claiming.Go(func() {
		b.client.Take(claims)
		b.work.Wait()
	})
	working.Go(func() { b.client.Send(work) })
	claiming.Go(func() { b.tell(claims) })
	claiming.Go(func() { b.settleDoubts(claims) })
	claiming.Go(func() { b.handBack(claims) })
}

// banner tells what a Celery worker tells at its start.
func (b *broker) banner() {
	var urls []string
	for _, one := range b.brokers {
		urls = append(urls, one.String())
	}
	b.logger.Info("Taking tasks from RabbitMQ", "node", b.node, "broker", strings.Join(urls, ";"), "concurrency", b.f.Capacity().Slots,
		"queues", strings.Join(b.client.Queues(), ","), "tasks", strings.Join(b.tasks(), ","))
}

func (b *broker) tasks() []string { return append(worker.ContainerTasks(), b.f.tasks.Names()...) }

func (b *broker) settings() worker.Settings {
	s := b.f.settings(b.f.config.Load())
	// The monitor chooses who a task runs as.
	return worker.Settings{
		Defaults: s.Defaults, Machine: s.Machine, Tasks: b.tasks(),
		GPUs: func(res transforms.Resources) (int, error) {
			_, n, err := b.f.gpus.find(res, b.f.rules.Load().policy.For(policy.Subject{Source: policy.AMQP}))
			return n, err
		},
	}
}

// document is a task's, by what its name means today. Those that run what their
// caller says get what the machine adds to every one; options that a reload brought
// were checked by it.
func (b *broker) document(t *celery.Task) (*transforms.JobFile, transforms.Secrets, error) {
	if found, ok := b.f.tasks.Lookup(t.Name); ok {
		f, secrets, err := worker.DocumentBy(t, found.Document)
		if err != nil {
			return f, secrets, err
		}
		rights := b.f.rules.Load().policy.For(policy.Subject{Source: policy.AMQP})
		switch {
		case f.Python != nil && !rights.Python():
			err = fmt.Errorf("%s is a function of a Python package, and none may be called from the message queue; the machine's admin can allow it with python = true in [amqp] of policy.toml", t.Name)
		case f.Command != nil && !rights.Commands():
			err = fmt.Errorf("%s runs a program of its worker's machine, and none may be run from the message queue; the machine's admin can allow it with commands = true in [amqp] of policy.toml", t.Name)
		}
		return f, secrets, err
	}
	options, err := transforms.ParseRunOptions(b.f.config.Load().RunOptions)
	if err != nil {
		return nil, transforms.Secrets{}, fmt.Errorf("docker.run_options of this worker: %w", err)
	}
	return worker.Document(t, options)
}

// free is how many more tasks could be started now. What waits is counted before
// what runs: a claim between the two is counted twice and not left out.
func (b *broker) free() int {
	if paused, _ := b.f.Paused(); paused || b.f.resting() || !b.admitted.Load() || !b.f.imports.known() {
		return 0
	}
	b.mu.Lock()
	rests := time.Now().Before(b.rest)
	b.mu.Unlock()
	if rests {
		return 0
	}
	if b.fullOfETA() {
		return 0
	}
	waiting := b.f.store.Counts()[queue.Queued]
	// A job in doubt takes no slot: it may be what RabbitMQ delivers again.
	return b.f.Capacity().Slots - max(0, waiting-b.inDoubt()) - b.f.store.InUse().Slots
}

// fullOfETA tells whether so many jobs wait for their time that no more tasks are taken:
// they stay in RabbitMQ, for other machines or until one of these is due. As in
// Celery, a task with an ETA is taken when it comes and takes no slot before its time,
// so without a bound a machine would take all of them.
func (b *broker) fullOfETA() bool {
	return b.f.store.Counts()[queue.Delayed] >= b.f.config.Load().Celery.ETALimit
}

// wake has the broker asked again for tasks, since there may be room.
func (b *broker) wake() {
	if b != nil {
		b.client.Wake()
	}
}

// restFor takes nothing for a while.
func (b *broker) restFor(d time.Duration) {
	b.mu.Lock()
	b.rest = time.Now().Add(d)
	b.mu.Unlock()
	time.AfterFunc(d, b.client.Wake)
}

// take sees one delivery through: it is a job on disk, and in doubt, before it is
// acknowledged, and may start when the acknowledgement has arrived.
func (b *broker) take(ctx context.Context, d *amqp.Delivery) {
	b.f.expect()
	taken, err := b.intake.Take(d.Delivery)
	if err != nil {
		var bad *celery.Error
		if errors.As(err, &bad) {
			b.count(bad.Reason)
		}
		b.logger.Warn("Dropping a message that is no task", "queue", d.Queue, "bytes", len(d.Body), "error", err)
		b.decided(d.Reject())
		return
	}
	if taken.Reason != "" {
		b.count(taken.Reason)
	}
	sub := &taken.Submission
	sub.Doubtful = true
	if ctx.Err() != nil {
		return // RabbitMQ has it back
	}
	// Nobody forgets a job whose message is just being acknowledged.
	b.settling.RLock()
	defer b.settling.RUnlock()
	// A commit that was begun is waited for: whether it is on disk must be known.
	accepted, err := b.f.store.Submit(context.WithoutCancel(ctx), *sub)
	switch {
	case errors.Is(err, queue.ErrConflict):
		b.logger.Warn("Dropping a task whose id another one has", "task", sub.Task, "id", sub.ID)
		b.decided(d.Reject())
		return
	case errors.Is(err, queue.ErrInvalid):
		b.logger.Warn("Dropping a task that cannot be kept", "task", sub.Task, "id", sub.ID, "error", err)
		b.decided(d.Reject())
		return
	case err != nil:
		// It stays in RabbitMQ, for another machine or for later.
		if ctx.Err() == nil {
			b.logger.Error("Cannot take a task; taking none for a while", "for", intakeRest, "error", err)
			b.restFor(intakeRest)
		}
		b.decided(d.Return())
		return
	}
	job := &accepted[0].Job
	if err := d.Accept(); err != nil {
		b.logger.Warn("Lost RabbitMQ while accepting a task: unless it runs already, it waits for being delivered again", "job", job.ID, "for", b.doubtTime(), "error", err)
		b.doubtAbout(job)
		return
	}
	b.mu.Lock()
	delete(b.doubts, job.ID)
	b.mu.Unlock()
	b.f.store.Confirm(job.ID)
	if accepted[0].Existing {
		b.logger.Info("Dropping a task that was delivered again", "job", job.ID, "state", job.State)
		return
	}
	b.logger.Info("Task accepted", "job", job.ID, "task", job.Task, "queue", d.Queue, "state", job.State)
	b.accepted(job.Task)
}

// decided logs a decision that did not arrive: the broker delivers it again.
func (b *broker) decided(err error) {
	if err != nil {
		b.logger.Info("A message will be delivered again", "reason", err)
	}
}

func (b *broker) count(r celery.Reason) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused[r]++
}

// command carries out remote control, and answers without waiting for the network.
func (b *broker) command(ctx context.Context, d celery.Delivery) {
	c, err := celery.DecodeCommand(d)
	if err != nil {
		b.logger.Warn("Ignoring a message on the control exchange", "error", err)
		return
	}
	b.clock.Adjust(c.Clock)
	if ours, err := c.For(b.node, time.Now()); err != nil || !ours {
		return
	}
	m, ok, err := c.Reply(b.node, b.panel.Answer(ctx, &c), &b.clock)
	if err != nil {
		b.logger.Warn("Cannot answer remote control", "error", err)
		return
	}
	if !ok {
		return
	}
	select {
	case b.replies <- struct{}{}:
	default:
		b.logger.Warn("Dropping an answer to remote control: too many are under way", "method", c.Method)
		return
	}
	b.work.Go(func() {
		defer func() { <-b.replies }()
		bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := b.client.Publish(bounded, m); err != nil && !errors.Is(err, amqp.ErrUnroutable) {
			b.logger.Info("Cannot answer remote control", "method", c.Method, "error", err)
		}
	})
}

// tell tells monitors of this worker, from its first connection on, and meets the
// others at each.
func (b *broker) tell(ctx context.Context) {
	var events sync.WaitGroup
	defer events.Wait()
	told := false
	b.mingle(ctx, func() {
		if told {
			b.events.Online()
			return
		}
		told = true
		events.Go(func() { b.events.Run(ctx) })
	})
}

func (b *broker) pulse() celery.Pulse {
	p := celery.Pulse{Active: b.f.attempts.count(), Load: loadAverage()}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.total {
		p.Processed += n
	}
	return p
}

// accepted counts a task.
func (b *broker) accepted(task string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total[task]++
}

// loadAverage is the machine's, as uptime shows it.
func loadAverage() (load [3]float64) {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		for i := range load {
			load[i] = float64(info.Loads[i]) / (1 << 16)
		}
	}
	return load
}
