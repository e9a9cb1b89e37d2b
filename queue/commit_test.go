package queue

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestIsolation commits good operations beside bad ones of both kinds.
func TestIsolation(t *testing.T) {
	s := open(t)
	boom := errors.New("boom")
	accept := func(subs ...Submission) *op {
		return &op{grows: true, apply: func(t *txn) error {
			_, err := t.accept(subs)
			return err
		}}
	}
	var runs atomic.Int32
	ops := []*op{
		accept(sub(named("a"))),
		{apply: func(*txn) error { return boom }}, // refuses before it writes
		accept(sub(named("b")), sub(named("b"), func(s *Submission) { s.BodyHash = "other" })),
		{apply: func(t *txn) error { // fails half way
			runs.Add(1)
			if _, err := t.accept([]Submission{sub(named("half"))}); err != nil {
				return err
			}
			return boom
		}},
		accept(sub(named("c"))),
		accept(sub(named("d"), after("a")), sub(named("e"), after("nobody"))),
	}
	for _, o := range ops {
		o.done = make(chan struct{})
	}
	s.commit(slices.Clone(ops)) // in place of the committer, which has nothing to do
	for i, want := range []error{nil, boom, ErrConflict, boom, nil, ErrDependency} {
		if !errors.Is(ops[i].err, want) {
			t.Errorf("op %d: %v, want %v", i, ops[i].err, want)
		}
	}
	for _, id := range []string{"a", "c"} {
		wantState(t, s, id, Queued)
	}
	for _, id := range []string{"b", "half", "d", "e"} {
		if _, err := s.Job(id); !errors.Is(err, ErrNotFound) {
			t.Errorf("job %s: %v", id, err)
		}
	}
	if runs.Load() != 1 {
		t.Errorf("an op that fails half way ran %d times", runs.Load())
	}
	if n := s.Counts()[Queued]; n != 2 {
		t.Errorf("%d jobs are counted", n)
	}
}

// TestSharedCommits holds that submitters who wait together share a commit.
func TestSharedCommits(t *testing.T) {
	var commits atomic.Int32
	s := open(t, counting(&commits))
	entered, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		must(t, s.do(ctx, func(*txn) error { close(entered); <-release; return nil }))
	})
	<-entered
	const n = 100
	var waiting sync.WaitGroup
	waiting.Add(n)
	for range n {
		wg.Go(func() {
			waiting.Done()
			_, err := s.Submit(ctx, sub())
			must(t, err)
		})
	}
	waiting.Wait()
	close(release)
	wg.Wait()
	if got := s.Counts()[Queued]; got != n {
		t.Fatalf("%d jobs", got)
	}
	if got := commits.Load(); got > n/2 { // not all may have come in time
		t.Errorf("%d commits for %d jobs", got, n)
	}
}

