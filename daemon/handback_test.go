package daemon_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"girderworker/daemon/amqp/rabbittest"
	"girderworker/daemon/apitype"
	"girderworker/transforms/girder/girdertest"
)

// TestDrainCutOff: whatever becomes of the daemon and of the connection while a task is
// handed back, it runs once.
func TestDrainCutOff(t *testing.T) {
	for _, tt := range []struct {
		name   string
		held   int  // what does not pass while it is handed back
		kill   bool // the front; else the connection is cut
		resume bool // the machine is to run tasks again, instead of another one
		always bool // also without CELERY_LOAD
	}{
		{"killed before RabbitMQ has it", rabbittest.Up, true, false, true},
		{"killed before RabbitMQ has it, and resumed", rabbittest.Up, true, true, false},
		{"killed before the answer", rabbittest.Down, true, false, false},
		{"killed before the answer, and resumed", rabbittest.Down, true, true, true},
		{"cut off before the answer", rabbittest.Down, false, false, false},
		{"cut off before RabbitMQ has it", rabbittest.Up, false, false, false},
	} {
		if !tt.always && !long() {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			vhost := rabbit.Vhost(t)
			proxy := rabbittest.NewProxy(t, rabbit.Addr())
			url := "amqp://guest:guest@%s/" + vhost + "?heartbeat=1" // a doubt takes four of them
			a := newWorld(t)
			a.stop()
			a.configure(fmt.Sprintf("slots = 4\nmemory = 100MiB\n[celery]\nbroker = "+url+"\nhostname = celery@test\n", proxy.Addr()))
			a.start()
			big := a.submit("while :; do usleep 20000; done", "resources", map[string]any{"memory": "90MiB"})
			publisher := publish(t, vhost)
			a.eventually("it waits for tasks", func() bool { return publisher.consumers("celery") == 1 })
			publisher.task(loadJob{Task: "alone", Args: []string{"-c", "echo it runs"}})
			a.eventually("it is this machine's", func() bool { return strings.Contains(a.stderr.String(), "Task accepted") })
			a.eventually("nothing more is under way", func() bool {
				ready, unacked := rabbit.Depth(t, vhost, "celery")
				return ready+unacked == 0
			})
			proxy.Hold(tt.held, true)
			if _, err := a.client.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if tt.held == rabbittest.Down {
				a.eventually("RabbitMQ has it", func() bool { ready, _ := rabbit.Depth(t, vhost, "celery"); return ready == 1 })
			} else {
				a.eventually("it is in doubt", func() bool {
					why, err := a.client.Why(t.Context(), "alone")
					return err == nil && slices.ContainsFunc(why.Waits, func(w apitype.Wait) bool { return w.Kind == "doubt" })
				})
			}
			proxy.Refuse(true)
			if tt.kill {
				a.front().Kill()
				a.waitExit()
			}
			proxy.Cut()
			proxy.Hold(tt.held, false)
			proxy.Refuse(false)
			if tt.kill {
				a.start()
			}
			if tt.held == rabbittest.Down && !tt.resume {
				a.eventually("it is not taken to be this machine's", func() bool {
					return strings.Contains(a.stderr.String(), "may be in its queue; asking again")
				})
			}
			runs := a
			if tt.resume {
				if _, err := a.client.Resume(t.Context()); err != nil {
					t.Fatal(err)
				}
			} else {
				runs = newWorker(t, 1, fmt.Sprintf(url, rabbit.Addr()), "other")
				t.Cleanup(func() {
					a.stop()
					runs.stop()
				})
				runs.eventually("the other has it", func() bool { _, err := runs.client.Job(t.Context(), "alone"); return err == nil })
			}
			if _, err := a.client.Cancel(t.Context(), big.ID, "done"); err != nil {
				t.Fatal(err)
			}
			if job := runs.wait("alone"); job.State != "succeeded" || job.Attempt != 1 || runs.log("alone") != "it runs\n" {
				t.Errorf("job %+v, log %q", job, runs.log("alone"))
			}
			if runs != a {
				a.eventually("it is forgotten here", func() bool { _, err := a.client.Job(t.Context(), "alone"); return err != nil })
			}
			a.eventually("no copy is left", func() bool {
				ready, unacked := rabbit.Depth(t, vhost, "celery")
				return ready+unacked == 0
			})
			a.wait(big.ID)
		})
	}
}

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
