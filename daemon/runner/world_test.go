package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/sandbox"
	"girderworker/sandbox/cgroup"
	"girderworker/sandbox/image"
	"girderworker/sandbox/image/imagetest"
	"girderworker/transforms"
)

// TestMain makes the test binary play every process that the tests start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case Command:
			os.Exit(Main(os.Args[2:]))
		case TransferCommand:
			os.Exit(TransferMain(os.Args[2:]))
		case NetworkCommand:
			os.Exit(NetworkMain(os.Args[2:]))
		case attackCommand:
			os.Exit(attack())
		case image.UnpackCommand:
			os.Exit(image.Main(os.Args[2:]))
		}
	}
	os.Exit(func() int {
		defer images.remove()
		return m.Run()
	}())
}

// The identity of the tests' submitter, and where the other ids of its
// containers are.
const (
	submitter = 61234
	group     = 61235
	subIDs    = 2_000_000
)

// images is a store with the image that all tests run.
var images imageStore

type imageStore struct {
	once sync.Once
	dir  string
	id   string
	err  error
}

func (s *imageStore) get(t testing.TB) (dir, id string) {
	t.Helper()
	s.once.Do(func() { s.err = s.make() })
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.dir, s.id
}

func (s *imageStore) make() error {
	var err error
	if s.dir, err = os.MkdirTemp("", "runner-test-images-"); err != nil {
		return err
	}
	if err := os.Chmod(s.dir, 0o755); err != nil {
		return err
	}
	store, err := image.Open(s.dir, image.Options{Writable: true})
	if err != nil {
		return err
	}
	busybox, err := imagetest.Busybox()
	if err != nil {
		return err
	}
	archive, err := os.CreateTemp(s.dir, "archive-")
	if err != nil {
		return err
	}
	defer archive.Close()
	if err := imagetest.DockerArchive(archive, busybox); err != nil {
		return err
	}
	got, err := store.Import(context.Background(), archive, image.ImportOptions{Owner: image.Everyone})
	if err != nil {
		return err
	}
	s.id = got[0].ID
	return nil
}

func (s *imageStore) remove() {
	if s.dir != "" {
		os.RemoveAll(s.dir)
	}
}

// world is the state directory of one test with one attempt in it.
type world struct {
	t       testing.TB
	state   string
	files   string // the submitter's
	dir     attempt.Dir
	request *attempt.Request
}

var worlds struct {
	sync.Mutex
	n int
}

func newWorld(t testing.TB, args ...string) *world {
	t.Helper()
	imageDir, imageID := images.get(t)
	state := t.TempDir()
	files := t.TempDir()
	for _, dir := range []string{filepath.Join(state, "jobs"), filepath.Join(state, "work")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// t.TempDir's own parent is closed to others.
	for dir := files; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(files, submitter, group); err != nil {
		t.Fatal(err)
	}
	worlds.Lock()
	worlds.n++
	job := fmt.Sprintf("test-%d-%d", os.Getpid(), worlds.n)
	worlds.Unlock()
	dir, err := attempt.NewDir(state, job, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Create(0); err != nil {
		t.Fatal(err)
	}
	work, err := attempt.WorkDir(state, job, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(work, 0o711); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, state: state, files: files, dir: dir, request: &attempt.Request{
		Version: attempt.Version, Job: job, Attempt: 1,
		Identity:  attempt.Identity{UID: submitter, GID: group, Groups: []int{group}},
		Plan:      transforms.Plan{Image: "busybox", Args: args, StopGrace: 200 * time.Millisecond},
		ImageID:   imageID,
		Resources: attempt.Resources{CPUs: 1, Memory: 256 << 20, PIDs: 100, Shm: 1 << 20, Scratch: 1 << 30, Log: 1 << 20},
		Grant: attempt.Grant{
			UIDMappings: []sandbox.IDMapping{{ContainerID: 0, HostID: submitter, Size: 1}, {ContainerID: 1, HostID: subIDs, Size: 65535}},
			GIDMappings: []sandbox.IDMapping{{ContainerID: 0, HostID: group, Size: 1}, {ContainerID: 1, HostID: subIDs, Size: 65535}},
			Roots:       everywhere,
			WorkDir:     work, ImageDir: imageDir, CacheDir: filepath.Join(imageDir, "cache"),
			Cgroup: "girder-worker-runner-test/" + dir.ID(),
		},
	}}
	t.Cleanup(w.sweep)
	return w
}

// sweep ends and removes what a failed test, or one that kills its runner, left.
func (w *world) sweep() {
	g, err := cgroup.At(w.request.Grant.Cgroup)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		err = errors.Join(g.Kill(ctx), g.Remove())
	}
	if err != nil {
		w.t.Error(err)
	}
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + path.Dir(w.request.Grant.Cgroup))
	for _, root := range roots {
		unix.Rmdir(root) // the last test's succeeds
	}
}

