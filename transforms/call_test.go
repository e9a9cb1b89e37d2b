package transforms

import (
	"strings"
	"testing"

	"girderworker/transforms/jsonpickle"
)

func TestCall(t *testing.T) {
	for _, document := range []string{
		`{"task":"lab.segment","args":[1,[2.5,null],"x"],"kwargs":{"deep":{"a":[true]}}}`,
		`{"kwargs":{"deep":{"a":[true]}},"args":[1,[2.5,null],"x"],"task":"lab.segment"}`,
	} {
		f, err := ParseJobFile([]byte(document))
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Call.Args) != 3 || f.Call.Args[0] != int64(1) || f.Call.Args[2] != "x" || f.Args != nil || !f.Calls() {
			t.Errorf("%s: %+v", document, f.Call)
		}
		if deep, _ := f.Call.Kwargs.Get("deep"); len(deep.(*jsonpickle.Dict).Members) != 1 {
			t.Errorf("%s: %+v", document, f.Call.Kwargs)
		}
	}
	for document, says := range map[string]string{
		`{"image":"a","args":[1]}`:                                      "args[0]: a string is needed here",
		`{"image":"a","kwargs":{}}`:                                     "kwargs: only a document with another task",
		`{"task":"a","args":{}}`:                                        "args: a list is needed here",
		`{"task":"a","kwargs":[]}`:                                      "kwargs: an object is needed here",
		`{"task":"a","args":[1,]}`:                                      "not JSON",
		`{"task":"a","kwargs":{"a":1,"a":2}}`:                           "given twice",
		`{"task":"a","kwargs":{"a":NaN}}`:                               "not JSON",
		`{"task":"a","args":[{"py/reduce":[{"py/type":"os.system"}]}]}`: "py/reduce",
		`{"task":"a","kwargs":{"py/object":"posix.system"}}`:            "kwargs: arguments by name are a plain object",
	} {
		if _, err := ParseJobFile([]byte(document)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want %q", document, err, says)
		}
	}
}

// TestCalled: a call says when, for how long and with how much; its task the rest.
func TestCalled(t *testing.T) {
	task, err := ParseJobFile([]byte(`{"image":"a","name":"task","args":["x"],"resources":{"cpus":2,"swap":"1g"},"timeout":"1h","soft_timeout":"50m"}`))
	if err != nil {
		t.Fatal(err)
	}
	for call, want := range map[string]string{
		`{"task":"t"}`: `{"image":"a","name":"task","args":["x"],"resources":{"cpus":2,"swap":"1g"},"timeout":"1h","soft_timeout":"50m"}`,
		`{"task":"t","id":"i","name":"own","priority":3,"after":["j"],"hold":"why","resources":{"memory":"1g","cpus":1},"timeout":"5m","retries":{"max":2},"girder":"http://g/api/v1"}`: `{"id":"i","name":"own","image":"a","args":["x"],"priority":3,"after":["j"],"hold":"why","resources":{"cpus":1,"memory":"1g","swap":"1g"},"timeout":"5m","retries":{"max":2},"girder":"http://g/api/v1"}`,
	} {
		f, err := ParseJobFile([]byte(call))
		if err != nil {
			t.Fatal(err)
		}
		expected, err := ParseJobFile([]byte(want))
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.Called(task)
		if err != nil || string(got.AppendJSON(nil)) != string(expected.AppendJSON(nil)) {
			t.Errorf("%s:\n got  %s (%v)\n want %s", call, got.AppendJSON(nil), err, expected.AppendJSON(nil))
		}
	}
	f, err := ParseJobFile([]byte(`{"task":"t","image":"b","binds":[{"source":"/a","target":"/a"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Called(task); err == nil || !strings.Contains(err.Error(), "binds, image") {
		t.Errorf("fields of the task: %v", err)
	}
}
