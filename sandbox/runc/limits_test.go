//go:build linux && cgo && seccomp

package runc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"girderworker/sandbox"
	"girderworker/sandbox/cgroup"
)

// limit reads one limit of a container's cgroup: the file's name on v1, after
// its hierarchy, and on v2.
func limit(t *testing.T, group cgroup.Group, v1, v2 string) string {
	t.Helper()
	file := filepath.Join("/sys/fs/cgroup", group.Path(), v2)
	if !cgroup.Unified() {
		hierarchy, name, _ := strings.Cut(v1, "/")
		file = filepath.Join("/sys/fs/cgroup", hierarchy, group.Path(), name)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(string(data))
}

func TestLimitsAreWritten(t *testing.T) {
	r := testRunner(t)
	spec := testSpec(t, "sleep", "1000")
	spec.Resources = sandbox.Resources{
		CPUs: 0.5, CPUSet: "0", Memory: 64 << 20, PIDs: 17,
		MemorySet: "0", CPUShares: 512, Reservation: 32 << 20, Swap: 16 << 20,
	}
	spec.OOMScoreAdj = 700
	s := start(t, r, spec)
	want := map[[2]string][2]string{
		{"cpu/cpu.cfs_quota_us", "cpu.max"}:                       {"50000", "50000 100000"},
		{"cpuset/cpuset.cpus", "cpuset.cpus"}:                     {"0", "0"},
		{"memory/memory.limit_in_bytes", "memory.max"}:            {"67108864", "67108864"},
		{"memory/memory.memsw.limit_in_bytes", "memory.swap.max"}: {"83886080", "16777216"},
		{"pids/pids.max", "pids.max"}:                             {"17", "17"},
		{"cpuset/cpuset.mems", "cpuset.mems"}:                     {"0", "0"},
		{"cpu/cpu.shares", "cpu.weight"}:                          {"512", "59"},
		{"memory/memory.soft_limit_in_bytes", "memory.low"}:       {"33554432", "33554432"},
	}
	if cgroup.Unified() {
		want[[2]string{"", "memory.oom.group"}] = [2]string{"", "1"}
	}
	for files, values := range want {
		value := values[0]
		if cgroup.Unified() {
			value = values[1]
		}
		if got := limit(t, s.group, files[0], files[1]); got != value {
			t.Errorf("%v: got %q, want %q", files, got, value)
		}
	}
	if score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", s.PID())); err != nil || string(score) != "700\n" {
		t.Errorf("oom_score_adj is %q, %v", score, err)
	}
	if err := s.Kill(); err != nil {
		t.Error(err)
	}
	s.end(t)
}

func TestOOM(t *testing.T) {
	r := testRunner(t)
	// The shell's argument doubles until the limit stops it.
	const hog = "a=0123456789abcdef; while :; do a=$a$a; done"
	spec := testSpec(t, "sh", "-c", hog)
	spec.Resources.Memory = 32 << 20
	got := run(t, r, spec)
	if !got.OOMKilled || got.Code != 137 || got.Usage.OOMKills == 0 {
		t.Errorf("the first process: %+v", got)
	}
	if got.Usage.PeakMemory < 24<<20 || got.Usage.PeakMemory > 32<<20 {
		t.Errorf("the peak is %d bytes", got.Usage.PeakMemory)
	}

	// A child, after which the container goes on and ends as it likes; on v2
	// the whole container goes.
	spec = testSpec(t, "sh", "-c", "sh -c '"+hog+"'; exit 3")
	spec.Resources.Memory = 32 << 20
	got = run(t, r, spec)
	if want := map[bool]int{false: 3, true: 137}[cgroup.Unified()]; !got.OOMKilled || got.Code != want {
		t.Errorf("a child: %+v", got)
	}
	if !cgroup.Unified() {
		spec = testSpec(t, "sh", "-c", "sh -c '"+hog+"'; exit 0")
		spec.Resources.Memory = 32 << 20
		if got = run(t, r, spec); got.OOMKilled || got.Code != 0 || got.Usage.OOMKills == 0 {
			t.Errorf("a child that is not missed: %+v", got)
		}
	}
}

func TestLittleMemory(t *testing.T) {
	r := testRunner(t)
	spec := testSpec(t, "true")
	// Twice the least that is accepted: the race detector needs its part.
	spec.Resources.Memory = 2 * minMemory
	if got := run(t, r, spec); got.Code != 0 || got.OOMKilled {
		t.Errorf("little: %+v", got)
	}

	// Less is refused before anything is made; were it not, the kernel would
	// end libcontainer's half in the container.
	spec.Resources.Memory = 1 << 20
	spec.Rootfs.Scratch = t.TempDir()
	c, err := r.create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.start(t.Context(), spec); !errors.Is(err, sandbox.ErrInvalidSpec) || !strings.Contains(err.Error(), "memory") {
		t.Errorf("too little: %v", err)
	}
	if err := c.abandon(); err != nil {
		t.Error(err)
	}
}

