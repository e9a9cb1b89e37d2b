package plugin

import (
	"fmt"
	"strings"
	"testing"

	"girderworker/transforms"
	"girderworker/transforms/jsonpickle"
)

// calls makes the plan of a call of the task in a file. kwargs is JSON.
func plan(t *testing.T, file, kwargs string) (transforms.Plan, *transforms.JobFile, error) {
	t.Helper()
	task, problems := Parse("t.toml", []byte(file))
	if len(problems) > 0 {
		t.Fatalf("%s\n%v", file, problems)
	}
	v, err := jsonpickle.Decode([]byte(kwargs), transforms.PickleOptions())
	if err != nil {
		t.Fatal(err)
	}
	f, err := task.Document(transforms.Task{Name: task.Name, Kwargs: v.(*jsonpickle.Dict)})
	if err != nil {
		return transforms.Plan{}, nil, err
	}
	if f.Girders == nil {
		f.Girders = []transforms.GirderAccess{{Name: "girder", URL: "https://girder.test/api/v1"}}
	}
	p, err := f.Plan()
	return p, f, err
}

const (
	id1    = "6b00f0cb9508e6951c974251"
	id2    = "6b00f0cb9508e6951c974252"
	girder = `{"py/object": "girder_client.GirderClient", "urlBase": "http://girder.test/api/v1/", "token": "SECRET"}`
)

