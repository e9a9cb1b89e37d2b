package daemon

import (
	"context"
	"errors"
	"runtime"
	"time"

	"girderworker/queue"
)

// dispatch claims jobs whenever one may be startable, until ctx ends. The queue
// claims by itself what comes to be startable with a commit; the rest is looked for
// here.
func (f *front) dispatch(ctx context.Context) error {
	claimed := make(chan struct{}, 1)
	f.store.Stand(&queue.Standing{
		BootID: f.bootID,
		Room: func() (queue.Capacity, int) {
			if most := f.mayStart(ctx); most > 0 {
				return f.Capacity(), most
			}
			return queue.Capacity{}, 0
		},
		Begin: func(jobs []queue.Job) {
			for i := range jobs {
				f.attempts.begin(&jobs[i], nil, f.runAttempt)
			}
			select {
			case claimed <- struct{}{}:
			default:
			}
		},
	})
	defer f.store.Stand(nil)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		look := true
		select {
		case <-ctx.Done():
			return nil
		case <-claimed:
			look = false // only when to look again may be another time
		case <-f.store.Wake():
		case <-f.nudge:
		case <-timer.C:
		case done := <-f.proof:
			close(done)
			continue
		}
		again, err := f.claim(ctx, look)
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

// mayStart is how many jobs may be claimed now.
func (f *front) mayStart(ctx context.Context) int {
	if paused, _ := f.Paused(); paused || f.resting() || ctx.Err() != nil {
		return 0 // what is due is still settled
	}
	// More starts than this at a time only make each other slower.
	return max(0, 2*runtime.NumCPU()-f.attempts.starting())
}

// diskInterval is how often jobs that wait are held against the disk.
const diskInterval = 15 * time.Second

// clockInterval is how often what waits for a time is held against the clock, which
// may have been set meanwhile.
const clockInterval = time.Minute

// fullDiskPause is how long claims rest when the disk has no room for one.
const fullDiskPause = 5 * time.Second

// claim starts what can be started, if it is to look, and returns when to look again
// without being woken; zero is never.
func (f *front) claim(ctx context.Context, look bool) (again time.Time, err error) {
	if look {
		err = f.store.Look(ctx)
	}
	if errors.Is(err, queue.ErrNoSpace) {
		f.logger.Error("Cannot start jobs: the disk is full; trying again", "after", fullDiskPause, "error", err)
		return time.Now().Add(fullDiskPause), nil
	}
	if err != nil {
		return time.Time{}, err
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
