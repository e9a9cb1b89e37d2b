package amqp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"girderworker/daemon/celery"
)

// controlPrefetch bounds the control messages that are held here at a time.
const controlPrefetch = 50

// listen takes remote control over one connection until it or ctx ends.
func (c *Client) listen(ctx context.Context, n *connection) {
	defer c.setControl("", false)
	for failures := 1; ; failures++ {
		err := c.mailbox(ctx, n)
		if ctx.Err() != nil || n.ctx.Err() != nil {
			return
		}
		c.setControl("this worker cannot be seen nor told to cancel ("+celery.ControlExchange+"): "+reason(err), false)
		if !sleep(ctx, c.config.Retry.delay(failures, code(err) == amqp091.AccessRefused)) {
			return
		}
	}
}

// mailbox declares the worker's queue for remote control and consumes it.
func (c *Client) mailbox(ctx context.Context, n *connection) error {
	if err := n.exchange(celery.ControlExchange, amqp091.ExchangeFanout, false); err != nil {
		return err
	}
	name := c.config.NodeName + "." + celery.ControlExchange
	msgs, ch, err := c.openMailbox(n, name)
	problem := ""
	if taken(err) {
		// The last connection of this worker, not yet noticed to be dead, or another
		// worker. What is sent to all reaches a queue of any name.
		problem = fmt.Sprintf("another worker on this RabbitMQ is called %s, or was a moment ago: give one of them another name (celery.hostname)", c.config.NodeName)
		msgs, ch, err = c.openMailbox(n, name+"."+rand.Text()[:8])
	}
	if err != nil {
		return err
	}
	defer func() { ch.Close() }()
	c.setControl(problem, true)
	var again <-chan time.Time
	if problem != "" {
		ticker := time.NewTicker(c.config.Retry.Denied)
		defer ticker.Stop()
		again = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return errStopped
		case <-again:
			own, opened, err := c.openMailbox(n, name)
			if taken(err) {
				continue
			} else if err != nil {
				return err
			}
			// Until now both have what comes, and nothing is done twice by being asked twice.
			ch.Close()
			msgs, ch, again = own, opened, nil
			c.setControl("", true)
		case msg, ok := <-msgs:
			if !ok {
				return errors.New("RabbitMQ closed the control queue")
			}
			c.config.Control(ctx, n.delivery(name, &msg))
			if err := ch.Ack(msg.DeliveryTag, false); err != nil {
				return err
			}
		}
	}
}

// taken tells whether a queue is another connection's.
func taken(err error) bool {
	is := code(err)
	return is == amqp091.ResourceLocked || is == amqp091.PreconditionFailed
}

func (c *Client) openMailbox(n *connection, name string) (msgs <-chan amqp091.Delivery, ch *amqp091.Channel, err error) {
	if ch, err = n.Channel(); err != nil {
		return nil, nil, err
	}
	defer func(opened *amqp091.Channel) {
		if err != nil {
			opened.Close()
		}
	}(ch)
	const durable, autoDelete, exclusive = false, true, true
	// Celery's own arguments: how long an unused queue stays, and a message in it.
	arguments := amqp091.Table{"x-expires": int32(10_000), "x-message-ttl": int32(300_000)}
	if _, err = ch.QueueDeclare(name, durable, autoDelete, exclusive, false, arguments); err != nil {
		return nil, nil, err
	}
	if err = ch.QueueBind(name, "", celery.ControlExchange, false, nil); err != nil {
		return nil, nil, err
	}
	if err = ch.Qos(controlPrefetch, 0, false); err != nil {
		return nil, nil, err
	}
	msgs, err = ch.Consume(name, "", false, true, false, false, nil)
	return msgs, ch, err
}

const (
	// maxAnswers bounds how many answers to one question are kept.
	maxAnswers = 1000
	// maxQuestions bounds how many questions are under way.
	maxQuestions = 4
)

