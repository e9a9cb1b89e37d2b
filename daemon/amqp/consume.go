package amqp

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// prefetch of each consumer.
const prefetch = 1

// queue is one task queue on one connection. Its fields but ch and rpc belong to
// the taker's goroutine.
type queue struct {
	name string
	conn *connection

	// rpc is held during each call: the library matches answers by their order.
	rpc sync.Mutex
	ch  *amqp091.Channel

	consumer string    // tag; empty: none
	flowing  bool      // a consumer was there and its last delivery may still come
	retry    time.Time // broken until then; zero: not
	failures int       // in a row

	handled int // deliveries with their handlers, under the taker's mu
}

// barrier returns when the broker has worked through everything sent on the
// channel so far. It sets what is set already. Callers hold the queue's rpc.
func barrier(ch *amqp091.Channel) error { return ch.Qos(prefetch, 0, false) }

// arrival is a delivery of a consumer, or the end of its deliveries.
type arrival struct {
	queue *queue
	msg   *amqp091.Delivery // nil: no more come
}

// taker takes tasks from the queues over one connection, as its owner's room
// allows. One goroutine runs it.
type taker struct {
	client   *Client
	conn     *connection
	ctx      context.Context // of the handlers
	queues   []*queue
	unwanted []*queue // no longer consumed, with deliveries not yet decided
	next     int      // queue that is asked first, in turn
	arrived  chan arrival
	settled  chan struct{} // capacity 1: a handler has decided
	handlers sync.WaitGroup
	forwards sync.WaitGroup

	tags int

	mu        sync.Mutex
	undecided int
}

// take takes tasks and listens for remote control until ctx or the connection ends.
func (c *Client) take(ctx context.Context, n *connection) {
	handling, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(n.ctx, stop)()
	t := &taker{
		client: c, conn: n, ctx: handling,
		arrived: make(chan arrival), settled: make(chan struct{}, 1),
	}
	var work sync.WaitGroup
	work.Go(func() { c.listen(handling, n) })
	t.run()
	t.end()
	work.Wait()
}

func (t *taker) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case a := <-t.arrived:
			t.arrive(a)
		case <-t.client.wake:
		case <-t.settled:
		case <-timer.C:
		}
		t.step()
		timer.Stop()
		if next := t.retryAt(); !next.IsZero() {
			timer.Reset(max(0, time.Until(next)))
		}
	}
}

// end hands back what was not decided. The connection may be gone already.
func (t *taker) end() {
	for _, q := range t.queues {
		t.cancel(q)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		t.handlers.Wait() // their context has ended
		t.forwards.Wait() // their consumers have ended
	}()
	for {
		select {
		case <-drained:
			for _, q := range t.queues {
				t.client.setQueue(q.name, nil)
			}
			return
		case a := <-t.arrived:
			if a.msg != nil {
				// Closing the channel returns it, too; this spares the wait.
				t.giveBack(a.queue, a.msg)
			}
		}
	}
}

// room is how many more tasks may be asked for.
func (t *taker) room() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.client.config.Free() - t.undecided
}

func (t *taker) consumers() (n int) {
	for _, q := range t.queues {
		if q.consumer != "" {
			n++
		}
	}
	return n
}

// step brings the queues in line with what there is room for.
func (t *taker) step() {
	t.sync()
	if t.room() <= 0 {
		t.cancelAll()
	}
	// While consumers are all there, whatever comes is pushed.
	for t.room() > 0 && t.ctx.Err() == nil && t.fetch() {
	}
	if t.room() <= 0 {
		return
	}
	for _, q := range t.queues {
		if q.consumer == "" && !q.flowing && q.usable() {
			t.consume(q)
		}
	}
}

func (t *taker) cancelAll() {
	for _, q := range t.queues {
		t.cancel(q)
	}
}

// fetch asks the queues without a consumer in turn for one waiting task each, and
// tells whether any had one.
func (t *taker) fetch() (found bool) {
	for range t.queues {
		q := t.queues[t.next%len(t.queues)]
		t.next++
		if q.consumer != "" || q.flowing || !q.usable() {
			continue
		}
		q.rpc.Lock()
		msg, ok, err := q.ch.Get(q.name, false)
		q.rpc.Unlock()
		if err != nil {
			t.fail(q, err)
			continue
		}
		if ok {
			found = true
			t.handle(q, &msg)
			if t.room() <= 0 {
				return true
			}
		}
	}
	return found
}

// arrive takes what a consumer was sent.
func (t *taker) arrive(a arrival) {
	q := a.queue
	if a.msg != nil {
		room := t.room()
		if room <= 0 || slices.Contains(t.unwanted, q) {
			// Several queues shared the last room, and another was faster.
			t.giveBack(q, a.msg)
			return
		}
		// The acknowledgement lets the broker send the queue's next one, so the
		// consumers end before it where not all could have one.
		if room-1 < t.consumers() {
			t.cancelAll()
		}
		t.handle(q, a.msg)
		return
	}
	q.flowing = false
	if q.consumer != "" { // nobody here canceled it
		q.consumer = ""
		t.fail(q, &amqp091.Error{Code: amqp091.NotFound, Reason: "RabbitMQ canceled the consumer", Server: true})
	}
}

