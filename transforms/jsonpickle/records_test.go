package jsonpickle

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"girderworker/transforms/recordtest"
)

// TestRecords decodes what was recorded from a real Girder, when there are such
// recordings: GIRDER_WORKER_RECORDS names a directory of
//
//	NAME.amqp.json              messages with properties.headers and body, in a
//	                            list or under "messages"
//	jsonpickle-versions/*.json  {"bodies": {name: body}, "hooks": {name: hook}}
func TestRecords(t *testing.T) {
	dir := recordtest.Dir(t)
	var bodies, hooks int
	both := func(name string, hook any) {
		hooks++
		want, err := decode(hook, Options{Fits: fits}, Limits{}.withDefaults())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		got, err := DecodeTable(toTable(hook), Options{Fits: fits, Order: order})
		if err != nil {
			t.Errorf("%s as a table: %v", name, err)
		} else if !reflect.DeepEqual(sorted(got), sorted(want)) {
			t.Errorf("%s:\n got %s\nwant %s", name, dump(got), dump(want))
		}
	}
	for _, file := range recordtest.Files(t, ".amqp.json") {
		for _, m := range recordtest.Messages(t, file) {
			if m.Task(t) == "" {
				continue // events, results and control messages are plain JSON of Celery
			}
			var h struct {
				Hooks []json.RawMessage `json:"girder_result_hooks"`
			}
			if err := json.Unmarshal(m.Properties.Headers, &h); err != nil {
				t.Fatal(err)
			}
			bodies++
			v, err := Decode([]byte(m.Body), Options{Fits: fits})
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			checkBody(t, file, v)
			for _, hook := range h.Hooks {
				raw, err := parse(hook, Limits{}.withDefaults())
				if err != nil {
					t.Fatal(err)
				}
				both(file, raw)
			}
		}
	}

	versions, err := filepath.Glob(filepath.Join(dir, "jsonpickle-versions", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	trees := map[string]any{}
	for _, file := range versions {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) == 0 {
			continue // that version did not run
		}
		doc, err := parse(data, Limits{}.withDefaults()) // not encoding/json: some hold NaN
		if err != nil {
			t.Fatal(err)
		}
		section := func(name string) []Member {
			v, _ := doc.(*rawObject).get(name)
			return v.(*rawObject).members
		}
		for _, body := range section("bodies") {
			bodies++
			name := body.Key
			v, err := decode(body.Value, Options{Fits: fits}, Limits{}.withDefaults())
			if err != nil {
				t.Errorf("%s %s: %v", file, name, err)
				continue
			}
			checkBody(t, file+" "+name, v)
			// Every version must come to the same values (as text: NaN is not equal to itself).
			if other, ok := trees[name]; !ok {
				trees[name] = sorted(v)
			} else if fmt.Sprint(sorted(v)) != fmt.Sprint(other) {
				t.Errorf("%s %s: %v\nis elsewhere %v", file, name, sorted(v), other)
			}
		}
		for _, hook := range section("hooks") {
			both(file+" "+hook.Key, hook.Value)
		}
	}
	if bodies == 0 || hooks == 0 {
		t.Errorf("%s holds %d bodies and %d hooks", dir, bodies, hooks)
	}
	t.Logf("decoded %d bodies and %d hooks", bodies, hooks)
}

// checkBody wants the three parts of a Celery body, and every volume a volume.
func checkBody(t *testing.T, name string, v Value) {
	var parts []Value
	switch v := v.(type) {
	case Tuple:
		parts = v
	case *List:
		parts = v.Items
	}
	if len(parts) != 3 {
		t.Errorf("%s: %s is no body", name, dump(v))
		return
	}
	kwargs, ok := parts[1].(*Dict)
	if !ok {
		t.Errorf("%s: the keyword arguments are a %T", name, parts[1])
		return
	}
	volumes, _ := kwargs.Get("volumes")
	if list, ok := volumes.(*List); ok {
		for _, e := range list.Items {
			if o, ok := e.(*Object); !ok || !strings.HasSuffix(o.Class, "Volume") {
				t.Errorf("%s: a volume is %s", name, dump(e))
			}
		}
	}
}
