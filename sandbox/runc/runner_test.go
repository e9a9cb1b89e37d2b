//go:build linux && cgo && seccomp

package runc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

func TestExitCodes(t *testing.T) {
	r := testRunner(t)
	for _, test := range []struct {
		script string
		code   int
	}{
		{"exit 0", 0},
		{"exit 7", 7},
		{"exit 255", 255},
		{"sh -c 'kill -9 $$'; exit $?", 137},
		{"nosuchcommand", 127},
	} {
		got := run(t, r, testSpec(t, "sh", "-c", test.script))
		if got.Code != test.code || got.Signal != 0 || got.OOMKilled {
			t.Errorf("%s: got %+v", test.script, got)
		}
		if got.Started.IsZero() || got.Finished.Before(got.Started) {
			t.Errorf("%s: started %v, finished %v", test.script, got.Started, got.Finished)
		}
	}
}

func TestOutput(t *testing.T) {
	r := testRunner(t)
	got := run(t, r, testSpec(t, "sh", "-c", "echo out; echo err >&2; echo again > /dev/stdout"))
	if got.Code != 0 || got.stdout != "out\nagain\n" || got.stderr != "err\n" {
		t.Errorf("got %+v", got)
	}

	spec := testSpec(t, "wc", "-c")
	in, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	spec.Stdin = in
	s := start(t, r, spec)
	_ = in.Close()
	if _, err := w.Write(make([]byte, 30000)); err != nil {
		t.Error(err)
	}
	_ = w.Close()
	if got := s.end(t); strings.TrimSpace(got.stdout) != "30000" {
		t.Errorf("from standard input: got %+v", got)
	}
}

func TestStandardInputIsEmpty(t *testing.T) {
	r := testRunner(t)
	got := run(t, r, testSpec(t, "sh", "-c", "wc -c; stat -c %t:%T -L /proc/self/fd/0"))
	if got.stdout != "0\n1:3\n" {
		t.Errorf("got %+v", got)
	}
}

// TestDescriptors: nothing of the runner's is open in the job.
func TestDescriptors(t *testing.T) {
	r := testRunner(t)
	// A listing would open a descriptor itself.
	got := run(t, r, testSpec(t, "sh", "-c", "i=0; while [ $i -lt 64 ]; do [ -e /proc/1/fd/$i ] && echo $i; i=$((i+1)); done; :"))
	if got.stdout != "0\n1\n2\n" {
		t.Errorf("open in the job: %q", got.stdout)
	}
}

func TestSignals(t *testing.T) {
	r := testRunner(t)
	// Without a handler the first process of a namespace gets no signal but
	// SIGKILL, hence the trap.
	spec := testSpec(t, "sh", "-c", "trap 'exit 77' TERM; echo ready; while :; do sleep 0.1; done")
	s, ready := startReady(t, r, spec)
	<-ready
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if got := s.end(t); got.Code != 77 || got.Signal != 0 {
		t.Errorf("after SIGTERM: %+v", got)
	}

	s, ready = startReady(t, r, testSpec(t, "sh", "-c", "echo ready; sleep 1000"))
	<-ready
	if err := s.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if got := s.end(t); got.Code != 137 || got.Signal != 9 || got.OOMKilled {
		t.Errorf("after SIGKILL: %+v", got)
	}
	if err := s.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal to a container that is gone: %v", err)
	}
	if err := s.Kill(); err != nil {
		t.Errorf("Kill of a container that is gone: %v", err)
	}
}

// startReady starts a container whose first line of output is "ready"; the
// channel is closed when it comes.
func startReady(t *testing.T, r *Runner, spec *sandbox.Spec) (*started, <-chan struct{}) {
	t.Helper()
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	spec.Stdout = w
	s := start(t, r, spec)
	_ = w.Close()
	ready := make(chan struct{})
	go func() {
		defer out.Close()
		lines := bufio.NewScanner(out)
		for first := true; lines.Scan(); first = false {
			if first && lines.Text() == "ready" {
				close(ready)
			}
		}
	}()
	return s, ready
}

