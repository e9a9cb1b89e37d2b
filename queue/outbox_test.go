package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

func told(sinks Sinks) func(*Submission) { return func(s *Submission) { s.Report = sinks } }

func secret(s *Submission) { s.Secrets, s.Origin = []byte("s3cret-token"), []byte(`{"from":"girder"}`) }

// TestSinks: each sink has its events in order and at its own pace, and the
// secrets go with the last event of all.
func TestSinks(t *testing.T) {
	s := open(t)
	j := submit(t, s, sub(named("j"), told(SinkGirder|SinkCelery), secret))[0]
	if _, all := s.Reportable(); !all {
		t.Error("after the start, what there is from before is not asked for")
	}
	claim(t, s, roomy, 1)
	run(t, s, "j", 0)
	if jobs, all := s.Reportable(); all || len(jobs) != 1 || jobs[0].Seq != j.Seq || jobs[0].Left != allSinks {
		t.Errorf("reportable %v %t", jobs, all)
	}
	must(t, s.moveFinished(ctx))
	must(t, s.SetReport(ctx, j.Seq, []byte("so far")))
	r, err := s.Reporting(j.Seq)
	must(t, err)
	if string(r.Report) != "so far" || string(r.Secrets) != "s3cret-token" || string(r.Job.Origin) != `{"from":"girder"}` || r.Job.State != Succeeded {
		t.Fatalf("reporting %+v", r)
	}
	var left []string
	for _, e := range r.Events {
		left = append(left, fmt.Sprint(e.State, e.Left))
	}
	if fmt.Sprint(left) != "[queued1 preparing1 running1 finishing1 succeeded3]" {
		t.Errorf("events %v", left)
	}
	last := r.Events[4].Seq
	must(t, s.Delivered(ctx, j.Seq, last, SinkCelery))
	if p, _ := s.Pending(0, 0); len(p) != 1 || p[0].Left != SinkGirder {
		t.Errorf("pending %+v", p)
	}
	if err := s.Remove(ctx, "j"); !errors.Is(err, ErrUntold) {
		t.Errorf("removed while Girder waits: %v", err)
	}
	must(t, s.SetUntold(ctx, j.Seq, "the token was refused"))
	s = reopen(t, s)
	must(t, s.Delivered(ctx, j.Seq, last, SinkGirder))
	if got, err := s.Secrets(ctx, "j"); got != nil || err != nil {
		t.Errorf("secrets %q are left (%v)", got, err)
	}
	if got := job(t, s, "j"); got.Untold != "the token was refused" || string(got.Origin) != `{"from":"girder"}` {
		t.Errorf("in the history: %+v", got)
	}
	must(t, s.SetReport(ctx, j.Seq, []byte("too late"))) // leaves nothing behind
	must(t, s.Check())
	must(t, s.Remove(ctx, "j"))
}

// TestSecretsOfUnreported: nobody is told, so they go with the end.
func TestSecretsOfUnreported(t *testing.T) {
	s := open(t)
	submit(t, s, sub(named("j"), secret))
	claim(t, s, roomy, 1)
	if got, err := s.Secrets(ctx, "j"); string(got) != "s3cret-token" || err != nil {
		t.Fatalf("secrets %q, %v", got, err)
	}
	run(t, s, "j", 0)
	if got, err := s.Secrets(ctx, "j"); got != nil || err != nil {
		t.Errorf("secrets %q are left (%v)", got, err)
	}
	if _, err := s.Secrets(ctx, "nobody"); !errors.Is(err, ErrNotFound) {
		t.Errorf("of no job: %v", err)
	}
}

// TestSecretsBackup: neither those that are needed nor those that are not any more.
func TestSecretsBackup(t *testing.T) {
	s := open(t)
	submit(t, s, sub(named("old"), secret))
	must(t, errOf(s.Cancel(ctx, "old", "")))
	submit(t, s, sub(named("j"), told(SinkGirder), secret))
	var w bytes.Buffer
	must(t, s.Backup(ctx, &w))
	if bytes.Contains(w.Bytes(), []byte("s3cret-token")) {
		t.Error("a backup holds a token")
	}
	if !bytes.Contains(w.Bytes(), []byte(`{"from":"girder"}`)) {
		t.Error("a backup lacks an origin")
	}
}

