package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"girderworker/daemon/config"
	"girderworker/daemon/systemd"
	"girderworker/queue"
)

// reload reads the configuration again and applies what can be changed while
// the daemon runs. A bad one is refused as a whole.
func (f *front) reload() {
	f.notify(systemd.Reloading())
	defer f.notify(systemd.Ready)
	next, warnings, err := config.Load(f.options.Sources)
	if err == nil {
		err = next.Fill()
	}
	if err != nil {
		f.logger.Error("Keeping the old configuration: the new one is bad", "error", oneLine(err))
		f.notes.Store(&[]string{"the configuration on disk is bad and not in use: " + oneLine(err)})
		return
	}
	for _, w := range warnings {
		f.logger.Warn(w)
	}
	current := *f.config.Load()
	live, restart := config.Changed(current, next)
	if len(restart) > 0 {
		warnings = append(warnings, "changes of the configuration wait for a restart of the daemon: "+strings.Join(restart, " "))
	}
	f.notes.Store(&warnings)
	f.findTasks()
	defer func() { // with whatever configuration counts then
		select {
		case f.pythonChanged <- struct{}{}:
		default:
		}
	}()
	if len(live)+len(restart) == 0 {
		return
	}
	if err := config.ApplyLive(next, &current); err != nil {
		f.logger.Error("Keeping the old configuration", "error", err)
		return
	}
	f.config.Store(&current)
	f.level.Set(current.Log.Level)
	f.store.SetMaxJobs(current.MaxQueue)
	f.store.SetRetention(queue.Retention{Age: current.Retention.Age, Count: current.Retention.Count})
	if reporting, err := reportSettings(&current); err == nil { // it was checked with the configuration
		f.reports.Apply(reporting)
	}
	f.gpus.setShare(current.GPUs.Share)
	f.server.Apply(f.settings(&current))
	f.lookAgain()
	f.logger.Info("Configuration reloaded", "changed", strings.Join(live, " "))
	if len(restart) > 0 {
		f.logger.Warn("Some changes of the configuration need a restart of the daemon", "options", strings.Join(restart, " "))
	}
}

// oneLine keeps the first problem of several, and says how many there are.
func oneLine(err error) string {
	var invalid config.Invalid
	if errors.As(err, &invalid) && len(invalid) > 1 {
		return config.Invalid(invalid[:1]).Error() + fmt.Sprintf("; and %d more", len(invalid)-1)
	}
	return err.Error()
}

// settleTime lets an editor finish what it does in several steps.
const settleTime = 200 * time.Millisecond

// watchConfig reloads when a file of the configuration was written. It watches
// their directory: editors replace files.
func (f *front) watchConfig(ctx context.Context) {
	files := f.options.Sources.Files()
	w, err := fsnotify.NewWatcher()
	if err == nil {
		defer w.Close()
		if err = w.Add(filepath.Dir(files[0])); err != nil {
			err = fmt.Errorf("cannot watch %s: %w", filepath.Dir(files[0]), err)
		}
	}
	if err != nil {
		f.logger.Info("Not watching the configuration; SIGHUP reloads it", "error", err)
		return
	}
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.Events:
			if !ok {
				return
			}
			if slices.Contains(files, e.Name) && !e.Has(fsnotify.Chmod) {
				settled = time.After(settleTime)
			}
		case err, ok := <-w.Errors:
			if !ok {
				return
			}
			f.logger.Warn("Cannot watch the configuration; SIGHUP reloads it", "error", err)
		case <-settled:
			settled = nil
			f.reload()
		}
	}
}
