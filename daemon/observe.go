package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/amqp"
	"girderworker/daemon/apitype"
	"girderworker/daemon/attempt"
	"girderworker/daemon/celery"
	"girderworker/daemon/metrics"
	"girderworker/queue"
	"girderworker/transforms"
)

var _ metrics.Source = (*front)(nil)

// observer counts what the queue has committed.
func observer(e *metrics.Events) queue.Observer {
	return queue.Observer{Committed: e.Committed, Moved: func(m queue.Move) { count(e, &m) }}
}

func count(e *metrics.Events, m *queue.Move) {
	j := &m.Job
	source := string(j.Source)
	switch m.From {
	case "":
		e.Submitted(source)
	case queue.Queued:
		if m.To == queue.Preparing {
			e.Waited(source, m.At.Sub(j.Queued))
		}
	case queue.Preparing, queue.Running:
		if m.To == queue.Running {
			e.Staged("preparing", j.Started.Sub(j.Claimed))
			break
		}
		end := m.At
		if m.To == queue.Finishing {
			end = j.Exited
		}
		if m.From == queue.Running {
			e.Staged("running", end.Sub(j.Started))
		}
		if m.To != queue.Finishing {
			e.Ended(string(attempt.OutcomeInterrupted))
		} else if j.Result != nil {
			e.Ended(outcomeOf(j.Result))
			e.Used(usedBy(j.Result))
		}
	case queue.Finishing:
		e.Staged("finishing", m.At.Sub(j.Exited))
	}
	if m.To.Final() {
		e.Finished(resultLabel(j), source)
	}
}

// outcomeOf is one of the metrics' closed set, whatever a newer runner wrote.
func outcomeOf(r *queue.Result) string {
	for _, known := range metrics.Outcomes {
		if r.Outcome == known {
			return known
		}
	}
	return string(attempt.OutcomeError)
}

func resultLabel(j *queue.Job) string {
	switch {
	case j.State == queue.Succeeded:
		return "succeeded"
	case j.State == queue.Canceled:
		return "canceled"
	case j.Attempt == 0:
		return "not_started"
	case j.Result == nil:
		return "interrupted"
	}
	switch o := outcomeOf(j.Result); o {
	case "exited":
		if j.Result.Code == 0 {
			return "error" // its container did well, and an upload failed
		}
		return "failed"
	default:
		return o
	}
}

func usedBy(r *queue.Result) (u metrics.Used) {
	var exit attempt.Exit
	if json.Unmarshal(r.Detail, &exit) != nil {
		return u // an attempt that never had a runner
	}
	u.Log, u.Dropped = exit.LogBytes, exit.LogDropped
	if c := exit.Container; c != nil {
		u.CPU, u.PeakMemory, u.OOMKills = c.Usage.CPU, c.Usage.PeakMemory, c.Usage.OOMKills
	}
	for _, s := range exit.Streams {
		if s.Kind == transforms.StreamInput || s.Kind == transforms.StreamStdin {
			u.In += s.Bytes
		} else {
			u.Out += s.Bytes
		}
	}
	return u
}

// Snapshot implements [metrics.Source].
func (f *front) Snapshot(ctx context.Context) *metrics.Snapshot {
	st, err := f.Status(ctx)
	s := &metrics.Snapshot{Status: st}
	note := func(what string, err error) {
		if err != nil {
			s.Missing++
			f.logger.Debug("Cannot tell a part of the metrics", "part", what, "error", err)
		}
	}
	note("status", err)
	s.StoreActive, s.StoreHistory, err = f.store.Sizes()
	note("store", err)
	counts, err := f.monitor.Counts(ctx)
	note("monitor", err)
	s.Reaped, s.AuditLost = counts.Reaped, counts.AuditLost
	told := f.reports.Stats()
	s.Girder = map[string]uint64{"ok": told.Calls.OK, "refused": told.Calls.Refused, "failed": told.Calls.Failed, "unreachable": told.Calls.Unreachable}
	s.LastAnswer = told.LastAnswer
	if b := f.broker; b != nil {
		s.AMQP = b.numbers()
	}
	return s
}

// numbers are the worker's at RabbitMQ.
func (b *broker) numbers() *metrics.AMQP {
	st := b.client.Status()
	a := &metrics.AMQP{
		Up: st.Broker != "" && st.State != amqp.Connecting, Blocked: st.Blocked != "", Queues: len(st.Queues), Connections: int64(st.Connects),
		Deliveries: map[string]int64{
			"accepted": st.Accepted, "uncertain": st.Uncertain, "void": st.Void, "returned": st.Returned, "rejected": st.Rejected,
		},
		Messages: map[string]int64{"published": st.Published, "unroutable": st.Unroutable, "event_dropped": st.EventsDropped},
		Rejected: map[string]int64{},
	}
	for _, q := range st.Queues {
		if q.Waiting {
			a.Consumers++
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range celery.Reasons() {
		a.Rejected[string(r)] = b.refused[r]
	}
	return a
}

// Alive implements [metrics.Source]: the dispatcher's loop turns, and the monitor
// answers.
func (f *front) Alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := f.turns(ctx); err != nil {
		return err
	}
	return f.monitor.Ping(ctx)
}

// turns returns when the dispatcher's loop has gone round.
func (f *front) turns(ctx context.Context) error {
	turned := make(chan struct{})
	select {
	case f.proof <- turned:
		<-turned
		return nil
	case <-ctx.Done():
		return errors.New("the dispatcher does not move")
	}
}

// readyFor is how long an answer about the database is good: anybody may ask, and
// each question is a write to the disk.
const readyFor = 2 * time.Second

// probed is the last answer of the queue's own check.
type probed struct {
	mu  sync.Mutex
	at  time.Time
	err error
}

func (p *probed) ask(ctx context.Context, store *queue.Store) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.at) > readyFor {
		p.err = store.Probe(ctx)
		p.at = time.Now()
	}
	return p.err
}

