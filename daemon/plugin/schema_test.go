package plugin

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"girderworker/transforms"
)

var update = flag.Bool("update", false, "write contrib/task.schema.json anew")

const (
	jobSchemaFile  = "../../contrib/job.schema.json"
	taskSchemaFile = "../../contrib/task.schema.json"
)

type object = map[string]any

// TestSchema: the schema is what the types here and the schema of job documents come to.
func TestSchema(t *testing.T) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(taskSchema(t)); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(taskSchemaFile, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(taskSchemaFile); err != nil || !bytes.Equal(have, b.Bytes()) {
		t.Errorf("%s is not what the types of parameters and job.schema.json come to (%v); write it with -update", taskSchemaFile, err)
	}
}

// taskSchema is that of job documents, where values may stand, and what a task file
// has beside it.
func taskSchema(t *testing.T) object {
	t.Helper()
	data, err := os.ReadFile(jobSchemaFile)
	if err != nil {
		t.Fatal(err)
	}
	var jobs struct {
		Defs map[string]object `json:"$defs"`
	}
	if err := json.Unmarshal(data, &jobs); err != nil {
		t.Fatal(err)
	}
	g := &generator{from: jobs.Defs, defs: object{
		"parameter": parameterSchema(),
		"group": object{
			"type": "object", "description": "Arguments that are left out where the parameter has no value, or is false.",
			"properties": object{
				"if":   object{"$ref": "#/$defs/if"},
				"args": object{"type": "array", "items": object{"type": "string"}},
			},
			"additionalProperties": false, "required": []any{"if", "args"},
		},
		"if": object{"type": "string", "description": "A parameter: the entry is left out where it has no value, or is false."},
		"value": object{
			"type": "string", "description": "Holds the value of a parameter, {NAME}.", "pattern": `\{[A-Za-z0-9][A-Za-z0-9._-]{0,63}\}`,
		},
	}}
	properties := object{}
	for name, field := range jobs.Defs["job"]["properties"].(object) {
		if !slices.Contains(notInFile, name) && name != "name" && name != "args" {
			properties[name] = g.template(field.(object), name == "priority")
		}
	}
	maps.Copy(properties, object{
		"name": object{
			"type": "string", "description": "What the task is asked for by.", "pattern": "^[A-Za-z0-9_][A-Za-z0-9._-]*$", "maxLength": transforms.MaxName,
		},
		"command": object{
			"description": "A program of this machine instead of an image: its path, or a name in the usual places; or a list of it and its first arguments.",
			"anyOf": []any{
				object{"type": "string", "minLength": 1},
				object{"type": "array", "items": object{"type": "string"}, "minItems": 1, "maxItems": transforms.MaxArguments},
			},
		},
		"title":       object{"type": "string", "description": "For people; the name of its jobs.", "maxLength": transforms.MaxName},
		"description": object{"type": "string", "description": "For people.", "maxLength": maxText},
		"args": object{
			"type": "array", "description": "The arguments; in each {NAME} is the value of a parameter, or the path of what has that name in this document.",
			"items": object{"anyOf": []any{object{"type": "string"}, object{"$ref": "#/$defs/group"}}}, "maxItems": transforms.MaxArguments,
		},
		"parameters": object{
			"type": "array", "description": "What the task takes, in the order of arguments that come without a name.",
			"items": object{"$ref": "#/$defs/parameter"}, "maxItems": MaxParameters,
		},
		"girder_job": object{
			"type": "object", "description": "How Girder shows jobs that this worker makes there for the task.",
			"properties": object{
				"title":        object{"type": "string", "maxLength": transforms.MaxName},
				"type":         object{"type": "string", "maxLength": transforms.MaxName},
				"public":       object{"type": "boolean"},
				"other_fields": object{"type": "object"},
			},
			"additionalProperties": false,
		},
	})
	return object{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "girder-worker task file",
		"description": "The data of a file in /etc/girder-worker/tasks.d; see girder-worker-tasks(5).",
		"type":        "object", "properties": properties, "additionalProperties": false, "required": []any{"name"},
		"oneOf":            []any{object{"required": []any{"image"}}, object{"required": []any{"command"}}},
		"dependentSchemas": object{"command": object{"properties": object{"entrypoint": false, "pull": false, "user": false, "group_add": false}}},
		"$defs":            g.defs,
	}
}

