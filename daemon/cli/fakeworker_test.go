package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"girderworker/daemon/api"
	"girderworker/daemon/apitype"
	"girderworker/daemon/attempt"
	"girderworker/daemon/plugin"
	"girderworker/queue"
	"girderworker/transforms"
)

// A fakeWorker is the real API over a real queue, whose jobs do in this process
// what their arguments say, one after the other:
//
//	out:TEXT  err:TEXT   write a line
//	progress:TEXT        tell a progress
//	exit:CODE            end
//	hang                 wait until canceled
//	stay                 wait until the worker ends, canceled or not
//
// Its only image is busybox; its tasks are the story's tasks.d, as it starts.
type fakeWorker struct {
	dir, socket string
	queue       *queue.Store
	ctx         context.Context
	jobs        sync.WaitGroup

	server *api.Server
	served chan error

	mu       sync.Mutex
	paused   apitype.Pause
	cancels  map[string]context.CancelFunc
	progress map[string]*apitype.Progress
}

type workerKey struct{}

func workerOf(ts *testscript.TestScript) *fakeWorker {
	w, ok := ts.Value(workerKey{}).(*fakeWorker)
	if !ok || w.queue == nil {
		ts.Fatalf("the story has no worker")
	}
	return w
}

func startFakeWorker(ts *testscript.TestScript) {
	w, _ := ts.Value(workerKey{}).(*fakeWorker)
	ctx, cancel := context.WithCancel(context.Background())
	w.dir, w.socket, w.ctx = ts.MkAbs("state"), ts.Getenv("GIRDER_WORKER_SOCKET"), ctx
	w.cancels, w.progress = map[string]context.CancelFunc{}, map[string]*apitype.Progress{}
	var err error
	w.queue, err = queue.Open(queue.Options{Dir: filepath.Join(w.dir, "queue")})
	ts.Check(err)
	w.jobs.Go(w.dispatch)
	w.serve(ts)
	ts.Defer(func() {
		w.stop(ts)
		cancel()
		w.jobs.Wait()
		ts.Check(w.queue.Close())
	})
}

func (w *fakeWorker) serve(ts *testscript.TestScript) {
	tasks := new(plugin.Registry)
	found, problems := plugin.ReadDir(ts.MkAbs("tasks.d"), os.Geteuid())
	tasks.Set("files", found, problems)
	w.server = api.New(api.Config{
		Tasks: tasks,
		Queue: w.queue, Control: w, Images: w, Live: w, StateDir: w.dir,
		RunAs: func(p api.Peer) (queue.Identity, error) {
			return queue.Identity{UID: 1000, GID: 1000, User: "tester"}, nil
		},
		Version: apitype.Version{Version: "1.2.4", API: 1},
		Settings: api.Settings{
			Defaults: transforms.Defaults{Resources: transforms.Resources{CPUs: 1, Memory: 1 << 30, PIDs: 100, Shm: 64 << 20, Scratch: 1 << 30, Log: 1 << 20}, Timeout: time.Hour, RetryDelay: time.Second},
			Machine:  transforms.Resources{CPUs: 4, Memory: 8 << 30},
		},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	l, err := net.Listen("unix", w.socket)
	ts.Check(err)
	served := make(chan error, 1)
	w.served = served
	go func() { served <- w.server.Serve(l) }()
}

func (w *fakeWorker) stop(ts *testscript.TestScript) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ts.Check(w.server.Shutdown(ctx))
	ts.Check(<-w.served)
}

func (w *fakeWorker) restart(ts *testscript.TestScript) {
	w.stop(ts)
	w.serve(ts)
}

// until waits for a state of a job that this user named, or for "canceling"; one that it can no longer reach fails.
func (w *fakeWorker) until(ts *testscript.TestScript, state, name string) {
	id := fmt.Sprintf("%s.%d", name, os.Getuid())
	ctx, cancel := context.WithTimeout(w.ctx, 20*time.Second)
	defer cancel()
	for {
		changes, stop := context.WithCancel(ctx)
		notices := w.queue.Subscribe(changes, id)
		for open := true; open; _, open = <-notices {
			j, err := w.queue.Job(id)
			if err == nil && (string(j.State) == state || state == "canceling" && j.CancelRequested) {
				stop()
				return
			}
			if err != nil && !errors.Is(err, queue.ErrNotFound) || ctx.Err() != nil || j.State.Final() {
				stop()
				ts.Fatalf("job %s does not become %s: it is %q, %v", id, state, j.State, err)
			}
		}
		stop()
	}
}

func (w *fakeWorker) Capacity() queue.Capacity {
	return queue.Capacity{Slots: 1, CPUs: 4, Memory: 8 << 30}
}

func (w *fakeWorker) dispatch() {
	for {
		var jobs []queue.Job
		var err error
		if paused, _ := w.Paused(); !paused {
			jobs, err = w.queue.Claim(w.ctx, w.Capacity(), "boot", 1)
		}
		if err != nil {
			return
		}
		for _, j := range jobs {
			w.jobs.Go(func() { w.run(j) })
		}
		if len(jobs) > 0 {
			continue
		}
		select {
		case <-w.ctx.Done():
			return
		case <-w.queue.Wake():
		}
	}
}

func (w *fakeWorker) run(j queue.Job) {
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	w.mu.Lock()
	w.cancels[j.ID] = cancel
	w.mu.Unlock()
	result := queue.Result{Outcome: string(attempt.OutcomeError), Code: attempt.CodeError}
	if err := w.act(ctx, j, &result); err != nil {
		result.Error = err.Error()
	}
	if w.ctx.Err() == nil {
		_, _ = w.queue.Finish(w.ctx, j.ID, j.Attempt, &result, "", time.Now())
	}
}

func (w *fakeWorker) act(ctx context.Context, j queue.Job, result *queue.Result) error {
	f, err := transforms.ParseJobFile(j.Body)
	if err != nil {
		return err
	}
	dir, err := attempt.NewDir(w.dir, j.ID, j.Attempt)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir.Path(), 0o755); err != nil {
		return err
	}
	log := dir.NewLogWriter(1<<20, os.Getgid())
	if err := w.queue.Started(ctx, j.ID, j.Attempt, time.Now()); err != nil {
		return err
	}
	result.Outcome, result.Code = string(attempt.OutcomeExited), 0
	for _, arg := range f.Args {
		verb, text, _ := strings.Cut(arg, ":")
		switch verb {
		case "out":
			log.Append(attempt.LogStdout, time.Now(), []byte(text+"\n"))
			log.Flush()
		case "err":
			log.Append(attempt.LogStderr, time.Now(), []byte(text+"\n"))
			log.Flush()
		case "progress":
			w.mu.Lock()
			w.progress[j.ID] = &apitype.Progress{Total: 4, Current: 1, Message: text}
			w.mu.Unlock()
		case "exit":
			result.Code, err = strconv.Atoi(text)
			return err
		case "stay":
			<-w.ctx.Done()
			return nil
		case "hang":
			<-ctx.Done()
			result.Outcome, result.Code = string(attempt.OutcomeCanceled), attempt.CodeCanceled
			return nil
		}
	}
	return nil
}

