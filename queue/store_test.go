package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// open opens a store in a new directory and checks it at the end of the test.
func open(t testing.TB, change ...func(*Options)) *Store {
	t.Helper()
	o := Options{Dir: filepath.Join(t.TempDir(), "state"), Jitter: func() float64 { return 0 }}
	for _, c := range change {
		c(&o)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Check(); err != nil && !isClosed(s) {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func isClosed(s *Store) bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

func withClock(c *clock) func(*Options) { return func(o *Options) { o.Now = c.now } }

// sub is a small submission; change adds to it.
func sub(change ...func(*Submission)) Submission {
	s := Submission{
		Source: SourceSocket, Owner: "uid:1000", Identity: Identity{UID: 1000, GID: 1000}, Task: "docker_run",
		Priority: 5, Needs: Needs{CPUs: 1, Memory: 1 << 20}, Body: json.RawMessage(`{"image":"x"}`), BodyHash: "h",
	}
	for _, c := range change {
		c(&s)
	}
	return s
}

func named(id string) func(*Submission)     { return func(s *Submission) { s.ID = id } }
func ownedBy(o string) func(*Submission)    { return func(s *Submission) { s.Owner = o } }
func priority(p int) func(*Submission)      { return func(s *Submission) { s.Priority = p } }
func after(ids ...string) func(*Submission) { return func(s *Submission) { s.After = ids } }
func afterAny(ids ...string) func(*Submission) {
	return func(s *Submission) { s.AfterAny = ids }
}
func needs(cpus float64, memory int64) func(*Submission) {
	return func(s *Submission) { s.Needs = Needs{CPUs: cpus, Memory: memory} }
}
func reporting(s *Submission) { s.Report = SinkGirder }

var roomy = Capacity{Slots: 64, CPUs: 64, Memory: 1 << 40, GPUs: 8}

var ctx = context.Background()

func submit(t testing.TB, s *Store, subs ...Submission) []Job {
	t.Helper()
	acc, err := s.Submit(ctx, subs...)
	if err != nil {
		t.Fatal(err)
	}
	jobs := make([]Job, len(acc))
	for i := range acc {
		jobs[i] = acc[i].Job
	}
	return jobs
}

func claim(t testing.TB, s *Store, total Capacity, max int) []Job {
	t.Helper()
	jobs, err := s.Claim(ctx, total, "boot", max)
	if err != nil {
		t.Fatal(err)
	}
	return jobs
}

func claimIDs(t testing.TB, s *Store, total Capacity, max int) (ids []string) {
	t.Helper()
	for _, j := range claim(t, s, total, max) {
		ids = append(ids, j.ID)
	}
	return ids
}

func job(t testing.TB, s *Store, id string) Job {
	t.Helper()
	j, err := s.Job(id)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func wantState(t testing.TB, s *Store, id string, want State) Job {
	t.Helper()
	j := job(t, s, id)
	if j.State != want {
		t.Fatalf("job %s is %s (%s), want %s", id, j.State, j.Reason, want)
	}
	return j
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run takes a claimed job to its end with an exit code.
func run(t testing.TB, s *Store, id string, code int) Job {
	t.Helper()
	j := job(t, s, id)
	must(t, s.Started(ctx, id, j.Attempt, s.now()))
	must(t, s.Exited(ctx, id, j.Attempt, Result{Outcome: "exited", Code: code}, s.now()))
	j, err := s.Finish(ctx, id, j.Attempt, nil, "", s.now())
	must(t, err)
	return j
}

func TestLife(t *testing.T) {
	s := open(t)
	j := submit(t, s, sub(reporting))[0]
	if j.State != Queued || j.Seq != 1 || j.Version != 1 || len(j.ID) != 11 {
		t.Fatalf("accepted %+v", j)
	}
	got := claim(t, s, roomy, 10)
	if len(got) != 1 || got[0].ID != j.ID || got[0].Attempt != 1 || string(got[0].Body) != string(j.Body) || got[0].BootID != "boot" {
		t.Fatalf("claimed %+v", got)
	}
	if use := s.InUse(); use != (Capacity{Slots: 1, CPUs: 1, Memory: 1 << 20}) {
		t.Errorf("in use %+v", use)
	}
	must(t, s.Started(ctx, j.ID, 1, time.Now()))
	must(t, s.Exited(ctx, j.ID, 1, Result{Outcome: "exited", Detail: json.RawMessage(`{"a":1}`)}, time.Now()))
	if use := s.InUse(); use != (Capacity{}) {
		t.Errorf("finishing holds %+v", use)
	}
	end, err := s.Finish(ctx, j.ID, 1, nil, "", time.Now())
	must(t, err)
	if end.State != Succeeded || end.Finished.IsZero() {
		t.Fatalf("finished %+v", end)
	}
	must(t, s.moveFinished(ctx))
	again := job(t, s, j.ID)
	if again.State != Succeeded || string(again.Body) != string(j.Body) || string(again.Result.Detail) != `{"a":1}` {
		t.Fatalf("from the history %+v", again)
	}
	if c := s.Counts(); c[Succeeded] != 1 || c[Queued] != 0 {
		t.Errorf("counts %v", c)
	}
	events := allEvents(t, s)
	var order []string
	for _, e := range events {
		order = append(order, fmt.Sprint(e.State, e.Attempt))
	}
	if fmt.Sprint(order) != "[queued0 preparing1 running1 finishing1 succeeded1]" {
		t.Errorf("events %v", order)
	}
	must(t, s.Delivered(ctx, j.Seq, events[1].Seq, SinkGirder))
	if events = allEvents(t, s); len(events) != 3 || events[0].State != Running {
		t.Errorf("pending %v", events)
	}
}

// allEvents is what the outbox holds, job by job.
func allEvents(t fatal, s *Store) (all []Event) {
	jobs, err := s.Pending(0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range jobs {
		events, err := s.Events(j.Seq)
		if err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 || !events[0].Time.Equal(j.Oldest) {
			t.Fatalf("job %d is pending with %v", j.Seq, events)
		}
		all = append(all, events...)
	}
	return all
}

// fatal is what a test and a random test have in common.
type fatal interface {
	Fatal(...any)
	Fatalf(string, ...any)
}

// reopen closes s and opens its directory again with the same clock.
func reopen(t testing.TB, s *Store) *Store {
	t.Helper()
	must(t, s.Check())
	must(t, s.Close())
	return open(t, func(o *Options) {
		o.Dir, o.Now, o.Jitter, o.MaxJobs, o.Retention = s.dir, s.now, s.jitter, int(s.maxJobs.Load()), *s.retention.Load()
	})
}
