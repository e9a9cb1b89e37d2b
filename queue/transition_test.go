package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// TestEdges holds the table against the one drawn here, state by state, through
// the only function that changes a state.
func TestEdges(t *testing.T) {
	allowed := map[State]string{
		"":        "queued delayed held failed canceled",
		Queued:    "preparing held failed canceled",
		Delayed:   "queued held failed canceled",
		Held:      "queued delayed failed canceled",
		Preparing: "running finishing queued failed canceled",
		Running:   "finishing queued failed canceled",
		Finishing: "succeeded failed canceled queued delayed",
		Succeeded: "", Failed: "", Canceled: "",
	}
	s := open(t)
	for from, list := range allowed {
		may := make(map[string]bool)
		for _, to := range splitWords(list) {
			may[to] = true
		}
		for _, to := range append([]State{"", "nonsense"}, states[:]...) {
			errEdge := errors.New("undo")
			err := s.do(ctx, func(tx *txn) error {
				j := Job{ID: "x", Seq: 1 << 40, Owner: "o", State: from}
				if err := tx.move(&j, to, nil); err != nil {
					return err
				}
				if j.State != to || j.Version != 1 {
					t.Errorf("%q → %q left %q, version %d", from, to, j.State, j.Version)
				}
				return errEdge // it wrote: the whole transaction is undone
			})
			var te *TransitionError
			switch {
			case may[string(to)] && !errors.Is(err, errEdge):
				t.Errorf("%q → %q: %v", from, to, err)
			case !may[string(to)] && (!errors.As(err, &te) || te.From != from || te.To != to || te.ID != "x"):
				t.Errorf("%q → %q was not refused: %v", from, to, err)
			}
		}
	}
}

func splitWords(s string) (words []string) {
	var w string
	for _, r := range s + " " {
		if r != ' ' {
			w += string(r)
		} else if w != "" {
			words, w = append(words, w), ""
		}
	}
	return words
}

// reach makes a job and takes it to st, attempt 1 where it has one.
func reach(t *testing.T, s *Store, st State) string {
	t.Helper()
	change := func(*Submission) {}
	switch st {
	case Delayed:
		change = func(sub *Submission) { sub.NotBefore = s.now().Add(time.Hour) }
	case Held:
		change = func(sub *Submission) { sub.Hold = "look at it" }
	}
	id := submit(t, s, sub(change, priority(9)))[0].ID
	at := s.now()
	if st == Preparing || st == Running || st == Finishing || st == Succeeded || st == Failed {
		if got := claimIDs(t, s, roomy, 1); len(got) != 1 || got[0] != id {
			t.Fatalf("claimed %v instead of %s", got, id)
		}
	}
	switch st {
	case Running:
		must(t, s.Started(ctx, id, 1, at))
	case Finishing:
		must(t, s.Exited(ctx, id, 1, Result{Outcome: "exited"}, at))
	case Succeeded, Failed:
		code := map[State]int{Succeeded: 0, Failed: 3}[st]
		_, err := s.Finish(ctx, id, 1, &Result{Outcome: "exited", Code: code}, "", at)
		must(t, err)
	case Canceled:
		_, err := s.Cancel(ctx, id, "")
		must(t, err)
	}
	wantState(t, s, id, st)
	return id
}

