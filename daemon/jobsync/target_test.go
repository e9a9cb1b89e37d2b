package jobsync

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"girderworker/queue"
)

const anID = "6b00f7bf4c398922d75c65ff"

func TestTarget(t *testing.T) {
	spec := map[string]any{
		"method": "PUT", "url": "http://girder.lab/api/v1/job/" + anID, "reference": anID, "logPrint": true,
		"headers": map[string]any{"Girder-Token": "s3cret"},
	}
	target, err := ParseJobInfo(spec)
	if err != nil {
		t.Fatal(err)
	}
	target.Session = map[string]any{"verify": false, "headers": map[string]any{"X-Key": "s3cret"}}
	origin, secrets, err := target.Split([]byte(`{"celery":{"id":"1"}}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(origin), "s3cret") || !strings.Contains(string(origin), `"celery"`) {
		t.Errorf("origin %s", origin)
	}
	got, err := TargetOf(origin, secrets)
	if err != nil || !reflect.DeepEqual(got, target) {
		t.Errorf("put together %v (%v)", got, err)
	}
	if _, err := TargetOf([]byte(`{"celery":{}}`), nil); !errors.Is(err, ErrNoTarget) {
		t.Errorf("no target: %v", err)
	}
	if _, err := TargetOf(nil, []byte(`{"girder_job":{"headers":{"Girder-Token":["s3cret"]}}}`)); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("bad secrets: %v", err)
	}

	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("Target", "target", target, "in", []any{target}, "pointer", &target)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("Target", "target", target, "pointer", &target)
	fmt.Fprintf(&log, "%v %+v %#v %s", target, target, target, &target)
	if strings.Contains(log.String(), "s3cret") || !strings.Contains(log.String(), anID) {
		t.Errorf("logged: %s", &log)
	}
}

func TestParseJobInfoRefuses(t *testing.T) {
	good := "http://girder.lab/api/v1/job/" + anID
	for name, spec := range map[string]map[string]any{
		"nothing":    {},
		"no url":     {"method": "PUT"},
		"number":     {"url": 5},
		"no job":     {"url": "http://girder.lab/api/v1/item/" + anID},
		"file":       {"url": "file:///etc/passwd"},
		"method":     {"url": good, "method": "DELETE"},
		"headers":    {"url": good, "headers": "Girder-Token"},
		"header":     {"url": good, "headers": map[string]any{"Girder-Token": 7}},
		"query":      {"url": good + "?token=x"},
		"odd method": {"url": good, "method": []any{"PUT"}},
	} {
		if got, err := ParseJobInfo(spec); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestFailure(t *testing.T) {
	for want, j := range map[string]queue.Job{
		"DockerException: Non-zero exit code from docker container (7).": {State: queue.Failed, Attempt: 1, Reason: "it exited with code 7", Result: &queue.Result{Outcome: "exited", Code: 7}},
		"ImageNotFound: no such image":                                   {State: queue.Failed, Attempt: 1, Reason: "x", Result: &queue.Result{Outcome: "error", Code: 125, Error: "no such image"}},
		"DockerException: upload failed":                                 {State: queue.Failed, Attempt: 1, Reason: "upload failed", Result: &queue.Result{Outcome: "exited"}},
		"NotRegistered: tasks.nobody":                                    {State: queue.Failed, Task: "tasks.nobody", Reason: "unknown task tasks.nobody"},
		"TaskRevokedError: expired":                                      {State: queue.Failed, Reason: "expired before it was accepted"},
		"ValueError: volumes: bad":                                       {State: queue.Failed, Reason: "volumes: bad"},
		"SoftTimeLimitExceeded: over its soft time limit of 1s":          {State: queue.Failed, Attempt: 1, Reason: "x", Result: &queue.Result{Outcome: "timeout", Code: 124, Error: "over its soft time limit of 1s"}},
		"TimeLimitExceeded: it ran longer than 5s":                       {State: queue.Failed, Attempt: 1, Reason: "x", Result: &queue.Result{Outcome: "timeout", Code: 124, Error: "it ran longer than 5s"}},
	} {
		if got := FailureOf(&j).String(); got != want {
			t.Errorf("%s, not %s", got, want)
		}
	}
	if got := FailureOf(&queue.Job{State: queue.Canceled}); got != (Failure{}) {
		t.Errorf("canceled: %v", got)
	}
}