// TestTypes has each type with values that are good, and what they come to, and bad.
func TestTypes(t *testing.T) {
	type good map[string]string // JSON, the argument
	type bad map[string]string  // JSON, what is said of it
	for _, test := range []struct {
		parameter string
		good      good
		bad       bad
	}{
		{`type = "string"`, good{`"a b; rm -rf $HOME"`: "a b; rm -rf $HOME", `""`: "", `"{x}"`: "{x}"}, bad{`3`: "3 is no text", `null`: "missing", `true`: "no text", `["a"]`: "the list is no text"}},
		{`type = "color"`, good{`"#ff0000"`: "#ff0000"}, nil},
		{`type = "integer"`, good{`3`: "3", `"-7"`: "-7", `4.0`: "4"}, bad{`2.5`: "2.5 is not a whole number; it must be a whole number", `"x"`: `"x" is not a whole number`, `true`: "not a whole number", `1e30`: "not a whole", `"0x10"`: "not a whole"}},
		{"type = \"integer\"\nmin = 1\nmax = 9\nstep = 2", good{`1`: "1", `9`: "9"}, bad{`0`: "0 is out of range; it must be a whole number from 1 to 9 in steps of 2", `10`: "out of range", `4`: "between the steps"}},
		{`type = "number"`, good{`3`: "3.0", `2.5`: "2.5", `"1e-9"`: "1e-09"}, bad{`"nan"`: "not a number", `"inf"`: "not a number", `"1_0"`: "not a number", `""`: "not a number"}},
		{"type = \"float\"\nmin = 0.5", good{`0.5`: "0.5"}, bad{`0.4`: "it must be a number of at least 0.5"}},
		{"type = \"double\"\nmax = 0.5", good{`0.5`: "0.5"}, bad{`0.6`: "it must be a number of at most 0.5"}},
		{"type = \"range\"\nmin = 0\nmax = 1\nstep = 0.1", good{`0.3`: "0.3", `"0.7"`: "0.7"}, bad{`0.35`: "between the steps"}},
		{`type = "boolean"`, good{`true`: "true", `"False"`: "false"}, bad{`1`: "1 is neither; it must be true or false", `"yes"`: "neither"}},
		{"type = \"string-enumeration\"\nchoices = [\"a\", \"b\"]", good{`"b"`: "b"}, bad{`"c"`: `"c" is none of the choices; it must be one of a, b`, `["a"]`: "no text"}},
		{"type = \"choice\"\nchoices = [\"a\"]", good{`"a"`: "a"}, bad{`""`: "none of the choices"}},
		{"type = \"integer-enumeration\"\nchoices = [1, 2]", good{`2`: "2"}, bad{`3`: "none of the choices"}},
		{"type = \"number-enumeration\"\nchoices = [0.5, 1]", good{`1`: "1.0", `"0.50"`: "0.5"}, bad{`2`: "it must be one of 0.5, 1.0"}},
		{"type = \"string-enumeration-multiple\"\nchoices = [\"a\", \"b\"]", good{`["b","a"]`: "b,a", `"a"`: "a"}, bad{`"a,c"`: `"c" is none of the choices; it must be any of a, b`}},
		{"type = \"number-enumeration-multiple\"\nchoices = [1, 2]", good{`[1,2]`: "1.0,2.0"}, bad{`[3]`: "none of the choices"}},
		{`type = "string-vector"`, good{`["x","y"]`: "x,y", `"x, y"`: "x,y"}, bad{`["a,b"]`: "cannot be in a list", `3`: "3 is no list"}},
		{"type = \"integer-vector\"\nlength = 2\nmin = 0", good{`[1,2]`: "1,2"}, bad{`[1]`: "the list is 1 values; it must be 2 values apart by commas, each a whole number of at least 0", `[1,-1]`: "out of range", `[1,"x"]`: "not a whole number"}},
		{`type = "number-vector"`, good{`"1,2.5"`: "1.0,2.5"}, bad{`{}`: "no list"}},
		{"type = \"region\"\nlength = 4", good{`[0,0,10,10]`: "0.0,0.0,10.0,10.0"}, nil},
		{`type = "file"`, good{`"/data/a.tif"`: "/mnt/girder_worker/args/x/a.tif", `"` + id1 + `"`: "<file " + id1 + ">", `"girder-item:` + id1 + `"`: "<item " + id1 + ">"},
			bad{`"a.tif"`: `"a.tif" is neither a clean absolute path nor an id of Girder; it must be a file`, `"/a/../b"`: "clean", `"/"`: "clean", `"girder-file:zz"`: "no id of Girder", `"girder-folder:` + id1 + `"`: "no file", `5`: "no text"}},
		{`type = "image"`, good{`"/data/a.tif"`: "/mnt/girder_worker/args/x/a.tif"}, nil},
		{`type = "item"`, good{`"` + id1 + `"`: "<item " + id1 + ">"}, bad{`"x"`: "it must be an item: an absolute path"}},
		{`type = "folder"`, good{`"` + id1 + `"`: "<folder " + id1 + ">", `"/data/in"`: "/mnt/girder_worker/args/x/in"}, bad{`"girder-file:` + id1 + `"`: "no folder"}},
		{`type = "directory"`, good{`"/data/in"`: "/mnt/girder_worker/args/x/in"}, nil},
		{`type = "new-file"`, good{`"/data/out.tif"`: "/mnt/girder_worker/pipes/x", `"girder-folder:` + id1 + `/mask.tif"`: "/mnt/girder_worker/default/mask.tif", `"girder-item:` + id1 + `"`: "/mnt/girder_worker/default/x"},
			bad{`"` + id1 + `"`: "neither", `"girder-file:` + id1 + `"`: "where nothing new can be put", `"girder-folder:` + id1 + `/../x"`: "more than an id"}},
		{`type = "new-folder"`, good{`"/data/out"`: "/mnt/girder_worker/args/x/out", `"` + id1 + `"`: "/mnt/girder_worker/args/x/x"}, bad{`"out"`: "where to put it"}},
	} {
		file := "name = \"t\"\nimage = \"i\"\nargs = [\"{x}\"]\n[[parameters]]\nname = \"x\"\n" + test.parameter
		for given, want := range test.good {
			p, _, err := plan(t, file, `{"x": `+given+`}`)
			if err != nil {
				t.Errorf("%q, %s: %v", test.parameter, given, err)
				continue
			}
			got := strings.Join(p.Args, "|")
			for _, in := range p.Inserts {
				for _, fetch := range p.Fetches {
					got += fmt.Sprintf("<%s %s>", fetch.Kind, fetch.ID)
					if in.Fetch != fetch.Name {
						t.Errorf("%q: %s is inserted, %s fetched", test.parameter, in.Fetch, fetch.Name)
					}
				}
			}
			if got != want {
				t.Errorf("%q, %s: got %q, want %q", test.parameter, given, got, want)
			}
		}
		for given, says := range test.bad {
			if _, _, err := plan(t, file, `{"x": `+given+`}`); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%q, %s: got %v, want …%s…", test.parameter, given, err, says)
			}
		}
	}
}

