package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"girderworker/daemon/amqp/rabbittest"
)

// celerySection compares a task from .delay() to .get() of the real Celery client
// with docker, and tasks a second through RabbitMQ with jobs a second through the
// socket.
func celerySection(ctx context.Context, b *bench) error {
	var rabbit rabbittest.Broker
	defer rabbit.Stop()
	if err := rabbit.Start(); err != nil {
		return err
	}
	url := "amqp://guest:guest@" + rabbit.Addr() + "//"
	d, err := newDaemon(ctx, b, "celery", "GIRDER_WORKER_BROKER="+url,
		"GIRDER_WORKER_SLOTS=4", "GIRDER_WORKER_LIMITS_CPUS=0.5")
	if err != nil {
		return err
	}
	defer d.stop()
	if err := d.importBusybox(ctx, b); err != nil {
		return err
	}
	if err := delayed(ctx, b, d, url); err != nil {
		return err
	}
	return manyTasks(ctx, b, d, strings.TrimSuffix(url, "//"))
}

// privateJob is what a task of /bin/true comes to.
var privateJob = []byte(`{"image":"bench:latest","args":["/bin/true"],"network":"private"}`)

// settle is before each start that is timed alone: dockerd goes on cleaning up when
// its command has ended, and our next runner gets ready. None pays for another.
const settle = 300 * time.Millisecond

// client is the real one: it runs a task for each line that it reads, and answers
// with the seconds that it took.
const client = `
import os, sys, time
from celery import Celery
app = Celery('girder_worker', broker=os.environ['BROKER'], backend='rpc://')
app.conf.update(task_serializer='json', result_serializer='json', accept_content=['json'])
@app.task(name='girder_worker.docker.tasks.docker_run')
def docker_run(*args, **kwargs): pass
for line in sys.stdin:
    begin = time.perf_counter()
    docker_run.delay('bench:latest', container_args=['/bin/true'], pull_image=False).get(timeout=60)
    print(time.perf_counter() - begin, flush=True)
`

func delayed(ctx context.Context, b *bench, d *daemon, url string) error {
	c, err := d.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	python := exec.CommandContext(ctx, "/usr/bin/python3", "-c", client)
	python.Env = []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "BROKER=" + url}
	python.Stderr = os.Stderr
	in, err := python.StdinPipe()
	if err != nil {
		return err
	}
	out, err := python.StdoutPipe()
	if err != nil {
		return err
	}
	if err := python.Start(); err != nil {
		return fmt.Errorf("cannot start the Celery client: %w", err)
	}
	defer python.Wait()
	defer in.Close()
	lines := bufio.NewScanner(out)
	task := func() (time.Duration, error) {
		if _, err := io.WriteString(in, "\n"); err != nil {
			return 0, err
		}
		if !lines.Scan() {
			return 0, errors.New("the Celery client has ended")
		}
		return time.ParseDuration(lines.Text() + "s")
	}
	if _, err := task(); err != nil { // connects
		return err
	}
	docker, err := newDocker(ctx, b)
	if err != nil {
		return err
	}
	if docker != nil {
		defer docker.stop()
	}
	var ours, theirs, socket []time.Duration
	for range b.n(20, 2) {
		if docker != nil {
			time.Sleep(settle)
			t, err := timed(func() error { return docker.run(ctx) })
			if err != nil {
				return err
			}
			theirs = append(theirs, t)
		}
		time.Sleep(settle)
		t, err := task()
		if err != nil {
			return err
		}
		ours = append(ours, t)
		time.Sleep(settle)
		if t, err = timed(func() error { return c.runJob(ctx, privateJob) }); err != nil {
			return err
		}
		socket = append(socket, t)
	}
	b.table.note("docker_run of /bin/true, .delay() to .get(), against the same job through the socket", ms(median(ours)), ms(median(socket)), median(ours).Seconds()/median(socket).Seconds())
	if docker == nil {
		fmt.Printf("  docker is not installed: .delay() to .get() takes %s, not compared (BENCH_DOCKER=1 make bench installs it)\n", ms(median(ours)))
		return nil
	}
	b.table.atMost(0.2, "docker_run of /bin/true, .delay() to .get(), against docker run --rm --network none", ms(median(ours)), ms(median(theirs)), median(ours).Seconds()/median(theirs).Seconds())
	return nil
}

// manyTasks runs the same jobs both ways in turn: a task has a private network and
// a result that is sent.
func manyTasks(ctx context.Context, b *bench, d *daemon, url string) error {
	conn, err := amqp091.Dial(url)
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	replies, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		return err
	}
	results, err := ch.Consume(replies.Name, "", true, true, false, false, nil)
	if err != nil {
		return err
	}
	n := b.n(200, 8)
	var tasks, same, bare []float64
	for round := range b.n(3, 1) {
		for document, rates := range map[string]*[]float64{string(privateJob): &same, string(trueJob): &bare} {
			t, err := timed(func() error { return runMany(ctx, d, []byte(document), n) })
			if err != nil {
				return err
			}
			*rates = append(*rates, float64(n)/t.Seconds())
		}
		ids := make([]string, n)
		t, err := timed(func() error {
			for i := range ids {
				ids[i] = fmt.Sprintf("bench-%d-%d", round, i)
				if err := send(ctx, ch, ids[i], replies.Name); err != nil {
					return err
				}
			}
			return arrived(ctx, results, ids)
		})
		if err != nil {
			return err
		}
		tasks = append(tasks, float64(n)/t.Seconds())
	}
	b.table.atLeast(0.8, "tasks through RabbitMQ, against the same jobs through the socket", perSecond(median(tasks)), perSecond(median(same)), median(tasks)/median(same))
	b.table.note("tasks through RabbitMQ, against jobs without a network through the socket", perSecond(median(tasks)), perSecond(median(bare)), median(tasks)/median(bare))
	return nil
}

func send(ctx context.Context, ch *amqp091.Channel, id, replyTo string) error {
	return ch.PublishWithContext(ctx, "", "celery", false, false, amqp091.Publishing{
		ContentType: "application/json", ContentEncoding: "utf-8", CorrelationId: id, ReplyTo: replyTo, DeliveryMode: amqp091.Persistent,
		Headers: amqp091.Table{"lang": "py", "task": "girder_worker.docker.tasks.docker_run", "id": id, "root_id": id},
		Body:    []byte(`[["bench:latest"],{"container_args":["/bin/true"],"pull_image":false},{}]`),
	})
}

// arrived waits until a result of each task has come, and all are of a success.
func arrived(ctx context.Context, results <-chan amqp091.Delivery, ids []string) error {
	waiting := make(map[string]bool, len(ids))
	for _, id := range ids {
		waiting[id] = true
	}
	for len(waiting) > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m, ok := <-results:
			if !ok {
				return errors.New("RabbitMQ closed the queue of results")
			}
			var result struct{ Status string }
			if err := json.Unmarshal(m.Body, &result); err != nil || result.Status != "SUCCESS" {
				return fmt.Errorf("task %s came to %.200s", m.CorrelationId, m.Body)
			}
			delete(waiting, m.CorrelationId)
		}
	}
	return nil
}
