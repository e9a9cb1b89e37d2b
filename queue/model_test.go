package queue

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is the queue without a disk, indexes or haste: a list of jobs.
type model struct {
	now     time.Time
	seq     uint64
	jobs    []*Job            // by sequence
	served  map[string]uint64 // owner → stamp
	stamp   uint64
	revoked map[string]time.Time
	event   uint64
	secret  map[string]bool // jobs that came with one
	events  []Event
	settled map[string]bool // doubts, until the next claim
	late    []*Job          // not nil while dependents are told later
}

func (m *model) job(id string) *Job {
	for _, j := range m.jobs {
		if j.ID == id {
			return j
		}
	}
	return nil
}

func (m *model) untold(id string) bool {
	return slices.ContainsFunc(m.events, func(e Event) bool { return e.Job == id })
}

// String is what waits and what runs, for a person who looks for a difference.
func (m *model) String() string {
	text := fmt.Sprintf("%s, served %v\n", m.now.Format(time.TimeOnly), m.served)
	for _, j := range m.jobs {
		if j.State == Queued || j.State == Delayed || j.State == Preparing || j.State == Running {
			text += fmt.Sprintf("%s %s priority %d owner %s needs %v after %v %v not before %s, passed %s\n", j.ID, j.State, j.Priority, j.Owner,
				j.Needs, j.After, j.AfterAny, j.NotBefore.Format(time.TimeOnly), j.passed.Format(time.TimeOnly))
		}
	}
	return text
}

func (m *model) set(j *Job, to State) {
	j.State = to
	if to != Queued {
		j.passed = time.Time{}
	}
	if left := j.Report.want(to); left != 0 {
		m.event++
		m.events = append(m.events, Event{Seq: m.event, Job: j.ID, Attempt: j.Attempt, State: to, Left: left})
	}
	switch {
	case to.Final():
		j.Doubtful, j.HandedBack = false, false
	}
	switch {
	case to.Final() && m.late != nil:
		m.late = append(m.late, j)
	case to.Final():
		m.tell(j)
	}
}

// tell fails what cannot start any more; whether something can start is found when it is claimed.
func (m *model) tell(end *Job) {
	for _, j := range m.jobs {
		if !j.State.Final() && !j.State.Active() && j.Attempt == 0 && end.State != Succeeded && slices.Contains(j.After, end.ID) {
			m.set(j, Failed)
		}
	}
}

// waitedFor tells whether a job that has not ended waits for the end of j.
func (m *model) waitedFor(j *Job) bool {
	return slices.ContainsFunc(m.jobs, func(o *Job) bool {
		return !o.State.Final() && !o.State.Active() && o.Attempt == 0 && slices.Contains(slices.Concat(o.After, o.AfterAny), j.ID)
	})
}

func (m *model) unmet(j *Job) bool {
	for _, id := range slices.Concat(j.After, j.AfterAny) {
		if on := m.job(id); on != nil && !on.State.Final() {
			return true
		}
	}
	return false
}

func (m *model) submit(sub Submission, id string) *Job {
	m.seq++
	j := &Job{
		ID: id, Seq: m.seq, Source: sub.Source, Owner: sub.Owner, Priority: sub.Priority, Needs: sub.Needs, Retry: sub.Retry,
		After: sub.After, AfterAny: sub.AfterAny, NotBefore: sub.NotBefore, Expires: sub.Expires, Report: sub.Report,
	}
	j.Doubtful = sub.Doubtful
	to := Queued
	if until, ok := m.revoked[id]; ok && sub.Source == SourceAMQP && until.After(m.now) {
		to, j.CancelRequested = Canceled, true
	} else if !sub.Expires.IsZero() && !sub.Expires.After(m.now) {
		to = Failed
	} else if sub.Hold != "" {
		to = Held
	} else if sub.NotBefore.After(m.now) {
		to = Delayed
	}
	if to != Canceled {
		for _, id := range sub.After {
			if on := m.job(id); on.State.Final() && on.State != Succeeded {
				to = Failed
			}
		}
	}
	m.jobs = append(m.jobs, j)
	m.set(j, to)
	return j
}

