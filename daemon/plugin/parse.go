package plugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/pelletier/go-toml/v2"

	"girderworker/daemon/apitype"
	"girderworker/transforms"
	"girderworker/transforms/jsonpickle"
)

// The limits on a task file.
const (
	MaxFile       = 64 << 10 // bytes
	MaxParameters = 256
	maxText       = 16 << 10 // bytes of a description
	maxNesting    = 12
)

// taskFile is a valid file.
type taskFile struct {
	apitype.Task
	parameters []parameter
	byName     map[string]*parameter
	// document is the job document, where texts have {PARAMETER} and lists entries
	// with "if".
	document map[string]any
}

// notInFile are fields of the job document that are those of a call.
var notInFile = []string{"id", "task", "kwargs", "after", "after_any", "not_before", "expires", "hold"}

// parser reads one file and gathers everything that is wrong with it.
type parser struct {
	file     string
	where    map[string]position
	problems []error
	task     *taskFile
}

func (p *parser) add(path, format string, args ...any) {
	at := locate(p.where, path)
	p.problems = append(p.problems, &Problem{p.file, at.line, at.column, fmt.Sprintf(format, args...)})
}

// Parse reads a task file. file is its name in problems, each of which is a
// [*Problem]. A file with any has no task.
func Parse(file string, data []byte) (Task, []error) {
	p := &parser{file: file, task: &taskFile{byName: map[string]*parameter{}, document: map[string]any{}}}
	root, bad := p.decode(data)
	if bad != nil {
		return Task{}, []error{bad}
	}
	p.where = positions(data)
	p.top(root)
	if len(p.problems) == 0 {
		p.document()
	}
	if len(p.problems) == 0 {
		p.try()
	}
	if len(p.problems) > 0 {
		slices.SortStableFunc(p.problems, func(a, b error) int { return a.(*Problem).Line - b.(*Problem).Line })
		return Task{}, p.problems
	}
	if p.task.Command != nil {
		return p.task.ofCommand(locate(p.where, "command")), nil
	}
	return Task{Task: p.task.Task, Document: p.task.call}, nil
}

func (p *parser) decode(data []byte) (map[string]any, *Problem) {
	if len(data) > MaxFile {
		return nil, &Problem{File: p.file, Text: fmt.Sprintf("it has more than %d bytes, which is the limit", MaxFile)}
	}
	// The decoder calls itself for each list in a list.
	if depth := bytes.Count(data, []byte("[")) + bytes.Count(data, []byte("{")); depth > 10_000 {
		return nil, &Problem{File: p.file, Text: "it has more than 10000 brackets"}
	}
	var root map[string]any
	err := toml.Unmarshal(data, &root)
	if err == nil {
		return root, nil
	}
	bad := &Problem{File: p.file, Text: strings.TrimPrefix(err.Error(), "toml: ")}
	var at *toml.DecodeError
	if errors.As(err, &at) {
		bad.Line, bad.Column = at.Position()
	}
	return nil, bad
}

func (p *parser) top(root map[string]any) {
	t := p.task
	t.Source = p.file
	t.Parameters = []apitype.Parameter{}
	for _, key := range slices.Sorted(maps.Keys(root)) {
		v := root[key]
		switch key {
		case "name":
			t.Name = p.text(key, v, transforms.MaxName, false)
			if err := checkName(t.Name); err != nil {
				p.add(key, "%s", err)
			}
		case "title":
			t.Title = p.text(key, v, transforms.MaxName, false)
		case "description":
			t.Description = p.text(key, v, maxText, true)
		case "parameters":
			p.parameters(v)
		case "girder_job":
			p.girderJob(v)
		case "command":
			p.command(v)
		default:
			if slices.Contains(notInFile, key) {
				p.add(key, "%s: whoever calls the task says that", key)
				continue
			}
			t.document[key] = v
		}
	}
	if _, ok := root["name"]; !ok {
		p.add("", "name: missing; write name = \"lab.blur\"")
	}
	t.Image, _ = t.document["image"].(string)
	switch _, command := root["command"]; {
	case command && root["image"] != nil:
		p.add("command", "command: a task runs an image, or a program of this machine; with an image, entrypoint says which of its programs")
	case t.Image == "" && !command:
		p.add("image", "image: missing; name the image to run, or with command a program of this machine")
	}
}

