package plugin

import (
	"slices"
	"testing"
	"time"

	"girderworker/daemon/apitype"
)

// TestLook: which tasks are known after a look at an interpreter that had told of a
// and b of the plugin one, and c of the plugin two.
func TestLook(t *testing.T) {
	p := Python{Interpreter: "/py"}
	task := func(name, plugin string) Task {
		return Task{Task: apitype.Task{Name: name, Source: p.source(plugin)}}
	}
	a, b, c := task("a", "one"), task("b", "one"), task("c", "two")
	for name, test := range map[string]struct {
		found []Found
		skip  []string
		want  []string
		again bool
	}{
		"all":                 {found: []Found{{Whole: true, Tasks: []Task{a, b, c}}}, want: []string{"a", "b", "c"}},
		"no answer":           {found: []Found{{}, {}, {}}, want: []string{"a", "b", "c"}},
		"died on the way":     {found: []Found{{Tasks: []Task{a}}}, want: []string{"a", "b", "c"}},
		"failed":              {found: []Found{{Whole: true, Tasks: []Task{c}, Failed: []string{p.source("one")}}}, want: []string{"a", "b", "c"}},
		"hung":                {found: []Found{{Whole: true, Tasks: []Task{a, b}}}, skip: []string{"two"}, want: []string{"a", "b", "c"}},
		"gone":                {found: []Found{{Whole: true, Tasks: []Task{a}}}, want: []string{"a", "b", "c"}, again: true},
		"gone twice":          {found: []Found{{Whole: true, Tasks: []Task{a}}, {Whole: true, Tasks: []Task{a}}}, want: []string{"a"}},
		"gone, failure, gone": {found: []Found{{Whole: true}, {}, {Whole: true}}, want: nil},
		"gone and back": {
			found: []Found{{Whole: true, Tasks: []Task{a}}, {Whole: true, Tasks: []Task{a, b, c}}, {Whole: true, Tasks: []Task{b}}},
			want:  []string{"a", "b", "c"}, again: true,
		},
	} {
		look := Look{Of: p, Tasks: []Task{a, b, c}}
		again, now := false, time.Now()
		for _, found := range test.found {
			again = look.Take(found, test.skip, now)
			now = now.Add(UpgradeTime)
		}
		var got []string
		for _, known := range look.Tasks {
			got = append(got, known.Name)
		}
		slices.Sort(got)
		if !slices.Equal(got, test.want) || again != test.again {
			t.Errorf("%s: %v %v, want %v %v", name, got, again, test.want, test.again)
		}
	}
}
