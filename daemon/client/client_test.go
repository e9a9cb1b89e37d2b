package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"girderworker/daemon/apitype"
)

// serve answers on a socket of its own until the test ends.
func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	c := New(socket, 0)
	t.Cleanup(func() { c.Close(); s.Close(); <-done })
	return c
}

// TestUnreachable: whatever is wrong with the socket, one line says what to do.
func TestUnreachable(t *testing.T) {
	c := New("/run/x.sock", 0)
	for cause, want := range map[error]struct{ kind, says string }{
		syscall.ENOENT:       {KindNotRunning, "no socket /run/x.sock; start it"},
		syscall.ECONNREFUSED: {KindNotRunning, "nobody listens"},
		syscall.EACCES:       {KindNoPermission, "add you to the group girder-worker"},
		syscall.ENOTSOCK:     {KindNotRunning, "not the daemon's socket"},
		syscall.ECONNRESET:   {KindLost, "connection to the daemon was lost"},
	} {
		wrapped := fmt.Errorf("Get: %w", &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", cause)})
		err := c.unreachable(t.Context(), wrapped)
		if Kind(err) != want.kind || !strings.Contains(err.Error(), want.says) || strings.Contains(err.Error(), "\n") || !errors.Is(err, cause) {
			t.Errorf("%v: %q, %v", cause, Kind(err), err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(filepath.Join(t.TempDir(), "none"), 0).Jobs(ctx, JobFilter{}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/jobs/full":
			w.WriteHeader(503)
			fmt.Fprint(w, `{"error":{"kind":"queue-full","message":"the queue is full","field":"x"}}`)
		case "/v1/jobs/odd":
			w.WriteHeader(502)
			fmt.Fprint(w, `<html>`)
		case "/v1/jobs/short":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `{"id":`)
		case "/v1/jobs/moved":
			http.Redirect(w, r, "/v1/jobs/full", http.StatusMovedPermanently)
		}
	})
	for id, want := range map[string]string{
		"full": apitype.KindFull, "odd": apitype.KindInternal, "short": KindLost, "moved": apitype.KindInternal,
		"../full": apitype.KindNotFound, "": apitype.KindNotFound, "a b": apitype.KindNotFound,
	} {
		if _, err := c.Job(t.Context(), id); Kind(err) != want {
			t.Errorf("%q: %q, %v", id, Kind(err), err)
		}
	}
	_, err := c.Job(t.Context(), "full")
	var e *Error
	if !errors.As(err, &e) || e.Status != 503 || e.Field != "x" || e.Text != "the queue is full" {
		t.Errorf("got %+v", e)
	}
}

// TestLogGoesOn: a log that breaks off is asked for again from where it was.
func TestLogGoesOn(t *testing.T) {
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Query().Get("attempt")+"/"+r.URL.Query().Get("offset"))
		switch len(asked) {
		case 1:
			fmt.Fprintln(w, `{"attempt":1,"offset":10,"stream":"stdout","text":"one"}`)
			fmt.Fprintln(w, `{"attempt":2,"offset":20,"stream":"stdout","data":"/w=="}`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case 2:
			fmt.Fprint(w, `{"attempt":2,"offset":30,"str`) // ends within a line
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		default:
			fmt.Fprintln(w, `{"attempt":2,"offset":30,"stream":"stderr","text":"`+strings.Repeat("x", 300_000)+`"}`)
		}
	})
	var got []string
	lost, back := 0, 0
	o := LogOptions{Follow: true, Patience: Patience{For: time.Minute, Lost: func(error) { lost++ }, Back: func() { back++ }}}
	err := c.Log(t.Context(), "a", o, func(f *apitype.LogFrame) error {
		got = append(got, fmt.Sprintf("%s:%d", f.Stream, len(f.Output())))
		return nil
	})
	if err != nil || fmt.Sprint(got) != "[stdout:3 stdout:1 stderr:300000]" || fmt.Sprint(asked) != "[/ 2/20 2/20]" || lost != 1 || back != 1 {
		t.Errorf("got %v, asked %v, lost %d times, back %d times, %v", got, asked, lost, back, err)
	}
	asked = nil
	if err := c.Log(t.Context(), "a", LogOptions{}, func(*apitype.LogFrame) error { return nil }); Kind(err) != KindLost {
		t.Errorf("without patience: %v", err)
	}
}