// TestCompany: what nobody waits for costs no commit where another one is made.
func TestCompany(t *testing.T) {
	var commits atomic.Int32
	s := open(t, counting(&commits))
	job := submit(t, s, sub(reporting))[0]
	must(t, s.Delivered(ctx, job.Seq, math.MaxUint64, SinkGirder)) // alone, in a while
	if n := commits.Swap(0); n != 2 {
		t.Errorf("%d commits", n)
	}
	job = submit(t, s, sub(reporting))[0]
	must(t, s.do(ctx, func(t *txn) error { t.company = time.Hour; return nil })) // the committer reads it
	commits.Store(0)
	done := make(chan error)
	go func() { done <- s.Delivered(ctx, job.Seq, math.MaxUint64, SinkGirder) }()
	submissions := int32(0)
	for told := false; !told; {
		submit(t, s, sub())
		submissions++
		select {
		case err := <-done:
			must(t, err)
			told = true
		default:
		}
	}
	if n := commits.Load(); n > submissions {
		t.Errorf("%d commits of %d submissions", n, submissions)
	}
	// A store that closes waits for nobody.
	job = submit(t, s, sub(reporting))[0]
	go func() { done <- s.Delivered(ctx, job.Seq, math.MaxUint64, SinkGirder) }()
	must(t, s.Close())
	if err := <-done; err != nil && !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestClose(t *testing.T) {
	s := open(t)
	var wg sync.WaitGroup
	var accepted sync.Map
	for range 8 {
		wg.Go(func() {
			for {
				acc, err := s.Submit(ctx, sub())
				if errors.Is(err, ErrClosed) {
					return
				}
				must(t, err)
				accepted.Store(acc[0].Job.ID, true)
			}
		})
	}
	for s.Counts()[Queued] < 50 {
		must(t, s.Probe(ctx))
	}
	notices := s.Subscribe(ctx, "")
	must(t, s.Close())
	wg.Wait()
	for range notices { // ends because the store has closed
	}
	if _, err := s.Job("x"); !errors.Is(err, ErrClosed) {
		t.Errorf("job of a closed store: %v", err)
	}
	if err := s.Probe(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("probe of a closed store: %v", err)
	}
	must(t, s.Close())
	s2, err := Open(Options{Dir: s.dir})
	must(t, err)
	defer s2.Close()
	accepted.Range(func(id, _ any) bool {
		wantState(t, s2, id.(string), Queued)
		return true
	})
}

func TestSubscribe(t *testing.T) {
	s := open(t)
	all := s.Subscribe(ctx, "")
	id := submit(t, s, sub())[0].ID
	one := s.Subscribe(ctx, id)
	other := submit(t, s, sub())[0].ID
	claim(t, s, roomy, 1)
	_, err := s.Cancel(ctx, id, "")
	must(t, err)
	next := func(c <-chan Notice) string {
		n := <-c
		return fmt.Sprint(n.Job, n.State, n.Version, n.Canceled)
	}
	for _, want := range []string{
		fmt.Sprint(id, Queued, 1, false), fmt.Sprint(other, Queued, 1, false),
		fmt.Sprint(id, Preparing, 2, false), fmt.Sprint(id, Preparing, 3, true),
	} {
		if got := next(all); got != want {
			t.Errorf("notice %s, want %s", got, want)
		}
	}
	for _, want := range []string{fmt.Sprint(id, Preparing, 2, false), fmt.Sprint(id, Preparing, 3, true)} {
		if got := next(one); got != want {
			t.Errorf("notice %s, want %s", got, want)
		}
	}
	// One that does not read is closed; the others go on.
	lag := s.Subscribe(ctx, "")
	for range 2 {
		subs := make([]Submission, lagAll/2+1)
		for i := range subs {
			subs[i] = sub()
		}
		submit(t, s, subs...)
	}
	n := 0
	for range lag {
		n++
	}
	if n != lagAll {
		t.Errorf("the laggard got %d notices", n)
	}
	if got := submit(t, s, sub()); got[0].State != Queued {
		t.Error("the store stopped")
	}
}

func TestProbe(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	must(t, s.Probe(ctx))
	c.add(time.Second)
	must(t, s.Probe(ctx))
}

// TestBroken fails a commit in a way that leaves its outcome open.
func TestBroken(t *testing.T) {
	eio := fmt.Errorf("fdatasync: %w", syscall.EIO)
	for _, active := range []bool{true, false} {
		s := open(t)
		id := submit(t, s, sub())[0].ID
		var err error
		if active { // each file is failed by its writer
			must(t, s.do(ctx, func(*txn) error { err = s.active.failed(eio); return nil }))
		} else {
			s.moveMu.Lock()
			err = s.history.failed(eio)
			s.moveMu.Unlock()
		}
		if !errors.Is(err, ErrBroken) || !errors.Is(err, syscall.EIO) {
			t.Errorf("told as %v", err)
		}
		if err := s.Probe(ctx); !errors.Is(err, ErrBroken) {
			t.Errorf("probe: %v", err)
		}
		wantState(t, s, id, Queued) // what is there can still be read
		if _, err := s.Submit(ctx, sub()); errors.Is(err, ErrBroken) != active {
			t.Errorf("submit: %v", err)
		}
		s = reopen(t, s)
		must(t, s.Probe(ctx))
	}
}
