package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"girderworker/daemon/apitype"
	"girderworker/queue"
	"girderworker/transforms"
)

// The people of the tests. Nobody needs an entry in /etc/passwd.
const (
	adminGroup = 64900
	alice      = 64901
	bob        = 64902
	operator   = 64903 // has adminGroup as a supplementary group
)

// A worker is the server over a real queue and a real socket, with a daemon and
// an image store that only record what they are asked.
type worker struct {
	t      testing.TB
	server *Server
	queue  *queue.Store
	state  string
	socket string
	served chan error

	mu        sync.Mutex
	canceled  []string // CancelAttempt
	removed   []string // RemoveJob
	isPaused  bool
	draining  bool
	progress  map[string]*apitype.Progress
	imports   func(ctx context.Context, archive io.Reader) ([]apitype.Image, error)
	own       func(ref string, owner int) error // Remove and Verify, where set
	panicking bool
}

var (
	_ Control = (*worker)(nil)
	_ Images  = (*worker)(nil)
	_ Live    = (*worker)(nil)
)

func (w *worker) Capacity() queue.Capacity {
	return queue.Capacity{Slots: 2, CPUs: 4, Memory: 8 << 30, GPUs: 1}
}

func (w *worker) Paused() (paused, draining bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.isPaused, w.draining
}

func (w *worker) setPause(paused, draining bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isPaused, w.draining = paused, draining
	return nil
}

func (w *worker) Pause(_ context.Context, drain bool) error { return w.setPause(true, drain) }
func (w *worker) Resume(context.Context) error              { return w.setPause(false, false) }

func (w *worker) Status(context.Context) (apitype.Status, error) {
	if w.panicking {
		panic("a defect")
	}
	return apitype.Status{Version: "test", PID: os.Getpid()}, nil
}

func (w *worker) CancelAttempt(_ context.Context, job queue.Job) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.canceled = append(w.canceled, job.ID)
	return nil
}

func (w *worker) RemoveJob(_ context.Context, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.removed = append(w.removed, id)
	return nil
}

func (w *worker) Import(ctx context.Context, archive io.Reader, name string, owner int) ([]apitype.Image, error) {
	if w.imports != nil {
		return w.imports(ctx, archive)
	}
	n, err := io.Copy(io.Discard, archive)
	return []apitype.Image{{Names: []string{name}, Owner: owner, Size: n}}, err
}

func (w *worker) List(uid int) ([]apitype.Image, error) {
	return []apitype.Image{{Names: []string{"busybox:latest"}, Owner: uid}}, nil
}

func (w *worker) Resolve(ref string, _ int) (apitype.Image, error) {
	if ref != "busybox" {
		return apitype.Image{}, fmt.Errorf("%w: %q", ErrNoImage, ref)
	}
	return apitype.Image{ID: "sha256:" + strings.Repeat("0", 64), Names: []string{"busybox:latest"}}, nil
}

func (w *worker) Remove(_ context.Context, ref string, owner int) error {
	if w.own != nil {
		return w.own(ref, owner)
	}
	_, err := w.Resolve(ref, 0)
	return err
}

func (w *worker) Prune(context.Context) (apitype.Pruned, error) { return apitype.Pruned{}, nil }

func (w *worker) Verify(_ context.Context, ref string, uid int) error {
	if w.own != nil {
		return w.own(ref, uid)
	}
	_, err := w.Resolve(ref, 0)
	return err
}

func (w *worker) Pin(_ context.Context, ref string, owner int, _ bool) error {
	return w.Remove(context.Background(), ref, owner)
}

func (w *worker) Pull(_ context.Context, _ *Peer, ref string, owner int, always bool, tell func(apitype.Progress)) (apitype.Image, string, error) {
	tell(apitype.Progress{Total: 2, Current: 1, Message: "pulling " + ref})
	img, err := w.Resolve(ref, owner)
	img.Owner = owner
	if !always {
		return img, "the image is here", err
	}
	return img, "", err
}

func (w *worker) Hold() (release func()) { return func() {} }

func (w *worker) Live(id string, _ int) (string, *apitype.Progress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return "", w.progress[id]
}

func (w *worker) setProgress(id string, p *apitype.Progress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress[id] = p
}