// TestVerbs calls every verb in every state.
func TestVerbs(t *testing.T) {
	type outcome struct {
		state State // "" is a TransitionError and no change
		asked bool  // CancelRequested afterwards
	}
	refused := outcome{}
	same := func(st State) outcome { return outcome{state: st} }
	verbs := []struct {
		name string
		call func(s *Store, id string) error
		want map[State]outcome // what is missing is refused
	}{
		{"started", func(s *Store, id string) error { return s.Started(ctx, id, 1, s.now()) },
			map[State]outcome{Preparing: same(Running), Running: same(Running)}},
		{"exited", func(s *Store, id string) error { return s.Exited(ctx, id, 1, Result{Outcome: "exited"}, s.now()) },
			map[State]outcome{Preparing: same(Finishing), Running: same(Finishing), Finishing: same(Finishing)}},
		{"finish", func(s *Store, id string) error {
			_, err := s.Finish(ctx, id, 1, nil, "", s.now())
			return err
		}, map[State]outcome{Finishing: same(Succeeded)}},
		{"finish with result", func(s *Store, id string) error {
			_, err := s.Finish(ctx, id, 1, &Result{Outcome: "exited", Code: 1}, "", s.now())
			return err
		}, map[State]outcome{Preparing: same(Failed), Running: same(Failed), Finishing: same(Succeeded)}},
		{"finish with problem", func(s *Store, id string) error {
			_, err := s.Finish(ctx, id, 1, nil, "no room at the other end", s.now())
			return err
		}, map[State]outcome{Finishing: same(Failed)}},
		{"finish canceled", func(s *Store, id string) error {
			_, err := s.Finish(ctx, id, 1, &Result{Outcome: "canceled"}, "", s.now())
			return err
		}, map[State]outcome{Preparing: same(Canceled), Running: same(Canceled), Finishing: same(Succeeded)}},
		{"interrupt", func(s *Store, id string) error {
			_, err := s.Interrupt(ctx, id, 1, "reboot")
			return err
		}, map[State]outcome{Preparing: same(Queued), Running: same(Queued)}},
		{"finish interrupted", func(s *Store, id string) error {
			_, err := s.Finish(ctx, id, 1, &Result{Outcome: "interrupted"}, "", s.now())
			return err
		}, map[State]outcome{Preparing: same(Queued), Running: same(Queued), Finishing: same(Succeeded)}},
		{"other attempt", func(s *Store, id string) error { return s.Started(ctx, id, 2, s.now()) }, nil},
		{"cancel", func(s *Store, id string) error {
			_, err := s.Cancel(ctx, id, "enough")
			return err
		}, map[State]outcome{
			Queued: {Canceled, true}, Delayed: {Canceled, true}, Held: {Canceled, true},
			Preparing: {Preparing, true}, Running: {Running, true}, Finishing: {Finishing, true},
			Succeeded: same(Succeeded), Failed: same(Failed), Canceled: {Canceled, true},
		}},
		{"hold", func(s *Store, id string) error {
			_, err := s.Hold(ctx, id, "later")
			return err
		}, map[State]outcome{Queued: same(Held), Delayed: same(Held)}},
		{"release", func(s *Store, id string) error {
			_, err := s.Release(ctx, id)
			return err
		}, map[State]outcome{Held: same(Queued)}},
	}
	s := open(t)
	for _, v := range verbs {
		for _, st := range states {
			t.Run(v.name+" "+string(st), func(t *testing.T) {
				id := reach(t, s, st)
				before := job(t, s, id)
				err := v.call(s, id)
				got := job(t, s, id)
				want, ok := v.want[st]
				if !ok {
					want = refused
				}
				if want == refused {
					var te *TransitionError
					if !errors.As(err, &te) || te.ID != id || te.From != st {
						t.Fatalf("error %v", err)
					}
					if got.Version != before.Version {
						t.Fatalf("changed although refused: %+v", got)
					}
				} else if err != nil || got.State != want.state || got.CancelRequested != want.asked {
					t.Fatalf("%v; state %s, cancel requested %t, want %+v", err, got.State, got.CancelRequested, want)
				}
				clear(t, s, id)
			})
		}
	}
}

// clear brings a job to an end, so that the next one stands alone.
func clear(t *testing.T, s *Store, id string) {
	t.Helper()
	j, err := s.Cancel(ctx, id, "")
	must(t, err)
	if j.State.Active() {
		_, err = s.Finish(ctx, id, j.Attempt, &Result{Outcome: "canceled"}, "", s.now())
		must(t, err)
	}
}

