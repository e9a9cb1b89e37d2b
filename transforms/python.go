package transforms

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"girderworker/sandbox"
	"girderworker/transforms/jsonpickle"
)

// Python is a task that is a function of a Python package: what a container of
// the host's own file system, read-only, runs. The front writes it into the
// documents of tasks that it has discovered; no one who submits can.
type Python struct {
	// Interpreter is a configured one, an absolute path.
	Interpreter string `json:"interpreter"`
	// Module defines the task. Plugin is the entry point that named it, "module:class".
	Module string `json:"module"`
	Plugin string `json:"plugin,omitempty"`
	// Path are directories that come before the interpreter's own when modules are
	// looked for.
	Path []string `json:"path,omitempty"`
	// AppMain is what the tasks of a module that is run as a program are named after.
	AppMain string `json:"app_main,omitempty"`
	// TmpRoot is where its temporary directory is made, as the submitter; empty: in
	// the job's scratch space.
	TmpRoot string `json:"tmp_root,omitempty"`
	// Previous tells what becomes of the results of After.
	Previous Previous `json:"previous,omitempty"`
	// Girders are where its call's Girders are, as host:port: with a private network
	// it reaches them, on this machine too. Of a plan alone, made at the start.
	Girders []string `json:"girders,omitempty"`
}

// Previous is what becomes of the result of an earlier job.
type Previous string

// The ways to pass on results. The zero value, and PreviousNone, pass nothing.
const (
	PreviousNone Previous = "none"
	PreviousOne  Previous = "one"  // each is an argument before the call's own
	PreviousList Previous = "list" // a list of all is the first argument
)

const (
	// PythonProgress is where a function's progress goes.
	PythonProgress = "/run/girder_worker/progress"
	pythonTmp      = "/tmp"
	// MaxPythonPath bounds [Python.Path].
	MaxPythonPath = 32
)

// Check refuses what no configuration can have brought about.
func (p *Python) Check() error {
	clean := func(s string) bool {
		return len(s) <= MaxPath && path.IsAbs(s) && path.Clean(s) == s && !strings.ContainsRune(s, 0)
	}
	switch {
	case !clean(p.Interpreter):
		return inField("python.interpreter", problem("%.200q: want a clean absolute path", p.Interpreter))
	case p.Module == "" || len(p.Module) > MaxName || len(p.Plugin) > MaxName || len(p.AppMain) > MaxName:
		return inField("python", problem("the names of module and plugin must have 1 to %d bytes", MaxName))
	case p.TmpRoot != "" && !clean(p.TmpRoot):
		return inField("python.tmp_root", problem("%.200q: want a clean absolute path", p.TmpRoot))
	case len(p.Path) > MaxPythonPath || slices.ContainsFunc(p.Path, func(s string) bool { return !clean(s) }):
		return inField("python.path", problem("want at most %d clean absolute paths", MaxPythonPath))
	case slices.ContainsFunc(p.Girders, func(s string) bool { _, err := sandbox.ParseService(s); return err != nil }):
		return inField("python.girders", problem("want host:port"))
	case !slices.Contains([]Previous{"", PreviousNone, PreviousOne, PreviousList}, p.Previous):
		return inField("python.previous", problem("%.40q: want none, one or list", p.Previous))
	}
	return nil
}

// python reads what [writer.python] writes.
func (r *reader) python() (*Python, error) {
	p := new(Python)
	err := r.object(func(key string) (err error) {
		switch key {
		case "interpreter":
			p.Interpreter, err = r.text()
		case "module":
			p.Module, err = r.text()
		case "plugin":
			p.Plugin, err = r.text()
		case "path":
			err = r.array(MaxPythonPath, func() error {
				dir, err := r.text()
				p.Path = append(p.Path, dir)
				return err
			})
		case "app_main":
			p.AppMain, err = r.text()
		case "tmp_root":
			p.TmpRoot, err = r.text()
		case "previous":
			var s string
			s, err = r.text()
			p.Previous = Previous(s)
		default:
			err = problem("unknown field")
		}
		return err
	})
	if err == nil {
		err = p.Check()
	}
	return p, err
}

