package daemon_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"girderworker/daemon/amqp/rabbittest"
	"girderworker/transforms/girder/girdertest"
)

// doubt has a daemon take a task that is on its disk and of which the
// acknowledgement has not left the machine. Without g it has no job in Girder.
func doubt(t *testing.T, g *girdertest.Server) (w *world, proxy *rabbittest.Proxy, direct string, job loadJob) {
	vhost := rabbit.Vhost(t)
	proxy = rabbittest.NewProxy(t, rabbit.Addr())
	url := "amqp://guest:guest@%s/" + vhost + "?heartbeat=2"
	direct = fmt.Sprintf(url, rabbit.Addr())
	w = newWorker(t, 2, fmt.Sprintf(url, proxy.Addr()), "test") // with one slot it would cancel its consumer first
	job = loadJob{Task: "alone", Args: []string{"-c", "echo it runs"}}
	if g != nil {
		job = tasks(g, g.API(), 1, "echo it runs")[0]
	}
	publisher := publish(t, vhost)
	w.eventually("it waits for tasks", func() bool { return publisher.consumers("celery") == 1 })
	proxy.Hold(rabbittest.Up, true)
	publisher.task(job)
	w.eventually("it has come", func() bool { _, err := w.client.Job(t.Context(), job.Task); return err == nil })
	if j := w.job(job.Task); j.Attempt != 0 {
		t.Errorf("it was started in doubt: %+v", j)
	}
	return w, proxy, direct, job
}

// TestDoubtElsewhere: a task that was committed and never acknowledged, and that
// another machine has run meanwhile, is forgotten.
func TestDoubtElsewhere(t *testing.T) {
	g := girdertest.New(t, girdertest.Config{})
	a, proxy, direct, job := doubt(t, g)
	proxy.Refuse(true)
	proxy.Cut()
	b := newWorker(t, 1, direct, "other")
	t.Cleanup(func() {
		a.stop()
		b.stop()
	})
	b.eventually("the other has it", func() bool { _, err := b.client.Job(t.Context(), job.Task); return err == nil })
	if j := b.wait(job.Task); j.State != "succeeded" {
		t.Errorf("there it is %+v", j)
	}
	a.eventually("it is forgotten here", func() bool { _, err := a.client.Job(t.Context(), job.Task); return err != nil })
	told(t, g, b, job)
}

// TestDoubtPeers: the same without a job in Girder, where only the other machine knows.
func TestDoubtPeers(t *testing.T) {
	a, proxy, direct, job := doubt(t, nil)
	proxy.Refuse(true)
	proxy.Cut()
	b := newWorker(t, 1, direct, "other")
	t.Cleanup(func() {
		a.stop()
		b.stop()
	})
	b.eventually("the other has it", func() bool { _, err := b.client.Job(t.Context(), job.Task); return err == nil })
	proxy.Hold(rabbittest.Up, false)
	proxy.Refuse(false)
	a.eventually("it is forgotten here", func() bool { _, err := a.client.Job(t.Context(), job.Task); return err != nil })
	if j := b.wait(job.Task); j.State != "succeeded" || j.Attempt != 1 || b.log(job.Task) != "it runs\n" {
		t.Errorf("there it is %+v", j)
	}
	a.eventually("it says why", func() bool { return strings.Contains(a.stderr.String(), "celery@other has it") })
}

// TestMingle: a worker knows what was revoked while it was not there: not started
// yet, or cut off.
func TestMingle(t *testing.T) {
	a, c, vhost := newCeleryWorld(t, 1)
	revoke := func(id string) {
		t.Helper()
		c.Run(t, fmt.Sprintf("app.control.revoke(%q)\napp.control.inspect(timeout=30, limit=1).ping() # they come in order\n", id))
	}
	revoke("revoked-long-ago")
	proxy := rabbittest.NewProxy(t, rabbit.Addr())
	b := newWorker(t, 1, "amqp://guest:guest@"+proxy.Addr()+"/"+vhost, "other")
	t.Cleanup(func() {
		a.stop()
		b.stop()
	})
	met := func(times int) {
		t.Helper()
		b.eventually("they have met", func() bool { return strings.Count(b.stderr.String(), "Met another worker") == times })
	}
	met(1)
	proxy.Refuse(true)
	proxy.Cut()
	p := publish(t, vhost)
	b.eventually("it is cut off", func() bool { return p.consumers("celery") == 1 })
	revoke("revoked-meanwhile")
	proxy.Refuse(false)
	met(2)
	a.stop()
	for _, id := range []string{"revoked-long-ago", "revoked-meanwhile"} {
		p.task(loadJob{Task: id, Args: []string{"-c", "true"}})
		b.eventually("it has come", func() bool { _, err := b.client.Job(t.Context(), id); return err == nil })
		if j := b.wait(id); j.State != "canceled" || j.Attempt != 0 {
			t.Errorf("job %+v", j)
		}
	}
}