// TestTypesAreAllTried: a type that is added has its rows above.
func TestTypesAreAllTried(t *testing.T) {
	for _, name := range TypeNames() {
		file := "name = \"t\"\nimage = \"i\"\nargs = [\"{x}\"]\n[[parameters]]\nname = \"x\"\ntype = \"" + name + "\"\n"
		if is, _ := typeNamed(name); is.choice {
			file += "choices = [1]\n"
			if is.kind == kindText {
				file = strings.Replace(file, "[1]", "[\"1\"]", 1)
			}
		}
		if _, problems := Parse("t.toml", []byte(file)); problems != nil {
			t.Errorf("%s: %v", name, problems)
		}
	}
}

const full = `name = "lab.segment"
title = "Segment"
description = """
Two
lines."""
image = "segment:1.0"
args = ["--sigma={sigma}", { if = "verbose", args = ["--verbose"] }, { if = "mask", args = ["--mask", "{mask}"] }, "{slide}", "{{sigma}}", "{tmp}/x"]
env = { LEVEL = "{level}" }
volumes = ["tmp"]
timeout = "1h"

[resources]
cpus = "{threads}"
memory = "1g"

[[parameters]]
name = "slide"
type = "file"

[[parameters]]
name = "sigma"
type = "number"
default = 2
min = 0

[[parameters]]
name = "verbose"
type = "boolean"
default = false

[[parameters]]
name = "mask"
type = "file"
required = false

[[parameters]]
name = "level"
type = "choice"
choices = ["low", "high"]
default = "low"

[[parameters]]
name = "threads"
type = "integer"
default = 1
max = 4

[[parameters]]
name = "into"
type = "folder"
required = false

[[uploads]]
if = "into"
folder_id = "{into}"
volume = "tmp"
path = "x"

[girder_job]
title = "Segmentation"
type = "segment"
public = true
other_fields = { lab = "7" }
`

func TestCall(t *testing.T) {
	p, f, err := plan(t, full, `{"slide": "/data/a.tif"}`)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.Args, " "); got != "--sigma=2.0 /mnt/girder_worker/args/slide/a.tif {sigma} /mnt/girder_worker/tmp/x" {
		t.Errorf("the arguments are %q", got)
	}
	if f.Env["LEVEL"] != "low" || f.Resources.CPUs != 1 || f.Resources.Memory != 1<<30 || f.Timeout.Hours() != 1 || f.Name != "Segment" || len(p.Hooks) != 0 {
		t.Errorf("the document is %s", f.AppendJSON(nil))
	}
	if b := p.Binds; len(b) != 1 || b[0].Source != "/data/a.tif" || !b[0].ReadOnly {
		t.Errorf("the binds are %+v", b)
	}
	p, f, err = plan(t, full, `{"slide": "`+id1+`", "mask": "/m", "verbose": "true", "sigma": 0.5, "level": "high", "threads": 3, "into": "`+id2+`"}`)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.Args, " "); got != "--sigma=0.5 --verbose --mask /mnt/girder_worker/args/mask/m  {sigma} /mnt/girder_worker/tmp/x" {
		t.Errorf("the arguments are %q", got)
	}
	if f.Env["LEVEL"] != "high" || f.Resources.CPUs != 3 || len(p.Hooks) != 1 || p.Hooks[0].ID != id2 || len(p.Fetches) != 1 {
		t.Errorf("the document is %s", f.AppendJSON(nil))
	}
}

