package queue

import (
	"sync/atomic"
	"testing"
	"time"
)

// A setClock is a clock that is set while time passes.
type setClock struct {
	*clock
	elapsed atomic.Int64
}

func newSetClock() *setClock { return &setClock{clock: newClock()} }

func (c *setClock) options(o *Options) {
	o.Now, o.Elapsed = c.now, func() time.Duration { return time.Duration(c.elapsed.Load()) }
}

func (c *setClock) pass(d time.Duration) {
	c.elapsed.Add(int64(d))
	c.add(d)
}

// again closes s and opens what it was.
func (c *setClock) again(t *testing.T, s *Store) *Store {
	t.Helper()
	must(t, s.Close())
	return open(t, c.options, func(o *Options) { o.Dir, o.Retention = s.dir, *s.retention.Load() })
}

const years = 8766 * time.Hour

// TestSetForward: a clock that jumps forward and is corrected ends nothing; one that
// stays there is believed after a while.
func TestSetForward(t *testing.T) {
	const age = 30 * 24 * time.Hour
	for _, restart := range []bool{false, true} {
		c := newSetClock()
		s := open(t, c.options, func(o *Options) { o.Retention = Retention{Age: age} })
		ended := endJobs(t, s, c.clock, 1)[0]
		amqp := func(s *Submission) { s.Source = SourceAMQP }
		must(t, s.Revoke(ctx, "revoked", c.now().Add(2*time.Hour)))
		submit(t, s, sub(named("waits"), func(s *Submission) { s.Expires = c.now().Add(12 * time.Hour) }))
		must(t, s.Probe(ctx))

		jump := func(d time.Duration) {
			c.add(d)
			if restart {
				s = c.again(t, s)
			}
		}
		look := func(gone bool) {
			t.Helper()
			claim(t, s, Capacity{}, 0)
			if j := job(t, s, "waits"); (j.State == Failed) != gone {
				t.Errorf("a job that expires is %s (%s)", j.State, j.Reason)
			}
			if ids, err := s.Sweep(ctx); err != nil || (len(ids) == 1) != gone {
				t.Errorf("%s: swept %v, %v", ended, ids, err)
			}
			if all, err := s.Revocations(9); err != nil || (len(all) == 0) != gone {
				t.Errorf("revocations %v, %v", all, err)
			}
		}
		jump(10 * years)
		look(false)
		if due := s.NextDue(); due.Before(c.now().Add(time.Second)) {
			t.Errorf("nothing is due, and the next look is at %s, now %s", due, c.now())
		}
		c.pass(believedAfter / 2)
		must(t, s.Probe(ctx)) // is no reason to believe it at the next start
		look(false)
		if j := submit(t, s, sub(named("revoked"), amqp))[0]; j.State != Canceled {
			t.Errorf("a job that was revoked is %s", j.State)
		}
		jump(-10 * years)
		look(false)
		c.pass(time.Hour)
		look(false)
		jump(10 * years)
		look(false)
		c.pass(believedAfter)
		look(true)
		if due := s.NextDue(); !due.IsZero() {
			t.Errorf("something is due at %s", due)
		}
	}
}

// TestSetBack: a job whose delay began before the clock was set back waits for it, and
// no longer; one that was given a time starts then, when the clock has it again.
func TestSetBack(t *testing.T) {
	for _, restart := range []bool{false, true} {
		c := newSetClock()
		s := open(t, c.options)
		submit(t, s, sub(named("retried"), func(s *Submission) { s.Retry = Retry{Max: 1, Delay: time.Minute} }))
		claim(t, s, roomy, 1)
		run(t, s, "retried", 1)
		submit(t, s, sub(named("tomorrow"), func(s *Submission) { s.NotBefore = c.now().Add(24 * time.Hour) }))
		wantClaims(t, claimIDs(t, s, roomy, 9), "")

		c.add(-20 * years)
		if restart {
			s = c.again(t, s)
		}
		wantClaims(t, claimIDs(t, s, roomy, 9), "")
		submit(t, s, sub(named("new"), func(s *Submission) { s.NotBefore = c.now().Add(10 * time.Minute) }))
		c.pass(time.Minute)
		wantClaims(t, claimIDs(t, s, roomy, 9), "retried")
		c.pass(9 * time.Minute)
		wantClaims(t, claimIDs(t, s, roomy, 9), "new")
		c.pass(time.Hour)
		wantClaims(t, claimIDs(t, s, roomy, 9), "")

		c.add(20 * years)
		wantClaims(t, claimIDs(t, s, roomy, 9), "")
		c.pass(22*time.Hour + 49*time.Minute)
		wantClaims(t, claimIDs(t, s, roomy, 9), "")
		c.pass(time.Minute)
		wantClaims(t, claimIDs(t, s, roomy, 9), "tomorrow")
	}
}

// TestSetBackPatience: a large job does not stand behind small ones until the clock
// is where it was.
func TestSetBackPatience(t *testing.T) {
	c := newSetClock()
	s := open(t, c.options)
	two := Capacity{Slots: 2, CPUs: 2, Memory: 1 << 30}
	submit(t, s, sub(named("first")))
	wantClaims(t, claimIDs(t, s, two, 9), "first")
	submit(t, s, sub(named("large"), needs(2, 1)), sub(named("small")), sub(named("smaller")))
	wantClaims(t, claimIDs(t, s, two, 9), "small")
	c.add(-20 * years)
	run(t, s, "small", 0)
	wantClaims(t, claimIDs(t, s, two, 9), "")
	run(t, s, "first", 0)
	wantClaims(t, claimIDs(t, s, two, 9), "large")
}

// TestFinishedLongAgo: what ran while the clock was far back is not swept as old when
// it was set right, as long as there are jobs that came before.
func TestFinishedLongAgo(t *testing.T) {
	c := newSetClock()
	s := open(t, c.options, func(o *Options) { o.Retention = Retention{Age: 30 * 24 * time.Hour} })
	endJobs(t, s, c.clock, 1)
	c.add(-50 * years)
	s = c.again(t, s)
	endJobs(t, s, c.clock, 2)
	c.add(50 * years)
	c.pass(2 * believedAfter)
	if ids, err := s.Sweep(ctx); err != nil || len(ids) > 0 {
		t.Errorf("swept %v, %v", ids, err)
	}
	c.pass(30 * 24 * time.Hour)
	if ids, err := s.Sweep(ctx); err != nil || len(ids) != 3 {
		t.Errorf("swept %v, %v", ids, err)
	}
}
