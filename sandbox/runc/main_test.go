//go:build linux && cgo && seccomp

package runc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"girderworker/sandbox"
	"girderworker/sandbox/cgroup"
)

// TestMain runs the tests in a mount namespace of their own, as a runner is.
func TestMain(m *testing.M) {
	if dir := os.Getenv(holderEnv); dir != "" {
		fmt.Fprintln(os.Stderr, hold(dir))
		os.Exit(1)
	}
	const inside = "RUNC_TEST_OWN_NAMESPACE"
	if os.Getenv(inside) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(cmd.ProcessState.ExitCode())
	}
	code := m.Run()
	g, err := cgroup.At(testRoot())
	if err == nil {
		err = g.Remove()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// testRoot is the cgroup below which this process's tests have theirs.
func testRoot() string { return fmt.Sprintf("girder-worker-test-%d", os.Getpid()) }

// The identity that the tests' containers have on the host.
const (
	hostRoot = 200000
	mapSize  = 65536
)

var dockerCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_KILL",
}

// testRunner is a runner with a cache and a cgroup of the test's own.
func testRunner(t testing.TB) *Runner {
	t.Helper()
	group := testRoot() + "/" + strings.ReplaceAll(t.Name(), "/", "_")
	mounts, err := os.MkdirTemp("/run", "runc-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(mounts, 0o755); err != nil {
		t.Fatal(err)
	}
	before := mountTable(t)
	r, err := New(Options{
		CacheDir: t.TempDir(),
		Cgroup:   group,
		MountDir: mounts,
		Logger:   slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := os.ReadDir(mounts)
		if err != nil || len(left) > 0 {
			t.Errorf("workspaces left: %v, %v", left, err)
		}
		// libcontainer leaves its FIFO open when a start fails, for the garbage
		// collector to close.
		unmount := func() error {
			runtime.GC()
			return syscall.Unmount(mounts, 0)
		}
		if err := eventually(unmount); err != nil {
			t.Errorf("cannot unmount the workspaces, something is left in them: %v", err)
		}
		if err := os.Remove(mounts); err != nil {
			t.Error(err)
		}
		if now := mountTable(t); now != before {
			t.Errorf("mounts before:\n%s\nand after:\n%s", before, now)
		}
	})
	t.Cleanup(func() {
		g, err := cgroup.At(group)
		if err != nil {
			t.Fatal(err)
		}
		if empty, err := g.Empty(); err != nil || !empty {
			t.Errorf("the test's cgroup is empty: %t, %v", empty, err)
		}
		if err := g.Kill(context.Background()); err != nil {
			t.Error(err)
		}
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// eventually tries something until it succeeds, for at most some seconds.
func eventually(try func() error) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if err := try(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// mountTable lists what is mounted where in this namespace.
func mountTable(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if strings.HasPrefix(fields[1], os.TempDir()+"/") {
			continue // of another package's tests; a runner's are elsewhere
		}
		fmt.Fprintln(&table, fields[1], fields[2])
	}
	return table.String()
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// busyboxLayer makes a layer with Debian's busybox-static and nothing else.
func busyboxLayer(t testing.TB) string {
	t.Helper()
	return busyboxLayerIn(t, t.TempDir())
}

func busyboxLayerIn(t testing.TB, parent string) string {
	t.Helper()
	layer, err := os.MkdirTemp(parent, "layer-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(layer, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"bin", "etc", "tmp", "root"} {
		if err := os.Mkdir(filepath.Join(layer, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(layer, "tmp"), 0o1777); err != nil {
		t.Fatal(err)
	}
	copyFile(t, "/bin/busybox", filepath.Join(layer, "bin/busybox"), 0o755)
	for _, name := range []string{"cat", "chmod", "dd", "echo", "env", "grep", "head", "hostname", "id", "ip", "kill", "ls", "mkdir", "mount", "ps", "pwd", "readlink", "sh", "sleep", "stat", "touch", "true", "unshare", "wc"} {
		if err := os.Symlink("busybox", filepath.Join(layer, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return layer
}

func copyFile(t testing.TB, from, to string, mode os.FileMode) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(to, mode); err != nil {
		t.Fatal(err)
	}
}

// testSpec is a container as the product makes them.
func testSpec(t testing.TB, args ...string) *sandbox.Spec {
	t.Helper()
	ids := []sandbox.IDMapping{{ContainerID: 0, HostID: hostRoot, Size: mapSize}}
	return &sandbox.Spec{
		ID:           strings.ToLower(strings.NewReplacer("/", "_", "#", "_", "=", "_").Replace(t.Name())),
		Rootfs:       sandbox.Rootfs{Layers: []string{busyboxLayer(t)}, Scratch: t.TempDir()},
		Args:         args,
		Env:          []string{"PATH=/bin", "HOME=/root"},
		Cwd:          "/",
		Hostname:     "box",
		UIDMappings:  ids,
		GIDMappings:  ids,
		Capabilities: dockerCaps,
		Resources:    sandbox.Resources{CPUs: 1, Memory: 256 << 20, PIDs: 128, Shm: 32 << 20},
	}
}

// result is what a container did.
type result struct {
	sandbox.Exit
	stdout, stderr string
}

// run runs a container to its end and fails the test if it cannot be started
// or leaves something behind.
func run(t testing.TB, r *Runner, spec *sandbox.Spec) result {
	t.Helper()
	return start(t, r, spec).end(t)
}

// started is a running container with its output.
type started struct {
	sandbox.Container
	group          cgroup.Group
	stdout, stderr *output
}

// output collects what comes through a pipe.
type output struct {
	w    *os.File
	text string
	err  error
	done chan struct{}
}

func newOutput(t testing.TB) *output {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	o := &output{w: w, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		defer r.Close()
		var data []byte
		data, o.err = io.ReadAll(r)
		o.text = string(data)
	}()
	return o
}

func (o *output) get(t testing.TB) string {
	t.Helper()
	<-o.done
	if o.err != nil {
		t.Error(o.err)
	}
	return o.text
}

// start starts a container with its output collected, unless spec says where
// it goes.
func start(t testing.TB, r *Runner, spec *sandbox.Spec) *started {
	t.Helper()
	s, err := tryStart(t, r, spec)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	return s
}

func tryStart(t testing.TB, r *Runner, spec *sandbox.Spec) (*started, error) {
	t.Helper()
	own := *spec
	spec = &own
	s := &started{stdout: newOutput(t), stderr: newOutput(t)}
	if spec.Stdout == nil {
		spec.Stdout = s.stdout.w
	}
	if spec.Stderr == nil {
		spec.Stderr = s.stderr.w
	}
	c, err := r.Start(t.Context(), spec)
	_ = s.stdout.w.Close()
	_ = s.stderr.w.Close()
	if err != nil {
		return nil, err
	}
	s.Container = c
	s.group = c.(*container).group
	return s, nil
}

// end waits for the container and destroys it.
func (s *started) end(t testing.TB) result {
	t.Helper()
	exit, err := s.Wait(context.Background())
	if err != nil {
		t.Errorf("Wait: %v", err)
	}
	empty, err := s.group.Empty()
	if err != nil || !empty {
		t.Errorf("after Wait the cgroup is empty: %t, %v", empty, err)
	}
	if err := s.Destroy(); err != nil {
		t.Errorf("Destroy: %v", err)
	}
	if s.group.Exists() {
		t.Error("the cgroup is left")
	}
	return result{Exit: exit, stdout: s.stdout.get(t), stderr: s.stderr.get(t)}
}
