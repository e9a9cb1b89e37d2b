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
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/daemon/config"
	"girderworker/daemon/plugin"
	"girderworker/daemon/policy"
)

const (
	// pythonSource is the registry's name of tasks in Python.
	pythonSource = "python"
	// maxCulprits is how many plugins of one interpreter may hang or die at their
	// import before the rest is given up.
	maxCulprits = 8
	// pythonSettle lets an installation finish, which never takes pythonLate to be
	// looked at.
	pythonSettle = time.Second
	pythonLate   = 10 * time.Second
	// From one look for a change to the next it is pythonRest times as long as that
	// took, within these.
	pythonRest   = 10
	minPythonGap = 3 * time.Second
	maxPythonGap = 30 * time.Second
	// maxPythonWatched is how many directories are watched.
	maxPythonWatched = 256
	// pythonPatience is how long tasks wait in the broker for the first look.
	pythonPatience = 2 * time.Minute
	// pythonRetry is the pause after a first failed look; it doubles up to pythonMaxRetry.
	pythonRetry    = time.Second
	pythonMaxRetry = time.Minute
	// pythonCulpritRetry is for a plugin that hung, perhaps only because much else went on.
	pythonCulpritRetry = 10 * time.Minute
	// maxDiscovered bounds an answer, in bytes.
	maxDiscovered = 16 << 20
)

// mayInterpret are the programs that the configuration allows, whether what it names
// turns out to be an interpreter or a virtual environment.
func mayInterpret(c *config.Config) (all []string) {
	for _, p := range c.Python.Interpreters {
		all = append(all, p, filepath.Join(p, "bin", "python3"))
	}
	return all
}

// pythons are the interpreters of the configuration.
func pythons(c *config.Config) []plugin.Python {
	var all []plugin.Python
	for _, interpreter := range c.Interpreters() {
		p := plugin.Python{Interpreter: interpreter, Path: c.Python.LoadPath, Enabled: c.Python.Enabled, AppMain: c.Python.AppMain, ImportTime: c.Python.ImportTime}
		if filepath.IsAbs(c.Python.TmpRoot) {
			p.TmpRoot = filepath.Clean(c.Python.TmpRoot)
		}
		all = append(all, p)
	}
	return all
}

// watchPython discovers the tasks of the configured interpreters, and again when
// their packages have changed, at a reload, and after a look that failed.
func (f *front) watchPython(ctx context.Context) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		f.logger.Warn("Not watching Python packages; SIGHUP looks at them again", "error", err)
		w = &fsnotify.Watcher{}
	} else {
		defer w.Close()
	}
	defer time.AfterFunc(pythonPatience, f.pythonLooked).Stop()
	looks := map[string]*plugin.Look{}
	again := time.After(0)
	var pause time.Duration
	var soonest, first time.Time // of a look; of the changes that were not looked at
	settled := time.NewTimer(0)
	settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-w.Events:
			if ext := filepath.Ext(e.Name); ext == ".dist-info" || ext == ".egg-info" || ext == ".egg-link" || ext == ".pth" || ext == ".py" || ext == ".so" ||
				slices.Contains(f.config.Load().Python.LoadPath, filepath.Dir(e.Name)) {
				now := time.Now()
				if first.IsZero() {
					first = now
				}
				settled.Reset(lookAt(now, first, soonest).Sub(now))
			}
			continue
		case <-w.Errors:
			continue
		case <-f.pythonChanged:
		case <-settled.C:
		case <-again:
		}
		settled.Stop()
		first = time.Time{}
		began := time.Now()
		watch, retry := f.discoverPython(ctx, pythons(f.config.Load()), looks)
		now := time.Now()
		soonest = now.Add(min(max(pythonRest*now.Sub(began), minPythonGap), maxPythonGap))
		followDirs(w, watch)
		f.pythonLooked()
		again = nil
		if retry == 0 {
			pause = 0
		} else {
			pause = min(max(2*pause, retry), max(retry, pythonMaxRetry))
			again = time.After(pause)
		}
	}
}

// lookAt is when packages are looked at for a change of now: when it was quiet for a
// while, but at the latest some time after the first change that was not looked at, and
// never before soonest.
func lookAt(now, first, soonest time.Time) time.Time {
	at := now.Add(pythonSettle)
	if late := first.Add(pythonLate); at.After(late) {
		at = late
	}
	if at.Before(soonest) {
		at = soonest
	}
	return at
}

// followDirs watches the first of these directories, and no others.
func followDirs(w *fsnotify.Watcher, dirs []string) {
	if w.Events == nil {
		return
	}
	var wanted []string
	for _, dir := range dirs {
		if len(wanted) < maxPythonWatched && !slices.Contains(wanted, dir) {
			wanted = append(wanted, dir)
		}
	}
	for _, dir := range w.WatchList() {
		if !slices.Contains(wanted, dir) {
			_ = w.Remove(dir) // one that is gone is watched no more
		}
	}
	for _, dir := range wanted {
		_ = w.Add(dir) // one that the daemon's user cannot read stays unwatched
	}
}

