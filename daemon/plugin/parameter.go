package plugin

import (
	"encoding/json"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"girderworker/daemon/apitype"
	"girderworker/transforms"
	"girderworker/transforms/jsonpickle"
)

// kind is what a value is made of.
type kind string

const (
	kindText    kind = "text"
	kindInteger kind = "a whole number"
	kindNumber  kind = "a number"
	kindBoolean kind = "true or false"
	kindInput   kind = "a file or directory to read"
	kindOutput  kind = "a file or directory to write"
)

// A paramType is a type of parameter. Their names are those of Girder Worker
// (girder_worker_utils/types) and of the Slicer execution model, as slicer_cli_web has
// it.
type paramType struct {
	names  string // apart by spaces, the first is the usual one
	kind   kind
	list   bool // several, apart by commas in an argument
	choice bool // one of choices, or of a list each
	// girder is what an id alone means, of files and directories.
	girder transforms.FetchKind
}

func paramTypes() []paramType {
	return []paramType{
		{names: "string color", kind: kindText},
		{names: "integer", kind: kindInteger},
		{names: "number float double range", kind: kindNumber},
		{names: "boolean", kind: kindBoolean},
		{names: "string-enumeration choice string-choice", kind: kindText, choice: true},
		{names: "integer-enumeration", kind: kindInteger, choice: true},
		{names: "number-enumeration float-enumeration double-enumeration", kind: kindNumber, choice: true},
		{names: "string-enumeration-multiple string-choice-multiple", kind: kindText, choice: true, list: true},
		{names: "number-enumeration-multiple", kind: kindNumber, choice: true, list: true},
		{names: "string-vector", kind: kindText, list: true},
		{names: "integer-vector", kind: kindInteger, list: true},
		{names: "number-vector vector float-vector double-vector region point", kind: kindNumber, list: true},
		{names: "file image geometry transform table", kind: kindInput, girder: transforms.FetchFile},
		{names: "item", kind: kindInput, girder: transforms.FetchItem},
		{names: "folder directory", kind: kindInput, girder: transforms.FetchFolder},
		{names: "new-file", kind: kindOutput},
		{names: "new-folder", kind: kindOutput, girder: transforms.FetchFolder},
	}
}

// TypeNames are all types of parameters.
func TypeNames() (names []string) {
	for _, t := range paramTypes() {
		names = append(names, strings.Fields(t.names)...)
	}
	return names
}

func typeNamed(name string) (paramType, bool) {
	all := paramTypes()
	i := slices.IndexFunc(all, func(t paramType) bool { return slices.Contains(strings.Fields(t.names), name) })
	if i < 0 {
		return paramType{}, false
	}
	return all[i], true
}

// IsPlace tells whether the values of a type are files or directories, as a path or as
// the id of something in Girder.
func IsPlace(typeName string) bool {
	t, _ := typeNamed(typeName)
	return t.kind == kindInput || t.kind == kindOutput
}

// A parameter is one of a task file's.
type parameter struct {
	apitype.Parameter
	is       paramType
	fallback *value // the default
	choices  []value
	// asID is set where the document has the parameter elsewhere than in what the
	// container is told: there it is the id of something in Girder.
	asID, asPath bool
}

// files tells whether values are files or directories.
func (p *parameter) files() bool { return p.is.kind == kindInput || p.is.kind == kindOutput }

// A value is an argument that is good.
type value struct {
	text   string
	json   any                // of a number or flag, for fields of the document that are one
	object *jsonpickle.Object // a transform: what it comes to is known later
}

// off is what "if" takes for no.
func (v *value) off() bool { return v == nil || v.json == false }