func (w *fakeWorker) CancelAttempt(_ context.Context, j queue.Job) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if cancel := w.cancels[j.ID]; cancel != nil {
		cancel()
	}
	return nil
}

func (w *fakeWorker) RemoveJob(context.Context, string) error { return nil }

func (w *fakeWorker) Live(id string, _ int) (string, *apitype.Progress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return "", w.progress[id]
}

func (w *fakeWorker) Paused() (paused, draining bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.paused.Paused, w.paused.Draining
}

func (w *fakeWorker) Pause(_ context.Context, drain bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused = apitype.Pause{Paused: true, Draining: drain}
	return nil
}

func (w *fakeWorker) Resume(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused = apitype.Pause{}
	return nil
}

func (w *fakeWorker) Status(context.Context) (apitype.Status, error) {
	st := apitype.Status{Version: "1.2.4", PID: 42, StateDir: "/state", Jobs: map[string]int{}, Capacity: map[string]float64{"slots": 1}}
	st.Paused, st.Draining = w.Paused()
	for state, n := range w.queue.Counts() {
		st.Jobs[string(state)] = n
	}
	return st, nil
}

func (w *fakeWorker) Import(_ context.Context, archive io.Reader, name string, owner int) ([]apitype.Image, error) {
	n, err := io.Copy(io.Discard, archive)
	if err != nil {
		return nil, err
	}
	if n < 100 {
		return nil, fmt.Errorf("%w: an archive of %d bytes", api.ErrBadImage, n)
	}
	return []apitype.Image{{ID: busyboxID, Names: []string{name}, Owner: owner, Size: n}}, nil
}

const busyboxID = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func (w *fakeWorker) List(int) ([]apitype.Image, error) {
	return []apitype.Image{{ID: busyboxID, Names: []string{"busybox:latest"}, Owner: -1, Size: 4 << 20, Added: time.Now(), Arch: "amd64"}}, nil
}

func (w *fakeWorker) Resolve(ref string, _ int) (apitype.Image, error) {
	if ref != busyboxID && strings.TrimSuffix(ref, ":latest") != "busybox" {
		return apitype.Image{}, fmt.Errorf("%w: %q", api.ErrNoImage, ref)
	}
	return apitype.Image{ID: busyboxID}, nil
}

func (w *fakeWorker) Remove(_ context.Context, ref string, _ int) error {
	_, err := w.Resolve(ref, 0)
	return err
}

func (w *fakeWorker) Prune(context.Context) (apitype.Pruned, error) {
	return apitype.Pruned{Images: []string{busyboxID}, Layers: 2, Bytes: 3 << 20}, nil
}

func (w *fakeWorker) Pin(_ context.Context, ref string, _ int, _ bool) error {
	_, err := w.Resolve(ref, 0)
	return err
}

func (w *fakeWorker) Pull(_ context.Context, _ *api.Peer, ref string, owner int, always bool, tell func(apitype.Progress)) (apitype.Image, string, error) {
	tell(apitype.Progress{Message: "pulling " + ref})
	tell(apitype.Progress{Total: 4 << 20, Current: 1 << 20, Message: "pulling " + ref + ": layer 1 of 1"})
	img, err := w.Resolve(ref, owner)
	if err != nil {
		return img, "", fmt.Errorf("cannot pull %s: %w: the registry has no such image", ref, api.ErrPull)
	}
	if !always {
		return img, "the image is here", nil
	}
	return img, "", nil
}

func (w *fakeWorker) Hold() (release func()) { return func() {} }

func (w *fakeWorker) Verify(_ context.Context, ref string, _ int) error {
	_, err := w.Resolve(ref, 0)
	return err
}
