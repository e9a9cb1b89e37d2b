package amqp

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"girderworker/daemon/amqp/rabbittest"
)

// A machine holds what it can start and leaves the rest to others.
func TestTakeOnlyWhatCanStart(t *testing.T) {
	vhost := rabbit.Vhost(t)
	w := startWorker(t, brokerURL(rabbit.Addr(), vhost), 2)
	w.ready()
	s := newSender(t, vhost)
	s.send("celery", 0, 10, 0)
	w.until("two tasks run", func() bool { return w.running == 2 && len(w.tasks) == 2 })
	if ready, unacked := rabbit.Depth(t, vhost, "celery"); ready != 8 || unacked != 0 {
		t.Errorf("%d ready, %d unacked", ready, unacked)
	}
	if got := w.client.Status(); got.Delivered != 2 || got.Queues[0].Waiting {
		t.Errorf("status %+v", got)
	}
	for i := range 8 {
		w.done(1)
		w.until("the next task", func() bool { return len(w.tasks) == 3+i })
	}
	w.done(2)
	w.status("waiting", func(s Status) bool { return waiting(s) == 1 })
	if w.most > 2 {
		t.Errorf("held %d", w.most)
	}
	if got := w.client.Status(); got.Delivered != 10 || got.Returned != 0 {
		t.Errorf("status %+v", got)
	}
	// With a consumer waiting, tasks that come one by one are pushed.
	s.send("celery", 10, 11, 0)
	w.until("a pushed task", func() bool { return len(w.tasks) == 11 })
	s.send("celery", 11, 14, 0)
	w.until("the other slot", func() bool { return len(w.tasks) == 12 })
	if ready, unacked := rabbit.Depth(t, vhost, "celery"); ready != 2 || unacked != 0 || w.most > 2 {
		t.Errorf("%d ready, %d unacked, held %d", ready, unacked, w.most)
	}
	// A person's own jobs take the slots: the consumer goes.
	w.done(2)
	w.until("the rest", func() bool { return len(w.tasks) == 14 })
	w.done(2)
	w.status("waiting", func(s Status) bool { return waiting(s) == 1 })
	w.mu.Lock()
	w.running = 2
	w.mu.Unlock()
	w.client.Wake()
	w.status("full", func(s Status) bool { return waiting(s) == 0 })
	s.send("celery", 14, 15, 0)
	if ready, unacked := rabbit.Depth(t, vhost, "celery"); ready != 1 || unacked != 0 {
		t.Errorf("full: %d ready, %d unacked", ready, unacked)
	}
}