func TestKill(t *testing.T) {
	for name, script := range map[string]string{
		"ignores signals": "trap '' TERM INT HUP; echo ready; while :; do sleep 100; done",
		"stopped":         "sh -c 'while :; do sleep 100; done' & kill -STOP $!; (sleep 100)& echo ready; sh -c 'kill -STOP $PPID'; kill -STOP 1; sleep 100",
		"fork bomb":       "bomb() { while :; do (bomb) & done; }; (bomb) 2>/dev/null & echo ready; exec sleep 1000",
		"orphans":         "for i in 1 2 3; do (sh -c 'sleep 100' &) ; done; echo ready; sleep 100",
	} {
		t.Run(name, func(t *testing.T) {
			r := testRunner(t)
			s, ready := startReady(t, r, testSpec(t, "sh", "-c", script))
			<-ready
			if err := s.Kill(); err != nil {
				t.Error(err)
			}
			if empty, err := s.group.Empty(); err != nil || !empty {
				t.Errorf("after Kill the cgroup is empty: %t, %v", empty, err)
			}
			if got := s.end(t); got.Code != 137 || got.Signal != 9 {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// TestKillFromOutside: every process stopped from the host's side, as a
// debugger or an admin may have.
func TestKillFromOutside(t *testing.T) {
	r := testRunner(t)
	s, ready := startReady(t, r, testSpec(t, "sh", "-c", "sleep 100 & echo ready; wait"))
	<-ready
	if err := s.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := s.Kill(); err != nil {
		t.Error(err)
	}
	if got := s.end(t); got.Signal != 9 {
		t.Errorf("got %+v", got)
	}
}

func TestCommandErrors(t *testing.T) {
	r := testRunner(t)
	for _, test := range []struct {
		arg  string
		want error
	}{
		{"nosuch", sandbox.ErrNotFound},
		{"/no/such", sandbox.ErrNotFound},
		{"/etc", sandbox.ErrNotExecutable},
		{"/etc/hosts", sandbox.ErrNotExecutable},
		{"/bin/text", sandbox.ErrNotExecutable},
		{"text", sandbox.ErrNotExecutable},
		{"/bin/foreign", sandbox.ErrNotExecutable},
		{"/etc/hosts/x", sandbox.ErrNotExecutable},
	} {
		spec := testSpec(t, test.arg)
		bin := filepath.Join(spec.Rootfs.Layers[0], "bin")
		if err := os.WriteFile(filepath.Join(bin, "text"), []byte("no program\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(bin, "foreign"), []byte("#!/no/interpreter\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		s, err := tryStart(t, r, spec)
		if err == nil {
			t.Errorf("%s: started, %+v", test.arg, s.end(t))
			continue
		}
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.arg) {
			t.Errorf("%s: got %q, want %q", test.arg, err, test.want)
		}
	}
}

func TestInvalidSpecs(t *testing.T) {
	r := testRunner(t)
	for name, spoil := range map[string]func(*sandbox.Spec){
		"no id":              func(s *sandbox.Spec) { s.ID = "" },
		"id is a path":       func(s *sandbox.Spec) { s.ID = "../x" },
		"id is dots":         func(s *sandbox.Spec) { s.ID = ".." },
		"no command":         func(s *sandbox.Spec) { s.Args = nil },
		"NUL":                func(s *sandbox.Spec) { s.Args = []string{"true", "a\x00b"} },
		"environment":        func(s *sandbox.Spec) { s.Env = []string{"NOVALUE"} },
		"relative cwd":       func(s *sandbox.Spec) { s.Cwd = "tmp" },
		"unmapped user":      func(s *sandbox.Spec) { s.User.UID = 70000 },
		"unmapped group":     func(s *sandbox.Spec) { s.User.AdditionalGIDs = []int{70000} },
		"only users mapped":  func(s *sandbox.Spec) { s.GIDMappings = nil },
		"no layers":          func(s *sandbox.Spec) { s.Rootfs.Layers = nil },
		"private network":    func(s *sandbox.Spec) { s.Network = sandbox.NetworkPrivate },
		"unknown network":    func(s *sandbox.Spec) { s.Network = "bridge" },
		"unknown filter":     func(s *sandbox.Spec) { s.Seccomp = "weak" },
		"negative memory":    func(s *sandbox.Spec) { s.Resources.Memory = -1 },
		"little memory":      func(s *sandbox.Spec) { s.Resources.Memory = 4096 },
		"negative cpus":      func(s *sandbox.Spec) { s.Resources.CPUs = -1 },
		"few cpus":           func(s *sandbox.Spec) { s.Resources.CPUs = 1e-9 },
		"unknown rlimit":     func(s *sandbox.Spec) { s.Rlimits = []sandbox.Rlimit{{Name: "RLIMIT_FUN"}} },
		"soft above hard":    func(s *sandbox.Spec) { s.Rlimits = []sandbox.Rlimit{{Name: "RLIMIT_CORE", Soft: 2, Hard: 1}} },
		"mount on root":      func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Target: "/", Tmpfs: 1}} },
		"mount in proc":      func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Target: "/tmp/../proc/sys", Tmpfs: 1}} },
		"mount on a device":  func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Target: "/dev/null", Tmpfs: 1}} },
		"host name":          func(s *sandbox.Spec) { s.Hostname = "a\n1.2.3.4 b" },
		"sysctl of the host": func(s *sandbox.Spec) { s.Sysctls = map[string]string{"kernel.panic": "1"} },
		"mount relative":     func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Target: "tmp", Tmpfs: 1}} },
		"mount of nothing":   func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Target: "/data"}} },
		"no such device": func(s *sandbox.Spec) {
			s.Resources.Devices = []sandbox.Device{{HostPath: "/dev/nosuch", Path: "/dev/x", Access: "rw"}}
		},
		"device is a file": func(s *sandbox.Spec) {
			s.Resources.Devices = []sandbox.Device{{HostPath: "/etc/passwd", Path: "/dev/x", Access: "rw"}}
		},
		"device access": func(s *sandbox.Spec) {
			s.Resources.Devices = []sandbox.Device{{HostPath: "/dev/null", Path: "/dev/x", Access: "rwx"}}
		},
		"device outside /dev": func(s *sandbox.Spec) {
			s.Resources.Devices = []sandbox.Device{{HostPath: "/dev/null", Path: "/etc/x", Access: "rw"}}
		},
	} {
		spec := testSpec(t, "true")
		spoil(spec)
		s, err := tryStart(t, r, spec)
		if err == nil {
			t.Errorf("%s: started, %+v", name, s.end(t))
		} else if !errors.Is(err, sandbox.ErrInvalidSpec) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestStartTwice(t *testing.T) {
	r := testRunner(t)
	s, ready := startReady(t, r, testSpec(t, "sh", "-c", "echo ready; sleep 1000"))
	<-ready
	again := testSpec(t, "true")
	if _, err := tryStart(t, r, again); err == nil {
		t.Error("a second container of the same name was started")
	}
	if err := s.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the first container does not live: %v", err)
	}
	if err := s.Kill(); err != nil {
		t.Error(err)
	}
	s.end(t)
}

