package daemon

import (
	"cmp"
	"context"
	"errors"
	"time"

	"girderworker/daemon/amqp"
	"girderworker/queue"
	"girderworker/transforms/girder"
)

const (
	// doubtPatience is how long it waits for a Girder that does not answer.
	doubtPatience = 10 * time.Minute
	// doubtCheck bounds one question to Girder.
	doubtCheck = 30 * time.Second
)

// doubtTime is how long a task, of which nobody knows whether RabbitMQ has our
// acknowledgement, waits for being delivered again. RabbitMQ notices a dead
// connection, and delivers again, within three heartbeats.
func (b *broker) doubtTime() time.Duration {
	return 4 * cmp.Or(b.brokers[0].Heartbeat, amqp.DefaultHeartbeat)
}

// doubtAbout notes that a job may be another machine's.
func (b *broker) doubtAbout(job *queue.Job) {
	b.mu.Lock()
	b.doubts[job.ID] = time.Now().Add(b.doubtTime())
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
		for id, at := range b.doubts {
			if !time.Now().Before(at) {
				due = append(due, id)
			} else if next.IsZero() || at.Before(next) {
				next = at
			}
		}
		b.mu.Unlock()
		for _, id := range due {
			again := b.settleDoubt(ctx, id)
			b.mu.Lock()
			if _, still := b.doubts[id]; still && again {
				b.doubts[id] = time.Now().Add(b.doubtTime())
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
	if _, draining := b.f.Paused(); draining {
		return true // nothing is delivered to us meanwhile
	}
	bounded, cancel := context.WithTimeout(ctx, doubtCheck)
	defer cancel()
	status, err := b.f.reports.Look(bounded, &job)
	switch {
	case ctx.Err() != nil:
		return true
	case err != nil && time.Since(job.Created) < doubtPatience:
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
	case err != nil && time.Since(job.Created) < doubtPatience:
		b.logger.Info("A task may be another machine's, and the others cannot be asked; asking again", "job", id, "after", b.doubtTime(), "error", err)
		return true
	case peer != "":
		return b.forget(ctx, &job, peer+" has it")
	}
	b.logger.Info("A task was not delivered again, so it is this machine's", "job", id)
	b.f.store.Confirm(id)
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