// text is a text of one line, or of several.
func (p *parser) text(at string, v any, limit int, lines bool) string {
	s, ok := v.(string)
	switch {
	case !ok:
		p.add(at, "%s: it is no text", at)
	case len(s) > limit:
		p.add(at, "%s: it has %d bytes, the limit is %d", at, len(s), limit)
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && !(lines && (r == '\n' || r == '\t')) }):
		p.add(at, "%s: it has control characters", at)
	}
	return s
}

func (p *parser) girderJob(v any) {
	table, ok := v.(map[string]any)
	if !ok {
		p.add("girder_job", "girder_job: it is no table")
	}
	job := &p.task.GirderJob
	for _, key := range slices.Sorted(maps.Keys(table)) {
		at, ok := "girder_job."+key, true
		switch key {
		case "title":
			job.Title = p.text(at, table[key], transforms.MaxName, false)
		case "type":
			job.Type = p.text(at, table[key], transforms.MaxName, false)
		case "public":
			job.Public, ok = table[key].(bool)
		case "other_fields":
			var fields map[string]any
			if fields, ok = table[key].(map[string]any); ok {
				job.OtherFields = jsonText(fields)
				ok = job.OtherFields != nil
			}
		default:
			p.add(at, "%s: unknown; want title, type, public or other_fields", at)
		}
		if !ok {
			p.add(at, "%s: it has another type than it should", at)
		}
	}
}

func (p *parser) parameters(v any) {
	list, ok := v.([]any)
	if !ok {
		p.add("parameters", "parameters: write each as [[parameters]]")
		return
	}
	if len(list) > MaxParameters {
		p.add("parameters", "parameters: more than %d", MaxParameters)
		return
	}
	t := p.task
	for i, entry := range list {
		at := "parameters[" + strconv.Itoa(i) + "]"
		table, ok := entry.(map[string]any)
		if !ok {
			p.add(at, "%s: it is no table", at)
			continue
		}
		t.parameters = append(t.parameters, p.parameter(at, table))
	}
	for i := range t.parameters {
		q := &t.parameters[i]
		if q.Name == "" {
			continue
		}
		if t.byName[q.Name] != nil {
			p.add("parameters["+strconv.Itoa(i)+"].name", "parameters: there are two of the name %s", q.Name)
		}
		t.byName[q.Name] = q
		t.Parameters = append(t.Parameters, q.Parameter)
	}
}

func (p *parser) parameter(at string, table map[string]any) (q parameter) {
	var fallback, required any
	for _, key := range slices.Sorted(maps.Keys(table)) {
		v, here := table[key], at+"."+key
		switch key {
		case "name":
			q.Name = p.text(here, v, transforms.MaxIdentifier, false)
		case "title":
			q.Title = p.text(here, v, transforms.MaxName, false)
		case "description":
			q.Description = p.text(here, v, maxText, true)
		case "type":
			q.Type = p.text(here, v, transforms.MaxName, false)
		case "required":
			required = v
		case "default":
			fallback = v
		case "min":
			q.Min = p.number(here, v)
		case "max":
			q.Max = p.number(here, v)
		case "step":
			q.Step = p.number(here, v)
		case "length":
			n, ok := v.(int64)
			if !ok || n < 1 || n > transforms.MaxArguments {
				p.add(here, "%s: want a whole number from 1 to %d", here, transforms.MaxArguments)
			}
			q.Length = int(n)
		case "choices":
		default:
			p.add(here, "%s: unknown; want name, title, description, type, required, default, choices, min, max, step or length", here)
		}
	}
	name := q.Name
	if !transforms.ValidIdentifier(name) {
		p.add(at+".name", "%s.name: %.80q is not a name of 1 to %d letters, digits, '.', '_' and '-', the first a letter or digit", at, name, transforms.MaxIdentifier)
	}
	var ok bool
	if q.is, ok = typeNamed(q.Type); !ok {
		p.add(at+".type", "%s.type: %q is no type; want %s", at, q.Type, strings.Join(TypeNames(), ", "))
		return q
	}
	bounds := q.Min != nil || q.Max != nil || q.Step != nil
	numeric := q.is.kind == kindInteger || q.is.kind == kindNumber
	switch {
	case bounds && !numeric:
		p.add(at, "parameter %s: min, max and step are for numbers", name)
	case q.Min != nil && q.Max != nil && *q.Min > *q.Max:
		p.add(at+".min", "parameter %s: min is more than max", name)
	case q.Step != nil && *q.Step <= 0:
		p.add(at+".step", "parameter %s: step must be more than 0", name)
	case q.Length > 0 && !q.is.list:
		p.add(at+".length", "parameter %s: length is for vectors", name)
	case required != nil && required != true && required != false:
		p.add(at+".required", "parameter %s: required is true or false", name)
	case required == true && fallback != nil:
		p.add(at+".required", "parameter %s: it has a default, so it is never missing", name)
	}
	q.Required = fallback == nil && required != false
	p.choices(at, &q, table["choices"])
	q.Accepts = q.want()
	if fallback != nil {
		v, err := q.check(pythonic(fallback))
		if err != nil {
			p.add(at+".default", "the default of %s: %s", name, err)
		}
		q.fallback, q.Default = v, jsonText(fallback)
	}
	return q
}

