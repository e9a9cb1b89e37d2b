package daemon_test

import (
	"fmt"
	"testing"

	"girderworker/daemon/amqp/celerytest"
)

// TestCeleryPythonWorker: a Python worker and this one share a queue, and when the
// Python worker is retired, or killed, this one does what it had not begun. Nothing is
// lost but what a killed Python worker was at, which it had acknowledged.
func TestCeleryPythonWorker(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*celerytest.Worker)
		lost int // at most
	}{
		{"retired", (*celerytest.Worker).Retire, 0},
		{"killed", (*celerytest.Worker).Kill, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const tasks = 40
			w, c, vhost := newCeleryWorld(t, 2)
			p := publish(t, vhost)
			python := c.Worker(t, "python@test")
			w.eventually("both wait for tasks", func() bool { return p.consumers("celery") == 2 })
			var ids []string
			for i := range tasks {
				ids = append(ids, fmt.Sprintf("shared-%02d", i))
				p.task(loadJob{Task: ids[i], Args: []string{"-c", "usleep 200000; echo it runs"}})
			}
			w.eventually("both have done some", func() bool {
				_, ended := python.Notes()
				return len(ended) >= 3 && w.counts()["succeeded"] >= 3
			})
			tt.end(python)
			begun, ended := python.Notes()
			lost := 0
			for _, id := range ids {
				if begun[id] == 0 {
					w.eventually("it has come", func() bool { _, err := w.client.Job(t.Context(), id); return err == nil })
					if job := w.wait(id); job.State != "succeeded" || job.Attempt != 1 || w.log(id) != "it runs\n" {
						t.Errorf("job %+v", job)
					}
					continue
				}
				if begun[id] > 1 || ended[id] > 1 {
					t.Errorf("task %s began %d times and ended %d times in Python", id, begun[id], ended[id])
				}
				if ended[id] == 0 {
					lost++
				}
				if _, err := w.client.Job(t.Context(), id); err == nil {
					t.Errorf("task %s ran in Python, and is here as well", id)
				}
			}
			if lost > tt.lost || len(begun) == tasks {
				t.Errorf("%d tasks were lost, the Python worker had begun %d of %d", lost, len(begun), tasks)
			}
			if ready, unacked := rabbit.Depth(t, vhost, "celery"); ready+unacked != 0 {
				t.Errorf("%d ready, %d unacked", ready, unacked)
			}
			if now, _ := python.Notes(); len(now) != len(begun) {
				t.Error("the Python worker went on")
			}
		})
	}
}
