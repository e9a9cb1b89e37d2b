package amqp

import (
	"errors"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"girderworker/daemon/celery"
)

// Delivery is a task message that waits for a decision: Accept, Reject or Return,
// once. Its connection is the one it came on and no later one.
type Delivery struct {
	celery.Delivery

	client *Client
	queue  *queue
	ch     *amqp091.Channel
	tag    uint64
	settle func() // it takes no room any more, beyond what is committed of it

	mu      sync.Mutex
	decided bool
}

// answerPatience is how long an acknowledgement's answer may take before its
// connection is given up.
const answerPatience = 10 * time.Second

// Accept acknowledges the task, which the caller has made durable. nil means that
// the broker has it from us for certain. After [ErrVoid] it delivers the task
// again; after [ErrUncertain] perhaps.
func (d *Delivery) Accept() error {
	err := d.decide(func(ch *amqp091.Channel) error { return ch.Ack(d.tag, false) })
	switch {
	case err == nil:
		d.client.counts.accepted.Add(1)
	case errors.Is(err, ErrUncertain):
		d.client.counts.uncertain.Add(1)
	case errors.Is(err, ErrVoid):
		d.client.counts.void.Add(1)
	}
	return err
}

// Reject drops the task: it goes to the queue's dead letter exchange where there
// is one, and to nobody otherwise.
func (d *Delivery) Reject() error {
	err := d.decide(func(ch *amqp091.Channel) error { return ch.Reject(d.tag, false) })
	if err == nil {
		d.client.counts.rejected.Add(1)
	}
	return err
}

// Return puts the task back into its queue, where it stood, for whoever has room.
func (d *Delivery) Return() error {
	err := d.decide(func(ch *amqp091.Channel) error { return ch.Nack(d.tag, false, true) })
	if err == nil {
		d.client.counts.returned.Add(1)
	}
	return err
}

// decide sends what was decided, and then waits for the answer to a call: the
// broker works through a channel's methods in order, so it has seen both.
func (d *Delivery) decide(send func(*amqp091.Channel) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.decided {
		return ErrDecided
	}
	d.decided = true
	// Before the acknowledgement, at which the next task may come.
	d.settle()

	n := d.queue.conn
	// A call of the library ends with its connection and not before.
	patience := time.AfterFunc(answerPatience, func() { n.kill(errors.New("no answer to an acknowledgement")) })
	defer patience.Stop()

	d.queue.rpc.Lock()
	defer d.queue.rpc.Unlock()
	if n.ctx.Err() != nil || d.ch.IsClosed() {
		return ErrVoid
	}
	if send(d.ch) != nil || barrier(d.ch) != nil {
		return ErrUncertain
	}
	return nil
}
