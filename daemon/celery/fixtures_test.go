package celery

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"girderworker/transforms/jsonpickle"
	"girderworker/transforms/recordtest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden holds text against a file below testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what it was; go test -update writes it anew.\n got:\n%s\nwant:\n%s", file, got, want)
	}
}

// fixtures are messages of the real Celery, see testdata/generate.py.
func fixtures(t testing.TB) map[string]Delivery {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "celery-5.2.6.json"))
	if err != nil {
		t.Fatal(err)
	}
	var records map[string]recordtest.Message
	if err := json.Unmarshal(data, &records); err != nil {
		t.Fatal(err)
	}
	all := map[string]Delivery{}
	for name, r := range records {
		all[name] = recordedDelivery(t, r)
	}
	return all
}

// TestFixtures reads what Celery writes, and shows what is read.
func TestFixtures(t *testing.T) {
	var out strings.Builder
	all := fixtures(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		task, err := Decode(all[name], Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		request, err := json.MarshalIndent(task.Request, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "== %s\n%s\n", name, request)
		for _, l := range []struct {
			name string
			all  []Signature
		}{{"callback", task.Callbacks}, {"errback", task.Errbacks}, {"chain", task.Chain}} {
			for _, s := range l.all {
				fmt.Fprintf(&out, "%s %s\n", l.name, Repr(s.value()))
			}
		}
		if task.Chord != nil {
			fmt.Fprintf(&out, "chord %s\n", Repr(task.Chord.value()))
		}
		// What is kept of a task reads to the same again.
		text, err := json.Marshal(task.Links)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var links Links
		if err := json.Unmarshal(text, &links); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		again, err := json.Marshal(links)
		if err != nil || !bytes.Equal(again, text) {
			t.Errorf("%s: links are kept as %s and read as %s (%v)", name, text, again, err)
		}
	}
	golden(t, "tasks.txt", out.String())
}

// TestFollow publishes what comes after each fixture, and reads it as the next worker would.
func TestFollow(t *testing.T) {
	var out strings.Builder
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	f := Follower{Now: now, Origin: "gen1@lab"}
	show := func(follows []Follow) {
		for _, follow := range follows {
			m := follow.Message
			headers, err := json.Marshal(m.Headers)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "-> %q %q %+v\n   %s\n   %s\n", m.Exchange, m.RoutingKey, m.Properties, headers, m.Body)
			task, err := Decode(Delivery{Exchange: m.Exchange, RoutingKey: m.RoutingKey, Properties: m.Properties, Headers: m.Headers, Body: m.Body}, Options{})
			if err != nil {
				t.Errorf("cannot read what was published: %v", err)
			}
			if task.ID != follow.ID || task.Name != follow.Task || Repr(task.Positional) != Repr(follow.Args) || Repr(task.Keyword) != Repr(follow.Kwargs) {
				t.Errorf("published %s %s%s %s, read %s %s%s %s", follow.Task, follow.ID, Repr(follow.Args), Repr(follow.Kwargs),
					task.Name, task.ID, Repr(task.Positional), Repr(task.Keyword))
			}
		}
	}
	all := fixtures(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		task, err := Decode(all[name], Options{})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "== %s, succeeded\n", name)
		follows, children, err := f.AfterSuccess(&task.Request, &task.Links, nil)
		if err != nil {
			fmt.Fprintf(&out, "error: %v\n", err)
		}
		show(follows)
		again, _, _ := f.AfterSuccess(&task.Request, &task.Links, nil)
		for i := range follows {
			if follows[i].ID != again[i].ID {
				t.Errorf("%s: published twice, the ids are %s and %s", name, follows[i].ID, again[i].ID)
			}
		}
		if reply, ok, err := task.Reply(Result{State: Success, Children: children}); err != nil {
			t.Error(err)
		} else if ok {
			fmt.Fprintf(&out, "result %q %s\n", reply.RoutingKey, reply.Body)
		}

		fmt.Fprintf(&out, "== %s, failed\n", name)
		results, follows, err := f.AfterFailure(&task.Request, &task.Links, FailedWith(ExitCode(7)))
		if err != nil {
			fmt.Fprintf(&out, "error: %v\n", err)
		}
		for _, m := range results {
			fmt.Fprintf(&out, "result %q %s %s\n", m.RoutingKey, m.Properties.CorrelationID, m.Body)
		}
		show(follows)
	}
	golden(t, "follow.txt", out.String())
}