func (w *writer) python(p *Python) {
	if p == nil {
		return
	}
	w.open("python", '{')
	w.text("interpreter", p.Interpreter)
	w.text("module", p.Module)
	w.text("plugin", p.Plugin)
	w.texts("path", nonEmpty(p.Path))
	w.text("app_main", p.AppMain)
	w.text("tmp_root", p.TmpRoot)
	w.text("previous", string(p.Previous))
	w.close('}')
}

// plan is the plan of a function.
func (p *Python) plan(f *JobFile) (Plan, error) {
	plan := Plan{
		Python:     p,
		Network:    f.Network,
		ExtraHosts: f.ExtraHosts,
		DNS:        f.DNS,
		Streams:    []Stream{{Name: progressName, Kind: StreamProgress, Path: PythonProgress}},
		StopSignal: f.StopSignal,
		StopGrace:  f.StopGrace,
	}
	// Its children are reaped, and a signal ends it, as anywhere else.
	plan.Options.Init = true
	if p.TmpRoot != "" {
		plan.Volumes = []Volume{{Name: "tmp", Target: pythonTmp, HostDir: p.TmpRoot}}
	}
	for _, key := range f.sortedEnv() {
		plan.Env = append(plan.Env, key+"="+f.Env[key])
	}
	return plan, p.Check()
}

// A PythonCall is what a function is called with, as the process that calls it
// reads it: values as jsonpickle writes them, of classes that are known alone.
type PythonCall struct {
	Task   string            `json:"task"`
	Args   []json.RawMessage `json:"args"`
	Kwargs json.RawMessage   `json:"kwargs"`
	Hooks  []json.RawMessage `json:"hooks,omitempty"`
	// Soft is after how many seconds the function is interrupted by
	// SoftTimeLimitExceeded; 0 is never.
	Soft float64 `json:"soft,omitempty"`
	// Previous are the results of earlier jobs, the first arguments: plain JSON.
	Previous []json.RawMessage `json:"previous,omitempty"`
	// Module, Plugin, Path and AppMain are those of [Python], added at the start.
	Module  string   `json:"module,omitempty"`
	Plugin  string   `json:"plugin,omitempty"`
	Path    []string `json:"path,omitempty"`
	AppMain string   `json:"app_main,omitempty"`
	// Request is what the task finds as its request beside these.
	Request map[string]any `json:"request,omitempty"`
}

// MaxCall bounds a call, in bytes.
const MaxCall = 768 << 10