// want says what a good value is, for a person.
func (p *parameter) want() string {
	var b strings.Builder
	switch {
	case p.is.choice:
		all := make([]string, len(p.choices))
		for i := range p.choices {
			all[i] = p.choices[i].text
		}
		b.WriteString("one of " + strings.Join(all, ", "))
		if p.is.list {
			return "any of " + strings.Join(all, ", ") + ", apart by commas"
		}
		return b.String()
	case p.is.list && p.Length > 0:
		fmt.Fprintf(&b, "%d values", p.Length)
	case p.is.list:
		b.WriteString("values")
	case p.is.kind == kindInput:
		article := "a"
		if p.is.girder == transforms.FetchItem {
			article = "an"
		}
		return fmt.Sprintf("%s %s: an absolute path, or the id of one in Girder", article, p.is.girder)
	case p.is.kind == kindOutput:
		return "where to put it: an absolute path, or girder-item:ID or girder-folder:ID"
	default:
		b.WriteString(string(p.is.kind))
	}
	if p.is.list {
		b.WriteString(" apart by commas")
		if p.is.kind != kindText {
			b.WriteString(", each " + string(p.is.kind))
		}
	}
	number := func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
	switch {
	case p.Min != nil && p.Max != nil:
		b.WriteString(" from " + number(*p.Min) + " to " + number(*p.Max))
	case p.Min != nil:
		b.WriteString(" of at least " + number(*p.Min))
	case p.Max != nil:
		b.WriteString(" of at most " + number(*p.Max))
	}
	if p.Step != nil {
		b.WriteString(" in steps of " + number(*p.Step))
	}
	return b.String()
}

// check holds one argument against the parameter. A value may be given as text, as on
// a command line.
func (p *parameter) check(v jsonpickle.Value) (*value, error) {
	wrong := func(problem string) error { return fmt.Errorf("%s is %s; it must be %s", shown(v), problem, p.want()) }
	if !p.is.list {
		return p.one(v, wrong)
	}
	var items []jsonpickle.Value
	switch v := v.(type) {
	case *jsonpickle.List:
		items = v.Items
	case jsonpickle.Tuple:
		items = v
	case string:
		if v != "" {
			for s := range strings.SplitSeq(v, ",") {
				items = append(items, strings.TrimSpace(s))
			}
		}
	default:
		return nil, wrong("no list")
	}
	if p.Length > 0 && len(items) != p.Length {
		return nil, wrong(fmt.Sprintf("%d values", len(items)))
	}
	if len(items) > transforms.MaxArguments {
		return nil, wrong("too long")
	}
	texts := make([]string, len(items))
	for i, item := range items {
		one, err := p.one(item, func(problem string) error {
			return fmt.Errorf("%s is %s; it must be %s", shown(item), problem, p.want())
		})
		switch {
		case err != nil:
			return nil, err
		case one.object != nil || strings.ContainsRune(one.text, ','):
			return nil, fmt.Errorf("%s cannot be in a list", shown(item))
		}
		texts[i] = one.text
	}
	out := &value{text: strings.Join(texts, ",")}
	if len(out.text) > transforms.MaxArgument {
		return nil, wrong("too long")
	}
	return out, nil
}

func (p *parameter) one(v jsonpickle.Value, wrong func(string) error) (*value, error) {
	if o, ok := v.(*jsonpickle.Object); ok {
		if p.is.kind != kindText && !p.files() || p.is.choice {
			return nil, wrong("a transform")
		}
		if p.asID {
			return nil, wrong("a transform, and only the id is of use here")
		}
		return &value{object: o}, nil
	}
	if id, ok := v.(jsonpickle.ObjectID); ok {
		v = id.String()
	}
	var out *value
	switch p.is.kind {
	case kindText, kindInput, kindOutput:
		s, ok := v.(string)
		switch {
		case !ok:
			return nil, wrong("no text")
		case !utf8.ValidString(s) || strings.ContainsRune(s, 0):
			return nil, wrong("no text that a program can be given")
		case len(s) > transforms.MaxArgument:
			return nil, wrong("too long")
		}
		if p.files() {
			if err := p.checkPlace(s); err != nil {
				return nil, wrong(err.Error())
			}
		}
		out = &value{text: s}
	case kindBoolean:
		switch v {
		case true, "true", "True":
			out = &value{text: "true", json: true}
		case false, "false", "False":
			out = &value{text: "false", json: false}
		default:
			return nil, wrong("neither")
		}
	default:
		n, ok := number(v, p.is.kind == kindInteger)
		if !ok {
			return nil, wrong("not " + string(p.is.kind))
		}
		if p.Min != nil && n < *p.Min || p.Max != nil && n > *p.Max {
			return nil, wrong("out of range")
		}
		if p.Step != nil && !onStep(n, p.Min, *p.Step) {
			return nil, wrong("between the steps")
		}
		out = &value{text: numberText(n, p.is.kind == kindInteger), json: n}
	}
	if p.is.choice && !slices.ContainsFunc(p.choices, func(c value) bool { return c.text == out.text }) {
		return nil, wrong("none of the choices")
	}
	return out, nil
}

