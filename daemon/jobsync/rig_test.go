package jobsync

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"girderworker/daemon/attempt"
	"girderworker/queue"
	"girderworker/transforms/girder/girdertest"
)

// clock is time that only passes when it is told to, or, when it leaps, whenever
// nothing but time is waited for.
type clock struct {
	mu      sync.Mutex
	now     time.Time
	set     time.Duration // how far it was set forward
	leaps   bool
	waiting map[chan time.Time]time.Time
	changed func()
}

func newClock() *clock {
	return &clock{now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), waiting: map[chan time.Time]time.Time{}, changed: func() {}}
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Timer(d time.Duration, idle bool) (<-chan time.Time, func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.changed()
	ch := make(chan time.Time, 1)
	if c.leaps && idle || d <= 0 {
		c.now = c.now.Add(d)
		ch <- c.now
		return ch, func() bool { return true }
	}
	c.waiting[ch] = c.now.Add(d)
	return ch, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiting, ch)
		return true
	}
}

// leap has time leap from now on.
func (c *clock) leap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaps = true
}

// setBy sets the clock, in which no time passes.
func (c *clock) setBy(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.set = c.now.Add(d), c.set+d
	for ch, at := range c.waiting {
		c.waiting[ch] = at.Add(d)
	}
}

func (c *clock) elapsed() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now.Sub(newClock().now) - c.set
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for ch, at := range c.waiting {
		if !at.After(c.now) {
			ch <- c.now
			delete(c.waiting, ch)
		}
	}
}

// rig is a queue, a Girder and a syncer between them.
type rig struct {
	*testing.T
	dir    string
	store  *queue.Store
	girder *girdertest.Server
	user   string
	clock  *clock
	log    *lockedBuffer

	mu     sync.Mutex
	change chan struct{} // closed and made anew after every call and wait
	// around, when set, sees every call of the syncer.
	around func(w http.ResponseWriter, r *http.Request, form url.Values, next http.Handler)

	syncer *Syncer
	stop   context.CancelFunc
	done   chan struct{}
	config Config
}

func newRig(t *testing.T) *rig { return newRigLimit(t, 0) }

func newRigLimit(t *testing.T, logLimit int) *rig {
	r := &rig{T: t, dir: t.TempDir(), clock: newClock(), log: new(lockedBuffer), change: make(chan struct{})}
	r.clock.changed = r.changed
	must(t, os.MkdirAll(filepath.Join(r.dir, "jobs"), 0o755))
	r.girder = girdertest.New(t, girdertest.Config{LogLimit: logLimit, Handler: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			defer r.changed()
			r.mu.Lock()
			around := r.around
			r.mu.Unlock()
			if around != nil {
				body, _ := io.ReadAll(req.Body)
				req.Body = io.NopCloser(bytes.NewReader(body))
				form, _ := url.ParseQuery(string(body))
				around(w, req, form, next)
				return
			}
			next.ServeHTTP(w, req)
		})
	}})
	r.user = r.girder.AddUser(false)
	var err error
	r.store, err = queue.Open(queue.Options{Dir: filepath.Join(r.dir, "queue"), Now: r.clock.Now, Elapsed: r.clock.elapsed})
	must(t, err)
	r.config = Config{
		Queue: r.store, StateDir: r.dir, Clock: r.clock,
		Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	t.Cleanup(func() {
		r.end()
		if err := r.store.Check(); err != nil {
			t.Error(err)
		}
		r.store.Close()
	})
	return r
}

// begin starts the syncer, end ends it: what it had in memory is gone.
func (r *rig) begin() *rig {
	ctx, stop := context.WithCancel(context.Background())
	r.syncer, r.stop, r.done = New(r.config), stop, make(chan struct{})
	done, s := r.done, r.syncer
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	return r
}

func (r *rig) end() {
	if r.stop != nil {
		r.stop()
		<-r.done
		r.stop = nil
	}
}

// during sets what sees every call from now on.
func (r *rig) during(around func(w http.ResponseWriter, req *http.Request, form url.Values, next http.Handler)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.around = around
}

func (r *rig) changed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.change)
	r.change = make(chan struct{})
}