func (p *parser) choices(at string, q *parameter, v any) {
	at += ".choices"
	list, ok := v.([]any)
	switch {
	case v == nil && !q.is.choice:
		return
	case !q.is.choice:
		p.add(at, "parameter %s: choices are for the types with enumeration in their names", q.Name)
	case !ok || len(list) == 0 || len(list) > MaxParameters:
		p.add(at, "parameter %s: choices is a list of 1 to %d values", q.Name, MaxParameters)
	default:
		any := *q
		any.is.choice, any.is.list, any.Min, any.Max, any.Step = false, false, nil, nil, nil
		for _, c := range list {
			one, err := any.check(pythonic(c))
			if err != nil {
				p.add(at, "a choice of %s: %s", q.Name, err)
				return
			}
			q.choices = append(q.choices, *one)
			q.Choices = append(q.Choices, jsonText(c))
		}
	}
}

func (p *parser) number(at string, v any) *float64 {
	n, ok := number(v, false)
	if _, isText := v.(string); isText || !ok {
		p.add(at, "%s: it is no number", at)
		return nil
	}
	return &n
}

// pythonic is a value of TOML as arguments come.
func pythonic(v any) jsonpickle.Value {
	list, ok := v.([]any)
	if !ok {
		return v
	}
	items := make([]jsonpickle.Value, len(list))
	for i := range list {
		items[i] = pythonic(list[i])
	}
	return &jsonpickle.List{Items: items}
}

// document looks at how the document uses the parameters, which it may do only where
// they have values.
func (p *parser) document() {
	used := map[string]bool{}
	var walk func(path string, v any, guards []string, depth int)
	walk = func(path string, v any, guards []string, depth int) {
		if depth > maxNesting {
			p.add(path, "%s: nested too deep", path)
			return
		}
		switch v := v.(type) {
		case string:
			field, _, _ := strings.Cut(strings.ReplaceAll(path, "[", "."), ".")
			told := field == "args" || field == "entrypoint" || field == "env"
			for _, name := range references(v) {
				q := p.task.byName[name]
				if q == nil {
					continue
				}
				used[name] = true
				q.asPath, q.asID = q.asPath || told, q.asID || !told && q.files()
				if !q.Required && q.fallback == nil && !slices.Contains(guards, name) {
					p.add(path, "%s: {%s} may have no value; put it into {if = %q, …}, or give the parameter a default", path, name, name)
				}
			}
		case []any:
			for i := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), v[i], guards, depth+1)
			}
		case map[string]any:
			if strings.HasPrefix(path, "args[") {
				p.group(path, v)
			}
			if name, given := v["if"]; given {
				s, _ := name.(string)
				if !strings.HasSuffix(path, "]") {
					p.add(path, "%s: if is for entries of lists", path)
				}
				if p.task.byName[s] == nil {
					p.add(path+".if", "%s.if: %q is no parameter", path, fmt.Sprint(name))
				}
				used[s] = true
				guards = append(slices.Clone(guards), s)
			}
			for _, key := range slices.Sorted(maps.Keys(v)) {
				if key != "if" {
					walk(path+"."+key, v[key], guards, depth+1)
				}
			}
		case int64, float64, bool:
		default: // dates and times of TOML
			p.add(path, "%s: a value of this kind has no place in a job document; write it as text", path)
		}
	}
	p.fixedCommand()
	for _, key := range slices.Sorted(maps.Keys(p.task.document)) {
		walk(key, p.task.document[key], nil, 0)
	}
	for i := range p.task.parameters {
		q := &p.task.parameters[i]
		switch {
		case !used[q.Name]:
			p.add("parameters["+strconv.Itoa(i)+"].name", "parameter %s: nothing uses it; write {%s} into args", q.Name, q.Name)
		case q.asID && q.asPath:
			p.add("parameters["+strconv.Itoa(i)+"].name", "parameter %s: it is a path in args, entrypoint or env, and an id elsewhere; use two parameters", q.Name)
		}
	}
}

