package image_test

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/sandbox/image"
	"girderworker/sandbox/image/imagetest"
)

func listXattrs(t *testing.T, path string) []string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	return strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
}

// children returns the processes that parent's threads have.
func children(parent int) []int {
	var out []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, file := range tasks {
		data, _ := os.ReadFile(file)
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil {
				out = append(out, pid)
			}
		}
	}
	return out
}

// The worker that reads an archive is looked at while it waits for the rest of
// one: what it can see, what it may do, and that it ends with its import.
func TestWorkerIsConfined(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	dir := filepath.Join(t.TempDir(), "images")
	s := openStore(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := s.Import(ctx, r, everyone())
		ended <- err
	}()
	// What is written is taken out of the pipe by the worker only, and it only
	// reads once it is confined. It waits for the rest of this file.
	tw := tar.NewWriter(w)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "manifest.json", Mode: 0o644, Size: 1000}); err != nil {
		t.Fatal(err)
	}
	setup, worker := awaitWorker(t, r)

	if root := readDirNames(t, fmt.Sprintf("/proc/%d/root", worker)); len(root) != 0 {
		t.Errorf("its root holds %v, want nothing", root)
	}
	for name, want := range map[string]string{
		"uid_map": "0 0 65536", "gid_map": "0 0 65536",
	} {
		if got := strings.Join(strings.Fields(readProc(t, worker, name)), " "); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if mounts := strings.Split(strings.TrimSpace(readProc(t, worker, "mountinfo")), "\n"); len(mounts) != 1 ||
		!strings.Contains(mounts[0], "nosuid,nodev,noexec") {
		t.Errorf("it sees the mounts %q", mounts)
	}
	const chownFownerFsetid = 1<<unix.CAP_CHOWN | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID
	tasks := readDirNames(t, fmt.Sprintf("/proc/%d/task", worker))
	for _, task := range tasks {
		status := readProc(t, worker, "task/"+task+"/status")
		for field, want := range map[string]string{
			"CapInh": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2",
			"CapPrm": fmt.Sprintf("%016x", chownFownerFsetid),
			"CapEff": fmt.Sprintf("%016x", chownFownerFsetid),
			"CapBnd": fmt.Sprintf("%016x", chownFownerFsetid),
		} {
			if got := statusField(status, field); got != want {
				t.Errorf("thread %s: %s is %s, want %s", task, field, got, want)
			}
		}
	}
	for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		mine, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", worker, ns)); err != nil || its == mine {
			t.Errorf("it shares the %s namespace (%v)", ns, err)
		}
	}
	for line := range strings.SplitSeq(readProc(t, worker, "net/dev"), "\n") {
		if name, _, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) != "lo" {
			t.Errorf("it has the network interface %q", name)
		}
	}
	if routes := strings.Split(strings.TrimSpace(readProc(t, worker, "net/route")), "\n"); len(routes) > 1 {
		t.Errorf("it has the routes %v", routes)
	}
	for _, fd := range readDirNames(t, fmt.Sprintf("/proc/%d/fd", worker)) {
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", worker, fd))
		if !strings.HasPrefix(target, "pipe:") && !strings.HasPrefix(target, "anon_inode:") && target != spoolGone {
			t.Errorf("it has %s open as %s", target, fd)
		}
	}
	if env := readProc(t, worker, "environ"); strings.Contains(env, "PATH") || strings.Contains(env, "HOME") {
		t.Errorf("its environment is %q", env)
	}
	limits := readProc(t, worker, "limits")
	for line := range strings.SplitSeq(limits, "\n") {
		if strings.HasPrefix(line, "Max core file size") && strings.Fields(line)[4] != "0" ||
			strings.HasPrefix(line, "Max open files") && strings.Fields(line)[3] != "1024" ||
			strings.HasPrefix(line, "Max cpu time") && strings.Fields(line)[3] == "unlimited" {
			t.Errorf("limit %s", line)
		}
	}

	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled import ended with %v", err)
	}
	for _, pid := range []int{setup, worker} {
		if err := unix.Kill(pid, 0); err != unix.ESRCH {
			t.Errorf("process %d outlived its import (%v)", pid, err)
		}
	}
	checkEmpty(t, s, dir)
}

// spoolGone is the file to which a worker copies a pipe, as /proc shows it.
const spoolGone = "/spool (deleted)"

func hasOpen(pid int, target string) bool {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, file := range files {
		if got, _ := os.Readlink(file); got == target {
			return true
		}
	}
	return false
}

// awaitWorker returns the two processes of an import that reads from r, once
// the worker has emptied the pipe and copies it.
func awaitWorker(t *testing.T, r *os.File) (setup, worker int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		left, err := unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ)
		if err != nil {
			t.Fatal(err)
		}
		if left > 0 {
			continue
		}
		for _, setup := range children(os.Getpid()) {
			if workers := children(setup); len(workers) == 1 && hasOpen(workers[0], spoolGone) {
				return setup, workers[0]
			}
		}
	}
	t.Fatal("no worker began to read")
	return 0, 0
}

func readDirNames(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func readProc(t *testing.T, pid int, name string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func statusField(status, field string) string {
	for line := range strings.SplitSeq(status, "\n") {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func TestImportEndsAtItsDeadline(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := newStore(t).Import(ctx, r, everyone()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended with %v", err)
	}
}

func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s := openStore(t, filepath.Join(dir, "store"))
	archive := imagetest.Archive(t, tiny("big:1", reg("x", string(make([]byte, 16<<20)))))
	_, err := s.Import(t.Context(), archive, everyone())
	wantError(t, err, image.ErrNoSpace, "images prune")
	checkEmpty(t, s, filepath.Join(dir, "store"))
	mustImport(t, s, imagetest.Archive(t, tiny("small:1", reg("x", "x"))), everyone())
}
