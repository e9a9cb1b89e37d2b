package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"girderworker/daemon/amqp/celerytest"
	"girderworker/daemon/amqp/rabbittest"
	"girderworker/transforms/girder/girdertest"
)

// long tells whether tests under load are to run in full: CELERY_LOAD=1, as
// `make celerytest` does.
func long() bool { return os.Getenv("CELERY_LOAD") != "" }

// loadJob is a task of docker_run with a job in Girder.
type loadJob struct {
	Task   string         `json:"task"` // its id
	Args   []string       `json:"args"` // of the container
	Spec   map[string]any `json:"spec"` // jobInfoSpec
	girder string
}

// tasks makes n jobs in Girder, which is reached at api, each for a task that runs
// a shell script.
func tasks(g *girdertest.Server, api string, n int, script string) (all []loadJob) {
	user := g.AddUser(false)
	for i := range n {
		id, token := g.AddJob(user, "celery_handler")
		all = append(all, loadJob{
			Task: fmt.Sprintf("load-%04d", i), Args: []string{"-c", script}, girder: id,
			Spec: map[string]any{
				"method": "PUT", "url": api + "/job/" + id, "reference": id, "logPrint": true,
				"headers": map[string]any{"Girder-Token": token},
			},
		})
	}
	return all
}

// send submits them with the real client.
func send(t testing.TB, c *celerytest.Client, jobs []loadJob) {
	t.Helper()
	data, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	c.Run(t, fmt.Sprintf(`
for job in json.loads(%q):
    app.send_task('girder_worker.docker.tasks.docker_run', args=['busybox'], task_id=job['task'],
        kwargs=dict(container_args=job['args'], entrypoint='sh', pull_image=False), headers={'jobInfoSpec': job['spec']})
`, data))
}

// through is a proxy before a server of the test.
func through(t testing.TB, server string) (*rabbittest.Proxy, string) {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	p := rabbittest.NewProxy(t, u.Host)
	u.Host = p.Addr()
	return p, u.String()
}

// TestCeleryOutages restarts RabbitMQ again and again, and takes Girder away for a
// while, under a load of tasks with jobs in Girder. Nothing is lost, nothing runs
// twice, and Girder has every line of every log in order; lines may be there twice
// where a call was applied and its answer lost, which is counted.
func TestCeleryOutages(t *testing.T) {
	n, restarts, away := 40, 2, 2*time.Second
	if long() {
		n, restarts, away = 500, 20, time.Minute
	}
	const lines = 8
	w, c, vhost := newCeleryWorld(t, 4)
	g := girdertest.New(t, girdertest.Config{})
	proxy, api := through(t, g.API())
	// Each run has a name of its own, so that one that is reported twice differs from
	// one that ran twice.
	jobs := tasks(g, api, n, fmt.Sprintf(`run=$(cat /proc/sys/kernel/random/uuid)
i=0; while [ $i -lt %d ]; do echo "run $run line $i"; i=$((i+1)); usleep 20000; done`, lines))
	send(t, c, jobs)

	done := func() (n int) {
		for i := range jobs {
			if s := g.Job(jobs[i].girder).Status; s >= 3 && s <= 5 {
				n++
			}
		}
		return n
	}
	began := time.Now()
	var work sync.WaitGroup
	work.Go(func() {
		w.eventually("a few are done", func() bool { return done() >= n/20 })
		proxy.Refuse(true)
		proxy.Cut()
		time.Sleep(away) // it is the outage that is measured here, not waited for
		proxy.Refuse(false)
	})
	for i := range restarts {
		// Spread over the load, as far as it goes on.
		until := time.Now().Add(5 * time.Second)
		w.eventually("the load goes on", func() bool {
			return w.counts()["succeeded"] >= n*(i+1)/(restarts+2) || time.Now().After(until)
		})
		rabbit.Restart(t, nil)
	}
	work.Wait()
	deadline := time.Now().Add(10 * time.Minute)
	for done() < n && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	took := time.Since(began)
	pattern := regexp.MustCompile(`run ([-0-9a-f]{36}) line (\d+)\n`)
	twice := 0
	for i := range jobs {
		j := g.Job(jobs[i].girder)
		var statuses []int
		for _, s := range j.Timestamps {
			statuses = append(statuses, s.Status)
		}
		if got := fmt.Sprint(statuses); got != "[2 3]" {
			t.Errorf("%s: statuses %s", jobs[i].Task, got)
		}
		run, next := "", 0
		for _, m := range pattern.FindAllStringSubmatch(strings.Join(j.Log, ""), -1) {
			if run == "" {
				run = m[1]
			}
			var line int
			fmt.Sscan(m[2], &line)
			switch {
			case m[1] != run:
				t.Errorf("%s ran twice: %s and %s", jobs[i].Task, run, m[1])
			case line < next:
				twice++
			case line > next:
				t.Errorf("%s: line %d comes after %d", jobs[i].Task, line, next-1)
				next = line + 1
			default:
				next++
			}
		}
		if next != lines {
			t.Errorf("%s: %d of %d lines", jobs[i].Task, next, lines)
		}
		if job := w.job(jobs[i].Task); job.State != "succeeded" || job.Attempt != 1 {
			t.Errorf("job %+v", job)
		}
		if t.Failed() && i > 20 {
			break
		}
	}
	st, err := w.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d jobs, %d restarts of RabbitMQ, Girder away for %v: %v; %d lines twice, %d pieces counted as possible duplicates",
		n, restarts, away, took.Round(time.Second), twice, st.Reports.Duplicates)
	if twice > 0 && st.Reports.Duplicates == 0 {
		t.Errorf("lines are there twice, and none was counted")
	}
	w.eventually("the queue is empty", func() bool {
		ready, unacked := rabbit.Depth(t, vhost, "celery")
		return ready+unacked == 0
	})
}

