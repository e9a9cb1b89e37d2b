package queue

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestSubmitRefuses(t *testing.T) {
	s := open(t)
	for name, c := range map[string]struct {
		change func(*Submission)
		want   error
	}{
		"priority":       {priority(10), ErrInvalid},
		"priority -1":    {priority(-1), ErrInvalid},
		"cpus":           {needs(-1, 0), ErrInvalid},
		"cpus NaN":       {needs(math.NaN(), 0), ErrInvalid},
		"cpus infinite":  {needs(math.Inf(1), 0), ErrInvalid},
		"memory":         {needs(1, -1), ErrInvalid},
		"gpus":           {func(s *Submission) { s.Needs.GPUs = -1 }, ErrInvalid},
		"owner":          {ownedBy(""), ErrInvalid},
		"source":         {func(s *Submission) { s.Source = "mail" }, ErrInvalid},
		"limits":         {func(s *Submission) { s.Limits.Hard = -1 }, ErrInvalid},
		"retries":        {func(s *Submission) { s.Retry.Max = -1 }, ErrInvalid},
		"name":           {func(s *Submission) { s.Name = strings.Repeat("x", maxText+1) }, ErrInvalid},
		"body":           {func(s *Submission) { s.Body = make([]byte, maxBody+1) }, ErrInvalid},
		"year":           {func(s *Submission) { s.NotBefore = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC) }, ErrInvalid},
		"held message":   {func(s *Submission) { s.Source, s.Hold = SourceAMQP, "x" }, ErrNotHoldable},
		"id ..":          {named(".."), ErrInvalid},
		"id -x":          {named("-x"), ErrInvalid},
		"id a/b":         {named("a/b"), ErrInvalid},
		"id NUL":         {named("a\x00b"), ErrInvalid},
		"id é":           {named("é"), ErrInvalid},
		"id long":        {named(strings.Repeat("a", 81)), ErrInvalid},
		"itself":         {func(s *Submission) { s.ID, s.After = "me", []string{"me"} }, ErrDependency},
		"itself any":     {func(s *Submission) { s.ID, s.AfterAny = "me", []string{"me"} }, ErrDependency},
		"unknown":        {after("nobody"), ErrDependency},
		"unknown any":    {afterAny("nobody"), ErrDependency},
		"no id to wait":  {after("../x"), ErrDependency},
		"many":           {after(make([]string, maxDependencies+1)...), ErrDependency},
		"many groups":    {func(s *Submission) { s.Identity.Groups = make([]int, maxGroups+1) }, ErrInvalid},
		"year of expiry": {func(s *Submission) { s.Expires = time.Unix(-1e11, 0) }, ErrInvalid},
	} {
		if _, err := s.Submit(ctx, sub(), sub(c.change)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if n := s.Counts()[Queued]; n != 0 {
		t.Errorf("%d jobs of refused batches were accepted", n)
	}
	for _, id := range []string{"a", "A.b_c-9", strings.Repeat("a", 64), "_x", "9"} {
		submit(t, s, sub(named(id)))
	}
}

func TestSubmitTwice(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	first := submit(t, s, sub(named("mine")))[0]
	again, err := s.Submit(ctx, sub(named("mine")))
	must(t, err)
	if !again[0].Existing || again[0].Job.Seq != first.Seq {
		t.Errorf("the same again: %+v", again[0])
	}
	for name, change := range map[string]func(*Submission){
		"body":   func(s *Submission) { s.BodyHash = "other" },
		"owner":  ownedBy("uid:2"),
		"source": func(s *Submission) { s.Source = SourceAMQP },
	} {
		if _, err := s.Submit(ctx, sub(named("mine"), change)); !errors.Is(err, ErrConflict) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	claim(t, s, roomy, 1)
	run(t, s, "mine", 0)
	for _, where := range []string{"finished", "history"} {
		again, err = s.Submit(ctx, sub(named("mine")))
		must(t, err)
		if !again[0].Existing || again[0].Job.State != Succeeded {
			t.Errorf("the same again, %s: %+v", where, again[0])
		}
		if _, err := s.Submit(ctx, sub(named("mine"), ownedBy("uid:2"))); !errors.Is(err, ErrConflict) {
			t.Errorf("another owner, %s: %v", where, err)
		}
		must(t, s.moveFinished(ctx))
	}
	// Within one call.
	got, err := s.Submit(ctx, sub(named("twin")), sub(), sub(named("twin")), sub(named("mine")))
	must(t, err)
	if got[0].Existing || !got[2].Existing || got[2].Job.ID != "twin" || got[2].Job.Seq != got[0].Job.Seq || !got[3].Existing {
		t.Errorf("twins: %+v", got)
	}
}

func TestSubmitKeeps(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	in := Submission{
		ID: "all", Source: SourceSocket, Owner: "uid:7", Identity: Identity{UID: 7, GID: 8, Groups: []int{8, 0, 9}, User: "ada"},
		Name: "n", Task: "t", Image: "i", Priority: 3, Needs: Needs{CPUs: 0.5, Memory: 1 << 33, GPUs: 2, Scratch: 1 << 40, Swap: 1 << 30},
		Limits:    Limits{Hard: time.Hour, Soft: time.Minute, Idle: time.Second},
		Retry:     Retry{Max: 2, Delay: time.Minute, FailInterrupted: true},
		NotBefore: c.now().Add(time.Hour), Expires: c.now().Add(2 * time.Hour), Report: SinkGirder | SinkCelery,
		Body: []byte(`{"a":1}`), BodyHash: "hash", Origin: []byte(`{"o":1}`), Secrets: []byte("token"),
	}
	want := Job{
		ID: "all", Seq: 1, Version: 1, Source: in.Source, Owner: in.Owner, Identity: in.Identity, Name: "n", Task: "t", Image: "i",
		Priority: 3, State: Delayed, Needs: in.Needs, Limits: in.Limits, Retry: in.Retry, NotBefore: in.NotBefore,
		Expires: in.Expires, Created: c.now(), Report: in.Report, Body: in.Body, BodyHash: "hash",
		Origin: in.Origin,
	}
	if got := submit(t, s, in)[0]; !reflect.DeepEqual(got, want) {
		t.Errorf("accepted\n%+v, want\n%+v", got, want)
	}
	if got := job(t, s, "all"); !reflect.DeepEqual(got, want) {
		t.Errorf("kept\n%+v, want\n%+v", got, want)
	}
}

func TestSubmitBorn(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	bad := reach(t, s, Failed)
	for name, b := range map[string]struct {
		change func(*Submission)
		want   State
		reason string
	}{
		"queued":     {func(*Submission) {}, Queued, ""},
		"held":       {func(s *Submission) { s.Hold = "wait for me" }, Held, "wait for me"},
		"failed":     {func(s *Submission) { s.Fail = "unknown task" }, Failed, "unknown task"},
		"delayed":    {func(s *Submission) { s.NotBefore = c.now().Add(1) }, Delayed, ""},
		"eta now":    {func(s *Submission) { s.NotBefore = c.now() }, Queued, ""},
		"expired":    {func(s *Submission) { s.Expires = c.now() }, Failed, "expired before it was accepted"},
		"dependency": {after(bad), Failed, "job " + bad + ", which had to succeed first, failed"},
		"any":        {afterAny(bad), Queued, ""},
	} {
		j := submit(t, s, sub(b.change, reporting))[0]
		if j.State != b.want || j.Reason != b.reason {
			t.Errorf("%s: born %s (%s)", name, j.State, j.Reason)
		}
		if j.State.Final() == j.Finished.IsZero() {
			t.Errorf("%s: finished at %s", name, j.Finished)
		}
		events := allEvents(t, s)
		if e := events[len(events)-1]; e.Job != j.ID || e.State != b.want {
			t.Errorf("%s: last event %+v", name, e)
		}
	}
}

func TestFull(t *testing.T) {
	s := open(t, func(o *Options) { o.MaxJobs = 3 })
	submit(t, s, sub(named("a")), sub())
	if _, err := s.Submit(ctx, sub(), sub()); !errors.Is(err, ErrFull) {
		t.Errorf("two into one: %v", err)
	}
	submit(t, s, sub(func(s *Submission) { s.Hold = "x" }))
	if _, err := s.Submit(ctx, sub()); !errors.Is(err, ErrFull) {
		t.Errorf("one more: %v", err)
	}
	if got, err := s.Submit(ctx, sub(named("a"))); err != nil || !got[0].Existing {
		t.Errorf("one that is there: %v", err)
	}
	claim(t, s, roomy, 1)
	submit(t, s, sub())
}

func TestIDs(t *testing.T) {
	s := open(t)
	jobs := submit(t, s, sub(), sub(), sub())
	for i, j := range jobs {
		if err := CheckID(j.ID); err != nil {
			t.Error(err)
		}
		if i > 0 && j.ID <= jobs[i-1].ID {
			t.Errorf("%s does not sort after %s", j.ID, jobs[i-1].ID)
		}
	}
	if a, b := newID(1<<35-1, 4), newID(31, 4); a[:7] != "zzzzzzz" || b[:7] != "000000z" {
		t.Errorf("ids %s and %s", a, b)
	}
}

func TestRevoke(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	amqp := func(s *Submission) { s.Source = SourceAMQP }
	hour := c.now().Add(time.Hour)
	for _, id := range []string{"early", "late", "mine"} {
		must(t, s.Revoke(ctx, id, hour))
	}
	must(t, s.Revoke(ctx, "early", hour.Add(time.Hour)))
	must(t, s.Revoke(ctx, "early", hour)) // never shortens
	must(t, s.Check())
	s = reopen(t, s)
	if j := submit(t, s, sub(named("early"), amqp, reporting))[0]; j.State != Canceled || !j.CancelRequested {
		t.Errorf("revoked before: %s (%s)", j.State, j.Reason)
	}
	if j := submit(t, s, sub(named("mine")))[0]; j.State != Queued {
		t.Errorf("a job of the socket: %s (%s)", j.State, j.Reason)
	}
	must(t, s.Revoke(ctx, "mine", hour))
	wantState(t, s, "mine", Queued)
	c.add(time.Hour)
	claim(t, s, Capacity{}, 0)
	if j := submit(t, s, sub(named("late"), amqp))[0]; j.State != Queued {
		t.Errorf("after the revocation ended: %s (%s)", j.State, j.Reason)
	}
	must(t, s.Revoke(ctx, "late", hour.Add(time.Hour)))
	wantState(t, s, "late", Canceled)
	run := submit(t, s, sub(named("runs"), amqp, priority(9)))[0]
	claim(t, s, roomy, 1)
	must(t, s.Revoke(ctx, run.ID, c.now()))
	if j := wantState(t, s, run.ID, Preparing); !j.CancelRequested {
		t.Error("a running job was not told")
	}
	c.add(2 * time.Hour)
	claim(t, s, Capacity{}, 0)
	if !s.NextDue().IsZero() {
		t.Errorf("revocations are left until %s", s.NextDue())
	}
	if err := s.Revoke(ctx, "../x", hour); !errors.Is(err, ErrInvalid) {
		t.Errorf("a bad id: %v", err)
	}
	if err := s.Revoke(ctx, "x", time.Time{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("no end: %v", err)
	}
}