// Ask asks every worker on the control exchange, and returns what was answered within
// wait: who answers is not known beforehand. question makes the message for the
// address at which the answers come. It ends with ctx, whatever RabbitMQ does;
// [ErrNotConnected] while RabbitMQ takes no messages.
func (c *Client) Ask(ctx context.Context, wait time.Duration, question func(celery.Address) (celery.Message, error)) ([]celery.Delivery, error) {
	answers, err := call(ctx, c, func(n *connection) ([]celery.Delivery, error) { return c.ask(ctx, n, wait, question) })
	if err != nil {
		return nil, fmt.Errorf("cannot ask the other workers: %w", err)
	}
	return answers, nil
}

// Waiting is how many messages wait in a queue; those that somebody has and has not
// acknowledged are not among them. It ends with ctx.
func (c *Client) Waiting(ctx context.Context, name string) (messages int, err error) {
	messages, err = call(ctx, c, func(n *connection) (messages int, err error) {
		err = n.try(func(ch *amqp091.Channel) error {
			q, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
			messages = q.Messages
			return err
		})
		return messages, err
	})
	if code(err) == amqp091.NotFound {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot look into queue %q: %w", name, err)
	}
	return messages, nil
}

// call has f make calls over the connection for reports. The library's end with the
// connection and not with a context, and RabbitMQ answers none while it takes no
// messages; so f may go on when ctx has ended, but is over when the connection is.
func call[T any](ctx context.Context, c *Client, f func(*connection) (T, error)) (answer T, err error) {
	c.mu.Lock()
	p, blocked := c.session, c.blocked
	c.mu.Unlock()
	if p == nil {
		return answer, ErrNotConnected
	}
	if blocked != "" {
		return answer, fmt.Errorf("%w: it takes no messages", ErrNotConnected)
	}
	select {
	case p.calls <- struct{}{}:
	case <-ctx.Done():
		return answer, ctx.Err()
	}
	type outcome struct {
		answer T
		err    error
	}
	done := make(chan outcome, 1)
	p.mu.Lock()
	if p.over {
		p.mu.Unlock()
		<-p.calls
		return answer, ErrNotConnected
	}
	p.work.Go(func() {
		defer func() { <-p.calls }()
		answer, err := f(p.conn)
		done <- outcome{answer, err}
	})
	p.mu.Unlock()
	select {
	case o := <-done:
		return o.answer, o.err
	case <-ctx.Done():
		return answer, fmt.Errorf("RabbitMQ does not answer: %w", ctx.Err())
	}
}

func (c *Client) ask(ctx context.Context, n *connection, wait time.Duration, question func(celery.Address) (celery.Message, error)) ([]celery.Delivery, error) {
	if err := n.exchange(celery.ReplyExchange, amqp091.ExchangeDirect, false); err != nil {
		return nil, err
	}
	ch, err := n.Channel()
	if err != nil {
		return nil, err
	}
	defer ch.Close()
	key := rand.Text()
	name := key + "." + celery.ReplyExchange
	const durable, autoDelete, exclusive = false, true, true
	if _, err := ch.QueueDeclare(name, durable, autoDelete, exclusive, false, nil); err != nil {
		return nil, err
	}
	if err := ch.QueueBind(name, key, celery.ReplyExchange, false, nil); err != nil {
		return nil, err
	}
	replies, err := ch.Consume(name, "", true, true, false, false, nil)
	if err != nil {
		return nil, err
	}
	m, err := question(celery.Address{Exchange: celery.ReplyExchange, RoutingKey: key})
	if err != nil {
		return nil, err
	}
	if err := c.Publish(ctx, m); err != nil && !errors.Is(err, ErrUnroutable) {
		return nil, err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var answers []celery.Delivery
	for len(answers) < maxAnswers {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
			return answers, nil
		case m, ok := <-replies:
			if !ok {
				return nil, ErrNotConnected
			}
			answers = append(answers, n.delivery(name, &m))
		}
	}
	return answers, nil
}
