package transforms

import (
	"encoding/json"
	"strings"
	"testing"

	"girderworker/sandbox"
)

func pythonTask(t *testing.T, args, kwargs string, hooks ...string) Task {
	t.Helper()
	task := Task{Name: "lab.f", JobID: "0123456789abcdef01234567"}
	if err := task.Decode([]byte(args), []byte(kwargs)); err != nil {
		t.Fatal(err)
	}
	for _, h := range hooks {
		task.Hooks = append(task.Hooks, []byte(h))
	}
	return task
}

var labPython = Python{Interpreter: "/opt/venv/bin/python3", Module: "lab", Plugin: "lab:P"}

// TestFromPythonTask: what a function is called with is data without references, and
// no part of the document that is stored and shown.
func TestFromPythonTask(t *testing.T) {
	const file = `{"py/object": "girder_worker_utils.transforms.girder_io.GirderFileId", "gc": {"py/object": "girder_client.GirderClient", "urlBase": "http://g/api/v1/", "token": "sesame"}, "file_id": "0123456789abcdef01234567"}`
	const hook = `{"py/object": "girder_worker_utils.transforms.girder_io.GirderUploadJobArtifact", "gc": null, "job_id": null, "name": null, "job": {"title": "x", "_id": "other"}}`
	f, err := FromPythonTask(pythonTask(t, `[1, [2.5], {"py/id": 1}]`, `{"input_file": `+file+`}`, hook), labPython)
	if err != nil {
		t.Fatal(err)
	}
	if f.Network != sandbox.NetworkPrivate {
		t.Errorf("a call with a client of Girder has the network %q", f.Network)
	}
	secrets, err := f.TakeSecrets()
	if err != nil {
		t.Fatal(err)
	}
	if document := string(f.AppendJSON(nil)); strings.Contains(document, "sesame") || !strings.Contains(document, labPython.Interpreter) {
		t.Errorf("the document: %s", document)
	}
	var call PythonCall
	if err := json.Unmarshal(secrets.Call, &call); err != nil {
		t.Fatal(err)
	}
	if len(call.Args) != 3 || string(call.Args[2]) != `[2.5]` || !strings.Contains(string(call.Kwargs), "sesame") {
		t.Errorf("the call: %s", secrets.Call)
	}
	if len(call.Hooks) != 1 || !strings.Contains(string(call.Hooks[0]), `"job":{"_id":"0123456789abcdef01234567"}`) {
		t.Errorf("the hook: %s", call.Hooks)
	}
	again, err := ParseJobFile(f.AppendJSON(nil))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := again.Plan()
	if err != nil || plan.Python == nil || plan.Python.Module != "lab" || plan.Image != "" || !plan.Options.Init {
		t.Errorf("%+v, %v", plan, err)
	}
	if f, err := FromPythonTask(pythonTask(t, `[]`, `{}`), labPython); err != nil || f.Network != "" {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestFromPythonTaskRefuses(t *testing.T) {
	for args, says := range map[string]string{
		`[{"py/object": "os.path.Evil"}]`:          "the class os.path.Evil is not one",
		`["` + strings.Repeat("x", MaxCall) + `"]`: "the limit is",
		`[{"a": NaN}]`: "invalid character",
		`[[[[[1]]]], {"py/tuple": [{"py/object": "x"}]}]`: "the class x is not one",
	} {
		if _, err := FromPythonTask(pythonTask(t, args, `{}`), labPython); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60s: %v, want %q", args, err, says)
		}
	}
	for name, p := range map[string]Python{
		"relative":    {Interpreter: "python3", Module: "lab"},
		"no module":   {Interpreter: "/usr/bin/python3"},
		"bad path":    {Interpreter: "/usr/bin/python3", Module: "lab", Path: []string{"x"}},
		"bad results": {Interpreter: "/usr/bin/python3", Module: "lab", Previous: "some"},
	} {
		if _, err := FromPythonTask(pythonTask(t, `[]`, `{}`), p); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
