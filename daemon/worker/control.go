package worker

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"girderworker/daemon/celery"
	"girderworker/queue"
)

// Facts are what remote control is told that the queue does not know, and what it
// may do. All are functions of the daemon; each may be called at any time.
type Facts struct {
	Tasks         func() []string
	Stats         func(context.Context) (celery.Stats, error)
	Queues        func() []celery.Queue
	Configuration func() map[string]any
	Report        func() string
	// Process is the process that runs an attempt; 0: not known.
	Process func(job string, attempt int) int
	// Cancel ends a job that the queue has, live attempt included.
	Cancel func(ctx context.Context, job, reason string) error
	// Events switches task events and returns what was before.
	Events    func(on bool) (before bool)
	Heartbeat func()
	// Consume, Leave and Shutdown are refused with the error that they return.
	Consume, Leave func(queue string) error
	Shutdown       func() error
}

// Control is the worker that remote control sees: a [celery.Worker].
type Control struct {
	store  *queue.Store
	node   string
	facts  Facts
	now    func() time.Time
	logger *slog.Logger

	mu      sync.Mutex
	revoked []celery.Revocation // of jobs that were there, the latest last
}

var _ celery.Worker = (*Control)(nil)

// NewControl returns the worker of a node over a queue.
func NewControl(store *queue.Store, node string, facts Facts, now func() time.Time, logger *slog.Logger) *Control {
	return &Control{store: store, node: node, facts: facts, now: now, logger: logger}
}

// maxInfos bounds how many jobs one answer is made of.
const maxInfos = 1000

// Active are the tasks with an attempt.
func (c *Control) Active(context.Context) ([]celery.TaskInfo, error) {
	return c.infos(queue.Preparing, queue.Running, queue.Finishing)
}

// Reserved are the tasks that wait to be started.
func (c *Control) Reserved(context.Context) ([]celery.TaskInfo, error) { return c.infos(queue.Queued) }

// Scheduled are the tasks that wait for their time.
func (c *Control) Scheduled(context.Context) ([]celery.Scheduled, error) {
	jobs, err := c.store.List(queue.Filter{States: []queue.State{queue.Delayed}, Limit: maxInfos})
	if err != nil {
		return nil, err
	}
	var all []celery.Scheduled
	for i := range jobs {
		info, err := c.info(&jobs[i])
		if errors.Is(err, errNoTask) {
			continue
		} else if err != nil {
			return nil, err
		}
		const timerPriority = 6 // what Celery's own timer gives every task
		all = append(all, celery.Scheduled{ETA: jobs[i].NotBefore, Priority: timerPriority, Task: info})
	}
	return all, nil
}

