package amqp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"girderworker/daemon/celery"
)

// maxOutstanding is how many messages may be sent and not yet confirmed.
const maxOutstanding = 16

// confirmPatience is how long a confirmation may take, if the caller's context
// allows it.
const confirmPatience = 30 * time.Second

// farewell is how long the last events may take when the client stops.
const farewell = 2 * time.Second

// publisher publishes over one connection. A message has a channel to itself
// until it is confirmed, so that what comes back on the channel belongs to it.
type publisher struct {
	conn  *connection
	slots chan struct{}
	calls chan struct{} // one for each call under way that is no message

	mu   sync.Mutex
	idle []*outlet
	open chan struct{} // closed while the broker takes messages
	over bool
	work sync.WaitGroup // messages under way
}

// outlet is a channel in confirm mode.
type outlet struct {
	*amqp091.Channel
	returned chan amqp091.Return
	closed   chan *amqp091.Error
}

// Publish sends a message and waits until RabbitMQ has it: on disk, if it is
// persistent and the queue durable. nil is certain. While RabbitMQ takes no messages
// it waits, as long as ctx allows. Trying again is the caller's decision.
func (c *Client) Publish(ctx context.Context, m celery.Message) error {
	ctx, cancel := context.WithTimeout(ctx, confirmPatience)
	defer cancel()
	c.mu.Lock()
	p := c.session
	c.mu.Unlock()
	if p == nil {
		return ErrNotConnected
	}
	err := p.publish(ctx, m)
	switch {
	case err == nil:
		c.counts.published.Add(1)
	case errors.Is(err, ErrUnroutable):
		c.counts.unroutable.Add(1)
	}
	return err
}

// Event sends a message that may be lost: at once if RabbitMQ can be reached, never
// later. It does not wait.
func (c *Client) Event(m celery.Message) {
	c.mu.Lock()
	connected := c.session != nil && c.blocked == ""
	c.mu.Unlock()
	if connected {
		select {
		case c.events <- m:
			return
		default:
		}
	}
	c.counts.eventsDropped.Add(1)
}

// publish serves Publish and Event over one connection until it or ctx ends.
func (c *Client) publish(ctx context.Context, n *connection) {
	p := &publisher{conn: n, slots: make(chan struct{}, maxOutstanding), calls: make(chan struct{}, maxQuestions), open: make(chan struct{})}
	close(p.open)
	var work sync.WaitGroup
	defer work.Wait()
	blocks := n.NotifyBlocked(make(chan amqp091.Blocking, 8))
	work.Go(func() {
		defer c.setBlocked("")
		for b := range blocks { // closed with the connection
			reason := ""
			if b.Active {
				if reason = b.Reason; reason == "" {
					reason = "no reason told"
				}
			}
			p.gate(b.Active)
			c.setBlocked(reason)
		}
	})
	defer func() { // before the wait above
		n.close()
		p.mu.Lock()
		p.over = true
		p.mu.Unlock()
		p.work.Wait()
	}()

	// A write may hang for as long as the broker does not read.
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(farewell, func() { n.kill(errStopped) })
		context.AfterFunc(n.ctx, func() { timer.Stop() })
	})
	defer stop()

	c.mu.Lock()
	c.session = p
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.session = nil
		c.mu.Unlock()
		for len(c.events) > 0 { // an event is of its moment
			<-c.events
			c.counts.eventsDropped.Add(1)
		}
	}()
	c.config.Changed()
	c.sendEvents(ctx, n)
}

