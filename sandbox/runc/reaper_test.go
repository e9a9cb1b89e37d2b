//go:build linux && cgo && seccomp

package runc

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"girderworker/sandbox"
)

// initRunner runs containers with an init that is linked statically, which the
// program of a test is not.
func initRunner(t *testing.T) *Runner {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("not run: there is no gcc here to build an init with")
	}
	dir, err := os.MkdirTemp("/run", "runc-init-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	init := filepath.Join(dir, "init")
	cmd := exec.Command("gcc", "-O1", "-static", "-Wall", "-Werror", "-o", init, "reaper.c", "-x", "c", "-")
	cmd.Stdin = strings.NewReader("int main(void) { return 99; }\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
	r := testRunner(t)
	r.options.Init = init
	return r
}

func TestInit(t *testing.T) {
	r := initRunner(t)
	for _, test := range []struct {
		args   []string
		code   int
		stdout string
	}{
		{[]string{"sh", "-c", "echo $PPID; exit 7"}, 7, "1\n"},
		{[]string{"sh", "-c", "kill -9 $$"}, 137, ""},
		{[]string{"nosuchcommand"}, 127, ""},
		{[]string{"/etc"}, 126, ""},
		// An orphan is reaped.
		{[]string{"sh", "-c", `p=$(sh -c 'sh -c "echo \$\$" & exit'); i=0; while [ $i -lt 1000 ] && [ -e /proc/$p ]; do i=$((i+1)); sleep 0.01; done; cat /proc/$p/stat; echo done`}, 0, "done\n"},
		// It may be read, and nothing else.
		{[]string{"sh", "-c", "echo x > /dev/init; chmod 777 /dev/init; rm /dev/init; mv /dev/init /dev/x; ls /dev/init"}, 0, "/dev/init\n"},
	} {
		spec := testSpec(t, test.args...)
		spec.Init = true
		got := run(t, r, spec)
		if got.Code != test.code || got.stdout != test.stdout {
			t.Errorf("%v: got %+v", test.args, got)
		}
	}
}

// TestInitBesideBinds: what a job binds takes nothing from its init, and the init
// nothing from the job; a job's first process cannot be written through.
func TestInitBesideBinds(t *testing.T) {
	r := initRunner(t)
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "file"), []byte("bound\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	source, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	spec := testSpec(t, "sh", "-c", "cat /bound/file; echo x > /proc/1/exe; echo x > /proc/$PPID/exe; readlink /proc/1/exe")
	spec.Init = true
	spec.Mounts = []sandbox.Mount{{Source: source, Target: "/bound", ReadOnly: true}}
	if got := run(t, r, spec); got.Code != 0 || got.stdout != "bound\n/dev/init\n" {
		t.Errorf("got %+v", got)
	}
	if out, err := exec.Command(r.options.Init).CombinedOutput(); err == nil || len(out) > 0 {
		t.Errorf("the init is not what it was: %v, %q", err, out)
	}
}

// TestInitPassesSignals: what would ignore a signal as the first process ends by
// it below an init.
func TestInitPassesSignals(t *testing.T) {
	r := initRunner(t)
	spec := testSpec(t, "sh", "-c", "echo ready; exec sleep 1000")
	spec.Init = true
	s, ready := startReady(t, r, spec)
	<-ready
	if s.Ignores(syscall.SIGTERM) {
		t.Error("an init is said to ignore SIGTERM")
	}
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if got := s.end(t); got.Code != 143 {
		t.Errorf("after SIGTERM: %+v", got)
	}
}

func TestIgnores(t *testing.T) {
	r := testRunner(t)
	for _, test := range []struct {
		script string
		want   bool
	}{
		{"echo ready; exec sleep 1000", true},
		{"trap '' TERM; echo ready; exec sleep 1000", true},
		{"trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done", false},
	} {
		s, ready := startReady(t, r, testSpec(t, "sh", "-c", test.script))
		<-ready
		if got := s.Ignores(syscall.SIGTERM); got != test.want {
			t.Errorf("%s: %t", test.script, got)
		}
		if s.Ignores(syscall.SIGKILL) {
			t.Errorf("%s: SIGKILL is said to be ignored", test.script)
		}
		if err := s.Kill(); err != nil {
			t.Error(err)
		}
		s.end(t)
	}
}

func TestTmpfsExecutes(t *testing.T) {
	r := testRunner(t)
	got := script(t, r, func(s *sandbox.Spec) {
		s.Mounts = []sandbox.Mount{{Target: "/a", Tmpfs: 8 << 20}, {Target: "/b", Tmpfs: 8 << 20, Exec: true}}
	}, "for d in /a /b; do cp /bin/busybox $d/true && $d/true 2>/dev/null && echo $d; done; :")
	if got != "/b\n" {
		t.Errorf("programs ran on %q", got)
	}
}
