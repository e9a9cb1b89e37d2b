package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"girderworker/daemon/celery"
	"girderworker/daemon/worker"
)

// facts are what remote control may ask the daemon, and do to it.
func (b *broker) facts() worker.Facts {
	return worker.Facts{
		Tasks:         b.tasks,
		Stats:         b.stats,
		Queues:        b.queues,
		Configuration: b.configuration,
		Report:        b.report,
		Process:       b.f.containerOf,
		Cancel:        b.f.cancelReported,
		Events:        func(on bool) bool { return b.events.Switch(on) },
		Heartbeat:     func() { b.events.Heartbeat() },
		Consume:       b.consume,
		Leave:         b.leave,
		Shutdown: func() error {
			return errors.New("this worker is a service of its machine: its admin stops it")
		},
	}
}

func (b *broker) stats(context.Context) (celery.Stats, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return celery.Stats{}, err
	}
	first := b.brokers[0]
	s := celery.Stats{
		Total: map[string]int64{}, PID: os.Getpid(), Uptime: time.Since(b.f.begun),
		Slots: b.f.Capacity().Slots, Prefetch: len(b.client.Queues()),
		Broker: celery.Broker{
			Host: first.Host, Port: first.Port, User: first.User, VirtualHost: first.Vhost, TLS: first.Secure,
			Heartbeat: first.Heartbeat, LoginMethod: "PLAIN",
		},
		UserTime: time.Duration(usage.Utime.Nano()), SystemTime: time.Duration(usage.Stime.Nano()), MaxRSS: usage.Maxrss,
		MinorFaults: usage.Minflt, MajorFaults: usage.Majflt, BlocksIn: usage.Inblock, BlocksOut: usage.Oublock,
		Switches: usage.Nvcsw, Preemptions: usage.Nivcsw,
	}
	for _, other := range b.brokers[1:] {
		s.Broker.Alternates = append(s.Broker.Alternates, other.String())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, n := range b.total {
		s.Total[name] = n
	}
	return s, nil
}

func (b *broker) queues() (all []celery.Queue) {
	for _, name := range b.client.Queues() {
		all = append(all, celery.Queue{Name: name, Exchange: name, ExchangeType: "direct", RoutingKey: name, Durable: true})
	}
	return all
}

func (b *broker) configuration() map[string]any {
	return map[string]any{
		"broker_url":         b.brokers[0].String(),
		"worker_concurrency": b.f.Capacity().Slots,
		"task_queues":        strings.Join(b.client.Queues(), ","),
		"task_default_queue": "celery",
		"result_backend":     "rpc://",
		"accept_content":     []any{"json", "girder_io"},
		"timezone":           "UTC",
	}
}

func (b *broker) report() string {
	return fmt.Sprintf("\nsoftware -> girder-worker:%s (%s) go:%s\nplatform -> system:%s arch:%s\nsettings -> transport:pyamqp results:rpc://\nbroker: %s\nconcurrency: %d\nqueues: %s\n",
		b.f.options.Version, b.f.options.Commit, strings.TrimPrefix(runtime.Version(), "go"), runtime.GOOS, runtime.GOARCH,
		b.brokers[0], b.f.Capacity().Slots, strings.Join(b.client.Queues(), ", "))
}

// maxQueues bounds what remote control may add.
const maxQueues = 64

func (b *broker) consume(name string) error {
	if err := checkQueueName(name); err != nil {
		return err
	}
	queues := b.client.Queues()
	if slices.Contains(queues, name) {
		return nil
	}
	if len(queues) >= maxQueues {
		return fmt.Errorf("more than %d queues", maxQueues)
	}
	b.logger.Info("Taking tasks from another queue, as told", "queue", name)
	b.client.SetQueues(append(queues, name))
	return nil
}

func (b *broker) leave(name string) error {
	b.logger.Info("Taking no more tasks from a queue, as told", "queue", name)
	b.client.SetQueues(slices.DeleteFunc(b.client.Queues(), func(q string) bool { return q == name }))
	return nil
}
