package amqp

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"girderworker/daemon/amqp/rabbittest"
	"girderworker/daemon/celery"
)

var rabbit rabbittest.Broker

func TestMain(m *testing.M) {
	code := m.Run()
	rabbit.Stop()
	os.Exit(code)
}

// patience is for what has to happen, on however busy a machine.
const patience = time.Minute

// worker is a client with slots, and a test that plays the daemon behind it.
type worker struct {
	t      testing.TB
	client *Client
	log    *syncBuffer
	stop   func()

	mu      sync.Mutex
	changed *sync.Cond
	slots   int
	running int               // tasks that have a slot
	most    int               // of running and undecided together, at any time
	held    int               // undecided
	tasks   map[string]int    // how often each was accepted
	doubt   map[string]int    // how often acceptance was uncertain
	order   []string          // queues of the accepted, in order
	decide  func(*Delivery)   // what is done with a task; nil: accept
	control []celery.Delivery // what came over pidbox

	troubles string // all that the status has told
}

type option func(*Config)

func brokerURL(address, vhost string) string {
	return "amqp://guest:guest@" + address + "/" + vhost + "?heartbeat=2"
}

// startWorker runs a client until the test ends.
func startWorker(t testing.TB, broker string, slots int, options ...option) *worker {
	t.Helper()
	brokers, err := ParseBrokers(broker)
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{t: t, slots: slots, tasks: map[string]int{}, doubt: map[string]int{}, log: &syncBuffer{}}
	w.changed = sync.NewCond(&w.mu)
	c := Config{
		Brokers: brokers, NodeName: "celery@test", Version: "test", Queues: []string{"celery"},
		Logger:  slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Free:    w.free,
		Task:    w.task,
		Control: w.controlled,
		Changed: w.statusChanged,
		Retry:   Retry{Min: 20 * time.Millisecond, Max: 200 * time.Millisecond, Denied: 50 * time.Millisecond},
	}
	for _, o := range options {
		o(&c)
	}
	w.client = New(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.client.Run(ctx)
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(func() {
		w.stop()
		if strings.Contains(w.log.String(), "secret") {
			t.Errorf("the log holds a password:\n%s", w.log)
		}
		if t.Failed() {
			t.Logf("log:\n%s", w.log)
		}
	})
	return w
}

func (w *worker) free() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.slots - w.running
}

// task commits, accepts, and keeps the slot until done is called.
func (w *worker) task(_ context.Context, d *Delivery) {
	w.mu.Lock()
	w.held++
	w.most = max(w.most, w.held+w.running)
	decide := w.decide
	w.mu.Unlock()
	if decide != nil {
		decide(d)
		w.mu.Lock()
		w.held--
		w.changed.Broadcast()
		w.mu.Unlock()
		return
	}
	w.mu.Lock()
	w.held--
	w.running++ // committed
	w.mu.Unlock()
	err := d.Accept()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.tasks[d.Properties.CorrelationID]++
		w.order = append(w.order, d.Queue)
	case err == ErrUncertain:
		w.doubt[d.Properties.CorrelationID]++
		w.running--
	default:
		w.running--
	}
	w.changed.Broadcast()
}

func (w *worker) controlled(_ context.Context, d celery.Delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.control = append(w.control, d)
	w.changed.Broadcast()
}

// statusChanged keeps what may be over before anybody looks.
func (w *worker) statusChanged() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubles += strings.Join(w.client.Status().Problems, "\n") + "\n"
	w.changed.Broadcast()
}

// done frees n slots.
func (w *worker) done(n int) {
	w.mu.Lock()
	w.running -= n
	w.mu.Unlock()
	w.client.Wake()
}

// until waits for a condition that changes with the worker, under its lock.
func (w *worker) until(what string, condition func() bool) {
	w.t.Helper()
	stop := time.AfterFunc(patience, func() { w.changed.Broadcast() })
	defer stop.Stop()
	deadline := time.Now().Add(patience)
	w.mu.Lock()
	defer w.mu.Unlock()
	for !condition() {
		if time.Now().After(deadline) {
			w.t.Fatalf("not in time: %s\n%+v", what, w.client.Status())
		}
		w.changed.Wait()
	}
}

// status waits until the client's status is as wanted.
func (w *worker) status(what string, condition func(Status) bool) {
	w.t.Helper()
	eventually(w.t, what, func() bool { return condition(w.client.Status()) })
}

// waiting is how many queues have a consumer.
func waiting(s Status) (n int) {
	for _, q := range s.Queues {
		if q.Waiting {
			n++
		}
	}
	return n
}

func (w *worker) ready() {
	w.t.Helper()
	w.status("ready", func(s Status) bool { return s.State == Ready })
}

func (w *worker) trouble(text string) {
	w.t.Helper()
	w.status("the problem "+text, func(s Status) bool {
		return s.State == Degraded && strings.Contains(strings.Join(s.Problems, "\n"), text)
	})
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// sender publishes as a Celery client would, on a connection of its own.
type sender struct {
	t  testing.TB
	ch *amqp091.Channel
}

func newSender(t testing.TB, vhost string) *sender {
	t.Helper()
	conn, err := amqp091.Dial("amqp://guest:guest@" + rabbit.Addr() + "/" + vhost)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &sender{t, ch}
}

func (s *sender) queue(name string, args amqp091.Table) {
	s.t.Helper()
	if _, err := s.ch.QueueDeclare(name, true, false, false, false, args); err != nil {
		s.t.Fatal(err)
	}
}

// send publishes tasks from..to-1, named by their numbers.
func (s *sender) send(queue string, from, to int, priority uint8) {
	s.t.Helper()
	var last *amqp091.DeferredConfirmation
	for i := from; i < to; i++ {
		var err error
		last, err = s.ch.PublishWithDeferredConfirm("", queue, false, false, amqp091.Publishing{
			DeliveryMode: 2, ContentType: "application/json", ContentEncoding: "utf-8", Priority: priority,
			CorrelationId: fmt.Sprint(i), Headers: amqp091.Table{"task": "t", "id": fmt.Sprint(i)}, Body: []byte("[[],{},{}]"),
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if !last.Wait() {
		s.t.Fatal("not confirmed")
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
