package plugin

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"girderworker/daemon/apitype"
	"girderworker/daemon/attempt"
	"girderworker/transforms"
)

// Python is one interpreter whose packages have tasks.
type Python struct {
	Interpreter string
	// Path and Enabled are plugin_load_path and plugins_enabled, AppMain app_main,
	// TmpRoot tmp_root.
	Path, Enabled    []string
	AppMain, TmpRoot string
	ImportTime       time.Duration // python_import_time
}

// Found is what an interpreter told.
type Found struct {
	Tasks    []Task
	Problems []error
	// Watch are directories whose change makes it worth to ask again, Imports all the
	// files that were imported but Python's own.
	Watch, Imports []string
	// Whole: it got to its end. Failed are the plugins, as in a task's Source, whose
	// import failed on the way.
	Whole  bool
	Failed []string
}

// Discovery is what to ask; skip are plugins that are left out.
func (p Python) Discovery(skip []string) attempt.Discovery {
	return attempt.Discovery{Interpreter: p.Interpreter, Path: p.Path, Enabled: p.Enabled, AppMain: p.AppMain, Skip: skip, Time: p.ImportTime}
}

// line is one line of what an interpreter says, see the runner's discover.py.
type line struct {
	Python  string       `json:"python"`
	Watch   []string     `json:"watch"`
	Imports []string     `json:"imports"`
	Plugin  string       `json:"plugin"`
	Begin   bool         `json:"begin"`
	Tasks   []pythonTask `json:"tasks"`
	Problem *string      `json:"problem"`
	Twice   []string     `json:"twice"`
	Done    bool         `json:"done"`
	// Closed: no memory may be written and executed. Memory: a plugin's problem may be that.
	Closed bool `json:"closed"`
	Memory bool `json:"memory"`
}

// memoryHint is for modules that make machine code when they are imported.
const memoryHint = "; memory that is both written and executed, which a module that makes machine code needs, is refused here: " +
	"under systemd, MemoryDenyWriteExecute=no in a drop-in of girder-worker.service allows it, see girder-worker-tasks(5)"

type pythonTask struct {
	Name, Module, Plugin, Doc string
	Title, Type               *string
	Public                    bool
	TimeLimit                 float64 `json:"time_limit"`
	SoftTimeLimit             float64 `json:"soft_time_limit"`
	Parameters                []pythonParameter
	// Typing: these parameters are what a call must fit.
	Typing bool
	Types  map[string]struct {
		Type, Description string
		Values            []json.RawMessage
		Min, Max, Step    *float64
	}
}

type pythonParameter struct {
	Name string
	// Kind is that of Python's inspect, in lower case.
	Kind     string
	Optional bool
	Default  json.RawMessage
}

const (
	maxPythonTasks = 10_000
	maxDoc         = 4 << 10
)

// Read turns what an interpreter said into tasks. culprit is the plugin that it was
// at when it hung or died; without it the others can be asked again.
func (p Python) Read(answer attempt.DiscoveryAnswer) (found Found, culprit string) {
	trouble := func(format string, args ...any) {
		found.Problems = append(found.Problems, fmt.Errorf("%s: %s", p.Interpreter, fmt.Sprintf(format, args...)))
	}
	done, closed := false, false
	for text := range strings.Lines(answer.Lines) {
		var l line
		if !strings.HasSuffix(text, "\n") {
			break // it died while it wrote
		}
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			trouble("cannot understand what it says of its packages: %v", err)
			continue
		}
		found.Watch = append(found.Watch, l.Watch...)
		if l.Imports != nil {
			found.Imports = l.Imports // those of the plugins before are among them
		}
		done, closed = done || l.Done, closed || l.Closed
		culprit = ""
		if l.Begin {
			culprit = l.Plugin
			continue
		}
		if l.Problem != nil {
			if l.Plugin != "" {
				hint := ""
				if l.Memory {
					hint = memoryHint
				}
				trouble("plugin %s: %s%s", clean(l.Plugin, 100), clean(*l.Problem, 1000), hint)
				found.Failed = append(found.Failed, p.source(l.Plugin))
			} else {
				trouble("%s", clean(*l.Problem, 1000))
			}
		}
		for _, name := range l.Twice {
			trouble("plugin %s: two functions are the task %s; the first counts", clean(l.Plugin, 100), clean(name, 200))
		}
		for i := range l.Tasks {
			if len(found.Tasks) == maxPythonTasks {
				trouble("more than %d tasks", maxPythonTasks)
				found.Whole = true
				return found, ""
			}
			found.Tasks = append(found.Tasks, p.task(&l.Tasks[i], l.Plugin))
		}
	}
	if done {
		found.Whole = true
		return found, ""
	}
	why := cmp.Or(answer.Ended, "it ended in the middle")
	if last := clean(lastLine(answer.Output), 200); last != "" {
		why += "; the last that it printed: " + last
	}
	if culprit != "" {
		hint := ""
		if closed && strings.HasPrefix(answer.Ended, "signal: ") {
			hint = memoryHint
		}
		trouble("plugin %s: its import did not end well: %s%s", clean(culprit, 100), clean(why, 1000), hint)
	} else {
		trouble("cannot learn of its tasks: %s", clean(why, 1000))
	}
	return found, culprit
}

