package monitor

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"girderworker/daemon/attempt"
)

// TestSpare: an attempt gets the directory that was ready, the next one another, and
// what a monitor that was killed had ready is removed.
func TestSpare(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it starts attempts")
	}
	o := testOptions(t)
	stale := filepath.Join(o.State, "cache", sparePrefix+"7")
	if err := os.MkdirAll(filepath.Join(stale, "job", "1"), 0o700); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, o)
	if _, err := os.Lstat(stale); !os.IsNotExist(err) {
		t.Errorf("what was left is there: %v", err)
	}
	inode := func(path string) uint64 {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}
	for i, job := range []string{"first", "second"} {
		eventually(t, "a directory is ready", func() bool {
			d.spares.mu.Lock()
			defer d.spares.mu.Unlock()
			return d.spares.ready != nil
		})
		ready, err := filepath.Glob(filepath.Join(o.State, "cache", sparePrefix+"*", "job", "1"))
		if err != nil || len(ready) != 1 {
			t.Fatalf("%d: %v, %v", i, ready, err)
		}
		want := inode(ready[0])
		if err := d.start(t.Context(), testRequest(job, 1, "exit")); err != nil {
			t.Fatal(err)
		}
		dir, _ := attempt.NewDir(o.State, job, 1)
		if got := inode(dir.Path()); got != want {
			t.Errorf("%s has the directory %d, and %d was ready", job, got, want)
		}
		waitEnded(t, d.client.Ended(Attempt{job, 1}))
		if exit, err := dir.ReadExit(); err != nil || exit.Code != 3 {
			t.Errorf("%s: %+v, %v", job, exit, err)
		}
	}
	d.end(t)
	leftovers(t, o)
}
