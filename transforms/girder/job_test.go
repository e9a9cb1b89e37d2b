package girder_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"girderworker/transforms/girder"
	"girderworker/transforms/girder/girdertest"
)

func ptr[T any](v T) *T { return &v }

func newReporter(t *testing.T) (w *world, c *girder.Client, job string) {
	w = newWorld(t, girdertest.Config{})
	job, token := w.AddJob(w.user, "celery_handler")
	return w, newClient(t, girder.Config{API: w.API(), Token: token, Sleep: w.pauses.sleep}), job
}

func TestReports(t *testing.T) {
	w, c, job := newReporter(t)
	ctx := t.Context()
	for _, r := range []girder.JobReport{
		{Status: ptr(girder.JobRunning)},
		{Log: "one\n"},
		{Log: "two \xff é & = +\n", ProgressTotal: ptr(3.0), ProgressCurrent: ptr(1.5), ProgressMessage: ptr("half & \xff")},
		{ProgressCurrent: ptr(2.0)},
		{Log: "three\n", Status: ptr(girder.JobSuccess)},
	} {
		if _, err := c.UpdateJob(ctx, job, r); err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
	}
	got := w.Job(job)
	if got.Status != 3 || !slices.Equal(got.Log, []string{"one\n", "two \ufffd é & = +\n", "three\n"}) || *got.Progress != (girdertest.Progress{Total: 3, Current: 2, Message: "half & \ufffd"}) {
		t.Errorf("got %+v, %+v", got, got.Progress)
	}
	if len(got.Timestamps) != 2 || got.Timestamps[0].Status != 2 || got.Timestamps[1].Status != 3 {
		t.Errorf("got %+v", got.Timestamps)
	}
	read, err := c.Job(ctx, job)
	if err != nil || read.Status != girder.JobSuccess || !slices.Equal(read.Log, got.Log) || read.Handler != "celery_handler" || !read.Status.Final() {
		t.Errorf("got %+v, %v", read, err)
	}
	// Numbers go out as Python writes them, not as 3e+00.
	calls := w.Calls("PUT /job/{id}")
	if got := calls[2].Form["progressTotal"][0]; got != "3" {
		t.Errorf("progressTotal is %q", got)
	}
}

func TestTransitionIsRefused(t *testing.T) {
	w, c, job := newReporter(t)
	if err := w.CancelJob(job); err != nil {
		t.Fatal(err)
	}
	_, err := c.UpdateJob(t.Context(), job, girder.JobReport{Status: ptr(girder.JobRunning)})
	if !errors.Is(err, girder.ErrTransition) || errors.Is(err, girder.ErrUncertain) || !strings.Contains(err.Error(), "Invalid state transition to '2', Current state is '5'.") {
		t.Errorf("got %v", err)
	}
	_, err = c.UpdateJob(t.Context(), job, girder.JobReport{Status: ptr(girder.JobStatus(77))})
	if !errors.Is(err, girder.ErrTransition) {
		t.Errorf("got %v", err)
	}
	if _, err := c.UpdateJob(t.Context(), nobody, girder.JobReport{Status: ptr(girder.JobRunning)}); errors.Is(err, girder.ErrTransition) || !errors.Is(err, girder.ErrNoSuch) {
		t.Errorf("got %v", err)
	}
	other, _ := w.AddJob(w.user, "celery_handler")
	if _, err := c.Job(t.Context(), other); !errors.Is(err, girder.ErrDenied) {
		t.Errorf("got %v", err)
	}
}

// A status may be told twice, a log may not.
func TestReportsThatMayHaveArrived(t *testing.T) {
	for name, f := range map[string]struct {
		fault   girdertest.Fault
		unclear bool // with a log
	}{
		"drop before": {girdertest.DropBefore(), true},
		"drop after":  {girdertest.DropAfter(), true},
		"garbage":     {girdertest.Garbage(), true},
		"500":         {girdertest.Status(500), true},
		"502":         {girdertest.Status(502), true},
		"429":         {girdertest.Status(429), false},
		"503":         {girdertest.Status(503), false},
	} {
		w, c, job := newReporter(t)
		w.Fail("PUT /job/{id}", 2, f.fault)
		if _, err := c.UpdateJob(t.Context(), job, girder.JobReport{Status: ptr(girder.JobRunning)}); err != nil || w.Job(job).Status != 2 {
			t.Errorf("%s: a status: got %v", name, err)
		}
		w.Fail("PUT /job/{id}", 1, f.fault)
		_, err := c.UpdateJob(t.Context(), job, girder.JobReport{Log: "x"})
		if errors.Is(err, girder.ErrUncertain) != f.unclear || (err == nil) == f.unclear {
			t.Errorf("%s: a log: got %v", name, err)
		}
		if n := len(w.Job(job).Log); n > 1 || !f.unclear && n != 1 {
			t.Errorf("%s: the log arrived %d times", name, n)
		}
	}
	// Nothing listens: nothing can have arrived.
	w, _, job := newReporter(t)
	c := newClient(t, girder.Config{API: "http://127.0.0.1:1/api/v1", Sleep: w.pauses.sleep})
	if _, err := c.UpdateJob(t.Context(), job, girder.JobReport{Log: "x"}); err == nil || errors.Is(err, girder.ErrUncertain) || w.pauses.count() != 7 {
		t.Errorf("got %v after %d pauses", err, w.pauses.count())
	}
}

func TestArtifact(t *testing.T) {
	w := newWorld(t, girdertest.Config{})
	job, _ := w.AddJob(w.user, "celery_handler")
	data := noise(1000)
	if _, err := w.c.AddArtifact(t.Context(), job, "log.txt", "text/plain", bytes.NewReader(data), 1000); err != nil {
		t.Fatal(err)
	}
	w.Fail("POST /job/{id}/artifact", 1, girdertest.DropAfter())
	if _, err := w.c.AddArtifact(t.Context(), job, "b", "", bytes.NewReader(data), 1000); !errors.Is(err, girder.ErrUncertain) {
		t.Errorf("got %v", err)
	}
	w.Fail("POST /job/{id}/artifact", 1, girdertest.Status(503))
	if _, err := w.c.AddArtifact(t.Context(), job, "c", "", bytes.NewReader(data), 1000); err != nil {
		t.Errorf("got %v", err)
	}
	got := w.Artifacts(job)
	if len(got) != 3 || got[0].MimeType != "text/plain" || got[0].Name != "log.txt" || !bytes.Equal(got[2].Data, data) {
		t.Errorf("got %d artifacts", len(got))
	}
	if len(w.Files(w.item)) != 0 {
		t.Error("an artifact is in an item")
	}
	if _, err := w.c.AddArtifact(t.Context(), job, "d", "", bytes.NewReader(data[:10]), 1000); err == nil {
		t.Error("short contents were taken")
	}
}