// group looks at a table among the arguments.
func (p *parser) group(path string, v map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(v)) {
		if key != "if" && key != "args" {
			p.add(path+"."+key, "%s.%s: unknown; want if and args", path, key)
		}
	}
	if _, given := v["if"]; !given {
		p.add(path, "%s: it has no if; write {if = PARAMETER, args = [...]}", path)
	}
	if list, ok := v["args"].([]any); !ok || slices.ContainsFunc(list, func(entry any) bool { _, text := entry.(string); return !text }) {
		p.add(path+".args", "%s.args: want a list of texts", path)
	}
}

// try makes documents of calls that are good, so that what is wrong with every one is
// told here. A text may be anything, so where one is a part of a field that is
// narrower nothing can be said.
func (p *parser) try() {
	for _, all := range []bool{true, false} {
		kwargs := &jsonpickle.Dict{}
		for i := range p.task.parameters {
			q := &p.task.parameters[i]
			if q.fallback != nil || !q.Required && !all {
				continue
			}
			kwargs.Members = append(kwargs.Members, jsonpickle.Member{Key: q.Name, Value: q.sample()})
		}
		f, err := p.task.call(transforms.Task{Name: p.task.Name, Kwargs: kwargs})
		if err == nil {
			if f.Girders == nil { // whoever calls has one
				f.Girders = []transforms.GirderAccess{{Name: "girder", URL: "https://girder.invalid/api/v1"}}
			}
			_, err = f.Plan()
		}
		var bad *transforms.DocumentError
		switch {
		case err == nil:
			continue
		case errors.As(err, &bad) && p.depends(bad.Field):
			continue
		case errors.As(err, &bad):
			p.add(bad.Field, "%s", err)
		default:
			p.add("", "%s", err)
		}
		return
	}
}

// depends tells whether what stands in a field is up to a call.
func (p *parser) depends(field string) bool {
	top, _, _ := strings.Cut(strings.ReplaceAll(field, "[", "."), ".")
	encoded, err := json.Marshal(p.task.document[top])
	return err == nil && slices.ContainsFunc(references(string(encoded)), func(name string) bool { return p.task.byName[name] != nil })
}

// sample is a good value.
func (q *parameter) sample() jsonpickle.Value {
	one := func() string {
		switch {
		case q.is.choice:
			return q.choices[0].text
		case q.is.kind == kindInteger || q.is.kind == kindNumber:
			n := 1.0
			switch {
			case q.Min != nil:
				n = *q.Min
			case q.Max != nil && *q.Max < 1:
				n = *q.Max
			case q.Step != nil:
				n = 0
			}
			return numberText(n, q.is.kind == kindInteger)
		case q.is.kind == kindBoolean:
			return "true"
		case q.asID && q.is.girder == "":
			return inFolder + strings.Repeat("0", 24)
		case q.asID:
			return strings.Repeat("0", 24)
		case q.files():
			return "/sample/" + q.Name
		}
		return "1"
	}
	if n := max(q.Length, 1); q.is.list {
		return strings.TrimSuffix(strings.Repeat(one()+",", n), ",")
	}
	return one()
}