// TestCallNamesEveryMistake, each with what it should have been.
func TestCallNamesEveryMistake(t *testing.T) {
	_, _, err := plan(t, full, `{"sigma": -1, "level": "x", "nonsense": 1, "threads": 5, "bad name": 1}`)
	for _, want := range []string{
		"slide: missing; it must be a file", "sigma: -1 is out of range; it must be a number of at least 0", "level: ", "threads: 5 is out of range; it must be a whole number of at most 4",
		"nonsense: there is no such parameter; those of lab.segment are slide, sigma, verbose", `"bad name": there is no such`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant …%s…", err, want)
		}
	}
}

func TestCallByPlace(t *testing.T) {
	task, problems := Parse("t.toml", []byte(full))
	if problems != nil {
		t.Fatal(problems)
	}
	f, err := task.Document(transforms.Task{Args: []jsonpickle.Value{"/a", 3.0}})
	if err != nil || f.Args[0] != "--sigma=3.0" {
		t.Errorf("%v, %+v", err, f)
	}
	_, err = task.Document(transforms.Task{Args: []jsonpickle.Value{"/a"}, Kwargs: &jsonpickle.Dict{Members: []jsonpickle.Member{{Key: "slide", Value: "/b"}}}})
	if err == nil || !strings.Contains(err.Error(), "slide: given twice") {
		t.Errorf("got %v", err)
	}
	if _, err = task.Document(transforms.Task{Args: make([]jsonpickle.Value, 8)}); err == nil || !strings.Contains(err.Error(), "args: 8 without a name, and the task has 7 parameters") {
		t.Errorf("got %v", err)
	}
}

// TestTransforms: an argument may be what docker_run takes.
func TestTransforms(t *testing.T) {
	for given, want := range map[string]string{
		`{"py/object": "girder_worker.docker.transforms.girder.GirderFileIdToVolume", "gc": ` + girder + `, "_file_id": "` + id1 + `", "_volume": {"py/object": "girder_worker.docker.transforms._DefaultTemporaryVolume"}}`:     "<file " + id1 + ">",
		`{"py/object": "girder_worker.docker.transforms.girder.GirderFolderIdToVolume", "gc": ` + girder + `, "_folder_id": "` + id1 + `", "_volume": {"py/object": "girder_worker.docker.transforms._DefaultTemporaryVolume"}}`: "<folder " + id1 + ">",
		`{"py/object": "girder_worker_utils.transforms.girder_io.GirderFileId", "gc": ` + girder + `, "file_id": "` + id1 + `"}`:                                                                                                 "<file " + id1 + ">",
		`{"py/object": "girder_worker_utils.transforms.girder_io.GirderItemId", "gc": ` + girder + `, "item_id": "` + id1 + `"}`:                                                                                                 "<item " + id1 + ">",
		`{"py/object": "girder_worker.docker.transforms.VolumePath", "filename": "in/a", "_volume": {"py/object": "girder_worker.docker.transforms._DefaultTemporaryVolume"}}`:                                                   "/mnt/girder_worker/default/in/a",
	} {
		p, f, err := plan(t, full, `{"slide": `+given+`}`)
		if err != nil {
			t.Errorf("%s: %v", given, err)
			continue
		}
		got := p.Args[1]
		for _, fetch := range p.Fetches {
			got += fmt.Sprintf("<%s %s>", fetch.Kind, fetch.ID)
		}
		if got != want || len(p.Fetches) > 0 && (len(p.Inserts) != 1 || f.Girders[0].Token != "SECRET") {
			t.Errorf("%s: %q, %+v", given, got, p.Inserts)
		}
	}
	for given, says := range map[string]string{
		`{"sigma": {"py/object": "girder_worker.docker.transforms.VolumePath"}, "slide": "/a"}`: "sigma: a VolumePath is a transform",
		`{"slide": {"py/object": "os.system"}}`:                                                 "os.system",
	} {
		if _, _, err := plan(t, full, given); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: got %v", given, err)
		}
	}
	// Its hooks are added to those of the file.
	task, _ := Parse("t.toml", []byte(full))
	hook := []byte(`{"py/object": "girder_worker.docker.transforms.girder.GirderUploadVolumePathToItem", "gc": ` + girder + `, "item_id": "` + id1 + `", "_volumepath": {"py/object": "girder_worker.docker.transforms.VolumePath", "filename": "out", "_volume": {"py/object": "girder_worker.docker.transforms._DefaultTemporaryVolume"}}}`)
	f, err := task.Document(transforms.Task{Args: []jsonpickle.Value{"/a"}, Hooks: []any{hook}})
	if err != nil || len(f.Uploads) != 1 || f.Uploads[0].ID != id1 || f.Uploads[0].Path != "out" {
		t.Errorf("%v: %+v", err, f)
	}
}

