package amqp

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"girderworker/daemon/celery"
)

// Config is what a [Client] needs.
type Config struct {
	Brokers  []Broker // tried in turn
	TLS      TLS
	NodeName string // "celery@host": names the queue for remote control
	Version  string // shown in RabbitMQ's management
	Queues   []string
	Logger   *slog.Logger

	// Free tells how many tasks could be started now, beyond those committed. It is
	// asked often and must be quick. A change of it is told with [Client.Wake].
	Free func() int
	// Task sees one delivery through to its decision; one that it leaves
	// undecided is returned to the queue. It runs in a goroutine of the
	// delivery's own. ctx ends with the connection and with the client.
	Task func(ctx context.Context, d *Delivery)
	// Control takes what comes on the exchange celery.pidbox, one at a time.
	Control func(ctx context.Context, d celery.Delivery)
	// Changed is called after a change of [Client.Status]. It must be quick.
	Changed func()

	Retry Retry
}

// Retry is how long to wait before the next try. Zero fields have defaults.
type Retry struct {
	Min, Max time.Duration // doubled from Min to Max; default 0.5 s and 30 s
	Denied   time.Duration // where a person has to change something; default 20 s
}

func (r *Retry) fill() {
	if r.Min == 0 {
		r.Min = 500 * time.Millisecond
	}
	if r.Max == 0 {
		r.Max = 30 * time.Second
	}
	if r.Denied == 0 {
		r.Denied = 20 * time.Second
	}
}

// delay is before try number n+1 after n failures, spread so that a broker that
// comes back does not meet all workers at once.
func (r *Retry) delay(failures int, denied bool) time.Duration {
	d := r.Max
	if failures < 20 {
		d = min(r.Max, r.Min<<max(0, failures-1))
	}
	if denied {
		d = max(d, r.Denied)
	}
	return d/2 + rand.N(d/2+1)
}

// Client is the daemon's side of RabbitMQ.
type Client struct {
	config Config
	logger *slog.Logger
	wake   chan struct{} // capacity 1: the taker should look again
	events chan celery.Message

	mu        sync.Mutex
	queues    []string
	tasks     linkStatus
	reports   linkStatus
	blocked   string
	control   string // why remote control does not work
	listening bool
	perTask   map[string]QueueStatus
	session   *publisher // nil while not connected
	counts    counters
}

type counters struct {
	delivered, accepted, uncertain, void, returned, rejected atomic.Int64
	published, unroutable, eventsDropped                     atomic.Int64
}

// eventQueue is how many events wait for the network before they are dropped.
const eventQueue = 1024

// New returns a client; [Client.Take] and [Client.Send] do the work.
func New(c Config) *Client {
	c.Retry.fill()
	if c.Changed == nil {
		c.Changed = func() {}
	}
	return &Client{
		config: c, logger: c.Logger, wake: make(chan struct{}, 1), events: make(chan celery.Message, eventQueue),
		queues: slices.Clone(c.Queues), perTask: map[string]QueueStatus{},
	}
}

// Take connects and takes tasks and remote control until ctx ends. What had been
// delivered and not decided is returned to its queue by then.
func (c *Client) Take(ctx context.Context) { c.link(ctx, &c.tasks, "tasks", c.take) }

// Send connects and publishes what Publish and Event are given, until ctx ends. It
// is another connection's work than Take's, and ends after it: what the last task's
// end makes known should still go out.
func (c *Client) Send(ctx context.Context) { c.link(ctx, &c.reports, "reports", c.publish) }

// Run is Take and Send until ctx ends.
func (c *Client) Run(ctx context.Context) {
	sending, stop := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { c.Send(sending) })
	c.Take(ctx)
	stop()
	work.Wait()
}

// Wake has the client ask Free again.
func (c *Client) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// SetQueues changes which queues are consumed.
func (c *Client) SetQueues(names []string) {
	c.mu.Lock()
	c.queues = slices.Clone(names)
	c.mu.Unlock()
	c.Wake()
}

// Queues are those that are to be consumed.
func (c *Client) Queues() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.queues)
}

// link keeps one connection, and use working on it, for as long as it takes.
func (c *Client) link(ctx context.Context, status *linkStatus, name string, use func(context.Context, *connection)) {
	failures, suspicions := 0, 0
	for i := 0; ctx.Err() == nil; i++ {
		b := c.config.Brokers[i%len(c.config.Brokers)]
		n, err := c.dial(ctx, b, name)
		if ctx.Err() != nil {
			if n != nil {
				n.close()
			}
			return
		}
		var denied bool
		if err != nil {
			failures++
			p := connectProblem(b, err)
			if denied = p.denied; denied && code(err) == 0 {
				// RabbitMQ says nothing to a wrong password and hangs up, as it does when it stops.
				suspicions++
				denied = suspicions > 1
			}
			c.lost(status, name, p.text, denied, failures)
		} else {
			c.connected(status, name, b)
			began := time.Now()
			use(ctx, n)
			n.close()
			if ctx.Err() != nil {
				return
			}
			// One that breaks at once each time is no better than none.
			if time.Since(began) > c.config.Retry.Max {
				failures = 0
			}
			failures, suspicions = failures+1, 0
			c.lost(status, name, context.Cause(n.ctx).Error(), false, failures)
		}
		select {
		case <-ctx.Done():
		case <-time.After(c.config.Retry.delay(failures, denied)):
		}
	}
}

func (c *Client) connected(s *linkStatus, name string, b Broker) {
	c.mu.Lock()
	*s = linkStatus{connected: true, broker: b.String(), since: time.Now(), connects: s.connects + 1}
	c.mu.Unlock()
	c.logger.Info("Connected to RabbitMQ", "broker", b.String(), "for", name)
	c.config.Changed()
}

func (c *Client) lost(s *linkStatus, name, problem string, denied bool, failures int) {
	c.mu.Lock()
	was := s.connected
	said := failures > 1 && s.denied == denied
	if was || s.since.IsZero() {
		s.since = time.Now()
	}
	s.connected, s.problem, s.denied, s.failures = false, problem, denied, failures
	c.mu.Unlock()
	switch {
	case was:
		c.logger.Warn("Lost RabbitMQ; connecting again", "for", name, "reason", problem)
	case said:
		c.logger.Debug("Still without RabbitMQ", "for", name, "reason", problem, "tries", failures)
	default:
		c.logger.Warn("Cannot connect to RabbitMQ; trying again for as long as it takes", "for", name, "reason", problem)
	}
	c.config.Changed()
}

// sleep waits, and tells whether ctx still goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

var errStopped = errors.New("stopped")
