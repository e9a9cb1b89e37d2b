package daemon_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
	"girderworker/sandbox/image/imagetest"
)

// These tests run the real binary: both halves of the daemon, runners and
// containers, as root, on directories of their own.

var (
	binary  string // the program, as it is shipped but for the linking
	archive []byte // a docker-archive of busybox
)

func TestMain(m *testing.M) {
	code := testMain(m)
	rabbit.Stop()
	os.Exit(code)
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "girder-worker-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // people run it, too
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binary = filepath.Join(dir, "girder-worker")
	if err := buildProgram(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	busybox, err := imagetest.Busybox()
	if err == nil {
		var b bytes.Buffer
		if err = imagetest.DockerArchive(&b, busybox); err == nil {
			archive = b.Bytes()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// buildProgram builds the program as it is shipped, with that of runners in it,
// which it finds outside the source tree.
func buildProgram(dir string) error {
	program, overlay := filepath.Join(dir, "runner"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace":{"daemon/runner/embedded/program":%q}}`, program), 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"-tags", "seccomp netgo osusergo", "-o", program, "./daemon/runner/program"},
		{"-tags", "seccomp netgo osusergo embedded", "-overlay", overlay, "-o", binary, "."},
	} {
		cmd := exec.Command("go", append([]string{"build"}, args...)...)
		cmd.Dir = ".."
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build the program: %w\n%s", err, out)
		}
	}
	return nil
}

// Ids without an entry in /etc/passwd: the front, who may submit, and a person.
const (
	frontUID  = 64210
	memberGID = 64310
	personUID = 64110
)

// patience is for what has to happen, on however busy a machine.
// It is longer than the minute that a task in doubt waits.
const patience = 2 * time.Minute

// world is one daemon with everything of it below dir.
type world struct {
	t      testing.TB
	dir    string
	config string
	client *client.Client
	tasks  string // where its task files are; empty: in dir

	cmd    *exec.Cmd
	stderr *daemonLog
	exited chan struct{}
	err    error // after exited
}

// newWorld has a running daemon and the image busybox.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	for dir := w.dir; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	w.config = filepath.Join(w.dir, "etc", "worker.cfg")
	if err := os.Mkdir(filepath.Dir(w.config), 0o755); err != nil {
		t.Fatal(err)
	}
	w.configure("slots = 4")
	w.client = client.New(w.socket(), 0)
	t.Cleanup(func() {
		w.stop()
		w.client.Close()
		w.leftovers()
	})
	w.start()
	if _, err := w.client.ImportImage(t.Context(), bytes.NewReader(archive), "", false); err != nil {
		t.Fatalf("cannot import: %v", err)
	}
	return w
}

func (w *world) state() string  { return filepath.Join(w.dir, "state") }
func (w *world) socket() string { return filepath.Join(w.dir, "run", "s") }

// configure writes the configuration with more lines of [girder_worker].
func (w *world) configure(lines ...string) {
	w.t.Helper()
	if !strings.Contains(strings.Join(lines, "\n"), "policy_file") {
		// Not the one of a daemon that this machine may have.
		lines = append([]string{"policy_file = " + filepath.Join(w.dir, "etc", "no-policy.toml")}, lines...)
	}
	lines = append([]string{"tasks_dir = " + w.tasksDir()}, lines...)
	text := fmt.Sprintf(`[girder_worker]
state_dir = %s
runtime_dir = %s
socket = %s
user = %d
group = %d
metrics_address = off
launcher = session
cpus = 64
%s
[limits]
cpus = 0.5
memory = 64MiB
`, w.state(), filepath.Dir(w.socket()), w.socket(), frontUID, memberGID, strings.Join(lines, "\n"))
	// A daemon that runs must not read half of it.
	if err := os.WriteFile(w.config+".part", []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(w.config+".part", w.config); err != nil {
		w.t.Fatal(err)
	}
}

// start starts the daemon and waits until it answers. before is a shell command
// that runs first, in a mount namespace of the daemon's own.
func (w *world) start(before ...string) {
	w.t.Helper()
	w.launch(before...)
	w.eventually("the daemon answers", func() bool {
		select {
		case <-w.exited:
			w.t.Fatalf("the daemon ended: %v\n%s", w.err, w.stderr)
		default:
		}
		_, err := w.client.Version(w.t.Context())
		return err == nil
	})
}

func (w *world) launch(before ...string) {
	w.t.Helper()
	// It would answer for the new one.
	w.eventually("the front of a killed daemon has ended", func() bool { return len(w.fronts()) == 0 })
	w.cmd = exec.Command(binary, "daemon", "--config", w.config)
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if len(before) > 0 {
		w.cmd = exec.Command("sh", "-ec", strings.Join(before, "\n")+"\nexec "+binary+" daemon --config "+w.config)
		w.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Unshareflags: syscall.CLONE_NEWNS}
	}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "GIRDER_WORKER_") {
			w.cmd.Env = append(w.cmd.Env, kv)
		}
	}
	w.stderr = new(daemonLog)
	// A file, not a pipe of ours: runners keep it open when the daemon has ended.
	log, err := os.OpenFile(filepath.Join(w.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		w.t.Fatal(err)
	}
	w.stderr.path, w.stderr.from = log.Name(), info.Size()
	w.cmd.Stdout, w.cmd.Stderr = log, log
	if err := w.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		w.err = cmd.Wait()
		close(exited)
	}(w.cmd, w.exited)
}