// newWorker starts a server; change may alter its configuration, and what it
// returns the server itself before it listens.
func newWorker(t testing.TB, change func(*Config, *queue.Options), prepare ...func(*Server)) *worker {
	t.Helper()
	// Others than root must reach the socket, which t.TempDir does not let them.
	state, err := os.MkdirTemp("", "girder-worker-api-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	if err := os.Chmod(state, 0o755); err != nil {
		t.Fatal(err)
	}
	w := &worker{
		t: t, state: state, socket: filepath.Join(state, "sock"), served: make(chan error, 1),
		progress: map[string]*apitype.Progress{},
	}
	logger := slog.New(slog.NewTextHandler(testOutput{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	c := Config{
		Control: w, Images: w, Live: w, StateDir: state,
		RunAs: func(p Peer) (queue.Identity, error) {
			if p.UID == 0 {
				p.UID, p.GID, p.Groups = 64999, 64999, nil
			}
			return queue.Identity{UID: p.UID, GID: p.GID, Groups: p.Groups, User: p.User}, nil
		},
		Version: apitype.Version{Version: "test", API: 1},
		Settings: Settings{
			AdminGroups: []int{adminGroup},
			Defaults:    transforms.Defaults{Resources: transforms.Resources{CPUs: 1, Memory: 1 << 30, PIDs: 100, Shm: 64 << 20, Scratch: 1 << 30, Log: 1 << 20}, Timeout: time.Hour, RetryDelay: time.Second},
			Machine:     transforms.Resources{CPUs: 4, Memory: 8 << 30, GPUs: 1, Scratch: 100 << 30},
		},
		Logger: logger,
	}
	o := queue.Options{Dir: filepath.Join(state, "queue"), Logger: logger}
	if change != nil {
		change(&c, &o)
	}
	if w.queue, err = queue.Open(o); err != nil {
		t.Fatal(err)
	}
	c.Queue = w.queue
	t.Cleanup(func() {
		if err := w.queue.Close(); err != nil {
			t.Error(err)
		}
	})
	w.server = New(c)
	for _, p := range prepare {
		p(w.server)
	}
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(w.socket, 0o777); err != nil {
		t.Fatal(err)
	}
	go func() { w.served <- w.server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := w.server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-w.served; err != nil {
			t.Error(err)
		}
	})
	return w
}

type testOutput struct{ t testing.TB }

func (o testOutput) Write(b []byte) (int, error) {
	o.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// A person is a client whose connections the kernel attributes to uid.
type person struct {
	w    *worker
	uid  int
	http http.Client
}

func (w *worker) person(uid int, groups ...int) *person {
	w.t.Helper()
	p := &person{w: w, uid: uid}
	transport := &http.Transport{
		MaxIdleConnsPerHost: 64,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return dialAs(w.socket, uid, groups)
		},
	}
	p.http.Transport = transport
	w.t.Cleanup(transport.CloseIdleConnections)
	return p
}

// dialAs connects from a thread that has taken another identity and ends with
// its goroutine: the kernel notes who connects at connect(2), by thread.
func dialAs(socket string, uid int, groups []int) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is not used again
		conn, err := func() (net.Conn, error) {
			if uid != 0 {
				if err := becomeThread(uid, groups); err != nil {
					return nil, err
				}
			}
			return net.Dial("unix", socket)
		}()
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

func becomeThread(uid int, groups []int) error {
	raw := make([]uint32, len(groups)+1)
	for i, g := range groups {
		raw[i] = uint32(g)
	}
	for _, call := range []struct {
		name       string
		nr         uintptr
		a1, a2, a3 uintptr
	}{
		{"setgroups", unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&raw[0])), 0},
		{"setresgid", unix.SYS_SETRESGID, uintptr(uid), uintptr(uid), uintptr(uid)},
		{"setresuid", unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
	} {
		if _, _, errno := unix.RawSyscall(call.nr, call.a1, call.a2, call.a3); errno != 0 {
			return os.NewSyscallError(call.name, errno)
		}
	}
	runtime.KeepAlive(raw)
	return nil
}

// do sends a request and returns the status and the body.
func (p *person) do(method, path, body string) (int, []byte) {
	p.w.t.Helper()
	answer := p.open(context.Background(), method, path, strings.NewReader(body), "")
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		p.w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer.StatusCode, b
}

func (p *person) open(ctx context.Context, method, path string, body io.Reader, accept string) *http.Response {
	p.w.t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, "http://girder-worker"+path, body)
	if err != nil {
		p.w.t.Fatal(err)
	}
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	answer, err := p.http.Do(r)
	if err != nil {
		p.w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer
}

// submit returns the job that a document became.
func (p *person) submit(document string) apitype.Job {
	p.w.t.Helper()
	code, body := p.do("POST", "/v1/jobs", document)
	if code != http.StatusCreated {
		p.w.t.Fatalf("submit %s: %d %s", document, code, body)
	}
	return decodeAs[apitype.Job](p.w.t, body)
}

// refused is what a refusal said.
func (p *person) refused(method, path, body string, wantStatus int) apitype.Error {
	p.w.t.Helper()
	code, answer := p.do(method, path, body)
	if code != wantStatus {
		p.w.t.Fatalf("%s %s: got %d %s, want %d", method, path, code, answer, wantStatus)
	}
	return decodeAs[apitype.Failure](p.w.t, answer).Error
}

func decodeAs[T any](t testing.TB, body []byte) (v T) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("cannot decode %s: %v", body, err)
	}
	return v
}

// claim starts the attempt of the only job that can start.
func (w *worker) claim() queue.Job {
	w.t.Helper()
	jobs, err := w.queue.Claim(w.t.Context(), w.Capacity(), "boot", 1)
	if err != nil || len(jobs) != 1 {
		w.t.Fatalf("claimed %v, %v", jobs, err)
	}
	return jobs[0]
}

// finish ends the current attempt with a code.
func (w *worker) finish(j queue.Job, code int) queue.Job {
	w.t.Helper()
	err := w.queue.Started(w.t.Context(), j.ID, j.Attempt, time.Now())
	var transition *queue.TransitionError
	if err != nil && !errors.As(err, &transition) { // it may have been started before
		w.t.Fatal(err)
	}
	j, err = w.queue.Finish(w.t.Context(), j.ID, j.Attempt, &queue.Result{Outcome: "exited", Code: code}, "", time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}
