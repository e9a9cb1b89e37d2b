package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/daemon/config"
	"girderworker/daemon/plugin"
)

const (
	// pythonSource is the registry's name of tasks in Python.
	pythonSource = "python"
	// maxCulprits is how many plugins of one interpreter may hang or die at their
	// import before the rest is given up.
	maxCulprits = 8
	// pythonSettle lets an installation finish.
	pythonSettle = time.Second
	// maxDiscovered bounds an answer, in bytes.
	maxDiscovered = 16 << 20
)

// pythons are the interpreters of the configuration.
func pythons(c *config.Config) []plugin.Python {
	var all []plugin.Python
	for _, interpreter := range c.Interpreters() {
		p := plugin.Python{Interpreter: interpreter, Path: c.Python.LoadPath, Enabled: c.Python.Enabled, AppMain: c.Python.AppMain}
		if filepath.IsAbs(c.Python.TmpRoot) {
			p.TmpRoot = filepath.Clean(c.Python.TmpRoot)
		}
		all = append(all, p)
	}
	return all
}

// watchPython discovers the tasks of the configured interpreters, and again when
// their packages or the configuration have changed.
func (f *front) watchPython(ctx context.Context) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		f.logger.Warn("Not watching Python packages; SIGHUP looks at them again", "error", err)
		w = &fsnotify.Watcher{}
	} else {
		defer w.Close()
	}
	var known []plugin.Python
	again := make(chan struct{}, 1)
	again <- struct{}{}
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-w.Events:
			if ext := filepath.Ext(e.Name); ext == ".dist-info" || ext == ".egg-info" || ext == ".egg-link" || ext == ".pth" || ext == ".py" ||
				slices.Contains(f.config.Load().Python.LoadPath, filepath.Dir(e.Name)) {
				settled = time.After(pythonSettle)
			}
			continue
		case <-w.Errors:
			continue
		case <-f.pythonChanged:
			if reflect.DeepEqual(known, pythons(f.config.Load())) {
				continue
			}
		case <-settled:
			settled = nil
		case <-again:
		}
		known = pythons(f.config.Load())
		for _, dir := range f.discoverPython(ctx, known) {
			if w.Events != nil && !slices.Contains(w.WatchList(), dir) {
				_ = w.Add(dir) // one that the daemon's user cannot read stays unwatched
			}
		}
	}
}

// discoverPython asks all interpreters, and returns what to watch.
func (f *front) discoverPython(ctx context.Context, all []plugin.Python) (watch []string) {
	var tasks []plugin.Task
	var problems []error
	began := time.Now()
	for _, p := range all {
		var skip []string
		var trouble []error
		for {
			answer, err := f.askPython(ctx, p.Discovery(skip))
			if ctx.Err() != nil {
				return watch
			}
			if err != nil {
				problems = append(problems, err)
				break
			}
			found, culprit := p.Read(answer)
			watch = append(watch, found.Watch...)
			if culprit == "" || len(skip) == maxCulprits {
				tasks = append(tasks, found.Tasks...)
				problems = append(append(problems, trouble...), found.Problems...)
				break
			}
			// What it was at when it died is named once, and the others asked again.
			skip = append(skip, culprit)
			trouble = append(trouble, found.Problems[len(found.Problems)-1])
			f.tasks.Set(pythonSource, append(slices.Clone(tasks), found.Tasks...), append(slices.Clone(problems), trouble...))
		}
	}
	f.tasks.Set(pythonSource, tasks, problems)
	for _, problem := range problems {
		f.logger.Warn("Leaving out a task", "error", problem)
	}
	if len(all) > 0 {
		var names []string
		for _, t := range tasks {
			names = append(names, t.Name)
		}
		f.logger.Info("Tasks of Python packages", "count", len(tasks), "tasks", clipText(strings.Join(names, ","), 2000), "took", time.Since(began).Round(time.Millisecond))
	}
	return watch
}

// askPython has one interpreter asked, by the monitor.
func (f *front) askPython(ctx context.Context, d attempt.Discovery) (answer attempt.DiscoveryAnswer, err error) {
	fail := func(err error) (attempt.DiscoveryAnswer, error) {
		return answer, fmt.Errorf("%s: cannot learn of its tasks: %w", d.Interpreter, err)
	}
	fd, err := unix.MemfdCreate("tasks", unix.MFD_CLOEXEC)
	if err != nil {
		return fail(os.NewSyscallError("memfd_create", err))
	}
	out := os.NewFile(uintptr(fd), "tasks")
	defer out.Close()
	if err := f.monitor.Discover(ctx, d, out); err != nil {
		return fail(err)
	}
	data, err := io.ReadAll(io.NewSectionReader(out, 0, maxDiscovered))
	if err != nil {
		return fail(err)
	}
	if len(data) == 0 {
		return fail(errors.New("there was no answer"))
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return fail(err)
	}
	return answer, nil
}
