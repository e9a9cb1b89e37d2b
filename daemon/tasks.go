package daemon

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"girderworker/daemon/plugin"
)

// taskFiles is the source of tasks that are files.
const taskFiles = "files"

// findTasks reads the task files again. What is wrong with one was told when it is told
// again in the same words.
func (f *front) findTasks() {
	f.finding.Lock()
	defer f.finding.Unlock()
	names := f.tasks.Names()
	_, before := f.tasks.Tasks()
	told := map[string]bool{}
	for _, err := range before {
		told[err.Error()] = true
	}
	tasks, problems := plugin.ReadDir(f.config.Load().TasksDir, 0)
	f.tasks.Set(taskFiles, tasks, problems)
	_, now := f.tasks.Tasks()
	for _, err := range now {
		if !told[err.Error()] {
			f.logger.Warn("A task cannot be used", "error", err)
		}
	}
	if found := f.tasks.Names(); !slices.Equal(names, found) {
		f.logger.Info("Tasks found", "tasks", strings.Join(found, ","))
	}
}

// watchTasks finds tasks again when a task file was written. It watches the directory,
// or while that is not there the one it would be in.
func (f *front) watchTasks(ctx context.Context) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		f.logger.Info("Not watching the task files; SIGHUP reads them again", "error", err)
		return
	}
	defer w.Close()
	dir := f.config.Load().TasksDir
	watch := func() {
		if err := w.Add(dir); err == nil {
			return
		}
		if err := w.Add(filepath.Dir(dir)); err != nil {
			f.logger.Info("Not watching the task files; SIGHUP reads them again", "error", err)
		}
	}
	watch()
	f.findTasks() // what came before the watch
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.Events:
			if !ok {
				return
			}
			// A file that is always written to must not keep the others from being read.
			if settled == nil && (e.Name == dir || strings.HasPrefix(e.Name, dir+"/")) {
				settled = time.After(settleTime)
			}
		case err, ok := <-w.Errors:
			if !ok {
				return
			}
			f.logger.Warn("Cannot watch the task files; SIGHUP reads them again", "error", err)
			settled = time.After(settleTime)
		case <-settled:
			settled = nil
			watch()
			f.findTasks()
		}
	}
}
