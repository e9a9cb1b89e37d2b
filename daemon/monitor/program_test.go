package monitor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
)

// TestProgramInMemory: a runner is the program that it is given, from a file that
// nobody can write to.
func TestProgramInMemory(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	o := testOptions(t)
	o.Runner = string(self)
	d := startDaemon(t, o)
	if err := d.start(t.Context(), testRequest("job", 1, "wait")); err != nil {
		t.Fatal(err)
	}
	a := Attempt{"job", 1}
	dir, _ := attempt.NewDir(o.State, a.Job, a.Attempt)
	waitFor(t, filepath.Join(dir.Path(), "ready"))
	rec, err := readRecord(dir)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	exe := fmt.Sprintf("/proc/%d/exe", rec.PID)
	if to, err := os.Readlink(exe); err != nil || to != "/memfd:"+program+" (deleted)" {
		t.Errorf("the runner is %q, %v", to, err)
	}
	f, err := os.OpenFile(exe, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("x"), 0)
		f.Close()
	}
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ETXTBSY) {
		t.Errorf("writing to the program: %v", err)
	}
	ended := d.client.Ended(a)
	if err := d.client.Cancel(t.Context(), a, attempt.Cancel{Outcome: attempt.OutcomeCanceled}); err != nil {
		t.Fatal(err)
	}
	waitEnded(t, ended)
	d.end(t)
	leftovers(t, o)

	sealed, err := sealedFile("x", "content")
	if err != nil {
		t.Fatal(err)
	}
	defer sealed.Close()
	if _, err := sealed.WriteString("more"); !errors.Is(err, unix.EPERM) {
		t.Errorf("writing to a sealed file: %v", err)
	}
	if err := sealed.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncating a sealed file: %v", err)
	}
}