// TestFinish has the ends of attempts that depend on more than the state.
func TestFinish(t *testing.T) {
	exit := func(code int) Result { return Result{Outcome: "exited", Code: code} }
	for _, c := range []struct {
		name     string
		retry    Retry
		cancel   bool
		result   Result
		problem  string
		want     State
		failures int
	}{
		{"success", Retry{}, false, exit(0), "", Succeeded, 0},
		{"failure", Retry{}, false, exit(3), "", Failed, 1},
		{"failure to retry", Retry{Max: 1, Delay: time.Minute}, false, exit(3), "", Delayed, 1},
		{"failure to retry at once", Retry{Max: 1}, false, exit(3), "", Queued, 1},
		{"out of memory", Retry{}, false, Result{Outcome: "oom", Code: 137}, "", Failed, 1},
		{"error with code 0", Retry{}, false, Result{Outcome: "error"}, "", Failed, 1},
		{"timeout to retry", Retry{Max: 2, Delay: time.Second}, false, Result{Outcome: "timeout", Code: 124}, "", Delayed, 1},
		{"upload failed", Retry{}, false, exit(0), "the server is gone", Failed, 1},
		{"upload failed to retry", Retry{Max: 1, Delay: time.Second}, false, exit(0), "the server is gone", Delayed, 1},
		{"canceled", Retry{Max: 5, Delay: time.Second}, false, Result{Outcome: "canceled", Code: 130}, "", Canceled, 0},
		{"cancel asked, exit 0", Retry{}, true, exit(0), "", Canceled, 0},
		{"cancel asked, exit 1", Retry{Max: 5}, true, exit(1), "", Canceled, 0},
		{"interrupted", Retry{}, false, Result{Outcome: "interrupted"}, "", Queued, 0},
		{"interrupted, to fail", Retry{FailInterrupted: true}, false, Result{Outcome: "interrupted"}, "", Failed, 0},
		{"interrupted, cancel asked", Retry{}, true, Result{Outcome: "interrupted"}, "", Canceled, 0},
	} {
		for _, joined := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s joined=%t", c.name, joined), func(t *testing.T) {
				s := open(t)
				id := submit(t, s, sub(func(s *Submission) { s.Retry = c.retry }))[0].ID
				claim(t, s, roomy, 1)
				must(t, s.Started(ctx, id, 1, s.now()))
				if c.cancel {
					_, err := s.Cancel(ctx, id, "I changed my mind")
					must(t, err)
				}
				r := &c.result
				if !joined {
					must(t, s.Exited(ctx, id, 1, c.result, s.now()))
					r = nil
				}
				j, err := s.Finish(ctx, id, 1, r, c.problem, s.now())
				must(t, err)
				if j.State != c.want || j.Failures != c.failures {
					t.Errorf("ended %s with %d failures (%s)", j.State, j.Failures, j.Reason)
				}
				if c.want != Succeeded && j.Reason == "" {
					t.Error("no reason given")
				}
				if c.cancel && j.Reason != "I changed my mind" {
					t.Errorf("reason %q", j.Reason)
				}
			})
		}
	}
}

// TestFinishStarted has the end of a short job bring its start, in one commit: nobody
// sees less of it.
func TestFinishStarted(t *testing.T) {
	var commits atomic.Int32
	c := newClock()
	s := open(t, withClock(c), counting(&commits))
	s.moveMu.Lock() // a move would commit, too
	defer s.moveMu.Unlock()
	at := c.now().Add(time.Second)
	for _, early := range []bool{false, true} {
		id := submit(t, s, sub(reporting))[0].ID
		claim(t, s, roomy, 1)
		want := at
		if early {
			want = at.Add(-time.Millisecond)
			must(t, s.Started(ctx, id, 1, want))
		}
		notices := s.Subscribe(ctx, id)
		commits.Store(0)
		j, err := s.Finish(ctx, id, 1, &Result{Outcome: "exited", Started: at}, "", at.Add(time.Second))
		must(t, err)
		if n := commits.Load(); n != 1 || j.State != Succeeded || !j.Started.Equal(want) || !j.Result.Started.IsZero() {
			t.Errorf("%d commits, %+v", n, j)
		}
		var told []State
		for told = nil; len(told) == 0 || !told[len(told)-1].Final(); {
			told = append(told, (<-notices).State)
		}
		events, err := s.Events(j.Seq)
		must(t, err)
		var reported []State
		for _, e := range events {
			reported = append(reported, e.State)
		}
		all := []State{Queued, Preparing, Running, Finishing, Succeeded}
		if !slices.Equal(reported, all) {
			t.Errorf("reported %v", reported)
		}
		if early {
			all = all[1:]
		}
		if !slices.Equal(told, all[2:]) {
			t.Errorf("told %v", told)
		}
	}
}

