package crashtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"girderworker/daemon/apitype"
)

// Ids that need no entry in /etc/passwd: whom the front runs as, the group
// that may submit, and the first of the clients.
const (
	serviceUID = 64200
	memberGID  = 64300
	clientUID  = 64100
)

// place is one daemon's world: everything of it lies below dir.
type place struct {
	t       *testing.T
	dir     string
	binary  string
	log     *os.File
	process *exec.Cmd
	exited  chan struct{} // closed when process ended
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{t: t, dir: t.TempDir()}
	// t.TempDir is 0700 below a 0755: clients and containers go through it.
	for _, dir := range []string{p.dir, filepath.Dir(p.dir)} {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{p.runtime(), p.records()} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(p.records(), 0o777); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.log, err = os.Create(filepath.Join(p.dir, "daemon.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(p.log.Name())
			t.Logf("the end of what the daemon said:\n%s", text[max(0, len(text)-8000):])
		}
	})
	p.binary = filepath.Join(p.dir, "girder-worker")
	// As it is shipped: with the program of runners in it.
	runner, overlay := filepath.Join(p.dir, "runner"), filepath.Join(p.dir, "overlay.json")
	place, err := filepath.Abs("../runner/embedded/program")
	if err == nil {
		err = os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace":{%q:%q}}`, place, runner), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	build(t, runner, "girderworker/daemon/runner/program", "-tags", "seccomp netgo osusergo", "-ldflags", "-s -w -extldflags -static")
	build(t, p.binary, "girderworker", "-tags", "seccomp netgo osusergo embedded", "-overlay", overlay, "-ldflags", "-s -w -extldflags -static")
	return p
}

// build builds a package as a static binary.
func build(t *testing.T, output, pkg string, args ...string) {
	t.Helper()
	cmd := exec.Command("go", append(append([]string{"build", "-o", output}, args...), pkg)...)
	if len(args) == 0 {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cannot build %s: %v\n%s", pkg, err, out)
	}
}

func (p *place) state() string   { return filepath.Join(p.dir, "state") }
func (p *place) runtime() string { return filepath.Join(p.dir, "run") }
func (p *place) records() string { return filepath.Join(p.dir, "records") }
func (p *place) socket() string  { return filepath.Join(p.runtime(), "girder-worker.sock") }

// start starts the daemon without waiting for it.
func (p *place) start() {
	p.t.Helper()
	p.process = exec.Command(p.binary, "daemon", "--state-dir", p.state(), "--runtime-dir", p.runtime(), "--slots", "4")
	p.process.Env = append(os.Environ(),
		"GIRDER_WORKER_USER="+strconv.Itoa(serviceUID), "GIRDER_WORKER_GROUP="+strconv.Itoa(memberGID),
		"GIRDER_WORKER_METRICS_ADDRESS=off", "GIRDER_WORKER_CPUS=64",
		"GIRDER_WORKER_LIMITS_CPUS=0.5", "GIRDER_WORKER_LIMITS_MEMORY=64MiB")
	p.process.Stdout, p.process.Stderr = p.log, p.log
	p.process.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.process.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.exited = make(chan struct{})
	go func(process *exec.Cmd, exited chan struct{}) {
		process.Wait()
		close(exited)
	}(p.process, p.exited)
}

// front finds the daemon's unprivileged half: the monitor's child under serviceUID.
func (p *place) front() (pid int, ok bool) {
	// Whichever thread of the monitor it was that forked.
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.process.Process.Pid))
	var children []string
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		children = append(children, strings.Fields(string(text))...)
	}
	for _, child := range children {
		status, err := os.ReadFile("/proc/" + child + "/status")
		if err == nil && bytes.Contains(status, []byte(fmt.Sprintf("\nUid:\t%d\t", serviceUID))) {
			pid, err := strconv.Atoi(child)
			return pid, err == nil
		}
	}
	return 0, false
}

// owns tells whether a directory of /proc is of a process of the daemon's: the
// binary, or what it has in memory.
func (p *place) owns(dir string) bool {
	exe, err := os.Readlink(dir + "/exe")
	return err == nil && strings.HasPrefix(strings.TrimPrefix(exe, "/memfd:"), p.dir)
}

// waitReady returns when the API answers.
func (p *place) waitReady(ctx context.Context, c *caller) error {
	for {
		var version apitype.Version
		err := c.call(ctx, http.MethodGet, "/v1/version", nil, &version)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("the daemon ended: %v", p.process.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("the daemon does not answer: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// caller speaks HTTP to the socket as one user.
type caller struct{ http *http.Client }

func (p *place) caller(uid int) *caller {
	return &caller{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dialAs(uid, p.socket()) },
	}}}
}

// dialAs connects as another user: what the kernel tells the daemon about its
// peer is the credentials of the thread that connects.
func dialAs(uid int, socket string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		// Never unlocked: the thread, which cannot become root again, ends with
		// the goroutine.
		runtime.LockOSThread()
		conn, err := func() (net.Conn, error) {
			// The raw calls change this thread only.
			group := uint32(memberGID)
			if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&group)), 0); e != 0 {
				return nil, e
			}
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
				return nil, e
			}
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
				return nil, e
			}
			return net.Dial("unix", socket)
		}()
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// apiError is an answer that is not 2xx.
type apiError struct {
	status int
	told   apitype.Error
}

func (e *apiError) Error() string {
	return fmt.Sprintf("%d %s: %s", e.status, e.told.Kind, e.told.Message)
}

func (c *caller) call(ctx context.Context, method, path string, body, answer any) error {
	var in io.Reader
	switch body := body.(type) {
	case nil:
	case io.Reader:
		in = body
	default:
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://girder-worker"+path, in)
	if err != nil {
		return err
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		var f apitype.Failure
		json.Unmarshal(text, &f)
		return &apiError{response.StatusCode, f.Error}
	}
	return json.Unmarshal(text, answer)
}
