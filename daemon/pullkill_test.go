package daemon_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"girderworker/sandbox/image/registry/registrytest"
)

// TestPullSurvivesKills kills the front and the monitor while an image comes in: when
// its manifest is asked for, when a layer is, and in the middle of one. The store
// stays whole, what was in it runs, and the job that waited for the pull gets its
// image from the next daemon.
func TestPullSurvivesKills(t *testing.T) {
	for _, point := range []string{"manifest", "layer", "middle"} {
		for _, victim := range []string{"front", "monitor"} {
			t.Run(point+", "+victim, func(t *testing.T) {
				s := registrytest.New(t, false)
				w := newWorld(t)
				push(t, s, "one")
				reached, release := make(chan struct{}), make(chan struct{})
				var once atomic.Bool
				wait := func(r *http.Request) {
					if once.CompareAndSwap(false, true) {
						close(reached)
						select {
						case <-release:
						case <-r.Context().Done():
						}
					}
				}
				s.Fault(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
					switch {
					case point == "manifest" && strings.Contains(r.URL.Path, "/manifests/"), point == "layer" && strings.Contains(r.URL.Path, "/blobs/"):
						wait(r)
					case point == "middle" && strings.Contains(r.URL.Path, "/blobs/"):
						next.ServeHTTP(&halfway{ResponseWriter: rw, half: func() { wait(r) }}, r)
						return
					}
					next.ServeHTTP(rw, r)
				})
				job := w.submit("cat /version", "image", s.Host+"/lab/echo:1", "pull", "missing")
				<-reached
				kill := w.cmd.Process
				if victim == "front" {
					kill = w.front()
				}
				if err := kill.Kill(); err != nil {
					t.Fatal(err)
				}
				w.waitExit()
				close(release)
				w.start()
				if job := w.wait(job.ID); job.State != "succeeded" || w.log(job.ID) != "one" {
					t.Errorf("the job that waited: %+v", job)
				}
				if old := w.wait(w.submit("echo whole").ID); old.State != "succeeded" {
					t.Errorf("an image that was there before: %+v", old)
				}
				if left, err := os.ReadDir(filepath.Join(w.state(), "images", "staging")); err != nil || len(left) > 0 {
					t.Errorf("left in the store: %v, %v", left, err)
				}
			})
		}
	}
}

// halfway is an answer that stops after its first bytes.
type halfway struct {
	http.ResponseWriter
	half func()
	sent bool
}

func (h *halfway) Write(b []byte) (int, error) {
	if h.sent || len(b) < 2 {
		return h.ResponseWriter.Write(b)
	}
	h.sent = true
	n, err := h.ResponseWriter.Write(b[:len(b)/2])
	if err != nil {
		return n, err
	}
	if err := http.NewResponseController(h.ResponseWriter).Flush(); err != nil {
		return n, err
	}
	h.half()
	more, err := h.ResponseWriter.Write(b[len(b)/2:])
	return n + more, err
}