// Ready implements [metrics.Source].
func (f *front) Ready(ctx context.Context) []metrics.Condition {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	text := func(err error) string {
		if err != nil {
			return err.Error()
		}
		return ""
	}
	conditions := []metrics.Condition{
		{Name: "database", Problem: text(f.probe.ask(ctx, f.store))},
		{Name: "dispatcher", Problem: text(f.turns(ctx))},
		{Name: "monitor", Problem: text(f.monitor.Ping(ctx))},
	}
	disk := metrics.Condition{Name: "disk"}
	if f.resting() {
		disk.Problem = "the file system of the state directory is full: no job starts until there is room"
	}
	claims := metrics.Condition{Name: "claims"}
	if paused, draining := f.Paused(); draining {
		claims.Problem = "draining: no job starts"
	} else if paused {
		claims.Problem = "paused: no job starts"
	}
	conditions = append(conditions, disk, claims)
	// None of this keeps a job from being taken or from running.
	for _, o := range f.outside() {
		conditions = append(conditions, metrics.Condition{Name: o.name, Problem: o.problem, Degraded: true})
	}
	return conditions
}

// outsider is somebody else that the daemon works with.
type outsider struct{ name, problem string }

// outside are the broker and the Girders, as they are now.
func (f *front) outside() (all []outsider) {
	if f.broker != nil {
		o := outsider{name: "broker"}
		switch st := f.broker.client.Status(); {
		case len(st.Problems) > 0:
			o.problem = st.Problems[0]
		case st.State != amqp.Ready:
			o.problem = "not yet connected to RabbitMQ"
		}
		all = append(all, o)
	}
	for _, s := range f.reports.Stats().Servers {
		o := outsider{name: "girder"}
		if s.Problem != "" {
			o.problem = s.Address + ": " + s.Problem
		}
		all = append(all, o)
	}
	return all
}

// lowDisk is how much of the state's file system should be free: below a twentieth
// and below 2 GiB an admin is told.
const lowDisk = 2 << 30

// diskStatus looks at the state's file system.
func diskStatus(dir string) (apitype.Disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return apitype.Disk{}, fmt.Errorf("cannot look at the file system of %s: %w", dir, err)
	}
	block := int64(st.Bsize)
	return apitype.Disk{Size: int64(st.Blocks) * block, Free: int64(st.Bavail) * block, FreeInodes: int64(st.Ffree)}, nil
}

// surroundings completes a status with what is around the daemon.
func (f *front) surroundings(st *apitype.Status) {
	c := f.config.Load()
	st.Metrics = c.MetricsAddress
	var err error
	if st.OldestQueued, err = f.store.Oldest(); err != nil {
		f.logger.Debug("Cannot find the oldest job", "error", err)
	}
	if images, err := f.images.store.List(); err == nil {
		st.Images.Count = len(images)
		for i := range images {
			st.Images.Bytes += images[i].Size
		}
	}
	for _, s := range f.reports.Stats().Servers {
		st.Servers = append(st.Servers, apitype.Girder{Address: s.Address, Problem: s.Problem, Next: s.Next})
	}
	if b := f.broker; b != nil {
		now := b.client.Status()
		st.Broker = &apitype.Broker{
			State: string(now.State), Address: now.Broker, Since: now.Since, Problems: now.Problems,
			Accepted: now.Accepted, Rejected: now.Rejected, Queues: []apitype.BrokerQueue{},
		}
		for _, q := range now.Queues {
			st.Broker.Queues = append(st.Broker.Queues, apitype.BrokerQueue{Name: q.Name, Waiting: q.Waiting, Problem: q.Problem})
		}
		st.Degraded = append(st.Degraded, now.Problems...)
		if now.State == amqp.Connecting {
			st.Degraded = append(st.Degraded, "not yet connected to RabbitMQ: no tasks are taken")
		}
		if b.fullOfETA() {
			st.Degraded = append(st.Degraded, "no tasks are taken: as many jobs wait for their time as celery.worker_eta_task_limit allows")
		}
	}
	for _, s := range st.Servers {
		if s.Problem != "" {
			st.Degraded = append(st.Degraded, fmt.Sprintf("Girder at %s cannot be told: %s", s.Address, s.Problem))
		}
	}
	if r := st.Reports; r.Pending() > 0 && time.Since(r.Oldest) > lateReport {
		st.Degraded = append(st.Degraded, fmt.Sprintf("%d reports to Girder or Celery wait, the first since %s", r.Pending(), r.Oldest.Local().Format(time.DateTime)))
	}
	st.Disk, err = diskStatus(c.StateDir)
	d := st.Disk
	switch {
	case err != nil:
		st.Degraded = append(st.Degraded, err.Error())
	case f.resting():
		st.Degraded = append(st.Degraded, "the file system of the state directory is full: no job starts until there is room")
	case d.Free < lowDisk && d.Free < d.Size/20:
		st.Degraded = append(st.Degraded, fmt.Sprintf("the file system of %s has %d MiB left: remove jobs or images, or make room", c.StateDir, d.Free>>20))
	}
	for _, g := range st.GPUs {
		if g.Missing {
			st.Degraded = append(st.Degraded, g.Name+" is not there any more, and a job has it")
		}
	}
}
