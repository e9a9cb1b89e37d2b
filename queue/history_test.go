package queue

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// endJobs makes n jobs that have succeeded, a minute apart.
func endJobs(t *testing.T, s *Store, c *clock, n int) (ids []string) {
	t.Helper()
	for range n {
		id := submit(t, s, sub())[0].ID
		claim(t, s, roomy, 1)
		run(t, s, id, 0)
		c.add(time.Minute)
		ids = append(ids, id)
	}
	return ids
}

// TestMoveInterrupted stops between the two halves of a move.
func TestMoveInterrupted(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	s.moveMu.Lock() // the mover waits, and finds the store closed
	unlock := sync.OnceFunc(s.moveMu.Unlock)
	defer unlock()
	ids := endJobs(t, s, c, 3)
	want := job(t, s, ids[1])
	// The first half, as moveSome does it.
	must(t, s.active.view(func(tx *bolt.Tx) error {
		return s.history.update(func(htx *bolt.Tx) error {
			for _, id := range ids[:2] {
				j, err := loadJob(tx, id)
				must(t, err)
				loadBodies(tx, &j)
				must(t, addHistory(htx, &j, encodeJob(&j)))
			}
			return nil
		})
	}))
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	<-s.closing
	unlock()
	must(t, <-closed)

	s = open(t, func(o *Options) { o.Dir, o.Now = s.dir, c.now })
	look := func() {
		t.Helper()
		if n := s.Counts()[Succeeded]; n != 3 {
			t.Errorf("%d jobs are counted", n)
		}
		list, err := s.List(Filter{})
		must(t, err)
		if len(list) != 3 {
			t.Errorf("%d jobs are listed", len(list))
		}
		if got := job(t, s, ids[1]); !reflect.DeepEqual(got, want) {
			t.Errorf("job %+v", got)
		}
		must(t, s.Check())
	}
	look()
	must(t, s.moveFinished(ctx))
	look()
	must(t, s.active.view(func(tx *bolt.Tx) error {
		if n := countKeys(tx, bucketJobs); n != 0 {
			t.Errorf("%d jobs are left in the queue", n)
		}
		return nil
	}))
	s = reopen(t, s)
	look()
}

// TestMoves waits for the mover to do it by itself.
func TestMoves(t *testing.T) {
	s := open(t)
	endJobs(t, s, newClock(), 3)
	for {
		n := -1
		must(t, s.active.view(func(tx *bolt.Tx) error {
			n = countKeys(tx, bucketJobs)
			return nil
		}))
		if n == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if n := s.Counts()[Succeeded]; n != 3 {
		t.Errorf("%d jobs are counted", n)
	}
}

func TestRetention(t *testing.T) {
	for _, r := range []struct {
		Retention
		removed int // of ten, a minute apart
	}{
		{Retention{}, 0},
		{Retention{Count: 4}, 6},
		{Retention{Age: 3 * time.Minute}, 7},
		{Retention{Age: 3 * time.Minute, Count: 2}, 8},
		{Retention{Age: 5 * time.Minute, Count: 100}, 5},
		{Retention{Age: time.Hour}, 0},
	} {
		t.Run(fmt.Sprintf("%+v", r.Retention), func(t *testing.T) {
			c := newClock()
			s := open(t, withClock(c), func(o *Options) { o.Retention = r.Retention })
			ids := endJobs(t, s, c, 10)
			alive := submit(t, s, sub())[0].ID
			removed, err := s.Sweep(ctx)
			must(t, err)
			if !reflect.DeepEqual(removed, append([]string(nil), ids[:r.removed]...)) {
				t.Errorf("removed %v of %v", removed, ids)
			}
			for i, id := range ids {
				if _, err := s.Job(id); errors.Is(err, ErrNotFound) != (i < r.removed) {
					t.Errorf("job %d: %v", i, err)
				}
			}
			wantState(t, s, alive, Queued)
			if n := s.Counts()[Succeeded]; n != 10-r.removed {
				t.Errorf("%d jobs are counted", n)
			}
			if again, err := s.Sweep(ctx); err != nil || len(again) != 0 {
				t.Errorf("swept again: %v, %v", again, err)
			}
		})
	}
}

func TestRemove(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	ids := endJobs(t, s, c, 2)
	must(t, s.Remove(ctx, ids[0])) // from wherever it is
	must(t, s.moveFinished(ctx))
	must(t, s.Remove(ctx, ids[1]))
	for _, id := range ids {
		if err := s.Remove(ctx, id); !errors.Is(err, ErrNotFound) {
			t.Errorf("removed again: %v", err)
		}
	}
	if n := s.Counts()[Succeeded]; n != 0 {
		t.Errorf("%d jobs are counted", n)
	}
	id := submit(t, s, sub())[0].ID
	var te *TransitionError
	if err := s.Remove(ctx, id); !errors.As(err, &te) {
		t.Errorf("removed a job that waits: %v", err)
	}
}

func TestRetry(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	good := endJobs(t, s, c, 1)[0]
	id := submit(t, s, sub(named("mine"), after(good), reporting, func(s *Submission) { s.Retry.Max = 0 }))[0].ID
	var te *TransitionError
	if _, err := s.Retry(ctx, id); !errors.As(err, &te) {
		t.Errorf("retried a job that waits: %v", err)
	}
	claim(t, s, roomy, 1)
	run(t, s, id, 3)
	for range 2 { // from both files
		j, err := s.Retry(ctx, id)
		must(t, err)
		old := job(t, s, id)
		if j.ID == id || j.State != Queued || j.Attempt != 0 || j.Failures != 0 || j.Result != nil || len(j.After) != 0 || j.Report != 0 {
			t.Errorf("retried %+v", j)
		}
		if got := job(t, s, j.ID); !bytes.Equal(got.Body, old.Body) || got.BodyHash != old.BodyHash || got.Needs != old.Needs {
			t.Errorf("kept %+v", got)
		}
		must(t, s.moveFinished(ctx))
	}
	if _, err := s.Retry(ctx, "nobody"); !errors.Is(err, ErrNotFound) {
		t.Errorf("retried nobody: %v", err)
	}
}

func TestList(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	owners := []string{"a", "b", "c"}
	var all []Job // oldest first
	for i := range 60 {
		id := submit(t, s, sub(ownedBy(owners[i%3]), func(s *Submission) {
			if i%5 == 0 {
				s.Hold = "x"
			}
		}))[0].ID
		if i%5 != 0 && i%2 == 0 {
			claim(t, s, roomy, 1)
			active, err := s.Active()
			must(t, err)
			run(t, s, active[0].ID, i%4/2)
		}
		if i == 30 {
			must(t, s.moveFinished(ctx))
		}
		all = append(all, Job{ID: id})
	}
	for i := range all {
		all[i] = job(t, s, all[i].ID)
		all[i].Body = nil
	}
	for _, f := range []Filter{
		{}, {Owner: "b"}, {Owner: "nobody"}, {States: []State{Queued}}, {States: []State{Succeeded, Held}},
		{Owner: "c", States: []State{Failed, Queued}}, {Before: 40}, {Before: 1}, {Limit: 7}, {Owner: "a", Before: 33, Limit: 3},
		{States: []State{Failed, Succeeded}, Limit: 4}, {Before: 1000},
	} {
		var want []Job
		limit := f.Limit
		if limit == 0 {
			limit = defaultLimit
		}
		for i := len(all) - 1; i >= 0 && len(want) < limit; i-- {
			j := all[i]
			if (f.Owner == "" || j.Owner == f.Owner) && (f.States == nil || contains(f.States, j.State)) && (f.Before == 0 || j.Seq < f.Before) {
				want = append(want, j)
			}
		}
		got, err := s.List(f)
		must(t, err)
		if len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%+v lists %d jobs instead of %d", f, len(got), len(want))
		}
	}
}