// daemonLog reads what one daemon has said.
type daemonLog struct {
	path string
	from int64
}

func (b *daemonLog) String() string {
	data, err := os.ReadFile(b.path)
	if err != nil {
		return err.Error()
	}
	return string(data[min(b.from, int64(len(data))):])
}

// waitExit returns the daemon's exit code; -1 after a signal.
func (w *world) waitExit() int {
	w.t.Helper()
	select {
	case <-w.exited:
	case <-time.After(patience):
		w.t.Fatalf("the daemon does not end\n%s", w.stderr)
	}
	var exit *exec.ExitError
	if errors.As(w.err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

func (w *world) running() bool {
	if w.cmd == nil {
		return false
	}
	select {
	case <-w.exited:
		return false
	default:
		return true
	}
}

// stop ends the daemon in order.
func (w *world) stop() {
	w.t.Helper()
	if w.running() {
		if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			w.t.Fatal(err)
		}
		if code := w.waitExit(); code != 0 {
			w.t.Errorf("exit code %d\n%s", code, w.stderr)
		}
	}
	if w.t.Failed() {
		log, _ := os.ReadFile(filepath.Join(w.dir, "log"))
		w.t.Logf("the daemon said:\n%s", log)
	}
}

// front is the process of the unprivileged half.
func (w *world) front() *os.Process {
	w.t.Helper()
	fronts := w.fronts()
	if len(fronts) == 0 {
		w.t.Fatal("there is no front")
	}
	p, err := os.FindProcess(fronts[0])
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// fronts are those of this world, of which there are two after a kill for a moment.
func (w *world) fronts() (pids []int) {
	for _, pid := range w.processes() {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t", frontUID)) && strings.Contains(string(line), "--config="+w.config) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// processes are all that run the program or its containers.
func (w *world) processes() (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil {
			continue // gone, or the kernel's
		}
		cgroups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if strings.HasPrefix(strings.TrimPrefix(exe, "/memfd:"), binary) || w.cgroup() != "" && strings.Contains(string(cgroups), w.cgroup()+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// cgroup is the one that all of this daemon's are in.
func (w *world) cgroup() string {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/unified/girder-worker-*")
	if len(dirs) == 0 {
		dirs, _ = filepath.Glob("/sys/fs/cgroup/girder-worker-*")
	}
	for _, dir := range dirs {
		if name := filepath.Base(dir); name == w.cgroupName() {
			return "/" + name
		}
	}
	return ""
}

// leftovers fails the test for anything that is left of a daemon that has ended.
func (w *world) leftovers() {
	w.t.Helper()
	var left []int
	deadline := time.Now().Add(patience)
	for left = w.processes(); len(left) > 0 && time.Now().Before(deadline); left = w.processes() {
		time.Sleep(10 * time.Millisecond) // a runner that has recorded its exit is just ending
	}
	for _, pid := range left {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		w.t.Errorf("process %d is left: %q", pid, line)
	}
	if entries, err := os.ReadDir(filepath.Join(w.state(), "work")); err != nil || len(entries) > 0 {
		w.t.Errorf("work directories left: %v, %v", entries, err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || bytes.Contains(mounts, []byte(w.dir)) {
		w.t.Errorf("mounts left: %v\n%s", err, mounts)
	}
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		if dirs, _ := filepath.Glob(filepath.Join(pattern, w.cgroupName())); len(dirs) > 0 {
			w.t.Errorf("cgroups left: %v", dirs)
		}
	}
	if _, err := os.Lstat(w.socket()); !errors.Is(err, os.ErrNotExist) {
		w.t.Errorf("the socket is left: %v", err)
	}
}

// cgroupName is what the monitor makes of the state directory.
func (w *world) cgroupName() string {
	return fmt.Sprintf("girder-worker-%x", sha256.Sum256([]byte(w.state())))[:len("girder-worker-")+8]
}

func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("never: %s\n%s", what, w.stderr)
		}
	}
}

// document is a job that runs a shell script, with more fields.
func document(script string, fields ...any) []byte {
	doc := map[string]any{"image": "busybox", "args": []string{"sh", "-c", script}}
	for i := 0; i < len(fields); i += 2 {
		doc[fields[i].(string)] = fields[i+1]
	}
	data, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return data
}

func (w *world) submit(script string, fields ...any) apitype.Job {
	w.t.Helper()
	job, err := w.client.Submit(w.t.Context(), document(script, fields...))
	if err != nil {
		w.t.Fatalf("cannot submit: %v", err)
	}
	return job
}

// submitAsPerson submits a document as somebody who is not root, and returns the id.
func (w *world) submitAsPerson(document []byte) string {
	w.t.Helper()
	cmd := exec.Command(binary, "--socket", w.socket(), "submit", "--file", "-")
	cmd.Stdin, cmd.Dir, cmd.Env = bytes.NewReader(document), "/", []string{"HOME=/nonexistent"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: personUID, Gid: personUID, Groups: []uint32{memberGID}}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func (w *world) job(id string) apitype.Job {
	w.t.Helper()
	job, err := w.client.Job(w.t.Context(), id)
	if err != nil {
		w.t.Fatalf("cannot see job %s: %v", id, err)
	}
	return job
}

// wait returns the job when it is final.
func (w *world) wait(id string) apitype.Job {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	job, err := w.client.Wait(ctx, id, client.Patience{For: patience})
	if err != nil {
		w.t.Fatalf("job %s does not end: %v; it is %s %s\n%s", id, err, job.State, job.Reason, w.stderr)
	}
	return job
}

// log is what the job has written so far, to both.
func (w *world) log(id string) string {
	w.t.Helper()
	var b strings.Builder
	err := w.client.Log(w.t.Context(), id, client.LogOptions{}, func(f *apitype.LogFrame) error {
		b.Write(f.Output())
		return nil
	})
	if err != nil {
		w.t.Fatalf("no log of job %s: %v", id, err)
	}
	return b.String()
}

// printed waits until the job has written text.
func (w *world) printed(id, text string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("job %s prints %q", id, text), func() bool {
		job := w.job(id)
		if job.ExitCode != nil && !strings.Contains(w.log(id), text) {
			w.t.Fatalf("job %s ended without: %+v\n%s", id, job, w.log(id))
		}
		return job.Attempt > 0 && strings.Contains(w.log(id), text)
	})
}

// runner is the process of a job's attempt.
func (w *world) runner(id string, attempt int) *os.Process {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.state(), "jobs", id, strconv.Itoa(attempt), "lock"))
	if err != nil {
		w.t.Fatal(err)
	}
	var record struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(data, &record); err != nil || record.PID == 0 {
		w.t.Fatalf("record %q: %v", data, err)
	}
	p, err := os.FindProcess(record.PID)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}
