package daemon_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCeleryETALimit: tasks with an ETA are taken up to a bound, above it everything
// stays in RabbitMQ, and goes on as soon as there is room.
func TestCeleryETALimit(t *testing.T) {
	vhost := rabbit.Vhost(t)
	w := newWorld(t)
	w.stop()
	limit := func(n int) {
		w.configure(fmt.Sprintf("slots = 1\n[celery]\nbroker = amqp://guest:guest@%s/%s\nhostname = celery@test\nworker_eta_task_limit = %d\n", rabbit.Addr(), vhost, n))
	}
	limit(2)
	w.start()
	p := publish(t, vhost)
	w.eventually("it waits for tasks", func() bool { return p.consumers("celery") == 1 })
	var ids []string
	for i := range 4 {
		ids = append(ids, fmt.Sprintf("later-%d", i))
		m := message(loadJob{Task: ids[i], Args: []string{"-c", "true"}}, nil)
		m.Headers["eta"] = time.Now().Add(time.Hour).Format(time.RFC3339)
		p.send(m)
	}
	p.task(loadJob{Task: "now", Args: []string{"-c", "echo it runs"}})
	full := func() bool {
		st, err := w.client.Status(t.Context())
		return err == nil && slices.ContainsFunc(st.Degraded, func(s string) bool { return strings.Contains(s, "celery.worker_eta_task_limit") })
	}
	left := func(n int) {
		t.Helper()
		w.eventually(fmt.Sprintf("%d stay in RabbitMQ", n), func() bool {
			ready, unacked := rabbit.Depth(t, vhost, "celery")
			return ready == n && unacked == 0
		})
	}
	w.eventually("status tells of it", full)
	left(3)
	if _, err := w.client.Cancel(t.Context(), ids[0], "not needed"); err != nil {
		t.Fatal(err)
	}
	left(2)
	limit(10)
	w.eventually("it has come", func() bool { _, err := w.client.Job(t.Context(), "now"); return err == nil })
	if job := w.wait("now"); job.State != "succeeded" || full() {
		t.Errorf("job %+v", job)
	}
	for _, id := range ids[1:] {
		if job := w.job(id); job.State != "delayed" {
			t.Errorf("job %+v", job)
		}
	}
	left(0)
}