// settle does what is due in the order of time, and only then tells dependents.
func (m *model) settle() {
	type due struct {
		at     time.Time
		expiry bool
		job    *Job
	}
	var list []due
	for _, j := range m.jobs {
		waits := j.State == Queued || j.State == Delayed || j.State == Held
		if j.State == Delayed && !j.NotBefore.After(m.now) {
			list = append(list, due{j.NotBefore, false, j})
		}
		if waits && j.Attempt == 0 && !j.Expires.IsZero() && !j.Expires.After(m.now) {
			list = append(list, due{j.Expires, true, j})
		}
	}
	slices.SortStableFunc(list, func(a, b due) int {
		return cmp.Or(a.at.Compare(b.at), map[bool]int{true: 1}[a.expiry]-map[bool]int{true: 1}[b.expiry])
	})
	m.late = []*Job{}
	for _, d := range list {
		if d.expiry && !d.job.State.Final() {
			m.set(d.job, Failed)
		} else if d.job.State == Delayed {
			m.set(d.job, Queued)
		}
	}
	late := m.late
	m.late = nil
	for _, j := range late {
		m.tell(j)
	}
}

// claim says the rule of claim.go in other words: in the order of priority,
// turn and arrival, the first that fits, where the long overtaken go first and
// keep what they need, of the disk first.
func (m *model) claim(total Capacity, most int) (ids []string) {
	for id := range m.settled {
		if j := m.job(id); j != nil {
			j.Doubtful, j.HandedBack = false, false
		}
	}
	m.settled = map[string]bool{}
	m.settle()
	all := capacityOf(total)
	free := all
	for _, j := range m.jobs {
		if j.State == Preparing || j.State == Running {
			free = free.minus(amountOf(j.Needs))
		}
	}
	take := func(j *Job) {
		free = free.minus(amountOf(j.Needs))
		m.stamp++
		m.served[j.Owner] = m.stamp
		j.Attempt++
		j.Result = nil
		m.set(j, Preparing)
		ids = append(ids, j.ID)
	}
	overtake := func(j *Job) {
		if j.passed.IsZero() && all.fits(amountOf(j.Needs)) {
			j.passed = m.now
		}
	}
	var above []*Job // heads of higher priority that do not fit
	for level := 9; level >= 0 && free.slots > 0 && len(ids) < most; level-- {
		heads := make(map[string]*Job) // first of each lane
		var level1 []*Job
		for _, j := range m.jobs {
			if j.Priority == level && j.State == Queued && !j.Doubtful && !m.unmet(j) {
				level1 = append(level1, j)
				if heads[string(laneKey(j))] == nil {
					heads[string(laneKey(j))] = j
				}
			}
		}
		over := slices.DeleteFunc(slices.Collect(maps.Values(heads)), func(j *Job) bool {
			return j.passed.IsZero() || m.now.Sub(j.passed) < patience || !all.fits(amountOf(j.Needs))
		})
		slices.SortFunc(over, func(a, b *Job) int {
			return cmp.Or(a.passed.Compare(b.passed), cmp.Compare(a.Seq, b.Seq))
		})
		kept := make(map[*Job]bool)
		for _, j := range over {
			if free.slots <= 0 || len(ids) >= most {
				break
			}
			if free.fits(amountOf(j.Needs)) {
				take(j)
			} else {
				keep := amountOf(j.Needs)
				if keep.scratch > max(free.scratch, 0) || keep.swap > max(free.swap, 0) {
					keep.slots, keep.milli, keep.memory, keep.gpus = 0, 0, 0, 0
				}
				free = free.reserve(keep)
				kept[j] = true
			}
		}
		stuck := make(map[string]*Job) // the first of each lane that did not fit
		for _, j := range level1 {
			if kept[j] {
				stuck[string(laneKey(j))] = j
			}
		}
		for free.slots > 0 && len(ids) < most {
			turn := slices.DeleteFunc(slices.Clone(level1), func(j *Job) bool { return j.State != Queued || kept[j] })
			slices.SortFunc(turn, func(a, b *Job) int {
				return cmp.Or(cmp.Compare(m.served[a.Owner], m.served[b.Owner]), cmp.Compare(a.Seq, b.Seq))
			})
			for _, j := range turn { // what does not fit now will not in this claim
				if lane := string(laneKey(j)); !free.fits(amountOf(j.Needs)) && (stuck[lane] == nil || stuck[lane].Seq > j.Seq) {
					stuck[lane] = j
				}
			}
			i := slices.IndexFunc(turn, func(j *Job) bool { return free.fits(amountOf(j.Needs)) })
			if i < 0 {
				break
			}
			chosen := turn[i]
			for _, j := range above {
				overtake(j)
			}
			for _, j := range turn[:i] {
				if stuck[string(laneKey(j))] == j {
					overtake(j)
				}
			}
			take(chosen)
		}
		for _, j := range stuck {
			above = append(above, j)
		}
	}
	return ids
}