// TestMingleAlarm: a worker that finds RabbitMQ short of memory takes tasks all the
// same, and their results arrive when it is not any more.
func TestMingleAlarm(t *testing.T) {
	vhost := rabbit.Vhost(t)
	p := publish(t, vhost)
	if _, err := p.ch.QueueDeclare("celery", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	p.task(loadJob{Task: "alone", Args: []string{"-c", "echo it runs"}})
	rabbit.Alarm(t, true)
	alarm := sync.OnceFunc(func() { rabbit.Alarm(t, false) })
	defer alarm()
	w := newWorker(t, 1, "amqp://guest:guest@"+rabbit.Addr()+"/"+vhost, "test")
	t.Cleanup(w.stop)
	w.eventually("it has come", func() bool { _, err := w.client.Job(t.Context(), "alone"); return err == nil })
	if j := w.wait("alone"); j.State != "succeeded" {
		t.Errorf("job %+v", j)
	}
	alarm()
	w.eventually("it is ready", func() bool {
		st, err := w.client.Status(t.Context())
		return err == nil && st.Broker != nil && len(st.Broker.Problems) == 0 && st.Reports.Pending() == 0
	})
}

// told waits until Girder has the whole of a job that ran once.
func told(t *testing.T, g *girdertest.Server, w *world, job loadJob) {
	t.Helper()
	w.eventually("Girder has it", func() bool { return g.Job(job.girder).Status == 3 })
	var statuses []int
	j := g.Job(job.girder)
	for _, s := range j.Timestamps {
		statuses = append(statuses, s.Status)
	}
	if fmt.Sprint(statuses) != "[2 3]" || strings.Count(strings.Join(j.Log, ""), "it runs") != 1 {
		t.Errorf("statuses %v, log %q", statuses, j.Log)
	}
}

// TestDoubtKilled: the front is killed between the commit and the acknowledgement.
// Its next start waits for the second delivery, and the task runs once.
func TestDoubtKilled(t *testing.T) {
	g := girdertest.New(t, girdertest.Config{})
	w, proxy, _, job := doubt(t, g)
	proxy.Refuse(true)
	w.front().Kill()
	w.waitExit()
	w.start()
	w.eventually("the next front knows of the doubt", func() bool {
		return strings.Contains(w.stderr.String(), "may be another machine's")
	})
	if j := w.job(job.Task); j.State != "queued" || j.Attempt != 0 {
		t.Errorf("it was started in doubt: %+v", j)
	}
	why, err := w.client.Why(t.Context(), job.Task)
	if err != nil || len(why.Waits) != 1 || why.Waits[0].Kind != "doubt" {
		t.Errorf("why: %+v, %v", why, err)
	}
	proxy.Hold(rabbittest.Up, false)
	proxy.Cut()
	proxy.Refuse(false)
	if j := w.wait(job.Task); j.State != "succeeded" || j.Attempt != 1 {
		t.Errorf("job %+v", j)
	}
	told(t, g, w, job)
}

// TestDoubtLost: RabbitMQ has the acknowledgement, and the answer is lost. Nobody
// else has the task, so it runs here in the end.
func TestDoubtLost(t *testing.T) {
	g := girdertest.New(t, girdertest.Config{})
	w, proxy, _, job := doubt(t, g)
	proxy.Hold(rabbittest.Down, true)
	proxy.Hold(rabbittest.Up, false)
	w.eventually("RabbitMQ has answered", func() bool { return proxy.Held(rabbittest.Down) > 0 })
	proxy.Cut()
	proxy.Hold(rabbittest.Down, false)
	if j := w.wait(job.Task); j.State != "succeeded" || j.Attempt != 1 {
		t.Errorf("job %+v", j)
	}
	told(t, g, w, job)
}
