package queue

import (
	"errors"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// A machine's clock may be set while the daemon runs, or be wrong until somebody
// sets it. What is undone by nobody (a job expires, a revocation is forgotten, the
// history is swept) waits until a clock that was set forward has stood for
// believedAfter; what only starts a job does not. A delay that was given before the
// clock was set back is not waited for longer than it was long.
const (
	believedAfter = time.Hour
	// clockStep is what makes the difference between a clock that was set and one
	// that is not quite steady.
	clockStep = time.Minute
	// longOff is how long a machine may have been off by a clock that is believed at once.
	longOff = 30 * 24 * time.Hour
)

// timepiece holds what the clock shows against the time that passes.
type timepiece struct {
	wall    func() time.Time
	elapsed func() time.Duration

	mu sync.Mutex
	// shown and believed are the time at which elapsed was 0: by the clock as it
	// stands, and by the clock as it is believed. since is when it was set forward.
	shown, believed time.Time
	since           time.Duration
	backs           int // how often it was set back
}

// reading is what a timepiece shows at a moment.
type reading struct {
	now     time.Time     // for people, and for what starts
	sure    time.Time     // for what cannot be undone; never after now
	elapsed time.Duration // whatever was done to the clock
	backs   int
}

// newTimepiece believes the clock if it is not long after last, when it was last
// known to be believed; the zero time is never.
func newTimepiece(wall func() time.Time, elapsed func() time.Duration, last time.Time) *timepiece {
	c := &timepiece{wall: wall, elapsed: elapsed}
	now, since := clean(wall()), elapsed()
	c.shown = now.Add(-since)
	c.believed, c.since = c.shown, since
	if !last.IsZero() && now.Sub(last) > longOff {
		c.believed = last.Add(-since)
	}
	return c
}

func (c *timepiece) read() reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, elapsed := clean(c.wall()), c.elapsed()
	zero := now.Add(-elapsed)
	switch by := zero.Sub(c.shown); {
	case by > clockStep:
		c.since = elapsed
	case by < -clockStep:
		c.backs++
	}
	c.shown = zero
	if zero.Sub(c.believed) <= clockStep || elapsed-c.since >= believedAfter {
		c.believed = zero
	}
	return reading{now: now, sure: c.believed.Add(elapsed), elapsed: elapsed, backs: c.backs}
}

// sinceBoot goes on while the machine sleeps, as its clock does.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	// Linux always has it.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}

// Sure is the time, for whoever is about to do what cannot be undone because of how
// late it is: a clock that was set forward a moment ago is not believed yet.
func (s *Store) Sure() time.Time { return s.clock.read().sure }

// openClock begins to watch the clock.
func (s *Store) openClock(elapsed func() time.Duration) error {
	var last time.Time
	err := s.active.view(func(tx *bolt.Tx) error {
		if v := tx.Bucket(bucketMeta).Get(keyProbe); len(v) == 8 {
			last = timeOf(v)
		}
		return nil
	})
	s.clock = newTimepiece(s.now, elapsed, last)
	s.looked = -1
	return err
}

// delayedSince is when the delay of a delayed job began.
func (j *Job) delayedSince() time.Time {
	if j.Attempt > 0 {
		return j.Exited
	}
	return j.Created
}

// beforeDelay tells whether the clock shows a time before the delay of j began.
func (t *txn) beforeDelay(j *Job) bool { return j.delayedSince().Sub(t.now) > clockStep }

// lookSetBack finds the delayed jobs that the clock was set back under. After a start,
// when it seldom was, it reads all of them only if those that were claimed or the
// newest were accepted later than now: there may be a million.
func (t *txn) lookSetBack() error {
	all := t.looked >= 0
	look := func(seq uint64) error {
		j, err := loadSeq(t.tx, seq)
		if err != nil {
			return err
		}
		all = all || j.Created.Sub(t.now) > clockStep
		if j.State == Delayed && t.setBack[seq] == 0 && t.beforeDelay(&j) {
			t.setBack[seq] = t.at.elapsed + j.NotBefore.Sub(j.delayedSince())
		}
		return nil
	}
	c := t.tx.Bucket(bucketLive).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		if err := look(seqOf(k)); err != nil {
			return err
		}
	}
	if k, _ := t.tx.Bucket(bucketJobs).Cursor().Last(); k != nil {
		if err := look(seqOf(k)); err != nil {
			return err
		}
	}
	if !all {
		return nil
	}
	return eachIn(t.tx, Delayed, func(seq uint64, _ []byte) error { return look(seq) })
}

// settleSetBack starts the delayed jobs whose delay is over although the clock,
// which was set back since, does not say so. The committer alone calls it.
func (t *txn) settleSetBack() error {
	if t.looked != t.at.backs {
		if err := t.lookSetBack(); err != nil {
			return err
		}
		t.looked = t.at.backs
	}
	for seq, over := range t.setBack {
		j, err := loadSeq(t.tx, seq)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		switch {
		case err != nil || j.State != Delayed || !t.beforeDelay(&j):
			delete(t.setBack, seq)
		case t.at.elapsed >= over:
			// It is forgotten when this is durable.
			if err := t.move(&j, Queued, func(j *Job) { j.Reason = "" }); err != nil {
				return err
			}
		}
	}
	return nil
}
