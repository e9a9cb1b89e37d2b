package transforms

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const schemaFile = "../contrib/job.schema.json"

func jobSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// validate holds a document against the schema.
func validate(t *testing.T, s *jsonschema.Schema, document string) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(document)))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

func TestSchemaTakesDocuments(t *testing.T) {
	s := jobSchema(t)
	for _, document := range []string{full, local, `{"image": "a"}`, `{"jobs": [{"image": "a"}]}`, `{"image": "a", "girder": {"machine_key": true}}`} {
		if err := validate(t, s, document); err != nil {
			t.Errorf("%s: %v", document, err)
			continue
		}
		if files, _, err := ParseJobFiles([]byte(document)); err != nil {
			t.Error(err)
		} else if err := validate(t, s, string(files[0].AppendJSON(nil))); err != nil {
			t.Errorf("the canonical form: %v", err)
		}
	}
	for _, document := range []string{
		`{"image": "a", "nothing": 1}`, `{"image": 1}`, `{"image": "a", "volumes": [{}]}`,
		`{"image": "a", "inputs": [{"name": "in"}]}`, `{"image": "a", "inputs": [{"name": "in", "file": "/a", "file_id": "6b00f0cb9508e6951c974251"}]}`,
		`{"image": "a", "outputs": [{"name": "o", "log": "syslog"}]}`, `{"image": "a", "downloads": [{"name": "x"}]}`,
		`{"image": "a", "downloads": [{"name": "x", "file_id": "1"}]}`, `{"image": "a", "uploads": [{"item_id": "6b00f0cb9508e6951c974251"}]}`,
		`{"image": "a", "girder": []}`, `{"image": "a", "girder": "girder.test"}`, `{"jobs": [{"nothing": 1}]}`,
	} {
		if validate(t, s, document) == nil {
			t.Errorf("the schema takes %s", document)
		}
		if _, _, err := ParseJobFiles([]byte(document)); err == nil {
			t.Errorf("the reader takes %s", document)
		}
	}
}

// TestSchemaHasTheFieldsOfTheReader compares the names that the reader's methods
// switch on with the properties of the schema.
func TestSchemaHasTheFieldsOfTheReader(t *testing.T) {
	type object struct {
		Properties map[string]object
		AnyOf      []object
	}
	var schema struct {
		Defs map[string]object `json:"$defs"`
	}
	data, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	var properties func(o object) map[string]bool
	properties = func(o object) map[string]bool {
		names := map[string]bool{}
		for name := range o.Properties {
			names[name] = true
		}
		for _, part := range o.AnyOf {
			maps.Copy(names, properties(part))
		}
		return names
	}
	read := readerFields(t)
	maps.Copy(read["jobField"], read["optionField"])
	for method, of := range map[string][]object{
		"jobField":      {schema.Defs["job"]},
		"bind":          {schema.Defs["bind"]},
		"volume":        {schema.Defs["volume"]},
		"pipeField":     {schema.Defs["input"], schema.Defs["output"]},
		"girder":        {schema.Defs["server"]},
		"session":       {schema.Defs["session"]},
		"download":      {schema.Defs["download"]},
		"upload":        {schema.Defs["upload"]},
		"uploadOption":  {schema.Defs["upload"].Properties["upload_kwargs"]},
		"resourceField": {schema.Defs["resources"]},
		"retryField":    {schema.Defs["retries"]},
		"tmpfs":         {schema.Defs["tmpfs"]},
		"ulimit":        {schema.Defs["ulimit"]},
		"device":        {schema.Defs["device"]},
	} {
		for _, own := range []string{"python", "command"} { // the daemon's own, in what the queue keeps
			delete(read[method], own)
		}
		want := map[string]bool{}
		for _, o := range of {
			maps.Copy(want, properties(o))
		}
		if !maps.Equal(read[method], want) {
			t.Errorf("%s reads %v, the schema has %v", method, slices.Sorted(maps.Keys(read[method])), slices.Sorted(maps.Keys(want)))
		}
	}
}

// readerFields gives the names that each method of reader knows.
func readerFields(t *testing.T) map[string]map[string]bool {
	t.Helper()
	fields := map[string]map[string]bool{}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() || !strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			method, ok := decl.(*ast.FuncDecl)
			if !ok || method.Recv == nil {
				continue
			}
			if star, ok := method.Recv.List[0].Type.(*ast.StarExpr); !ok || star.X.(*ast.Ident).Name != "reader" {
				continue
			}
			names := map[string]bool{}
			ast.Inspect(method, func(n ast.Node) bool {
				clause, ok := n.(*ast.CaseClause)
				if !ok {
					return true
				}
				for _, expr := range clause.List {
					ast.Inspect(expr, func(n ast.Node) bool {
						if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
							name, err := strconv.Unquote(lit.Value)
							if err != nil {
								t.Fatal(err)
							}
							names[name] = strings.Trim(name, "abcdefghijklmnopqrstuvwxyzT_") == ""
						}
						return true
					})
				}
				return true
			})
			maps.DeleteFunc(names, func(name string, isField bool) bool { return name == "" || !isField })
			fields[method.Name.Name] = names
		}
	}
	return fields
}

// TestManual holds the examples of girder-worker-job(5) against the reader and the
// schema, and its list of fields against the schema.
func TestManual(t *testing.T) {
	manual, err := os.ReadFile("../man/girder-worker-job.5.md")
	if err != nil {
		t.Fatal(err)
	}
	s := jobSchema(t)
	examples := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(manual), -1)
	if len(examples) < 5 {
		t.Errorf("%d examples", len(examples))
	}
	for _, e := range examples {
		if err := validate(t, s, e[1]); err != nil {
			t.Errorf("%s: %v", e[1], err)
		}
		files, _, err := ParseJobFiles([]byte(e[1]))
		if err != nil {
			t.Errorf("%s: %v", e[1], err)
			continue
		}
		for _, f := range files {
			if _, err := f.Plan(); err != nil {
				t.Errorf("%s: %v", e[1], err)
			}
		}
	}
	told := map[string]bool{}
	for _, m := range regexp.MustCompile(`\*\*([A-Za-z_]+)\*\*`).FindAllStringSubmatch(string(manual), -1) {
		told[m[1]] = true
	}
	for method, names := range readerFields(t) {
		switch method {
		case "jobField", "bind", "volume", "pipeField", "girder", "session", "download", "upload", "uploadOption", "resourceField", "retryField",
			"optionField", "tmpfs", "ulimit", "device":
			for name := range names {
				if !told[name] && name != "python" && name != "command" {
					t.Errorf("girder-worker-job(5) lacks **%s**", name)
				}
			}
		}
	}
}
