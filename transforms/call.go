package transforms

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"girderworker/transforms/jsonpickle"
)

// A Call is what a document has instead of a container when it names another task
// than docker_run: the arguments, in order and by name. They may be what
// jsonpickle writes, transforms among them.
type Call struct {
	args, kwargs []byte // JSON
	bad          error  // why args are not docker_run's
	Args         []jsonpickle.Value
	Kwargs       *jsonpickle.Dict
}

// callArguments reads a list of arguments. Only docker_run's have to be texts, and
// which task it is may be said further on.
func (r *reader) callArguments(f *JobFile) (err error) {
	start := *r
	f.Args, err = r.arguments()
	if err != nil {
		f.Args, f.Call.bad = nil, err
		*r = start
		if r.kind() != '[' {
			return r.mismatch("a list")
		}
		err = r.value()
	}
	f.Call.args = r.data[start.pos:r.pos]
	return err
}

// callKeywords reads arguments by name.
func (r *reader) callKeywords(f *JobFile) error {
	if r.kind() != '{' {
		return r.mismatch("an object")
	}
	start := r.pos
	err := r.value()
	f.Call.kwargs = r.data[start:r.pos]
	return err
}

// value passes over any value.
func (r *reader) value() (err error) {
	switch r.kind() {
	case '{':
		err = r.object(func(string) error { return r.value() })
	case '[':
		err = r.array(MaxArguments, r.value)
	case '"':
		_, err = r.text()
	case '0':
		_, err = r.number()
	case 't', 'f':
		_, err = r.boolean()
	default:
		if !r.word("null") {
			err = r.mismatch("a value")
		}
	}
	return err
}

// readCall decodes the arguments once it is known whose they are.
func (f *JobFile) readCall() error {
	if f.Task == TaskDockerRun {
		switch {
		case f.Call.bad != nil:
			return inField("args", f.Call.bad)
		case f.Call.kwargs != nil:
			return inField("kwargs", problem("only a document with another task than docker_run has arguments by name; docker_run's are the fields of the document"))
		}
		f.Call = Call{}
		return nil
	}
	f.Call.bad = nil
	for _, part := range []struct {
		field string
		data  []byte
	}{{"args", f.Call.args}, {"kwargs", f.Call.kwargs}} {
		if part.data == nil {
			continue
		}
		v, err := jsonpickle.Decode(part.data, PickleOptions())
		if err != nil {
			return inField(part.field, err)
		}
		switch v := v.(type) {
		case *jsonpickle.List:
			f.Call.Args = v.Items
		case *jsonpickle.Dict:
			f.Call.Kwargs = v
		default: // an object of jsonpickle
			return inField(part.field, problem("arguments by name are a plain object"))
		}
	}
	return nil
}

// Calls tells whether the document names another task than docker_run.
func (f *JobFile) Calls() bool { return f.Task != TaskDockerRun }

// AppendCall appends the arguments as they were sent, to tell two calls apart.
func (f *JobFile) AppendCall(b []byte) []byte {
	return append(append(append(b, f.Call.args...), 0), f.Call.kwargs...)
}

// Called is the document that a call comes to: that of its task, for the submitter
// and the time that f names, with the limits that f names instead of the task's own.
// Any other field of f is refused, because the task says it.
func (f *JobFile) Called(task *JobFile) (*JobFile, error) {
	rest := *f
	rest.ID, rest.Name, rest.Priority, rest.Hold = "", "", 0, ""
	rest.After, rest.AfterAny, rest.NotBefore, rest.Expires = nil, nil, time.Time{}, time.Time{}
	rest.Timeout, rest.SoftTimeout, rest.IdleTimeout = 0, 0, 0
	rest.Resources, rest.Retries, rest.Girders, rest.Args = Resources{}, Retries{}, nil, nil
	fields := map[string]bool{}
	r := &reader{data: rest.AppendJSON(nil)}
	if err := r.object(func(key string) error {
		fields[key] = true
		return r.value()
	}); err != nil {
		return nil, fmt.Errorf("cannot read a document of our own: %w", err)
	}
	delete(fields, "task")
	if len(fields) > 0 {
		all := slices.Sorted(maps.Keys(fields))
		return nil, inField(all[0], problem("the task %s says this itself; a document that calls it has args, kwargs and what says when, for how long and with how much it runs (not: %s)",
			f.Task, strings.Join(all, ", ")))
	}
	out := *task
	out.ID, out.Hold = f.ID, f.Hold
	out.After, out.AfterAny, out.NotBefore, out.Expires = f.After, f.AfterAny, f.NotBefore, f.Expires
	if f.Name != "" {
		out.Name = f.Name
	}
	if f.Priority != 0 {
		out.Priority = f.Priority
	}
	if f.Retries != (Retries{}) {
		out.Retries = f.Retries
	}
	out.Resources = f.Resources.over(task.Resources)
	for _, t := range []struct {
		own  time.Duration
		over *time.Duration
	}{{f.Timeout, &out.Timeout}, {f.SoftTimeout, &out.SoftTimeout}, {f.IdleTimeout, &out.IdleTimeout}} {
		if t.own != 0 {
			*t.over = t.own
		}
	}
	if out.Timeout > 0 && out.SoftTimeout >= out.Timeout && f.SoftTimeout == 0 {
		out.SoftTimeout = 0 // the hard one comes first
	}
	if len(out.Girders) == 0 {
		out.Girders = f.Girders
	}
	called, err := ParseJobFile(out.AppendJSON(nil))
	if err == nil {
		called.Function = task.Function
	}
	return called, err
}

// over is r, and what task has where r names nothing.
func (r Resources) over(task Resources) Resources {
	out := r.Or(task)
	for _, f := range []struct{ own, from *int64 }{
		{&out.Swap, &task.Swap}, {&out.Reservation, &task.Reservation}, {&out.CPUShares, &task.CPUShares},
	} {
		if *f.own == 0 {
			*f.own = *f.from
		}
	}
	if out.CPUSet == "" {
		out.CPUSet = task.CPUSet
	}
	if out.MemorySet == "" {
		out.MemorySet = task.MemorySet
	}
	return out
}