// parameterSchema is that of one of [[parameters]].
func parameterSchema() object {
	var types []any
	var choices, lists, numbers []string
	for _, p := range paramTypes() {
		names := strings.Fields(p.names)
		for _, name := range names {
			types = append(types, name)
		}
		if p.choice {
			choices = append(choices, names...)
		}
		if p.list {
			lists = append(lists, names...)
		}
		if p.kind == kindInteger || p.kind == kindNumber {
			numbers = append(numbers, names...)
		}
	}
	only := func(types []string, keys ...string) object {
		none := object{}
		for _, key := range keys {
			none[key] = false
		}
		return object{"if": object{"not": object{"properties": object{"type": object{"enum": types}}}}, "then": object{"properties": none}}
	}
	return object{
		"type": "object", "description": "A parameter of the task.",
		"properties": object{
			"name":        object{"type": "string", "description": "{NAME} is its value.", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
			"title":       object{"type": "string", "description": "For people.", "maxLength": transforms.MaxName},
			"description": object{"type": "string", "description": "For people.", "maxLength": maxText},
			"type":        object{"description": "What it takes.", "enum": types},
			"required":    object{"type": "boolean", "description": "false lets it have no value, without a default."},
			"default":     object{"description": "What it has when it is not given.", "type": []any{"string", "number", "boolean", "array"}},
			"choices":     object{"type": "array", "description": "The values of an enumeration.", "minItems": 1, "maxItems": MaxParameters, "items": object{"type": []any{"string", "number"}}},
			"min":         object{"type": "number", "description": "The least number."},
			"max":         object{"type": "number", "description": "The greatest number."},
			"step":        object{"type": "number", "description": "Numbers are so far apart, from min or 0 on.", "exclusiveMinimum": 0},
			"length":      object{"type": "integer", "description": "How many values a vector has.", "minimum": 1, "maximum": transforms.MaxArguments},
		},
		"additionalProperties": false, "required": []any{"name", "type"},
		"allOf": []any{
			only(choices, "choices"), only(lists, "length"), only(numbers, "min", "max", "step"),
			object{"if": object{"properties": object{"type": object{"enum": choices}}}, "then": object{"required": []any{"choices"}}},
			object{"if": object{"required": []any{"default"}}, "then": object{"properties": object{"required": object{"const": false}}}},
		},
	}
}

// A generator makes a schema of job documents one of documents with values of
// parameters in them.
type generator struct {
	from map[string]object
	defs object
}

// numeric are the definitions in whose fields a value stays a number or flag.
var numeric = []string{"resources", "retries"}

// template is a schema whose texts may hold a value instead, and whose numbers and
// flags may, if any.
func (g *generator) template(s object, any bool) object {
	out := object{}
	for key, v := range s {
		switch v := v.(type) {
		case object:
			if key == "properties" {
				fields := object{}
				for name, field := range v {
					fields[name] = g.template(field.(object), any)
				}
				out[key] = fields
				continue
			}
			of := g.template(v, any)
			if key == "items" {
				of = g.entry(of)
			}
			out[key] = of
		case []interface{}:
			list := slices.Clone(v)
			if key == "anyOf" {
				for i := range list {
					list[i] = g.template(list[i].(object), any)
				}
			}
			out[key] = list
		default:
			out[key] = v
		}
	}
	if ref, ok := out["$ref"].(string); ok {
		g.define(strings.TrimPrefix(ref, "#/$defs/"))
	}
	narrow := out["pattern"] != nil || out["enum"] != nil || out["format"] != nil
	kind := out["type"]
	if kind == "string" && narrow || any && (kind == "integer" || kind == "number" || kind == "boolean") {
		told := out["description"]
		delete(out, "description")
		out = object{"anyOf": []interface{}{out, object{"$ref": "#/$defs/value"}}}
		if told != nil {
			out["description"] = told
		}
	}
	return out
}

// define has a definition of the schema of job documents here, too.
func (g *generator) define(name string) {
	if _, done := g.defs[name]; !done && g.from[name] != nil {
		g.defs[name] = nil // it may refer to itself
		g.defs[name] = g.template(g.from[name], slices.Contains(numeric, name))
	}
}

// entry is a schema of a list's entries, which may have an if.
func (g *generator) entry(s object) object {
	if ref, ok := s["$ref"].(string); ok {
		name := strings.TrimPrefix(ref, "#/$defs/")
		of := g.defs[name].(object)
		if guarded := g.entry(of); len(guarded) > 0 && !sameJSON(guarded, of) {
			g.defs[name+"_entry"] = guarded
			return object{"$ref": ref + "_entry"}
		}
		return s
	}
	out := maps.Clone(s)
	if fields, ok := s["properties"].(object); ok && s["type"] == "object" || ok && s["additionalProperties"] == false {
		fields = maps.Clone(fields)
		fields["if"] = object{"$ref": "#/$defs/if"}
		out["properties"] = fields
	}
	if some, ok := s["anyOf"].([]any); ok {
		some = slices.Clone(some)
		for i := range some {
			some[i] = g.entry(some[i].(object))
		}
		out["anyOf"] = some
	}
	return out
}

func sameJSON(a, b any) bool {
	one, _ := json.Marshal(a)
	two, _ := json.Marshal(b)
	return bytes.Equal(one, two)
}

// TestSchemaTakesFiles: what is good is so for the schema, too, and what has a wrong
// shape is not.
func TestSchemaTakesFiles(t *testing.T) {
	s, err := jsonschema.NewCompiler().Compile(taskSchemaFile)
	if err != nil {
		t.Fatal(err)
	}
	validate := func(file string) error {
		t.Helper()
		var v any
		if err := toml.Unmarshal([]byte(file), &v); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		return s.Validate(decoded)
	}
	good := []string{full, values}
	examples, err := filepath.Glob("../../contrib/tasks/*.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range examples {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		good = append(good, string(data))
	}
	page, err := os.ReadFile("../../man/girder-worker-tasks.5.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		good = append(good, e[1])
	}
	for _, file := range good {
		if _, problems := Parse("t.toml", []byte(file)); problems != nil {
			t.Errorf("%s\nthe parser: %v", file, problems)
		}
		if err := validate(file); err != nil {
			t.Errorf("%s\nthe schema: %v", file, err)
		}
	}
	head := "name = \"t\"\nimage = \"i\"\nargs = [\"{x}\"]\n"
	parameter := "[[parameters]]\nname = \"x\"\n"
	for _, file := range []string{
		"name = \"t\"\nimage = \"i\"\ncommand = \"/c\"", "name = \"t\"\ncommand = []", "name = \"t\"\ncommand = \"/c\"\nuser = \"0\"",
		"image = \"i\"", "name = \"t\"", "name = \"a b\"\nimage = \"i\"", "name = 3\nimage = \"i\"", "name = \"t\"\nimage = \"i\"\nimag = 3",
		"name = \"t\"\nimage = \"i\"\nhold = \"x\"", "name = \"t\"\nimage = \"i\"\nargs = [1]", "name = \"t\"\nimage = \"i\"\npriority = \"lots\"",
		"name = \"t\"\nimage = \"i\"\n[resources]\ncpu = 3", "name = \"t\"\nimage = \"i\"\n[resources]\ncpus = \"lots\"", "name = \"t\"\nimage = \"i\"\n[retries]\nmax = \"x\"",
		"name = \"t\"\nimage = \"i\"\n[girder_job]\npubic = true", "name = \"t\"\nimage = \"i\"\n[girder_job]\npublic = 1", "name = \"t\"\nimage = \"i\"\nparameters = 3",
		"name = \"t\"\nimage = \"i\"\ninit = \"true\"", "name = \"t\"\nimage = \"i\"\nnetwork = \"some\"",
		head + parameter, head + parameter + "type = \"strin\"", head + parameter + "type = \"string\"\nmini = 3", head + parameter + "type = \"string\"\nmin = 3",
		head + parameter + "type = \"integer\"\nmin = \"3\"", head + parameter + "type = \"integer\"\nstep = 0", head + parameter + "type = \"integer\"\nlength = 3",
		head + parameter + "type = \"integer\"\ndefault = 1\nrequired = true", head + parameter + "type = \"choice\"", head + parameter + "type = \"choice\"\nchoices = []",
		head + parameter + "type = \"string\"\nchoices = [\"a\"]", head + parameter + "type = \"integer\"\nrequired = 1",
		strings.Replace(head, `"{x}"`, `{args = ["a"]}`, 1) + parameter + "type = \"string\"", strings.Replace(head, `"{x}"`, `{if = "x", arg = ["a"]}`, 1) + parameter + "type = \"string\"",
		head + parameter + "type = \"string\"\n[[uploads]]\nfolder_id = \"x\"",
	} {
		if validate(file) == nil {
			t.Errorf("the schema takes %s", file)
		}
		if _, problems := Parse("t.toml", []byte(file)); problems == nil {
			t.Errorf("the parser takes %s", file)
		}
	}
}

// values has parameters wherever they may be, and an if in each kind of list.
const values = `name = "lab.values"
image = "{image}"
pull = "{pull}"
network = "{network}"
priority = "{number}"
timeout = "{number}m"
workdir = "/work/{image}"
binds = [{ if = "flag", source = "/data/{image}", target = "/{image}" }]
inputs = [{ if = "flag", name = "in", file = "/data/{image}" }]
outputs = [{ if = "flag", name = "out", file = "/data/{image}.out" }]
volumes = ["one", { if = "flag", name = "two" }]
downloads = [{ if = "flag", name = "scan", file_id = "{id}" }]
tmpfs = [{ if = "flag", target = "/t", size = "{number}m" }]
girder = [{ api_url = "https://{image}.example.org/api/v1" }]

[resources]
cpus = "{number}"
memory = "{number}g"
gpus = "{number}"

[retries]
max = "{number}"
fail_interrupted = "{flag}"

[[parameters]]
name = "image"
type = "string"

[[parameters]]
name = "pull"
type = "choice"
choices = ["always", "never"]

[[parameters]]
name = "network"
type = "choice"
choices = ["none", "private"]

[[parameters]]
name = "number"
type = "integer"
min = 1
max = 4

[[parameters]]
name = "flag"
type = "boolean"

[[parameters]]
name = "id"
type = "file"
`

// TestSchemaHasTheKeysOfTheParser compares the keys that the parser's methods switch on
// with the properties of the schema.
func TestSchemaHasTheKeysOfTheParser(t *testing.T) {
	file, err := goparser.ParseFile(token.NewFileSet(), "parse.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, decl := range file.Decls {
		method, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		ast.Inspect(method, func(n ast.Node) bool {
			if clause, ok := n.(*ast.CaseClause); ok {
				for _, expr := range clause.List {
					if lit, ok := expr.(*ast.BasicLit); ok && lit.Kind == token.STRING {
						name, _ := strconv.Unquote(lit.Value)
						keys[method.Name.Name] = append(keys[method.Name.Name], name)
					}
				}
			}
			return true
		})
	}
	schema := taskSchema(t)
	top := schema["properties"].(object)
	for _, key := range keys["top"] {
		if top[key] == nil {
			t.Errorf("the schema lacks %s", key)
		}
	}
	for method, of := range map[string]object{"girderJob": top["girder_job"].(object), "parameter": schema["$defs"].(object)["parameter"].(object)} {
		have := slices.Sorted(maps.Keys(of["properties"].(object)))
		if read := slices.Sorted(slices.Values(keys[method])); !slices.Equal(read, have) {
			t.Errorf("%s reads %v, the schema has %v", method, read, have)
		}
	}
}
