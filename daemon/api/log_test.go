package api

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"girderworker/daemon/apitype"
	"girderworker/daemon/attempt"
	"girderworker/queue"
)

const ndjson = "application/x-ndjson"

// logOf opens the log that an attempt writes.
func (w *worker) logOf(j queue.Job) *attempt.LogWriter {
	w.t.Helper()
	dir, err := attempt.NewDir(w.state, j.ID, j.Attempt)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.MkdirAll(dir.Path(), 0o755); err != nil {
		w.t.Fatal(err)
	}
	return dir.NewLogWriter(1<<20, os.Getgid())
}

func write(l *attempt.LogWriter, stream attempt.LogStream, text string) {
	l.Append(stream, time.Now(), []byte(text))
	l.Flush()
}

// frames reads the frames of a log as they come.
type frames struct {
	t     *testing.T
	lines *bufio.Scanner
}

func (p *person) frames(t *testing.T, ctx context.Context, path string) *frames {
	t.Helper()
	answer := p.open(ctx, "GET", path, nil, ndjson)
	t.Cleanup(func() { answer.Body.Close() })
	if answer.StatusCode != 200 {
		t.Fatalf("%s: %s", path, answer.Status)
	}
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	return &frames{t, lines}
}

func (f *frames) next() apitype.LogFrame {
	f.t.Helper()
	if !f.lines.Scan() {
		f.t.Fatalf("the log ended: %v", f.lines.Err())
	}
	return decodeAs[apitype.LogFrame](f.t, f.lines.Bytes())
}

// TestFollow: one connection from before the first attempt to the end of the
// last, across a retry.
func TestFollow(t *testing.T) {
	w := newWorker(t, nil)
	s := *w.server.settings.Load()
	s.Defaults.RetryDelay = time.Nanosecond
	w.server.Apply(s)
	p := w.person(alice)
	id := p.submit(`{"image":"busybox","retries":{"max":1}}`).ID
	log := p.frames(t, t.Context(), "/v1/jobs/"+id+"/log?follow=1&status=1")

	status := func(want string) apitype.JobStatus {
		t.Helper()
		f := log.next()
		if f.Status == nil || f.Status.State != want {
			t.Fatalf("got %+v, want the status %s", f, want)
		}
		return *f.Status
	}
	output := func(attempt int, stream, want string) apitype.LogFrame {
		t.Helper()
		f := log.next()
		if f.Attempt != attempt || f.Stream != stream || string(f.Output()) != want {
			t.Fatalf("got %+v, want %q on %s of attempt %d", f, want, stream, attempt)
		}
		return f
	}

	status("queued")
	job := w.claim()
	l := w.logOf(job)
	status("preparing")
	write(l, attempt.LogStdout, "one\n")
	output(1, "stdout", "one\n")
	w.setProgress(id, &apitype.Progress{Total: 4, Current: 1, Message: "a quarter"})
	if st := status("preparing"); st.Progress == nil || st.Progress.Current != 1 {
		t.Errorf("got %+v", st)
	}
	write(l, attempt.LogStderr, "bad\xff\n")
	output(1, "stderr", "bad\xff\n")
	w.setProgress(id, nil)
	w.finish(job, 1)
	var f apitype.LogFrame
	for f = log.next(); f.Status == nil || f.Status.State != "delayed" && f.Status.State != "queued"; f = log.next() {
	}

	deadline := time.Now().Add(10 * time.Second)
	for { // the retry is due at once, but the clock has to move
		jobs, err := w.queue.Claim(t.Context(), w.Capacity(), "boot", 1)
		if err != nil || time.Now().After(deadline) {
			t.Fatal("no second attempt", err)
		}
		if len(jobs) == 1 {
			job = jobs[0]
			break
		}
	}
	l = w.logOf(job)
	write(l, attempt.LogStdout, "two\n")
	for f = log.next(); f.Status != nil; f = log.next() {
	}
	if f.Attempt != 2 || f.Text != "two\n" {
		t.Fatalf("got %+v", f)
	}
	write(l, attempt.LogStdout, "last words")
	w.finish(job, 0)
	var text string
	for f = log.next(); f.Job == nil; f = log.next() {
		text += f.Text
	}
	if text != "last words" || f.Job.State != "succeeded" || *f.Job.ExitCode != 0 {
		t.Errorf("at the end: %q, %+v", text, f.Job)
	}
	if log.lines.Scan() {
		t.Errorf("after the end: %s", log.lines.Bytes())
	}
}

