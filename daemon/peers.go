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
	// mingleTime is how long a worker waits for its peers' answers, as Celery's does.
	mingleTime  = time.Second
	mingleTries = 5
	// minglePatience is how long after it is connected it takes no tasks because it
	// is not all ready, and how long one try to ask may take.
	minglePatience = 5 * time.Second
	// mingleAgain is how long after a try that came to nothing the next one follows,
	// unless the connection changes first.
	mingleAgain = time.Minute
	// queryTime is how long peers may take to say which tasks they have.
	queryTime = 3 * time.Second
)

// mingle asks the other workers, after each connect, what was revoked while this one
// could not be told, as Celery does. Tasks are taken from then on, and until the
// connection is lost. met is called after each time.
func (b *broker) mingle(ctx context.Context, met func()) {
	for last := 0; ctx.Err() == nil; {
		connects := b.connected(ctx, last)
		err := b.meet(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			last = connects
		} else if !b.admitted.Load() {
			b.logger.Info("Taking tasks without what other workers know to be revoked; asking again", "error", err)
		}
		if b.admit(connects) {
			met()
		}
		if err != nil {
			select {
			case <-ctx.Done():
			case <-b.changed:
			case <-time.After(mingleAgain):
			}
		}
	}
}

// connected returns when there are more connections than last, and all is ready; or,
// where something of it stays wrong, some seconds after the one for tasks.
func (b *broker) connected(ctx context.Context, last int) (connects int) {
	var late <-chan time.Time
	for {
		s := b.client.Status()
		if s.State == amqp.Ready && s.Connects > last {
			return s.Connects
		}
		if late == nil && s.Broker != "" && s.Connects > last {
			late = time.After(minglePatience)
		}
		select {
		case <-ctx.Done():
			return last
		case <-b.changed:
		case <-late:
			if s := b.client.Status(); s.Broker != "" {
				return s.Connects
			}
			late = nil
		}
	}
}

// meet asks and learns. However RabbitMQ behaves, it is over soon.
func (b *broker) meet(ctx context.Context) error {
	ours, err := b.panel.Worker.Revocations(ctx)
	if err != nil {
		return err
	}
	var answers []celery.Delivery
	for tries := 1; ; tries++ {
		bounded, cancel := context.WithTimeout(ctx, minglePatience)
		answers, err = b.client.Ask(bounded, mingleTime, func(to celery.Address) (celery.Message, error) {
			return celery.Hello(b.node, ours, rand.Text(), to, time.Now().Add(mingleTime), &b.clock)
		})
		cancel()
		if !errors.Is(err, amqp.ErrNotConnected) || tries == mingleTries {
			break
		}
		select { // it is about to be, or was lost just now
		case <-ctx.Done():
			return ctx.Err()
		case <-b.changed:
		case <-time.After(mingleTime):
		}
	}
	if err != nil {
		return err
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
	return nil
}

// admit has tasks taken, unless the connections are others by now than those over
// which the peers were met.
func (b *broker) admit(connects int) bool {
	was := b.admitted.Swap(true)
	if s := b.client.Status(); s.Broker == "" || s.Connects != connects {
		b.admitted.Store(false)
		return false
	}
	if !was {
		b.client.Wake()
	}
	return true
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