// everywhere lets jobs have any file.
var everywhere = []attempt.Root{{Path: "/", Write: true}}

func sh(script string) []string { return []string{"sh", "-c", script} }

// file makes a file of the submitter's.
func (w *world) file(name string, content []byte) string {
	w.t.Helper()
	p := filepath.Join(w.files, name)
	if err := os.WriteFile(p, content, 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Chown(p, submitter, group); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) stream(kind transforms.StreamKind, name, file string) {
	s := transforms.Stream{Name: name, Kind: kind, File: file}
	if kind != transforms.StreamStdin {
		s.Path = transforms.PipeDirectory + "/" + name
	}
	w.request.Plan.Streams = append(w.request.Plan.Streams, s)
}

// process is a runner under test.
type process struct {
	*exec.Cmd
	stderr bytes.Buffer
}

// start starts the runner as the monitor does without systemd.
func (w *world) start() *process {
	w.t.Helper()
	if err := w.dir.WriteRequest(w.request); err != nil {
		w.t.Fatal(err)
	}
	return w.again()
}

// end waits for the runner and returns the exit, having checked that nothing
// but the attempt's directory is left.
func (w *world) end(p *process) attempt.Exit {
	w.t.Helper()
	if err := p.Wait(); err != nil {
		w.t.Errorf("runner: %v", err)
	}
	if s := p.stderr.String(); s != "" {
		w.t.Logf("runner says:\n%s", s)
	}
	exit, err := w.dir.ReadExit()
	if err != nil {
		w.t.Fatal(err)
	}
	w.nothingLeft()
	if locked, err := w.dir.Locked(); locked || err != nil {
		w.t.Errorf("the lock is held after the end: %v, %v", locked, err)
	}
	events := w.events()
	if len(events) == 0 || events[len(events)-1].Done == nil {
		w.t.Errorf("the last event is not Done: %+v", events)
	}
	return exit
}

func (w *world) nothingLeft() {
	w.t.Helper()
	if _, err := os.Lstat(w.request.Grant.WorkDir); !errors.Is(err, fs.ErrNotExist) {
		w.t.Errorf("the work directory is left: %v", err)
	}
	if g, err := cgroup.At(w.request.Grant.Cgroup); err != nil || g.Exists() {
		w.t.Errorf("the cgroup is left: %v", err)
	}
}

func (w *world) run() attempt.Exit {
	w.t.Helper()
	return w.end(w.start())
}

func (w *world) events() []attempt.Event {
	w.t.Helper()
	r, err := w.dir.Events(0)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	var out []attempt.Event
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, e)
	}
}

func (w *world) notes() string {
	var b strings.Builder
	for _, e := range w.events() {
		if e.Note != "" {
			b.WriteString(e.Note + "\n")
		}
	}
	return b.String()
}

// log is the output as it stands: what came from stderr and markers in brackets.
func (w *world) log() string {
	w.t.Helper()
	r, err := w.dir.Log(0)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	var b strings.Builder
	for {
		rec, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return b.String()
		case err != nil:
			w.t.Fatal(err)
		case rec.Stream == attempt.LogStdout:
			b.Write(rec.Data)
		default:
			fmt.Fprintf(&b, "[%d:%s]", rec.Stream, rec.Data)
		}
	}
}

// waitLog returns when the log contains a text.
func (w *world) waitLog(text string) {
	w.t.Helper()
	w.follow(func() bool { return strings.Contains(w.log(), text) })
}

// follow looks again with every record of the log, and at the attempt's end.
func (w *world) follow(done func() bool) {
	w.t.Helper()
	watcher, err := attempt.NewWatcher()
	if err != nil {
		w.t.Fatal(err)
	}
	defer watcher.Close()
	r, err := w.dir.Log(0)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, err := range r.Follow(ctx, watcher) {
		if err != nil {
			w.t.Fatal(err)
		}
		if done() {
			return
		}
	}
	if !done() {
		w.t.Fatalf("did not happen; the log is %q", w.log())
	}
}

func (w *world) want(got attempt.Exit, outcome attempt.Outcome, code int, text string) {
	w.t.Helper()
	if got.Outcome != outcome || got.Code != code || !strings.Contains(got.Error, text) {
		data, _ := json.MarshalIndent(got, "", "  ")
		w.t.Errorf("exit is %s\nwant %s, code %d, error with %q", data, outcome, code, text)
	}
}

func streamNamed(t testing.TB, exit attempt.Exit, name string) attempt.StreamResult {
	t.Helper()
	for _, s := range exit.Streams {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no result for stream %s in %+v", name, exit.Streams)
	return attempt.StreamResult{}
}

// again starts another runner for the same attempt.
func (w *world) again() *process {
	w.t.Helper()
	p := &process{Cmd: exec.Command("/proc/self/exe", Command, "--directory", w.dir.Path())}
	p.Stderr = &p.stderr
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.Start(); err != nil {
		w.t.Fatal(err)
	}
	return p
}
