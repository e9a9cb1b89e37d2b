package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
)

// TestInterruptedSubmission: a job that the daemon had when run was interrupted, and of
// which nobody had heard yet, is canceled.
func TestInterruptedSubmission(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	canceled := make(chan struct{})
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	a := &app{Process: Process{Stdout: io.Discard, Stderr: io.Discard}, socket: socket}
	_ = a.runJob(ctx, "a job", map[string]any{"image": "busybox"})
	select {
	case <-canceled:
	default:
		t.Error("the job was not canceled")
	}
}
