package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// listening is the socket of a daemon that answers as handle does.
func listening(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: handle}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return socket
}

// TestInterruptedSubmission: a job that the daemon had when run was interrupted, and of
// which nobody had heard yet, is canceled.
func TestInterruptedSubmission(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	canceled := make(chan struct{})
	socket := listening(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.Method + " " + r.URL.Path {
		case "POST /v1/jobs":
			interrupt()
			select {
			case <-r.Context().Done(): // the answer is not waited for
				return
			default:
			}
			fmt.Fprint(w, `{"id":"x.0","state":"queued"}`)
		case "POST /v1/jobs/x.0/cancel":
			close(canceled)
			fmt.Fprint(w, `{"id":"x.0","state":"canceled"}`)
		default:
			<-canceled
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"error":{"kind":"not-found","message":"no such job"}}`)
		}
	})
	a := &app{Process: Process{Stdout: io.Discard, Stderr: io.Discard}, socket: socket}
	_ = a.runJob(ctx, "a job", map[string]any{"image": "busybox"})
	select {
	case <-canceled:
	default:
		t.Error("the job was not canceled")
	}
}

// TestUnansweredSubmission: who gives up a submission is told what may have become of it.
func TestUnansweredSubmission(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	socket := listening(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		interrupt()
		<-r.Context().Done()
	})
	var said strings.Builder
	a := &app{Process: Process{Stdout: io.Discard, Stderr: &said}, socket: socket}
	err := a.runJob(ctx, "a job", map[string]any{"image": "busybox", "id": "mine"})
	if !errors.Is(err, context.Canceled) || !strings.Contains(said.String(), "may have job mine all the same") {
		t.Errorf("%v, said %q", err, said.String())
	}
}