func TestDecisions(t *testing.T) {
	vhost := rabbit.Vhost(t)
	s := newSender(t, vhost)
	s.queue("celery", amqp091.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
	s.queue("dead", nil)
	s.send("celery", 0, 4, 0)
	var mu sync.Mutex
	seen := map[string]int{}
	w := startWorker(t, brokerURL(rabbit.Addr(), vhost), 1, func(c *Config) {
		c.Task = func(_ context.Context, d *Delivery) {
			mu.Lock()
			defer mu.Unlock()
			id := d.Properties.CorrelationID
			seen[id]++
			var err error
			switch {
			case id == "0":
				err = d.Reject()
			case id == "1" && seen[id] == 1:
				err = d.Return()
			case id == "2" && seen[id] == 1:
				// left undecided
			default:
				if again := seen[id] > 1; again != d.Redelivered {
					t.Errorf("task %s redelivered %v", id, d.Redelivered)
				}
				if err = d.Accept(); err == nil && d.Accept() != ErrDecided {
					t.Error("a second decision")
				}
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
	w.status("all decided", func(s Status) bool { return s.Accepted == 3 && s.Rejected+s.Returned >= 3 })
	if got := w.client.Status(); got.Rejected != 1 || got.Returned != 2 || got.Delivered != 6 {
		t.Errorf("status %+v, seen %v", got, seen)
	}
	eventually(t, "a dead letter", func() bool {
		ready, _ := rabbit.Depth(t, vhost, "dead")
		return ready == 1
	})
}

// What was delivered and not decided goes back when the daemon stops.
func TestStopHandsBack(t *testing.T) {
	vhost := rabbit.Vhost(t)
	began := make(chan struct{}, 10)
	w := startWorker(t, brokerURL(rabbit.Addr(), vhost), 3, func(c *Config) {
		c.Task = func(ctx context.Context, d *Delivery) {
			began <- struct{}{}
			<-ctx.Done()
		}
	})
	w.ready()
	newSender(t, vhost).send("celery", 0, 5, 0)
	<-began
	w.stop()
	if ready, unacked := rabbit.Depth(t, vhost, "celery"); ready != 5 || unacked != 0 {
		t.Errorf("%d ready, %d unacked", ready, unacked)
	}
	eventually(t, "only the sender's connection is left", func() bool { return len(rabbit.Connections(t, vhost)) == 1 })
}

// Two machines with two slots each share one queue.
func TestTwoWorkersShare(t *testing.T) {
	const tasks = 400
	vhost := rabbit.Vhost(t)
	named := func(name string) option { return func(c *Config) { c.NodeName = name } }
	a := startWorker(t, brokerURL(rabbit.Addr(), vhost), 2, named("celery@a"))
	b := startWorker(t, brokerURL(rabbit.Addr(), vhost), 2, named("celery@b"))
	a.ready()
	b.ready()
	newSender(t, vhost).send("celery", 0, tasks, 0)
	// Each task runs until every worker has filled its slots again.
	workers := []*worker{a, b}
	for n := 2; n <= tasks/2; n += 2 {
		for _, w := range workers {
			w.until("both slots are taken", func() bool { return len(w.tasks) == n })
		}
		for _, w := range workers {
			w.done(2)
		}
	}
	for _, w := range workers {
		if w.most > 2 {
			t.Errorf("held %d", w.most)
		}
		if got := w.client.Status(); got.Returned > 0 {
			t.Errorf("returned %d", got.Returned)
		}
	}
}

// Queues are asked in turn.
func TestSeveralQueues(t *testing.T) {
	vhost := rabbit.Vhost(t)
	s := newSender(t, vhost)
	for i, name := range []string{"a", "b", "c"} {
		s.queue(name, nil)
		s.send(name, i*100, i*100+20, 0)
	}
	w := startWorker(t, brokerURL(rabbit.Addr(), vhost), 1, func(c *Config) { c.Queues = []string{"a", "b", "c"} })
	for n := 1; n <= 60; n++ {
		w.until("the next task", func() bool { return len(w.tasks) == n })
		w.done(1)
	}
	share := map[string]int{}
	for _, queue := range w.order[:30] {
		share[queue]++
	}
	for queue, n := range share {
		if n < 8 || n > 12 {
			t.Errorf("of the first 30 tasks %d were of %s", n, queue)
		}
	}
	// All wait, with one slot for three: one of those that come together starts.
	w.status("all wait", func(s Status) bool { return waiting(s) == 3 })
	for i, name := range []string{"a", "b", "c"} {
		s.send(name, 1000+i, 1001+i, 0)
	}
	for n := 61; n <= 63; n++ {
		w.until("the next task", func() bool { return len(w.tasks) == n })
		w.done(1)
	}
	// A queue that is no longer wanted is left alone, and can come back.
	w.client.SetQueues([]string{"a"})
	w.status("one is left", func(s Status) bool { return len(s.Queues) == 1 && waiting(s) == 1 })
	s.send("b", 2000, 2001, 0)
	w.client.SetQueues([]string{"a", "b"})
	w.until("the task of b", func() bool { return w.tasks["2000"] == 1 })
}

// A queue that exists is taken as it is.
func TestOtherQueues(t *testing.T) {
	vhost := rabbit.Vhost(t)
	s := newSender(t, vhost)
	s.queue("quorum", amqp091.Table{"x-queue-type": "quorum"})
	s.queue("priority", amqp091.Table{"x-max-priority": int32(9)})
	s.send("quorum", 0, 3, 0)
	for i := range 5 {
		s.send("priority", 10+i, 11+i, uint8(i))
	}
	var mu sync.Mutex
	var order []string
	w := startWorker(t, brokerURL(rabbit.Addr(), vhost), 1, func(c *Config) {
		c.Queues = []string{"quorum", "priority"}
		c.Task = func(_ context.Context, d *Delivery) {
			mu.Lock()
			defer mu.Unlock()
			if d.Queue == "priority" {
				order = append(order, fmt.Sprintf("%s/%d", d.Properties.CorrelationID, d.Properties.Priority))
			}
			if err := d.Accept(); err != nil {
				t.Error(err)
			}
		}
	})
	w.status("all taken", func(s Status) bool { return s.Accepted == 8 })
	mu.Lock()
	defer mu.Unlock()
	if got := fmt.Sprint(order); got != "[14/4 13/3 12/2 11/1 10/0]" {
		t.Errorf("order %s", got)
	}
}

func TestQueueTroubles(t *testing.T) {
	vhost := rabbit.Vhost(t)
	s := newSender(t, vhost)
	rabbit.User(t, "narrow", "secret", vhost, "^celery@|^celery\\.pidbox|^celeryev|^mine$", ".*", "^celery@|^celery\\.pidbox|^mine$")
	w := startWorker(t, "amqp://narrow:secret@"+rabbit.Addr()+"/"+vhost, 4, func(c *Config) {
		c.Queues = []string{"mine", "theirs"}
	})
	// One queue may not be made, nor read once it is there; the other goes on.
	w.trouble(`RabbitMQ refuses queue "theirs": give the user permission`)
	s.send("mine", 0, 1, 0)
	w.until("the task of mine", func() bool { return w.tasks["0"] == 1 })
	s.queue("theirs", nil)
	s.send("theirs", 1, 2, 0)
	rabbit.Allow(t, "narrow", vhost, ".*", ".*", ".*")
	w.until("the task of theirs", func() bool { return w.tasks["1"] == 1 })
	w.ready()
	// Somebody deletes a queue that is waited on: it is made again.
	w.status("both wait", func(s Status) bool { return waiting(s) == 2 })
	if _, err := s.ch.QueueDelete("mine", false, false, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is made again", func() bool { return rabbit.HasQueue(t, vhost, "mine") })
	s.send("mine", 2, 3, 0)
	w.until("the task of the new queue", func() bool { return w.tasks["2"] == 1 })

	// A queue of one connection alone.
	other := newSender(t, vhost)
	if _, err := other.ch.QueueDeclare("locked", false, false, true, false, nil); err != nil {
		t.Fatal(err)
	}
	w.client.SetQueues([]string{"mine", "locked"})
	w.trouble("belongs to another connection alone")
}

// The connection ends between an acknowledgement and its answer, or before it.
func TestLostAcknowledgement(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lose  func(t *testing.T, p *rabbittest.Proxy, vhost string, d *Delivery) error
		want  error
		again bool // the broker delivers it again
	}{
		{"answer lost", func(t *testing.T, p *rabbittest.Proxy, vhost string, d *Delivery) error {
			p.Hold(rabbittest.Down, true)
			go func() {
				eventually(t, "the broker has the acknowledgement", func() bool {
					ready, unacked := rabbit.Depth(t, vhost, "celery")
					return ready+unacked == 0
				})
				p.Cut()
				p.Hold(rabbittest.Down, false)
			}()
			return d.Accept()
		}, ErrUncertain, false},
		{"acknowledgement lost", func(t *testing.T, p *rabbittest.Proxy, vhost string, d *Delivery) error {
			p.Hold(rabbittest.Up, true)
			done := make(chan error)
			go func() { done <- d.Accept() }()
			eventually(t, "it is on its way", func() bool { return p.Held(rabbittest.Up) > 0 })
			p.Cut()
			p.Hold(rabbittest.Up, false)
			return <-done
		}, ErrUncertain, true},
		{"connection lost before", func(t *testing.T, p *rabbittest.Proxy, vhost string, d *Delivery) error {
			p.Cut()
			<-d.queue.conn.ctx.Done()
			return d.Accept()
		}, ErrVoid, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			vhost := rabbit.Vhost(t)
			p := rabbittest.NewProxy(t, rabbit.Addr())
			got := make(chan error, 10)
			first := true
			// No heartbeat is to be taken for the acknowledgement.
			w := startWorker(t, brokerURL(p.Addr(), vhost)+"&heartbeat=600", 1, func(c *Config) {
				c.Task = func(_ context.Context, d *Delivery) {
					if first {
						first = false
						got <- tt.lose(t, p, vhost, d)
						return
					}
					if !d.Redelivered {
						t.Error("not marked as redelivered")
					}
					got <- d.Accept()
				}
			})
			w.ready()
			newSender(t, vhost).send("celery", 0, 1, 0)
			if err := <-got; err != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if tt.again {
				if err := <-got; err != nil {
					t.Error(err)
				}
			}
			w.status("all is well again", func(s Status) bool { return s.State == Ready && waiting(s) == 1 })
			if ready, unacked := rabbit.Depth(t, vhost, "celery"); ready+unacked != 0 {
				t.Errorf("%d ready, %d unacked", ready, unacked)
			}
		})
	}
}

// A broker that restarts again and again loses nothing, and a task is taken
// twice only where the acknowledgement was uncertain. AMQP_RESTARTS=20 does more.
func TestRestartsUnderLoad(t *testing.T) {
	restarts := 6
	if n, err := strconv.Atoi(os.Getenv("AMQP_RESTARTS")); err == nil {
		restarts = n
	}
	for range 3 {
		if restartUnderLoad(t, restarts) {
			return
		}
	}
	t.Error("RabbitMQ did not stop in any of three runs")
}

// restartUnderLoad returns false when RabbitMQ had to be killed: it forgets
// acknowledgements then, and the run shows nothing.
func restartUnderLoad(t *testing.T, restarts int) bool {
	const tasks = 500
	vhost := rabbit.Vhost(t)
	w := startWorker(t, brokerURL(rabbit.Addr(), vhost), 4)
	w.ready()
	newSender(t, vhost).send("celery", 0, tasks, 0)
	for range restarts {
		w.until("some tasks run", func() bool { return w.running > 0 || len(w.tasks) == tasks })
		if !rabbit.Restart(t, nil) {
			return false
		}
		// A part of them in each life of the broker.
		for range tasks / restarts / 4 {
			w.mu.Lock()
			n := w.running
			w.mu.Unlock()
			w.done(n)
			w.until("tasks come again", func() bool { return w.running > 0 || len(w.tasks) == tasks })
		}
	}
	// One in doubt may come again.
	w.status("the queue is empty", func(s Status) bool {
		w.mu.Lock()
		n, all := w.running, true
		for i := range tasks {
			id := fmt.Sprint(i)
			all = all && w.tasks[id]+w.doubt[id] > 0
		}
		w.mu.Unlock()
		w.done(n)
		return all && s.State == Ready && waiting(s) == 1
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range tasks {
		id := fmt.Sprint(i)
		if n, doubt := w.tasks[id], w.doubt[id]; n > 1 || n+doubt == 0 {
			t.Errorf("task %s was accepted %d times, and in doubt %d times", id, n, doubt)
		}
	}
	t.Logf("%d accepted, %d in doubt, %d connections made", len(w.tasks), len(w.doubt), w.client.Status().Connects)
	return true
}