// shown is a value for the person who gave it, short. Transforms hold tokens.
func shown(v jsonpickle.Value) string {
	switch v := v.(type) {
	case string:
		return fmt.Sprintf("%.60q", v)
	case nil:
		return "None"
	case bool, int64, float64:
		return fmt.Sprint(v)
	case *jsonpickle.Object:
		return fmt.Sprintf("a %.100s", v.Class[strings.LastIndexByte(v.Class, '.')+1:])
	case *jsonpickle.List, jsonpickle.Tuple:
		return "the list"
	}
	return "the value"
}

// number takes a finite number. Whole ones are exact in a float64, or refused.
func number(v jsonpickle.Value, whole bool) (float64, bool) {
	var n float64
	switch v := v.(type) {
	case int64:
		n = float64(v)
	case float64:
		n = v
	case string:
		if strings.Trim(v, "+-.0123456789eE") != "" { // no hexadecimal, inf or _
			return 0, false
		}
		var err error
		if n, err = strconv.ParseFloat(v, 64); err != nil {
			return 0, false
		}
	default:
		return 0, false
	}
	if math.IsNaN(n) || math.IsInf(n, 0) || whole && (n != math.Trunc(n) || math.Abs(n) > 1<<53) {
		return 0, false
	}
	return n, true
}

// numberText is a number as Python writes it.
func numberText(n float64, whole bool) string {
	if whole {
		return strconv.FormatInt(int64(n), 10)
	}
	if a := math.Abs(n); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(n, 'e', -1, 64)
	}
	s := strconv.FormatFloat(n, 'f', -1, 64)
	if !strings.ContainsRune(s, '.') {
		s += ".0"
	}
	return s
}

func onStep(n float64, from *float64, step float64) bool {
	if from != nil {
		n -= *from
	}
	n /= step
	return math.Abs(n-math.Round(n)) <= 1e-9*max(1, math.Abs(n))
}

// Where a file or directory is, if not on this machine; the names are those of the
// command line's --input and --output.
const (
	inFile   = "girder-file:"
	inItem   = "girder-item:"
	inFolder = "girder-folder:"
)

// place takes a value apart: a path, or an id and what it is of. rest is the name
// that a new file is to have in Girder.
func (p *parameter) place(s string) (hostPath string, of transforms.FetchKind, id, rest string) {
	for prefix, kind := range map[string]transforms.FetchKind{inFile: transforms.FetchFile, inItem: transforms.FetchItem, inFolder: transforms.FetchFolder} {
		if at, ok := strings.CutPrefix(s, prefix); ok {
			id, rest, _ = strings.Cut(at, "/")
			return "", kind, id, rest
		}
	}
	if p.is.girder != "" && transforms.ValidID(s) {
		return "", p.is.girder, s, ""
	}
	return s, "", "", ""
}

func (p *parameter) checkPlace(s string) error {
	host, of, id, rest := p.place(s)
	output := p.is.kind == kindOutput
	switch {
	case of == "" && p.asID:
		return fmt.Errorf("no id of Girder, and that is what it is used for")
	case of == "" && (!path.IsAbs(host) || path.Clean(host) != host || host == "/"):
		return fmt.Errorf("neither a clean absolute path nor an id of Girder")
	case of == "":
		return nil
	case !transforms.ValidID(id):
		return fmt.Errorf("no id of Girder")
	case output && of == transforms.FetchFile:
		return fmt.Errorf("a file of Girder, where nothing new can be put")
	case !output && rest != "" || rest != "" && (path.Base(rest) != rest || rest == "." || rest == ".."):
		return fmt.Errorf("more than an id")
	case !output && (p.is.girder == transforms.FetchFolder) != (of == transforms.FetchFolder):
		return fmt.Errorf("no %s", p.Type)
	}
	return nil
}

// jsonText is a value of TOML as JSON.
func jsonText(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		return nil // what cannot be written has been refused
	}
	return b
}