// until waits for a condition, which is looked at after every call and wait.
func (r *rig) until(what string, cond func() bool) {
	r.Helper()
	late := time.After(2 * time.Minute)
	for {
		r.mu.Lock()
		change := r.change
		r.mu.Unlock()
		if cond() {
			return
		}
		select {
		case <-change:
		case <-time.After(20 * time.Millisecond): // a commit is no call
		case <-late:
			r.Fatalf("it never came to this: %s\n%s", what, r.log.tail())
		}
	}
}

// told waits until nobody is to be told of anything any more.
func (r *rig) told() {
	r.Helper()
	r.until("everything is told", func() bool {
		jobs, err := r.store.Pending(0, 1)
		must(r, err)
		return len(jobs) == 0
	})
}

// job is a job in the queue and in Girder.
type job struct {
	*rig
	id, girderID, token string
	attempt             int
	dir                 attempt.Dir
	log                 *attempt.LogWriter
	events              *attempt.EventWriter
}

func (r *rig) submit(id, handler string, change ...func(*queue.Submission)) *job {
	r.Helper()
	j := &job{rig: r, id: id}
	j.girderID, j.token = r.girder.AddJob(r.user, handler)
	target, err := ParseJobInfo(map[string]any{
		"method": "PUT", "url": r.girder.API() + "/job/" + j.girderID, "reference": j.girderID, "logPrint": true,
		"headers": map[string]any{"Girder-Token": j.token},
	})
	must(r, err)
	sub := queue.Submission{
		ID: id, Source: queue.SourceAMQP, Owner: "girder", Task: "docker_run", Report: queue.SinkGirder, Body: []byte("{}"),
	}
	sub.Origin, sub.Secrets, err = target.Split(nil, nil)
	must(r, err)
	for _, c := range change {
		c(&sub)
	}
	_, err = r.store.Submit(context.Background(), sub)
	must(r, err)
	return j
}

// claim begins an attempt of every job that waits.
func (r *rig) claim(jobs ...*job) {
	r.Helper()
	claimed, err := r.store.Claim(context.Background(), queue.Capacity{Slots: 1000, CPUs: 1000, Memory: 1 << 40}, "boot", 1000)
	must(r, err)
	for _, c := range claimed {
		i := slices.IndexFunc(jobs, func(j *job) bool { return j.id == c.ID })
		if i < 0 {
			r.Fatalf("claimed %s", c.ID)
		}
		j := jobs[i]
		j.attempt = c.Attempt
		j.dir, err = attempt.NewDir(r.dir, j.id, c.Attempt)
		must(r, err)
	}
}

// start makes the attempt's directory, as the monitor and the runner do.
func (j *job) start() *job {
	j.Helper()
	must(j, j.dir.Create(os.Getgid()))
	var err error
	j.events, err = j.dir.CreateEvents(os.Getgid())
	must(j, err)
	j.log = j.dir.NewLogWriter(1<<30, os.Getgid())
	must(j, j.store.Started(context.Background(), j.id, j.attempt, j.clock.Now()))
	return j
}

func (j *job) write(text string) *job {
	j.log.Append(attempt.LogStdout, time.Now(), []byte(text))
	j.log.Flush()
	return j
}

func (j *job) progress(total, current float64, message string) {
	j.Helper()
	must(j, j.events.Append(attempt.Event{Progress: &attempt.Progress{Total: total, Current: current, Message: message}}))
}

// exit ends the attempt.
func (j *job) exit(r queue.Result) {
	j.Helper()
	if j.log != nil {
		_, _, err := j.log.Close()
		must(j, err)
		must(j, j.events.Close())
	}
	_, err := j.store.Finish(context.Background(), j.id, j.attempt, &r, "", j.clock.Now())
	must(j, err)
}

func (j *job) succeed() { j.Helper(); j.exit(queue.Result{Outcome: "exited"}) }

// statuses are those that the Girder job came to, in order.
func (j *job) statuses() string {
	var all []int
	for _, s := range j.girder.Job(j.girderID).Timestamps {
		all = append(all, s.Status)
	}
	return fmt.Sprint(all)
}

func (j *job) girderLog() string { return strings.Join(j.girder.Job(j.girderID).Log, "") }

func (j *job) queued() queue.Job {
	j.Helper()
	q, err := j.store.Job(j.id)
	must(j, err)
	return q
}

type fatal interface {
	Helper()
	Fatal(...any)
}

func must(t fatal, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *lockedBuffer) tail() string {
	s := b.String()
	return s[max(0, len(s)-4000):]
}
