//go:build linux && cgo && seccomp

package runc

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

func itoa(n int) string { return strconv.Itoa(n) }

func TestBinds(t *testing.T) {
	r := testRunner(t)
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("rw/file", "old\n")
	write("ro/file", "old\n")
	single := write("single", "one\n")
	mounts := []sandbox.Mount{
		{Source: openSource(t, filepath.Join(dir, "rw")), Target: "/data/rw"},
		{Source: openSource(t, filepath.Join(dir, "ro")), Target: "/data/ro", ReadOnly: true},
		{Source: openSource(t, single), Target: "/etc/single", ReadOnly: true},
	}
	got := script(t, r, func(s *sandbox.Spec) { s.Mounts = mounts },
		"cat /data/rw/file /data/ro/file /etc/single",
		"echo new > /data/rw/file",
		"(echo new > /data/ro/file) 2>/dev/null && echo written",
		"(echo new > /etc/single) 2>/dev/null && echo written",
		"mount -o remount,bind,rw /data/ro 2>/dev/null && echo remounted",
		"grep -E ' /(data|etc)/' /proc/self/mountinfo | while read a b c d target options rest; do echo $target ${options%,*}; done",
	)
	want := "old\nold\none\n/data/rw rw,nosuid,nodev\n/data/ro ro,nosuid,nodev\n/etc/single ro,nosuid,nodev\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for name, want := range map[string]string{"rw/file": "new\n", "ro/file": "old\n", "single": "one\n"} {
		if now, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(now) != want {
			t.Errorf("%s holds %q, %v", name, now, err)
		}
	}
}

// TestBindIsTheDescriptor: what counts is what was opened, not what has its
// name now.
func TestBindIsTheDescriptor(t *testing.T) {
	r := testRunner(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "data")
	if err := os.WriteFile(path, []byte("opened\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	source := openSource(t, path)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/shadow", path); err != nil {
		t.Fatal(err)
	}
	got := script(t, r, func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Source: source, Target: "/data"}} }, "cat /data")
	if got != "opened\n" {
		t.Errorf("got %q", got)
	}
}

// TestRootBinds: what is bound to the root file system itself is as any other bind, and
// nothing that a layer has leads it elsewhere.
func TestRootBinds(t *testing.T) {
	r := testRunner(t)
	dir := t.TempDir()
	layer := filepath.Join(dir, "layer")
	for _, name := range []string{"source", "layer/host"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"source/file": "old\n", "layer/file": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("host", filepath.Join(layer, "link")); err != nil {
		t.Fatal(err)
	}
	bind := func(targets ...string) func(*sandbox.Spec) {
		return func(s *sandbox.Spec) {
			s.Rootfs.Layers = append(s.Rootfs.Layers, layer)
			for _, target := range targets {
				source := filepath.Join(dir, "source")
				if target == "/file" {
					source = filepath.Join(source, "file")
				}
				s.Rootfs.Mounts = append(s.Rootfs.Mounts, sandbox.Mount{Source: openSource(t, source), Target: target, ReadOnly: true, Recursive: true})
			}
		}
	}
	got := script(t, r, bind("/host", "/file"), "cat /host/file /file",
		"(echo new > /host/file) 2>/dev/null && echo written",
		"(echo new > /file) 2>/dev/null && echo written",
		"mount -o remount,bind,rw /host 2>/dev/null && echo remounted",
		"umount /host 2>/dev/null && echo unmounted",
		"grep -E ' /(host|file) ' /proc/self/mountinfo | while read a b c d target options rest; do echo $target ${options%,*}; done")
	if want := "old\nold\n/host ro,nosuid,nodev\n/file ro,nosuid,nodev\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for _, target := range []string{"/link", "/missing", "/host/../../x"} {
		spec := testSpec(t, "/bin/true")
		bind(target)(spec)
		if _, err := tryStart(t, r, spec); err == nil {
			t.Errorf("a bind to %s was made", target)
		}
	}
}

func TestRecursiveBinds(t *testing.T) {
	r := testRunner(t)
	dir := t.TempDir()
	inner := filepath.Join(dir, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", inner, "tmpfs", 0, "mode=777"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(inner, 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(inner, "file"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, recursive := range []bool{true, false} {
		got := script(t, r, func(s *sandbox.Spec) {
			s.Mounts = []sandbox.Mount{{Source: openSource(t, dir), Target: "/data", ReadOnly: true, Recursive: recursive}}
		}, "ls -A /data/inner", "(echo x > /data/inner/new) 2>/dev/null && echo written",
			"grep ' /data' /proc/self/mountinfo | while read a b c d target options rest; do echo $target ${options%,*}; done")
		want := "/data ro,nosuid,nodev\n"
		if recursive {
			want = "file\n/data ro,nosuid,nodev\n/data/inner ro,nosuid,nodev\n"
		}
		if got != want {
			t.Errorf("recursive %t: got %q, want %q", recursive, got, want)
		}
	}
}