// handle gives a delivery to its handler.
func (t *taker) handle(q *queue, msg *amqp091.Delivery) {
	c := t.client
	c.counts.delivered.Add(1)
	t.mu.Lock()
	t.undecided++
	q.handled++
	t.mu.Unlock()
	d := &Delivery{Delivery: q.conn.delivery(q.name, msg), client: c, queue: q, ch: channelOf(msg), tag: msg.DeliveryTag, settle: t.settle}
	t.handlers.Go(func() {
		c.config.Task(t.ctx, d)
		d.Return() // as a rule it is decided
		t.mu.Lock()
		q.handled--
		t.mu.Unlock()
	})
}

// settle notes that one delivery is decided.
func (t *taker) settle() {
	t.mu.Lock()
	t.undecided--
	t.mu.Unlock()
	select {
	case t.settled <- struct{}{}:
	default:
	}
}

func (t *taker) giveBack(q *queue, msg *amqp091.Delivery) {
	q.rpc.Lock()
	defer q.rpc.Unlock()
	t.client.counts.delivered.Add(1)
	if channelOf(msg).Nack(msg.DeliveryTag, false, true) == nil {
		t.client.counts.returned.Add(1)
	}
}

// channelOf is the channel that a message came on. Its queue may have another by now.
func channelOf(msg *amqp091.Delivery) *amqp091.Channel { return msg.Acknowledger.(*amqp091.Channel) }

// sync opens queues that are new or due for another try, and closes those that
// are no longer wanted.
func (t *taker) sync() {
	wanted := t.client.Queues()
	t.queues = slices.DeleteFunc(t.queues, func(q *queue) bool {
		if slices.Contains(wanted, q.name) {
			return false
		}
		t.cancel(q)
		t.unwanted = append(t.unwanted, q)
		t.client.setQueue(q.name, nil)
		return true
	})
	t.unwanted = slices.DeleteFunc(t.unwanted, func(q *queue) bool {
		t.mu.Lock()
		used := q.flowing || q.handled > 0
		t.mu.Unlock()
		if !used && q.ch != nil {
			q.ch.Close()
		}
		return !used
	})
	for _, name := range wanted {
		if !slices.ContainsFunc(t.queues, func(q *queue) bool { return q.name == name }) {
			t.queues = append(t.queues, &queue{name: name, conn: t.conn, retry: time.Unix(1, 0)})
		}
	}
	for _, q := range t.queues {
		if !q.retry.IsZero() && !time.Now().Before(q.retry) && t.ctx.Err() == nil {
			t.open(q)
		}
	}
}

func (q *queue) usable() bool { return q.retry.IsZero() }

// open declares a queue and makes the channel for it.
func (t *taker) open(q *queue) {
	note, err := t.conn.taskQueue(q.name)
	if note != nil && err == nil {
		t.client.logger.Info("Tasks published to the exchange of a queue's name may not arrive; Girder uses the default exchange", "queue", q.name, "reason", reason(note))
	}
	var ch *amqp091.Channel
	if err == nil {
		ch, err = t.conn.Channel()
	}
	if err == nil {
		q.rpc.Lock()
		q.ch = ch
		err = barrier(ch)
		q.rpc.Unlock()
	}
	if err != nil {
		t.fail(q, err)
		return
	}
	q.retry = time.Time{}
	t.client.setQueue(q.name, &QueueStatus{Name: q.name})
}

// fail notes that a queue cannot be used for a while. What of it is undecided is
// void once its channel has ended.
func (t *taker) fail(q *queue, err error) {
	if t.conn.ctx.Err() != nil {
		return
	}
	q.failures++
	q.consumer = ""
	if q.ch != nil {
		q.rpc.Lock()
		q.ch.Close()
		q.rpc.Unlock()
	}
	q.retry = time.Now().Add(t.client.config.Retry.delay(q.failures, code(err) == amqp091.AccessRefused))
	t.client.setQueue(q.name, &QueueStatus{Name: q.name, Problem: queueProblem(q.name, err)})
}

func (t *taker) retryAt() (at time.Time) {
	for _, q := range t.queues {
		if !q.retry.IsZero() && (at.IsZero() || q.retry.Before(at)) {
			at = q.retry
		}
	}
	return at
}

// consume has the broker send the next task of a queue.
func (t *taker) consume(q *queue) {
	t.tags++
	tag := fmt.Sprintf("%s-%d", t.client.config.NodeName, t.tags)
	q.rpc.Lock()
	msgs, err := q.ch.Consume(q.name, tag, false, false, false, false, nil)
	q.rpc.Unlock()
	if err != nil {
		t.fail(q, err)
		return
	}
	q.consumer, q.flowing, q.failures = tag, true, 0
	t.forwards.Go(func() {
		for msg := range msgs { // until it is canceled, or the channel ends
			t.arrived <- arrival{q, &msg}
		}
		t.arrived <- arrival{q, nil}
	})
	t.client.setQueue(q.name, &QueueStatus{Name: q.name, Waiting: true})
}

// cancel ends a queue's consumer. What was sent before still arrives.
func (t *taker) cancel(q *queue) {
	if q.consumer == "" {
		return
	}
	q.rpc.Lock()
	err := q.ch.Cancel(q.consumer, false)
	q.rpc.Unlock()
	q.consumer = ""
	if err != nil {
		t.fail(q, err)
		return
	}
	t.client.setQueue(q.name, &QueueStatus{Name: q.name})
}
