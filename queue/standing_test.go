package queue

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// stand leaves a claim standing for jobs that do not end by themselves, at most most
// at a time, and returns those it got.
func stand(s *Store, total Capacity, most *atomic.Int32) *begun {
	b := &begun{}
	s.Stand(&Standing{
		BootID: "boot",
		Room:   func() (Capacity, int) { return total, int(most.Load()) },
		Begin: func(jobs []Job) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.looks++
			b.jobs = append(b.jobs, jobs...)
		},
	})
	return b
}

type begun struct {
	mu    sync.Mutex
	jobs  []Job
	looks int
}

// take is what came since the last call.
func (b *begun) take() (ids []string, looks int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range b.jobs {
		ids = append(ids, j.ID)
	}
	looks = b.looks
	b.jobs, b.looks = nil, 0
	return ids, looks
}

func counting(n *atomic.Int32) func(*Options) {
	return func(o *Options) { o.Observer.Committed = func(time.Duration) { n.Add(1) } }
}

func limit(n int32) *atomic.Int32 {
	var most atomic.Int32
	most.Store(n)
	return &most
}

func woken(s *Store) bool {
	select {
	case <-s.Wake():
		return true
	default:
		return false
	}
}

// TestStandingJoins holds that what makes a job startable claims it, in one commit.
func TestStandingJoins(t *testing.T) {
	total := Capacity{Slots: 1, CPUs: 8, Memory: 1 << 40}
	end := func(s *Store, r Result) error {
		_, err := s.Finish(ctx, "first", 1, &r, "", time.Now())
		return err
	}
	for _, c := range []struct {
		name  string
		given []Submission // beside the first, which runs
		do    func(*Store) error
		want  string
	}{
		{"submission without room", nil, func(s *Store) error { _, err := s.Submit(ctx, sub(named("next"))); return err }, ""},
		{"end", []Submission{sub(named("next")), sub(named("third"))}, func(s *Store) error { return end(s, Result{Outcome: "exited"}) }, "next"},
		{"exit before uploads", []Submission{sub(named("next"))}, func(s *Store) error {
			return s.Exited(ctx, "first", 1, Result{Outcome: "exited"}, time.Now())
		}, "next"},
		{"loss", nil, func(s *Store) error { _, err := s.Interrupt(ctx, "first", 1, "lost"); return err }, "first"},
		{"failed dependency", []Submission{sub(named("next"), afterAny("first")), sub(named("never"), after("first"))}, func(s *Store) error {
			return end(s, Result{Outcome: "exited", Code: 1})
		}, "next"},
		{"chain", []Submission{sub(named("next"), after("first"))}, func(s *Store) error { return end(s, Result{Outcome: "exited"}) }, "next"},
		{"start", []Submission{sub(named("next"))}, func(s *Store) error { return s.Started(ctx, "first", 1, time.Now()) }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var commits atomic.Int32
			s := open(t, counting(&commits))
			s.moveMu.Lock() // a move would commit, too
			defer s.moveMu.Unlock()
			woken(s)
			b := stand(s, total, limit(4))
			submit(t, s, sub(named("first")))
			if ids, looks := b.take(); commits.Load() != 1 || looks != 1 || !slices.Equal(ids, []string{"first"}) {
				t.Fatalf("%d commits, %d looks, claimed %v", commits.Load(), looks, ids)
			}
			if len(c.given) > 0 {
				submit(t, s, c.given...)
			}
			b.take()
			commits.Store(0)
			must(t, c.do(s))
			ids, _ := b.take()
			wantClaims(t, ids, c.want)
			if commits.Load() != 1 {
				t.Errorf("%d commits", commits.Load())
			}
			if woken(s) {
				t.Error("there is nothing left to look for")
			}
		})
	}
}