// TestMountTargetsStayInside: links in an image lead to places in the image.
func TestMountTargetsStayInside(t *testing.T) {
	r := testRunner(t)
	outside := t.TempDir()
	if err := os.Chmod(outside, 0o777); err != nil {
		t.Fatal(err)
	}
	got := script(t, r, func(s *sandbox.Spec) {
		layer := s.Rootfs.Layers[0]
		if err := os.Symlink(outside, filepath.Join(layer, "absolute")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("../../../../../.."+outside, filepath.Join(layer, "climbing")); err != nil {
			t.Fatal(err)
		}
		s.Mounts = []sandbox.Mount{
			{Target: "/absolute/a", Tmpfs: 1 << 20},
			{Target: "/climbing/b", Tmpfs: 1 << 20},
		}
	}, "grep -c ^tmpfs.*"+outside+" /proc/mounts")
	if got != "2\n" {
		t.Errorf("got %q", got)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside there is now %v, %v", entries, err)
	}
}

func TestTmpfs(t *testing.T) {
	r := testRunner(t)
	got := script(t, r, func(s *sandbox.Spec) {
		s.User = sandbox.User{UID: 1000, GID: 1000}
		s.Mounts = []sandbox.Mount{
			{Target: "/scratch", Tmpfs: 1 << 20},
			{Target: "/empty", Tmpfs: 4096, Mode: 0o700, ReadOnly: true},
		}
	}, "stat -c %a /scratch /empty",
		"dd if=/dev/zero of=/scratch/file bs=64k count=64 2>/dev/null; stat -c %s /scratch/file",
		"grep -E ' /(scratch|empty|dev/shm) ' /proc/mounts | while read a target c options rest; do echo $target ${options%%,rel*}; done")
	want := "1777\n700\n1048576\n/dev/shm rw,nosuid,nodev,noexec\n/scratch rw,nosuid,nodev,noexec\n/empty ro,nosuid,nodev,noexec\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestShmSize(t *testing.T) {
	r := testRunner(t)
	got := script(t, r, nil, "dd if=/dev/zero of=/dev/shm/file bs=1M count=100 2>/dev/null; stat -c %s /dev/shm/file")
	if got != itoa(32<<20)+"\n" {
		t.Errorf("got %q", got)
	}
}

func TestDevices(t *testing.T) {
	r := testRunner(t)
	// A device that is no default one; opening it (it is FUSE's) does nothing.
	node := filepath.Join(t.TempDir(), "device")
	if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(node, 0o666); err != nil {
		t.Fatal(err)
	}
	device := func(access string) string {
		return script(t, r, func(s *sandbox.Spec) {
			s.Resources.Devices = []sandbox.Device{{HostPath: node, Path: "/dev/mine", Access: access}}
		}, "(: < /dev/mine) 2>/dev/null && echo read; (: >> /dev/mine) 2>/dev/null && echo written; :")
	}
	for access, want := range map[string]string{"r": "read\n", "w": "written\n", "rw": "read\nwritten\n"} {
		if got := device(access); got != want {
			t.Errorf("access %s: got %q", access, got)
		}
	}
	// The nodes that everyone has, which are not the host's, in a /dev that is the
	// container's own.
	got := script(t, r, nil, "head -c4 /dev/zero | wc -c; head -c4 /dev/urandom | wc -c; echo x > /dev/null; ls /dev; readlink /dev/ptmx; readlink /dev/fd; "+
		"[ $(stat -Lc %d:%i /dev/null) = $(stat -Lc %d:%i /dev/stdin) ] && stat -c '%u %a' /dev/null /dev; echo x > /dev/shm/x && mkdir /dev/x && echo written")
	want := "4\n4\n" + strings.Join([]string{"fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}, "\n") + "\npts/ptmx\n/proc/self/fd\n0 666\n0 755\nwritten\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// A terminal that a container opens is its user's, in the group that may write to it.
func TestTerminal(t *testing.T) {
	r := testRunner(t)
	got := script(t, r, nil, "exec 3<>/dev/ptmx && ls /dev/pts && stat -c '%u %g %a' /dev/pts/0 && mount -o remount,mode=0666 /dev/pts 2>/dev/null || echo refused")
	if want := "0\nptmx\n0 5 620\nrefused\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
