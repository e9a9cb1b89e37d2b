package daemon

import (
	"cmp"
	"context"
	"errors"
	"time"

	"girderworker/daemon/amqp"
	"girderworker/daemon/celery"
	"girderworker/daemon/worker"
	"girderworker/queue"
	"girderworker/transforms/girder"
)

const (
	// doubtPatience is how long it waits for a Girder that does not answer.
	doubtPatience = 10 * time.Minute
	// handedPatience is how long a task that was being handed back waits for its
	// queue to be empty: what is in there may be it.
	handedPatience = time.Hour
	// doubtCheck bounds one question to Girder.
	doubtCheck = 30 * time.Second
)

// doubt is what is known of one.
type doubt struct {
	due   time.Time // it is looked into
	since time.Time
	empty bool // its queue was, when that was looked at last
}

// doubtTime is how long a task, of which nobody knows whether RabbitMQ has our
// acknowledgement, waits for being delivered again. RabbitMQ notices a dead
// connection, and delivers again, within three heartbeats.
func (b *broker) doubtTime() time.Duration {
	return 4 * cmp.Or(b.brokers[0].Heartbeat, amqp.DefaultHeartbeat)
}

// doubtAbout notes that a job may be another machine's.
func (b *broker) doubtAbout(job *queue.Job) {
	b.mu.Lock()
	b.doubts[job.ID] = doubt{due: time.Now().Add(b.doubtTime()), since: time.Now()}
	b.mu.Unlock()
	select {
	case b.doubted <- struct{}{}:
	default:
	}
	b.wake()
}

// inDoubt is how many jobs may be another machine's.
func (b *broker) inDoubt() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.doubts)
}

// recallDoubts takes up the doubts of before the start.
func (f *front) recallDoubts() error {
	jobs, err := f.store.Doubtful()
	for i := range jobs {
		if f.broker == nil { // there is nobody any more to deliver it again
			f.store.Confirm(jobs[i].ID)
			continue
		}
		f.logger.Info("A task may be another machine's: it waits for being delivered again", "job", jobs[i].ID, "for", f.broker.doubtTime())
		f.broker.doubtAbout(&jobs[i])
	}
	return err
}

// settleDoubts looks into each doubt when its time has come, until ctx ends. Until
// then a second delivery may have settled it.
func (b *broker) settleDoubts(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.doubted:
		case <-timer.C:
		}
		var due []string
		var next time.Time
		b.mu.Lock()
		for id, d := range b.doubts {
			if !time.Now().Before(d.due) {
				due = append(due, id)
			} else if next.IsZero() || d.due.Before(next) {
				next = d.due
			}
		}
		b.mu.Unlock()
		for _, id := range due {
			again := b.settleDoubt(ctx, id)
			b.mu.Lock()
			if d, still := b.doubts[id]; still && again {
				d.due = time.Now().Add(b.doubtTime())
				b.doubts[id] = d
				next = time.Now() // it is looked at again, with those in between
			} else if !again {
				delete(b.doubts, id)
			}
			b.mu.Unlock()
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(max(0, time.Until(next)))
		}
	}
}

// settleDoubt decides by what Girder and the other workers say whether a job is this
// machine's. It tells whether to ask again later.
func (b *broker) settleDoubt(ctx context.Context, id string) (again bool) {
	job, err := b.f.store.Job(id)
	if err != nil || !job.Doubtful {
		return false
	}
	if _, draining := b.f.Paused(); draining && !job.HandedBack {
		return true // nothing is delivered to us meanwhile
	}
	b.mu.Lock()
	since := b.doubts[id].since
	b.mu.Unlock()
	bounded, cancel := context.WithTimeout(ctx, doubtCheck)
	defer cancel()
	status, err := b.f.reports.Look(bounded, &job)
	switch {
	case ctx.Err() != nil:
		return true
	case err != nil && time.Since(since) < doubtPatience:
		b.logger.Info("A task may be another machine's, and Girder does not answer; asking again", "job", id, "after", b.doubtTime(), "error", err)
		return true
	case elsewhere(status):
		return b.forget(ctx, &job, "another machine has it")
	}
	// Who has taken it may not have started it, and without a job in Girder only the
	// others know.
	peer, err := b.peerWith(ctx, &job)
	switch {
	case ctx.Err() != nil:
		return true
	case err != nil && time.Since(since) < doubtPatience:
		b.logger.Info("A task may be another machine's, and the others cannot be asked; asking again", "job", id, "after", b.doubtTime(), "error", err)
		return true
	case peer != "":
		return b.forget(ctx, &job, peer+" has it")
	case job.HandedBack && b.mayWait(bounded, &job, time.Since(since) < handedPatience):
		return true
	}
	if _, draining := b.f.Paused(); draining {
		// Only those that were handed back come here.
		b.logger.Info("A task that was handed back has not arrived; handing it back again", "job", id)
		done, err := b.handBackOne(ctx, &job)
		if err != nil {
			b.logger.Info("Cannot hand a task back", "job", id, "error", err)
			b.drain() // nothing was sent, so it is as if it never had been
		}
		return err == nil && !done
	}
	b.logger.Info("A task was not delivered again, so it is this machine's", "job", id)
	b.f.store.Confirm(id)
	return false
}

// mayWait tells whether a task that was handed back, and that no other worker has, may
// be waiting in its queue. It may not if that is empty, and was when it was last
// looked at: whoever took it in between would have been asked since.
func (b *broker) mayWait(ctx context.Context, job *queue.Job, patient bool) bool {
	secrets, err := b.f.store.Secrets(ctx, job.ID)
	var original celery.Message
	if err == nil {
		original, err = worker.OriginalOf(secrets)
	}
	messages := 0
	if err == nil {
		messages, err = b.client.Waiting(ctx, original.RoutingKey)
	}
	empty := err == nil && messages == 0
	b.mu.Lock()
	d, known := b.doubts[job.ID]
	was := d.empty
	if d.empty = empty; known {
		b.doubts[job.ID] = d
	}
	b.mu.Unlock()
	switch {
	case empty:
		return !was
	case patient:
		b.logger.Info("A task that was being handed back may be in its queue; asking again", "job", job.ID, "waiting", messages, "after", b.doubtTime(), "error", err)
		return true
	}
	b.logger.Warn("A task that was being handed back was not seen; should it be in its queue still, it runs twice", "job", job.ID, "for", handedPatience)
	return false
}

// elsewhere tells whether a task that was not started here has been by another:
// what Girder knows is neither from before the start nor that it was canceled, which
// the start here will find.
func elsewhere(s girder.JobStatus) bool {
	switch s {
	case 0, girder.JobQueued, girder.JobCanceling, girder.JobCanceled:
		return false
	}
	return true
}

// forget drops a job that is not this machine's any more.
func (b *broker) forget(ctx context.Context, job *queue.Job, because string) (again bool) {
	b.settling.Lock()
	defer b.settling.Unlock()
	switch err := b.f.store.Forget(ctx, job.ID); {
	case err == nil:
		b.logger.Info("Forgetting a task", "job", job.ID, "because", because)
	case errors.Is(err, queue.ErrWaitedFor):
		b.logger.Warn("Running a task that another machine has, because a job here waits for it", "job", job.ID)
		b.f.store.Confirm(job.ID)
	case errors.Is(err, queue.ErrStarted), errors.Is(err, queue.ErrNotFound):
	default:
		b.logger.Error("Cannot forget a task", "job", job.ID, "because", because, "error", err)
		return true
	}
	return false
}