func (c *Control) infos(states ...queue.State) ([]celery.TaskInfo, error) {
	jobs, err := c.store.List(queue.Filter{States: states, Limit: maxInfos})
	if err != nil {
		return nil, err
	}
	var infos []celery.TaskInfo
	for i := range jobs {
		info, err := c.info(&jobs[i])
		if errors.Is(err, errNoTask) {
			continue
		} else if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// info is a job of a listing as a task; errNoTask for one that is none.
func (c *Control) info(listed *queue.Job) (celery.TaskInfo, error) {
	if listed.Source != queue.SourceAMQP {
		return celery.TaskInfo{}, errNoTask
	}
	j := *listed
	if len(j.Origin) == 0 {
		var err error
		if j, err = c.store.Job(listed.ID); errors.Is(err, queue.ErrNotFound) {
			return celery.TaskInfo{}, errNoTask // it has just been removed
		} else if err != nil {
			return celery.TaskInfo{}, err
		}
	}
	r, err := requestOf(&j)
	if err != nil {
		return celery.TaskInfo{}, err
	}
	info := celery.TaskInfo{Request: r, Node: c.node, Acknowledged: true}
	if j.State.Active() {
		info.Started = j.Claimed
		if !j.Started.IsZero() {
			info.Started = j.Started
		}
		if c.facts.Process != nil {
			info.PID = c.facts.Process(j.ID, j.Attempt)
		}
	}
	return info, nil
}

// Find is how the tasks with these ids stand.
func (c *Control) Find(_ context.Context, ids []string) ([]celery.Found, error) {
	var found []celery.Found
	for _, id := range ids[:min(len(ids), maxInfos)] {
		j, err := c.store.Job(JobID(id))
		if errors.Is(err, queue.ErrNotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		if j.Doubtful {
			continue // a peer who asks would take it to be ours, and each of two in doubt forget it
		}
		info, err := c.info(&j)
		if errors.Is(err, errNoTask) {
			continue
		} else if err != nil {
			return nil, err
		}
		state := "reserved"
		switch {
		case j.State.Active():
			state = "active"
		case j.State.Final():
			state = "ready"
		}
		found = append(found, celery.Found{State: state, Task: info})
	}
	return found, nil
}

// maxRevocations is how many Celery itself remembers.
const maxRevocations = 50_000

// Revocations are what the queue remembers, and what was revoked of late.
func (c *Control) Revocations(context.Context) ([]celery.Revocation, error) {
	kept, err := c.store.Revocations(maxRevocations)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	all := slices.Clone(c.revoked)
	c.mu.Unlock()
	for _, r := range kept {
		all = append(all, celery.Revocation{ID: r.ID, At: r.Until.Add(-RevokedFor)})
	}
	return all, nil
}

// revokers is how many revocations wait for the disk at a time: they share commits.
const revokers = 64

// Revoke ends the tasks that are here and remembers the others for a week. Jobs from
// the socket are not a message's to end.
func (c *Control) Revoke(ctx context.Context, ids []string) (known []string, err error) {
	var mu sync.Mutex
	var work sync.WaitGroup
	slots := make(chan struct{}, revokers)
	for _, id := range ids {
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			was, one := c.revoke(ctx, id)
			mu.Lock()
			defer mu.Unlock()
			if was {
				known = append(known, id)
			}
			if err == nil {
				err = one
			}
		})
	}
	work.Wait()
	slices.Sort(known)
	if err != nil {
		c.logger.Error("Cannot revoke all tasks", "error", err)
	}
	return known, err
}

// keepRevoked is how many revocations of jobs that were there are listed.
const keepRevoked = 1000

func (c *Control) revoke(ctx context.Context, id string) (known bool, err error) {
	j, err := c.store.Job(JobID(id))
	switch {
	case errors.Is(err, queue.ErrNotFound):
		c.logger.Info("Remembering that a task is revoked", "task", id)
		if err := c.store.Revoke(ctx, JobID(id), c.now().Add(RevokedFor)); err != nil {
			return false, err
		}
		// It may have come, and even been started, in between.
		if j, err = c.store.Job(JobID(id)); errors.Is(err, queue.ErrNotFound) {
			return false, nil
		} else if err != nil || !j.State.Active() {
			return err == nil, err
		}
		return true, c.facts.Cancel(ctx, j.ID, "revoked")
	case err != nil:
		return false, err
	case j.Source != queue.SourceAMQP || j.State.Final():
		return false, nil
	}
	c.logger.Info("Revoking a task", "job", j.ID)
	c.mu.Lock()
	c.revoked = append(c.revoked, celery.Revocation{ID: id, At: c.now()})
	c.revoked = c.revoked[max(0, len(c.revoked)-keepRevoked):]
	c.mu.Unlock()
	return true, c.facts.Cancel(ctx, j.ID, "revoked")
}

// The rest is the daemon's.

func (c *Control) Registered() []string { return c.facts.Tasks() }

func (c *Control) Stats(ctx context.Context) (celery.Stats, error) { return c.facts.Stats(ctx) }

func (c *Control) Queues() []celery.Queue { return c.facts.Queues() }

func (c *Control) Configuration() map[string]any { return c.facts.Configuration() }

func (c *Control) Report() string { return c.facts.Report() }

func (c *Control) SendEvents(on bool) (before bool) { return c.facts.Events(on) }

func (c *Control) Heartbeat() { c.facts.Heartbeat() }

func (c *Control) Consume(queue string) error { return c.facts.Consume(queue) }

func (c *Control) Cancel(queue string) error { return c.facts.Leave(queue) }

func (c *Control) Shutdown() error { return c.facts.Shutdown() }
