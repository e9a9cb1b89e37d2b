//go:build linux && cgo && seccomp

package runc

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	profile "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"

	"girderworker/sandbox"
)

// TestFilterEqualsLibcontainers runs the same probe of every system call under
// our compiled filter and under the one that libcontainer makes of the same
// profile, and wants no difference.
func TestFilterEqualsLibcontainers(t *testing.T) {
	r := testRunner(t)
	for _, caps := range [][]string{dockerCaps, nil, {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_NICE"}} {
		spec := testSpec(t, "/bin/probe")
		spec.Capabilities = caps
		buildProbe(t, filepath.Join(spec.Rootfs.Layers[0], "bin/probe"))

		ours := probeOutput(t, run(t, r, spec))
		theirs := probeOutput(t, runWithLibcontainersFilter(t, r, spec))
		spec.Seccomp = sandbox.SeccompUnconfined
		spec.Rootfs.Scratch = t.TempDir()
		none := probeOutput(t, run(t, r, spec))

		if len(ours) < 3*600 {
			t.Fatalf("the probe printed %d lines only", len(ours))
		}
		differ := 0
		for i := range ours {
			if i >= len(theirs) || ours[i] != theirs[i] {
				t.Errorf("capabilities %v: ours %q, libcontainer's %q", caps, ours[i], theirs[min(i, len(theirs)-1)])
				if differ++; differ > 10 {
					break
				}
			}
		}
		// The comparison would mean nothing if no filter did anything.
		if slices.Equal(ours, none) {
			t.Errorf("capabilities %v: the filter makes no difference", caps)
		}
	}
}

// probeOutput sorts: the processes of a vfork may print out of order.
func probeOutput(t *testing.T, got result) []string {
	t.Helper()
	if got.Code != 0 {
		t.Fatalf("the probe ended with %+v", got)
	}
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	slices.Sort(lines)
	return lines
}

func buildProbe(t *testing.T, path string) {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("not run: there is no gcc here to build the probe with")
	}
	out, err := exec.Command("gcc", "-O1", "-static", "-o", path, "testdata/probe.c").CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
}

// runWithLibcontainersFilter runs a container whose filter is libcontainer's
// affair, which is what config.Seccomp is for.
func runWithLibcontainersFilter(t *testing.T, r *Runner, spec *sandbox.Spec) result {
	t.Helper()
	own := *spec
	own.Seccomp = sandbox.SeccompUnconfined
	own.Rootfs.Scratch = t.TempDir()
	stdout, stderr := newOutput(t), newOutput(t)
	own.Stdout, own.Stderr = stdout.w, stderr.w
	c, config, err := r.prepare(t.Context(), &own)
	if err != nil {
		t.Fatal(err)
	}
	p, err := profile.GetDefaultProfile(&specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: spec.Capabilities}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if config.Seccomp, err = specconv.SetupSeccomp(p); err != nil {
		t.Fatal(err)
	}
	if c.lc, err = libcontainer.Create(c.work.state(), own.ID, config); err != nil {
		t.Fatal(err)
	}
	if err := c.start(t.Context(), &own); err != nil {
		t.Fatal(err, c.abandon())
	}
	_ = stdout.w.Close()
	_ = stderr.w.Close()
	return (&started{Container: c, group: c.group, stdout: stdout, stderr: stderr}).end(t)
}

// TestProcessStateEqualsLibcontainers compares what the kernel says about the
// job's process, whoever installed its filter.
func TestProcessStateEqualsLibcontainers(t *testing.T) {
	r := testRunner(t)
	for _, user := range []sandbox.User{{}, {UID: 1000, GID: 1000, AdditionalGIDs: []int{7, 1000}}} {
		spec := testSpec(t, "grep", "-E", "^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Speculation|SigBlk|SigIgn|SigCgt)", "/proc/self/status")
		spec.User = user
		ours := run(t, r, spec)
		theirs := runWithLibcontainersFilter(t, r, spec)
		if ours.stdout != theirs.stdout || ours.Code != 0 {
			t.Errorf("user %+v: ours:\n%s\nlibcontainer's:\n%s", user, ours.stdout, theirs.stdout)
		}
		for _, want := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n", "Seccomp_filters:\t1\n"} {
			if !strings.Contains(ours.stdout, want) {
				t.Errorf("user %+v: no %q in:\n%s", user, want, ours.stdout)
			}
		}
	}
}

func TestFilterCache(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	get := func() (*filter, error) {
		t.Helper()
		c, err := newFilterCache(dir)
		if err != nil {
			t.Fatal(err)
		}
		f, cacheErr, err := c.get(dockerCaps, false)
		if err != nil {
			t.Fatal(err)
		}
		return f, cacheErr
	}
	first, err := get()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("in the cache: %v, %v", files, err)
	}
	file := files[0]
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := get(); err != nil || !slices.Equal(again.program, first.program) || again.flags != first.flags {
		t.Errorf("the second filter is not the first one (error %v)", err)
	}
	if after, err := os.Stat(file); err != nil || !os.SameFile(before, after) {
		t.Errorf("a good file was replaced: %v", err)
	}

	// None of these may be used; all are replaced.
	for name, spoil := range map[string]func() error{
		"one bit changed": func() error {
			bad := slices.Clone(whole)
			bad[100] ^= 1
			return os.WriteFile(file, bad, 0o600)
		},
		"cut off":              func() error { return os.Truncate(file, 20) },
		"empty":                func() error { return os.Truncate(file, 0) },
		"another's":            func() error { return os.Chown(file, 1000, 1000) },
		"readable by others":   func() error { return os.Chmod(file, 0o644) },
		"has another name too": func() error { return os.Link(file, filepath.Join(t.TempDir(), "link")) },
		"a link": func() error {
			elsewhere := filepath.Join(t.TempDir(), "elsewhere")
			if err := os.Rename(file, elsewhere); err != nil {
				return err
			}
			return os.Symlink(elsewhere, file)
		},
	} {
		if err := spoil(); err != nil {
			t.Fatal(name, err)
		}
		f, err := get()
		if err == nil {
			t.Errorf("%s: it was not noticed", name)
		}
		if !slices.Equal(f.program, first.program) {
			t.Errorf("%s: the filter differs", name)
		}
		if now, err := os.ReadFile(file); err != nil || !slices.Equal(now, whole) {
			t.Errorf("%s: the file was not replaced: %v", name, err)
		}
	}
}

func TestFilterCacheRefusesForeignDirectories(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"writable by others": func(dir string) error { return os.Chmod(dir, 0o777) },
		"another's":          func(dir string) error { return os.Chown(dir, 1000, 1000) },
	} {
		dir := t.TempDir()
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := newFilterCache(dir); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestFilterKeyCoversProfileVersion(t *testing.T) {
	gomod, err := os.ReadFile("../../go.mod")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("not run: the sources are not here")
	} else if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(gomod), "\t"+profileVersion+"\n") {
		t.Errorf("go.mod does not require %q, with which cached filters are keyed", profileVersion)
	}
}

func TestFilterKeyDependsOnCapabilities(t *testing.T) {
	key := func(caps ...string) string {
		k, err := filterKey(caps, false)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if key("A", "B") != key("B", "A", "A") {
		t.Error("the order of capabilities matters")
	}
	if key("A", "B") == key("A") {
		t.Error("the capabilities do not matter")
	}
}
