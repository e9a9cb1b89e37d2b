package transforms

import (
	"fmt"
	"strings"

	"girderworker/transforms/jsonpickle"
)

// Fill adds to a document what transforms come to that a task was called with, and
// the result hooks of the call. Where an argument, the entrypoint or a variable has
// {KEY} of one of values, there is then what docker_run would put in its place.
// texts are all other texts that the call brought, which no new name may be hit by.
// What the document has is not changed otherwise; its secrets are still in it.
func (f *JobFile) Fill(t Task, values []jsonpickle.Member, texts []string) error {
	d := &taskDecoder{task: t, file: *f, names: map[string]bool{}, known: map[*jsonpickle.Object]string{}}
	for name := range f.allNames() {
		d.names[name] = true
		if name == DefaultVolume {
			d.defaults = name
		}
	}
	for _, s := range texts {
		d.collect(s)
	}
	for _, list := range [][]string{f.Args, f.Entrypoint} {
		for _, s := range list {
			d.collect(s)
		}
	}
	for _, s := range f.Env {
		d.collect(s)
	}
	for _, v := range values {
		if err := checkClasses(v.Key, v.Value); err != nil {
			return err
		}
		d.collect(v.Value)
	}
	replace := make([]string, 0, 4*len(values))
	for _, v := range values {
		s, err := d.filled(v.Key, v.Value)
		if err != nil {
			return err
		}
		replace = append(replace, "{{"+v.Key+"}}", "{"+v.Key+"}", "{"+v.Key+"}", s)
	}
	r := strings.NewReplacer(replace...)
	for _, list := range []*[]string{&d.file.Args, &d.file.Entrypoint} {
		if *list == nil {
			continue
		}
		own := make([]string, len(*list))
		for i, s := range *list {
			own[i] = r.Replace(s)
		}
		*list = own
	}
	if len(d.file.Env) > 0 {
		env := make(map[string]string, len(d.file.Env))
		for key, s := range d.file.Env {
			env[key] = r.Replace(s)
		}
		d.file.Env = env
	}
	for i, h := range t.Hooks {
		if err := d.hook(fmt.Sprintf("girder_result_hooks[%d]", i), h); err != nil {
			return err
		}
	}
	*f = d.file
	return nil
}

// filled is a transform as an argument. Those of tasks in Python give a path, too.
func (d *taskDecoder) filled(at string, v jsonpickle.Value) (string, error) {
	if o, ok := v.(*jsonpickle.Object); ok {
		switch kind := kindOf(o); kind {
		case classPyFile, classPyItem, classPyDirect:
			name, err := d.download(at, o, kind)
			return "{" + name + "}", err
		}
	}
	s, _, err := d.argument(at, v)
	return s, err
}

// allNames are the names of the document that mean something in braces.
func (f *JobFile) allNames() map[string]bool {
	names := map[string]bool{}
	add := func(name string) {
		if name != "" {
			names[name] = true
		}
	}
	for i := range f.Girders {
		add(f.Girders[i].Name)
		add(tokenName(f.Girders[i].Name))
	}
	if f.Progress {
		add(progressName)
	}
	for _, list := range [][]Pipe{f.Inputs, f.Outputs} {
		for i := range list {
			add(list[i].Name)
		}
	}
	for i := range f.Binds {
		add(f.Binds[i].Name)
	}
	for _, v := range f.volumes() {
		add(v.Name)
	}
	for i := range f.Downloads {
		add(f.Downloads[i].Name)
	}
	for i := range f.Uploads {
		add(f.Uploads[i].Name)
	}
	return names
}

// Means tells which name of the document a text would stand for, where it is put
// into an argument: "out" of "a{out}b". It is empty where it is only text.
func (f *JobFile) Means(text string) string {
	if strings.IndexByte(text, '{') < 0 {
		return ""
	}
	for name := range f.allNames() {
		if strings.Contains(text, "{"+name+"}") {
			return name
		}
	}
	return ""
}
