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
	if is := code(err); is == amqp091.ResourceLocked || is == amqp091.PreconditionFailed {
		// The last connection of this worker, not yet noticed to be dead, or another
		// worker. What is sent to all reaches a queue of any name.
		c.logger.Warn("The control queue of this node name is taken: another worker of the same name is on this RabbitMQ, or was a moment ago", "queue", name)
		msgs, ch, err = c.openMailbox(n, name+"."+rand.Text()[:8])
	}
	if err != nil {
		return err
	}
	defer ch.Close()
	c.setControl("", true)
	for {
		select {
		case <-ctx.Done():
			return errStopped
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

// maxAnswers bounds how many answers to one question are kept.
const maxAnswers = 1000

// Ask asks every worker on the control exchange, and returns what was answered within
// wait: who answers is not known beforehand. question makes the message for the
// address at which the answers come.
func (c *Client) Ask(ctx context.Context, wait time.Duration, question func(celery.Address) (celery.Message, error)) ([]celery.Delivery, error) {
	c.mu.Lock()
	p := c.session
	c.mu.Unlock()
	if p == nil {
		return nil, ErrNotConnected
	}
	if err := p.conn.exchange(celery.ReplyExchange, amqp091.ExchangeDirect, false); err != nil {
		return nil, fmt.Errorf("cannot ask the other workers: %w", err)
	}
	ch, err := p.conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("cannot ask the other workers: %w", err)
	}
	defer ch.Close()
	key := rand.Text()
	name := key + "." + celery.ReplyExchange
	const durable, autoDelete, exclusive = false, true, true
	if _, err := ch.QueueDeclare(name, durable, autoDelete, exclusive, false, nil); err != nil {
		return nil, fmt.Errorf("cannot ask the other workers: %w", err)
	}
	if err := ch.QueueBind(name, key, celery.ReplyExchange, false, nil); err != nil {
		return nil, fmt.Errorf("cannot ask the other workers: %w", err)
	}
	replies, err := ch.Consume(name, "", true, true, false, false, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the other workers: %w", err)
	}
	m, err := question(celery.Address{Exchange: celery.ReplyExchange, RoutingKey: key})
	if err != nil {
		return nil, err
	}
	if err := c.Publish(ctx, m); err != nil && !errors.Is(err, ErrUnroutable) {
		return nil, fmt.Errorf("cannot ask the other workers: %w", err)
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
				return nil, fmt.Errorf("cannot ask the other workers: %w", ErrNotConnected)
			}
			answers = append(answers, p.conn.delivery(name, &m))
		}
	}
	return answers, nil
}
