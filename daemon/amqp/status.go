package amqp

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// State is how the client stands in one word.
type State string

// The states.
const (
	Connecting State = "connecting" // not yet connected, and nothing wrong so far
	Ready      State = "ready"      // its queues are there, and messages are taken for others
	Degraded   State = "degraded"   // something of it does not work: Problems says what
)

// Status is how the client stands.
type Status struct {
	State  State
	Broker string // connected to, password masked; empty: not connected
	// Since is when the connection for tasks was made or lost.
	Since time.Time
	// Problems are for a person, each with what to do where something can be done.
	Problems []string
	// Blocked is why RabbitMQ takes no messages now; empty: it does.
	Blocked  string
	Queues   []QueueStatus
	Connects int // connections made so far, tasks and reports each

	Delivered, Accepted, Uncertain, Void, Returned, Rejected int64
	Published, Unroutable, EventsDropped                     int64
}

// QueueStatus is how one task queue stands.
type QueueStatus struct {
	Name    string
	Waiting bool   // a consumer waits for the next task
	Problem string // empty: none
}

type linkStatus struct {
	connected bool
	broker    string
	since     time.Time
	problem   string
	denied    bool
	failures  int
	connects  int
}

// Status tells how the client stands now.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{
		State: Ready, Since: c.tasks.since, Blocked: c.blocked, Connects: c.tasks.connects + c.reports.connects,
		Delivered: c.counts.delivered.Load(), Accepted: c.counts.accepted.Load(), Uncertain: c.counts.uncertain.Load(),
		Void: c.counts.void.Load(), Returned: c.counts.returned.Load(), Rejected: c.counts.rejected.Load(),
		Published: c.counts.published.Load(), Unroutable: c.counts.unroutable.Load(), EventsDropped: c.counts.eventsDropped.Load(),
	}
	if c.tasks.connected {
		s.Broker = c.tasks.broker
	}
	for _, name := range slices.Sorted(maps.Keys(c.perTask)) {
		q := c.perTask[name]
		s.Queues = append(s.Queues, q)
		if q.Problem != "" {
			s.Problems = append(s.Problems, q.Problem)
		}
	}
	if c.control != "" {
		s.Problems = append(s.Problems, c.control)
	}
	if c.blocked != "" {
		s.Problems = append(s.Problems, fmt.Sprintf("RabbitMQ takes no messages (%s): results and events wait", c.blocked))
	}
	for _, l := range []*linkStatus{&c.tasks, &c.reports} {
		if l.problem != "" && !slices.Contains(s.Problems, l.problem) {
			s.Problems = append(s.Problems, l.problem)
		}
	}
	switch {
	case len(s.Problems) > 0:
		s.State = Degraded
	case !c.tasks.connected || c.session == nil || !c.listening || slices.ContainsFunc(c.queues, c.unopened):
		s.State = Connecting
	}
	return s
}

// unopened tells whether nothing is known yet of a queue. The lock is held.
func (c *Client) unopened(queue string) bool {
	_, known := c.perTask[queue]
	return !known
}

// setQueue records how a queue stands; nil forgets it.
func (c *Client) setQueue(name string, q *QueueStatus) {
	c.mu.Lock()
	old, known := c.perTask[name]
	if q == nil {
		delete(c.perTask, name)
	} else {
		c.perTask[name] = *q
	}
	c.mu.Unlock()
	// That a consumer comes and goes is no news.
	if known != (q != nil) || q != nil && old.Problem != q.Problem {
		c.config.Changed()
	}
	if q != nil && q.Problem != "" && q.Problem != old.Problem {
		c.logger.Warn("Cannot take tasks from a queue; trying again", "queue", name, "reason", q.Problem)
	}
}

func (c *Client) setControl(problem string, listening bool) {
	c.mu.Lock()
	old, was := c.control, c.listening
	c.control, c.listening = problem, listening
	c.mu.Unlock()
	if old == problem && was == listening {
		return
	}
	if problem != "" && problem != old {
		c.logger.Warn("Remote control does not work as it should; trying again", "reason", problem)
	}
	c.config.Changed()
}

func (c *Client) setBlocked(reason string) {
	c.mu.Lock()
	old := c.blocked
	c.blocked = reason
	c.mu.Unlock()
	if old == reason {
		return
	}
	if reason != "" {
		c.logger.Warn("RabbitMQ takes no messages; results and events wait", "reason", reason)
	} else {
		c.logger.Info("RabbitMQ takes messages again")
	}
	c.config.Changed()
}