// TestModel runs random operations against the store and the model, closes and
// opens the store every now and then, and checks it each time.
func TestModel(tt *testing.T) {
	rapid.Check(tt, func(t *rapid.T) {
		dir := filepath.Join(tt.TempDir(), "state")
		c := newClock()
		total := Capacity{Slots: 4, CPUs: 4, Memory: 16, GPUs: 1, Scratch: 10, Swap: 4}
		most := limit(0) // of the claim that stands
		var stood *begun
		start := func() *Store {
			s, err := Open(Options{Dir: dir, Now: c.now, Jitter: func() float64 { return 0 }})
			if err != nil {
				t.Fatal(err)
			}
			stood = stand(s, total, most)
			return s
		}
		s := start()
		defer func() { s.Close() }()
		m := &model{now: c.now(), served: map[string]uint64{}, revoked: map[string]time.Time{}, secret: map[string]bool{}, settled: map[string]bool{}}
		check := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		// refusal holds the store's answer against the model's.
		refusal := func(what string, ok bool, err error) {
			var te *TransitionError
			if ok && err != nil || !ok && !errors.As(err, &te) {
				t.Fatalf("%s: model says %t, store says %v", what, ok, err)
			}
		}
		pick := func(t *rapid.T) *Job {
			if len(m.jobs) == 0 {
				t.Skip("no jobs")
			}
			return rapid.SampledFrom(m.jobs).Draw(t, "job")
		}
		pickActive := func(t *rapid.T) *Job {
			active := slices.DeleteFunc(slices.Clone(m.jobs), func(j *Job) bool { return !j.State.Active() })
			if len(active) == 0 {
				t.Skip("no active jobs")
			}
			return rapid.SampledFrom(active).Draw(t, "job")
		}
		finish := func(j *Job, r Result, problem string) State {
			switch {
			case j.CancelRequested || r.Outcome == "canceled":
				return Canceled
			case r.Outcome == "interrupted" && j.Retry.FailInterrupted:
				return Failed
			case r.Outcome == "interrupted":
				return Queued
			case r.Code == 0 && problem == "":
				return Succeeded
			}
			j.Failures++
			switch {
			case j.Failures > j.Retry.Max:
				return Failed
			case j.Retry.Delay == 0:
				j.NotBefore = m.now
				return Queued
			}
			j.NotBefore = m.now.Add(min(j.Retry.Delay<<(j.Failures-1), maxDelay))
			return Delayed
		}
		drawResult := func(t *rapid.T) Result {
			outcome := rapid.SampledFrom([]string{"exited", "exited", "exited", "canceled", "interrupted"}).Draw(t, "outcome")
			r := Result{Outcome: outcome, Code: rapid.IntRange(0, 1).Draw(t, "code")}
			if rapid.Bool().Draw(t, "with its start") {
				r.Started = m.now
			}
			return r
		}
		exited := func(j *Job, r *Result) {
			if j.State == Preparing && !r.Started.IsZero() {
				m.set(j, Running)
			}
			j.Result = r
			m.set(j, Finishing)
		}
		t.Repeat(map[string]func(*rapid.T){
			"submit": func(t *rapid.T) {
				n := rapid.IntRange(1, 4).Draw(t, "n")
				var subs []Submission
				for range n {
					sub := Submission{
						Source:   rapid.SampledFrom([]Source{SourceSocket, SourceAMQP}).Draw(t, "source"),
						Owner:    rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "owner"),
						Priority: rapid.SampledFrom([]int{5, 5, 5, 9, 0}).Draw(t, "priority"),
						Needs: Needs{
							CPUs:   float64(rapid.IntRange(0, 10).Draw(t, "cpus")) / 2,
							Memory: int64(rapid.IntRange(0, 18).Draw(t, "memory")),
							GPUs:   rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "gpus"),

							Scratch: rapid.SampledFrom([]int64{0, 0, 0, 5, 9, 11}).Draw(t, "scratch"),
							Swap:    rapid.SampledFrom([]int64{0, 0, 0, 2, 4}).Draw(t, "swap"),
						},
						Retry: Retry{
							Max:             rapid.IntRange(0, 2).Draw(t, "retries"),
							Delay:           time.Duration(rapid.IntRange(0, 3).Draw(t, "delay")) * time.Minute,
							FailInterrupted: rapid.Bool().Draw(t, "fail interrupted"),
						},
						Report: rapid.SampledFrom([]Sinks{0, SinkGirder, SinkCelery, allSinks}).Draw(t, "report"),
						Body:   []byte("body"), Origin: []byte("origin"), Secrets: []byte("secret"),
					}
					if rapid.IntRange(0, 5).Draw(t, "eta") == 0 {
						sub.NotBefore = m.now.Add(time.Duration(rapid.IntRange(-1, 9).Draw(t, "minutes")) * time.Minute)
					}
					if rapid.IntRange(0, 5).Draw(t, "expiry") == 0 {
						sub.Expires = m.now.Add(time.Duration(rapid.IntRange(-1, 9).Draw(t, "minutes")) * time.Minute)
					}
					sub.Doubtful = sub.Source == SourceAMQP && rapid.IntRange(0, 2).Draw(t, "doubtful") == 0
					if sub.Source == SourceSocket && rapid.IntRange(0, 9).Draw(t, "hold") == 0 {
						sub.Hold = "held"
					}
					if rapid.IntRange(0, 4).Draw(t, "named") == 0 {
						sub.ID = fmt.Sprint("id", rapid.IntRange(0, 30).Draw(t, "id"))
						if m.job(sub.ID) != nil || slices.ContainsFunc(subs, func(s Submission) bool { return s.ID == sub.ID }) {
							sub.ID = ""
						}
					}
					if len(m.jobs) > 0 && rapid.IntRange(0, 2).Draw(t, "depends") == 0 {
						for range rapid.IntRange(1, 2).Draw(t, "on") {
							id := pick(t).ID
							if rapid.Bool().Draw(t, "any") {
								sub.AfterAny = append(sub.AfterAny, id)
							} else {
								sub.After = append(sub.After, id)
							}
						}
					}
					subs = append(subs, sub)
				}
				acc, err := s.Submit(ctx, subs...)
				check(err)
				for i := range subs {
					j := m.submit(subs[i], acc[i].Job.ID)
					m.secret[j.ID] = true
					if acc[i].Job.State != j.State || acc[i].Job.Seq != j.Seq {
						t.Fatalf("born %s, model says %s", acc[i].Job.State, j.State)
					}
				}
			},
			"claim": func(t *rapid.T) {
				n := rapid.IntRange(0, 5).Draw(t, "max")
				before := m.String()
				want := m.claim(total, n)
				got, err := s.Claim(ctx, total, "boot", n)
				check(err)
				var ids []string
				for _, j := range got {
					ids = append(ids, j.ID)
				}
				if !slices.Equal(ids, want) {
					t.Fatalf("claimed %v, model says %v of\n%s", ids, want, before)
				}
			},
			"stand": func(t *rapid.T) { most.Store(int32(rapid.IntRange(0, 3).Draw(t, "most"))) },
			"look":  func(t *rapid.T) { check(s.Look(ctx)) },
			"started": func(t *rapid.T) {
				j := pick(t)
				ok := j.State == Preparing || j.State == Running
				refusal("started", ok, s.Started(ctx, j.ID, j.Attempt, m.now))
				if j.State == Preparing {
					m.set(j, Running)
				}
			},
			"exited": func(t *rapid.T) {
				j := pickActive(t)
				r := drawResult(t)
				refusal("exited", true, s.Exited(ctx, j.ID, j.Attempt, r, m.now))
				if j.State != Finishing {
					exited(j, &r)
				}
			},
			"finish": func(t *rapid.T) {
				j := pickActive(t)
				problem := rapid.SampledFrom([]string{"", "", "no upload"}).Draw(t, "problem")
				var r *Result
				if rapid.Bool().Draw(t, "joined") {
					x := drawResult(t)
					r = &x
				}
				ok := j.State == Finishing || r != nil
				got, err := s.Finish(ctx, j.ID, j.Attempt, r, problem, m.now)
				refusal("finish", ok, err)
				if !ok {
					return
				}
				if j.State != Finishing {
					exited(j, r)
				}
				m.set(j, finish(j, *j.Result, problem))
				if got.State != j.State {
					t.Fatalf("finished %s, model says %s", got.State, j.State)
				}
			},
			"interrupt": func(t *rapid.T) {
				j := pick(t)
				ok := j.State == Preparing || j.State == Running
				_, err := s.Interrupt(ctx, j.ID, j.Attempt, "lost")
				refusal("interrupt", ok, err)
				if ok {
					m.set(j, finish(j, Result{Outcome: "interrupted"}, ""))
				}
			},
			"cancel": func(t *rapid.T) {
				j := pick(t)
				_, err := s.Cancel(ctx, j.ID, "enough")
				check(err)
				if !j.State.Final() {
					j.CancelRequested = true
					if !j.State.Active() {
						m.set(j, Canceled)
					}
				}
			},
			"hold": func(t *rapid.T) {
				j := pick(t)
				_, err := s.Hold(ctx, j.ID, "look")
				if j.Source != SourceSocket {
					if !errors.Is(err, ErrNotHoldable) {
						t.Fatal(err)
					}
					return
				}
				ok := j.State == Queued || j.State == Delayed
				refusal("hold", ok, err)
				if ok {
					m.set(j, Held)
				}
			},
			"release": func(t *rapid.T) {
				j := pick(t)
				_, err := s.Release(ctx, j.ID)
				refusal("release", j.State == Held, err)
				if j.State == Held && j.NotBefore.After(m.now) {
					m.set(j, Delayed)
				} else if j.State == Held {
					m.set(j, Queued)
				}
			},
			"retry": func(t *rapid.T) {
				j := pick(t)
				got, err := s.Retry(ctx, j.ID)
				refusal("retry", j.State.Final(), err)
				if err == nil {
					m.submit(Submission{
						Source: j.Source, Owner: j.Owner, Priority: j.Priority, Needs: j.Needs, Retry: j.Retry,
					}, got.ID)
				}
			},
			"remove": func(t *rapid.T) {
				j := pick(t)
				// What others name stays, so that the model can look it up.
				for _, o := range m.jobs {
					if slices.Contains(slices.Concat(o.After, o.AfterAny), j.ID) {
						return
					}
				}
				err := s.Remove(ctx, j.ID)
				if j.State.Final() && m.untold(j.ID) {
					if !errors.Is(err, ErrUntold) {
						t.Fatalf("removed untold: %v", err)
					}
					return
				}
				refusal("remove", j.State.Final(), err)
				if err == nil {
					m.jobs = slices.DeleteFunc(m.jobs, func(o *Job) bool { return o == j })
				}
			},
			"deliver": func(t *rapid.T) {
				j := pick(t)
				sinks := rapid.SampledFrom([]Sinks{SinkGirder, SinkCelery, allSinks}).Draw(t, "sinks")
				var of []Event
				for _, e := range allEvents(t, s) {
					if e.Job == j.ID {
						of = append(of, e)
					}
				}
				if len(of) == 0 {
					t.Skip("nothing to tell")
				}
				n := rapid.IntRange(1, len(of)).Draw(t, "events")
				check(s.SetReport(ctx, j.Seq, []byte("report")))
				check(s.Delivered(ctx, j.Seq, of[n-1].Seq, sinks))
				seen := 0
				for i := range m.events {
					if e := &m.events[i]; e.Job == j.ID && seen < n {
						seen++
						e.Left &^= sinks
					}
				}
				m.events = slices.DeleteFunc(m.events, func(e Event) bool { return e.Left == 0 })
			},
			"revoke": func(t *rapid.T) {
				id := fmt.Sprint("id", rapid.IntRange(0, 30).Draw(t, "id"))
				until := m.now.Add(time.Duration(rapid.IntRange(0, 9).Draw(t, "minutes")) * time.Minute)
				check(s.Revoke(ctx, id, until))
				j := m.job(id)
				switch {
				case j == nil || j.Source != SourceAMQP:
					if until.After(m.now) && until.After(m.revoked[id]) {
						m.revoked[id] = until
					}
				case !j.State.Final():
					j.CancelRequested = true
					if !j.State.Active() {
						m.set(j, Canceled)
					}
				}
			},
			"confirm": func(t *rapid.T) {
				j := pick(t)
				s.Confirm(j.ID)
				m.settled[j.ID] = true
			},
			"doubt": func(t *rapid.T) {
				j := pick(t)
				err := s.Doubt(ctx, j.ID)
				switch {
				case j.State.Final():
					if err == nil {
						t.Fatal("a job that has ended is in doubt")
					}
				case j.State != Queued && j.State != Delayed || j.Attempt > 0:
					if !errors.Is(err, ErrStarted) {
						t.Fatal(err)
					}
				case m.waitedFor(j):
					if !errors.Is(err, ErrWaitedFor) {
						t.Fatal(err)
					}
				default:
					check(err)
					j.Doubtful, j.HandedBack = true, true
					delete(m.settled, j.ID)
				}
			},
			"forget": func(t *rapid.T) {
				j := pick(t)
				for _, o := range m.jobs { // what others name stays, so that the model can look it up
					if slices.Contains(slices.Concat(o.After, o.AfterAny), j.ID) {
						return
					}
				}
				err := s.Forget(ctx, j.ID)
				if !j.Doubtful || m.settled[j.ID] {
					if !errors.Is(err, ErrStarted) && !errors.Is(err, ErrNotFound) {
						t.Fatal(err)
					}
					return
				}
				check(err)
				m.jobs = slices.DeleteFunc(m.jobs, func(o *Job) bool { return o == j })
				m.events = slices.DeleteFunc(m.events, func(e Event) bool { return e.Job == j.ID })
			},
			"time": func(t *rapid.T) {
				c.add(time.Duration(rapid.IntRange(1, 240).Draw(t, "seconds")) * time.Second)
				m.now = c.now()
			},
			"move": func(t *rapid.T) { check(s.moveFinished(ctx)) },
			"reopen": func(t *rapid.T) {
				check(s.Check())
				check(s.Close())
				s = start()
				m.settled = map[string]bool{} // it comes back
			},
			"": func(t *rapid.T) {
				if ids, looks := stood.take(); looks > 0 {
					before := m.String()
					if want := m.claim(total, int(most.Load())); looks > 1 || !slices.Equal(ids, want) {
						t.Fatalf("claimed %v in %d looks, model says %v of\n%s", ids, looks, want, before)
					}
				}
				counts := make(map[State]int)
				for _, st := range states {
					counts[st] = 0
				}
				used := amount{}
				for _, j := range m.jobs {
					counts[j.State]++
					got, err := s.Job(j.ID)
					check(err)
					if got.State != j.State || got.Attempt != j.Attempt || got.Failures != j.Failures || got.CancelRequested != j.CancelRequested ||
						got.Doubtful != j.Doubtful || got.HandedBack != j.HandedBack ||
						!got.passed.Equal(j.passed) || !got.NotBefore.Equal(clean(j.NotBefore)) || (got.Result == nil) != (j.Result == nil) {
						t.Fatalf("the store has\n%+v, the model\n%+v", got, *j)
					}
					if j.State == Preparing || j.State == Running {
						used = used.plus(amountOf(j.Needs))
					}
				}
				if got := s.Counts(); !maps.Equal(got, counts) {
					t.Fatalf("counts %v, model says %v", got, counts)
				}
				if got := capacityOf(s.InUse()); got != used {
					t.Fatalf("in use %v, model says %v", got, used)
				}
				text := func(events []Event) (of map[string]string) {
					of = make(map[string]string)
					for _, e := range events {
						of[e.Job] += fmt.Sprint(e.State, e.Attempt, e.Left, " ")
					}
					return of
				}
				if got, want := text(allEvents(t, s)), text(m.events); !maps.Equal(got, want) {
					t.Fatalf("events %v, model says %v", got, want)
				}
				for _, j := range m.jobs {
					secret, err := s.Secrets(ctx, j.ID)
					check(err)
					if want := m.secret[j.ID] && (!j.State.Final() || m.untold(j.ID)); want != (secret != nil) {
						t.Fatalf("job %s is %s, untold %t, and its secret is %q", j.ID, j.State, m.untold(j.ID), secret)
					}
				}
			},
		})
		check(s.Check())
	})
}