// TestLogOffset: what a frame says about the next one continues the log there.
func TestLogOffset(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	id := p.submit(`{"image":"busybox"}`).ID
	job := w.claim()
	l := w.logOf(job)
	for i := range 5 {
		write(l, attempt.LogStdout, fmt.Sprintf("line %d\n", i))
	}
	write(l, attempt.LogStderr, "to stderr\n")
	first := p.frames(t, t.Context(), "/v1/jobs/"+id+"/log")
	first.next()
	f := first.next()
	rest := p.frames(t, t.Context(), fmt.Sprintf("/v1/jobs/%s/log?attempt=%d&offset=%d", id, f.Attempt, f.Offset))
	if got := rest.next(); got.Text != "line 2\n" {
		t.Errorf("it goes on with %+v", got)
	}
	for query, want := range map[string]string{
		"":               "line 0\nline 1\nline 2\nline 3\nline 4\nto stderr\n",
		"?stream=stderr": "to stderr\n",
	} {
		if _, body := p.do("GET", "/v1/jobs/"+id+"/log"+query, ""); string(body) != want {
			t.Errorf("%q: the plain log is %q", query, body)
		}
	}
	for _, query := range []string{"offset=3", "offset=-1", "attempt=0", "stream=both", "follow=maybe", "tail=5"} {
		if e := p.refused("GET", "/v1/jobs/"+id+"/log?"+query, "", 400); e.Kind != apitype.KindBadRequest {
			t.Errorf("%s: %+v", query, e)
		}
	}
}

// TestFollowEndsWithTheServer: the client sees that it was not the end.
func TestFollowEndsWithTheServer(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	id := p.submit(`{"image":"busybox"}`).ID
	l := w.logOf(w.claim())
	write(l, attempt.LogStdout, "x")
	for _, accept := range []string{ndjson, ""} {
		answer := p.open(t.Context(), "GET", "/v1/jobs/"+id+"/log?follow=1", nil, accept)
		defer answer.Body.Close()
		if _, err := answer.Body.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if _, err := io.ReadAll(answer.Body); err == nil {
				t.Error("the log seems to have ended in good order")
			}
		}()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := w.server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// TestFollowerThatLeaves costs nothing any more: its request ends.
func TestFollowerThatLeaves(t *testing.T) {
	gone := make(chan struct{})
	w := newWorker(t, nil, func(s *Server) {
		inner := s.http.Handler
		s.http.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			inner.ServeHTTP(rw, r)
			if strings.HasSuffix(r.URL.Path, "/log") {
				close(gone)
			}
		})
	})
	p := w.person(alice)
	id := p.submit(`{"image":"busybox"}`).ID
	ctx, cancel := context.WithCancel(t.Context())
	log := p.frames(t, ctx, "/v1/jobs/"+id+"/log?follow=1&status=1")
	log.next()
	cancel()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the request goes on without its client")
	}
}

// TestSlowFollower: who reads nothing for a while has lost nothing.
func TestSlowFollower(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	id := p.submit(`{"image":"busybox"}`).ID
	job := w.claim()
	l := w.logOf(job)
	answer := p.open(t.Context(), "GET", "/v1/jobs/"+id+"/log?follow=1", nil, "")
	defer answer.Body.Close()
	line := []byte(strings.Repeat("x", 999) + "\n")
	for range 1000 { // more than the socket holds
		l.Append(attempt.LogStdout, time.Now(), line)
		l.Flush()
	}
	w.finish(job, 0)
	got, err := io.ReadAll(answer.Body)
	if err != nil || !bytes.Equal(got, bytes.Repeat(line, 1000)) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}
