package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"girderworker/daemon/monitor"
	"girderworker/daemon/systemd"
	"girderworker/queue"
)

const (
	// checkEvery is how often the front examines itself without a watchdog.
	checkEvery = 20 * time.Second
	// checkPatience is how long that may take; a disk may be very slow.
	checkPatience = time.Minute
)

// vigil examines the front regularly, and tells the service manager's watchdog
// only after every part has really moved. A failed check ends the process.
func (f *front) vigil(ctx context.Context) {
	every, patience := checkEvery, checkPatience
	watchdog, err := systemd.Watchdog()
	if err != nil {
		f.logger.Error("Running without a watchdog", "error", err)
	}
	if watchdog > 0 {
		every, patience = watchdog/3, watchdog*2/3
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := f.check(ctx, patience)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			f.fail(fmt.Errorf("the self-check failed: %w", err))
			return
		}
		if watchdog > 0 {
			f.notify(systemd.Alive)
		}
	}
}

// check commits to the queue, has the dispatcher's loop turn, and hears the
// monitor.
func (f *front) check(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// A full disk is told where it hurts, and no restart frees it.
	if err := f.store.Probe(ctx); err != nil && !errors.Is(err, queue.ErrNoSpace) {
		return err
	}
	if err := f.turns(ctx); err != nil {
		return err
	}
	return f.monitor.Ping(ctx)
}

// sweepEvery is how often the retention is applied.
const sweepEvery = time.Hour

// sweep removes what the retention lets go, and once what an earlier daemon
// had no time to remove.
func (f *front) sweep(ctx context.Context) {
	if err := f.sweepOrphans(ctx); err != nil && ctx.Err() == nil {
		f.logger.Error("Cannot sweep directories of removed jobs", "error", err)
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		ids, err := f.store.Sweep(ctx)
		for _, id := range ids {
			err = errors.Join(err, f.monitor.RemoveJob(ctx, id))
		}
		if err != nil && ctx.Err() == nil {
			f.logger.Error("Cannot apply the retention; trying again", "after", sweepEvery, "error", err)
		}
		if len(ids) > 0 {
			f.logger.Info("Removed jobs from the history", "count", len(ids))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sweepOrphans removes the directories of jobs that are not in the queue.
func (f *front) sweepOrphans(ctx context.Context) error {
	dir, err := os.Open(f.config.Load().StateDir + "/jobs")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if ctx.Err() != nil {
			return nil
		}
		// A job is in the queue before it has a directory.
		if _, err := f.store.Job(name); !errors.Is(err, queue.ErrNotFound) {
			continue
		}
		if err := f.monitor.RemoveJob(ctx, name); err != nil && !errors.Is(err, monitor.ErrRefused) {
			return err
		}
	}
	return nil
}
