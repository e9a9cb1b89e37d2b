//go:build linux && cgo && seccomp

package runc

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

// script runs a shell script in a container of its own and returns its output.
func script(t *testing.T, r *Runner, change func(*sandbox.Spec), lines ...string) string {
	t.Helper()
	spec := testSpec(t, "sh", "-c", strings.Join(lines, "\n"))
	if change != nil {
		change(spec)
	}
	got := run(t, r, spec)
	if got.Code != 0 {
		t.Errorf("got %+v", got)
	}
	return got.stdout
}

// openSource opens what a mount binds, as its owner's process would.
func openSource(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestIdentity looks at users from both sides.
func TestIdentity(t *testing.T) {
	r := testRunner(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, user := range []sandbox.User{{}, {UID: 1000, GID: 100, AdditionalGIDs: []int{7, 8}}} {
		got := script(t, r, func(s *sandbox.Spec) {
			s.User = user
			s.Mounts = []sandbox.Mount{{Source: openSource(t, dir), Target: "/data"}}
		}, "id -u; id -g; id -G", "touch /data/file", "stat -c '%u %g' /data/file /bin/busybox", "cat /proc/self/uid_map")
		want := "0\n0\n0\n0 0\n0 0\n         0     200000      65536\n"
		if user.UID != 0 {
			want = "1000\n100\n100 7 8\n1000 100\n0 0\n         0     200000      65536\n"
		}
		if got != want {
			t.Errorf("user %+v inside: got\n%swant\n%s", user, got, want)
		}
		var st unix.Stat_t
		file := filepath.Join(dir, "file")
		if err := unix.Lstat(file, &st); err != nil {
			t.Fatal(err)
		}
		if int(st.Uid) != hostRoot+user.UID || int(st.Gid) != hostRoot+user.GID {
			t.Errorf("user %+v outside: the file belongs to %d:%d", user, st.Uid, st.Gid)
		}
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
	}
}

// TestProcessIsUnprivilegedOnTheHost reads the running process from outside.
func TestProcessIsUnprivilegedOnTheHost(t *testing.T) {
	r := testRunner(t)
	s := start(t, r, testSpec(t, "sleep", "1000"))
	var st unix.Stat_t
	if err := unix.Stat("/proc/"+itoa(s.PID()), &st); err != nil {
		t.Error(err)
	}
	if st.Uid != hostRoot || st.Gid != hostRoot {
		t.Errorf("on the host the process is %d:%d", st.Uid, st.Gid)
	}
	score, err := os.ReadFile("/proc/" + itoa(s.PID()) + "/oom_score_adj")
	if err != nil || string(score) != "500\n" {
		t.Errorf("oom_score_adj is %q, %v", score, err)
	}
	for _, ns := range []string{"user", "pid", "mnt", "ipc", "uts", "net", "cgroup"} {
		own, err1 := os.Readlink("/proc/self/ns/" + ns)
		theirs, err2 := os.Readlink("/proc/" + itoa(s.PID()) + "/ns/" + ns)
		if err := errors.Join(err1, err2); err != nil || own == theirs {
			t.Errorf("namespace %s: ours %s, the container's %s, %v", ns, own, theirs, err)
		}
	}
	if err := s.Kill(); err != nil {
		t.Error(err)
	}
	s.end(t)
}

func TestCapabilities(t *testing.T) {
	r := testRunner(t)
	const names = "^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):"
	// CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6, SETUID 7, SETPCAP 8, NET_BIND_SERVICE 10.
	const docker = "00000000000005fb"
	const none = "0000000000000000"
	for _, test := range []struct {
		uid  int
		caps []string
		want []string
	}{
		{0, dockerCaps, []string{none, docker, docker, docker, none}},
		{0, nil, []string{none, none, none, none, none}},
		{1000, dockerCaps, []string{none, none, none, docker, none}},
	} {
		got := script(t, r, func(s *sandbox.Spec) {
			s.User = sandbox.User{UID: test.uid, GID: test.uid}
			s.Capabilities = test.caps
		}, "grep -E '"+names+"' /proc/self/status")
		var values []string
		for line := range strings.Lines(got) {
			values = append(values, strings.Fields(line)[1])
		}
		if want := append(test.want, "1", "2"); !slices.Equal(values, want) {
			t.Errorf("uid %d, capabilities %v: got %v, want %v", test.uid, test.caps, values, want)
		}
	}
}

func TestSetuidFilesGainNothing(t *testing.T) {
	r := testRunner(t)
	got := script(t, r, func(s *sandbox.Spec) {
		dir := filepath.Join(s.Rootfs.Layers[0], "setuid")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"id", "grep"} {
			copyFile(t, "/bin/busybox", filepath.Join(dir, name), 0o755|os.ModeSetuid)
		}
		s.User = sandbox.User{UID: 1000, GID: 1000}
	}, "/setuid/id -u", "/setuid/grep CapEff /proc/self/status")
	if got != "1000\nCapEff:\t0000000000000000\n" {
		t.Errorf("got %q", got)
	}
}

func TestSeccompUnconfined(t *testing.T) {
	r := testRunner(t)
	got := script(t, r, func(s *sandbox.Spec) { s.Seccomp = sandbox.SeccompUnconfined }, "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status")
	if got != "NoNewPrivs:\t1\nSeccomp:\t0\n" {
		t.Errorf("got %q", got)
	}
}

func TestForbiddenSystemCalls(t *testing.T) {
	r := testRunner(t)
	got := run(t, r, testSpec(t, "unshare", "-U", "true"))
	if got.Code == 0 || !strings.Contains(got.stderr, "Operation not permitted") {
		t.Errorf("unshare of a user namespace: %+v", got)
	}
}

// TestTimerSlack: this process sleeps loosely, a job's as on any machine.
func TestTimerSlack(t *testing.T) {
	own, err := os.ReadFile("/proc/self/timerslack_ns")
	if err != nil || string(own) != "250000\n" {
		t.Errorf("this process's slack is %q, %v", own, err)
	}
	if got := script(t, testRunner(t), nil, "cat /proc/self/timerslack_ns"); got != "50000\n" {
		t.Errorf("a job's slack is %q", got)
	}
}

func TestMaskedAndReadonlyPaths(t *testing.T) {
	r := testRunner(t)
	got := script(t, r, nil,
		// What is masked is empty.
		"for f in /proc/interrupts /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug; do [ ! -e $f ] || wc -c < $f; done",
		"for d in /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do [ ! -e $d ] || ls -A $d | wc -l; done",
		// What is read-only cannot be written.
		"for f in /proc/sys/kernel/hostname /sys/kernel/mm/ksm/run; do (echo 1 > $f) 2>/dev/null && echo written $f; done; :",
		"d=/sys/fs/cgroup; [ ! -d $d/memory ] || d=$d/memory; mkdir $d/x 2>/dev/null && echo made $d/x",
		"mount -o remount,rw /proc/sys 2>/dev/null && echo remounted; :",
	)
	if strings.Trim(got, "0\n") != "" || got == "" {
		t.Errorf("got %q", got)
	}
}

// TestControlGroupsInside: a job reads its own limits, as many programs do to
// fit into them, and can change nothing of them, whatever it does to the mounts.
// Those of cgroup v1 are the runner's, to which it can do nothing; that of v2 is
// the container's own.
func TestControlGroupsInside(t *testing.T) {
	got := script(t, testRunner(t), func(s *sandbox.Spec) {
		s.Resources.Memory = 64 << 20
		s.Capabilities = append(s.Capabilities, "CAP_SYS_ADMIN")
	},
		"cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max",
		"grep -c ' /sys/fs/cgroup' /proc/self/mountinfo | grep -v '^0$' | tr -d 0-9",
		"awk '$5 ~ \"^/sys/fs/cgroup\" && $5 != \"/sys/fs/cgroup\" && ($4 != \"/\" || $6 !~ /^ro,nosuid,nodev,noexec/)' /proc/self/mountinfo",
		"[ -e /sys/fs/cgroup/cgroup.controllers ] && v2=1",
		"change() {",
		"	mkdir $1/new 2>/dev/null && echo made in $1",
		"	for f in memory.max memory.limit_in_bytes pids.max cpu.max cpu.cfs_quota_us cgroup.freeze freezer.state cgroup.subtree_control release_agent; do",
		"		(cat $1/$f >$1/$f) 2>/dev/null && echo wrote $1/$f",
		"	done",
		"	[ ! -e $1/release_agent ] || echo $1 is a root",
		"}",
		"for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do",
		"	change $d",
		"	mount -o remount,bind,rw $d 2>/dev/null && [ -z $v2 ] && echo remounted $d",
		"	change $d",
		"	umount $d 2>/dev/null && [ -z $v2 ] && echo unmounted $d",
		"done; :")
	if got != "67108864\n\n" {
		t.Errorf("got %q", got)
	}
}

func TestNetworks(t *testing.T) {
	r := testRunner(t)
	links := func(mode sandbox.NetworkMode) string {
		return script(t, r, func(s *sandbox.Spec) { s.Network = mode }, "ls /sys/class/net; ip link show lo | grep -o 'LOOPBACK,UP'")
	}
	for _, mode := range []sandbox.NetworkMode{"", sandbox.NetworkNone} {
		if got := links(mode); got != "lo\nLOOPBACK,UP\n" {
			t.Errorf("network %q: got %q", mode, got)
		}
	}
	var host strings.Builder
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		host.WriteString(e.Name() + "\n")
	}
	if got := links(sandbox.NetworkHost); got != host.String()+"LOOPBACK,UP\n" {
		t.Errorf("the host's network: got %q, want %q", got, host.String())
	}
	// The host's /sys is as read-only there as a new one.
	got := script(t, r, func(s *sandbox.Spec) { s.Network = sandbox.NetworkHost }, "(echo 1 > /sys/kernel/mm/ksm/run) 2>/dev/null || echo read-only", "ls -A /sys/firmware | wc -l")
	if got != "read-only\n0\n" {
		t.Errorf("/sys with the host's network: got %q", got)
	}
}