// TestTextIsText: what somebody sends is never taken for a name of the document.
func TestTextIsText(t *testing.T) {
	file := "name = \"t\"\nimage = \"i\"\nargs = [\"{x}\", \"{f}\", \"{{x}}\"]\nvolumes = [\"tmp\"]\n[[parameters]]\nname = \"x\"\ntype = \"string\"\n[[parameters]]\nname = \"f\"\ntype = \"file\"\n"
	for _, text := range []string{"{x}", "{{x}}", "{print $1}", `{"a": {"b": 1}}`, "{}", "{tmp", "tmp}", "$(id)", "-rf"} {
		p, _, err := plan(t, file, `{"x": `+string(jsonText(text))+`, "f": "/a"}`)
		if err != nil || p.Args[0] != text || p.Args[2] != "{x}" {
			t.Errorf("%q becomes %q (%v)", text, p.Args, err)
		}
	}
	object := `{"py/object": "girder_worker.docker.transforms.girder.GirderFileIdToVolume", "gc": ` + girder + `, "_file_id": "` + id1 + `", "_volume": {"py/object": "girder_worker.docker.transforms._DefaultTemporaryVolume"}}`
	for text, f := range map[string]string{"{tmp}": `"/a"`, "{f}": `"/a"`, "a{{tmp}}": `"/a"`, "x{f}": object} {
		if _, _, err := plan(t, file, `{"x": `+string(jsonText(text))+`, "f": `+f+`}`); err == nil || !strings.Contains(err.Error(), "stands for something else") {
			t.Errorf("%q: got %v", text, err)
		}
	}
	// Nor does it become one beside another text.
	file2 := strings.Replace(strings.Replace(file, "\"{x}\", ", "\"{x}{y}\", \"{x}f}\", \"{x}{f}\", ", 1), "[[parameters]]", "[[parameters]]\nname = \"y\"\ntype = \"string\"\n[[parameters]]", 1)
	for x, y := range map[string]string{"{": "tmp}", "{t": "mp}", "a{": "f}", "{f": "}", "a": "b"} {
		for _, f := range []string{`"/a"`, object} {
			_, _, err := plan(t, file2, fmt.Sprintf(`{"x": %s, "y": %s, "f": %s}`, jsonText(x), jsonText(y), f))
			if bad := err != nil && strings.Contains(err.Error(), "beside each other"); bad != (x != "a") {
				t.Errorf("%q beside %q: got %v", x, y, err)
			}
		}
	}
	p, _, err := plan(t, file2, `{"x": "{", "y": "none}", "f": "/a"}`)
	if err == nil {
		t.Errorf("%q", p.Args) // {{f} is not what the file has there
	}
	// A name that is made for a transform is none that a text has.
	p, _, err = plan(t, file, `{"x": "{file}", "f": `+object+`}`)
	if err != nil || p.Args[0] != "{file}" || len(p.Inserts) != 1 || p.Inserts[0].Arg != 1 {
		t.Errorf("%q, %+v, %v", p.Args, p.Inserts, err)
	}
}

