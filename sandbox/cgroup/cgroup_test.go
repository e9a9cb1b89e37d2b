//go:build linux

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// testRoot is where this process's tests have their groups.
func testRoot() string { return fmt.Sprintf("girder-worker-test-%d", os.Getpid()) }

func TestMain(m *testing.M) {
	code := m.Run()
	g, err := At(testRoot())
	if err == nil {
		err = g.Remove()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// testGroup is a group of the test's own, removed at its end.
func testGroup(t *testing.T) Group {
	t.Helper()
	g, err := At(testRoot() + "/" + strings.ReplaceAll(t.Name(), "/", "_"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := errors.Join(g.Kill(ctx), g.Remove()); err != nil {
			t.Error(err)
		}
	})
	return g
}

// shell runs a script that is moved into a group before it begins, and returns
// when it says "ready".
func shell(t *testing.T, g Group, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/busybox", "sh", "-c", "read go; "+script)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	if err := g.Join(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(in, "go"); err != nil {
		t.Fatal(err)
	}
	var ready string
	if _, err := fmt.Fscanln(out, &ready); err != nil || ready != "ready" {
		t.Fatalf("the script says %q, %v", ready, err)
	}
	return cmd
}

func TestAtRefuses(t *testing.T) {
	for _, path := range []string{"", "/", ".", "a/..", "../a", "a/../../b", "/..", "a\x00b"} {
		if g, err := At(path); err == nil {
			t.Errorf("%q: became %q", path, g.Path())
		}
	}
	for path, want := range map[string]string{"a": "/a", "/a/b/": "/a/b", "a//b": "/a/b", "a..b": "/a..b"} {
		if g, err := At(path); err != nil || g.Path() != want {
			t.Errorf("%q: became %q, %v", path, g.Path(), err)
		}
	}
}

func TestAbsentGroup(t *testing.T) {
	g := testGroup(t)
	if g.Exists() {
		t.Error("it exists")
	}
	if empty, err := g.Empty(); err != nil || !empty {
		t.Errorf("empty: %t, %v", empty, err)
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	if u, err := g.Usage(); err != nil || u.CPU != 0 {
		t.Errorf("usage: %+v, %v", u, err)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
}

func TestKill(t *testing.T) {
	for name, script := range map[string]string{
		"one":             "echo ready; exec sleep 1000",
		"ignores signals": "trap '' TERM HUP INT; echo ready; while :; do sleep 1000; done",
		"stopped":         "sleep 1000 & kill -STOP $!; echo ready; kill -STOP $$",
		"daemons":         "for i in 1 2 3; do (setsid sleep 1000 &); done; echo ready; exec sleep 1000",
	} {
		t.Run(name, func(t *testing.T) {
			g := testGroup(t)
			cmd := shell(t, g, script)
			if empty, err := g.Empty(); err != nil || empty {
				t.Errorf("before: empty %t, %v", empty, err)
			}
			if err := g.Remove(); err == nil {
				t.Error("a group with processes was removed")
			}
			if err := g.Kill(t.Context()); err != nil {
				t.Error(err)
			}
			if empty, err := g.Empty(); err != nil || !empty {
				t.Errorf("after: empty %t, %v", empty, err)
			}
			if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
				t.Errorf("the process ended with %v", err)
			}
			if err := g.Remove(); err != nil || g.Exists() {
				t.Errorf("removed: %v, exists %t", err, g.Exists())
			}
		})
	}
}

// TestKillForkBomb kills a tree that grows as fast as it can, without a limit
// that would help.
func TestKillForkBomb(t *testing.T) {
	g := testGroup(t)
	cmd := shell(t, g, "bomb() { i=0; while [ $i -lt 40 ]; do (bomb2) & i=$((i+1)); done; }; bomb2() { sleep 0.2; while :; do sleep 0.01; done; }; bomb; echo ready; while :; do (sleep 0.01 &) ; done")
	if err := g.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	if empty, err := g.Empty(); err != nil || !empty {
		t.Errorf("after: empty %t, %v", empty, err)
	}
	_ = cmd.Wait()
}

func TestKillReachesSubgroups(t *testing.T) {
	g := testGroup(t)
	below, err := At(g.Path() + "/a/b")
	if err != nil {
		t.Fatal(err)
	}
	cmd := shell(t, below, "echo ready; exec sleep 1000")
	if empty, err := g.Empty(); err != nil || empty {
		t.Errorf("before: empty %t, %v", empty, err)
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	if err := g.Remove(); err != nil || below.Exists() {
		t.Errorf("removed: %v, the group below exists: %t", err, below.Exists())
	}
}

// TestKillSparesOthers: a group whose name only begins like ours is not ours.
func TestKillSparesOthers(t *testing.T) {
	g := testGroup(t)
	other, err := At(g.Path() + "2")
	if err != nil {
		t.Fatal(err)
	}
	mine := shell(t, g, "echo ready; exec sleep 1000")
	theirs := shell(t, other, "echo ready; exec sleep 1000")
	if err := g.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	_ = mine.Wait()
	if empty, err := other.Empty(); err != nil || empty {
		t.Errorf("the other group is empty: %t, %v", empty, err)
	}
	if g.holds(theirs.Process.Pid) || !other.holds(theirs.Process.Pid) {
		t.Error("a process is taken for another group's")
	}
	if err := errors.Join(other.Kill(t.Context())); err != nil {
		t.Error(err)
	}
	_ = theirs.Wait()
	if err := other.Remove(); err != nil {
		t.Error(err)
	}
}

func TestBelow(t *testing.T) {
	g, err := At("a/b")
	if err != nil {
		t.Fatal(err)
	}
	below, err := g.Below("c-1")
	if err != nil {
		t.Fatal(err)
	}
	want, err := At("a/b/c-1")
	if err != nil || below.Path() != want.Path() || !slices.Equal(below.dirs, want.dirs) {
		t.Errorf("it is %+v, not %+v, %v", below, want, err)
	}
	for _, name := range []string{"", ".", "..", "a/b", "/", "a\x00b"} {
		if below, err := g.Below(name); err == nil {
			t.Errorf("%q became %q", name, below.Path())
		}
	}
}

// TestKillThaws: on v1 a killed process of a frozen group stays.
func TestKillThaws(t *testing.T) {
	g := testGroup(t)
	cmd := shell(t, g, "echo ready; exec sleep 1000")
	file, value := g.file("freezer", "freezer.state"), "FROZEN"
	if dir, ok := g.unifiedDir(); ok {
		file, value = filepath.Join(dir, "cgroup.freeze"), "1"
	} else {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := writeFile(filepath.Join(filepath.Dir(file), "cgroup.procs"), strconv.Itoa(cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeFile(file, value); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
}

func TestKillEndsWithItsContext(t *testing.T) {
	g := testGroup(t)
	cmd := shell(t, g, "echo ready; exec sleep 1000")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// It may be quick enough all the same; it must not go on for ever.
	if err := g.Kill(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
}

func TestWarm(t *testing.T) {
	before, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if err := Warm(); err != nil {
		t.Error(err)
	}
	after, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || string(before) != string(after) {
		t.Errorf("this process was moved: before %q, after %q, %v", before, after, err)
	}
}

// TestUsageParsing reads files as kernels write them; what is read from real
// groups is tested with containers.
func TestUsageParsing(t *testing.T) {
	v2 := t.TempDir()
	for name, content := range map[string]string{
		"cpu.stat":      "usage_usec 1500000\nuser_usec 1000000\n",
		"memory.peak":   "4096\n",
		"memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n",
		"io.stat":       "8:0 rbytes=100 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n253:1 rbytes=1 wbytes=2 rios=1 wios=1\n7:0 \n",
	} {
		if err := os.WriteFile(filepath.Join(v2, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	u, err := usageV2(v2)
	if err != nil || u.CPU != 1500*time.Millisecond || u.PeakMemory != 4096 || u.OOMKills != 2 || u.ReadBytes != 101 || u.WriteBytes != 22 {
		t.Errorf("v2: %+v, %v", u, err)
	}

	v1 := t.TempDir()
	g := Group{path: "/x"}
	for file, content := range map[string]string{
		"cpuacct/cpuacct.usage":                           "1500000000\n",
		"memory/memory.max_usage_in_bytes":                "4096\n",
		"memory/memory.oom_control":                       "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		"blkio/blkio.throttle.io_service_bytes_recursive": "8:0 Read 100\n8:0 Write 20\n8:0 Sync 120\n8:0 Total 120\n253:1 Read 1\n253:1 Write 2\nTotal 123\n",
	} {
		path := filepath.Join(v1, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		hierarchy, _, _ := strings.Cut(file, "/")
		g.dirs = append(g.dirs, dir{path: filepath.Join(v1, hierarchy), controllers: hierarchy})
	}
	u, err = g.Usage()
	if err != nil || u.CPU != 1500*time.Millisecond || u.PeakMemory != 4096 || u.OOMKills != 2 || u.ReadBytes != 101 || u.WriteBytes != 22 {
		t.Errorf("v1: %+v, %v", u, err)
	}
}