func TestNames(t *testing.T) {
	r := testRunner(t)
	got := script(t, r, func(s *sandbox.Spec) {
		etc := filepath.Join(s.Rootfs.Layers[0], "etc")
		// The image's own must not show, nor be written through.
		if err := os.WriteFile(filepath.Join(etc, "hostname"), []byte("image\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("../tmp/resolv.conf", filepath.Join(etc, "resolv.conf")); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(etc, 0o751); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(etc, "other"), []byte("kept\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}, "hostname", "cat /etc/hostname /etc/hosts /etc/resolv.conf /etc/other", "stat -c '%a %u' /etc /etc/hosts", "ls -A /tmp", "echo x >> /etc/hosts")
	want := "box\nbox\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tbox\nkept\n751 0\n644 0\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestUnsafeImages(t *testing.T) {
	r := testRunner(t)
	for name, spoil := range map[string]func(layer string) error{
		"/dev is a link":       func(layer string) error { return os.Symlink("/tmp", filepath.Join(layer, "dev")) },
		"/proc is a link":      func(layer string) error { return os.Symlink("tmp", filepath.Join(layer, "proc")) },
		"/sys is a loop":       func(layer string) error { return os.Symlink("sys", filepath.Join(layer, "sys")) },
		"/sys is a file":       func(layer string) error { return os.WriteFile(filepath.Join(layer, "sys"), nil, 0o644) },
		"/etc is a link":       func(layer string) error { return replace(filepath.Join(layer, "etc"), "/tmp") },
		"/dev is a named pipe": func(layer string) error { return syscall.Mkfifo(filepath.Join(layer, "dev"), 0o644) },
	} {
		spec := testSpec(t, "true")
		if err := spoil(spec.Rootfs.Layers[0]); err != nil {
			t.Fatal(name, err)
		}
		if _, err := tryStart(t, r, spec); !errors.Is(err, sandbox.ErrUnsafeImage) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func replace(dir, target string) error {
	return errors.Join(os.Remove(dir), os.Symlink(target, dir))
}

func TestLayers(t *testing.T) {
	r := testRunner(t)
	low, high := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{
		filepath.Join(low, "both"): "low", filepath.Join(high, "both"): "high",
		filepath.Join(low, "low"): "low", filepath.Join(low, "gone"): "low",
	} {
		if err := os.WriteFile(name, []byte(content+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(high, "gone"), unix.S_IFCHR, 0); err != nil {
		t.Fatal(err)
	}
	// Device nodes of an image are nothing but names.
	if err := unix.Mknod(filepath.Join(high, "disk"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"opaque"} {
		for _, layer := range []string{low, high} {
			if err := os.MkdirAll(filepath.Join(layer, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(low, dir, "hidden"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setxattr(filepath.Join(high, dir), "user.overlay.opaque", []byte("y"), 0); err != nil {
			t.Fatal(err)
		}
	}
	got := script(t, r, func(s *sandbox.Spec) {
		s.Rootfs.Layers = []string{low, s.Rootfs.Layers[0], high}
	}, "cat /both /low", "ls -A /opaque", "[ -e /gone ] && echo not gone", "head -c1 /disk 2>/dev/null && echo read; stat -c %u /both")
	if got != "high\nlow\n0\n" {
		t.Errorf("got %q", got)
	}
}

func TestManyLayers(t *testing.T) {
	r := testRunner(t)
	got := script(t, r, func(s *sandbox.Spec) {
		base := s.Rootfs.Layers[0]
		s.Rootfs.Layers = nil
		for i := range 127 {
			layer := t.TempDir()
			if err := os.WriteFile(filepath.Join(layer, "l"+itoa(i)), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			s.Rootfs.Layers = append(s.Rootfs.Layers, layer)
		}
		s.Rootfs.Layers[0] = base
	}, "ls / | grep -c '^l[0-9]'")
	if got != "126\n" {
		t.Errorf("got %q", got)
	}
}

func TestReadOnlyRootfs(t *testing.T) {
	r := testRunner(t)
	got := script(t, r, func(s *sandbox.Spec) {
		s.ReadOnlyRootfs = true
		s.Mounts = []sandbox.Mount{{Target: "/tmp", Tmpfs: 1 << 20, Mode: os.ModeSticky | 0o777}}
	}, "(echo x > /file) 2>/dev/null || echo read-only", "echo x > /tmp/file && echo written")
	if got != "read-only\nwritten\n" {
		t.Errorf("got %q", got)
	}
}

func TestCwd(t *testing.T) {
	r := testRunner(t)
	if got := script(t, r, func(s *sandbox.Spec) { s.Cwd = "/work/there" }, "pwd"); got != "/work/there\n" {
		t.Errorf("got %q", got)
	}
}

func TestEnvironment(t *testing.T) {
	r := testRunner(t)
	spec := testSpec(t, "/bin/busybox", "env")
	spec.Env = []string{"A=1", "EMPTY=", "LD_PRELOAD=/x.so", "_LIBCONTAINER_INITPIPE=3", "HOME=/root"}
	got := run(t, r, spec)
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	slices.Sort(lines)
	want := []string{"A=1", "EMPTY=", "HOME=/root", "LD_PRELOAD=/x.so", "PATH=" + defaultPath, "_LIBCONTAINER_INITPIPE=3"}
	if !slices.Equal(lines, want) || got.Code != 0 {
		t.Errorf("got %v, want %v", lines, want)
	}
}

// TestNoUserNamespace is for kernels that have none.
func TestNoUserNamespace(t *testing.T) {
	r := testRunner(t)
	got := script(t, r, func(s *sandbox.Spec) {
		s.UIDMappings, s.GIDMappings = nil, nil
		s.User = sandbox.User{UID: 1000, GID: 1000}
	}, "id -u; stat -c %u /bin/busybox; echo x > /dev/null && echo written")
	if got != "1000\n0\nwritten\n" {
		t.Errorf("got %q", got)
	}
}
