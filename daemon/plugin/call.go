package plugin

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"girderworker/transforms"
	"girderworker/transforms/jsonpickle"
)

// argumentDirectory is where files and directories of the host are in the container.
const argumentDirectory = "/mnt/girder_worker/args"

// call makes the document of a call.
func (t *taskFile) call(c transforms.Task) (*transforms.JobFile, error) {
	values, err := t.bind(c)
	if err != nil {
		return nil, err
	}
	x := expansion{taskFile: t, values: values}
	document := make(map[string]any, len(t.document)+1)
	for key, v := range t.document {
		if v, keep := x.expand(key, v); keep {
			document[key] = v
		}
	}
	if t.Command != nil {
		document["command"] = t.Command
	}
	document["name"] = t.Name
	if t.Title != "" {
		document["name"] = t.Title
	}
	encoded, err := json.Marshal(document)
	if err != nil {
		return nil, fmt.Errorf("cannot write the document of task %s: %w", t.Name, err)
	}
	f, err := transforms.ParseJobFile(encoded)
	if err != nil {
		return nil, err
	}
	var objects []jsonpickle.Member
	var texts []string
	for i := range t.parameters {
		p := &t.parameters[i]
		v := values[p.Name]
		switch {
		case v == nil:
		case v.object != nil:
			objects = append(objects, jsonpickle.Member{Key: p.Name, Value: v.object})
		case p.files() && p.asPath:
			p.move(f, v.text)
		default:
			texts = append(texts, v.text)
		}
	}
	for i := range t.parameters {
		p := &t.parameters[i]
		if v := values[p.Name]; v != nil && v.object == nil && !p.files() {
			name := f.Means(v.text)
			for _, o := range objects {
				if strings.Contains(v.text, "{"+o.Key+"}") {
					name = o.Key
				}
			}
			if name != "" {
				return nil, &ArgumentError{t.Name, []ArgumentProblem{{p.Name, fmt.Sprintf(
					"%s holds {%s}, which stands for something else in this task", shown(v.text), name)}}}
			}
		}
	}
	for _, name := range x.joined {
		isObject := slices.ContainsFunc(objects, func(o jsonpickle.Member) bool { return o.Key == name })
		if isObject || f.Means("{"+name+"}") != "" {
			return nil, &ArgumentError{t.Name, []ArgumentProblem{{"args", fmt.Sprintf(
				"beside each other, or beside what the task file has there, they come to {%s}, which stands for something else in this task", name)}}}
		}
	}
	if x.options != nil {
		return nil, &ArgumentError{t.Name, x.options}
	}
	if err := f.Fill(c, objects, texts); err != nil {
		return nil, err
	}
	return transforms.ParseJobFile(f.AppendJSON(nil))
}

// bind gives each parameter its value, as Python does, and names every argument that is
// wrong.
func (t *taskFile) bind(c transforms.Task) (map[string]*value, error) {
	bad := &ArgumentError{Task: t.Name}
	add := func(name, format string, args ...any) {
		bad.Problems = append(bad.Problems, ArgumentProblem{name, fmt.Sprintf(format, args...)})
	}
	given := map[string]jsonpickle.Value{}
	for i, v := range c.Args {
		if i >= len(t.parameters) {
			add("args", "%d without a name, and the task has %d parameters", len(c.Args), len(t.parameters))
			break
		}
		given[t.parameters[i].Name] = v
	}
	if c.Kwargs != nil {
		for _, m := range c.Kwargs.Members {
			switch _, twice := given[m.Key]; {
			case t.byName[m.Key] == nil:
				add(shownName(m.Key), "there is no such parameter; those of %s are %s", t.Name, t.names())
			case twice:
				add(m.Key, "given twice, by its place and by its name")
			default:
				given[m.Key] = m.Value
			}
		}
	}
	values := make(map[string]*value, len(t.parameters))
	for i := range t.parameters {
		p := &t.parameters[i]
		v, ok := given[p.Name]
		switch {
		case (!ok || v == nil) && p.Required:
			add(p.Name, "missing; it must be %s", p.want())
		case !ok || v == nil:
			if p.fallback != nil {
				values[p.Name] = p.fallback
			}
		default:
			good, err := p.check(v)
			if err != nil {
				add(p.Name, "%s", err)
				continue
			}
			values[p.Name] = good
		}
	}
	if len(bad.Problems) > 0 {
		return nil, bad
	}
	return values, nil
}

// shownName is a key that somebody sent.
func shownName(key string) string {
	if transforms.ValidIdentifier(key) {
		return key
	}
	return fmt.Sprintf("%.60q", key)
}

func (t *taskFile) names() string {
	if len(t.parameters) == 0 {
		return "none"
	}
	all := make([]string, len(t.parameters))
	for i := range t.parameters {
		all[i] = t.parameters[i].Name
	}
	return strings.Join(all, ", ")
}

// An expansion puts values into a document.
type expansion struct {
	*taskFile
	values map[string]*value
	// joined are names in braces that only come of values together with what they stand beside.
	joined []string
	// options are texts that a command would take for options.
	options []ArgumentProblem
}

