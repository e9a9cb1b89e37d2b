package daemon_test

import (
	"fmt"
	"strings"
	"testing"

	"girderworker/transforms/girder/girdertest"
)

// TestDrainHandsBack: a machine that is drained gives the tasks back that it has
// accepted and not started, and another one runs them, once each.
func TestDrainHandsBack(t *testing.T) {
	a, c, vhost := newCeleryWorld(t, 4)
	g := girdertest.New(t, girdertest.Config{})
	// A job of the socket that leaves no memory for tasks.
	a.stop()
	a.configure(fmt.Sprintf("slots = 4\nmemory = 100MiB\n[celery]\nbroker = amqp://guest:guest@%s/%s\nhostname = celery@test\n", rabbit.Addr(), vhost))
	a.start()
	big := a.submit("while :; do usleep 20000; done", "resources", map[string]any{"memory": "90MiB"})
	jobs := tasks(g, g.API(), 2, "echo it runs")
	send(t, c, jobs)
	said := c.Run(t, script+`
later = app.send_task(TASK, args=['busybox'], kwargs=dict(container_args=['-c', 'echo later'], entrypoint='sh', pull_image=False), countdown=4, expires=600)
say(later.id)
`)
	var later string
	decode(t, said[0], &later)
	ids := []string{later}
	for _, j := range jobs {
		ids = append(ids, j.Task)
	}
	for _, id := range ids {
		a.eventually("it has come", func() bool { _, err := a.client.Job(t.Context(), id); return err == nil })
	}
	b := newWorker(t, 2, "amqp://guest:guest@"+rabbit.Addr()+"/"+vhost, "other")
	t.Cleanup(func() {
		a.stop()
		b.stop()
	})
	if _, err := a.client.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		b.eventually("the other has it", func() bool { _, err := b.client.Job(t.Context(), id); return err == nil })
		if job := b.wait(id); job.State != "succeeded" || job.Attempt != 1 {
			t.Errorf("there it is %+v", job)
		}
		a.eventually("it is forgotten here", func() bool { _, err := a.client.Job(t.Context(), id); return err != nil })
	}
	if job := a.job(big.ID); job.State != "running" {
		t.Errorf("the job of the socket is %+v", job)
	}
	for _, j := range jobs {
		b.eventually("Girder has it", func() bool { return g.Job(j.girder).Status == 3 })
		if log := strings.Join(g.Job(j.girder).Log, ""); log != "it runs\n" {
			t.Errorf("Girder's log: %q", log)
		}
	}
	if ready, unacked := rabbit.Depth(t, vhost, "celery"); ready+unacked != 0 {
		t.Errorf("%d ready, %d unacked", ready, unacked)
	}
	if _, err := a.client.Cancel(t.Context(), big.ID, "done"); err != nil {
		t.Fatal(err)
	}
	a.wait(big.ID)
}