func TestInterruptCanceled(t *testing.T) {
	s := open(t)
	id := reach(t, s, Running)
	_, err := s.Cancel(ctx, id, "stop")
	must(t, err)
	j, err := s.Interrupt(ctx, id, 1, "reboot")
	must(t, err)
	if j.State != Canceled || j.Reason != "stop" {
		t.Errorf("%s (%s)", j.State, j.Reason)
	}
}

// TestBackoff follows one job through its retries.
func TestBackoff(t *testing.T) {
	c := newClock()
	jitter := 0.0
	s := open(t, withClock(c), func(o *Options) { o.Jitter = func() float64 { return jitter } })
	id := submit(t, s, sub(func(s *Submission) { s.Retry = Retry{Max: 9, Delay: 5 * time.Minute} }))[0].ID
	for attempt, want := range []time.Duration{5, 10, 20, 40, 60, 60, 60, 60, 60} {
		if got := claimIDs(t, s, roomy, 1); len(got) != 1 {
			t.Fatalf("attempt %d was not claimed", attempt+1)
		}
		j := run(t, s, id, 1)
		if got := j.NotBefore.Sub(c.now()); j.State != Delayed || got != want*time.Minute {
			t.Fatalf("after attempt %d %s for %s, want %s", attempt+1, j.State, got, want*time.Minute)
		}
		if due := s.NextDue(); !due.Equal(j.NotBefore) {
			t.Fatalf("next due %s, want %s", due, j.NotBefore)
		}
		c.add(j.NotBefore.Sub(c.now()) - 1)
		if got := claimIDs(t, s, roomy, 1); len(got) != 0 {
			t.Fatal("claimed before its time")
		}
		c.add(1)
	}
	claim(t, s, roomy, 1)
	if j := run(t, s, id, 1); j.State != Failed || j.Failures != 10 || j.Attempt != 10 {
		t.Fatalf("%s after %d failures", j.State, j.Failures)
	}
	jitter = 0.5
	id = submit(t, s, sub(func(s *Submission) { s.Retry = Retry{Max: 1, Delay: time.Minute} }))[0].ID
	claim(t, s, roomy, 1)
	if j := run(t, s, id, 1); j.NotBefore.Sub(c.now()) != 63*time.Second {
		t.Errorf("with jitter it waits %s", j.NotBefore.Sub(c.now()))
	}
}

func TestContextEnds(t *testing.T) {
	s := open(t)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Submit(gone, sub()); !errors.Is(err, context.Canceled) {
		t.Errorf("submit with an ended context: %v", err)
	}
	if n := s.Counts()[Queued]; n != 0 {
		t.Errorf("%d jobs were accepted", n)
	}
	// One that ends while the commit is under way does not hide its answer.
	during, cancel := context.WithCancel(ctx)
	err := s.submit(during, &op{apply: func(tx *txn) error {
		cancel()
		_, err := tx.accept([]Submission{sub()})
		return err
	}})
	if err != nil || s.Counts()[Queued] != 1 {
		t.Errorf("%v, %d jobs", err, s.Counts()[Queued])
	}
}