func TestForkBombIsBounded(t *testing.T) {
	r := testRunner(t)
	spec := testSpec(t, "sh", "-c", "echo ready; i=0; while :; do sleep 1000 & done")
	spec.Resources.PIDs = 20
	spec.Rlimits = []sandbox.Rlimit{{Name: "RLIMIT_CORE"}}
	got := run(t, r, spec)
	if got.Code == 0 || !strings.Contains(got.stderr, "fork") {
		t.Errorf("got %+v", got)
	}
}

func TestRlimitsAndSysctls(t *testing.T) {
	r := testRunner(t)
	got := script(t, r, func(s *sandbox.Spec) {
		s.Rlimits = []sandbox.Rlimit{{Name: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Name: "RLIMIT_CORE", Soft: 0, Hard: 0}}
		s.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1"}
	}, "ulimit -n; ulimit -Hn; ulimit -c; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced")
	if got != "100\n200\n0\n80\n1\n" {
		t.Errorf("got %q", got)
	}
}

func TestUsage(t *testing.T) {
	r := testRunner(t)
	spec := testSpec(t, "sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/dev/shm/f bs=1M count=20 2>/dev/null")
	got := run(t, r, spec)
	if got.Code != 0 || got.Usage.CPU < 10*time.Millisecond || got.Usage.CPU > time.Minute {
		t.Errorf("processor time: %+v", got)
	}
	if got.Usage.PeakMemory < 20<<20 || got.Usage.PeakMemory > 256<<20 {
		t.Errorf("peak memory: %+v", got)
	}
}

// holderEnv makes TestMain a runner that starts a container, says so and waits
// to be killed; see [TestDeadRunner].
const holderEnv = "RUNC_TEST_HOLD"

// hold is the process that TestDeadRunner kills. Its argument is a directory
// prepared by the test.
func hold(dir string) error {
	r, err := New(Options{CacheDir: filepath.Join(dir, "cache"), Cgroup: holderGroup(dir), MountDir: filepath.Join(dir, "mounts")})
	if err != nil {
		return err
	}
	ids := []sandbox.IDMapping{{HostID: hostRoot, Size: mapSize}}
	c, err := r.Start(context.Background(), &sandbox.Spec{
		ID:     "held",
		Rootfs: sandbox.Rootfs{Layers: []string{filepath.Join(dir, "layer")}, Scratch: filepath.Join(dir, "scratch")},
		Args:   []string{"/bin/sh", "-c", "trap '' TERM; sleep 1000 & while :; do sleep 1000; done"}, Cwd: "/",
		UIDMappings: ids, GIDMappings: ids,
		Resources: sandbox.Resources{Memory: 64 << 20, PIDs: 100},
	})
	if err != nil {
		return err
	}
	if _, err := os.Stdout.WriteString("holding\n"); err != nil {
		return err
	}
	_, err = c.Wait(context.Background())
	return errors.Join(err, errors.New("the container ended"))
}

func holderGroup(dir string) string { return "girder-worker-test-" + filepath.Base(dir) }

// TestDeadRunner kills the process that holds a container and ends what is
// left by the path of its cgroup, as the monitor does.
func TestDeadRunner(t *testing.T) {
	// Not t.TempDir, which only root can search.
	dir, err := os.MkdirTemp("", "runc-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "scratch"), 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(busyboxLayerIn(t, dir), filepath.Join(dir, "layer")); err != nil {
		t.Fatal(err)
	}
	group, err := cgroup.At(holderGroup(dir))
	if err != nil {
		t.Fatal(err)
	}

	holder := exec.Command("/proc/self/exe")
	holder.Env = append(os.Environ(), holderEnv+"="+dir)
	holder.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	holder.Stderr = os.Stderr
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "holding\n" {
		t.Fatalf("the holder says %q, %v", line, err)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()

	if empty, err := group.Empty(); err != nil || empty {
		t.Errorf("after the runner's death, the cgroup is empty: %t, %v", empty, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := group.Kill(ctx); err != nil {
		t.Error(err)
	}
	if empty, err := group.Empty(); err != nil || !empty {
		t.Errorf("after Kill the cgroup is empty: %t, %v", empty, err)
	}
	if err := group.Remove(); err != nil {
		t.Error(err)
	}
	if group.Exists() {
		t.Error("the cgroup is left")
	}
	// Its mounts went with its namespace: the directory below is empty.
	if left, err := os.ReadDir(filepath.Join(dir, "mounts")); err != nil || len(left) > 0 {
		t.Errorf("workspaces left: %v, %v", left, err)
	}
}