// TestStandingAnswer holds what a submitter and those who are told see.
func TestStandingAnswer(t *testing.T) {
	s := open(t)
	b := stand(s, roomy, limit(4))
	notices := s.Subscribe(ctx, "")
	answer := submit(t, s, sub(reporting))[0]
	if answer.State != Queued || answer.Version != 1 {
		t.Errorf("answered %s, version %d", answer.State, answer.Version)
	}
	got := b.jobs[0]
	if got.ID != answer.ID || got.State != Preparing || got.Attempt != 1 || got.BootID != "boot" || string(got.Body) != string(sub().Body) {
		t.Errorf("claimed %+v", got)
	}
	for _, want := range []State{Queued, Preparing} {
		if n := <-notices; n.State != want {
			t.Errorf("notice of %s, want %s", n.State, want)
		}
	}
	events, err := s.Events(answer.Seq)
	must(t, err)
	if len(events) != 2 || events[0].State != Queued || events[0].Attempt != 0 || events[1].State != Preparing || events[1].Attempt != 1 {
		t.Errorf("events %+v", events)
	}
}

// TestStandingPaused: nothing is claimed while nothing may be, and what came meanwhile
// is when somebody looks. Whoever left the claim is woken for it.
func TestStandingPaused(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	most := limit(0)
	b := stand(s, roomy, most)
	woken(s)
	submit(t, s, sub(named("a")), sub(named("late"), func(s *Submission) { s.NotBefore = c.now().Add(time.Minute) }))
	if ids, looks := b.take(); len(ids) > 0 || looks > 0 || !woken(s) {
		t.Fatalf("claimed %v in %d looks", ids, looks)
	}
	c.add(2 * time.Minute)
	must(t, s.Look(ctx))
	if ids, looks := b.take(); len(ids) > 0 || looks != 1 {
		t.Fatalf("claimed %v in %d looks", ids, looks)
	}
	wantState(t, s, "late", Queued) // what is due is settled all the same
	most.Store(1)
	must(t, s.Look(ctx))
	ids, _ := b.take()
	wantClaims(t, ids, "a")
	if !woken(s) {
		t.Error("one more might have been claimed")
	}
	s.Stand(nil)
	submit(t, s, sub())
	must(t, s.Look(ctx))
	if ids, looks := b.take(); looks > 0 {
		t.Errorf("claimed %v, with nothing standing", ids)
	}
	wantState(t, s, "late", Queued)
}

// TestStandingBound has a batch share a commit, of which only so many may be claimed.
func TestStandingBound(t *testing.T) {
	s := open(t)
	woken(s)
	b := stand(s, roomy, limit(2))
	submit(t, s, sub(named("a")), sub(named("b")), sub(named("c"), priority(9)))
	ids, _ := b.take()
	wantClaims(t, ids, "c a")
	if !woken(s) {
		t.Error("there is one left")
	}
	// A look and a submission that share a transaction share the bound.
	look := &op{apply: (*txn).claimStanding, done: make(chan struct{})}
	more := &op{done: make(chan struct{}), apply: func(t *txn) error {
		_, err := t.accept([]Submission{sub(named("d")), sub(named("e"))})
		return err
	}}
	s.commit([]*op{look, more}) // in place of the committer, which has nothing to do
	must(t, errors.Join(look.err, more.err))
	ids, _ = b.take()
	wantClaims(t, ids, "b d")
	if !woken(s) {
		t.Error("there is one left")
	}
}

// TestStandingFails holds that a claim that fails fails nobody who shares its commit.
func TestStandingFails(t *testing.T) {
	var commits atomic.Int32
	s := open(t, counting(&commits))
	b := stand(s, roomy, limit(4))
	damaged := entry{bucket: bucketReady, lane: laneKey(&Job{Priority: 9, Owner: "x"}), key: seqKey(999), value: readyValue(&Job{})}
	must(t, s.do(ctx, func(t *txn) error { return t.putEntry(damaged) })) // of a job that is not there
	commits.Store(0)
	woken(s)
	submit(t, s, sub(named("a")))
	if ids, _ := b.take(); len(ids) > 0 || commits.Load() != 1 || !woken(s) {
		t.Errorf("claimed %v in %d commits", ids, commits.Load())
	}
	wantState(t, s, "a", Queued)
	if err := s.Look(ctx); !errors.Is(err, ErrNotFound) {
		t.Errorf("look: %v", err)
	}
	must(t, s.do(ctx, func(t *txn) error { return t.deleteEntry(damaged) }))
	submit(t, s, sub(named("b")))
	ids, _ := b.take()
	wantClaims(t, ids, "a b")
}

