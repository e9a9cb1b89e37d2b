package daemon

import (
	"context"
	"errors"
	"time"

	"girderworker/daemon/amqp"
	"girderworker/daemon/worker"
	"girderworker/queue"
)

// handBackPause is between two tries to hand back what could not be.
const handBackPause = 5 * time.Second

// handBack gives tasks that have not been started back to their queues while the
// daemon is drained, for other machines, until ctx ends.
func (b *broker) handBack(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.drained:
		case <-timer.C:
		}
		if _, draining := b.f.Paused(); !draining {
			continue
		}
		if left := b.handBackAll(ctx); left > 0 {
			b.logger.Info("Some tasks could not be handed back yet; trying again", "tasks", left, "after", handBackPause)
			timer.Reset(handBackPause)
		}
	}
}

// drain has handBack look.
func (b *broker) drain() {
	if b == nil {
		return
	}
	select {
	case b.drained <- struct{}{}:
	default:
	}
}

// handBackAll hands back what can be, and tells how many may be another time.
func (b *broker) handBackAll(ctx context.Context) (left int) {
	given := 0
	filter := queue.Filter{States: []queue.State{queue.Queued, queue.Delayed}}
	for {
		jobs, err := b.f.store.List(filter)
		if err != nil {
			b.logger.Error("Cannot list what is to be handed back", "error", err)
			return 1
		}
		for i := range jobs {
			job := &jobs[i]
			filter.Before = job.Seq
			// A task in doubt may be in its queue already; one that has been started was lost here and goes on here.
			if job.Source != queue.SourceAMQP || job.Doubtful || job.Attempt > 0 {
				continue
			}
			if _, draining := b.f.Paused(); !draining || ctx.Err() != nil {
				return 0
			}
			switch done, err := b.handBackOne(ctx, job); {
			case errors.Is(err, amqp.ErrNotConnected):
				return left + 1 // so are all the others
			case err != nil:
				left++
				b.logger.Info("Cannot hand a task back", "job", job.ID, "error", err)
			case done:
				given++
			}
		}
		if len(jobs) == 0 {
			break
		}
	}
	if given > 0 {
		b.logger.Info("Tasks were handed back to their queues, for other machines", "tasks", given)
	}
	return left
}

// handBackOne publishes a task as it came, and forgets it when RabbitMQ has it for
// certain. It is in doubt in between, and marked as handed back, on disk: after a
// crash, or without an answer, it is not started here before it is settled that it is
// neither in its queue nor with another worker; see settleDoubt. An error says that it
// may go another time.
func (b *broker) handBackOne(ctx context.Context, job *queue.Job) (done bool, err error) {
	secrets, err := b.f.store.Secrets(ctx, job.ID)
	if err != nil {
		return false, nil // it has just ended
	}
	message, err := worker.OriginalOf(secrets)
	if errors.Is(err, worker.ErrNoOriginal) {
		b.logger.Info("A task stays here, which was not kept as it came", "job", job.ID)
		return false, nil
	} else if err != nil {
		return false, err
	}
	switch err := b.f.store.Doubt(ctx, job.ID); {
	case errors.Is(err, queue.ErrStarted), errors.Is(err, queue.ErrNotFound):
		return false, nil
	case errors.Is(err, queue.ErrWaitedFor):
		b.logger.Info("A task stays here, because a job of this machine waits for it", "job", job.ID)
		return false, nil
	case err != nil:
		return false, err
	}
	err = b.client.Publish(ctx, message)
	if errors.Is(err, amqp.ErrUnconfirmed) {
		// Whether it is there decides who has it in the end.
		b.doubtAbout(job)
		return false, nil
	}
	if err != nil {
		b.f.store.Confirm(job.ID)
		return false, err
	}
	// RabbitMQ has it: a daemon that is being stopped must not keep it as well.
	b.forget(context.WithoutCancel(ctx), job, "it was handed back")
	return true, nil
}
