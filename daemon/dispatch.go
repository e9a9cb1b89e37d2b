package daemon

import (
	"context"
	"errors"
	"runtime"
	"time"

	"girderworker/queue"
)

// dispatch claims jobs whenever one may be startable, until ctx ends.
func (f *front) dispatch(ctx context.Context) error {
	// More starts than this at a time only make each other slower.
	starts := 2 * runtime.NumCPU()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.store.Wake():
		case <-f.nudge:
		case <-timer.C:
		case done := <-f.proof:
			close(done)
			continue
		}
		again, err := f.claim(ctx, starts)
		f.broker.wake()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, queue.ErrClosed) {
				return nil
			}
			return err
		}
		timer.Stop()
		if !again.IsZero() {
			timer.Reset(max(0, min(time.Until(again), clockInterval)))
		}
	}
}

// diskInterval is how often jobs that wait are held against the disk.
const diskInterval = 15 * time.Second

// clockInterval is how often what waits for a time is held against the clock, which
// may have been set meanwhile.
const clockInterval = time.Minute

// fullDiskPause is how long claims rest when the disk has no room for one.
const fullDiskPause = 5 * time.Second

// claim starts what can be started, and returns when to look again without
// being woken; zero is never.
func (f *front) claim(ctx context.Context, starts int) (again time.Time, err error) {
	most := max(0, starts-f.attempts.starting())
	if paused, _ := f.Paused(); paused || f.resting() {
		most = 0 // what is due is still settled
	}
	jobs, err := f.store.Claim(ctx, f.Capacity(), f.bootID, most)
	if errors.Is(err, queue.ErrNoSpace) {
		f.logger.Error("Cannot start jobs: the disk is full; trying again", "after", fullDiskPause, "error", err)
		return time.Now().Add(fullDiskPause), nil
	}
	if err != nil {
		return time.Time{}, err
	}
	for i := range jobs {
		f.attempts.begin(&jobs[i], nil, f.runAttempt)
	}
	again = f.store.NextDue()
	// What is free on the disk changes without a word.
	if look := time.Now().Add(diskInterval); f.store.Counts()[queue.Queued] > 0 && (again.IsZero() || look.Before(again)) {
		again = look
	}
	if rest := f.rest.Load(); f.resting() && (again.IsZero() || rest.Before(again)) {
		again = *rest
	}
	return again, nil
}

// expect has the monitor get ready for a start, if the next job can have one at once.
func (f *front) expect() {
	if f.attempts.count() >= f.Capacity().Slots {
		return
	}
	if err := f.monitor.Expect(); err != nil {
		f.logger.Debug("Cannot tell the monitor of a job to come", "error", err)
	}
}

// restFor has the dispatcher start nothing for a while.
func (f *front) restFor(d time.Duration) {
	until := time.Now().Add(d)
	f.rest.Store(&until)
}

// resting tells whether the last start failed for want of disk space.
func (f *front) resting() bool {
	rest := f.rest.Load()
	return rest != nil && time.Now().Before(*rest)
}

// lookAgain makes the dispatcher claim soon.
func (f *front) lookAgain() {
	select {
	case f.nudge <- struct{}{}:
	default:
	}
}
