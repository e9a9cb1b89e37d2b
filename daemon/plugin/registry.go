package plugin

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"girderworker/daemon/apitype"
	"girderworker/transforms"
)

// A Task is what a source found.
type Task struct {
	apitype.Task
	// Document makes the job document of a call, secrets and all. Its error is for
	// whoever called, so it must hold no secret; bad arguments are an [*ArgumentError].
	// It may be called by several at once, and after a reload has replaced the task.
	Document func(transforms.Task) (*transforms.JobFile, error)
	// Check finds what is wrong with the arguments of a call as far as that is known
	// beforehand and Document does not tell: an [*ArgumentError]. nil: nothing is known.
	Check func(transforms.Task) error
	// Trouble, where it is not nil, tells why the task cannot run as the machine is now.
	Trouble func() error
}

// A Registry has the tasks by their names. The zero value has none.
type Registry struct {
	mu      sync.Mutex // of those who change it
	sources []source
	table   atomic.Pointer[table]
}

type source struct {
	name     string
	tasks    []Task
	problems []error
}

// table is one state of the registry. It is never changed.
type table struct {
	tasks    map[string]*Task
	names    []string
	problems []error
}

// Set replaces everything that a source has found, at once. Where two sources have a
// task of one name, that of the source that was set first counts. problems are
// what the source leaves out, each an error that names where.
func (r *Registry) Set(name string, tasks []Task, problems []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.sources, func(s source) bool { return s.name == name })
	if i < 0 {
		i = len(r.sources)
		r.sources = append(r.sources, source{})
	}
	r.sources[i] = source{name, tasks, problems}
	next := &table{tasks: map[string]*Task{}}
	for _, s := range r.sources {
		next.problems = append(next.problems, s.problems...)
		for i := range s.tasks {
			t := &s.tasks[i]
			if err := checkName(t.Name); err != nil {
				next.problems = append(next.problems, fmt.Errorf("%s: %w", t.Source, err))
				continue
			}
			if other := next.tasks[t.Name]; other != nil {
				next.problems = append(next.problems, fmt.Errorf("%s: left out, because %s has a task %s already", t.Source, other.Source, t.Name))
				continue
			}
			next.tasks[t.Name] = t
		}
	}
	next.names = slices.Sorted(maps.Keys(next.tasks))
	r.table.Store(next)
}

func (r *Registry) now() *table {
	if t := r.table.Load(); t != nil {
		return t
	}
	return new(table)
}

// Lookup finds a task.
func (r *Registry) Lookup(name string) (*Task, bool) {
	t, ok := r.now().tasks[name]
	return t, ok
}

// Names are those of all tasks, sorted.
func (r *Registry) Names() []string { return r.now().names }

// Tasks are all tasks by name, and what is wrong: with what was left out, and with
// those that cannot run now.
func (r *Registry) Tasks() (all []*Task, problems []error) {
	now := r.now()
	problems = slices.Clone(now.problems)
	all = make([]*Task, len(now.names))
	for i, name := range now.names {
		all[i] = now.tasks[name]
		if trouble := all[i].Trouble; trouble != nil {
			if err := trouble(); err != nil {
				problems = append(problems, err)
			}
		}
	}
	return all, problems
}

const nameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// checkName refuses names that could not be told, or that mean something else.
func checkName(name string) error {
	switch {
	case name == "" || len(name) > transforms.MaxName:
		return fmt.Errorf("the name of a task has 1 to %d bytes", transforms.MaxName)
	case name == transforms.TaskDockerRun || name == transforms.TaskSlicerRun:
		return fmt.Errorf("the name %s is taken by the worker itself", name)
	}
	if strings.Trim(name, nameCharacters) != "" || name[0] == '.' || name[0] == '-' {
		return fmt.Errorf("%.80q is no name of a task: letters, digits, '.', '_' and '-', the first neither '.' nor '-'", name)
	}
	return nil
}