func errOf(_ Job, err error) error { return err }

// TestSweepUntold: the retention waits for whoever has to be told.
func TestSweepUntold(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	s.SetRetention(Retention{Age: time.Hour})
	submit(t, s, sub(named("a"), told(SinkGirder)), sub(named("b")))
	for _, id := range []string{"a", "b"} {
		must(t, errOf(s.Cancel(ctx, id, "")))
	}
	c.add(2 * time.Hour)
	ids, err := s.Sweep(ctx)
	must(t, err)
	if !slices.Equal(ids, []string{"b"}) {
		t.Errorf("swept %v", ids)
	}
	events := allEvents(t, s)
	must(t, s.Delivered(ctx, 1, events[len(events)-1].Seq, SinkGirder))
	if ids, err = s.Sweep(ctx); err != nil || !slices.Equal(ids, []string{"a"}) {
		t.Errorf("swept %v (%v)", ids, err)
	}
}

func TestSetMaxJobs(t *testing.T) {
	s := open(t)
	s.SetMaxJobs(1)
	submit(t, s, sub())
	if _, err := s.Submit(ctx, sub()); !errors.Is(err, ErrFull) {
		t.Errorf("a second job: %v", err)
	}
	s.SetMaxJobs(2)
	submit(t, s, sub())
}

// TestReportableOverflow: whoever does not ask for long is told to look at everything.
func TestReportableOverflow(t *testing.T) {
	var r reportable
	jobs := make([]PendingJob, maxReportable+1)
	for i := range jobs {
		jobs[i].Seq = uint64(i)
	}
	r.add(jobs)
	if !r.all || r.jobs != nil {
		t.Errorf("%d are remembered", len(r.jobs))
	}
}

// TestMigrate1 builds the first layout by hand.
func TestMigrate1(t *testing.T) {
	s := open(t)
	submit(t, s, sub(named("a")), sub(named("b")))
	must(t, errOf(s.Cancel(ctx, "b", "")))
	must(t, s.moveFinished(ctx))
	must(t, s.Close())
	for name, buckets := range map[string][][]byte{
		activeName: {bucketOrigins, bucketSecrets, bucketReports, bucketDoubtful}, historyName: {bucketOrigins},
	} {
		edit(t, filepath.Join(s.dir, name), func(tx *bolt.Tx) error {
			for _, b := range buckets {
				must(t, tx.DeleteBucket(b))
			}
			if name == activeName {
				must(t, tx.Bucket(bucketOutbox).Put(seqKey(1), []byte("an event of version 1")))
			}
			return activeSchema.stamp(tx, 1)
		})
	}
	s = open(t, func(o *Options) { o.Dir = s.dir })
	must(t, s.Check())
	for id, want := range map[string]State{"a": Queued, "b": Canceled} {
		if j := job(t, s, id); j.State != want || len(j.Body) == 0 {
			t.Errorf("after the migration: %+v", j)
		}
	}
	submit(t, s, sub(told(SinkGirder), secret))
	must(t, s.Check())
}

// BenchmarkPending reads what 100,000 jobs have still to tell.
func BenchmarkPending(b *testing.B) {
	s := open(b)
	subs := make([]Submission, 1000)
	for i := range subs {
		subs[i] = sub(told(SinkGirder), secret)
	}
	for range 100 {
		if _, err := s.Submit(context.Background(), subs...); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		n := 0
		for after := uint64(0); ; {
			jobs, err := s.Pending(after, 0)
			if err != nil {
				b.Fatal(err)
			}
			if len(jobs) == 0 {
				break
			}
			n += len(jobs)
			after = jobs[len(jobs)-1].Seq
		}
		if n != 100_000 {
			b.Fatal(n)
		}
	}
}