// TestStandingNoSpace fills the disk while a claim stands: whatever was accepted is
// there, once, and starts when there is room.
func TestStandingNoSpace(t *testing.T) {
	dir := filepath.Join(tmpfs(t, 4<<20), "state")
	s := open(t, func(o *Options) { o.Dir = dir })
	ballast := filepath.Join(filepath.Dir(dir), "ballast")
	must(t, os.WriteFile(ballast, make([]byte, 1<<20), 0o600))
	most := limit(1)
	b := stand(s, Capacity{Slots: 1 << 20, CPUs: 1 << 20, Memory: 1 << 60}, most)
	accepted := map[string]bool{}
	for _, size := range []int{100 << 10, 10 << 10, 1} {
		for {
			acc, err := s.Submit(ctx, sub(func(s *Submission) { s.Body = make([]byte, size) }), sub())
			if errors.Is(err, ErrNoSpace) {
				break
			}
			must(t, err)
			accepted[acc[0].Job.ID], accepted[acc[1].Job.ID] = true, true
		}
	}
	if n := s.Counts(); n[Queued]+n[Preparing] != len(accepted) || n[Preparing] == 0 {
		t.Errorf("%d were accepted, and there are %v", len(accepted), n)
	}
	must(t, os.Remove(ballast))
	most.Store(1 << 20)
	must(t, s.Look(ctx))
	ids, _ := b.take()
	for _, id := range ids {
		if !accepted[id] {
			t.Errorf("%s was claimed twice, or never accepted", id)
		}
		delete(accepted, id)
	}
	if len(accepted) > 0 {
		t.Errorf("never claimed: %v", slices.Collect(maps.Keys(accepted)))
	}
	must(t, s.Close())
	checkClosed(t, dir)
}

// TestStandingLoad has many submit while jobs begin and end: each is claimed once, and
// never more than fit.
func TestStandingLoad(t *testing.T) {
	s := open(t)
	const submitters, each, slots = 8, 60, 3
	var live, starting atomic.Int32
	seen := map[string]bool{}
	var ends sync.WaitGroup
	all := make(chan struct{})
	nudge := make(chan struct{}, 1)
	s.Stand(&Standing{
		BootID: "boot",
		Room: func() (Capacity, int) {
			return Capacity{Slots: slots, CPUs: 64, Memory: 1 << 40}, 2 - int(starting.Load())
		},
		Begin: func(jobs []Job) {
			if n := starting.Add(int32(len(jobs))); n > 2 {
				t.Errorf("%d jobs are starting", n)
			}
			if n := live.Add(int32(len(jobs))); n > slots {
				t.Errorf("%d jobs are live", n)
			}
			for _, j := range jobs {
				if seen[j.ID] {
					t.Errorf("%s was claimed twice", j.ID)
				}
				if seen[j.ID] = true; len(seen) == submitters*each {
					close(all)
				}
				ends.Go(func() {
					must(t, s.Started(ctx, j.ID, j.Attempt, time.Now()))
					starting.Add(-1)
					signal(nudge)
					live.Add(-1) // what is committed next may use its slot
					_, err := s.Finish(ctx, j.ID, j.Attempt, &Result{Outcome: "exited"}, "", time.Now())
					must(t, err)
				})
			}
		},
	})
	for range submitters {
		ends.Go(func() {
			for range each {
				_, err := s.Submit(ctx, sub())
				must(t, err)
			}
		})
	}
	for done := false; !done; {
		select {
		case <-s.Wake():
		case <-nudge:
		case <-all:
			done = true
		}
		must(t, s.Look(ctx))
	}
	ends.Wait()
	s.Stand(nil)
	if n := s.Counts(); n[Succeeded] != submitters*each {
		t.Errorf("%v", n)
	}
	if !strings.HasPrefix(fmt.Sprint(s.InUse()), "{0 0 0") {
		t.Errorf("in use %+v", s.InUse())
	}
}
