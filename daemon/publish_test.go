package daemon_test

import (
	"encoding/json"
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// publisher sends messages as no Celery client would, or faster than one starts.
type publisher struct {
	t    testing.TB
	conn *amqp091.Connection
	ch   *amqp091.Channel
}

func publish(t testing.TB, vhost string) *publisher {
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
	return &publisher{t, conn, ch}
}

// consumers is how many a queue has; it may not be there yet.
func (p *publisher) consumers(queue string) int {
	ch, err := p.conn.Channel()
	if err != nil {
		p.t.Fatal(err)
	}
	defer ch.Close()
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		return 0
	}
	return q.Consumers
}

// send returns when RabbitMQ has the message.
func (p *publisher) send(m amqp091.Publishing) {
	p.t.Helper()
	m.DeliveryMode = amqp091.Persistent
	c, err := p.ch.PublishWithDeferredConfirm("", "celery", true, false, m)
	if err != nil {
		p.t.Fatal(err)
	}
	if !c.Wait() {
		p.t.Fatal("RabbitMQ refused the message")
	}
}

// message is a task of docker_run in the second version of the protocol.
func message(job loadJob, kwargs map[string]any) amqp091.Publishing {
	if kwargs == nil {
		kwargs = map[string]any{}
	}
	for k, v := range map[string]any{"container_args": job.Args, "entrypoint": "sh", "pull_image": false} {
		if _, is := kwargs[k]; !is {
			kwargs[k] = v
		}
	}
	body, err := json.Marshal([]any{[]string{"busybox"}, kwargs, map[string]any{}})
	if err != nil {
		panic(err)
	}
	headers := amqp091.Table{
		"lang": "py", "task": "girder_worker.docker.tasks.docker_run", "id": job.Task, "root_id": job.Task, "retries": int32(0),
	}
	if job.Spec != nil {
		headers["jobInfoSpec"] = table(job.Spec)
	}
	return amqp091.Publishing{
		ContentType: "application/json", ContentEncoding: "utf-8", CorrelationId: job.Task, Headers: headers, Body: body,
	}
}

func table(m map[string]any) amqp091.Table {
	out := amqp091.Table{}
	for k, v := range m {
		if inner, ok := v.(map[string]any); ok {
			v = table(inner)
		}
		out[k] = v
	}
	return out
}

func (p *publisher) task(job loadJob) {
	p.t.Helper()
	p.send(message(job, nil))
}