// expand puts values in. keep is false for an entry of a list whose "if" says no. path
// is the field of the document.
func (t *expansion) expand(field string, v any) (out any, keep bool) {
	switch v := v.(type) {
	case string:
		told := field == "args" || field == "entrypoint" || field == "env"
		if name, whole := strings.CutPrefix(v, "{"); whole && !told {
			// Fields that are a number or a flag are given one.
			if val := t.values[strings.TrimSuffix(name, "}")]; val != nil && name != strings.TrimSuffix(name, "}") && (field == "resources" || field == "retries" || field == "priority") && val.json != nil {
				return val.json, true
			}
		}
		return t.substitute(v, told), true
	case []any:
		list := make([]any, 0, len(v))
		for _, entry := range v {
			table, isTable := entry.(map[string]any)
			if field == "args" && isTable { // a group of arguments
				if name, _ := table["if"].(string); t.values[name].off() {
					continue
				}
				group, _ := table["args"].([]any)
				for _, s := range group {
					if out, keep := t.expand(field, s); keep {
						t.option(field, s, out, list)
						list = append(list, out)
					}
				}
				continue
			}
			if out, keep := t.expand(field, entry); keep {
				t.option(field, entry, out, list)
				list = append(list, out)
			}
		}
		return list, true
	case map[string]any:
		table := make(map[string]any, len(v))
		for key, entry := range v {
			if key == "if" {
				if name, _ := entry.(string); t.values[name].off() {
					return nil, false
				}
				continue
			}
			if out, keep := t.expand(field, entry); keep {
				table[key] = out
			}
		}
		return table, true
	}
	return v, true
}

// option notes a text that begins an argument of a command with '-', and so would be
// an option, many of which have programs run others. Behind "--" there are none.
func (t *expansion) option(field string, from, to any, before []any) {
	template, _ := from.(string)
	s, _ := to.(string)
	if t.Command == nil || field != "args" || !strings.HasPrefix(s, "-") || strings.HasPrefix(template, "-") || slices.Contains(before, any("--")) {
		return
	}
	for _, name := range references(template) {
		if p := t.byName[name]; p != nil && p.is.kind == kindText && !p.is.choice {
			t.options = append(t.options, ArgumentProblem{name, fmt.Sprintf(
				"%s begins with '-', so the program would take it for an option; the task's file can have \"--\" before it, or an option such as --%s={%s}", shown(s), name, name)})
			return
		}
	}
}

// substitute replaces {PARAMETER} in a text. In what the container is told, files and
// transforms stay: their paths are known later, and the document has them by that name.
// {{PARAMETER}} becomes the text {PARAMETER}, as names of a document do.
func (t *expansion) substitute(s string, told bool) string {
	var pairs []string
	for _, name := range references(s) {
		p, v := t.byName[name], t.values[name]
		if p == nil || v == nil || told && (p.files() || v.object != nil) {
			continue
		}
		text := v.text
		if p.files() {
			_, _, text, _ = p.place(v.text)
		}
		pairs = append(pairs, "{{"+name+"}}", "{"+name+"}", "{"+name+"}", text)
	}
	if pairs == nil {
		return s
	}
	out := strings.NewReplacer(pairs...).Replace(s)
	if told {
		for _, name := range append(references(out), references(s)...) {
			n := func(in, of string) int { return strings.Count(in, of+name+"}") }
			if !slices.Contains(pairs, "{"+name+"}") && (n(out, "{") != n(s, "{") || n(out, "{{") != n(s, "{{")) {
				t.joined = append(t.joined, name)
			}
		}
	}
	return out
}

// references are the names in braces of a text, each once.
func references(s string) (names []string) {
	for {
		i := strings.IndexByte(s, '{')
		if i < 0 {
			return names
		}
		s = strings.TrimLeft(s[i:], "{")
		if name, _, ok := strings.Cut(s, "}"); ok && transforms.ValidIdentifier(name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
}

// move has a file or directory come into the container, or out of it, under the
// parameter's name.
func (p *parameter) move(f *transforms.JobFile, s string) {
	host, of, id, rest := p.place(s)
	target := path.Join(argumentDirectory, p.Name, path.Base(host))
	output, folder := p.is.kind == kindOutput, p.is.girder == transforms.FetchFolder
	switch {
	case of != "" && !output:
		f.Downloads = append(f.Downloads, transforms.Fetch{Name: p.Name, Kind: of, ID: id})
	case of != "":
		if rest == "" {
			rest = p.Name
		}
		h := transforms.Hook{Name: p.Name, Kind: transforms.HookKind(of), ID: id, Path: rest, MustExist: true}
		if folder { // what is in it is uploaded, and it is there from the start
			v := transforms.Volume{Name: p.Name + "-files", Target: path.Join(argumentDirectory, p.Name, rest)}
			f.Volumes = append(f.Volumes, v)
			h.From, h.Path = v.Name, "."
		}
		f.Uploads = append(f.Uploads, h)
	case output && !folder:
		f.Outputs = append(f.Outputs, transforms.Pipe{Name: p.Name, File: host})
	default:
		f.Binds = append(f.Binds, transforms.Bind{Name: p.Name, Source: host, Target: target, ReadOnly: !output})
	}
}