// source is a plugin as a task's Source.
func (p Python) source(plugin string) string {
	return fmt.Sprintf("%s of %s", clean(plugin, 100), p.Interpreter)
}

func (p Python) task(t *pythonTask, plugin string) Task {
	doc := clip(strings.ToValidUTF8(t.Doc, "�"), maxDoc)
	title := doc
	if first, _, ok := strings.Cut(doc, "\n"); ok {
		title = first
	}
	a := apitype.Task{
		Name: t.Name, Title: clean(title, 200), Description: doc,
		Source:     p.source(plugin),
		Parameters: []apitype.Parameter{},
		GirderJob:  apitype.GirderJob{Public: t.Public},
	}
	if t.Title != nil {
		a.GirderJob.Title = clean(*t.Title, 200)
	}
	if t.Type != nil {
		a.GirderJob.Type = clean(*t.Type, 200)
	}
	for _, param := range t.Parameters {
		if strings.HasPrefix(param.Kind, "var_") {
			continue // *args and **kwargs are no names
		}
		described := t.Types[param.Name]
		a.Parameters = append(a.Parameters, apitype.Parameter{
			Name: param.Name, Type: described.Type, Description: clean(described.Description, 200), Required: !param.Optional,
			Default: param.Default, Choices: described.Values, Min: described.Min, Max: described.Max, Step: described.Step,
		})
	}
	python := transforms.Python{Interpreter: p.Interpreter, Module: t.Module, Plugin: t.Plugin, Path: p.Path, AppMain: p.AppMain, TmpRoot: p.TmpRoot}
	hard, soft := seconds(t.TimeLimit), seconds(t.SoftTimeLimit)
	if hard > 0 && soft >= hard {
		soft = 0
	}
	var check func(transforms.Task) error
	if t.Typing {
		check = func(call transforms.Task) error { return checkArguments(t.Name, t.Parameters, call) }
	}
	return Task{Task: a, Check: check, Document: func(call transforms.Task) (*transforms.JobFile, error) {
		f, err := transforms.FromPythonTask(call, python)
		if err != nil {
			return nil, err
		}
		f.Timeout, f.SoftTimeout = hard, soft
		if a.GirderJob.Title != "" {
			f.Name = a.GirderJob.Title
		}
		return f, nil
	}}
}

// checkArguments names every argument of a call that Python would not bind to these
// parameters.
func checkArguments(task string, parameters []pythonParameter, call transforms.Task) error {
	bad := &ArgumentError{Task: task}
	add := func(name, format string, args ...any) {
		bad.Problems = append(bad.Problems, ArgumentProblem{name, fmt.Sprintf(format, args...)})
	}
	var names []string
	positions, rest, anyName := 0, false, false
	given := map[string]bool{} // by its place
	for _, p := range parameters {
		switch p.Kind {
		case "var_positional":
			rest = true
			continue
		case "var_keyword":
			anyName = true
			continue
		case "positional_only", "positional_or_keyword":
			given[p.Name] = positions < len(call.Args)
			positions++
		}
		names = append(names, p.Name)
	}
	if len(call.Args) > positions && !rest {
		add("args", "%d without a name, and the function takes %d", len(call.Args), positions)
	}
	var named []string
	if call.Kwargs != nil {
		for _, m := range call.Kwargs.Members {
			at := slices.IndexFunc(parameters, func(p pythonParameter) bool {
				return p.Name == m.Key && (p.Kind == "positional_or_keyword" || p.Kind == "keyword_only")
			})
			switch {
			case at < 0 && !anyName:
				add(shownName(m.Key), "there is no such parameter; those of %s are %s", task, cmp.Or(strings.Join(names, ", "), "none"))
			case at >= 0 && given[m.Key]:
				add(m.Key, "given twice, by its place and by its name")
			case at >= 0:
				named = append(named, m.Key)
			}
		}
	}
	for _, p := range parameters {
		if !p.Optional && !given[p.Name] && !strings.HasPrefix(p.Kind, "var_") && !slices.Contains(named, p.Name) {
			add(p.Name, "missing")
		}
	}
	if len(bad.Problems) == 0 {
		return nil
	}
	return bad
}

func seconds(s float64) time.Duration {
	if !(s > 0) || s > transforms.MaxDuration.Seconds() {
		return 0
	}
	return time.Duration(s * float64(time.Second))
}

// clean is one line of at most n bytes.
func clean(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) && !unicode.IsSpace(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return clip(strings.Join(strings.Fields(s), " "), n)
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "…"
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
}
