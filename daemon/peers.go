package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"girderworker/daemon/amqp"
	"girderworker/daemon/celery"
	"girderworker/daemon/worker"
	"girderworker/queue"
)

const (
	// mingleTime is how long a starting worker waits for its peers' answers, as Celery's does.
	mingleTime  = time.Second
	mingleTries = 5
	// minglePatience is how long after it is connected it takes no tasks because it
	// cannot ask.
	minglePatience = 5 * time.Second
	// queryTime is how long peers may take to say which tasks they have.
	queryTime = 3 * time.Second
)

// meet waits until the broker is ready and asks the other workers what was revoked
// while this one was not there. Tasks are taken from then on.
func (b *broker) meet(ctx context.Context) {
	defer b.admit()
	var late <-chan time.Time
	for s := b.client.Status(); s.State != amqp.Ready; s = b.client.Status() {
		if late == nil && s.Broker != "" {
			late = time.After(minglePatience)
		}
		select {
		case <-ctx.Done():
			return
		case <-b.changed:
		case <-late:
			b.admit()
		}
	}
	ours, err := b.panel.Worker.Revocations(ctx)
	if err != nil {
		b.logger.Error("Cannot tell what is revoked", "error", err)
	}
	var answers []celery.Delivery
	for tries := 1; ; tries++ {
		answers, err = b.client.Ask(ctx, mingleTime, func(to celery.Address) (celery.Message, error) {
			return celery.Hello(b.node, ours, rand.Text(), to, time.Now().Add(mingleTime), &b.clock)
		})
		if !errors.Is(err, amqp.ErrNotConnected) || tries == mingleTries {
			break
		}
		select { // it is about to be, or was lost just now
		case <-ctx.Done():
			return
		case <-b.changed:
		case <-time.After(mingleTime):
		}
	}
	if err != nil && ctx.Err() == nil {
		b.logger.Info("Starting without what other workers know to be revoked", "error", err)
	}
	known := map[string]bool{}
	for _, r := range ours {
		known[r.ID] = true
	}
	for _, d := range answers {
		peers, err := celery.DecodePeers(d)
		if err != nil {
			b.logger.Warn("Ignoring what another worker answered", "error", err)
		}
		for _, p := range peers {
			b.clock.Adjust(p.Clock)
			var fresh []string
			for _, id := range p.Revoked {
				if !known[id] {
					known[id] = true
					fresh = append(fresh, id)
				}
			}
			b.logger.Info("Met another worker", "node", p.Node, "revoked", len(fresh))
			if _, err := b.panel.Worker.Revoke(ctx, fresh); err != nil && ctx.Err() == nil {
				b.logger.Error("Cannot revoke what another worker knows to be revoked", "node", p.Node, "error", err)
			}
		}
	}
}

// admit has tasks taken.
func (b *broker) admit() {
	if !b.admitted.Swap(true) {
		b.client.Wake()
	}
}

// peerWith is the node of another worker that says that it has begun a job's task, or
// will; "" where none does.
func (b *broker) peerWith(ctx context.Context, job *queue.Job) (peer string, err error) {
	task, ok := worker.TaskID(job)
	if !ok {
		return "", nil
	}
	answers, err := b.client.Ask(ctx, queryTime, func(to celery.Address) (celery.Message, error) {
		return celery.QueryTask([]string{task}, rand.Text(), to, time.Now().Add(queryTime), &b.clock)
	})
	for _, d := range answers {
		found, err := celery.DecodeQueried(d)
		if err != nil {
			b.logger.Warn("Ignoring what another worker answered", "error", err)
		}
		for node, ids := range found {
			if node != b.node && slices.Contains(ids, task) {
				peer = node
			}
		}
	}
	return peer, err
}