func TestBackup(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	ended := endJobs(t, s, c, 2)
	must(t, s.moveFinished(ctx))
	waiting := submit(t, s, sub())[0].ID
	var out bytes.Buffer
	// The reader is slow: the queue goes on meanwhile, and what comes later is not in the backup.
	slow := writerFunc(func(p []byte) (int, error) {
		submit(t, s, sub())
		return out.Write(p)
	})
	must(t, s.Backup(ctx, slow))

	dir := filepath.Join(t.TempDir(), "restored")
	must(t, os.Mkdir(dir, 0o700))
	for tr := tar.NewReader(&out); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		data, err := io.ReadAll(tr)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, h.Name), data, h.FileInfo().Mode()))
	}
	r := open(t, func(o *Options) { o.Dir = dir })
	for _, id := range ended {
		wantState(t, r, id, Succeeded)
	}
	wantState(t, r, waiting, Queued)
	if n := r.Counts(); n[Queued] != 1 || n[Succeeded] != 2 {
		t.Errorf("restored %v", n)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.Backup(gone, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("backup with an ended context: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(s.dir, "*"+partial)); err != nil || len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestCompact empties a large file and compacts it under readers.
func TestCompact(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	keep := submit(t, s, sub(named("keep"), func(s *Submission) { s.Hold = "x" }))[0]
	big := func(s *Submission) { s.Body = bytes.Repeat([]byte("x"), 4<<20) }
	var ids []string
	for range 20 {
		for _, j := range submit(t, s, sub(big)) {
			ids = append(ids, j.ID)
		}
	}
	size := func() int64 {
		fi, err := os.Stat(s.active.path)
		must(t, err)
		return fi.Size()
	}
	before := size()
	for _, id := range ids {
		_, err := s.Cancel(ctx, id, "")
		must(t, err)
	}
	must(t, s.moveFinished(ctx))
	for size() > compactAbove {
		time.Sleep(time.Millisecond)
	}
	wantState(t, s, keep.ID, Held)
	for _, id := range ids {
		wantState(t, s, id, Canceled)
	}
	if j := submit(t, s, sub())[0]; j.Seq != 22 {
		t.Errorf("the next job has the number %d", j.Seq)
	}
	s = reopen(t, s)
	wantState(t, s, keep.ID, Held)
	if got := size(); before <= compactAbove || got > compactAbove {
		t.Errorf("%d bytes are left of %d", got, before)
	}
}
