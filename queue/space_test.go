package queue

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// TestNoSpace fills a small file system until submissions are refused, and
// holds that what was accepted stays, moves on, and that the store works again
// once there is room.
func TestNoSpace(t *testing.T) {
	dir := filepath.Join(tmpfs(t, 4<<20), "state")
	s := open(t, func(o *Options) { o.Dir = dir })
	ballast := filepath.Join(filepath.Dir(dir), "ballast")
	must(t, os.WriteFile(ballast, make([]byte, 1<<20), 0o600))
	var accepted []Job
	body := func(n int) func(*Submission) {
		return func(s *Submission) { s.Body = bytes.Repeat([]byte{'x'}, n) }
	}
	fill := func(n int) {
		t.Helper()
		for {
			acc, err := s.Submit(ctx, sub(body(n)), sub())
			if errors.Is(err, ErrNoSpace) {
				return
			}
			must(t, err)
			accepted = append(accepted, acc[0].Job, acc[1].Job)
		}
	}
	fill(100 << 10)
	fill(1)
	if len(accepted) < 10 {
		t.Fatalf("only %d jobs fitted", len(accepted))
	}
	verify := func() {
		t.Helper()
		if got := s.Counts()[Queued] + s.Counts()[Preparing]; got != len(accepted) {
			t.Errorf("%d jobs are there, %d were accepted", got, len(accepted))
		}
		for _, want := range accepted {
			if got := job(t, s, want.ID); !bytes.Equal(got.Body, want.Body) {
				t.Errorf("job %s has another body", want.ID)
			}
		}
	}
	verify()
	// Check wants room for a copy, so the closed files are checked as they are.
	must(t, s.Close())
	checkClosed(t, dir)
	s = open(t, func(o *Options) { o.Dir = dir }) // also with the disk full
	verify()
	must(t, os.Remove(ballast))
	acc, err := s.Submit(ctx, sub(body(1000)))
	must(t, err)
	accepted = append(accepted, acc[0].Job)
	claim(t, s, roomy, 3)
	verify()
	must(t, s.Close())
	checkClosed(t, dir)
}

func checkClosed(t *testing.T, dir string) {
	t.Helper()
	open := func(name string) *bolt.DB {
		db, err := bolt.Open(filepath.Join(dir, name), 0, &bolt.Options{ReadOnly: true, PreLoadFreelist: true})
		must(t, err)
		return db
	}
	active, history := open(activeName), open(historyName)
	must(t, checkFiles(active, history))
	must(t, active.Close())
	must(t, history.Close())
}

// TestNoSpaceSpares holds that a submission too big for the disk takes nobody
// along who shares its commit.
func TestNoSpaceSpares(t *testing.T) {
	dir := filepath.Join(tmpfs(t, 2<<20), "state")
	s := open(t, func(o *Options) { o.Dir = dir })
	id := submit(t, s, sub())[0].ID
	big := sub(func(s *Submission) { s.Body = make([]byte, 4<<20) })
	var claimed Job
	ops := []*op{
		{grows: true, done: make(chan struct{}), apply: func(t *txn) error {
			_, err := t.accept([]Submission{big})
			return err
		}},
		{done: make(chan struct{}), apply: func(t *txn) error {
			j, err := t.load(id)
			if err != nil {
				return err
			}
			err = t.move(&j, Preparing, func(j *Job) { j.Attempt = 1 })
			claimed = j
			return err
		}},
	}
	s.commit(append([]*op(nil), ops...)) // in place of the committer, which has nothing to do
	if !errors.Is(ops[0].err, ErrNoSpace) || ops[1].err != nil {
		t.Errorf("big: %v, claim: %v", ops[0].err, ops[1].err)
	}
	// What the big one wrote before the disk was full is given back.
	if fi, err := os.Stat(s.active.path); err != nil || fi.Size() > 1<<20 {
		t.Errorf("the file has %d bytes (%v)", fi.Size(), err)
	}
	if claimed.Version != 2 {
		t.Errorf("claimed %+v", claimed)
	}
	wantState(t, s, id, Preparing)
	if _, err := Open(Options{Dir: filepath.Join(tmpfs(t, 4096), "state")}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("a new queue on a full disk: %v", err)
	}
}