// TestResultBytes holds results against what was recorded from the Python worker.
func TestResultBytes(t *testing.T) {
	r := Request{ID: "4afd9c10", ReplyTo: "queue", CorrelationID: "4afd9c10"}
	for name, c := range map[string]struct {
		res  Result
		want string
	}{
		"success":   {Result{State: Success}, `{"task_id": "4afd9c10", "status": "SUCCESS", "result": null, "traceback": null, "children": []}`},
		"unknown":   {NotRegistered("no.such.task"), `{"task_id": "4afd9c10", "status": "FAILURE", "result": {"exc_type": "NotRegistered", "exc_message": ["no.such.task"], "exc_module": "celery.exceptions"}, "traceback": null, "children": []}`},
		"expired":   {RevokedBecause("expired"), `{"task_id": "4afd9c10", "status": "REVOKED", "result": {"exc_type": "TaskRevokedError", "exc_message": ["expired"], "exc_module": "celery.exceptions"}, "traceback": null, "children": []}`},
		"exit":      {FailedWith(ExitCode(7)), `{"task_id": "4afd9c10", "status": "FAILURE", "result": {"exc_type": "DockerException", "exc_message": ["Non-zero exit code from docker container (7)."], "exc_module": "docker.errors"}, "traceback": "Traceback (most recent call last):\ndocker.errors.DockerException: Non-zero exit code from docker container (7).\n", "children": []}`},
		"limit":     {FailedWith(HardLimit(90 * time.Second)), `{"task_id": "4afd9c10", "status": "FAILURE", "result": {"exc_type": "TimeLimitExceeded", "exc_message": [90.0], "exc_module": "billiard.exceptions"}, "traceback": "Traceback (most recent call last):\nbilliard.exceptions.TimeLimitExceeded: 90.0\n", "children": []}`},
		"not UTF-8": {Result{State: Failure, Exception: Failed("\xff")}, "{\"task_id\": \"4afd9c10\", \"status\": \"FAILURE\", \"result\": {\"exc_type\": \"RuntimeError\", \"exc_message\": [\"\uFFFD\"], \"exc_module\": \"builtins\"}, \"traceback\": null, \"children\": []}"},
		"started":   {Result{State: Started, Value: dict("pid", 5)}, `{"task_id": "4afd9c10", "status": "STARTED", "result": {"pid": 5}, "traceback": null, "children": []}`},
		"children":  {Result{State: Success, Children: []Child{{ID: "c"}, {ID: "g", Group: []Child{{ID: "m"}}}}}, `{"task_id": "4afd9c10", "status": "SUCCESS", "result": null, "traceback": null, "children": [[["c", null], null], [["g", null], [[["m", null], null]]]]}`},
	} {
		m, ok, err := r.Reply(c.res)
		if err != nil || !ok || string(m.Body) != c.want {
			t.Errorf("%s:\n got %s (%v, %v)\nwant %s", name, m.Body, ok, err, c.want)
		}
		if p := m.Properties; m.Exchange != "" || m.RoutingKey != "queue" || p.DeliveryMode != 1 || p.CorrelationID != r.ID || len(m.Headers) != 0 || m.Headers == nil {
			t.Errorf("%s: %+v", name, m)
		}
		if !json.Valid(m.Body) {
			t.Errorf("%s: not JSON: %s", name, m.Body)
		}
	}
	for name, r := range map[string]Request{"ignored": {ID: "a", ReplyTo: "q", IgnoreResult: true}, "nobody": {ID: "a"}} {
		if _, ok, err := r.Reply(Result{State: Success}); ok || err != nil {
			t.Errorf("%s: a result is sent (%v)", name, err)
		}
	}
	r.CorrelationID = ""
	if m, _, _ := r.Reply(Result{State: Success}); m.Properties.CorrelationID != r.ID {
		t.Error("a result without correlation id")
	}
	if _, _, err := r.Reply(Result{State: Success, Value: &jsonpickle.Object{Class: "a.B"}}); err == nil {
		t.Error("an object is sent as a result")
	}
}