// sendEvents publishes events until ctx or the connection ends.
func (c *Client) sendEvents(ctx context.Context, n *connection) {
	var ch *amqp091.Channel
	send := func(m celery.Message) {
		if ch == nil || ch.IsClosed() {
			// A monitor that listens has made it; otherwise nobody would see the event.
			if err := n.exchange(celery.EventExchange, amqp091.ExchangeTopic, true); err != nil {
				c.logger.Debug("Cannot make the exchange of events", "error", err)
			}
			var err error
			if ch, err = n.Channel(); err != nil {
				ch = nil
			}
		}
		if ch == nil || ch.PublishWithContext(context.Background(), m.Exchange, m.RoutingKey, false, false, toAMQP(m)) != nil {
			c.counts.eventsDropped.Add(1)
		}
	}
	for {
		select {
		case <-n.ctx.Done():
			return
		case m := <-c.events:
			send(m)
		case <-ctx.Done():
			for len(c.events) > 0 && n.ctx.Err() == nil {
				send(<-c.events)
			}
			return
		}
	}
}

// gate stops or admits publishing.
func (p *publisher) gate(blocked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		if blocked {
			p.open = make(chan struct{})
		}
	default:
		if !blocked {
			close(p.open)
		}
	}
}

func (p *publisher) publish(ctx context.Context, m celery.Message) error {
	select {
	case p.slots <- struct{}{}:
	case <-p.conn.ctx.Done():
		return ErrNotConnected
	case <-ctx.Done():
		return fmt.Errorf("%w in time: others are sent first", ErrNotConnected)
	}
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	select {
	case <-open:
	case <-p.conn.ctx.Done():
		<-p.slots
		return ErrNotConnected
	case <-ctx.Done():
		<-p.slots
		return fmt.Errorf("%w in time: it takes no messages", ErrNotConnected)
	}
	// The library's calls end with the connection and not with a context.
	done := make(chan error, 1)
	p.mu.Lock()
	if p.over {
		p.mu.Unlock()
		<-p.slots
		return ErrNotConnected
	}
	p.work.Go(func() {
		defer func() { <-p.slots }()
		done <- p.send(m)
	})
	p.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnconfirmed, context.Cause(ctx))
	}
}

func (p *publisher) send(m celery.Message) error {
	o, err := p.outlet()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotConnected, err)
	}
	confirmation, err := o.PublishWithDeferredConfirm(m.Exchange, m.RoutingKey, true, false, toAMQP(m))
	if err != nil {
		if o.IsClosed() && p.conn.ctx.Err() == nil || errors.Is(err, amqp091.ErrClosed) {
			return fmt.Errorf("%w: %w", ErrNotConnected, err)
		}
		o.Close()
		var broken net.Error
		if errors.As(err, &broken) { // what was not written as a whole is no message
			return fmt.Errorf("%w: %w", ErrNotConnected, err)
		}
		return fmt.Errorf("cannot encode the message: %w", err)
	}
	<-confirmation.Done()
	if o.IsClosed() {
		select {
		case err := <-o.closed:
			if err != nil && err.Server && err.Code == amqp091.NotFound {
				return fmt.Errorf("%w: %s", ErrUnroutable, err.Reason)
			}
			if err != nil && err.Server && err.Code < 500 && err.Code != amqp091.ConnectionForced {
				return fmt.Errorf("%w: %s", ErrNacked, err.Reason)
			}
		default:
		}
		return ErrUnconfirmed
	}
	var back bool
	select {
	case _, back = <-o.returned: // comes before the confirmation
	default:
	}
	acked := confirmation.Acked()
	p.mu.Lock()
	p.idle = append(p.idle, o)
	p.mu.Unlock()
	switch {
	case back:
		return ErrUnroutable
	case !acked:
		return ErrNacked
	}
	return nil
}

// outlet is an idle channel, or a new one.
func (p *publisher) outlet() (*outlet, error) {
	p.mu.Lock()
	for len(p.idle) > 0 {
		o := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		if !o.IsClosed() {
			p.mu.Unlock()
			return o, nil
		}
	}
	p.mu.Unlock()
	ch, err := p.conn.Channel()
	if err != nil {
		return nil, err
	}
	o := &outlet{Channel: ch, returned: ch.NotifyReturn(make(chan amqp091.Return, 1)), closed: ch.NotifyClose(make(chan *amqp091.Error, 1))}
	if err := ch.Confirm(false); err != nil {
		ch.Close()
		return nil, err
	}
	return o, nil
}