// FromPythonTask makes the document of a call of a function. The call itself is a
// secret of the document: it may hold tokens. The error is a [*DocumentError] or a
// [*jsonpickle.Error].
func FromPythonTask(t Task, p Python) (*JobFile, error) {
	call := PythonCall{Task: t.Name, Args: []json.RawMessage{}, Kwargs: json.RawMessage("{}"), Request: map[string]any{"task": t.Name}}
	values := maxCallValues
	encode := func(at string, v jsonpickle.Value) (json.RawMessage, error) {
		if err := checkClasses(at, v); err != nil {
			return nil, err
		}
		v, err := unshared(v, &values)
		if err != nil {
			return nil, inField(at, err)
		}
		data, err := jsonpickle.Encode(v)
		if err != nil {
			return nil, inField(at, err)
		}
		return data, nil
	}
	for i, v := range t.Args {
		data, err := encode(fmt.Sprintf("args[%d]", i), v)
		if err != nil {
			return nil, err
		}
		call.Args = append(call.Args, data)
	}
	if t.Kwargs != nil {
		var err error
		if call.Kwargs, err = encode("kwargs", t.Kwargs); err != nil {
			return nil, err
		}
	}
	for i, h := range t.Hooks {
		at := fmt.Sprintf("girder_result_hooks[%d]", i)
		v, err := hookValue(h)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		// The job that a hook carries is Girder's own document; the task needs its id.
		if o, ok := v.(*jsonpickle.Object); ok {
			o.Attrs = slices.DeleteFunc(o.Attrs, func(m jsonpickle.Member) bool { return m.Key == "job" })
			if t.JobID != "" {
				o.Attrs = append(o.Attrs, jsonpickle.Member{Key: "job", Value: &jsonpickle.Dict{Members: []jsonpickle.Member{{Key: "_id", Value: t.JobID}}}})
			}
		}
		data, err := encode(at, v)
		if err != nil {
			return nil, err
		}
		call.Hooks = append(call.Hooks, data)
	}
	if t.APIURL != "" {
		call.Request["girder_api_url"] = t.APIURL
	}
	data, err := json.Marshal(call)
	if err != nil {
		return nil, inField("args", err) // NaN, which a float may be
	}
	if len(data) > MaxCall {
		e := problem("the arguments have %d bytes; the limit is %d. Pass the path of a file instead", len(data), MaxCall)
		e.TooLarge = true
		return nil, inField("args", e)
	}
	f := &JobFile{Task: TaskDockerRun, Name: t.Name, Python: &p, Function: data}
	if bytes.Contains(data, []byte(`"girder_client.`+classClient+`"`)) {
		f.Network = sandbox.NetworkPrivate // its transforms call Girder from within
	}
	return f, p.Check()
}

// maxCallValues is how many values a call may have, each counted as often as it occurs.
const maxCallValues = 1 << 17

// unshared is v with a copy of its own wherever something occurs again, so that
// it is written without references.
func unshared(v jsonpickle.Value, left *int) (jsonpickle.Value, error) {
	if *left--; *left < 0 {
		return nil, problem("more than %d values", maxCallValues)
	}
	all := func(items []jsonpickle.Value) (out []jsonpickle.Value, err error) {
		out = make([]jsonpickle.Value, len(items))
		for i := range items {
			if out[i], err = unshared(items[i], left); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	members := func(of []jsonpickle.Member) (out []jsonpickle.Member, err error) {
		out = slices.Clone(of)
		for i := range out {
			if out[i].Value, err = unshared(out[i].Value, left); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	switch v := v.(type) {
	case jsonpickle.Tuple:
		items, err := all(v)
		return jsonpickle.Tuple(items), err
	case jsonpickle.Set:
		items, err := all(v)
		return jsonpickle.Set(items), err
	case *jsonpickle.List:
		items, err := all(v.Items)
		return &jsonpickle.List{Items: items}, err
	case *jsonpickle.Dict:
		m, err := members(v.Members)
		return &jsonpickle.Dict{Members: m}, err
	case *jsonpickle.Object:
		m, err := members(v.Attrs)
		return &jsonpickle.Object{Class: v.Class, Attrs: m}, err
	}
	return v, nil
}

// Decode gives the task the arguments that jsonpickle has written: a list or tuple,
// and an object. nil is none.
func (t *Task) Decode(args, kwargs []byte) error {
	if args != nil {
		v, err := jsonpickle.Decode(args, PickleOptions())
		if err != nil {
			return inField("args", err)
		}
		switch v := v.(type) {
		case *jsonpickle.List:
			t.Args = v.Items
		case jsonpickle.Tuple:
			t.Args = v
		default:
			return inField("args", problem("want a list"))
		}
	}
	if kwargs != nil {
		v, err := jsonpickle.Decode(kwargs, PickleOptions())
		if err != nil {
			return inField("kwargs", err)
		}
		var ok bool
		if t.Kwargs, ok = v.(*jsonpickle.Dict); !ok {
			return inField("kwargs", problem("want an object"))
		}
	}
	return nil
}