func TestCanceledStart(t *testing.T) {
	r := testRunner(t)
	cause := errors.New("enough")
	canceled, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := r.Start(canceled, testSpec(t, "true")); !errors.Is(err, cause) {
		t.Errorf("canceled before: %v", err)
	}
	// At any moment in between: it is started or not, and nothing is left.
	for delay := range 12 {
		ctx, cancel := context.WithCancelCause(t.Context())
		timer := time.AfterFunc(time.Duration(delay)*2*time.Millisecond, func() { cancel(cause) })
		spec := testSpec(t, "sleep", "1000")
		c, err := r.Start(ctx, spec)
		timer.Stop()
		cancel(nil)
		if err != nil {
			if !errors.Is(err, cause) {
				t.Errorf("canceled after %d ms: %v", 2*delay, err)
			}
			continue
		}
		if err := c.Kill(); err != nil {
			t.Error(err)
		}
		if exit, err := c.Wait(t.Context()); err != nil || exit.Signal != 9 {
			t.Errorf("got %+v, %v", exit, err)
		}
		if err := c.Destroy(); err != nil {
			t.Error(err)
		}
	}
}

func TestCanceledWait(t *testing.T) {
	r := testRunner(t)
	s := start(t, r, testSpec(t, "sleep", "1000"))
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error)
	go func() {
		_, err := s.Wait(ctx)
		waited <- err
	}()
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// Kill works while Wait runs.
	go func() {
		_, err := s.Wait(t.Context())
		waited <- err
	}()
	if err := s.Kill(); err != nil {
		t.Error(err)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if got := s.end(t); got.Signal != 9 {
		t.Errorf("got %+v", got)
	}
	if err := s.Destroy(); err != nil {
		t.Errorf("Destroy again: %v", err)
	}
}