// TestBadFiles: what is wrong is told with where it stands.
func TestBadFiles(t *testing.T) {
	head := "name = \"t\"\nimage = \"i\"\nargs = [\"{x}\"]\n"
	parameter := "[[parameters]]\nname = \"x\"\n"
	for file, says := range map[string]string{
		"":                           "t.toml: name: missing",
		"name = \"t\"":               "t.toml: image: missing",
		"name = \"t\"\nimage = ":     "t.toml:2:8: ",
		"name = \"t\"\nname = \"u\"": "t.toml:2:",
		"name = \"t\"\ncommand = \"/bin/ls\"\nimage = \"i\"":                                                    "t.toml:2:1: command: a task runs an image, or a program of this machine",
		"name = \"t\"\ncommand = []":                                                                            "t.toml:2:1: command: the program is missing",
		"name = \"t\"\ncommand = [\"\", \"a\"]":                                                                 "t.toml:2:1: command: the program is missing",
		"name = \"t\"\ncommand = 3":                                                                             "t.toml:2:1: command: want a text or a list of texts",
		"name = \"t\"\ncommand = [\"/bin/ls\", {if = \"x\"}]":                                                   "t.toml:2:1: command: want a text or a list of texts",
		"name = \"t\"\ncommand = \"bin/ls\"":                                                                    "t.toml:2:1: command: \"bin/ls\": write a clean absolute path",
		"name = \"t\"\ncommand = \"/bin/../ls\"":                                                                "t.toml:2:1: command: \"/bin/../ls\": write a clean absolute path",
		"name = \"t\"\ncommand = \"/bin/ls\"\nentrypoint = \"sh\"":                                              "t.toml:3:1: entrypoint: command says which program runs",
		"name = \"t\"\ncommand = \"/bin/ls\"\nuser = \"0\"":                                                     "t.toml:3:1: user: a command runs as whoever asks for it",
		"name = \"t\"\ncommand = \"/bin/ls\"\npull = \"always\"":                                                "t.toml:3:1: pull: a command has no image",
		"name = \"t\"\ncommand = \"/bin/ls\"\npython = {}":                                                      "python",
		"name = \"t\"\ncommand = \"/bin/ls\"\nbinds = [{source = \"/a\", target = \"/usr/lib\"}]":               "t.toml:3:1: binds: the target /usr/lib is the machine's own; what a command gets is beneath /mnt, /tmp, /var/tmp",
		"name = \"t\"\ncommand = [\"/bin/ls\", \"-{x}\"]\nargs = [\"{x}\"]\n" + parameter + "type = \"string\"": "t.toml:2:1: command: {x} is a parameter, and a command is always the same",
		"name = 3\nimage = \"i\"":                                                                               "t.toml:1:1: name: it is no text",
		"name = \"a b\"\nimage = \"i\"":                                                                         "t.toml:1:1: \"a b\" is no name of a task",
		"name = \"girder_worker.docker.tasks.docker_run\"\nimage = \"i\"":                                       "taken by the worker itself",
		"name = \"t\"\nimage = \"i\"\nimag = 3":                                                                 "t.toml:3:1: imag: unknown field",
		"name = \"t\"\nimage = \"i\"\n[resources]\ncpu = 3":                                                     "t.toml:4:1: resources.cpu: unknown field",
		"name = \"t\"\nimage = \"i\"\n[resources]\ncpus = \"lots\"":                                             "t.toml:4:1: resources.cpus: a number is needed here, not a string",
		"name = \"t\"\nimage = \"i\"\nargs = [1]":                                                               "t.toml:3:1: args[0]: a string is needed here, not a number",
		"name = \"t\"\nimage = \"i\"\ntimeout = 2020-01-01":                                                     "t.toml:3:1: timeout: a value of this kind",
		"name = \"t\"\nimage = \"i\"\nhold = \"x\"":                                                             "t.toml:3:1: hold: whoever calls the task says that",
		"name = \"t\"\nimage = \"i\"\n[girder_job]\npubic = true":                                               "t.toml:4:1: girder_job.pubic: unknown",
		"name = \"t\"\nimage = \"i\"\n[girder_job]\npublic = 1":                                                 "t.toml:4:1: girder_job.public: it has another type",
		"name = \"t\"\nimage = \"i\"\ndescription = \"a\\u0007\"":                                               "description: it has control characters",
		"name = \"t\"\nimage = \"i\"\nparameters = 3":                                                           "t.toml:3:1: parameters: write each as [[parameters]]",
		head + parameter:                                                                                     "t.toml:4:3: parameters[0].type: \"\" is no type; want string,",
		head + parameter + "type = \"strin\"":                                                                "t.toml:6:1: parameters[0].type: \"strin\" is no type",
		head + parameter + "type = \"string\"\nmini = 3":                                                     "t.toml:7:1: parameters[0].mini: unknown",
		head + parameter + "type = \"string\"\nmin = 3":                                                      "parameter x: min, max and step are for numbers",
		head + parameter + "type = \"integer\"\nmin = \"3\"":                                                 "t.toml:7:1: parameters[0].min: it is no number",
		head + parameter + "type = \"integer\"\nmin = 3\nmax = 1":                                            "t.toml:7:1: parameter x: min is more than max",
		head + parameter + "type = \"integer\"\nstep = 0":                                                    "t.toml:7:1: parameter x: step must be more than 0",
		head + parameter + "type = \"integer\"\nlength = 3":                                                  "t.toml:7:1: parameter x: length is for vectors",
		head + parameter + "type = \"integer\"\ndefault = \"x\"":                                             "t.toml:7:1: the default of x: \"x\" is not a whole number",
		head + parameter + "type = \"integer\"\ndefault = 1\nrequired = true":                                "t.toml:8:1: parameter x: it has a default, so it is never missing",
		head + parameter + "type = \"integer\"\nrequired = false":                                            "t.toml:3:1: args[0]: {x} may have no value; put it into {if = \"x\", …}",
		head + parameter + "type = \"choice\"":                                                               "parameter x: choices is a list of 1 to",
		head + parameter + "type = \"choice\"\nchoices = [1]":                                                "t.toml:7:1: a choice of x: 1 is no text",
		head + parameter + "type = \"string\"\nchoices = [\"a\"]":                                            "t.toml:7:1: parameter x: choices are for the types with enumeration",
		head + parameter + "type = \"string\"\n" + parameter + "type = \"string\"":                           "t.toml:8:1: parameters: there are two of the name x",
		head + parameter + "type = \"string\"\n[[parameters]]\nname = \"y\"\ntype = \"string\"":              "t.toml:8:1: parameter y: nothing uses it",
		"name = \"t\"\nimage = \"i\"\nargs = [{args = [\"a\"]}]":                                             "t.toml:3:1: args[0]: it has no if",
		"name = \"t\"\nimage = \"i\"\nargs = [{if = \"y\", arg = [\"a\"]}]":                                  "t.toml:3:1: args[0].arg: unknown; want if and args",
		"name = \"t\"\nimage = \"i\"\nargs = [{if = \"y\", args = [{if = \"y\", args = []}]}]":               "t.toml:3:1: args[0].args: want a list of texts",
		"name = \"t\"\nimage = \"i\"\nargs = [{if = \"y\", args = [\"a\"]}]":                                 "t.toml:3:1: args[0].if: \"y\" is no parameter",
		"name = \"t\"\nimage = \"i\"\nvolumes = [\"x\"]\nargs = [\"{x}\"]\n" + parameter + "type = \"file\"": "the name x is already used",
		head + "[[uploads]]\nfolder_id = \"{x}\"\n" + parameter + "type = \"folder\"":                        "t.toml:7:1: parameter x: it is a path in args, entrypoint or env, and an id elsewhere",
		"name = \"t\"\nimage = \"i\"\nargs = " + strings.Repeat("[", 20) + strings.Repeat("]", 20):           "nested too deep",
		"name = \"t\"\n#" + strings.Repeat("x", MaxFile):                                                     "t.toml: it has more than 65536 bytes",
		"a = " + strings.Repeat("[", 20_000):                                                                 "brackets",
		"name = \"\xff\"":                                                                                    "t.toml:1:",
	} {
		_, problems := Parse("t.toml", []byte(file))
		text := ""
		for _, err := range problems {
			text += err.Error() + "\n"
		}
		if !strings.Contains(text, says) {
			t.Errorf("%.200s\n got  %s want …%s…", file, text, says)
		}
	}
	// All of them are told.
	if _, problems := Parse("t.toml", []byte("nam = 1\nimage = 3\nhold = 1\n[girder_job]\na = 1")); len(problems) < 4 {
		t.Errorf("only %v", problems)
	}
}