// counts are the daemon's jobs by state.
func (w *world) counts() map[string]int {
	st, err := w.client.Status(w.t.Context())
	if err != nil {
		w.t.Logf("no status: %v", err)
		return nil
	}
	return st.Jobs
}

// TestCelerySharing: two daemons share a queue evenly, neither holds more than it
// can start, and what one that is killed had not started the other does.
func TestCelerySharing(t *testing.T) {
	const slots = 2
	n := 60
	if long() {
		n = 1000
	}
	a, c, vhost := newCeleryWorld(t, slots)
	b := newWorker(t, slots, "amqp://guest:guest@"+rabbit.Addr()+"/"+vhost, "other")
	t.Cleanup(func() { // before each looks for what is left of it, which cannot tell them apart
		a.stop()
		b.stop()
	})
	gate := a.shared() // by which tasks are told to end
	for _, w := range []*world{a, b} {
		if err := os.WriteFile(filepath.Join(w.dir, "etc", "no-policy.toml"), fmt.Appendf(nil, "[amqp]\nread = [%q]\n", gate), 0o644); err != nil {
			t.Fatal(err)
		}
		w.eventually("the policy is read", func() bool { return strings.Contains(w.stderr.String(), "Policy reloaded") })
	}
	run := func(from, n int, script string) {
		c.Run(t, fmt.Sprintf(`
for i in range(%d, %d):
    app.send_task('girder_worker.docker.tasks.docker_run', args=['busybox'], task_id='share-%%04d' %% i, ignore_result=True,
        kwargs=dict(container_args=['-c', %q], entrypoint='sh', pull_image=False, volumes={%q: {'bind': '/gate', 'mode': 'ro'}}))
`, from, from+n, script, gate))
	}
	// Each asks its peers for a moment before it takes tasks, and not in step.
	a.eventually("both take tasks", func() bool {
		return rabbit.HasQueue(t, vhost, "celery") && rabbit.Consumers(t, vhost, "celery") == 2
	})
	most := 0
	// The shares are measured while there is more than both can do.
	run(0, n, "usleep 50000")
	shares := func() (int, int) {
		var done [2]int
		for i, w := range []*world{a, b} {
			for state, n := range w.counts() {
				if state == "succeeded" {
					done[i] = n
				}
			}
			now := w.counts()
			most = max(most, now["queued"]+now["preparing"]+now["running"])
		}
		return done[0], done[1]
	}
	deadline := time.Now().Add(10 * time.Minute)
	for {
		x, y := shares()
		if x+y >= n {
			t.Logf("of %d jobs %d and %d; at most %d at a time on one", n, x, y, most)
			if x+y > n {
				t.Errorf("%d jobs ran, of %d", x+y, n)
			}
			if 10*x < 4*n || 10*y < 4*n { // within a fifth of a half
				t.Errorf("the shares are %d and %d", x, y)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d and %d of %d are done", x, y, n)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if most > slots {
		t.Errorf("one held %d jobs, with %d slots", most, slots)
	}

	const more = 20
	run(n, more, "until [ -e /gate/open ]; do usleep 20000; done")
	a.eventually("it has some of them", func() bool { return a.counts()["running"] == slots })
	a.cmd.Process.Kill() // its runners live on
	<-a.exited
	if err := os.WriteFile(filepath.Join(gate, "open"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	had := func(w *world, id string) bool {
		_, err := w.client.Job(t.Context(), id)
		return err == nil
	}
	b.eventually("the other has done the rest", func() bool {
		ready, unacked := rabbit.Depth(t, vhost, "celery")
		return ready+unacked == 0 && b.counts()["running"]+b.counts()["preparing"]+b.counts()["queued"] == 0
	})
	a.start()
	for i := n; i < n+more; i++ {
		id := fmt.Sprintf("share-%04d", i)
		switch inA, inB := had(a, id), had(b, id); {
		case inA && inB:
			t.Errorf("both ran %s", id)
		case inA:
			a.wait(id)
		case inB:
			b.wait(id)
		default:
			t.Errorf("nobody ran %s", id)
		}
	}
}