// TestWaitingCostsNoThread starts many containers and counts the threads of
// this process.
func TestWaitingCostsNoThread(t *testing.T) {
	r := testRunner(t)
	const containers = 16
	threads := func() int {
		entries, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	base := testSpec(t, "sleep", "1000")
	var all []sandbox.Container
	results := make(chan error)
	before := threads()
	for i := range containers {
		spec := *base
		spec.ID = "wait-" + strconv.Itoa(i)
		spec.Rootfs.Scratch = t.TempDir()
		c, err := r.Start(t.Context(), &spec)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
		go func() {
			_, err := c.Wait(t.Context())
			results <- err
		}()
	}
	// Starting needs threads for a while, which Go keeps; the waiting must not
	// add one for each container.
	if now := threads(); now-before >= containers {
		t.Errorf("%d threads before, %d with %d containers", before, now, containers)
	}
	for _, c := range all {
		if err := c.Kill(); err != nil {
			t.Error(err)
		}
	}
	for range all {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	for _, c := range all {
		if err := c.Destroy(); err != nil {
			t.Error(err)
		}
	}
}

func TestParallel(t *testing.T) {
	r := testRunner(t)
	const n = 64
	base := testSpec(t, "true")
	// The filter that refuses most must find none of them still preparing.
	base.NoSetUID = true
	results := make(chan error)
	for i := range n {
		spec := *base
		spec.ID = "parallel-" + strconv.Itoa(i)
		spec.Rootfs.Scratch = t.TempDir()
		spec.Args = []string{"sh", "-c", fmt.Sprintf("touch /mark && exit %d", i)}
		go func() {
			results <- func() error {
				c, err := r.Start(t.Context(), &spec)
				if err != nil {
					return err
				}
				exit, err := c.Wait(t.Context())
				if err == nil && exit.Code != i {
					err = fmt.Errorf("container %d: %+v", i, exit)
				}
				return errors.Join(err, c.Destroy())
			}()
		}()
	}
	for range n {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	// What they wrote is in their scratch directories, not in the shared layer.
	if _, err := os.Lstat(filepath.Join(base.Rootfs.Layers[0], "mark")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the layer was changed: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	good := func() Options {
		return Options{CacheDir: t.TempDir(), Cgroup: "girder-worker-test", MountDir: filepath.Join(t.TempDir(), "mounts")}
	}
	for name, spoil := range map[string]func(*Options){
		"the root of all cgroups":    func(o *Options) { o.Cgroup = "/" },
		"a cgroup that climbs":       func(o *Options) { o.Cgroup = "a/../../b" },
		"a closed mount directory":   func(o *Options) {}, // t.TempDir is below one
		"a mount directory's parent": func(o *Options) { o.MountDir = "/proc/version/x" },
		"a foreign cache":            func(o *Options) { _ = os.Chmod(o.CacheDir, 0o777) },
	} {
		o := good()
		spoil(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
			_ = unix.Unmount(o.MountDir, 0)
		}
	}
}
