package queue

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

func refuse(t *testing.T, dir string, want error, texts ...string) {
	t.Helper()
	s, err := Open(Options{Dir: dir})
	if err == nil {
		s.Close()
		t.Fatal("it was opened")
	}
	if want != nil && !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

func TestLocked(t *testing.T) {
	s := open(t)
	refuse(t, s.dir, ErrLocked, fmt.Sprint("process ", os.Getpid()))
	must(t, s.Close())
	s2, err := Open(Options{Dir: s.dir})
	must(t, err)
	must(t, s2.Close())
}

func TestDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s, err := Open(Options{Dir: dir})
	must(t, err)
	must(t, s.Close())
	fi, err := os.Stat(dir)
	must(t, err)
	if fi.Mode().Perm() != 0o700 {
		t.Errorf("made with mode %o", fi.Mode().Perm())
	}
	for _, name := range []string{activeName, historyName, lockName} {
		fi, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		if fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", name, fi.Mode().Perm())
		}
	}

	must(t, os.Chmod(dir, 0o770))
	refuse(t, dir, nil, "chmod go-w")
	must(t, os.Chmod(dir, 0o700))

	must(t, os.Chown(dir, 12345, -1))
	refuse(t, dir, nil, "belongs to uid 12345")
	must(t, os.Chown(dir, os.Geteuid(), -1))

	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	refuse(t, file, nil, "not a directory")
}

// TestReadOnly needs a mount, as only that keeps root from writing.
func TestReadOnly(t *testing.T) {
	dir := tmpfs(t, 1<<20)
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	refuse(t, dir, unix.EROFS, "mount it writable")
}

// tmpfs mounts a small file system for the test.
func tmpfs(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, fmt.Sprintf("size=%d,mode=0700", size)))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	return dir
}

func TestDamagedFiles(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(dir string) error
		want error
		text string
	}{
		"empty queue": {func(dir string) error { return os.Truncate(filepath.Join(dir, activeName), 0) }, nil, "damaged: restore"},
		"cut queue":   {func(dir string) error { return os.Truncate(filepath.Join(dir, activeName), 5000) }, nil, "damaged"},
		"noise": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, activeName), []byte(strings.Repeat("noise", 5000)), 0o600)
		}, nil, "damaged"},
		"missing queue": {func(dir string) error { return os.Remove(filepath.Join(dir, activeName)) }, nil, "restore it from a backup"},
		"cut history":   {func(dir string) error { return os.Truncate(filepath.Join(dir, historyName), 5000) }, nil, "or move it away"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			submit(t, s, sub())
			claim(t, s, roomy, 1)
			active, err := s.Active()
			must(t, err)
			run(t, s, active[0].ID, 0)
			must(t, s.moveFinished(ctx))
			must(t, s.Close())
			must(t, c.harm(s.dir))
			refuse(t, s.dir, c.want, c.text)
			refuse(t, s.dir, c.want, c.text) // and it stays as it was
		})
	}
}

// TestCutFiles: wherever a file was cut, it is told for damaged before a page that is
// missing is needed.
func TestCutFiles(t *testing.T) {
	s := open(t)
	for range 50 {
		submit(t, s, sub())
	}
	claim(t, s, roomy, 20)
	active, err := s.Active()
	must(t, err)
	for _, j := range active {
		run(t, s, j.ID, 0)
	}
	must(t, s.moveFinished(ctx))
	must(t, s.Close())
	for name, sc := range map[string]schema{activeName: activeSchema, historyName: historySchema} {
		path := filepath.Join(s.dir, name)
		db, err := openDB(path, sc)
		must(t, err)
		var needed int64
		must(t, db.View(func(tx *bolt.Tx) error { needed = tx.Size(); return nil }))
		must(t, db.Close())
		// With the room that files have beyond it, it does not matter.
		for size := needed + 4096; size > 0; size -= 4096 {
			must(t, os.Truncate(path, size))
			db, err := openDB(path, sc)
			if cut := size < needed; cut != errors.Is(err, errDamaged) {
				t.Errorf("%s with %d bytes of %d: %v", name, size, needed, err)
			}
			if db != nil {
				must(t, db.Close())
			}
		}
	}
}

// TestFirstBoot crashes, so to speak, at each step of the first start.
func TestFirstBoot(t *testing.T) {
	for _, names := range [][]string{
		{lockName}, {lockName, historyName}, {lockName, activeName + partial}, {historyName, activeName + partial, historyName + partial},
	} {
		s := open(t)
		must(t, s.Close())
		left, err := os.ReadDir(s.dir)
		must(t, err)
		keep := make(map[string]bool)
		for _, n := range names {
			keep[n] = true
		}
		for _, e := range left {
			if !keep[e.Name()] {
				must(t, os.Remove(filepath.Join(s.dir, e.Name())))
			}
		}
		for _, n := range names {
			if strings.HasSuffix(n, partial) {
				must(t, os.WriteFile(filepath.Join(s.dir, n), []byte("half"), 0o600))
			}
		}
		s, err = Open(Options{Dir: s.dir})
		must(t, err)
		submit(t, s, sub())
		must(t, s.Check())
		must(t, s.Close())
		if left, err := filepath.Glob(filepath.Join(s.dir, "*"+partial)); err != nil || len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
	// A history that was taken away is made anew; the queue is what must not be lost.
	s := open(t)
	id := submit(t, s, sub())[0].ID
	must(t, s.Close())
	must(t, os.Remove(filepath.Join(s.dir, historyName)))
	s, err := Open(Options{Dir: s.dir})
	must(t, err)
	wantState(t, s, id, Queued)
	must(t, s.Close())
}