// pythonLooked has tasks taken from the broker: those of Python are known by now, or
// it took too long.
func (f *front) pythonLooked() {
	f.imports.once.Do(func() {
		close(f.imports.looked)
		f.broker.wake()
	})
}

// imports is from where the interpreters import, as the last look found it.
type imports struct {
	once   sync.Once
	looked chan struct{} // closed after the first look
	mu     sync.Mutex
	places map[string][]string // by interpreter
}

func newImports() *imports {
	return &imports{looked: make(chan struct{}), places: map[string][]string{}}
}

// known tells whether there was a first look.
func (i *imports) known() bool {
	select {
	case <-i.looked:
		return true
	default:
		return false
	}
}

func (i *imports) set(interpreter string, places []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.places[interpreter] = places
}

// check refuses a call of a function whose interpreter imports from where others than
// root can write by now. It waits for the first look.
func (i *imports) check(ctx context.Context, interpreter string) error {
	select {
	case <-i.looked:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	i.mu.Lock()
	places := i.places[interpreter]
	i.mu.Unlock()
	return checkImports(interpreter, places)
}

// discoverPython asks all interpreters, and returns what to watch, and when to look
// again if that could find more; 0 is never. looks, by interpreter, is what is known
// from before.
func (f *front) discoverPython(ctx context.Context, all []plugin.Python, looks map[string]*plugin.Look) (watch []string, retry time.Duration) {
	soon := func(d time.Duration) {
		if retry == 0 || d < retry {
			retry = d
		}
	}
	known := func() (tasks []plugin.Task, problems []error) {
		for _, p := range all {
			tasks = append(tasks, looks[p.Interpreter].Tasks...)
			problems = append(problems, looks[p.Interpreter].Problems...)
		}
		return tasks, problems
	}
	told := map[string]bool{}
	for i := range all {
		// A virtual environment that is away, as while its file system is, is still one.
		if venv := filepath.Join(all[i].Interpreter, "bin", "python3"); looks[venv] != nil {
			all[i].Interpreter = venv
		}
		p := all[i]
		// What another configuration found says nothing about this one.
		if l := looks[p.Interpreter]; l == nil || !reflect.DeepEqual(l.Of, p) {
			looks[p.Interpreter] = &plugin.Look{Of: p}
		}
		for _, problem := range looks[p.Interpreter].Problems {
			told[problem.Error()] = true
		}
	}
	began := time.Now()
	for _, p := range all {
		look := looks[p.Interpreter]
		var skip []string
		var trouble []error
		for {
			answer, err := f.askPython(ctx, p.Discovery(skip))
			if ctx.Err() != nil {
				return watch, 0
			}
			if err != nil {
				look.Problems = append(trouble, err)
				soon(pythonRetry)
				break
			}
			found, culprit := p.Read(answer)
			watch = append(watch, found.Watch...)
			f.imports.set(p.Interpreter, found.Watch)
			if err := checkImports(p.Interpreter, append(found.Imports, found.Watch...)); err != nil {
				look.Tasks, look.Problems = nil, []error{err}
				soon(pythonMaxRetry)
				break
			}
			missing := look.Take(found, skip, time.Now())
			if culprit == "" || len(skip) == maxCulprits {
				look.Problems = append(trouble, found.Problems...)
				switch {
				case culprit == "" && !found.Whole:
					soon(pythonRetry)
				case missing:
					soon(plugin.UpgradeTime)
				case len(skip) > 0:
					soon(pythonCulpritRetry)
				}
				break
			}
			// What it was at when it died is named once, and the others asked again.
			skip = append(skip, culprit)
			trouble = append(trouble, found.Problems[len(found.Problems)-1])
			look.Problems = slices.Clone(trouble)
			tasks, problems := known()
			f.tasks.Set(pythonSource, tasks, problems)
		}
	}
	tasks, problems := known()
	f.tasks.Set(pythonSource, tasks, problems)
	for _, problem := range problems {
		if !told[problem.Error()] {
			f.logger.Warn("Leaving out a task", "error", problem)
		}
	}
	if len(all) > 0 {
		var names []string
		for _, t := range tasks {
			names = append(names, t.Name)
		}
		f.logger.Info("Tasks of Python packages", "count", len(tasks), "tasks", clipText(strings.Join(names, ","), 2000), "took", time.Since(began).Round(time.Millisecond))
	}
	return watch, retry
}

// checkImports refuses an interpreter that imports from where others than root can write.
func checkImports(interpreter string, places []string) error {
	var w policy.Walk
	for _, place := range places {
		if !filepath.IsAbs(place) {
			return fmt.Errorf("%s: none of its tasks is used: it imports from %.200q", interpreter, place)
		}
		if err := w.RootsAlone(filepath.Clean(place)); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: none of its tasks is used, because of where it imports from: %w", interpreter, err)
		}
	}
	return nil
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
