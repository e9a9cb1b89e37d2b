package plugin

import (
	"errors"
	"fmt"
	"testing"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
)

// TestPythonArguments: what a function does not take is named before it is called, where
// its interpreter told what it takes.
func TestPythonArguments(t *testing.T) {
	const (
		x       = `{"name":"x","kind":"positional_or_keyword"}`
		y       = `{"name":"y","kind":"positional_or_keyword","optional":true,"default":1}`
		only    = `{"name":"p","kind":"positional_only"}`
		key     = `{"name":"k","kind":"keyword_only"}`
		rest    = `{"name":"rest","kind":"var_positional"}`
		options = `{"name":"options","kind":"var_keyword"}`
	)
	for _, test := range []struct{ parameters, args, kwargs, want string }{
		{x + "," + y, `[1]`, `{}`, ""},
		{x + "," + y, `[1,2]`, `{}`, ""},
		{x + "," + y, `[]`, `{"y":1,"x":2}`, ""},
		{x + "," + y, `[1,2,3]`, `{}`, "args: 3 without a name, and the function takes 2"},
		{x + "," + y, `[1]`, `{"x":1}`, "x: given twice, by its place and by its name"},
		{x + "," + y, `[]`, `{"wrong":1}`, "wrong: there is no such parameter; those of t are x, y; x: missing"},
		{x + "," + y, `[1]`, `{"a b":1}`, `"a b": there is no such parameter; those of t are x, y`},
		{only + "," + y, `[1]`, `{}`, ""},
		{only + "," + y, `[]`, `{"p":1}`, "p: there is no such parameter; those of t are p, y; p: missing"},
		{only + "," + options, `[1]`, `{"p":1}`, ""},
		{x + "," + rest, `[1,2,3]`, `{}`, ""},
		{x + "," + rest, `[1]`, `{"rest":1}`, "rest: there is no such parameter; those of t are x"},
		{options, `[]`, `{"any":1}`, ""},
		{options, `[1]`, `{}`, "args: 1 without a name, and the function takes 0"},
		{key, `[]`, `{"k":1}`, ""},
		{key, `[1]`, `{}`, "args: 1 without a name, and the function takes 0; k: missing"},
		{"", `[]`, `{}`, ""},
		{"", `[]`, `{"x":1}`, "x: there is no such parameter; those of t are none"},
	} {
		task := func(typing bool) Task {
			found, _ := Python{Interpreter: "/py"}.Read(attempt.DiscoveryAnswer{Lines: fmt.Sprintf(
				`{"plugin":"p","tasks":[{"name":"t","module":"m","typing":%t,"parameters":[%s]}]}`+"\n", typing, test.parameters)})
			if len(found.Tasks) != 1 {
				t.Fatalf("%+v", found)
			}
			return found.Tasks[0]
		}
		call := transforms.Task{Name: "t"}
		if err := call.Decode([]byte(test.args), []byte(test.kwargs)); err != nil {
			t.Fatal(err)
		}
		want := test.want
		if want != "" {
			want = "the arguments of t are wrong: " + want
		}
		got, err := "", task(true).Check(call)
		if err != nil {
			got = err.Error()
		}
		if bad := new(ArgumentError); got != want || err != nil && !errors.As(err, &bad) {
			t.Errorf("(%s) with %s %s: %q, want %q", test.parameters, test.args, test.kwargs, got, want)
		}
		if task(false).Check != nil {
			t.Errorf("(%s) is checked", test.parameters)
		}
	}
}
